"""Coreference by antecedents (`AntecedentCoref`): every mention is linked to an earlier one, or starts an entity.

The baseline without entities (Lee et al. 2017): a pair of mentions is scored by the network with which `OnlineCoref` scores a
mention and an entity, and the probability of all right antecedents together is learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from entitykit.models.coref import Asked, Mentions, OnlineCoref, OnlineCorefSettings, Taught, score_table
from entitykit.models.coref_pairs import distances
from entitykit.models.coref_words import NAMES, SPEAKERS


@dataclass(frozen=True, kw_only=True)
class AntecedentCorefSettings(OnlineCorefSettings):
    """Settings of `AntecedentCoref`: those of `OnlineCoref`, though `update` and `keep_weight` mean nothing, and one more.

    Attributes:
        antecedents: mentions before a mention that may be its antecedent.
    """

    keep_weight: float = 0.0
    antecedents: int = 250


class AntecedentCoref(OnlineCoref):
    """Scores pairs of mentions.

    Args:
        settings: see `AntecedentCorefSettings`.
    """

    settings: AntecedentCorefSettings

    def __init__(self, settings: AntecedentCorefSettings) -> None:
        super().__init__(settings)

    def scores(self, found: Mentions, vectors: Tensor, rows: Tensor, before: Tensor) -> Tensor:
        """How well mentions fit earlier ones *(n_pairs,)*; 0 is the score of starting an entity.

        Args:
            found: *(n,)* mentions.
            vectors: *(n, size)* of them.
            rows: *(n_pairs,)* of mentions.
            before: *(n_pairs,)* of the ones before.
        """
        entity, mention = self.scorer.of_entities(vectors), self.scorer.of_mentions(vectors)
        distance = distances(found.starts[rows] - found.starts[before], found.ends[before] > found.starts[rows])
        words = found.words.rows(before), found.words.rows(rows)
        kinds = NAMES.compare(*words), SPEAKERS.compare(*words) if self.settings.speakers else None
        return self.scorer(entity.rows(before), mention.rows(rows), distance, torch.zeros_like(rows), *kinds)

    def _teach(self, vectors: Tensor, gold: Mentions, entities: Tensor) -> tuple[Taught, Asked | None]:
        n = torch.arange(len(entities), device=entities.device)
        near = (n[:, None] > n) & (n[:, None] - n <= self.settings.antecedents)
        mentions, before = (near & (gold.documents[:, None] == gold.documents)).nonzero().unbind(1)
        scores = self.scores(gold, vectors, mentions, before)
        return Taught(entities, torch.full_like(entities, -1), mentions, before, scores, None), None

    def _loss_of_entities(self, taught: Taught) -> Tensor:
        """Cross-entropy of all right antecedents together, the mean over mentions."""
        table = score_table(taught)
        n = len(table)
        right = torch.zeros_like(table, dtype=torch.bool)
        right[taught.mentions, taught.versions] = taught.entities[taught.mentions] == taught.entities[taught.versions]
        right[:, n] = ~right.any(dim=1)
        return (table.logsumexp(1) - table.masked_fill(~right, -torch.inf).logsumexp(1)).mean()


def build_antecedent_coref(settings: Mapping[str, Any]) -> AntecedentCoref:
    """Build the head from saved settings."""
    return AntecedentCoref(AntecedentCorefSettings(**{key: value for key, value in settings.items() if key != "labels"}))
