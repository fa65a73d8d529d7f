"""ELEVANT's JSON lines: articles with linked mentions, such as Wiki-Fair and News-Fair (Bast, Hertel and Prange, EMNLP 2023).

`{"text": "Ada met Bob.", "evaluation_span": [0, 12], "labels": [{"span": [0, 3], "entity_id": "Q7259", "type": "Q5"}]}`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entitykit.corpora.files import items, member, read_json_lines, typed
from entitykit.corpora.parsed import NIL, UNTYPED, Mention, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".jsonl",)

OPTIONAL = "optional"
"""The group of `doc.spans` for mentions that a linker may find and need not."""

NOT_IN_KB = {"", "<NIL>", "<NO_MAPPING>", "NIL", "QUANTITY", "DATETIME"}
"""Ids of labels that are no entity of a knowledge base, beside those that start with `Unknown`."""


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of articles.

    Offsets count characters. An entity's `entity_id` is the span's `kb_id_`, `NIL` for unknown entities, dates and quantities;
    `type`, as published (`Q5|Q901`), is its label. Labels nest and may share a span, as alternatives that ELEVANT's own
    evaluation counts as one: all are in `doc.spans["sc"]`, the widest in `doc.ents`. Those marked `optional` are in
    `doc.spans["optional"]` instead. Tokens outside `evaluation_span` have no entity annotation. The record without `text` is
    `doc.user_data["elevant"]`, with `parent`, `children`, `coref` and `desc` of every label.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E226 for offsets outside the text.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        text = member(record, "text", str, where=where)
        mentions: dict[bool, list[Mention]] = {False: [], True: []}
        for label in member(record, "labels", list, where=where, default=[]):
            mentions[typed(label, dict, what="a label", where=where).get("optional") is True].append(
                _mention(label, text, where)
            )
        span = record.get("evaluation_span")
        yield ParsedDoc(
            id=f"{path.stem}-{line}" if record.get("id") is None else str(record["id"]),
            where=where,
            text=text,
            offsets="characters",
            entities=mentions[False],
            groups={OPTIONAL: mentions[True]} if mentions[True] else {},
            annotated=None if span is None else [_offsets(span, "evaluation_span", text, where)],
            user_data={"elevant": {key: value for key, value in record.items() if key != "text"}},
        )


def _mention(label: dict[str, Any], text: str, where: str) -> Mention:
    start, end = _offsets(member(label, "span", list, where=where), "span", text, where)
    entity = member(label, "entity_id", str, where=where)
    unknown = entity in NOT_IN_KB or entity.startswith("Unknown")
    return Mention(start, end, member(label, "type", str, where=where, default="") or UNTYPED, NIL if unknown else entity)


def _offsets(value: object, name: str, text: str, where: str) -> tuple[int, int]:
    start, end = items(value, int, int, what=f"'{name}'", where=where)
    if not 0 <= start < end <= len(text):
        raise error("E226", where=where, found=f"'{name}' [{start}, {end})", expected=f"0 <= start < end <= {len(text)}")
    return start, end
