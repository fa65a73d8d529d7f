"""Counting and finding bits, against the plain way."""

from __future__ import annotations

import numpy as np
import pytest

from entitykit.knowledge.bits import Bits


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("size", [0, 1, 5, 63, 64, 65, 128, 1000, 5000])
def test_rank_and_select(size: int, share: float) -> None:
    flags = np.random.default_rng(size).random(size) < share
    bits = Bits.pack(flags)
    assert bits.unpack(size).tolist() == flags.tolist()
    assert bits.at(np.arange(size)).tolist() == flags.tolist()
    assert bits.rank(np.arange(size + 1)).tolist() == [0, *flags.cumsum().tolist()]
    ones = [*np.flatnonzero(flags).tolist(), size]  # the end is a one, too
    assert bits.select(np.arange(len(ones))).tolist() == ones
    assert len(bits.words) == len(bits.ranks) == Bits.n_words(size)
