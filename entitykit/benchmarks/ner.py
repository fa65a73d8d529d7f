"""Named entities on CoNLL04, SciERC and WNUT-17: `configs/ner.cfg` beside SpERT's and spaCy's own components.

All systems have the same encoder, data, optimizer, steps and batches; they differ in the component that reads the encoder. The
figures are strict micro F1 on the test set after the last step, the mean over seeds, each by its component's own scorer:
spancat is scored on all entities, the others on flat ones. CoNLL04 trains on train and dev, the others on train; there
`…_ner_calibrated_f1` is the score of the same pipeline once `calibrate` has chosen its threshold on dev.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.tokens import Doc
from spacy.training import Corpus
from thinc.api import Config

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder, write_docs
from entitykit.corpora.read import read_docs

QUICK_DOCS = 40
QUICK_STEPS = 4
QUICK_KEYS = ("conll04_ner_f1", "scierc_spacy_ner", "wnut17_spacy_spancat")  # each data set once


class Data(NamedTuple):
    """Where a data set is in the data folder, how it is read, and what of the config's optimizer was chosen on its dev part."""

    format: str
    train: Sequence[str]
    dev: str
    test: str
    options: Mapping[str, Any] = {}
    optimizer: Mapping[str, float] = {}


class System(NamedTuple):
    """A component in the place of `entitykit_ner`, its config, and the score that its own scorer gives."""

    name: str
    block: Mapping[str, Any]
    score: str = "ents_f"


DATA = {
    "conll04": Data(
        "conll04",
        ["conll04/train.CoNLL04.json", "conll04/valid.CoNLL04.json"],
        "conll04/valid.CoNLL04.json",
        "conll04/test.CoNLL04.json",
    ),
    "scierc": Data("dygie", ["scierc/train.json"], "scierc/dev.json", "scierc/test.json", {"unit": "sentence"}),
    "wnut17": Data(
        "columns",
        ["wnut17/wnut17train.conll"],
        "wnut17/emerging.dev.conll",
        "wnut17/emerging.test.annotated",
        optimizer={"encoder_learn_rate": 0.00005},
    ),
}

_OUR_LISTENER = {"@architectures": "entitykit.EncoderListener.v1"}
_STOCK_LISTENER = {
    "@architectures": "spacy-transformers.TransformerListener.v1",
    "grad_factor": 1.0,
    "pooling": {"@layers": "reduce_mean.v1"},
}
SPERT = System(
    "entitykit_ner",
    {"factory": "entitykit_ner", "model": {"@architectures": "entitykit.SpERT.v1", "tok2vec": _OUR_LISTENER}},
)
# The two of spaCy as its quickstart sets them up for a transformer.
SPACY_NER = System(
    "ner",
    {
        "factory": "ner",
        "model": {
            "@architectures": "spacy.TransitionBasedParser.v2",
            "state_type": "ner",
            "extra_state_tokens": False,
            "hidden_width": 64,
            "maxout_pieces": 2,
            "use_upper": False,
            "nO": None,
            "tok2vec": _STOCK_LISTENER,
        },
    },
)
SPACY_SPANCAT = System(
    "spancat",
    {
        "factory": "spancat",
        "spans_key": "sc",
        "threshold": 0.5,
        "max_positive": None,
        "suggester": {"@misc": "spacy.ngram_range_suggester.v1", "min_size": 1, "max_size": 8},
        "model": {
            "@architectures": "spacy.SpanCategorizer.v1",
            "reducer": {"@layers": "spacy.mean_max_reducer.v1", "hidden_size": 128},
            "scorer": {"@layers": "spacy.LinearLogistic.v1", "nO": None, "nI": None},
            "tok2vec": _STOCK_LISTENER,
        },
    },
    score="spans_sc_f",
)

