"""The classifier of pairs of clusters against the same thing pair by pair, and the adaptive threshold by its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import relations as relations_module
from entitykit.models.cluster_relations import (
    ClusterRelations,
    ClusterRelationsSettings,
    adaptive_threshold_loss,
    logsumexp_by,
)
from entitykit.models.relations import ENTITIES_BETWEEN, WORDS_BETWEEN
from entitykit.types import TOP, ClusterPairs, WordStates

LENGTHS = (9, 0, 4)

# entity 0: two mentions, 1: two, one of them inside another's, 2: one; a second document with two
MENTIONS = [(0, 1, 0), (1, 4, 1), (2, 3, 2), (6, 7, 0), (8, 9, 1), (9, 10, 3), (11, 13, 4)]
PAIRS = [(0, 1, 0, 1), (1, 0, 4, 3), (1, 2, 1, 2), (2, 0, 2, 0), (3, 4, 5, 6), (4, 3, 6, 5)]
TYPES = [1, 2, 0, 2, 1]


def given() -> ClusterPairs:
    columns = [*zip(*MENTIONS, strict=True), TYPES, *zip(*PAIRS, strict=True)]
    return ClusterPairs(*(torch.tensor(column, dtype=torch.long) for column in columns))


def make_head(**settings: Any) -> ClusterRelations:
    small = {"width": 4, "n_labels": 3, "n_types": 2, "size": 5, "hidden": 6, "product": 3, "types": 2, "dropout": 0.0}
    head = ClusterRelations(ClusterRelationsSettings(**(small | settings))).double()
    if head.nearest is not None:
        torch.nn.init.normal_(head.nearest.between.nothing)
    return head


def make_states() -> WordStates:
    return WordStates({TOP: torch.randn(sum(LENGTHS), 4, dtype=torch.float64)}, LENGTHS)


def by_hand(head: ClusterRelations, words: Tensor) -> Tensor:
    """One pair at a time."""
    s = head.settings
    rows = []
    for a, b, near_a, near_b in PAIRS:
        sides = []
        for entity in (a, b):
            own = [mention(head, words, *place) for *place, of in MENTIONS if of == entity]
            parts = [torch.stack(own).exp().sum(0).log()]
            parts += [head.kind.weight[TYPES[entity]]] if head.kind is not None else []
            sides.append(torch.cat(parts))
        total = head.head(sides[0]) + head.tail(sides[1])
        if head.fit is not None:
            total = total + head.fit.layer(F.gelu(head.fit.heads(sides[0])) * F.gelu(head.fit.tails(sides[1])))
        if head.nearest is not None:
            total = total + nearest(head, words, near_a, near_b)
        logits = head.outer(F.gelu(total))
        rows.append(logits[1:] - logits[0] if s.adaptive else logits)
    return torch.stack(rows)


def mention(head: ClusterRelations, words: Tensor, start: int, end: int) -> Tensor:
    return head.mention(torch.cat([words[start:end].amax(0), words[start], words[end - 1]]))


def nearest(head: ClusterRelations, words: Tensor, a: int, b: int) -> Tensor:
    part, (first, second) = head.nearest, sorted([a, b])
    total = part.head(mention(head, words, *MENTIONS[a][:2])) + part.tail(mention(head, words, *MENTIONS[b][:2]))
    low, high = MENTIONS[first][1], MENTIONS[second][0]
    gap = words[low:high].amax(0) if low < high else part.between.nothing[0]
    total = total + part.between.layer(gap).chunk(2)[int(a > b)]
    bucket = sum(max(high - low, 0) >= edge for edge in WORDS_BETWEEN)
    total = total + part.near.words.weight[2 * bucket + int(a > b)]
    types = [TYPES[of] for *_, of in MENTIONS]
    for table, side in ((part.near.like_head, a), (part.near.like_tail, b)):
        between = sum(types[i] == types[side] for i in range(first + 1, second))
        total = total + table.weight[2 * min(between, ENTITIES_BETWEEN) + int(a > b)]
    return total


@pytest.mark.parametrize("block", [2, 8192])
@pytest.mark.parametrize(
    "settings", [{}, {"adaptive": False}, {"nearest": False}, {"product": 0, "types": 0}], ids=lambda s: str(list(s))
)
def test_equals_pair_by_pair(settings: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations_module, "BLOCK", block)
    head, states = make_head(**settings), make_states()
    torch.testing.assert_close(head(states, given()).logits, by_hand(head, states.layers[TOP]))


def test_adaptive_threshold() -> None:
    """The paper's two terms with the threshold as a class of its own, pair by pair."""
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 1], [1, 0, 1]])
    known = torch.tensor([True, True, True, True, False])
    expected = torch.zeros((), dtype=torch.float64)
    for row, holds in zip(scores[:4], targets[:4].tolist(), strict=True):
        right = [i for i, is_right in enumerate(holds, start=1) if is_right]
        wrong = [i for i, is_right in enumerate(holds, start=1) if not is_right]
        for i in right:
            expected = expected - (row[i].exp() / row[[0, *right]].exp().sum()).log()
        expected = expected - (row[0].exp() / row[[0, *wrong]].exp().sum()).log()
    found = adaptive_threshold_loss(scores[:, 1:] - scores[:, :1], targets, known)
    torch.testing.assert_close(found, expected / 4)
    found.backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[4].any()
    nothing = adaptive_threshold_loss(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.bool))
    assert nothing == 0


def test_logsumexp_by_groups() -> None:
    values = torch.randn(6, 3, dtype=torch.float64) * 300
    groups = torch.tensor([2, 0, 2, 1, 2, 0])
    expected = torch.stack([values[groups == i].logsumexp(0) for i in range(3)])
    torch.testing.assert_close(logsumexp_by(values, groups, 3), expected)
    assert torch.autograd.gradcheck(
        lambda x: logsumexp_by(x, groups, 3), torch.randn(6, 3, dtype=torch.float64).requires_grad_()
    )
    assert logsumexp_by(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), 0).shape == (0, 3)
