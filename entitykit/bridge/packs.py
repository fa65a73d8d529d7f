"""Laying windows of a batch end to end in packs, and finding words and spans in them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from entitykit.bridge.pieces import Pieces, WordPieces, ranges
from entitykit.bridge.windows import Window, pack_windows
from entitykit.models.encoder.transformer import Pack

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """How the encoder reads documents.

    Attributes:
        window: most pieces that the encoder sees at once, special pieces included.
        overlap: pieces that neighbouring windows of a long document share.
        batch_pieces: pieces that run through the encoder at once.
        max_word_pieces: pieces kept of one word.
        word_dropout: share of words that are masked in training.
        position_shift: share of windows whose positions begin at random in training, and not at 0, so that a model that was
            trained on short texts can read long ones (Kiyono et al. 2021).
        pooling: which of a word's pieces make its state: their ``mean``, the ``first`` or the ``last``.
        keep_keys: keep what entity tokens for later spans must know.
    """

    window: int
    overlap: int
    batch_pieces: int
    max_word_pieces: int
    word_dropout: float = 0.0
    position_shift: float = 0.0
    pooling: str = "mean"
    keep_keys: bool = False


class WordRows(NamedTuple):
    """Where words have their pieces in a pack.

    Attributes:
        words: *(n_words,)* numbers of the words in the batch.
        rows: *(n,)* rows of the pack, word after word.
        offsets: *(n_words,)* where each word's rows begin in `rows`.
    """

    words: Tensor
    rows: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class Layout:
    """A pack of windows, and how to find the batch's words in it.

    Attributes:
        pack: what the encoder is given.
        windows: *(n_windows, 4)* the pack's windows, see `Window`.
        numbers: *(n_windows,)* their numbers among the batch's windows.
        shift: *(n_windows,)* a piece's row in the pack is its number in the batch plus its window's shift.
    """

    pack: Pack
    windows: Integers
    numbers: Integers
    shift: Integers
    pieces: Pieces
    pooling: str

    @property
    def read(self) -> WordRows:
        """The words that are read from the pack, window after window."""
        return self._rows(2)

    @property
    def seen(self) -> WordRows:
        """All words in the pack's windows, window after window."""
        return self._rows(0)

    def _rows(self, column: int) -> WordRows:
        starts, ends = self.windows[:, column], self.windows[:, column + 1]
        words = ranges(starts, ends - starts)
        first = self.pieces.starts[words] + np.repeat(self.shift, ends - starts)
        counts = self.pieces.counts[words]
        if self.pooling != "mean":  # the mean of one piece
            first, counts = first + (counts - 1 if self.pooling == "last" else 0), np.minimum(counts, 1)
        device = self.pack.ids.device
        return WordRows(*(torch.from_numpy(a).to(device) for a in (words, ranges(first, counts), np.cumsum(counts) - counts)))

    def span_rows(self, window: Integers, starts: Integers, ends: Integers) -> tuple[Integers, Integers]:
        """Rows of the pack that spans cover.

        Args:
            window: *(n_spans,)* each span's window in the pack.
            starts: *(n_spans,)* its first word in the batch, which the window sees.
            ends: *(n_spans,)* its end, exclusive, which the window sees, too.

        Returns:
            Rows, span after span, and where each span's rows begin.
        """
        first = self.pieces.starts[starts]
        counts = self.pieces.starts[ends - 1] + self.pieces.counts[ends - 1] - first
        return ranges(first + self.shift[window], counts), np.cumsum(counts) - counts


def make_packs(
    pieces: Pieces, windows: Sequence[Window], splitter: WordPieces, *, budget: int, device: torch.device, pooling: str = "mean"
) -> Iterator[Layout]:
    """Lay windows end to end in packs of at most `budget` pieces."""
    if not windows:
        return
    table = np.array(windows, dtype=np.int64)
    starts, ends = table[:, 0], table[:, 1]
    inner = pieces.starts[ends - 1] + pieces.counts[ends - 1] - pieces.starts[starts]  # special pieces not counted
    piece_shapes = np.repeat(pieces.shapes, pieces.counts)
    n_before, n_after = len(splitter.prefix), len(splitter.suffix)
    for numbers in pack_windows(inner + splitter.n_special, budget=budget):
        sizes = inner[numbers]
        lengths = sizes + splitter.n_special
        offsets = np.cumsum(lengths) - lengths + n_before  # row of each window's first piece after the special ones
        rows = ranges(offsets, sizes)
        first = pieces.starts[starts[numbers]]
        source = ranges(first, sizes)
        ids = np.empty(int(lengths.sum()), dtype=np.int64)
        ids[(offsets - n_before)[:, None] + np.arange(n_before)] = splitter.prefix
        ids[(offsets + sizes)[:, None] + np.arange(n_after)] = splitter.suffix
        ids[rows] = pieces.ids[source]
        shapes = np.zeros_like(ids)
        shapes[rows] = piece_shapes[source]
        positions = ranges(np.zeros_like(lengths), lengths)
        t_ids, t_positions, t_shapes = (torch.from_numpy(a).to(device) for a in (ids, positions, shapes))
        pack = Pack(t_ids, t_positions, t_shapes, tuple(lengths.tolist()))
        yield Layout(pack, table[numbers], numbers, offsets - first, pieces, pooling)
