from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.corpora.brackets import Cell, EntityMention, read_header, read_mentions
from entitykit.errors import CorpusError

HEADER = read_header("GRP-etype-link", where="line 1")


def read(*cells: str) -> list[EntityMention]:
    """Read one cell per word; an empty one has no brackets."""
    return read_mentions(HEADER, [Cell(text, i, i + 1, f"line {i}") for i, text in enumerate(cells)])


def spans(*cells: str) -> list[tuple[int, int, str, str]]:
    return [mention[:4] for mention in read(*cells)]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ((), []),
        (("", ""), []),
        (("(1-person)",), [(0, 1, "1", "person")]),
        (("(1-person", "", "1)"), [(0, 3, "1", "person")]),
        (("(1-person(2-place", "(3-time)2)", "1)"), [(0, 3, "1", "person"), (0, 2, "2", "place"), (1, 2, "3", "time")]),
        (("(1-person(2-place)", "1)(3-time)"), [(0, 2, "1", "person"), (0, 1, "2", "place"), (1, 2, "3", "time")]),
        # Crossing, and a mention of an entity inside another mention of it: the inner one closes first.
        (("(1-a", "(2-b", "1)", "2)"), [(0, 3, "1", "a"), (1, 4, "2", "b")]),
        (("(1-a", "(1-b", "1)", "1)"), [(0, 4, "1", "a"), (1, 3, "1", "b")]),
        (("(1-a)(2-b)",), [(0, 1, "1", "a"), (0, 1, "2", "b")]),
    ],
)
def test_brackets(cells: tuple[str, ...], expected: list[tuple[int, int, str, str]]) -> None:
    assert spans(*cells) == expected


def test_fields_keep_hyphens_in_the_last_one() -> None:
    (mention,) = read("(1-person-coref-x%28y%29-z)")
    assert mention.fields == {"GRP": "1", "etype": "person", "link": "coref-x%28y%29-z"}


def test_the_header_gives_the_order() -> None:
    header = read_header("infstat-etype-eid", where="line 1")
    (mention,) = read_mentions(header, [Cell("(new-person-e7", 0, 1, ""), Cell("e7)", 1, 2, "")])
    assert (mention.group, mention.label, mention.fields["infstat"]) == ("e7", "person", "new")


def test_discontinuous_mentions_become_one() -> None:
    (first, second) = read("(1[1/2]-person-x", "1[1/2])", "(2-time)", "(1[2/2]-person)")
    assert first[:4] == (0, 4, "1", "person")
    assert first.pieces == [[0, 2], [3, 4]]
    assert first.fields == {"GRP": "1", "etype": "person", "link": "x"}
    assert (second[:4], second.pieces) == ((2, 3, "2", "time"), [])


def test_later_pieces_need_no_fields() -> None:
    assert spans("(1[1/3]-a)", "", "(1[2/3])", "", "(1[3/3])") == [(0, 5, "1", "a")]


def test_empty_nodes_have_no_width() -> None:
    cells = [Cell("(1-a)", 0, 0, ""), Cell("(2-b", 0, 0, ""), Cell("2)", 0, 1, "")]
    assert [mention[:4] for mention in read_mentions(HEADER, cells)] == [(0, 1, "2", "b"), (0, 0, "1", "a")]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (("(1-a", ""), r"line 0: the entity bracket '\(1' does not fit: it is never closed"),
        (("", "1)"), r"line 1: .*'1\)' .*nothing of that group is open"),
        (("(1-a)", "1)"), r"line 1: .*nothing"),
        (("(1-a", "2)"), r"line 1: .*'2\)'"),
        (("1",), "line 0: .*'1' .*this is no bracket"),
        (("()",), "this is no bracket"),
        (("(1-a))",), "this is no bracket"),
        (("(1-a)x",), "'x' .*this is no bracket"),
        (("(1)",), "it has no entity type"),
        (("(1--x)",), "it has no entity type"),
        (("(1[1/2]-a)",), "its other pieces are missing"),
        (("(1[2/2]-a)",), "piece 1 was expected"),
        (("(1[1/3]-a)", "(1[3/3]-a)"), "piece 2 was expected"),
    ],
)
def test_malformed(cells: tuple[str, ...], reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[E222\] .*{reason}"):
        read(*cells)


@pytest.mark.parametrize("header", ["", "GRP", "etype-link", "GRP-infstat"])
def test_headers_without_group_or_type(header: str) -> None:
    with pytest.raises(CorpusError, match=r"\[E221\] line 1: .*expected GRP or eid and etype or entity"):
        read_header(header, where="line 1")


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)).map(sorted), max_size=6))
def test_written_brackets_are_read_back(spans: list[list[int]]) -> None:
    mentions = sorted((start, -last, str(group)) for group, (start, last) in enumerate(spans))
    cells = [""] * 8
    for start, negative, group in mentions:
        cells[start] += f"({group}-a)" if start == -negative else f"({group}-a"
    for start, negative, group in sorted(mentions, key=lambda mention: (mention[1], -mention[0])):
        if start != -negative:
            # Closing brackets of longer mentions stand before what opens at that word.
            cells[-negative] = f"{group}){cells[-negative]}"
    expected = [(start, 1 - negative, group) for start, negative, group in mentions]
    assert sorted(mention[:3] for mention in read(*cells)) == sorted(expected)
