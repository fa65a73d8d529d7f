"""Vectors, losses and pairs of mentions against numpy and `transformers`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel

from entitykit.bridge.architectures import entity_encoder
from entitykit.bridge.cross_document import MentionTexts, mention_pairs
from entitykit.knowledge.candidates import Mention
from entitykit.models.cross_document import (
    CrossDocument,
    CrossDocumentSettings,
    MentionPairs,
    MentionPairsSettings,
    MentionVectors,
    cluster_loss,
    near_pairs,
)
from entitykit.models.scale import MAX_SCALE
from entitykit.types import TOP, Spans, WordStates
from tests.pipelines import encoder_config

WIDTH = 6


def unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def numbers(module: torch.nn.Module, name: str) -> NDArray[np.float64]:
    return module.get_parameter(name).detach().double().numpy()


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("name", ["scale", "sharpness"])
def test_temperatures_come_back_from_beyond_their_bound(name: str) -> None:
    head = CrossDocument(CrossDocumentSettings(width=WIDTH, hidden=3))
    learned = head.get_parameter(f"log_{name}")
    torch.nn.init.constant_(learned, 10.0)
    assert getattr(head, name).item() == MAX_SCALE
    for sign, gradient in ((1, MAX_SCALE), (-1, 0.0)):
        head.zero_grad()
        (sign * getattr(head, name)).backward()
        assert learned.grad is not None
        assert learned.grad.item() == gradient


@pytest.mark.parametrize("document", [False, True])
@pytest.mark.parametrize("projection", [None, 4])
def test_vectors(projection: int | None, document: bool) -> None:
    settings = CrossDocumentSettings(width=WIDTH, projection=projection, hidden=5, document=document)
    head = CrossDocument(settings).eval()
    torch.nn.init.normal_(head.outer.weight)
    words = torch.randn(9, WIDTH)
    starts, ends = [0, 2, 7], [2, 3, 9]
    with torch.no_grad():
        found = head(WordStates({TOP: words}, (4, 0, 5)), Spans(torch.tensor(starts), torch.tensor(ends))).vectors.numpy()
    x = words.double().numpy()
    for vector, start, end in zip(found, starts, ends, strict=True):
        own = x[start:end].mean(0)
        read = np.concatenate([own, x[start], x[end - 1]])
        if document:
            mean = x[:4].mean(0) if start < 4 else x[4:].mean(0)
            read, own = np.concatenate([read, mean]), own + numbers(head, "share") * mean
        inner = gelu(numbers(head, "inner.weight") @ read + numbers(head, "inner.bias"))
        change = numbers(head, "outer.weight") @ inner + numbers(head, "outer.bias")
        if projection:
            own = numbers(head, "project.weight") @ own + numbers(head, "project.bias")
        np.testing.assert_allclose(vector, unit(own + change), atol=1e-5)
    assert head.size == (projection or WIDTH)


def loss_by_hand(vectors: NDArray[np.float64], clusters: list[int], others: NDArray[np.float64], scale: float) -> float:
    """Mention by mention, centroid by centroid."""
    names = sorted(set(clusters))
    losses = []
    for i, own in enumerate(clusters):
        scores = []
        for name in names:
            members = [j for j, cluster in enumerate(clusters) if cluster == name and j != i]
            scores.append(scale * vectors[i] @ unit(vectors[members].sum(0)) if members else None)
        if scores[names.index(own)] is None:
            continue
        there = [score for score in scores if score is not None] + [scale * vectors[i] @ other for other in others]
        losses.append(np.log(np.exp(there).sum()) - scores[names.index(own)])
    return float(np.mean(losses)) if losses else 0.0


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 3), st.floats(0.5, 20))
def test_loss_of_clusters(clusters: list[int], n_others: int, scale: float) -> None:
    rng = np.random.default_rng(len(clusters))
    vectors, others = (unit(rng.normal(size=(n, WIDTH))) for n in (len(clusters), n_others))
    leaves = torch.from_numpy(vectors).requires_grad_()
    loss = cluster_loss(leaves, torch.tensor(clusters, dtype=torch.long), torch.from_numpy(others), torch.tensor(scale))
    assert loss.item() == pytest.approx(loss_by_hand(vectors, clusters, others, scale), abs=1e-6)
    loss.backward()
    assert leaves.grad is not None
    assert leaves.grad.isfinite().all()


@given(st.integers(0, 9), st.integers(1, 12))
def test_near_pairs_are_those_of_a_search(n: int, k: int) -> None:
    vectors = unit(np.random.default_rng(n).normal(size=(n, WIDTH)))
    expected = set()
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: -vectors[i] @ vectors[j])
        expected |= {(min(i, j), max(i, j)) for j in others[:k]}
    found = near_pairs(torch.from_numpy(vectors), k)
    assert {(a, b) for a, b in found.tolist()} == expected
    assert len(found) == len(expected)


def test_loss_with_the_probability_of_pairs() -> None:
    """Mentions of which nothing is known count for nothing; the pairs teach the probability, not the vectors."""
    head = CrossDocument(CrossDocumentSettings(width=WIDTH, hidden=5))
    vectors = unit(np.random.default_rng(0).normal(size=(4, WIDTH)))
    clusters = [7, 3, -1, 3]
    leaves = torch.from_numpy(vectors).float().requires_grad_()
    output = MentionVectors(Spans(torch.arange(4), torch.arange(1, 5)), leaves)
    loss = head.loss(output, torch.tensor(clusters), torch.zeros(0, WIDTH))
    known = vectors[[0, 1, 3]]
    of_clusters = loss_by_hand(known, [7, 3, 3], np.zeros((0, WIDTH)), 20.0)
    of_pairs = []
    for a, b, same in ((0, 1, False), (0, 2, False), (1, 2, True)):
        p = 1 / (1 + np.exp(-10 * (known[a] @ known[b] - 0.5)))
        of_pairs.append(-np.log(p if same else 1 - p))
    assert loss.item() == pytest.approx(of_clusters + np.mean(of_pairs), abs=1e-5)
    loss.backward()
    assert leaves.grad is not None
    assert not leaves.grad[2].any()
    assert head.middle.grad is not None
    assert head.log_sharpness.grad is not None


def test_scores_of_pairs() -> None:
    head = MentionPairs(MentionPairsSettings(width=WIDTH, hidden=5)).eval()
    states = torch.randn(4, 2, WIDTH)
    with torch.no_grad():
        found = head(states).numpy()
    for (a, b), score in zip(states.double().numpy(), found, strict=True):
        x = np.concatenate([a, b, a * b])
        for layer in ("first", "second"):
            x = np.maximum(numbers(head, f"{layer}.weight") @ x + numbers(head, f"{layer}.bias"), 0)
        assert score == pytest.approx((numbers(head, "score.weight") @ x + numbers(head, "score.bias"))[0], abs=1e-5)
    same = torch.tensor([True, False, False, True])
    p = 1 / (1 + np.exp(-found.astype(float)))
    expected = -np.log(np.where(same.numpy(), p, 1 - p)).sum()
    assert head.loss(torch.from_numpy(found), same).item() == pytest.approx(expected, abs=1e-5)


def make(path: Path, context_pieces: int = 24) -> MentionTexts:
    config = {k: v for k, v in encoder_config(path)["model"].items() if not k.startswith("@")}
    encoder = entity_encoder(**config)
    encoder.initialize()
    model = mention_pairs(encoder, context_pieces=context_pieces, hidden=8)
    model.shims[0].create({**model.attrs["settings"], "width": encoder.get_dim("nO")})
    return MentionTexts(model, "pairs")


MENTIONS = [
    Mention("the river", "at ", " in London"),
    Mention("New York", "", ""),
    Mention("John", "the mayor met " * 20, " in the town" * 20),
]
PAIRS = np.array([[0, 1], [2, 0], [1, 2], [1, 1]])


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta", "tiny_distilbert"])
def test_pairs_against_transformers(checkpoint: str, request: pytest.FixtureRequest) -> None:
    """Mentions are where the places say, and are means of the states that `transformers` gives."""
    path = request.getfixturevalue(checkpoint)
    texts = make(path)
    X = texts.input(MENTIONS, PAIRS)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    bert = AutoModel.from_pretrained(path).eval()
    composed, spans = X.texts(slice(None))
    states = X.reader.read_places(composed, spans).detach().numpy()
    for ids, places, pair, found in zip(composed, spans, PAIRS.tolist(), states, strict=True):
        assert len(ids) <= 48
        with torch.no_grad():
            expected = bert(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
        for (start, end), number, state in zip(places.tolist(), pair, found, strict=True):
            pieces = tokenizer.encode(MENTIONS[number].text, add_special_tokens=False).ids
            assert ids[start:end].tolist() == pieces
            np.testing.assert_allclose(state, expected[start:end].mean(0), atol=1e-5)
    scores = texts.model.predict(X).numpy()
    with torch.no_grad():
        np.testing.assert_allclose(scores, texts.model.shims[0].module(torch.from_numpy(states)).numpy(), atol=1e-5)


def test_parts_are_read_one_by_one(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is composed and read at once does not grow with the pairs, and parts are the whole."""
    texts = make(tiny_bert)
    pairs = np.array([[i, j] for i in range(len(MENTIONS)) for j in range(len(MENTIONS))] * 5)
    X = texts.input(MENTIONS, pairs)
    with torch.no_grad():
        states = X.reader.read_places(*X.texts(slice(None)))
        expected = texts.model.shims[0].module(states).numpy()
    monkeypatch.setattr(X.reader, "batch_pieces", 100)
    composed, join = [], type(X.reader).joined
    monkeypatch.setattr(type(X.reader), "joined", lambda *args: composed.append(sum(map(len, found := join(*args)))) or found)
    np.testing.assert_allclose(texts.model.predict(X).numpy(), expected, atol=1e-5)
    assert len(composed) > len(pairs) // 10
    assert max(composed) <= 100


def test_a_mention_without_pieces_and_no_pairs(tiny_bert: Path) -> None:
    texts = make(tiny_bert)
    X = texts.input([Mention("\u200b", "a ", ""), Mention("John", "", "")], np.array([[0, 1]]))
    assert texts.model.predict(X).isfinite().all()
    assert texts.model.predict(texts.input(MENTIONS, np.empty((0, 2), dtype=np.int64))).shape == (0,)
