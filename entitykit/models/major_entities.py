"""Major entities (`MajorEntities`): every mention of the entities that somebody names, and of no others.

After MEIRa (Manikantan et al. 2024): entities are vectors of the phrases that name them, and a mention belongs to the one it
fits best, or with a score below 0 to none. Static: to what the phrase alone says, so that all mentions are scored at once.
Hybrid: to what the phrase says and to what the phrase and the mentions so far make of the entity, by the same network. Here
that network is the one of `OnlineCoref`, both tasks are learned together, and an entity is what `update` makes of it: a mean,
as in the paper, or a gate.

Whoever asks may name somebody who is not in the text. So that nothing is taken for them, documents may also be asked for names
of others in training: of the batch, and of the updates before it, as a batch may be a single document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.models.coref import (
    NO_ENTITY,
    Asked,
    CorefOutput,
    Mentions,
    Named,
    OnlineCoref,
    OnlineCorefSettings,
    Taught,
)
from entitykit.models.coref_pairs import COUNTS, NEVER, Side, buckets, distances
from entitykit.models.coref_words import NAMES, NO_SPEAKER, SAME_WORD, Words

REMEMBERED = 64
"""Mentions by name, of the updates before, that documents without these names may be asked for."""


@dataclass(frozen=True, kw_only=True)
class MajorEntitiesSettings(OnlineCorefSettings):
    """Settings of `MajorEntities`: those of `OnlineCoref`, and more.

    Attributes:
        least: mentions that a gold entity must have to be asked for in training.
        most: entities of a document that are asked for in training, drawn anew for each update.
        absent: names of other documents that a document is asked for in training, too, if none of its mentions begins or ends
            with their words; at most so many, drawn anew for each update. 0: none.
        absent_share: the share of documents, drawn anew for each update, that are asked for such names.
        major_weight: weight of the loss of the entities that were asked for.
    """

    least: int = 3
    most: int = 8
    absent: int = 0
    absent_share: float = 0.5
    major_weight: float = 1.0


class MajorEntities(OnlineCoref):
    """Follows entities as `OnlineCoref` does, and those that somebody names by phrases.

    Args:
        settings: see `MajorEntitiesSettings`.
    """

    settings: MajorEntitiesSettings

    def __init__(self, settings: MajorEntitiesSettings) -> None:
        super().__init__(settings)
        self._before: Named | None = None  # names that the last updates asked for

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
        rows = self._ask(gold, entities)
        mentions = Named(vectors, gold.words)
        names, drawn = self._with_absent(mentions.rows(rows), gold, rows)
        if not len(names.vectors):
            return taught, None
        foreign = gold.documents[:, None] != gold.documents[rows]
        every = F.pad(rows, (0, len(names.vectors) - len(rows)), value=NO_ENTITY)
        static = self.fits(names, mentions)
        hybrid = static + self._fits_so_far(mentions, gold, entities, names, every)
        absent = None if drawn is None else [scores.masked_fill(~drawn, -torch.inf) for scores in (static, hybrid)]
        static, hybrid = (scores[:, : len(rows)].masked_fill(foreign, -torch.inf) for scores in (static, hybrid))
        return taught, Asked(rows, static, hybrid, absent)

    def _ask(self, gold: Mentions, entities: Tensor) -> Tensor:
        """Rows of mentions that name entities by words that tell, one of an entity, drawn at random *(n_asked,)*."""
        counts = (entities[:, None] == entities).sum(1)
        rows = ((gold.words.names != 0) & (counts >= self.settings.least)).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), device=rows.device)]
        rows = rows[_first_of_each(entities[rows])]
        rank = (gold.documents[rows][:, None] == gold.documents[rows]).tril().sum(1)
        return rows[rank <= self.settings.most]

    def _with_absent(self, own: Named, gold: Mentions, rows: Tensor) -> tuple[Named, Tensor | None]:
        """The names that are asked for, and those that documents without them are asked for *(n_mentions, n_names)*."""
        if not self.settings.absent:
            return own, None
        names = own if self._before is None else own.and_others(self._before)
        if self.training:
            kept = names.rows(slice(REMEMBERED))  # those of the batch are the first
            self._before = Named(kept.vectors.detach(), kept.words)
        there = F.pad(gold.documents[:, None] == gold.documents[rows], (0, len(names.vectors) - len(rows)))
        alike = there | (kinds_of(names.words, gold.words) >= SAME_WORD)
        drawn = torch.zeros_like(alike)
        for document in gold.documents.unique():
            if float(torch.rand(())) >= self.settings.absent_share:
                continue
            own_rows = (gold.documents == document).nonzero()
            lacking = (~alike[own_rows.squeeze(1)].any(0)).nonzero().squeeze(1)
            drawn[own_rows, lacking[torch.randperm(len(lacking), device=lacking.device)[: self.settings.absent]]] = True
        asked = drawn.any(0)
        asked[: len(rows)] = True
        return names.rows(asked), drawn[:, asked]

    def _fits_so_far(self, mentions: Named, gold: Mentions, entities: Tensor, names: Named, asked: Tensor) -> Tensor:
        """How well mentions fit entities that were asked for, and the mentions that these have had *(n_mentions, n_asked)*."""
        vectors, n, m = mentions.vectors, len(entities), len(asked)
        rows = torch.arange(n, device=vectors.device)
        own = (entities[:, None] == entities[asked.clamp_min(0)]) & (asked >= 0)
        same = (entities[:, None] == entities).tril()
        named = asked[asked >= 0]  # what names an entity counts as its first mention
        phrases = names.vectors[: len(named)]
        versions = self.entity_vectors(torch.cat([phrases, vectors]), torch.cat([entities[named], entities]))[len(named) :]
        latest = torch.where(own, rows[:, None], -1).cummax(0).values.roll(1, 0)  # before each mention
        latest[0] = -1
        last, mention = latest.clamp_min(0), rows[:, None].expand(n, m)
        known = (latest >= 0) & (gold.documents[last] == gold.documents[:, None])
        sides = [self.scorer.of_entities(part) for part in (versions, names.vectors)]
        entity = Side(*(torch.where(known[..., None], a[last], b) for a, b in zip(*sides, strict=True)))
        overlap = gold.ends[last] > gold.starts[:, None]
        distance = torch.where(known, distances(gold.starts[:, None] - gold.starts[last], overlap), NEVER)
        count = buckets(torch.where(known, same.sum(1)[last], 0), COUNTS)
        kinds, speakers = self._kinds_so_far(gold, entities, names, known, last)
        flat = Side(*(part.flatten(0, 1) for part in entity))
        said = self.scorer.of_mentions(vectors).rows(mention.flatten())
        compared = (kinds.flatten(), None if speakers is None else speakers.flatten())
        return self.scorer(flat, said, distance.flatten(), count.flatten(), *compared).view(n, m)

    def _kinds_so_far(
        self, gold: Mentions, entities: Tensor, names: Named, known: Tensor, last: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """How mentions' words compare with those of names and of what these have had; and their speakers, with the latter's."""
        words, speakers = self._known_words(gold, entities)
        mention = torch.arange(len(entities), device=last.device)[:, None].expand_as(last)
        kinds = kinds_of(names.words, gold.words)
        kinds = torch.where(known, kinds.maximum(words[mention, last]), kinds)
        return kinds, None if speakers is None else torch.where(known, speakers[mention, last], NO_SPEAKER)

    def loss(self, output: CorefOutput, is_mention: Tensor, known: Tensor) -> Tensor:
        """The loss of `OnlineCoref`, and cross-entropies of the entity that each gold mention is of, among those asked for.

        Documents that are asked for absent names are asked a second time, for these alone: else it would only be learned that
        these fit less well than the entities to which mentions belong.
        """
        total = super().loss(output, is_mention, known)
        if output.taught is None or output.asked is None:
            return total
        entities, asked = output.taught.entities, output.asked
        own = F.pad(entities[:, None] == entities[asked.rows], (0, 1))
        own[:, -1] = ~own.any(1)
        target = own.long().argmax(1)
        none = asked.static.new_zeros(len(entities), 1)
        losses = [F.cross_entropy(torch.cat([scores, none], dim=1), target) for scores in (asked.static, asked.hybrid)]
        losses += [torch.cat([scores, none], dim=1).logsumexp(1).mean() for scores in asked.absent or ()]  # nothing is theirs
        return total + self.settings.loss_weight * self.settings.major_weight * sum(losses) / 2


def kinds_of(phrases: Words, mentions: Words) -> Tensor:
    """How each mention's words compare with each phrase's *(n_mentions, n_phrases)*."""
    return NAMES.compare(phrases, Words(*(part[:, None] for part in mentions)))


def build_major_entities(settings: Mapping[str, Any]) -> MajorEntities:
    """Build the head from saved settings."""
    return MajorEntities(MajorEntitiesSettings(**{key: value for key, value in settings.items() if key != "labels"}))


def _first_of_each(values: Tensor) -> Tensor:
    """The first row of each value that there is, in order."""
    different, number = values.unique(return_inverse=True)
    rows = torch.arange(len(values), device=values.device)
    return torch.full_like(different, len(values)).scatter_reduce(0, number, rows, "amin").sort().values
