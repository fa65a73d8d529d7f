"""Scorer of relations: strict, boundaries and relaxed side by side, because the literature mixes them.

The three are told apart as in Taillé et al., "Let's Stop Incorrect Comparisons in End-to-end Relation Extraction!" (EMNLP
2020). A relation is right if its label and direction are, and

- *strict*: both arguments have the gold offsets and types;
- *boundaries*: both have the gold offsets;
- *relaxed*: both share words and a type with those of a gold relation, which one prediction at most can match.

For documents with clusters see `entitykit.scoring.relation_documents`, for given pairs `entitykit.scoring.relation_pairs`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.decoding.relation_values import read_relations
from entitykit.scoring.relation_documents import Fact, KnownFacts, document_scores
from entitykit.scoring.relation_pairs import pair_scores
from entitykit.scoring.spans import PRF, Scores, char_positions, locate, macro_average, prf

RELATIONS = "relations"
"""Gold relations are `doc.user_data["relations"]`, predicted ones the extension `doc._.relations`."""

ENTITIES = "sc"
"""The span group of a reference that has all entities, nested ones too."""

DISTANCES = (0, 5, 10, 20, 40)
"""Words between two arguments from which a class of distances begins."""

Offsets = tuple[int, int]


class Argument(NamedTuple):
    """An argument of a relation.

    Attributes:
        place: its offsets, in positions that both texts of an example share.
        types: labels of the entities with these offsets.
    """

    place: Offsets
    types: frozenset[str]


class Relation(NamedTuple):
    """A relation of one document.

    Attributes:
        head: its first argument.
        tail: its second argument.
        label: its type.
    """

    head: Argument
    tail: Argument
    label: str


class Document(NamedTuple):
    """One example.

    Attributes:
        gold: its gold relations.
        predicted: its predicted relations.
        entities: the arguments that predicted relations could have: predicted entities.
        gold_entities: gold entities.
        words: where the reference's words begin, in positions.
    """

    gold: Set[Relation]
    predicted: Set[Relation]
    entities: Set[Argument]
    gold_entities: Set[Argument]
    words: Sequence[int]


class Counts(NamedTuple):
    """Numbers of relations by label or another class."""

    n_gold: Counter[str]
    n_predicted: Counter[str]
    n_correct: Counter[str]


def make_relations_scorer(train: str | None = None) -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.relations_scorer.v1`.

    Args:
        train: a DocBin of the training documents, or a folder of such files, whose facts Ign-F1 of relations between clusters
            leaves out; it is read when something is scored. None: there is no Ign-F1.
    """
    return relations_score if train is None else partial(_score_without_known, KnownFacts(train))


def _score_without_known(facts: KnownFacts, examples: Iterable[Example], **settings: Any) -> Scores:
    return relations_score(examples, **{"known": facts.get(), **settings})


def relations_score(
    examples: Iterable[Example],
    *,
    entities: str = "ents",
    mirrors: Mapping[str, str] = MappingProxyType({}),
    known: Set[Fact] | None = None,
    **_: object,
) -> Scores:
    """Score relations by the definitions above.

    Reads `doc.user_data["relations"]` of references and `doc._.relations` of predicted Docs, which may be tokenized otherwise.
    References without that annotation are skipped. Types of arguments are those of entities with the same offsets; in
    references `doc.spans["sc"]` is looked up for those that are not there. Where gold entities were given to the pipeline, all
    scores are with gold entities.

    Args:
        examples: predicted and reference Docs.
        entities: where entities are: "ents" or a span group.
        mirrors: what holds in the other direction whenever a relation does, by label: of a symmetric relation the same label,
            so that it counts once; of others their inverse, so that both count, whichever of them is given.
        known: facts of the training data, which Ign-F1 leaves out, see `entitykit.scoring.relation_documents`.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        With the prefixes `rel_strict`, `rel_boundaries` and `rel_relaxed`: `_p`, `_r`, `_f` over all relations, `_macro_f`
        (mean over the labels in gold) and `_per_type` (label to p, r, f). Strict: `rel_per_distance` (words between the
        arguments to p, r, f). `rel_entities_r`: gold relations of which both arguments were found with their types, the highest
        recall that is possible; `rel_found_p`, `_r`, `_f`: strict, among pairs of entities that are both right. The scores of
        documents and of pairs. None where there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E345 or E349 for relations that cannot be read.
    """
    examples = list(examples)
    documents = [read(eg, entities, mirrors) for eg in examples if eg.reference.user_data.get(RELATIONS) is not None]
    strict = _count(documents, _strict)
    scores = _named("rel_strict", strict) | _named("rel_boundaries", _count(documents, _boundaries))
    scores |= _named("rel_relaxed", _count_relaxed(documents))
    distances = _by_distance(documents)
    scores["rel_per_distance"] = {name: _row(each) for name, each in _per_class(distances).items()} or None
    found = [_found(document) for document in documents]
    scores |= _micro("rel_found", _count(found, _strict))
    n_gold = strict.n_gold.total()
    scores["rel_entities_r"] = sum(len(document.gold) for document in found) / n_gold if n_gold else None
    return {**scores, **document_scores(examples, known, mirrors), **pair_scores(examples, mirrors)}


