"""Tags and grids: the best sequences are those of brute force, and no grid contradicts itself."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.decoding.tracker import (
    TAGS,
    Chain,
    make_chain,
    marginals,
    may_follow,
    may_start,
    tags_of,
    track,
    viterbi,
)
from entitykit.errors import InputError

SEEDS = st.integers(0, 10_000)
N = len(TAGS)


def random_chain(rng: np.random.Generator) -> Chain:
    return make_chain(rng.normal(size=N), rng.normal(size=(N, N)), rng.normal(size=N))


def score(emissions: np.ndarray, chain: Chain, tags: tuple[int, ...]) -> float:
    total = chain.start[tags[0]] + chain.end[tags[-1]] + sum(emissions[i, tag] for i, tag in enumerate(tags))
    return float(total + sum(chain.transition[a, b] for a, b in pairwise(tags)))


@given(SEEDS, st.integers(1, 4))
def test_viterbi_and_marginals_equal_brute_force(seed: int, n_steps: int) -> None:
    rng = np.random.default_rng(seed)
    chain, emissions = random_chain(rng), rng.normal(size=(n_steps, N)) * 2
    ways = {tags: score(emissions, chain, tags) for tags in product(range(N), repeat=n_steps)}
    best = max(ways, key=lambda tags: ways[tags])
    assert viterbi(emissions, chain) == list(best)
    weights = {tags: np.exp(value) for tags, value in ways.items()}
    total = sum(weights.values())
    expected = np.zeros((n_steps, N))
    for tags, weight in weights.items():
        expected[np.arange(n_steps), tags] += weight / total
    np.testing.assert_allclose(marginals(emissions, chain), expected, atol=1e-12)


def test_no_steps() -> None:
    chain = random_chain(np.random.default_rng(0))
    assert viterbi(np.zeros((0, N)), chain) == []
    assert marginals(np.zeros((0, N)), chain).shape == (0, N)


STATES = st.lists(st.sampled_from(["-", "?", "lake", "cave"]), min_size=1, max_size=8)


@given(STATES)
def test_tags_of_grids_may_follow_each_other(states: list[str]) -> None:
    tags = tags_of(states)
    assert len(tags) == len(states) - 1
    numbers = [TAGS.index(tag) for tag in tags]
    assert all(may_start()[number] for number in numbers[:1])
    assert all(may_follow()[a, b] for a, b in pairwise(numbers))


@pytest.mark.parametrize(
    ("states", "tags"),
    [
        (["-", "-", "?", "lake", "lake", "-", "-"], "O_C C M E D O_D"),
        (["lake", "lake", "?", "-", "cave"], "E M D C"),
        (["-", "-", "-"], "O_C O_C"),
        (["lake", "-", "-"], "D O_D"),
        (["-", "lake", "-", "lake"], "C D C"),
        (["?"], ""),
    ],
)
def test_tags_by_hand(states: list[str], tags: str) -> None:
    assert tags_of(states) == tags.split()


@given(SEEDS, st.integers(0, 7), st.integers(0, 3), st.floats(0, 30))
def test_grids_never_contradict_their_tags(seed: int, n_steps: int, n_places: int, sharpness: float) -> None:
    """What is read back from the states is what the tags say: nothing is at a place before it was created, and so on."""
    rng = np.random.default_rng(seed)
    names = ["lake", "cave", "sky"][:n_places]
    emissions = rng.normal(size=(n_steps, N)) * sharpness
    places = [rng.normal(size=2 + n_places) * sharpness for _ in range(n_steps + 1)]
    found = track(emissions, places, names, random_chain(rng))
    assert len(found.states) == n_steps + 1
    assert set(found.states) <= {"-", "?", *names}
    assert tags_of(found.states) == found.tags
    assert all(0 <= score <= 1 for score in found.tag_scores)
    assert all((score is None) == (state == "-") for state, score in zip(found.states, found.place_scores, strict=True))
    assert all(score is None or 0 < score <= 1 for score in found.place_scores)


def sharp(*tags: str) -> np.ndarray:
    return np.array([[20.0 if tag == one else 0.0 for one in TAGS] for tag in tags])


CHAIN = make_chain(np.zeros(N), np.zeros((N, N)), np.zeros(N))


def test_places_are_asked_for_where_something_happens() -> None:
    names = ["lake", "cave"]
    lake, cave, nowhere = np.array([0.0, 0, 9, 0]), np.array([0.0, 0, 1, 9]), np.array([9.0, 0, 0, 0])
    found = track(sharp("E", "M", "M", "D", "O_D", "C"), [lake, cave, lake, cave, cave, cave, nowhere], names, CHAIN)
    # the pointer says cave at the first step, but nothing happens there; it says lake at the second, where it already is
    assert found.states == ["lake", "lake", "?", "cave", "-", "-", "?"]
    assert found.tags == ["E", "M", "M", "D", "O_D", "C"]
    assert found.place_scores[0] == found.place_scores[1] == pytest.approx(1 / (1 + 2 * np.exp(-9)))
    assert found.place_scores[2] == pytest.approx(0.5)  # the one other place is as likely, and so comes second
    assert found.place_scores[4:6] == [None, None]


def test_where_there_is_no_other_place_it_stays() -> None:
    found = track(sharp("M", "E"), [np.zeros(2)] * 3, [], CHAIN)
    assert (found.states, found.tags) == (["?", "?", "?"], ["E", "E"])


def test_without_steps_the_pointer_alone_decides() -> None:
    assert track(np.zeros((0, N)), [np.array([0.0, 0, 5])], ["lake"], CHAIN).states == ["lake"]
    found = track(np.zeros((0, N)), [np.array([5.0, 0, 0])], ["lake"], CHAIN)
    assert (found.states, found.place_scores) == (["-"], [None])


@pytest.mark.parametrize("places", [[np.zeros(3)] * 2, [np.zeros(3), np.zeros(2), np.zeros(3)], []], ids=len)
def test_scores_of_another_size(places: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match=r"\[E614\]"):
        track(np.zeros((2, N)), places, ["lake"], CHAIN)
