"""The transformer encoder on packed input: sequences lie end to end in one flat tensor and no linear layer sees padding.

The mathematics is BERT's (Devlin et al. 2019): post-norm layers, exact GELU, learned absolute positions. From one layer on,
spans can have tokens of their own beside the pieces, with LUKE's entity-aware attention (Yamada et al. 2020). Outputs equal
those of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.attention import Part, attend
from entitykit.models.encoder.entities import EntityEmbeddings, EntityPack, Group, lay_out
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings
from entitykit.models.linear import Linear, linear, linear_gelu
from entitykit.models.mentions import ToMMeR, ToMMeRSettings


class Pack(NamedTuple):
    """Sequences of pieces, end to end; equal lengths should be neighbours, because they share one attention call.

    Attributes:
        ids: *(n_pieces,)* piece ids, special pieces included.
        positions: *(n_pieces,)* positions within the sequence, from 0.
        shapes: *(n_pieces,)* word-shape ids.
        lengths: pieces of each sequence, summing to `n_pieces`.
    """

    ids: Tensor
    positions: Tensor
    shapes: Tensor
    lengths: tuple[int, ...]


class Cache(NamedTuple):
    """What entity tokens that come after the pass must know of it.

    Attributes:
        pack: the pieces.
        states: *(n_pieces, width)* in the layer where entity tokens begin.
        keys: of each layer above, keys and values of the pieces *(n_pieces, 2 * width)*.
    """

    pack: Pack
    states: Tensor
    keys: list[Tensor]


class Encoded(NamedTuple):
    """A pass with entity tokens.

    Attributes:
        layers: layer to states of the pieces *(n_pieces, width)*.
        entities: *(n_entities, width)* states of the tokens after the last layer.
        cache: for tokens that come later, if it was to be kept.
        scores: of the tokens' candidates, see `KnowledgeOutput`, if there are any.
    """

    layers: dict[int, Tensor]
    entities: Tensor
    cache: Cache | None
    scores: Tensor | None = None


Propose = Callable[[Tensor], EntityPack]
"""From the states of the pieces in the layer where entity tokens begin to the tokens."""


class Embeddings(nn.Module):
    """Sum of piece, position and word-shape embeddings, normalised."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        # a batch has few of the vocabulary's pieces: a dense gradient would cost more than all layers together
        self.pieces = nn.Embedding(settings.vocab_size, settings.width, sparse=True)
        self.pieces.weight.requires_grad_(settings.train_pieces)
        self.positions = nn.Embedding(settings.n_positions, settings.width)
        self.shapes = nn.Embedding(settings.n_shapes, settings.width) if settings.n_shapes else None
        self.norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.dropout)
        self.first_position = settings.first_position
        if self.shapes is not None:  # nothing is known of shapes before training: start as the checkpoint is
            nn.init.zeros_(self.shapes.weight)

    def forward(self, pack: Pack) -> Tensor:  # noqa: D102
        x = self.pieces(pack.ids) + self.positions(pack.positions + self.first_position)
        if self.shapes is not None:
            x = x + self.shapes(pack.shapes)
        return self.dropout(self.norm(x))


