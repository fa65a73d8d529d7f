from __future__ import annotations

import json
from pathlib import Path

import pytest

from entitykit.benchmarks import encoder
from entitykit.benchmarks.parts import Figure, Part, Result, Settings
from entitykit.cli.__main__ import main


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which the benchmark `encoder` was run; it measures nothing."""
    seen: list[Settings] = []

    def measure(settings: Settings) -> Result:
        seen.append(settings)
        return Result({"words_per_s": Figure(12345.6, 12000.0, 13000.0), "vs_padded": Figure(2.5, 2.5, 2.5)}, {})

    monkeypatch.setattr(encoder, "PARTS", [Part(("words_per_s", "vs_padded"), measure)])
    return seen


def test_table_and_json(given: list[Settings], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "encoder", "--quick", "--json", str(tmp_path / "figures.json")]) == 0
    title, hint, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("benchmark encoder on ")
    assert hint.startswith("--quick: ")
    assert lines == ["words_per_s      12,346  12,000 – 13,000", "vs_padded         2.500"]
    report = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert report["figures"] == {"words_per_s": 12345.6, "vs_padded": 2.5}
    assert report["settings"]["quick"] is True


def test_options_reach_the_benchmark(given: list[Settings], tmp_path: Path) -> None:
    options = {"--data": "d", "--work": "w", "--configs": "c", "--seeds": "4,5", "--max-steps": "7", "--checkpoint": "roberta"}
    assert main(["benchmark", "encoder", *(text for pair in options.items() for text in pair), "--only", "vs_padded"]) == 0
    assert given == [
        Settings(
            data=Path("d"),
            work=Path("w"),
            configs=Path("c"),
            seeds=(4, 5),
            max_steps=7,
            encoder={"name": "roberta"},
            quick=False,
        )
    ]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--json", "nowhere/figures.json"], "E425"),
        (["--json", "."], "E426"),
        (["--max-steps", "-1"], "E428"),
        (["--only", "speed"], "E443"),
    ],
)
def test_wrong_options_are_found_before_anything_runs(
    options: list[str], code: str, given: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "encoder", *options]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert given == []


@pytest.mark.parametrize("options", [["unknown"], ["encoder", "--seeds", "a"], []])
def test_wrong_arguments(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", *options])
    assert "usage: entitykit benchmark" in capsys.readouterr().err
