"""Entity-state tracking: ProPara by `configs/tracker.cfg`, and the world of boxes.

`propara_f1` is ProPara's measure by document on the test set after the last step, `propara_dev_f1` the same on dev, the mean
over seeds; `propara_cat1` to `_cat3` are its measure by sentence on the test set. Steps and participants are given, as in the
literature. Keys with a further name are of other forms of input, see `FORMS`.

`boxes_accuracy_initial` is the share of right answers about a box, on worlds of the test split, if the initial state is
repeated. `boxes_accuracy_probe` is that of a linear classifier of the states that the checkpoint, which was not trained for it,
has for the last mention of each thing in the text so far, and `boxes_changed_probe` that among boxes whose things have changed.
An answer is right if it names all things in the box, and no others; `boxes_things_probe` is the share of things of which it is
right in which box they are, or that they are in none.
The checkpoint may be any encoder, decoder or encoder-decoder, see `entitykit.benchmarks.box_models`. `…_written` are those of
answers that a decoder writes behind two answers that it is shown, and `…_tracker` those of `entitykit_tracker` with the shared
encoder's words, trained on worlds of the training split. `boxes_accuracy_probe_ops0` and so on are accuracies of boxes on which
there were so many operations, the last of them of more, too; the details have all, and those by operations on any box.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import spacy
from numpy.typing import NDArray
from spacy.training import Corpus
from thinc.api import Config

from entitykit.benchmarks.box_models import thing_states, write_answers
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import read_config
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder, write_docs
from entitykit.corpora.boxes import (
    BoxesSettings,
    World,
    ask,
    boxes,
    count_operations,
    describe,
    describe_box,
    name_box,
    read_answer,
    repeat_initial,
    worlds,
)
from entitykit.corpora.given_procedures import give_procedure
from entitykit.corpora.read import read_docs
from entitykit.scoring.boxes import BoxAnswer, BoxScores, score_boxes

TRACKER = "entitykit_tracker"
QUICK_DOCS, QUICK_STEPS, QUICK_WORLDS, QUICK_STATES = 8, 4, 6, 2
N_WORLDS = 160
"""Worlds of all splits, of which less than a half are those of the training split, and as many those of the test split."""
TRAINED, DEV_WORLDS, BOX_STEPS = 5, 60, 300
"""Times as many worlds that the tracker is trained on, fewest of which those of dev are taken, and steps of its training."""
WRITTEN_STATES = 100
"""States of the test split about whose boxes a decoder writes, evenly spread: it reads a text for each box."""
OPERATIONS = 5
"""Numbers of operations on a box that have a figure, from none on; the last stands for more, too."""
SCORES = {"f1": "tracking_f", "cat1": "tracking_cat1", "cat2": "tracking_cat2", "cat3": "tracking_cat3"}

Floats = NDArray[np.float32]
Change = Callable[[Config], None]


def _input(name: str) -> Change:
    """Another form of input."""
    return lambda config: config["components"][TRACKER]["model"].update(input=name)


def _as_it_is(config: Config) -> None:
    pass


FORMS: Mapping[str, Change] = {"": _as_it_is, "_shared": _input("shared"), "_entity_first": _input("entity_first")}
"""What is changed of the config; the first is the config as it stands."""


def propara_keys(form: str) -> tuple[str, ...]:
    """The figures of a form."""
    return (f"propara_f1{form}", f"propara_dev_f1{form}", *(f"propara_{cat}{form}" for cat in ("cat1", "cat2", "cat3")))


def measure_propara(settings: Settings, *, form: str) -> Result:
    """Train and score one form, once per seed."""
    config = read_config(settings, "tracker")
    FORMS[form](config)
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        train, dev, test = (_convert(settings, work, part) for part in ("train", "dev", "test"))
        task = Task(f"propara{form}", config, train, dev, test, [*SCORES], measure=_score)
        outcomes = run_seeds(task, settings, work)
    keys = propara_keys(form)
    kept = ["test_f1", "dev_f1", "test_cat1", "test_cat2", "test_cat3"]
    figures = {key: mean([outcome[name] for outcome in outcomes.values()]) for key, name in zip(keys, kept, strict=True)}
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    return Result(figures, {keys[0]: details})


def _convert(settings: Settings, work: Path, part: str) -> Path:
    (path,) = find_files(settings, f"propara/grids.v1.{part}.json")
    docs = read_docs(path, "propara", spacy.blank("en"), limit=QUICK_DOCS if settings.quick else 0)
    return write_docs(work / "corpora" / f"propara-{part}.spacy", docs, user_data=True)


def _score(pipeline: Path, task: Task) -> Outcome:
    """Scores on dev and test, with steps and participants given."""
    nlp = spacy.load(pipeline)
    found: dict[str, float] = {}
    for part, path in (("dev", task.dev), ("test", task.test)):
        scores = nlp.evaluate([give_procedure(eg) for eg in Corpus(path)(nlp)])
        # a part of few paragraphs may have nothing to ask about
        found |= {f"{part}_{name}": float(scores[key] or 0.0) for name, key in SCORES.items()}
    return found


# Boxes


class Asked(NamedTuple):
    """A state of a world, and where each of its things is after so many operations.

    Attributes:
        number: of the world.
        world: what happens.
        step: number of operations so far.
        things: that were named so far.
        places: *(n_things,)* the number of each one's box; that of boxes where it is in none.
    """

    number: int
    world: World
    step: int
    things: list[str]
    places: list[int]


def ask_worlds(made: Sequence[World]) -> Iterator[Asked]:
    """All states of worlds."""
    for number, world in enumerate(made):
        for step in range(len(world.states)):
            seen = [*(thing for box in world.states[0] for thing in box), *(op.thing for op in world.operations[:step])]
            things = list(dict.fromkeys(seen))
            where = {thing: box for box, own in enumerate(world.states[step]) for thing in own}
            yield Asked(number, world, step, things, [where.get(thing, len(world.states[0])) for thing in things])


def answers(asked: Asked, predicted: Sequence[Collection[str] | None]) -> Iterator[BoxAnswer]:
    """An answer about each box; `predicted` are the things in each, or None for an answer of no known form."""
    for box, things in enumerate(predicted):
        yield BoxAnswer(
            state=(asked.number, asked.step),
            gold=frozenset(asked.world.states[asked.step][box]),
            predicted=None if things is None else frozenset(things),
            initial=frozenset(asked.world.states[0][box]),
            n_local=count_operations(asked.world, asked.step, box),
            n_global=asked.step,
        )


def _worlds(settings: Settings, split: str) -> list[World]:
    return list(worlds(BoxesSettings(), split=split, n=QUICK_WORLDS if settings.quick else N_WORLDS))


def measure_initial(settings: Settings) -> Result:
    """Repeat the initial state, which is right about no box whose things have changed."""
    states = list(ask_worlds(_worlds(settings, "test")))
    result = _boxes([a for asked in states for a in answers(asked, repeat_initial(asked.world, asked.step))], "initial")
    return result._replace(figures={key: value for key, value in result.figures.items() if "changed" not in key})


def measure_probe(settings: Settings) -> Result:
    """Train a linear classifier on states of a checkpoint that does not learn."""
    train, test = (list(ask_worlds(_worlds(settings, split))) for split in ("train", "test"))
    n_boxes = BoxesSettings().n_boxes
    probe = fit_probe(_states(settings, train), _places(train), n_boxes + 1)
    chosen = (_states(settings, test) @ probe[:, :-1].T + probe[:, -1]).argmax(1)
    boxes_of, given = iter(chosen.tolist()), list[BoxAnswer]()
    for asked in test:
        found: list[list[str]] = [[] for _ in range(n_boxes + 1)]
        for thing in asked.things:
            found[next(boxes_of)].append(thing)
        given += answers(asked, found[:-1])
    things = float((chosen == _places(test)).mean())
    result = _boxes(given, "probe")
    return result._replace(figures={**result.figures, "boxes_things_probe": Figure(*[things] * 3)})


def _places(states: Sequence[Asked]) -> NDArray[np.int64]:
    """Where each thing of each state is *(n,)*."""
    return np.array([place for asked in states for place in asked.places])


def _states(settings: Settings, states: Sequence[Asked]) -> Floats:
    texts = [" ".join(describe(asked.world, "box", step=asked.step)) for asked in states]
    return thing_states(settings, texts, [asked.things for asked in states])


def measure_written(settings: Settings) -> Result:
    """Let a decoder write what is in each box, after two worlds of the training split with an answer each."""
    shown = "".join(
        f"{ask(world, 'box', step=step, box=box)} {describe_box(world.states[step][box])}.\n"
        for step, world in enumerate(_worlds(settings, "train")[:2], start=1)
        for box in (max(world.operations[step - 1].source, world.operations[step - 1].target),)
    )
    states = list(ask_worlds(_worlds(settings, "test")))
    n = min(QUICK_STATES if settings.quick else WRITTEN_STATES, len(states))
    chosen = [states[i] for i in np.linspace(0, len(states) - 1, n).astype(int).tolist()]
    n_boxes = BoxesSettings().n_boxes
    prompts = [shown + ask(each.world, "box", step=each.step, box=box) for each in chosen for box in range(n_boxes)]
    written = list(write_answers(settings.encoder["name"], prompts))
    read = iter(map(read_answer, written))
    result = _boxes([a for each in chosen for a in answers(each, [next(read) for _ in range(n_boxes)])], "written")
    result.details["boxes_accuracy_written"]["first answers"] = written[:n_boxes]
    return result


def _boxes(given: Sequence[BoxAnswer], name: str) -> Result:
    scores: BoxScores = score_boxes(given)
    values = {f"boxes_accuracy_{name}": scores.accuracy or 0.0, f"boxes_changed_{name}": scores.changed or 0.0}
    values |= {f"boxes_accuracy_{name}_{key}": value for key, value in by_operations(given).items()}
    details: dict[str, Any] = {"n": len(given), "by operations on the box": scores.local, "by all operations": scores.by_step}
    return Result({key: Figure(*[value] * 3) for key, value in values.items()}, {f"boxes_accuracy_{name}": details})


def by_operations(given: Sequence[BoxAnswer]) -> dict[str, float]:
    """Accuracies by the number of operations on the box, `ops0` and so on; numbers without an answer are left out."""
    groups = [[a for a in given if min(a.n_local, OPERATIONS - 1) == n] for n in range(OPERATIONS)]
    return {f"ops{n}": score_boxes(own).accuracy or 0.0 for n, own in enumerate(groups) if own}


def measure_tracker(settings: Settings) -> Result:
    """Train the tracker on worlds, once per seed."""
    config = read_config(settings, "tracker")
    _input("shared")(config)
    config["training"].update(max_steps=BOX_STEPS, eval_frequency=BOX_STEPS)
    n = N_WORLDS * TRAINED
    if settings.quick:
        n = QUICK_WORLDS
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        sizes = {"train": n, "dev": max(n, DEV_WORLDS), "test": min(n, N_WORLDS)}
        train, dev, test = (_box_docs(work, split, size) for split, size in sizes.items())
        outcomes = run_seeds(Task("boxes", config, train, dev, test, [], measure=_score_boxes), settings, work)
    figures = {
        f"boxes_{name}_tracker": mean([outcome[name] for outcome in outcomes.values()]) for name in ("accuracy", "changed")
    }
    for n in range(OPERATIONS):
        if values := [outcome[f"ops{n}"] for outcome in outcomes.values() if f"ops{n}" in outcome]:
            figures[f"boxes_accuracy_tracker_ops{n}"] = mean(values)
    details = {"max_steps": settings.max_steps or BOX_STEPS, "seeds": outcomes}
    return Result(figures, {"boxes_accuracy_tracker": details})


def _box_docs(work: Path, split: str, n: int) -> Path:
    docs = [eg.reference for eg in boxes(split, n=n)(spacy.blank("en"))]
    return write_docs(work / "corpora" / f"boxes-{split}.spacy", docs, user_data=True)


def _score_boxes(pipeline: Path, task: Task) -> Outcome:
    nlp = spacy.load(pipeline)
    examples = [give_procedure(eg) for eg in Corpus(task.test)(nlp)]
    docs = nlp.pipe([eg.predicted for eg in examples])
    given = [
        answer
        for number, (eg, doc) in enumerate(zip(examples, docs, strict=True))
        for answer in grid_answers(number, eg.reference.user_data["boxes"]["states"], doc._.entity_states["states"])
    ]
    scores = score_boxes(given)
    by_local = {f"local_{n}": accuracy for n, accuracy in scores.local.items()}
    by_step = {f"step_{n}": accuracy for n, accuracy in scores.by_step.items()}
    overall = {"accuracy": scores.accuracy or 0.0, "changed": scores.changed or 0.0}
    return {**overall, **by_operations(given), **by_local, **by_step}


def grid_answers(number: int, gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Iterator[BoxAnswer]:
    """Answers about all boxes of a world after every step, from two grids of its things."""
    for box in range(BoxesSettings().n_boxes):
        name = name_box(box, "box")
        n_local = 0
        for step in range(len(gold[0]) if gold else 0):
            n_local += step > 0 and any(row[step] != row[step - 1] and name in row[step - 1 : step + 1] for row in gold)
            found, right, initial = (
                frozenset(str(thing) for thing, row in enumerate(grid) if row[at] == name)
                for grid, at in ((predicted, step), (gold, step), (gold, 0))
            )
            yield BoxAnswer((number, step), right, found, initial, n_local, step)


def fit_probe(states: Floats, classes: NDArray[np.int64], n_classes: int, *, decay: float = 1e-3) -> Floats:
    """Fit a softmax regression by L-BFGS.

    Args:
        states: *(n, width)*.
        classes: *(n,)*.
        n_classes: number of classes.
        decay: weight of the squared weights in the loss.

    Returns:
        Weights with the bias in the last column *(n_classes, width + 1)*.
    """
    import torch  # here, because a benchmark that does not need it should not wait for it

    x, y = torch.from_numpy(states), torch.from_numpy(classes)
    layer = torch.nn.Linear(x.shape[1], n_classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(layer(x), y) + decay * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    weights: Floats = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().numpy()
    return weights


def _box_keys(name: str, *others: str) -> tuple[str, ...]:
    """The figures of a way to answer."""
    return (f"boxes_accuracy_{name}", *others, *(f"boxes_accuracy_{name}_ops{n}" for n in range(OPERATIONS)))


PARTS = [
    *(Part(propara_keys(form), partial(measure_propara, form=form), form == "") for form in FORMS),
    Part(_box_keys("initial"), measure_initial),
    Part(_box_keys("probe", "boxes_changed_probe", "boxes_things_probe"), measure_probe),
    Part(_box_keys("written", "boxes_changed_written"), measure_written, on_request=True),
    Part(_box_keys("tracker", "boxes_changed_tracker"), measure_tracker, False),
]
