"""LUKE's task heads on the states of entity tokens and pieces (Yamada et al. 2020); their weights are in `luke_weights`.

Named entities, types and relations are linear in the states. The two heads of pretraining choose from a vocabulary by the
embeddings that the encoder reads; chosen from a few candidates, entities are disambiguated, all at once or one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.attention import MASKED
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.transformer import Encoded, Pack, TransformerEncoder
from entitykit.models.linear import Linear, linear, linear_gelu
from entitykit.models.ner import mean_cross_entropy
from entitykit.types import Spans


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings:
    """Settings of `LukeNER`, `LukeTyping` and `LukeRelations`.

    Attributes:
        width: size of a state.
        n_labels: classes; where "none" is one of them, it is class 0.
        dropout: probability in training.
    """

    width: int
    n_labels: int
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VocabularySettings:
    """Settings of `LukeVocabulary`.

    Attributes:
        width: size of a state.
        embedding_width: size of an embedding.
        vocab_size: rows of the embedding.
        layer_norm_eps: the epsilon of the layer norm.
    """

    width: int
    embedding_width: int
    vocab_size: int
    layer_norm_eps: float = 1e-12


class LukeNER(nn.Module):
    """Classes of spans, from the states of their first piece, their last piece and their entity token.

    Args:
        settings: see `ClassifierSettings`.
    """

    n_states: ClassVar[int] = 3

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.outer = Linear(self.n_states * settings.width, settings.n_labels)

    def forward(self, pieces: Tensor, entities: Tensor, spans: Spans) -> Tensor:
        """Classify the span of every entity token.

        Args:
            pieces: *(n_pieces, width)*.
            entities: *(n_entities, width)*.
            spans: *(n_entities,)* of rows of `pieces`; see `token_bounds`.

        Returns:
            Logits *(n_entities, n_labels)*.
        """
        features = torch.cat([pieces[spans.starts], pieces[spans.ends - 1], entities], dim=1)
        return self.outer(self.dropout(features))

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy, the mean over spans; classes *(n_entities,)*, -100 where there is no annotation."""
        return mean_cross_entropy(logits, classes)


class LukeTyping(nn.Module):
    """Types of entity tokens, any number of each.

    Args:
        settings: see `ClassifierSettings`.
    """

    n_states: ClassVar[int] = 1

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.outer = Linear(self.n_states * settings.width, settings.n_labels)

    def forward(self, entities: Tensor) -> Tensor:
        """From states *(n_entities, width)* to logits *(n_entities, n_labels)*, one decision each."""
        return self.outer(self.dropout(entities))

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over tokens and labels; labels *(n_entities, n_labels)* 0 or 1."""
        total = F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="sum")
        return total / max(logits.numel(), 1)


class LukeRelations(nn.Module):
    """Relations between two entity tokens, whose spans include the markers in the text.

    Args:
        settings: see `ClassifierSettings`.
    """

    n_states: ClassVar[int] = 2

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        self.outer = Linear(self.n_states * settings.width, settings.n_labels, bias=False)

    def forward(self, entities: Tensor, heads: Tensor, tails: Tensor) -> Tensor:
        """Classify pairs.

        Args:
            entities: *(n_entities, width)*.
            heads: *(n_pairs,)* numbers of tokens.
            tails: as `heads`.

        Returns:
            Logits *(n_pairs, n_labels)*.
        """
        return self.outer(self.dropout(torch.cat([entities[heads], entities[tails]], dim=1)))

    def loss(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy, the mean over pairs; classes *(n_pairs,)*, -100 where there is no annotation."""
        return mean_cross_entropy(logits, classes)


