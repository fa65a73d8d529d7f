"""What words add to a description's score equals what counting all descriptions gives, whatever was written before."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.errors import InputError
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.store_words import _varints
from tests.knowledge.kb import CITIES, build

VOCABULARY = ["paris", "troy", "texas", "prinz", "berg", "x"]


def counted(descriptions: Sequence[str], words: Sequence[str], which: int, k1: float, b: float) -> list[float]:
    """BM25 (Robertson & Zaragoza 2009), word by word, of texts whose words are what stands between spaces."""
    bags = [Counter(text.split()) for text in descriptions]
    mean = sum(bag.total() for bag in bags) / len(bags)
    found = []
    for word in words:
        n, having = bags[which][word], sum(word in bag for bag in bags)
        rarity = max(0.0, math.log((len(bags) - having + 0.5) / (having + 0.5)))
        weight = n + k1 * (1 - b + b * bags[which].total() / mean) if n else 1.0
        found.append(rarity * n * (k1 + 1) / weight)
    return found


TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=9).map(" ".join)


@given(
    built=st.lists(TEXTS, min_size=1, max_size=6),
    added=st.lists(TEXTS, max_size=6),
    updated=TEXTS,
    removed=st.booleans(),
    words=st.lists(st.sampled_from([*VOCABULARY, "nobody"]), max_size=8),
    k1=st.sampled_from([0.0, 1.2, 1.5]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_equals_counting_all(
    built: list[str], added: list[str], updated: str, removed: bool, words: list[str], k1: float, b: float
) -> None:
    """Of a store that was built, added to, changed and taken from; names and aliases have the same words."""
    with tempfile.TemporaryDirectory() as folder:
        texts = dict(enumerate([*built, *added]))
        entities = [Entity(id=str(i), name=f"troy berg {i}", description=text) for i, text in texts.items()]
        with build(Path(folder, "kb"), entities[: len(built)]) as store:
            store.add(entities[len(built) :])
            store.add([Entity(id="0", name="x", description=updated)])
            texts[0] = updated
            if removed and len(texts) > 1:
                store.remove(["1"])
                del texts[1]
            found = store.description_scores([words] * len(texts), store.rows([str(i) for i in texts]), k1=k1, b=b)
    left = list(texts.values())
    assert len(found) == len(left)
    for which, own in enumerate(found):
        assert own.tolist() == pytest.approx(counted(left, words, which, k1, b))


def test_words_in_all_their_forms(tmp_path: Path) -> None:
    with build(tmp_path / "kb", [*CITIES, *(Entity(id=f"N{i}", name="n", description="other") for i in range(9))]) as store:
        rows = store.rows(["Q167646", "Q830149"])
        princes, towns = store.description_scores([["PRINCES", "Trôy", "Prince of Troy", "towns"]] * 2, rows)
        assert princes[0] == princes[1] > 0
        assert princes[2] > princes[0] + princes[1]  # and of
        assert princes[3] == 0
        assert towns.tolist() == [0, 0, pytest.approx(0), pytest.approx(princes[0])]


def test_nothing_and_rows_that_are_not_there(tmp_path: Path) -> None:
    with build(tmp_path / "kb") as store:
        assert store.description_scores([], []) == []
        (found,) = store.description_scores([[]], store.rows(["Q90"]))
        assert (found.dtype, found.shape) == (np.float64, (0,))
        assert store.description_scores([["", "!", "\x00"]], store.rows(["Q90"]))[0].tolist() == [0, 0, 0]
        with pytest.raises(InputError, match="E506"):
            store.description_scores([["x"]], [999])
        store.remove([entity.id for entity in CITIES])
        store.add([Entity(id="one", name="one")])
        assert store.description_scores([["x"]], store.rows(["one"]))[0].tolist() == [0]
        store.add([Entity(id="two", name="two", description="x")])
        assert store.described([*store.rows(["two", "one", "two"]), 999]).tolist() == [True, False, True, False]
        assert store.described([]).tolist() == []


@pytest.mark.parametrize("store_words", [("a b",), ("a " * 200,), ("a " * 20_000, "b")], ids=len)
def test_numbers_of_any_size(tmp_path: Path, store_words: tuple[str, ...]) -> None:
    """The mean length is read whether it takes one byte, two or three."""
    entities = [Entity(id=str(i), name="n", description=text) for i, text in enumerate([*store_words, "c", "", "", ""])]
    with EntityStore.create(tmp_path / "kb") as store:
        store.add(entities)
        (found,) = store.description_scores([["c"]], store.rows([str(len(store_words))]))
    texts = [entity.description for entity in entities]
    assert found.tolist() == pytest.approx(counted(texts, ["c"], len(store_words), 1.5, 0.75))


@pytest.mark.parametrize("numbers", [[0], [1, 127, 128, 16_383, 16_384], [2**56 - 1, 2**56, 2**63, 2**64 - 1, 5]], ids=str)
def test_varints(numbers: list[int]) -> None:
    """Written as SQLite's documentation of its file format says."""
    assert list(_varints(b"".join(map(varint, numbers)))) == numbers


def varint(number: int) -> bytes:
    if number >= 2**56:
        high, last = number >> 8, number & 0xFF
        return bytes(high >> 7 * i & 0x7F | 0x80 for i in range(7, -1, -1)) + bytes([last])
    septets = [number & 0x7F]
    while number := number >> 7:
        septets.append(number & 0x7F | 0x80)
    return bytes(reversed(septets))
