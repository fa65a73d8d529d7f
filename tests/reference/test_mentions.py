"""The banded probe equals its formula, written out span by span; its loss equals a sum by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import mentions
from entitykit.models.mentions import (
    MentionOutput,
    ToMMeR,
    ToMMeRSettings,
    balanced_bce,
    banded_product,
    spans_to_band,
    top_spans,
)
from entitykit.types import Spans, WordStates

WIDTH, LAYER = 6, 2
LENGTHS = (1, 0, 5, 45, 2, 11)


def make_probe(window: int = 4, **settings: bool) -> ToMMeR:
    """A probe in double precision in which no parameter is at a value that would hide it."""
    probe = ToMMeR(ToMMeRSettings(width=WIDTH, layer=LAYER, rank=3, window=window, **settings)).double()
    for parameter in probe.parameters():
        torch.nn.init.normal_(parameter)
    return probe


def make_states(lengths: Sequence[int]) -> WordStates:
    """Random words, and some of white space, whose states are zeros."""
    words = torch.randn(sum(lengths), WIDTH, dtype=torch.float64)
    words[3::10] = 0
    return WordStates({LAYER: words}, tuple(lengths))


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def logit(probe: ToMMeR, words: Sequence[Sequence[float]], i: int, j: int) -> float:
    """The score of the span from word j to word i of one document, straight from the module's docstring."""
    settings, n = probe.settings, len(words)
    theta = probe.theta.tolist()

    def m(j: int) -> float:
        if j > i or i - j > settings.window:
            return 0.0
        q = [dot(row, words[i]) for row in probe.query.weight.tolist()]
        k = [dot(row, words[j]) for row in probe.key.weight.tolist()]
        if settings.cosine:
            norms = math.sqrt(dot(q, q) * dot(k, k))
            return dot(q, k) / norms if norms else 0.0
        return dot(q, k) / math.sqrt(settings.rank)

    def affine(layer: torch.nn.Linear, word: int) -> float:
        return dot(layer.weight[0].tolist(), words[word]) + float(layer.bias) if 0 <= word < n else 0.0

    others = [m(other) for other in range(j + 1, n)] + [0.0]
    score = theta[0] * m(j) + theta[1] * min(others) + theta[2] * max(others)
    score += theta[3] * affine(probe.end, i) + theta[4] * affine(probe.end, i + 1)
    if probe.start is not None:
        score += theta[5] * affine(probe.start, j) + theta[6] * affine(probe.start, j - 1)
    if probe.width_bias is not None:
        score += float(probe.width_bias[i - j])
    return score


def brute_force(probe: ToMMeR, states: WordStates) -> dict[tuple[int, int], float]:
    """Row and column of the band to score, for all spans that there are."""
    scores = {}
    first = 0
    for n in states.lengths:
        words = states.layers[LAYER][first : first + n].tolist()
        for i, back in product(range(n), range(probe.settings.window + 1)):
            if back <= i:
                scores[first + i, back] = logit(probe, words, i, i - back)
        first += n
    return scores


