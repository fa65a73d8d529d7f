"""What entities have been called: gathered mention by mention, it is what is computed for all versions at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entitykit.bridge.known_words import KnownWords, Word, said_words
from entitykit.models.coref import _known
from entitykit.models.coref_words import (
    NAMES,
    OTHER_FIRST,
    OTHER_GENDER,
    OTHER_PROPER,
    OTHER_TITLED,
    SAME_FULL,
    SAME_LAST,
    SAME_NAME,
    SAME_WORD,
    SPEAKERS,
    Comparison,
    Words,
    words_of,
)
from entitykit.types import MANS_TITLE, NO_TITLE, WOMANS_TITLE

MR, MRS, ANNA, WESTON, ELTON, JOHN = range(1, 7)
TITLES = {MR: MANS_TITLE, MRS: WOMANS_TITLE}


def words_of_phrases(*phrases: tuple[int, ...]) -> Words:
    """Phrases of names with capitals, one after the other."""
    numbers = [number for phrase in phrases for number in phrase]
    table = torch.tensor([(number, 1, TITLES.get(number, NO_TITLE)) for number in numbers])
    ends = torch.tensor([len(phrase) for phrase in phrases]).cumsum(0)
    starts = ends - torch.tensor([len(phrase) for phrase in phrases])
    return words_of(table, torch.zeros(0, 2, dtype=torch.long), starts, ends)


@pytest.mark.parametrize(
    ("called", "mention", "kind"),
    [
        ((MR, WESTON), (MR, WESTON), SAME_NAME),
        ((MR, WESTON), (WESTON,), SAME_LAST),
        ((MR, WESTON), (MRS, WESTON), OTHER_GENDER),
        ((MRS, WESTON), (MR, WESTON), OTHER_GENDER),
        ((MR, WESTON), (MR, ELTON), OTHER_TITLED),
        ((MR, WESTON), (MR, WESTON, ELTON), SAME_WORD),
        ((MR, WESTON), (MR, ANNA, WESTON), SAME_LAST),
        ((MR, WESTON), (ANNA,), OTHER_PROPER),
        ((ANNA, WESTON), (ANNA,), SAME_WORD),
        ((MRS, WESTON), (ANNA, WESTON), SAME_LAST),
        ((ANNA, WESTON), (JOHN, WESTON), OTHER_FIRST),
        ((ANNA, WESTON), (MRS, WESTON), SAME_LAST),
        ((ANNA, ELTON, WESTON), (ANNA, WESTON), SAME_FULL),
        ((MRS, JOHN, WESTON), (MR, JOHN, WESTON), OTHER_GENDER),
    ],
)
def test_kinds(called: tuple[int, ...], mention: tuple[int, ...], kind: int) -> None:
    entity, own = words_of_phrases(called), words_of_phrases(mention)
    assert NAMES.compare(entity, own).tolist() == [kind]
    known = KnownWords(NAMES)
    known.add(7, *said_words(entity))
    assert known.kinds(*said_words(own), np.array([7])).tolist() == [kind]


def test_what_is_rare_among_an_entitys_mentions_does_not_count() -> None:
    """One *Harriet* that was taken for Emma does not make the next one Emma; *Miss Woodhouse*, a tenth, does."""
    emma, woodhouse, harriet = said_words(words_of_phrases((ANNA,), (MRS, WESTON), (ELTON,)))
    known = KnownWords(NAMES)
    kinds = []
    for n, word in ((1, emma), (1, harriet), (62, emma), (10, woodhouse)):
        for _ in range(n):
            known.add(0, word)
        kinds.append([int(known.kinds(asked, np.array([0]))[0]) for asked in (emma, woodhouse, harriet)])
    assert kinds[1] == [SAME_NAME, OTHER_PROPER, SAME_NAME]  # 1 of 2
    assert kinds[2] == [SAME_NAME, OTHER_PROPER, OTHER_PROPER]  # 1 of 64
    assert kinds[3] == [SAME_NAME, SAME_NAME, OTHER_PROPER]


def test_what_two_titled_names_say_counts_more() -> None:
    """A plain *Weston* that was taken for Mr. Elton does not make Mr. Weston him; if he is called that, too, it does."""
    elton, weston, plain, full = said_words(words_of_phrases((MR, ELTON), (MR, WESTON), (WESTON,), (ANNA, WESTON)))
    known, kinds = KnownWords(NAMES), []
    for word in (elton, plain, full, weston):
        known.add(0, word)
        kinds.append(int(known.kinds(weston, np.array([0]))[0]))
    assert kinds == [OTHER_TITLED, OTHER_TITLED, OTHER_TITLED, SAME_NAME]
    assert known.kinds(plain, np.array([0])).tolist() == [SAME_NAME]


@given(data=st.data())
def test_mention_by_mention_as_all_at_once(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 12), label="mentions")
    numbers = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    words = Words(*(torch.tensor(data.draw(numbers, label=part)) for part in Words._fields))
    entities = torch.tensor(data.draw(numbers, label="entities"))
    for by in (NAMES._replace(rare=2), NAMES, SPEAKERS):
        _check(by, words, entities)


def _check(by: Comparison, words: Words, entities: torch.Tensor) -> None:
    expected, known, latest = _known(by, words, entities), KnownWords(by), dict[int, int]()
    for row, (word, entity) in enumerate(zip(said_words(words), entities.tolist(), strict=True)):
        cells = np.array(sorted(latest), dtype=np.int64)
        wanted = [int(expected[row, latest[cell]]) for cell in cells.tolist()]
        assert known.kinds(word, cells).tolist() == wanted
        assert {cell for cell, kind in zip(cells.tolist(), wanted, strict=True) if kind >= SAME_WORD} <= known.alike(
            word, SAME_WORD
        )
        known.add(entity, word)
        latest[entity] = row


def test_a_number_that_is_given_to_another_entity() -> None:
    anna, elton = said_words(words_of_phrases((ANNA,), (ELTON,)))
    known = KnownWords(NAMES)
    known.add(0, anna)
    known.add(1, anna)
    known.forget(0)
    known.add(0, elton)
    assert known.kinds(anna, np.array([0, 1])).tolist() == [OTHER_PROPER, SAME_NAME]
    known.forget(0)
    known.forget(1)
    known.forget(1)
    assert known.alike(anna, SAME_WORD) == set()
    assert not any(known._tables.values())


def test_parts_are_those_of_words() -> None:
    assert Word._fields == Words._fields
    assert all(part in Words._fields for by in (NAMES, SPEAKERS) for way in by.ways for part in way[1:])
