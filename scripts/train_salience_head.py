"""Train the salience that `make demo` shows: `python scripts/train_salience_head.py DATA [--out examples/heads/salience]`.

DATA is a folder with GUM and the Wikinews ratings. Of GUM only the genres under CC BY and CC BY-SA are read. The head reads the
states of `en_entitykit_sm`, which stays as it is, so that each document is read once; what is written is the head alone, its
settings beside it. It learns of the names that the pipeline finds: each has the grade of the gold entity that it shares most
words with. Grades are brought to 0–1 so that one half and more are salient: two of five summaries of GUM name the entity, or
its mean rating in Wikinews is 2 of 3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from default_corpus import gum_ids
from heads import PIPELINE, ROOT, write_head
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import load_config, load_model_from_config
from thinc.api import fix_random_seed

from entitykit.benchmarks.salience import train_on_states
from entitykit.components.grouping import group_entities
from entitykit.corpora.read import read_docs
from entitykit.scoring.salience import best_threshold, score_salience
from entitykit.scoring.salience_documents import compare_entities, match, rated_entities

COMPONENT = "entitykit_salience"
SALIENT = 0.5
PARTS = {"train": ("train", "dev"), "dev": ("test",)}
"""The parts of Wikinews that are learned from, and the one for development."""


def main() -> None:
    """Make the corpus, train, choose the threshold and write the head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "heads" / "salience")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--documents", type=int, help="of each source and split at most")
    args = parser.parse_args()
    nlp = load_pipeline()
    train, dev = (list(examples(args.data, split, nlp, args.documents)) for split in ("train", "dev"))
    for name, side in {"train": train, "dev": dev}.items():
        grades = [entity["score"] for eg in side for entity in eg.reference.user_data["salience"]]
        n_salient = sum(grade >= SALIENT for grade in grades)
        print(f"{name}: {len(side)} documents, {len(grades):,} entities, {n_salient:,} of them salient")
    fix_random_seed(0)
    with nlp.select_pipes(enable=COMPONENT):
        nlp.initialize(lambda: train)
    train_on_states(nlp, COMPONENT, train, n_epochs=args.epochs)
    write_calibrated(nlp, dev, args.out)


def load_pipeline() -> Language:
    """Load the default pipeline with a new head, as the config has it."""
    config = load_config(ROOT / "configs" / "salience_head.cfg", overrides={"paths.pipeline": PIPELINE})
    config["components"][COMPONENT]["clusters"] = ""
    return load_model_from_config(config.interpolate(), auto_fill=True)


def examples(data: Path, split: str, nlp: Language, limit: int | None) -> Iterator[Example]:
    """The examples of a split, read by the encoder; so many of each source at most."""
    yield from islice(gum(data / "gum", split, nlp), limit)
    yield from islice(wikinews(data / "salience", split, nlp), limit)


def gum(folder: Path, split: str, nlp: Language) -> Iterator[Example]:
    """GUM's documents; it rates all entities, so that a name that is none is not salient."""
    for doc in read_docs(folder / "dep", "gum", nlp, ids=gum_ids(folder / "splits.md", split)):
        yield rate(doc, nlp, lambda score: min(score / 4, 1.0), others=0.0)


def wikinews(folder: Path, split: str, nlp: Language) -> Iterator[Example]:
    """Wikinews; it rates what annotators have linked, and what they have not teaches nothing."""
    for part in PARTS[split]:
        for doc in read_docs(folder, "salience", nlp, split=part):
            yield rate(doc, nlp, lambda score: max(score - 1, 0.0) / 2, others=None)


def rate(doc: Doc, nlp: Language, scale: Callable[[float], float], *, others: float | None) -> Example:
    """Give the names that the pipeline finds the grades of the gold entities whose words they share.

    Args:
        doc: with ratings.
        nlp: finds names, and leaves states.
        scale: of grades, to 0–1.
        others: the grade of names that are no gold entity; none: they are left out.
    """
    words, spaces = [token.text for token in doc], [bool(token.whitespace_) for token in doc]
    with nlp.select_pipes(disable=COMPONENT):
        predicted = nlp(Doc(nlp.vocab, words=words, spaces=spaces))
    pipe: Any = nlp.get_pipe(COMPONENT)
    found = group_entities(predicted, pipe.grouping)
    gold = rated_entities(doc, doc.user_data["salience"]) or []
    pairs = match([words_of(each.mentions) for each in gold], [words_of(each.mentions) for each in found])
    known = {column: scale(gold[row].score) for row, column in pairs.items()}
    reference = Doc(nlp.vocab, words=words, spaces=spaces)
    reference.user_data["salience"] = [
        {"entity": group.name, "mentions": [list(place) for place in group.mentions], "score": known.get(column, others)}
        for column, group in enumerate(found)
        if known.get(column, others) is not None
    ]
    return Example(predicted, reference)


def words_of(mentions: Iterable[tuple[int, int]]) -> set[int]:
    """The words of mentions."""
    return {word for start, end in mentions for word in range(start, end)}


def write_calibrated(nlp: Language, dev: list[Example], out: Path) -> None:
    """Choose the threshold on the development set, say how good the head is there, and save it alone."""
    head: Any = nlp.get_pipe(COMPONENT)
    threshold = round(head.calibrate(dev), 3)
    print(f"threshold {threshold}")
    report("head", dev, lambda value, n: value["score"])
    report("frequency", dev, lambda value, n: len(value["mentions"]))
    report("first position", dev, lambda value, n: 1 - min(start for start, _ in value["mentions"]) / n)
    write_head(nlp, COMPONENT, out, threshold=threshold)


def report(name: str, examples: Iterable[Example], rule: Callable[[dict[str, Any], int], float]) -> None:
    """Print how good the scores of a rule are, F1 at the best threshold."""
    compared = []
    for eg in examples:
        for value in eg.predicted._.salience:
            value["score"] = rule(value, len(eg.predicted))
        compared.append(compare_entities(eg))
    compared = [each for each in compared if each is not None]
    gold, predicted = [each.grades for each in compared], [each.scores for each in compared]
    threshold = best_threshold(gold, predicted, salient=SALIENT)
    found = score_salience(gold, predicted, salient=SALIENT, threshold=threshold)
    print(f"{name}: F1 {found.micro.f1:.3f}, AUC {found.auc:.3f}, nDCG {found.ndcg[0]:.3f}")


if __name__ == "__main__":
    main()
