"""Checkpoints of a training that goes on exactly where it stopped, and its result.

A checkpoint is a folder `step-N`: ``model.safetensors``, ``optimizer.safetensors`` (AdamW's moments by parameter), and in
``state.json`` the settings and the step, from which the position in the data and the state of all random numbers follow. It
gets its name once it is complete, so a training that was killed leaves no half of one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from entitykit.bridge.encoder_file import ENCODER_FILE
from entitykit.bridge.weights import check_finite, dump_weights
from entitykit.corpora.entity_vocabulary import EntityVocabulary
from entitykit.errors import error
from entitykit.pretraining.luke_format import is_luke, save_luke
from entitykit.pretraining.objective import EntityPretraining
from entitykit.pretraining.settings import FREE

VOCABULARY_FILE = "entity_vocab.json"
HEADS = {"entity_head": "entity_head.safetensors", "word_head": "word_head.safetensors"}
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    folder: Path,
    module: EntityPretraining,
    optimizer: torch.optim.Optimizer,
    step: int,
    made_of: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write a checkpoint, then remove all but the last `keep`.

    Args:
        folder: of all checkpoints.
        module: the weights.
        optimizer: over the module's trained parameters.
        step: updates that were made.
        made_of: settings, and what else must be the same when the training goes on.
        keep: how many to keep, at least 1.

    Raises:
        OutputError: E134 if the folder cannot be written.
    """
    path = folder / f"step-{step:08d}"
    with complete(path) as made:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, made / "model.safetensors")
        moments = {
            f"{name}:{moment}": optimizer.state[parameter][moment].contiguous()
            for name, parameter in module.named_parameters()
            if parameter in optimizer.state
            for moment in _MOMENTS
        }
        save_file(moments, made / "optimizer.safetensors")
        (made / "state.json").write_text(json.dumps({"step": step, "made_of": made_of}, indent=2), encoding="utf-8")
    for _, old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return path


def load_checkpoint(
    folder: Path, module: EntityPretraining, optimizer: torch.optim.Optimizer, made_of: Mapping[str, Any]
) -> int:
    """Load the last checkpoint; arguments as in `save_checkpoint`.

    Returns:
        The updates that were made: 0 if there is no checkpoint, and nothing was loaded.

    Raises:
        ConfigError: E132 if it was made with other settings.
        CheckpointError: E133 if it cannot be read, E010 if its weights are not finite.
    """
    found = _checkpoints(folder)
    if not found:
        return 0
    _, path = found[-1]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        check_same(path, state["made_of"], made_of)
        weights = load_file(path / "model.safetensors")
        check_finite(weights, path)
        module.load_state_dict(weights)
        moments = load_file(path / "optimizer.safetensors")
        for name, parameter in module.named_parameters():
            own = {moment: moments[f"{name}:{moment}"] for moment in _MOMENTS if f"{name}:{moment}" in moments}
            if own:
                optimizer.state[parameter] = {key: _placed(key, tensor, parameter) for key, tensor in own.items()}
        return int(state["step"])
    except (SafetensorError, RuntimeError, OSError, TypeError, KeyError, ValueError) as reason:
        if hasattr(reason, "code"):
            raise
        raise error("E133", path=path, reason=" ".join(str(reason).split())[:300]) from reason


def check_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Compare what a file was made of with what it would be made of now.

    Raises:
        ConfigError: E132 for the first difference, other than in settings that may change.
    """
    for setting in (found.keys() | expected.keys()) - set(FREE):
        old, new = found.get(setting), expected.get(setting)
        if old != new:
            raise error("E132", path=path, setting=setting, found=old, expected=new)


def save_result(path: Path, module: EntityPretraining, tokenizer: str, vocabulary: EntityVocabulary) -> None:
    """Write what `entitykit.EntityEncoder.v1` loads by the folder's path, the heads, and the entities.

    An encoder in LUKE's form is in a folder `luke` beside it, too, as `transformers` has it.

    Raises:
        OutputError: E134 if the folder cannot be written.
    """
    with complete(path) as made:
        settings = {"encoder": asdict(module.encoder.settings), "tokenizer": tokenizer}
        (made / ENCODER_FILE).write_bytes(dump_weights(module.encoder.state_dict(), settings))
        (made / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())
        for name, file in HEADS.items():
            head = getattr(module, name)
            if head is not None:
                (made / file).write_bytes(dump_weights(head.state_dict(), asdict(head.settings)))
    if is_luke(module.encoder.settings, tokenizer):
        with complete(path.with_name("luke")) as made:
            save_luke(made, module, tokenizer)
            (made / VOCABULARY_FILE).write_bytes(vocabulary.to_bytes())


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """Give a folder to write to; it gets its name, and replaces what had it, when everything is on the disk.

    Raises:
        OutputError: E134 if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.parent / f".{path.name}.part"
        shutil.rmtree(made, ignore_errors=True)  # of a training that was killed
        made.mkdir()
        try:
            yield made
            for file in made.iterdir():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if path.exists():
                shutil.rmtree(path)
            made.rename(path)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except (OSError, SafetensorError) as reason:
        if hasattr(reason, "code"):
            raise
        raise error("E134", path=path, reason=reason) from reason


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all checkpoints, in order."""
    matches = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    return sorted((int(match[1]), path) for match, path in matches if match)


def _placed(moment: str, tensor: Tensor, parameter: Tensor) -> Tensor:
    return tensor if moment == "step" else tensor.to(parameter.device)
