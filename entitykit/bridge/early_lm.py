"""Language models of `transformers`, by name or path: their lowest layers, and their tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, processors
from torch import nn

from entitykit.bridge.checkpoints import find_checkpoint, one_line, quiet_transformers
from entitykit.bridge.weights import check_finite
from entitykit.errors import EntityKitError, error
from entitykit.models.encoder.early_lm import EarlyLM, EarlyLMSettings, check_layers
from entitykit.models.encoder.transformer import Pack

_NO_LIMIT = 2**31 - 1
_POOLER = "pooler."
_RUNS = "models of a list of blocks, each from one state per piece to one state per piece"


def load_early_lm(name: str, *, n_layers: int | None, bos: bool, frozen: bool) -> tuple[EarlyLM, str]:
    """Load a checkpoint's lowest layers and its tokenizer; weights of other layers and of heads are not read.

    Args:
        name: a folder or a name on the Hub.
        n_layers: layers to keep; none: all.
        bos: start every window with the model's first piece (``bos_token_id``) also where the tokenizer adds none.
        frozen: learn nothing.

    Returns:
        The encoder, and the tokenizer as JSON of the `tokenizers` library.

    Raises:
        ConfigError: E007 for a number of layers that the checkpoint does not have.
        CheckpointError: as `find_checkpoint`; E003 for a model that the encoder cannot run, E004 for missing weights, E005 for
            damaged files, E010 for weights that are not finite.
    """
    from transformers import AutoTokenizer

    folder = find_checkpoint(name)
    try:
        with quiet_transformers():
            config = _read_config(folder, name)
            settings = _read_settings(config, name, n_layers=n_layers, frozen=frozen)
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
            model = _load_model(folder, config, settings, name)
    except EntityKitError:
        raise
    except Exception as reason:  # transformers, safetensors and tokenizers raise many kinds for damaged files
        raise error("E005", path=folder, reason=one_line(reason)) from reason
    if not tokenizer.is_fast:
        raise error("E002", name=name, file="fast tokenizer", expected="tokenizer.json")
    encoder = _wrap(replace(settings, first_position=_first_position(model)), model, name)
    _try(encoder, name)
    return encoder, _with_first_piece(tokenizer.backend_tokenizer, config.bos_token_id if bos else None)


def build_early_lm(settings: Mapping[str, Any]) -> EarlyLM:
    """Build the encoder from saved settings, with weights that are still to be loaded.

    Raises:
        CheckpointError: E003 if the installed `transformers` does not know the model.
    """
    from transformers import AutoConfig, AutoModel
    from transformers.modeling_utils import no_init_weights

    ours = EarlyLMSettings(**settings["encoder"])
    model_type = str(ours.config.get("model_type"))
    try:
        config = AutoConfig.for_model(**ours.config)
        with no_init_weights():
            model = AutoModel.from_config(_cut(config, ours.n_layers), **_loading(config))
    except (ImportError, ValueError) as reason:
        expected = f"what the installed transformers knows ({one_line(reason)})"
        raise error("E003", name="saved with the pipeline", what="model type", found=model_type, expected=expected) from reason
    return _wrap(ours, model, model_type)


def _read_config(folder: Path, name: str) -> Any:
    """The configuration of a checkpoint whose model type `transformers` knows; nothing that comes with it is run."""
    from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig

    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model_type not in CONFIG_MAPPING or CONFIG_MAPPING[model_type] not in MODEL_MAPPING:
        raise error("E003", name=name, what="model type", found=model_type, expected="language models that transformers knows")
    return AutoConfig.from_pretrained(folder)


def _number_of_layers(config: Any, name: str) -> int:
    """Blocks of the whole model, if it is of a kind that can run."""
    if getattr(config, "is_encoder_decoder", False):
        raise error("E003", name=name, what="kind", found="encoder and decoder", expected="an encoder or a decoder alone")
    sizes = [getattr(config, size, None) for size in ("num_hidden_layers", "hidden_size", "vocab_size")]
    if not all(isinstance(size, int) for size in sizes):
        raise error("E003", name=name, what="model type", found=config.model_type, expected="language models for text alone")
    return int(config.num_hidden_layers)


def _read_settings(config: Any, name: str, *, n_layers: int | None, frozen: bool) -> EarlyLMSettings:
    """What to keep of a model, as its configuration says it."""
    n_whole = _number_of_layers(config, name)
    kept = n_whole if n_layers is None else n_layers
    fewest = min(n_whole, 2 if getattr(config, "conv_kernel_size", 0) else 1)  # DeBERTa's convolution follows the first block
    if not fewest <= kept <= n_whole:
        raise error("E007", setting="n_layers", found=n_layers, expected=f"{fewest}-{n_whole}, the layers of '{name}'")
    return EarlyLMSettings(
        config=json.loads(config.to_json_string(use_diff=False)),
        width=config.hidden_size,
        n_layers=kept,
        has_top=kept == n_whole,
        n_positions=getattr(config, "max_position_embeddings", None) or _NO_LIMIT,
        pad=_pad_of(config),
        frozen=frozen,
    )


def _cut(config: Any, n_layers: int) -> Any:
    """Let the model have its lowest layers only, keep nothing for generation and compile nothing; changes the configuration."""
    config.num_hidden_layers = n_layers
    config.use_cache = False
    if hasattr(config, "reference_compile"):
        config.reference_compile = False
    return config


def _loading(config: Any) -> dict[str, Any]:
    """Single precision, and an attention that takes padded batches: some models prefer one that does not."""
    from transformers import MODEL_MAPPING

    sdpa = getattr(MODEL_MAPPING[type(config)], "_supports_sdpa", False)
    return {"torch_dtype": torch.float32, "attn_implementation": "sdpa" if sdpa else "eager"}


def _load_model(folder: Path, config: Any, settings: EarlyLMSettings, name: str) -> nn.Module:
    """The cut model with its weights; what it lacks in the checkpoint would be random, and is refused."""
    from transformers import AutoConfig, AutoModel

    cut = _cut(config, settings.n_layers)
    _empty(cut, name)
    model, info = AutoModel.from_pretrained(folder, config=cut, output_loading_info=True, **_loading(cut))
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(_POOLER))
    if missing and not settings.has_top:
        whole = _empty(AutoConfig.for_model(**settings.config), name).state_dict()
        if missing[0] not in whole:
            found = f"{type(model).__name__}, which has a tensor '{missing[0]}' only where it is cut"
            raise error("E003", name=name, what="architecture", found=found, expected=_RUNS)
    if missing:
        raise error("E004", name=name, tensor=missing[0])
    check_finite({key: tensor for key, tensor in model.named_parameters() if not key.startswith(_POOLER)}, name)
    return model


def _empty(config: Any, name: str) -> nn.Module:
    """The model without memory for its weights: what cannot be built is no damaged file."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            model: nn.Module = AutoModel.from_config(config, **_loading(config))
    except Exception as reason:  # whatever a foreign model's code raises
        raise error("E003", name=name, what="architecture", found=one_line(reason), expected=_RUNS) from reason
    return model


