"""Modules of external knowledge against the published formulas, written one number at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from entitykit.models.encoder.knowledge import (
    ABSENT,
    CandidateMixture,
    CandidateMixtureSettings,
    SigmoidCrossAttention,
    SigmoidCrossAttentionSettings,
    VectorProjection,
    VectorProjectionSettings,
    margin_link_loss,
    softmax_link_loss,
)

WIDTH, VECTOR_WIDTH, N, C = 6, 4, 5, 3
PRESENT = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
Row = list[float]


def randomized(module: nn.Module) -> nn.Module:
    """Double precision, no dropout, and nothing at the value that it starts with."""
    module = module.double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """States, vectors with NaN where none is present, and priors."""
    vectors = torch.randn(N, C, VECTOR_WIDTH, dtype=torch.float64).masked_fill(~PRESENT[:, :, None], math.nan)
    priors = torch.rand(N, C, dtype=torch.float64)  # of some spans they add up to more than 1
    return torch.randn(N, WIDTH, dtype=torch.float64), vectors, priors


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def affine(x: Row, layer: nn.Linear) -> Row:
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [dot(row, x) + b for row, b in zip(layer.weight.tolist(), bias, strict=True)]


def normalize(x: Row, norm: nn.LayerNorm) -> Row:
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    parameters = zip(norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(v - mean) / math.sqrt(variance + norm.eps) * w + b for v, (w, b) in zip(x, parameters, strict=True)]


def plus(a: Row, b: Row) -> Row:
    return [x + y for x, y in zip(a, b, strict=True)]


def weighted(weights: Sequence[float], rows: Sequence[Row]) -> Row:
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def candidates(vectors: Tensor, row: int) -> list[tuple[int, Row]]:
    return [(i, vectors[row, i].tolist()) for i in range(C) if PRESENT[row, i]]


@torch.no_grad()
def test_vector_projection() -> None:
    module = randomized(VectorProjection(VectorProjectionSettings(width=WIDTH, vector_width=VECTOR_WIDTH)))
    states, vectors, _ = inputs()
    expected = []
    for row, state in enumerate(states.tolist()):
        for _, vector in candidates(vectors, row)[:1]:
            state = plus(state, affine(normalize(vector, module.norm), module.out))
        expected.append(state)
    torch.testing.assert_close(module(states, vectors, PRESENT).states, torch.tensor(expected, dtype=torch.float64))


def mixed(module: CandidateMixture, state: Row, found: list[tuple[int, Row]], priors: Row) -> tuple[Row, float, Row]:
    """The new state, the score of "none of them" and those of the candidates."""
    projected = normalize(affine(state, module.state), module.state_norm)

    def score(entity: Row, prior: float) -> float:
        hidden = affine([dot(projected, entity) / math.sqrt(VECTOR_WIDTH), prior], module.inner)
        return affine([max(0.0, h) for h in hidden], module.outer)[0]

    none = module.none.tolist()
    entities = [normalize(vector, module.vector_norm) for _, vector in found]
    scores = [score(entity, prior) for entity, prior in zip(entities, priors, strict=True)]
    none_score = score(none, max(0.0, 1 - sum(priors)))
    if module.settings.link == "softmax":
        total = sum(map(math.exp, [none_score, *scores]))
        mixture = weighted([math.exp(s) / total for s in (none_score, *scores)], [none, *entities])
    else:
        none_score = module.settings.threshold
        kept = [(s, e) for s, e in zip(scores, entities, strict=True) if s >= module.settings.threshold]
        total = sum(math.exp(s) for s, _ in kept)
        mixture = weighted([math.exp(s) / total for s, _ in kept], [e for _, e in kept]) if kept else none
    return plus(state, affine(normalize(plus(projected, mixture), module.mixture_norm), module.out)), none_score, scores


@torch.no_grad()
@pytest.mark.parametrize("with_priors", [True, False])
@pytest.mark.parametrize(("link", "threshold"), [("softmax", 0.0), ("margin", 0.0), ("margin", 1e3), ("margin", -1e3)])
def test_candidate_mixture(link: str, threshold: float, with_priors: bool) -> None:
    module = CandidateMixture(
        CandidateMixtureSettings(width=WIDTH, vector_width=VECTOR_WIDTH, link=link, threshold=threshold, hidden=7)
    )
    randomized(module)
    states, vectors, priors = inputs()
    expected, expected_scores = [], []
    for row, state in enumerate(states.tolist()):
        found = candidates(vectors, row)
        scores = [threshold] + [ABSENT] * C
        if found:
            of_row = [priors[row, i].item() if with_priors else 1 / (1 + len(found)) for i, _ in found]
            state, scores[0], given = mixed(module, state, found, of_row)
            for (i, _), score in zip(found, given, strict=True):
                scores[1 + i] = score
        expected.append(state)
        expected_scores.append(scores)
    output = module(states, vectors, PRESENT, priors if with_priors else None)
    torch.testing.assert_close(output.states, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(output.scores, torch.tensor(expected_scores, dtype=torch.float64))


def read_by_kpr(module: SigmoidCrossAttention, state: Row, found: list[Row], positions: list[Row]) -> Row:
    keys = [module.nothing.tolist()]
    for vector, position in zip(found, positions, strict=True):
        keys.append(normalize(plus(affine(vector, module.vector), position), module.vector_norm))
    query = affine(state, module.query)
    size = WIDTH // module.settings.n_heads
    read = []
    for start in range(0, WIDTH, size):
        head = slice(start, start + size)
        scores = [dot(query[head], affine(key, module.key)[head]) / math.sqrt(size) - math.log(len(keys)) for key in keys]
        weights = [1 / (1 + math.exp(-score)) for score in scores]
        read += weighted(weights, [affine(key, module.value)[head] for key in keys])
    return normalize(plus(state, read), module.norm)


@torch.no_grad()
@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("gate", [1.0, 0.3])
def test_sigmoid_cross_attention(n_heads: int, gate: float) -> None:
    """With the gate at 1 this is the published formula."""
    settings = SigmoidCrossAttentionSettings(width=WIDTH, vector_width=VECTOR_WIDTH, n_heads=n_heads)
    module = randomized(SigmoidCrossAttention(settings))
    module.gate.fill_(gate)
    states, vectors, _ = inputs()
    positions = torch.randn(N, C, WIDTH, dtype=torch.float64)
    for given in (positions, None):
        expected = []
        for row, state in enumerate(states.tolist()):
            found = candidates(vectors, row)
            if found:
                at = [[0.0] * WIDTH if given is None else given[row, i].tolist() for i, _ in found]
                full = read_by_kpr(module, state, [vector for _, vector in found], at)
                state = [(1 - gate) * old + gate * new for old, new in zip(state, full, strict=True)]
            expected.append(state)
        output = module(states, vectors, PRESENT, positions=given)
        torch.testing.assert_close(output.states, torch.tensor(expected, dtype=torch.float64))


SCORES = torch.tensor([[0.5, 1.0, -0.3], [0.0, 0.1, ABSENT], [0.2, ABSENT, 0.15], [0.0, ABSENT, ABSENT], [0.0, 2.0, 3.0]])
THERE = SCORES[:, 1:] != ABSENT
GOLD = torch.tensor([1, 0, 2, 0, -100])


def test_margin_loss_by_hand() -> None:
    # row 0: right 1.0, wrong -0.3; row 1: wrong 0.1; row 2: right 0.15; row 3 has no candidates, row 4 no annotation
    expected = (max(0, 0.2 - 1.0) + max(0, 0.2 - 0.3) + (0.2 + 0.1) + (0.2 - 0.15)) / 4
    assert margin_link_loss(SCORES, GOLD, THERE).item() == pytest.approx(expected)
    assert margin_link_loss(SCORES, GOLD, THERE, margin=0.5).item() == pytest.approx((0 + 0.2 + 0.6 + 0.35) / 4)


def test_softmax_loss_by_hand() -> None:
    def term(right: float, *others: float) -> float:
        return -math.log(math.exp(right) / sum(map(math.exp, (right, *others))))

    expected = (term(1.0, 0.5, -0.3) + term(0.0, 0.1) + term(0.15, 0.2)) / 3
    assert softmax_link_loss(SCORES, GOLD, THERE).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [softmax_link_loss, margin_link_loss])
def test_losses_of_nothing(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    scores = SCORES[3:].clone().requires_grad_()
    value = loss(scores, GOLD[3:], THERE[3:])
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()
    assert loss(torch.zeros(0, 3), GOLD[:0], THERE[:0]).item() == 0
    assert loss(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), torch.zeros(2, 0, dtype=torch.bool)).item() == 0


@pytest.mark.parametrize("link", ["softmax", "margin"])
def test_gradients_of_a_linker(link: str) -> None:
    """Through scores, states and all parameters, by finite differences."""
    module = CandidateMixture(CandidateMixtureSettings(width=3, vector_width=2, link=link, hidden=3))
    randomized(module)
    names, parameters = zip(*module.named_parameters(), strict=True)
    vectors = torch.randn(N, C, 2, dtype=torch.float64)

    def run(states: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weights = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(module, weights, (states, vectors, PRESENT))
        return output.states, module.loss(output.scores, torch.tensor([2, 0, 0, -100, 3]), PRESENT)

    assert torch.autograd.gradcheck(run, (torch.randn(N, 3, dtype=torch.float64, requires_grad=True), *parameters))
