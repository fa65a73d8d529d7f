"""Contexts of mentions, joined with what a language model, or any other function, says of them (LLMAEL, Xin et al. 2024).

A linker then reads the description beside the text. Strategies are numbered as in the paper's code (github.com/THU-KEG/LLMAEL).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from entitykit.errors import error
from entitykit.knowledge.candidates import Mention

Describe = Callable[[str, str], str]
"""Takes a text, in which the mention stands as ``{ mention }``, and the mention; gives a description, or an empty text."""

JOINS = (0, 1, 2, 3, 4)
"""0: the description alone; 1 and 2: the description before the text; 3 and 4: behind it.

The mention is marked in the description in 0, 1 and 3, and in the text in 2 and 4.
"""

_WAIT = 60.0  # seconds, for other processes that write to the cache
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS descriptions (key TEXT PRIMARY KEY, text TEXT, mention TEXT, description TEXT) WITHOUT ROWID"
)


class Augmenter:
    """Adds descriptions to the contexts of mentions, and remembers them.

    Args:
        describe: gives descriptions.
        join: how text and description are joined, see `JOINS`.
        cache: an SQLite file for descriptions, which several processes may share; none: they are remembered in memory.
        version: part of the key, to be changed when `describe` gives other answers.
        words: words of the text on each side of the mention that are kept, so that a description behind it has room in what the
            linker reads; none: all.
    """

    def __init__(
        self, describe: Describe, *, join: int = 4, cache: str | Path | None = None, version: str = "", words: int | None = None
    ) -> None:
        if join not in JOINS:
            raise error("E590", setting="join", found=join, expected=", ".join(map(str, JOINS)))
        if words is not None and words < 0:
            raise error("E590", setting="words", found=words, expected="at least 0, or none")
        self.describe = describe
        self.join = join
        self.cache = None if cache is None else Path(cache)
        self.version = version
        self.words = words
        self._known: dict[str, str] = {}
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_connection": None}

    def __call__(self, mentions: Sequence[Mention]) -> list[Mention]:
        """Mentions in their new contexts; each is marked between `left` and `right`.

        Raises:
            InputError: E591 if a description is no text.
            OutputError: E592 if the cache cannot be read or written.
        """
        return [join_description(self._shorten(each), self._description(each), self.join) for each in mentions]

    def _shorten(self, mention: Mention) -> Mention:
        if self.words is None:
            return mention
        left, right = mention.left.split(), mention.right.split()
        n = self.words
        return mention._replace(left=" ".join(left[max(len(left) - n, 0) :]), right=" ".join(right[:n]))

    def _description(self, mention: Mention) -> str:
        text = " ".join(part for part in (mention.left, f"{{ {mention.text} }}", mention.right) if part)
        key = hashlib.blake2b(json.dumps([self.version, text, mention.text]).encode(), digest_size=16).hexdigest()
        found = self._known.get(key) if self.cache is None else self._read(self.cache, key)
        if found is None:
            found = self.describe(text, mention.text)
            if not isinstance(found, str):
                raise error("E591", mention=mention.text[:60], found=type(found).__name__)
            if self.cache is None:
                self._known[key] = found
            else:
                self._write(self.cache, (key, text, mention.text, found))
        return found

    def _read(self, cache: Path, key: str) -> str | None:
        with self._opened(cache) as connection:
            found = connection.execute("SELECT description FROM descriptions WHERE key = ?", (key,)).fetchone()
        return None if found is None else str(found[0])

    def _write(self, cache: Path, row: tuple[str, ...]) -> None:
        with self._opened(cache) as connection:
            connection.execute("INSERT OR REPLACE INTO descriptions VALUES (?, ?, ?, ?)", row)

    @contextmanager
    def _opened(self, cache: Path) -> Iterator[sqlite3.Connection]:
        """The cache; a forked process opens its own."""
        try:
            if self._connection is None or self._process != os.getpid():
                self._connection = sqlite3.connect(cache, timeout=_WAIT, isolation_level=None, check_same_thread=False)
                self._process = os.getpid()
                self._connection.execute(_SCHEMA)
            yield self._connection
        except sqlite3.Error as reason:
            raise error("E592", path=cache, reason=reason) from reason


def augmenter(
    describe: Describe, join: int = 4, cache: str | Path | None = None, version: str = "", words: int | None = None
) -> Augmenter:
    """Make what adds descriptions to contexts, registered as ``entitykit.Augmenter.v1``; see `Augmenter`."""
    return Augmenter(describe, join=join, cache=cache, version=version, words=words)


def join_description(mention: Mention, description: str, join: int) -> Mention:
    """Join a mention's context and its description.

    Args:
        mention: in its context.
        description: the mention is marked where it is one of its words, or several, and else within a word; if it is not in it
            as it is written, it is put before it, with a colon. Empty: the context stays as it is.
        join: see `JOINS`.
    """
    description = description.strip()
    if not description or not mention.text:
        return mention
    if mention.text not in description:
        description = f"{mention.text}: {description}"
    whole = re.search(rf"(?<!\w){re.escape(mention.text)}(?!\w)", description)
    start = description.index(mention.text) if whole is None else whole.start()
    before, behind = description[:start], description[start + len(mention.text) :]
    original = " ".join(part for part in (mention.left, mention.text, mention.right) if part)
    left, right = {
        0: (before, behind),
        1: (before, f"{behind} {original}"),
        2: (f"{description} {mention.left}", mention.right),
        3: (f"{original} {before}", behind),
        4: (mention.left, f"{mention.right} {description}"),
    }[join]
    return mention._replace(left=left, right=right)
