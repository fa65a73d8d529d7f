"""EntQA's formulas, written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.decoding.entqa import find_answers
from entitykit.models.bi_encoder import BiEncoderSettings
from entitykit.models.entqa import EntQA, Places, ReaderOutput, ReaderTargets, build_entqa, reader_loss, retrieval_loss


def test_retrieval_loss() -> None:
    """Each right entity against the wrong ones alone."""
    scores = [[2.0, -1.0, 0.5, 3.0], [0.0, 1.0, -2.0, 0.25], [1.0, 2.0, 3.0, 4.0]]
    gold = [[True, False, True, False], [False, True, False, False], [False] * 4]
    expected = 0.0
    for row, right in zip(scores, gold, strict=True):
        wrong = sum(math.exp(s) for s, is_right in zip(row, right, strict=True) if not is_right)
        expected -= sum(
            math.log(math.exp(s) / (math.exp(s) + wrong)) for s, is_right in zip(row, right, strict=True) if is_right
        )
    logits = torch.tensor(scores, requires_grad=True)
    loss = retrieval_loss(logits, torch.tensor(gold))
    assert float(loss.detach()) == pytest.approx(expected / 2)  # the third passage names nothing
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[2].any()
    assert logits.grad[0, 0] < 0 < logits.grad[0, 1]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (2, 3)], ids=str)
@pytest.mark.parametrize("right", [False, True])
def test_retrieval_loss_without_alternatives(shape: tuple[int, int], right: bool) -> None:
    """Nothing to choose from, nothing right, or nothing wrong: no loss, and no gradient that is none."""
    logits = torch.randn(shape, requires_grad=True)
    loss = retrieval_loss(logits, torch.full(shape, right))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def test_reader_loss() -> None:
    """Two passages with two and three entities; the second one is shorter."""
    starts = torch.randn(5, 4)
    ends = torch.randn(5, 4)
    ranks = torch.randn(5)
    starts[2:, 3] = ends[2:, 3] = -torch.inf
    starts[1, 2] = -torch.inf  # white space
    passages = [0, 0, 1, 1, 1]
    right_starts = [{1, 3}, {0}, {0}, {0}, {0}]
    right_ends = [{2, 3}, {0}, {0}, {0}, {0}]
    right_ranks = [True, False, False, False, False]
    expected = 0.0
    for logits, right in ((starts, right_starts), (ends, right_ends)):
        for row, own in zip(logits.tolist(), right, strict=True):
            expected -= sum(math.log(softmax(row)[i]) for i in own)
    expected -= math.log(softmax(ranks[:2].tolist())[0])
    target = [torch.tensor([[i in own for i in range(4)] for own in right]) for right in (right_starts, right_ends)]
    tensors = [tensor.requires_grad_() for tensor in (starts, ends, ranks)]
    loss = reader_loss(ReaderOutput(*tensors), ReaderTargets(*target, torch.tensor(right_ranks), torch.tensor(passages)))
    assert float(loss.detach()) == pytest.approx(expected / 3, rel=1e-5)
    loss.backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in tensors)
    assert ranks.grad is not None
    assert not ranks.grad[2:].any()  # a passage that names nothing teaches nothing of entities


def test_reader() -> None:
    """Rows of first and last pieces, and the null answer at the sequence's first piece."""
    head = EntQA(BiEncoderSettings(width=6, mention="context", dropout=0.5)).eval()
    states = torch.randn(9, 6)
    firsts, lasts = torch.tensor([[0, 1, 3], [5, 6, 0]]), torch.tensor([[0, 2, 3], [5, 7, 0]])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    with torch.no_grad():
        output = head.read(states, Places(firsts, lasts, valid))
    weight, bias = head.edges.weight.detach().numpy(), head.edges.bias.detach().numpy()
    for pair, columns in enumerate(([0, 1, 2], [0, 1])):
        for column in columns:
            first, last = int(firsts[pair, column]), int(lasts[pair, column])
            start, end = float(output.starts[pair, column]), float(output.ends[pair, column])
            assert start == pytest.approx(float(states[first].numpy() @ weight[0] + bias[0]), abs=1e-5)
            assert end == pytest.approx(float(states[last].numpy() @ weight[1] + bias[1]), abs=1e-5)
    assert output.starts[1, 2] == output.ends[1, 2] == -torch.inf
    rank = states[[0, 5]].numpy() @ head.rank.weight.detach().numpy()[0] + head.rank.bias.detach().numpy()
    np.testing.assert_allclose(output.ranks.numpy(), rank, atol=1e-5)


def test_built_from_its_settings() -> None:
    head = EntQA(BiEncoderSettings(width=6, projection=3))
    again = build_entqa({**vars(head.settings), "labels": []})
    assert again.settings == head.settings
    assert {name: p.shape for name, p in again.named_parameters()} == {name: p.shape for name, p in head.named_parameters()}


@given(st.data())
@settings(max_examples=30)
def test_answers(data: st.DataObject) -> None:
    """Against all spans of all candidates, one after the other."""
    n, k = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    starts, ends, ranks = random.normal(size=(k, n + 1)) * 3, random.normal(size=(k, n + 1)) * 3, random.normal(size=k)
    for word in data.draw(st.sets(st.integers(1, n))):  # white space
        starts[:, word] = ends[:, word] = -np.inf
    longest, n_best, threshold = (
        data.draw(st.integers(1, 7)),
        data.draw(st.integers(1, 3)),
        data.draw(st.sampled_from([0, 0.05])),
    )
    expected = []
    for entity, p_entity in enumerate(softmax(ranks.tolist())):
        p_start, p_end = softmax(starts[entity].tolist()), softmax(ends[entity].tolist())
        spans = [(p_start[1 + a] * p_end[1 + b], a, b + 1) for a in range(n) for b in range(a, min(a + longest, n))]
        own: list[tuple[int, int]] = []
        for p, a, b in sorted(spans, reverse=True):
            if p <= p_start[0] * p_end[0] or len(own) == n_best:
                break
            if p * p_entity >= threshold and all(b <= c or d <= a for c, d in own):
                own.append((a, b))
                expected.append((a, b, entity, pytest.approx(p * p_entity)))
    found = find_answers(starts, ends, ranks, max_words=longest, n_best=n_best, threshold=threshold)
    rows = list(zip(*(column.tolist() for column in found), strict=True))
    assert sorted(rows) == sorted(expected, key=lambda each: each[:3])
