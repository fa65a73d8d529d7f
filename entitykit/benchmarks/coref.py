"""Coreference of LitBank and GUM by `configs/coref.cfg`, pronouns of GAP, and entities asked for by name.

`bounded_f1_loss` is what a memory of 20 entities loses, in points, the least recent one making room; with `_learned20` the one
that the model thinks worth least.

The figures are scores on the test sets after the last step, with predicted mentions, the mean over seeds. LitBank and GUM are
divided as their readers say; what was trained on GUM is also asked who the pronouns of GAP stand for. Major entities are the
five of each LitBank document with most mentions that have a name, each asked for by its first name in the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from thinc.api import Config

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.training import Task, run_seeds, work_folder, write_docs
from entitykit.corpora.given_speakers import give_speakers
from entitykit.corpora.read import read_docs
from entitykit.scoring.coref import clusters_in
from entitykit.scoring.gap import PUBLISHED, decide, score_gap
from entitykit.scoring.major_entities import score_major_entities

COREF = "entitykit_coref"
SCORES = {
    "conll_f1": "coref_conll_f",
    "no_singletons_conll_f1": "coref_no_singletons_conll_f",
    "lea_f1": "coref_lea_f",
    "mentions_f1": "coref_mentions_f",
}
"""Ending of a figure's name to spaCy's score."""
BOUNDED = {
    "lru100": {"capacity": 100, "forget": "lru"},
    "lru20": {"capacity": 20, "forget": "lru"},
    "learned20": {"capacity": 20, "forget": "learned"},
}
"""Settings of smaller memories; the config's holds all entities of a LitBank document."""
LOSSES = {"bounded_f1_loss": "lru20", "bounded_f1_loss_learned20": "learned20"}
"""Figures that say what a smaller memory loses."""
N_MAJOR = 5
FORMS = ("hybrid", "static", "clusters")
"""How entities are found by name: by the head, or as the cluster that has the name among its mentions."""
QUICK_STEPS = 4
QUICK_DOCS = 3

Change = Callable[[Config], None]
Further = Callable[[Language, Sequence[Doc]], Mapping[str, float]]


def _model(**settings: Any) -> Change:
    return lambda config: config["components"][COREF]["model"].update(settings)


def _antecedents(config: Config) -> None:
    """The baseline without entities."""
    listener = config["components"][COREF]["model"]["tok2vec"]
    config["components"][COREF]["model"] = {"@architectures": "entitykit.AntecedentCoref.v1", "tok2vec": listener}


def _tokens(config: Config) -> None:
    """Mentions are entity tokens of their own, which read the words, in the place of states pooled from these."""
    config["components"][ENCODER]["model"]["entities"]["tokens"] = True


def _as_it_is(config: Config) -> None:
    pass


CHANGES: Mapping[str, Mapping[str, Change]] = {
    "litbank": {
        "": _as_it_is,
        "_no_names": _model(names=False),
        "_gate": _model(update="gate"),
        "_antecedents": _antecedents,
        "_tokens": _tokens,
    },
    "gum": {"": _as_it_is, "_speakers": _model(speakers=True)},
}
"""What is changed of the config, by data set; the first is the config as it stands. LitBank does not say who speaks."""


def measure_litbank(settings: Settings, *, form: str) -> Result:
    """Train on LitBank and score its test part, with smaller memories, and by name."""
    further = _memories_and_names if not form else None
    return _measure("litbank", settings, form=form, further=further)


def measure_gum(settings: Settings, *, form: str) -> Result:
    """Train on GUM and score its test part, and GAP's by the config as it stands."""
    further = None if form else partial(_gap, find_files(settings, "gap/gap-test.tsv")[0], settings.quick)
    return _measure("gum", settings, form=form, further=further)


def _measure(data: str, settings: Settings, *, form: str, further: Further | None) -> Result:
    config = read_config(settings, "coref")
    CHANGES[data][form](config)
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        train, dev, test = (
            write_docs(work / "corpora" / f"{data}-coref-{split}.spacy", _read(data, split, settings), user_data=True)
            for split in ("train", "dev", "test")
        )
        task = Task(
            f"{data}_coref{form}", config, train, dev, test, list(SCORES.values()), measure=partial(_score, further=further)
        )
        outcomes = run_seeds(task, settings, work)
    each = list(outcomes.values())
    figures = {f"{data}_{key}{form}": mean([outcome[score] for outcome in each]) for key, score in SCORES.items()}
    others = [key for key in each[0] if key not in (*SCORES.values(), "minutes")]
    figures |= {key: mean([outcome[key] for outcome in each]) for key in others}
    for key, memory in LOSSES.items():
        if f"{data}_conll_f1_{memory}" in others:
            losses = [100 * (outcome[SCORES["conll_f1"]] - outcome[f"{data}_conll_f1_{memory}"]) for outcome in each]
            figures[key] = mean(losses)
    details = {"max_steps": settings.max_steps or config["training"]["max_steps"], "seeds": outcomes}
    if "gap_f1" in others:
        details["published for GAP"] = PUBLISHED
    return Result(figures, {f"{data}_coref{form}": details})


