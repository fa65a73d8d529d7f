"""The commands and the code of the README run as they stand, in a folder with the files that they name."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
SCORE = re.compile(r"\b[01]\.\d+")
"""Their last digits depend on the processor."""
COLUMNS = "Ada B-PER\nmet O\nByron B-PER\n. O\n\nLondon B-LOC\nis O\nold O\n. O\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name."""
    path = tmp_path_factory.mktemp("readme")
    shutil.copytree(ROOT / "examples", path / "examples")
    shutil.copytree(ROOT / "configs", path / "configs")
    for name in ("reports", "mytexts"):
        (path / name).mkdir()
        (path / name / "one.txt").write_text("Grace Hopper worked in New York.", encoding="utf-8")
    (path / "mail.jsonl").write_text(json.dumps({"body": "Dear Alan, see you in Bletchley."}) + "\n", encoding="utf-8")
    for name in ("train", "dev"):
        (path / f"{name}.conll").write_text(COLUMNS, encoding="utf-8")
    return path


def run(command: str, folder: Path) -> str:
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def after(folder: Path, tiny_bert: Path) -> Path:
    """The folder after all commands, in their order. What is shortened: the training runs two steps on a tiny checkpoint."""
    for command in COMMANDS:
        if command.startswith(("make ", "pip ")):  # they run this test, or install what is installed
            continue
        if command.startswith("spacy train"):
            command += (
                f" --components.entitykit_encoder.model.name {tiny_bert} --components.entitykit_encoder.model.window 128"
                " --components.entitykit_encoder.model.overlap 32 --components.entitykit_encoder.model.entities.inject_layer 1"
                " --training.max_steps 2 --training.eval_frequency 1"
            )
        output = run(command, folder)
        if command.endswith("-o -"):
            assert json.loads(output)["text"].startswith("Marie Curie")
    return folder


def test_commands(after: Path) -> None:
    assert len((after / "annotated.jsonl").read_text(encoding="utf-8").splitlines()) == 1
    assert (after / "annotated.parquet").stat().st_size > 0


def test_python_runs(after: Path) -> None:
    n_shown = 0
    for block, shown in re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README, re.DOTALL):
        done = subprocess.run([sys.executable, "-c", block], cwd=after, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        if shown:
            assert SCORE.sub("score", done.stdout) == SCORE.sub("score", shown)
            n_shown += 1
    assert n_shown == README.count("```text") > 0
    assert "threshold" in json.loads((after / "out/calibrated/entitykit_ner/cfg.json").read_text(encoding="utf-8"))


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_figures_are_those_of_the_benchmarks() -> None:
    """Each measured number stands in a row of the documentation that has the figure's name."""
    documents = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    lines = [line for text in documents for line in text.splitlines() if line.startswith("|")]
    rows = re.findall(r"^\| [^|]+ \| ([\d., ]+) \|[^|]*\| `(\w+) --only ([\w,]+)", README, re.MULTILINE)
    assert len(rows) > 9
    for values, benchmark, names in rows:
        parts = importlib.import_module(f"entitykit.benchmarks.{benchmark}").PARTS
        assert set(names.split(",")) <= {key for part in parts for key in part.keys}
        for value, name in zip(values.split(", "), names.split(","), strict=True):
            assert any(f"`{name}`" in line and re.search(rf"\b{value}\b", line) for line in lines), (name, value)
