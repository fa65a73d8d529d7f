"""Entities of ECB+ across documents: `configs/cross_document.cfg`, the cross-encoder behind it, and names as a baseline.

The figures are CoNLL F1 on the test set with clusters of one mention, all 206 documents as one: nothing is told of their
topics. `gold` has the gold mentions, `predicted` those that the pipeline finds. Thresholds are those that are best on the
development set. `incremental` adds the test documents, with gold mentions, to a store one after the other, in another order for
each seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Corpus, Example
from thinc.api import Config

from entitykit.benchmarks import training
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, find_files, mean, progress
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.training import work_folder, write_docs
from entitykit.corpora.given import given_mentions
from entitykit.corpora.read import read_docs
from entitykit.errors import error
from entitykit.scoring.cross_document import cross_document_score

GOLD, MENTIONS, VECTORS, PAIRS = "sc", "mentions", "entitykit_cross_document", "entitykit_mention_pairs"
GROUP = "cross_document"
SPLITS = ("Train", "Dev", "Test")
QUICK_DOCS = 12
QUICK_STEPS = 2
F1 = "cross_document_conll_f"

# What ends the part of an English phrase whose last word is its head.
BEHIND = frozenset(
    {"of", "in", "on", "at", "from", "for", "with", "by", "to", "about", "near", "after", "before", "who", "whom", "whose"}
    | {"which", "that", ",", "(", "-"}
)


class Data(NamedTuple):
    """The corpus as DocBins."""

    train: Path
    dev: Path
    test: Path


def prepare(settings: Settings, work: Path) -> Data:
    """Convert the text files with JSON mentions."""
    limit = QUICK_DOCS if settings.quick else None
    nlp, found = spacy.blank("en"), []
    for split in SPLITS:
        (path,) = find_files(settings, f"ecbplus/ECB_{split}_corpus.txt")
        docs = islice(read_docs(path, "ecbplus", nlp), limit)
        found.append(write_docs(work / "corpora-ecbplus" / f"{split.lower()}.spacy", docs, user_data=True))
    return Data(*found)


# Trainings


def train_vectors(settings: Settings, work: Path, data: Data, seed: int) -> Path:
    """A pipeline of `configs/cross_document.cfg`."""
    return _trained("vectors", read_config(settings, "cross_document"), data, seed, settings, work)


def train_pairs(settings: Settings, work: Path, data: Data, seed: int) -> Path:
    """The same with the cross-encoder of `configs/cross_document_pairs.cfg`."""
    path = settings.configs / "cross_document_pairs.cfg"
    if not path.is_file():
        raise error("E444", path=path)
    config = spacy.util.load_config(path)
    config["components"][PAIRS]["model"]["tok2vec"].update(settings.encoder)
    config["paths"]["vectors"] = str(train_vectors(settings, work, data, seed))
    return _trained("pairs", config, data, seed, settings, work)


def _trained(name: str, config: Config, data: Data, seed: int, settings: Settings, work: Path) -> Path:
    """Train, unless the work folder has what the same config, data and seed have given."""
    if settings.max_steps:
        config["training"]["max_steps"] = settings.max_steps
    text = config.to_str() + str(seed) + hashlib.sha256(data.train.read_bytes()).hexdigest()
    path = work / "models" / f"ecbplus-{name}-seed{seed}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if path.exists():
        progress(f"{path.name}: found in {path.parent}")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{name}-seed{seed}-") as folder:
        config.to_disk(Path(folder, "config.cfg"))
        progress(f"training ecbplus {name}, seed {seed}")
        start = time.perf_counter()
        paths = {"paths.train": str(data.train), "paths.dev": str(data.dev), "system.seed": str(seed)}
        training.spacy_train(Path(folder, "config.cfg"), Path(folder, "output"), paths)
        minutes = round((time.perf_counter() - start) / 60, 2)
        trained = Path(folder, "output", "model-last")
        (trained / "minutes.json").write_text(json.dumps(minutes), encoding="utf-8")
        trained.replace(path)
    return path


# Scores


def read_examples(nlp: Language, path: Path, mentions: str) -> list[Example]:
    """Documents with the vectors of gold or of predicted mentions."""
    corpus = Corpus(path)
    examples = list((given_mentions(corpus, key=MENTIONS, gold=GOLD) if mentions == "gold" else corpus)(nlp))
    docs = [eg.predicted for eg in examples]
    for eg in examples:
        eg.predicted.user_data["id"] = eg.reference.user_data["id"]
    for name in (ENCODER, VECTORS) if mentions == "gold" else (ENCODER, "entitykit_mentions", VECTORS):
        docs = list(nlp.get_pipe(name).pipe(docs, batch_size=nlp.batch_size))  # type: ignore[attr-defined]
    for doc in docs:
        doc._.trf_data = None
    return examples


def score_together(nlp: Language, by: str, data: Data, mentions: str) -> dict[str, float]:
    """Find thresholds on the development set, and score the test set."""
    pipe: Any = nlp.get_pipe(by)
    start = time.perf_counter()
    merging = pipe.calibrate(read_examples(nlp, data.dev, mentions))
    test = read_examples(nlp, data.test, mentions)
    found = cross_document_scores(pipe.score(test))
    times = {"threshold": merging.threshold, "mean_threshold": merging.mean_threshold, "seconds": time.perf_counter() - start}
    return {**found, **times}


def score_incremental(nlp: Language, by: str, data: Data, mentions: str, seed: int) -> dict[str, float]:
    """Add the test documents to a store one at a time, with the thresholds that `score_together` has found."""
    pipe: Any = nlp.get_pipe(by)
    test = read_examples(nlp, data.test, mentions)
    docs = [eg.predicted for eg in test]
    order = random.Random(seed).sample(docs, len(docs))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="entitykit-") as folder, pipe.open_store(Path(folder), docs) as store:
        for doc in order:
            pipe.add_to(store, [doc])
        pipe.ids_from(store, docs)
    return {**cross_document_scores(cross_document_score(test)), "seconds": time.perf_counter() - start}


def cross_document_scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are kept."""
    names = ("conll", "muc", "b3", "ceafe", "lea", "mentions", "no_singletons_conll")
    return {f"{name}_f": float(scores[f"cross_document_{name}_f"] or 0.0) for name in names}


