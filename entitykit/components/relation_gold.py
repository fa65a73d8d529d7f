"""Gold relations of examples, in the words of the predicted documents, and what heads must say of pairs and spans."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from entitykit.components.gold import Gold, gold_spans, places_in_predicted
from entitykit.components.pairs import RELATIONS, Found
from entitykit.decoding.relation_values import RelationValue, read_relations
from entitykit.decoding.schema import RelationSchema
from entitykit.errors import error, warn
from entitykit.models.spans import join_spans
from entitykit.types import EntityPairs, Spans


class Arguments(NamedTuple):
    """A gold relation in the predicted document's words.

    Attributes:
        head: start and end of the first argument.
        tail: of the second one.
        label: relation type.
    """

    head: tuple[int, int]
    tail: tuple[int, int]
    label: str


@dataclass
class Reach:
    """How many gold relations a component looks at.

    Attributes:
        n: all of them.
        n_far: those out of its scope.
        n_self: those of an entity with itself, if it does not look at such.
    """

    n: int = 0
    n_far: int = 0
    n_self: int = 0

    def add(self, head: Any, tail: Any, near: Container[Any]) -> None:
        """Count a relation.

        Args:
            head: its first argument, or none if it has no words.
            tail: its second argument.
            near: pairs that are looked at.
        """
        is_self = head is not None and head == tail
        is_out = (head, tail) not in near
        self.n += 1
        self.n_self += is_out and is_self
        self.n_far += is_out and not is_self

    def warn(self, name: str) -> None:
        """Say what is not looked at: W122 and W125."""
        if self.n_far:
            warn("W122", name=name, n=self.n_far, total=self.n, stacklevel=5)
        if self.n_self:
            warn("W125", name=name, n=self.n_self, total=self.n, stacklevel=5)


class Wanted(NamedTuple):
    """The gold relations of a packed batch.

    Attributes:
        n_labels: relation types.
        relations: numbers of relation types by start and end of head and of tail.
        known: for each word whether its document is annotated.
    """

    n_labels: int
    relations: dict[tuple[int, ...], list[int]]
    known: list[bool]

    def of_pairs(self, entities: EntityPairs) -> tuple[Tensor, Tensor]:
        """Which relations pairs have *(n_pairs, n_labels)*, and whether their documents are annotated *(n_pairs,)*."""
        device = entities.starts.device
        places = [part[side] for side in (entities.heads, entities.tails) for part in (entities.starts, entities.ends)]
        columns = zip(*(part.tolist() for part in places), strict=True)
        cells = [(row, label) for row, place in enumerate(columns) for label in self.relations.get(place, ())]
        targets = torch.zeros(len(entities.heads), self.n_labels, device=device)
        if cells:
            targets[tuple(torch.tensor(cells, device=device).T)] = 1.0
        return targets, torch.tensor(self.known, dtype=torch.bool, device=device)[places[0]]


def wanted_relations(examples: Sequence[Example], labels: Sequence[str], schema: RelationSchema, name: str) -> Wanted:
    """Collect a batch's gold relations, and what they imply.

    Args:
        examples: the batch.
        labels: the known relation types, in the order of their numbers.
        schema: says which relations have another direction.
        name: the component's, for messages.

    Raises:
        ConfigError: E110 for a label that is not known.

    Warns:
        W121 for relations with an argument that touches no predicted word.
    """
    numbers = {label: i for i, label in enumerate(labels)}
    wanted = Wanted(len(labels), {}, [])
    n_lost = 0
    for eg in examples:
        relations, lost = gold_relations(eg)
        n_lost += lost
        for head, tail, label in schema.with_mirrors(relations or ()):
            if label not in numbers:
                raise error("E110", name=name, label=label, labels=", ".join(labels))
            place = tuple(i + len(wanted.known) for i in (*head, *tail))
            wanted.relations.setdefault(place, []).append(numbers[label])
        wanted.known.extend([relations is not None] * len(eg.predicted))
    if n_lost:
        warn("W121", n=n_lost, stacklevel=5)
    return wanted


def entity_classes(gold: Gold, spans: Spans | EntityPairs, annotated: Tensor, types: Sequence[str], name: str) -> Tensor:
    """Numbers of spans' entity types *(n_spans,)*, 0 for none, -100 where nothing is annotated.

    Args:
        gold: the batch's entities.
        spans: of the same batch.
        annotated: *(n_words,)* words of annotated documents.
        types: the known entity types, in the order of their numbers, which begin with 1.
        name: the component's, for messages.

    Raises:
        ConfigError: E110 for a type that is not known.
    """
    numbers = {label: i for i, label in enumerate(types, start=1)}
    for label in gold.labels:
        if label and label not in numbers:
            raise error("E110", name=name, label=label, labels=", ".join(types))
    places = zip(gold.spans.starts.tolist(), gold.spans.ends.tolist(), strict=True)
    classes = dict(zip(places, (numbers.get(label, 0) for label in gold.labels), strict=True))
    found = [classes.get(place, 0) for place in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)]
    numbered = torch.tensor(found, dtype=torch.long, device=annotated.device)
    return numbered.masked_fill(~annotated[spans.starts], -100)


def reference_relations(doc: Doc) -> list[RelationValue] | None:
    """The gold relations of a reference, in its own words; none if it has no such annotation.

    Raises:
        InputError: E345 for a relation that cannot be read, E349 for relations that are no list.
    """
    values = doc.user_data.get(RELATIONS)
    if values is None:
        return None
    found = list(read_relations(values, len(doc)))
    for one, value in zip(found, values, strict=True):
        if not one.label:  # it can be shown, but not learned
            raise error("E345", found=repr(value)[:80], n=len(doc))
    return found


def spans_with_tokens(examples: Sequence[Example], keys: Sequence[str]) -> Spans:
    """Spans of a packed batch that must have entity tokens in training, if the encoder has any.

    These are gold spans, and arguments of gold relations that are none.

    Args:
        examples: the batch.
        keys: of gold spans, as in `reference_spans`.
    """
    places: list[tuple[int, int]] = []
    first = 0
    for eg in examples:
        relations, _ = gold_relations(eg)
        places += [(first + start, first + end) for one in relations or () for start, end in (one.head, one.tail)]
        first += len(eg.predicted)
    table = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return join_spans(gold_spans(examples, keys).spans, Spans(table[:, 0], table[:, 1]))


def related_pairs(examples: Sequence[Example], found: Sequence[Found], schema: RelationSchema) -> Tensor:
    """Which pairs of a packed batch have gold relations, or what these imply *(n_pairs,)*.

    Args:
        examples: the batch.
        found: the pairs of each.
        schema: says which relations have another direction.
    """
    related = []
    for eg, each in zip(examples, found, strict=True):
        relations, _ = gold_relations(eg)
        wanted = {(head, tail) for head, tail, _ in schema.with_mirrors(relations or ())}
        places = list(zip(each.starts.tolist(), each.ends.tolist(), strict=True))
        related += [(places[head], places[tail]) in wanted for head, tail in each.pairs.tolist()]
    return torch.tensor(related, dtype=torch.bool)


def gold_relations(eg: Example) -> tuple[list[Arguments] | None, int]:
    """The gold relations in the words of the predicted document.

    Returns:
        The relations, or none if the reference has no such annotation; and how many touch no predicted word.

    Raises:
        InputError: E345 for a relation that cannot be read, E349 for relations that are no list.
    """
    relations = reference_relations(eg.reference)
    if relations is None:
        return None, 0
    find = places_in_predicted(eg)
    found, n_lost = [], 0
    for relation in relations:
        head, tail = find(*relation.head), find(*relation.tail)
        if head is None or tail is None:
            n_lost += 1
        else:
            found.append(Arguments(head, tail, relation.label))
    return found, n_lost
