"""What a transformer encoder is made of, independent of the checkpoint's file format."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Sizes of a BERT-type encoder (BERT, RoBERTa, XLM-R, DistilBERT: they differ in names, not in mathematics).

    Attributes:
        vocab_size: rows of the piece embedding.
        width: size of a hidden state.
        n_layers: transformer layers.
        n_heads: attention heads of `width / n_heads` each.
        inner_width: hidden units of the feed-forward part.
        n_positions: rows of the position embedding.
        first_position: position id of a sequence's first piece (RoBERTa starts at 2).
        n_shapes: rows of the word-shape embedding; 0 for none (see `entitykit.bridge.shapes`).
        layer_norm_eps: the epsilon of every layer norm.
        dropout: probability after the embeddings and after each part of a layer, in training.
        train_pieces: learn piece embeddings.
    """

    vocab_size: int
    width: int
    n_layers: int
    n_heads: int
    inner_width: int
    n_positions: int
    first_position: int = 0
    n_shapes: int = 0
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    train_pieces: bool = True
