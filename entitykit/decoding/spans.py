"""Candidate spans and their weights in, the spans to keep out: five decoders and a top-k selector.

The candidates of one document are three aligned arrays: `starts` and `ends` (token offsets, end exclusive) and `weights`,
whose sum is maximised. Only candidates with a weight above zero can be kept, so a weight is a score minus the threshold, or a
logit. Every decoder returns the indices of the kept candidates, sorted by (start, -end).

Two candidates may name the same span (with different labels): "overlapping" keeps both, every other decoder at most the
heavier one. Ties between spans are broken by their offsets and never by the order of the input, so that a permutation of the
candidates keeps the same spans; only between equal weights on the same span does the lower index win.

Methods: greedy, flat and well-nested decoding as in ToMMeR (arXiv 2510.19410). The best flat set is weighted interval
scheduling. The best set without crossings is a maximum-weight independent set of a circle graph, solved interval by interval as
in Valiente, "A New Simple Algorithm for the Maximum-Weight Independent Set Problem on Circle Graphs" (ISAAC 2003).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from entitykit.errors import error, warn

IntArray = NDArray[np.integer]
FloatArray = NDArray[np.floating]
Indices = NDArray[np.int64]

SLOW_STEPS = 30_000_000
"""Steps of `exact_nested` from which it warns: about 10 seconds."""


class Decoder(Protocol):
    """Chooses among the candidate spans of one document."""

    def __call__(self, starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
        """Return the indices of the kept candidates, sorted by (start, -end)."""


def overlapping(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Keep every candidate with a weight above zero.

    Args:
        starts: first tokens, `(n_candidates,)`.
        ends: ends, exclusive, `(n_candidates,)`.
        weights: what is maximised, `(n_candidates,)`.

    Returns:
        Indices of the kept candidates, sorted by (start, -end).

    Raises:
        InputError: E301, E302 or E303, for arrays that do not fit, spans that are none, or weights that are NaN or infinite.
    """
    return _positive(starts, ends, weights)


