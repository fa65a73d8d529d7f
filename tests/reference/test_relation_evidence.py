"""Evidence against the same thing in numpy, sentence by sentence: logits, loss, and what is not computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import erf

from entitykit.models import relation_evidence as evidence_module
from entitykit.models import relations as relations_module
from entitykit.models.cluster_relations import ClusterRelationOutput, ClusterRelations, ClusterRelationsSettings
from entitykit.models.documents import segment_mean
from entitykit.models.relation_evidence import evidence_loss, mentions_in
from entitykit.types import TOP, ClusterPairs, WordStates

LENGTHS = (9, 0, 4)
SENTENCES = [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4]
# as in test_cluster_relations: start, end, entity; head, tail, and the rows of their nearest mentions
MENTIONS = [(0, 1, 0), (1, 4, 1), (2, 3, 2), (6, 7, 0), (8, 9, 1), (9, 10, 3), (11, 13, 4)]
PAIRS = [(0, 1, 0, 1), (1, 0, 4, 3), (1, 2, 1, 2), (2, 0, 2, 0), (3, 4, 5, 6), (4, 3, 6, 5)]


def given() -> ClusterPairs:
    columns = [*zip(*MENTIONS, strict=True), [1, 2, 0, 2, 1], *zip(*PAIRS, strict=True), SENTENCES]
    return ClusterPairs(*(torch.tensor(column, dtype=torch.long) for column in columns))


def make_head(**settings: Any) -> ClusterRelations:
    small = {"width": 4, "n_labels": 3, "n_types": 2, "size": 5, "hidden": 6, "product": 3, "types": 2, "dropout": 0.0}
    head = ClusterRelations(ClusterRelationsSettings(**(small | {"evidence": True} | settings))).double()
    if head.evidence is not None:
        torch.nn.init.normal_(head.evidence.mentioning.weight)
        torch.nn.init.normal_(head.evidence.prior.weight)
    return head


def make_states() -> WordStates:
    return WordStates({TOP: torch.randn(sum(LENGTHS), 4, dtype=torch.float64)}, LENGTHS)


def described_by(head: ClusterRelations, states: WordStates) -> np.ndarray[Any, Any]:
    """What the classifier's last layer reads of all pairs."""
    read: list[torch.Tensor] = []
    handle = head.outer.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].detach()))
    head(states, given())
    handle.remove()
    return torch.cat(read).numpy()


def kind(entity: int, nearest: int, sentence: int) -> int:
    rows = [row for row, (start, _, of) in enumerate(MENTIONS) if of == entity and SENTENCES[start] == sentence]
    return 2 if nearest in rows else 1 if rows else 0


def by_hand(head: ClusterRelations, states: WordStates, rows: list[int]) -> list[float]:
    weights = {name: value.detach().numpy() for name, value in head.evidence.named_parameters()}  # type: ignore[union-attr]
    words, described = states.layers[TOP].detach().numpy(), described_by(head, states)
    logits = []
    for row in rows:
        first, second, near_first, near_second = PAIRS[row]
        for sentence in range(3) if row < 4 else range(3, 5):
            mean = words[np.array(SENTENCES) == sentence].mean(axis=0)
            state = weights["sentence.weight"] @ mean + weights["sentence.bias"]
            how = 3 * kind(first, near_first, sentence) + kind(second, near_second, sentence)
            pair = weights["pair.weight"] @ described[row] + weights["pair.bias"]
            fit = pair @ (state + weights["mentioning.weight"][how])
            logits.append(float(fit / np.sqrt(64) + weights["prior.weight"][how, 0]))
    return logits


@pytest.mark.parametrize("block", [2, 8192])
@pytest.mark.parametrize("settings", [{}, {"adaptive": False, "nearest": False, "product": 0}], ids=lambda s: str(list(s)))
def test_equals_sentence_by_sentence(settings: dict[str, Any], block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """For any pairs of both documents; for none there is nothing."""
    for module in (relations_module, evidence_module):
        monkeypatch.setattr(module, "BLOCK", block)
    head, states = make_head(**settings), make_states()
    output = head(states, given())
    for rows in ([0, 1, 2, 3, 4, 5], [1, 3, 4], [5], [0, 0, 5, 5], []):
        found = output.evidence(torch.tensor(rows, dtype=torch.long))
        np.testing.assert_allclose(found.detach().numpy(), by_hand(head, states, rows), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.25)])
