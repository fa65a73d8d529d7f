"""Entities and relations of CoNLL04 and SciERC by `configs/relations.cfg`, in one joint run; and what each part is good for.

The figures are strict micro F1 on the test set after the last step, the mean over seeds: relations count where label, both
spans and both types are right. CoNLL04 trains on train and dev, SciERC on train. What one training of a head has learned is
decoded greedily, exactly (`…_exact`), with a beam (`…_beam`) and greedily without a schema (`…_no_schema`), and, where it does
not find the entities itself, between the gold entities, too (`…_gold`): those of `doc.ents`, given before the encoder reads.
Scores by looser definitions, and what the entities that were found leave possible, stand beside the figures of each seed.
`cost_over_ner` is the time of the whole pipeline on the test set of CoNLL04 over that without the relations. Relations of whole
documents are in `entitykit.benchmarks.relation_documents`, of given pairs in `entitykit.benchmarks.relation_pairs`, and those
that a training has not seen in `entitykit.benchmarks.relation_types`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Corpus, Example
from spacy.util import load_model_from_config
from thinc.api import Config, fix_random_seed

from entitykit.benchmarks import ner, relation_documents, relation_pairs, relation_types
from entitykit.benchmarks.parts import Part, Result, Settings, mean
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.timing import in_turn, ratio
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder
from entitykit.corpora.given import given_mentions
from entitykit.decoding.relations import DECODERS

NER, RELATIONS = "entitykit_ner", "entitykit_relations"
SCORES = [
    "ents_f",
    *(f"rel_{kind}_{part}" for kind in ("strict", "boundaries", "relaxed") for part in ("p", "r", "f")),
    "rel_strict_macro_f",
    "rel_entities_r",
]
"""What is kept of the scores."""
GOLD = "gold_"
"""Begins the names of scores with gold entities."""
THRESHOLD = 0.9
ROUNDS = 5

Change = Callable[[Config], None]
Reader = Callable[[Language], Iterable[Example]]


def _model(**settings: Any) -> Change:
    """Other settings of the relation model."""
    return lambda config: config["components"][RELATIONS]["model"].update(settings)


def _architecture(name: str, **settings: Any) -> Change:
    """Another relation model."""

    def change(config: Config) -> None:
        listener = config["components"][RELATIONS]["model"]["tok2vec"]
        config["components"][RELATIONS]["model"] = {"@architectures": name, "tok2vec": listener, **settings}

    return change


def _tokens(config: Config) -> None:
    """Entity tokens in the place of pooled states."""
    config["components"][ENCODER]["model"]["entities"]["tokens"] = True


def _luke(config: Config) -> None:
    _tokens(config)
    _architecture("entitykit.LukePair.v1")(config)


def _enrico_joint(config: Config, **settings: Any) -> None:
    """EnriCo finds the entities itself, in the place of `entitykit_ner`, and trains the probe."""
    _architecture("entitykit.EnriCo.v1", joint=True, **settings)(config)
    config["nlp"]["pipeline"] = [ENCODER, RELATIONS]
    config["components"] = {name: config["components"][name] for name in config["nlp"]["pipeline"]}
    config["training"]["score_weights"] = {"ents_f": 0.5, "rel_strict_f": 0.5}


def _as_it_is(config: Config) -> None:
    pass


FORMS: Mapping[str, Change] = {
    "": _as_it_is,
    "_published": _model(hidden=0, product=0, ends=False, types=0, directed=False, near=False),
    "_no_between": _model(between=False),
    "_no_types": _model(types=0),
    "_no_product": _model(product=0),
    "_no_near": _model(near=False),
    "_negatives": _model(negatives=0.3),
    "_tokens": _tokens,
    "_luke": _luke,
    "_luke_markers": _architecture("entitykit.LukePair.v1", markers=True),
    "_enrico": _architecture("entitykit.EnriCo.v1", joint=False),
    "_enrico_joint": _enrico_joint,
    "_enrico_joint_unrefined": partial(_enrico_joint, layers=0),
}
"""What is changed of the config; the first is the config as it stands."""
WAYS: Mapping[str, Mapping[str, Any]] = {
    **{decoder: {"decoder": decoder} for decoder in DECODERS},
    "no_schema": {"decoder": DECODERS[0], "schema": None},
}
"""Settings of the relation component, with which what was learned is decoded; names of scores by the first have no prefix."""
HEADS = ("", "_luke", "_luke_markers", "_enrico", "_enrico_joint")
"""Forms that are decoded in all ways."""
JOINT = ("_enrico_joint",)
"""Those of them in which the entities are decoded, too."""


def _figures(data: str, form: str) -> dict[str, str]:
    """The figures of a form, and the score that each is."""
    found = {f"{data}_ner_f1{form}": "ents_f", f"{data}_rel_f1{form}": "rel_strict_f"}
    if form in HEADS and form not in JOINT:
        found[f"{data}_rel_f1{form}_gold"] = f"{GOLD}rel_strict_f"
    for way in list(WAYS)[1:] if form in HEADS else ():
        found[f"{data}_rel_f1{form}_{way}"] = f"{way}_rel_strict_f"
        if form in JOINT:
            found[f"{data}_ner_f1{form}_{way}"] = f"{way}_ents_f"
    return found


FIGURES = {(data, form): _figures(data, form) for data in ("conll04", "scierc") for form in FORMS}


def measure_f1(settings: Settings, *, data: str, form: str) -> Result:
    """Train and score one form on one data set, once per seed."""
    figures, key = FIGURES[data, form], f"{data}_rel_f1{form}"
    measure = _score_ways if form in HEADS else None
    config = read_config(settings, "relations")
    FORMS[form](config)
    settings = _quickened(settings)
    with work_folder(settings) as work:
        corpora = ner.prepare(data, settings, work, user_data=True)
        outcomes = run_seeds(Task(key, config, *corpora, SCORES, measure=measure), settings, work)
    values = {figure: mean([outcome[score] for outcome in outcomes.values()]) for figure, score in figures.items()}
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    return Result(values, {key: details})


def _score_ways(pipeline: Path, task: Task) -> Outcome:
    """The scores of each way to decode."""
    nlp = spacy.load(pipeline)
    found: dict[str, float] = {}
    for way, settings in WAYS.items():
        scores = _score_decoded(nlp, Corpus(task.test), settings)
        found.update({f"{way}_{key}" if found else key: scores[key] for key in task.scores})
    return found if nlp.get_pipe(RELATIONS).is_joint else found | _score_given(nlp, task)  # type: ignore[attr-defined]


def _score_decoded(nlp: Language, corpus: Reader, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The scores with other settings of the relation component."""
    relations: Any = nlp.get_pipe(RELATIONS)
    kept = dict(relations.settings)
    relations.settings |= settings
    relations.rules.forget()
    scores = nlp.evaluate(list(corpus(nlp)))
    relations.settings |= kept
    relations.rules.forget()
    return scores


