"""Mentions as vectors that are near where they are of one entity, whatever their documents; and pairs of them, read together.

After Held, Iter and Jurafsky (EMNLP 2021): a bi-encoder learns to bring a mention to the centroid of its cluster, and a
cross-encoder scores the pairs of near neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.bi_encoder import span_means
from entitykit.models.documents import document_means, document_of_words
from entitykit.models.linear import Linear
from entitykit.models.scale import bounded_scale
from entitykit.models.spans import end_states, entity_states
from entitykit.types import TOP, Spans, WordStates

NEAREST = 10
"""Neighbours of a mention in a batch from which the probability is learned: such pairs are what is asked about later."""

_SMALL = 0.01
_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class CrossDocumentSettings:
    """Settings of `CrossDocument`.

    Attributes:
        width: size of a state.
        projection: size of a vector; none: that of a state.
        hidden: size of the layer that changes a mention's state into its vector.
        document: add the mean of the document's words: texts about different things hardly speak of the same.
        temperature: what cosines are divided by at the beginning, at least 1 / `MAX_SCALE`; it is learned.
        dropout: probability before that layer in training.
    """

    width: int
    projection: int | None = None
    hidden: int = 512
    document: bool = True
    temperature: float = 0.05
    dropout: float = 0.1


class MentionVectors(NamedTuple):
    """Mentions of a packed batch.

    Attributes:
        spans: *(n_mentions,)*.
        vectors: *(n_mentions, size)*, of length 1.
    """

    spans: Spans
    vectors: Tensor


class CrossDocument(nn.Module):
    """The bi-encoder: a mention's state, a share of its document's mean, and a change by both and its first and last word.

    At the beginning the change is small, so that vectors are what the checkpoint makes of the mentions.

    Args:
        settings: see `CrossDocumentSettings`.
    """

    def __init__(self, settings: CrossDocumentSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.dropout = nn.Dropout(s.dropout)
        self.project = None if s.projection is None else Linear(s.width, s.projection)
        self.inner = Linear((4 if s.document else 3) * s.width, s.hidden)
        self.outer = Linear(s.hidden, self.size)
        nn.init.normal_(self.outer.weight, std=_SMALL)
        nn.init.zeros_(self.outer.bias)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(s.temperature)]))
        self.log_sharpness = nn.Parameter(torch.tensor([math.log(10.0)]))
        self.middle = nn.Parameter(torch.tensor([0.5]))
        self.share = nn.Parameter(torch.tensor([_SHARE])) if s.document else None

    @property
    def size(self) -> int:
        """Size of a vector."""
        return self.settings.width if self.settings.projection is None else self.settings.projection

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by in `cluster_loss`."""
        return bounded_scale(self.log_scale)

    @property
    def sharpness(self) -> Tensor:
        """How fast the probability that two mentions are of one entity rises with their cosine."""
        return bounded_scale(self.log_sharpness)

    def forward(self, states: WordStates, spans: Spans) -> MentionVectors:
        """Vectors of mentions *(n_mentions,)* of packed documents."""
        words = states.layers[TOP]
        has_tokens = states.entities is not None and states.entities.states is not None
        own = entity_states(states, spans) if has_tokens else span_means(words, spans)
        parts = [own, *end_states(states, spans)]
        if self.share is not None:
            parts.append(document_means(states)[document_of_words(states.lengths, words.device)[spans.starts]])
            own = own + self.share * parts[-1]
        change = self.outer(F.gelu(self.inner(self.dropout(torch.cat(parts, dim=1)))))
        vectors = change + (own if self.project is None else self.project(own))
        return MentionVectors(spans, F.normalize(vectors, dim=1))

    def logits(self, cosines: Tensor) -> Tensor:
        """Log-odds that mentions with these cosines are of one entity."""
        return self.sharpness * (cosines - self.middle)

    def loss(self, output: MentionVectors, clusters: Tensor, others: Tensor) -> Tensor:
        """Sum of `cluster_loss` and of the cross-entropy of near pairs, of which only the probability learns.

        Args:
            output: of a batch.
            clusters: *(n_mentions,)* numbers of the mentions' clusters; -1 where it is not known, which counts for nothing.
            others: *(n_others, size)* centroids of clusters that the batch does not have.
        """
        known = clusters >= 0
        vectors, clusters = output.vectors[known], clusters[known]
        pairs = near_pairs(vectors.detach(), NEAREST)
        cosines = (vectors[pairs[:, 0]] * vectors[pairs[:, 1]]).sum(1).detach()
        same = (clusters[pairs[:, 0]] == clusters[pairs[:, 1]]).to(cosines)
        of_pairs = F.binary_cross_entropy_with_logits(self.logits(cosines), same, reduction="sum") / max(len(pairs), 1)
        return cluster_loss(vectors, clusters, others, self.scale) + of_pairs