RUNS: Mapping[str, tuple[str, System | None]] = {
    "conll04_ner_f1": ("conll04", None),
    "conll04_spert": ("conll04", SPERT),
    "scierc_ner_f1": ("scierc", None),
    "scierc_spert": ("scierc", SPERT),
    "scierc_spacy_ner": ("scierc", SPACY_NER),
    "scierc_spacy_spancat": ("scierc", SPACY_SPANCAT),
    "wnut17_ner_f1": ("wnut17", None),
    "wnut17_spert": ("wnut17", SPERT),
    "wnut17_spacy_ner": ("wnut17", SPACY_NER),
    "wnut17_spacy_spancat": ("wnut17", SPACY_SPANCAT),
}
"""Figure to its data set and system; None is the config as it stands."""
CALIBRATED = {f"{data}_ner_f1": f"{data}_ner_calibrated_f1" for data in ("scierc", "wnut17")}
"""The same with the best threshold on dev."""


def measure_f1(settings: Settings, *, key: str) -> Result:
    """Train and score one system on one data set, once per seed; see `CALIBRATED` for what else."""
    data, system = RUNS[key]
    config = read_config(settings, "ner")
    config["training"]["optimizer"].update(DATA[data].optimizer)
    if system is not None:
        replace_ner(config, system)
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    score = "ents_f" if system is None else system.score
    measure = _score_calibrated if key in CALIBRATED else None
    with work_folder(settings) as work:
        train, dev, test = prepare(data, settings, work)
        outcomes = run_seeds(Task(key, config, train, dev, test, [score], measure=measure), settings, work)
    keys = {key: score} | ({CALIBRATED[key]: "calibrated_f"} if key in CALIBRATED else {})
    figures = {name: mean([outcome[kept] for outcome in outcomes.values()]) for name, kept in keys.items()}
    return Result(figures, {key: {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}})


def _score_calibrated(pipeline: Path, task: Task) -> Outcome:
    nlp = spacy.load(pipeline)
    f1 = nlp.evaluate(list(Corpus(task.test)(nlp)))["ents_f"]
    dev = list(Corpus(task.dev)(nlp))
    for eg, doc in zip(dev, nlp.pipe([eg.predicted for eg in dev]), strict=True):
        eg.predicted = doc
    threshold = nlp.get_pipe("entitykit_ner").calibrate(dev)  # type: ignore[attr-defined]
    calibrated = nlp.evaluate(list(Corpus(task.test)(nlp)))["ents_f"]
    return {"ents_f": f1, "calibrated_f": calibrated, "threshold": threshold}


def replace_ner(config: Config, system: System) -> None:
    """Put another component in the place of `entitykit_ner`."""
    del config["components"]["entitykit_ner"]
    config["components"][system.name] = dict(system.block)
    config["nlp"]["pipeline"] = [ENCODER, system.name]
    config["training"]["score_weights"] = {system.score: 1.0}


def prepare(name: str, settings: Settings, work: Path, *, user_data: bool = False) -> tuple[Path, Path, Path]:
    """Convert a data set for spaCy.

    Args:
        name: a key of `DATA`.
        settings: with the data folder.
        work: where the DocBins go.
        user_data: keep what is in `doc.user_data`, such as relations.

    Returns:
        DocBins of train, dev and test.

    Raises:
        InputError: E440 or E441 if a file is missing.
        CorpusError: E2xx for a file that cannot be read.
    """
    data = DATA[name]
    read: Callable[[str], list[Doc]] = partial(_read, data, settings)
    folder = work / ("corpora-whole" if user_data else "corpora")
    return (
        write_docs(folder / f"{name}-train.spacy", [doc for file in data.train for doc in read(file)], user_data=user_data),
        write_docs(folder / f"{name}-dev.spacy", read(data.dev), user_data=user_data),
        write_docs(folder / f"{name}-test.spacy", read(data.test), user_data=user_data),
    )


def _read(data: Data, settings: Settings, file: str) -> list[Doc]:
    (path,) = find_files(settings, file)
    limit = QUICK_DOCS if settings.quick else 0
    return list(read_docs(path, data.format, spacy.blank("en"), limit=limit, **data.options))


PARTS = [
    Part((key, *([CALIBRATED[key]] if key in CALIBRATED else [])), partial(measure_f1, key=key), key in QUICK_KEYS)
    for key in RUNS
]
