"""Look entities up by names, words and trigrams; every function reads one state through the connection that it is given."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Sequence
from heapq import nsmallest
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.knowledge.store_read import ids_of
from entitykit.knowledge.store_words import cut_texts
from entitykit.knowledge.store_write import dumps
from entitykit.knowledge.text import dice, fold, grams, normalise

WEIGHTS = (4.0, 2.0, 1.0)
"""Of words in the name, in aliases and in the description; see BM25F (Robertson et al. 2004)."""

_WORD = re.compile(r"[^\W_]+")
_SCORED = 20  # times as many entities may have the words that only score
_FETCHED = 500  # phrases whose similarity is computed at once
_LOOKED_UP = 200_000  # so many phrases of trigrams are faster to count than to compare


class AliasMatch(NamedTuple):
    """An entity with a certain name.

    Attributes:
        row: of the entity.
        id: of the entity.
        prior: p(entity | name): the share of the name's count that is this entity's; equal shares if nothing was counted.
        count: how often the name names this entity.
        popularity: the entity's own count.
    """

    row: int
    id: str
    prior: float
    count: int  # type: ignore[assignment]  # hides tuple.count
    popularity: int


class TextMatch(NamedTuple):
    """An entity whose name, aliases or description share words with a query; a higher BM25 score is better."""

    row: int
    id: str
    score: float


class FuzzyMatch(NamedTuple):
    """An entity with a name like a certain one; `similarity` is Dice's of their trigrams, from 0 to 1."""

    row: int
    id: str
    similarity: float


class Links(NamedTuple):
    """How often a phrase names any entity, and how often it occurs in text, where that was counted."""

    linked: int
    total: int | None


def by_alias(connection: sqlite3.Connection, texts: Sequence[str], *, normalised: bool) -> list[list[AliasMatch]]:
    """Find entities by names; see `EntityStore.by_alias`."""
    query = f"""SELECT j.key, a.row, e.id, a.count, e.count, {"''" if normalised else "a.text"} FROM json_each(?) AS j
        CROSS JOIN phrases AS p ON p.key = j.value CROSS JOIN aliases AS a ON a.phrase = p.phrase
        CROSS JOIN entities AS e ON e.row = a.row"""
    found: list[dict[int, AliasMatch]] = [{} for _ in texts]
    for i, row, id_, n, popularity, text in connection.execute(query, (dumps(map(normalise, texts)),)):
        if normalised or text == texts[i]:
            before = found[i][row].count if row in found[i] else 0
            found[i][row] = AliasMatch(row, id_, 0.0, before + n, popularity)
    return [_ranked(matches.values()) for matches in found]


def priors(
    connection: sqlite3.Connection, texts: Sequence[str], rows: Sequence[Sequence[int]], *, normalised: bool
) -> list[dict[int, float]]:
    """p(entity | name) of some entities of each name; see `EntityStore.priors`."""
    if not normalised:
        named = by_alias(connection, texts, normalised=False)
        wanted = map(frozenset, rows)
        return [{m.row: m.prior for m in own if m.row in asked} for own, asked in zip(named, wanted, strict=True)]
    query = """SELECT j.key, p.phrase, sum(a.count), count(DISTINCT a.row) FROM json_each(?) AS j
        CROSS JOIN phrases AS p ON p.key = j.value CROSS JOIN aliases AS a ON a.phrase = p.phrase GROUP BY j.key"""
    keys = list(map(normalise, texts))
    different = list(dict.fromkeys(keys))
    totals = {different[i]: found for i, *found in connection.execute(query, (dumps(different),))}
    asked = {(totals[key][0], row) for key, own in zip(keys, rows, strict=True) if key in totals for row in own}
    query = """SELECT a.phrase, a.row, sum(a.count) FROM json_each(?) AS j CROSS JOIN aliases AS a
        ON a.phrase = json_extract(j.value, '$[0]') AND a.row = json_extract(j.value, '$[1]') GROUP BY a.phrase, a.row"""
    counts = {(phrase, row): n for phrase, row, n in connection.execute(query, (dumps(sorted(asked)),))}
    found: list[dict[int, float]] = []
    for key, own in zip(keys, rows, strict=True):
        phrase, total, n = totals.get(key, (None, 0, 0))
        known = {row: counts[phrase, row] for row in own if (phrase, row) in counts}
        found.append({row: count / total if total else 1 / n for row, count in known.items()})
    return found


