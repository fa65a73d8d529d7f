"""Relations between clusters on Re-DocRED by `configs/relations_document.cfg`, with gold clusters.

Of the 500 documents of the development set 100 are scored and 400 learned from: sorted by the SHA-256 of their titles, the
first 100 are the test. Ign-F1 leaves out facts that the 400 say. `spacy train` shows the scores of the first 50 of these 400,
and nothing is chosen by them: scored is what the last step leaves. The form `_tokens` has an entity token for each mention of a
gold cluster, from half of the layers on, in the place of states pooled from its words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import spacy
from spacy.tokens import Doc
from spacy.training import Corpus

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import give_tokens, read_config
from entitykit.benchmarks.training import Task, run_seeds, work_folder, write_docs
from entitykit.corpora.clusters import PREFIX
from entitykit.corpora.given import given_clusters
from entitykit.corpora.read import read_docs

FILE = "redocred/dev_revised.json"
KEYS = ("redocred_f1", "redocred_ign_f1")
TOKEN_KEYS = ("redocred_f1_tokens", "redocred_ign_f1_tokens")
SCORES = ["rel_doc_f", "rel_doc_ign_f", "rel_doc_p", "rel_doc_r", "rel_doc_macro_f"]
"""What is kept of the scores; the first two are the figures."""
N_TEST, N_SHOWN = 100, 50
QUICK_DOCS = 20
QUICK_STEPS = 4


def split(docs: Sequence[Doc], n_test: int = N_TEST) -> tuple[list[Doc], list[Doc]]:
    """The documents to learn from and those to score, by the rule above."""
    ordered = sorted(docs, key=lambda doc: hashlib.sha256(str(doc.user_data["id"]).encode()).hexdigest())
    return ordered[n_test:], ordered[:n_test]


def read_split(settings: Settings) -> tuple[list[Doc], list[Doc]]:
    """Read the documents to learn from and those to score.

    Raises:
        InputError: E440 or E441 if the file is missing.
        CorpusError: E2xx for a file that cannot be read.
    """
    (path,) = find_files(settings, FILE)
    docs = list(read_docs(path, "docred", spacy.blank("en"), limit=QUICK_DOCS if settings.quick else 0))
    return split(docs, min(N_TEST, len(docs) // 4))


def write_parts(folder: Path, train: Sequence[Doc], shown: int, test: Sequence[Doc]) -> tuple[Path, Path, Path]:
    """Write DocBins of what is learned from, of the first of that, which are shown, and of what is scored."""
    parts = {"train": train, "dev": train[:shown], "test": test}
    written = [write_docs(folder / f"redocred-{name}.spacy", part, user_data=True) for name, part in parts.items()]
    return written[0], written[1], written[2]


def prepare(settings: Settings, work: Path) -> tuple[Path, Path, Path]:
    """Write DocBins of the documents to learn from, to show and to score; errors are those of `read_split`."""
    train, test = read_split(settings)
    return write_parts(work / "corpora-whole", train, N_SHOWN, test)


def _score(pipeline: Path, task: Task) -> dict[str, float]:
    """Score a pipeline that is given the clusters, and the sentences."""
    nlp = spacy.load(pipeline)
    found = nlp.evaluate(list(given_clusters(Corpus(task.test), sentences=True)(nlp)))
    return {key: found[key] for key in task.scores}


def measure_redocred(settings: Settings, *, tokens: bool = False) -> Result:
    """Train and score, once per seed."""
    config = read_config(settings, "relations_document")
    if tokens:
        give_tokens(config, settings, [f"{PREFIX}_*"])
    keys = TOKEN_KEYS if tokens else KEYS
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        task = Task(keys[0], config, *prepare(settings, work), SCORES, measure=_score)
        outcomes = run_seeds(task, settings, work)
    figures = {key: mean([outcome[score] for outcome in outcomes.values()]) for key, score in zip(keys, SCORES, strict=False)}
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    return Result(figures, {keys[0]: details})


PARTS = [Part(KEYS, measure_redocred), Part(TOKEN_KEYS, partial(measure_redocred, tokens=True))]
