"""Groups of mentions that name the same unknown entity, by how they are written and what stands around them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

Ints = NDArray[np.int64]

_NEVER = 1e9  # distance of mentions that cannot be the same, far beyond any cosine's, even as a mean with all others


def cluster_unknown(names: Sequence[str], vectors: NDArray[np.floating], *, similarity: float) -> Ints:
    """Group mentions: the nearest groups join first, while the mean cosine between their mentions is high enough.

    Two mentions can only be the same if their names are, or if one has all the words of the other; a group has no two that
    cannot. So "Jones" joins "Mary Jones" or "Peter Jones", whichever is nearer, and these two never meet.

    Args:
        names: of the mentions, normalised.
        vectors: *(n_mentions, width)* of the mentions in their contexts.
        similarity: the least mean cosine between two groups that join.

    Returns:
        *(n_mentions,)* numbers of groups, from 0, in the order of their first mentions. Time and memory grow with the square
        of the mentions whose names are linked by words.
    """
    found = np.arange(len(names))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.asarray(vectors / np.where(lengths, lengths, 1.0), dtype=np.float64)
    for mentions, alike in _related(names):
        distances = np.where(alike, 1.0 - units[mentions] @ units[mentions].T, _NEVER)
        tree = linkage(squareform(distances, checks=False), method="average")
        groups = fcluster(tree, t=1.0 - similarity + 1e-9, criterion="distance")
        found[mentions] = mentions[[int(np.flatnonzero(groups == group)[0]) for group in groups]]
    _, numbers = np.unique(found, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


def _related(names: Sequence[str]) -> Iterator[tuple[Ints, NDArray[np.bool_]]]:
    """Mentions *(n,)* whose names are linked by other names, at least two, and which of them may be the same *(n, n)*."""
    mentions: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        mentions.setdefault(name, []).append(i)
    words = {name: frozenset(name.split()) for name in mentions}
    having: dict[str, set[str]] = {}
    for name, own in words.items():
        for word in own:
            having.setdefault(word, set()).add(name)
    # names that have all words of a name, itself among them; a name without words is only like itself
    longer = {name: set.intersection(*(having[word] for word in own)) if own else {name} for name, own in words.items()}
    for group in _components(longer):
        numbers = np.array([i for name in group for i in mentions[name]], dtype=np.int64)
        if len(numbers) > 1:
            order = np.argsort(numbers)
            places = np.repeat(np.arange(len(group)), [len(mentions[name]) for name in group])[order]
            alike = np.array([[b in longer[a] or a in longer[b] for b in group] for a in group])
            yield numbers[order], alike[np.ix_(places, places)]


def _components(links: dict[str, set[str]]) -> list[list[str]]:
    """Names that are linked, one group after the other."""
    neighbours: dict[str, set[str]] = {name: set() for name in links}
    for name, others in links.items():
        for other in others:
            neighbours[name].add(other)
            neighbours[other].add(name)
    groups, seen = [], set[str]()
    for first in links:
        if first in seen:
            continue
        seen.add(first)
        group = [first]
        for name in group:  # which grows
            new = sorted(neighbours[name] - seen)
            seen.update(new)
            group += new
        groups.append(group)
    return groups
