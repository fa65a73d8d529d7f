"""A head's thinc model: on the shared encoder or on any spaCy layer, it learns and passes gradients down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from spacy.ml.models.tok2vec import build_hash_embed_cnn_tok2vec
from spacy.tokens import Doc
from spacy.vocab import Vocab
from thinc.api import Adam, Model

from entitykit.bridge.architectures import encoder_listener, span_ner, spert, tommer
from entitykit.bridge.head import HeadInput
from entitykit.bridge.listener import EncoderListener
from entitykit.types import ENTITIES, MENTIONS, TOP, Spans, WordStates

VOCAB = Vocab()
WIDTH = 8
DOCS = [Doc(VOCAB, words=words.split()) for words in ("John met Mary", "", "Paris in the spring")]
NOTHING = Spans(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
SOME = Spans(torch.tensor([0, 1, 3]), torch.tensor([1, 3, 7]))


class Recorder:
    """The gradients that reach the layer below, one array per document."""

    def __init__(self) -> None:
        self.arrays = [np.random.default_rng(0).standard_normal((len(doc), WIDTH)).astype("f") for doc in DOCS]
        self.received: list[Any] = []

    def forward(self, model: Model[Any, Any], docs: Sequence[Doc], is_train: bool) -> tuple[list[Any], Any]:
        def backprop(gradients: list[Any]) -> list[Doc]:
            self.received = gradients
            return []

        return self.arrays, backprop


def make_head(kind: str, tok2vec: Model[Any, Any]) -> Model[HeadInput, Any]:
    model = {"mentions": tommer, "span_ner": span_ner, "spert": spert}[kind](tok2vec)
    model.shims[0].create({**model.attrs["settings"], "width": WIDTH, "labels": ["A", "B"]})  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("kind", ["mentions", "span_ner", "spert"])
def test_any_embedding_layer(kind: str) -> None:
    """All layers that a head reads are the one that there is, and its gradients are their sum."""
    below = Recorder()
    model = make_head(kind, Model("below", below.forward, dims={"nO": WIDTH}))
    module = model.shims[0].module  # type: ignore[attr-defined]
    model.attrs["dropout_rate"] = 0.0
    output, backprop = model.begin_update(HeadInput(DOCS, SOME))
    scores = output[0] if kind == "mentions" else output.logits
    backprop(scores.square().sum())
    leaf = torch.from_numpy(np.concatenate(below.arrays)).requires_grad_()
    again = module(WordStates(dict.fromkeys(model.attrs["layers"], leaf), (3, 0, 4)), SOME)
    (expected,) = torch.autograd.grad((again[0] if kind == "mentions" else again.logits).square().sum(), leaf)
    assert [array.shape for array in below.received] == [array.shape for array in below.arrays]
    np.testing.assert_allclose(np.concatenate(below.received), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_loss_without_gradient() -> None:
    below = Recorder()
    model = make_head("spert", Model("below", below.forward, dims={"nO": WIDTH}))
    _, backprop = model.begin_update(HeadInput(DOCS, NOTHING))
    backprop(torch.zeros(()))
    assert [array.shape for array in below.received] == [array.shape for array in below.arrays]
    assert not any(array.any() for array in below.received)


def test_layer_of_spacy_learns() -> None:
    """A head on spaCy's own convolutions, with all gradients taken by one optimizer."""
    tok2vec = build_hash_embed_cnn_tok2vec(
        width=WIDTH, depth=1, embed_size=50, window_size=1, maxout_pieces=2, subword_features=True, pretrained_vectors=None
    )
    tok2vec.initialize(X=DOCS)
    model = make_head("spert", tok2vec)
    optimizer = Adam(0.01)
    losses = []
    for _ in range(20):
        output, backprop = model.begin_update(HeadInput(DOCS, SOME))
        loss = model.shims[0].module.loss(output, torch.tensor([1, 0, 2]))  # type: ignore[attr-defined]
        backprop(loss)
        model.finish_update(optimizer)
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]


def test_heads_ask_for_their_layers() -> None:
    for model, layers, of_probe in (
        (tommer(encoder_listener(), layer=2), {MENTIONS}, {2}),
        (span_ner(encoder_listener(), probe_layer=1), {TOP, ENTITIES, MENTIONS}, {1}),
        (spert(encoder_listener("mine")), {TOP}, set()),
    ):
        listener = model.layers[0]
        assert isinstance(listener, EncoderListener)
        assert (listener.reads, listener.probes) == (layers, of_probe)
    assert listener.upstream_name == "mine"
