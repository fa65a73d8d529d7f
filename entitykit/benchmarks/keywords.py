"""Words that a mention is searched by (BM25): the mention's alone, those around it, or those that are predicted to be keywords.

`configs/linking_keywords.cfg` on WordNet, whose encoder stays as the checkpoint comes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import spacy
from spacy.training import Example
from spacy.util import load_config
from thinc.api import Config

from entitykit.benchmarks.link_data import K, LinkData, examples_of, prepare_wordnet
from entitykit.benchmarks.link_training import train_pipeline
from entitykit.benchmarks.parts import Part, Result, Settings, mean, progress
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.training import work_folder
from entitykit.bridge.keywords import THRESHOLD, predicted_keywords
from entitykit.bridge.link_texts import Place, mentions_in
from entitykit.errors import error
from entitykit.knowledge.candidates import KEYWORDS, WordSource, nearest_words
from entitykit.knowledge.store import EntityStore

QUICK_STEPS = 4
CONTEXT_PIECES = 128

Choose = Callable[[Example, Place], Sequence[str]]
"""Gives the words of the context that a mention is searched by."""


def _predicted(threshold: float) -> Choose:
    def choose(eg: Example, place: Place) -> Sequence[str]:
        found = predicted_keywords(eg.predicted, place, KEYWORDS, threshold)
        if found is None:
            raise error("E588", found=0, expected=len(eg.predicted))
        return found

    return choose


SEARCHES: Mapping[str, Choose] = {
    "mention": lambda eg, place: (),
    "context": lambda eg, place: nearest_words(mentions_in([eg.predicted], [place], CONTEXT_PIECES)[0]),
    "keywords": _predicted(THRESHOLD),
    "keywords_all": _predicted(0.0),
}
"""Without keywords; the nearest words; words that are probably keywords; the likeliest ones, however improbable they are."""


def recalls(store: EntityStore, examples: Sequence[Example], choose: Choose) -> dict[str, float]:
    """How many mentions have their entity first, and how many among the first 64.

    Args:
        store: the entities.
        examples: with a gold mention each, which the predicted documents have, too.
        choose: words of their contexts.
    """
    mentions, golds = [], []
    for eg in examples:
        ent, gold = eg.predicted.ents[0], eg.reference.ents[0]
        place = Place(0, ent.start, ent.end)
        (mention,) = mentions_in([eg.predicted], [place], CONTEXT_PIECES)
        mentions.append(mention._replace(keywords=choose(eg, place)))
        golds.append(store.row(gold.kb_id_))
    found = [[row for row, _ in own] for own in WordSource(store).find(mentions, K)]
    ranks = [own.index(gold) if gold in own else K for own, gold in zip(found, golds, strict=True)]
    return {"acc": sum(rank == 0 for rank in ranks) / len(ranks), "recall64": sum(rank < K for rank in ranks) / len(ranks)}


def keywords_config(settings: Settings, work: Path) -> Config:
    """`configs/linking_keywords.cfg` on the encoder of `configs/linking.cfg` as its checkpoint comes.

    Raises:
        ConfigError: E444 if there is no such config.
    """
    path = settings.configs / "linking_keywords.cfg"
    if not path.is_file():
        raise error("E444", path=path)
    nlp = spacy.blank("en")
    nlp.add_pipe(ENCODER, config={"model": dict(read_config(settings, "linking")["components"][ENCODER]["model"])})
    nlp.initialize()
    (work / "models").mkdir(exist_ok=True)
    nlp.to_disk(work / "models" / "untrained-encoder")
    config: Config = load_config(path)
    config["paths"]["pipeline"] = str(work / "models" / "untrained-encoder")
    return config


def measure_keywords(settings: Settings) -> Result:
    """Train once per seed, and search for WordNet's mentions by words in all ways."""
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    outcomes: dict[str, dict[str, float]] = {}
    with work_folder(settings) as work:
        data = prepare_wordnet(settings, work)
        config = keywords_config(settings, work)
        for seed in settings.seeds:
            trained = train_pipeline("wordnet-keywords", config, data, seed, settings, work)
            outcomes[str(seed)] = {**_score(trained.path, data), **trained.details}
            progress(f"wordnet keywords, seed {seed}: {outcomes[str(seed)]}")
    figures = {key: mean([own[key.removeprefix("wordnet_")] for own in outcomes.values()]) for key in KEYS}
    return Result(figures, {"wordnet_keywords": {**data.details, "seeds": outcomes}})


def _score(path: Path, data: LinkData) -> dict[str, float]:
    nlp = spacy.load(path)
    examples = examples_of(data.test, nlp)
    for eg, doc in zip(examples, nlp.pipe([eg.predicted for eg in examples]), strict=True):
        eg.predicted = doc
    found = {"keywords_ap": float(nlp.evaluate(examples)["keywords_ap"] or 0.0)}
    with EntityStore.open(data.kb, read_only=True) as store:
        for name, choose in SEARCHES.items():
            found |= {f"{name}_{score}": value for score, value in recalls(store, examples, choose).items()}
    return found


KEYS = ("wordnet_keywords_ap", *(f"wordnet_{name}_{score}" for name in SEARCHES for score in ("acc", "recall64")))

PART = Part(KEYS, measure_keywords, in_quick=False)
