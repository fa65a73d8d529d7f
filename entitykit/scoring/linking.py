"""Scorer of entity linking, equal to GERBIL's measures: end to end, with given mentions, of candidates, and of NIL.

The rules are those of GERBIL (Usbeck et al., WWW 2015; Röder, Usbeck and Ngonga Ngomo, Semantic Web 9(5), 2018), which take the
two kinds of match from Cornolti, Ferragina and Ciaramita, WWW 2013; where the papers leave a case open, those of its code
(github.com/dice-group/gerbil, release 1.2.x):

- *Strong* match: same offsets, same entity. *Weak* match: overlapping offsets, same entity (`StrongSpanMatchingsSearcher`,
  `WeakSpanMatchingsSearcher`).
- Each prediction matches one gold annotation at most; what matches none is a false positive, wherever it lies
  (`MatchingsCounterImpl`). Both sides are taken in the order of the text.
- *InKB*: annotations without an entity of the knowledge base are removed from gold and predictions before counting, so that a
  link of a NIL mention is a false positive and an undetected NIL mention costs nothing; *EE* (emerging entities), here NIL: the
  same with the others alone (`ClassConsideringFMeasureCalculator`).
- Macro: precision, recall and F1 of every document, each averaged. A document without gold and without predictions has 1, 1, 1;
  one without a match otherwise 0, 0, 0 (`FMeasureCalculator`). No value at all where no document has either.

GERBIL also searches the confidence threshold that is best on the gold data, and widens entities by owl:sameAs; this does
neither: the annotations are scored as they are, and ids are compared as strings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence, Set
from numbers import Real
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.spans import PRF, Scores, char_positions, locate

NIL = "NIL"
"""The `kb_id_` of a span whose entity is in no knowledge base; an empty one means the same."""

CANDIDATES = "kb_ents"
"""The extension `span._.kb_ents`, named as in scispacy: pairs of an entity's id and a score, see `register_candidates`."""

RECALL_AT = (1, 4, 16, 64)
"""Candidates per mention at which recall is reported."""

T = TypeVar("T")

Offsets = tuple[int, int]

Link = tuple[int, int, str]
"""(start, end, id of an entity); the metrics only compare, so that any offsets will do."""


class LinkScores(NamedTuple):
    """Precision, recall and F1 of links.

    Attributes:
        micro: over all links of all documents.
        macro: mean over the documents; its F1 is the mean of their F1. `n_gold` is that of `micro`.
    """

    micro: PRF
    macro: PRF


class _Counts(NamedTuple):
    n_correct: int
    n_predicted: int
    n_gold: int


class _Document(NamedTuple):
    """One example in character positions that its two tokenizations share; the id of NIL is empty."""

    gold: set[Link]
    predicted: set[Link]
    candidates: dict[Offsets, list[str]] | None  # best first, of predicted spans; None: nothing wrote any


