"""Major entities (`MajorEntities`): every mention of the entities that somebody names, and of no others.

After MEIRa (Manikantan et al. 2024): entities are vectors of the phrases that name them, and a mention belongs to the one it
fits best, or with a score below 0 to none. Static: to what the phrase alone says, so that all mentions are scored at once.
Hybrid: to what the phrase says and to the mean of the mentions so far, by the same network. Here that network is the one of
`OnlineCoref`, and both tasks are learned together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.models.coref import Asked, CorefOutput, Mentions, Named, OnlineCoref, OnlineCorefSettings, Taught
from entitykit.models.coref_pairs import COUNTS, NEVER, Side, Words, buckets, distances, name_kinds


@dataclass(frozen=True, kw_only=True)
class MajorEntitiesSettings(OnlineCorefSettings):
    """Settings of `MajorEntities`: those of `OnlineCoref`, and more.

    Attributes:
        least: mentions that a gold entity must have to be asked for in training.
        most: entities of a document that are asked for in training, drawn anew for each update.
        major_weight: weight of the loss of the entities that were asked for.
    """

    least: int = 3
    most: int = 8
    major_weight: float = 1.0


class MajorEntities(OnlineCoref):
    """Follows entities as `OnlineCoref` does, and those that somebody names by phrases.

    Args:
        settings: see `MajorEntitiesSettings`.
    """

    settings: MajorEntitiesSettings

    def __init__(self, settings: MajorEntitiesSettings) -> None:
        super().__init__(settings)

    def fits(self, phrases: Named, mentions: Named) -> Tensor:
        """How well mentions fit what phrases say *(n_mentions, n_phrases)*; 0 is the score of none of them."""
        n, m = len(mentions.vectors), len(phrases.vectors)
        device = mentions.vectors.device
        rows = torch.arange(n, device=device).repeat_interleave(m)
        columns = torch.arange(m, device=device).repeat(n)
        entity, mention = self.scorer.of_entities(phrases.vectors), self.scorer.of_mentions(mentions.vectors)
        distance, count = torch.full_like(rows, NEVER), torch.zeros_like(rows)
        kinds = kinds_of(phrases.words, mentions.words).flatten()
        return self.scorer(entity.rows(columns), mention.rows(rows), distance, count, kinds).view(n, m)

    def _teach(self, vectors: Tensor, gold: Mentions, entities: Tensor) -> tuple[Taught, Asked | None]:
        taught, _ = super()._teach(vectors, gold, entities)
        asked = self._ask(gold, entities)
        mentions = Named(vectors, gold.words)
        static = self.fits(mentions.rows(asked), mentions)
        if not len(asked):
            return taught, None
        hybrid = static + self._fits_so_far(vectors, gold, entities, asked)
        foreign = gold.documents[:, None] != gold.documents[asked]
        return taught, Asked(asked, static.masked_fill(foreign, -torch.inf), hybrid.masked_fill(foreign, -torch.inf))

    def _ask(self, gold: Mentions, entities: Tensor) -> Tensor:
        """Rows of mentions that name entities by words that tell, one of an entity, drawn at random *(n_asked,)*."""
        counts = (entities[:, None] == entities).sum(1)
        rows = ((gold.words.names != 0) & (counts >= self.settings.least)).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), device=rows.device)]
        first = torch.full((int(entities.max()) + 1 if len(entities) else 0,), len(rows), device=rows.device)
        first = first.scatter_reduce(0, entities[rows], torch.arange(len(rows), device=rows.device), "amin")
        rows = rows[first[first < len(rows)].sort().values]
        rank = (gold.documents[rows][:, None] == gold.documents[rows]).tril().sum(1)
        return rows[rank <= self.settings.most]

    def _fits_so_far(self, vectors: Tensor, gold: Mentions, entities: Tensor, asked: Tensor) -> Tensor:
        """How well mentions fit entities that were asked for, and the mentions that these have had *(n_mentions, n_asked)*."""
        n, m = len(entities), len(asked)
        rows = torch.arange(n, device=vectors.device)
        own = entities[:, None] == entities[asked]
        same = (entities[:, None] == entities).tril()
        phrase = own.to(vectors.dtype) @ vectors[asked]
        versions = (same.to(vectors.dtype) @ vectors + phrase) / (same.sum(1, keepdim=True) + 1)
        latest = torch.where(own, rows[:, None], -1).cummax(0).values.roll(1, 0)  # before each mention
        latest[0] = -1
        known = latest >= 0
        last, mention = latest.clamp_min(0), rows[:, None].expand(n, m)
        sides = [self.scorer.of_entities(part) for part in (versions, vectors[asked])]
        entity = Side(*(torch.where(known[..., None], a[last], b) for a, b in zip(*sides, strict=True)))
        overlap = gold.ends[last] > gold.starts[:, None]
        distance = torch.where(known, distances(gold.starts[:, None] - gold.starts[last], overlap), NEVER)
        count = buckets(torch.where(known, same.sum(1)[last], 0), COUNTS)
        kinds = kinds_of(gold.words.rows(asked), gold.words)
        kinds = torch.where(known, kinds.maximum(self._known_names(gold, entities)[mention, last]), kinds)
        flat = Side(*(part.flatten(0, 1) for part in entity))
        said = self.scorer.of_mentions(vectors).rows(mention.flatten())
        return self.scorer(flat, said, distance.flatten(), count.flatten(), kinds.flatten()).view(n, m)

    def loss(self, output: CorefOutput, is_mention: Tensor, known: Tensor) -> Tensor:
        """The loss of `OnlineCoref`, and cross-entropies of the entity that each gold mention is of, among those asked for."""
        total = super().loss(output, is_mention, known)
        if output.taught is None or output.asked is None:
            return total
        entities, asked = output.taught.entities, output.asked
        own = entities[:, None] == entities[asked.rows]
        target = torch.where(own.any(1), own.long().argmax(1), own.shape[1])
        none = asked.static.new_zeros(len(entities), 1)
        losses = [F.cross_entropy(torch.cat([scores, none], dim=1), target) for scores in (asked.static, asked.hybrid)]
        return total + self.settings.loss_weight * self.settings.major_weight * sum(losses) / len(losses)


def kinds_of(phrases: Words, mentions: Words) -> Tensor:
    """How each mention's words compare with each phrase's *(n_mentions, n_phrases)*."""
    return name_kinds(phrases, Words(*(part[:, None] for part in mentions)))


def build_major_entities(settings: Mapping[str, Any]) -> MajorEntities:
    """Build the head from saved settings."""
    return MajorEntities(MajorEntitiesSettings(**{key: value for key, value in settings.items() if key != "labels"}))
