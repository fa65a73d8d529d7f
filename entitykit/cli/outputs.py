"""Write annotated documents as JSON lines, Parquet, DocBins or a web page, and other text.

Every writer takes one document at a time and keeps little in memory. A document that cannot be written in a format leaves the
writer as it was. Output goes to `NAME.part` and gets its name when it is complete.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from spacy.tokens import Doc, DocBin

from entitykit.cli.inputs import STDIN, printable
from entitykit.corpora.jsonl import doc_to_record
from entitykit.corpora.layers import LAYERS
from entitykit.errors import EntityKitError, error
from entitykit.html import Page

if TYPE_CHECKING:
    import pyarrow

STDOUT = "-"

FORMATS = {"jsonl": ".jsonl", "parquet": ".parquet", "spacy": ".spacy", "html": ".html"}

SHARD_WORDS = 2_000_000  # about 200 MB in memory
ROW_GROUP_DOCUMENTS = 1_000
ROW_GROUP_CHARACTERS = 16_000_000
SHARD_NAME = re.compile(r"\d{5}\.spacy")


class Writer(Protocol):
    """Takes documents one by one."""

    def write(self, doc: Doc) -> None:
        """Write a document, or raise and stay as before."""

    def close(self) -> None:
        """Write what is left."""


class _JsonLinesWriter:
    """One object per line, as `entitykit.corpora.jsonl` reads it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def write(self, doc: Doc) -> None:
        line = json.dumps(doc_to_record(doc), ensure_ascii=False, allow_nan=False)
        self.file.write(f"{line}\n".encode())

    def close(self) -> None:
        self.file.flush()


class _HtmlWriter:
    """One page with all documents."""

    def __init__(self, file: IO[bytes], title: str) -> None:
        self.file = file
        self.page = Page()
        self.file.write(self.page.begin(title).encode())

    def write(self, doc: Doc) -> None:
        self.file.write(self.page.document(doc).encode())

    def close(self) -> None:
        self.file.write(self.page.end().encode())
        self.file.flush()


class _ParquetWriter:
    """One row per document; `spans` is a list over all groups; layers and `meta` are JSON, because a column has one type."""

    def __init__(self, file: IO[bytes]) -> None:
        import pyarrow.parquet  # takes time to import and only this needs it

        self.schema = parquet_schema()
        self.parquet = pyarrow.parquet.ParquetWriter(file, self.schema)
        self.rows: list[pyarrow.RecordBatch] = []
        self.n_characters = 0

    def write(self, doc: Doc) -> None:
        import pyarrow

        self.rows.append(pyarrow.RecordBatch.from_pylist([_row(doc_to_record(doc))], self.schema))
        self.n_characters += len(doc.text)
        if len(self.rows) >= ROW_GROUP_DOCUMENTS or self.n_characters >= ROW_GROUP_CHARACTERS:
            self._write_row_group()

    def close(self) -> None:
        self._write_row_group()
        self.parquet.close()

    def abandon(self) -> None:
        self.parquet.is_open = False  # or its destructor would write to a closed file, or to the full disk again

    def _write_row_group(self) -> None:
        import pyarrow

        if self.rows:
            self.parquet.write_table(pyarrow.Table.from_batches(self.rows).combine_chunks())
        self.rows, self.n_characters = [], 0


def parquet_schema() -> pyarrow.Schema:
    """Give the columns of a Parquet output."""
    import pyarrow as pa

    span = [
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("label", pa.string()),
        ("kb_id", pa.string()),
        ("score", pa.float64()),
        ("id", pa.string()),
    ]
    return pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("tokens", pa.list_(pa.list_(pa.int64()))),
            ("entities", pa.list_(pa.struct(span))),
            ("spans", pa.list_(pa.struct([("group", pa.string()), *span]))),
            *((name, pa.string()) for name in LAYERS),
            ("meta", pa.string()),
        ]
    )


def _row(record: dict[str, Any]) -> dict[str, Any]:
    groups = record.get("spans", {})
    layers = {name: json.dumps(record[name], ensure_ascii=False, allow_nan=False) for name in LAYERS if name in record}
    return {
        **record,
        **layers,
        "spans": [{"group": name, **span} for name, spans in groups.items() for span in spans],
        "meta": json.dumps(record.get("meta", {}), allow_nan=False),
    }


