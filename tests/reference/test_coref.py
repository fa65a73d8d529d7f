"""`OnlineCoref` step by step: what is learned at once is what the online loop computes, mention after mention."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.bridge.coref_memory import EntityMemory, Found
from entitykit.decoding.coref import MemorySettings, Step
from entitykit.models.coref import NO_ENTITY, CorefOutput, OnlineCoref, build_online_coref
from entitykit.models.coref_words import (
    APART,
    NO_NAME,
    NO_SPEAKER,
    OTHER_FIRST,
    OTHER_GENDER,
    OTHER_NAME,
    OTHER_PROPER,
    OTHER_SPEAKER,
    OTHER_TITLED,
    SAME_FULL,
    SAME_LAST,
    SAME_NAME,
    SAME_SAYING,
    SAME_SPEAKER,
    SAME_WORD,
)
from entitykit.types import MANS_TITLE, NO_TITLE, TITLE, TOP, WOMANS_TITLE, GivenMentions, WordStates

WIDTH, SIZE = 10, 8
LENGTHS = (14, 0, 1, 11)
N_WORDS = sum(LENGTHS)

# (start, end, entity) in order; entities are of one document each; spans overlap and repeat names
GOLD = [
    (0, 2, 7),
    (1, 2, 3),
    (3, 4, 7),
    (5, 8, 1),
    (6, 7, 3),
    (9, 10, 7),
    (9, 12, 7),
    (14, 15, 4),
    (15, 17, 9),
    (18, 19, 2),
    (20, 22, 9),
    (23, 24, 9),
    (24, 26, 2),
]
# of each word; odd for one with a capital; and which of them are titles
TITLED = {0: MANS_TITLE, 15: WOMANS_TITLE, 20: TITLE}
NAMES = [4, 8, 0, 5, 0, 11, 9, 7, 0, 0, 11, 7, 3, 0, 5, 10, 9, 0, 9, 0, 19, 17, 0, 9, 13, 7]

# of each word: who says it, 0 for nobody, and which word it is
WHO = [1, 1, 2, 1, 1, 2, 2, 2, 0, 0, 1, 1, 2, 2, 0, 1, 1, 1, 2, 2, 1, 2, 1, 2, 2, 2]
SAID = [3, 3, 5, 3, 1, 5, 8, 2, 6, 3, 8, 1, 9, 4, 2, 1, 7, 3, 4, 6, 7, 1, 5, 4, 6, 4]


@pytest.fixture(params=["mean", "gate", "speakers"])
def head(request: pytest.FixtureRequest) -> OnlineCoref:
    torch.manual_seed(0)
    settings = {"width": WIDTH, "size": SIZE, "match": 4, "hidden": 6, "size_width": 3, "max_width": 4, "dropout": 0.0}
    form = {"speakers": True} if request.param == "speakers" else {"update": request.param}
    built = build_online_coref(settings | {"proposed": False, **form, "labels": []})
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


@pytest.fixture
def states() -> WordStates:
    return WordStates({TOP: torch.randn(N_WORDS, WIDTH, generator=torch.Generator().manual_seed(1))}, LENGTHS)


def given(rows: list[int] | None = None) -> GivenMentions:
    chosen = [GOLD[row] for row in (rows if rows is not None else range(len(GOLD)))]
    starts, ends, entities = (torch.tensor(column) for column in zip(*chosen, strict=True))
    spoken = torch.tensor([(who, who and 100 * who + word) for who, word in zip(WHO, SAID, strict=True)])
    names = torch.tensor([(number // 2, number % 2, TITLED.get(i, NO_TITLE)) for i, number in enumerate(NAMES)])
    return GivenMentions(starts, ends, entities, names, spoken)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


class Said(NamedTuple):
    """Of a gold mention: words that tell; the first behind a title; title and its kind; last word; whether it has two names."""

    words: list[int]
    first: int | None
    title: int | None
    kind: int
    last: int
    full: bool


def said(row: int) -> Said:
    start, end, _ = GOLD[row]
    tell = [i for i in range(start, end) if NAMES[i]]
    own = [i for i in tell if i not in TITLED]
    title = tell[0] if own and tell[0] in TITLED else None
    first = (own or tell or [None])[0]
    return Said(
        [NAMES[i] // 2 for i in tell],
        None if first is None else NAMES[first] // 2,
        None if title is None else NAMES[title] // 2,
        NO_TITLE if title is None else TITLED[title],
        NAMES[end - 1] // 2,
        bool(own) and own[0] < end - 1 and NAMES[own[0]] % 2 == NAMES[end - 1] % 2 == 1 and NAMES[own[0]] != NAMES[end - 1],
    )


def kind_of(before: int, row: int) -> int:
    """How the words of two gold mentions compare, from the definitions."""
    own, other = said(row), said(before)
    if not own.words:
        return NO_NAME
    if sum(own.words) == sum(other.words):
        return SAME_NAME
    if own.last and own.last == other.last:
        if {own.kind, other.kind} == {MANS_TITLE, WOMANS_TITLE}:
            return OTHER_GENDER
        if own.full and other.full:
            return SAME_FULL if own.first == other.first else OTHER_FIRST
        return SAME_LAST
    if own.title and other.title:
        return SAME_WORD if own.first == other.first else OTHER_TITLED
    if other.words and (other.first in {own.first, own.last, own.title} or own.first in {other.last, other.title}):
        return SAME_WORD
    is_proper = [NAMES[GOLD[each][1] - 1] % 2 for each in (before, row)]
    return OTHER_PROPER if all(is_proper) else OTHER_NAME


def kind_of_any(befores: list[int], row: int) -> int:
    """How a gold mention's words compare with those of an entity: what two titled names say counts more than one without."""
    kinds = [kind_of(before, row) for before in befores]
    titled = [kind for before, kind in zip(befores, kinds, strict=True) if said(before).title and said(row).title]
    return max(kinds if not titled or max(kinds) > SAME_LAST else titled)


