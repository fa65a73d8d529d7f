"""CoNLL-style columns: a token per line, a blank line after every sentence, entities as tags (CoNLL-2003, WNUT-17)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from entitykit.corpora.bio import TAG, Scheme, Tag, check_scheme, decode, detect_scheme, parse_tag
from entitykit.corpora.files import read_lines
from entitykit.corpora.parsed import Mention, Note, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".conll", ".txt", ".tsv", ".bio", ".iob", ".iob2", ".bioes")

DOCUMENT_START = "-DOCSTART-"


class Row(NamedTuple):
    """One token: line number and fields."""

    line: int
    fields: Sequence[str]


class Sentence(NamedTuple):
    """One sentence: the number of its document in the file (from 0), and its tokens."""

    document: int
    rows: Sequence[Row]


def parse(
    path: Path, *, token_column: int = 0, tag_column: int = -1, scheme: str = "auto", n_sents: int = 1
) -> Iterator[ParsedDoc]:
    """Read a file of columns.

    Fields are separated by tabs in lines that hold a tab, else by spaces. A line that starts with `#` and has no tag is a
    comment. `-DOCSTART-` starts a document; no `Doc` crosses it.

    Args:
        path: the file.
        token_column: the column of the token, from 0; negative counts from the last.
        tag_column: the column of the entity tag.
        scheme: `bio`, `iob1`, `bioes`, `bilou`, or `auto` to tell it from the file's tags.
        n_sents: sentences per `Doc`; 0 for whole documents.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E214 and E215 for its columns, E210 for an empty token, E211 and E212
            for tags.
        ConfigError: E213 for an unknown scheme or a negative `n_sents`.
    """
    if n_sents < 0:
        raise error("E213", option="n_sents", found=n_sents, expected="0 or more")
    sentences = list(read_sentences(path, token_column=token_column, tag_column=tag_column))
    tags = [
        [parse_tag(pick(row, tag_column, path), where=f"{path}, line {row.line}") for row in sentence.rows]
        for sentence in sentences
    ]
    known = detect_scheme(tags, path=path) if scheme == "auto" else check_scheme(scheme)
    number = 0
    for _, group in groupby(zip(sentences, tags, strict=True), key=lambda pair: pair[0].document):
        document = list(group)
        size = n_sents or len(document)
        for first in range(0, len(document), size):
            number += 1
            yield _join(
                document[first : first + size], path=path, name=f"{path.stem}-{number}", scheme=known, column=token_column
            )


def read_sentences(path: Path, *, token_column: int, tag_column: int) -> Iterator[Sentence]:
    """Read the sentences of a file of columns; every line must have as many fields as the first.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E214 for a line with another number of fields, E215 for a column that
            is not there.
    """
    document = 0
    rows: list[Row] = []
    n_fields = 0
    for line, text in read_lines(path):
        fields = text.split("\t") if "\t" in text else [field for field in text.split(" ") if field]
        is_start = text.startswith(DOCUMENT_START)
        if rows and (is_start or not text.strip()):
            yield Sentence(document, rows)
            rows = []
        document += is_start
        if is_start or not text.strip() or _is_comment(text, fields, tag_column):
            continue
        n_fields = n_fields or len(fields)
        if len(fields) != n_fields:
            raise error("E214", where=f"{path}, line {line}", found=len(fields), expected=n_fields)
        row = Row(line, fields)
        if not pick(row, token_column, path):
            raise error("E210", where=f"{path}, line {line}", number=len(rows) + 1)
        rows.append(row)
    if rows:
        yield Sentence(document, rows)


def pick(row: Row, column: int, path: Path) -> str:
    """Give a row's field.

    Raises:
        CorpusError: E215 if there is no such column.
    """
    if not -len(row.fields) <= column < len(row.fields):
        raise error("E215", where=f"{path}, line {row.line}", column=column, n=len(row.fields))
    return row.fields[column]


def read_tags(
    tags: Sequence[Tag], rows: Sequence[Row], *, scheme: Scheme, path: Path, shift: int
) -> tuple[list[Mention], list[Note]]:
    """Decode the tags of a sentence whose first token is the document's token `shift`."""
    decoded = decode(tags, scheme, where=f"{path}, line {rows[0].line}")
    notes = [Note("repaired", f"{tags[i].prefix}-{tags[i].label} in line {rows[i].line}") for i in decoded.repaired]
    return [mention.shift(shift) for mention in decoded.entities], notes


def _join(pairs: Sequence[tuple[Sentence, list[Tag]]], *, path: Path, name: str, scheme: Scheme, column: int) -> ParsedDoc:
    words: list[str] = []
    starts: list[bool] = []
    entities: list[Mention] = []
    notes: list[Note] = []
    for sentence, tags in pairs:
        found, repaired = read_tags(tags, sentence.rows, scheme=scheme, path=path, shift=len(words))
        entities += found
        notes += repaired
        words += [row.fields[column] for row in sentence.rows]
        starts += [i == 0 for i in range(len(sentence.rows))]
    where = f"{path}, line {pairs[0][0].rows[0].line}"
    return ParsedDoc(id=name, where=where, words=words, sent_starts=starts, entities=entities, notes=notes)


def _is_comment(text: str, fields: Sequence[str], tag_column: int) -> bool:
    """Tell a comment from a token that starts with #: a token's line has columns, and a tag in the column of the tags."""
    if not text.startswith("#") or "\t" in text:
        return False
    return not -len(fields) <= tag_column < len(fields) or len(fields) < 2 or TAG.fullmatch(fields[tag_column]) is None
