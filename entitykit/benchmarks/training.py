"""Training as a user does it, `spacy train CONFIG`, and remembering what came out of it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from thinc.api import Config

from entitykit.benchmarks.parts import Settings, progress
from entitykit.errors import error


class Task(NamedTuple):
    """What is trained, on what, and measured by what.

    Attributes:
        name: for messages and file names.
        config: a training config.
        train: DocBin to learn from.
        dev: DocBin on which `spacy train` shows scores.
        test: DocBin to score on after the last step.
        scores: keys of spaCy's scores that are kept.
    """

    name: str
    config: Config
    train: Path
    dev: Path
    test: Path
    scores: Sequence[str]


Outcome = Mapping[str, float]
"""The kept scores, and `minutes` of training from the command to its end."""


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """The folder for corpora, models and results: the user's, which stays, or a temporary one."""
    if settings.work is not None:
        settings.work.mkdir(parents=True, exist_ok=True)
        yield settings.work
    else:
        with tempfile.TemporaryDirectory(prefix="entitykit-") as folder:
            yield Path(folder)


def run_seeds(task: Task, settings: Settings, work: Path) -> dict[str, Outcome]:
    """Train and score once per seed; what was measured before for the same config, data and seed is not measured again.

    Args:
        task: what to train.
        settings: with seeds and steps.
        work: from `work_folder`.

    Returns:
        By seed.

    Raises:
        EntityKitError: E446 if a training fails.
    """
    config = task.config.copy()
    if settings.max_steps:
        config["training"]["max_steps"] = settings.max_steps
    outcomes = {}
    for seed in settings.seeds:
        text = "".join([config.to_str(), str(seed), *(_digest(path) for path in (task.train, task.dev, task.test))])
        result = work / "results" / f"{task.name}-seed{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        outcomes[str(seed)] = _remembered(result, lambda seed=seed: _train_and_score(task, config, seed, work))  # type: ignore[misc]
    return outcomes


def write_docs(path: Path, docs: Iterable[Doc]) -> Path:
    """Write documents as a DocBin, as `entitykit convert` does; those without words are left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=[doc for doc in docs if len(doc)]).to_disk(path)
    return path


def _train_and_score(task: Task, config: Config, seed: int, work: Path) -> Outcome:
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{task.name}-seed{seed}-") as folder:
        path = Path(folder, "config.cfg")
        config.to_disk(path)
        command = ["spacy", "train", str(path), "--paths.train", str(task.train), "--paths.dev", str(task.dev)]
        command += ["--system.seed", str(seed), "--output", folder]
        progress(f"training {task.name}, seed {seed}")
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False)
        minutes = (time.perf_counter() - start) / 60
        if run.returncode != 0:
            raise error("E446", command=" ".join(command), code=run.returncode, output=(run.stdout + run.stderr)[-3000:])
        scores = _score(Path(folder, "model-last"), task)
    progress(f"{task.name}, seed {seed}: " + ", ".join(f"{key} {score:.4f}" for key, score in scores.items()))
    return {**scores, "minutes": round(minutes, 2)}


def _score(pipeline: Path, task: Task) -> dict[str, float]:
    nlp = spacy.load(pipeline)
    found = nlp.evaluate(list(Corpus(task.test)(nlp)))
    return {key: found[key] for key in task.scores}


def _remembered(path: Path, measure: Callable[[], Outcome]) -> Outcome:
    """Read a result, or measure and keep it."""
    if path.exists():
        outcome: Outcome = json.loads(path.read_text(encoding="utf-8"))
        progress(f"{path.stem}: found in {path.parent}")
        return outcome
    outcome = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(outcome), encoding="utf-8")
    unfinished.replace(path)
    return outcome


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
