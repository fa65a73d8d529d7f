"""How much entities matter to a document: all in one pass (`Salience`), or each read together with it (`SalienceCrossEncoder`).

Both are told where an entity is named, which alone says much, by embeddings of deciles as in Bullough et al., "Leveraging
Contextual Information for Effective Entity Salience Detection" (Findings of NAACL 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.documents import document_means, document_of_words, segment_mean
from entitykit.models.linear import Linear
from entitykit.models.spans import document_bounds, entity_states
from entitykit.types import EntityMentions, Spans, WordStates

DECILES = 10
N_COUNTS = 7
"""Numbers that `counts_of` gives for an entity."""


class SalienceOutput(NamedTuple):
    """Scored entities.

    Attributes:
        entities: those that were given.
        logits: *(n_entities,)*.
    """

    entities: EntityMentions
    logits: Tensor


@dataclass(frozen=True, kw_only=True)
class SalienceSettings:
    """Settings of `Salience`.

    Attributes:
        width: size of a word's state.
        hidden: hidden units of the classifier.
        states: read the mean and the maximum of an entity's mention states; otherwise only how it is spread over the document.
        fit: size of two projections, of an entity's mean and of the mean over its document's words, whose product is read, too:
            how the entity fits what the document is about; 0: none.
        counts: read the numbers of `counts_of`.
        deciles: size of the embedding of the decile in which an entity is first named; 0: none.
        dropout: probability in training.
        loss_weight: weight of the loss.
        prior: see `begin_at`.
    """

    width: int
    hidden: int = 128
    states: bool = True
    fit: int = 64
    counts: bool = True
    deciles: int = 16
    dropout: float = 0.1
    loss_weight: float = 1.0
    prior: float = 0.5


class Salience(nn.Module):
    """A classifier of entities from the states of all their mentions, pooled, and from where and how often they are named.

    One layer over both is the sum of a layer for each, as which it is computed: so the few numbers of the second begin with
    larger weights than the many of the first, and dropout leaves them alone.

    Args:
        settings: see `SalienceSettings`.
    """

    def __init__(self, settings: SalienceSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        n_states, n_places = 2 * s.width * s.states + s.fit, N_COUNTS * s.counts + s.deciles
        self.of_entity = Linear(s.width, s.fit) if s.fit else None
        self.of_document = Linear(s.width, s.fit) if s.fit else None
        self.decile = nn.Embedding(DECILES, s.deciles) if s.deciles else None
        self.dropout = nn.Dropout(s.dropout)
        self.of_states = Linear(n_states, s.hidden) if n_states else None
        self.of_places = Linear(n_places, s.hidden) if n_places else None
        self.outer = begin_at(s.prior, Linear(s.hidden, 1))

    def forward(self, states: WordStates, entities: EntityMentions) -> SalienceOutput:
        """Score entities.

        Args:
            states: with the top layer.
            entities: of the same batch.
        """
        total = self.outer.weight.new_zeros(entities.n_entities, self.settings.hidden)
        if self.of_states is not None:
            total = total + self.of_states(self.dropout(self._read_states(states, entities)))
        if self.of_places is not None:
            total = total + self.of_places(self._read_places(entities, states.lengths))
        return SalienceOutput(entities, self.outer(self.dropout(F.gelu(total)))[:, 0])

    def _read_states(self, states: WordStates, entities: EntityMentions) -> Tensor:
        """What is said of entities *(n_entities, n_states)*."""
        n = entities.n_entities
        mentions = entity_states(states, Spans(entities.starts, entities.ends))
        mean = segment_mean(mentions, entities.entities, n)
        parts = [mean, segment_max(mentions, entities.entities, n)] if self.settings.states else []
        if self.of_entity is not None and self.of_document is not None:
            about = F.gelu(self.of_document(document_means(states)))[documents_of(entities, states.lengths)]
            parts.append(F.gelu(self.of_entity(mean)) * about)
        return torch.cat(parts, dim=1)

    def _read_places(self, entities: EntityMentions, lengths: Sequence[int]) -> Tensor:
        """Where and how often entities are named *(n_entities, n_places)*."""
        counts = counts_of(entities, lengths)
        parts = [counts.to(self.outer.weight.dtype)] if self.settings.counts else []
        if self.decile is not None:
            parts.append(self.decile(deciles_of(counts[:, 0])))
        return torch.cat(parts, dim=1)

    def loss(self, output: SalienceOutput, targets: Tensor) -> Tensor:
        """See `soft_bce`."""
        return self.settings.loss_weight * soft_bce(output.logits, targets)


@dataclass(frozen=True, kw_only=True)
class SalienceCrossEncoderSettings:
    """Settings of `SalienceCrossEncoder`.

    Attributes:
        width: size of a state.
        hidden: hidden units of the classifier.
        deciles: size of the embedding of a mention's decile.
        dropout: probability in training.
        prior: see `begin_at`.
    """

    width: int
    hidden: int = 128
    deciles: int = 16
    dropout: float = 0.1
    prior: float = 0.5


class SalienceCrossEncoder(nn.Module):
    """A classifier of entities that were read together with their document.

    It reads the mean over what stands for the texts that were read of an entity, and the mean over the embeddings of the
    deciles of all its mentions, those outside of these texts included.

    Args:
        settings: see `SalienceCrossEncoderSettings`.
    """

    def __init__(self, settings: SalienceCrossEncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.decile = nn.Embedding(DECILES, s.deciles)
        self.dropout = nn.Dropout(s.dropout)
        self.inner = Linear(s.width + s.deciles, s.hidden)
        self.outer = begin_at(s.prior, Linear(s.hidden, 1))

    def forward(self, states: Tensor, rows: Tensor, deciles: Tensor, entities: Tensor) -> Tensor:
        """Score entities.

        Args:
            states: *(n_texts, width)* of texts.
            rows: *(n_texts,)* of which entity each is; each has one.
            deciles: *(n_mentions,)* of mentions, from 0.
            entities: *(n_mentions,)* of which entity each is; each has one.

        Returns:
            Logits *(n_entities,)*.
        """
        n = int(rows.max()) + 1 if len(rows) else 0
        parts = [segment_mean(states, rows, n), segment_mean(self.decile(deciles), entities, n)]
        hidden = F.gelu(self.inner(self.dropout(torch.cat(parts, dim=1))))
        return self.outer(self.dropout(hidden))[:, 0]


def begin_at(prior: float, layer: Linear) -> Linear:
    """Let a layer that gives one logit begin near the probability that is expected before anything is known, in its bias.

    Where few entities are salient, a bias that begins at 0 must first get there. So do Lin et al., "Focal Loss for Dense Object
    Detection" (ICCV 2017), section 4.1.

    Args:
        prior: the mean of the targets, see `soft_bce`; at most 0.99, and at least 0.01, is taken of it.
        layer: is changed.
    """
    prior = min(max(prior, 0.01), 0.99)
    nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))
    return layer


def soft_bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy with targets that may lie between 0 and 1, the mean over entities; 0 if there are none.

    Its minimum is where the probability is the mean of the targets, so that grades over the highest grade can be learned like
    0 and 1.

    Args:
        logits: *(n_entities,)*.
        targets: *(n_entities,)*.
    """
    each = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
    return each.sum() / max(len(each), 1)


