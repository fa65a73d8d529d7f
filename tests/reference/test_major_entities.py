"""`MajorEntities`: what is learned at once is what is computed mention after mention, and the static form needs no order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.bridge import coref as bridge
from entitykit.bridge.coref import find_named
from entitykit.bridge.coref_memory import Found
from entitykit.models.coref import CorefOutput, Named
from entitykit.models.coref_pairs import COUNTS, NEVER, Side, buckets, distances
from entitykit.models.coref_words import SAME_WORD
from entitykit.models.major_entities import MajorEntities, build_major_entities
from tests.reference.test_coref import GOLD, LENGTHS, N_WORDS, SIZE, WIDTH, given, kind_of, speaker_kind, states

__all__ = ["states"]

ENTITIES = [entity for _, _, entity in GOLD]


@pytest.fixture(params=["mean", "speakers", "gate"])
def head(request: pytest.FixtureRequest) -> MajorEntities:
    torch.manual_seed(3)
    settings = {"width": WIDTH, "size": SIZE, "match": 4, "hidden": 6, "size_width": 3, "max_width": 4, "dropout": 0.0}
    form = {"speakers": True} if request.param == "speakers" else {"update": request.param}
    built = build_major_entities(settings | {"proposed": False, "least": 2, "most": 2, **form, "labels": []})
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


@pytest.fixture
def output(head: MajorEntities, states) -> CorefOutput:  # type: ignore[no-untyped-def]
    torch.manual_seed(5)
    return head.train()(states, given())


def score(
    head: MajorEntities, entity: Tensor, mention: Tensor, distance: int, count: int, kind: int, speaker: int = 0
) -> Tensor:
    numbers = (torch.tensor([number]) for number in (distance, count, kind, speaker))
    return head.scorer(head.scorer.of_entities(entity[None]), head.scorer.of_mentions(mention[None]), *numbers)[0]


def joined(head: MajorEntities, members: list[Tensor]) -> Tensor:
    """What an entity is that its phrase and then mentions have made, from the definitions."""
    if head.gate is None:
        return torch.stack(members).mean(0)
    vector = members[0]
    for mention in members[1:]:
        weight = torch.sigmoid(mention @ (head.gate.weight @ vector) / SIZE**0.5)
        mixed = weight * vector + (1 - weight) * mention
        vector = mixed / mixed.norm() * SIZE**0.5
    return vector


def document(row: int) -> int:
    return next(i for i, end in enumerate(np.cumsum(LENGTHS)) if GOLD[row][0] < end)


def test_entities_with_enough_mentions_are_asked_for_by_words_that_tell(output: CorefOutput) -> None:
    assert output.asked is not None
    asked = output.asked.rows.tolist()
    chosen = [ENTITIES[row] for row in asked]
    assert len(set(chosen)) == len(chosen)
    assert all(ENTITIES.count(entity) >= 2 for entity in chosen)
    assert all(output.words.names[row] for row in asked)
    assert sorted(chosen) == [2, 3, 7, 9]  # two of each document at most; entity 1 has one mention


def test_scores_at_once_are_those_of_one_mention_after_the_other(head: MajorEntities, output: CorefOutput) -> None:
    assert output.asked is not None
    for column, phrase in enumerate(output.asked.rows.tolist()):
        vector, known, count, last = output.vectors[phrase], {phrase}, 0, -1
        for row, (start, _, entity) in enumerate(GOLD):
            if document(row) != document(phrase):
                assert output.asked.static[row, column] == -torch.inf
                continue
            static = score(head, output.vectors[phrase], output.vectors[row], NEVER, 0, kind_of(phrase, row))
            torch.testing.assert_close(output.asked.static[row, column], static)
            distance = NEVER
            if count:
                overlap = torch.tensor(GOLD[last][1] > start)
                distance = int(distances(torch.tensor(start - GOLD[last][0]), overlap))
            bucket = int(buckets(torch.tensor(count), COUNTS))
            best = max(kind_of(other, row) for other in known)
            spoken = [speaker_kind(other, row) for other in range(row) if count and ENTITIES[other] == ENTITIES[phrase]]
            dynamic = score(head, vector, output.vectors[row], distance, bucket, best, max(spoken, default=0))
            torch.testing.assert_close(output.asked.hybrid[row, column], static + dynamic)
            if entity == ENTITIES[phrase]:
                count, last = count + 1, row
                known.add(row)
                members = [output.vectors[phrase]] + [output.vectors[i] for i in range(row + 1) if ENTITIES[i] == entity]
                vector = joined(head, members)


def test_loss_adds_both_cross_entropies(head: MajorEntities, output: CorefOutput) -> None:
    assert output.asked is not None
    everything = torch.ones(len(GOLD), dtype=torch.bool)
    without = head.loss(output._replace(asked=None), everything, everything)
    expected = without
    for scores in (output.asked.static, output.asked.hybrid):
        for row, entity in enumerate(ENTITIES):
            right = [i for i, phrase in enumerate(output.asked.rows.tolist()) if ENTITIES[phrase] == entity]
            options = torch.cat([scores[row], torch.zeros(1)])
            expected = expected + (options.logsumexp(0) - options[right[0] if right else -1]) / len(GOLD) / 2
    torch.testing.assert_close(head.loss(output, everything, everything), expected)


def found_of(output: CorefOutput) -> tuple[Found, Named]:
    rows = slice(8, None)  # the last document
    first = N_WORDS - LENGTHS[-1]
    places = [part[rows].numpy() - first for part in output.spans]
    vectors = output.vectors[rows].detach()
    named = torch.tensor([8, 11])
    return Found(*places, output.words.rows(rows), vectors), Named(vectors[[0, 3]], output.words.rows(named))


def test_static_and_hybrid_search(head: MajorEntities, output: CorefOutput) -> None:
    found, phrases = found_of(output)
    head.eval()
    static = find_named(head, phrases, found, hybrid=False)
    fits = head.fits(phrases, Named(found.vectors, found.words))
    expected = torch.where(fits.max(1).values > 0, fits.argmax(1), -1)
    np.testing.assert_array_equal(static, expected.numpy())
    back = np.arange(len(found.starts))[::-1].copy()
    turned = found.rows(back)
    np.testing.assert_array_equal(find_named(head, phrases, turned, hybrid=False), static[::-1])
    hybrid = find_named(head, phrases, found, hybrid=True)
    assert hybrid.shape == static.shape
    assert set(hybrid.tolist()) <= {-1, 0, 1}


def test_hybrid_search_follows_the_scores_that_were_learned(head: MajorEntities, output: CorefOutput) -> None:
    """With one phrase and every mention its entity's, the loop's score of each is that of training."""
    found, phrases = found_of(output)
    head.eval()
    one = phrases.rows(slice(0, 1))
    members, count, last, known = [one.vectors[0]], 0, -1, [8]
    scores: list[Tensor] = []
    head.scorer.register_forward_hook(lambda module, given, found: scores.append(found))
    for row in range(len(found.starts)):
        start = int(found.starts[row])
        static = score(head, one.vectors[0], found.vectors[row], NEVER, 0, kind_of(8, 8 + row))
        distance = NEVER
        if count:
            overlap = torch.tensor(int(found.ends[last]) > start)
            distance = int(distances(torch.tensor(start - int(found.starts[last])), overlap))
        best = max(kind_of(other, 8 + row) for other in known)
        spoken = max((speaker_kind(other, 8 + row) for other in known[1:]), default=0)
        bucket = int(buckets(torch.tensor(count), COUNTS))
        total = static + score(head, joined(head, members), found.vectors[row], distance, bucket, best, spoken)
        expected = 0 if total > 0 else -1
        assert find_named(head, one, found.rows(slice(0, row + 1)), hybrid=True)[row] == expected
        torch.testing.assert_close(static + scores[-1][0], total)  # the loop's last one
        if expected == 0:
            count, last = count + 1, row
            known.append(8 + row)
            members.append(found.vectors[row])


@pytest.mark.parametrize("pairs", [1, 4, 5])
@pytest.mark.parametrize("hybrid", [False, True])
def test_no_more_pairs_are_scored_at_once_than_may_be(
    head: MajorEntities, output: CorefOutput, pairs: int, hybrid: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, phrases = found_of(output)
    expected = find_named(head.eval(), phrases, found, hybrid=hybrid)
    sizes = []
    head.scorer.register_forward_hook(lambda module, given, scores: sizes.append(len(scores)))
    monkeypatch.setattr(bridge, "PAIRS", pairs)
    np.testing.assert_array_equal(find_named(head, phrases, found, hybrid=hybrid), expected)
    assert max(sizes) <= max(pairs, len(phrases.vectors))


def test_no_names_find_nothing(head: MajorEntities, output: CorefOutput, monkeypatch: pytest.MonkeyPatch) -> None:
    found, phrases = found_of(output)
    nothing, nobody = phrases.rows(slice(0)), found.rows(slice(0))
    monkeypatch.setattr(MajorEntities, "fits", None)  # nor is anything computed
    monkeypatch.setattr(bridge, "KnownWords", None)
    for hybrid in (False, True):
        assert set(find_named(head.eval(), nothing, found, hybrid=hybrid).tolist()) == {-1}
        assert find_named(head, phrases, nobody, hybrid=hybrid).tolist() == []


def test_sides_are_taken_by_rows() -> None:
    side = Side(torch.arange(6.0).view(3, 2), torch.arange(3.0)[:, None])
    assert side.rows(torch.tensor([2, 0])).said.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert F.relu(side.keys).sum() == 3


def asking_for_absent(head: MajorEntities, **settings: object) -> MajorEntities:
    """The same head with further settings."""
    built = build_major_entities(vars(head.settings) | {"absent": 2, "absent_share": 1.0} | settings)
    built.load_state_dict(head.state_dict())
    return built


def absent_names(output: CorefOutput, phrases: list[int]) -> dict[int, list[int]]:
    """The names, by their rows, that no mention of each document is like in words."""
    return {
        number: [
            row
            for row in phrases
            if document(row) != number
            and all(kind_of(row, own) < SAME_WORD for own in range(len(GOLD)) if document(own) == number)
        ]
        for number in range(len(LENGTHS))
    }


def test_documents_are_asked_for_names_that_they_lack(head: MajorEntities, states) -> None:  # type: ignore[no-untyped-def]
    """They get no mention: it is the score of none that is to be higher than all of theirs."""
    asking, everything = asking_for_absent(head), torch.ones(len(GOLD), dtype=torch.bool)
    torch.manual_seed(5)
    output = asking.train()(states, given())
    asked = output.asked
    assert asked is not None
    assert asked.absent is not None
    lacking = absent_names(output, asked.rows.tolist())
    assert any(lacking.values())
    drawn = asked.absent[0].isfinite()
    names = asking._before
    assert names is not None
    for row in range(len(GOLD)):
        columns = drawn[row].nonzero().flatten().tolist()
        assert len(columns) == min(2, len(lacking[document(row)]))
        for column in columns:
            phrase = asked.rows.tolist()[column]
            assert phrase in lacking[document(row)]
            static = score(head, output.vectors[phrase], output.vectors[row], NEVER, 0, kind_of(phrase, row))
            torch.testing.assert_close(asked.absent[0][row, column], static)
            torch.testing.assert_close(asked.absent[1][row, column], 2 * static)  # nothing was theirs before
    without = asking.loss(output._replace(asked=asked._replace(absent=None)), everything, everything)
    none = torch.zeros(len(GOLD), 1)
    added = [torch.cat([scores, none], dim=1).logsumexp(1).mean() for scores in asked.absent]
    torch.testing.assert_close(asking.loss(output, everything, everything), without + sum(added) / 2)


def test_a_single_document_is_asked_for_names_of_updates_before(head: MajorEntities, states) -> None:  # type: ignore[no-untyped-def]
    """And for its own all the same."""
    asking, rows = asking_for_absent(head, absent=1), list(range(8, len(GOLD)))
    torch.manual_seed(5)
    first = asking.train()(states, given(rows)).asked
    assert first is not None
    assert first.absent is not None
    assert not first.absent[0].isfinite().any()  # there is nobody else yet
    others = given(list(range(8)))
    asking(states, others._replace(names=torch.where(others.names > 0, others.names + 100, 0)))  # other words
    torch.manual_seed(5)
    second = asking(states, given(rows)).asked
    assert second is not None
    assert second.absent is not None
    torch.testing.assert_close(second.static, first.static)
    n_asked = second.absent[0].isfinite().sum(1)
    assert n_asked.tolist() == [1] * len(rows)
    assert not second.absent[0][:, : len(second.rows)].isfinite().any()


def test_names_are_remembered_in_training_only(head: MajorEntities, states) -> None:  # type: ignore[no-untyped-def]
    asking = asking_for_absent(head)
    asking.eval()(states, given())
    assert asking._before is None
    asking.train()(states, given())
    assert asking._before is not None


def test_how_many_documents_are_asked_for_absent_names(head: MajorEntities, states) -> None:  # type: ignore[no-untyped-def]
    never = asking_for_absent(head, absent_share=0.0).train()
    sometimes = asking_for_absent(head, absent_share=0.5).train()
    lacking = {number for number, rows in absent_names(never(states, given()), list(range(len(GOLD)))).items() if rows}
    seen: list[set[int]] = []
    for seed in range(8):
        torch.manual_seed(seed)
        asked = sometimes(states, given()).asked
        torch.manual_seed(seed)
        assert (nobody := never(states, given()).asked) is not None
        assert nobody.absent is not None
        assert nobody.absent[0].shape[1] == len(nobody.rows)
        assert not nobody.absent[0].isfinite().any()
        assert asked is not None
        assert asked.absent is not None
        seen.append({document(int(row)) for row in asked.absent[0].isfinite().any(1).nonzero()})
    assert all(documents <= lacking for documents in seen)
    assert len(set(map(frozenset, seen))) > 2
