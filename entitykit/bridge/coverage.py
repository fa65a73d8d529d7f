"""Accounts of how documents were read: every word is counted, and what was cut is warned of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entitykit.bridge.packs import Integers
from entitykit.bridge.pieces import Pieces
from entitykit.bridge.windows import Window
from entitykit.errors import warn
from entitykit.types import EntityTokens

Coverage = list[dict[str, int]]


def coverage_of_nothing(n_docs: int, *, has_entities: bool) -> Coverage:
    """The account of documents without words; `has_entities` is whether the encoder has entity tokens."""
    counts = ("words", "read", "pieces", "windows", "shortened", *(("entities", "clipped") if has_entities else ()))
    return [dict.fromkeys(counts, 0) for _ in range(n_docs)]


def count_coverage(pieces: Pieces, windows: Sequence[Window]) -> Coverage:
    """How each document was read; `shortened` words lost their last pieces, and a warning says so."""
    ends = np.cumsum(pieces.lengths)
    starts = np.array([window.start for window in windows], dtype=np.int64)
    read = np.zeros(len(pieces.counts), dtype=np.int64)
    for window in windows:
        read[window.read_start : window.read_end] += 1
    coverage = []
    for n, end in zip(pieces.lengths, ends.tolist(), strict=True):
        of_doc = slice(end - n, end)
        coverage.append(
            {
                "words": n,
                "read": int((read[of_doc] == 1).sum()),
                "pieces": int(pieces.counts[of_doc].sum()),
                "windows": int(((starts >= end - n) & (starts < end)).sum()),
                "shortened": int(pieces.shortened[of_doc].sum()),
            }
        )
    shortened = int(pieces.shortened.sum())
    if shortened:
        warn("W001", n=shortened, stacklevel=6)
    return coverage


def count_entities(coverage: Coverage, tokens: EntityTokens | None, clipped: Integers) -> None:
    """Add the number of entity tokens to each document's account, and of those `clipped`, whose window begins after them.

    Args:
        coverage: to be completed.
        tokens: of the batch; none if nobody asked for them.
        clipped: *(n_words,)* clipped tokens by their spans' last words.
    """
    firsts = np.cumsum([0, *(account["words"] for account in coverage)])
    starts = np.zeros(0, dtype=np.int64) if tokens is None else tokens.spans.starts.cpu().numpy()
    rows = np.searchsorted(starts, firsts)
    for account, low, high, first, end in zip(coverage, rows[:-1], rows[1:], firsts[:-1], firsts[1:], strict=True):
        account["entities"] = int(high - low)
        account["clipped"] = int(clipped[first:end].sum())
    if clipped.any():
        warn("W002", n=int(clipped.sum()), stacklevel=6)
