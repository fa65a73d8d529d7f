"""Weights as safetensors with their settings beside them, at full, half or eight-bit precision."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from entitykit.errors import error

Storage = Literal["fp32", "fp16", "int8"]
STORAGES = ("fp32", "fp16", "int8")
WEIGHTS_FILE = "weights.safetensors"
"""What a component's weights are called in its folder."""
_SCALE = ".scale"


def dump_weights(tensors: Mapping[str, Tensor], settings: Mapping[str, Any], *, storage: Storage = "fp32") -> bytes:
    """Write tensors and settings as one safetensors file.

    Args:
        tensors: float tensors by name.
        settings: JSON values; they become the file's metadata.
        storage: ``fp32`` keeps every bit; ``fp16`` rounds to half precision; ``int8`` stores matrices of more than 4,096 rows
            (embeddings) as eight-bit integers with one scale per row, and rounds the rest to half precision. A tensor with a
            number that half precision cannot hold keeps every bit.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().float().contiguous()
        if storage == "int8" and tensor.dim() == 2 and tensor.shape[0] > 4096:
            scale = tensor.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
            stored[name] = (tensor / scale).round().to(torch.int8)
            stored[name + _SCALE] = scale
        else:
            half = tensor.half()
            stored[name] = half if storage != "fp32" and half.isfinite().all() else tensor
    return save_tensors(stored, metadata={"settings": json.dumps(dict(settings), sort_keys=True)})


def parse_weights(data: bytes, *, path: str | Path = "bytes") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `dump_weights` wrote.

    Args:
        data: the file's content.
        path: where it came from, for messages.

    Returns:
        Single-precision tensors by name, and the settings.

    Raises:
        CheckpointError: E005 if the content is damaged or cut short, E010 if it has numbers that are not finite.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        settings = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["settings"])
        stored = load_tensors(data)
        quantized = [name for name, tensor in stored.items() if tensor.dtype == torch.int8]
        scales = {name: stored.pop(name + _SCALE) for name in quantized}
    except (SafetensorError, ValueError, TypeError, KeyError) as reason:
        raise error("E005", path=path, reason=str(reason)[:200] or type(reason).__name__) from reason
    tensors = {name: tensor.float() * scales.get(name, 1.0) for name, tensor in stored.items()}
    check_finite(tensors, path)
    return tensors, settings


def check_finite(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Refuse weights of a training that failed: whatever reads them gives nothing but NaN.

    Args:
        tensors: by name.
        path: where they came from, for messages.

    Raises:
        CheckpointError: E010 if one has NaN or infinite numbers.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise error("E010", name=path, tensor=name)
