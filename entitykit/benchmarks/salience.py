"""Salience on Wikinews and GUM: `configs/salience.cfg`, a cross-encoder, and what frequency and first position alone tell.

Entities and their mentions are given. Figures are of the test set after the last step, the mean over seeds: micro F1 of salient
entities at the threshold that is best on the development set, area under the ROC curve of all entities, and nDCG of the graded
ratings, the mean over documents. Rated entities whose names the text does not have count as found by nobody, with a score of 0.

The split of Wikinews, which has none of its own, is that of `entitykit.corpora.salience`. Salient are entities with a mean
rating of 2 of 3 and more (Wikinews), and those that 3 of 5 summaries and more name (GUM).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus, Example
from spacy.util import load_model_from_config, registry
from thinc.api import Config, fix_random_seed, warmup_linear

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean, progress
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder, write_docs
from entitykit.bridge.optimizer import adamw
from entitykit.corpora.read import read_docs
from entitykit.scoring.salience import best_threshold, score_salience
from entitykit.scoring.salience_documents import Rated, compare_entities, rated_entities

COMPONENT = "entitykit_salience"
MEASURES = ("f1", "auc", "ndcg")
EPOCHS = 15
BATCH = 16
HEAD_RATE = 1e-3
DROPOUT = 0.5
QUICK_DOCS = 6
QUICK_STEPS = 2

Parts = tuple[list[Doc], list[Doc], list[Doc]]
Paths = tuple[Path, Path, Path]
Scored = tuple[list[list[float]], list[list[float]]]
"""Grades and scores of the entities of each document."""
Change = Callable[[Config], None]


class Data(NamedTuple):
    """A data set: how it is read, into train, dev and test, the highest grade, and the least of a salient entity."""

    read: Callable[[Settings], Parts]
    highest: float
    salient: float


def _wikinews(settings: Settings) -> Parts:
    return _parts(find_files(settings, "salience/saliency-dataset.json")[0], "salience")


def _gum(settings: Settings) -> Parts:
    return _parts(find_files(settings, "gum/dep")[0], "gum")


def _parts(path: Path, data: str) -> Parts:
    nlp = spacy.blank("en")
    train, dev, test = (list(read_docs(path, data, nlp, split=split)) for split in ("train", "dev", "test"))
    return train, dev, test


DATA = {"wikinews": Data(_wikinews, 3.0, 2.0), "gum": Data(_gum, 5.0, 3.0)}


def _model(**settings: Any) -> Change:
    """Other settings of the model."""
    return lambda config: config["components"][COMPONENT]["model"].update(settings)


def _as_it_is(config: Config) -> None:
    pass


def _binary(config: Config) -> None:
    config["components"][COMPONENT]["graded"] = False


def _cross(config: Config) -> None:
    """A cross-encoder with an encoder of its own in the place of the head; it learns from some entities of each document."""
    own = {**config["components"].pop(ENCODER)["model"], "word_shapes": False}
    pieces = min(192, own.get("window", 192))
    model = {"@architectures": "entitykit.SalienceCrossEncoder.v1", "tok2vec": own, "pieces": pieces, "windows": 1}
    config["components"][COMPONENT] |= {"model": model, "sample": 4}
    config["nlp"]["pipeline"] = [COMPONENT]
    config["training"] |= {"max_steps": 120, "eval_frequency": 120}
    config["training"]["optimizer"]["schedule"] |= {"warmup_steps": 12, "total_steps": 160}


FORMS: Mapping[str, Change] = {"": _as_it_is, "_cross": _cross}
"""What is changed of the config; the first is the config as it stands."""
FROZEN: Mapping[str, Change] = {
    "_frozen": _as_it_is,
    "_frozen_counts": _model(states=False, fit=0),
    "_frozen_no_counts": _model(counts=False, deciles=0),
    "_frozen_no_fit": _model(fit=0),
    "_frozen_binary": _binary,
}
"""The same for heads on an encoder that stays as it is; the second reads only where and how often entities are named."""


def _frequency(doc: Doc, entity: Rated) -> float:
    return float(len(entity.mentions))


def _position(doc: Doc, entity: Rated) -> float:
    return 1 - min((start for start, _ in entity.mentions), default=len(doc)) / len(doc)


BASELINES: Mapping[str, Callable[[Doc, Rated], float]] = {"_frequency": _frequency, "_position": _position}
"""Scores of an entity: how often it is named, and how early."""


def measure_baseline(settings: Settings, *, data: str, name: str) -> Result:
    """Score the entities of one data set by a rule."""
    rule = BASELINES[name]
    with work_folder(settings) as work:
        _, dev, test = prepare(data, settings, work)
        sides = []
        for path in (dev, test):
            grades: list[list[float]] = []
            scores: list[list[float]] = []
            for doc in DocBin(store_user_data=True).from_disk(path).get_docs(spacy.blank("en").vocab):
                rated = rated_entities(doc, doc.user_data["salience"]) or []
                grades.append([entity.score for entity in rated])
                scores.append([rule(doc, entity) for entity in rated])
            sides.append((grades, scores))
    outcome = measure(*sides, salient=DATA[data].salient)
    figures = {key: mean([outcome[score]]) for key, score in zip(keys_of(data, name), MEASURES, strict=True)}
    details = {**outcome, "entities": sum(map(len, sides[1][0])), "unnamed": _count_unnamed(sides[1])}
    return Result(figures, {f"{data}{name}": details})


def _count_unnamed(side: Scored) -> int:
    """Entities that the texts do not name: the rules give them 0, and others more."""
    return sum(score == 0 for scores in side[1] for score in scores)


def measure_model(settings: Settings, *, data: str, form: str) -> Result:
    """Train and score one form on one data set, once per seed."""
    config, settings = _configure(settings, data, FORMS[form])
    keys = keys_of(data, form)
    with work_folder(settings) as work:
        corpora = prepare(data, settings, work)
        task = Task(keys[0], config, *corpora, MEASURES, measure=partial(_measure_pipeline, salient=DATA[data].salient))
        outcomes = run_seeds(task, settings, work)
    figures = {key: mean([outcome[score] for outcome in outcomes.values()]) for key, score in zip(keys, MEASURES, strict=True)}
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    return Result(figures, {keys[0]: details})


def measure_frozen(settings: Settings, *, data: str, form: str) -> Result:
    """Train and score one form of the head, once per seed, on an encoder that reads each document once and does not learn."""
    config, settings = _configure(settings, data, FROZEN[form])
    n_epochs = QUICK_STEPS if settings.quick else EPOCHS
    outcomes = {}
    for seed in settings.seeds:
        progress(f"head on the frozen encoder: {data}{form}, seed {seed}")
        nlp = load_model_from_config(config.interpolate(), auto_fill=True)
        train, dev, test = _encoded(nlp, settings, data)
        fix_random_seed(seed)
        nlp.initialize(partial(list, train))
        train_on_states(nlp, COMPONENT, train, n_epochs=n_epochs)
        outcomes[str(seed)] = measure(_scored(nlp, dev), _scored(nlp, test), salient=DATA[data].salient)
    keys = keys_of(data, form)
    figures = {key: mean([outcome[score] for outcome in outcomes.values()]) for key, score in zip(keys, MEASURES, strict=True)}
    return Result(figures, {keys[0]: {"epochs": n_epochs, "seeds": outcomes}})


def _encoded(nlp: Language, settings: Settings, data: str) -> list[list[Example]]:
    """The examples of train, dev and test, which an encoder that never learns need read only once."""
    key = repr((data, settings.data, settings.quick, settings.encoder))
    if key not in _ENCODED:
        with work_folder(settings) as work:
            sides = [_given(nlp, path) for path in prepare(data, settings, work)]
        nlp.initialize(partial(list, sides[0]))
        for side in sides:
            read(nlp, side)
        _ENCODED[key] = sides
    return _ENCODED[key]


_ENCODED: dict[str, list[list[Example]]] = {}


def read(nlp: Language, examples: Sequence[Example]) -> None:
    """Let the encoder read the predicted documents, and leave its states on them."""
    encoder: Any = nlp.get_pipe(ENCODER)
    for _ in encoder.pipe([eg.predicted for eg in examples]):
        pass


def train_on_states(nlp: Language, name: str, examples: Sequence[Example], *, n_epochs: int) -> None:
    """Train a component on what the encoder has left on the examples' documents, at a rate that falls to 0.

    Args:
        nlp: initialized.
        name: the component's.
        examples: their predicted documents were read by the encoder.
        n_epochs: passes through them.
    """
    pipe: Any = nlp.get_pipe(name)
    n_steps = n_epochs * -(-len(examples) // BATCH)
    rates = warmup_linear(1.0, n_steps // 10, n_steps)
    optimizer: Any = adamw(head_learn_rate=HEAD_RATE, schedule=rates)
    for _ in range(n_epochs):
        order = random.sample(range(len(examples)), len(examples))
        for first in range(0, len(order), BATCH):
            pipe.update([examples[i] for i in order[first : first + BATCH]], drop=DROPOUT, sgd=optimizer)
            optimizer.step_schedules()


def _given(nlp: Language, path: Path) -> list[Example]:
    return list(registry.get("readers", "entitykit.GivenEntities.v1")(Corpus(path))(nlp))


def _scored(nlp: Language, examples: Sequence[Example]) -> Scored:
    pipe: Any = nlp.get_pipe(COMPONENT)
    docs = [eg.predicted for eg in examples]
    pipe.set_annotations(docs, pipe.predict(docs))
    compared = [each for each in map(compare_entities, examples) if each is not None]
    return [each.grades for each in compared], [each.scores for each in compared]


def _configure(settings: Settings, data: str, change: Change) -> tuple[Config, Settings]:
    config = read_config(settings, "salience")
    config["components"][COMPONENT] |= {"highest": DATA[data].highest, "salient": DATA[data].salient}
    change(config)
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    return config, settings


def _measure_pipeline(pipeline: Path, task: Task, *, salient: float) -> Outcome:
    nlp = spacy.load(pipeline)
    sides = []
    for path in (task.dev, task.test):
        examples = _given(nlp, path)
        if ENCODER in nlp.pipe_names:
            read(nlp, examples)
        sides.append(_scored(nlp, examples))
    return measure(*sides, salient=salient)


def measure(dev: Scored, test: Scored, *, salient: float) -> dict[str, float]:
    """Measure scores of the test set, at the threshold that is best on the development set."""
    threshold = best_threshold(*dev, salient=salient)
    scores = score_salience(*test, salient=salient, threshold=threshold, at=())
    found = {
        "f1": scores.micro.f1,
        "precision": scores.micro.precision,
        "recall": scores.micro.recall,
        "auc": scores.auc,
        "map": scores.map,
        "ndcg": scores.ndcg[0],
        "threshold": threshold,
    }
    return {key: 0.0 if value is None else value for key, value in found.items()}


def prepare(name: str, settings: Settings, work: Path) -> Paths:
    """Convert a data set for spaCy, see `entitykit.benchmarks.ner.prepare`."""
    parts = _read(name, settings.data)
    limit = QUICK_DOCS if settings.quick else None
    train, dev, test = (
        write_docs(work / "corpora-salience" / f"{name}-{split}.spacy", _rated(docs, limit), user_data=True)
        for split, docs in zip(("train", "dev", "test"), parts, strict=True)
    )
    return train, dev, test


@cache
def _read(name: str, data: Path | None) -> Parts:
    return DATA[name].read(Settings(data=data))


def _rated(docs: Sequence[Doc], limit: int | None) -> Iterator[Doc]:
    return islice((doc for doc in docs if len(doc) and "salience" in doc.user_data), limit)


def keys_of(data: str, form: str) -> tuple[str, ...]:
    """The figures of a form."""
    return tuple(f"{data}_{score}{form}" for score in MEASURES)


PARTS = [
    *(Part(keys_of(data, name), partial(measure_baseline, data=data, name=name)) for data in DATA for name in BASELINES),
    *(Part(keys_of(data, form), partial(measure_frozen, data=data, form=form)) for data in DATA for form in FROZEN),
    *(Part(keys_of(data, form), partial(measure_model, data=data, form=form), form == "") for data in DATA for form in FORMS),
]
