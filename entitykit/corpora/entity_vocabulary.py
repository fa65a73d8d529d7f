"""The entities that have a row of their own in an entity embedding, by title; LUKE's three special rows come first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from spacy.tokens import Doc

from entitykit.corpora.files import read_json, typed
from entitykit.corpora.links import LINKS
from entitykit.errors import error

SPECIAL = ("[PAD]", "[UNK]", "[MASK]")
PADDING, UNKNOWN, MASK = range(len(SPECIAL))


class EntityVocabulary:
    """Entities and their rows.

    Args:
        titles: of the entities, the special rows left out; the first has row 3.

    Raises:
        ConfigError: E241 for a title that is empty, special or given twice.
    """

    def __init__(self, titles: Iterable[str]) -> None:
        self.titles = (*SPECIAL, *titles)
        self._rows = {title: row for row, title in enumerate(self.titles)}
        if "" in self._rows or len(self._rows) != len(self.titles):
            found = next(title for title, n in Counter(self.titles).items() if n > 1 or not title)
            raise error("E241", found=repr(found), expected="titles of entities, none of them empty, special or given twice")

    def __len__(self) -> int:
        return len(self.titles)

    def __contains__(self, title: str) -> bool:
        return self._rows.get(title, UNKNOWN) >= len(SPECIAL)

    def row(self, title: str) -> int:
        """An entity's row; that of [UNK] if it has none."""
        return self._rows[title] if title in self else UNKNOWN

    def to_bytes(self) -> bytes:
        """The file's content: a JSON object from title to row, as LUKE checkpoints have it in ``entity_vocab.json``."""
        return json.dumps(self._rows, ensure_ascii=False, indent=0).encode("utf-8")

    @classmethod
    def from_disk(cls, path: str | Path) -> EntityVocabulary:
        """Read what `to_bytes` gave.

        Raises:
            CorpusError: E203 to E206 and E238 for a file that cannot be read, E240 for one that is no vocabulary.
        """
        rows = typed(read_json(Path(path)), dict, what="the entity vocabulary", where=str(path))
        numbers = list(rows.values())
        if not all(type(number) is int for number in numbers) or sorted(numbers) != list(range(len(numbers))):
            raise error("E240", path=path, found="other rows", expected="each row from 0 on once")
        titles = sorted(rows, key=rows.__getitem__)
        if tuple(titles[: len(SPECIAL)]) != SPECIAL:
            raise error("E240", path=path, found=", ".join(titles[: len(SPECIAL)]) or "nothing", expected=", ".join(SPECIAL))
        return cls(titles[len(SPECIAL) :])


def count_entities(docs: Iterable[Doc], *, group: str = LINKS) -> Counter[str]:
    """Count how often each entity is linked to.

    Args:
        docs: documents with links.
        group: of `doc.spans` that holds them; reads `kb_id_`.
    """
    return Counter(span.kb_id_ for doc in docs for span in doc.spans.get(group, []) if span.kb_id_)


def most_frequent(counts: Mapping[str, int], size: int) -> EntityVocabulary:
    """Keep the most frequent entities; among equals, those that come first in the alphabet.

    Args:
        counts: links to each entity.
        size: entities to keep, the special rows not counted.

    Raises:
        ConfigError: E241 for a size below 1, for nothing to keep, or for an entity that is called as a special row.
    """
    if size < 1 or not counts:
        raise error("E241", found=f"{len(counts)} entities to keep {size} of", expected="at least 1 of each")
    return EntityVocabulary(sorted(counts, key=lambda title: (-counts[title], title))[:size])
