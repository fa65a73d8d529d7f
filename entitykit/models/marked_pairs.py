"""Classifying pairs of entities from texts in which both are marked (`MarkedPairs`), as LUKE does (Yamada et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear
from entitykit.models.relations import RelationOutput, mean_bce, with_n_labels
from entitykit.types import EntityPairs


@dataclass(frozen=True, kw_only=True)
class MarkedPairsSettings:
    """Settings of `MarkedPairs`.

    Attributes:
        width: size of a state.
        n_labels: relation types.
        n_types: entity types, which are not read.
        hidden: hidden units; 0: it is linear, as published.
        dropout: probability in training.
        loss_weight: weight of the loss.
    """

    width: int
    n_labels: int
    n_types: int = 0
    hidden: int = 0
    dropout: float = 0.1
    loss_weight: float = 1.0


class MarkedPairs(nn.Module):
    """A classifier of the states of both entities, side by side.

    Args:
        settings: see `MarkedPairsSettings`.
    """

    def __init__(self, settings: MarkedPairsSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.dropout = nn.Dropout(s.dropout)
        self.both = Linear(2 * s.width, s.hidden or s.n_labels)
        self.outer = Linear(s.hidden, s.n_labels) if s.hidden else None

    def forward(self, states: Tensor, entities: EntityPairs) -> RelationOutput:
        """Score pairs.

        Args:
            states: *(n_pairs, 2, width)* of the head and the tail, each as the pair's own text tells it.
            entities: of the pairs.
        """
        total = self.both(self.dropout(torch.flatten(states, 1)))
        logits = total if self.outer is None else self.outer(self.dropout(F.gelu(total)))
        return RelationOutput(entities, logits)

    def loss(self, output: RelationOutput, targets: Tensor, known: Tensor) -> Tensor:
        """Binary cross-entropy, summed over relation types, the mean over pairs of annotated documents.

        Args:
            output: of `forward`.
            targets: *(n_pairs, n_labels)*, 1 where the relation holds.
            known: *(n_pairs,)* whether the pair's document is annotated.
        """
        return self.settings.loss_weight * mean_bce(output.logits, targets, known)


def build_marked_pairs(settings: Mapping[str, Any]) -> MarkedPairs:
    """Build the head from saved settings."""
    return MarkedPairs(MarkedPairsSettings(**with_n_labels(settings)))