def counts_of(entities: EntityMentions, lengths: Sequence[int]) -> Tensor:
    """Where and how often entities are named.

    Args:
        entities: of a batch.
        lengths: words of each document.

    Returns:
        In single precision *(n_entities, 7)*: the first mention's start over the document's length; the stretch from there to
        the last mention's start, over the same; the share of the document's sentences in which a mention begins;
        log(1 + mentions); the number of mentions over that of the entity in the document that has most; log(1 + words before
        the first mention) over log(1 + words of the document); log(1 + sentences before the first mention).
    """
    n, device = entities.n_entities, entities.starts.device
    if not n:
        return torch.zeros(0, N_COUNTS, device=device)
    rows, starts = entities.entities, entities.starts
    first = starts.new_zeros(n).scatter_reduce(0, rows, starts, "amin", include_self=False)
    last = starts.new_zeros(n).scatter_reduce(0, rows, starts, "amax", include_self=False)
    begins, ends = (bound[first] for bound in document_bounds(lengths, device))
    size = (ends - begins).float()
    of_mentions = torch.unique(torch.stack([rows, entities.sentences[starts]]), dim=1)[0]
    n_sentences = entities.sentences[ends - 1] - entities.sentences[begins] + 1
    n_mentions = torch.bincount(rows, minlength=n)
    documents = documents_of(entities, lengths)
    most = n_mentions.new_zeros(len(lengths)).scatter_reduce(0, documents, n_mentions, "amax")[documents]
    columns = [
        (first - begins) / size,
        (last - first) / size,
        torch.bincount(of_mentions, minlength=n) / n_sentences,
        n_mentions.float().log1p(),
        n_mentions / most,
        (first - begins).float().log1p() / size.log1p(),
        (entities.sentences[first] - entities.sentences[begins]).float().log1p(),
    ]
    return torch.stack(columns, dim=1)


def deciles_of(positions: Tensor) -> Tensor:
    """Numbers, from 0, of the tenths of the document in which positions lie, given as shares of its length."""
    # a share such as 3/10 may come out a little below
    return (positions * DECILES + 1e-4).long().clamp(0, DECILES - 1)


def documents_of(entities: EntityMentions, lengths: Sequence[int]) -> Tensor:
    """Numbers of the documents of entities *(n_entities,)*."""
    device = entities.starts.device
    found = torch.zeros(entities.n_entities, dtype=torch.long, device=device)
    found[entities.entities] = document_of_words(lengths, device)[entities.starts]
    return found


def segment_max(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """The maximum over the values of each row, as `segment_mean`."""
    index = rows[:, None].expand_as(values)
    return values.new_zeros(n, values.shape[1]).scatter_reduce(0, index, values, "amax", include_self=False)


def build_salience(settings: Mapping[str, Any]) -> Salience:
    """Build the head from saved settings."""
    return Salience(SalienceSettings(**_without_labels(settings)))


def build_salience_cross_encoder(settings: Mapping[str, Any]) -> SalienceCrossEncoder:
    """Build the head from saved settings."""
    return SalienceCrossEncoder(SalienceCrossEncoderSettings(**_without_labels(settings)))


def _without_labels(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "labels"}
