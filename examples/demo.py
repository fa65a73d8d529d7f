"""Annotate the texts in this folder with the default pipeline: tables in the terminal, and a web page.

Run it with `make demo`, or `python examples/demo.py [PIPELINE]` for another pipeline. The default one is given the heads in
`heads/`, which read the states of its encoder: links to the entities of `kb.jsonl`, who is who, what a text is about, and
relations. The pipeline with these heads is kept in `build/demo_pipeline`, to try them on other texts.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.jsonl import doc_to_record
from entitykit.corpora.triples import read_triples
from entitykit.html import render_html
from entitykit.html_coref import find_chains
from entitykit.html_salience import salient_entities
from entitykit.knowledge.entities import Entity, read_entities
from entitykit.knowledge.store import EntityStore

EXAMPLES = Path(__file__).parent
PAGE = EXAMPLES.parent / "build" / "demo.html"

DEFAULT = "en_entitykit_sm"
HEADS = ("entitykit_linker", "entitykit_coref", "entitykit_salience", "entitykit_relations")
"""Each is in the folder of `heads/` that is called like it."""

ENTITIES = ("document", "entity", "label", "score", "depth")
LINKS = ("document", "linked to", "mention", "score")
CHAINS = ("document", "mentions of the same entity", "number")
SALIENCE = ("document", "about", "score", "mentions")
RELATIONS = ("document", "head", "relation", "tail", "score")


def main(pipeline: str, page: Path = PAGE) -> None:
    """Annotate the examples, print the tables and write the page; beside it, save the pipeline with the heads."""
    nlp, saved = spacy.load(pipeline), page.parent / "demo_pipeline"
    known: dict[str, Entity] = {}
    if pipeline == DEFAULT:
        known = {entity.id: entity for entity in read_entities(EXAMPLES / "kb.jsonl")}
        add_heads(nlp, build_kb(known.values(), page.parent / "demo_kb"))
        nlp.to_disk(saved)
    files = sorted(EXAMPLES.glob("*.txt"))
    started = time.perf_counter()
    docs = list(nlp.pipe(file.read_text(encoding="utf-8") for file in files))
    seconds = time.perf_counter() - started
    for file, doc in zip(files, docs, strict=True):
        doc.user_data["id"] = file.name
    print_table(ENTITIES, [row for doc in docs for row in entity_rows(doc)])
    names = {id_: f"{entity.name}: {entity.description}" for id_, entity in known.items()}
    for header, rows_of in (
        (LINKS, partial(link_rows, names=names)),
        (CHAINS, chain_rows),
        (SALIENCE, salience_rows),
        (RELATIONS, relation_rows),
    ):
        rows = [row for doc in docs for row in rows_of(doc)]
        if rows:
            print()
            print_table(header, rows)
    n_words = sum(map(len, docs))
    print(f"\n{len(docs)} documents, {n_words:,} words in {seconds:.2f} s: {n_words / seconds:,.0f} words/s with {pipeline}")
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render_html(docs, title="entitykit demo", names=names), encoding="utf-8")
    print(f"The same with the entities marked in the text: {page.resolve().as_uri()}")
    if pipeline == DEFAULT:
        print(f"The pipeline, for other texts: {saved}")


def build_kb(entities: Iterable[Entity], folder: Path) -> Path:
    """Make the knowledge base, as `entitykit kb build` does."""
    folder = folder.resolve()  # the pipeline will know it by this path
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    EntityStore.build(folder, entities)
    return folder


def add_heads(nlp: Language, kb: Path) -> None:
    """Add the heads that are there, before the states of the encoder are dropped.

    The linker reads its knowledge base here, once, and no text of it with each batch.
    """
    for factory in HEADS:
        folder = EXAMPLES / "heads" / factory.removeprefix("entitykit_")
        if folder.is_dir():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if factory == "entitykit_linker":
                config["kb"] = {"@misc": "entitykit.KB.v1", "path": str(kb)}
            pipe: Any = nlp.add_pipe(factory, config=config, before="doc_cleaner")
            pipe.from_disk(folder)
            if factory == "entitykit_linker":
                pipe.build_index()


def entity_rows(doc: Doc) -> Iterator[tuple[str, str, str, str, str]]:
    """Give a row per entity, in the order of the text; the depth is the number of entities around it."""
    record = doc_to_record(doc)
    entities = sorted(record["entities"], key=lambda entity: (entity["start"], -entity["end"]))
    for i, entity in enumerate(entities):
        depth = sum(earlier["end"] >= entity["end"] for earlier in entities[:i])
        text = " ".join(record["text"][entity["start"] : entity["end"]].split())
        score = "" if entity["score"] is None else f"{entity['score']:.2f}"
        yield record["id"], "  " * depth + text, entity["label"], score, str(depth)


def link_rows(doc: Doc, names: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """Give a row per different link, in the order of the text."""
    rows = {}
    for ent in doc.ents:
        if ent.kb_id_:
            text = " ".join(ent.text.split())
            rows.setdefault((text, ent.kb_id_), f"{dict(ent._.kb_ents)[ent.kb_id_]:.2f}")
    for (text, id_), score in rows.items():
        yield doc.user_data["id"], names.get(id_, id_), text, score


def chain_rows(doc: Doc) -> Iterator[tuple[str, str, str]]:
    """Give a row per entity with several mentions, those with most mentions first."""
    for chain in find_chains(doc):
        mentions = (" ".join(doc.text[start:end].split()) for start, end in chain.places)
        yield doc.user_data["id"], " | ".join(mentions), str(len(chain.places))


def salience_rows(doc: Doc) -> Iterator[tuple[str, ...]]:
    """Give a row per salient entity, the most salient one first."""
    for value in salient_entities(doc):
        yield str(doc.user_data["id"]), value["entity"], f"{value['score']:.2f}", str(len(value["mentions"]))


def relation_rows(doc: Doc) -> Iterator[tuple[str, str, str, str, str]]:
    """Give a row per relation, in the order of the text."""
    for triple in sorted(read_triples(doc), key=lambda triple: (triple.head.start, triple.tail.start)):
        score = "" if triple.score is None else f"{triple.score:.2f}"
        yield triple.document, triple.head.text, triple.relation, triple.tail.text, score


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header; the second column takes what the terminal leaves, and what is longer is cut."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(width, column)) for column in columns]
    others = sum(widths) - widths[1] + 2 * (len(widths) - 1)
    widths[1] = min(widths[1], max(20, shutil.get_terminal_size((110, 24)).columns - others))
    for row in [header, ["-" * n for n in widths], *rows]:
        print("  ".join(fit(cell, n) for cell, n in zip(row, widths, strict=True)).rstrip())


def width(text: str) -> int:
    """Count the columns that a terminal needs: none for combining marks, two for East Asian characters and emoji."""
    shown = (char for char in text if not unicodedata.category(char).startswith("M"))
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown)


def fit(text: str, columns: int) -> str:
    """Fill a text with spaces, or cut it, to the given number of columns."""
    if width(text) > columns:
        while width(text) >= columns:
            text = text[:-1]
        text += "…"
    return text + " " * (columns - width(text))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else DEFAULT)