def make_linking_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.linking_scorer.v1`."""
    return linking_score


def register_candidates() -> None:
    """Make `span._.kb_ents` known to spaCy, once; call it where candidates are written, importing this module does nothing.

    Its value is a list of pairs (id, score), or None where there are no candidates. spaCy keeps it in `doc.user_data` by the
    span's offsets, so that it is the same for spans of `doc.ents` and of `doc.spans`, and in a `DocBin` with `store_user_data`.
    """
    if not Span.has_extension(CANDIDATES):
        Span.set_extension(CANDIDATES, default=None)


def linking_score(
    examples: Iterable[Example],
    *,
    annotate: Literal["ents", "spans"] = "ents",
    spans_key: str = "sc",
    optional_key: str = "optional",
    kb: Container[str] | None = None,
    recall_at: Sequence[int] = RECALL_AT,
    **_: object,
) -> Scores:
    """Score links by GERBIL's rules, see the module; candidates are read from `span._.kb_ents`.

    Reads `kb_id_` in `doc.ents` or `doc.spans[spans_key]` of both Docs, which may be tokenized differently; equal offsets with
    the same id count once. References without that annotation are skipped. What is predicted on tokens whose entity annotation
    is missing (`ent_iob` 0: a corpus that annotates parts of a text) is not scored, nor is a prediction equal to a span of
    the reference's `doc.spans[optional_key]`: found or not, it is right (ELEVANT, Bast, Hertel and Prange, EMNLP 2022).

    Args:
        examples: predicted and reference Docs.
        annotate: "ents" for flat entities, "spans" for those of a span group.
        spans_key: the span group.
        optional_key: the span group of annotations that may be found and need not be.
        kb: the ids of the knowledge base; others count as NIL, in gold and predictions. None: all ids belong to it.
        recall_at: numbers of candidates per mention.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `linking_micro_p`, `_r`, `_f` and `linking_macro_…`: InKB, strong; `linking_weak_micro_…` and `linking_weak_macro_…`:
        InKB, weak; `linking_nil_p`, `_r`, `_f`: micro, strong, of NIL. `linking_mentions_r`: gold mentions whose offsets are
        predicted, 1 where gold mentions were given. Accuracy of disambiguation, over these mentions alone: `linking_acc`, with
        the gold id or, if they are NIL, without any; `linking_inkb_acc`, of those with a gold id (the recall of GERBIL's D2KB,
        which is over all gold mentions, is `linking_micro_r`). `linking_recall_at_{k}`: gold mentions with an id that is among
        the k best candidates of the predicted span with the same offsets; `linking_ceiling`: among all of them, the best recall
        that ranking them could reach. None where there is nothing to score.

    Raises:
        ConfigError: E306 for an unknown `annotate`, E561 for a number of candidates below 1.
        InputError: E305 for an example whose texts differ, E560 for candidates that are not ids with scores.
    """
    if annotate not in ("ents", "spans"):
        raise error("E306", found=annotate)
    if not all(k >= 1 for k in recall_at):
        raise error("E561", found=", ".join(map(str, recall_at)))
    key = None if annotate == "ents" else spans_key
    found = (_read(eg, key, optional_key, kb) for eg in examples)
    documents = [document for document in found if document is not None]
    gold, predicted = [document.gold for document in documents], [document.predicted for document in documents]
    in_kb = [_with_id(links) for links in gold], [_with_id(links) for links in predicted]
    nil = score_links(*([links - _with_id(links) for links in side] for side in (gold, predicted)))
    scores: Scores = {}
    for name, each in (("linking", score_links(*in_kb)), ("linking_weak", score_links(*in_kb, weak=True))):
        scores |= _named(f"{name}_micro", each and each.micro) | _named(f"{name}_macro", each and each.macro)
    return {
        **scores,
        **_named("linking_nil", nil and nil.micro),
        "linking_mentions_r": _accuracy(
            [set(map(_place, links)) for links in gold], [set(map(_place, links)) for links in predicted]
        ),
        "linking_acc": _accuracy(*_found(gold, predicted)),
        "linking_inkb_acc": _accuracy(*_found(in_kb[0], predicted)),
        **{f"linking_recall_at_{k}": _recall(documents, k) for k in recall_at},
        "linking_ceiling": _recall(documents, None),
    }


def score_links(gold: Sequence[Set[Link]], predicted: Sequence[Set[Link]], *, weak: bool = False) -> LinkScores | None:
    """Score links by GERBIL's rules, whatever their ids.

    Args:
        gold: one set of links per document.
        predicted: the same documents' predicted links.
        weak: whether overlapping offsets are enough.

    Returns:
        The scores, or None if no document has any link.
    """
    counts = [_count(*pair, weak=weak) for pair in zip(gold, predicted, strict=True)]
    total = _Counts(*map(sum, zip(*counts, strict=True))) if counts else _Counts(0, 0, 0)
    if not total.n_gold + total.n_predicted:
        return None
    precision, recall, f1 = (sum(values) / len(counts) for values in list(zip(*map(_measure, counts), strict=True))[:3])
    return LinkScores(_measure(total), PRF(precision, recall, f1, total.n_gold))


def _count(gold: Set[Link], predicted: Set[Link], *, weak: bool) -> _Counts:
    n_correct = _count_overlaps(gold, predicted) if weak else len(gold & predicted)
    return _Counts(n_correct, len(predicted), len(gold))


def _count_overlaps(gold: Set[Link], predicted: Set[Link]) -> int:
    """Give every gold link, in the order of the text, the first prediction of its id that overlaps it and is still free."""
    free: defaultdict[str, list[Offsets]] = defaultdict(list)
    for start, end, entity in sorted(predicted):
        free[entity].append((start, end))
    n_correct = 0
    for start, end, entity in sorted(gold):
        spans = free[entity]
        match = next((span for span in spans if span[0] < end and start < span[1]), None)
        if match is not None:
            spans.remove(match)
            n_correct += 1
    return n_correct


def _measure(counts: _Counts) -> PRF:
    if not counts.n_correct:
        value = 0.0 if counts.n_predicted + counts.n_gold else 1.0
        return PRF(value, value, value, counts.n_gold)
    precision, recall = counts.n_correct / counts.n_predicted, counts.n_correct / counts.n_gold
    return PRF(precision, recall, 2 * precision * recall / (precision + recall), counts.n_gold)


def _found(gold: Sequence[Set[Link]], predicted: Sequence[Set[Link]]) -> tuple[list[set[Link]], Sequence[Set[Link]]]:
    """Return the gold links whose offsets are predicted, and the predictions."""
    places = [set(map(_place, links)) for links in predicted]
    return [{link for link in links if _place(link) in at} for links, at in zip(gold, places, strict=True)], predicted


def _place(link: Link) -> Offsets:
    return link[:2]


def _accuracy(gold: Sequence[Set[T]], predicted: Sequence[Set[T]]) -> float | None:
    """Return the share of the gold values that are predicted in the same document."""
    n_gold = sum(map(len, gold))
    return sum(len(a & b) for a, b in zip(gold, predicted, strict=True)) / n_gold if n_gold else None


def _recall(documents: Sequence[_Document], k: int | None) -> float | None:
    """Return the share of gold links with an id that is among the k best candidates, or among all of them."""
    if all(document.candidates is None for document in documents):
        return None
    n_gold = n_found = 0
    for document in documents:
        for start, end, entity in _with_id(document.gold):
            n_gold += 1
            n_found += entity in (document.candidates or {}).get((start, end), [])[:k]
    return n_found / n_gold if n_gold else None


def _read(eg: Example, key: str | None, optional_key: str, kb: Container[str] | None) -> _Document | None:
    """Return an example's links, or None if its reference is not annotated; without a key those of `doc.ents`."""
    gold = _spans(eg.reference, key)
    if gold is None:
        return None
    in_predicted, in_reference = char_positions(eg)
    unknown = _unknown(eg.reference, in_reference)
    optional = _links(eg.reference.spans.get(optional_key, ()), in_reference, kb)
    scored, candidates = [], {}
    for span in _spans(eg.predicted, key) or ():
        offsets = locate(span, in_predicted)
        if unknown.isdisjoint(range(*offsets)):
            scored.append(span)
            if (ranked := _ranked(span)) is not None:
                candidates[offsets] = ranked
    return _Document(
        gold=_links(gold, in_reference, kb),
        predicted=_links(scored, in_predicted, kb) - optional,
        candidates=candidates or None,
    )


def _spans(doc: Doc, key: str | None) -> Iterable[Span] | None:
    if key is None:
        return doc.ents if doc.has_annotation("ENT_IOB") else None
    return doc.spans.get(key)


def _unknown(reference: Doc, positions: NDArray[np.int64]) -> set[int]:
    """Return the positions of tokens without entity annotation, in a reference where others have it."""
    if not reference.has_annotation("ENT_IOB") or reference.has_annotation("ENT_IOB", require_complete=True):
        return set()
    tokens = (token for token in reference if token.ent_iob == 0)
    return {int(position) for token in tokens for position in positions[token.idx : token.idx + len(token)]}


def _links(spans: Iterable[Span], positions: NDArray[np.int64], kb: Container[str] | None) -> set[Link]:
    links = set()
    for span in spans:
        entity = span.kb_id_
        known = entity not in ("", NIL) and (kb is None or entity in kb)
        links.add((*locate(span, positions), entity if known else ""))
    return links


def _ranked(span: Span) -> list[str] | None:
    """Return the ids of a span's candidates by falling score, each once; of equal scores the first comes first."""
    pairs = getattr(span._, CANDIDATES) if Span.has_extension(CANDIDATES) else None
    if pairs is None:
        return None
    scores: dict[str, float] = {}
    for pair in pairs if isinstance(pairs, Iterable) else [pairs]:
        match pair:
            case [str(entity), score] if isinstance(score, Real) and math.isfinite(score):
                scores[entity] = max(float(score), scores.get(entity, -math.inf))
            case _:
                raise error("E560", text=span.text[:60], found=repr(pair)[:60])
    return sorted(scores, key=lambda entity: -scores[entity])


def _with_id(links: Set[Link]) -> set[Link]:
    return {link for link in links if link[2]}


def _named(prefix: str, scores: PRF | None) -> Scores:
    """Return scores under spaCy's keys."""
    precision, recall, f1 = scores[:3] if scores else (None, None, None)
    return {f"{prefix}_p": precision, f"{prefix}_r": recall, f"{prefix}_f": f1}
