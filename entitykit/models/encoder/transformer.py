"""The transformer encoder on packed input: sequences lie end to end in one flat tensor and no linear layer sees padding.

The mathematics is BERT's (Devlin et al. 2019): post-norm layers, exact GELU, learned absolute positions. Outputs equal those of
`transformers`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.linear import Linear, linear_gelu


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
    """Self-attention within each sequence of a pack."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.n_heads = settings.n_heads
        self.qkv = Linear(settings.width, 3 * settings.width)
        self.out = Linear(settings.width, settings.width)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:
        """Let every piece read the pieces of its own sequence.

        Args:
            x: *(n_pieces, width)*.
            lengths: pieces of each sequence.

        Returns:
            *(n_pieces, width)*.
        """
        qkv = self.qkv(x)
        parts = []
        start = 0
        for length, run in groupby(lengths):  # one fused call for a run of equally long sequences: no mask, no padding
            count = len(list(run))
            rows = qkv[start : start + count * length]
            # (count * length, 3 * width) -> 3 x (count, heads, length, head width)
            q, k, v = rows.view(count, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
            part = F.scaled_dot_product_attention(q, k, v)
            parts.append(part.transpose(1, 2).reshape(count * length, -1))
            start += count * length
        return self.out(parts[0] if len(parts) == 1 else torch.cat(parts))


class Layer(nn.Module):
    """Attention and a feed-forward network, each with a residual connection and a layer norm after it."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.attention = Attention(settings)
        self.attention_norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.inner = Linear(settings.width, settings.inner_width)
        self.outer = Linear(settings.inner_width, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, lengths: Sequence[int]) -> Tensor:  # noqa: D102
        x = self.attention_norm(x + self.dropout(self.attention(x, lengths)))
        inner = linear_gelu(x, self.inner.weight, self.inner.bias)
        return self.norm(x + self.dropout(self.outer(inner)))


class TransformerEncoder(nn.Module):
    """A BERT-type encoder over packs.

    Entity tokens, which will run beside the pieces from one layer on, have their place in `forward`, between two layers.

    Args:
        settings: sizes.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.embeddings = Embeddings(settings)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.n_layers))

    def forward(self, pack: Pack, layers: Collection[int]) -> dict[int, Tensor]:
        """Encode a pack as far up as is asked for.

        Args:
            pack: sequences of pieces.
            layers: the layers whose states are wanted; 0 is the embeddings. Layers above the highest are not run.

        Returns:
            Layer to states *(n_pieces, width)*.
        """
        states: dict[int, Tensor] = {}
        x = self.embeddings(pack)
        for i in range(max(layers) + 1):
            if i > 0:
                x = self.layers[i - 1](x, pack.lengths)
            if i in layers:
                states[i] = x
        return states


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
