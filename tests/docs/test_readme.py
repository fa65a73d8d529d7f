"""The commands and the code of the README run as they stand, in a folder with the files that they name."""

from __future__ import annotations

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
    outputs = []
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        done = subprocess.run([sys.executable, "-c", block], cwd=after, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        outputs.append(done.stdout)
    assert "Ada Lovelace PERSON" in outputs[0]
    assert "'read': " in outputs[0]
    assert "Warsaw Q270 [('Q270', " in outputs[1]
    assert "threshold" in json.loads((after / "out/calibrated/entitykit_ner/cfg.json").read_text(encoding="utf-8"))


def test_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
