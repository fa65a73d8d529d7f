"""Scores of mentions and candidates that are read together (BLINK's cross-encoder, Wu et al. 2020), and learning from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear


@dataclass(frozen=True, kw_only=True)
class CrossEncoderSettings:
    """Settings of `CrossEncoder`.

    Attributes:
        width: size of a state.
        dropout: probability before the score in training.
    """

    width: int
    dropout: float = 0.1


class CrossEncoder(nn.Module):
    """A linear score of what stands for a pair's text.

    Args:
        settings: see `CrossEncoderSettings`.
    """

    def __init__(self, settings: CrossEncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.score = Linear(settings.width, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Scores *(n_pairs,)* of states *(n_pairs, width)*."""
        return self.score(self.dropout(states))[:, 0]

    def loss(self, scores: Tensor, counts: Tensor, gold: Tensor) -> Tensor:
        """See `ranking_loss`."""
        return ranking_loss(scores, counts, gold)


def ranking_loss(scores: Tensor, counts: Tensor, gold: Tensor) -> Tensor:
    """Cross-entropy of each mention's own entity among its candidates.

    Args:
        scores: *(n_pairs,)* of the candidates of one mention after the other.
        counts: *(n_mentions,)* candidates of each, at least one, summing to `n_pairs`.
        gold: *(n_mentions,)* number of the right one among them.

    Returns:
        The sum over the mentions.
    """
    if not len(counts):
        return scores.sum() * 0.0
    there = torch.arange(int(counts.max()), device=scores.device)[None, :] < counts[:, None]
    table = scores.new_full(there.shape, -torch.inf).masked_scatter(there, scores)
    return F.cross_entropy(table, gold, reduction="sum")


def distillation_loss(logits: Tensor, columns: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of a student's softmax from its teacher's, over the teacher's candidates of each mention.

    Both are taken at a temperature, and the result times its square (Hinton, Vinyals and Dean 2015).

    Args:
        logits: *(n_mentions, n_columns)* of the student.
        columns: *(n_mentions, k)* columns of the teacher's candidates; -1 where there are fewer.
        teacher: *(n_mentions, k)* its probabilities, above 0 for candidates.
        temperature: of both softmaxes.

    Returns:
        The mean over the mentions that have candidates; 0 without any.
    """
    there = columns >= 0
    taught = there.any(1)
    if not taught.any():
        return logits.sum() * 0.0
    there, columns, teacher, logits = (each[taught] for each in (there, columns, teacher, logits))
    own = logits.gather(1, columns.clamp_min(0)).masked_fill(~there, -torch.inf)
    student = (own / temperature).log_softmax(1).masked_fill(~there, 0.0)
    soft = (teacher.to(logits).log() / temperature).masked_fill(~there, -torch.inf).log_softmax(1)
    divergence = torch.where(there, soft.exp() * (soft.masked_fill(~there, 0.0) - student), 0.0)
    return divergence.sum(1).mean() * temperature**2


def build_cross_encoder(settings: Mapping[str, Any]) -> CrossEncoder:
    """Build the head from saved settings."""
    return CrossEncoder(CrossEncoderSettings(**{k: v for k, v in settings.items() if k != "labels"}))
