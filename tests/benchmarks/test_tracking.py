from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from spacy.cli.train import train
from thinc.api import Config

from entitykit.benchmarks import tracking, training
from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.benchmarks.tracking import answers, ask_worlds, fit_probe, grid_answers, propara_keys
from entitykit.cli.benchmark import table
from entitykit.corpora.boxes import BoxesSettings, repeat_initial, worlds

PARAGRAPH = {
    "para_id": "1",
    "sentence_texts": ["The ice lies in a cave.", "The ice melts to water.", "The water flows into the lake."],
    "participants": ["ice", "water"],
    "states": [["cave", "cave", "-", "-"], ["-", "-", "cave", "lake"]],
}


@pytest.fixture
def with_propara(settings: Settings) -> Settings:
    assert settings.data is not None
    folder = settings.data / "propara"
    folder.mkdir()
    for part in ("train", "dev", "test"):
        lines = (json.dumps({**PARAGRAPH, "para_id": f"{part} {i}"}) for i in range(3))
        (folder / f"grids.v1.{part}.json").write_text("\n".join(lines), encoding="utf-8")
    config = Config().from_disk(CONFIGS / "tracker.cfg", interpolate=False)
    config["training"]["eval_frequency"] = 2
    config.to_disk(settings.configs / "tracker.cfg")
    return settings


@pytest.mark.parametrize("form", tracking.FORMS)
def test_propara(form: str, with_propara: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "spacy_train", here)
    keys = propara_keys(form)
    report = run_benchmark("tracking", with_propara, only=keys)
    assert report.figures.keys() == set(keys)
    assert all(0 <= figure.value <= 1 for figure in report.figures.values())
    assert report.settings[keys[0]]["max_steps"] == 2


def test_boxes(settings: Settings) -> None:
    keys = ["boxes_accuracy_initial", "boxes_accuracy_probe", "boxes_changed_probe", "boxes_things_probe"]
    report = run_benchmark("tracking", settings, only=keys)
    assert all(0 <= report.figures[key].value <= 1 for key in keys)
    details = report.settings["boxes_accuracy_initial"]
    assert details["by operations on the box"][0] == 1.0  # repeating is right where nothing happened
    assert details["by all operations"][0] == 1.0
    assert report.figures["boxes_accuracy_initial"].value < 1


def test_boxes_by_the_number_of_operations(settings: Settings) -> None:
    """Of repeating the initial state: right without an operation, less often after some; and in the printed table."""
    keys = ["boxes_accuracy_initial", *(f"boxes_accuracy_initial_ops{n}" for n in range(5))]
    report = run_benchmark("tracking", settings, only=keys)
    values = [report.figures[key].value for key in keys if key in report.figures]
    assert values[1] == 1.0 > max(values[2:])
    local = report.settings["boxes_accuracy_initial"]["by operations on the box"]
    assert [report.figures[f"boxes_accuracy_initial_ops{n}"].value for n in range(4)] == [local[n] for n in range(4)]
    assert any("boxes_accuracy_initial_ops3" in line for line in table(report))


def test_boxes_of_the_tracker(with_propara: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "DEV_WORLDS", 12)
    monkeypatch.setattr(training, "spacy_train", here)
    report = run_benchmark("tracking", with_propara, only=["boxes_accuracy_tracker", "boxes_changed_tracker"])
    assert all(0 <= figure.value <= 1 for figure in report.figures.values())
    (outcome,) = report.settings["boxes_accuracy_tracker"]["seeds"].values()
    assert {"local_0", "step_0", "step_12", "ops0"} <= outcome.keys()


def here(config: Path, output: Path, overrides: Mapping[str, str]) -> None:
    """A training in this process."""
    train(config, output, overrides={**overrides, "system.seed": int(overrides["system.seed"])})


def test_answers_from_grids() -> None:
    """Of the same things as those from the world itself."""
    (world,) = worlds(BoxesSettings(n_operations=6), n=1, seed=3)
    things = sorted({thing for state in world.states for box in state for thing in box})
    grid = [
        [next((f"Box {box}" for box, own in enumerate(state) if thing in own), "-") for state in world.states]
        for thing in things
    ]
    given = {(a.state[1], frozenset(things[int(i)] for i in a.gold), a.n_local) for a in grid_answers(0, grid, grid)}
    expected = {
        (a.state[1], a.gold, a.n_local) for asked in ask_worlds([world]) for a in answers(asked, world.states[asked.step])
    }
    assert given == expected
    assert all(a.predicted == a.gold for a in grid_answers(0, grid, grid))


def test_states_of_worlds() -> None:
    (world,) = worlds(BoxesSettings(n_operations=5), n=1)
    states = list(ask_worlds([world]))
    assert [asked.step for asked in states] == list(range(6))
    for asked in states:
        inside = {thing: box for box, things in enumerate(world.states[asked.step]) for thing in things}
        assert {t: p for t, p in zip(asked.things, asked.places, strict=True) if p < 7} == inside
        given = list(answers(asked, world.states[asked.step]))
        assert all(answer.predicted == answer.gold for answer in given)
        repeated = list(answers(asked, repeat_initial(world, asked.step)))
        assert all(answer.predicted == answer.initial for answer in repeated)
        assert [answer.n_global for answer in given] == [asked.step] * 7


def test_the_probe_finds_what_is_linear() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(300, 6)).astype(np.float32)
    classes = (states @ rng.normal(size=(6, 3))).argmax(1)
    weights = fit_probe(states[:200], classes[:200], 3)
    found = (states[200:] @ weights[:, :-1].T + weights[:, -1]).argmax(1)
    assert (found == classes[200:]).mean() > 0.9
