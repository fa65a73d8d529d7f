from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus
from spacy.vocab import Vocab

from entitykit.cli import outputs
from entitykit.cli.failures import FailureLog
from entitykit.cli.inputs import Failure
from entitykit.cli.outputs import open_output, open_text
from entitykit.corpora.jsonl import doc_to_record
from entitykit.corpora.layers import LAYERS
from entitykit.errors import OutputError
from tests.cli.failing import make_pipeline, read_json_lines

FORMATS = ("jsonl", "parquet", "spacy", "html")


@pytest.fixture
def docs() -> list[Doc]:
    nlp = make_pipeline()
    docs = [nlp("The captain of the ship slept."), nlp("Oslo"), nlp("")]
    docs[0].user_data["id"] = "é"
    docs[0].spans["mentions"] = [docs[0][0:2]]
    docs[0].spans["mentions"].attrs["scores"] = [0.5]
    docs[0].user_data["._.", "relations", None, None] = [{"head": [0, 2], "tail": [3, 5], "label": "of", "score": 0.5}]
    docs[0].user_data["._.", "nil_clusters", None, None] = {}
    docs[1].user_data |= {"id": "2", "meta": {"a": [1, "é"], "b": None}}
    docs[1].spans["sc"] = [Span(docs[1], 0, 1, label="GPE", kb_id="Q585", span_id="C1")]
    return docs


def write(path: Path | str, kind: str, docs: Sequence[Doc], problem: BaseException | None = None) -> None:
    with open_output(str(path), kind) as writer:
        for doc in docs:
            writer.write(doc)
        if problem:
            raise problem


def test_json_lines(tmp_path: Path, docs: list[Doc]) -> None:
    write(tmp_path / "out", "jsonl", docs)
    assert read_json_lines(tmp_path / "out") == [doc_to_record(doc) for doc in docs]
    assert "é" in (tmp_path / "out").read_text(encoding="utf-8")


def test_docbin(tmp_path: Path, docs: list[Doc]) -> None:
    write(tmp_path / "out", "spacy", docs)
    found = DocBin().from_disk(tmp_path / "out").get_docs(Vocab())
    # spaCy reads the lists in user_data as tuples.
    assert json.dumps([doc_to_record(doc) for doc in found]) == json.dumps([doc_to_record(doc) for doc in docs])


def test_parquet(tmp_path: Path, docs: list[Doc]) -> None:
    write(tmp_path / "out", "parquet", docs)
    rows = list(datasets.load_dataset("parquet", data_files=str(tmp_path / "out"), split="train", streaming=True))
    for row, record in zip(rows, map(doc_to_record, docs), strict=True):
        assert (row["id"], row["text"], row["tokens"]) == (record.get("id"), record["text"], record["tokens"])
        assert row["entities"] == [{"kb_id": None, "id": None, **entity} for entity in record["entities"]]
        assert json.loads(row["meta"]) == record.get("meta", {})
        assert {name: row[name] and json.loads(row[name]) for name in LAYERS} == {name: record.get(name) for name in LAYERS}
    span = {"start": 0, "end": 11, "label": "", "kb_id": None, "score": 0.5, "id": None}
    assert rows[0]["spans"] == [{"group": "mentions", **span}]
    assert rows[1]["entities"][0]["id"] == "C1"
    assert (rows[0]["nil_clusters"], rows[1]["nil_clusters"]) == ("{}", None)


def test_parquet_has_a_column_for_everything_in_a_record(docs: list[Doc]) -> None:
    schema = outputs.parquet_schema()
    for record in map(doc_to_record, docs):
        assert record.keys() <= set(schema.names)
        for entity in record["entities"]:
            assert entity.keys() <= {field.name for field in schema.field("entities").type.value_type}


def test_html(tmp_path: Path, docs: list[Doc]) -> None:
    write(tmp_path / "out.html", "html", docs)
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 3
    assert "<title>out</title>" in page


def test_row_groups_bound_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "ROW_GROUP_CHARACTERS", 10)
    monkeypatch.setattr(outputs, "ROW_GROUP_DOCUMENTS", 3)
    texts = ("one two", "three four", "5", "6", "7", "8")
    write(tmp_path / "out", "parquet", [make_pipeline()(text) for text in texts])
    file = pyarrow.parquet.ParquetFile(tmp_path / "out")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [2, 3, 1]


def test_a_large_docbin_becomes_a_folder_that_spacy_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = make_pipeline()
    texts = ["one two", "three", "four five six seven", "eight"]
    out = tmp_path / "out.spacy"
    monkeypatch.setattr(outputs, "SHARD_WORDS", 3)
    for _ in range(2):  # the second time, the first folder is replaced
        write(out, "spacy", [nlp(text) for text in texts])
        assert sorted(path.name for path in out.iterdir()) == ["00001.spacy", "00002.spacy", "00003.spacy"]
        assert [eg.reference.text for eg in Corpus(out)(nlp)] == texts
    monkeypatch.setattr(outputs, "SHARD_WORDS", 100)
    write(out, "spacy", [nlp(text) for text in texts])
    assert len(DocBin().from_disk(out)) == len(texts)
    assert os.listdir(tmp_path) == ["out.spacy"]


@pytest.mark.parametrize("kind", FORMATS)
def test_no_documents_make_a_readable_output(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "out", kind, [])
    assert (tmp_path / "out").is_file()
    if kind == "spacy":
        assert len(DocBin().from_disk(tmp_path / "out")) == 0
    if kind == "parquet":
        assert pyarrow.parquet.read_table(tmp_path / "out").num_rows == 0


