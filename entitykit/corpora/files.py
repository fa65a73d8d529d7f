"""Find and read corpus files: UTF-8 only, LF or CRLF at the line ends, with the line number of whatever is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from entitykit.errors import error

T = TypeVar("T")

BOM = b"\xef\xbb\xbf"

JSON_NAMES = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}


def corpus_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """List the files of a corpus: the file itself, or a folder's files with one of the suffixes, sorted by path.

    Args:
        path: a file, or a folder that is searched with its subfolders; names that start with a dot are passed over.
        suffixes: such as `(".conll", ".txt")`; only used for folders.

    Raises:
        CorpusError: E201 where nothing is there, E202 where a folder holds no such file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise error("E201", path=path)
    inside = (file for file in path.rglob("*") if file.suffix in suffixes and file.is_file())
    files = sorted(file for file in inside if not any(part.startswith(".") for part in file.relative_to(path).parts))
    if not files:
        raise error("E202", path=path, suffixes=", ".join(suffixes))
    return files


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Read a text file line by line, with line numbers from 1, without line ends and without a byte order mark.

    Only LF and CRLF end a line: other characters that Python counts as line breaks, such as U+2028, belong to the text.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E238 if the file cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as problem:
        raise error("E238", path=path, reason=problem.strerror) from problem
    with file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(BOM)
            try:
                yield number, line.decode("utf-8").removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as problem:
                raise error(
                    "E204", path=path, line=number, reason=problem.reason, byte=f"0x{line[problem.start]:02x}"
                ) from problem


def read_text(path: Path) -> str:
    """Read a text file as it stands, line ends too, without a byte order mark.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E238 if the file cannot be read.
    """
    try:
        data = path.read_bytes().removeprefix(BOM)
    except OSError as problem:
        raise error("E238", path=path, reason=problem.strerror) from problem
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error("E204", path=path, line=line, reason=problem.reason, byte=f"0x{data[problem.start]:02x}") from problem


def read_json(path: Path) -> Any:
    """Read a file that holds one JSON value.

    Raises:
        CorpusError: E203 for an empty file, E204 for bytes that are not UTF-8, E205 for text that is not JSON.
    """
    text = "\n".join(line for _, line in read_lines(path))
    if not text.strip():
        raise error("E203", path=path)
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        line = getattr(problem, "lineno", 1)
        raise error("E205", where=f"{path}, line {line}", reason=problem) from problem


def read_json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Read a file with one JSON value per line; blank lines are passed over.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E205 for a line that is not JSON.
    """
    for number, line in read_lines(path):
        if line.strip():
            try:
                yield number, json.loads(line, parse_constant=_refuse)
            except (ValueError, RecursionError) as problem:
                raise error("E205", where=f"{path}, line {number}", reason=problem) from problem


def typed(value: object, kind: type[T], *, what: str, where: str) -> T:
    """Give the value back if it is of the kind; `True` and `False` are no numbers, and a whole number is also a `float`.

    Args:
        value: what the file holds.
        kind: `dict`, `list`, `str`, `int` or `float`.
        what: the value's name in the file, for the message.
        where: file and line, for the message.

    Raises:
        CorpusError: E206 if it is of another kind.
    """
    fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    if not fits:
        raise error("E206", where=where, what=what, found=_shorten(value), expected=JSON_NAMES[kind])
    return value  # type: ignore[return-value]


def member(record: object, key: str, kind: type[T], *, where: str, default: T | None = None) -> T:
    """Give a JSON object's value of a key, checked by `typed`.

    Args:
        record: the JSON object.
        key: the key to look up.
        kind: what the value must be.
        where: file and line, for the message.
        default: the value of an absent key or of `null`; without one the key must be there.

    Raises:
        CorpusError: E206 if the record is no object or the value is of another kind, E207 if the key is missing.
    """
    values = typed(record, dict, what="the record", where=where)
    value = values.get(key)
    if value is None:
        if default is None:
            found = [f"{name} (null)" if value is None else str(name) for name, value in values.items()]
            raise error("E207", where=where, key=key, found=", ".join(found) or "none")
        return default
    return typed(value, kind, what=f"'{key}'", where=where)


def items(values: object, *kinds: type, what: str, where: str) -> list[Any]:
    """Give back a JSON list of fixed length after checking the kind of every item, such as `[3, 5, "PERSON"]`.

    Raises:
        CorpusError: E206 if it is no list, has another length, or an item is of another kind.
    """
    found = typed(values, list, what=what, where=where)
    if len(found) != len(kinds):
        raise error("E206", where=where, what=what, found=_shorten(found), expected=f"{len(kinds)} items")
    for number, (item, kind) in enumerate(zip(found, kinds, strict=True), start=1):
        typed(item, kind, what=f"{what}, item {number},", where=where)
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON number")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
