"""LUKE's two objectives (Yamada et al. 2020): words and entities are hidden, and found again by the embeddings of each.

Words are masked as in BERT (Devlin et al. 2019), whole words at a time; an entity is always replaced by [MASK].
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.models.luke import LukeVocabulary, VocabularySettings

IGNORED = -100
_MASKED, _RANDOM = 0.8, 0.9  # of the chosen words, 80 % become [MASK] and 10 % others; 10 % stay


class Text(NamedTuple):
    """Windows of text with their entities, nothing hidden.

    Attributes:
        pack: the pieces.
        words: *(n_pieces,)* number of each piece's word in the pack, -1 for special pieces.
        entities: the tokens, with the rows of the entities that they stand for.
    """

    pack: Pack
    words: Tensor
    entities: EntityPack


class Masked(NamedTuple):
    """What a pass reads, and what it must find.

    Attributes:
        pack: pieces, some of them hidden.
        entities: tokens, some of them hidden.
        word_targets: *(n_pieces,)* the ids of hidden pieces, `IGNORED` elsewhere.
        entity_targets: *(n_entities,)* the rows of hidden entities, `IGNORED` elsewhere.
    """

    pack: Pack
    entities: EntityPack
    word_targets: Tensor
    entity_targets: Tensor

    @property
    def n_words(self) -> int:
        """Pieces that must be found."""
        return int((self.word_targets != IGNORED).sum())

    @property
    def n_entities(self) -> int:
        """Entities that must be found."""
        return int((self.entity_targets != IGNORED).sum())


class Losses(NamedTuple):
    """Sums over what a pass had to find.

    Attributes:
        words: cross-entropy of the hidden pieces.
        entities: cross-entropy of the hidden entities.
        found: hidden entities whose row had the highest score.
    """

    words: Tensor
    entities: Tensor
    found: Tensor


def mask_words(
    ids: Tensor, words: Tensor, share: float, *, mask: int, vocab_size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose words at random, and hide all pieces of each: 80 % as [MASK], 10 % as random pieces, 10 % not at all.

    Args:
        ids: *(n_pieces,)*.
        words: *(n_pieces,)* number of each piece's word, -1 for special pieces, which stay.
        share: probability that a word is chosen.
        mask: id of the [MASK] piece.
        vocab_size: random pieces are below.
        generator: on the CPU, as the ids.

    Returns:
        Hidden ids, and targets: the ids of chosen words, `IGNORED` elsewhere.
    """
    n_words = int(words.max()) + 1 if len(words) else 0
    is_chosen = torch.rand(n_words, generator=generator) < share
    fate = torch.rand(n_words, generator=generator)
    others = torch.randint(vocab_size, ids.shape, generator=generator)
    of_word, inside = words.clamp_min(0), words >= 0
    if not n_words:
        return ids, torch.full_like(ids, IGNORED)
    chosen = inside & is_chosen[of_word]
    fates = fate[of_word]
    hidden = torch.where(chosen & (fates < _MASKED), mask, ids)
    hidden = torch.where(chosen & (fates >= _MASKED) & (fates < _RANDOM), others, hidden)
    return hidden, torch.where(chosen, ids, IGNORED)


