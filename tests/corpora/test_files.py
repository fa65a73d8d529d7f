from __future__ import annotations

from pathlib import Path

import pytest

from entitykit.corpora.files import corpus_files, items, member, read_json, read_json_lines, read_lines, typed
from entitykit.errors import CorpusError


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n", [(1, "")]),
        (b"a\nb", [(1, "a"), (2, "b")]),
        (b"a\r\n\r\nb\r\n", [(1, "a"), (2, ""), (3, "b")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [(1, "a"), (2, "\ufeffb")]),
        (b"a\rb\x0bc\x0cd\x1ce\xc2\x85f\xe2\x80\xa8g\n", [(1, "a\rb\x0bc\x0cd\x1ce\x85f\u2028g")]),
        (b"a\r\r\n", [(1, "a\r")]),
    ],
)
def test_read_lines(tmp_path: Path, data: bytes, expected: list[tuple[int, str]]) -> None:
    path = tmp_path / "x"
    path.write_bytes(data)
    assert list(read_lines(path)) == expected


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"fine\n\xc3\xa9\xc3\nfine\n")
    with pytest.raises(CorpusError, match=r"\[E204\] .*x, line 2: the byte 0xc3 is not UTF-8 \(invalid continuation byte\)"):
        list(read_lines(path))


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"\[E238\] Cannot read '.*gone': No such file or directory"):
        list(read_lines(tmp_path / "gone"))


def test_json_has_no_constants(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("\n[1,\n -Infinity]", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E205\] .*x, line 1: this is not JSON: -Infinity is no JSON number"):
        read_json(path)


def test_the_line_of_a_json_mistake(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"[1,\r\n 2,\r\n 3")
    with pytest.raises(CorpusError, match=r"\[E205\] .*x, line 3: "):
        read_json(path)
    with pytest.raises(CorpusError, match=r"\[E205\] .*x, line 1: "):
        list(read_json_lines(path))


def test_files_of_a_folder(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "a.md", "sub/c.txt", ".hidden.txt", ".git/d.txt", "sub.txt/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in corpus_files(tmp_path, [".txt"])]
    assert found == ["a.txt", "b.txt", "sub/c.txt", "sub.txt/e.txt"]
    assert corpus_files(tmp_path / "a.md", [".txt"]) == [tmp_path / "a.md"]


def test_a_hidden_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "a.txt").touch()
    assert corpus_files(tmp_path / ".data", [".txt"]) == [tmp_path / ".data" / "a.txt"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"\[E201\] There is no file or folder '.*gone'"):
        corpus_files(tmp_path / "gone", [".txt"])
    with pytest.raises(CorpusError, match=r"\[E202\] The folder '.*' has no file that ends in: .txt, .tsv\."):
        corpus_files(tmp_path, [".txt", ".tsv"])


@pytest.mark.parametrize(("value", "kind"), [(1, int), (1, float), (0.5, float), ("a", str), ([], list), ({}, dict)])
def test_typed(value: object, kind: type) -> None:
    assert typed(value, kind, what="x", where="here") is value


@pytest.mark.parametrize(("value", "kind"), [(1.0, int), (True, int), (False, float), (None, str), ({}, list), ([], dict)])
def test_wrongly_typed(value: object, kind: type) -> None:
    with pytest.raises(CorpusError, match=r"\[E206\] here: x is .*; expected a"):
        typed(value, kind, what="x", where="here")


def test_long_values_are_shortened_in_messages() -> None:
    with pytest.raises(CorpusError, match=r"x is 'a{56}\.\.\.; expected a list"):
        typed("a" * 1000, list, what="x", where="here")


def test_member() -> None:
    assert member({"a": 1}, "a", int, where="here") == 1
    assert member({"a": None}, "a", int, where="here", default=2) == 2
    assert member({}, "a", list, where="here", default=[]) == []
    with pytest.raises(CorpusError, match=r"\[E207\] here: the key 'a' is missing; found: b, c"):
        member({"b": 1, "c": 2}, "a", int, where="here")
    with pytest.raises(CorpusError, match=r"\[E206\] here: 'a' is 'x'; expected a whole number"):
        member({"a": "x"}, "a", int, where="here", default=2)


def test_items() -> None:
    assert items([1, "a"], int, str, what="a pair", where="here") == [1, "a"]
    with pytest.raises(CorpusError, match=r"\[E206\] here: a pair is \[1\]; expected 2 items"):
        items([1], int, str, what="a pair", where="here")
    with pytest.raises(CorpusError, match=r"\[E206\] here: a pair, item 2, is 2; expected a string"):
        items([1, 2], int, str, what="a pair", where="here")
