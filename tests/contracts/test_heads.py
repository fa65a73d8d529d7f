"""One table of heads, one list of contracts: tensors in, named tuples out, whatever lies beside a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from entitykit.bridge.shim import TorchShim
from entitykit.models.mentions import build_tommer
from entitykit.models.ner import NEROutput, build_span_ner, build_spert
from entitykit.models.relations import RelationOutput, build_spert_relations
from entitykit.models.relations_enrico import EnriCoOutput, build_enrico
from entitykit.models.spans import all_spans
from entitykit.models.typed_tommer import build_typed_tommer
from entitykit.types import TOP, EntityPairs, MentionOutput, Spans, WordStates

Output = MentionOutput | NEROutput | RelationOutput | EnriCoOutput

WIDTH, PROBE_LAYER = 12, 1
LABELS = ["A", "B"]
COMMON = {"width": WIDTH, "labels": LABELS}
CPU = torch.device("cpu")


class Case(NamedTuple):
    """How a head is built, and the spans that it must be given, or pairs of words."""

    build: Callable[[Mapping[str, Any]], nn.Module]
    settings: dict[str, Any]
    max_width: int
    pairs: bool = False


HEADS = {
    "ToMMeR": Case(build_tommer, {"layer": PROBE_LAYER, "rank": 4, "window": 3}, 0),
    "ToMMeR-published": Case(
        build_tommer, {"layer": PROBE_LAYER, "rank": 4, "window": 3, "start_terms": False, "width_bias": False}, 0
    ),
    "ToMMeR-dot": Case(build_tommer, {"layer": PROBE_LAYER, "rank": 4, "window": 3, "cosine": False}, 0),
    "SpanNER": Case(build_span_ner, {"probe_layer": PROBE_LAYER, "rank": 4, "window": 3, "hidden": 8, "proposals": 1.0}, 2),
    "TypedToMMeR": Case(
        build_typed_tommer, {"probe_layer": PROBE_LAYER, "rank": 4, "window": 3, "hidden": 8, "threshold": 0.0}, 2
    ),
    "SpERT": Case(build_spert, {"max_width": 3, "context": 2}, 3),
    "SpERTRelations": Case(build_spert_relations, {"entity_types": ["X"], "hidden": 8}, 1, pairs=True),
    "SpERTRelations-published": Case(
        build_spert_relations,
        {
            "entity_types": [],
            "hidden": 0,
            "ends": False,
            "types": 0,
            "directed": False,
            "near": False,
            "product": 0,
            "max_width": 1,
        },
        1,
        pairs=True,
    ),
    "EnriCo": Case(build_enrico, {"entity_types": ["X"], "joint": False, "size": 8, "heads": 2, "context": 2}, 1, pairs=True),
}
LENGTHS = (5, 1, 0, 9, 3, 0)


@pytest.fixture(params=HEADS)
def case(request: pytest.FixtureRequest) -> Case:
    return HEADS[request.param]


@pytest.fixture
def head(case: Case) -> nn.Module:
    return case.build(case.settings | COMMON).eval()


def make_states(lengths: Sequence[int]) -> WordStates:
    """Words of white space, whose states are zeros, are among them."""
    layers = {layer: torch.randn(sum(lengths), WIDTH) for layer in (PROBE_LAYER, TOP)}
    for words in layers.values():
        words[::4] = 0
    return WordStates(layers, tuple(lengths))


def given_spans(case: Case, lengths: Sequence[int]) -> Spans | EntityPairs:
    """Pairs are of each word with the one after the next, in a circle."""
    nothing = torch.zeros(0, dtype=torch.long)
    if case.pairs:
        words = torch.arange(sum(lengths))
        tails = [first + (i + 2) % n for n, first in zip(lengths, _firsts(lengths), strict=True) for i in range(n)]
        return EntityPairs(words, words + 1, torch.ones_like(words), words, torch.tensor(tails, dtype=torch.long))
    return all_spans(lengths, case.max_width, CPU) if case.max_width else Spans(nothing, nothing)


def _firsts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


def scored(output: Output) -> dict[tuple[int, ...], Tensor]:
    """Each span's scores, or each pair's."""
    if isinstance(output, RelationOutput | EnriCoOutput):
        entities = output.entities
        columns = [part[side].tolist() for side in (entities.heads, entities.tails) for part in entities[:2]]
        return dict(zip(zip(*columns, strict=True), output.logits, strict=True))
    if isinstance(output, MentionOutput):
        return {(i - back, i + 1): output.band[i, back] for i, back in output.valid.nonzero().tolist()}
    pairs = zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True)
    return dict(zip(pairs, output.logits, strict=True))


def loss(head: Any, output: Output) -> Tensor:
    """With every third span gold, and all documents annotated."""
    if isinstance(output, RelationOutput | EnriCoOutput):
        targets = torch.arange(output.logits.numel()).view_as(output.logits) % 3 == 0
        known = torch.ones(len(targets), dtype=torch.bool)
        seen = (targets, known) if isinstance(output, EnriCoOutput) else ()  # all pairs pass the filter
        return head.loss(output, targets, known, *seen)
    if isinstance(output, MentionOutput):
        gold = torch.arange(output.band.numel()).view_as(output.band) % 3 == 0
        return head.loss(output, gold & output.valid, torch.ones(len(gold), dtype=torch.bool))
    classes = torch.arange(len(output.logits)) % (len(LABELS) + 1)
    if output.mentions is None:
        return head.loss(output, classes)
    gold = torch.arange(output.mentions.band.numel()).view_as(output.mentions.band) % 3 == 0
    return head.loss(output, classes, gold & output.mentions.valid, torch.ones(len(gold), dtype=torch.bool))


def test_gradients_reach_every_parameter(case: Case, head: nn.Module) -> None:
    """And the states of every layer that is read, all of them finite."""
    states = make_states(LENGTHS)
    leaves = {layer: words.requires_grad_() for layer, words in states.layers.items()}
    loss(head, head(WordStates(leaves, LENGTHS), given_spans(case, LENGTHS))).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    read = [words.grad for words in leaves.values() if words.grad is not None]
    assert read
    assert all(gradient.any() and gradient.isfinite().all() for gradient in read)


@torch.no_grad()
def test_documents_together_equal_documents_alone(case: Case, head: nn.Module) -> None:
    states = make_states(LENGTHS)
    together = scored(head(states, given_spans(case, LENGTHS)))
    found = {}
    first = 0
    for length in LENGTHS:
        layers = {layer: words[first : first + length] for layer, words in states.layers.items()}
        alone = scored(head(WordStates(layers, (length,)), given_spans(case, (length,))))
        found |= {tuple(i + first for i in span): values for span, values in alone.items()}
        first += length
    assert found.keys() == together.keys()
    torch.testing.assert_close([found[span] for span in together], list(together.values()), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_documents_do_not_touch(case: Case, head: nn.Module) -> None:
    """Other words next door change nothing."""
    lengths = (4, 5)
    states = make_states(lengths)
    before = scored(head(states, given_spans(case, lengths)))
    for words in states.layers.values():
        words[4:] = torch.randn(5, WIDTH) * 100
    after = scored(head(states, given_spans(case, lengths)))
    for span, values in before.items():
        if max(span) <= 4:
            torch.testing.assert_close(after[span], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [(), (0,), (0, 0), (1,), (0, 1, 0)], ids=str)
def test_nothing_and_nearly_nothing(case: Case, head: nn.Module, lengths: tuple[int, ...]) -> None:
    states = make_states(lengths)
    leaves = {layer: words.requires_grad_() for layer, words in states.layers.items()}
    output = head(WordStates(leaves, lengths), given_spans(case, lengths))
    assert len(scored(output)) == sum(lengths)
    value = loss(head, output)
    assert value.isfinite()
    if sum(lengths):
        value.backward()


def test_words_of_zeros_only(case: Case, head: nn.Module) -> None:
    lengths = (3, 2)
    states = WordStates({layer: torch.zeros(5, WIDTH, requires_grad=True) for layer in (PROBE_LAYER, TOP)}, lengths)
    value = loss(head, head(states, given_spans(case, lengths)))
    value.backward()
    assert value.isfinite()
    assert all(p.grad.isfinite().all() for p in [*states.layers.values(), *head.parameters()] if p.grad is not None)


@torch.no_grad()
def test_dropout_in_training_only(case: Case, head: nn.Module) -> None:
    states, spans = make_states(LENGTHS), given_spans(case, LENGTHS)
    once, twice = (scored(head(states, spans)) for _ in range(2))
    assert all(torch.equal(once[span], twice[span]) for span in once)


@torch.no_grad()
def test_saved_with_its_settings(case: Case) -> None:
    """No default of today may change what was saved yesterday."""
    shim = TorchShim(case.build, group="head")
    shim.create(case.settings | COMMON)
    loaded = TorchShim(case.build, group="head").from_bytes(shim.to_bytes())
    assert loaded.settings == case.settings | COMMON
    states, spans = make_states(LENGTHS), given_spans(case, LENGTHS)
    a, b = (scored(s.module(states, spans)) for s in (shim, loaded))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[span], b[span]) for span in a)
