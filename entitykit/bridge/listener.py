"""The layer through which a head hears the shared encoder: packed states of the layers it asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from spacy.tokens import Doc
from spacy_transformers.layers import TransformerListener
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.late import has_keys
from entitykit.bridge.states import EncoderBatch, states_of
from entitykit.types import ENTITIES, Spans, WordStates

Gradients = Mapping[int, Tensor]
Accumulate = Callable[[Gradients], None]


class EncoderListener(TransformerListener):
    """Passes an encoder's output to a head without copying it to numpy, and the head's gradients back.

    Attributes:
        reads: encoder layers that the head reads; `TOP` is the last. `ENTITIES` and `MENTIONS` ask for entity tokens and for
            the scores of the encoder's own probe, where the encoder has them.
        probes: layers that the head's own probe reads; the head has none where the encoder proposes.
        window: how far the spans reach that the encoder's own probe proposes; none where it has no probe.
        encoder: the encoder's own model, for heads that have more to read than documents; none before it is there.
        late: gives entity tokens to spans of documents that were read, if the encoder has kept what they need.
        learns: whether the encoder learns from the last batch that was heard, so that such heads must give it gradients, too.
    """

    name = "entitykit-listener"

    def __init__(self, upstream_name: str) -> None:
        Model.__init__(self, name=self.name, forward=forward, dims={"nO": None})
        self.upstream_name = upstream_name
        self.reads: set[int] = set()
        self.probes: set[int] = set()
        self.window: int | None = None
        self.encoder: Model[Any, Any] | None = None
        self.late: Callable[[Sequence[Doc], Spans], Tensor] | None = None
        self.learns = False
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


def request_layers(tok2vec: Model[Any, Any], layers: Iterable[int], of_probe: Iterable[int] = ()) -> None:
    """Ask for encoder layers, and for those of the head's own probe; other embedding layers than listeners have one only."""
    for node in tok2vec.walk():
        if isinstance(node, EncoderListener):
            node.reads.update(layers)
            node.probes.update(of_probe)


def proposed_window(tok2vec: Model[Any, Any]) -> int | None:
    """The window of the probe of the encoder that a listener inside `tok2vec` hears; none if that proposes no spans."""
    windows = (node.window for node in tok2vec.walk() if isinstance(node, EncoderListener))
    return next((window for window in windows if window is not None), None)


def forward(model: EncoderListener, docs: Sequence[Doc], is_train: bool) -> tuple[WordStates, Callable[[Gradients], list[Doc]]]:
    """Give the states of the documents' words.

    Raises:
        ConfigError: E102 if the encoder has not run on them, E103 if it has not given the layers that the head reads.
    """
    sent = model.take(docs) if is_train else None
    model.learns = sent is not None
    if sent is not None:
        batch, accumulate = sent

        def backprop(gradients: Gradients) -> list[Doc]:
            accumulate(gradients)
            return []

        return batch.states, backprop
    reads = model.reads if model.window is not None else model.reads | model.probes
    states = states_of(docs, reads, model.get_dim("nO"))
    if model.late is not None and ENTITIES in reads and all(has_keys(doc._.trf_data.model_output) for doc in docs if len(doc)):
        states = states._replace(late=partial(model.late, docs))
    return states, _no_backprop


def _no_backprop(gradients: Gradients) -> list[Doc]:
    return []