@pytest.mark.parametrize("cosine", [True, False], ids=["cosine", "dot"])
@pytest.mark.parametrize("added", [(False, False), (True, False), (False, True), (True, True)], ids=str)
@pytest.mark.parametrize(("block", "window"), [(8192, 4), (8192, 60), (3, 4), (7, 1), (64, 0), (1, 9)])
@torch.no_grad()
def test_band_equals_formula(
    monkeypatch: pytest.MonkeyPatch, cosine: bool, added: tuple[bool, bool], block: int, window: int
) -> None:
    """With (False, False) this is the published formula. Blocks end within documents; the widest spans reach over several."""
    monkeypatch.setattr(mentions, "BLOCK", block)
    probe = make_probe(window, cosine=cosine, start_terms=added[0], width_bias=added[1])
    assert len(probe.theta) == (7 if added[0] else 5)
    states = make_states(LENGTHS)
    output = probe(states)
    expected = brute_force(probe, states)
    assert {tuple(cell) for cell in output.valid.nonzero().tolist()} == set(expected)
    found = {cell: float(output.band[cell]) for cell in expected}
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(n=st.integers(1, 100), window=st.integers(0, 40), rows=st.sampled_from([1, 8, 32]))
def test_banded_product(n: int, window: int, rows: int) -> None:
    query, key = torch.randn(n, 3, dtype=torch.float64), torch.randn(window + n, 3, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mentions, "_ROWS", rows)
        band = banded_product(query, key, window)
    expected = [[query[i] @ key[window + i - back] for back in range(window + 1)] for i in range(n)]
    torch.testing.assert_close(band, torch.tensor(expected, dtype=torch.float64).view(n, window + 1))


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mentions, "BLOCK", 4)
    probe = make_probe(2)
    names, parameters = zip(*probe.named_parameters(), strict=True)

    def run(words: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(probe, weights, (WordStates({LAYER: words}, (4, 2)),))
        return probe.loss(output, output.valid & is_mention, torch.tensor([True] * 5 + [False]))

    is_mention = torch.rand(6, 3) > 0.5
    words = torch.randn(6, WIDTH, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (words, *parameters))


def test_balanced_bce_by_hand() -> None:
    """One positive and three negatives at probability 1/2, so four losses of log 2."""
    logits, positive = torch.zeros(4), torch.tensor([True, False, False, False])
    everything = torch.ones(4, dtype=torch.bool)
    for balance, weight in ((1.0, 3.0), (0.5, math.sqrt(3)), (0.0, 1.0)):
        found = balanced_bce(logits, positive, everything, balance).item()
        assert found == pytest.approx((weight + 3) / weight * math.log(2))
        # what does not count changes nothing
        more = torch.tensor([0.0, 0, 0, 0, 9]), torch.tensor([1, 0, 0, 0, 1]).bool(), torch.tensor([1, 1, 1, 1, 0]).bool()
        assert balanced_bce(*more, balance).item() == pytest.approx(found)
        # without positives, and without negatives, it is the usual mean
        for same in (torch.zeros(4, dtype=torch.bool), everything):
            assert balanced_bce(logits, same, everything, balance).item() == pytest.approx(math.log(2))


@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans(), st.booleans()), min_size=1, max_size=30), st.floats(0, 1))
def test_balanced_bce_equals_sum(cells: list[tuple[float, bool, bool]], balance: float) -> None:
    _, positive, valid = (torch.tensor(column) for column in zip(*cells, strict=True))
    logits = torch.tensor([x for x, _, _ in cells], dtype=torch.float64)
    counted = [(x, gold) for x, gold, counts in cells if counts]
    n_positive = sum(gold for _, gold in counted)
    n_negative = len(counted) - n_positive
    weight = (n_negative / n_positive) ** balance if n_positive and n_negative else 1.0
    losses = [weight * math.log1p(math.exp(-x)) if gold else math.log1p(math.exp(x)) for x, gold in counted]
    found = balanced_bce(logits, positive, valid, balance)
    assert found.item() == pytest.approx(sum(losses) / max(weight * n_positive or len(losses), 1), rel=1e-9, abs=1e-12)
    if (positive & valid).any():  # as published, but for the number that the sum is divided by
        theirs = F.binary_cross_entropy_with_logits(
            logits[valid], positive[valid].double(), pos_weight=torch.tensor(weight, dtype=torch.float64)
        )
        torch.testing.assert_close(found * weight * n_positive, theirs * len(counted))


def test_nothing_known_gives_no_gradient() -> None:
    probe = make_probe()
    output = probe(make_states([3, 4]))
    loss = probe.loss(output, output.valid, torch.zeros(7, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert not any(parameter.grad.any() for parameter in probe.parameters() if parameter.grad is not None)


@given(
    lengths=st.lists(st.integers(0, 7), max_size=4),
    window=st.integers(0, 4),
    per_word=st.sampled_from([0, 0.2, 0.5, 1, 3, 100]),
)
def test_top_spans_are_the_best_of_each_document(lengths: list[int], window: int, per_word: float) -> None:
    n = sum(lengths)
    band = torch.randn(n, window + 1)
    inside = [i - back >= 0 for length in lengths for i in range(length) for back in range(window + 1)]
    output = MentionOutput(band, torch.tensor(inside, dtype=torch.bool).view(n, window + 1))
    spans = top_spans(output, lengths, per_word)
    found = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    expected = []
    first = 0
    for length in lengths:
        of_document = [(first + i - k, first + i + 1) for i in range(length) for k in range(window + 1) if k <= i]
        ranked = sorted(of_document, key=lambda span: -float(band[span[1] - 1, span[1] - span[0] - 1]))
        expected += sorted(ranked[: math.ceil(length * per_word)], key=lambda span: (span[1], span[1] - span[0]))
        first += length
    assert found == expected


def test_spans_to_band_leaves_out_only_spans_that_are_too_wide() -> None:
    spans = Spans(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 4, 4, 4]))
    band = spans_to_band(spans, (5, 3))
    assert band.nonzero().tolist() == [[0, 0], [3, 1], [3, 2]]


def test_words_of_two_windows_are_no_span() -> None:
    """What was read from different windows is scored as if it were in different documents."""
    probe, states = make_probe(), make_states((12, 5))
    read = states._replace(runs=(7, 5, 5))
    cut = probe(states._replace(lengths=(7, 5, 5)))
    found = probe(read)
    torch.testing.assert_close(found.band, cut.band)
    assert torch.equal(found.valid, cut.valid)
    assert not found.valid[7, 1]
