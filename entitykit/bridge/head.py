"""A head as a thinc model: an embedding layer below, a torch module above, gradients from the module's loss to the layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model, torch2xp, xp2torch
from torch import Tensor

from entitykit.bridge.listener import request_layers
from entitykit.bridge.shim import Build, TorchShim
from entitykit.types import ClusterPairs, EntityMentions, EntityPairs, GivenMentions, Spans, WordStates


class HeadInput(NamedTuple):
    """What a head is given: documents and the spans, or pairs of them, that it must score, its own proposals aside."""

    docs: Sequence[Doc]
    spans: Spans | EntityPairs | EntityMentions | ClusterPairs | GivenMentions


def TorchHead(
    tok2vec: Model[Any, Any], build: Build, settings: Mapping[str, Any], *, layers: Sequence[int], probe: str | None = None
) -> Model[HeadInput, NamedTuple]:
    """Make a head's thinc model; its component builds the torch module once the labels are known.

    Args:
        tok2vec: an `EncoderListener`, or any spaCy layer from Docs to one array per Doc.
        build: builds the module from settings; module-level, so that it can be pickled.
        settings: the head's settings as JSON values; width and labels are added by the component.
        layers: encoder layers that the module reads, `ENTITIES` and `MENTIONS`.
        probe: the setting that names the layer of the head's own probe, if it has one, which it reads, too; none in its place
            tells the head that the encoder has a probe and proposes.
    """
    of_probe = [] if probe is None or settings[probe] is None else [settings[probe]]
    request_layers(tok2vec, layers, of_probe)
    return Model(
        "entitykit-head",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build, group="head")],
        dims={"nO": None},
        attrs={"settings": dict(settings), "layers": [*of_probe, *layers], "dropout_rate": None, "probe": probe},
    )


def forward(model: Model[Any, Any], X: HeadInput, is_train: bool) -> tuple[Any, Callable[[Tensor], object]]:
    """Run the embedding layer and the module; `backprop` takes the loss."""
    tok2vec, shim = model.layers[0], cast(TorchShim, model.shims[0])
    encoded, backprop_tok2vec = tok2vec(X.docs, is_train)
    states = encoded if isinstance(encoded, WordStates) else _pack(encoded, model.attrs["layers"])
    if is_train:
        # one leaf per tensor: the encoder collects the gradients of all heads and runs its own backward once
        states = states.leaves()
        if model.attrs["dropout_rate"] is not None:
            shim.set_dropout(model.attrs["dropout_rate"])
    spans = type(X.spans)(*(part.to(shim.device) for part in X.spans))
    with shim.mode(is_train=is_train) as module:
        output = module(states, spans)

    def backprop(loss: Tensor) -> object:
        if loss.requires_grad:
            loss.backward()
        gradients = {key: leaf.grad for key, leaf in states.tensors().items() if leaf.grad is not None}
        if isinstance(encoded, WordStates):
            return backprop_tok2vec(gradients)
        return backprop_tok2vec(_unpack(gradients, encoded))

    return output, backprop


def _pack(arrays: Sequence[Any], layers: Sequence[int]) -> WordStates:
    words = torch.cat([xp2torch(array) for array in arrays])
    return WordStates(dict.fromkeys(layers, words), tuple(len(array) for array in arrays))


def _unpack(gradients: Mapping[int, Tensor], arrays: Sequence[Any]) -> list[Any]:
    """Sum the gradients of all layers (they were one) and cut them into documents."""
    if not gradients:
        return [np.zeros_like(array) for array in arrays]
    total = torch2xp(sum(gradients.values(), torch.zeros(())))
    ends = list(accumulate(len(array) for array in arrays))
    return [total[end - len(array) : end] for array, end in zip(arrays, ends, strict=True)]
