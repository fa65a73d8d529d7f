from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.util import filter_spans
from spacy.vocab import Vocab

from entitykit.cli import stream
from entitykit.cli.__main__ import main
from entitykit.cli.inputs import Document, Failure
from entitykit.cli.stream import annotate
from entitykit.corpora.jsonl import record_to_doc
from entitykit.errors import EntityKitWarning
from tests.cli.failing import LINES, make_pipeline, read_json_lines, save_pipeline, write_json_lines

ONE_OR_TWO = pytest.mark.parametrize("n_process", [1, 2])


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    return save_pipeline(tmp_path)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_json_lines(tmp_path / "corpus.jsonl", [{"id": str(i), "text": text} for i, text in enumerate(LINES)])


def run(*args: object) -> int:
    return main(["annotate", *map(str, args)])


def test_text_becomes_json_lines_that_we_read(tmp_path: Path, pipeline: str) -> None:
    text = "The captain of the ship\r\nleft  Oslo."
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert run(tmp_path / "a.txt", "-o", tmp_path / "new" / "out.jsonl", "--pipeline", pipeline) == 0
    (record,) = read_json_lines(tmp_path / "new" / "out.jsonl")
    assert (record["id"], record["text"]) == (str(tmp_path / "a.txt"), text)
    assert [(text[entity["start"] : entity["end"]], entity["label"], entity["score"]) for entity in record["entities"]] == [
        ("The captain of the ship", "PERSON", None),
        ("the ship", "VEHICLE", None),
        ("Oslo", "GPE", None),
    ]
    found, expected = record_to_doc(record, make_pipeline()), make_pipeline()(text)
    assert [(span.start, span.end, span.label_) for span in found.spans["sc"]] == [
        (span.start, span.end, span.label_) for span in expected.spans["sc"]
    ]
    assert os.listdir(tmp_path / "new") == ["out.jsonl"]


@Language.component("links_entities")
def links_entities(doc: Doc) -> Doc:
    """Like a linker whose mentions are doc.ents, and a component that writes relations."""
    flat = filter_spans(list(doc.spans["sc"]))
    doc.set_ents([Span(doc, span.start, span.end, label=span.label, kb_id="Q1") for span in flat])
    doc.user_data["._.", "relations", None, None] = [{"head": [0, 5], "tail": [7, 8], "label": "TO", "score": 0.5}]
    return doc


def test_links_and_relations_are_written(tmp_path: Path) -> None:
    corpus = write_json_lines(tmp_path / "corpus.jsonl", [{"text": LINES[0]}])
    pipeline = save_pipeline(tmp_path, "links_entities")
    for name in ("out.jsonl", "out.parquet"):
        assert run(corpus, "-o", tmp_path / name, "--pipeline", pipeline) == 0
    (record,) = read_json_lines(tmp_path / "out.jsonl")
    assert [(entity["label"], entity.get("kb_id")) for entity in record["entities"]] == [
        ("PERSON", "Q1"),
        ("VEHICLE", None),
        ("GPE", "Q1"),
    ]
    (relation,) = record["relations"]
    assert [LINES[0][slice(*relation[key])] for key in ("head", "tail")] == ["The captain of the ship", "Oslo"]
    (row,) = pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [entity["kb_id"] for entity in row["entities"]] == ["Q1", None, "Q1"]
    assert json.loads(row["relations"]) == record["relations"]


