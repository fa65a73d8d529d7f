"""Recall of the gold mentions of GUM and LitBank among the best half span per word, with `configs/mentions.cfg`.

For training, documents are cut between sentences into pieces that fill about one window of the encoder, so that a batch has
pieces of many documents. Documents to score are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import spacy
from spacy.tokens import Doc, Span

from entitykit.benchmarks.parts import Part, Result, Settings, find_files, mean
from entitykit.benchmarks.pipelines import read_config
from entitykit.benchmarks.training import Task, run_seeds, work_folder, write_docs
from entitykit.corpora.build import ENTITIES
from entitykit.corpora.read import read_docs

RECALLS = {"": "mentions_recall_at_0.5", "_at_0.3": "mentions_recall_at_0.3", "_at_0.2": "mentions_recall_at_0.2"}
"""Ending of a figure's name to spaCy's score."""

PIECE_WORDS = 150
QUICK_DOCS = 3
QUICK_STEPS = 4


class Split(NamedTuple):
    """The documents of a corpus."""

    train: list[Doc]
    dev: list[Doc]
    test: list[Doc]


def read_gum(settings: Settings) -> Split:
    """GUM as its `splits.md` divides it; documents whose text is blanked are skipped, with a warning that counts them."""
    folder = find_files(settings, "gum/dep")[0]
    limit = QUICK_DOCS if settings.quick else 0
    splits = (list(read_docs(folder, "gum", spacy.blank("en"), split=split, limit=limit)) for split in Split._fields)
    return Split(*splits)


def read_litbank(settings: Settings) -> Split:
    """LitBank in the order of its files: 80 % train, 10 % dev, 10 % test."""
    folder = find_files(settings, "litbank/entities/tsv")[0]
    docs = list(read_docs(folder, "layered", spacy.blank("en"), limit=10 * QUICK_DOCS if settings.quick else 0))
    first, second = len(docs) * 8 // 10, len(docs) * 9 // 10
    return Split(docs[:first], docs[first:second], docs[second:])


READERS: dict[str, Callable[[Settings], Split]] = {"gum": read_gum, "litbank": read_litbank}


def measure_recall(settings: Settings, *, name: str) -> Result:
    """Train on one corpus, once per seed, and give the recall of its test mentions."""
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    config = read_config(settings, "mentions")
    split = READERS[name](settings)
    pieces = [piece for doc in split.train for piece in cut(doc, PIECE_WORDS)]
    with work_folder(settings) as work:
        train = write_docs(work / "corpora" / f"{name}-train.spacy", pieces)
        dev = write_docs(work / "corpora" / f"{name}-dev.spacy", split.dev)
        test = write_docs(work / "corpora" / f"{name}-test.spacy", split.test)
        outcomes = run_seeds(Task(name, config, train, dev, test, list(RECALLS.values())), settings, work)
    figures = {f"{name}_recall{at}": mean([each[score] for each in outcomes.values()]) for at, score in RECALLS.items()}
    sizes = {part: {"documents": len(docs), "words": sum(map(len, docs))} for part, docs in split._asdict().items()}
    details = {
        "max_steps": settings.max_steps or config["training"]["max_steps"],
        **sizes,
        "train_pieces": len(pieces),
        "train_mentions_across_pieces": sum(len(doc.spans[ENTITIES]) for doc in split.train)
        - sum(len(piece.spans[ENTITIES]) for piece in pieces),
        "seeds": outcomes,
    }
    return Result(figures, {name: details})


def cut(doc: Doc, n_words: int) -> Iterator[Doc]:
    """Cut a document between sentences into pieces of at most `n_words` words, longer sentences aside.

    Args:
        doc: with sentence starts and `doc.spans["sc"]`; spans that a cut divides are left out.
        n_words: most words of a piece.
    """
    starts = [0]
    for sentence in doc.sents:
        if sentence.end - starts[-1] > n_words and sentence.start > starts[-1]:
            starts.append(sentence.start)
    for start, end in zip(starts, [*starts[1:], len(doc)], strict=True):
        tokens = doc[start:end]
        piece = Doc(doc.vocab, words=[token.text for token in tokens], spaces=[bool(token.whitespace_) for token in tokens])
        piece.spans[ENTITIES] = [
            Span(piece, span.start - start, span.end - start, label=span.label)
            for span in doc.spans[ENTITIES]
            if start <= span.start and span.end <= end
        ]
        yield piece


PARTS = [Part(tuple(f"{name}_recall{at}" for at in RECALLS), partial(measure_recall, name=name)) for name in READERS]
