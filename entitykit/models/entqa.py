"""Entities of a passage first, then their mentions: a retriever and a reader (EntQA, Zhang, Hua and Stratos 2022).

The retriever is a bi-encoder whose one side are passages. The reader sees a passage and an entity in one sequence: where may a
mention of the entity start, where end, and is the entity named at all. The null answer is the sequence's first piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.bi_encoder import BiEncoder, BiEncoderSettings
from entitykit.models.linear import Linear

_INIT_STD = 0.02


class Places(NamedTuple):
    """Where the words of passages are in a pack of sequences, each of which is a passage and an entity.

    Attributes:
        firsts: *(n_pairs, 1 + most)* rows of the words' first pieces; column 0 is the null answer, the sequence's first piece.
        lasts: *(n_pairs, 1 + most)* rows of their last pieces, and again the sequence's first piece.
        valid: *(n_pairs, 1 + most)* whether there is such a word and it has pieces; always true in column 0.
    """

    firsts: Tensor
    lasts: Tensor
    valid: Tensor


class ReaderOutput(NamedTuple):
    """What the reader says of pairs of a passage and an entity.

    Attributes:
        starts: *(n_pairs, 1 + most)* logits of the words that a mention may start with; -inf where there is none.
        ends: *(n_pairs, 1 + most)* the same of words that it may end with.
        ranks: *(n_pairs,)* logits of the entities.
    """

    starts: Tensor
    ends: Tensor
    ranks: Tensor


class ReaderTargets(NamedTuple):
    """What the reader should say.

    Attributes:
        starts: *(n_pairs, 1 + most)* words that start a mention of the entity, or the null answer where there is none.
        ends: *(n_pairs, 1 + most)* the same of words that end one.
        ranks: *(n_pairs,)* whether the entity has a mention in the passage.
        passages: *(n_pairs,)* numbers of the passages; pairs of one passage are neighbours.
    """

    starts: Tensor
    ends: Tensor
    ranks: Tensor
    passages: Tensor


class EntQA(BiEncoder):
    """A bi-encoder, whose mentions are passages, and a reader's three heads.

    Args:
        settings: see `BiEncoderSettings`.
    """

    def __init__(self, settings: BiEncoderSettings) -> None:
        super().__init__(settings)
        self.edges = Linear(settings.width, 2)
        self.rank = Linear(settings.width, 1)
        for head in (self.edges, self.rank):
            nn.init.normal_(head.weight, std=_INIT_STD)
            nn.init.zeros_(head.bias)

    def read(self, states: Tensor, places: Places) -> ReaderOutput:
        """Score words and entities.

        Args:
            states: *(n_pieces, width)* of the pack.
            places: where the words are in it.
        """
        states = self.dropout(states)
        edges = self.edges(states)
        ranks = self.rank(states[places.firsts[:, 0]]).squeeze(1)
        starts, ends = edges[:, 0][places.firsts], edges[:, 1][places.lasts]
        return ReaderOutput(starts.masked_fill(~places.valid, -torch.inf), ends.masked_fill(~places.valid, -torch.inf), ranks)


def retrieval_loss(logits: Tensor, gold: Tensor) -> Tensor:
    """Noise-contrastive loss with several right entities: each against all wrong ones, and never against another right one.

    Args:
        logits: *(n_passages, n_entities)*.
        gold: *(n_passages, n_entities)* whether the passage names the entity.

    Returns:
        The sum over all pairs that are right, divided by the passages that have any; 0 without any.
    """
    if not logits.numel():
        return logits.sum() * 0.0
    lowest = torch.finfo(logits.dtype).min / 2  # and not -inf, of which nothing but logsumexp has no gradient
    wrong = logits.masked_fill(gold, lowest).logsumexp(dim=1, keepdim=True)
    losses = torch.where(gold, F.softplus(wrong - logits), 0.0)  # -log(e^s / (e^s + e^wrong)); 0 where nothing is wrong
    return losses.sum() / gold.any(1).sum().clamp_min(1)


def reader_loss(output: ReaderOutput, targets: ReaderTargets) -> Tensor:
    """A third each of the losses of starts, ends and entities: minus the logarithms of the probabilities of all right ones.

    Probabilities of starts and ends are among the words of a passage and the null answer, those of entities among those that
    were read with the passage. A passage that names none of them teaches the null answer alone.

    Args:
        output: of the reader.
        targets: of the same pairs.

    Returns:
        The sum over the pairs.
    """
    n_passages = int(targets.passages.max()) + 1 if len(targets.passages) else 0
    members = targets.passages[None, :] == torch.arange(n_passages, device=output.ranks.device)[:, None]
    ranks = output.ranks[None, :].masked_fill(~members, -torch.inf)
    total = _surprise(output.starts, targets.starts) + _surprise(output.ends, targets.ends)
    return (total + _surprise(ranks, members & targets.ranks[None, :])) / 3


def _surprise(logits: Tensor, gold: Tensor) -> Tensor:
    """Minus the sum of the logarithms of the right answers' probabilities in each row *(n, m)*."""
    if not logits.numel():
        return logits.sum() * 0.0
    return torch.where(gold, logits.logsumexp(dim=1, keepdim=True) - logits, 0.0).sum()


def build_entqa(settings: Mapping[str, Any]) -> EntQA:
    """Build the heads from saved settings."""
    return EntQA(BiEncoderSettings(**{k: v for k, v in settings.items() if k != "labels"}))
