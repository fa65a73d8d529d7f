"""Procedures: steps, participants, and the places where these may be, and how a batch of them is packed for the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from entitykit.bridge.pieces import ranges
from entitykit.models.tracker import NEAR, NO_PLACE, TrackerBatch

Ints = NDArray[np.int64]
Place = tuple[int, int]
"""First word of a span in its document, and its end, exclusive."""

SHARES = 8
"""A participant may have one part in so many of the cells of a document."""

_NO_WORDS = NO_PLACE  # of the bags that stand for no words of the text
_LATER, _FAR = 5, 3  # class of a place that is mentioned one step later; steps ago that are told apart
_WORDS = (2, 4, 7)  # words between a participant and a place from which the next class begins


class Participant(NamedTuple):
    """A participant of a procedure.

    Attributes:
        name: as it is written, perhaps with `;` between alternatives.
        mentions: spans that mention it.
    """

    name: str
    mentions: Sequence[Place]


class Procedure:
    """A document as a procedure; words are the document's.

    Args:
        n_words: of the document.
        steps: spans, in order, which do not overlap and may be empty. What is before the first one, or before it is empty, is
            read as what was so in the beginning.
        participants: in any number.
        places: of each place the spans that mention it.
        names: of the places.
    """

    def __init__(
        self,
        n_words: int,
        steps: Sequence[Place],
        participants: Sequence[Participant],
        places: Sequence[Sequence[Place]] = (),
        names: Sequence[str] = (),
    ) -> None:
        self.n_words = n_words
        self.steps = list(steps)
        self.participants = list(participants)
        self.places = list(places)
        self.names = list(names)

    def only(self, first: int, end: int) -> Procedure:
        """The same with the participants from `first` on, up to `end`, exclusive."""
        other = copy(self)  # with what was computed already: no cached property depends on the participants
        other.participants = self.participants[first:end]
        return other

    def cells(self, *, by_step: bool) -> int:
        """Words that are read for one participant, and pairs of a moment and a place that are scored.

        Args:
            by_step: there is a text for each step.
        """
        n_texts = self.n_moments if by_step else 1
        return self.n_words * n_texts + self.n_moments * (NO_PLACE + len(self.places))

    def within(self, most: int, *, by_step: bool) -> Procedure:
        """The same with no more cells than so many, in the same order: what is mentioned least often is left out.

        First places, until a participant has its share (`SHARES`) at most, then participants.

        Args:
            most: cells of all participants together.
            by_step: see `cells`.
        """
        own = self.cells(by_step=by_step)
        if own <= most // SHARES and own * len(self.participants) <= most:
            return self
        bare = Procedure(self.n_words, self.steps, []).cells(by_step=by_step)
        chosen = _most(list(map(len, self.places)), max(most // SHARES - bare, 0) // self.n_moments)
        own = bare + self.n_moments * len(chosen)
        mentioned = _most([len(participant.mentions) for participant in self.participants], most // own)
        participants = [self.participants[i] for i in mentioned]
        places, names = [self.places[i] for i in chosen], [self.names[i] for i in chosen]
        return Procedure(self.n_words, self.steps, participants, places, names)

    @property
    def n_moments(self) -> int:
        """The moment before the first step, and one after each."""
        return len(self.steps) + 1

    @cached_property
    def parts(self) -> list[Place]:
        """The words of each moment: those before the first step, then the steps'."""
        first = self.steps[0][0] if self.steps else self.n_words
        return [(0, first), *self.steps]

    @cached_property
    def moment_of(self) -> Ints:
        """The moment in whose words each word is *(n_words,)*; -1 where it is in none."""
        found = np.full(self.n_words, -1, dtype=np.int64)
        for moment, (start, end) in enumerate(self.parts):
            found[start:end] = moment
        return found

    @cached_property
    def bags(self) -> Bags:
        """The words of the places, and which of them are in which moment's words."""
        return Bags.of(self)


def _most(counts: Sequence[int], limit: int) -> list[int]:
    """Numbers of the highest counts, of equal ones the earlier, rising."""
    return sorted(np.argsort(-np.array(counts, dtype=np.int64), kind="stable")[:limit].tolist())