def speaker_kind(before: int, row: int) -> int:
    """How the speakers of two gold mentions compare, from the definitions."""
    (own_start, own_end, _), (start, end, _) = GOLD[row], GOLD[before]
    if not (WHO[own_start] and WHO[start]):
        return NO_SPEAKER
    if WHO[own_start] != WHO[start]:
        return OTHER_SPEAKER
    own, other = (
        sorted((who, word) for who, word in zip(WHO[a:b], SAID[a:b], strict=True) if who)
        for a, b in ((own_start, own_end), (start, end))
    )
    return SAME_SAYING if own == other else SAME_SPEAKER


def by_hand(head: OnlineCoref, vectors: Tensor, *, predicted: bool = False) -> dict[tuple[int, int], Tensor]:
    """Scores of every mention against every entity before it, from the definitions, one at a time."""
    p, s = dict(head.scorer.named_parameters()), {}
    document = [next(i for i, end in enumerate(np.cumsum(LENGTHS)) if start < end) for start, _, _ in GOLD]
    entities: dict[int, dict] = {}
    for row, (start, end, entity) in enumerate(GOLD):
        for other in entities.values():
            if other["document"] != document[row]:
                continue
            e, g = other["vector"], vectors[row]
            words = start - other["start"]
            distance = 0 if other["end"] > start else 1 + sum(words >= edge for edge in (1, 2, 3, 5, 8, 16, 32))
            count = sum(other["count"] >= edge for edge in (1, 2, 3, 4, 6, 10))
            kind = kind_of_any(other["rows"], row)
            product = (p["entity_key.weight"] @ e + p["entity_key.bias"]) * (
                p["mention_key.weight"] @ g + p["mention_key.bias"]
            )
            hidden = p["entity.weight"] @ e + p["entity.bias"] + p["mention.weight"] @ g + p["product.weight"] @ product
            hidden = hidden + p["distance.weight"][distance] + p["count.weight"][count] + p["name.weight"][kind]
            if head.settings.speakers:
                hidden = hidden + p["speaker.weight"][max(speaker_kind(before, row) for before in other["rows"])]
            s[row, other["row"]] = (p["outer.weight"] @ gelu(hidden) + p["outer.bias"])[0]
            s[row, other["row"]] = s[row, other["row"]] + p["trust"][kind] * product.sum() / len(product) ** 0.5
            if predicted and kind in APART:
                s[row, other["row"]] = torch.tensor(-torch.inf)
        found = entities.setdefault(entity, {"count": 0, "rows": [], "sum": 0})
        found["count"] += 1
        found["sum"] = found["sum"] + vectors[row]
        if head.gate is None or found["count"] == 1:
            vector = found["sum"] / found["count"]
        else:
            weight = torch.sigmoid(vectors[row] @ (head.gate.weight @ found["vector"]) / SIZE**0.5)
            mixed = weight * found["vector"] + (1 - weight) * vectors[row]
            vector = mixed / mixed.norm() * SIZE**0.5
        found |= {"vector": vector, "row": row, "start": start, "end": end, "document": document[row]}
        found["rows"].append(row)
    return s


