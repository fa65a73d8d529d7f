from __future__ import annotations

import io
import os
import sys
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span
from spacy.vocab import Vocab

from entitykit.cli.inputs import Document, Failure, find_files, read_documents
from entitykit.errors import EntityKitWarning
from tests.cli.failing import write_json_lines


def read(*paths: Path | str, text_field: str = "text") -> list[Document | Failure]:
    return list(read_documents(find_files([str(path) for path in paths]), Vocab(), text_field=text_field))


def document(item: Document | Failure) -> Document:
    assert isinstance(item, Document), item
    return item


def failure(item: Document | Failure) -> Failure:
    assert isinstance(item, Failure), item
    return item


def test_folders_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in ("c.TXT", "b/z.md", "b/a.text", "a.txt", "ignored.pdf", ".hidden/x.txt", ".y.txt"):
        (tmp_path / name).write_text(name, encoding="utf-8")
    write_json_lines(tmp_path / "b" / "m.jsonl", [{"text": "line"}])
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    found = [document(item) for item in read(tmp_path)]
    assert [item.content for item in found] == ["a.txt", "b/a.text", "line", "b/z.md", "c.TXT"]
    assert [item.id for item in found[:3]] == [str(tmp_path / name) for name in ("a.txt", "b/a.text", "b/m.jsonl:1")]


def test_what_is_left_out_is_not_read_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").touch()
    assert find_files([str(tmp_path)], without=[tmp_path / "b.txt"]) == [str(tmp_path / "a.txt")]


def test_the_same_file_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.touch()
    with pytest.warns(EntityKitWarning, match="W420.* 2 occurred more than once"):
        found = find_files([str(path), str(tmp_path), str(tmp_path / "." / "a.txt")])
    assert found == [str(path)]


def test_files_of_the_same_name_have_different_ids(tmp_path: Path) -> None:
    paths = [tmp_path / "x" / "a.txt", tmp_path / "y" / "a.txt"]
    for path in paths:
        path.parent.mkdir()
        path.touch()
    assert [document(item).id for item in read(*paths)] == [str(path) for path in paths]


