"""PubTator: title and abstract with mentions of concepts and relations between concepts (BC5CDR)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from entitykit.corpora.files import read_lines
from entitykit.corpora.parsed import NIL, Mention, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".txt", ".pubtator")

NO_CONCEPT = ("-1", "-")
"""How BC5CDR and PubTator Central say that a mention has no concept."""

TITLE = re.compile(r"(?P<id>[^|\t]+)\|t\|(?P<text>.*)")
ABSTRACT = re.compile(r"(?P<id>[^|\t]+)\|a\|(?P<text>.*)")


class Line(NamedTuple):
    """A line of the file with the text of its number, for messages."""

    where: str
    text: str


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read documents that are separated by blank lines: `ID|t|title`, `ID|a|abstract`, then mentions and relations by tab.

    The text is title, space, abstract; character offsets count in it, and each mention repeats its text. A concept goes to the
    span's `kb_id_`: as it stands (`D002318|D012131` for a mention of two), `NIL` for `-1` and `-`. The names that such a
    composite mention stands for go to `doc.user_data["composite_mentions"]`, relations to `doc.user_data["concept_relations"]`.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E218 for a mention whose text is not at its offsets, E219 for a line
            that is nothing of the above.
    """
    lines = (Line(f"{path}, line {number}", text) for number, text in read_lines(path))
    for blank, block in groupby(lines, key=lambda line: not line.text.strip()):
        if not blank:
            yield _document(list(block))


def _document(lines: Sequence[Line]) -> ParsedDoc:
    title = TITLE.fullmatch(lines[0].text)
    if title is None:
        raise error("E219", where=lines[0].where, found=lines[0].text[:60], expected="ID|t|title")
    name = title["id"]
    abstract = ABSTRACT.fullmatch(lines[1].text) if len(lines) > 1 else None
    if abstract is None or abstract["id"] != name:
        last = lines[min(1, len(lines) - 1)]
        raise error("E219", where=last.where, found=last.text[:60], expected=f"{name}|a|abstract after the title")
    text = f"{title['text']} {abstract['text']}"
    mentions: list[Mention] = []
    composites: list[dict[str, Any]] = []
    relations: list[dict[str, str]] = []
    for where, line in lines[2:]:
        match line.split("\t"):
            case [owner, start, end, words, label, *concept] if owner == name and start.isdecimal() and end.isdecimal():
                mention = _mention(text, int(start), int(end), words, label, concept, where)
                mentions.append(mention)
                if len(concept) > 1:
                    names = concept[1].split("|")
                    composites.append(
                        {"start": mention.start, "end": mention.end, "ids": mention.kb_id.split("|"), "names": names}
                    )
            case [owner, label, head, tail] if owner == name and not label.isdecimal():
                relations.append({"head": head, "tail": tail, "label": label})
            case _:
                expected = f"{name}, start, end, text, type and concept, or {name}, type and two concepts, separated by tabs"
                raise error("E219", where=where, found=line[:60], expected=expected)
    data = {"concept_relations": relations, "composite_mentions": composites}
    return ParsedDoc(id=name, where=lines[0].where, text=text, offsets="characters", entities=mentions, user_data=data)


def _mention(text: str, start: int, end: int, words: str, label: str, concept: Sequence[str], where: str) -> Mention:
    if text[start:end] != words or end > len(text):
        raise error("E218", where=where, n=len(text), start=start, end=end, found=text[start:end], expected=words)
    kb_id = concept[0] if concept else ""
    return Mention(start, end, label, NIL if kb_id in NO_CONCEPT else kb_id)
