"""One table of heads, one list of contracts: tensors in, named tuples out, whatever lies beside a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from entitykit.bridge.procedures import Participant, Procedure, Reading, pack_procedures
from entitykit.bridge.shim import TorchShim
from entitykit.decoding.tracker import TAGS, may_follow, may_start
from entitykit.models.antecedent_coref import build_antecedent_coref
from entitykit.models.cluster_relations import ClusterRelationOutput, build_cluster_relations
from entitykit.models.coref import CorefOutput, build_online_coref
from entitykit.models.cross_document import MentionVectors, build_cross_document
from entitykit.models.keywords import KeywordOutput, build_keywords
from entitykit.models.major_entities import build_major_entities
from entitykit.models.mentions import build_tommer
from entitykit.models.ner import NEROutput, build_span_ner, build_spert
from entitykit.models.relations import RelationOutput, build_spert_relations
from entitykit.models.relations_enrico import EnriCoOutput, build_enrico
from entitykit.models.salience import SalienceOutput, build_salience
from entitykit.models.spans import all_spans
from entitykit.models.tracker import TrackerBatch, TrackerOutput, build_state_tracker
from entitykit.models.typed_tommer import build_typed_tommer
from entitykit.types import TOP, ClusterPairs, EntityMentions, EntityPairs, GivenMentions, MentionOutput, Spans, WordStates

Output = (
    MentionOutput
    | NEROutput
    | RelationOutput
    | EnriCoOutput
    | ClusterRelationOutput
    | CorefOutput
    | MentionVectors
    | SalienceOutput
    | TrackerOutput
    | KeywordOutput
)

WIDTH, PROBE_LAYER = 12, 1
LABELS = ["A", "B"]
COMMON = {"width": WIDTH, "labels": LABELS}
CPU = torch.device("cpu")


class Case(NamedTuple):
    """How a head is built, and the spans that it must be given, pairs of words, or words as mentions of entities."""

    build: Callable[[Mapping[str, Any]], nn.Module]
    settings: dict[str, Any]
    max_width: int
    pairs: bool = False
    clusters: bool = False
    mentions: bool = False
    entities: bool = False
    procedures: bool = False


COREF = {"proposed": False, "size": 8, "match": 4, "hidden": 6}
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
    "Keywords": Case(build_keywords, {"hidden": 8}, 1),
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
    "OnlineCoref": Case(build_online_coref, COREF, 1, mentions=True),
    "OnlineCoref-gate": Case(build_online_coref, COREF | {"update": "gate"}, 1, mentions=True),
    "OnlineCoref-speakers": Case(build_online_coref, COREF | {"speakers": True}, 1, mentions=True),
    "AntecedentCoref": Case(build_antecedent_coref, COREF, 1, mentions=True),
    "MajorEntities": Case(build_major_entities, COREF | {"least": 2}, 1, mentions=True),
    "MajorEntities-absent": Case(
        build_major_entities, COREF | {"least": 2, "absent": 2, "absent_share": 1.0, "speakers": True}, 1, mentions=True
    ),
    "CrossDocument": Case(build_cross_document, {"hidden": 8}, 2),
    "CrossDocument-projection": Case(build_cross_document, {"hidden": 8, "projection": 4, "document": False}, 1),
    "ClusterRelations": Case(
        build_cluster_relations, {"entity_types": ["X"], "size": 8, "hidden": 8, "product": 4}, 1, clusters=True
    ),
    "ClusterRelations-evidence": Case(
        build_cluster_relations,
        {"entity_types": ["X"], "size": 8, "hidden": 8, "product": 4, "evidence": True},
        1,
        clusters=True,
    ),
    "ClusterRelations-plain": Case(
        build_cluster_relations,
        {"entity_types": [], "size": 8, "hidden": 8, "product": 0, "types": 0, "nearest": False, "adaptive": False},
        1,
        clusters=True,
    ),
    "Salience": Case(build_salience, {"hidden": 8, "fit": 4, "deciles": 3}, 1, entities=True),
    "Salience-states": Case(build_salience, {"hidden": 8, "fit": 0, "counts": False, "deciles": 0}, 1, entities=True),
    "EnriCo": Case(build_enrico, {"entity_types": ["X"], "joint": False, "size": 8, "heads": 2, "context": 2}, 1, pairs=True),
}
TRACKER = {"starts": may_start().tolist(), "transitions": may_follow().tolist(), "hidden": 8, "size": 4}
HEADS |= {
    "StateTracker": Case(build_state_tracker, TRACKER, 1, procedures=True),
    "StateTracker-marked": Case(build_state_tracker, TRACKER | {"marked": True}, 1, procedures=True),
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


def given_spans(case: Case, lengths: Sequence[int]) -> Any:
    """Pairs are of each word with the one after the next, in a circle; every other word is a mention of the same entity."""
    nothing = torch.zeros(0, dtype=torch.long)
    if case.procedures:
        return given_procedures(lengths, marked=case.settings.get("marked", False))
    if case.clusters:
        return given_clusters(lengths)
    if case.entities:
        return given_entities(lengths)
    if case.mentions:
        words = torch.arange(sum(lengths))
        entities = [2 * document + i % 2 for document, n in enumerate(lengths) for i in range(n)]
        names = [(i % 6 // 2, i % 2, i % 4) for n in lengths for i in range(n)]
        spoken = [(i % 3, i % 3 * (1 + i % 2)) for n in lengths for i in range(n)]
        parts = [torch.tensor(part, dtype=torch.long) for part in (entities, names, spoken)]
        return GivenMentions(words, words + 1, parts[0], parts[1].reshape(-1, 3), parts[2].reshape(-1, 2))
    if case.pairs:
        words = torch.arange(sum(lengths))
        tails = [first + (i + 2) % n for n, first in zip(lengths, _firsts(lengths), strict=True) for i in range(n)]
        return EntityPairs(words, words + 1, torch.ones_like(words), words, torch.tensor(tails, dtype=torch.long))
    return all_spans(lengths, case.max_width, CPU) if case.max_width else Spans(nothing, nothing)


def given_clusters(lengths: Sequence[int]) -> ClusterPairs:
    """Entity i has word i and the next one, in a circle, and is nearest to others by word i; every third begins a sentence."""
    places = [(n, first, i) for n, first in zip(lengths, _firsts(lengths), strict=True) for i in range(n)]
    mentions = sorted((first + (i + k) % n, first + i) for n, first, i in places for k in (0, 1))
    words, entities = torch.tensor(mentions, dtype=torch.long).reshape(-1, 2).unbind(1)
    own = {entity: row for row, (word, entity) in enumerate(mentions) if word == entity}
    pairs = [(first + i, first + (i + 2) % n) for n, first, i in places]
    sides = [torch.tensor([pair[k] for pair in pairs], dtype=torch.long) for k in (0, 1)]
    near = [torch.tensor([own[pair[k]] for pair in pairs], dtype=torch.long) for k in (0, 1)]
    sentences = torch.tensor([i % 3 == 0 for *_, i in places], dtype=torch.long).cumsum(0) - 1
    return ClusterPairs(words, words + 1, entities, torch.ones_like(sides[0]), *sides, *near, sentences)


def given_entities(lengths: Sequence[int]) -> EntityMentions:
    """Entity i has word i and the one after the next, in a circle; every third word begins a sentence."""
    places = [(n, first, i) for n, first in zip(lengths, _firsts(lengths), strict=True) for i in range(n)]
    words = torch.tensor([first + (i + k) % n for n, first, i in places for k in (0, 2)], dtype=torch.long)
    starts = torch.tensor([i % 3 == 0 for *_, i in places], dtype=torch.long)
    return EntityMentions(words, words + 1, torch.arange(len(places)).repeat_interleave(2), starts.cumsum(0) - 1)


def given_procedures(lengths: Sequence[int], *, marked: bool) -> TrackerBatch:
    """Every word is a step, and read as two; every third mentions the participant, every other one and the last are a place."""
    procedures, readings = [], []
    for n, first in zip(lengths, _firsts(lengths), strict=True):
        places = [[(i, i + 1), (n - 1, n)] for i in range(0, n, 2)]
        participants = [Participant("x", [(i, i + 1) for i in range(0, n, 3)])] if n else []
        steps = [(i, i + 1) for i in range(n)]
        procedures.append(Procedure(n, steps, participants, places, [str(i) for i in range(len(places))]))
        rows = first + np.arange(n)[None]
        marks = np.append(first, rows) if marked else np.full(n + 1, -1)
        readings.append([Reading(rows, np.minimum(first + n - rows, 2), marks)] * len(participants))
    return pack_procedures(procedures, readings)


def _firsts(lengths: Sequence[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


def scored(output: Output) -> dict[tuple[int, ...], Tensor]:
    """Each span's scores, or each pair's."""
    if isinstance(output, KeywordOutput):
        return {(i, i + 1): logit for i, logit in enumerate(output.logits)}
    if isinstance(output, TrackerOutput):  # moments behind a step are known by its word
        moments = output.batch.step_counts.nonzero()[:, 0].tolist()
        cells = output.places.split(output.batch.cell_counts.tolist())
        values = [torch.cat([output.tags[moment], cells[moment]]) for moment in moments]
        rows = [rows[0] for rows in output.batch.step_rows.split(output.batch.step_counts.tolist()) if len(rows)]
        return {(int(row), int(row) + 1): each for row, each in zip(rows, values, strict=True)}
    if isinstance(output, ClusterRelationOutput):  # entities are numbered as words
        pairs = zip(output.pairs.heads.tolist(), output.pairs.tails.tolist(), strict=True)
        said = [torch.zeros(0)] * len(output.logits)
        if output.evidence is not None:
            said = [output.evidence(torch.tensor([row])) for row in range(len(output.logits))]
        return dict(zip(pairs, map(torch.cat, zip(output.logits, said, strict=True)), strict=True))
    if isinstance(output, RelationOutput | EnriCoOutput):
        entities = output.entities
        columns = [part[side].tolist() for side in (entities.heads, entities.tails) for part in entities[:2]]
        return dict(zip(zip(*columns, strict=True), output.logits, strict=True))
    if isinstance(output, SalienceOutput):  # an entity is known by its two mentions
        return dict(zip(map(tuple, output.entities.starts.view(-1, 2).tolist()), output.logits, strict=True))
    if isinstance(output, CorefOutput):
        pairs = zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True)
        return dict(zip(pairs, torch.cat([output.logits[:, None], output.vectors], dim=1), strict=True))
    if isinstance(output, MentionOutput):
        return {(i - back, i + 1): output.band[i, back] for i, back in output.valid.nonzero().tolist()}
    pairs = zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True)
    return dict(zip(pairs, output.vectors if isinstance(output, MentionVectors) else output.logits, strict=True))


def loss(head: Any, output: Output) -> Tensor:
    """With every third span gold, and all documents annotated."""
    if isinstance(output, RelationOutput | EnriCoOutput | ClusterRelationOutput):
        targets = torch.arange(output.logits.numel()).view_as(output.logits) % 3 == 0
        known = torch.ones(len(targets), dtype=torch.bool)
        seen = (targets, known) if isinstance(output, EnriCoOutput) else ()  # all pairs pass the filter
        if isinstance(output, ClusterRelationOutput) and output.evidence is not None:
            rows = torch.arange(len(targets))
            seen = (rows, torch.arange(len(output.evidence(rows))) % 3 == 0)
        return head.loss(output, targets, known, *seen)
    if isinstance(output, KeywordOutput):
        words = torch.arange(len(output.logits))
        return head.loss(output, words, words % 3 == 0)
    if isinstance(output, TrackerOutput):
        tags = torch.full((len(output.tags),), TAGS.index("E"))
        return head.loss(output, tags, torch.arange(len(tags)) % 2, tags > 0)
    if isinstance(output, SalienceOutput):
        return head.loss(output, torch.arange(len(output.logits)) % 3 / 2)
    if isinstance(output, CorefOutput):
        targets = torch.arange(len(output.logits)) % 3 == 0
        return head.loss(output, targets, torch.ones_like(targets))
    if isinstance(output, MentionVectors):
        others = torch.nn.functional.normalize(torch.ones(2, head.size).cumsum(1), dim=1)
        return head.loss(output, torch.arange(len(output.vectors)) % 3, others)
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
