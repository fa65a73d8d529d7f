"""Pairs of entities that may be related: which are near enough, how they are packed, and how relations are written."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc

from entitykit.decoding.relations import Constraints, Entities
from entitykit.errors import error, warn
from entitykit.models.relations_enrico import EnriCoOutput
from entitykit.types import EntityPairs

Ints = NDArray[np.int64]

RELATIONS = "relations"
SCOPES = ("sentence", "window", "document")


class Scope(NamedTuple):
    """Which pairs are near enough.

    Attributes:
        kind: both entities begin in one ``sentence``; at most `window` words lie between them; or they are in one ``document``.
        window: words between the two, for ``window``.
        limit: pairs of two entities of a document at most, the nearest ones.
        itself: whether each entity is paired with itself, too.
    """

    kind: str
    window: int
    limit: int
    itself: bool = False


class Found(NamedTuple):
    """One document's entities, and the pairs of them that are looked at.

    Attributes:
        starts: *(n_entities,)* first words, sorted.
        ends: *(n_entities,)* ends, exclusive.
        labels: of each entity, empty where it has none.
        pairs: *(n_pairs, 2)* rows of head and tail, by head, then by tail.
    """

    starts: Ints
    ends: Ints
    labels: list[str]
    pairs: Ints

    def given(self, constraints: Constraints) -> Entities:
        """The entities as decoders read them, with their types; those in one place are one."""
        places = np.stack([self.starts, self.ends], axis=1)
        ids = np.unique(places, axis=0, return_inverse=True)[1].reshape(-1)
        return Entities(self.starts, self.ends, constraints.numbers_of(self.labels), ids=ids)


def pairs_in_scope(doc: Doc, starts: Ints, ends: Ints, scope: Scope, name: str) -> tuple[Ints, int]:
    """All ordered pairs of a document's entities within the scope.

    Args:
        doc: with sentence boundaries for the scope ``sentence``.
        starts: *(n_entities,)* first words, sorted.
        ends: *(n_entities,)* ends, exclusive.
        scope: which pairs are wanted.
        name: the component's, for messages.

    Returns:
        Rows *(n_pairs, 2)* of head and tail, by head, then by tail, and the number of pairs that the limit left out. Two spans
        in the same place make no pair.

    Raises:
        ConfigError: E120 if sentences are asked for and the document has none.
    """
    alone = np.arange(len(starts) if scope.itself else 0)
    if len(starts) < 2:
        return np.stack([alone, alone], axis=1), 0
    stops = stops_in_scope(doc, starts, ends, scope, name)
    repeats = np.unique(np.stack([starts, ends]), axis=1, return_counts=True)[1]
    n_same = int((repeats * (repeats - 1) // 2).sum())  # in every scope, and 0 words apart
    n_pairs = int(pairs_per_row(stops).sum()) - n_same
    n_kept = min(n_pairs, scope.limit // 2)
    if n_kept < n_pairs:
        stops = _stops_of_nearest(starts, ends, stops, n_kept + n_same)
    left, right = rows_up_to(stops)
    apart = (starts[left] != starts[right]) | (ends[left] != ends[right])
    left, right = left[apart], right[apart]
    if n_kept < len(left):
        distances = np.maximum(starts[right] - ends[left], 0)
        nearest = np.sort(np.argsort(distances, kind="stable")[:n_kept])
        left, right = left[nearest], right[nearest]
    pairs = np.concatenate([np.stack(each, axis=1) for each in ((left, right), (right, left), (alone, alone))])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))], 2 * (n_pairs - n_kept)


def stops_in_scope(doc: Doc, starts: Ints, ends: Ints, scope: Scope, name: str) -> Ints:
    """For each row the end of those behind it that are within the scope *(n,)*; arguments as of `pairs_in_scope`."""
    if scope.kind == "document":
        return np.full(len(starts), len(starts))
    if scope.kind == "window":
        return np.searchsorted(starts, ends + scope.window, side="right")
    return np.searchsorted(starts, sentence_ends(doc, name)[starts])


def reach_in_scope(docs: Sequence[Doc], scope: Scope, name: str) -> dict[str, torch.Tensor]:
    """The same for entities that a model is to find: `reach`, `most` and `itself` of `EntityPairs`.

    Raises:
        ConfigError: E120 if sentences are asked for and a document has none.
    """
    words = [len(doc) for doc in docs]
    ends = [np.full(n, n) for n in words]
    by_start = [sentence_ends(doc, name) for doc in docs] if scope.kind == "sentence" else ends
    by_end = [np.minimum(np.arange(2, n + 2) + scope.window, n) for n in words] if scope.kind == "window" else ends
    return {
        "reach": torch.stack([end_to_end(each, words) for each in (by_start, by_end)], dim=1),
        "most": torch.full((len(docs),), scope.limit),
        "itself": torch.tensor(scope.itself),
    }


def _stops_of_nearest(starts: Ints, ends: Ints, stops: Ints, n_wanted: int) -> Ints:
    """Stops of the pairs that are no farther apart than the last of the nearest so many, as all of them are never made."""

    def within(words: int) -> Ints:
        return np.minimum(stops, np.searchsorted(starts, ends + words, side="right"))

    farthest = range(int(starts[-1]) + 1)
    return within(bisect_left(farthest, n_wanted, key=lambda words: int(pairs_per_row(within(words)).sum())))


def pairs_per_row(stops: Ints) -> Ints:
    """How many rows are behind each and before its stop *(n,)*."""
    return np.maximum(stops - np.arange(len(stops)) - 1, 0)


def rows_up_to(stops: Ints) -> tuple[Ints, Ints]:
    """Pairs of rows, the first before the second, by the first; for each row the second ones are those before its stop."""
    counts = pairs_per_row(stops)
    left = np.repeat(np.arange(len(stops)), counts)
    within = np.arange(len(left)) - np.repeat(np.cumsum(counts) - counts, counts)
    return left, left + 1 + within


def sentence_ends(doc: Doc, name: str) -> Ints:
    """For each word the end of its sentence *(n_words,)*.

    Raises:
        ConfigError: E120 if the document has no sentences.
    """
    if not doc.has_annotation("SENT_START"):
        raise error("E120", name=name, text=doc.text[:40])
    sentences = list(doc.sents)
    return np.repeat(np.array([sent.end for sent in sentences], dtype=np.int64), [len(sent) for sent in sentences])


def pack_pairs(docs: Sequence[Doc], found: Sequence[Found], types: Sequence[str]) -> EntityPairs:
    """Lay documents' entities and pairs end to end.

    Args:
        docs: the documents.
        found: of each document.
        types: the known entity types, in the order of their numbers, which begin with 1.
    """
    numbers = {label: i for i, label in enumerate(types, start=1)}
    words = [len(doc) for doc in docs]
    rows = [len(each.starts) for each in found]
    return EntityPairs(
        end_to_end((each.starts for each in found), words),
        end_to_end((each.ends for each in found), words),
        torch.tensor([numbers.get(label, 0) for each in found for label in each.labels], dtype=torch.long),
        end_to_end((each.pairs[:, 0] for each in found), rows),
        end_to_end((each.pairs[:, 1] for each in found), rows),
    )


def end_to_end(parts: Iterable[Ints], lengths: Sequence[int]) -> torch.Tensor:
    """Join numbers that count from the beginning of their documents, as if these lay end to end.

    Args:
        parts: of each document.
        lengths: how many there are in each document of what is counted.
    """
    firsts = accumulate(lengths, initial=0)
    moved = (part + first for part, first in zip(parts, firsts, strict=False))  # the last is the end
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype=np.int64), *moved]))


def unpack_pairs(entities: EntityPairs, lengths: Sequence[int]) -> tuple[list[Found], list[slice]]:
    """Cut entities that a model has found into documents; they are without labels.

    Returns:
        Of each document its entities and pairs, and its rows among the entities.
    """
    starts, ends, _, heads, tails = (part.cpu().numpy() for part in entities[:5])
    firsts = np.cumsum([0, *lengths])
    rows = np.searchsorted(starts, firsts)
    pairs = np.searchsorted(heads, rows)
    found, own = [], []
    for i, first in enumerate(firsts[:-1].tolist()):
        low, high = int(rows[i]), int(rows[i + 1])
        sides = np.stack([side[pairs[i] : pairs[i + 1]] - low for side in (heads, tails)], axis=1)
        found.append(Found(starts[low:high] - first, ends[low:high] - first, [""] * (high - low), sides))
        own.append(slice(low, high))
    return found, own


def unpack_kept(entities: EntityPairs, found: Sequence[Found]) -> list[Found]:
    """The documents' entities with those pairs only that a model has kept."""
    heads, tails = (part.cpu().numpy() for part in (entities.heads, entities.tails))
    rows = np.cumsum([0, *(len(each.starts) for each in found)])
    pairs = np.stack([heads, tails], axis=1)
    edges = np.searchsorted(heads, rows)
    return [each._replace(pairs=pairs[edges[i] : edges[i + 1]] - rows[i]) for i, each in enumerate(found)]


