"""The classifier of keywords against numpy, its loss, and labels against BM25 by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc

from entitykit.bridge.keywords import distant_labels
from entitykit.bridge.link_texts import Place
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from entitykit.models.keywords import KeywordOutput, Keywords, KeywordSettings, build_keywords
from entitykit.types import TOP, WordStates, no_spans


def numbers(parameter: torch.Tensor | None) -> np.ndarray:
    assert parameter is not None
    return parameter.detach().double().numpy()


def test_logits() -> None:
    """Linear, ReLU, layer norm with weights and biases of its own, linear: row by row."""
    head = Keywords(KeywordSettings(width=6, hidden=4, dropout=0.5)).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    words = torch.randn(5, 6)
    found = head(WordStates({TOP: words}, (3, 2)), no_spans()).logits
    assert found.shape == (5,)
    for row, logit in zip(words.double().numpy(), found.tolist(), strict=True):
        hidden = np.maximum(numbers(head.inner.weight) @ row + numbers(head.inner.bias), 0)
        spread = math.sqrt(np.mean((hidden - hidden.mean()) ** 2) + 1e-5)
        normed = (hidden - hidden.mean()) / spread * numbers(head.norm.weight) + numbers(head.norm.bias)
        assert logit == pytest.approx(float(numbers(head.outer.weight)[0] @ normed + numbers(head.outer.bias)[0]), rel=1e-4)


def test_dropout_before_both_layers() -> None:
    """In training, states and hidden units are zeros now and then; otherwise never."""
    head = Keywords(KeywordSettings(width=50, hidden=40, dropout=0.5))
    seen: list[torch.Tensor] = []
    for layer in (head.inner, head.outer):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    states = WordStates({TOP: torch.ones(30, 50)}, (30,))
    head.train()(states, no_spans())
    head.eval()(states, no_spans())
    dropped = [float((part == 0).float().mean()) for part in seen]
    assert 0.4 < dropped[0] < 0.6
    assert 0.4 < dropped[1] < 0.6
    assert dropped[2] == dropped[3] == 0


def test_loss_is_the_mean_over_words_of_contexts() -> None:
    head = build_keywords({"width": 3, "labels": []})
    logits, words, targets = torch.tensor([0.5, -1.0, 2.0]), [1, 2, 1], [True, False, False]
    found = head.loss(KeywordOutput(logits), torch.tensor(words), torch.tensor(targets))
    p = [1 / (1 + math.exp(-float(logits[i]))) for i in words]
    expected = -sum(math.log(q if target else 1 - q) for q, target in zip(p, targets, strict=True)) / 3
    assert float(found) == pytest.approx(expected)
    nothing = torch.zeros(0, dtype=torch.long)
    assert float(head.loss(KeywordOutput(logits), nothing, nothing.bool())) == 0


DESCRIPTIONS = {
    "A": "a wooden boat, a boat of wood",  # a wooden boat a boat of wood: 7 words
    "B": "the boat that sank in storms",  # 6
    "C": "a mayor of the north",  # 5
    "D": "he painted boats",  # 3
    "E": "",
}


def bm25(tf: int, having: int, length: int) -> float:
    """With k1 = 1.5 and b = 0.75, of five descriptions of 21 / 5 words on average."""
    rarity = math.log((5 - having + 0.5) / (having + 0.5))
    return rarity * tf * 2.5 / (tf + 1.5 * (0.25 + 0.75 * length / 4.2))


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    store = EntityStore.create(tmp_path / "kb")
    store.add([Entity(id=id_, name=f"name boat {id_}", description=text) for id_, text in DESCRIPTIONS.items()])
    return store


def test_what_words_add_by_hand(store: EntityStore) -> None:
    """Three of five descriptions have a boat, in one form or another, so it adds nothing; names do not count."""
    words = ["Storm", "boats", "sank", "north", "wood", "name", "nobody"]
    found = store.description_scores([words, words, ["mayors", "of the north"], words], store.rows(["B", "A", "C", "E"]))
    assert found[0].tolist() == pytest.approx([bm25(1, 1, 6), 0, bm25(1, 1, 6), 0, 0, 0, 0])
    assert found[1].tolist() == pytest.approx([0, 0, 0, 0, bm25(1, 1, 7), 0, 0])
    of_the_north = bm25(1, 2, 5) + bm25(1, 2, 5) + bm25(1, 1, 5)
    assert found[2].tolist() == pytest.approx([bm25(1, 1, 5), of_the_north])
    assert found[3].tolist() == [0] * 7
    assert bm25(1, 1, 6) > bm25(1, 2, 5) > 0


TEXT = "It sank in a storm , Sank X the boat wooden"


def test_labels_by_hand(store: EntityStore) -> None:
    """Of the words around each mention those that add most; stop words and marks are not asked for, the mention is left out."""
    vocab = spacy.blank("xx").vocab
    docs = [Doc(vocab, words=["."]), Doc(vocab, words=TEXT.split())]
    rows = store.rows(["B", "A"]).tolist()
    places = [Place(1, 7, 8), Place(1, 7, 8)]
    labels = distant_labels(store, docs, places, rows, most=9)
    words = [2, 5, 7, 10, 11]  # sank storm Sank boat wooden, behind the other document's word
    assert labels.words.tolist() == words * 2
    assert labels.targets.tolist() == [*[True, True, True, False, False], *[False, False, False, False, True]]
    assert labels.sizes == [5, 5]
    assert distant_labels(store, docs, places[:1], rows[:1], most=1).targets.tolist() == [True, False, True, False, False]
    in_the_place_of_sank = distant_labels(store, docs, [Place(1, 1, 2)], rows[:1], most=1)  # of storm and Sank the first
    assert in_the_place_of_sank.targets.tolist() == [True, False, False, False]
    nothing = distant_labels(store, docs, [Place(0, 0, 1)], rows[:1], most=9)
    assert (len(nothing.words), len(nothing.targets), nothing.sizes) == (0, 0, [0])
    assert distant_labels(store, docs, [], [], most=9).sizes == []
