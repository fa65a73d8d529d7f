"""Where word states go while a batch is encoded: memory, or a temporary file once a document is too long for that."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np
import torch
from torch import Tensor

from entitykit.errors import error

SPILL_WORDS = 20_000


class StateStore:
    """Collects the states of all words of a batch from packs, which hold them in any order.

    In prediction on a CPU, a batch of more than `SPILL_WORDS` words is kept in an unlinked temporary file that is mapped into
    memory: the operating system may drop its pages, so the memory that is needed does not grow with the document.

    Args:
        n_words: words of the batch.
        width: size of a state.
        device: of the states.
        keeps_graph: whether gradients must flow through the result.
    """

    def __init__(self, n_words: int, width: int, device: torch.device, *, keeps_graph: bool) -> None:
        self._keeps_graph = keeps_graph
        self._words: list[Tensor] = []
        self._states: list[Tensor] = []
        self._map: mmap.mmap | None = None
        if keeps_graph:
            self._out = torch.zeros(n_words, width, device=device)
        elif device.type == "cpu" and n_words > SPILL_WORDS:
            self._out = self._mapped(n_words, width)
        else:
            self._out = torch.zeros(n_words, width, device=device)

    def _mapped(self, n_words: int, width: int) -> Tensor:
        size = n_words * width * 4
        try:
            with tempfile.TemporaryFile() as file:
                if hasattr(os, "posix_fallocate"):  # a full disk must show here, not as a signal at the first write
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
        except OSError as reason:
            raise error("E008", n=n_words, size=size // 2**20, folder=tempfile.gettempdir(), reason=reason) from reason
        return torch.from_numpy(np.frombuffer(self._map, dtype=np.float32).reshape(n_words, width))

    def put(self, words: Tensor, states: Tensor) -> None:
        """Take the states *(n, width)* of some words, whose numbers are `words` *(n,)*."""
        if self._keeps_graph:
            self._words.append(words)
            self._states.append(states)
        else:
            self._out[words] = states
            if self._map is not None and hasattr(self._map, "madvise"):  # not on every system
                self._map.madvise(mmap.MADV_DONTNEED)  # the pages stay in the file; they only leave this process

    def finish(self) -> Tensor:
        """The states *(n_words, width)* of all words in order; words that no pack held have zeros."""
        if not self._states:
            return self._out
        return self._out.index_copy(0, torch.cat(self._words), torch.cat(self._states))