def links(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, Links]:
    """How often phrases, normalised, name entities and occur; those that are no alias are left out."""
    query = """SELECT p.key, sum(a.count), t.total FROM json_each(?) AS j CROSS JOIN phrases AS p ON p.key = j.value
        CROSS JOIN aliases AS a ON a.phrase = p.phrase LEFT JOIN totals AS t ON t.key = p.key GROUP BY p.phrase"""
    return {key: Links(linked, total) for key, linked, total in connection.execute(query, (dumps(keys),))}


def next_keys(connection: sqlite3.Connection, keys: Iterable[str]) -> dict[str, str | None]:
    """The first alias, normalised, that is not before each key in the order of their characters."""
    query = "SELECT value, (SELECT key FROM phrases WHERE key >= value ORDER BY key LIMIT 1) FROM json_each(?)"
    return dict(connection.execute(query, (dumps(keys),)))


def by_words(connection: sqlite3.Connection, query: str, limit: int, *, postings: int) -> list[TextMatch]:
    """Find entities by words; see `EntityStore.by_words`."""
    rare, common = _split_words(connection, query, postings)
    if not rare:
        return []
    scores = _bm25(connection, _any(rare))
    if common:  # which cannot find, only score: their part is what the words together have beyond the rare ones twice
        together = _bm25(connection, f"({_any(rare)}) AND ({_any([*rare, *common])})")
        scores = {row: together[row] - score for row, score in scores.items()}
    best = nsmallest(limit, ((score, row) for row, score in scores.items()))
    ids = ids_of(connection, [row for _, row in best])
    return [TextMatch(row, ids[row], -score) for score, row in best]


def word_scores(connection: sqlite3.Connection, query: str, rows: Sequence[int], *, postings: int) -> dict[int, float]:
    """Scores of some entities by words; see `EntityStore.word_scores`."""
    words = [word for words in _split_words(connection, query, postings) for word in words]
    scores = _bm25(connection, _any(words), rows) if words else {}
    return {row: -score for row, score in scores.items()}


def by_ngrams(connection: sqlite3.Connection, text: str, limit: int, *, least: float) -> list[FuzzyMatch]:
    """Find entities by names like a text; see `EntityStore.by_ngrams`.

    A name whose similarity is s or more shares at least s / (2 - s) of the text's n trigrams, say m. So it has some of any
    n - m + 1, and the most common ones need not be looked up. Phrases that share most are compared first.
    """
    wanted = grams(normalise(text))
    if not wanted:
        return []
    needed = max(1, int(np.ceil(least / (2 - least) * len(wanted) - 1e-9)))
    looked_up = _rarest(connection, wanted, len(wanted) - needed + 1)
    left_out = len(wanted) - len(looked_up)
    phrases, n_found = np.unique(np.concatenate([_having(connection, gram) for gram in looked_up]), return_counts=True)
    order = np.argsort(-n_found, kind="stable")[: int((n_found >= needed - left_out).sum())]
    best: dict[int, tuple[float, int, FuzzyMatch]] = {}
    worst = least
    for start in range(0, len(order), _FETCHED):
        block = order[start : start + _FETCHED]
        shared = int(n_found[block[0]]) + left_out
        if 2 * shared / (len(wanted) + shared) < worst:
            break
        for phrase, similarity in _compare(connection, phrases[block], wanted, worst):
            for row, id_, n in _named(connection, phrase, limit):
                candidate = (-similarity, -n, FuzzyMatch(row, id_, similarity))
                best[row] = min(best.get(row, candidate), candidate)
        if len(best) >= limit:
            worst = -nsmallest(limit, best.values())[-1][0]
    return [match for _, _, match in nsmallest(limit, best.values())]


def _ranked(matches: Iterable[AliasMatch]) -> list[AliasMatch]:
    found = list(matches)
    total = sum(match.count for match in found)
    priors = [match.count / total if total else 1 / len(found) for match in found]
    ranked = [match._replace(prior=prior) for match, prior in zip(found, priors, strict=True)]
    return sorted(ranked, key=lambda match: (-match.prior, -match.popularity, match.row))


