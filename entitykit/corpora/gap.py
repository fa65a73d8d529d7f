"""GAP: snippets of Wikipedia with an ambiguous pronoun and two names, TSV (Webster et al., TACL 6, 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entitykit.corpora.files import read_lines
from entitykit.corpora.parsed import ParsedDoc
from entitykit.errors import error

SUFFIXES = (".tsv",)

COLUMNS = ("ID", "Text", "Pronoun", "Pronoun-offset", "A", "A-offset", "A-coref", "B", "B-offset", "B-coref", "URL")

COREFERENT = {"true": True, "false": False}


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of snippets, one `Doc` each; the first line names the columns.

    `doc.user_data["gap"]` has `pronoun`, `a` and `b`, the start and end of each in characters, `a_coref` and `b_coref`, whether
    the pronoun stands for the name, and `url`. Nothing else in the text is annotated, so there are no clusters.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E214 and E219 for columns, E220 for an offset or a value that is neither
            TRUE nor FALSE, E226 for an offset where the text has something else.
    """
    for line, text in read_lines(path):
        where = f"{path}, line {line}"
        fields = text.split("\t")
        if not text.strip():
            continue
        if len(fields) != len(COLUMNS):
            raise error("E214", where=where, found=len(fields), expected=len(COLUMNS))
        if line == 1:
            if tuple(fields) != COLUMNS:
                raise error("E219", where=where, found=" ".join(fields)[:60], expected=" ".join(COLUMNS))
            continue
        row = dict(zip(COLUMNS, fields, strict=True))
        snippet: dict[str, Any] = {
            key: _offsets(row, name, where) for key, name in (("pronoun", "Pronoun"), ("a", "A"), ("b", "B"))
        }
        for key, name in (("a_coref", "A-coref"), ("b_coref", "B-coref")):
            if row[name].lower() not in COREFERENT:
                raise error("E220", where=where, what=name, found=row[name], expected="TRUE or FALSE")
            snippet[key] = COREFERENT[row[name].lower()]
        snippet["url"] = row["URL"]
        yield ParsedDoc(
            id=row["ID"], where=where, text=row["Text"], offsets="characters", annotated=(), user_data={"gap": snippet}
        )


def _offsets(row: dict[str, str], name: str, where: str) -> list[int]:
    value = row[f"{name}-offset"]
    if not value.isdecimal():
        raise error("E220", where=where, what=f"{name}-offset", found=value, expected="a whole number")
    start = int(value)
    end = start + len(row[name])
    if row["Text"][start:end] != row[name] or not row[name]:
        raise error("E226", where=where, found=f"'{row['Text'][start:end]}' at {start}", expected=f"{name} '{row[name]}'")
    return [start, end]