def cluster_loss(vectors: Tensor, clusters: Tensor, others: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of each mention's own cluster, among those of the batch and others, by its cosine with the centroids.

    The centroid of a mention's own cluster is that of the other mentions. Mentions without such have nothing to be near to:
    they count as clusters that others are not in.

    Args:
        vectors: *(n_mentions, size)*, of length 1.
        clusters: *(n_mentions,)* numbers, at least 0.
        others: *(n_others, size)*, centroids of clusters that the batch does not have.
        scale: what cosines are multiplied by.

    Returns:
        The mean over the mentions that are not alone; 0 without any.
    """
    names, rows, counts = clusters.unique(return_inverse=True, return_counts=True)
    together = counts[rows] > 1
    if not together.any():
        return vectors.sum() * 0.0
    sums = vectors.new_zeros(len(names), vectors.shape[1]).index_add(0, rows, vectors)
    cosines = vectors @ torch.cat([F.normalize(sums, dim=1), others]).T
    of_rest = (vectors * F.normalize(sums[rows] - vectors, dim=1)).sum(1, keepdim=True)
    logits = scale * cosines.scatter(1, rows[:, None], of_rest)
    return F.cross_entropy(logits[together], rows[together])


def near_pairs(vectors: Tensor, k: int) -> Tensor:
    """Pairs of mentions of which one is among the other's k nearest.

    Args:
        vectors: *(n, size)*, of length 1.
        k: neighbours of each.

    Returns:
        *(n_pairs, 2)*, each once, the lower number first.
    """
    n = len(vectors)
    cosines = (vectors @ vectors.T).fill_diagonal_(-torch.inf)
    nearest = cosines.topk(min(k, max(n - 1, 0)), dim=1).indices if n else cosines.long()
    own = torch.arange(n, device=vectors.device)[:, None].expand_as(nearest)
    both = torch.stack([own.reshape(-1), nearest.reshape(-1)], dim=1).sort(dim=1).values
    return both.unique(dim=0)


@dataclass(frozen=True, kw_only=True)
class MentionPairsSettings:
    """Settings of `MentionPairs`.

    Attributes:
        width: size of a state.
        hidden: size of each of the two hidden layers.
        dropout: probability before each layer in training.
    """

    width: int
    hidden: int = 512
    dropout: float = 0.1


class MentionPairs(nn.Module):
    """The cross-encoder's score: `[a; b; a ∘ b]` of a pair's mentions, two hidden layers, one number.

    Args:
        settings: see `MentionPairsSettings`.
    """

    def __init__(self, settings: MentionPairsSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.dropout = nn.Dropout(s.dropout)
        self.first = Linear(3 * s.width, s.hidden)
        self.second = Linear(s.hidden, s.hidden)
        self.score = Linear(s.hidden, 1)

    def forward(self, states: Tensor) -> Tensor:
        """Log-odds *(n_pairs,)* that the mentions of pairs *(n_pairs, 2, width)* are of one entity."""
        a, b = states.unbind(1)
        hidden = F.relu(self.first(self.dropout(torch.cat([a, b, a * b], dim=1))))
        hidden = F.relu(self.second(self.dropout(hidden)))
        return self.score(self.dropout(hidden))[:, 0]

    def loss(self, logits: Tensor, same: Tensor) -> Tensor:
        """Cross-entropy, summed over the pairs.

        Args:
            logits: *(n_pairs,)*.
            same: *(n_pairs,)* whether both are of one entity.
        """
        return F.binary_cross_entropy_with_logits(logits, same.to(logits), reduction="sum")


def build_cross_document(settings: Mapping[str, Any]) -> CrossDocument:
    """Build the bi-encoder from saved settings."""
    return CrossDocument(CrossDocumentSettings(**{k: v for k, v in settings.items() if k != "labels"}))


def build_mention_pairs(settings: Mapping[str, Any]) -> MentionPairs:
    """Build the cross-encoder's head from saved settings."""
    return MentionPairs(MentionPairsSettings(**{k: v for k, v in settings.items() if k != "labels"}))