def _read(data: str, split: str, settings: Settings) -> list[Doc]:
    folder = find_files(settings, {"litbank": "litbank/coref/conll", "gum": "gum/dep"}[data])[0]
    limit = QUICK_DOCS if settings.quick else 0
    if data == "litbank":  # which reads all files and leaves out those of other parts
        docs = list(read_docs(folder, data, spacy.blank("en"), split=split))
        return docs[: limit or None]
    return list(read_docs(folder, data, spacy.blank("en"), split=split, limit=limit, clusters="all"))


def _score(pipeline: Path, task: Task, *, further: Further | None) -> dict[str, float]:
    nlp = spacy.load(pipeline)
    docs = list(DocBin().from_disk(task.test).get_docs(nlp.vocab))
    found = nlp.evaluate(list(map(_unread, docs)))
    scores = {score: found[score] for score in task.scores}
    return scores if further is None else {**scores, **further(nlp, docs)}


def _unread(doc: Doc) -> Example:
    """The words of a document, to be annotated, with who says them if that is known, and the document."""
    words = Doc(doc.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc])
    return give_speakers(Example(words, doc))


def _memories_and_names(nlp: Language, docs: Sequence[Doc]) -> dict[str, float]:
    scores = {}
    coref: Any = nlp.get_pipe(COREF)
    as_trained = dict(coref.settings)
    for name, settings in BOUNDED.items():
        coref.settings.update(settings)
        scores[f"litbank_conll_f1_{name}"] = nlp.evaluate(list(map(_unread, docs)))["coref_conll_f"]
    coref.settings.update(as_trained)
    return {**scores, **_major_entities(nlp, docs)}


def _major_entities(nlp: Language, docs: Sequence[Doc]) -> dict[str, float]:
    """Macro and micro F1 of every form; of a model that does not find entities by name, of clusters alone."""
    coref: Any = nlp.get_pipe(COREF)
    gold: list[dict[str, set[Any]]] = []
    found: dict[str, list[dict[str, set[Any]]]] = {form: [] for form in FORMS}
    for reference in docs:
        doc = nlp(_unread(reference).predicted)
        majors = dict(major_entities(reference))
        gold.append({name: {(span.start, span.end) for span in cluster} for name, cluster in majors.items()})
        for form in FORMS:
            mentions = by_cluster(doc, list(majors)) if form == "clusters" else coref.find(doc, list(majors), memory=form)
            found[form].append({name: {(span.start, span.end) for span in spans} for name, spans in mentions.items()})
    scores = {form: score_major_entities(gold, each) for form, each in found.items()}
    return {
        f"litbank_major_{average}_f1_{form}": getattr(score, f"{average}_f1")
        for form, score in scores.items()
        if score is not None
        for average in ("macro", "micro")
    }


def major_entities(doc: Doc) -> Iterator[tuple[str, list[Span]]]:
    """The entities of a document with most mentions that have a name, each with its first name and its mentions."""
    taken: set[str] = set()
    n_found = 0
    for cluster in sorted(clusters_in(doc) or [], key=len, reverse=True):
        names = [span for span in cluster if span[-1].text[0].isupper() and not span[-1].is_stop and not span[0].is_stop]
        name = min(names, key=lambda span: span.start).text if names else ""
        if n_found < N_MAJOR and name and name.lower() not in taken:
            taken.add(name.lower())
            n_found += 1
            yield name, cluster


def by_cluster(doc: Doc, names: Sequence[str]) -> dict[str, list[Span]]:
    """Predicted clusters by name: the one with most mentions that are the name, or hold it; the baseline of MEI."""
    clusters = clusters_in(doc) or []

    def likeness(cluster: Sequence[Span], name: str) -> tuple[int, int]:
        texts = [span.text.lower() for span in cluster]
        return texts.count(name), sum(name in text for text in texts)

    found = {}
    for name in names:
        best = max(clusters, key=lambda cluster: likeness(cluster, name.lower()), default=[])
        found[name] = best if any(likeness(best, name.lower())) else []
    return found


def _gap(path: Path, quick: bool, nlp: Language, _: Sequence[Doc]) -> dict[str, float]:
    """F1 of GAP's test part and its bias."""
    docs = list(read_docs(path, "gap", spacy.blank("en"), limit=20 if quick else 0))
    decisions = []
    for doc, annotated in zip(docs, nlp.pipe(doc.text for doc in docs), strict=True):
        annotated.user_data["gap"] = doc.user_data["gap"]
        decisions.append(decide(annotated))
    scores = score_gap(decisions)
    found = {"gap_f1": scores.overall.f1, "gap_feminine_f1": scores.feminine.f1, "gap_masculine_f1": scores.masculine.f1}
    return {**found, "gap_bias": scores.bias or 0.0}  # without a right answer for either


_KEYS = [
    *LOSSES,
    *(f"litbank_conll_f1_{name}" for name in BOUNDED),
    *(f"litbank_major_{average}_f1_{form}" for form in FORMS for average in ("macro", "micro")),
]
_GAP_KEYS = ["gap_f1", "gap_feminine_f1", "gap_masculine_f1", "gap_bias"]
PARTS = [
    *(
        Part(
            tuple([f"litbank_{key}{form}" for key in SCORES] + ([] if form else _KEYS)),
            partial(measure_litbank, form=form),
            not form,
        )
        for form in CHANGES["litbank"]
    ),
    *(
        Part(
            tuple([f"gum_{key}{form}" for key in SCORES] + ([] if form else _GAP_KEYS)),
            partial(measure_gum, form=form),
            False,
        )
        for form in CHANGES["gum"]
    ),
]