def _score_given(nlp: Language, task: Task) -> dict[str, float]:
    """The scores of relations between gold entities, by the first decoder."""
    nlp.get_pipe(ENCODER).given = ("ents",)  # type: ignore[attr-defined]  # they have tokens, if any have
    with nlp.select_pipes(enable=[ENCODER, RELATIONS]):
        scores = _score_decoded(nlp, given_mentions(Corpus(task.test)), WAYS[DECODERS[0]])
    return {f"{GOLD}{key}": scores[key] for key in task.scores if key.startswith("rel_")}


def measure_cost(settings: Settings) -> Result:
    """Time the pipeline with and without the relations, the two in turn.

    The weights are random, so both sides are given the gold entities after `entitykit_ner`, and the threshold is high.
    """
    config = read_config(settings, "relations")
    config["components"][RELATIONS]["threshold"] = THRESHOLD
    nlp = load_model_from_config(config.interpolate(), auto_fill=True)
    with work_folder(settings) as work:
        train, _, test = (list(Corpus(path)(nlp)) for path in ner.prepare("conll04", settings, work, user_data=True))
    fix_random_seed(0)
    nlp.initialize(lambda: train)
    sides = {"with": partial(_annotate, nlp, test), "without": partial(_annotate, nlp, test, without=RELATIONS)}
    seconds = in_turn(sides, rounds=2 if settings.quick else ROUNDS)
    n_words = sum(len(eg.reference) for eg in test)
    return Result(
        {"cost_over_ner": ratio(seconds["with"], seconds["without"])}, {"cost_over_ner": {"words": n_words, **seconds}}
    )


def _annotate(nlp: Language, examples: Sequence[Example], *, without: str = "") -> None:
    docs = [eg.predicted.copy() for eg in examples]
    for name, pipe in nlp.pipeline:
        if name != without:
            docs = list(pipe.pipe(docs, batch_size=nlp.batch_size))  # type: ignore[attr-defined]
        if name == NER:
            for doc, eg in zip(docs, examples, strict=True):
                doc.set_ents([Span(doc, ent.start, ent.end, label=ent.label_) for ent in eg.reference.ents])


def _quickened(settings: Settings) -> Settings:
    if not settings.quick:
        return settings
    return replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or ner.QUICK_STEPS)


PARTS = [
    *(
        Part(tuple(figures), partial(measure_f1, data=data, form=form), form in ("", "_enrico_joint"))
        for (data, form), figures in FIGURES.items()
    ),
    Part(("cost_over_ner",), measure_cost),
    *relation_documents.PARTS,
    *relation_pairs.PARTS,
    *relation_types.PARTS,
]
