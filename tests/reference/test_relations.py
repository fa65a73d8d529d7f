"""Classifiers of pairs against the same thing pair by pair, with the paper's one layer over all parts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import relations as relations_module
from entitykit.models.relations import (
    ENTITIES_BETWEEN,
    WORDS_BETWEEN,
    SpERTRelations,
    SpERTRelationsSettings,
    add_negatives,
    gaps_between,
    mean_bce,
)
from entitykit.types import TOP, EntityPairs, EntityTokens, MentionOutput, Spans, WordStates

LENGTHS = (7, 0, 4)
N_WORDS = sum(LENGTHS)


def entities(places: list[tuple[int, int]], pairs: list[tuple[int, int]], types: list[int] | None = None) -> EntityPairs:
    columns = [[place[0] for place in places], [place[1] for place in places], types or [0] * len(places)]
    return EntityPairs(*(torch.tensor(x, dtype=torch.long) for x in [*columns, [a for a, _ in pairs], [b for _, b in pairs]]))


# apart, next to each other, nested, crossing, the same place twice, and a second document
ENTITIES = entities(
    [(0, 1), (1, 3), (2, 4), (2, 4), (6, 7), (7, 9), (10, 11)],
    [(0, 1), (1, 0), (1, 2), (0, 4), (4, 0), (4, 1), (2, 3), (5, 6), (6, 5)],
    [1, 2, 0, 1, 2, 1, 1],
)


def make_head(**settings: Any) -> SpERTRelations:
    small = {
        "width": 4,
        "n_labels": 3,
        "n_types": 2,
        "hidden": 5,
        "product": 3,
        "types": 2,
        "size_width": 2,
        "max_width": 2,
        "dropout": 0.0,
    }
    head = SpERTRelations(SpERTRelationsSettings(**(small | {"type_dropout": 0.0} | settings))).double()
    if head.between is not None:
        torch.nn.init.normal_(head.between.nothing)
    return head


def make_states() -> WordStates:
    return WordStates({TOP: torch.randn(N_WORDS, 4, dtype=torch.float64)}, LENGTHS)


def by_hand(head: SpERTRelations, words: Tensor, given: EntityPairs) -> Tensor:
    """One pair at a time, and one weight matrix for the parts laid side by side."""
    s = head.settings
    rows = []
    for a, b in zip(given.heads.tolist(), given.tails.tolist(), strict=True):
        parts: list[Tensor] = []
        for row in (a, b):
            start, end = int(given.starts[row]), int(given.ends[row])
            parts.append(torch.stack(list(words[start:end])).amax(0))
            parts += [words[start], words[end - 1]] if s.ends else []
            parts += [head.size.weight[min(end - start, s.max_width)]] if s.size_width else []
            parts += [head.kind.weight[given.types[row]]] if s.types else []
        weights = [head.head.weight, head.tail.weight]
        of_head, of_tail = torch.cat(parts).chunk(2)
        if s.between:
            low, high = (int(given.ends[a]), int(given.starts[b])) if a < b else (int(given.ends[b]), int(given.starts[a]))
            parts.append(words[low:high].amax(0) if low < high else head.between.nothing[0])
            n_out = s.hidden or s.n_labels
            of_between = head.between.layer.weight
            weights.append(of_between[n_out:] if s.directed and a > b else of_between[:n_out])
        total = torch.cat(weights, dim=1) @ torch.cat(parts) + head.head.bias
        if s.product:
            total = total + head.fit.layer(F.gelu(head.fit.heads(of_head)) * F.gelu(head.fit.tails(of_tail)))
        if s.near:
            total = total + nearness(head, given, a, b)
        rows.append(head.outer.weight @ F.gelu(total) + head.outer.bias if s.hidden else total)
    return torch.stack(rows)


def nearness(head: SpERTRelations, given: EntityPairs, a: int, b: int) -> Tensor:
    """Counted one by one."""
    low, high, turned = min(a, b), max(a, b), int(a > b)
    n_words = max(0, int(given.starts[high]) - int(given.ends[low]))
    bucket = sum(n_words >= edge for edge in WORDS_BETWEEN)
    types = given.types.tolist()
    like = [min(types[low + 1 : high].count(types[side]), ENTITIES_BETWEEN) for side in (a, b)]
    tables = (head.near.words, head.near.like_head, head.near.like_tail)
    return sum(table.weight[2 * n + turned] for table, n in zip(tables, (bucket, *like), strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"near": False},
        {"product": 0},
        {"hidden": 0, "ends": False, "types": 0, "directed": False, "near": False, "product": 0},  # as published
        {
            "hidden": 0,
            "ends": False,
            "types": 0,
            "directed": False,
            "near": False,
            "product": 0,
            "between": False,
            "size_width": 0,
        },  # LUKE's
        {"between": False},
        {"directed": False, "near": False, "product": 0},
        {"hidden": 0, "types": 0},
    ],
    ids=str,
)
def test_logits_pair_by_pair(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    monkeypatch.setattr(relations_module, "BLOCK", 4)
    head, states = make_head(**settings).eval(), make_states()
    found = head(states, ENTITIES).logits
    torch.testing.assert_close(found, by_hand(head, states.layers[TOP], ENTITIES), rtol=1e-10, atol=1e-10)


def test_entity_tokens_are_read_where_there_are_any() -> None:
    head, states = make_head(ends=False, between=False).eval(), make_states()
    places = sorted(set(zip(ENTITIES.starts.tolist(), ENTITIES.ends.tolist(), strict=True)))
    table = torch.tensor(places)
    with_tokens = states._replace(entities=EntityTokens(Spans(table[:, 0], table[:, 1]), torch.randn(len(places), 4).double()))
    changed = with_tokens._replace(layers={TOP: states.layers[TOP] * 2})
    assert not torch.equal(head(with_tokens, ENTITIES).logits, head(states, ENTITIES).logits)
    torch.testing.assert_close(head(with_tokens, ENTITIES).logits, head(changed, ENTITIES).logits)


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients(hidden: int) -> None:
    head = make_head(hidden=hidden)
    names, parameters = zip(*head.named_parameters(), strict=True)
    targets = (torch.arange(27).reshape(9, 3) % 4 == 0).double()
    known = torch.tensor([True] * 7 + [False] * 2)

    def run(words: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(head, weights, (WordStates({TOP: words}, LENGTHS), ENTITIES))
        return head.loss(output, targets, known)

    assert torch.autograd.gradcheck(run, (make_states().layers[TOP].requires_grad_(), *parameters))


def test_loss_by_hand() -> None:
    """-log(1/2) for each of two relations, and -log(3/4) - log(1/4); the last pair is of a document without annotation."""
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)], [9.0, 9.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    expected = (2 * math.log(2) - math.log(3 / 4) - math.log(1 / 4)) / 2
    assert mean_bce(logits, targets, torch.tensor([True, True, False])).item() == pytest.approx(expected)
    assert mean_bce(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.bool)).item() == 0


def test_gaps() -> None:
    gaps, numbers = gaps_between(ENTITIES)
    stretches = [None, *zip(gaps.starts.tolist(), gaps.ends.tolist(), strict=True)]
    found = [stretches[number] for number in numbers.tolist()]
    assert found == [None, None, None, (1, 6), (1, 6), (3, 6), None, (9, 10), (9, 10)]
    assert len(stretches) == 4


PROPOSED = Spans(torch.tensor([0, 0, 1, 2, 4, 5, 7, 8, 9]), torch.tensor([1, 2, 3, 3, 6, 6, 9, 9, 10]))


def test_negatives_are_no_gold_spans() -> None:
    given = entities([(0, 1), (1, 3), (6, 7), (7, 9), (10, 11)], [(0, 1), (3, 4)], [1, 2, 2, 1, 1])
    states = make_states()
    joined = add_negatives(given, PROPOSED, states, 9.0, 2)
    places = list(zip(joined.starts.tolist(), joined.ends.tolist(), strict=True))
    gold = set(zip(given.starts.tolist(), given.ends.tolist(), strict=True))
    assert places == sorted(gold | set(zip(PROPOSED.starts.tolist(), PROPOSED.ends.tolist(), strict=True)))
    pairs = [(places[a], places[b]) for a, b in zip(joined.heads.tolist(), joined.tails.tolist(), strict=True)]
    assert pairs[:2] == [((0, 1), (1, 3)), ((7, 9), (10, 11))]
    assert all((a in gold) != (b in gold) for a, b in pairs[2:])
    assert all((a[0] < 7) == (b[0] < 7) for a, b in pairs)
    assert len(set(pairs)) == len(pairs)
    assert sorted(pairs[2:]) == sorted((b, a) for a, b in pairs[2:])
    # two entities before and two from where it begins: (0, 2) has two near, (2, 3), (4, 6) and (5, 6) three, the others two
    assert len(pairs) - 2 == 2 * (2 + 3 * 3 + 2 * 2)
    types = dict(zip(places, joined.types.tolist(), strict=True))
    assert [types[place] for place in sorted(gold)] == given.types.tolist()
    assert {types[place] for place in set(places) - gold} <= {1, 2}


def test_negatives_are_paired_within_reach() -> None:
    """By the first words and the last ones, whichever begins first."""
    given = entities([(0, 1), (1, 3), (6, 7)], [(0, 1)])
    reach = torch.stack([torch.tensor([4] * 4 + [7] * 3 + [11] * 4), torch.arange(2, 13).clamp_max(7)], dim=1)
    joined = add_negatives(given._replace(reach=reach), PROPOSED, make_states(), 9.0, 0)
    places = list(zip(joined.starts.tolist(), joined.ends.tolist(), strict=True))
    pairs = {(places[a], places[b]) for a, b in zip(joined.heads.tolist(), joined.tails.tolist(), strict=True)}
    free = add_negatives(given, PROPOSED, make_states(), 9.0, 0)
    every = {(places[a], places[b]) for a, b in zip(free.heads.tolist(), free.tails.tolist(), strict=True)}

    def is_near(a: tuple[int, int], b: tuple[int, int]) -> bool:
        first, second = sorted([a, b])
        return second[0] < min(int(reach[first[0], 0]), int(reach[first[1] - 1, 1]))

    assert pairs == {pair for pair in every if is_near(*pair)} | {((0, 1), (1, 3))}
    assert 1 < len(pairs) < len(every)


def test_likelier_spans_are_drawn_first() -> None:
    given = entities([(0, 1), (1, 3)], [(0, 1)])
    band = torch.full((N_WORDS, 3), -30.0)
    band[5, 1] = 30.0  # (4, 6)
    states = make_states()._replace(mentions=MentionOutput(band, band > -99))
    joined = add_negatives(given, PROPOSED, states, 0.5, 0)
    assert list(zip(joined.starts.tolist(), joined.ends.tolist(), strict=True)) == [(0, 1), (1, 3), (4, 6)]
    assert joined.types.tolist() == [0, 0, 0]


def test_spans_that_the_probe_does_not_score_are_unlikely() -> None:
    """Given spans may be longer than its window."""
    given = entities([(0, 1), (1, 3)], [(0, 1)])
    band = torch.full((N_WORDS, 2), -30.0)
    band[5, 1] = 30.0  # (4, 6)
    states = make_states()._replace(mentions=MentionOutput(band, band > -99))
    longer = Spans(torch.tensor([0, 2, 4]), torch.tensor([5, 6, 6]))
    joined = add_negatives(given, longer, states, 0.5, 0)
    assert list(zip(joined.starts.tolist(), joined.ends.tolist(), strict=True)) == [(0, 1), (1, 3), (4, 6)]
    assert len(add_negatives(given, longer, states, 9.0, 0).starts) == 5


def test_nothing_to_draw() -> None:
    given = entities([(0, 1), (1, 3)], [(0, 1)])
    assert add_negatives(given, Spans(given.starts, given.ends), make_states(), 9.0, 2) is given
    nobody = entities([], [])
    assert add_negatives(nobody, PROPOSED, make_states(), 9.0, 2) is nobody


def test_negatives_in_training_only() -> None:
    head = make_head(negatives=1.0)
    states = make_states()._replace(entities=EntityTokens(PROPOSED, None))
    assert len(head.eval()(states, ENTITIES).logits) == len(ENTITIES.heads)
    assert len(head.train()(states, ENTITIES).logits) > len(ENTITIES.heads)