class _DocBinWriter:
    """One DocBin, or a folder of numbered ones where one would not fit in memory; spaCy reads both by the same path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.docbin = DocBin(store_user_data=True)
        self.n_words = 0
        self.n_shards = 0

    def write(self, doc: Doc) -> None:
        if len(self.docbin) and self.n_words + len(doc) > SHARD_WORDS:
            self._write_shard()
        n_documents = len(self.docbin)
        try:
            self.docbin.add(doc)
        except Exception:
            docbin = self.docbin
            for column in (docbin.tokens, docbin.spaces, docbin.flags, docbin.cats, docbin.user_data, docbin.span_groups):
                del column[n_documents:]  # it may have taken half of the document
            raise
        self.n_words += len(doc)

    def close(self) -> None:
        if self.n_shards:
            self._write_shard()
        else:
            self.path.write_bytes(self.docbin.to_bytes())

    def _write_shard(self) -> None:
        self.path.mkdir(exist_ok=True)
        self.n_shards += 1
        (self.path / f"{self.n_shards:05}.spacy").write_bytes(self.docbin.to_bytes())
        self.docbin = DocBin(store_user_data=True)
        self.n_words = 0


@contextmanager
def open_output(path: str, kind: str) -> Iterator[Writer]:
    """Open an output; it is there when the block ends well, and untouched when the block fails.

    Args:
        path: a file to make or replace, a device, or `-` for standard output (JSON lines only).
        kind: a key of `FORMATS`.

    Raises:
        OutputError: E425 if it cannot be written, E426 if the path is a folder.
        BrokenPipeError: if nobody reads standard output any more.
    """
    writer: Writer
    try:
        if path == STDOUT:
            with _stdout() as file:
                writer = _JsonLinesWriter(file)
                yield writer
                writer.close()
        else:
            with (
                _completed(Path(os.path.realpath(path))) as unfinished,
                _open_writer(unfinished, kind, title=printable(Path(path).stem)) as writer,
            ):
                yield writer
    except (EntityKitError, BrokenPipeError):
        raise
    except OSError as problem:
        raise error("E425", path=path, reason=problem.strerror or problem) from problem


@contextmanager
def open_text(path: str) -> Iterator[IO[str]]:
    """Open a text file to write, as UTF-8; it is there when the block ends well, and untouched when the block fails.

    Args:
        path: a file to make or replace, a device, or `-` for standard output.

    Raises:
        OutputError: E425 if it cannot be written, E426 if the path is a folder.
    """
    try:
        if path == STDOUT:
            with _stdout_text() as file:
                yield file
        else:
            with (
                _completed(Path(os.path.realpath(path))) as unfinished,
                unfinished.open("w", encoding="utf-8", newline="") as file,
            ):
                yield file
    except (EntityKitError, BrokenPipeError):
        raise
    except OSError as problem:
        raise error("E425", path=path, reason=problem.strerror or problem) from problem


@contextmanager
def _stdout() -> Iterator[IO[bytes]]:
    try:
        yield sys.stdout.buffer
    except OSError:
        leave_stdout()
        raise


@contextmanager
def _stdout_text() -> Iterator[IO[str]]:
    file = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
    try:
        with _stdout():
            sys.stdout.flush()
            yield file
            file.flush()
    finally:
        file.detach()  # or standard output would be closed with it


def leave_stdout() -> None:
    """Give up standard output: Python flushes what is left in its buffer once more at the exit, which must not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def output_kind(path: str, chosen: str | None) -> str:
    """Give the format of an output: the one that was chosen, else by the ending of its name, JSON lines without an ending.

    Raises:
        InputError: E428 for another one than JSON lines on standard output, E432 for an ending that names no format.
    """
    by_ending = {ending: kind for kind, ending in FORMATS.items()} | {".ndjson": "jsonl"}
    kind = chosen or kind_by_ending(path, by_ending, "jsonl")
    if path == STDOUT and kind != "jsonl":
        raise error("E428", option="--format", found=kind, expected="jsonl on standard output")
    return kind


def kind_by_ending(path: str, kinds: Mapping[str, str], otherwise: str) -> str:
    """Give the format that the ending of an output's name says.

    Args:
        path: of the output.
        kinds: formats by endings.
        otherwise: the format of an output without an ending, and of what is no file.

    Raises:
        InputError: E432 for another ending.
    """
    ending = Path(path).suffix.lower()
    if not ending or is_special(path):
        return otherwise
    if ending not in kinds:
        formats = ", ".join(dict.fromkeys(kinds.values()))
        raise error("E432", path=path, ending=ending, endings=", ".join(kinds), formats=formats)
    return kinds[ending]


def check_outputs(outputs: Iterable[str | Path | None], inputs: Iterable[str]) -> None:
    """Refuse outputs that would replace an input or each other.

    Args:
        outputs: all files that a run writes, the list of failures among them; None, standard output and devices are no files.
        inputs: as named by the user.

    Raises:
        InputError: E427 for the first such output.
    """
    taken = {os.path.realpath(path) for path in inputs if path != STDIN}
    for path in outputs:
        if path is None or is_special(str(path)):
            continue
        if os.path.realpath(path) in taken:
            raise error("E427", path=path)
        taken.add(os.path.realpath(path))


def check_writable(path: str) -> None:
    """Refuse an output that cannot be written, before hours are spent.

    Raises:
        OutputError: E425 if its folder can neither be written nor made, E426 if it is a folder.
    """
    if is_special(path):
        return
    target = Path(os.path.realpath(path))
    _check_replaceable(target)
    folder = next(each for each in target.parents if os.path.exists(each))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise error("E425", path=path, reason=f"{folder} is {'read-only' if folder.is_dir() else 'no folder'}")


def is_special(path: str) -> bool:
    """Whether a path is standard output, a device or a pipe: nothing to replace, and no place for files beside it."""
    return path == STDOUT or (os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path))


@contextmanager
def _completed(target: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes the target when the block ends well and is removed when it does not."""
    if is_special(str(target)):
        yield target
        return
    _check_replaceable(target)
    unfinished = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(unfinished)
    try:
        yield unfinished
        if target.is_dir() or unfinished.is_dir():
            _remove(target)
        os.replace(unfinished, target)
    finally:
        _remove(unfinished)


@contextmanager
def _open_writer(path: Path, kind: str, *, title: str) -> Iterator[Writer]:
    writer: Writer
    if kind == "spacy":
        writer = _DocBinWriter(path)
        yield writer
        writer.close()
        return
    with path.open("wb") as file, ExitStack() as stack:
        if kind == "parquet":
            writer = _ParquetWriter(file)  # by its name, pyarrow cannot open every file that Linux can
            stack.callback(writer.abandon)
        else:
            writer = _HtmlWriter(file, title) if kind == "html" else _JsonLinesWriter(file)
        yield writer
        writer.close()


def _check_replaceable(path: Path) -> None:
    """Refuse to replace a folder, unless it holds nothing but shards."""
    if path.is_dir():
        names = os.listdir(path)
        if not names or not all(SHARD_NAME.fullmatch(name) for name in names):
            raise error("E426", path=path)


def _remove(path: Path) -> None:
    _check_replaceable(path)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
