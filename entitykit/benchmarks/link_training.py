"""Training pipelines with linkers, which other figures need again: they stay in the work folder."""

from __future__ import annotations

import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from thinc.api import Config

from entitykit.benchmarks import training
from entitykit.benchmarks.link_data import LinkData
from entitykit.benchmarks.parts import Settings, progress


class Trained(NamedTuple):
    """A pipeline that `spacy train` has made.

    Attributes:
        path: its folder.
        details: `minutes` of training from the command to its end, and `cpu_minutes` of all cores together.
    """

    path: Path
    details: Mapping[str, float]


def train_pipeline(name: str, config: Config, data: LinkData, seed: int, settings: Settings, work: Path) -> Trained:
    """Train on `data`, unless the work folder has what the same config, data and seed have given.

    Args:
        name: of the folder.
        config: a training config with `paths.kb`.
        data: what to learn.
        seed: of the training.
        settings: with its steps.
        work: from `work_folder`.

    Raises:
        ConfigError: E445 if the training fails.
    """
    config = config.copy()
    config["paths"]["kb"] = str(data.kb)
    if settings.max_steps:
        config["training"]["max_steps"] = settings.max_steps
    text = config.to_str() + str(seed) + hashlib.sha256(data.train.read_bytes()).hexdigest()
    path = work / "models" / f"{name}-seed{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if path.exists():
        progress(f"{path.name}: found in {path.parent}")
        return Trained(path, json.loads((path / "minutes.json").read_text(encoding="utf-8")))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{name}-seed{seed}-") as folder:
        config.to_disk(Path(folder, "config.cfg"))
        progress(f"training {name}, seed {seed}")
        start, used = time.perf_counter(), _cpu_seconds()
        paths = {"paths.train": str(data.train), "paths.dev": str(data.test), "system.seed": str(seed)}
        training.spacy_train(Path(folder, "config.cfg"), Path(folder, "output"), paths)
        minutes = {"minutes": time.perf_counter() - start, "cpu_minutes": _cpu_seconds() - used}
        details = {key: round(seconds / 60, 2) for key, seconds in minutes.items()}
        trained = Path(folder, "output", "model-last")
        (trained / "minutes.json").write_text(json.dumps(details), encoding="utf-8")
        trained.replace(path)
    return Trained(path, details)


def _cpu_seconds() -> float:
    """Of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
