"""Settings on a tiny checkpoint and tiny data, and trainings in this process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from spacy.cli.train import train

from entitykit.benchmarks import training
from entitykit.benchmarks.parts import Settings
from tests.benchmarks.data import tiny_settings


@pytest.fixture
def settings(tmp_path: Path, tiny_bert: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_bert)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Trainings run in this process; gives the configs that were trained."""
    trained: list[Path] = []

    def here(config: Path, output: Path, overrides: Mapping[str, str]) -> None:
        trained.append(config)
        train(config, output, overrides={**overrides, "system.seed": int(overrides["system.seed"])})

    monkeypatch.setattr(training, "spacy_train", here)
    return trained
