"""Relations of given pairs: SemEval-2010 task 8 by `configs/relation_pairs.cfg`.

The figure is the task's own: macro F1 over the nine relations without `Other`, in which the direction must be right (see
`entitykit.scoring.relation_pairs`), of the test file after the last step, the mean over seeds. All of the training file is
learned from. `spacy train` shows the scores of its first sentences, and nothing is chosen by them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import spacy
from spacy.tokens import Doc
from spacy.training import Corpus

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import read_config
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder, write_docs
from entitykit.corpora.build import ENTITIES
from entitykit.corpora.given import given_mentions
from entitykit.corpora.read import read_docs

FORMAT = "semeval2010_task8"
TRAIN, TEST = f"{FORMAT}/TRAIN_FILE.TXT", f"{FORMAT}/TEST_FILE_FULL.TXT"
KEY = "semeval_macro_f1"
SCORES = ["rel_pair_macro_f", "rel_pair_f", "rel_pair_acc"]
"""What is kept of the scores; the first is the figure."""
N_SHOWN = 500
QUICK_DOCS = 40
QUICK_STEPS = 4


def prepare(settings: Settings, work: Path) -> tuple[Path, Path, Path]:
    """Write DocBins of the sentences to learn from, to show and to score.

    Raises:
        InputError: E440 or E441 if a file is missing.
        CorpusError: E2xx for a file that cannot be read.
    """

    def read(file: str) -> list[Doc]:
        (path,) = find_files(settings, file)
        return list(read_docs(path, FORMAT, spacy.blank("en"), limit=QUICK_DOCS if settings.quick else 0))

    train, folder = read(TRAIN), work / "corpora-whole"
    parts = {"train": train, "dev": train[:N_SHOWN], "test": read(TEST)}
    written = [write_docs(folder / f"semeval-{name}.spacy", part, user_data=True) for name, part in parts.items()]
    return written[0], written[1], written[2]


def _score(pipeline: Path, task: Task) -> Outcome:
    """Score a pipeline that is given the entities."""
    nlp = spacy.load(pipeline)
    found = nlp.evaluate(list(given_mentions(Corpus(task.test), ENTITIES)(nlp)))
    return {key: found[key] for key in task.scores}


def measure_semeval(settings: Settings) -> Result:
    """Train and score, once per seed."""
    config = read_config(settings, "relation_pairs")
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        outcomes = run_seeds(Task(KEY, config, *prepare(settings, work), SCORES, measure=_score), settings, work)
    figure = mean([outcome[SCORES[0]] for outcome in outcomes.values()])
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    return Result({KEY: figure}, {KEY: details})


PARTS = [Part((KEY,), measure_semeval)]