def measure_models(settings: Settings, *, by: str) -> Result:
    """Train once per seed, and score with given and found mentions, together and incrementally."""
    settings = _quick(settings)
    train, ending = {VECTORS: (train_vectors, "_vectors"), PAIRS: (train_pairs, "")}[by]
    outcomes: dict[str, dict[str, Any]] = {}
    with work_folder(settings) as work:
        data = prepare(settings, work)
        for seed in settings.seeds:
            path = train(settings, work, data, seed)
            nlp = spacy.load(path)
            own: dict[str, Any] = {"minutes": json.loads((path / "minutes.json").read_text(encoding="utf-8"))}
            own["gold"] = score_together(nlp, by, data, "gold")
            own["incremental"] = score_incremental(nlp, by, data, "gold", seed)
            own["predicted"] = score_together(nlp, by, data, "predicted")
            outcomes[str(seed)] = own
            progress(f"ecbplus{ending or '_pairs'}, seed {seed}: {json.dumps(own)}")
    figures = {
        f"ecb_{mode}{ending}_f1": mean([own[mode]["conll_f"] for own in outcomes.values()])
        for mode in ("gold", "predicted", "incremental")
    }
    if by == VECTORS:
        figures["ecb_mentions_f1"] = mean([own["predicted"]["mentions_f"] for own in outcomes.values()])
    return Result(figures, {f"ecb{ending or '_pairs'}": {"seeds": outcomes}})


# Names


def same_string(span: Span) -> str:
    """A mention's words in lower case, articles aside."""
    words = [token.lower_ for token in span if token.lower_ not in ("the", "a", "an")]
    return " ".join(words) or span.text.lower()


def same_head(span: Span) -> str:
    """The last word before a preposition, a comma or a clause; a plain plural is like a singular."""
    words = [token.lower_ for token in span]
    if words[0] in BEHIND and len(words) > 1:
        words = words[1:]  # mentions of places and times have their prepositions
    end = next((i for i, word in enumerate(words) if i and word in BEHIND), len(words))
    head = words[end - 1] if words[end - 1] != "'s" or end < 2 else words[end - 2]
    return re.sub(r"(?<=[^s])s$", "", head) if len(head) > 3 else head


NAMES: Mapping[str, Callable[[Span], str]] = {"string": same_string, "head": same_head}


def measure_names(settings: Settings, *, name: str) -> Result:
    """Cluster gold mentions with the same name, in the whole corpus and, knowing the topics, in each of them."""
    settings, figures = _quick(settings), dict[str, Figure]()
    with work_folder(settings) as work:
        nlp = spacy.blank("en")
        examples = list(Corpus(prepare(settings, work).test)(nlp))
    for ending, key in (("", None), ("_topics", "topic")):
        for eg in examples:
            group = eg.reference.user_data[key] if key else ""
            spans = {(span.start, span.end): span for span in eg.reference.spans[GOLD]}
            eg.predicted.spans[GROUP] = [
                Span(eg.predicted, *place, span_id=f"{group}/{NAMES[name](span)}") for place, span in spans.items()
            ]
        scores = cross_document_scores(cross_document_score(examples))
        figures[f"ecb_gold_{name}{ending}_f1"] = mean([scores["conll_f"]])
    return Result(figures, {})


def _quick(settings: Settings) -> Settings:
    if not settings.quick:
        return settings
    return replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)


PARTS = [
    *(Part((f"ecb_gold_{name}_f1", f"ecb_gold_{name}_topics_f1"), partial(measure_names, name=name)) for name in NAMES),
    Part(
        ("ecb_gold_vectors_f1", "ecb_predicted_vectors_f1", "ecb_incremental_vectors_f1", "ecb_mentions_f1"),
        partial(measure_models, by=VECTORS),
    ),
    Part(("ecb_gold_f1", "ecb_predicted_f1", "ecb_incremental_f1"), partial(measure_models, by=PAIRS)),
]
