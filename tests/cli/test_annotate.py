from __future__ import annotations

import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus
from spacy.util import minibatch
from spacy.vocab import Vocab

from entitykit.cli import annotate as command
from entitykit.cli import outputs
from entitykit.cli.__main__ import main
from entitykit.cli.annotate import annotate
from entitykit.cli.inputs import Document, Failure, find_files, read_documents
from entitykit.corpora import jsonl
from entitykit.errors import EntityKitWarning

LINES = ["The captain of the ship sailed to Oslo.", "BAD news", "Nothing here.", "Oslo and the ship"]


@Language.component("fails_on_bad")
def fails_on_bad(doc: Doc) -> Doc:
    if "BAD" in doc.text:
        raise ValueError("[E999] this document is bad")
    return doc


class FailingPipe:
    """Drops the whole batch of a bad document, or ends the stream."""

    def __init__(self, *, ends: bool) -> None:
        self.ends = ends
        self.handler: Callable[..., None] = spacy.util.raise_error

    def set_error_handler(self, handler: Callable[..., None]) -> None:
        self.handler = handler

    def __call__(self, doc: Doc) -> Doc:
        return fails_on_bad(doc)

    def pipe(self, stream: Iterator[Doc], *, batch_size: int) -> Iterator[Doc]:
        for docs in minibatch(stream, batch_size):
            try:
                yield from [self(doc) for doc in docs]
            except ValueError as problem:
                if self.ends:
                    raise
                self.handler("failing", self, docs, problem)


@Language.factory("drops_batch")
def make_drops_batch(nlp: Language, name: str) -> FailingPipe:
    return FailingPipe(ends=False)


@Language.factory("ends_stream")
def make_ends_stream(nlp: Language, name: str) -> FailingPipe:
    return FailingPipe(ends=True)


@Language.component("makes_another_doc")
def makes_another_doc(doc: Doc) -> Doc:
    return fails_on_bad(doc).copy()


@Language.component("keeps_encoder_output")
def keeps_encoder_output(doc: Doc) -> Doc:
    doc._.trf_data = object()  # what no format can hold
    return doc


@Language.component("leaves_rubbish_on_bad")
def leaves_rubbish_on_bad(doc: Doc) -> Doc:
    if "BAD" in doc.text:
        doc.user_data["rubbish"] = object()
    return doc


def make_pipeline(*components: str) -> Language:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("span_ruler", config={"spans_key": "sc"})
    phrases = [("PERSON", "The captain of the ship"), ("VEHICLE", "the ship"), ("GPE", "Oslo")]
    ruler.add_patterns([{"label": label, "pattern": phrase} for label, phrase in phrases])  # type: ignore[attr-defined]
    for name in components:
        nlp.add_pipe(name)
    return nlp


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    return save(tmp_path)