class Bags(NamedTuple):
    """Words of places.

    Attributes:
        words: place after place.
        counts: *(n_places,)* words of each.
        here_words: words of each pair of a moment and a place that is mentioned in its words, pair after pair.
        here_counts: *(n_pairs,)* words of each.
        here: *(n_moments, n_places)* number of the pair; -1 where the place is not mentioned then.
        first: *(n_pairs,)* first of these words.
    """

    words: Ints
    counts: Ints
    here_words: Ints
    here_counts: Ints
    here: Ints
    first: Ints

    @classmethod
    def of(cls, procedure: Procedure) -> Bags:
        """The bags of a procedure."""
        words = [np.concatenate([_NOTHING, *(np.arange(*span) for span in spans)]) for spans in procedure.places]
        here = np.full((procedure.n_moments, len(words)), -1, dtype=np.int64)
        pairs: list[Ints] = []
        for place, own in enumerate(words):
            moments = procedure.moment_of[own]
            for moment in np.unique(moments[moments >= 0]).tolist():
                here[moment, place] = len(pairs)
                pairs.append(own[moments == moment])
        return cls(
            np.concatenate([_NOTHING, *words]),
            np.array([len(own) for own in words], dtype=np.int64),
            np.concatenate([_NOTHING, *pairs]),
            np.array([len(own) for own in pairs], dtype=np.int64),
            here,
            np.array([own.min() for own in pairs], dtype=np.int64),
        )


_NOTHING = np.zeros(0, dtype=np.int64)


class Reading(NamedTuple):
    """Where the words of a document are among the states that were read for one participant.

    Attributes:
        firsts: *(n_texts, n_words)* row of each word's first piece; one text for all moments, or one for each step, the last of
            which is that of the moment before the first step, too.
        counts: *(n_texts, n_words)* pieces of each word; 0 for one that was not read.
        marks: *(n_moments,)* rows that stand for moments; -1 where there is none.
    """

    firsts: Ints
    counts: Ints
    marks: Ints

    def rows(self, text: int, words: Ints) -> Ints:
        """Rows of words, one after the other."""
        return ranges(self.firsts[text, words], self.counts[text, words])


def pack_procedures(procedures: Sequence[Procedure], readings: Sequence[Sequence[Reading]]) -> TrackerBatch:
    """Lay participants of procedures end to end.

    Args:
        procedures: of each document.
        readings: of each participant of each procedure.
    """
    packer = _Packer()
    for procedure, of_participants in zip(procedures, readings, strict=True):
        for participant, reading in zip(procedure.participants, of_participants, strict=True):
            packer.add(procedure, participant, reading)
    return packer.batch()


