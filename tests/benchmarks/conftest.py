"""Settings on a tiny checkpoint and tiny data."""

from __future__ import annotations

from pathlib import Path

import pytest

from entitykit.benchmarks.parts import Settings
from tests.benchmarks.data import tiny_settings


@pytest.fixture
def settings(tmp_path: Path, tiny_bert: Path) -> Settings:
    return tiny_settings(tmp_path, tiny_bert)