def read(eg: Example, entities: str, mirrors: Mapping[str, str]) -> Document:
    """Read the relations and entities of an example.

    Args:
        eg: of which the reference has relations.
        entities: "ents" or a span group.
        mirrors: as in `relations_score`.

    Raises:
        InputError: E305 for an example whose texts differ, E345 or E349 for relations that cannot be read.
    """
    in_predicted, in_reference = char_positions(eg)
    all_types = _types(eg.reference.spans.get(ENTITIES, ()), in_reference)
    gold_types = {**all_types, **_types(_spans(eg.reference, entities), in_reference)}
    types = _types(_spans(eg.predicted, entities), in_predicted)
    gold, predicted = eg.reference.user_data[RELATIONS], predicted_values(eg.predicted, RELATIONS)
    return Document(
        gold=set(_relations(eg.reference, gold, gold_types, in_reference, mirrors)),
        predicted=set(_relations(eg.predicted, predicted, types, in_predicted, mirrors)),
        entities={Argument(place, frozenset(labels)) for place, labels in types.items()},
        gold_entities={Argument(place, frozenset(labels)) for place, labels in gold_types.items()},
        words=[int(in_reference[token.idx]) for token in eg.reference if not token.is_space],
    )


def predicted_values(doc: Doc, name: str) -> Any:
    """Return the list in an extension of a predicted Doc, or nothing where no component has written one."""
    return (doc._.get(name) or ()) if Doc.has_extension(name) else ()


def _spans(doc: Doc, key: str) -> Iterable[Span]:
    return doc.ents if key == "ents" else doc.spans.get(key, ())


def _types(spans: Iterable[Span], positions: NDArray[np.int64]) -> dict[Offsets, set[str]]:
    found: defaultdict[Offsets, set[str]] = defaultdict(set)
    for span in spans:
        found[locate(span, positions)].add(span.label_)
    return found


def _relations(
    doc: Doc,
    values: object,
    types: Mapping[Offsets, Set[str]],
    positions: NDArray[np.int64],
    mirrors: Mapping[str, str],
) -> Iterator[Relation]:
    for head, tail, label, _ in read_relations(values, len(doc)):
        places = [locate(doc[slice(*place)], positions) for place in (head, tail)]
        mirror = mirrors.get(label)
        if mirror == label:
            places.sort()
        first, second = (Argument(place, frozenset(types.get(place, ()))) for place in places)
        yield Relation(first, second, label)
        if mirror not in (None, label):
            yield Relation(second, first, mirror)


def _strict(relation: Relation) -> Hashable:
    return relation


def _boundaries(relation: Relation) -> Hashable:
    return relation.head.place, relation.tail.place, relation.label


def _count(documents: Iterable[Document], what: Callable[[Relation], Hashable]) -> Counts:
    """Count relations by label; those that are equal by `what` count once."""
    counts = Counts(Counter(), Counter(), Counter())
    for document in documents:
        gold, predicted = (
            {what(relation): relation.label for relation in side} for side in (document.gold, document.predicted)
        )
        counts.n_gold.update(gold.values())
        counts.n_predicted.update(predicted.values())
        counts.n_correct.update(gold[key] for key in gold.keys() & predicted.keys())
    return counts


