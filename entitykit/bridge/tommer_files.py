"""Probes as the authors of ToMMeR release them (repository VictorMorand/llm2ner), for `entitykit_mentions`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from entitykit.bridge.checkpoints import HubError, download, one_line
from entitykit.bridge.weights import check_finite
from entitykit.errors import EntityKitError, error

_CONFIGS = ("experimaestro.json", "definition.json")
_WEIGHTS = ("model.safetensors", "parameters")
_TENSORS = {"W_Q": 2, "W_K": 2, "classifier.fc.weight": 2, "classifier.fc.bias": 1, "cl_w": 4}
"""Their tensors and how many dimensions these have; `cl_w` holds the five θ."""


class ReleasedProbe(NamedTuple):
    """A released probe in the terms of `entitykit.models.mentions.ToMMeR`.

    Attributes:
        settings: what the settings of a probe with these weights must be, its window aside.
        window: the widest window that it was made for; 0 for any.
        weights: a state dict.
        made_on: the language model.
    """

    settings: dict[str, Any]
    window: int
    weights: dict[str, Tensor]
    made_on: str


def load_tommer(name: str) -> ReleasedProbe:
    """Read a released probe.

    Its layer l is the output of the language model's block l, counted from 0: our layer l + 1. It was made to match pieces;
    here it matches words, whose states an encoder pools from pieces.

    Args:
        name: a folder, or a name on the Hub.

    Raises:
        CheckpointError: E009 for a folder that holds no such probe, or one of a kind that ours cannot be; E010 for weights that
            are not finite.
    """
    try:
        folder = Path(name) if Path(name).is_dir() else download(name)
        fields = _read_fields(_first_of(folder, _CONFIGS))
        tensors = _read_tensors(_first_of(folder, _WEIGHTS))
        check_finite(tensors, name)
        return _convert(fields, tensors)
    except EntityKitError:
        raise
    except HubError as reason:
        raise error("E009", name=name, reason=f"it is no folder here, and the Hub did not give it: {reason}") from reason
    except Exception as reason:  # json, safetensors and torch raise many kinds for damaged files
        raise error("E009", name=name, reason=one_line(reason)) from reason


def _first_of(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise LookupError(f"it has no {' or '.join(names)}")


def _read_fields(path: Path) -> dict[str, Any]:
    """The probe's settings among the objects that the file describes."""
    content = json.loads(path.read_text(encoding="utf-8"))
    objects = content["objects"] if isinstance(content, dict) else content
    fields = [entry["fields"] for entry in objects if entry["type"] == "ToMMeR"]
    if len(fields) != 1:
        raise LookupError(f"{path.name} describes {len(fields)} objects of the type ToMMeR")
    return dict(fields[0])


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)  # reads tensors, runs nothing
    return found


def _convert(fields: dict[str, Any], tensors: dict[str, Tensor]) -> ReleasedProbe:
    for setting, needed in (("causal_mask", True), ("normalize_scores", "")):
        if fields.get(setting, needed) != needed:
            raise LookupError(f"its {setting} is {fields[setting]!r}, and only {needed!r} can be run")
    for name, n_dimensions in _TENSORS.items():
        if name not in tensors or tensors[name].dim() != n_dimensions:
            raise LookupError(f"it has no tensor {name} of {n_dimensions} dimensions")
    query, key = (tensors[name].float().t().contiguous() for name in ("W_Q", "W_K"))
    rank, width = query.shape
    weights = {
        "query.weight": query,
        "key.weight": key,
        "end.weight": tensors["classifier.fc.weight"].float(),
        "end.bias": tensors["classifier.fc.bias"].float(),
        "theta": tensors["cl_w"].float().flatten(),
    }
    shapes = {"query.weight": (rank, width), "key.weight": (rank, width), "end.weight": (1, width), "end.bias": (1,)}
    for name, shape in (shapes | {"theta": (5,)}).items():
        if tuple(weights[name].shape) != shape:
            raise LookupError(f"its tensors do not fit each other: {name} would be {tuple(weights[name].shape)}, not {shape}")
    settings = {
        "width": width,
        "layer": int(fields["layer"]) + 1,
        "rank": rank,
        "cosine": bool(fields.get("use_cosine", False)),
        "start_terms": False,
        "width_bias": False,
    }
    return ReleasedProbe(settings, int(fields.get("sliding_window", 0)), weights, str(fields["llm_name"]))
