"""The layer through which a head hears the shared encoder: packed states of the layers it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from spacy.tokens import Doc
from spacy_transformers.layers import TransformerListener
from spacy_transformers.pipeline_component import install_extensions
from thinc.api import Model, xp2torch
from torch import Tensor

from entitykit.bridge.encoder import EncoderBatch, layer_of
from entitykit.errors import error
from entitykit.types import TOP, WordStates

Gradients = Mapping[int, Tensor]
Accumulate = Callable[[Gradients], None]


class EncoderListener(TransformerListener):
    """Passes an encoder's output to a head without copying it to numpy, and the head's gradients back.

    Attributes:
        reads: encoder layers that the head reads; `TOP` is the last.
    """

    name = "entitykit-listener"

    def __init__(self, upstream_name: str) -> None:
        Model.__init__(self, name=self.name, forward=forward, dims={"nO": None})
        self.upstream_name = upstream_name
        self.reads: set[int] = set()
        self._docs: Sequence[Doc] = ()
        self._batch: EncoderBatch | None = None
        self._accumulate: Accumulate | None = None

    def send(self, docs: Sequence[Doc], batch: EncoderBatch, accumulate: Accumulate) -> None:
        """Take the encoder's output for a training batch.

        Args:
            docs: the documents, the same objects that the head will be given.
            batch: the output.
            accumulate: takes the head's gradients by layer.
        """
        self._docs, self._batch, self._accumulate = docs, batch, accumulate

    def take(self, docs: Sequence[Doc]) -> tuple[EncoderBatch, Accumulate] | None:
        """Hand over what was sent for exactly these documents, once; none if it was for others."""
        batch, accumulate = self._batch, self._accumulate
        sent_for_these = len(docs) == len(self._docs) and all(a is b for a, b in zip(docs, self._docs, strict=True))
        self._docs, self._batch, self._accumulate = (), None, None
        return (batch, accumulate) if sent_for_these and batch is not None and accumulate is not None else None


def request_layers(tok2vec: Model[Any, Any], layers: Iterable[int]) -> None:
    """Ask for encoder layers, wherever a listener is inside `tok2vec`; other embedding layers have one layer only."""
    for node in tok2vec.walk():
        if isinstance(node, EncoderListener):
            node.reads.update(layers)


def forward(model: EncoderListener, docs: Sequence[Doc], is_train: bool) -> tuple[WordStates, Callable[[Gradients], list[Doc]]]:
    """Give the states of the documents' words.

    Raises:
        ConfigError: E102 if the encoder has not run on them, E103 if it has not given the layers that the head reads.
    """
    sent = model.take(docs) if is_train else None
    if sent is not None:
        batch, accumulate = sent

        def backprop(gradients: Gradients) -> list[Doc]:
            accumulate(gradients)
            return []

        return batch.states, backprop
    return _read(docs, model.reads, model.get_dim("nO")), _no_backprop


def _no_backprop(gradients: Gradients) -> list[Doc]:
    return []


def _read(docs: Sequence[Doc], layers: Iterable[int], width: int) -> WordStates:
    """States that the encoder left on the documents."""
    install_extensions()
    states: dict[int, Tensor] = {}
    for doc in docs:
        if doc._.trf_data is None and len(doc):
            raise error("E102", text=doc.text[:40])
    for layer in layers:
        parts = []
        for doc in docs:
            if len(doc):
                array = layer_of(doc._.trf_data, layer)
                if array is None:
                    raise error("E103", layer="last" if layer == TOP else layer)
                parts.append(xp2torch(array))
        states[layer] = parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.zeros(0, width)
    return WordStates(states, tuple(len(doc) for doc in docs))
