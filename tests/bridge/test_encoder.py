"""Docs in, states of words out: any mixture of documents, windows and packs gives each word the same state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from spacy.tokens import Doc
from spacy.vocab import Vocab
from spacy_transformers.pipeline_component import install_extensions
from thinc.api import Model
from transformers import AutoModel, AutoTokenizer

from entitykit.bridge import spill
from entitykit.bridge.architectures import entity_encoder
from entitykit.bridge.states import EncoderBatch, states_of
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.models.ner import proposals_of
from entitykit.types import ENTITIES, TOP, WordStates
from tests.util import MAX_PIECES, N_LAYERS, WIDTH

VOCAB = Vocab()
TEXT = ["In", "1987", "the", "engineer", "John", "Carpenter", "moved", "from", "Aberdeen", "to", "New", "York", "."]
SMALL = {"window": 40, "overlap": 8, "max_word_pieces": 20, "batch_pieces": 100}


def make_encoder(path: Path, **settings: Any) -> Model[list[Doc], EncoderBatch]:
    model = entity_encoder(str(path), **(SMALL | {"position_shift": 0.0} | settings))
    model.initialize()
    return model


def make_docs(*texts: Sequence[str]) -> list[Doc]:
    return [Doc(VOCAB, words=list(words)) for words in texts]


@pytest.fixture
def model(tiny_bert: Path) -> Model[list[Doc], EncoderBatch]:
    return make_encoder(tiny_bert)


def states(model: Model[Any, EncoderBatch], docs: list[Doc], layer: int = TOP) -> list[np.ndarray]:
    batch = model.predict(docs)
    assert batch.states.lengths == tuple(map(len, docs))
    return list(torch.split(batch.states.layers[layer], batch.states.lengths))


def test_short_document_equals_transformers(tiny_bert: Path, model: Model[Any, EncoderBatch]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    reference = AutoModel.from_pretrained(tiny_bert).eval()
    encoding = tokenizer(TEXT[:6], is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        pieces = reference(**encoding).last_hidden_state[0]
    rows = [[i for i, word in enumerate(encoding.word_ids()) if word == number] for number in range(6)]
    expected = torch.stack([pieces[row].mean(0) for row in rows])
    (found,) = states(model, make_docs(TEXT[:6]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert model.get_dim("nO") == WIDTH


def test_batch_equals_documents_alone(model: Model[Any, EncoderBatch]) -> None:
    """Empty, of white space, short, long, and one that fills a window."""
    docs = make_docs(TEXT, [], [" ", "\n"], ["Peter"], TEXT * 20, ["the"] * 38, ["the"] * 39, TEXT)
    together = states(model, docs)
    for doc, found in zip(docs, together, strict=True):
        if len(doc):
            torch.testing.assert_close(found, states(model, [doc])[0], rtol=0, atol=1e-5)
    assert not together[2].any()  # white space has no pieces
    backwards = states(model, docs[::-1])[::-1]
    torch.testing.assert_close(backwards, together, rtol=0, atol=1e-5)


def test_budget_changes_nothing_but_the_packs(tiny_bert: Path, model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(TEXT * 20, TEXT, TEXT * 3)
    sizes: list[int] = []
    for budget in (1, 41, 100, 10_000):
        other = make_encoder(tiny_bert, batch_pieces=budget)
        sizes.clear()
        other.shims[0].module.register_forward_pre_hook(lambda _, args: sizes.append(sum(args[0].lengths)))
        torch.testing.assert_close(states(other, docs), states(model, docs), rtol=0, atol=1e-5)
        assert max(sizes) <= max(budget, SMALL["window"])
        assert (len(sizes) == 1) == (budget == 10_000)


def test_coverage(model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(TEXT * 20, [], ["\n"], ["a"])
    coverage = model.predict(docs).coverage
    assert [c["words"] for c in coverage] == [c["read"] for c in coverage] == list(map(len, docs))
    assert coverage[0]["windows"] > 20
    assert coverage[0]["pieces"] > coverage[0]["words"]
    assert coverage[1:] == [
        {"words": 0, "read": 0, "pieces": 0, "windows": 0, "shortened": 0},
        {"words": 1, "read": 1, "pieces": 0, "windows": 1, "shortened": 0},
        {"words": 1, "read": 1, "pieces": 1, "windows": 1, "shortened": 0},
    ]


def test_word_of_a_million_characters(model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(["a", "b" * 1_000_000, "c"])
    with pytest.warns(EntityKitWarning, match="W001.*1 words") as caught:
        batch = model.predict(docs)
    assert batch.coverage[0] == {"words": 3, "read": 3, "pieces": 22, "windows": 1, "shortened": 1}
    assert batch.states.layers[TOP].isfinite().all()
    assert len(caught) == 1


def test_long_document_through_the_file(model: Model[Any, EncoderBatch], monkeypatch: pytest.MonkeyPatch) -> None:
    docs = make_docs(TEXT * 30, TEXT)
    expected = states(model, docs)
    monkeypatch.setattr(spill, "SPILL_WORDS", 100)
    stores: list[object] = []
    mapped = spill.StateStore._mapped
    monkeypatch.setattr(spill.StateStore, "_mapped", lambda *args: stores.append(args) or mapped(*args))
    assert all(torch.equal(a, b) for a, b in zip(states(model, docs), expected, strict=True))
    assert len(stores) == 1


def test_training_states_equal_prediction_without_dropout(model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(TEXT * 5, [], TEXT)
    model.attrs["dropout_rate"] = 0.0
    batch, _ = model.begin_update(docs)
    torch.testing.assert_close(batch.states.layers[TOP].detach(), torch.cat(states(model, docs)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_distilbert", "tiny_roberta", "tiny_xlmr"])
def test_word_dropout_masks_whole_words_in_training(request: pytest.FixtureRequest, family: str) -> None:
    path = request.getfixturevalue(family)
    model = make_encoder(path, word_dropout=0.5)
    mask = AutoTokenizer.from_pretrained(path).mask_token_id
    seen: list[torch.Tensor] = []
    model.shims[0].module.register_forward_pre_hook(lambda _, args: seen.append(args[0].ids))
    docs = make_docs(["engineer"] * 3)
    n_pieces = len(model.attrs["pieces"].split("engineer"))
    model.predict(docs)
    assert not (seen[0] == mask).any()
    masked = []
    for _ in range(30):
        model.begin_update(docs)
        words = (seen[-1][1:-1] == mask).view(3, n_pieces)
        assert torch.equal(words.any(1), words.all(1))
        assert seen[-1][0] != mask != seen[-1][-1]
        masked.append(words.all(1).float())
    assert 0.3 < torch.stack(masked).mean() < 0.7


def test_gradients_of_all_layers_in_one_pass(model: Model[Any, EncoderBatch]) -> None:
    """Through windows and packs the gradient is that of the sum of all layers' losses."""
    docs = make_docs(TEXT * 5, TEXT)
    model.attrs["layers"] = [TOP, 0, 1]
    model.attrs["dropout_rate"] = 0.0
    module = model.shims[0].module

    def gradients(*layers: int) -> dict[str, torch.Tensor]:
        module.zero_grad()
        batch, backprop = model.begin_update(docs)
        backprop({layer: (layer + 2) * torch.ones_like(batch.states.layers[layer]) for layer in layers})
        return {name: p.grad.to_dense().clone() for name, p in module.named_parameters() if p.grad is not None}

    together, parts = gradients(TOP, 0, 1), [gradients(layer) for layer in (TOP, 0, 1)]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in parts if name in part), rtol=1e-4, atol=1e-3)