class Attention(nn.Module):
    """Attention within each sequence of a pack; keys and values are projected alike for pieces and for entity tokens.

    Args:
        settings: the encoder's.
        entities: the encoder's entity settings, if entity tokens reach this layer.
    """

    def __init__(self, settings: EncoderSettings, entities: EntitySettings | None) -> None:
        super().__init__()
        self.n_heads = settings.n_heads
        self.width = settings.width
        self.entities = entities
        self.qkv = Linear(settings.width, 3 * settings.width)
        self.out = Linear(settings.width, settings.width)
        own = entities is not None and entities.own_queries
        self.of_entities = Linear(settings.width, 2 * settings.width) if own else None  # e2w and e2e
        sees = entities is not None and entities.words_see_entities
        self.of_words = Linear(settings.width, settings.width) if own and sees else None  # w2e

    def tokens(self, e: Tensor) -> Tensor:
        """Project entity tokens *(n_entities, width)*.

        Returns:
            *(n_entities, 4 * width)*: queries for pieces (e2w), queries for entity tokens (e2e), keys, values.
        """
        if self.of_entities is None:
            qkv = self.qkv(e)
            return torch.cat([qkv[:, : self.width], qkv], dim=1)
        keys = linear(e, self.qkv.weight[self.width :], self.qkv.bias[self.width :])
        return torch.cat([self.of_entities(e), keys], dim=1)

    def read_words(self, x: Tensor, qkv: Tensor, groups: Sequence[Group], tokens: Tensor | None = None) -> Tensor:
        """Let every piece read the pieces of its own sequence and, if given, its entity tokens.

        Args:
            x: *(n_pieces, width)*.
            qkv: *(n_pieces, 3 * width)* projections of `x`.
            groups: of the pack.
            tokens: *(n_entities, 4 * width)* of the pack.

        Returns:
            *(n_pieces, width)*.
        """
        seeking = self.of_words(x) if self.of_words is not None and tokens is not None else qkv[:, : self.width]
        outputs = []
        for group in groups:
            q, k, v = self._heads(qkv, group)
            parts = [Part(q, k, v)]
            if tokens is not None and group.tokens is not None:
                (seeking_heads,) = self._heads(seeking, group)
                token_keys, token_values = self._token_heads(tokens[:, 2 * self.width :], group.tokens)
                parts.append(Part(seeking_heads, token_keys, token_values, group.padding))
            outputs.append(attend(parts).transpose(1, 2).reshape(group.n_sequences * group.length, self.width))
        return self.out(outputs[0] if len(outputs) == 1 else torch.cat(outputs))

    def read_entities(self, tokens: Tensor, keys: Tensor, groups: Sequence[Group]) -> Tensor:
        """Let every entity token read the pieces of its sequence and itself or, if they see each other, all its entity tokens.

        Args:
            tokens: *(n_entities, 4 * width)*.
            keys: *(n_pieces, 2 * width)* keys and values of the pieces.
            groups: of the pack, with tokens.

        Returns:
            *(n_entities, width)*.
        """
        outputs = []
        for group in groups:
            if group.tokens is None or group.rows is None:
                continue
            k, v = self._heads(keys, group)
            for_words, for_entities, token_keys, token_values = self._token_heads(tokens, group.tokens)
            others = Part(for_entities, token_keys, token_values, group.padding)
            read = Part(for_words, k, v)
            see = self.entities is not None and self.entities.entities_see_entities
            found = attend([read, others]) if see else attend([read], own=others)
            outputs.append(found.transpose(1, 2).reshape(-1, self.width)[group.rows])
        return self.out(torch.cat(outputs) if outputs else tokens[:, : self.width])

    def _heads(self, x: Tensor, group: Group) -> Tensor:
        """*(n, k * width)* to *(k, n_sequences, heads, length, head width)* for the group's rows."""
        rows = x[group.start : group.start + group.n_sequences * group.length]
        k, width = x.shape[1] // self.width, self.width // self.n_heads
        return rows.view(group.n_sequences, group.length, k, self.n_heads, width).permute(2, 0, 3, 1, 4)

    def _token_heads(self, x: Tensor, tokens: Tensor) -> Tensor:
        """*(n_entities, k * width)* to *(k, n_sequences, heads, most, head width)* for a group's tokens."""
        count, most = tokens.shape
        return x[tokens].view(count, most, -1, self.n_heads, self.width // self.n_heads).permute(2, 0, 3, 1, 4)


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual connection and a layer norm after it."""

    def __init__(self, settings: EncoderSettings, entities: EntitySettings | None = None) -> None:
        super().__init__()
        self.attention = Attention(settings, entities)
        self.attention_norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.inner = Linear(settings.width, settings.inner_width)
        self.outer = Linear(settings.inner_width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.dropout)
        self.words_see_entities = entities is not None and entities.words_see_entities

    def forward(self, x: Tensor, groups: Sequence[Group]) -> Tensor:
        """Pieces alone: *(n_pieces, width)* to the same."""
        return self._rest(x, self.attention.read_words(x, self.attention.qkv(x), groups))

    def with_entities(self, x: Tensor, e: Tensor, groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor]:
        """Pieces and entity tokens.

        Args:
            x: *(n_pieces, width)*.
            e: *(n_entities, width)*.
            groups: of the pack, with tokens.

        Returns:
            Both after the layer, and the pieces' keys and values *(n_pieces, 2 * width)* in it.
        """
        qkv = self.attention.qkv(x)
        keys = qkv[:, x.shape[1] :]
        tokens = self.attention.tokens(e)
        read = self.attention.read_words(x, qkv, groups, tokens if self.words_see_entities else None)
        return self._rest(x, read), self._rest(e, self.attention.read_entities(tokens, keys, groups)), keys

    def entities_alone(self, e: Tensor, keys: Tensor, groups: Sequence[Group]) -> Tensor:
        """Entity tokens *(n_entities, width)* over pieces whose keys and values in this layer are known."""
        return self._rest(e, self.attention.read_entities(self.attention.tokens(e), keys, groups))

    def _rest(self, x: Tensor, read: Tensor) -> Tensor:
        x = self.attention_norm(x + self.dropout(read))
        inner = linear_gelu(x, self.inner.weight, self.inner.bias)
        return self.norm(x + self.dropout(self.outer(inner)))


class TransformerEncoder(nn.Module):
    """A BERT-type encoder over packs, with or without entity tokens.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embeddings = Embeddings(settings)
        entities = settings.entities
        tokens = entities is not None and entities.tokens
        first = settings.n_layers if entities is None else entities.inject_layer
        of_tokens = first if tokens else settings.n_layers  # layers below have no entity tokens
        self.layers = nn.ModuleList(Layer(settings, None if i < of_tokens else entities) for i in range(settings.n_layers))
        self.entities = EntityEmbeddings(settings) if tokens else None
        probe = None if entities is None else entities.probe
        self.probe = (
            None
            if probe is None
            else ToMMeR(ToMMeRSettings(width=settings.width, layer=first, rank=probe.rank, window=probe.window))
        )

    def forward(self, pack: Pack, layers: Collection[int]) -> dict[int, Tensor]:
        """Encode a pack without entity tokens, as far up as is asked for.

        Args:
            pack: sequences of pieces.
            layers: the layers whose states are wanted; 0 is the embeddings. Layers above the highest are not run.

        Returns:
            Layer to states *(n_pieces, width)*.
        """
        groups = lay_out(pack.lengths, None, pack.ids.device)
        states: dict[int, Tensor] = {}
        x = self.embeddings(pack)
        for i in range(max(layers) + 1):
            if i > 0:
                x = self.layers[i - 1](x, groups)
            if i in layers:
                states[i] = x
        return states

    def with_entities(self, pack: Pack, layers: Collection[int], propose: Propose, *, keep_cache: bool = False) -> Encoded:
        """Encode a pack with entity tokens, up to the last layer.

        Args:
            pack: sequences of pieces.
            layers: the layers whose states are wanted; 0 is the embeddings.
            propose: gives the tokens.
            keep_cache: keep keys and values for `late_entities`.
        """
        first, embed = self._entity_parts()
        wanted = {first, *layers}
        states = self(pack, {i for i in wanted if i <= first})
        x = states[first]
        entities = propose(x)
        e, scores = embed(entities, pack.positions, x)
        groups = lay_out(pack.lengths, entities.counts, pack.ids.device)
        cache = Cache(pack, x, [])
        for i, layer in enumerate(self._layers_from(first), start=first):
            x, e, keys = layer.with_entities(x, e, groups)
            if keep_cache:
                cache.keys.append(keys)
            if i + 1 in wanted:
                states[i + 1] = x
        return Encoded({i: states[i] for i in layers}, e, cache if keep_cache else None, scores)

    def late_entities(self, cache: Cache, entities: EntityPack) -> Tensor:
        """States of entity tokens for spans that arrive after the pass, as if they had been in it; the text is not read again.

        Args:
            cache: from `with_entities`.
            entities: the tokens.

        Returns:
            *(n_entities, width)*.

        Raises:
            ValueError: if words or other entity tokens see the tokens: then all must be there from the beginning.
        """
        first, embed = self._entity_parts()
        settings = self.settings.entities
        if settings is None or settings.words_see_entities or settings.entities_see_entities:
            raise ValueError("late entity tokens need an encoder in which nothing else sees entity tokens")
        groups = lay_out(cache.pack.lengths, entities.counts, cache.states.device)
        e = embed(entities, cache.pack.positions, cache.states).states
        for layer, keys in zip(self._layers_from(first), cache.keys, strict=True):
            e = layer.entities_alone(e, keys, groups)
        return e

    def _layers_from(self, first: int) -> list[Layer]:
        return [cast(Layer, layer) for layer in self.layers[first:]]

    def _entity_parts(self) -> tuple[int, EntityEmbeddings]:
        if self.settings.entities is None or self.entities is None:
            raise ValueError("this encoder has no entity tokens")
        return self.settings.entities.inject_layer, self.entities


def pool_words(states: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
    """Average each word's pieces.

    Args:
        states: *(n_pieces, width)*.
        rows: *(n_read,)* rows of `states`, word after word.
        offsets: *(n_words,)* where each word's rows begin in `rows`; a word without pieces gets zeros.

    Returns:
        *(n_words, width)*.
    """
    return F.embedding_bag(rows, states, offsets, mode="mean")
