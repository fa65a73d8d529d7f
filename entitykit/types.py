"""Tensor types that encoder and heads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

TOP = -1
"""The number that stands for an encoder's last layer, however many it has."""


class WordStates(NamedTuple):
    """What an encoder says about the words of a batch of documents, packed: the documents lie end to end.

    Attributes:
        layers: encoder layer to states *(n_words, width)*; a head finds those that it asked for. `TOP` is the last layer.
        lengths: words of each document, summing to `n_words`.
    """

    layers: Mapping[int, Tensor]
    lengths: tuple[int, ...]


class Spans(NamedTuple):
    """Spans of a packed batch: words are numbered through the batch, and no span crosses documents.

    Attributes:
        starts: *(n_spans,)* first words.
        ends: *(n_spans,)* ends, exclusive.
    """

    starts: Tensor
    ends: Tensor