def warn_far(n: int, n_kept: int, n_entities: int | str, name: str) -> None:
    """Say how many pairs of a document were left out because they were too many; W120."""
    if n:
        which, total = "those farthest apart", n + n_kept
        warn("W120", name=name, n=n, total=total, n_entities=n_entities, which=which, setting="max_pairs", stacklevel=6)


def warn_filtered(output: EnriCoOutput, lengths: Sequence[int], name: str) -> None:
    """Say which pairs EnriCo has not scored: of given entities those that its filter left out, of found ones those too many.

    Args:
        output: of a batch.
        lengths: words of each document.
        name: the component's.

    Warns:
        W120 for each document.
    """
    ends = torch.tensor(lengths, dtype=torch.long).cumsum(0)

    def per_document(words: torch.Tensor) -> list[int]:
        found: list[int] = torch.bincount(torch.bucketize(words.cpu(), ends, right=True), minlength=len(lengths)).tolist()
        return found

    seen, kept = output.seen_pairs, output.entities
    places = (seen.starts, seen.starts[seen.heads], kept.starts[kept.heads])
    far = [0] * len(lengths) if output.n_far is None else output.n_far.tolist()
    for n_entities, n_seen, n_kept, n_far in zip(*map(per_document, places), far, strict=True):
        warn_far(n_far, n_seen, f"{n_entities} possible", name)
        if output.n_far is None and n_kept < n_seen:
            n, which, setting = n_seen - n_kept, "those that its filter finds least likely", "keep_pairs in its model settings"
            warn("W120", name=name, n=n, total=n_seen, n_entities=n_entities, which=which, setting=setting, stacklevel=4)