def test_missing_files_and_empty_folders_are_listed(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    missing, empty, good, gone = read(tmp_path / "missing", tmp_path / "empty", tmp_path / "a.txt", tmp_path / "gone.txt")
    assert failure(missing) == Failure(str(tmp_path / "missing"), failure(missing).error, "E422")
    assert "does not exist" in failure(missing).error
    assert failure(empty).error_code == "E423"
    assert document(good).content == "text"
    assert (failure(gone).error_code, gone.input) == ("E422", str(tmp_path / "gone.txt"))


def test_text_is_kept_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "README"
    path.write_bytes(b"\xef\xbb\xbf one\r\ntwo\x00\n")
    assert read(path) == [Document(str(path), str(path), " one\r\ntwo\x00\n")]


def test_files_of_unknown_kinds_are_text_with_a_warning(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.JSON", "b.csv", "c.Txt", "d")]
    for path in paths:
        path.write_text("[1]", encoding="utf-8")
    with pytest.warns(EntityKitWarning, match=r"W422.* 2 have an unknown ending, such as '.*a\.JSON'.*\.jsonl"):
        found = read(*paths)
    assert [document(item).content for item in found] == ["[1]"] * 4


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("one\ncafé".encode("latin-1"))
    (found,) = read(path)
    assert failure(found).error_code == "E204"
    assert "line 2" in failure(found).error
    assert "0xe9" in failure(found).error


def test_standard_input_is_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é\n".encode())))
    assert read("-") == [Document("-", "-", "é\n")]


def test_file_names_need_not_be_unicode(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.txt"
    Path(os.fsdecode(path)).write_text("text", encoding="utf-8")
    (found,) = read(tmp_path)
    assert document(found).id.encode("utf-8").endswith(rb"\udcff.txt")


def test_fields_are_carried_along(tmp_path: Path) -> None:
    records = [
        {"id": "a", "body": "one", "text": "no", "tags": ["x"], "meta": {"source": "s"}},
        {"id": 7, "body": "two", "meta": {"tags": 1}, "tags": 2},
        {"id": ["odd"], "body": "three"},
        {"id": None, "body": "four", "meta": "text"},
    ]
    path = write_json_lines(tmp_path / "in.ndjson", records)
    found = [document(item) for item in read(path, text_field="body")]
    assert [(item.id, item.content, item.line, item.meta) for item in found] == [
        ("a", "one", 1, {"text": "no", "tags": ["x"], "source": "s"}),
        ("7", "two", 2, {"meta": {"tags": 1}, "tags": 2}),
        (f"{path}:3", "three", 3, {"id": ["odd"]}),
        (f"{path}:4", "four", 4, {"meta": "text"}),
    ]


def test_what_components_are_given(tmp_path: Path) -> None:
    procedure = {"participants": ["ice", "water"], "steps": [[0, 3]]}
    records = [
        {"text": "Ice melts.", "procedure": {**procedure, "states": [["?", "-"]]}, "speakers": ["Eve", None, None]},
        {"text": "two", "meta": {"procedure": {"participants": ["ice"]}, "speakers": []}},
        {"text": "three", "procedure": "by hand", "speakers": "Eve"},
    ]
    path = write_json_lines(tmp_path / "in.jsonl", records)
    one, two, three = map(document, read(path))
    assert one.given == {"procedure": procedure, "speakers": ["Eve", None, None]}
    assert one.meta == {name: records[0][name] for name in ("procedure", "speakers")}
    assert two.given == {"procedure": {"participants": ["ice"]}}
    assert three.given is None
    assert three.meta == {"procedure": "by hand", "speakers": "Eve"}
    docs = [Doc(Vocab(), words=["Ice", "melts"]), Doc(Vocab(), words=["two"])]
    docs[0].user_data |= {"procedure": procedure, "speakers": ["Eve", ""]}
    DocBin(docs=docs, store_user_data=True).to_disk(tmp_path / "in.spacy")
    columns = {"text": ["Ice melts."], "procedure": [{"participants": ["ice"], "steps": None}]}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "in.parquet")
    given = [document(item).given for item in read(tmp_path / "in.spacy", tmp_path / "in.parquet")]
    assert given[1:] == [None, {"procedure": {"participants": ["ice"]}}]
    assert given[0] is not None
    assert given[0]["speakers"] == ["Eve", ""]
    assert list(map(list, given[0]["procedure"]["steps"])) == [[0, 3]]


@pytest.mark.parametrize(
    ("line", "code", "document_id"),
    [
        (b"not json", "E205", None),
        (b'{"text": "cut', "E205", None),
        (b"[" * 100_000, "E205", None),
        (b'{"text": "caf\xe9"}', "E204", None),
        (b"[1]", "E206", None),
        (b'{"id": "d", "text": 5}', "E206", "d"),
        (b'{"id": "d", "text": null}', "E207", "d"),
        (b'{"id": 3}', "E207", "3"),
        (rb'{"id": "d", "text": "\ud800"}', "E209", "d"),
    ],
)
def test_a_bad_line_is_listed_and_the_others_are_read(tmp_path: Path, line: bytes, code: str, document_id: str | None) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n \n' + line + b'\n{"text": "two\xe2\x80\xa8"}')
    one, bad, two = read(path)
    assert (document(one).content, document(two).content, two.line) == ("one", "two\u2028", 4)
    assert failure(bad)._replace(error="") == Failure(str(path), "", code, 3, document_id)
    assert str(path) in failure(bad).error


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20)
@given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(), JSON, max_size=3)), max_size=5))
def test_any_json_lines_are_read(tmp_path_factory: pytest.TempPathFactory, records: list[tuple[str, dict[str, Any]]]) -> None:
    records = [(text, {name: meta[name] for name in meta.keys() - {"text", "id", "meta"}}) for text, meta in records]
    path = write_json_lines(tmp_path_factory.mktemp("any") / "in.jsonl", [{"text": text, **meta} for text, meta in records])
    assert [(item.content, item.meta) for item in map(document, read(path))] == records


