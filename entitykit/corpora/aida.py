"""AIDA-YAGO2's TSV: the news of CoNLL-2003 with links to YAGO, Wikipedia and Freebase (Hoffart et al., EMNLP 2011).

A token per line, a blank line after every sentence, `-DOCSTART- (947testa CRICKET)` before every document. A token of a mention
goes on, by tabs, with B or I, the mention, its YAGO entity or `--NME--`, its Wikipedia address, the number of that page, a
Freebase id; other tokens may have an O. The `.conll` files of WNED (AQUAINT, MSNBC, …) are the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from entitykit.corpora.files import read_lines
from entitykit.corpora.parsed import NIL, UNTYPED, Mention, Note, ParsedDoc
from entitykit.corpora.titles import title
from entitykit.errors import error

SUFFIXES = (".tsv", ".conll")

DOCUMENT_START = re.compile(r"-DOCSTART-(?:[ \t]+\((?P<name>.*)\))?\s*")
SPLIT = re.compile(r"\d+(?P<split>testa|testb)\b")
SPLITS = ("train", "testa", "testb")

NOT_IN_KB = "--NME--"
CONTINUED = "null"
COLUMNS = {"title": 4, "url": 4, "page": 5, "freebase": 6, "yago": 3}
NO_ID = {"", "000"}
"""What the columns hold where the entity has no id of that kind."""


class Row(NamedTuple):
    """A token: its fields, one if it is in no mention, whether a sentence starts there, and file and line."""

    fields: Sequence[str]
    starts: bool
    where: str


def parse(path: Path, *, kb_id: str = "title", split: str = "") -> Iterator[ParsedDoc]:
    """Read a file of articles, one `Doc` each, with sentence starts.

    Entities have no types, and `kb_id_` from one of the columns; `NIL` for `--NME--`. An entity without id in that column
    becomes `NIL`, too, and is counted. An I that follows no mention begins one, and is counted; a B whose entity is `null` goes
    on with the mention before it.

    Args:
        path: the file.
        kb_id: `title` of the Wikipedia page, its `url`, number (`page`), `freebase` or `yago`.
        split: `train`, `testa` or `testb`, which the names of the documents say; empty for all.

    Raises:
        ConfigError: E213 for another `kb_id` or another split.
        CorpusError: E204 for bytes that are not UTF-8, E210 for an empty token, E219 for a line that is nothing of the above.
    """
    for option, value, known in (("kb_id", kb_id, tuple(COLUMNS)), ("split", split, ("", *SPLITS))):
        if value not in known:
            raise error("E213", option=option, found=value, expected=", ".join(filter(None, known)))
    for number, (name, rows) in enumerate(_documents(path), start=1):
        where = rows[0].where if rows else str(path)
        if split and _split_of(name) != split:
            yield ParsedDoc(id=name, where=where, selected=False)
            continue
        mentions, notes = _mentions(rows, kb_id)
        yield ParsedDoc(
            id=name or f"{path.stem}-{number}",
            where=where,
            words=[row.fields[0] for row in rows],
            sent_starts=[row.starts for row in rows],
            entities=mentions,
            notes=notes,
        )


def _split_of(name: str) -> str:
    found = SPLIT.match(name)
    return found["split"] if found else "train"


def _documents(path: Path) -> Iterator[tuple[str, list[Row]]]:
    """Give every document's name and tokens; tokens before the first `-DOCSTART-` are one without a name."""
    name, starts, is_open = "", True, False
    rows: list[Row] = []
    for number, line in read_lines(path):
        header = DOCUMENT_START.fullmatch(line)
        if header is not None:
            if is_open:
                yield name, rows
            name, rows, starts, is_open = header["name"] or "", [], True, True
        elif not line.strip():
            starts = True
        else:
            rows.append(_row(line, starts, f"{path}, line {number}"))
            starts, is_open = False, True
    if is_open:
        yield name, rows


def _row(line: str, starts: bool, where: str) -> Row:
    fields = line.split("\t")
    if not fields[0].strip():
        raise error("E210", where=where, number=1)
    outside = len(fields) == 1 or fields[1] == "O"
    if not outside and (len(fields) < 4 or fields[1] not in ("B", "I")):
        expected = "a token alone, or a token, B or I, the mention, its entity and more, separated by tabs"
        raise error("E219", where=where, found=line[:60], expected=expected)
    return Row(fields[:1] if outside else fields, starts, where)


def _mentions(rows: Sequence[Row], column: str) -> tuple[list[Mention], list[Note]]:
    mentions: list[Mention] = []
    notes: list[Note] = []
    for i, row in enumerate(rows):
        if len(row.fields) == 1:
            continue
        tag, entity = row.fields[1], row.fields[3]
        follows = bool(mentions) and mentions[-1].end == i and not row.starts
        if follows and (tag == "I" or entity == CONTINUED):
            mentions[-1] = mentions[-1]._replace(end=i + 1)
            continue
        if tag == "I" or entity == CONTINUED:
            notes.append(Note("repaired", f"{tag} of {row.fields[2]!r} follows no mention ({row.where})"))
        found = _identifier(row.fields, column)
        if not found:
            notes.append(Note("unmapped", f"{row.fields[2]!r}, {entity} ({row.where})"))
        mentions.append(Mention(i, i + 1, UNTYPED, found or NIL))
    return mentions, notes


def _identifier(fields: Sequence[str], column: str) -> str:
    """Give a mention's id, `NIL` if its entity is in no knowledge base, or nothing if it has no id of that kind."""
    if fields[3] == NOT_IN_KB:
        return NIL
    found = fields[COLUMNS[column]].strip() if COLUMNS[column] < len(fields) else ""
    if found in NO_ID:
        return ""
    return title(found) if column == "title" else found
