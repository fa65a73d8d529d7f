"""The bi-encoder's formulas against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from entitykit.models.bi_encoder import BiEncoder, BiEncoderSettings, contrastive_loss, span_means
from entitykit.models.scale import MAX_SCALE
from entitykit.types import TOP, EntityTokens, Spans, WordStates


def reference_loss(logits: np.ndarray, gold: list[int], entities: list[int]) -> float:
    """Row by row: -log of the share of the gold column among itself and the columns of other entities."""
    losses = []
    for row, column in zip(logits, gold, strict=True):
        if column >= 0:
            others = [x for x, entity in zip(row, entities, strict=True) if entity != entities[column]]
            losses.append(-math.log(math.exp(row[column]) / (math.exp(row[column]) + sum(map(math.exp, others)))))
    return sum(losses) / len(losses)


def test_loss() -> None:
    """In the batch an entity stands twice, one is a mined negative, and a mention has no entity."""
    logits = torch.randn(5, 6)
    gold, entities = [0, 1, 2, -1, 4], [7, 8, 7, 9, 3, 5]
    found = contrastive_loss(logits, torch.tensor(gold), torch.tensor(entities))
    assert float(found) == pytest.approx(reference_loss(logits.double().numpy(), gold, entities), rel=1e-5)


def test_loss_of_distinct_entities_is_that_of_blink() -> None:
    """The target of row i is column i."""
    logits = torch.randn(4, 4)
    numbers = torch.arange(4)
    torch.testing.assert_close(contrastive_loss(logits, numbers, numbers + 100), F.cross_entropy(logits, numbers))


def test_loss_without_mentions() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    logits = torch.zeros(0, 0, requires_grad=True)
    assert contrastive_loss(logits, nothing, nothing).item() == 0
    assert float(contrastive_loss(torch.randn(2, 3), torch.tensor([-1, -1]), torch.arange(3))) == 0


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("projection", [None, 5])
def test_scores(cosine: bool, projection: int | None) -> None:
    head = BiEncoder(BiEncoderSettings(width=8, cosine=cosine, projection=projection, temperature=0.1)).eval()
    mentions, entities = torch.randn(3, 8), torch.randn(4, 8)
    found = head(head.mentions(mentions), head.entities(entities)).logits.detach().numpy()
    m, e = mentions.numpy(), entities.numpy()
    if head.of_mentions is not None and head.of_entities is not None:
        m, e = (
            x @ part.weight.detach().numpy().T + part.bias.detach().numpy()
            for x, part in ((m, head.of_mentions), (e, head.of_entities))
        )
    if cosine:
        m, e = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (m, e))
    np.testing.assert_allclose(found, 10 * m @ e.T, rtol=1e-4, atol=1e-5)


def test_temperature_is_learned_within_bounds() -> None:
    head = BiEncoder(BiEncoderSettings(width=4))
    output = head(head.mentions(torch.randn(3, 4)), head.entities(torch.randn(3, 4)))
    head.loss(output, torch.arange(3), torch.arange(3)).backward()
    assert head.log_scale.grad is not None
    assert head.log_scale.grad != 0


def test_gradient_of_the_scale_is_that_of_exp() -> None:
    head = BiEncoder(BiEncoderSettings(width=4, temperature=0.02))
    (3 * head.scale).backward()
    assert head.log_scale.grad is not None
    assert head.log_scale.grad.item() == pytest.approx(150.0)


@pytest.mark.parametrize("temperature", [0.0099, 1e-6])
def test_scale_comes_back_from_beyond_its_bound(temperature: float) -> None:
    """It is never greater, a loss that wants less of it gets less, and one that wants more does not lead further away."""
    head = BiEncoder(BiEncoderSettings(width=4, temperature=temperature))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01)
    before = head.log_scale.item()
    for sign in (-1, 1):
        for _ in range(30):
            assert head.scale.item() <= MAX_SCALE
            optimizer.zero_grad()
            (sign * head.scale.sum()).backward()
            optimizer.step()
        assert (head.log_scale.item() == before) is (sign == -1)
    assert head.scale.item() < MAX_SCALE


def test_states_of_mentions() -> None:
    """Means of words or, where the encoder has them, entity tokens."""
    words = torch.randn(9, 4)
    spans = Spans(torch.tensor([3, 0, 3]), torch.tensor([5, 9, 4]))
    expected = np.stack([words.numpy()[a:b].mean(0) for a, b in ((3, 5), (0, 9), (3, 4))])
    np.testing.assert_allclose(span_means(words, spans), expected, rtol=1e-5, atol=1e-6)
    head = BiEncoder(BiEncoderSettings(width=4))
    np.testing.assert_allclose(head.states(WordStates({TOP: words}, (9,)), spans), expected, rtol=1e-5, atol=1e-6)
    tokens = torch.randn(2, 4)
    states = WordStates({TOP: words}, (9,), EntityTokens(Spans(torch.tensor([0, 3]), torch.tensor([9, 5])), tokens))
    torch.testing.assert_close(head.states(states, Spans(torch.tensor([3, 0]), torch.tensor([5, 9]))), tokens[[1, 0]])
