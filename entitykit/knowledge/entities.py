"""Entities and the JSON lines that they are read from and written as.

`{"id": "Q90", "name": "Paris", "aliases": ["Paname", ["Paris", 12]], "description": "capital of France", "type": "LOC",
"count": 14, "redirects": ["Q9090"]}`

Only `id` and `name` are required. An alias is a text, or a text and how often it names the entity; without a number it does so
once, and so does the name.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from entitykit.corpora.files import items, member, read_json_lines, typed
from entitykit.errors import EntityKitError, error, warn
from entitykit.knowledge.text import normalise

KEYS = ("id", "name", "aliases", "description", "type", "count", "redirects")
_KNOWN = frozenset(KEYS)

_NO_ID = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and half characters
_WORD = re.compile(r"\w")
_HALF = re.compile("[\ud800-\udfff]")

NIL = "NIL"
"""The `kb_id_` of what no knowledge base has, so that it is no entity's id."""

MAX_COUNT = 2**53 - 1
"""The largest number that every reader of JSON reads as it stands."""


class _InvalidError(Exception):
    """A value that no entity has: what it is, what was found, what was expected."""


class Alias(NamedTuple):
    """A name of an entity.

    Attributes:
        text: as it is written.
        count: how often it names the entity, where that was counted.
    """

    text: str
    count: int = 1  # type: ignore[assignment]  # hides tuple.count


class Phrase(NamedTuple):
    """A phrase that was counted in a text collection.

    Attributes:
        text: as it is written.
        total: how often it occurs there, whether it names an entity or not.
    """

    text: str
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """What a knowledge base knows of one entity.

    However it is made, equal entities have equal values: an alias that is given twice counts for both, the name is among them,
    as the first, only if its count is not 1, and redirects are sorted.

    Attributes:
        id: not empty, without control characters, not "NIL".
        name: its usual name; like every alias, it holds a visible character.
        aliases: its other names, with counts.
        description: what tells it from its namesakes; may be empty.
        type: its kind; may be empty.
        count: how often the entity occurs where that was counted; it orders candidates that are otherwise equal.
        redirects: other ids that lead to this entity.

    Raises:
        CorpusError: E504 for values that cannot be.
    """

    id: str
    name: str
    aliases: tuple[Alias, ...] = ()
    description: str = ""
    type: str = ""
    count: int = 0
    redirects: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            aliases = self._check()
        except _InvalidError as problem:
            what, found, expected = problem.args
            raise error("E504", where=f"the entity {self.id!r:.80}", what=what, found=found, expected=expected) from None
        object.__setattr__(self, "aliases", aliases)
        object.__setattr__(self, "redirects", tuple(sorted(set(self.redirects))))

    def _check(self) -> tuple[Alias, ...]:
        """Refuse values that cannot be, and bring the aliases into their only form."""
        _check_id(self.id, "id")
        for id_ in self.redirects:
            _check_id(id_, "redirect")
        _check_name(self.name, "name")
        _check_text(self.description, "description")
        _check_text(self.type, "type")
        _check_count(self.count, "count")
        counts: dict[str, int] = {}
        for alias in self.aliases:
            if not isinstance(alias, tuple) or len(alias) != 2:
                raise _InvalidError("alias", f"{alias!r:.80}", "Alias(text, count)")
            text, count = alias
            _check_name(text, "alias")
            _check_count(count, "count of an alias")
            counts[text] = counts.get(text, 0) + count
        own = counts.pop(self.name, 1)
        return tuple([Alias(self.name, own)] * (own != 1) + [Alias(*pair) for pair in counts.items()])

    def names(self) -> list[Alias]:
        """The name, then all aliases, each text once."""
        own = bool(self.aliases) and self.aliases[0].text == self.name
        return list(self.aliases) if own else [Alias(self.name), *self.aliases]

    def to_json(self) -> dict[str, Any]:
        """The JSON object that reads as this entity; what is empty is left out."""
        aliases = [alias.text if alias.count == 1 else list(alias) for alias in self.aliases]
        values = (self.id, self.name, aliases, self.description, self.type, self.count, list(self.redirects))
        return {key: value for key, value in zip(KEYS, values, strict=True) if value or key in ("id", "name")}


