"""The tracker's head against loops over participants, steps and places; its random field against brute force."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.bridge.procedures import Participant, Procedure, Reading, pack_procedures
from entitykit.decoding.tracker import TAGS, may_follow, may_start
from entitykit.models.crf import CRF
from entitykit.models.tracker import StateTracker, TrackerBatch, build_state_tracker
from entitykit.types import TOP, WordStates

N = len(TAGS)
WIDTH = 10
SETTINGS = {
    "labels": list(TAGS),
    "width": WIDTH,
    "starts": may_start().tolist(),
    "transitions": may_follow().tolist(),
    "hidden": 8,
    "size": 5,
}


@pytest.fixture
def crf() -> CRF:
    crf = CRF(may_start().tolist(), may_follow().tolist())
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


@pytest.mark.parametrize("length", [1, 2, 4])
def test_likelihood_is_that_of_brute_force(crf: CRF, length: int) -> None:
    emissions = torch.randn(1, 5, N)
    starts, follows = may_start(), may_follow()
    ways = [
        tags for tags in product(range(N), repeat=length) if starts[tags[0]] and all(follows[a, b] for a, b in pairwise(tags))
    ]

    def score(tags: tuple[int, ...]) -> Tensor:
        total = crf.start[tags[0]] + crf.end[tags[-1]]
        total = total + sum(emissions[0, i, tag] for i, tag in enumerate(tags))
        return total + sum(crf.transition[a, b] for a, b in pairwise(tags))

    scores = torch.stack([score(tags) for tags in ways])
    probabilities = scores.softmax(0)
    for way in range(0, len(ways), max(1, len(ways) // 7)):
        gold = torch.zeros(1, 5, dtype=torch.long)
        gold[0, :length] = torch.tensor(ways[way])
        found = crf.log_likelihood(emissions, gold, torch.tensor([length]))
        torch.testing.assert_close(found[0].exp(), probabilities[way], rtol=1e-4, atol=1e-7)


def test_what_cannot_be_has_no_probability(crf: CRF) -> None:
    wrong = torch.tensor([[TAGS.index("D"), TAGS.index("E")], [TAGS.index("O_D"), TAGS.index("O_D")]])
    found = crf.log_likelihood(torch.randn(2, 2, N), wrong, torch.tensor([2, 2]))
    assert (found < -1000).all()


def test_sequences_together_equal_sequences_alone(crf: CRF) -> None:
    emissions, lengths = torch.randn(4, 6, N), torch.tensor([6, 0, 1, 3])
    tags = torch.full((4, 6), TAGS.index("E"))
    together = crf.log_likelihood(emissions, tags, lengths)
    alone = [
        crf.log_likelihood(emissions[i : i + 1, :n], tags[i : i + 1, :n], lengths[i : i + 1])[0]
        for i, n in enumerate(lengths.tolist())
    ]
    torch.testing.assert_close(together, torch.stack(alone))
    assert together[1] == 0
    crf.log_likelihood(torch.zeros(2, 0, N), torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long))


# A procedure of 14 words: two before the first step, three steps of which the second is empty, and a word behind them.
PARTS = [(0, 2), (2, 7), (7, 7), (7, 13)]
MENTIONS = {"water": [(3, 4), (7, 8), (9, 11)], "steam": [], "rain": [(0, 1)]}
PLACES = {"lake": [(5, 6), (8, 9)], "sky": [(11, 13)], "rain": [(0, 1)], "end": [(13, 14)]}
PROCEDURE = Procedure(
    14, PARTS[1:], [Participant(name, spans) for name, spans in MENTIONS.items()], list(PLACES.values()), list(PLACES)
)


def reading(n_words: int, n_moments: int, first: int, *, marked: bool) -> Reading:
    """A row for each word, in the order of the words, and marks in the first rows."""
    marks = np.arange(n_moments) if marked else np.full(n_moments, -1)
    return Reading(first + np.arange(n_words)[None], np.ones((1, n_words), dtype=np.int64), marks)


def make_batch(*, marked: bool = False, copies: int = 1) -> TrackerBatch:
    readings = [[reading(14, 4, 14 * i, marked=marked)] * 3 for i in range(copies)]
    return pack_procedures([PROCEDURE] * copies, readings)


@pytest.fixture(params=[False, True], ids=["shared", "marked"])
def head(request: pytest.FixtureRequest) -> StateTracker:
    head = build_state_tracker({**SETTINGS, "marked": request.param}).eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head


def words_of(spans: list[tuple[int, int]], part: tuple[int, int] | None = None) -> list[int]:
    words = [word for span in spans for word in range(*span)]
    return words if part is None else [word for word in words if part[0] <= word < part[1]]


def expected_moments(head: StateTracker, words: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    m = head.moments
    everywhere = words_of(spans)
    who = m.mention(words[everywhere]).mean(0) if everywhere else m.absent
    found = []
    for i, part in enumerate(PARTS):
        there = everywhere if i == 0 else words_of(spans, part)
        mention = m.mention(words[there]).mean(0) if there else m.absent
        step = words[part[0] : part[1]]
        if len(step):
            asked = m.key(step) @ m.query(who[None])[0] / 8**0.5 + m.salient(step)[:, 0]
            read = asked.softmax(0) @ m.value(step)
        else:
            read = m.wordless
        total = mention + m.who(who[None])[0] + read
        if i == 0:
            total = total + m.before
        if m.mark is not None:
            total = total + m.mark(words[i : i + 1])[0]
        found.append(F.gelu(total))
    return torch.stack(found)


def expected_places(head: StateTracker, words: Tensor, read: Tensor, spans: list[tuple[int, int]]) -> Tensor:
    p = head.places
    own = set(words_of(spans))
    rows = []
    for i, part in enumerate(PARTS):
        row = []
        for choice in range(2 + len(PLACES)):
            if choice < 2:
                bag, here, near, side, same = p.special[choice], p.special[2], 7, 0, 0
            else:
                place = list(PLACES.values())[choice - 2]
                bag, there = p.place(words[words_of(place)]).mean(0), words_of(place, part)
                here = p.here(words[there]).mean(0) if there else p.special[2]
                near, side = near_of(place, i), side_of(spans, there, part)
                same = int(bool(own & set(words_of(place))))
            hidden = p.ask(read[i : i + 1])[0] + bag + here + p.near.weight[near] + p.side.weight[side] + p.own.weight[same]
            fit = (p.fit(read[i : i + 1])[0] * bag).sum() / 8**0.5
            row.append(p.score(F.gelu(hidden)[None])[0, 0] + fit)
        rows.append(torch.stack(row))
    return torch.cat(rows)


def near_of(place: list[tuple[int, int]], moment: int) -> int:
    moments = [i for i, part in enumerate(PARTS) if words_of(place, part)]
    before = [moment - i for i in moments if i <= moment]
    if before:
        return min(min(before), 4)
    return 5 if moment + 1 in moments else 6


def side_of(spans: list[tuple[int, int]], there: list[int], part: tuple[int, int]) -> int:
    mentioned = sorted(words_of(spans, part))
    if not mentioned or not there:
        return 0
    gap = min(there) - mentioned[0]
    size = sum(abs(gap) >= edge for edge in (2, 4, 7))
    return 1 + size + (4 if gap > 0 else 0)


@torch.no_grad()
def test_head_equals_loops(head: StateTracker) -> None:
    words = torch.randn(14, WIDTH)
    output = head(WordStates({TOP: words}, (14,)), make_batch(marked=head.settings.marked))
    moment = cell = 0
    for spans in MENTIONS.values():
        moments = expected_moments(head, words, spans)
        read = torch.cat([moments, head.recurrent(moments[None])[0][0]], dim=1)
        torch.testing.assert_close(output.tags[moment : moment + 4], head.tags(read), rtol=1e-4, atol=1e-5)
        places = expected_places(head, words, read, spans)
        torch.testing.assert_close(output.places[cell : cell + len(places)], places, rtol=1e-4, atol=1e-5)
        moment, cell = moment + 4, cell + len(places)
    assert (len(output.tags), len(output.places)) == (moment, cell)


@torch.no_grad()
def test_documents_together_equal_documents_alone(head: StateTracker) -> None:
    words = torch.randn(28, WIDTH)
    marked = head.settings.marked
    together = head(WordStates({TOP: words}, (14, 14)), make_batch(marked=False, copies=2))
    if not marked:
        for i in range(2):
            alone = head(WordStates({TOP: words[14 * i : 14 * (i + 1)]}, (14,)), make_batch())
            half = len(alone.tags)
            torch.testing.assert_close(together.tags[half * i : half * (i + 1)], alone.tags, rtol=1e-5, atol=1e-5)
            cells = len(alone.places)
            torch.testing.assert_close(together.places[cells * i : cells * (i + 1)], alone.places, rtol=1e-5, atol=1e-5)


def test_gradients_reach_every_parameter_and_the_words(head: StateTracker) -> None:
    words = torch.randn(14, WIDTH, requires_grad=True)
    output = head(WordStates({TOP: words}, (14,)), make_batch(marked=head.settings.marked))
    tags = torch.tensor([0, *map(TAGS.index, ("O_C", "C", "M")), 0, *map(TAGS.index, ("E", "D", "O_D")), 0, 2, 2, 2])
    places = torch.tensor([0, 0, 1, 2, 3, 4, 5, 0, 1, -1, 2, 3])
    head.loss(output, tags, places, torch.arange(12) % 2 == 0).backward()
    for name, parameter in [*head.named_parameters(), ("words", words)]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_loss_by_hand(head: StateTracker) -> None:
    output = head(WordStates({TOP: torch.randn(14, WIDTH)}, (14,)), make_batch(marked=head.settings.marked))
    tags = torch.full((12,), TAGS.index("E"))
    places = torch.tensor([1, -1, 2, 0] * 3)
    happens = torch.tensor([True, True, False, False] * 3)
    found = head.loss(output, tags, places, happens)
    steps = output.tags.view(3, 4, N)[:, 1:]
    likelihood = head.crf.log_likelihood(steps, tags.view(3, 4)[:, 1:], torch.full((3,), 3)).sum()
    log_p = output.places.view(3, 4, -1).log_softmax(2)
    still = head.settings.still_weight
    wrong = -(log_p[:, 0, 1] + still * log_p[:, 2, 2] + still * log_p[:, 3, 0]).sum() / (3 * (1 + 2 * still))
    torch.testing.assert_close(found, -likelihood / 9 + head.settings.place_weight * wrong)


def test_nothing(head: StateTracker) -> None:
    for words, procedures in ((0, []), (0, [Procedure(0, [], [])]), (14, [Procedure(14, PARTS[1:], [])])):
        readings = [[] for _ in procedures]
        output = head(WordStates({TOP: torch.zeros(words, WIDTH)}, (words,)), pack_procedures(procedures, readings))
        nothing = torch.zeros(0, dtype=torch.long)
        assert head.loss(output, nothing, nothing, nothing.bool()) == 0
    bare = Procedure(0, [], [Participant("x", [])])
    empty = Reading(np.zeros((1, 0), dtype=np.int64), np.zeros((1, 0), dtype=np.int64), np.array([-1]))
    output = head(WordStates({TOP: torch.zeros(0, WIDTH)}, (0,)), pack_procedures([bare], [[empty]]))
    assert (output.tags.shape, output.places.shape) == ((1, N), (2,))
    assert head.loss(output, torch.tensor([0]), torch.tensor([1]), torch.tensor([True])).isfinite()
