"""What searching finds equals what comparing with every entity finds, and no text breaks it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.errors import InputError
from entitykit.knowledge import store_search
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.text import dice, grams, normalise
from tests.knowledge.kb import CITIES, TEXTS, build

VOCABULARY = ["paris", "troy", "texas", "prinz", "stadt", "fluss", "turm", "berg", "garten", "haus", "x"]
N = 300


def make_entities() -> list[Entity]:
    """Entities of few words, some of them common."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, len(VOCABULARY) + 1)

    def words(n: int) -> str:
        return " ".join(rng.choice(VOCABULARY, p=share / share.sum(), size=n))

    return [
        Entity(
            id=f"Q{i}",
            name=words(1 + i % 2),
            aliases=tuple(Alias(words(2), int(rng.integers(5))) for _ in range(i % 3)),
            description=words(i % 7),
            count=i % 11,
        )
        for i in range(N)
    ]


ENTITIES = make_entities()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EntityStore]:
    """Built from some, others added, some updated, some removed."""
    with build(tmp_path_factory.mktemp("search") / "kb", ENTITIES[: N // 2]) as store:
        store.add([*ENTITIES[N // 2 :], Entity(id="gone", name="paris troy", description="paris")], batch_size=40)
        store.add(ENTITIES[:50])
        store.remove(["gone"])
        yield store


def bm25(entities: Sequence[Entity], query: str) -> dict[str, float]:
    """The formula of SQLite's documentation: BM25 with k1 = 1.2, b = 0.75, and frequencies weighted by the field."""
    weighted: list[Counter[str]] = []
    lengths = []
    for entity in entities:
        others = [alias.text for alias in entity.names()[1:]]
        counts: Counter[str] = Counter()
        fields = (entity.name.split(), " ".join(others).split(), entity.description.split())
        for weight, words in zip(store_search.WEIGHTS, fields, strict=True):
            for word in words:
                counts[word] += weight
        weighted.append(counts)
        lengths.append(sum(map(len, fields)))
    average = sum(lengths) / len(lengths)
    scores: dict[str, float] = {}
    for word in query.split():
        n_having = sum(word in counts for counts in weighted)
        idf = max(math.log((len(entities) - n_having + 0.5) / (n_having + 0.5)), 1e-6)
        for entity, counts, length in zip(entities, weighted, lengths, strict=True):
            if word in counts:
                part = counts[word] * 2.2 / (counts[word] + 1.2 * (0.25 + 0.75 * length / average))
                scores[entity.id] = scores.get(entity.id, 0.0) + idf * part
    return scores


@pytest.mark.parametrize("query", ["troy", "turm garten", "paris troy x haus", " ".join(VOCABULARY)])
def test_words_are_scored_by_bm25(store: EntityStore, query: str) -> None:
    wanted = bm25(ENTITIES, query)
    found = store.by_words(query, N)
    assert {match.id: match.score for match in found} == pytest.approx(wanted)
    assert [match.score for match in found] == pytest.approx(sorted(wanted.values(), reverse=True))
    assert store.ids([match.row for match in found]) == [match.id for match in found]
    assert store.by_words(query, 3) == found[:3]


def test_rare_words_find_and_common_ones_only_score(store: EntityStore) -> None:
    """Entities with the rare words have the same scores as ever; the others are not looked at."""
    n_rare = len(bm25(ENTITIES, "haus"))
    common = len(bm25(ENTITIES, "paris"))
    found = store.by_words("paris haus", N, postings=n_rare)
    every = {match.id: match.score for match in store.by_words("paris haus", N)}
    assert common > n_rare
    assert {match.id for match in found} == bm25(ENTITIES, "haus").keys()
    assert {match.id: match.score for match in found} == pytest.approx({match.id: every[match.id] for match in found})
    assert len(store.by_words("paris", N, postings=1)) == common  # one word at least


@pytest.mark.parametrize("postings", [1, 5_000])
def test_words_of_chosen_entities(store: EntityStore, postings: int) -> None:
    """Their scores are those of a search that finds all, and of the formula; who has none of the words is left out."""
    rows = store.rows([entity.id for entity in ENTITIES]).tolist()
    searched = {match.row: match.score for match in store.by_words("troy haus", N, postings=postings)}
    found = store.word_scores("troy haus", rows[:99], postings=postings)
    assert {row: found[row] for row in searched if row in found} == pytest.approx(
        {row: score for row, score in searched.items() if row in rows[:99]}
    )
    query = "haus" if postings == 1 else "troy haus"  # with so few, the common word is left out
    wanted = dict(zip(rows, (bm25(ENTITIES, query).get(entity.id) for entity in ENTITIES), strict=True))
    assert found == pytest.approx({row: wanted[row] for row in rows[:99] if wanted[row] is not None})
    assert store.word_scores("troy", []) == store.word_scores("", rows) == store.word_scores("nobody", rows) == {}


def test_words_in_all_their_forms(tmp_path: Path) -> None:
    with build(tmp_path / "kb", CITIES) as store:
        for query, id_ in (
            ("the princes", "Q167646"),
            ("TÉXAS towns", "Q830149"),
            ("alexandros'", "Q167646"),
            ("paname", "Q90"),
        ):
            assert store.by_words(query, 1)[0].id == id_


def fuzzy(entities: Sequence[Entity], text: str, least: float) -> dict[str, float]:
    """The best similarity of each entity, compared one by one."""
    wanted = grams(normalise(text))
    best = {e.id: max(dice(wanted, grams(normalise(alias.text))) for alias in e.names()) for e in entities}
    return {id_: similarity for id_, similarity in best.items() if similarity >= least}


@given(
    text=st.one_of(st.sampled_from(TEXTS), st.text(alphabet="paristroyx ", max_size=14)),
    least=st.sampled_from([0.01, 0.2, 0.5, 0.8, 1.0]),
    limit=st.sampled_from([1, 3, 1000]),
    looked_up=st.sampled_from([0, 30, 10**6]),
    fetched=st.sampled_from([1, 7, 500]),
)
def test_similar_names_are_those_of_a_full_comparison(
    store: EntityStore, text: str, least: float, limit: int, looked_up: int, fetched: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store_search, "_LOOKED_UP", looked_up)
        patch.setattr(store_search, "_FETCHED", fetched)
        found = store.by_ngrams(text, limit, least=least)
    wanted = fuzzy(ENTITIES, text, least)
    assert [match.similarity for match in found] == pytest.approx(sorted(wanted.values(), reverse=True)[:limit])
    assert all(wanted[match.id] == pytest.approx(match.similarity) for match in found)
    assert len({match.row for match in found}) == len(found)


def test_of_equally_similar_names_the_more_frequent_is_first(tmp_path: Path) -> None:
    with build(tmp_path / "kb", CITIES) as store:
        assert [match.id for match in store.by_ngrams("Parris", 9)] == ["Q90", "Q830149", "Q167646"]
        assert [match.id for match in store.by_ngrams("Parris", 1)] == ["Q90"]


@given(st.one_of(st.text(), st.text(alphabet="\"'*^:()-+{}~NEAROT \x00\ud800a", max_size=20), st.sampled_from(TEXTS)))
def test_any_text_can_be_looked_up(store: EntityStore, text: str) -> None:
    assert len(store.by_alias(text)) <= N
    assert len(store.by_alias(text, normalised=False)) <= N
    assert len(store.by_words(text, 5)) <= 5
    assert len(store.by_ngrams(text, 5)) <= 5
    assert store.rows([text]).tolist() == [-1]
    assert store.entity(text) is None
    assert text not in store


def test_a_book_as_query(store: EntityStore) -> None:
    words = " ".join(f"word{i}" for i in range(20_000))
    assert [match.id for match in store.by_words(f"{words} haus", 5)] == [match.id for match in store.by_words("haus", 5)]
    assert store.by_ngrams(words, 5) == []
    assert store.by_alias(words) == []


def test_names_by_prior_then_by_popularity(tmp_path: Path) -> None:
    twins = [Entity(id="a", name="twin", count=1), Entity(id="b", name="Twin", count=5), Entity(id="c", name="twin")]
    with build(tmp_path / "kb", twins) as store:
        assert [(match.id, match.prior, match.popularity) for match in store.by_alias("TWIN")] == [
            ("b", pytest.approx(1 / 3), 5),
            ("a", pytest.approx(1 / 3), 1),
            ("c", pytest.approx(1 / 3), 0),
        ]
        assert [(match.id, match.prior) for match in store.by_alias("twin", normalised=False)] == [("a", 0.5), ("c", 0.5)]
        rows = store.rows(["a", "b", "c"]).tolist()
        assert store.priors(["twin", "TWIN"], [rows, rows], normalised=False) == [{rows[0]: 0.5, rows[2]: 0.5}, {}]
        assert store.by_alias_batch(["Twin", "other", "twin"], normalised=False) == [
            store.by_alias("Twin", normalised=False),
            [],
            store.by_alias("twin", normalised=False),
        ]
        assert store.by_alias_batch([]) == []


@given(texts=st.lists(st.one_of(st.sampled_from([*TEXTS, "paris", "Troy troy", "haus"]), st.text(max_size=4)), max_size=4))
def test_priors_are_those_of_all_namesakes(store: EntityStore, texts: list[str]) -> None:
    rows = np.arange(0, N, 7).tolist()
    for normalised in (True, False):
        named = store.by_alias_batch(texts, normalised=normalised)
        wanted = [{match.row: match.prior for match in own if match.row in rows} for own in named]
        assert store.priors(texts, [rows] * len(texts), normalised=normalised) == [pytest.approx(each) for each in wanted]


def test_names_that_were_never_counted(tmp_path: Path) -> None:
    unseen = [Entity(id=id_, name="zero", aliases=(Alias("zero", 0),)) for id_ in "ab"]
    with build(tmp_path / "kb", unseen) as store:
        assert [(match.prior, match.count) for match in store.by_alias("zero")] == [(0.5, 0), (0.5, 0)]
        (row, _) = store.rows(["a", "b"]).tolist()
        assert store.priors(["ZERO", "one", "zero"], [[row, 99], [row], []]) == [{row: 0.5}, {}, {}]


def test_options_that_cannot_be(store: EntityStore) -> None:
    for call in (lambda: store.by_words("x", 0), lambda: store.by_ngrams("x", -1), lambda: store.by_ngrams("x", 1, least=0)):
        with pytest.raises(InputError, match=r"\[E507\] The option (limit|least) is (0|-1); expected"):
            call()