def greedy(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Keep spans that do not overlap, heaviest first; of equal weights the longer, then the earlier.

    Costs O(k log k) for the order and one scan of each candidate's width in a byte map.

    Args:
        starts: first tokens, `(n_candidates,)`.
        ends: ends, exclusive, `(n_candidates,)`.
        weights: what is maximised, `(n_candidates,)`.

    Returns:
        Indices of the kept candidates, sorted by (start, -end).

    Raises:
        InputError: E301, E302 or E303, as `overlapping`.
    """
    spans = _distinct(starts, ends, weights)
    taken = bytearray(spans.n_boundaries)
    kept = []
    for at in _by_weight(spans, starts, ends, weights):
        left, right = spans.lefts[at], spans.rights[at]
        if taken.find(1, left, right) < 0:
            taken[left:right] = b"\x01" * (right - left)
            kept.append(at)
    return spans.indices[np.sort(np.asarray(kept, dtype=np.int64))]


def greedy_nested(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Keep spans that cross no kept one, heaviest first; of equal weights the longer, then the earlier.

    The kept spans that strictly contain a boundary enclose each other, so the innermost decides whether a span may start or end
    there: each candidate is checked in O(1), and keeping it costs its width.

    Args:
        starts: first tokens, `(n_candidates,)`.
        ends: ends, exclusive, `(n_candidates,)`.
        weights: what is maximised, `(n_candidates,)`.

    Returns:
        Indices of the kept candidates, sorted by (start, -end).

    Raises:
        InputError: E301, E302 or E303, as `overlapping`.
    """
    spans = _distinct(starts, ends, weights)
    # Left and right end of the innermost kept span around each boundary.
    inner_left = np.full(spans.n_boundaries, -1)
    inner_right = np.full(spans.n_boundaries, spans.n_boundaries)
    kept = []
    for at in _by_weight(spans, starts, ends, weights):
        left, right = spans.lefts[at], spans.rights[at]
        if inner_right[left] >= right and inner_left[right] <= left:
            inside = slice(left + 1, right)
            np.maximum(inner_left[inside], left, out=inner_left[inside])
            np.minimum(inner_right[inside], right, out=inner_right[inside])
            kept.append(at)
    return spans.indices[np.sort(np.asarray(kept, dtype=np.int64))]


def exact_flat(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Keep the set of spans without overlaps that has the largest total weight, in O(k log k).

    Args:
        starts: first tokens, `(n_candidates,)`.
        ends: ends, exclusive, `(n_candidates,)`.
        weights: what is maximised, `(n_candidates,)`.

    Returns:
        Indices of the kept candidates, sorted by (start, -end).

    Raises:
        InputError: E301, E302 or E303, as `overlapping`.
    """
    spans = _distinct(starts, ends, weights)
    chains = _Chains(spans)
    chains.sweep(0, spans.n_boundaries)
    return spans.indices[np.sort(np.asarray(chains.follow(0, spans.n_boundaries), dtype=np.int64))]


def exact_nested(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Keep the set of spans without crossings that has the largest total weight.

    For each distinct end, the candidates that end there are completed with the best set inside them by one sweep from that end
    to the leftmost of their starts. Time is O(k log k) plus the number of candidates and boundaries that the sweeps meet: k
    times the candidates that fit into one for spans of bounded width, O(k²) at worst; memory is O(k). There is no cut-off: from
    `SLOW_STEPS` steps on, a warning says what it will cost.

    Args:
        starts: first tokens, `(n_candidates,)`.
        ends: ends, exclusive, `(n_candidates,)`.
        weights: what is maximised, `(n_candidates,)`.

    Returns:
        Indices of the kept candidates, sorted by (start, -end).

    Raises:
        InputError: E301, E302 or E303, as `overlapping`.
    """
    spans = _distinct(starts, ends, weights)
    boundaries = np.arange(spans.n_boundaries)
    leftmost = boundaries.copy()
    np.minimum.at(leftmost, spans.rights, spans.lefts)
    rows = np.asarray(spans.rows)
    n_steps = int((boundaries - leftmost + rows[:-1] - rows[leftmost]).sum())
    if n_steps >= SLOW_STEPS:
        warn("W301", n_steps=n_steps, n_spans=len(spans.lefts))
    chains = _Chains(spans)
    for right in np.flatnonzero(leftmost < boundaries).tolist():
        chains.sweep(int(leftmost[right]), right)
    return spans.indices[np.sort(np.asarray(_nested(chains), dtype=np.int64))]


DECODERS: Mapping[str, Decoder] = MappingProxyType(
    {
        "overlapping": overlapping,
        "greedy": greedy,
        "exact_flat": exact_flat,
        "greedy_nested": greedy_nested,
        "exact_nested": exact_nested,
    }
)
"""All decoders by the name that a config gives."""


def top_k(scores: FloatArray, k: int) -> Indices:
    """Return the indices of the k highest scores, best first; of equal scores the lower index.

    Args:
        scores: `(n,)`.
        k: how many; all of them if there are fewer.

    Returns:
        `(min(k, n),)` indices.

    Raises:
        InputError: E303 for a NaN, E304 for a negative k.
    """
    if k < 0:
        raise error("E304", k=k)
    if np.isnan(scores).any():
        raise error("E303", n=int(np.isnan(scores).sum()))
    if k >= len(scores):
        chosen = np.arange(len(scores))
    elif k == 0:
        chosen = np.arange(0)
    else:
        kth_best = np.partition(scores, len(scores) - k)[len(scores) - k]
        better = np.flatnonzero(scores > kth_best)
        equal = np.flatnonzero(scores == kth_best)[: k - len(better)]
        chosen = np.sort(np.concatenate([better, equal]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def _positive(starts: IntArray, ends: IntArray, weights: FloatArray) -> Indices:
    """Check the candidates; return the indices of those with a positive weight by (start, -end, -weight, index)."""
    shapes = [np.shape(array) for array in (starts, ends, weights)]
    if len(shapes[0]) != 1 or len(set(shapes)) > 1:
        raise error("E301", starts=shapes[0], ends=shapes[1], weights=shapes[2])
    no_span = np.flatnonzero((starts < 0) | (ends <= starts))
    if len(no_span):
        raise error("E302", n=len(no_span), start=starts[no_span[0]], end=ends[no_span[0]])
    no_weight = np.isnan(weights) | np.isposinf(weights)
    if no_weight.any():
        raise error("E303", n=int(no_weight.sum()))
    positive = np.flatnonzero(weights > 0)
    return positive[np.lexsort((-weights[positive], -ends[positive], starts[positive]))]


class _Distinct(NamedTuple):
    """The distinct spans with a positive weight, by (left, -right), on compressed offsets.

    An offset is replaced by its rank among all starts and ends, so that cost depends on the number of candidates and not on
    the length of the document. Plain lists, because the decoders read one element at a time.
    """

    indices: Indices  # the candidate of each span, (n_spans,)
    lefts: list[int]  # boundary where each span starts, (n_spans,)
    rights: list[int]  # boundary where each span ends, (n_spans,)
    weights: list[float]  # (n_spans,)
    rows: list[int]  # the spans that start at boundary b are rows[b]:rows[b + 1], (n_boundaries + 1,)
    n_boundaries: int


def _distinct(starts: IntArray, ends: IntArray, weights: FloatArray) -> _Distinct:
    """Check the candidates and keep the heaviest of each span."""
    indices = _positive(starts, ends, weights)
    n = len(indices)
    boundaries, ranks = np.unique(np.concatenate([starts[indices], ends[indices]]), return_inverse=True)
    repeated = np.zeros(n, dtype=bool)
    repeated[1:] = (np.diff(ranks[:n]) == 0) & (np.diff(ranks[n:]) == 0)
    lefts, rights = ranks[:n][~repeated], ranks[n:][~repeated]
    indices = indices[~repeated]
    return _Distinct(
        indices=indices,
        lefts=lefts.tolist(),
        rights=rights.tolist(),
        weights=weights[indices].astype(np.float64).tolist(),
        rows=np.searchsorted(lefts, np.arange(len(boundaries) + 1)).tolist(),
        n_boundaries=len(boundaries),
    )


def _by_weight(spans: _Distinct, starts: IntArray, ends: IntArray, weights: FloatArray) -> list[int]:
    """Return positions in `spans`, heaviest first; of equal weights the longer, then the earlier."""
    first, width = starts[spans.indices], ends[spans.indices] - starts[spans.indices]
    order: list[int] = np.lexsort((first, -width, -weights[spans.indices])).tolist()
    return order


class _Chains:
    """Best chains of disjoint spans, each of which counts with the best set inside it.

    Attributes:
        gains: per span, its weight plus that of the best set inside it, once a sweep has ended at its right boundary; before
            that its weight alone.
    """

    def __init__(self, spans: _Distinct) -> None:
        self.spans = spans
        self.gains = list(spans.weights)
        self._best = [0.0] * (spans.n_boundaries + 1)
        self._first = [-1] * (spans.n_boundaries + 1)  # span that starts the best chain at a boundary, or -1
        self._filling = [-1] * (spans.n_boundaries + 1)  # span from a boundary to the end of the sweep, or -1

    def sweep(self, low: int, high: int) -> None:
        """Find the best chain from each boundary in [low, high) to `high`, and complete the spans that end at `high`.

        Nothing ends at the boundary after the last: a sweep to there completes no span.
        """
        best, first, filling, gains = self._best, self._first, self._filling, self.gains
        rights, rows, weights = self.spans.rights, self.spans.rows, self.spans.weights
        best[high] = 0.0
        for left in range(high - 1, low - 1, -1):
            most = best[left + 1]
            first[left] = filling[left] = -1
            for at in range(rows[left + 1] - 1, rows[left] - 1, -1):  # shortest first
                right = rights[at]
                if right < high:
                    gain = gains[at] + best[right]
                    if gain > most:
                        most, first[left] = gain, at
                else:
                    if right == high:  # everything found from here on is inside this span
                        most = gains[at] = weights[at] + most
                        filling[left] = at
                    break
            best[left] = most

    def follow(self, left: int, high: int, *, inside: bool = False) -> list[int]:
        """Return the spans of the best chain from `left` to `high` after a sweep to `high`.

        Args:
            left: boundary where the chain starts.
            high: end of the sweep.
            inside: leave out the span from `left` to `high` itself.
        """
        chain = []
        may_fill = not inside
        while left < high:
            at = self._filling[left] if may_fill and self._filling[left] >= 0 else self._first[left]
            if at >= 0:
                chain.append(at)
            left = self.spans.rights[at] if at >= 0 else left + 1
            may_fill = True
        return chain


def _nested(chains: _Chains) -> list[int]:
    """Return the best set without crossings once all spans are complete, from the outermost spans inwards.

    Sweeps that were made before are made again where something was kept, instead of remembering the choices of all of them:
    that keeps memory linear and at most doubles the time.
    """
    spans = chains.spans
    kept: list[int] = []
    by_right: list[list[int]] = [[] for _ in range(spans.n_boundaries)]
    chains.sweep(0, spans.n_boundaries)
    for outermost in chains.follow(0, spans.n_boundaries):
        by_right[spans.rights[outermost]].append(outermost)
    for right in range(spans.n_boundaries - 1, -1, -1):
        parents = by_right[right]
        if parents:
            chains.sweep(min(spans.lefts[parent] for parent in parents), right)
        for parent in parents:  # grows while it is read: a child may end where its parent ends
            kept.append(parent)
            for child in chains.follow(spans.lefts[parent], right, inside=True):
                by_right[spans.rights[child]].append(child)
    return kept
