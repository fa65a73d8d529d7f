"""Which sentences say that two entities are related (`Evidence`): of a pair and a sentence the logit that it is evidence.

Sentences as means of their words, and a bilinear form of pair and sentence under a sigmoid, are Eider's (Xie et al., Findings
of ACL 2022, arXiv 2106.08657). Not as published: a pair is what its classifier knows of it, not a context pooled by the
encoder's attention; the form has a low rank; and how a sentence mentions both entities is read, too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.documents import segment_mean
from entitykit.models.linear import Linear, linear
from entitykit.models.spans import BLOCK, document_bounds
from entitykit.types import TOP, ClusterPairs, WordStates

SIZE = 64
"""Of what pairs and sentences are compared by."""
MENTIONS = 3
"""A sentence mentions an entity not at all; or somewhere; or where it comes nearest to the other one of the pair."""


class Evidence(nn.Module):
    """Scores the sentences of a document for pairs of its entities.

    Args:
        width: size of a word's state.
        hidden: size of what is known of a pair.
        dropout: probability in training.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.pair = Linear(hidden, SIZE)
        self.sentence = Linear(width, SIZE)
        self.mentioning = nn.Embedding(MENTIONS**2, SIZE)
        self.prior = nn.Embedding(MENTIONS**2, 1)
        for table in (self.mentioning, self.prior):
            nn.init.normal_(table.weight, std=0.02)

    def forward(
        self, states: WordStates, pairs: ClusterPairs, describe: Callable[[Tensor], Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """A function that takes rows of pairs, and gives the logits of all sentences of each pair's document, pair after pair.

        Args:
            states: with the top layer.
            pairs: with sentences.
            describe: rows of pairs *(n,)* to what is known of them *(n, hidden)*.
        """

        def score(rows: Tensor) -> Tensor:
            words = states.layers[TOP]
            if not len(rows):
                return words.new_zeros(0)
            n_sentences = int(pairs.sentences[-1]) + 1
            sentences = self.sentence(self.dropout(segment_mean(words, pairs.sentences, n_sentences)))
            firsts, ends = document_bounds(states.lengths, words.device)
            place = pairs.starts[pairs.near_heads[rows]]
            bounds = torch.stack([pairs.sentences[firsts[place]], pairs.sentences[ends[place] - 1] + 1], dim=1)
            documents, counts = bounds.unique_consecutive(dim=0, return_counts=True)
            return torch.cat(
                [
                    self._score(block, pairs, describe(block), sentences, low, high).flatten()
                    for (low, high), own in zip(documents.tolist(), rows.split(counts.tolist()), strict=True)
                    for block in own.split(max(BLOCK // (high - low), 1))
                ]
            )

        return score

    def _score(self, rows: Tensor, pairs: ClusterPairs, described: Tensor, sentences: Tensor, low: int, high: int) -> Tensor:
        """Of pairs of one document, whose sentences are those from `low` to `high` *(n_rows, high - low)*."""
        head = mentions_in(pairs, pairs.heads[rows], pairs.near_heads[rows], low, high)
        tail = mentions_in(pairs, pairs.tails[rows], pairs.near_tails[rows], low, high)
        how = MENTIONS * head + tail
        pair = self.pair(self.dropout(described))
        fit = linear(pair, sentences[low:high]) + linear(pair, self.mentioning.weight).gather(1, how)
        return fit / SIZE**0.5 + self.prior(how).squeeze(2)


def mentions_in(pairs: ClusterPairs, entities: Tensor, nearest: Tensor, low: int, high: int) -> Tensor:
    """How sentences mention an entity, see `MENTIONS`; a mention is in the sentence in which it begins.

    Args:
        pairs: with sentences.
        entities: *(n,)* rows of entities.
        nearest: *(n,)* rows of those of their mentions that are nearest to another entity.
        low: the first sentence.
        high: one past the last.

    Returns:
        *(n, high - low)*, 0 to 2.
    """
    asked = torch.arange(low, high, device=entities.device)
    of_mentions = pairs.sentences[pairs.starts]
    n = int(pairs.sentences[-1]) + 1
    there = torch.isin(entities[:, None] * n + asked, pairs.members * n + of_mentions)
    return there.long() + (of_mentions[nearest][:, None] == asked).long()


def evidence_loss(logits: Tensor, says: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over sentences; 0 if there are none.

    Args:
        logits: *(n_sentences,)* of pairs whose evidence is known.
        says: *(n_sentences,)* whether they are evidence.
    """
    each = F.binary_cross_entropy_with_logits(logits, says.to(logits.dtype), reduction="sum")
    return each / max(len(logits), 1)
