"""Short texts besides the documents, such as descriptions of entities and mentions in context, read by the shared encoder.

They are composed piece by piece as in BLINK (Wu et al. 2020): ``[CLS] left [unused0] mention [unused1] right [SEP]`` and
``[CLS] name [unused2] description [SEP]``. A checkpoint without unused pieces gets brackets and a colon in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from thinc.api import Model
from tokenizers import Tokenizer
from torch import Tensor

from entitykit.bridge.pieces import WordPieces, ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.windows import pack_windows
from entitykit.errors import error
from entitykit.models.encoder.transformer import Pack, TransformerEncoder, pool_words

Ids = NDArray[np.int64]

MARKS = (("[unused0]", "["), ("[unused1]", "]"), ("[unused2]", ":"))
"""Pieces before a mention, behind it, and behind a name; and the texts in their place where a checkpoint has none."""

POOLINGS = ("mean", "first")


class Composed(NamedTuple):
    """Sequences that are ready to be read.

    Attributes:
        ids: of each its pieces, special ones included; at least one.
        cut: *(n,)* pieces of its mention, name or description that were left out; context is not counted.
        places: *(n, 2)* of mentions between marks: number of the first piece, and the end, exclusive.
    """

    ids: list[Ids]
    cut: Ids
    places: Ids | None = None


class TextReader:
    """Composes sequences and reads them with an encoder.

    Args:
        shim: of the encoder, built.
        batch_pieces: pieces that run through the encoder at once.
        pooling: what stands for a text: the ``mean`` of its pieces' states in the last layer, special pieces included, or the
            ``first`` piece's.
    """

    def __init__(self, shim: TorchShim, *, batch_pieces: int, pooling: str = "mean") -> None:
        if pooling not in POOLINGS:
            raise error("E007", setting="pooling", found=pooling, expected=" or ".join(POOLINGS))
        self.shim = shim
        self.batch_pieces = batch_pieces
        self.pooling = pooling
        self._tokenizer, self._prefix, self._suffix = _build_tokenizer(shim.settings["tokenizer"])
        unknown = (self._tokenizer.token_to_id(name) for name in ("[UNK]", "<unk>"))
        self._unknown = np.array([next((i for i in unknown if i is not None), 0)], dtype=np.int64)
        self._marks = [self._mark(*names) for names in MARKS]
        self._between = self._separator()

    @classmethod
    def of(cls, encoder: Model[Any, Any], *, pooling: str = "mean") -> TextReader:
        """A reader with an encoder's thinc model."""
        shim = cast(TorchShim, encoder.shims[0])
        if not shim.is_built:
            raise error("E101")
        return cls(shim, batch_pieces=encoder.attrs["reading"].batch_pieces, pooling=pooling)

    @property
    def longest(self) -> int:
        """Most pieces of a sequence."""
        settings = cast(TransformerEncoder, self.shim.module).settings
        return settings.n_positions - settings.first_position

    @property
    def width(self) -> int:
        """Size of a state."""
        return cast(TransformerEncoder, self.shim.module).settings.width

    def _mark(self, name: str, text: str) -> Ids:
        known = self._tokenizer.token_to_id(name)
        return np.array([known], dtype=np.int64) if known is not None else self.tokenize([text])[0]

    def _separator(self) -> Ids:
        pair = self._tokenizer.encode("a", "a")
        last = max((i for i, side in enumerate(pair.sequence_ids) if side == 0), default=-1)
        first = pair.sequence_ids.index(1) if 1 in pair.sequence_ids else len(pair.ids)
        return np.array(pair.ids[last + 1 : first], dtype=np.int64)

    def tokenize(self, texts: Sequence[str]) -> list[Ids]:
        """Split texts with the checkpoint's own tokenizer, without special pieces."""
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [np.array(each.ids, dtype=np.int64) for each in encoded]

    def marked(self, lefts: Sequence[str], mentions: Sequence[str], rights: Sequence[str], *, size: int) -> Composed:
        """Compose mentions, marked, within what is left and right of them.

        Args:
            lefts: texts before the mentions, whose ends are taken.
            mentions: as they are written.
            rights: texts behind the mentions, whose beginnings are taken; what one side does not need, the other gets.
            size: most pieces of a sequence.
        """
        before, behind, _ = self._marks
        found, cut, places = [], [], []
        for left, mention, right in zip(*map(self.tokenize, (lefts, mentions, rights)), strict=True):
            room = self._room(size) - len(before) - len(behind)
            kept = mention[:room]
            n_left, n_right = share_room(len(left), len(right), room - len(kept))
            found.append(self._surround(left[len(left) - n_left :], before, kept, behind, right[:n_right]))
            cut.append(len(mention) - len(kept))
            first = len(self._prefix) + n_left + len(before)
            places.append((first, first + len(kept)))
        return Composed(found, np.array(cut, dtype=np.int64), np.array(places, dtype=np.int64).reshape(-1, 2))

    def prefixed(self, lefts: Sequence[str], mentions: Sequence[str], rights: Sequence[str], *, size: int) -> Composed:
        """Compose mentions, each as a name before a colon and its text behind it; arguments as in `marked`."""
        (colon,) = self.tokenize([MARKS[2][1]])
        found, cut = [], []
        for left, mention, right in zip(*map(self.tokenize, (lefts, mentions, rights)), strict=True):
            room = self._room(size) - len(colon)
            kept = mention[:room]
            inner = mention[: room - len(kept)]
            n_left, n_right = share_room(len(left), len(right), room - len(kept) - len(inner))
            found.append(self._surround(kept, colon, left[len(left) - n_left :], inner, right[:n_right]))
            cut.append(len(mention) - len(kept))
        return Composed(found, np.array(cut, dtype=np.int64))

    def described(self, names: Sequence[str], descriptions: Sequence[str], *, size: int, mark: bool = True) -> Composed:
        """Compose names and what they are.

        Args:
            names: of entities.
            descriptions: texts that are cut at the end.
            size: most pieces of a sequence.
            mark: put the mark between them, as BLINK does before empty descriptions, too; otherwise a colon before others.
        """
        between = self._marks[2] if mark else self.tokenize([MARKS[2][1]])[0]
        found, cut = [], []
        for name, description in zip(self.tokenize(names), self.tokenize(descriptions), strict=True):
            inner = np.concatenate([name, between, description]) if len(description) or mark else name
            room = self._room(size)
            found.append(self._surround(inner[:room]))
            cut.append(max(len(inner) - room, 0))
        return Composed(found, np.array(cut, dtype=np.int64))

    def joined(self, firsts: Sequence[Ids], seconds: Sequence[Ids]) -> list[Ids]:
        """Pairs of sequences, each pair as one, with what the checkpoint puts between two texts."""
        n_first, n_second = len(self._suffix), len(self._prefix)
        pairs = zip(firsts, seconds, strict=True)
        return [np.concatenate([a[: len(a) - n_first], self._between, b[n_second:]]) for a, b in pairs]

    def joined_size(self, first: int, second: int) -> int:
        """Pieces of a pair of sequences of these sizes."""
        return first - len(self._suffix) + len(self._between) + second - len(self._prefix)

    def _room(self, size: int) -> int:
        """Pieces that are not special ones.

        Raises:
            ConfigError: E581 for a size that the encoder cannot read, or in which nothing has room.
        """
        least = len(self._prefix) + len(self._suffix) + sum(map(len, self._marks)) + 1
        if not least <= size <= self.longest:
            raise error("E581", found=size, least=least, longest=self.longest)
        return size - len(self._prefix) - len(self._suffix)

    def _surround(self, *parts: Ids) -> Ids:
        inner = np.concatenate(parts)
        return np.concatenate([self._prefix, inner if len(inner) else self._unknown, self._suffix])

    def read(self, sequences: Sequence[Ids], *, learns: bool = False) -> Tensor:
        """Read sequences.

        Args:
            sequences: from one of the methods above.
            learns: keep the graph, and run dropout, so that a loss that is computed from the result gives gradients to the
                encoder's weights.

        Returns:
            *(n_texts, width)* in single precision, on the encoder's device.
        """
        with self.shim.mode(is_train=learns) as module:
            encoder = cast(TransformerEncoder, module)
            if not len(sequences):
                return torch.zeros(0, encoder.settings.width, device=self.shim.device)
            order, parts = [], []
            for numbers, pack in self._packs(sequences):
                order.append(numbers)
                states = encoder(pack, {encoder.settings.n_layers})[encoder.settings.n_layers].float()
                parts.append(self._pool(states, pack.lengths))
            back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.shim.device)
            return torch.cat(parts)[back]

    def _packs(self, sequences: Sequence[Ids]) -> Iterator[tuple[Ids, Pack]]:
        lengths = np.array([len(each) for each in sequences], dtype=np.int64)
        for numbers in pack_windows(lengths, budget=self.batch_pieces):
            sizes = lengths[numbers]
            ids = np.concatenate([sequences[i] for i in numbers.tolist()])
            positions = ranges(np.zeros_like(sizes), sizes)
            t_ids, t_positions = (torch.from_numpy(a).to(self.shim.device) for a in (ids, positions))
            yield numbers, Pack(t_ids, t_positions, torch.zeros_like(t_ids), tuple(sizes.tolist()))

    def _pool(self, states: Tensor, lengths: Sequence[int]) -> Tensor:
        sizes = torch.tensor(lengths, device=states.device)
        firsts = sizes.cumsum(0) - sizes
        if self.pooling == "first":
            return states[firsts]
        return pool_words(states, torch.arange(len(states), device=states.device), firsts)


@lru_cache(maxsize=4)
def _build_tokenizer(json: str) -> tuple[Tokenizer, Ids, Ids]:
    """The tokenizer of a checkpoint, which takes long to build, and the pieces that the checkpoint puts around a text."""
    words = WordPieces(json, max_word_pieces=1)
    tokenizer = Tokenizer.from_str(json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    prefix, suffix = (np.array(each, dtype=np.int64) for each in (words.prefix, words.suffix))
    return tokenizer, prefix, suffix


def share_room(left: int, right: int, room: int) -> tuple[int, int]:
    """Share pieces between two sides: half each, and what one does not need to the other, as in BLINK.

    Args:
        left: pieces that there are on the left.
        right: the same on the right.
        room: pieces for both.

    Returns:
        How many each side gets.
    """
    half = room // 2
    n_left = min(left, max(half, room - right))
    return n_left, min(right, room - n_left)
