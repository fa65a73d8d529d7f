"""Find and read what `entitykit annotate` is given: text, JSON lines, Parquet, DocBins, folders of these, standard input.

Everything is read as a stream. What cannot be read becomes a `Failure` in the stream, and reading goes on behind it.
"""

from __future__ import annotations

import base64
import glob
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spacy.tokens import Doc, DocBin
from spacy.vocab import Vocab

from entitykit.corpora.files import BOM, member
from entitykit.corpora.given_speakers import SPEAKERS
from entitykit.decoding.procedures import PROCEDURE
from entitykit.errors import EntityKitError, error, warn

STDIN = "-"

GIVEN = (PROCEDURE, SPEAKERS)
"""What a document may bring along for components: a dict of `participants` and `steps`, as `entitykit_tracker` takes them; and
a list with the speaker of each token, empty or None where nobody speaks, as the reader of CoNLL-2012 leaves it."""

KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".parquet": "parquet",
    ".spacy": "docbin",
}

FAILURES = ".errors.jsonl"
"""How the name of a list of failures ends, behind the name of the output."""


class Document(NamedTuple):
    """Something to annotate.

    Attributes:
        input: the file it comes from, as named by the user.
        id: its own id, or one made from file and line.
        content: the text, or a `Doc` with words and spaces only where the input has tokens.
        line: its line, row or number in the file, from 1; None where the file is one document.
        meta: JSON values to carry to the output.
        given: values of `GIVEN` that components are to find in ``doc.user_data``; of JSON and tables they are in `meta`, too.
    """

    input: str
    id: str
    content: str | Doc
    line: int | None = None
    meta: dict[str, Any] | None = None
    given: dict[str, Any] | None = None


class Failure(NamedTuple):
    """Something that could not be read, annotated or written.

    Attributes:
        input: the file, as named by the user.
        error: what went wrong, for people.
        error_code: the code in the message, if it has one.
        line: line, row or number in the file, from 1.
        document_id: the document's id, where it is known.
    """

    input: str
    error: str
    error_code: str | None = None
    line: int | None = None
    document_id: str | None = None


def failure(problem: BaseException, path: str, *, line: int | None = None, document_id: str | None = None) -> Failure:
    """Describe an exception; the code is that of an entitykit or spaCy message."""
    message = str(problem) if isinstance(problem, EntityKitError) else f"{type(problem).__name__}: {problem}"
    code = re.search(r"\[([EW]\d+)\]", message)
    return Failure(path, message, code[1] if code else None, line, document_id)


def readable_files(inputs: Sequence[str], *, outputs: Iterable[str | Path | None]) -> list[str | Failure]:
    """List the files to read as `find_files` does, but for those that the run writes; None and standard output are no files.

    Raises:
        InputError: E421 if there is nothing to read.
    """
    files = find_files(inputs, without=[Path(path) for path in outputs if path not in (None, STDIN)])
    if all(isinstance(file, Failure) for file in files):
        raise error("E421", reason=" ".join(file.error for file in files if isinstance(file, Failure)))
    return files


def find_files(inputs: Sequence[str], *, without: Sequence[Path] = ()) -> list[str | Failure]:
    """List the files to read, in the order of the inputs; a folder's files are sorted by path.

    Of a folder, all files with a known suffix are taken; names that start with a dot are passed over, and so are the lists of
    failures of earlier runs. A file that is reached twice is read once.

    Args:
        inputs: files, folders, or `-` for standard input.
        without: files that are not read when a folder holds them.

    Returns:
        Paths, and failures where there is nothing to read.

    Warns:
        W420 if a file was reached twice, W422 if the suffix of a named file is unknown.
    """
    seen = {os.path.realpath(path) for path in without}
    outputs = frozenset(seen)
    found: list[str | Failure] = []
    repeated: list[str] = []
    for name in inputs:
        n_before = len(found) + len(repeated)
        for path in [name] if name == STDIN else _walk(Path(name)):
            if isinstance(path, Failure):
                found.append(path)
                continue
            real = STDIN if path == STDIN else os.path.realpath(path)
            if real not in seen:
                seen.add(real)
                found.append(str(path))
            elif real not in outputs:
                repeated.append(str(path))
        if len(found) + len(repeated) == n_before:
            found.append(failure(error("E423", path=name, suffixes=" ".join(KINDS)), name))
    if repeated:
        warn("W420", n=len(repeated), example=repeated[0])
    unknown = [path for path in found if isinstance(path, str) and Path(path).suffix.lower() not in ("", *KINDS)]
    if unknown:
        warn("W422", n=len(unknown), example=unknown[0])
    return found


def _walk(path: Path, enclosing: tuple[str, ...] = ()) -> Iterator[Path | Failure]:
    """Give a file, or the files below a folder; a link to a folder around it is not followed."""
    try:
        if not path.is_dir():
            if not path.exists() and not path.is_symlink():
                raise error("E422", path=path, reason="it does not exist")
            if not (enclosing and path.name.endswith(FAILURES) and is_failure_list(path)):
                yield path
            return
        real = os.path.realpath(path)
        if real in enclosing:
            return
        for child in sorted(path.iterdir()):
            if not child.name.startswith(".") and (child.is_dir() or child.suffix.lower() in KINDS):
                yield from _walk(child, (*enclosing, real))
    except (OSError, EntityKitError) as problem:
        yield failure(problem, str(path))


def is_failure_list(path: Path) -> bool:
    """Whether a file can be read and begins as a list of failures does."""
    try:
        with path.open("rb") as file:
            first = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(first, dict) and first.keys() >= {"input", "error"}


