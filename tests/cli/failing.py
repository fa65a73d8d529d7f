"""A pipeline of rules for the command's tests, and components that fail in every way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch, raise_error

LINES = ["The captain of the ship sailed to Oslo.", "BAD news", "Nothing here.", "Oslo and the ship"]


def make_pipeline(*components: str) -> Language:
    """A pipeline that knows three phrases, two of them nested."""
    nlp = spacy.blank("xx")
    ruler = nlp.add_pipe("span_ruler", config={"spans_key": "sc"})
    phrases = [("PERSON", "The captain of the ship"), ("VEHICLE", "the ship"), ("GPE", "Oslo")]
    ruler.add_patterns([{"label": label, "pattern": phrase} for label, phrase in phrases])  # type: ignore[attr-defined]
    for name in components:
        nlp.add_pipe(name)
    return nlp


def save_pipeline(folder: Path, *components: str) -> str:
    make_pipeline(*components).to_disk(folder / "pipeline")
    return str(folder / "pipeline")


def write_json_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return path


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


@Language.component("fails_on_bad")
def fails_on_bad(doc: Doc) -> Doc:
    if "BAD" in doc.text:
        raise ValueError("[E999] this document is bad")
    return doc


@Language.component("makes_another_doc")
def makes_another_doc(doc: Doc) -> Doc:
    return fails_on_bad(doc).copy()


@Language.component("keeps_vectors")
def keeps_vectors(doc: Doc) -> Doc:
    doc._.trf_data = object()  # no format can hold it
    return doc


@Language.component("leaves_rubbish")
def leaves_rubbish(doc: Doc) -> Doc:
    if "BAD" in doc.text:
        doc.user_data["rubbish"] = object()
    return doc


class FailingPipe:
    """Drops the whole batch of a bad document, or ends the stream."""

    def __init__(self, *, ends_stream: bool) -> None:
        self.ends_stream = ends_stream
        self.handler: Callable[..., None] = raise_error

    def set_error_handler(self, handler: Callable[..., None]) -> None:
        self.handler = handler

    def __call__(self, doc: Doc) -> Doc:
        return fails_on_bad(doc)

    def pipe(self, stream: Iterator[Doc], *, batch_size: int) -> Iterator[Doc]:
        for docs in minibatch(stream, batch_size):
            try:
                yield from [self(doc) for doc in docs]
            except ValueError as problem:
                if self.ends_stream:
                    raise
                self.handler("failing", self, docs, problem)


@Language.factory("drops_batch")
def make_drops_batch(nlp: Language, name: str) -> FailingPipe:
    return FailingPipe(ends_stream=False)


@Language.factory("ends_stream")
def make_ends_stream(nlp: Language, name: str) -> FailingPipe:
    return FailingPipe(ends_stream=True)
