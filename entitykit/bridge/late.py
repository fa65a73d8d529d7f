"""Entity tokens for spans that arrive after a document was read: what must be kept of the pass, and how it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from thinc.api import torch2xp, xp2torch
from torch import Tensor

from entitykit.bridge.entities import Candidates, EntityReader
from entitykit.bridge.packs import Integers, Layout
from entitykit.bridge.pieces import Pieces, ranges
from entitykit.bridge.windows import Window
from entitykit.errors import error, warn
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.transformer import Cache, Pack, TransformerEncoder
from entitykit.models.spans import entity_states
from entitykit.types import Spans, WordStates


class DocKeys(NamedTuple):
    """What is kept of a document's pass; words are numbered from its first.

    Attributes:
        windows: *(n_windows, 4)* its windows, see `Window`.
        prefixes: *(n_windows,)* special pieces before each window's first word.
        lengths: *(n_windows,)* pieces of each window, special pieces included.
        counts: *(n_words,)* pieces of each word.
        states: *(n_pieces, width)* of all windows' pieces, in the layer where entity tokens begin.
        keys: *(n_layers, n_pieces, 2 * width)* keys and values in each layer above.
        weights: *(16,)* a digest of the weights that gave them, see `_digest`.
    """

    windows: Integers
    prefixes: Integers
    lengths: Integers
    counts: Integers
    states: Any
    keys: Any
    weights: Integers

    def arrays(self) -> dict[str, Any]:
        """By the names under which a document has them."""
        return {f"late_{name}": array for name, array in self._asdict().items()}


_NAMES = [f"late_{field}" for field in DocKeys._fields]


def has_keys(output: Mapping[str, Any]) -> bool:
    """Whether the encoder kept what entity tokens for later spans must know."""
    return all(name in output for name in _NAMES)


def keys_of(output: Mapping[str, Any]) -> DocKeys:
    """Read what `DocKeys.arrays` gave back from a document.

    Raises:
        ConfigError: E115 if the encoder kept nothing.
    """
    if not has_keys(output):
        raise error("E115")
    return DocKeys(*(output[name][0] for name in _NAMES))


class KeyStore:
    """Collects, window by window, what must be kept of a batch's passes.

    Args:
        encoder: that reads the batch.
        pieces: of the batch.
        windows: of the batch.
    """

    def __init__(self, encoder: TransformerEncoder, pieces: Pieces, windows: Sequence[Window]) -> None:
        self.pieces = pieces
        self.weights = _digest(encoder)
        self.windows = np.array(windows, dtype=np.int64).reshape(-1, 4)
        self._kept: dict[int, tuple[int, Tensor, Tensor]] = {}

    def put(self, layout: Layout, cache: Cache) -> None:
        """Keep a pack's windows."""
        keys = torch.stack(cache.keys)
        ends = list(accumulate(layout.pack.lengths))
        first_rows = layout.shift + self.pieces.starts[layout.windows[:, 0]]
        for number, length, end, first in zip(layout.numbers, layout.pack.lengths, ends, first_rows, strict=True):
            rows = slice(end - length, end)
            self._kept[int(number)] = int(first) - (end - length), cache.states[rows], keys[:, rows]

    def documents(self) -> list[DocKeys | None]:
        """What is kept for each document; none for those without words."""
        found: list[DocKeys | None] = []
        first = 0
        for n_words in self.pieces.lengths:
            inside = (self.windows[:, 0] >= first) & (self.windows[:, 0] < first + n_words)
            kept = [self._kept[int(number)] for number in inside.nonzero()[0]]
            found.append(
                DocKeys(
                    self.windows[inside] - first,
                    np.array([prefix for prefix, _, _ in kept]),
                    np.array([len(states) for _, states, _ in kept]),
                    self.pieces.counts[first : first + n_words],
                    # thinc's arrays have no bfloat16
                    torch2xp(torch.cat([states for _, states, _ in kept]).float()),
                    torch2xp(torch.cat([keys for _, _, keys in kept], dim=1).float()),
                    self.weights,
                )
                if kept
                else None
            )
            first += n_words
        return found


def late_states(
    encoder: TransformerEncoder,
    keys: DocKeys,
    spans: Spans,
    candidates: Candidates | None = None,
    vectors: VectorTable | None = None,
) -> Tensor:
    """States of entity tokens for spans of a document that was read before, as if they had been there from the beginning.

    Args:
        encoder: the one that read it.
        keys: what was kept.
        spans: *(n_spans,)* of the document, in any order.
        candidates: ids and priors of what spans (start, end) may name.
        vectors: the encoder's table of external vectors, if it has one.

    Returns:
        *(n_spans, width)*.

    Raises:
        ConfigError: E125 if another encoder read the document, or this one before it was trained further.
    """
    _check(encoder, keys)
    device = next(encoder.parameters()).device
    layout = _layout(keys, device)
    windows = [Window(*window) for window in keys.windows.tolist()]
    reader = EntityReader(encoder, windows, len(keys.counts), spans, candidates, vectors)
    entities = reader.take_given(layout)
    cache = Cache(layout.pack, xp2torch(keys.states, device=device), list(xp2torch(keys.keys, device=device)))
    reader.put(encoder.late_entities(cache, entities))
    if reader.clipped.any():
        warn("W002", n=int(reader.clipped.sum()), stacklevel=4)
    placed = Spans(spans.starts.to(device), spans.ends.to(device))
    return entity_states(WordStates({}, (len(keys.counts),), reader.tokens()), placed)


def _check(encoder: TransformerEncoder, keys: DocKeys) -> None:
    """Refuse what a document has from another encoder, or from other weights."""
    settings, form = encoder.settings, "keys of {} layers of width {}"
    first = settings.n_layers if settings.entities is None else settings.entities.inject_layer
    found = form.format(len(keys.keys), keys.states.shape[1])
    expected = form.format(settings.n_layers - first, settings.width)
    if found == expected:
        found, expected = (f"the weights {digest.tobytes().hex()}" for digest in (keys.weights, _digest(encoder)))
    if found != expected:
        raise error("E125", found=found, expected=expected)


def _digest(encoder: TransformerEncoder) -> Integers:
    """A digest *(16,)* of the words' weights by their vectors, none of which any training leaves as it is.

    They are rounded as saving in half precision does, so that a loaded pipeline goes on with what was read before it was saved.
    """
    parts = (encoder.embeddings, encoder.layers)
    vectors = torch.cat([p.detach() for part in parts for p in part.parameters() if p.dim() == 1])
    digest = hashlib.blake2b(vectors.half().cpu().numpy().tobytes(), digest_size=16)
    return np.frombuffer(digest.digest(), dtype=np.uint8)


def _layout(keys: DocKeys, device: torch.device) -> Layout:
    """The document's windows, end to end."""
    nothing = np.zeros(0, dtype=np.int64)
    starts = np.cumsum(keys.counts) - keys.counts
    pieces = Pieces(nothing, starts, keys.counts, nothing, nothing.astype(bool), nothing, [len(keys.counts)])
    positions = torch.from_numpy(ranges(np.zeros_like(keys.lengths), keys.lengths)).to(device)
    pack = Pack(torch.zeros_like(positions), positions, torch.zeros_like(positions), tuple(keys.lengths.tolist()))
    shift = np.cumsum(keys.lengths) - keys.lengths + keys.prefixes - starts[keys.windows[:, 0]]
    return Layout(pack, keys.windows, np.arange(len(keys.windows)), shift, pieces, "mean")