def as_json(doc: Doc, found: Found, chosen: Iterable[tuple[int, int, str, float]]) -> list[dict[str, Any]]:
    """What is written to a document.

    Args:
        doc: the document.
        found: its entities.
        chosen: rows of head and tail, label and probability of relations.

    Returns:
        For each relation `head` and `tail`, start and end in tokens; `head_span` and `tail_span`, the same in characters;
        `label`; `score`; and `sentence`, the number of the sentence in which both begin, or None.
    """
    number: Ints | None = None
    if doc.has_annotation("SENT_START"):
        number = np.repeat(*np.array([(i, len(sent)) for i, sent in enumerate(doc.sents)], dtype=np.int64).reshape(-1, 2).T)
    written = []
    for *rows, label, score in chosen:
        head, tail = (doc[int(found.starts[row]) : int(found.ends[row])] for row in rows)
        sentence = None if number is None or number[head.start] != number[tail.start] else int(number[head.start])
        written.append(
            {
                "head": [head.start, head.end],
                "tail": [tail.start, tail.end],
                "head_span": [head.start_char, head.end_char],
                "tail_span": [tail.start_char, tail.end_char],
                "label": label,
                "score": float(score),
                "sentence": sentence,
            }
        )
    return written


def register_relations() -> None:
    """Make ``doc._.relations`` and its alias ``doc._.rel`` known to spaCy, once; where nothing looked, they are None."""
    if not Doc.has_extension(RELATIONS):
        Doc.set_extension(RELATIONS, default=None)
    if not Doc.has_extension("rel"):
        Doc.set_extension("rel", getter=_relations)


def _relations(doc: Doc) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] | None = doc._.relations
    return found