def is_text(path: str) -> bool:
    """Whether a file is one document: text, an unknown kind that was named, standard input."""
    return KINDS.get(Path(path).suffix.lower(), "text") == "text"


def read_documents(files: Sequence[str | Failure], vocab: Vocab, *, text_field: str = "text") -> Iterator[Document | Failure]:
    """Read the files one after the other.

    Args:
        files: what `find_files` gives.
        vocab: the pipeline's, for inputs that are tokenized.
        text_field: name of the field or column that holds the text.

    Yields:
        Documents, and failures at the place of what cannot be read: a file, the rest of a file, a line.
    """
    for path in files:
        if isinstance(path, Failure):
            yield path
            continue
        try:
            if is_text(path):
                yield _read_text(path)
            elif path.lower().endswith(".parquet"):
                yield from _read_parquet(path, text_field)
            elif path.lower().endswith(".spacy"):
                yield from _read_docbin(path, vocab)
            else:
                yield from _read_json_lines(path, text_field)
        except EntityKitError as problem:
            yield failure(problem, path)
        except OSError as problem:
            yield failure(error("E422", path=path, reason=problem.strerror or problem), path)


def _read_text(path: str) -> Document:
    data = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    try:
        text = data.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise error("E204", path=path, line=line, reason=problem.reason, byte=f"0x{data[problem.start]:02x}") from problem
    return Document(path, printable(path), text)


def _read_json_lines(path: str, text_field: str) -> Iterator[Document | Failure]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            fields: Any = None
            try:
                fields = _parse(line, path, number)
                yield _document(fields, path, number, text_field)
            except (EntityKitError, RecursionError) as problem:
                yield failure(problem, path, line=number, document_id=_id(fields))


def _parse(line: bytes, path: str, number: int) -> Any:
    try:
        return json.loads(line.removeprefix(BOM).decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise error("E204", path=path, line=number, reason=problem.reason, byte=f"0x{line[problem.start]:02x}") from problem
    except (ValueError, RecursionError) as problem:
        raise error("E205", where=f"{path}, line {number}", reason=problem) from problem


def _read_parquet(path: str, text_field: str) -> Iterator[Document | Failure]:
    import datasets  # takes seconds to import and only this needs it

    number = 0
    try:
        rows = datasets.load_dataset("parquet", data_files=glob.escape(path), split="train", streaming=True)
        for number, row in enumerate(rows, start=1):
            try:
                yield _document(row, path, number, text_field)
            except EntityKitError as problem:
                yield failure(problem, path, line=number, document_id=_id(row))
    except OSError:
        raise
    except Exception as problem:  # what a damaged file raises depends on where it is damaged
        raise error("E424", path=path, kind="a Parquet file", place=f"row {number + 1}", reason=problem) from problem


def _read_docbin(path: str, vocab: Vocab) -> Iterator[Document | Failure]:
    number = 0
    try:
        for number, given in enumerate(DocBin().from_disk(path).get_docs(vocab), start=1):
            spaces = None if given.has_unknown_spaces else [bool(token.whitespace_) for token in given]
            doc = Doc(vocab, words=[token.text for token in given], spaces=spaces)
            own_id = _id(given.user_data)
            data = given.user_data
            yield Document(path, own_id or f"{printable(path)}:{number}", doc, number, data.get("meta"), _given(data))
    except OSError:
        raise
    except Exception as problem:  # as above
        raise error("E424", path=path, kind="a DocBin", place=f"document {number + 1}", reason=problem) from problem


def _document(fields: Any, path: str, line: int, text_field: str) -> Document:
    """Make the document of a JSON object or table row; all fields but text and id become its meta values.

    Raises:
        CorpusError: E206 if it is no object or the text no string, E207 without a text, E209 if the text is not Unicode.
    """
    where = f"{path}, line {line}"
    text = member(fields, text_field, str, where=where)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as problem:
        raise error("E209", where=where, found=f"U+{ord(text[problem.start]):04X}") from problem
    others = {name: _json_value(value) for name, value in fields.items() if name not in (text_field, "id")}
    own_id = _id(fields)
    if own_id is None and fields.get("id") is not None:
        others["id"] = _json_value(fields["id"])
    meta = others.get("meta")
    if isinstance(meta, dict) and not meta.keys() & (others.keys() - {"meta"}):
        del others["meta"]
        others |= meta
    return Document(path, own_id or f"{printable(path)}:{line}", text, line, others, _given(others))


def _given(values: Mapping[Any, Any]) -> dict[str, Any] | None:
    """What is there of `GIVEN`; a field of such a name that has something else in it means nothing to components."""
    procedure, speakers = (values.get(key) for key in GIVEN)
    found: dict[str, Any] = {}
    if isinstance(procedure, Mapping):
        parts = {key: procedure.get(key) for key in ("participants", "steps")}
        found[PROCEDURE] = {key: value for key, value in parts.items() if value is not None}
    if isinstance(speakers, (list, tuple)):
        found[SPEAKERS] = list(speakers)
    return {key: value for key, value in found.items() if value} or None


def _id(fields: Any) -> str | None:
    own_id = fields.get("id") if isinstance(fields, dict) else None
    return str(own_id) if isinstance(own_id, (str, int)) else None


def _json_value(value: Any) -> Any:
    """Give a table's value as JSON has it: bytes in base64, no NaN (null, as pandas writes it), dates and the like as text."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def printable(path: str) -> str:
    """Give a path as Unicode: in file names, Linux allows bytes that are none."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")
