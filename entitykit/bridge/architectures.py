"""The registered architectures: functions of a config block that make thinc models."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from spacy.tokens import Doc
from thinc.api import Model

from entitykit.bridge import encoder as bridge_encoder
from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.listener import EncoderListener
from entitykit.bridge.weights import STORAGES, Storage
from entitykit.errors import error
from entitykit.models.mentions import ToMMeRSettings, build_tommer
from entitykit.models.ner import SpanNERSettings, SpERTSettings, build_span_ner, build_spert
from entitykit.types import TOP, WordStates

Tok2Vec = Model[list[Doc], Any]
Head = Model[HeadInput, Any]


def entity_encoder(
    name: str = "minilm",
    window: int = 256,
    overlap: int = 64,
    batch_pieces: int = 4096,
    max_word_pieces: int = 64,
    word_dropout: float = 0.0,
    word_shapes: bool | None = None,
    n_layers: int | None = None,
    train_pieces: bool = True,
    storage: str = "fp32",
    bf16: bool = False,
) -> Model[list[Doc], bridge_encoder.EncoderBatch]:
    """Make the shared encoder, registered as ``entitykit.EntityEncoder.v1``.

    Args:
        name: a checkpoint of a BERT, RoBERTa, XLM-R or DistilBERT model: a folder, a name on the Hub, or ``minilm``.
        window: most pieces that the encoder sees at once, special pieces included.
        overlap: pieces that neighbouring windows of a long document share.
        batch_pieces: pieces that run through the encoder at once; this bounds its memory.
        max_word_pieces: pieces kept of one word; words that have more are counted in ``doc._.coverage`` and warned of.
        word_dropout: share of words whose pieces are masked in training, so that heads learn to rely on context and word shape.
        word_shapes: add an embedding of each word's capitals and digits; none: where the checkpoint does not see them.
        n_layers: keep only the lowest layers of the checkpoint; none: all.
        train_pieces: learn piece embeddings too.
        storage: precision of saved weights: ``fp32``, ``fp16`` or ``int8``.
        bf16: compute in bfloat16 on CUDA devices.

    Raises:
        ConfigError: E007 for a value out of range.
    """
    if storage not in STORAGES:
        raise error("E007", setting="storage", found=storage, expected=" or ".join(STORAGES))
    for setting, value in (("overlap", overlap), ("batch_pieces", batch_pieces), ("max_word_pieces", max_word_pieces)):
        if value < 1:
            raise error("E007", setting=setting, found=value, expected="at least 1")
    if not 0 <= word_dropout < 1:
        raise error("E007", setting="word_dropout", found=word_dropout, expected="at least 0 and below 1")
    checkpoint = {"name": name, "word_shapes": word_shapes, "n_layers": n_layers, "train_pieces": train_pieces}
    reading = bridge_encoder.ReadingSettings(
        window=window,
        overlap=overlap,
        batch_pieces=batch_pieces,
        max_word_pieces=max_word_pieces,
        word_dropout=word_dropout,
    )
    checked: Storage = "fp32" if storage == "fp32" else "fp16" if storage == "fp16" else "int8"
    return bridge_encoder.EntityEncoder(checkpoint, reading, storage=checked, bf16=bf16)


def encoder_listener(upstream: str = "*") -> Model[list[Doc], WordStates]:
    """Make a head's connection to the shared encoder, registered as ``entitykit.EncoderListener.v1``.

    Args:
        upstream: the encoder component's name, or ``*`` for any.
    """
    return EncoderListener(upstream)


def tommer(
    tok2vec: Tok2Vec,
    layer: int = 3,
    rank: int = 64,
    window: int = 25,
    cosine: bool = True,
    start_terms: bool = True,
    width_bias: bool = True,
) -> Head:
    """Make the mention probe, registered as ``entitykit.ToMMeR.v1``; see `ToMMeRSettings`."""
    given = {**locals()}
    return TorchHead(tok2vec, build_tommer, _settings(ToMMeRSettings, given), layers=[layer])


def span_ner(
    tok2vec: Tok2Vec,
    probe_layer: int = 3,
    rank: int = 64,
    window: int = 25,
    proposals: float = 0.5,
    hidden: int = 384,
    size_width: int = 25,
    dropout: float = 0.1,
    probe_weight: float = 1.0,
) -> Head:
    """Make the classifier of proposed spans, registered as ``entitykit.SpanNER.v1``; see `SpanNERSettings`."""
    given = {**locals()}
    return TorchHead(tok2vec, build_span_ner, _settings(SpanNERSettings, given), layers=[probe_layer, TOP])


def spert(
    tok2vec: Tok2Vec,
    max_width: int = 10,
    context: int = 32,
    negatives: int = 100,
    size_width: int = 25,
    dropout: float = 0.1,
) -> Head:
    """Make the classifier of all spans, registered as ``entitykit.SpERT.v1``; see `SpERTSettings`.

    Args:
        tok2vec: embedding layer.
        max_width: most words of a span.
        context: words on each side of a span that are its context.
        negatives: spans without an entity drawn from each document for training.
        size_width: size of the embedding of a span's width.
        dropout: probability in training.
    """
    given = {**locals()}
    model = TorchHead(tok2vec, build_spert, _settings(SpERTSettings, given), layers=[TOP])
    model.attrs["max_width"] = max_width
    model.attrs["negatives"] = negatives
    return model


def _settings(kind: type, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are fields of a settings dataclass."""
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in given.items() if name in names}