def _wrap(settings: EarlyLMSettings, model: Any, name: str) -> EarlyLM:
    if getattr(model, "pooler", None) is not None:
        model.pooler = nn.Identity()  # it reads one piece for all; checkpoints often lack its weights
    try:
        return EarlyLM(settings, model)
    except LookupError as reason:
        raise error("E003", name=name, what="architecture", found=reason, expected=_RUNS) from reason


def _try(encoder: EarlyLM, name: str) -> None:
    """Let two sequences of unequal length show that the model gives what it should."""
    settings = encoder.settings
    model: Any = encoder.model
    ids = (settings.pad + 1 + torch.arange(5)) % model.config.vocab_size
    pack = Pack(ids=ids, positions=torch.tensor([0, 1, 0, 1, 2]), shapes=torch.zeros_like(ids), lengths=(2, 3))
    try:
        with torch.no_grad():
            shapes = {tuple(states.shape) for states in encoder.eval()(pack, range(settings.n_layers + 1)).values()}
            if shapes == {(len(ids), settings.width)}:
                check_layers(encoder, ids, pack.lengths)
    except Exception as reason:  # whatever a foreign model's code raises, the encoder cannot run it
        raise error("E003", name=name, what="architecture", found=one_line(reason), expected=_RUNS) from reason
    if shapes != {(len(ids), settings.width)}:
        raise error("E003", name=name, what="states of the sizes", found=shapes, expected=_RUNS)


def _first_position(model: nn.Module) -> int:
    """Position id of a sequence's first piece: RoBERTa and its kin count from behind the padding piece's."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.padding_idx + 1
    return 0


def _pad_of(config: Any) -> int:
    """A piece to fill batches with, even for models that have none for that."""
    pad = getattr(config, "pad_token_id", None)
    return pad if isinstance(pad, int) and 0 <= pad < config.vocab_size else 0


def _with_first_piece(tokenizer: Tokenizer, bos: object) -> str:
    """The tokenizer as JSON, told to put a piece before each text if it puts nothing around texts."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    if isinstance(bos, int) and copy.id_to_token(bos) is not None and not any(copy.encode("a").special_tokens_mask):
        piece = copy.id_to_token(bos)
        copy.post_processor = processors.TemplateProcessing(single=[piece, "$A"], special_tokens=[(piece, bos)])
    text: str = copy.to_str()
    return text
