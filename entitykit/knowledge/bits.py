"""Bits that can be counted and found again: rank and select over a bit vector, many at a time, in arrays that can be mapped."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_WORD = 64
_BYTES = np.arange(256, dtype=np.uint8)[:, None] >> np.arange(8, dtype=np.uint8) & 1  # (256, 8) the bits of each byte
_ONES = _BYTES.sum(axis=1, dtype=np.uint8)
_NTH = np.argsort(1 - _BYTES, axis=1, kind="stable").astype(np.uint8)  # (256, 8) where a byte's ones are, in order


class Bits(NamedTuple):
    """A bit vector with a one behind its end, so that the end is found like any other one.

    Attributes:
        words: *(n_words,)* 64 bits each, the first bit lowest.
        ranks: *(n_words,)* how many ones lie before each word.
    """

    words: NDArray[np.uint64]
    ranks: NDArray[np.uint32]

    @staticmethod
    def n_words(size: int) -> int:
        """Words that a vector of so many bits has."""
        return size // _WORD + 1

    @classmethod
    def pack(cls, flags: NDArray[np.bool_]) -> Bits:
        """Make a vector of *(size,)* truth values."""
        padded = np.zeros(cls.n_words(len(flags)) * _WORD, dtype=np.bool_)
        padded[: len(flags)] = flags
        padded[len(flags)] = True
        words = np.packbits(padded, bitorder="little").view("<u8")
        ranks = np.zeros(len(words), dtype="<u4")
        np.cumsum(padded.reshape(-1, _WORD).sum(axis=1)[:-1], out=ranks[1:])
        return cls(words, ranks)

    def unpack(self, size: int) -> NDArray[np.bool_]:
        """The first *(size,)* truth values."""
        return np.unpackbits(np.asarray(self.words).view(np.uint8), count=size, bitorder="little").astype(np.bool_)

    def at(self, positions: Positions) -> NDArray[np.bool_]:
        """Bits *(n,)* at positions."""
        return (self.words[positions >> 6] >> (positions & 63).astype(np.uint64) & np.uint64(1)).astype(np.bool_)

    def rank(self, positions: Positions) -> Positions:
        """How many ones lie before each position *(n,)*."""
        at = positions >> 6
        below = self.words[at] & ((np.uint64(1) << (positions & 63).astype(np.uint64)) - np.uint64(1))
        return self.ranks[at] + _ONES[below.view(np.uint8).reshape(-1, 8)].sum(axis=1, dtype=np.int64)

    def select(self, ranks: Positions) -> Positions:
        """Positions *(n,)* of the ones that have so many ones before them."""
        at = np.searchsorted(self.ranks, ranks.astype(np.uint32), side="right") - 1
        within = ranks - self.ranks[at]
        pieces = self.words[at].view(np.uint8).reshape(-1, 8)  # (n, 8)
        ones = _ONES[pieces].cumsum(axis=1, dtype=np.uint8)
        piece = (ones <= within[:, None]).sum(axis=1)
        line = np.arange(len(at))
        before = np.where(piece > 0, ones[line, piece - 1], 0)
        return at * _WORD + piece * 8 + _NTH[pieces[line, piece], within - before]
