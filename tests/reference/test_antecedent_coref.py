"""`AntecedentCoref`: scores and loss from the definitions, and the decisions of the blockwise search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.bridge import coref as bridge
from entitykit.bridge.coref import link_mentions
from entitykit.bridge.coref_memory import Found
from entitykit.models.antecedent_coref import AntecedentCoref, build_antecedent_coref
from entitykit.models.coref import CorefOutput
from tests.reference.test_coref import GOLD, LENGTHS, SIZE, WIDTH, given, kind_of, speaker_kind, states
from tests.reference.test_major_entities import document, score

__all__ = ["states"]

ENTITIES = [entity for _, _, entity in GOLD]
MOST = 3


@pytest.fixture(params=[False, True], ids=["", "speakers"])
def head(request: pytest.FixtureRequest) -> AntecedentCoref:
    torch.manual_seed(4)
    settings = {"width": WIDTH, "size": SIZE, "match": 4, "hidden": 6, "size_width": 3, "max_width": 4, "dropout": 0.0}
    built = build_antecedent_coref(settings | {"proposed": False, "antecedents": MOST, "speakers": request.param, "labels": []})
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5)
    return built


@pytest.fixture
def output(head: AntecedentCoref, states) -> CorefOutput:  # type: ignore[no-untyped-def]
    return head(states, given())


def by_hand(head: AntecedentCoref, output: CorefOutput) -> dict[tuple[int, int], Tensor]:
    found = {}
    for row, (start, _, _) in enumerate(GOLD):
        for before in range(max(row - MOST, 0), row):
            if document(before) == document(row):
                words = start - GOLD[before][0]
                distance = 0 if GOLD[before][1] > start else 1 + sum(words >= edge for edge in (1, 2, 3, 5, 8, 16, 32))
                numbers = distance, 0, kind_of(before, row), speaker_kind(before, row)
                found[row, before] = score(head, output.vectors[before], output.vectors[row], *numbers)  # type: ignore[arg-type]
    return found


def test_scores(head: AntecedentCoref, output: CorefOutput) -> None:
    assert output.taught is not None
    pairs = zip(output.taught.mentions.tolist(), output.taught.versions.tolist(), strict=True)
    found = dict(zip(pairs, output.taught.scores, strict=True))
    expected = by_hand(head, output)
    assert found.keys() == expected.keys()
    for pair, value in expected.items():
        torch.testing.assert_close(found[pair], value)


def test_loss_is_that_of_all_right_antecedents_together(head: AntecedentCoref, output: CorefOutput) -> None:
    everything = torch.ones(len(GOLD), dtype=torch.bool)
    expected = F.softplus(-output.logits).sum() / len(GOLD)
    scores = by_hand(head, output)
    for row, entity in enumerate(ENTITIES):
        options = {before: value for (own, before), value in scores.items() if own == row}
        right = [value for before, value in options.items() if ENTITIES[before] == entity] or [torch.tensor(0.0)]
        total = torch.stack([*options.values(), torch.tensor(0.0)]).logsumexp(0)
        expected = expected + (total - torch.stack(right).logsumexp(0)) / len(GOLD)
    torch.testing.assert_close(head.loss(output, everything, everything), expected)


@pytest.mark.parametrize("new", [0.0, 0.5, -0.5, 1e9])
@pytest.mark.parametrize("rows", [1, 2, 256])
def test_mentions_are_linked_block_by_block(
    head: AntecedentCoref, output: CorefOutput, rows: int, new: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "ROWS", rows)
    first = sum(LENGTHS[:-1])
    own = [row for row, (start, _, _) in enumerate(GOLD) if start >= first]
    places = [part[own].numpy() - first for part in output.spans]
    found = Found(*places, output.words.rows(torch.tensor(own)), output.vectors[own].detach())
    scores = by_hand(head, output)
    expected: list[int] = []
    for row in own:
        options = {before: float(value.detach()) for (one, before), value in scores.items() if one == row}
        best = max(options, key=lambda before: options[before], default=None)
        is_new = best is None or options[best] <= new
        expected.append(max(expected, default=-1) + 1 if is_new else expected[own.index(best)])  # type: ignore[arg-type]
    np.testing.assert_array_equal(link_mentions(head.eval(), found, new=new), expected)
