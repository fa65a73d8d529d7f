"""A component's folder: settings as JSON, torch weights as safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import srsly
from thinc.api import Model

from entitykit.bridge.shim import TorchShim
from entitykit.bridge.weights import WEIGHTS_FILE
from entitykit.errors import error

_CFG, _WEIGHTS, _TOK2VEC = "cfg.json", WEIGHTS_FILE, "tok2vec"


def write_model(path: Path, model: Model[Any, Any], cfg: dict[str, Any]) -> None:
    """Write a component.

    Args:
        path: a folder, made if it is not there.
        model: a thinc model around one torch module, perhaps with an embedding layer below.
        cfg: JSON values.

    Raises:
        OutputError: E107 if the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        srsly.write_json(path / _CFG, cfg)
        (path / _WEIGHTS).write_bytes(_shim(model).to_bytes())
        if model.layers:
            (path / _TOK2VEC).write_bytes(model.layers[0].to_bytes())
    except OSError as reason:
        raise error("E107", path=path, reason=reason) from reason


def read_model(path: Path, model: Model[Any, Any]) -> dict[str, Any]:
    """Read what `write_model` wrote into a model of the same architecture.

    Returns:
        The component's settings.

    Raises:
        CheckpointError: E108 for a missing file, E005 for a damaged one.
    """
    for name in (_CFG, _WEIGHTS, _TOK2VEC) if model.layers else (_CFG, _WEIGHTS):
        if not (path / name).is_file():
            raise error("E108", path=path / name)
    _shim(model).from_bytes((path / _WEIGHTS).read_bytes(), path=str(path / _WEIGHTS))
    if model.layers:
        with _refuse_damaged(path / _TOK2VEC):
            model.layers[0].from_bytes((path / _TOK2VEC).read_bytes())
    return read_cfg(path)


def write_cfg(path: Path, cfg: dict[str, Any]) -> None:
    """Write the settings of a component without weights.

    Raises:
        OutputError: E107 if the folder cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        srsly.write_json(path / _CFG, cfg)
    except OSError as reason:
        raise error("E107", path=path, reason=reason) from reason


def read_cfg(path: Path) -> dict[str, Any]:
    """Read a component's settings.

    Raises:
        CheckpointError: E108 for a missing file, E005 for a damaged one.
    """
    if not (path / _CFG).is_file():
        raise error("E108", path=path / _CFG)
    with _refuse_damaged(path / _CFG):
        return dict(srsly.read_json(path / _CFG))


@contextmanager
def _refuse_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as reason:
        raise error("E005", path=path, reason=reason) from reason


def _shim(model: Model[Any, Any]) -> TorchShim:
    return cast(TorchShim, model.shims[0])