def _count_relaxed(documents: Iterable[Document]) -> Counts:
    counts = Counts(Counter(), Counter(), Counter())
    for document in documents:
        by_label: defaultdict[str, tuple[list[Relation], list[Relation]]] = defaultdict(lambda: ([], []))
        for side in (0, 1):
            for relation in (document.gold, document.predicted)[side]:
                by_label[relation.label][side].append(relation)
        for label, (gold, predicted) in by_label.items():
            counts.n_gold[label] += len(gold)
            counts.n_predicted[label] += len(predicted)
            counts.n_correct[label] += _largest_matching([[_similar(one, other) for other in predicted] for one in gold])
    return counts


def _similar(gold: Relation, predicted: Relation) -> bool:
    """Whether both arguments share words and a type, or have both no type."""
    pairs = ((gold.head, predicted.head), (gold.tail, predicted.tail))
    return all(
        one.place[0] < other.place[1]
        and other.place[0] < one.place[1]
        and (one.types & other.types or one.types == other.types)
        for one, other in pairs
    )


def _largest_matching(fits: Sequence[Sequence[bool]]) -> int:
    """Give as many rows as possible a column of their own that fits (augmenting paths, one row after the other)."""
    owner: dict[int, int] = {}

    def place(row: int, tried: set[int]) -> bool:
        for column, is_fit in enumerate(fits[row]):
            if is_fit and column not in tried:
                tried.add(column)
                if column not in owner or place(owner[column], tried):
                    owner[column] = row
                    return True
        return False

    return sum(place(row, set()) for row in range(len(fits)))


def _found(document: Document) -> Document:
    """The relations of a document between entities that are gold and predicted."""
    right = document.entities & document.gold_entities
    gold, predicted = (
        {relation for relation in side if relation.head in right and relation.tail in right}
        for side in (document.gold, document.predicted)
    )
    return document._replace(gold=gold, predicted=predicted)


def _by_distance(documents: Iterable[Document]) -> Counts:
    """Count strictly, by the number of the reference's words between the arguments."""
    counts = Counts(Counter(), Counter(), Counter())
    for gold, predicted, *_, words in documents:
        for count, side in zip(counts, (gold, predicted, gold & predicted), strict=True):
            count.update(_distance(relation, words) for relation in side)
    return counts


def _distance(relation: Relation, words: Sequence[int]) -> str:
    first, second = sorted([relation.head.place, relation.tail.place])
    n = max(0, bisect_left(words, second[0]) - bisect_left(words, first[1]))
    begin = max(edge for edge in DISTANCES if edge <= n)
    end = next((edge for edge in DISTANCES if edge > n), None)
    return f"{begin}+" if end is None else f"{begin}-{end - 1}"


def _per_class(counts: Counts) -> dict[str, PRF]:
    return {
        name: prf(n_correct=counts.n_correct[name], n_predicted=counts.n_predicted[name], n_gold=counts.n_gold[name])
        for name in sorted(counts.n_gold.keys() | counts.n_predicted.keys())
    }


def _micro(prefix: str, counts: Counts) -> Scores:
    n_correct, n_predicted, n_gold = (count.total() for count in (counts.n_correct, counts.n_predicted, counts.n_gold))
    if not n_predicted + n_gold:
        return {f"{prefix}_p": None, f"{prefix}_r": None, f"{prefix}_f": None}
    return {
        f"{prefix}_{name}": value
        for name, value in _row(prf(n_correct=n_correct, n_predicted=n_predicted, n_gold=n_gold)).items()
    }


def _named(prefix: str, counts: Counts) -> Scores:
    """Return scores under spaCy's keys."""
    per_type = _per_class(counts)
    macro = macro_average(per_type)
    return {
        **_micro(prefix, counts),
        f"{prefix}_macro_f": macro.f1 if macro else None,
        f"{prefix}_per_type": {label: _row(each) for label, each in per_type.items()} or None,
    }


def _row(scores: PRF) -> dict[str, float]:
    return {"p": scores.precision, "r": scores.recall, "f": scores.f1}
