"""Pairing entities that a model has found, by what `EntityPairs` says of how far they reach."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import torch
from torch import Tensor

from entitykit.types import EntityPairs, Spans


def near_pairs(spans: Spans, scope: EntityPairs, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """All ordered pairs of spans that are near enough.

    Args:
        spans: *(n_spans,)* sorted by start, each once.
        scope: with `reach`, `most` and `itself`.
        lengths: words of each document.

    Returns:
        Rows of heads and tails *(n_pairs,)*, sorted, and how many pairs of each document *(n_documents,)* were left out, those
        farthest apart, because they were more than `most`.
    """
    n, device = len(spans.starts), spans.starts.device
    limits = torch.minimum(scope.reach[spans.starts, 0], scope.reach[spans.ends - 1, 1])
    stops = torch.searchsorted(spans.starts.contiguous(), limits)
    ends_of_documents = torch.tensor(lengths, device=device).cumsum(0)
    edges = [0, *torch.searchsorted(spans.starts.contiguous(), ends_of_documents).tolist()]
    parts, n_far = [], []
    for (low, high), most in zip(pairwise(edges), scope.most.tolist(), strict=True):
        own = Spans(spans.starts[low:high], spans.ends[low:high])
        left, right, n_left_out = _nearest(own, stops[low:high] - low, most // 2)
        parts += [torch.stack([left, right]) + low, torch.stack([right, left]) + low]
        n_far.append(2 * n_left_out)
    alone = torch.arange(n if scope.itself else 0, device=device)
    heads, tails = torch.cat([*parts, torch.stack([alone, alone])], dim=1)
    order = torch.argsort(heads * n + tails)
    return heads[order], tails[order], torch.tensor(n_far, dtype=torch.long, device=device)


def in_reach(spans: Spans, scope: EntityPairs, one: Tensor, other: Tensor) -> Tensor:
    """Whether spans are near enough to each other *(n_pairs,)*.

    Args:
        spans: *(n_spans,)* sorted by start, then by end.
        scope: with `reach`.
        one: *(n_pairs,)* rows of spans.
        other: *(n_pairs,)* rows of spans of the same documents.
    """
    left, right = torch.minimum(one, other), torch.maximum(one, other)
    limits = torch.minimum(scope.reach[spans.starts[left], 0], scope.reach[spans.ends[left] - 1, 1])
    return spans.starts[right] < limits


def _nearest(spans: Spans, stops: Tensor, most: int) -> tuple[Tensor, Tensor, int]:
    """Pairs of one document's spans, and how many were left out.

    Args:
        spans: *(n_spans,)* sorted by start.
        stops: *(n_spans,)* for each row the end of those behind it that it may be paired with.
        most: pairs at most, the nearest ones, of equally near ones the first.
    """
    n_pairs = int(_counts(stops).sum())
    if n_pairs > most:  # all of them are never made

        def within(words: int) -> Tensor:
            return torch.minimum(stops, torch.searchsorted(spans.starts.contiguous(), spans.ends + words, right=True))

        farthest = range(int(spans.starts[-1]) - int(spans.starts[0]) + 1)
        stops = within(bisect_left(farthest, most, key=lambda words: int(_counts(within(words)).sum())))
    counts = _counts(stops)
    left = torch.repeat_interleave(torch.arange(len(stops), device=stops.device), counts)
    right = left + 1 + torch.arange(len(left), device=stops.device) - torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    if len(left) > most:
        distances = (spans.starts[right] - spans.ends[left]).clamp_min(0)
        rows = torch.argsort(distances, stable=True)[:most].sort().values
        left, right = left[rows], right[rows]
    return left, right, n_pairs - len(left)


def _counts(stops: Tensor) -> Tensor:
    """How many rows are behind each and before its stop *(n_spans,)*."""
    return (stops - torch.arange(len(stops), device=stops.device) - 1).clamp_min(0)


def pairs_among(pairs: EntityPairs, others: EntityPairs) -> Tensor:
    """Which pairs *(n_pairs,)* are of the same places as any of the others."""
    both = [torch.stack([each.starts, each.ends], dim=1) for each in (pairs, others)]
    places, numbers = torch.unique(torch.cat(both), dim=0, return_inverse=True)
    own, theirs = numbers[: len(both[0])], numbers[len(both[0]) :]
    return torch.isin(
        own[pairs.heads] * len(places) + own[pairs.tails], theirs[others.heads] * len(places) + theirs[others.tails]
    )
