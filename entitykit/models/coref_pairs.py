"""How well a mention fits an entity (`PairScorer`), from both, their product, distance, count, words and speakers."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.errors import error
from entitykit.models.coref_words import APART, NO_SPEAKER, SAME_NAME, SAME_SAYING
from entitykit.models.linear import Linear

DISTANCES = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
"""Words since an entity's last mention from which a bucket begins; bucket 0 is for a mention that overlaps it, and bucket 1 for
one that is the last mention itself."""
NEVER = len(DISTANCES) + 2
"""The bucket for an entity that has not been mentioned yet."""
COUNTS = (1, 2, 3, 4, 6, 10, 20, 40)
"""Mentions of an entity from which a bucket begins."""


class Side(NamedTuple):
    """What a mention, or an entity, says in `PairScorer`.

    Attributes:
        said: *(n, hidden)*.
        keys: *(n, match)*.
    """

    said: Tensor
    keys: Tensor

    def rows(self, rows: Tensor) -> Side:
        """Some of them."""
        return Side(self.said[rows], self.keys[rows])


class PairScorer(nn.Module):
    """How well a mention fits an entity: a network over both, their product and all that is compared; and the product itself.

    How much that counts is learned for each kind of words: what an encoder makes of Lisbon and of Porto is much alike.

    Args:
        size: of a vector.
        match: of the projections whose product says how well the two fit.
        hidden: hidden units.
        names: compare words, too.
        speakers: compare who speaks, too.
        keeps: learn whether an entity is mentioned again.
        dropout: probability in training.
    """

    apart: Tensor

    def __init__(self, *, size: int, match: int, hidden: int, names: bool, speakers: bool, keeps: bool, dropout: float) -> None:
        super().__init__()
        self.entity, self.mention = Linear(size, hidden), Linear(size, hidden, bias=False)
        self.entity_key, self.mention_key = Linear(size, match), Linear(size, match)
        self.product = Linear(match, hidden, bias=False)
        self.distance = nn.Embedding(NEVER + 1, hidden)
        self.count = nn.Embedding(len(COUNTS) + 1, hidden)
        self.name = nn.Embedding(SAME_NAME + 1, hidden) if names else None
        self.trust = nn.Parameter(torch.ones(SAME_NAME + 1)) if names else None
        self.register_buffer("apart", torch.tensor(APART), persistent=False)
        self.dropout = nn.Dropout(dropout)
        self.outer = Linear(hidden, 1)
        self.again = Linear(hidden, 1) if keeps else None
        self.speaker = nn.Embedding(SAME_SAYING + 1, hidden) if speakers else None
        for table in (self.distance, self.count, self.name, self.speaker):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def of_entities(self, vectors: Tensor) -> Side:
        """What entities say *(n, size)*."""
        return Side(self.entity(vectors), self.entity_key(vectors))

    def of_mentions(self, vectors: Tensor) -> Side:
        """What mentions say *(n, size)*."""
        return Side(self.mention(vectors), self.mention_key(vectors))

    def forward(
        self, entity: Side, mention: Side, distance: Tensor, count: Tensor, name: Tensor, speaker: Tensor | None = None
    ) -> Tensor:
        """Scores *(n,)*, part of which is the product of keys by itself: it is cheap enough to choose candidates by.

        In prediction they are -inf for names that are `APART`, if words are compared.

        Args:
            entity: n entities.
            mention: n mentions, or one for all.
            distance: *(n,)* of `distances`.
            count: *(n,)* bucket of `COUNTS`.
            name: *(n,)* `NO_NAME` to `SAME_NAME`.
            speaker: *(n,)* `NO_SPEAKER` to `SAME_SAYING`, which count if they are compared; none: nobody is known to speak.
        """
        product = entity.keys * mention.keys
        hidden = entity.said + mention.said + self.product(self._dropped(product)) + self.distance(distance) + self.count(count)
        if self.name is not None:
            hidden = hidden + self.name(name)
        if self.speaker is not None:
            hidden = hidden + self.speaker(torch.full_like(name, NO_SPEAKER) if speaker is None else speaker)
        scored: Tensor = self.outer(self._dropped(F.gelu(hidden))).squeeze(1)
        alike = product.sum(-1) / product.shape[-1] ** 0.5
        if self.trust is None:
            return scored + alike
        scored = scored + alike * self.trust[name]
        return scored if self.training else scored.masked_fill(torch.isin(name, self.apart), -torch.inf)

    def _dropped(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(x) if self.training else x
        return dropped

    def keep(self, said: Tensor, distance: Tensor, count: Tensor) -> Tensor:
        """Logits *(n,)* of being mentioned again, which a bounded memory goes by.

        Args:
            said: *(n, hidden)* by entities.
            distance: *(n,)* as in `forward`.
            count: *(n,)*.

        Raises:
            ConfigError: E643 if it was not learned.
        """
        if self.again is None:
            raise error("E643")
        return self.again(F.gelu(said.detach() + self.distance(distance) + self.count(count))).squeeze(1)

    def keep_new(self, said: Tensor) -> Tensor:
        """The same logits *(n,)* of entities that begin with a mention, as it comes: no word ago, mentioned once.

        Args:
            said: *(n, hidden)* by entities that have this mention alone.

        Raises:
            ConfigError: E643 if it was not learned.
        """
        nothing = torch.zeros(len(said), dtype=torch.long, device=said.device)
        return self.keep(said, distances(nothing, nothing > 0), buckets(nothing + 1, COUNTS))


def buckets(numbers: Tensor, edges: tuple[int, ...]) -> Tensor:
    """The bucket of each number: how many edges it reaches."""
    return torch.bucketize(numbers, _edges(edges, numbers.device), right=True)


@cache
def _edges(edges: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(edges, device=device)


def distances(words: Tensor, overlap: Tensor) -> Tensor:
    """Buckets of the words since the start of an entity's last mention; 0 where a mention overlaps that one."""
    return (buckets(words, DISTANCES) + 1).masked_fill(overlap, 0)
