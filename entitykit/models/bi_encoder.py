"""Scores of mentions and entities that one encoder has read, each by itself (after BLINK, Wu et al. 2020).

A mention is its state in the document, or its marked context; an entity is its name and description. Both are vectors, so that
those of all entities can be computed beforehand and searched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.transformer import pool_words
from entitykit.models.linear import Linear
from entitykit.models.scale import bounded_scale
from entitykit.models.spans import entity_states
from entitykit.types import TOP, Spans, WordStates


@dataclass(frozen=True, kw_only=True)
class BiEncoderSettings:
    """Settings of `BiEncoder`.

    Attributes:
        width: size of a state.
        mention: what a mention is: its ``state`` in the document, or its ``context`` read by itself.
        projection: size of the vectors that are compared, each side projected to it; none: the states themselves.
        cosine: compare directions; otherwise the inner product counts.
        temperature: what scores are divided by at the beginning, at least 1 / `MAX_SCALE`; it is learned.
        dropout: probability before the projections in training.
    """

    width: int
    mention: str = "state"
    projection: int | None = None
    cosine: bool = True
    temperature: float = 0.05
    dropout: float = 0.0


class LinkOutput(NamedTuple):
    """Vectors, and what they say of each other.

    Attributes:
        mentions: *(n_mentions, size)*.
        entities: *(n_entities, size)*.
        logits: *(n_mentions, n_entities)* scores over the temperature.
    """

    mentions: Tensor
    entities: Tensor
    logits: Tensor


class BiEncoder(nn.Module):
    """Projections of both sides, and the temperature.

    Args:
        settings: see `BiEncoderSettings`.
    """

    def __init__(self, settings: BiEncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.dropout = nn.Dropout(s.dropout)
        self.of_mentions = None if s.projection is None else Linear(s.width, s.projection)
        self.of_entities = None if s.projection is None else Linear(s.width, s.projection)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(s.temperature)]))

    @property
    def size(self) -> int:
        """Size of a vector that is compared."""
        return self.settings.width if self.settings.projection is None else self.settings.projection

    @property
    def scale(self) -> Tensor:
        """What scores are multiplied by."""
        return bounded_scale(self.log_scale)

    def states(self, words: WordStates, spans: Spans) -> Tensor:
        """States of mentions in their documents: entity tokens, or means over words *(n_spans, width)*."""
        if words.entities is not None and words.entities.states is not None:
            return entity_states(words, spans)
        return span_means(words.layers[TOP], spans)

    def mentions(self, states: Tensor) -> Tensor:
        """Vectors of mentions *(n, size)* from their states *(n, width)*."""
        return self._finish(states, self.of_mentions)

    def entities(self, states: Tensor) -> Tensor:
        """Vectors of entities *(n, size)* from the states of their texts *(n, width)*."""
        return self._finish(states, self.of_entities)

    def _finish(self, states: Tensor, projection: Linear | None) -> Tensor:
        states = self.dropout(states)
        vectors = states if projection is None else projection(states)
        return F.normalize(vectors, dim=1) if self.settings.cosine else vectors

    def forward(self, mentions: Tensor, entities: Tensor) -> LinkOutput:
        """Compare vectors of mentions with vectors of entities."""
        return LinkOutput(mentions, entities, self.scale * (mentions @ entities.T))

    def loss(self, output: LinkOutput, gold: Tensor, entities: Tensor) -> Tensor:
        """See `contrastive_loss`."""
        return contrastive_loss(output.logits, gold, entities)


def contrastive_loss(logits: Tensor, gold: Tensor, entities: Tensor) -> Tensor:
    """Cross-entropy of each mention's own entity against all others in the batch: other mentions' and mined ones.

    An entity that stands in several columns is no negative of itself.

    Args:
        logits: *(n_mentions, n_columns)*.
        gold: *(n_mentions,)* the column of each mention's entity; -1 for none, whose row does not count.
        entities: *(n_columns,)* numbers of the entities.

    Returns:
        The mean over the mentions that count; 0 without any.
    """
    if not len(entities):
        return logits.sum() * 0.0
    columns = gold.clamp_min(0)
    same = entities[None, :] == entities[columns][:, None]
    same[torch.arange(len(gold), device=gold.device), columns] = False
    targets = gold.masked_fill(gold < 0, -100)
    total = F.cross_entropy(logits.masked_fill(same, -torch.inf), targets, ignore_index=-100, reduction="sum")
    return total / (gold >= 0).sum().clamp_min(1)


def span_means(words: Tensor, spans: Spans) -> Tensor:
    """Mean of each span's word states.

    Args:
        words: *(n_words, width)*.
        spans: *(n_spans,)*, none empty.

    Returns:
        *(n_spans, width)*.
    """
    sizes = spans.ends - spans.starts
    if not len(sizes):
        return words.new_zeros(0, words.shape[1])
    offsets = sizes.cumsum(0) - sizes
    rows = torch.arange(int(sizes.sum()), device=words.device) + torch.repeat_interleave(spans.starts - offsets, sizes)
    return pool_words(words, rows, offsets)


def build_bi_encoder(settings: Mapping[str, Any]) -> BiEncoder:
    """Build the head from saved settings."""
    return BiEncoder(BiEncoderSettings(**{k: v for k, v in settings.items() if k != "labels"}))
