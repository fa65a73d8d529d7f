"""The cross-encoder's formulas against numpy and `transformers`, and its texts against the tokenizers' own pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModel

from entitykit.bridge.cross_encoder import PairInput, cross_encoder
from entitykit.bridge.texts import TextReader
from entitykit.models.cross_encoder import distillation_loss, ranking_loss
from tests.pipelines import encoder_config


def make(path: Path, **settings: object) -> tuple[object, TextReader]:
    from entitykit.bridge.architectures import entity_encoder

    config = {k: v for k, v in encoder_config(path)["model"].items() if not k.startswith("@")}
    encoder = entity_encoder(**config)
    encoder.initialize()
    model = cross_encoder(encoder, **settings)
    model.shims[0].create({"width": encoder.get_dim("nO"), "dropout": 0.1})
    return model, TextReader.of(encoder, pooling=model.attrs["texts"]["pooling"])


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta", "tiny_xlmr", "tiny_distilbert"])
def test_pairs_are_those_of_the_tokenizer(checkpoint: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(checkpoint)
    _, reader = make(path)
    a, b = (reader.described([name], [""], size=40, mark=False).ids for name in ("the river", "John was"))
    (found,) = reader.joined(a, b)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    assert found.tolist() == tokenizer.encode("the river", "John was").ids
    assert reader.joined_size(len(a[0]), len(b[0])) == len(found)


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_scores_against_transformers(checkpoint: str, pooling: str, request: pytest.FixtureRequest) -> None:
    """`transformers` gives the states, numpy the score."""
    path = request.getfixturevalue(checkpoint)
    model, reader = make(path, pooling=pooling)
    contexts = reader.marked(["at a", "in"], ["river", "New"], ["of", ""], size=40).ids
    entities = reader.described(["the", "a river", "of"], ["", "was a river in", "at"], size=40).ids
    pairs = reader.joined([contexts[0]] * 3 + [contexts[1]] * 3, [*entities, *entities])
    found = model.predict(PairInput(pairs, [3, 3], reader)).numpy()
    bert = AutoModel.from_pretrained(path, add_pooling_layer=False).eval()
    head = model.shims[0].module
    weight, bias = head.score.weight.detach().numpy()[0], head.score.bias.item()
    for ids, score in zip(pairs, found, strict=True):
        with torch.no_grad():
            states = bert(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
        assert score == pytest.approx(float((states[0] if pooling == "first" else states.mean(0)) @ weight + bias), abs=1e-5)


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=6), data=st.data())
def test_ranking_loss_against_numpy(counts: list[int], data: st.DataObject) -> None:
    gold = [data.draw(st.integers(0, n - 1)) for n in counts]
    scores = torch.randn(sum(counts), dtype=torch.float64, requires_grad=True)
    expected, first = 0.0, 0
    for n, right in zip(counts, gold, strict=True):
        own = scores.detach().numpy()[first : first + n]
        expected += np.log(np.exp(own).sum()) - own[right]
        first += n
    found = ranking_loss(scores, torch.tensor(counts), torch.tensor(gold))
    assert found.item() == pytest.approx(expected)
    found.backward()
    assert scores.grad.sum().item() == pytest.approx(0, abs=1e-9)  # each mention's softmax sums to 1
    nothing = torch.zeros(0, requires_grad=True)
    assert ranking_loss(nothing, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long)).item() == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=5), st.floats(0.3, 4.0))
def test_distillation_against_numpy(counts: list[int], temperature: float) -> None:
    n_columns, k = 7, max(counts)
    rng = np.random.default_rng(sum(counts))
    logits = rng.normal(size=(len(counts), n_columns))
    columns, teacher = np.full((len(counts), k), -1), np.zeros((len(counts), k))
    expected = []
    for i, n in enumerate(counts):
        columns[i, :n] = rng.permutation(n_columns)[:n]
        teacher[i, :n] = rng.dirichlet(np.ones(n)) if n else []
        if n:
            soft = teacher[i, :n] ** (1 / temperature)
            soft /= soft.sum()
            own = np.exp(logits[i, columns[i, :n]] / temperature)
            own /= own.sum()
            expected.append((soft * np.log(soft / own)).sum() * temperature**2)
    student = torch.tensor(logits, requires_grad=True)
    found = distillation_loss(student, torch.tensor(columns), torch.tensor(teacher), temperature)
    assert found.item() == pytest.approx(np.mean(expected) if expected else 0.0, rel=1e-6, abs=1e-9)
    found.backward()
    assert student.grad.isfinite().all()


def test_a_student_that_agrees_has_no_loss() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64)
    columns = torch.tensor([[0, 1, 2], [4, 3, -1], [-1, -1, -1]])
    teacher = torch.zeros(3, 3, dtype=torch.float64)
    teacher[0], teacher[1, :2] = logits[0, :3].softmax(0), logits[1, [4, 3]].softmax(0)
    assert distillation_loss(logits, columns, teacher, 2.0).item() == pytest.approx(0, abs=1e-12)