def test_all_scores_at_once_are_those_of_one_mention_after_the_other(head: OnlineCoref, states: WordStates) -> None:
    output = head.train()(states, given())
    taught = output.taught
    assert taught is not None
    expected = by_hand(head, output.vectors)
    found = dict(zip(zip(taught.mentions.tolist(), taught.versions.tolist(), strict=True), taught.scores, strict=True))
    assert found.keys() == expected.keys()
    for pair, score in expected.items():
        torch.testing.assert_close(found[pair], score)


def test_lower_layers_of_the_ends_are_read(states: WordStates) -> None:
    """A mention's vector depends on its first and last word in the layers below, and on no other word there."""
    size = states.layers[TOP].shape[1]
    head = build_online_coref({"width": size, "proposed": False, "lower_layers": [0, 2]}).eval()
    lower = {layer: torch.randn_like(states.layers[TOP]).requires_grad_() for layer in (0, 2)}
    spans = given()
    longest = int((spans.ends - spans.starts).argmax())
    head(states._replace(layers=states.layers | lower), spans).vectors[longest, 0].backward()
    ends = {int(spans.starts[longest]), int(spans.ends[longest]) - 1}
    for words in lower.values():
        assert words.grad is not None
        assert set(words.grad.any(1).nonzero().flatten().tolist()) == ends


def test_loss_is_the_sum_of_cross_entropies(head: OnlineCoref, states: WordStates) -> None:
    output = head.train()(states, given())
    is_mention = torch.ones(len(GOLD), dtype=torch.bool)
    loss = head.loss(output, is_mention, is_mention)
    expected = F.softplus(-output.logits).sum() / len(GOLD)
    scores = by_hand(head, output.vectors)
    for row, (_, _, entity) in enumerate(GOLD):
        before = [other for other in range(row) if GOLD[other][2] == entity]
        options = {version: score for (mention, version), score in scores.items() if mention == row} | {-1: torch.tensor(0.0)}
        right = options[max(before, default=-1)]
        expected = expected + (torch.stack(list(options.values())).logsumexp(0) - right) / len(GOLD)
    taught = output.taught
    assert taught is not None
    firsts = [row for row, (_, _, entity) in enumerate(GOLD) if entity not in {before[2] for before in GOLD[:row]}]
    known = [*taught.versions.tolist(), *firsts]
    again = [float(any(later[2] == GOLD[version][2] for later in GOLD[version + 1 :])) for version in known]
    expected = expected + 0.1 * F.binary_cross_entropy_with_logits(taught.keep, torch.tensor(again))
    torch.testing.assert_close(loss, expected)