class LukeVocabulary(nn.Module):
    """What a masked token stands for, among entities or pieces.

    The scores are products with the embeddings from which the encoder's tokens begin. These stay the encoder's, so that half a
    million entities lie in memory once: `encoder.entities.ids.weight`, or `encoder.embeddings.pieces.weight`.

    Args:
        settings: see `VocabularySettings`.
    """

    def __init__(self, settings: VocabularySettings) -> None:
        super().__init__()
        self.settings = settings
        self.inner = Linear(settings.width, settings.embedding_width)
        self.norm = nn.LayerNorm(settings.embedding_width, eps=settings.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(settings.vocab_size))

    def forward(self, states: Tensor, embedding: Tensor, candidates: Tensor | None = None) -> Tensor:
        """Score the vocabulary, or candidates only.

        Args:
            states: *(n_tokens, width)*.
            embedding: *(vocab_size, embedding_width)*.
            candidates: *(n_tokens, most)* the ids that each token may be, -1 behind the last; the others are not computed.

        Returns:
            Logits *(n_tokens, vocab_size)*, or *(n_tokens, most)* with `MASKED` where there is no candidate.
        """
        x = self.norm(linear_gelu(states, self.inner.weight, self.inner.bias))
        if candidates is None:
            return linear(x, embedding, self.bias)
        rows = candidates.clamp_min(0)
        logits = (F.embedding(rows, embedding) @ x[:, :, None]).squeeze(2) + self.bias[rows]
        return logits.masked_fill(candidates < 0, MASKED)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, the mean over masked tokens; targets *(n_tokens,)* columns of the logits, -100 for other tokens."""
        return mean_cross_entropy(logits, targets)


class Links(NamedTuple):
    """Entities chosen for entity tokens.

    Attributes:
        ids: *(n_entities,)* rows of the entity embedding, -1 where there were no candidates.
        probabilities: *(n_entities,)* among the candidates, at the time of the choice.
    """

    ids: Tensor
    probabilities: Tensor


def token_bounds(entities: EntityPack) -> Spans:
    """From each token's first piece to the end of its last one, as rows of the pack.

    Raises:
        ValueError: if a token's span has no pieces.
    """
    ends = torch.cat([entities.offsets[1:], entities.offsets.new_tensor([len(entities.rows)])])[: len(entities.offsets)]
    if (ends <= entities.offsets).any():
        raise ValueError("an entity token that is to be classified needs at least one piece")
    return Spans(entities.rows[entities.offsets], entities.rows[ends - 1] + 1)


def classify_spans(encoder: TransformerEncoder, head: LukeNER, pack: Pack, candidates: EntityPack) -> Tensor:
    """Classify candidates that are in the pass from the beginning: all of them in one, however many.

    Args:
        encoder: with entity tokens.
        head: the classifier.
        pack: the text.
        candidates: one token for each candidate.

    Returns:
        Logits *(n_entities, n_labels)*.
    """
    top = encoder.settings.n_layers
    encoded = encoder.with_entities(pack, (top,), lambda _: candidates)
    return head(encoded.layers[top], encoded.entities, token_bounds(candidates))


def classify_late_spans(encoder: TransformerEncoder, head: LukeNER, encoded: Encoded, candidates: EntityPack) -> Tensor:
    """Classify candidates after the pass, as often as there are new ones; the text is not read again.

    Args:
        encoder: with entity tokens that nothing else sees.
        head: the classifier.
        encoded: a pass, with its cache and the top layer.
        candidates: one token for each candidate.

    Returns:
        Logits *(n_entities, n_labels)*.

    Raises:
        ValueError: if the pass kept no cache, or as `TransformerEncoder.late_entities`.
    """
    if encoded.cache is None:
        raise ValueError("late candidates need a pass with keep_cache=True")
    entities = encoder.late_entities(encoded.cache, candidates)
    return head(encoded.layers[encoder.settings.n_layers], entities, token_bounds(candidates))


@torch.no_grad()
def link(
    encoder: TransformerEncoder,
    head: LukeVocabulary,
    pack: Pack,
    entities: EntityPack,
    candidates: Tensor,
    *,
    one_by_one: bool = True,
) -> Links:
    """Choose an entity for every token that has candidates.

    Args:
        encoder: with entity tokens; for `one_by_one`, with such as see each other.
        head: of the entity vocabulary.
        pack: the text.
        entities: the tokens; those to be linked begin as masks, others may say which entity they are.
        candidates: *(n_entities, most)* as in `LukeVocabulary.forward`.
        one_by_one: LUKE's global model: the most confident choice of each sequence becomes its token's entity, and the text is
            read again, until all have one. Otherwise the local one: all are chosen in one pass.
    """
    if encoder.entities is None:
        raise ValueError("this encoder has no entity tokens")
    counts = torch.tensor(entities.counts, device=entities.ids.device)
    sequences = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    is_open = (candidates >= 0).any(1)
    links = Links(torch.full_like(entities.ids, -1), torch.zeros(len(entities.ids), device=entities.ids.device))
    while is_open.any():
        states = encoder.with_entities(pack, (), lambda _, tokens=entities: tokens).entities  # type: ignore[misc]
        scores, columns = head(states, encoder.entities.ids.weight, candidates).softmax(1).max(1)
        ids = candidates.gather(1, columns[:, None]).squeeze(1)
        now = is_open
        if one_by_one:
            now = is_open & _first_of_each(scores.masked_fill(~is_open, -1.0), sequences)
        links = Links(torch.where(now, ids, links.ids), torch.where(now, scores, links.probabilities))
        entities = entities._replace(ids=torch.where(now, ids, entities.ids))
        is_open = is_open & ~now
    return links


def _first_of_each(scores: Tensor, sequences: Tensor) -> Tensor:
    """Mark the best-scored row of each sequence *(n,)*; among equals, the first."""
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(sequences[order], stable=True)]
    found = sequences[order]
    is_first = torch.ones_like(found, dtype=torch.bool)
    is_first[1:] = found[1:] != found[:-1]
    return torch.zeros_like(is_first).index_fill(0, order[is_first], True)