@pytest.mark.parametrize("kind", FORMATS)
def test_a_document_that_does_not_fit_leaves_the_writer_as_it_was(tmp_path: Path, docs: list[Doc], kind: str) -> None:
    bad = make_pipeline()("Oslo")
    bad.spans["sc"] = [bad[:]]
    bad.spans["sc"].attrs["scores"] = [0.5, 0.5]  # more scores than spans
    bad.user_data["rubbish"] = object()
    with open_output(str(tmp_path / "out"), kind) as writer:
        writer.write(docs[0])
        with pytest.raises((ValueError, TypeError)):
            writer.write(bad)
        writer.write(docs[1])
    write(tmp_path / "good", kind, docs[:2])
    out, good = ((tmp_path / name).read_bytes() for name in ("out", "good"))
    assert out == good.replace(b"<title>good</title>", b"<title>out</title>").replace(b">good</h1>", b">out</h1>")


@pytest.mark.parametrize("kind", FORMATS)
def test_a_failed_run_leaves_the_earlier_output(tmp_path: Path, docs: list[Doc], kind: str) -> None:
    out = tmp_path / "out"
    out.write_text("earlier", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        write(out, kind, docs, KeyboardInterrupt())
    assert out.read_text(encoding="utf-8") == "earlier"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk(tmp_path: Path, docs: list[Doc], kind: str) -> None:
    (tmp_path / "out").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"E425.*No space left on device"):
        write(tmp_path / "out", kind, docs)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_disk_that_fills_up(tmp_path: Path, docs: list[Doc], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "ROW_GROUP_CHARACTERS", 1)
    monkeypatch.setattr(outputs, "SHARD_WORDS", 1)
    with pytest.raises(OutputError, match=r"E425.*No space left on device"):
        write(tmp_path / "new" / "out", kind, docs, OSError(28, "No space left on device"))
    assert os.listdir(tmp_path / "new") == []


def test_devices_are_not_replaced(tmp_path: Path, docs: list[Doc]) -> None:
    (tmp_path / "out").symlink_to("/dev/null")
    for kind in FORMATS:
        write(tmp_path / "out", kind, docs)
    assert Path("/dev/null").is_char_device()
    assert os.listdir(tmp_path) == ["out"]


def test_a_place_where_nothing_can_be_written(tmp_path: Path, docs: list[Doc]) -> None:
    (tmp_path / "file").touch()
    for kind in FORMATS:
        with pytest.raises(OutputError, match="E425"):
            write(tmp_path / "file" / "out", kind, docs)


def test_folders_are_not_replaced(tmp_path: Path, docs: list[Doc]) -> None:
    (tmp_path / "out").mkdir()
    for _ in range(2):
        with pytest.raises(OutputError, match="E426"):
            write(tmp_path / "out", "spacy", docs)
        (tmp_path / "out" / "notes.txt").touch()
    assert (tmp_path / "out" / "notes.txt").exists()


def test_standard_output(docs: list[Doc], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write("-", "jsonl", docs)
    lines = capfdbinary.readouterr().out.decode("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [doc_to_record(doc) for doc in docs]


@pytest.mark.parametrize("kind", FORMATS)
def test_names_of_outputs_need_not_be_unicode(tmp_path: Path, docs: list[Doc], kind: str) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.out")
    write(path, kind, docs)
    assert os.path.getsize(path) > 0
    if kind == "html":
        assert rb"<title>\udcff</title>" in Path(path).read_bytes()


def test_text_on_standard_output_is_utf8_and_leaves_it_open(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    stdout.write("before ")
    with open_text("-") as file:
        file.write("é ")
    stdout.write("after")
    stdout.flush()
    assert written.getvalue() == "before é after".encode()


def test_text_on_a_full_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(OutputError, match=r"E425.*'-'.*No space left on device"), open_text("-") as file:
            file.write("text")


def test_failures_are_listed_beside_the_output(tmp_path: Path) -> None:
    """In a folder that the output may make later."""
    log = FailureLog(str(tmp_path / "new" / "out.jsonl"))
    log.clear()
    assert log.path == tmp_path / "new" / "out.jsonl.errors.jsonl"
    assert not log.path.exists()
    log.add(Failure("a", "é\n"))
    log.add(Failure(os.fsdecode(b"\xff"), "wrong", "E1", 3, "d"))
    assert log.n == 2
    assert read_json_lines(log.path) == [
        {"input": "a", "error": "é\n"},
        {"input": "\udcff", "error": "wrong", "error_code": "E1", "line": 3, "document_id": "d"},
    ]
    FailureLog(str(tmp_path / "new" / "out.jsonl")).clear()
    assert not log.path.exists()


def test_failures_go_to_standard_error_where_nothing_can_be_beside(capsys: pytest.CaptureFixture[str]) -> None:
    for output in ("-", "/dev/null"):
        log = FailureLog(output)
        log.clear()
        log.add(Failure("a", "wrong"))
        assert json.loads(capsys.readouterr().err) == {"input": "a", "error": "wrong"}


def test_failures_that_cannot_be_listed(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl.errors.jsonl").mkdir()
    log = FailureLog(str(tmp_path / "out.jsonl"))
    with pytest.raises(OutputError, match="E431"):
        log.clear()
    with pytest.raises(OutputError, match="E425"):
        log.add(Failure("a", "wrong"))