class _Packer:
    """Collects the parts of a `TrackerBatch`, all but the bags' numbers as they are."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Ints]] = {name: [] for name in TrackerBatch._fields}
        self.n_bags = NO_PLACE + 1

    def add(self, procedure: Procedure, participant: Participant, reading: Reading) -> None:
        """Add a participant."""
        n_texts, n_moments = len(reading.firsts), procedure.n_moments
        texts = [(moment - 1) % n_texts if n_texts > 1 else 0 for moment in range(n_moments)]
        mentioned = np.zeros(procedure.n_words, dtype=bool)
        for start, end in participant.mentions:
            mentioned[start:end] = True
        mentions = [np.flatnonzero(mentioned & (procedure.moment_of == moment)) for moment in range(n_moments)]
        mentions[0] = np.flatnonzero(mentioned)
        steps = [np.arange(start, end) for start, end in procedure.parts]
        self._put(moments=np.array([n_moments]), marks=reading.marks)
        for name, words in (("mention", mentions), ("step", steps)):
            rows = [reading.rows(text, own) for text, own in zip(texts, words, strict=True)]
            counts = np.array([len(own) for own in rows], dtype=np.int64)
            self._put(**{f"{name}_rows": np.concatenate([_NOTHING, *rows]), f"{name}_counts": counts})
        self._add_cells(procedure, mentioned, reading, texts)

    def _add_cells(self, procedure: Procedure, mentioned: NDArray[np.bool_], reading: Reading, texts: Sequence[int]) -> None:
        """Add the bags of the places, as each text has read them, and the cells."""
        bags, n_places = procedure.bags, len(procedure.places)
        whole = np.stack([self._bags(reading, text, bags.words, bags.counts) for text in range(len(reading.firsts))])[texts]
        pairs = np.zeros((0, 0), dtype=np.int64)
        if len(bags.here_counts):
            pairs = np.stack([self._bags(reading, t, bags.here_words, bags.here_counts) for t in range(len(reading.firsts))])
        here = np.full(bags.here.shape, _NO_WORDS, dtype=np.int64)
        moments, there = np.nonzero(bags.here >= 0)
        here[moments, there] = pairs[np.array(texts, dtype=np.int64)[moments], bags.here[moments, there]] if len(moments) else 0
        special = np.tile(np.arange(NO_PLACE), (len(texts), 1))
        nowhere = np.full_like(special, _NO_WORDS)
        own = (_sums(mentioned[bags.words], bags.counts) > 0).astype(np.int64)
        self._put(
            cell_counts=np.full(len(texts), NO_PLACE + n_places),
            cell_bags=np.hstack([special, whole]).ravel(),
            cell_here=np.hstack([nowhere, here]).ravel(),
            cell_near=np.hstack([np.full_like(special, NEAR - 1), _near(bags.here >= 0)]).ravel(),
            cell_sides=np.hstack([np.zeros_like(special), _sides(procedure, mentioned)]).ravel(),
            cell_own=np.hstack([np.zeros_like(special), np.tile(own, (len(texts), 1))]).ravel(),
        )

    def _bags(self, reading: Reading, text: int, words: Ints, counts: Ints) -> Ints:
        """Add the bags of words *(n_bags,)* as a text has read them; their numbers, or that of no words for empty ones."""
        pieces = reading.counts[text, words]
        sizes = _sums(pieces, counts)
        self._put(bag_rows=reading.rows(text, words), bag_counts=sizes)
        numbers = np.where(sizes > 0, np.arange(len(sizes)) + self.n_bags, _NO_WORDS)
        self.n_bags += len(sizes)
        return numbers

    def _put(self, **parts: Ints) -> None:
        for name, part in parts.items():
            self.parts[name].append(np.asarray(part, dtype=np.int64))

    def batch(self) -> TrackerBatch:
        """What was collected."""
        joined = (np.concatenate([_NOTHING, *self.parts[name]]) for name in TrackerBatch._fields)
        return TrackerBatch(*(torch.from_numpy(each) for each in joined))


def _sums(values: NDArray[Any], counts: Ints) -> Ints:
    """Sums of groups of values *(n,)*, group after group, which may be empty."""
    if not len(counts):
        return _NOTHING
    total: Ints = np.add.reduceat(np.append(values, 0).astype(np.int64), np.cumsum(counts) - counts)
    return np.where(counts > 0, total, 0)


def _near(mentioned: NDArray[np.bool_]) -> Ints:
    """Classes of when places were mentioned: *(n_moments, n_places)* whether they are to the same."""
    n_moments = len(mentioned)
    moments = np.arange(n_moments)[:, None]
    last = np.maximum.accumulate(np.where(mentioned, moments, -1), axis=0)
    following = np.minimum.accumulate(np.where(mentioned, moments, n_moments + 1)[::-1], axis=0)[::-1]
    ago = np.minimum(moments - last, _FAR + 1)
    later = np.where(following - moments == 1, _LATER, _LATER + 1)
    found: Ints = np.where(last >= 0, ago, later)
    return found


def _sides(procedure: Procedure, mentioned: NDArray[np.bool_]) -> Ints:
    """Classes of where places stand in a moment's words, as seen from the participant *(n_moments, n_places)*."""
    bags = procedure.bags
    found = np.zeros(bags.here.shape, dtype=np.int64)
    for moment, (start, end) in enumerate(procedure.parts):
        words = start + np.flatnonzero(mentioned[start:end])
        there = np.flatnonzero(bags.here[moment] >= 0)
        if len(words) and len(there):
            gaps = bags.first[bags.here[moment, there]] - words[0]
            size = np.searchsorted(_WORDS, np.abs(gaps), side="right")
            found[moment, there] = 1 + size + np.where(gaps > 0, len(_WORDS) + 1, 0)
    return found
