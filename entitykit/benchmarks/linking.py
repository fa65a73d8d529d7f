"""Entity linking: `configs/linking.cfg` on WordNet's usage examples, and baselines without a model on other sets.

WordNet's mentions are given and linked to any of 40,943 described entities, by vectors alone, or only to their namesakes, by
the alias table. BC5CDR's are given; what is linked to is what the training part names. In WikiFair and NewsFair mentions are
found, too: by the names that a knowledge base of the other sets has; the figures are InKB micro F1 with strong matches, what
this knowledge base does not have being NIL. `entitykit.benchmarks.link_texts` links them with a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.training import Example
from spacy.util import load_config, load_model_from_config
from thinc.api import Config

from entitykit.benchmarks import keywords, link_texts
from entitykit.benchmarks.link_data import (
    ELEVANT,
    LinkData,
    among_namesakes,
    examples_of,
    link_by,
    prepare_bc5cdr,
    prepare_elevant,
    prepare_wordnet,
)
from entitykit.benchmarks.link_training import Trained, train_pipeline
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, mean, progress
from entitykit.benchmarks.pipelines import give_tokens, read_config
from entitykit.benchmarks.training import work_folder
from entitykit.errors import error
from entitykit.knowledge.candidates import AliasSource, WordSource
from entitykit.knowledge.store import EntityStore

LINKER, RERANKER = "entitykit_linker", "entitykit_reranker"
QUICK_STEPS = 4
WHOLE: Mapping[str, int] = {"dense": 64}
"""Candidates among all entities, found by vectors alone."""

NAMESAKES: Mapping[str, int] = {"alias": 1000}
"""Candidates that have the mention as a name."""


def _words(store: EntityStore) -> WordSource:
    """BM25 of mention and context, or of the mention alone where entities have no descriptions that context could match."""
    return WordSource(store, keywords=None if store.n_described else lambda mention: ())


BASELINES: Mapping[str, Callable[[EntityStore], AliasSource | WordSource]] = {"prior": AliasSource, "bm25": _words}

Scores = Mapping[str, Any]


def score_linking(nlp: Language, examples: Sequence[Example], candidates: Mapping[str, int]) -> Scores:
    """Link given mentions with a pipeline that has a linker, and score what its last component says.

    Args:
        nlp: the pipeline.
        examples: with the mentions; they are not changed.
        candidates: where the linker takes candidates from, see its setting.

    Returns:
        See `entitykit.scoring.linking.linking_score`.
    """
    nlp.get_pipe(LINKER).settings["candidates"] = dict(candidates)  # type: ignore[attr-defined]
    return nlp.evaluate(examples)


def score_wordnet(nlp: Language, data: LinkData) -> Scores:
    """Recall of the 64 nearest entities, accuracy among all entities, and among namesakes."""
    examples = examples_of(data.test, nlp)
    with EntityStore.open(data.kb, read_only=True) as store:
        namesakes = list(among_namesakes(examples, store))
    whole = score_linking(nlp, examples, WHOLE)
    return {
        "recall64": _value(whole, "linking_recall_at_64"),
        "acc": _value(whole, "linking_inkb_acc"),
        "namesakes": _value(score_linking(nlp, namesakes, NAMESAKES), "linking_inkb_acc"),
    }


def wordnet_bi_encoder(settings: Settings, work: Path, data: LinkData, seed: int) -> Trained:
    """The bi-encoder of `configs/linking.cfg`, trained on WordNet; others may learn from it."""
    return train_pipeline("wordnet", read_config(settings, "linking"), data, seed, settings, work)


def wordnet_one_pass(settings: Settings, work: Path, data: LinkData, seed: int, *, tokens: bool) -> Trained:
    """The bi-encoder with mentions as the encoder's one pass over the text has them, instead of each read anew in its context.

    Args:
        settings: of the benchmark.
        work: from `work_folder`.
        data: what to learn.
        seed: of the training.
        tokens: mentions are entity tokens, from the layer on where `configs/ner.cfg` has the probe; otherwise the means of
            their words.
    """
    config = read_config(settings, "linking")
    config["components"][LINKER]["model"]["mention"] = "state"
    if tokens:
        give_tokens(config, settings, ["ents"])
    return train_pipeline(f"wordnet-{'tokens' if tokens else 'pooled'}", config, data, seed, settings, work)


Train = Callable[[Settings, Path, LinkData, int], Trained]


def measure_wordnet(settings: Settings, *, name: str, train: Train) -> Result:
    """Train a pipeline once per seed, and score it."""
    settings = _quick(settings)
    outcomes: dict[str, dict[str, float]] = {}
    with work_folder(settings) as work:
        data = prepare_wordnet(settings, work)
        for seed in settings.seeds:
            trained = train(settings, work, data, seed)
            outcomes[str(seed)] = {**score_wordnet(spacy.load(trained.path), data), **trained.details}
            progress(f"wordnet {name}, seed {seed}: {outcomes[str(seed)]}")
    figures = {key: mean([own[score] for own in outcomes.values()]) for key, score in _wordnet_keys(name).items()}
    return Result(figures, {f"wordnet_{name}": {**data.details, "seeds": outcomes}})


def _wordnet_keys(name: str) -> dict[str, str]:
    """Figures of a trained pipeline, and what they are of `score_wordnet`."""
    recall = {"bi": "wordnet_recall64"}.get(name, f"wordnet_{name}_recall64")
    return {recall: "recall64", f"wordnet_{name}_acc": "acc", f"wordnet_{name}_namesakes_acc": "namesakes"}


def wordnet_cross_encoder(settings: Settings, work: Path, data: LinkData, seed: int) -> Trained:
    """The bi-encoder with the cross-encoder of `configs/reranker.cfg` behind it."""
    path = settings.configs / "reranker.cfg"
    if not path.is_file():
        raise error("E444", path=path)
    config: Config = load_config(path)
    config["components"][RERANKER]["model"]["tok2vec"].update(settings.encoder)
    config["paths"]["linker"] = str(wordnet_bi_encoder(settings, work, data, seed).path)
    return train_pipeline("wordnet-cross", config, data, seed, settings, work)


def wordnet_distilled(settings: Settings, work: Path, data: LinkData, seed: int) -> Trained:
    """The bi-encoder of `configs/linking_distilled.cfg`, whose teacher is the cross-encoder."""
    config = read_config(settings, "linking_distilled")
    config["paths"]["teacher"] = str(wordnet_cross_encoder(settings, work, data, seed).path)
    return train_pipeline("wordnet-distilled", config, data, seed, settings, work)


def measure_untrained(settings: Settings) -> Result:
    """The same as `measure_wordnet`, with the checkpoint as it comes."""
    settings = _quick(settings)
    with work_folder(settings) as work:
        data = prepare_wordnet(settings, work)
        config = read_config(settings, "linking")
        config["paths"]["kb"] = str(data.kb)
        nlp = load_model_from_config(config.interpolate(), auto_fill=True)
        nlp.initialize()  # and index the entities, as the config says
        scores = score_wordnet(nlp, data)
    names = {"recall64": "recall64", "acc": "acc", "namesakes": "namesakes_acc"}
    return Result({f"wordnet_untrained_{name}": mean([scores[key]]) for key, name in names.items()}, {})


def measure_given(settings: Settings, *, name: str) -> Result:
    """Link given mentions by names alone and by words alone; what the knowledge base does not have counts as not found."""
    prepare = {"wordnet": prepare_wordnet, "bc5cdr": prepare_bc5cdr}[name]
    figures: dict[str, Figure] = {}
    with work_folder(_quick(settings)) as work:
        data = prepare(settings, work)
        with EntityStore.open(data.kb, read_only=True) as store:
            for baseline, source in BASELINES.items():
                scores = link_by(source(store), store, examples_of(data.test, spacy.blank("en")))
                figures[f"{name}_{baseline}_acc"] = _figure(scores, "linking_inkb_acc")
                figures[f"{name}_{baseline}_recall64"] = _figure(scores, "linking_recall_at_64")
    return Result(figures, {f"{name}_given": data.details})


def measure_bc5cdr(settings: Settings) -> Result:
    """Train the bi-encoder on BC5CDR, abstract by abstract, once per seed; candidates are namesakes and the nearest."""
    settings = _quick(settings)
    config = read_config(settings, "linking")
    config["components"][LINKER]["model"]["context_pieces"] = 48
    config["training"]["batcher"]["size"] = 4
    outcomes: dict[str, dict[str, float]] = {}
    with work_folder(settings) as work:
        data = prepare_bc5cdr(settings, work)
        for seed in settings.seeds:
            trained = train_pipeline("bc5cdr", config, data, seed, settings, work)
            nlp = spacy.load(trained.path)
            scores = score_linking(nlp, examples_of(data.test, nlp), {**NAMESAKES, **WHOLE})
            outcomes[str(seed)] = {"acc": _value(scores, "linking_inkb_acc"), **trained.details}
            progress(f"bc5cdr, seed {seed}: {outcomes[str(seed)]}")
    figure = mean([own["acc"] for own in outcomes.values()])
    return Result({"bc5cdr_bi_acc": figure}, {"bc5cdr": {**data.details, "seeds": outcomes}})


def measure_elevant(settings: Settings, *, name: str) -> Result:
    """Find mentions by their names, and link them by names or by words."""
    figures: dict[str, Figure] = {}
    with work_folder(_quick(settings)) as work:
        data = prepare_elevant(settings, work, name)
        nlp = spacy.blank("en")
        nlp.add_pipe("entitykit_dictionary", config={"kb": {"@misc": "entitykit.KB.v1", "path": str(data.kb)}})
        examples = examples_of(data.test, nlp, given=False)
        for eg in examples:
            nlp(eg.predicted)
        with EntityStore.open(data.kb, read_only=True) as store:
            for baseline, source in BASELINES.items():
                scores = link_by(source(store), store, examples, kb=store)
                figures[f"{name}_{baseline}_f1"] = _figure(scores, "linking_micro_f")
        figures[f"{name}_mentions_r"] = _figure(scores, "linking_mentions_r")
    return Result(figures, {name: data.details})


def _figure(scores: Scores, key: str) -> Figure:
    return mean([_value(scores, key)])


def _value(scores: Scores, key: str) -> float:
    """A score, 0 where there was nothing to score."""
    return float(scores[key] or 0.0)


def _quick(settings: Settings) -> Settings:
    if not settings.quick:
        return settings
    return replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)


def _baseline_keys(name: str, *scores: str) -> tuple[str, ...]:
    return tuple(f"{name}_{baseline}_{score}" for baseline in BASELINES for score in scores)


PIPELINES: Mapping[str, Train] = {
    "bi": wordnet_bi_encoder,
    "pooled": partial(wordnet_one_pass, tokens=False),
    "tokens": partial(wordnet_one_pass, tokens=True),
    "cross": wordnet_cross_encoder,
    "distilled": wordnet_distilled,
}
"""What is trained on WordNet."""

PARTS = [
    *(
        Part(tuple(_wordnet_keys(name)), partial(measure_wordnet, name=name, train=train), name == "bi")
        for name, train in PIPELINES.items()
    ),
    Part(tuple(f"wordnet_untrained_{score}" for score in ("recall64", "acc", "namesakes_acc")), measure_untrained, False),
    *(Part(_baseline_keys(name, "acc", "recall64"), partial(measure_given, name=name)) for name in ("wordnet", "bc5cdr")),
    keywords.PART,
    Part(("bc5cdr_bi_acc",), measure_bc5cdr),
    *(
        Part((*_baseline_keys(name, "f1"), f"{name}_mentions_r"), partial(measure_elevant, name=name))
        for name in list(ELEVANT)[:2]
    ),
    link_texts.PART,
]
