"""Classifiers of spans: gradients by finite differences, losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import spans as spans_module
from entitykit.models.ner import SpanNER, SpanNERSettings, SpERT, SpERTSettings, mean_cross_entropy
from entitykit.models.spans import join_spans
from entitykit.types import TOP, Spans, WordStates

LENGTHS = (4, 0, 3)
N_WORDS = sum(LENGTHS)
SPANS = Spans(torch.tensor([0, 1, 4, 5]), torch.tensor([1, 4, 7, 6]))


def make_span_ner() -> SpanNER:
    settings = SpanNERSettings(width=4, n_labels=2, probe_layer=1, rank=2, window=2, hidden=5, size_width=2, dropout=0.0)
    return SpanNER(settings).double()


def make_spert() -> SpERT:
    return SpERT(SpERTSettings(width=4, n_labels=2, max_width=2, context=2, size_width=2, dropout=0.0)).double()


def make_words() -> Tensor:
    return torch.randn(N_WORDS, 4, dtype=torch.float64, requires_grad=True)


def test_spert_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans_module, "BLOCK", 3)
    head = make_spert()
    names, parameters = zip(*head.named_parameters(), strict=True)

    def run(words: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(head, weights, (WordStates({TOP: words}, LENGTHS), SPANS))
        return head.loss(output, torch.tensor([1, 0, -100, 2]))

    assert torch.autograd.gradcheck(run, (make_words(), *parameters))


def test_span_ner_gradients() -> None:
    head = make_span_ner()
    names, parameters = zip(*head.named_parameters(), strict=True)
    known = torch.tensor([True] * 4 + [False] * 3)

    def run(top: Tensor, low: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        output = torch.func.functional_call(head, weights, (WordStates({TOP: top, 1: low}, LENGTHS), SPANS))
        classes = (output.spans.starts % 3).masked_fill(~known[output.spans.starts], -100)
        is_mention = torch.arange(N_WORDS)[:, None] % 2 == torch.arange(3)
        return head.loss(output, classes, is_mention, known)

    assert torch.autograd.gradcheck(run, (make_words(), make_words(), *parameters))


def test_span_ner_loss_is_the_sum_of_both() -> None:
    head = make_span_ner()
    output = head(WordStates({TOP: make_words(), 1: make_words()}, LENGTHS), SPANS)
    classes = torch.zeros(len(output.logits), dtype=torch.long)
    gold, known = output.mentions.valid.clone(), torch.ones(N_WORDS, dtype=torch.bool)
    gold[:, 1:] = False
    expected = F.cross_entropy(output.logits, classes) + head.probe.loss(output.mentions, gold, known)
    torch.testing.assert_close(head.loss(output, classes, gold, known), expected)


def test_span_ner_classifies_its_proposals_and_what_is_given() -> None:
    head = make_span_ner()
    states = WordStates({TOP: make_words(), 1: make_words()}, LENGTHS)
    nothing = Spans(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    proposed, joined = pairs(head(states, nothing).spans), pairs(head(states, SPANS).spans)
    assert len(proposed) == math.ceil(4 * 0.5) + math.ceil(3 * 0.5)
    assert joined == sorted(set(proposed) | set(pairs(SPANS)))


def test_mean_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [5.0, 6.0]])
    # -log(1/2) and -log(3/4); the last row is unknown
    expected = (math.log(2) - math.log(3 / 4)) / 2
    assert mean_cross_entropy(logits, torch.tensor([1, 0, -100])).item() == pytest.approx(expected)
    logits.requires_grad_()
    loss = mean_cross_entropy(logits, torch.tensor([-100, -100, -100]))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()
    assert mean_cross_entropy(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long)).item() == 0


def test_join_spans() -> None:
    joined = join_spans(
        Spans(torch.tensor([3, 1, 1]), torch.tensor([4, 5, 2])), Spans(torch.tensor([1, 0]), torch.tensor([2, 9]))
    )
    assert pairs(joined) == [(0, 9), (1, 2), (1, 5), (3, 4)]


def test_spert_context_stops_at_the_document() -> None:
    """Words of other documents change nothing."""
    head = make_spert()
    words = make_words().detach()
    logits = head(WordStates({TOP: words}, LENGTHS), SPANS).logits
    words[4:] = 99.0
    changed = head(WordStates({TOP: words}, LENGTHS), SPANS).logits
    assert torch.equal(logits[:2], changed[:2])
    assert not torch.equal(logits[2:], changed[2:])


def pairs(spans: Spans) -> list[tuple[int, int]]:
    return list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
