from __future__ import annotations

import mmap
import tempfile
import time
from pathlib import Path

import pytest

from entitykit.benchmarks import longdoc, memory
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.pipelines import entity_pipeline
from entitykit.benchmarks.table import run_benchmark
from entitykit.errors import ConfigError

MB = 2**20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longdoc, "QUICK", longdoc.Size(400, 200, 50, 3, 2))


def test_end_to_end(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longdoc, "peak_memory", memory.measure)  # in this process; the next test has one of its own
    report = run_benchmark("longdoc", settings)
    assert list(report.figures) == [key for part in longdoc.PARTS if part.in_quick and not part.on_request for key in part.keys]
    assert report.figures["coverage"] == (1.0, 1.0, 1.0)
    assert report.figures["growth_100k"].value > 0
    assert list(report.settings["memory"]) == ["200", "400"]


def test_memory_is_measured_in_a_process_of_its_own(settings: Settings, tmp_path: Path) -> None:
    entity_pipeline(settings).to_disk(tmp_path / "pipeline")
    (tmp_path / "text.txt").write_text("The river was frozen. " * 200, encoding="utf-8")
    use = memory.peak_memory(tmp_path / "pipeline", tmp_path / "text.txt")
    assert 0 < use.anonymous <= use.total
    assert use.loaded > 50 * MB
    assert use.highest >= use.loaded


def test_process_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "executable", "false")
    with pytest.raises(ConfigError, match=r"E447.*exit code 1"):
        memory.peak_memory(tmp_path, tmp_path)


def test_systems_without_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "STATUS", tmp_path / "status")
    with pytest.raises(ConfigError, match="E446"):
        memory.peak_memory(tmp_path, tmp_path)


def test_kinds_of_memory_are_told_apart() -> None:
    before = memory.resident()
    with memory.watch() as seen:
        with mmap.mmap(-1, 64 * MB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:  # not from what malloc has kept
            block.write(b"1" * MB * 64)
            time.sleep(0.05)
        with tempfile.TemporaryFile() as file:
            file.truncate(32 * MB)
            with mmap.mmap(file.fileno(), 32 * MB) as pages:
                pages[:: mmap.PAGESIZE] = bytes(len(range(0, 32 * MB, mmap.PAGESIZE)))
                time.sleep(0.05)
    assert max(each.anonymous for each in seen) - before.anonymous == pytest.approx(64 * MB, abs=8 * MB)
    assert max(each.file for each in seen) - before.file == pytest.approx(32 * MB, abs=4 * MB)


def test_growth_compares_time_per_word(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"short": [1.5, 1.5], "middle": [2.0, 2.0], "long": [8.0, 16.0]}  # of 150, 200 and 400 words
    monkeypatch.setattr(longdoc, "in_turn", lambda sides, rounds, warm_up: {name: times[name] for name in sides})
    figures = run_benchmark("longdoc", settings, only=["growth_100k", "growth_10k"]).figures
    assert figures["growth_100k"].value == pytest.approx(3.0)
    assert figures["growth_10k"].value == pytest.approx(1.0)
