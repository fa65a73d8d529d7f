"""What a transformer encoder is made of, independent of the checkpoint's file format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """The probe that proposes entity tokens in the layer where they begin; see `entitykit.models.mentions.ToMMeRSettings`.

    Attributes:
        proposals: spans proposed per word.
        threshold: least probability of a proposed span.
        rank: size of the probe's projections.
        window: a span's last word is at most this far from its first.
    """

    proposals: float = 0.3
    threshold: float = 0.0
    rank: int = 64
    window: int = 25


@dataclass(frozen=True, kw_only=True)
class Injection:
    """Where spans get tokens of their own, which then run beside the pieces, and who sees whom.

    Attributes:
        inject_layer: the layer in whose states the probe looks for spans and their tokens begin; 0, the embeddings, is LUKE.
        tokens: give spans tokens; otherwise the probe proposes spans, and their states are pooled from words.
        words_see_entities: words attend to entity tokens; otherwise words are as without them.
        entities_see_entities: entity tokens attend to each other, not only to words and themselves.
        probe: proposes spans; none if all spans are given.
        knowledge: how a token reads the external vectors of its span's candidates, a kind of module in
            `entitykit.models.encoder.knowledge`; none: it reads none.
        vector_width: size of an external vector.
        knowledge_settings: of that module, its sizes aside; what is not there has the module's default.
    """

    inject_layer: int
    tokens: bool = True
    words_see_entities: bool = False
    entities_see_entities: bool = False
    probe: ProbeSettings | None = None
    knowledge: str | None = None
    vector_width: int = 0
    knowledge_settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EntitySettings(Injection):
    """Entity tokens: the injection that was chosen, and what the checkpoint says of them.

    Attributes:
        vocab_size: rows of the entity embedding.
        embedding_width: size of an entity embedding; projected where it is not the encoder's width.
        mask: row that stands for an entity that is not known.
        own_queries: projections of their own for the queries w2e, e2w and e2e; otherwise all are w2w's.
        n_positions: rows of the entity tokens' own position embedding.
        max_pieces: a token's position is the mean over the first so many pieces of its span; 0 for all.
    """

    vocab_size: int = 1
    embedding_width: int
    mask: int = 0
    own_queries: bool = True
    n_positions: int
    max_pieces: int = 0


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
        entities: entity tokens inside the encoder; none for words only.
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
    entities: EntitySettings | None = None


def encoder_settings(values: Mapping[str, Any]) -> EncoderSettings:
    """Settings from the JSON values that `dataclasses.asdict` makes of them."""
    entities = values.get("entities")
    if entities is None:
        return EncoderSettings(**values)
    probe = entities.get("probe")
    nested = EntitySettings(**{**entities, "probe": None if probe is None else ProbeSettings(**probe)})
    return EncoderSettings(**{**values, "entities": nested})
