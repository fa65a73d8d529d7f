"""Hyperlinked text as JSON lines: one document per line, links from characters to the titles of entities, end exclusive.

`{"id": "doc-1", "text": "Ada met Bob.", "links": [[0, 3, "Ada Lovelace"], [8, 11, "Bob (carpenter)"]]}`

Only `text` is required. Links may nest, overlap and repeat an entity.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entitykit.corpora.files import items, member, read_json_lines
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".jsonl",)
LINKS = "links"
"""The group of `doc.spans` that the links are in, each with its entity as `kb_id_` and without a label."""


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of hyperlinked text.

    The links become `doc.spans["links"]`; the pipeline's tokenizer splits the text.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E226 for a link that is reversed, ends beyond the text, or
            leads to no entity.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        text = member(record, "text", str, where=where)
        links = [_link(value, len(text), where) for value in member(record, "links", list, where=where, default=[])]
        yield ParsedDoc(
            id=member(record, "id", str, where=where, default=f"{path.stem}-{line}"),
            where=where,
            text=text,
            offsets="characters",
            groups={LINKS: links},
        )


def _link(value: object, n: int, where: str) -> Mention:
    """A link in a text of `n` characters."""
    start, end, title = items(value, int, int, str, what="a link", where=where)
    if not 0 <= start <= end <= n:
        expected = f"0 <= start <= end <= {n}, the characters of the text"
        raise error("E226", where=where, found=f"a link [{start}, {end})", expected=expected)
    if not title.strip():
        raise error("E226", where=where, found=f"a link [{start}, {end}) to {title!r}", expected="the title of an entity")
    return Mention(start, end, label="", kb_id=title)
