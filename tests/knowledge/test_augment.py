"""Descriptions in the contexts of mentions: the five joins, and what is remembered."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.util import registry

from entitykit.errors import ConfigError, InputError, OutputError
from entitykit.knowledge.augment import JOINS, Augmenter, join_description
from entitykit.knowledge.candidates import Mention

MENTION = Mention("Ada", "then", "wrote")
SAYS = "The countess Ada worked with Babbage."


class Describe:
    """A function that can be pickled, and counts its calls."""

    def __init__(self, answer: object = SAYS) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str]] = []

    def __call__(self, text: str, mention: str) -> str:
        self.calls.append((text, mention))
        return self.answer  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("join", "left", "right"),
    [
        (0, "The countess ", " worked with Babbage."),
        (1, "The countess ", " worked with Babbage. then Ada wrote"),
        (2, f"{SAYS} then", "wrote"),
        (3, "then Ada wrote The countess ", " worked with Babbage."),
        (4, "then", f"wrote {SAYS}"),
    ],
)
def test_joins(join: int, left: str, right: str) -> None:
    assert join_description(MENTION, SAYS, join) == Mention("Ada", left, right)


def test_a_description_without_the_mention() -> None:
    assert join_description(MENTION, "a countess", 0) == Mention("Ada", "", ": a countess")
    assert join_description(MENTION, " a countess\n", 4) == Mention("Ada", "then", "wrote Ada: a countess")
    assert join_description(MENTION, " \n", 0) == MENTION


def test_a_mention_is_marked_where_it_is_a_word() -> None:
    """Rather than where another word has its letters; within one only where it is nowhere else."""
    of = Mention("US", "the", "army")
    for join, left in ((0, "The USSR fell. The "), (1, "The USSR fell. The "), (3, "the US army The USSR fell. The ")):
        assert join_description(of, "The USSR fell. The US stayed.", join).left == left
    assert join_description(of, "a part of the US", 0).right == ""
    assert join_description(Mention("C++"), "C++11, after C++.", 0).left == "C++11, after "
    assert join_description(Mention("東京"), "首都東京都", 0) == Mention("東京", "首都", "都")


@settings(max_examples=25)
@given(st.text("ab {}", min_size=1, max_size=8), *(st.text("ab {}", max_size=8) for _ in range(3)), st.sampled_from(JOINS))
def test_nothing_is_lost(mention: str, left: str, right: str, description: str, join: int) -> None:
    found = join_description(Mention(mention, left, right), description, join)
    assert found.text == mention
    joined = f"{found.left}{found.text}{found.right}".split()
    words = description.split() + ([*left.split(), *right.split()] if join else [])
    assert not [word for word in words if not any(word in other for other in joined)]


@pytest.mark.parametrize("on_disk", [False, True])
def test_each_mention_is_described_once(tmp_path: Path, on_disk: bool) -> None:
    describe = Describe()
    cache = tmp_path / "known.sqlite" if on_disk else None
    augment = Augmenter(describe, cache=cache)
    twice = augment([MENTION, MENTION, Mention("Ada", "", "wrote")])
    assert twice[0] == twice[1]
    assert describe.calls == [("then { Ada } wrote", "Ada"), ("{ Ada } wrote", "Ada")]
    copy = pickle.loads(pickle.dumps(augment))
    assert copy([MENTION]) == twice[:1]
    assert len(copy.describe.calls) == 2
    if on_disk:
        again = Augmenter(Describe("never asked"), cache=cache)
        assert again([MENTION]) == twice[:1]
        other = Augmenter(Describe("another"), cache=cache, version="2")
        assert other([MENTION])[0].right == "wrote Ada: another"


def test_several_share_a_cache(tmp_path: Path) -> None:
    """Each with its own connection, as in processes of their own."""
    cache = tmp_path / "known.sqlite"

    def work(first: int) -> None:
        Augmenter(Describe(), cache=cache)([Mention(f"m{i}") for i in range(first, first + 40)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (0, 20)))
    describe = Describe()
    Augmenter(describe, cache=cache)([Mention(f"m{i}") for i in range(60)])
    assert not describe.calls


def test_room_for_the_description() -> None:
    augment = Augmenter(Describe("a countess"), words=2)
    found = augment([Mention("Ada", "one two three", "four five six")])
    assert found == [Mention("Ada", "two three", "four five Ada: a countess")]
    assert Augmenter(Describe(""), words=0)([Mention("Ada", "one", "two")]) == [Mention("Ada", "", "")]


def test_what_cannot_be(tmp_path: Path) -> None:
    for options in ({"join": 5}, {"words": -1}):
        with pytest.raises(ConfigError, match="E590"):
            Augmenter(Describe(), **options)
    with pytest.raises(InputError, match="E591.*NoneType"):
        Augmenter(Describe(None))([MENTION])
    (tmp_path / "no.sqlite").write_bytes(b"no database" * 100)
    for path in (tmp_path / "no.sqlite", tmp_path / "nowhere" / "x.sqlite"):
        with pytest.raises(OutputError, match="E592"):
            Augmenter(Describe(), cache=path)([MENTION])


def test_named_in_a_config() -> None:
    registry.misc("tests_describe.v1", func=Describe)
    block = {"augment": {"@misc": "entitykit.Augmenter.v1", "join": 3, "describe": {"@misc": "tests_describe.v1"}}}
    augment = registry.resolve(block)["augment"]
    assert augment.join == 3
    assert augment([MENTION])[0].left == "then Ada wrote The countess "