def save(folder: Path, *components: str) -> str:
    path = folder / "pipeline"
    make_pipeline(*components).to_disk(path)
    return str(path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A JSON lines file with one document per line of `LINES`."""
    path = tmp_path / "corpus.jsonl"
    write_lines(path, [{"text": text} for text in LINES])
    return path


def write_lines(path: Path, records: list[Any]) -> None:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(*args: object) -> int:
    return main(["annotate", *map(str, args), "--quiet"])


def test_text_files_become_json_lines(tmp_path: Path, pipeline: str) -> None:
    text = tmp_path / "a.txt"
    text.write_bytes(b"\xef\xbb\xbfThe captain of the ship\r\nslept.")
    assert run(text, "-o", tmp_path / "new" / "out.jsonl", "--pipeline", pipeline) == 0
    (record,) = read_lines(tmp_path / "new" / "out.jsonl")
    assert (record["id"], record["text"]) == (str(text), "The captain of the ship\r\nslept.")
    assert [(entity["start"], entity["end"], entity["label"]) for entity in record["entities"]] == [
        (0, 23, "PERSON"),
        (15, 23, "VEHICLE"),
    ]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["out.jsonl"]


def test_our_json_lines_reader_reads_the_output(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    assert run(corpus, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 0
    nlp = make_pipeline()
    for record, text in zip(read_lines(tmp_path / "out.jsonl"), LINES, strict=True):
        doc, expected = jsonl.record_to_doc(record, nlp), nlp(text)
        assert [(span.start, span.end, span.label_) for span in doc.spans["sc"]] == [
            (span.start, span.end, span.label_) for span in expected.spans["sc"]
        ]


def test_the_other_formats_say_the_same(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    for ending in ("jsonl", "parquet", "spacy", "html"):
        assert run(corpus, "-o", tmp_path / f"out.{ending}", "--pipeline", pipeline) == 0
    records = read_lines(tmp_path / "out.jsonl")

    rows = list(datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train", streaming=True))
    for row, record in zip(rows, records, strict=True):
        assert (row["id"], row["text"], row["tokens"]) == (record["id"], record["text"], record["tokens"])
        assert row["entities"] == [{**entity, "kb_id": None} for entity in record["entities"]]
        assert (row["spans"], row["meta"]) == ([], "{}")

    docs = list(DocBin().from_disk(tmp_path / "out.spacy").get_docs(Vocab()))
    assert [jsonl.doc_to_record(doc) for doc in docs] == records

    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<mark") == sum(len(record["entities"]) for record in records)
    assert all(text in page for text in LINES[1:3])


def test_the_format_can_be_named(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    assert run(corpus, "-o", tmp_path / "out.txt", "--format", "html", "--pipeline", pipeline) == 0
    assert (tmp_path / "out.txt").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_parquet_holds_other_spans_and_meta(tmp_path: Path) -> None:
    nlp = make_pipeline()
    doc = nlp("the ship")
    doc.spans["mentions"] = [doc[0:2]]
    doc.spans["mentions"].attrs["scores"] = [0.5]
    doc.user_data |= {"id": "é", "meta": {"a": [1, "é"], "b": None}}
    with outputs.open_output(str(tmp_path / "out.parquet"), "parquet") as writer:
        writer.write(doc)
    (row,) = datasets.load_dataset("parquet", data_files=str(tmp_path / "out.parquet"), split="train", streaming=True)
    assert row["spans"] == [{"group": "mentions", "start": 0, "end": 8, "label": "", "kb_id": None, "score": 0.5}]
    assert (row["id"], json.loads(row["meta"])) == ("é", doc.user_data["meta"])


def test_parquet_has_a_column_for_everything_in_a_record() -> None:
    nlp = make_pipeline()
    doc = nlp("Oslo")
    doc.user_data |= {"id": "1", "meta": {"a": 1}}
    doc.spans["sc"] = [spacy.tokens.Span(doc, 0, 1, label="GPE", kb_id="Q585")]
    doc.spans["mentions"] = [doc[:]]
    record = jsonl.doc_to_record(doc)
    schema = outputs.parquet_schema()
    assert record.keys() == set(schema.names)
    assert record["entities"][0].keys() == {field.name for field in schema.field("entities").type.value_type}


def test_row_groups_bound_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    monkeypatch.setattr(outputs, "ROW_GROUP_CHARACTERS", 10)
    with outputs.open_output(str(tmp_path / "out.parquet"), "parquet") as writer:
        for doc in map(make_pipeline(), ["one two", "three four", "five"]):
            writer.write(doc)
    file = pyarrow.parquet.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 1]


def test_a_large_docbin_becomes_a_folder_that_spacy_reads(
    tmp_path: Path, pipeline: str, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "SHARD_WORDS", 10)
    out = tmp_path / "out.spacy"
    for _ in range(2):  # the second run replaces the folder of the first
        assert run(corpus, "-o", out, "--pipeline", pipeline) == 0
        assert sorted(path.name for path in out.iterdir()) == ["00001.spacy", "00002.spacy"]
    assert [eg.reference.text for eg in Corpus(out)(spacy.blank("en"))] == LINES
    assert run(out, "-o", tmp_path / "again.jsonl", "--pipeline", pipeline) == 0
    assert [record["text"] for record in read_lines(tmp_path / "again.jsonl")] == LINES
    monkeypatch.undo()
    assert run(corpus, "-o", out, "--pipeline", pipeline) == 0
    assert len(DocBin().from_disk(out)) == len(LINES)


def test_folders_are_read_in_order(tmp_path: Path, pipeline: str) -> None:
    folder = tmp_path / "in"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("c.TXT", "b/z.md", "b/a.text", "a.txt", "ignored.pdf", ".hidden/x.txt", ".y.txt"):
        (folder / name).write_text(name, encoding="utf-8")
    write_lines(folder / "b" / "m.jsonl", [{"text": "line"}])
    (folder / "loop").symlink_to(folder)
    assert run(folder, "-o", folder / "out.jsonl", "--pipeline", pipeline) == 0
    first = (folder / "out.jsonl").read_bytes()
    assert [record["text"] for record in read_lines(folder / "out.jsonl")] == ["a.txt", "b/a.text", "line", "b/z.md", "c.TXT"]
    assert run(folder, "-o", folder / "out.jsonl", "--pipeline", pipeline) == 0  # its own output is no input
    assert (folder / "out.jsonl").read_bytes() == first


def test_fields_are_carried_along(tmp_path: Path, pipeline: str) -> None:
    records = [
        {"id": "a", "body": "one", "text": "no", "tags": ["x"], "meta": {"source": "s"}},
        {"id": 7, "body": "two", "meta": {"tags": 1}, "tags": 2},
        {"id": ["odd"], "body": "three"},
        {"id": None, "body": "four", "meta": "text"},
    ]
    path = tmp_path / "in.ndjson"
    write_lines(path, records)
    assert run(path, "-o", tmp_path / "out.jsonl", "--text-field", "body", "--pipeline", pipeline) == 0
    found = [(record["id"], record["text"], record.get("meta")) for record in read_lines(tmp_path / "out.jsonl")]
    assert found == [
        ("a", "one", {"text": "no", "tags": ["x"], "source": "s"}),
        ("7", "two", {"meta": {"tags": 1}, "tags": 2}),
        (f"{path}:3", "three", {"id": ["odd"]}),
        (f"{path}:4", "four", {"meta": "text"}),
    ]


def test_parquet_input(tmp_path: Path, pipeline: str) -> None:
    path = tmp_path / "[1]*.parquet"  # not to be taken for a pattern
    columns = {
        "text": ["Oslo", None, "the ship"],
        "id": [3, 4, None],
        "score": [0.5, float("nan"), float("inf")],
        "raw": [b"a", b"b", b"\xff"],
        "when": [spacy.util.datetime.datetime(2024, 5, 1)] * 3 if hasattr(spacy.util, "datetime") else ["x"] * 3,
    }
    datasets.Dataset.from_dict(columns).to_parquet(path)
    assert run(path, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 1
    first, second = read_lines(tmp_path / "out.jsonl")
    assert (first["id"], first["text"], first["meta"]["score"], first["meta"]["raw"]) == ("3", "Oslo", 0.5, "YQ==")
    assert (second["id"], second["meta"]["score"], second["meta"]["raw"]) == (f"{path}:3", None, "/w==")
    (listed,) = read_lines(tmp_path / "errors.jsonl")
    assert (listed["line"], listed["error_code"], listed["document_id"]) == (2, "E207", "4")
