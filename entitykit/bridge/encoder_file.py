"""Encoders in our own file format, which keeps what no `transformers` checkpoint has: pretrained entity tokens on any layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from entitykit.bridge.shapes import N_SHAPES
from entitykit.bridge.weights import parse_weights
from entitykit.errors import error
from entitykit.models.encoder.settings import EncoderSettings, Injection, encoder_settings
from entitykit.models.encoder.transformer import TransformerEncoder

_MAY_BE_NEW = ("probe.", "embeddings.shapes.", "entities.knowledge.")


def load_encoder_file(
    path: Path, *, word_shapes: bool | None, n_layers: int | None, train_pieces: bool, injection: Injection | None
) -> tuple[TransformerEncoder, str]:
    """Load an encoder and its tokenizer, cut down or added to as is wanted.

    Args:
        path: of the file.
        word_shapes: keep or add a word-shape embedding; none: as in the file.
        n_layers: keep the lowest layers only; none: keep all.
        train_pieces: learn piece embeddings.
        injection: entity tokens, which begin in the layer in which they were trained; none for words only.

    Returns:
        The encoder, and the tokenizer as JSON of the `tokenizers` library.

    Raises:
        ConfigError: E007 for layers that the file does not have.
        CheckpointError: E005 for a damaged file, E010 for weights that are not finite.
    """
    try:
        tensors, values = parse_weights(path.read_bytes(), path=path)
        saved = encoder_settings(values["encoder"])
        settings = _settings(saved, path, word_shapes, n_layers, injection)
        encoder = TransformerEncoder(replace(settings, train_pieces=train_pieces))
        weights = {name: _of_words(tensors, name, tensor) for name, tensor in encoder.state_dict().items()}
        encoder.load_state_dict(weights)
        return encoder, str(values["tokenizer"])
    except (RuntimeError, TypeError, KeyError, OSError) as reason:
        if hasattr(reason, "code"):
            raise
        raise error("E005", path=path, reason=" ".join(str(reason).split())[:300]) from reason


def _settings(
    saved: EncoderSettings, path: Path, word_shapes: bool | None, n_layers: int | None, injection: Injection | None
) -> EncoderSettings:
    if n_layers is not None and not 1 <= n_layers <= saved.n_layers:
        raise error("E007", setting="n_layers", found=n_layers, expected=f"1-{saved.n_layers}, the layers of '{path}'")
    kept = saved.n_layers if n_layers is None else n_layers
    n_shapes = saved.n_shapes if word_shapes is None else N_SHAPES if word_shapes else 0
    entities = None
    if injection is not None:
        begin = None if saved.entities is None else saved.entities.inject_layer
        if saved.entities is None or injection.inject_layer != begin or injection.inject_layer >= kept:
            expected = f"{begin}, in which the entity tokens of '{path}' were trained, and fewer than n_layers ({kept})"
            raise error("E007", setting="inject_layer", found=injection.inject_layer, expected=expected)
        entities = replace(saved.entities, **vars(injection))
    return replace(saved, n_layers=kept, n_shapes=n_shapes, entities=entities)


def _of_words(tensors: dict[str, Tensor], name: str, fresh: Tensor) -> Tensor:
    """A saved tensor; for queries that were not trained, the words' queries; for parts that may be new, as they begin."""
    if name in tensors:
        return tensors[name]
    if ".of_words." in name:
        return tensors[name.replace(".of_words.", ".qkv.")][: len(fresh)]
    if name.startswith(_MAY_BE_NEW):
        return fresh
    raise KeyError(f"no tensor '{name}'")
