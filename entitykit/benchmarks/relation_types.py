"""Relations that a training has not seen, asked for in words: `entitykit.EnriCo.v1` with descriptions, on single sentences.

The sentences are of the documents of Re-DocRED that `entitykit.benchmarks.relation_documents` learns from and scores, with
their gold entities; a relation holds between all mentions of the two in one sentence. Of `DESCRIPTIONS`, in the order of their
numbers, every fifth relation, and each sentence that has one, is left out of the training. `redocred_unseen_acc` is how often,
of these alone and for entities that have one of them, the most probable one is right; `redocred_unseen_guess` how often the one
that is most frequent is. `redocred_unseen_f1` is the strict F1 of finding them among all pairs, `redocred_seen_f1` that of the
relations of the training; both say a relation if its probability is above 0.5, which of those that were not learned is seldom
so. So in `redocred_unseen_calibrated_f1` every second sentence says which threshold is best, and the others are scored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Corpus, Example
from thinc.api import Config

from entitykit.benchmarks.parts import Part, Result, Settings, mean
from entitykit.benchmarks.pipelines import read_config
from entitykit.benchmarks.relation_documents import read_split, write_parts
from entitykit.benchmarks.training import Outcome, Task, run_seeds, work_folder
from entitykit.corpora.build import ENTITIES
from entitykit.corpora.given import given_mentions

RELATIONS = "entitykit_relations"
STEPS = 800
THRESHOLDS = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
QUICK_STEPS, N_SHOWN = 4, 200
SCORES = {
    "redocred_unseen_acc": "acc",
    "redocred_unseen_guess": "guess",
    "redocred_unseen_f1": "unseen",
    "redocred_unseen_calibrated_f1": "calibrated",
    "redocred_seen_f1": "seen",
}
"""The figures, and what each is of the scores that are kept."""

DESCRIPTIONS = {
    "P6": "the head of the government of a place",
    "P17": "the country in which something is",
    "P19": "the place where somebody was born",
    "P20": "the place where somebody died",
    "P22": "the father of somebody",
    "P25": "the mother of somebody",
    "P26": "the husband or wife of somebody",
    "P27": "the country of which somebody is a citizen",
    "P30": "the continent on which something is",
    "P35": "the head of a state",
    "P36": "the capital of a country or region",
    "P37": "the official language of a place",
    "P39": "the office that somebody holds",
    "P40": "a child of somebody",
    "P50": "the author of a work",
    "P54": "the sports team for which somebody plays",
    "P57": "the director of a film",
    "P58": "who wrote the screenplay of a film",
    "P69": "the school or university where somebody studied",
    "P86": "the composer of a piece of music",
    "P102": "the political party of which somebody is a member",
    "P108": "the employer of somebody",
    "P112": "the founder of an organization",
    "P118": "the league in which a team plays",
    "P123": "the publisher of a work",
    "P127": "the owner of something",
    "P131": "the region or city in which something is",
    "P136": "the genre of a work or artist",
    "P140": "the religion of somebody",
    "P150": "a smaller district that belongs to a region",
    "P155": "what comes before something in a series",
    "P156": "what comes after something in a series",
    "P159": "the place where an organization has its headquarters",
    "P161": "an actor who plays in a film",
    "P162": "the producer of a work",
    "P166": "an award that somebody received",
    "P170": "who created something",
    "P172": "the ethnic group to which somebody belongs",
    "P175": "who performs a song or album",
    "P176": "the manufacturer of a product",
    "P178": "the developer of a program or game",
    "P179": "the series to which something belongs",
    "P206": "the sea, lake or river beside which something is",
    "P241": "the branch of the armed forces in which somebody serves",
    "P264": "the record label of a musician or album",
    "P276": "the place where an event happens",
    "P279": "the class of which something is a kind",
    "P361": "the whole of which something is a part",
    "P400": "the system on which a game or program runs",
    "P403": "the water into which a river flows",
    "P449": "the television channel that first showed a programme",
    "P463": "the organization of which somebody is a member",
    "P495": "the country from which a work comes",
    "P527": "a part of something",
    "P569": "the date when somebody was born",
    "P570": "the date when somebody died",
    "P571": "the date when something was founded",
    "P577": "the date when a work was published",
    "P580": "the date when something began",
    "P582": "the date when something ended",
    "P585": "the date when an event happened",
    "P607": "the war in which somebody fought",
    "P674": "a character who appears in a work",
    "P710": "who took part in an event",
    "P740": "the place where a group was founded",
    "P749": "the company to which another company belongs",
    "P800": "a famous work of somebody",
    "P937": "the place where somebody works",
    "P1001": "the region to which a law or office applies",
    "P1344": "an event in which somebody took part",
    "P1412": "a language that somebody speaks",
    "P1441": "the work in which a character appears",
}
"""Relations of Wikidata that Re-DocRED has, in words of our own."""
UNSEEN = tuple(DESCRIPTIONS)[4::5]


def sentences(doc: Doc, labels: Collection[str]) -> Iterator[Doc]:
    """The sentences of a document that have two entities, each as a document with the relations between these.

    Args:
        doc: with sentences, clusters and relations between them.
        labels: relations that are kept.
    """
    for sent in doc.sents:
        made = Doc(doc.vocab, words=[word.text for word in sent], spaces=[bool(word.whitespace_) for word in sent])
        inside = {
            (span.start, span.end): span for span in doc.spans[ENTITIES] if sent.start <= span.start and span.end <= sent.end
        }
        if len(inside) > 1:
            made.spans[ENTITIES] = [Span(made, a - sent.start, b - sent.start, span.label_) for (a, b), span in inside.items()]
            made.user_data["relations"] = list(_relations(doc, sent, inside, labels))
            yield made


def _relations(doc: Doc, sent: Span, inside: Collection[tuple[int, int]], labels: Collection[str]) -> Iterator[dict[str, Any]]:
    for relation in doc.user_data["cluster_relations"]:
        ends = [doc.spans[f"coref_clusters_{relation[end]}"] for end in ("head", "tail")]
        for both in product(*ends) if relation["label"] in labels else ():
            if all((span.start, span.end) in inside for span in both):
                head, tail = ([span.start - sent.start, span.end - sent.start] for span in both)
                yield {"head": head, "tail": tail, "label": relation["label"]}


def prepare(settings: Settings, work: Path) -> tuple[Path, Path, Path]:
    """Write DocBins of the sentences to learn from and to show, which have no relation that is left out, and to score.

    Raises:
        InputError, CorpusError: as `entitykit.benchmarks.relation_documents.read_split`.
    """
    train, test = ([one for doc in part for one in sentences(doc, DESCRIPTIONS)] for part in read_split(settings))
    learned = [one for one in train if not any(relation["label"] in UNSEEN for relation in one.user_data["relations"])]
    return write_parts(work / "corpora-types", learned, N_SHOWN, test)


def change(config: Config) -> None:
    """Make `configs/relation_pairs.cfg` one for described relations."""
    relations = config["components"][RELATIONS]
    listener = relations["model"]["tok2vec"]
    relations["model"] = {"@architectures": "entitykit.EnriCo.v1", "joint": False, "described": True, "tok2vec": listener}
    relations.update(scope="document", descriptions=dict(DESCRIPTIONS))
    config["training"].update(max_steps=STEPS, score_weights={"rel_strict_f": 1.0})


def measure_unseen(settings: Settings) -> Result:
    """Train and score, once per seed."""
    config = read_config(settings, "relation_pairs")
    change(config)
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    with work_folder(settings) as work:
        task = Task("redocred_unseen", config, *prepare(settings, work), [*SCORES.values()], measure=_score)
        outcomes = run_seeds(task, settings, work)
    figures = {key: mean([outcome[name] for outcome in outcomes.values()]) for key, name in SCORES.items()}
    details = {"max_steps": settings.max_steps or STEPS, "unseen": list(UNSEEN), "seeds": outcomes}
    return Result(figures, {"redocred_unseen_f1": details})


def _score(pipeline: Path, task: Task) -> Outcome:
    """Score the relations of the training, then ask for the others."""
    nlp = spacy.load(pipeline)
    relations: Any = nlp.get_pipe(RELATIONS)
    seen = nlp.evaluate(_examples(nlp, task.test, relations.labels))["rel_strict_f"]
    relations.set_descriptions({label: DESCRIPTIONS[label] for label in UNSEEN})
    unseen = nlp.evaluate(_examples(nlp, task.test, UNSEEN))["rel_strict_f"]
    calibrated = _calibrated(nlp, task.test)
    relations.settings["threshold"] = 0.0
    answers = [answer for eg in _examples(nlp, task.test, UNSEEN) for answer in _answers(nlp(eg.predicted), eg.reference)]
    frequent = Counter(label for labels, _ in answers for label in labels).most_common(1)
    right, n = sum(chosen in labels for labels, chosen in answers), max(len(answers), 1)
    guessed = sum(label in labels for labels, _ in answers for label, _ in frequent)
    return {"seen": seen or 0.0, "unseen": unseen or 0.0, "calibrated": calibrated, "acc": right / n, "guess": guessed / n}


def _calibrated(nlp: Language, path: Path) -> float:
    """F1 of every second sentence with the threshold that is best for the others."""
    settings: Any = nlp.get_pipe(RELATIONS).settings  # type: ignore[attr-defined]

    def score(threshold: float, half: int) -> float:
        settings["threshold"] = threshold
        return nlp.evaluate(_examples(nlp, path, UNSEEN)[half::2])["rel_strict_f"] or 0.0

    return score(max(THRESHOLDS, key=lambda threshold: score(threshold, 0)), 1)


def _examples(nlp: Language, path: Path, labels: Collection[str]) -> list[Example]:
    """Sentences with their entities, and with gold relations of these labels only."""
    examples = list(given_mentions(Corpus(path), ENTITIES)(nlp))
    for eg in examples:
        eg.reference.user_data["relations"] = [one for one in eg.reference.user_data["relations"] if one["label"] in labels]
    return examples


def _answers(doc: Doc, reference: Doc) -> Iterator[tuple[set[str], str]]:
    """Of each pair that is related, by which relations, and the one that is most probable."""
    gold, found = (_by_pair(values) for values in (reference.user_data["relations"], doc._.relations))
    for pair, own in gold.items():
        scores = found.get(pair, {})
        yield set(own), max(scores, key=lambda label: scores[label], default="")


def _by_pair(values: Iterable[Mapping[str, Any]]) -> dict[tuple[int, ...], dict[str, float]]:
    """Scores of relations by the places of head and tail, 1 of gold ones."""
    found: dict[tuple[int, ...], dict[str, float]] = {}
    for value in values:
        found.setdefault((*value["head"], *value["tail"]), {})[value["label"]] = value.get("score", 1.0)
    return found


PARTS = [Part(tuple(SCORES), measure_unseen)]
