"""EnriCo's filters and its attention over words, against loops over single rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import relations_enrico
from entitykit.models.relations_enrico import (
    SPARE,
    EnriCo,
    EnriCoOutput,
    EnriCoSettings,
    EnriCoTargets,
    Refinement,
    best_by_document,
)
from entitykit.models.relations_pairs import near_pairs, pairs_among
from entitykit.models.spans import document_bounds
from entitykit.types import TOP, EntityPairs, EntityTokens, MentionOutput, Spans, WordStates

LENGTHS = (7, 0, 4)
PROPOSED = Spans(torch.tensor([0, 0, 2, 4, 7, 8, 9]), torch.tensor([1, 2, 3, 6, 9, 9, 11]))


def make_settings(**values: Any) -> EnriCoSettings:
    small = {"width": 4, "n_labels": 3, "n_types": 2, "size": 8, "heads": 2, "context": 1, "dropout": 0.0}
    return EnriCoSettings(**(small | values))


def make_states() -> WordStates:
    words = torch.randn(sum(LENGTHS), 4, dtype=torch.float64)
    return WordStates({TOP: words}, LENGTHS, EntityTokens(PROPOSED, None))


def pairs(places: list[tuple[int, int]], rows: list[tuple[int, int]]) -> EntityPairs:
    columns = [[a for a, _ in places], [b for _, b in places], [1] * len(places), [a for a, _ in rows], [b for _, b in rows]]
    return EntityPairs(*(torch.tensor(column, dtype=torch.long) for column in columns), **within())


def within(words: int = 99, most: int = 99, *, sentences: Sequence[int] = (), itself: bool = False) -> dict[str, Tensor]:
    """What is told of the scope: so many words apart, so many pairs, and of the same sentence, where first words are given."""
    _, ends = document_bounds(LENGTHS, torch.device("cpu"))
    edges = sorted({*sentences, *ends.tolist()})
    by_start = torch.tensor([min(edge for edge in edges if edge > i) for i in range(len(ends))])
    by_end = torch.minimum(torch.arange(len(ends)) + 2 + words, ends)
    reach = torch.stack([by_start, by_end], dim=1)
    return {"reach": reach, "most": torch.full((len(LENGTHS),), most), "itself": torch.tensor(itself)}


def places_of(entities: EntityPairs) -> list[tuple[int, int, int, int]]:
    sides = [part[side].tolist() for side in (entities.heads, entities.tails) for part in entities[:2]]
    return list(zip(*sides, strict=True))


NOBODY = pairs([], [])
GOLD = pairs([(0, 2), (3, 4), (4, 6), (9, 11)], [(0, 1), (1, 0), (2, 0)])


def test_attention_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations_enrico, "ROWS", 2)
    layer = Refinement(make_settings()).double().eval()
    words, x = torch.randn(6, 4, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    around = Spans(torch.tensor([0, 0, 1, 3, 5]), torch.tensor([2, 6, 3, 6, 6]))
    found = layer(x, words, around)
    for row in range(5):
        own = words[around.starts[row] : around.ends[row]]
        query, parts = layer.query(layer.before(x[row])), []
        for head in range(2):
            columns = slice(4 * head, 4 * head + 4)
            scores = layer.key(own)[:, columns] @ query[columns] / math.sqrt(4)
            parts.append(scores.softmax(0) @ layer.value(own)[:, columns])
        read = x[row] + layer.out(torch.cat(parts))
        expected = read + layer.outer(F.gelu(layer.inner(layer.after(read))))
        torch.testing.assert_close(found[row], expected, rtol=1e-9, atol=1e-9)


documents = st.lists(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), max_size=16), max_size=4)


@settings(max_examples=60, deadline=None)
@given(documents, st.sampled_from([0.0, 0.3, 1.0]))
def test_best_by_document(rows: list[list[tuple[int, bool]]], per_word: float) -> None:
    """Each document as if it were alone; documents have as many words as rows, and one."""
    lengths = tuple(len(own) + 1 for own in rows)
    firsts = [sum(lengths[:i]) for i in range(len(lengths))]
    starts = [first + i for first, own in zip(firsts, rows, strict=True) for i in range(len(own))]
    scores, forced = ([each[k] for own in rows for each in own] for k in (0, 1))
    tensors = (
        torch.tensor(scores, dtype=torch.float),
        torch.tensor(starts, dtype=torch.long),
        torch.tensor(forced, dtype=torch.bool),
    )
    expected, first = [], 0
    for own, length in zip(rows, lengths, strict=True):
        limit = math.ceil(torch.tensor(length * per_word).item()) + SPARE
        order = sorted(range(len(own)), key=lambda i: (not own[i][1], 0 if own[i][1] else -own[i][0], i))
        expected += sorted(first + i for rank, i in enumerate(order) if rank < limit or own[i][1])
        first += len(own)
    assert best_by_document(*tensors, lengths, per_word).tolist() == expected


places = st.sets(st.tuples(st.integers(0, 10), st.integers(1, 3)), max_size=8)


@settings(max_examples=80, deadline=None)
@given(places, st.integers(0, 4), st.sampled_from([2, 6, 99]), st.sets(st.integers(0, 10)), st.booleans())
def test_near_pairs(found: set[tuple[int, int]], words: int, most: int, sentences: set[int], itself: bool) -> None:
    """Against all pairs, one by one; the limit takes the nearest of each document."""
    _, ends = document_bounds(LENGTHS, torch.device("cpu"))
    limit = ends.tolist()
    edges = sorted({*sentences, *limit})
    number = [sum(edge <= i for edge in edges) for i in range(11)]
    places = sorted({(start, min(start + width, limit[start])) for start, width in found})
    spans = Spans(*(torch.tensor([place[k] for place in places], dtype=torch.long) for k in (0, 1)))
    scope = NOBODY._replace(**within(words, most, sentences=sorted(sentences), itself=itself))
    heads, tails, n_far = near_pairs(spans, scope, LENGTHS)
    n = range(len(places))

    def gap(a: int, b: int) -> int:
        return max(0, places[b][0] - places[a][1])

    near = [
        (a, b)
        for a in n
        for b in n
        if a < b and number[places[a][0]] == number[places[b][0]] and places[b][0] - places[a][1] <= words
    ]
    expected = {(a, a) for a in n if itself}
    for document, end in enumerate((7, 7, 11)):
        own = [(a, b) for a, b in near if limit[places[a][0]] == end and LENGTHS[document]]
        kept = sorted(own, key=lambda pair: gap(*pair))[: most // 2]
        expected |= {each for a, b in kept for each in ((a, b), (b, a))}
        assert n_far[document] == 2 * (len(own) - len(kept))
    assert list(zip(heads.tolist(), tails.tolist(), strict=True)) == sorted(expected)


def test_found_entities_are_paired_as_the_scope_says() -> None:
    head = EnriCo(make_settings(keep_spans=1.0, keep_pairs=9.0)).double().eval()
    everything = head(make_states(), NOBODY)
    for scope in (within(1), within(sentences=[4]), within(most=4), within(itself=True)):
        output = head(make_states(), NOBODY._replace(**scope))
        heads, tails, n_far = near_pairs(PROPOSED, NOBODY._replace(**scope), LENGTHS)
        assert [part.tolist() for part in output.seen_pairs[3:5]] == [heads.tolist(), tails.tolist()]
        assert places_of(output.entities) != places_of(everything.entities)
        assert output.n_far.tolist() == n_far.tolist()


def test_pairs_among() -> None:
    some = pairs([(0, 2), (1, 2), (4, 6)], [(0, 2), (2, 0), (1, 2), (0, 1)])
    assert pairs_among(some, GOLD).tolist() == [False, True, False, False]
    assert pairs_among(some, NOBODY).tolist() == [False] * 4
    assert pairs_among(NOBODY, GOLD).tolist() == []


def test_gold_is_always_kept_in_training() -> None:
    head = EnriCo(make_settings(keep_spans=0.0, keep_pairs=0.0)).double()
    head.pair_filter.bias.data.fill_(-50.0)
    output = head.train()(make_states(), GOLD)
    kept = set(zip(output.entities.starts.tolist(), output.entities.ends.tolist(), strict=True))
    assert {(0, 2), (3, 4), (4, 6), (9, 11)} <= kept
    assert set(places_of(GOLD)) <= set(places_of(output.entities))
    assert places_of(output.entities) == sorted(places_of(output.entities))
    assert len(output.type_logits) == len(output.entities.starts)
    assert len(output.span_logits) == len(output.seen_spans.starts) == 8  # the proposals and (3, 4)
    assert len(output.pair_logits) == len(output.seen_pairs.heads) >= len(output.logits)


def test_prediction_takes_no_gold_for_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations_enrico, "SPARE", 1)
    head = EnriCo(make_settings(keep_spans=0.0, keep_pairs=0.0)).double().eval()
    output = head(make_states(), NOBODY)
    assert len(output.entities.starts) == 2  # one of each document with words
    assert len(output.logits) == 0


def test_given_entities_are_left_as_they_are() -> None:
    head = EnriCo(make_settings(joint=False, layers=2)).double().eval()
    output = head(make_states(), GOLD)
    assert output.type_logits is None
    assert places_of(output.entities) == places_of(GOLD)
    assert len(output.logits) == 3


def test_types_by_description() -> None:
    """Logits follow the texts: in another order they are in another order, and of other texts there may be more."""
    head = EnriCo(make_settings(described=True, joint=False)).double().eval()
    texts, states = torch.randn(5, 4, dtype=torch.float64), make_states()
    head.set_descriptions(texts[:3])
    first = head(states, GOLD).logits
    head.set_descriptions(texts[[2, 0, 3, 4, 1]])
    torch.testing.assert_close(head(states, GOLD).logits[:, [1, 4, 0]], first)
    assert "descriptions" not in head.state_dict()


def test_no_filter_leaves_out_pairs_with_gold_relations() -> None:
    """In training, where entities are given: not even those that it finds least likely."""
    n = 12
    places, rows = torch.arange(n), [(a, b) for a in range(n) for b in range(n) if a != b]
    heads, tails = torch.tensor(rows).T
    given = EntityPairs(places, places + 1, torch.ones_like(places), heads, tails)
    head = EnriCo(make_settings(joint=False, n_types=1, dropout=0.0)).double().train()
    states = WordStates({TOP: torch.randn(n, head.settings.width, dtype=torch.float64)}, (n,))
    free = head(states, given)
    worst = free.pair_logits.argsort()[:5]
    related = torch.zeros(len(rows), dtype=torch.bool).index_fill(0, worst, True)
    wanted = {rows[row] for row in worst.tolist()}

    def kept(output: EnriCoOutput) -> set[tuple[int, int]]:
        return set(zip(output.entities.heads.tolist(), output.entities.tails.tolist(), strict=True))

    assert not wanted & kept(free)
    forced = kept(head(states, given._replace(related=related)))
    assert wanted < forced
    assert len(forced) == len(kept(free)) < len(rows)
    assert kept(head.eval()(states, given._replace(related=related))) == kept(free)


@pytest.mark.parametrize("joint", [True, False])
def test_gradients(joint: bool) -> None:
    head = EnriCo(make_settings(joint=joint, keep_spans=0.2)).double().train()
    names, parameters = zip(*head.named_parameters(), strict=True)
    band = torch.randn(sum(LENGTHS), 3, dtype=torch.float64)

    def run(words: Tensor, band: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        mentions = MentionOutput(band, torch.ones(11, 3, dtype=torch.bool))
        states = WordStates({TOP: words}, LENGTHS, EntityTokens(PROPOSED, None), mentions)
        output = torch.func.functional_call(head, weights, (states, GOLD))
        n, n_seen = len(output.logits), len(output.pair_logits)
        related = [torch.arange(3 * rows).reshape(rows, 3) % 4 == 0 for rows in (n, n_seen)]
        known = [torch.arange(rows) % 5 < 4 for rows in (n, n_seen)]
        targets = EnriCoTargets(related[0], known[0], related[1], known[1])
        if joint:
            types, seen = ((torch.arange(len(x)) % 4 - 1) % 3 for x in (output.type_logits, output.span_logits))
            probe = (torch.arange(33).reshape(11, 3) % 2 == 0, torch.ones(11, dtype=torch.bool))
            targets = targets._replace(entities=(types, seen), probe=probe)
        return head.loss(output, *targets)

    words = make_states().layers[TOP].requires_grad_()
    assert torch.autograd.gradcheck(run, (words, band.requires_grad_(joint), *parameters), fast_mode=True)
