"""Encoders in our own file format, which keeps what no `transformers` checkpoint has: entity tokens on any layer.

Pretraining writes them, and every trained pipeline has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from spacy.util import get_model_meta, get_package_path, is_package, load_config
from tokenizers import Tokenizer
from torch import Tensor

from entitykit.bridge.shapes import N_SHAPES
from entitykit.bridge.weights import WEIGHTS_FILE, parse_weights
from entitykit.errors import error
from entitykit.models.encoder.families import begin_as_masks
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings, Injection, ProbeSettings, encoder_settings
from entitykit.models.encoder.transformer import TransformerEncoder

ENCODER_FILE = "entitykit_encoder.safetensors"
"""An encoder of ours with its settings and tokenizer, as a shim's `to_bytes` gives it."""
_PIPELINE_FILE, _FACTORY = "config.cfg", "entitykit_encoder"
_MASKS = ("[MASK]", "<mask>")
_MAY_BE_NEW = ("probe.", "embeddings.shapes.", "entities.knowledge.")


def find_encoder_file(name: str) -> Path | None:
    """Find the file of an encoder of ours.

    Args:
        name: the folder of a trained pipeline, or the name of its package; the folder of its encoder; or a folder that
            pretraining has made.

    Returns:
        The file; none if `name` is nothing of these.

    Raises:
        CheckpointError: E011 for a pipeline that has not one encoder.
    """
    folder = Path(name)
    if not folder.is_dir() and is_package(name) and (get_package_path(name) / "meta.json").is_file():
        package = get_package_path(name)
        meta = get_model_meta(package)
        folder = package / f"{meta['lang']}_{meta['name']}-{meta['version']}"
    if (folder / _PIPELINE_FILE).is_file():
        components = load_config(folder / _PIPELINE_FILE).get("components", {})
        found = [component for component, config in components.items() if config.get("factory") == _FACTORY]
        if len(found) != 1:
            raise error("E011", name=name, found=", ".join(found) or "none")
        folder = folder / found[0]
    return next((path for file in (ENCODER_FILE, WEIGHTS_FILE) if (path := folder / file).is_file()), None)


def load_encoder_file(
    path: Path, *, word_shapes: bool | None, n_layers: int | None, train_pieces: bool, injection: Injection | None
) -> tuple[TransformerEncoder, str]:
    """Load an encoder and its tokenizer, cut down or added to as is wanted.

    Args:
        path: of the file.
        word_shapes: keep or add a word-shape embedding; none: as in the file.
        n_layers: keep the lowest layers only; none: keep all.
        train_pieces: learn piece embeddings.
        injection: entity tokens; trained ones begin in the layer in which they were trained. None for words only.

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
        tokenizer = str(values["tokenizer"])
        if _saved_probe(saved, injection) is None:
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("probe.")}
        if settings.entities is not None and settings.entities.tokens and not _has_tokens(saved):
            tensors |= {name: fresh for name, fresh in encoder.state_dict().items() if name.startswith("entities.")}
            tensors |= begin_as_masks(tensors, settings, settings.entities, _mask_piece(tokenizer))
        encoder.load_state_dict({name: _tensor(tensors, name, fresh) for name, fresh in encoder.state_dict().items()})
        return encoder, tokenizer
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
    if injection is not None and not 0 <= injection.inject_layer < kept:
        raise error("E007", setting="inject_layer", found=injection.inject_layer, expected=f"0-{kept - 1}, a layer of '{path}'")
    old, new = _saved_probe(saved, injection), None if injection is None else injection.probe
    for name in ("rank", "window") if old is not None and new is not None else ():
        if getattr(new, name) != getattr(old, name):
            expected = f"{getattr(old, name)}, that of the probe of '{path}'"
            raise error("E007", setting=name, found=getattr(new, name), expected=expected)
    entities = None if injection is None else _entity_settings(saved, injection, path)
    return replace(saved, n_layers=kept, n_shapes=n_shapes, entities=entities)


def _entity_settings(saved: EncoderSettings, injection: Injection, path: Path) -> EntitySettings:
    """Trained entity tokens stay what they are; new ones are as in a checkpoint that has none."""
    if saved.entities is None or not _has_tokens(saved):
        return EntitySettings(
            **vars(injection), embedding_width=saved.width, n_positions=saved.n_positions - saved.first_position
        )
    begin = saved.entities.inject_layer
    if injection.tokens and injection.inject_layer != begin:
        expected = f"{begin}, in which the entity tokens of '{path}' were trained"
        raise error("E007", setting="inject_layer", found=injection.inject_layer, expected=expected)
    return replace(saved.entities, **vars(injection))


def _saved_probe(saved: EncoderSettings, injection: Injection | None) -> ProbeSettings | None:
    """The file's probe, if it looks in the layer that is wanted; in another one a probe begins anew."""
    if saved.entities is None or injection is None or saved.entities.inject_layer != injection.inject_layer:
        return None
    return saved.entities.probe


def _has_tokens(saved: EncoderSettings) -> bool:
    return saved.entities is not None and saved.entities.tokens


def _mask_piece(tokenizer: str) -> int:
    """The id of the piece that stands for a masked one, 0 if there is none."""
    pieces = Tokenizer.from_str(tokenizer)
    return next((piece for mask in _MASKS if (piece := pieces.token_to_id(mask)) is not None), 0)


def _tensor(tensors: Mapping[str, Tensor], name: str, fresh: Tensor) -> Tensor:
    """A saved tensor; for queries that were not trained, the words' queries; for parts that may be new, as they begin."""
    if name in tensors:
        return tensors[name]
    if ".of_words." in name:
        return tensors[name.replace(".of_words.", ".qkv.")][: len(fresh)]
    if name.startswith(_MAY_BE_NEW):
        return fresh
    raise KeyError(f"no tensor '{name}'")