def test_loss(weights: tuple[float, float]) -> None:
    """The mean over the sentences of the pairs that are asked about, beside the loss of relations."""
    head = make_head(loss_weight=weights[0], evidence_weight=weights[1])
    states = make_states()
    output = head(states, given())
    targets, known = torch.zeros(6, 3, dtype=torch.float64), torch.ones(6, dtype=torch.bool)
    targets[[0, 4], [1, 2]] = 1.0
    alone = head.loss(output, targets, known)
    says = torch.tensor([True, False, True, False, True])
    p = 1 / (1 + np.exp(-np.array(by_hand(head, states, [0, 4]))))
    expected = -np.log(np.where(says.numpy(), p, 1 - p)).mean()
    found = head.loss(output, targets, known, torch.tensor([0, 4]), says) - alone
    assert float(found.detach()) == pytest.approx(weights[0] * weights[1] * expected)


def test_gradients() -> None:
    says = torch.tensor([True, False, False, True])
    logits = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: evidence_loss(x, says), logits)
    assert evidence_loss(torch.zeros(0), torch.zeros(0, dtype=torch.bool)) == 0


def test_no_evidence_known_is_no_evidence_loss() -> None:
    """Nothing is added, and no parameter of evidence has a gradient."""
    head = make_head()
    output = head(make_states(), given())
    targets, known = torch.zeros(6, 3, dtype=torch.float64), torch.ones(6, dtype=torch.bool)
    nothing = torch.zeros(0, dtype=torch.long)
    loss = head.loss(output, targets, known, nothing, nothing.bool())
    assert torch.equal(loss, head.loss(output, targets, known))
    loss.backward()
    assert all(parameter.grad is None for parameter in head.evidence.parameters())  # type: ignore[union-attr]


def test_off_by_default() -> None:
    head = make_head(evidence=False)
    assert not any("evidence" in name for name, _ in head.named_parameters())
    output: ClusterRelationOutput = head(make_states(), given()._replace(sentences=torch.zeros(0, dtype=torch.long)))
    assert output.evidence is None
    assert ClusterRelationsSettings(width=4, n_labels=1).evidence is False


def test_how_sentences_mention() -> None:
    """Entity 0 by words 0 and 6, entity 1 by words 1 and 8; the second is the nearest one of each."""
    pairs = given()
    found = mentions_in(pairs, torch.tensor([0, 1]), torch.tensor([3, 4]), 0, 3)
    assert found.tolist() == [[1, 2, 0], [1, 0, 2]]


def test_means() -> None:
    values, groups = np.random.default_rng(0).normal(size=(6, 3)), np.array([0, 0, 1, 2, 2, 2])
    expected = np.stack([values[groups == i].mean(axis=0) for i in range(3)])
    found = segment_mean(torch.from_numpy(values), torch.from_numpy(groups), len(expected))
    np.testing.assert_allclose(found.numpy(), expected)


def test_what_is_known_of_a_pair_is_behind_the_activation() -> None:
    """GELU by its definition over a sum of parts, here of head and tail alone."""
    head = make_head(nearest=False, product=0, types=0)
    states = make_states()
    entities = []
    for entity in range(5):
        own = [states.layers[TOP][start:end] for start, end, of in MENTIONS if of == entity]
        parts = [head.mention(torch.cat([words.amax(0), words[0], words[-1]])) for words in own]
        entities.append(torch.stack(parts).exp().sum(0).log())
    total = torch.stack([head.head(entities[a]) + head.tail(entities[b]) for a, b, *_ in PAIRS]).detach().numpy()
    np.testing.assert_allclose(described_by(head, states), total * (1 + erf(total / np.sqrt(2))) / 2)
