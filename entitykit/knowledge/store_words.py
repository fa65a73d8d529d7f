"""What single words say of an entity's description: their parts of its BM25 score (Robertson & Zaragoza 2009).

Words are cut as the index of words cuts them, and counted by it: how many descriptions have a word, and how long descriptions
are on average, is looked up and not computed anew.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.schema import DESCRIPTION_COUNTS, QUERY_TABLES
from entitykit.knowledge.store_write import dumps

K1 = 1.5
B = 0.75

_AVERAGES = 1
"""Id of the record of an FTS5 table that has its number of rows, and of the words in each column (SQLite's FTS5, 9.2.3)."""


def cut_texts(connection: sqlite3.Connection, texts: Iterable[str]) -> list[list[str]]:
    """The words of texts as the index has them: in lower case, without diacritics and endings; in no certain order."""
    texts = list(texts)
    for table in QUERY_TABLES:
        connection.execute(table)
    connection.execute("SAVEPOINT query")
    connection.executemany("INSERT INTO temp.query (rowid, text) VALUES (?, ?)", enumerate(texts))
    found: list[list[str]] = [[] for _ in texts]
    for i, term in connection.execute("SELECT doc, term FROM temp.query_terms"):
        found[i].append(term)
    connection.execute("ROLLBACK TO query")
    connection.execute("RELEASE query")
    return found


def description_scores(
    connection: sqlite3.Connection,
    words: Sequence[Sequence[str]],
    rows: Sequence[int],
    descriptions: Mapping[int, str],
    *,
    k1: float,
    b: float,
) -> list[NDArray[np.float64]]:
    """What each word adds to the score of a description; see `StoreReader.description_scores`.

    Args:
        connection: to the store.
        words: some for each entity.
        rows: of the entities.
        descriptions: by row.
        k1: see there.
        b: see there.
    """
    different = list(dict.fromkeys(word for own in words for word in own))
    cut = cut_texts(connection, [*different, *descriptions.values()])
    terms = dict(zip(different, cut, strict=False))
    counts = {row: Counter(own) for row, own in zip(descriptions, cut[len(different) :], strict=True)}
    shared = {term for own, row in zip(words, rows, strict=True) for word in own for term in terms[word] if term in counts[row]}
    rarity, mean = _rarity(connection, shared), _mean_length(connection)
    found = []
    for own, row in zip(words, rows, strict=True):
        here = counts[row]
        room = k1 * (1 - b + b * here.total() / mean) if here else 0.0
        parts = {term: rarity[term] * n * (k1 + 1) / (n + room) for term, n in here.items() if term in rarity}
        scores = (sum(parts.get(term, 0.0) for term in dict.fromkeys(terms[word])) for word in own)
        found.append(np.fromiter(scores, dtype=np.float64, count=len(own)))
    return found


def _rarity(connection: sqlite3.Connection, terms: Iterable[str]) -> dict[str, float]:
    """The inverse frequency of words among descriptions; 0 of those that half of them have, or more."""
    connection.execute(DESCRIPTION_COUNTS)
    n = _averages(connection)[0]
    query = "SELECT term, doc FROM json_each(?) CROSS JOIN temp.description_counts ON term = value WHERE col = 'description'"
    found = connection.execute(query, (dumps(terms),))
    return {term: max(0.0, math.log((n - having + 0.5) / (having + 0.5))) for term, having in found}


def _mean_length(connection: sqlite3.Connection) -> float:
    """Words of a description, on average."""
    n, _, _, words = _averages(connection)
    return words / n if n else 0.0


def _averages(connection: sqlite3.Connection) -> list[int]:
    """How many entities there are, and how many words their names, aliases and descriptions have together."""
    ((block,),) = connection.execute("SELECT block FROM words_data WHERE id = ?", (_AVERAGES,))
    return list(_varints(block))


def _varints(block: bytes) -> Iterator[int]:
    """Whole numbers of 64 bits, seven bits a byte; the highest bit says that there is more, but for the ninth byte."""
    value = n_read = 0
    for byte in block:
        n_read += 1
        if n_read == 9:
            value, more = value << 8 | byte, False
        else:
            value, more = value << 7 | byte & 0x7F, bool(byte & 0x80)
        if not more:
            yield value
            value = n_read = 0
