"""Heads that compose texts of their own and read them again: by which encoder, how they learn, and how much at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike
from spacy.tokens import Doc
from thinc.api import Model

from entitykit.bridge.linking import heard_encoder
from entitykit.bridge.listener import EncoderListener
from entitykit.bridge.shim import TorchShim
from entitykit.errors import error
from entitykit.models.encoder.transformer import TransformerEncoder


def text_encoder(tok2vec: Model[Any, Any]) -> Model[Any, Any]:
    """The encoder that a listener inside `tok2vec` hears, or `tok2vec` itself.

    Raises:
        ConfigError: E595 if it is neither.
    """
    listeners = _listeners(tok2vec)
    if listeners:
        if all(node.encoder is None for node in listeners):
            raise error("E595", found="a listener that hears none")
        return heard_encoder(tok2vec)
    shim = tok2vec.shims[0] if tok2vec.shims else None
    is_ours = isinstance(shim, TorchShim) and (not shim.is_built or isinstance(shim.module, TransformerEncoder))
    if not is_ours or "reading" not in tok2vec.attrs:
        raise error("E595", found=tok2vec.name)
    return tok2vec


@contextmanager
def learning(model: Model[Any, Any], docs: Sequence[Doc]) -> Iterator[bool]:
    """Learn from texts: dropout is set, and the shared encoder is told at the end that this head has nothing for its pass.

    Args:
        model: a head whose first layer gives the encoder, its own or a listener.
        docs: the batch, which the shared encoder has sent.

    Yields:
        Whether the encoder learns from these texts.
    """
    tok2vec, shims = model.layers[0], [cast(TorchShim, model.shims[0])]
    listeners, backprop = _listeners(tok2vec), None
    if listeners:
        backprop = cast(Callable[[Any], object], tok2vec(docs, True)[1])
    else:
        shims.append(cast(TorchShim, tok2vec.shims[0]))
    if model.attrs["dropout_rate"] is not None:
        for shim in shims:
            shim.set_dropout(model.attrs["dropout_rate"])
    yield any(node.learns for node in listeners) if listeners else True
    if backprop is not None:
        backprop({})


def in_parts(sizes: ArrayLike, most: int) -> Iterator[slice]:
    """Stretches of neighbours that are read at once: of the size `most` together, or one alone.

    Args:
        sizes: *(n,)*, such as pieces.
        most: of a stretch.
    """
    ends = np.cumsum(np.append(0, np.asarray(sizes, dtype=np.int64)))
    first, n = 0, len(ends) - 1
    while first < n:
        last = max(int(np.searchsorted(ends, ends[first] + most, side="right")) - 1, first + 1)
        yield slice(first, last)
        first = last


def _listeners(tok2vec: Model[Any, Any]) -> list[EncoderListener]:
    return [node for node in tok2vec.walk() if isinstance(node, EncoderListener)]