def mask_entities(ids: Tensor, share: float, *, mask: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Choose entities *(n_entities,)* at random with probability `share`, and make them [MASK]; returns as `mask_words`."""
    chosen = torch.rand(len(ids), generator=generator) < share
    return torch.where(chosen, mask, ids), torch.where(chosen, ids, IGNORED)


class EntityPretraining(nn.Module):
    """An encoder with entity tokens under the heads that find hidden words and entities.

    Args:
        encoder: with entity tokens.
        n_entities: rows of the entity vocabulary.
        mask: its row of [MASK], from which the embeddings of all entities begin.
        words: learn from masked words, too.
    """

    def __init__(self, encoder: TransformerEncoder, *, n_entities: int, mask: int, words: bool) -> None:
        super().__init__()
        self.encoder = _with_vocabulary(encoder, n_entities, mask)
        settings = self.encoder.settings
        self.entity_head = _head(settings.width, _embedding(self.encoder), settings.layer_norm_eps)
        self.word_head = (
            _head(settings.width, self.encoder.embeddings.pieces.weight, settings.layer_norm_eps) if words else None
        )
        for table in (self.encoder.embeddings.pieces, _table(self.encoder)):
            table.sparse = False  # scoring all rows makes the gradient dense

    def mask(self, text: Text, *, words: float, entities: float, mask_piece: int, generator: torch.Generator) -> Masked:
        """Hide parts of a text, on the CPU.

        Args:
            text: the windows.
            words: share of words that are hidden.
            entities: share of entities that are hidden.
            mask_piece: id of the [MASK] piece.
            generator: of random numbers.
        """
        settings = self.encoder.settings
        mask = 0 if settings.entities is None else settings.entities.mask
        pack, share = text.pack, words if self.word_head is not None else 0.0
        ids, word_targets = mask_words(
            pack.ids, text.words, share, mask=mask_piece, vocab_size=settings.vocab_size, generator=generator
        )
        shapes = torch.where((word_targets != IGNORED) & (ids == mask_piece), 0, pack.shapes)  # they would tell of capitals
        rows, entity_targets = mask_entities(text.entities.ids, entities, mask=mask, generator=generator)
        hidden = pack._replace(ids=ids, shapes=shapes)
        return Masked(hidden, text.entities._replace(ids=rows), word_targets, entity_targets)

    def forward(self, masked: Masked) -> Losses:
        """Read what is hidden and find it; all tensors on the module's device."""
        top = self.encoder.settings.n_layers
        layers = (top,) if self.word_head is not None else ()
        encoded = self.encoder.with_entities(masked.pack, layers, lambda _: masked.entities)
        hidden = masked.entity_targets != IGNORED
        logits = self.entity_head(encoded.entities[hidden], _embedding(self.encoder)).float()
        targets = masked.entity_targets[hidden]
        entities = F.cross_entropy(logits, targets, reduction="sum")
        found = (logits.argmax(1) == targets).sum() if len(targets) else targets.sum()
        if self.word_head is None:
            return Losses(entities.new_zeros(()), entities, found)
        hidden = masked.word_targets != IGNORED
        scores = self.word_head(encoded.layers[top][hidden], self.encoder.embeddings.pieces.weight).float()
        return Losses(F.cross_entropy(scores, masked.word_targets[hidden], reduction="sum"), entities, found)


def own_parameters(module: EntityPretraining) -> list[str]:
    """Names of the parameters that entities have to themselves: what LUKE's first stage trains."""
    parts = ("encoder.entities.", "entity_head.")
    return [name for name, _ in module.named_parameters() if name.startswith(parts) or ".of_entities." in name]


def _table(encoder: TransformerEncoder) -> nn.Embedding:
    if encoder.entities is None:
        raise ValueError("this encoder has no entity tokens")
    return encoder.entities.ids


def _embedding(encoder: TransformerEncoder) -> Tensor:
    return _table(encoder).weight


def _with_vocabulary(encoder: TransformerEncoder, n_entities: int, mask: int) -> TransformerEncoder:
    """The same encoder with an entity embedding whose rows all are what [MASK] was."""
    settings = encoder.settings
    if settings.entities is None:
        raise ValueError("this encoder has no entity tokens")
    weights = encoder.state_dict()
    row = weights["entities.ids.weight"][settings.entities.mask]
    weights["entities.ids.weight"] = row.expand(n_entities, -1).clone()
    grown = TransformerEncoder(replace(settings, entities=replace(settings.entities, vocab_size=n_entities, mask=mask)))
    grown.load_state_dict(weights)
    return grown


def _head(width: int, embedding: Tensor, eps: float) -> LukeVocabulary:
    n, size = embedding.shape
    head = LukeVocabulary(VocabularySettings(width=width, embedding_width=size, vocab_size=n, layer_norm_eps=eps))
    nn.init.normal_(head.inner.weight, std=0.02)
    nn.init.zeros_(head.inner.bias)
    return head
