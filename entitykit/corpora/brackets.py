"""Entity brackets, CoNLL-U's `Entity=` attribute as in GUM and CorefUD: `(1-person-new(2-place-new)` … `1)`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from entitykit.errors import error

GROUP_FIELDS = ("GRP", "eid")
LABEL_FIELDS = ("etype", "entity")

BRACKET = re.compile(r"\((?P<opens>[^()]+)(?P<closes_it>\))?|(?P<closes>[^()]+)\)")
PIECE = re.compile(r"(?P<group>.+)\[(?P<number>\d+)/(?P<of>\d+)\]")


class Header(NamedTuple):
    """What the fields of a bracket mean: all names in order, and those that hold the group and the type."""

    names: Sequence[str]
    group: str
    label: str


class Cell(NamedTuple):
    """The brackets of one word or empty node.

    Attributes:
        text: the value of `Entity=`.
        start: the document's words before it.
        end: the document's words up to it; equal to `start` for an empty node.
        where: file and line.
    """

    text: str
    start: int
    end: int
    where: str


class EntityMention(NamedTuple):
    """A mention between brackets.

    Attributes:
        start: first word.
        end: one past the last word; equal to `start` if it holds empty nodes only.
        group: the entity that it mentions.
        label: the entity's type.
        fields: all values by the names of the header.
        pieces: start and end of every piece of a discontinuous mention; empty if it is in one piece.
        where: file and line of the opening bracket.
    """

    start: int
    end: int
    group: str
    label: str
    fields: dict[str, str]
    pieces: list[list[int]]
    where: str


def read_header(text: str, *, where: str) -> Header:
    """Read the value of `# global.Entity`, such as `GRP-etype-infstat`.

    Raises:
        CorpusError: E221 if it names no group or no type.
    """
    names = text.split("-")
    groups = [name for name in names if name in GROUP_FIELDS]
    labels = [name for name in names if name in LABEL_FIELDS]
    if not groups or not labels:
        expected = f"{' or '.join(GROUP_FIELDS)} and {' or '.join(LABEL_FIELDS)}"
        raise error("E221", where=where, found=text, expected=expected)
    return Header(names, groups[0], labels[0])


def read_mentions(header: Header, cells: Iterable[Cell]) -> list[EntityMention]:
    """Match the brackets of a document.

    A closing bracket closes the last open one of its group. The pieces of a discontinuous mention (`(1[1/2]-…`, `(1[2/2]-…`)
    become one mention from the first word to the last.

    Args:
        header: the meaning of the fields.
        cells: the brackets in the order of the text.

    Returns:
        the mentions by start, wider ones first.

    Raises:
        CorpusError: E222 for text that is no brackets, a bracket without partner or type, or a missing piece.
    """
    opened: defaultdict[str, list[tuple[Cell, dict[str, str]]]] = defaultdict(list)
    mentions: list[EntityMention] = []
    for cell in cells:
        for key, fields in _brackets(cell, header):
            if fields is not None:
                opened[key].append((cell, fields))
            elif opened[key]:
                first, fields = opened[key].pop()
                label = fields.get(header.label, "")
                mentions.append(EntityMention(first.start, cell.end, key, label, fields, [], first.where))
            else:
                raise error("E222", where=cell.where, found=f"{key})", reason="nothing of that group is open")
    for key, left in opened.items():
        for cell, _ in left:
            raise error("E222", where=cell.where, found=f"({key}", reason="it is never closed")
    mentions = _join_pieces(sorted(mentions, key=lambda mention: (mention.start, -mention.end)), header)
    for mention in mentions:
        if not mention.label:
            raise error("E222", where=mention.where, found=f"({mention.group}", reason="it has no entity type")
    return mentions


def _brackets(cell: Cell, header: Header) -> Iterator[tuple[str, dict[str, str] | None]]:
    """Give every bracket of a cell: its group, with the fields if it opens, with None if it closes."""
    position = 0
    while position < len(cell.text):
        bracket = BRACKET.match(cell.text, position)
        if bracket is None:
            raise error("E222", where=cell.where, found=cell.text[position:], reason="this is no bracket")
        position = bracket.end()
        if bracket["closes"]:
            yield bracket["closes"], None
            continue
        fields = dict(zip(header.names, bracket["opens"].split("-", len(header.names) - 1), strict=False))
        group = fields.get(header.group, "")
        yield group, fields
        if bracket["closes_it"]:
            yield group, None


def _join_pieces(mentions: Sequence[EntityMention], header: Header) -> list[EntityMention]:
    """Make one mention of the pieces of a discontinuous one; its fields are those of the first piece."""
    whole: list[EntityMention] = []
    waiting: dict[str, list[EntityMention]] = {}
    for mention in mentions:
        piece = PIECE.fullmatch(mention.group)
        if piece is None:
            whole.append(mention)
            continue
        group = piece["group"]
        pieces = [*waiting.pop(group, []), mention]
        if int(piece["number"]) != len(pieces):
            raise error("E222", where=mention.where, found=f"({mention.group}", reason=f"piece {len(pieces)} was expected")
        if len(pieces) < int(piece["of"]):
            waiting[group] = pieces
            continue
        spans = [[one.start, one.end] for one in pieces]
        fields = {**pieces[0].fields, header.group: group}
        whole.append(pieces[0]._replace(end=mention.end, group=group, fields=fields, pieces=spans))
    for pieces in waiting.values():
        raise error("E222", where=pieces[0].where, found=f"({pieces[0].group}", reason="its other pieces are missing")
    return sorted(whole, key=lambda mention: (mention.start, -mention.end))