def test_what_to_forget_is_learned_of_all_that_the_memory_asks(
    head: OnlineCoref, states: WordStates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of entities whenever a mention comes, and of a mention that may have to go at once."""
    output = head.train()(states, given())
    taught = output.taught
    assert taught is not None
    assert taught.keep is not None
    firsts = [row for row, (_, _, entity) in enumerate(GOLD) if entity not in {before[2] for before in GOLD[:row]}]
    said = head.scorer.of_entities(output.vectors).said[firsts]
    distance, count = head.scorer.distance.weight[1], head.scorer.count.weight[1]  # no word ago, mentioned once
    inner = gelu(said + distance + count)
    expected = inner @ head.scorer.again.weight[0] + head.scorer.again.bias  # type: ignore[union-attr]
    torch.testing.assert_close(taught.keep[len(taught.versions) :], expected)
    tables = head.scorer.distance.weight, head.scorer.count.weight
    learned = [set(part.any(1).nonzero().flatten().tolist()) for part in torch.autograd.grad(taught.keep.sum(), tables)]
    asked: list[set[int]] = [set(), set()]
    compute = head.scorer.keep

    def keep(said: Tensor, *numbers: Tensor) -> Tensor:
        for seen, number in zip(asked, numbers, strict=True):
            seen.update(number.tolist())
        return compute(said, *numbers)

    monkeypatch.setattr(head.scorer, "keep", keep)
    _, found = online(head.eval(), output)
    memory = EntityMemory(head, MemorySettings(1, "learned"), new=1e9)
    monkeypatch.setattr(
        memory.books, "choose", lambda *_, **__: Step("new", 0)
    )  # each mention takes the place of the one before
    memory.follow(found)
    assert asked[0] > {1}  # of the mention, and of the one before
    assert all(of_loop <= of_training for of_loop, of_training in zip(asked, learned, strict=True))


def online(head: OnlineCoref, output: CorefOutput, **settings: object) -> tuple[EntityMemory, Found]:
    rows = slice(8, None)  # the last document
    first = N_WORDS - LENGTHS[-1]
    places = [part[rows].numpy() - first for part in output.spans]
    memory = EntityMemory(head, MemorySettings(), **settings)  # type: ignore[arg-type]
    return memory, Found(*places, output.words.rows(rows), output.vectors[rows].detach())


def test_all_kinds_of_words_are_met() -> None:
    pairs = [(before, row) for row in range(len(GOLD)) for before in range(row)]
    assert {kind_of(*pair) for pair in pairs} == set(range(SAME_NAME + 1))
    assert {speaker_kind(*pair) for pair in pairs} == set(range(SAME_SAYING + 1))


@pytest.mark.parametrize("compared", [0, 64])
def test_the_online_loop_scores_as_training_does(
    head: OnlineCoref, states: WordStates, compared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the loop decides as gold has it, its scores are those that were learned; here it is made to decide so."""
    output = head.train()(states, given())
    expected = by_hand(head, output.vectors, predicted=True)
    memory, found = online(head.eval(), output, compared=compared)
    entities = [entity for _, _, entity in GOLD[8:]]
    seen: dict[int, int] = {}
    for row, entity in enumerate(entities):
        versions = dict(seen.items())
        order = list(dict.fromkeys(entities))
        step = Step("join" if entity in seen else "new", order.index(entity))
        scores: list[np.ndarray] = []

        def choose(given: np.ndarray, *, step: Step = step, scores: list[np.ndarray] = scores, **_: object) -> Step:
            scores.append(given)
            return step

        monkeypatch.setattr(memory.books, "choose", choose)
        memory.follow(found.rows(slice(row, row + 1)))
        for cell, other in enumerate(dict.fromkeys(entities[:row])):
            np.testing.assert_allclose(scores[0][cell], expected[8 + row, 8 + versions[other]].item(), rtol=1e-4, atol=1e-5)
        seen[entity] = row


def test_who_speaks_counts_only_where_it_is_asked_for(states: WordStates) -> None:
    """And where nobody is known to, all is as it is for one unknown speaker of a head that asks."""
    settings = {"width": WIDTH, "size": SIZE, "proposed": False, "labels": []}
    torch.manual_seed(0)
    plain = build_online_coref(settings).eval()
    torch.manual_seed(0)
    asking = build_online_coref(settings | {"speakers": True}).eval()
    more = {name for name, _ in asking.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert more == {"scorer.speaker.weight"}
    asking.load_state_dict(plain.state_dict(), strict=False)
    nobody = given()._replace(speakers=torch.zeros(N_WORDS, 2, dtype=torch.long))
    nothing = given()._replace(speakers=torch.zeros(0, 2, dtype=torch.long))

    def scores(head: OnlineCoref, spoken: GivenMentions) -> Tensor:
        taught = head(states, spoken).taught
        assert taught is not None
        return taught.scores

    torch.testing.assert_close(scores(plain, given()), scores(plain, nothing))
    torch.testing.assert_close(scores(asking, nobody), scores(asking, nothing))
    assert (scores(asking, given()) - scores(asking, nothing)).nan_to_num().abs().max() > 1e-4  # names keep some apart
    with torch.no_grad():
        asking.scorer.speaker.weight[NO_SPEAKER] = 0  # type: ignore[union-attr]
    torch.testing.assert_close(scores(asking, nothing), scores(plain, nothing))


def test_mentions_without_an_entity_teach_nothing_but_that_they_are_given(head: OnlineCoref, states: WordStates) -> None:
    all_of_them = given()
    unknown = all_of_them._replace(entities=torch.full_like(all_of_them.entities, NO_ENTITY))
    output = head.train()(states, unknown)
    assert output.taught is None
    nothing = torch.zeros(len(GOLD), dtype=torch.bool)
    torch.testing.assert_close(head.loss(output, nothing, ~nothing), F.softplus(output.logits).sum())


def test_gold_mentions_in_any_order_are_the_same(head: OnlineCoref, states: WordStates) -> None:
    head.train()
    straight, turned = head(states, given()), head(states, given(list(reversed(range(len(GOLD))))))
    is_mention = torch.ones(len(GOLD), dtype=torch.bool)
    torch.testing.assert_close(head.loss(straight, is_mention, is_mention), head.loss(turned, is_mention, is_mention))


def test_a_bounded_memory_of_enough_cells_is_an_unbounded_one(head: OnlineCoref, states: WordStates) -> None:
    output = head.eval()(states, given())
    memory, found = online(head, output)
    bounded = EntityMemory(head, MemorySettings(5, "learned"))
    np.testing.assert_array_equal(memory.follow(found), bounded.follow(found))


@pytest.mark.parametrize("forget", ["lru", "learned"])
def test_one_cell_remembers_one_entity(head: OnlineCoref, states: WordStates, forget: str) -> None:
    output = head.eval()(states, given())
    _, found = online(head, output)
    memory = EntityMemory(head, MemorySettings(1, forget))  # type: ignore[arg-type]
    entities = memory.follow(found)
    assert memory.books.n_cells == 1
    assert entities[0] == 0
    assert entities.max() < memory.books.n_entities
    for entity in set(entities.tolist()) - {int(memory.books.entities[0])}:
        rows = np.flatnonzero(entities == entity)
        others = set(entities[rows[0] : rows[-1]].tolist()) - {entity}
        # nobody comes back once forgotten: whoever came in between had one mention, and no cell
        assert all((entities == other).sum() == 1 for other in others)


def test_a_text_in_parts_is_the_text(head: OnlineCoref, states: WordStates) -> None:
    output = head.eval()(states, given())
    whole, found = online(head, output)
    parts = EntityMemory(head, MemorySettings())
    halves = [found.rows(rows) for rows in (slice(0, 2), slice(2, None))]
    np.testing.assert_array_equal(whole.follow(found), np.concatenate([parts.follow(half) for half in halves]))