def _split_words(connection: sqlite3.Connection, query: str, postings: int) -> tuple[list[str], list[str]]:
    """Words of a query from the rarest on: those that find entities, at least one, and those that only score them."""
    words = list(dict.fromkeys(_WORD.findall(fold(query))))
    counts = _entities_with(connection, words)
    order = np.argsort(counts, kind="stable")
    summed = np.cumsum(counts[order])
    n_rare = max(1, int((summed <= postings).sum()))
    n_words = max(n_rare, int((summed <= _SCORED * postings).sum()))
    return [words[i] for i in order[:n_rare]], [words[i] for i in order[n_rare:n_words]]


def _any(words: Iterable[str]) -> str:
    """A query for any of some words, which hold letters and digits only."""
    return " OR ".join(f'"{word}"' for word in words)


def _bm25(connection: sqlite3.Connection, match: str, rows: Sequence[int] | None = None) -> dict[int, float]:
    """Minus the score of every row, or of every one of `rows`, that matches."""
    rank = f"bm25(words, {', '.join(map(str, WEIGHTS))})"
    if rows is None:
        return dict(connection.execute(f"SELECT rowid, {rank} FROM words WHERE words MATCH ?", (match,)))
    # + keeps SQLite from looking the words up once for each row
    query = f"SELECT rowid, {rank} FROM words WHERE words MATCH ? AND +rowid IN (SELECT value FROM json_each(?))"
    return dict(connection.execute(query, (match, dumps(rows))))


def _entities_with(connection: sqlite3.Connection, words: Sequence[str]) -> NDArray[np.int64]:
    """How many entities have each word, as the index counts it: with other forms of the word, without diacritics."""
    cut = cut_texts(connection, words)
    select = "SELECT value, (SELECT doc FROM word_counts WHERE term = value) AS n FROM json_each(?) WHERE n NOT NULL"
    having = dict(connection.execute(select, (dumps({term for own in cut for term in own}),)))
    return np.array([sum(having.get(term, 0) for term in own) for own in cut], dtype=np.int64)


def _rarest(connection: sqlite3.Connection, wanted: frozenset[str], least: int) -> list[str]:
    """The rarest trigrams: at least so many, and more as long as few phrases have them."""
    select = "SELECT value, coalesce((SELECT doc FROM gram_counts WHERE term = value), 0) FROM json_each(?)"
    counts = dict(connection.execute(select, (dumps(wanted),)))
    rarest = sorted(wanted, key=lambda gram: (counts[gram], gram))
    n_phrases = np.cumsum([counts[gram] for gram in rarest])
    return rarest[: max(least, int((n_phrases <= _LOOKED_UP).sum()))]


def _compare(
    connection: sqlite3.Connection, phrases: NDArray[np.int64], wanted: frozenset[str], least: float
) -> list[tuple[int, float]]:
    """Phrases whose similarity is at least so high."""
    query = "SELECT p.phrase, p.key FROM json_each(?) AS j CROSS JOIN phrases AS p ON p.phrase = j.value"
    keys = connection.execute(query, (dumps(phrases.tolist()),)).fetchall()
    found = [(phrase, dice(wanted, grams(key))) for phrase, key in keys]
    return [(phrase, similarity) for phrase, similarity in found if similarity >= least]


def _named(connection: sqlite3.Connection, phrase: int, limit: int) -> list[tuple[int, str, int]]:
    """Row, id and count of the entities that a phrase names most often."""
    query = """SELECT a.row, e.id, max(a.count) AS n FROM aliases AS a CROSS JOIN entities AS e ON e.row = a.row
        WHERE a.phrase = ? GROUP BY a.row ORDER BY n DESC, a.row LIMIT ?"""
    return connection.execute(query, (phrase, limit)).fetchall()


def _having(connection: sqlite3.Connection, gram: str) -> NDArray[np.int64]:
    """Phrases that have a trigram."""
    quoted = '"' + gram.replace('"', '""') + '"'
    # As one text, because SQLite writes it several times faster than Python takes rows.
    ((found,),) = connection.execute("SELECT group_concat(rowid) FROM grams WHERE grams MATCH ?", (quoted,))
    return np.fromstring(found or "", dtype=np.int64, sep=",")
