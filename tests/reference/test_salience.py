"""The heads of salience against the same thing entity by entity; the cross-encoder's texts and scores against others' code."""

from __future__ import annotations

from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from spacy.tokens import Doc
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoModel

from entitykit.bridge.architectures import entity_encoder
from entitykit.bridge.salience import EntityTexts, MentionedEntity, WordsRead, choose_windows, salience_cross_encoder
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.models.linear import Linear
from entitykit.models.salience import (
    Salience,
    SalienceCrossEncoder,
    SalienceCrossEncoderSettings,
    SalienceSettings,
    begin_at,
    deciles_of,
    soft_bce,
)
from entitykit.types import TOP, EntityMentions, EntityTokens, Spans, WordStates
from tests.pipelines import encoder_config

LENGTHS = (20, 0, 7)
SENTENCES = [0] * 5 + [1] * 10 + [2] * 5 + [3] * 7
# entities of the first and the last document: several mentions, one, nested ones, one of all words
ENTITIES = [[(1, 2), (6, 8), (7, 8), (19, 20)], [(0, 20)], [(14, 15)], [(20, 21), (25, 27)], [(26, 27)]]
DOCUMENTS = [(0, 20), (0, 20), (0, 20), (20, 27), (20, 27)]


def packed(entities: list[list[tuple[int, int]]]) -> EntityMentions:
    rows = [(start, end, i) for i, mentions in enumerate(entities) for start, end in mentions]
    columns = [torch.tensor(column, dtype=torch.long) for column in zip(*rows, strict=True)]
    return EntityMentions(*columns, torch.tensor(SENTENCES))


def make_head(**settings: Any) -> Salience:
    small = {"width": 4, "hidden": 5, "fit": 3, "deciles": 2, "dropout": 0.0}
    return Salience(SalienceSettings(**(small | settings))).double()


