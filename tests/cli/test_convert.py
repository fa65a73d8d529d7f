from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import spacy
from spacy.tokens import DocBin

from entitykit.cli import convert
from entitykit.errors import ConfigError, CorpusError, EntityKitError, EntityKitWarning, InputError

TEXT = """-DOCSTART- O

The B-PER
mayor I-PER

slept O
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "news.conll"
    path.write_text(TEXT, encoding="utf-8")
    return path


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    convert.add_arguments(parser)
    return convert.run(parser.parse_args([str(argument) for argument in arguments]))


def test_convert(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "news.spacy"
    assert run(source, target, "--format", "columns", "--option", "n_sents=0") == 0
    (doc,) = DocBin().from_disk(target).get_docs(spacy.blank("en").vocab)
    assert [(ent.text, ent.label_) for ent in doc.spans["sc"]] == [("The mayor", "PER")]
    assert [ent.text for ent in doc.ents] == ["The mayor"]
    assert [token.is_sent_start for token in doc] == [True, False, True]
    assert doc.user_data["id"] == "news-1"
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["files", "1"],
        ["documents", "1"],
        ["tokens", "3"],
        ["entities", "1"],
        ["label", "PER", "1"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_links_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "x.tsv", tmp_path / "x.spacy"
    source.write_text(
        "-DOCSTART- (1testa X)\nAda\tB\tAda\tAda\thttp://en.wikipedia.org/wiki/Ada_B.\t000\nmet\n", encoding="utf-8"
    )
    assert run(source, target, "--format", "aida", "--option", "split=testa") == 0
    (doc,) = DocBin().from_disk(target).get_docs(spacy.blank("en").vocab)
    assert [(ent.text, ent.kb_id_) for ent in doc.ents] == [("Ada", "Ada B.")]
    assert ["entities", "with", "a", "link", "1"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    with pytest.warns(EntityKitWarning, match="W207"):
        run(source, target, "--format", "aida", "--option", "kb_id=page")
    assert "links without an id, read as NIL" in capsys.readouterr().out


def test_changes_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "x.jsonl"
    spans = [{"start": start, "end": end, "label": "A"} for start, end in ((0, 2), (0, 7), (3, 4))]
    source.write_text(json.dumps({"text": "Ada\u00a0 Bob", "entities": spans}), encoding="utf-8")
    with pytest.warns(EntityKitWarning, match="W201"):
        run(source, tmp_path / "x.spacy", "--format", "jsonl")
    out = " ".join(capsys.readouterr().out.split())
    assert "entities not in doc.ents (nested or overlapping) 1" in out
    assert "spans expanded to whole tokens 2" in out
    assert "spans dropped, on no token 1" in out


def test_language_of_the_tokenizer(tmp_path: Path) -> None:
    source = tmp_path / "x.jsonl"
    source.write_text('{"text": "we don\'t"}', encoding="utf-8")
    lengths = {}
    for code in ("en", "xx"):
        run(source, tmp_path / "x.spacy", "--format", "jsonl", "--lang", code)
        (doc,) = DocBin().from_disk(tmp_path / "x.spacy").get_docs(spacy.blank(code).vocab)
        lengths[code] = len(doc)
    assert lengths == {"en": 3, "xx": 2}


@pytest.mark.parametrize(
    ("texts", "format_name", "expected"),
    [
        ([], "jsonl", {}),
        (["n_sents=5", "tag_column=-2", "scheme=iob1"], "columns", {"n_sents": 5, "tag_column": -2, "scheme": "iob1"}),
        (["genres=news,bio", "split=dev", "limit=3"], "gum", {"genres": ["news", "bio"], "split": "dev", "limit": 3}),
        (["ids=a=b", "exclude=1"], "jsonl", {"ids": ["a=b"], "exclude": ["1"]}),
        (["text=", "labels=O,B-X"], "hub", {"text": "", "labels": ["O", "B-X"]}),
    ],
)
def test_options(texts: list[str], format_name: str, expected: dict[str, object]) -> None:
    assert convert.parse_options(texts, format_name) == expected


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("n_sents", InputError, r"\[E291\] The option 'n_sents' cannot be read; expected key=value, such as n_sents=5"),
        ("n_sents=many", InputError, r"\[E291\] The option 'n_sents=many' .*a whole number"),
        (
            "genres=news",
            ConfigError,
            r"\[E233\] The format 'columns' has no option 'genres'; expected: token_column, .*, limit",
        ),
    ],
)
def test_wrong_options(text: str, kind: type[EntityKitError], message: str) -> None:
    with pytest.raises(kind, match=message):
        convert.parse_options([text], "columns")


def test_nothing_is_written_after_an_error(source: Path, tmp_path: Path) -> None:
    source.write_text(f"{TEXT}\nfine O\n\nbroken\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E214\] .*news.conll, line 10"):
        run(source, tmp_path / "news.spacy", "--format", "columns")
    assert [path.name for path in tmp_path.iterdir()] == ["news.conll"]


def test_an_earlier_output_stays_after_an_error(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "news.spacy"
    run(source, target, "--format", "columns")
    before = target.read_bytes()
    source.write_text("broken\n", encoding="utf-8")
    with pytest.raises(CorpusError):
        run(source, target, "--format", "columns")
    assert target.read_bytes() == before


def test_outputs_that_cannot_be(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[E290\] The output is 'x.txt'; expected a name that ends in .spacy"):
        run(source, "x.txt", "--format", "columns")
    with pytest.raises(EntityKitError, match=r"Cannot write '.*news.conll/x.spacy'"):
        run(source, source / "x.spacy", "--format", "columns")


def test_unknown_language(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[E213\] The option --lang is 'zz'"):
        run(source, tmp_path / "x.spacy", "--format", "columns", "--lang", "zz")


def test_unknown_format(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(source, tmp_path / "x.spacy", "--format", "xml")
    assert "invalid choice: 'xml'" in capsys.readouterr().err


def test_help_lists_the_options_of_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    out = capsys.readouterr().out
    assert re.search(r"^  columns +token_column, tag_column, scheme, n_sents$", out, re.MULTILINE)
    assert re.search(r"^  jsonl +none$", out, re.MULTILINE)