@given(st.binary(max_size=200))
def test_any_bytes_are_documents_or_failures(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("any")
    for ending in ("txt", "jsonl", "spacy", "parquet"):
        (folder / f"in.{ending}").write_bytes(data)
    n_lines = sum(bool(line.strip()) for line in data.split(b"\n"))
    assert len(read(folder / "in.jsonl")) == n_lines
    assert len(read(folder / "in.txt")) == 1
    assert [failure(item).error_code for item in read(folder / "in.spacy", folder / "in.parquet")] == ["E424", "E424"]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "[1]*.parquet"  # not to be taken for a pattern
    columns = {
        "text": ["Oslo", None, "the ship"],
        "id": [3, 4, None],
        "score": [0.5, float("nan"), float("inf")],
        "raw": [b"a", b"b", b"\xff"],
        "when": [date(2024, 5, 1)] * 3,
    }
    datasets.Dataset.from_dict(columns).to_parquet(path)
    first, bad, last = read(path)
    assert document(first) == Document(str(path), "3", "Oslo", 1, {"score": 0.5, "raw": "YQ==", "when": "2024-05-01"})
    assert document(last) == Document(
        str(path), f"{path}:3", "the ship", 3, {"score": None, "raw": "/w==", "when": "2024-05-01"}
    )
    assert failure(bad)._replace(error="") == Failure(str(path), "", "E207", 2, "4")


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    datasets.Dataset.from_dict({"text": ["one"]}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])
    (found,) = read(path)
    assert failure(found).error_code == "E424"


def test_docbins_give_tokens_without_annotations(tmp_path: Path) -> None:
    vocab = Vocab()
    first = Doc(vocab, words=["one-two", "three"], spaces=[False, False], ents=["B-X", "O"])
    first.spans["sc"] = [Span(first, 0, 1, label="X")]
    first.user_data |= {"id": "d", "meta": {"a": 1}}
    second = Doc(vocab, words=["four", "five"])
    path = tmp_path / "in.spacy"
    DocBin(docs=[first, second], store_user_data=True).to_disk(path)
    found = [document(item) for item in read(path)]
    assert [(item.id, item.line, item.meta) for item in found] == [("d", 1, {"a": 1}), (f"{path}:2", 2, None)]
    for item, given_doc in zip(found, (first, second), strict=True):
        assert isinstance(item.content, Doc)
        assert [token.text_with_ws for token in item.content] == [token.text_with_ws for token in given_doc]
        assert not item.content.ents
        assert not item.content.spans


@pytest.mark.parametrize(("given_id", "expected"), [(7, "7"), (0, "0"), ("a", "a")])
def test_ids_in_docbins_are_texts(tmp_path: Path, given_id: object, expected: str) -> None:
    doc = Doc(Vocab(), words=["one"])
    doc.user_data["id"] = given_id
    DocBin(docs=[doc], store_user_data=True).to_disk(tmp_path / "in.spacy")
    assert [document(item).id for item in read(tmp_path / "in.spacy")] == [expected]


def test_a_docbin_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "in.spacy"
    DocBin(docs=[Doc(Vocab(), words=["one"])]).to_disk(path)
    path.write_bytes(path.read_bytes()[:-5])
    (found,) = read(path)
    assert failure(found).error_code == "E424"


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = write_json_lines(tmp_path / "in.jsonl", [{"text": "one"}])
    stream = read_documents([str(path), str(tmp_path / "later.txt")], Vocab())
    assert document(next(stream)).content == "one"
    (tmp_path / "later.txt").write_text("two", encoding="utf-8")
    assert document(next(stream)).content == "two"