def test_gradient_by_hand(model: Model[Any, EncoderBatch]) -> None:
    """The last bias is in every piece, and a word is the mean of its pieces: each word that has some counts once."""
    docs = make_docs(TEXT * 5, [" ", "\n"], TEXT)
    model.attrs["dropout_rate"] = 0.0
    batch, backprop = model.begin_update(docs)
    backprop({TOP: torch.ones_like(batch.states.layers[TOP])})
    gradient = model.shims[0].module.layers[-1].norm.bias.grad
    torch.testing.assert_close(gradient, torch.full((WIDTH,), 6.0 * len(TEXT)), rtol=1e-5, atol=1e-3)


def test_layers_are_numbered_from_the_embeddings(model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(TEXT)
    model.attrs["layers"] = [TOP, 0, N_LAYERS]
    layers = model.predict(docs).states.layers
    assert set(layers) == {TOP, 0, N_LAYERS}
    assert torch.equal(layers[TOP], layers[N_LAYERS])
    assert not torch.equal(layers[TOP], layers[0])


def test_data_for_stock_listeners(model: Model[Any, EncoderBatch]) -> None:
    docs = make_docs(TEXT, [], ["Peter"])
    model.attrs["layers"] = [TOP, 1]
    batch = model.predict(docs)
    for doc, data, found in zip(docs, batch.doc_data, states(model, docs), strict=True):
        if len(doc):
            assert data.model_output.last_hidden_state.shape == (1, len(doc), WIDTH)
            assert np.array_equal(data.model_output.last_hidden_state[0], found.numpy())
            assert data.align.lengths.tolist() == [1] * len(doc)
            assert "layer_1" in data.model_output
        assert "layer_0" not in data.model_output
    assert not EncoderBatch(WordStates({TOP: torch.zeros(0, WIDTH)}, (0,)), [{}]).doc_data[0].model_output


def test_save_and_load(tiny_bert: Path, model: Model[Any, EncoderBatch]) -> None:
    """Without the checkpoint, and with word shapes and the number of layers as they were."""
    cut = make_encoder(tiny_bert, n_layers=1)
    loaded = entity_encoder("no/such/checkpoint", **SMALL).from_bytes(cut.to_bytes())
    loaded.initialize()
    docs = make_docs(TEXT * 5)
    assert torch.equal(states(loaded, docs)[0], states(cut, docs)[0])
    assert len(loaded.shims[0].module.layers) == 1


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"storage": "int4"}, "storage"),
        ({"batch_pieces": 0}, "batch_pieces"),
        ({"overlap": 0}, "overlap"),
        ({"word_dropout": 1.0}, "word_dropout"),
        ({"word_dropout": -0.1}, "word_dropout"),
        ({"max_word_pieces": 0}, "max_word_pieces"),
    ],
    ids=str,
)
def test_bad_values(tiny_bert: Path, settings: dict[str, Any], setting: str) -> None:
    with pytest.raises(ConfigError, match=rf"E007.*{setting}"):
        entity_encoder(str(tiny_bert), **(SMALL | settings))


