"""Training as a user does it, `spacy train CONFIG`, and remembering what came out of it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus
from thinc.api import Config

from entitykit.benchmarks.parts import Settings, progress
from entitykit.corpora.build import ENTITIES
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
        given: a span group that documents have before they are scored, with the spans of the reference; empty for none.
        measure: scores a pipeline in a way of its own.
    """

    name: str
    config: Config
    train: Path
    dev: Path
    test: Path
    scores: Sequence[str]
    given: str = ""
    measure: Callable[[Path, Task], Outcome] | None = None


Outcome = Mapping[str, float]
"""The kept scores, and `minutes` of training from the command to its end."""


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """The folder for corpora, models and results: in the user's, which stays, or a temporary one."""
    if settings.work is not None:
        work = settings.work / ("quick" if settings.quick else "full")
        work.mkdir(parents=True, exist_ok=True)
        yield work
    else:
        with tempfile.TemporaryDirectory(prefix="entitykit-") as folder:
            yield Path(folder)


def run_seeds(task: Task, settings: Settings, work: Path) -> dict[str, Outcome]:
    """Train and score once per seed; what was measured before of the same config, data and seed is not measured again.

    Args:
        task: what to train.
        settings: with seeds and steps.
        work: from `work_folder`.

    Returns:
        By seed.

    Raises:
        ConfigError: E445 if a training fails.
    """
    config = task.config.copy()
    if settings.max_steps:
        config["training"]["max_steps"] = settings.max_steps
    outcomes = {}
    for seed in settings.seeds:
        measured = [*task.scores, getattr(task.measure, "__qualname__", "")]
        text = "".join([config.to_str(), str(seed), *(_digest(path) for path in (task.train, task.dev, task.test)), *measured])
        result = work / "results" / f"{task.name}-seed{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
        outcomes[str(seed)] = _remembered(result, lambda seed=seed: _train_and_score(task, config, seed, work))  # type: ignore[misc]
    return outcomes


def write_docs(path: Path, docs: Iterable[Doc], *, user_data: bool = False) -> Path:
    """Write documents as a DocBin, as `entitykit convert` does; those without words are left out.

    Args:
        path: the file.
        docs: the documents.
        user_data: write `doc.user_data`, too, which has relations.
    """
    replace_file(path, DocBin(docs=[doc for doc in docs if len(doc)], store_user_data=user_data).to_bytes())
    return path


def spacy_train(config: Path, output: Path, overrides: Mapping[str, str]) -> None:
    """Run `spacy train CONFIG --output OUTPUT --KEY VALUE …` in a process of its own.

    Raises:
        ConfigError: E445 if it fails.
    """
    options = [text for key, value in overrides.items() for text in (f"--{key}", value)]
    command = [sys.executable, "-m", "spacy", "train", str(config), "--output", str(output), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise error("E445", command=" ".join(command), status=run.returncode, output=(run.stdout + run.stderr)[-3000:])


def _train_and_score(task: Task, config: Config, seed: int, work: Path) -> Outcome:
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{task.name}-seed{seed}-") as folder:
        path, output = Path(folder, "config.cfg"), Path(folder, "output")
        config.to_disk(path)
        progress(f"training {task.name}, seed {seed}")
        start = time.perf_counter()
        spacy_train(path, output, {"paths.train": str(task.train), "paths.dev": str(task.dev), "system.seed": str(seed)})
        minutes = (time.perf_counter() - start) / 60
        scores = (task.measure or _score)(output / "model-last", task)
    progress(f"{task.name}, seed {seed}: " + ", ".join(f"{key} {score:.4f}" for key, score in scores.items()))
    return {**scores, "minutes": round(minutes, 2)}


def _score(pipeline: Path, task: Task) -> dict[str, float]:
    nlp = spacy.load(pipeline)
    examples = list(Corpus(task.test)(nlp))
    if task.given:
        for eg in examples:
            spans = eg.reference.spans.get(ENTITIES, eg.reference.ents)
            eg.predicted.spans[task.given] = [Span(eg.predicted, span.start, span.end) for span in spans]
    found = nlp.evaluate(examples)
    return {key: found[key] for key in task.scores}


def _remembered(path: Path, measure: Callable[[], Outcome]) -> Outcome:
    """Read a result, or measure and keep it."""
    if path.exists():
        outcome: Outcome = json.loads(path.read_text(encoding="utf-8"))
        progress(f"{path.stem}: found in {path.parent}")
        return outcome
    outcome = measure()
    replace_file(path, json.dumps(outcome).encode())
    return outcome


def replace_file(path: Path, content: bytes) -> None:
    """Write a file at one stroke: other runs in the same folder may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
