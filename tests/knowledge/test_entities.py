"""Entities are read as they stand in the file, and what cannot be is named with file and line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.errors import CorpusError, EntityKitError, EntityKitWarning
from entitykit.knowledge.entities import (
    MAX_COUNT,
    Alias,
    Entity,
    Phrase,
    parse_entity,
    read_aliases,
    read_entities,
    read_phrases,
    write_lines,
)
from tests.knowledge.kb import ENTITIES, PARIS

LINE = {
    "id": "Q90",
    "name": "Paris",
    "aliases": ["Paname", ["Paris", 12]],
    "description": "the capital of France",
    "type": "LOC",
    "count": 14,
    "redirects": ["Q9090"],
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(write_lines(records)), encoding="utf-8")
    return path


def test_read(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", LINE, {"id": "Q1", "name": "Universe", "aliases": None, "description": ""})
    assert list(read_entities(path)) == [PARIS, Entity(id="Q1", name="Universe")]


@given(st.lists(ENTITIES, max_size=4))
def test_what_is_written_is_read(entities: list[Entity]) -> None:
    lines = list(write_lines(entity.to_json() for entity in entities))
    assert [parse_entity(json.loads(line), "here") for line in lines] == entities
    assert pickle.loads(pickle.dumps(entities)) == entities


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], [Alias("Paris", 1)]),
        (["Paris"], [Alias("Paris", 1)]),
        ([["Paris", 5], "Paris"], [Alias("Paris", 5)]),
        ([["Paris", 5], ["Paris", 2]], [Alias("Paris", 7)]),
        ([["Paris", 0]], [Alias("Paris", 0)]),
        (["x", "x", ["x", 3], "y"], [Alias("Paris", 1), Alias("x", 3), Alias("y", 1)]),
    ],
)
def test_counts_of_aliases(given: list[Any], names: list[Alias]) -> None:
    entity = parse_entity({"id": "Q90", "name": "Paris", "aliases": given}, "here")
    assert entity.names() == names
    assert entity == Entity(id="Q90", name="Paris", aliases=tuple(names))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], r"\[E206\] .*bad.jsonl, line 2: the record is \[\]; expected an object"),
        ({"name": "x"}, r"\[E207\] .*bad.jsonl, line 2: the key 'id' is missing"),
        ({"id": "Q1"}, r"\[E207\] .*line 2: the key 'name' is missing"),
        ({"id": 7, "name": "x"}, r"\[E206\] .*line 2: 'id' is 7; expected a string"),
        ({"id": "", "name": "x"}, r"\[E504\] .*bad.jsonl, line 2: the entity '': the id is ''; expected text without control"),
        ({"id": "NIL", "name": "x"}, r"\[E504\] .*line 2: .*the id is 'NIL'; expected text without .*, other than NIL"),
        ({"id": "a\nb", "name": "x"}, r"\[E504\] .*line 2: .*the id is 'a\\nb'"),
        ({"id": "Q1", "name": " \u200b"}, r"\[E504\] .*line 2: .*the name is ' \\u200b'; expected text with a visible"),
        ({"id": "Q1", "name": "\ud800"}, r"\[E504\] .*line 2: .*the name is '\\ud800'; expected text without half"),
        ({"id": "Q1", "name": "x", "description": "\ud800"}, r"\[E504\] .*line 2: .*the description is"),
        ({"id": "Q1", "name": "x", "aliases": "y"}, r"\[E206\] .*line 2: 'aliases' is 'y'; expected a list"),
        ({"id": "Q1", "name": "x", "aliases": [3]}, r"\[E206\] .*line 2: an alias is 3; expected a list"),
        ({"id": "Q1", "name": "x", "aliases": [["y"]]}, r"\[E206\] .*line 2: an alias is \['y'\]; expected 2 items"),
        ({"id": "Q1", "name": "x", "aliases": [["y", True]]}, r"\[E206\] .*line 2: an alias, item 2, is True"),
        ({"id": "Q1", "name": "x", "aliases": [["y", -1]]}, r"\[E504\] .*line 2: .*the count of an alias is -1"),
        ({"id": "Q1", "name": "x", "aliases": ["y", ""]}, r"\[E504\] .*line 2: .*the alias is ''"),
        ({"id": "Q1", "name": "x", "count": MAX_COUNT + 1}, r"\[E504\] .*line 2: .*the count is 9007199254740992; expected"),
        ({"id": "Q1", "name": "x", "count": 1.0}, r"\[E206\] .*line 2: 'count' is 1.0"),
        ({"id": "Q1", "name": "x", "redirects": [""]}, r"\[E504\] .*line 2: .*the redirect is ''"),
        ({"id": "Q1", "name": "x", "redirects": [1]}, r"\[E206\] .*line 2: a redirect is 1"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, record: object, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n" + json.dumps(record), encoding="utf-8")  # the escape \ud800 is JSON, but no text
    with pytest.raises(CorpusError, match=message):
        list(read_entities(path))


def test_lines_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"id": "Q1", "name": "x"}\n{"id": "Q2", "na')
    with pytest.raises(CorpusError, match=r"\[E205\] .*bad.jsonl, line 2"):
        list(read_entities(path))
    path.write_bytes(b'{"id": "Q1", "name": "\xff"}\n')
    with pytest.raises(CorpusError, match=r"\[E204\] .*bad.jsonl, line 1"):
        list(read_entities(path))


def test_unknown_keys_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "e.jsonl", {"id": "Q1", "name": "x", "alias": ["y"]}, {"id": "Q2", "name": "x", "alias": []})
    with pytest.warns(EntityKitWarning, match=r"\[W501\] .*e.jsonl: .*'alias' \(2\)\. Known keys are: id, name, aliases"):
        assert len(list(read_entities(path))) == 2


@pytest.mark.parametrize(
    "values",
    [{"aliases": ("Paname",)}, {"aliases": (["Paname", 1],)}, {"name": None}, {"count": True}, {"redirects": ("a\x00",)}],
)
def test_entities_made_in_python_are_checked(values: dict[str, Any]) -> None:
    with pytest.raises(EntityKitError, match=r"\[E504\] the entity 'Q1': the "):
        Entity(**{"id": "Q1", "name": "x", **values})


def test_phrases(tmp_path: Path) -> None:
    assert list(read_phrases(write(tmp_path / "p.jsonl", ["Paris", 12], ["x", 0]))) == [Phrase("Paris", 12), Phrase("x", 0)]
    for record, message in ((["x", -1], "E504.*line 1: the total"), ([" ", 1], "E504.*the phrase"), (["x"], "E206.*line 1")):
        with pytest.raises(CorpusError, match=message):
            list(read_phrases(write(tmp_path / "p.jsonl", record)))


def test_aliases(tmp_path: Path) -> None:
    assert list(read_aliases(write(tmp_path / "a.jsonl", ["Paname", "Q90", 7]))) == [("Q90", "Paname", 7)]
    for record, message in (
        (["x", "Q90", -1], "E504.*line 1: the count of an alias is -1"),
        (["", "Q90", 1], "E504.*line 1: the alias is ''"),
        (["x", "Q90"], "E206.*line 1"),
    ):
        with pytest.raises(CorpusError, match=message):
            list(read_aliases(write(tmp_path / "a.jsonl", record)))
