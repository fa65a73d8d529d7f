"""Documents that lie end to end in a packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from entitykit.types import TOP, WordStates


def document_of_words(lengths: Sequence[int], device: torch.device) -> Tensor:
    """The number of each word's document *(n_words,)*."""
    sizes = torch.tensor(lengths, dtype=torch.long, device=device)
    return torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)


def document_means(states: WordStates) -> Tensor:
    """The mean over the top states of each document's words *(n_documents, width)*; zeros for those without words."""
    words = states.layers[TOP]
    return segment_mean(words, document_of_words(states.lengths, words.device), len(states.lengths))


def segment_mean(values: Tensor, rows: Tensor, n: int) -> Tensor:
    """The mean over the values of each row.

    Args:
        values: *(n_values, width)*.
        rows: *(n_values,)* below n.
        n: rows of the result, which are 0 where there is no value.
    """
    total = values.new_zeros(n, values.shape[1]).index_add(0, rows, values)
    return total / torch.bincount(rows, minlength=n).clamp_min(1)[:, None]
