"""`entitykit find`."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from spacy.tokens import Doc

from entitykit.cli.__main__ import main
from entitykit.components.coref import Coref
from tests.cli.failing import read_json_lines
from tests.pipelines import initialized, make_pipeline, train

TEXT = "The mayor of New York met John"


@pytest.fixture(scope="module")
def pipeline(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    nlp, examples = initialized(tiny_bert, "coref_major")
    train(nlp, examples, 60)
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    path = tmp_path_factory.mktemp("find") / "pipeline"
    nlp.to_disk(path)
    return path


def test_mentions_are_counted_and_written(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_text("", encoding="utf-8")
    out = tmp_path / "out.csv"
    command = ["find", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--pipeline", str(pipeline)]
    assert main([*command, "--entity", "John", "-o", str(out)]) == 0
    assert capsys.readouterr().out.split() == ["John", "2"]
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == ["The mayor of New York", "John"]
    for row in rows:
        assert (row["document"], row["entity"], row["context"]) == (str(tmp_path / "a.txt"), "John", TEXT)
        assert TEXT[int(row["start"]) : int(row["end"])] == row["text"]
    assert main([*command, "--entity", "Ahab=a captain"]) == 0
    assert capsys.readouterr().out.split()[0] == "Ahab"


def test_static_memory_without_a_table(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    assert main(["find", str(tmp_path / "a.txt"), "--pipeline", str(pipeline), "--entity", "John", "--memory", "static"]) == 0
    assert capsys.readouterr().out.split()[0] == "John"


def test_documents_that_are_too_long(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    command = ["find", str(tmp_path / "a.txt"), "--pipeline", str(pipeline), "--entity", "John", "--max-length"]
    assert main([*command, str(len(TEXT))]) == 0
    assert main([*command, str(len(TEXT) - 1)]) == 1
    assert "[E430]" in capsys.readouterr().err
    assert main([*command, "0"]) == 2


def test_a_table_on_standard_output(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    assert main(["find", "a.txt", "--pipeline", str(pipeline), "--entity", "John", "-o", "-"]) == 0
    printed = capsys.readouterr()
    assert [row["text"] for row in csv.DictReader(printed.out.splitlines())] == ["The mayor of New York", "John"]
    assert printed.err.split() == ["John", "2"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_document_that_fails_does_not_harm_others(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run twice over the folder of the outputs, which are not read."""
    for name, text in (("a", "BAD"), ("b", TEXT)):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    find = Coref.find

    def fails(self: Coref, doc: Doc, *args: Any, **kwargs: Any) -> Any:
        if doc.text == "BAD":
            raise ValueError("[E999] this document is bad")
        return find(self, doc, *args, **kwargs)

    monkeypatch.setattr(Coref, "find", fails)
    out = tmp_path / "out.txt"
    for _ in range(2):
        assert main(["find", str(tmp_path), "--pipeline", str(pipeline), "--entity", "John", "-o", str(out)]) == 1
        assert capsys.readouterr().out.split() == ["John", "2"]
        (failed,) = read_json_lines(tmp_path / "out.txt.errors.jsonl")
        assert (failed["input"], failed["error_code"]) == (str(tmp_path / "a.txt"), "E999")
        with out.open(encoding="utf-8", newline="") as file:
            assert {row["document"] for row in csv.DictReader(file)} == {str(tmp_path / "b.txt")}
    (tmp_path / "a.txt").unlink()
    assert main(["find", str(tmp_path), "--pipeline", str(pipeline), "--entity", "John", "-o", str(out)]) == 0
    assert not (tmp_path / "out.txt.errors.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["novel.txt", "-o", "novel.txt"], "E427"),
        (["out.csv.errors.jsonl", "-o", "out.csv"], "E427"),
        (["novel.txt", "out.csv.errors.jsonl", "-o", "out.csv"], "E427"),
        (["novel.txt", "--gpu", "99"], "E429"),
        (["novel.txt", "--entity", "John"], "E641"),
        (["novel.txt", "--entity", " = a captain", "--pipeline", "nowhere"], "E647"),
    ],
)
def test_what_cannot_work(
    pipeline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("novel.txt", "out.csv.errors.jsonl"):
        Path(name).write_text(TEXT, encoding="utf-8")
    assert main(["find", "--pipeline", str(pipeline), "--entity", "John", *arguments]) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert [Path(name).read_text(encoding="utf-8") for name in ("novel.txt", "out.csv.errors.jsonl")] == [TEXT, TEXT]
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_read_is_said(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    assert main(["find", str(tmp_path), "--pipeline", str(pipeline), "--entity", "John"]) == 1
    assert "b.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entities", "code"),
    [
        (["--entity", ""], "E647"),
        (["--entity", "=a captain"], "E647"),
        (["--entity", "It;it"], "E647"),
        (["--entity", "John", "--entity", "of  the"], "E647"),
    ],
)
def test_wrong_names(
    pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], entities: list[str], code: str
) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    english = shutil.copytree(pipeline, tmp_path / "english")
    config = (english / "config.cfg").read_text(encoding="utf-8")
    (english / "config.cfg").write_text(re.sub(r'\nlang = "\w+"', '\nlang = "en"', config), encoding="utf-8")
    assert main(["find", str(tmp_path / "a.txt"), "--pipeline", str(english), *entities]) == 2
    shown = capsys.readouterr().err
    assert code in shown
    assert "--entity" in shown


def test_names_that_do_not_occur_are_told(pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in (("a", TEXT), ("b", "Nobody came")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    asked = ["john", "Zaphod", "New  York", "Joh", "It"]
    entities = [option for name in asked for option in ("--entity", name)]
    assert main(["find", str(tmp_path), "--pipeline", str(pipeline), *entities, "--memory", "static"]) == 0
    out, err = capsys.readouterr()
    counts = {line.rpartition(" ")[0].strip(): line.rpartition(" ")[2] for line in out.splitlines()}
    assert list(counts) == asked
    assert [counts[name] for name in ("Zaphod", "Joh", "It")] == ["0", "0", "0"]
    told = [line for line in err.splitlines() if "does not occur" in line]
    assert told == [f"entitykit: '{name}' does not occur in the text" for name in ("Zaphod", "Joh", "It")]


def test_other_pipelines(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    nlp = make_pipeline(tiny_bert)
    nlp.initialize()
    nlp.to_disk(tmp_path / "plain")
    command = ["find", str(tmp_path / "a.txt"), "--entity", "John", "--pipeline"]
    assert main([*command, str(tmp_path / "plain")]) == 2
    assert "E642" in capsys.readouterr().err
    plain, _ = initialized(tiny_bert, "coref")
    plain.to_disk(tmp_path / "followed")
    assert main([*command, str(tmp_path / "followed")]) == 2
    assert "E640" in capsys.readouterr().err
    assert main(["find", str(tmp_path / "none.txt"), "--entity", "John", "--pipeline", str(tmp_path / "plain")]) == 2
    assert "E421" in capsys.readouterr().err