def read_entities(path: Path) -> Iterator[Entity]:
    """Read entities from JSON lines.

    Raises:
        CorpusError: E204 to E207 and E238 for the file and its values, E504 for values that no entity has; all name the line.

    Warns:
        W501 at the end, if objects have keys that mean nothing here.
    """
    unknown: Counter[str] = Counter()
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        yield parse_entity(record, where)
        if not record.keys() <= _KNOWN:
            unknown.update(record.keys() - _KNOWN)
    if unknown:
        names = ", ".join(f"'{key}' ({n})" for key, n in unknown.most_common(10))
        warn("W501", path=path, names=names, known=", ".join(KEYS))


def parse_entity(record: object, where: str) -> Entity:
    """Make an entity of a JSON object; `where` is its place, for messages."""
    name = member(record, "name", str, where=where)
    values = {key: member(record, key, str, where=where, default="") for key in ("description", "type")}
    redirects = member(record, "redirects", list, where=where, default=[])
    aliases = list(_aliases(member(record, "aliases", list, where=where, default=[]), where))
    try:
        return Entity(
            id=member(record, "id", str, where=where),
            name=name,
            aliases=tuple(aliases),
            count=member(record, "count", int, where=where, default=0),
            redirects=tuple(typed(id_, str, what="a redirect", where=where) for id_ in redirects),
            **values,
        )
    except EntityKitError as problem:
        if problem.code != "E504":
            raise
        raise type(problem)(str(problem).replace("[E504] ", f"[E504] {where}: ", 1), problem.code) from problem


def read_phrases(path: Path) -> Iterator[Phrase]:
    """Read counted phrases from JSON lines like `["paris", 1200]`.

    Raises:
        CorpusError: E204 to E206 and E238 for the file and its values, E504 for a text or count that cannot be.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        text, total = items(record, str, int, what="the phrase", where=where)
        _check_counted(text, "phrase", total, "total", where)
        yield Phrase(text, total)


def read_aliases(path: Path) -> Iterator[tuple[str, str, int]]:
    """Read names of entities from JSON lines like `["Paris", "Q90", 12]`, as `EntityStore.add_aliases` takes them.

    Raises:
        CorpusError: E204 to E206 and E238 for the file and its values, E504 for a name or count that cannot be.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        text, id_, count = items(record, str, str, int, what="the alias", where=where)
        _check_counted(text, "alias", count, "count of an alias", where)
        yield id_, text, count


def write_lines(records: Iterable[object]) -> Iterator[str]:
    """Give JSON values as lines, each with its end."""
    return (json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def is_id(value: object) -> bool:
    """Whether this can be an id: Unicode text, not empty, without control characters, not NIL."""
    return isinstance(value, str) and value not in ("", NIL) and not _NO_ID.search(value)


def _aliases(values: list[Any], where: str) -> Iterator[Alias]:
    """Read aliases; a text without a number counts once, unless it stands there with one, too."""
    known = set()
    for pair in values:
        if not isinstance(pair, str):
            if not (type(pair) is list and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is int):
                items(pair, str, int, what="an alias", where=where)  # says what is wrong
            known.add(pair[0])
    for value in values:
        if not isinstance(value, str):
            yield Alias(*value)
        elif value not in known:
            known.add(value)
            yield Alias(value)


def _check_counted(text: str, what: str, count: int, what_count: str, where: str) -> None:
    try:
        _check_name(text, what)
        _check_count(count, what_count)
    except _InvalidError as problem:
        what, found, expected = problem.args
        raise error("E504", where=where, what=what, found=found, expected=expected) from None


def _check_id(value: object, what: str) -> None:
    if not is_id(value):
        raise _InvalidError(what, f"{value!r:.80}", f"text without control characters, other than {NIL}")


def _check_name(text: object, what: str) -> None:
    """Refuse a name that nothing could find."""
    _check_text(text, what)
    if not (_WORD.search(str(text)) or normalise(str(text))):
        raise _InvalidError(what, f"{text!r:.80}", "text with a visible character")


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str) or not (text.isascii() or not _HALF.search(text)):
        raise _InvalidError(what, f"{text!r:.80}", "text without half characters (surrogates)")


def _check_count(count: object, what: str) -> None:
    if type(count) is not int or not 0 <= count <= MAX_COUNT:
        raise _InvalidError(what, f"{count!r:.80}", f"a whole number from 0 to {MAX_COUNT}")