@pytest.mark.parametrize(
    "settings", [{"window": MAX_PIECES + 1}, {"window": 29}, {"overlap": 19}, {"max_word_pieces": 31}], ids=str
)
def test_windows_that_do_not_fit(tiny_bert: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E007.*window.*at most 128"):
        make_encoder(tiny_bert, **settings)
    make_encoder(tiny_bert, window=MAX_PIECES)
    make_encoder(tiny_bert, window=30)
    make_encoder(tiny_bert, overlap=18)
    make_encoder(tiny_bert, max_word_pieces=30)


def test_longest_window_of_roberta(tiny_roberta: Path) -> None:
    """Its positions count from 2, and none is left over."""
    model = make_encoder(tiny_roberta, window=MAX_PIECES, overlap=8, max_word_pieces=20)
    assert states(model, make_docs(["a"] * 1000))[0].isfinite().all()


def test_runs_are_what_windows_read(model: Model[Any, EncoderBatch]) -> None:
    """Documents longer than a window have several, which add up to them, also once the states went to documents and back."""
    docs = make_docs(TEXT * 8, [], TEXT, TEXT * 5)
    states = model.predict(docs).states
    assert states.runs is not None
    ends = set(np.cumsum(states.runs).tolist())
    assert len(states.runs) > 4
    assert set(np.cumsum(states.lengths).tolist()) <= ends
    install_extensions()
    for doc, data in zip(docs, model.predict(docs).doc_data, strict=True):
        doc._.trf_data = data
    assert states_of(docs, [TOP], WIDTH).runs == states.runs


def test_a_batch_without_words_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """So are the proposals that it does not have, and a head finds all that it reads in one place."""
    monkeypatch.setattr("entitykit.bridge.states.get_torch_default_device", lambda: torch.device("meta"))
    states = states_of(make_docs([]), [TOP, ENTITIES], WIDTH)
    assert states.layers[TOP].device.type == "meta"
    assert proposals_of(states).starts.device.type == "meta"


def test_positions_are_shifted_in_training_only(tiny_bert: Path) -> None:
    model = make_encoder(tiny_bert, position_shift=1.0)
    seen: list[torch.Tensor] = []
    model.shims[0].module.register_forward_pre_hook(lambda _, args: seen.append(args[0].positions))
    docs = make_docs(TEXT[:5])
    model.predict(docs)
    assert seen[0].tolist() == list(range(len(seen[0])))
    begins = set()
    for _ in range(60):
        model.begin_update(docs)
        assert (seen[-1] - seen[-1][0]).tolist() == seen[0].tolist()
        assert int(seen[-1][-1]) < model.attrs["reading"].window
        begins.add(int(seen[-1][0]))
    assert len(begins) > 5