def test_formats_follow_the_ending_or_the_option(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    starts = {"jsonl": b"{", "ndjson": b"{", "parquet": b"PAR1", "spacy": b"\x78", "HTML": b"<!DOCTYPE"}
    for name, start in (("a", b"{"), *((f"a.{ending}", start) for ending, start in starts.items())):
        assert run(corpus, "-o", tmp_path / name, "--pipeline", pipeline, "--quiet") == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    assert run(corpus, "-o", tmp_path / "b.jsonl", "--format", "html", "--pipeline", pipeline, "--quiet") == 0
    assert (tmp_path / "b.jsonl").read_bytes().startswith(b"<!DOCTYPE")
    assert run(corpus, "-o", tmp_path / "b.docx", "--format", "jsonl", "--pipeline", pipeline, "--quiet") == 0
    assert (tmp_path / "b.docx").read_bytes().startswith(b"{")


def test_every_output_but_html_is_an_input(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    for ending in ("jsonl", "parquet", "spacy"):
        out = tmp_path / f"out.{ending}"
        assert run(corpus, "-o", out, "--pipeline", pipeline) == 0
        assert run(out, "-o", tmp_path / "again.jsonl", "--pipeline", pipeline) == 0
        found = [
            (record["id"], record["text"], len(record["entities"])) for record in read_json_lines(tmp_path / "again.jsonl")
        ]
        assert found == list(zip("0123", LINES, [3, 0, 0, 2], strict=True))


def test_id_meta_and_text_field(tmp_path: Path, pipeline: str) -> None:
    path = write_json_lines(tmp_path / "in.jsonl", [{"id": 7, "body": "Oslo", "tags": ["é"]}, {"body": ""}])
    for n_process in (1, 2):
        arguments = (path, "-o", tmp_path / "out.jsonl", "--text-field", "body", "--n-process", n_process)
        assert run(*arguments, "--pipeline", pipeline) == 0
        first, second = read_json_lines(tmp_path / "out.jsonl")
        assert (first["id"], first["text"], first["meta"]) == ("7", "Oslo", {"tags": ["é"]})
        assert (second["id"], second["text"], "meta" in second) == (f"{path}:2", "", False)


UNUSUAL = {
    "empty": "",
    "white space": " \n\t\u00a0\u3000\r\n",
    "control characters": "a\x00b\x01\x1b[31m\x7f\u2028c\ufeff",
    "emoji": "👩‍👩‍👧‍👦 in 🇯🇵 Oslo",
    "combining marks": "Zoe\u0308 " + "e" + "\u0301" * 500,
    "right to left": "שלום Oslo مرحبا \u202eabc\u202c",
    "one token": "Oslo",
    "a word of a million characters": "x" * 1_000_000,
}


def test_unusual_texts(tmp_path: Path, pipeline: str) -> None:
    path = write_json_lines(tmp_path / "in.jsonl", [{"id": name, "text": text} for name, text in UNUSUAL.items()])
    for ending, n_process in (("jsonl", 2), ("spacy", 1), ("parquet", 1), ("html", 1)):
        out = tmp_path / f"out.{ending}"
        assert run(path, "-o", out, "--pipeline", pipeline, "--n-process", n_process, "--batch-size", 2) == 0
    assert {record["id"]: record["text"] for record in read_json_lines(tmp_path / "out.jsonl")} == UNUSUAL
    assert [doc.text for doc in DocBin().from_disk(tmp_path / "out.spacy").get_docs(Vocab())] == list(UNUSUAL.values())


@ONE_OR_TWO
@pytest.mark.parametrize("component", ["fails_on_bad", "drops_batch", "ends_stream", "makes_another_doc"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_a_failing_document_does_not_harm_its_neighbours(
    tmp_path: Path, corpus: Path, component: str, n_process: int, batch_size: int
) -> None:
    pipeline = save_pipeline(tmp_path, component)
    options = ("--pipeline", pipeline, "--n-process", n_process, "--batch-size", batch_size)
    assert run(corpus, "-o", tmp_path / "out.jsonl", *options) == 1
    records = read_json_lines(tmp_path / "out.jsonl")
    assert [(record["id"], len(record["entities"])) for record in records] == [("0", 3), ("2", 0), ("3", 2)]
    assert read_json_lines(tmp_path / "out.jsonl.errors.jsonl") == [
        {
            "input": str(corpus),
            "error": "ValueError: [E999] this document is bad",
            "error_code": "E999",
            "line": 2,
            "document_id": "1",
        }
    ]


def test_all_failures_are_listed_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = save_pipeline(tmp_path, "fails_on_bad")
    (tmp_path / "a.txt").write_bytes(b"\xff")
    (tmp_path / "b.txt").write_text("BAD", encoding="utf-8")
    lines = ['{"text": "BAD"}', "nonsense", '{"text": 5}', '{"id": "long", "text": "123456"}', '{"id": "good", "text": "Oslo"}']
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    inputs = [tmp_path / name for name in ("a.txt", "b.txt", "missing.txt", "c.jsonl")]
    for n_process in (1, 2):
        options = ("--pipeline", pipeline, "--max-length", 5, "--n-process", n_process)
        assert run(*inputs, "-o", tmp_path / "out.jsonl", *options) == 1
        listed = read_json_lines(tmp_path / "out.jsonl.errors.jsonl")
        assert [(Path(one["input"]).name, one.get("line"), one["error_code"]) for one in listed] == [
            ("a.txt", None, "E204"),
            ("b.txt", None, "E999"),
            ("missing.txt", None, "E422"),
            ("c.jsonl", 1, "E999"),
            ("c.jsonl", 2, "E205"),
            ("c.jsonl", 3, "E206"),
            ("c.jsonl", 4, "E430"),
        ]
        assert [record["id"] for record in read_json_lines(tmp_path / "out.jsonl")] == ["good"]
        assert f"failed: 7, listed in {tmp_path / 'out.jsonl.errors.jsonl'}" in capsys.readouterr().err
    assert run(tmp_path / "c.jsonl", "-o", "/dev/null", "--pipeline", pipeline, "--quiet") == 1
    assert [json.loads(line)["error_code"] for line in capsys.readouterr().err.splitlines()] == ["E999", "E205", "E206"]


def test_the_limit_of_characters_holds_for_docbins(tmp_path: Path, pipeline: str) -> None:
    docs = [Doc(Vocab(), words=words) for words in (["12345"], ["12", "45", "7"])]
    DocBin(docs=docs).to_disk(tmp_path / "in.spacy")
    assert run(tmp_path / "in.spacy", "-o", tmp_path / "out.jsonl", "--pipeline", pipeline, "--max-length", 6) == 1
    assert [record["text"] for record in read_json_lines(tmp_path / "out.jsonl")] == ["12345 "]
    (listed,) = read_json_lines(tmp_path / "out.jsonl.errors.jsonl")
    assert (listed["line"], listed["error_code"]) == (2, "E430")


def test_the_list_of_an_earlier_run_does_not_stay(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    listed = write_json_lines(tmp_path / "out.jsonl.errors.jsonl", [{"input": "a.txt", "error": "gone"}])
    assert run(corpus, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 0
    assert not listed.exists()


def test_the_users_own_errors_stay_and_are_read(tmp_path: Path, pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever their names; lists of other runs stay, too, and are not read."""
    folder, out = tmp_path / "in", tmp_path / "in" / "out.jsonl"
    folder.mkdir()
    write_json_lines(folder / "errors.jsonl", [{"id": "own", "text": "Oslo"}])
    write_json_lines(folder / "my.errors.jsonl", [{"id": "mine", "text": "Oslo", "error": "none"}])
    write_json_lines(folder / "b.jsonl.errors.jsonl", [{"input": "a.txt", "error": "gone"}])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(folder, "-o", out, "--pipeline", pipeline) == 0
    assert {record["id"] for record in read_json_lines(out)} == {"own", "mine"}
    out.unlink()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run(folder / "errors.jsonl", "-o", folder / "my", "--pipeline", pipeline) == 2
    assert "[E431]" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_document_that_cannot_be_written_is_listed(tmp_path: Path, corpus: Path) -> None:
    pipeline = save_pipeline(tmp_path, "leaves_rubbish")
    assert run(corpus, "-o", tmp_path / "out.spacy", "--pipeline", pipeline) == 1
    assert len(DocBin().from_disk(tmp_path / "out.spacy")) == 3
    (listed,) = read_json_lines(tmp_path / "out.spacy.errors.jsonl")
    assert (listed["line"], listed["document_id"]) == (2, "1")


@ONE_OR_TWO
def test_vectors_are_dropped_before_writing(tmp_path: Path, corpus: Path, n_process: int) -> None:
    if not Doc.has_extension("trf_data"):
        Doc.set_extension("trf_data", default=None)
    pipeline = save_pipeline(tmp_path, "keeps_vectors")
    assert run(corpus, "-o", tmp_path / "out.spacy", "--pipeline", pipeline, "--n-process", n_process) == 0
    assert len(DocBin().from_disk(tmp_path / "out.spacy")) == len(LINES)


def test_batches_and_processes_do_not_change_a_byte(tmp_path: Path, pipeline: str, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = write_json_lines(tmp_path / "in.jsonl", [{"text": text, "n": i} for i, text in enumerate(LINES * 5)])
    outputs = set()
    for n_process, batch_size, n_characters in [
        (1, 1, 500),
        (1, 7, 500),
        (1, 100, 500),
        (1, 100, 20),
        (2, 3, 500),
        (2, 100, 500),
    ]:
        monkeypatch.setattr(stream, "BATCH_CHARACTERS", n_characters)
        options = ("--n-process", n_process, "--batch-size", batch_size, "--pipeline", pipeline)
        assert run(corpus, "-o", tmp_path / "out.jsonl", *options) == 0
        outputs.add((tmp_path / "out.jsonl").read_bytes())
    assert len(outputs) == 1


@ONE_OR_TWO
def test_the_stream_may_be_endless(n_process: int) -> None:
    drawn = 0

    def endless() -> Iterator[Document | Failure]:
        nonlocal drawn
        for drawn in itertools.count(1):
            yield Failure("in", "bad") if drawn % 3 == 0 else Document("in", str(drawn), "Oslo")

    results = annotate(make_pipeline(), endless(), batch_size=4, n_process=n_process)
    first = list(itertools.islice(results, 6))
    assert [item.error if isinstance(item, Failure) else item[0].id for item in first] == ["1", "2", "bad", "4", "5", "bad"]
    assert drawn < 50
    results.close()


@ONE_OR_TWO
def test_a_reader_that_breaks_is_not_taken_for_the_pipeline(n_process: int) -> None:
    def broken() -> Iterator[Document | Failure]:
        yield Document("in", "1", "Oslo")
        raise RuntimeError("a defect of the reader")

    with pytest.raises(RuntimeError, match="a defect of the reader"):
        list(annotate(make_pipeline(), broken(), n_process=n_process))


@ONE_OR_TWO
def test_a_full_disk_ends_the_run(tmp_path: Path, pipeline: str, n_process: int, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_json_lines(tmp_path / "in.jsonl", [{"text": "Oslo " * 100}] * 50)
    options = ("--pipeline", pipeline, "--n-process", n_process, "--batch-size", 2)
    assert run(corpus, "-o", "/dev/full", *options) == 2
    assert "[E425] Cannot write '/dev/full': No space left on device" in capsys.readouterr().err


def test_standard_input_and_output(
    pipeline: str, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stdin").write_text("Oslo é", encoding="utf-8")
    with (tmp_path / "stdin").open(encoding="utf-8") as file:
        monkeypatch.setattr("sys.stdin", file)
        assert run("-", "-o", "-", "--pipeline", pipeline) == 0
    out, err = capfdbinary.readouterr()
    (record,) = [json.loads(line) for line in out.splitlines()]
    assert (record["id"], record["text"], len(record["entities"])) == ("-", "Oslo é", 1)
    assert b"documents: 1, words: 2, entities: 1" in err


def test_progress_and_summary(tmp_path: Path, pipeline: str, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(corpus, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"4 documents \[.* documents/s, .* words/s\]", err)
    summary = err.splitlines()[-1]
    assert re.fullmatch(
        r"documents: 4, words: 18, entities: 5, seconds: \d+\.\d \([\d,]+ words/s\), failed: 0; written to .*out\.jsonl",
        summary,
    )
    assert run(corpus, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline, "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{", encoding="utf-8")
    assert run(corpus, bad, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline, "--quiet") == 1
    assert capsys.readouterr() == ("", f"entitykit: failed: 1, listed in {tmp_path / 'out.jsonl.errors.jsonl'}\n")


def test_a_run_over_a_folder_with_its_own_output(tmp_path: Path, pipeline: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_text("Oslo", encoding="utf-8")
    (folder / "b.txt").write_bytes(b"\xff")
    for _ in range(2):
        assert run(folder, "-o", folder / "out.jsonl", "--pipeline", pipeline) == 1
        assert [record["text"] for record in read_json_lines(folder / "out.jsonl")] == ["Oslo"]
        assert len(read_json_lines(folder / "out.jsonl.errors.jsonl")) == 1


def test_the_same_input_twice_is_annotated_once(tmp_path: Path, pipeline: str, corpus: Path) -> None:
    with pytest.warns(EntityKitWarning, match="W420"):
        assert run(corpus, corpus, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 0
    assert len(read_json_lines(tmp_path / "out.jsonl")) == len(LINES)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["a.txt", "-o", "out.jsonl", "--pipeline", "no_such_pipeline"], "E420"),
        (["a.txt", "-o", "out.jsonl", "--pipeline", "broken_pipeline"], "E420"),
        (["missing.txt", "-o", "out.jsonl"], "E421"),
        (["empty", "-o", "out.jsonl"], "E421"),
        (["a.txt", "-o", "a.txt/out.jsonl"], "E425"),
        (["a.txt", "-o", "empty"], "E426"),
        (["a.txt", "-o", "empty/../a.txt"], "E427"),
        (["out.jsonl.errors.jsonl", "-o", "out.jsonl"], "E427"),
        (["a.txt.errors.jsonl", "-o", "empty/../a.txt"], "E427"),
        (["a.txt", "-o", "-", "--format", "html"], "E428"),
        (["a.txt", "-o", "out.jsonl", "--batch-size", "0"], "E428"),
        (["a.txt", "-o", "out.jsonl", "--n-process", "-1"], "E428"),
        (["a.txt", "-o", "out.jsonl", "--gpu", "0", "--n-process", "2"], "E428"),
        (["a.txt", "-o", "out.jsonl", "--gpu", "999"], "E429"),
        (["a.txt", "-o", "out.csv"], "E432"),
        (["a.txt", "-o", "out.jsonl.gz"], "E432"),
    ],
)
def test_usage_errors(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pipeline(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken_pipeline").mkdir()
    (tmp_path / "broken_pipeline" / "config.cfg").write_text("nonsense", encoding="utf-8")
    (tmp_path / "a.txt").write_text("Oslo", encoding="utf-8")
    before = sorted(os.listdir(tmp_path))
    options = [] if "--pipeline" in arguments else ["--pipeline", "pipeline"]
    assert run(*arguments, *options) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == before
