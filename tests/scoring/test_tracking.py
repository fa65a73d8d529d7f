"""ProPara's measures by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.errors import InputError
from entitykit.scoring.spans import PRF
from entitykit.scoring.tracking import (
    Conversion,
    Event,
    find_conversions,
    find_events,
    is_place,
    score_documents,
    score_sentences,
)

# Ice melts in the cave at step 2, the water flows to the lake at step 3; steam that was there is gone at step 4.
GOLD = {
    "ice": ["cave", "cave", "-", "-", "-"],
    "water ; meltwater": ["-", "-", "cave", "lake", "lake"],
    "steam": ["?", "?", "?", "?", "-"],
    "rock": ["cave"] * 5,
}
# Ice melts a step late and in the lake, water appears there at the right time and moves elsewhere, steam stays, rock moves.
PREDICTED = {
    "ice": ["cave", "cave", "lake", "-", "-"],
    "water ; meltwater": ["-", "-", "the caves", "?", "?"],
    "steam": ["?", "?", "?", "?", "?"],
    "rock": ["cave", "cave", "cave", "cave", "lake"],
}


def test_events() -> None:
    assert find_events(["-", "?", "cave", "cave", "-"]) == [
        Event("create", 1, "-", "?"),
        Event("move", 2, "?", "cave"),
        Event("destroy", 4, "cave", "-"),
    ]
    assert find_events(["?"]) == find_events([]) == []


def test_sentences_by_hand() -> None:
    scores = score_sentences([GOLD], [PREDICTED])
    # The rock never changes in gold, so that nothing is asked about it.
    assert scores.questions == {
        1: 1.0,  # only the water is created
        2: 1.0,  # at step 2
        3: 0.0,  # "the caves" is no part of "cave"
        4: pytest.approx(2 / 3),  # ice is destroyed, water is not, steam is missed
        5: 0.0,  # ice at 3 in the place of 2, steam never
        6: 1.0,  # before step 2 the ice is in the cave; gold does not know where the steam was
        7: pytest.approx(2 / 3),  # the ice does not move
        8: 1.0,  # the water at step 3
        9: 0.0,  # from "the caves"
        10: 0.0,  # to an unknown place
    }
    assert scores.cat1 == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    assert scores.cat2 == pytest.approx((1 + 0 + 1) / 3)
    assert scores.cat3 == pytest.approx(1 / 4)
    assert scores.cat1 is not None
    assert scores.macro == pytest.approx((scores.cat1 + 2 / 3 + 1 / 4) / 3)
    assert scores.micro == pytest.approx((750 * scores.cat1 + 601 * 2 / 3 + 823 / 4) / (750 + 601 + 823))


def test_moves_by_f1() -> None:
    gold = {"a": ["x", "y", "z", "z", "x"]}
    predicted = {"a": ["x", "y", "y", "z", "x"]}  # steps 1, 3, 4 for 1, 2, 4
    assert score_sentences([gold], [predicted]).questions[8] == pytest.approx(2 / 3)


def test_no_change_is_no_question() -> None:
    scores = score_sentences([{"a": ["x", "x"]}, {}], [{"a": ["x", "y"]}, {}])
    assert scores[:5] == (None,) * 5
    assert set(scores.questions.values()) == {None}


@pytest.mark.parametrize(
    ("found", "wanted", "is_right"),
    [
        ("rock", "the rocks", True),
        ("the rocks", "rock", False),
        ("lakes", "Lake", True),
        ("lake", "snowflake", False),
        ("?", "?", True),
    ],
)
def test_places(found: str, wanted: str, is_right: bool) -> None:
    assert is_place(found, wanted) is is_right


def test_documents_by_hand() -> None:
    scores = score_documents([GOLD], [PREDICTED])
    # Inputs: ice and steam; ice was predicted to move before, which does not matter, but not steam.
    assert scores.inputs == PRF(1.0, 0.5, pytest.approx(2 / 3), 1)
    # Outputs: water.
    assert scores.outputs == PRF(1.0, 1.0, 1.0, 1)
    # Conversions: ice to water in the cave at step 2. Predicted: created at 2, destroyed at 3, so at step 2, in "the caves" and
    # the lake: places 1 of 2, both participants right: (1/2 + 1 + 1) / 3.
    assert scores.conversions == PRF(pytest.approx(2.5 / 3), pytest.approx(2.5 / 3), pytest.approx(2.5 / 3), 1)
    # Moves: water from the cave to the lake at 3. Predicted: ice at 2, water at 3 (right, but for the lake: 2/3), rock at 4.
    assert scores.moves.precision == pytest.approx((2 / 3) / 3)
    assert scores.moves.recall == pytest.approx(2 / 3)
    precision, recall = (1 + 1 + 2.5 / 3 + 2 / 9) / 4, (0.5 + 1 + 2.5 / 3 + 2 / 3) / 4
    assert scores.overall[:2] == (pytest.approx(precision), pytest.approx(recall))
    assert scores.overall.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def test_means_over_documents_come_before_f1() -> None:
    still = {"rock": ["cave", "cave"]}
    gone = {"rock": ["cave", "-"]}
    scores = score_documents([gone, still], [gone, gone])
    assert scores.inputs == PRF(0.5, 1.0, pytest.approx(2 / 3), 2)  # nothing to find, something found: precision 0, recall 1
    assert score_documents([still, gone], [still, still]).inputs == PRF(1.0, 0.5, pytest.approx(2 / 3), 2)
    assert score_documents([still], [still]).overall.f1 == 1.0


def test_what_comes_and_goes_is_neither_input_nor_output() -> None:
    brief = {"spark": ["-", "air", "-"]}
    born_twice = {"spark": ["air", "-", "air"]}
    for grid in (brief, born_twice):
        nothing = {"spark": ["?", "?", "?"]}
        scores = score_documents([nothing], [grid])
        assert (scores.inputs.precision, scores.outputs.precision) == (1.0, 1.0)


def test_conversions_over_two_steps() -> None:
    steps = {"a": ["x", "-", "-", "-", "-"], "b": ["-", "-", "y", "y", "y"]}
    found = Conversion([frozenset({"a"})], [frozenset({"b"})], ["y", "x"], 1)
    assert find_conversions(steps) == [found]
    # as published, not where the second step is the last one, nor where it does the same thing again
    assert find_conversions({name: states[:3] for name, states in steps.items()}) == []
    assert find_conversions({**steps, "c": ["x", "x", "-", "-", "-"]}) == [
        Conversion([frozenset({"c"})], [frozenset({"b"})], ["y", "x"], 2)
    ]
    late = {"a": ["x", "x", "-", "-", "-"], "b": ["-", "y", "y", "y", "y"]}
    assert find_conversions(late) == [Conversion([frozenset({"a"})], [frozenset({"b"})], ["y", "x"], 1)]
    assert find_conversions({"a": ["x", "-", "z", "z", "z"]}) == []  # nothing becomes itself


class Row(list[str]):
    """States that count how often they are looked through."""

    looks = 0

    def __iter__(self) -> Iterator[str]:
        Row.looks += 1
        return super().__iter__()


def test_conversions_of_long_procedures() -> None:
    """All participants are looked through a few times, however many steps there are."""
    n = 300
    grid = {"ice": Row(["cave", "-"] * n), "water": Row(["-", "lake"] * n), "rock": Row(["-"] * (2 * n))}
    found = find_conversions(grid)
    ice, water = [frozenset({"ice"})], [frozenset({"water"})]
    assert found[:2] == [Conversion(ice, water, ["lake", "cave"], 1), Conversion(water, ice, ["cave", "lake"], 2)]
    assert [each.step for each in found] == [*range(1, 2 * n)]
    assert Row.looks <= 3 * len(grid)


def test_places_and_names_that_differ_in_form() -> None:
    gold = {"leaf": ["The branches", "ground"], "tree": ["?", "?"]}
    predicted = {"leaf": ["branch", "the ground"], "tree": ["?", "?"]}
    assert score_documents([gold], [predicted]).moves.f1 == 1.0


PLACES = st.sampled_from(["-", "?", "cave", "the lake", "lakes"])
GRIDS = st.integers(0, 5).flatmap(
    lambda n: st.dictionaries(st.sampled_from("abc"), st.lists(PLACES, min_size=n + 1, max_size=n + 1), min_size=1)
)


@given(GRIDS)
def test_gold_is_perfect_by_document(grid: dict[str, list[str]]) -> None:
    assert all(score.f1 == pytest.approx(1.0) for score in score_documents([grid], [grid]))
    assert score_sentences([grid], [grid]).cat3 in (None, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("predicted", "found"),
    [
        ([], "paragraphs: found 0; expected 1"),
        ([{"a": ["?"]}], "participants: found a; expected ice"),
        ([{**PREDICTED, "ice": ["?"]}], r"states per participant: found \[1, 5, 5, 5\]"),
    ],
)
def test_other_grids(predicted: list[dict[str, list[str]]], found: str) -> None:
    for score in (score_documents, score_sentences):
        with pytest.raises(InputError, match=rf"\[E330\] The grids have other {found}"):
            score([GOLD], predicted)
    with pytest.raises(InputError, match=r"\[E330\] .*paragraphs: found none"):
        score_documents([], [])