def by_hand(head: Salience, words: torch.Tensor, states: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
    s, rows = head.settings, []
    for mentions, (begin, end) in zip(ENTITIES, DOCUMENTS, strict=True):
        own = torch.stack([states[place] for place in mentions])
        parts = [own.mean(0), own.amax(0)] if s.states else []
        if s.fit:
            document = torch.stack(list(words[begin:end])).mean(0)
            parts.append(F.gelu(head.of_entity(own.mean(0))) * F.gelu(head.of_document(document)))
        starts = [start for start, _ in mentions]
        first = (min(starts) - begin) / (end - begin)
        if s.counts:
            inside = {SENTENCES[i] for i in range(begin, end)}
            most = max(len(m) for m, document in zip(ENTITIES, DOCUMENTS, strict=True) if document == (begin, end))
            sentences = {SENTENCES[start] for start in starts}
            spread = (max(starts) - min(starts)) / (end - begin)
            counts = [first, spread, len(sentences) / len(inside), log(1 + len(mentions)), len(mentions) / most]
            n_before = len({SENTENCES[i] for i in range(begin, min(starts) + 1)}) - 1
            counts += [log(1 + min(starts) - begin) / log(1 + end - begin), log(1 + n_before)]
            parts.append(torch.tensor(counts, dtype=torch.float64))
        if s.deciles:
            parts.append(head.decile.weight[10 * (min(starts) - begin) // (end - begin)])
        layers = [layer for layer in (head.of_states, head.of_places) if layer is not None]
        weight, bias = torch.cat([layer.weight for layer in layers], dim=1), sum(layer.bias for layer in layers)
        rows.append(head.outer.weight[0] @ F.gelu(weight @ torch.cat(parts) + bias) + head.outer.bias[0])
    return torch.stack(rows)


@pytest.mark.parametrize(
    "settings",
    [{}, {"states": False, "fit": 0}, {"fit": 0}, {"counts": False, "deciles": 0}, {"states": False, "counts": False}],
    ids=str,
)
@pytest.mark.parametrize("tokens", [False, True])
def test_one_pass_head(settings: dict[str, Any], tokens: bool) -> None:
    head = make_head(**settings)
    words = torch.randn(27, 4, dtype=torch.float64)
    places = sorted({place for mentions in ENTITIES for place in mentions})
    of_tokens = torch.randn(len(places), 4, dtype=torch.float64)
    states = {(start, end): torch.stack(list(words[start:end])).amax(0) for start, end in places}
    batch = WordStates({TOP: words}, LENGTHS)
    if tokens:
        states = dict(zip(places, of_tokens, strict=True))
        batch = batch._replace(entities=EntityTokens(Spans(*torch.tensor(places).T), of_tokens))
    found = head(batch, packed(ENTITIES)).logits
    torch.testing.assert_close(found, by_hand(head, words, states), rtol=1e-6, atol=1e-6)


def test_cross_encoders_head() -> None:
    head = SalienceCrossEncoder(SalienceCrossEncoderSettings(width=4, hidden=5, deciles=2, dropout=0.0)).double()
    states = torch.randn(3, 4, dtype=torch.float64)
    found = head(states, torch.tensor([0, 0, 1]), torch.tensor([0, 9, 9, 3]), torch.tensor([0, 0, 0, 1]))
    deciles = head.decile.weight
    inputs = [torch.cat([(states[0] + states[1]) / 2, (deciles[0] + 2 * deciles[9]) / 3]), torch.cat([states[2], deciles[3]])]
    expected = [head.outer.weight[0] @ F.gelu(head.inner.weight @ x + head.inner.bias) + head.outer.bias[0] for x in inputs]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("n", [1, 3, 7, 10, 30, 999, 12345])
def test_deciles(n: int) -> None:
    places = list(range(n)) if n < 1000 else [i * n // 10 + shift for i in range(1, 10) for shift in (-1, 0, 1)]
    shares = torch.tensor(places).float() / n
    near_an_edge = 0 if n < 1000 else 1  # where a share is as near as single precision can tell
    differences = [abs(a - 10 * place // n) for a, place in zip(deciles_of(shares).tolist(), places, strict=True)]
    assert max(differences) <= near_an_edge
    if not near_an_edge:
        assert not any(differences)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=8))
def test_loss(pairs: list[tuple[float, float]]) -> None:
    logits, targets = torch.tensor(pairs, dtype=torch.float64).T
    p = logits.sigmoid().numpy()
    expected = -(targets.numpy() * np.log(p) + (1 - targets.numpy()) * np.log(1 - p)).mean()
    assert soft_bce(logits, targets).item() == pytest.approx(expected, abs=1e-9)


def test_loss_of_ones_and_zeros() -> None:
    logits, targets = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([1.0, 0.0, 0.0])
    assert soft_bce(logits, targets).item() == pytest.approx(log_loss(targets, logits.sigmoid()), abs=1e-6)
    assert soft_bce(logits[:0], targets[:0]).item() == 0


@pytest.mark.parametrize(("prior", "expected"), [(0.05, 0.05), (0.5, 0.5), (0.8, 0.8), (0.0, 0.01), (1.0, 0.99)])
def test_the_probability_that_a_layer_begins_at(prior: float, expected: float) -> None:
    layer = begin_at(prior, Linear(3, 1))
    assert layer(torch.zeros(2, 3)).sigmoid()[:, 0].tolist() == pytest.approx([expected] * 2)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=12), st.integers(1, 70), st.integers(1, 5))
def test_windows(places: list[int], n_more: int, limit: int) -> None:
    """Against trying all choices: no other choice of as many windows that has the first one reads more mentions."""
    n_pieces, size = max(places) + n_more, 11
    windows = [place // size for place in places]
    chosen, n_unread = choose_windows(n_pieces, np.array(windows), size, limit)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= limit
    assert n_unread == sum(window not in chosen for window in windows)
    others = range(1, -(-n_pieces // size))
    best = max(sum(w in (0, *c) for w in windows) for k in range(limit) for c in combinations(others, min(k, len(others))))
    assert len(windows) - n_unread == best


def make_texts(path: Path, **settings: object) -> EntityTexts:
    config = {k: v for k, v in encoder_config(path)["model"].items() if not k.startswith("@")}
    encoder = entity_encoder(**config)
    encoder.initialize()
    model = salience_cross_encoder(encoder, **{"pieces": 60, "entity_pieces": 12, **settings})
    model.shims[0].create({"width": encoder.get_dim("nO"), "hidden": 6, "deciles": 3, "dropout": 0.1})
    return EntityTexts(model, "test")


WORDS = ["The", "mayor", "of", "New", "York", "met", "Mary", ",", "in", "York", "."]


def make_doc(*, spaced: bool = False) -> Doc:
    spaces = [word != "." and (spaced or word not in ("Mary", "York") or i == 4) for i, word in enumerate(WORDS)]
    return Doc(spacy.blank("xx").vocab, words=WORDS, spaces=spaces)


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta", "tiny_xlmr", "tiny_distilbert"])
def test_texts_are_those_of_the_tokenizer(checkpoint: str, request: pytest.FixtureRequest) -> None:
    """With the marks taken out again: a name and the document are a pair, and marks stand around the mentions."""
    path = request.getfixturevalue(checkpoint)
    texts = make_texts(path)
    doc = make_doc(spaced=checkpoint == "tiny_xlmr")  # whose pieces of a word alone begin with a space
    found = texts.input([doc], [[MentionedEntity("New York", [(0, 5), (3, 5), (9, 10)])]])
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    (ids,) = found.texts
    opening, closing = (mark.tolist() for mark in texts.reader._marks[:2])
    expected = tokenizer.encode("New York", doc.text)
    assert without(ids.tolist(), opening, closing) == expected.ids
    assert found.deciles.tolist() == [0, 2, 8]
    assert (found.rows.tolist(), found.entities.tolist()) == ([0], [0, 0, 0])


def without(ids: list[int], *marks: list[int]) -> list[int]:
    for mark in marks:
        n, kept, i = len(mark), [], 0
        while i < len(ids):
            is_mark = ids[i : i + n] == mark
            kept += [] if is_mark else ids[i : i + 1]
            i += n if is_mark else 1
        ids = kept
    return ids


def test_marks_and_windows(tiny_bert: Path) -> None:
    texts = make_texts(tiny_bert, pieces=31, windows=2)
    reader = texts.reader
    words = WordsRead.of([np.array([100 + i] * n) for i, n in enumerate([1, 2, 1, 0, 3])])
    pieces, places = reader.marked_words(words, [(0, 2), (2, 3), (0, 1), (4, 5)])
    a, b = (int(mark[0]) for mark in reader._marks[:2])
    assert pieces.tolist() == [a, a, 100, b, 101, 101, b, a, 102, b, a, 104, 104, 104, b]
    assert [pieces[place] for place in places] == [100, 102, 100, 104]
    doc = Doc(spacy.blank("xx").vocab, words=["John"] + ["the"] * 80 + ["John"])
    entities = [[MentionedEntity("John", [(0, 1), (81, 82)])]]
    first, last = texts.input([doc], entities).texts
    assert max(len(first), len(last)) <= 31
    assert all(ids.tolist().count(a) == 1 for ids in (first, last))
    texts.model.attrs["texts"]["windows"] = 1
    for n in (1, 2):  # every batch is told of
        with pytest.warns(EntityKitWarning, match=rf"W621.*{n} of {2 * n} mentions"):
            (only, *_) = texts.input([doc] * n, entities * n).texts
        assert only.tolist() == first.tolist()


def test_a_documents_words_are_joined_once(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for each of its entities."""
    texts, joined = make_texts(tiny_bert), []
    doc = Doc(spacy.blank("xx").vocab, words=["John", "the"] * 500)
    cumsum = np.cumsum
    monkeypatch.setattr(np, "cumsum", lambda values, **kwargs: joined.append(len(values)) or cumsum(values, **kwargs))
    X = texts.input([doc], [[MentionedEntity("John", [(i, i + 1)]) for i in range(0, 40, 2)]])
    assert len(set(X.rows.tolist())) == 20
    assert joined.count(len(doc) + 1) == 1


def test_long_names_are_cut_and_counted(tiny_bert: Path) -> None:
    texts = make_texts(tiny_bert)
    long, short = MentionedEntity("the river " * 10, [(0, 1)]), MentionedEntity("Mary", [(6, 7)])
    for n in (1, 2):
        with pytest.warns(EntityKitWarning, match=rf"W620.*{n} of {n + 1} names.*12 pieces"):
            X = texts.input([make_doc()], [[long] * n + [short]])
        assert max(map(len, X.texts)) <= 60


@pytest.mark.parametrize("settings", [{"pieces": 25}, {"pieces": 1000}], ids=str)
def test_texts_that_nothing_can_read(tiny_bert: Path, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="E621.*pieces"):
        make_texts(tiny_bert, **settings).input([make_doc()], [[MentionedEntity("Mary", [(6, 7)])]])


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_scores_against_transformers(tiny_bert: Path, pooling: str) -> None:
    """`transformers` gives the states, numpy the score."""
    texts = make_texts(tiny_bert, pooling=pooling)
    entities = [MentionedEntity("New York", [(3, 5), (9, 10)]), MentionedEntity("Mary", [(6, 7)])]
    X = texts.input([make_doc(), make_doc()], [entities, entities[1:]])
    found = texts.model.predict(X).numpy()
    bert = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval()
    weights = {name: value.detach().numpy() for name, value in texts.model.shims[0].module.state_dict().items()}
    deciles = [[2, 8], [5], [5]]
    for ids, own, score in zip(X.texts, deciles, found, strict=True):
        with torch.no_grad():
            states = bert(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
        read = np.concatenate([states[0] if pooling == "first" else states.mean(0), weights["decile.weight"][own].mean(0)])
        hidden = F.gelu(torch.from_numpy(weights["inner.weight"] @ read + weights["inner.bias"])).numpy()
        assert score == pytest.approx(float(weights["outer.weight"][0] @ hidden + weights["outer.bias"][0]), abs=1e-5)
