from __future__ import annotations

from pathlib import Path

import pytest
from spacy.language import Language

from entitykit.corpora.read import FORMATS, read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import words


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("b", "x\tB-P\n\ny\tO\n"), ("a", "z\tB-P\n\nw\tB-Q\n\nv\tO\n")):
        (tmp_path / f"{name}.tsv").write_text(text, encoding="utf-8")
    return tmp_path


def test_files_are_read_by_name_and_reported_one_by_one(folder: Path, nlp: Language) -> None:
    for name in ("c", "d"):
        (folder / f"{name}.tsv").write_text(f"{name}\tO\n\n{name}\tI-P\n", encoding="utf-8")
    report = Report()
    with pytest.warns(EntityKitWarning) as caught:
        docs = list(read_docs(folder, "columns", nlp, report=report, scheme="bio"))
    assert [words(doc)[0] for doc in docs] == list("zwvxyccdd")
    assert [doc.user_data["id"] for doc in docs][:4] == ["a-1", "a-2", "a-3", "b-1"]
    assert [str(warning.message).split(": ")[0][-5:] for warning in caught] == ["c.tsv", "d.tsv"]
    assert report.rows() == [
        ("files", 4),
        ("documents", 9),
        ("tokens", 9),
        ("entities", 5),
        ("tags repaired", 2),
        ("label P", 4),
        ("label Q", 1),
    ]


def test_reading_is_lazy_and_leaves_right_counts_when_it_stops(folder: Path, nlp: Language) -> None:
    report = Report()
    docs = read_docs(folder, "columns", nlp, report=report)
    next(docs)
    assert report.documents == 0
    next(docs)  # the counts of a file are added when it ends
    docs.close()
    assert (report.files, report.documents, report.entities) == (1, 2, 2)


def test_counts_are_right_after_an_error(folder: Path, nlp: Language) -> None:
    (folder / "c.tsv").write_text("u\tO\n\nt\n", encoding="utf-8")
    report = Report()
    with pytest.raises(CorpusError, match="E214"):
        list(read_docs(folder, "columns", nlp, report=report))
    assert report.documents == 5


@pytest.mark.parametrize(("limit", "expected"), [(0, "zwvxy"), (1, "z"), (3, "zwv"), (4, "zwvx"), (99, "zwvxy")])
def test_limit(folder: Path, nlp: Language, limit: int, expected: str) -> None:
    docs = read_docs(folder, "columns", nlp, limit=limit)
    assert "".join(words(doc)[0] for doc in docs) == expected


def test_a_limit_still_warns_of_what_was_read(folder: Path, nlp: Language) -> None:
    (folder / "a.tsv").write_text("z\tI-P\n\nw\tB-Q\n", encoding="utf-8")
    with pytest.warns(EntityKitWarning, match="W202"):
        list(read_docs(folder, "columns", nlp, limit=1, scheme="bio"))


def test_an_empty_file_among_others(folder: Path, nlp: Language) -> None:
    (folder / "c.tsv").touch()
    with pytest.raises(CorpusError, match=r"\[E203\] '.*c.tsv' holds no document"):
        list(read_docs(folder, "columns", nlp))


def test_mistakes_are_found_before_reading(tmp_path: Path, nlp: Language) -> None:
    with pytest.raises(ConfigError, match=rf"\[E232\] There is no corpus format 'xml'; expected one of: {', '.join(FORMATS)}"):
        read_docs(tmp_path, "xml", nlp)
    with pytest.raises(
        ConfigError, match=r"\[E233\] The format 'gum' has no option 'n_sents, x'; expected: genres, split, kb_id, clusters\."
    ):
        read_docs(tmp_path, "gum", nlp, n_sents=1, x=2)
    with pytest.raises(ConfigError, match=r"\[E233\] .*'jsonl' has no option 'x'; expected: none"):
        read_docs(tmp_path, "jsonl", nlp, x=2)
    with pytest.raises(ConfigError, match=r"\[E213\] The option limit is '-1'"):
        read_docs(tmp_path, "jsonl", nlp, limit=-1)
    with pytest.raises(CorpusError, match=r"\[E201\]"):
        read_docs(tmp_path / "gone", "jsonl", nlp)
    with pytest.raises(CorpusError, match=r"\[E202\] .*ends in: .jsonl"):
        read_docs(tmp_path, "jsonl", nlp)


def test_formats() -> None:
    linking = ["elevant", "aida", "blink", "genre", "nif", "wordnet_linking"]
    coreference = ["conll2012", "litbank", "ecbplus", "gap", "propara", "salience"]
    first = ["columns", "layered", "conll04", "dygie", "gum", "pubtator"]
    relations = ["docred", "semeval2010_task8", "tacred"]
    assert list(FORMATS) == [*first, *linking, "jsonl", "links", *coreference, *relations, "hub"]
