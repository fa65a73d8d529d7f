"""Encoder-decoder checkpoints of `transformers` as thinc models: weights, configuration and tokenizer in one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

from spacy.tokens import Doc
from thinc.api import Model
from tokenizers import Tokenizer

from entitykit.bridge.checkpoints import find_checkpoint, one_line, quiet_transformers
from entitykit.bridge.genre_tasks import GenreSettings
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.weights import STORAGES, Storage
from entitykit.errors import error
from entitykit.models.genre import Seq2Seq

GenreModel = Model[Sequence[Doc], Any]


def build_seq2seq(settings: Mapping[str, Any]) -> Seq2Seq:
    """Build a random model from saved settings."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM  # slow to import, and only needed here

    values = dict(settings["config"])
    with quiet_transformers():
        network = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    return Seq2Seq(network, settings["start"], _new_cache)


def load_seq2seq(name: str) -> tuple[Seq2Seq, dict[str, Any]]:
    """Load a checkpoint.

    Args:
        name: a folder or a name on the Hub.

    Returns:
        The model, and its settings as JSON values. Its outputs begin as those of ``generate`` do: with the configuration's
        `decoder_start_token_id`, and `forced_bos_token_id` behind it if there is one.

    Raises:
        CheckpointError: E001 for an unknown name, E002 for a folder without configuration, weights or fast tokenizer, E004 for
            missing weights, E005 for damaged files, E535 for a model that is no encoder-decoder.
    """
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

    folder = find_checkpoint(name)
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder)
            if not config.is_encoder_decoder:
                raise error("E535", name=name, found=config.model_type)
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True)
            network, info = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
    except Exception as reason:  # safetensors and tokenizers raise bare exceptions of their own for damaged files
        if hasattr(reason, "code"):
            raise
        raise error("E005", path=folder, reason=one_line(reason)) from reason
    if not tokenizer.is_fast:
        raise error("E002", name=name, file="fast tokenizer", expected="tokenizer.json")
    if info["missing_keys"]:
        raise error("E004", name=name, tensor=sorted(info["missing_keys"])[0])
    before, after = _around(tokenizer)
    forced = network.generation_config.forced_bos_token_id
    settings = {
        "config": json.loads(config.to_json_string(use_diff=False)),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "start": [config.decoder_start_token_id, *([] if forced is None else [forced])],
        "before": before,
        "after": after,
        "end": config.eos_token_id,
        "pad": config.pad_token_id,
    }
    for what, token in (("decoder_start_token_id", settings["start"][0]), ("eos_token_id", settings["end"])):
        if not isinstance(token, int):
            raise error("E003", name=name, what=what, found=token, expected="a number in config.json")
    return Seq2Seq(network, settings["start"], _new_cache), settings


def genre(
    name: str,
    context: int = 384,
    passage: int = 256,
    output: int = 1024,
    batch_tokens: int = 16384,
    smoothing: float = 0.1,
    marks: tuple[str, str] | list[str] = ("[START_ENT]", "[END_ENT]"),
    storage: str = "fp32",
    bf16: bool = False,
) -> GenreModel:
    """Make a generator of names, registered as ``entitykit.Genre.v1``; `initialize` loads the checkpoint.

    Args:
        name: a checkpoint of an encoder-decoder that `transformers` loads with ``AutoModelForSeq2SeqLM`` (BART, T5 …): a folder
            or a name on the Hub.
        context: most tokens that are read around a mention that is to be disambiguated.
        passage: most tokens of a passage that is written with markup.
        output: most tokens of what is written.
        batch_tokens: tokens that are at work at once: of sources, once for each beam, or, in training, of sources and outputs;
            this bounds memory.
        smoothing: label smoothing in training.
        marks: what stands before and behind the mention that is to be disambiguated.
        storage: precision of saved weights: ``fp32``, ``fp16`` or ``int8``.
        bf16: compute in bfloat16 on CUDA devices.

    Raises:
        ConfigError: E537 for a value out of range.
    """
    least = {"context": (context, 64), "passage": (passage, 16), "output": (output, 32), "batch_tokens": (batch_tokens, 1)}
    for setting, (value, lowest) in least.items():
        if value < lowest:
            raise error("E537", setting=setting, found=value, expected=f"at least {lowest}")
    if not 0 <= smoothing < 1:
        raise error("E537", setting="smoothing", found=smoothing, expected="at least 0 and below 1")
    if len(marks) != 2 or not all(marks):
        raise error("E537", setting="marks", found=marks, expected="two texts")
    if storage not in STORAGES:
        raise error("E537", setting="storage", found=storage, expected=", ".join(STORAGES))
    settings = GenreSettings(
        context=context,
        passage=passage,
        output=output,
        batch_tokens=batch_tokens,
        smoothing=smoothing,
        marks=(marks[0], marks[1]),
    )
    shim = TorchShim(build_seq2seq, group="encoder", storage=cast(Storage, storage), bf16=bf16)
    return Model("entitykit-genre", _forward, init=partial(_init, name), attrs={"settings": settings}, shims=[shim])


def _init(name: str, model: GenreModel, X: object = None, Y: object = None) -> None:
    shim = cast(TorchShim, model.shims[0])
    if shim.is_built:
        return
    module, settings = load_seq2seq(name)
    longest = settings["config"].get("max_position_embeddings")
    for setting in ("context", "passage", "output"):
        value = getattr(model.attrs["settings"], setting)
        if longest is not None and value > longest:
            raise error("E537", setting=setting, found=value, expected=f"at most {longest}, which '{name}' can read")
    shim.adopt(module, settings)


def _forward(model: GenreModel, X: Sequence[Doc], is_train: bool) -> tuple[Any, Callable[..., Any]]:
    """Not used: outputs are written token by token."""
    raise NotImplementedError


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text."""
    encoding = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()).encode("a")
    special = encoding.special_tokens_mask
    first = special.index(0)
    last = len(special) - special[::-1].index(0)
    return encoding.ids[:first], encoding.ids[last:]


def _new_cache() -> Any:
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(DynamicCache(), DynamicCache())
