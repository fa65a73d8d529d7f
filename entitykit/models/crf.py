"""A linear-chain conditional random field (Lafferty, McCallum and Pereira 2001) whose impossible transitions are masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMPOSSIBLE = -1e4
"""Score of what cannot be: so low that it adds nothing, and finite, so that every gradient is."""


class CRF(nn.Module):
    """Scores of first tags, of neighbours and of last tags; the probability of a sequence is the softmax over all sequences.

    Args:
        starts: *(n_tags,)* whether a sequence may begin with the tag.
        transitions: *(n_tags, n_tags)* whether the second tag may follow the first.
    """

    may_start: Tensor
    may_follow: Tensor

    def __init__(self, starts: Sequence[bool], transitions: Sequence[Sequence[bool]]) -> None:
        super().__init__()
        n_tags = len(starts)
        self.start = nn.Parameter(torch.zeros(n_tags))
        self.transition = nn.Parameter(torch.zeros(n_tags, n_tags))
        self.end = nn.Parameter(torch.zeros(n_tags))
        self.register_buffer("may_start", torch.tensor(starts, dtype=torch.bool), persistent=False)
        self.register_buffer("may_follow", torch.tensor(transitions, dtype=torch.bool).view(n_tags, n_tags), persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of first tags *(n_tags,)*, of neighbours *(n_tags, n_tags)* and of last tags *(n_tags,)*, masked."""
        start = self.start.masked_fill(~self.may_start, IMPOSSIBLE)
        return start, self.transition.masked_fill(~self.may_follow, IMPOSSIBLE), self.end

    def log_likelihood(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Logarithm of the probability of tag sequences.

        Args:
            emissions: *(n_sequences, longest, n_tags)*; what lies behind a sequence's end is not read.
            tags: *(n_sequences, longest)*, 0 behind a sequence's end.
            lengths: *(n_sequences,)*; an empty sequence has one way to be, and 0.

        Returns:
            *(n_sequences,)*.
        """
        if not emissions.shape[1]:
            return emissions.new_zeros(len(emissions))
        found = self._path(emissions, tags, lengths) - self._partition(emissions, lengths)
        return found.masked_fill(lengths == 0, 0.0)

    def _path(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Score of the given sequences."""
        start, transition, end = self.scores()
        there = torch.arange(tags.shape[1], device=tags.device) < lengths[:, None]
        own = emissions.gather(2, tags[:, :, None])[:, :, 0].masked_fill(~there, 0.0).sum(1)
        steps = transition[tags[:, :-1], tags[:, 1:]].masked_fill(~there[:, 1:], 0.0).sum(1)
        last = tags.gather(1, (lengths - 1).clamp_min(0)[:, None])[:, 0]
        return start[tags[:, 0]] + own + steps + end[last]

    def _partition(self, emissions: Tensor, lengths: Tensor) -> Tensor:
        """Logarithm of the sum over all sequences, by the forward algorithm."""
        start, transition, end = self.scores()
        alpha = start + emissions[:, 0]
        for step in range(1, emissions.shape[1]):
            following = torch.logsumexp(alpha[:, :, None] + transition, dim=1) + emissions[:, step]
            alpha = torch.where((step < lengths)[:, None], following, alpha)
        return torch.logsumexp(alpha + end, dim=1)
