"""Gold spans of examples, in the words of the predicted document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from spacy.attrs import ORTH
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.bridge.entities import NOTHING
from entitykit.errors import warn
from entitykit.types import Spans

ENTS = "ents"
NIL = "NIL"

Place = tuple[int, int]
"""Start and end of words, the end exclusive."""


class Gold(NamedTuple):
    """Gold spans of a packed batch.

    Attributes:
        spans: *(n_spans,)*.
        labels: of each span.
        known: documents whose reference is annotated, by position.
    """

    spans: Spans
    labels: list[str]
    known: list[bool]


def spans_of(doc: Doc, key: str) -> Sequence[Span]:
    """The spans that a document has in ``ents`` or in a span group; none where it does not have the group."""
    return doc.ents if key == ENTS else doc.spans.get(key) or ()


def reference_spans(doc: Doc, keys: Sequence[str]) -> list[Span] | None:
    """The annotated spans of a reference.

    Args:
        doc: the reference.
        keys: span groups, or ``ents`` for the entities; a key that ends in ``*`` stands for all groups whose names begin so.
            Spans found under several keys count once.

    Returns:
        None if the reference has no annotation under any of the keys, which is not the same as no spans.
    """
    groups = _groups(doc, keys)
    found: dict[tuple[int, int, str], Span] = {}
    for span in chain(*groups):
        found.setdefault((span.start, span.end, span.label_), span)
    return list(found.values()) if groups else None


def _groups(doc: Doc, keys: Sequence[str]) -> list[Iterable[Span]]:
    """The groups that a document has under any of the keys."""
    groups: list[Iterable[Span]] = []
    for key in keys:
        if key == ENTS and doc.has_annotation("ENT_IOB"):
            groups.append(doc.ents)
        elif key in doc.spans:
            groups.append(doc.spans[key])
        elif key.endswith("*"):
            groups += [group for name, group in doc.spans.items() if name.startswith(key[:-1])]
    return groups


class Given(NamedTuple):
    """Spans that documents of a packed batch have.

    Attributes:
        spans: *(n_spans,)*; those under several keys may occur more than once.
        candidates: ids, with their priors, that spans (start, end) may name.
    """

    spans: Spans
    candidates: dict[Place, dict[str, float]]


def group_spans(docs: Sequence[Doc], keys: Sequence[str]) -> Given:
    """Collect the spans that documents have in groups, or in ``ents``, and what they may name; keys as in `reference_spans`.

    Empty spans are left out with a warning.
    """
    found = [list(chain(*_groups(doc, keys))) for doc in docs]
    whole = [[span for span in spans if span.start < span.end] for spans in found]
    if n_empty := sum(map(len, found)) - sum(map(len, whole)):
        warn("W104", n=n_empty)
    return pack_spans(docs, whole)


class GroupWatch:
    """Says once if the documents that a component reads have no group of those that it is told to.

    Args:
        name: of the component.
        setting: its setting that names the groups.
        instead: what else can be done about it, for the end of the message.
    """

    def __init__(self, name: str, setting: str, instead: str = "") -> None:
        self.name = name
        self.setting = setting
        self.instead = instead
        self._is_over = False  # there was a group, or it has been said that there was none

    def check(self, docs: Sequence[Doc], keys: Sequence[str]) -> None:
        """Look at the next documents; keys as in `reference_spans`.

        Warns:
            W642 if none of the first that have words has a group.
        """
        with_words = [doc for doc in docs if len(doc)]
        if self._is_over or not keys or not with_words:
            return
        self._is_over = True
        if not any(_groups(doc, keys) for doc in with_words):
            asked = ", ".join(keys)
            warn("W642", n=len(with_words), name=self.name, setting=self.setting, keys=asked, instead=self.instead)


def pack_spans(docs: Sequence[Doc], spans: Sequence[Sequence[Span]]) -> Given:
    """Number spans through a batch, and collect what they may name.

    Args:
        docs: the batch.
        spans: of each document, in any order.
    """
    places: list[Place] = []
    candidates: dict[Place, dict[str, float]] = {}
    offset = 0
    for doc, of_doc in zip(docs, spans, strict=True):
        for span in of_doc:
            places.append((offset + span.start, offset + span.end))
            named = dict(span._.kb_ents or ()) if span.has_extension("kb_ents") else {}
            if span.kb_id_ and span.kb_id_ != NIL:
                named.setdefault(span.kb_id_, 1.0)
            if named:
                candidates.setdefault(places[-1], {}).update(named)
        offset += len(doc)
    table = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    return Given(Spans(table[:, 0], table[:, 1]), candidates)


def gold_spans(examples: Sequence[Example], keys: Sequence[str]) -> Gold:
    """Collect a batch's gold spans; see `reference_spans` for the keys.

    Spans that do not fall on words of the predicted document are expanded to the words that they touch; those that
    touch none are left out with a warning.
    """
    starts: list[int] = []
    ends: list[int] = []
    labels: list[str] = []
    known: list[bool] = []
    offset = 0
    n_lost = 0
    for eg in examples:
        spans = reference_spans(eg.reference, keys)
        known.append(spans is not None)
        find = places_in_predicted(eg)
        for span in spans or ():
            place = find(span.start, span.end)
            if place is None or place[0] == place[1]:
                n_lost += 1
                continue
            starts.append(offset + place[0])
            ends.append(offset + place[1])
            labels.append(span.label_)
        offset += len(eg.predicted)
    if n_lost:
        warn("W101", n=n_lost)
    return Gold(Spans(torch.tensor(starts, dtype=torch.long), torch.tensor(ends, dtype=torch.long)), labels, known)


def packed_gold_links(examples: Sequence[Example], keys: Sequence[str]) -> dict[Place, str]:
    """Ids that gold spans of a batch name, by their places in it, `NOTHING` for `NIL`; spans without a link are left out."""
    found: dict[Place, str] = {}
    offset = 0
    for eg in examples:
        find = places_in_predicted(eg)
        for span in chain(*_groups(eg.reference, keys)):
            place = find(span.start, span.end) if span.kb_id_ else None
            if place is not None:
                found[offset + place[0], offset + place[1]] = NOTHING if span.kb_id_ == NIL else span.kb_id_
        offset += len(eg.predicted)
    return found


def warn_ambiguous(references: Iterable[Doc], keys: Sequence[str], name: str) -> None:
    """Warn of places that have gold spans with several labels, of which a head that classifies places learns one."""
    n = 0
    for doc in references:
        n_labels = Counter((span.start, span.end) for span in reference_spans(doc, keys) or ())
        n += sum(number > 1 for number in n_labels.values())
    if n:
        warn("W103", n=n, name=name, stacklevel=4)


def places_in_predicted(eg: Example) -> Callable[[int, int], Place | None]:
    """How to find words of a reference in the predicted document.

    Returns:
        A function from start and end in the reference to those of the predicted words that are touched; None if there are none.
    """
    if len(eg.predicted) == len(eg.reference) and np.array_equal(eg.predicted.to_array(ORTH), eg.reference.to_array(ORTH)):
        return lambda start, end: (start, end)
    alignment = eg.alignment.y2x

    def place(start: int, end: int) -> Place | None:
        words = alignment[start:end]
        return (int(words.min()), int(words.max()) + 1) if len(words) else None

    return place
