"""Classifying pairs of entities that have several mentions each (`ClusterRelations`), each pair with a threshold of its own.

Pooling of mentions and the threshold are from ATLOP (Zhou et al., AAAI 2021). In the place of its pooling of the context by the
encoder's attention stands what is said around the two mentions that are nearest to each other, as in `SpERTRelations`. Which
sentences say so is found by `Evidence`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear
from entitykit.models.relation_evidence import Evidence, evidence_loss
from entitykit.models.relations import Between, Fit, Nearness, gaps_between, in_slices, mean_bce, with_n_labels
from entitykit.models.spans import end_states, entity_states
from entitykit.types import TOP, ClusterPairs, EntityPairs, Spans, WordStates


@dataclass(frozen=True, kw_only=True)
class ClusterRelationsSettings:
    """Settings of `ClusterRelations`.

    Attributes:
        width: size of a word's state.
        n_labels: relation types.
        n_types: entity types.
        size: of what is known of a mention, and of an entity.
        hidden: hidden units of the classifier.
        product: size of two projections, of head and tail, whose product is read, too: what fits each other; 0: none.
        types: size of the embedding of an entity's type; 0: none.
        nearest: read the two mentions that are nearest to each other, the words between them, and how near they are.
        adaptive: a pair's threshold is a class of its own, above which the relations must be that hold; otherwise each relation
            is decided by itself.
        evidence: find the sentences that say so, too.
        evidence_weight: weight of the loss of these beside that of relations.
        dropout: probability in training.
        loss_weight: weight of the loss.
    """

    width: int
    n_labels: int
    n_types: int = 0
    size: int = 256
    hidden: int = 384
    product: int = 128
    types: int = 25
    nearest: bool = True
    adaptive: bool = True
    evidence: bool = False
    evidence_weight: float = 1.0
    dropout: float = 0.1
    loss_weight: float = 1.0


class ClusterRelationOutput(NamedTuple):
    """Scored pairs.

    Attributes:
        pairs: those that were given.
        logits: *(n_pairs, n_labels)*; with an adaptive threshold, less that of the pair, so that what holds is above 0.
        evidence: rows of pairs to the logits of all sentences of each pair's document, pair after pair, see `Evidence`; what is
            not asked for is not computed. None if the head does not find evidence.
    """

    pairs: ClusterPairs
    logits: Tensor
    evidence: Callable[[Tensor], Tensor] | None = None


class ClusterRelations(nn.Module):
    """A classifier of pairs from the mentions of both entities, and from those that are nearest to each other.

    Args:
        settings: see `ClusterRelationsSettings`.
    """

    def __init__(self, settings: ClusterRelationsSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.dropout = nn.Dropout(s.dropout)
        self.mention = Linear(3 * s.width, s.size)
        self.kind = nn.Embedding(s.n_types + 1, s.types) if s.types else None
        self.head = Linear(s.size + s.types, s.hidden)
        self.tail = Linear(s.size + s.types, s.hidden, bias=False)
        self.fit = Fit(s.size + s.types, s.hidden, size=s.product, dropout=s.dropout) if s.product else None
        self.nearest = Nearest(s) if s.nearest else None
        self.outer = Linear(s.hidden, s.n_labels + s.adaptive)
        self.evidence = Evidence(s.width, s.hidden, dropout=s.dropout) if s.evidence else None

    def forward(self, states: WordStates, pairs: ClusterPairs) -> ClusterRelationOutput:
        """Score pairs.

        Args:
            states: with the top layer.
            pairs: gold entities in training; with sentences, if evidence is to be found.
        """
        s, words = self.settings, states.layers[TOP]
        spans = Spans(pairs.starts, pairs.ends)
        parts = [entity_states(states, spans), *end_states(states, spans)]
        mentions = self.mention(self.dropout(torch.cat(parts, dim=1)))
        described = logsumexp_by(mentions, pairs.members, len(pairs.types))
        if self.kind is not None:
            described = torch.cat([described, self.kind(pairs.types)], dim=1)
        described = self.dropout(described)
        heads, tails = self.head(described), self.tail(described)
        entities = EntityPairs(pairs.starts, pairs.ends, pairs.types, pairs.heads, pairs.tails)  # `Fit` reads the pairs of it
        further = [self.fit(described, entities)] if self.fit is not None else []
        further += [self.nearest(words, mentions, pairs)] if self.nearest is not None else []

        def describe(rows: slice | Tensor) -> Tensor:
            total = heads[pairs.heads[rows]] + tails[pairs.tails[rows]]
            for part in further:
                total = total + part(rows)
            return F.gelu(total)

        def score(rows: slice) -> Tensor:
            logits = self.outer(self.dropout(describe(rows)))
            return logits[:, 1:] - logits[:, :1] if s.adaptive else logits

        logits = in_slices(score, len(pairs.heads), heads.new_zeros(0, s.n_labels))
        evidence = None if self.evidence is None else self.evidence(states, pairs, describe)
        return ClusterRelationOutput(pairs, logits, evidence)

    def loss(
        self,
        output: ClusterRelationOutput,
        targets: Tensor,
        known: Tensor,
        rows: Tensor | None = None,
        says: Tensor | None = None,
    ) -> Tensor:
        """The adaptive threshold's loss, or binary cross-entropy, the mean over pairs of annotated documents; and evidence's.

        Args:
            output: of `forward`.
            targets: *(n_pairs, n_labels)*, 1 where the relation holds.
            known: *(n_pairs,)* whether the pair's document is annotated.
            rows: of pairs whose evidence is known; none, if the head does not find any.
            says: whether they are evidence, of all sentences of the documents of these pairs, pair after pair.

        Returns:
            A scalar, 0 if there are no pairs.
        """
        kind = adaptive_threshold_loss if self.settings.adaptive else mean_bce
        total = kind(output.logits, targets, known)
        if output.evidence is not None and rows is not None and says is not None:
            total = total + self.settings.evidence_weight * evidence_loss(output.evidence(rows), says)
        return self.settings.loss_weight * total


class Nearest(nn.Module):
    """What is said where two entities come nearest: by both mentions, the words between them, and how far they are apart.

    Args:
        settings: of the classifier.
    """

    def __init__(self, settings: ClusterRelationsSettings) -> None:
        super().__init__()
        s = settings
        self.n_types = s.n_types
        self.head = Linear(s.size, s.hidden, bias=False)
        self.tail = Linear(s.size, s.hidden, bias=False)
        self.between = Between(s.width, s.hidden, directions=2, dropout=s.dropout)
        self.near = Nearness(s.hidden)

    def forward(self, words: Tensor, mentions: Tensor, pairs: ClusterPairs) -> Any:
        """A function of rows that gives what is said of pairs *(n_pairs, hidden)*.

        Args:
            words: *(n_words, width)*.
            mentions: *(n_mentions, size)*.
            pairs: of the entities.
        """
        of_mentions = EntityPairs(pairs.starts, pairs.ends, pairs.types[pairs.members], pairs.near_heads, pairs.near_tails)
        heads, tails = self.head(mentions), self.tail(mentions)
        gaps, gap_of = gaps_between(of_mentions)
        between, near = self.between(words, gaps), self.near(of_mentions, self.n_types)

        def say(rows: slice) -> Tensor:
            head, tail = pairs.near_heads[rows], pairs.near_tails[rows]
            said: Tensor = heads[head] + tails[tail] + between[gap_of[rows], (head > tail).long()] + near(rows)
            return said

        return say


def build_cluster_relations(settings: Mapping[str, Any]) -> ClusterRelations:
    """Build the head from saved settings."""
    return ClusterRelations(ClusterRelationsSettings(**with_n_labels(settings)))


def logsumexp_by(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """The logarithm of the sum of exponentials of each group's rows, per dimension.

    Args:
        values: *(n, size)*.
        groups: *(n,)* each row's group; every group has a row.
        n_groups: number of groups.

    Returns:
        *(n_groups, size)*.
    """
    most = values.new_full((n_groups, values.shape[1]), -torch.inf)
    most = most.scatter_reduce(0, groups[:, None].expand_as(values), values.detach(), "amax")
    total = values.new_zeros(most.shape).index_add(0, groups, (values - most[groups]).exp())
    return most + total.log()


def adaptive_threshold_loss(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Of relations that hold, each competes with these and the threshold; the threshold competes with those that do not hold.

    Zhou et al., "Document-Level Relation Extraction with Adaptive Thresholding and Localized Context Pooling" (AAAI 2021).

    Args:
        logits: *(n_pairs, n_labels)* less the threshold's.
        targets: *(n_pairs, n_labels)*, 1 where the relation holds.
        known: *(n_pairs,)*.

    Returns:
        The mean over pairs that are known; 0 if there are none.
    """
    holds = targets.bool()
    threshold = logits.new_zeros(len(logits), 1)
    right = torch.cat([threshold, logits.masked_fill(~holds, -torch.inf)], dim=1).logsumexp(1)
    wrong = torch.cat([threshold, logits.masked_fill(holds, -torch.inf)], dim=1).logsumexp(1)
    each = holds.sum(1) * right - logits.masked_fill(~holds, 0.0).sum(1) + wrong
    return each.masked_fill(~known, 0.0).sum() / known.sum().clamp_min(1)
