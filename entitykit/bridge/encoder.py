"""The shared encoder as a thinc model: Docs in, the states of their words out, each layer pooled from pieces once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.tokens import Doc
from spacy_transformers.data_classes import TransformerData, WordpieceBatch
from thinc.api import Model, torch2xp
from thinc.types import Ragged
from torch import Tensor
from transformers.file_utils import ModelOutput

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.pieces import Pieces, WordPieces, ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.spill import StateStore
from entitykit.bridge.weights import Storage
from entitykit.bridge.windows import Window, cut_windows, pack_windows
from entitykit.errors import error, warn
from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.encoder.transformer import Pack, TransformerEncoder, pool_words
from entitykit.types import TOP, WordStates


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """How the encoder reads documents.

    Attributes:
        window: most pieces that the encoder sees at once, special pieces included.
        overlap: pieces that neighbouring windows of a long document share.
        batch_pieces: pieces that run through the encoder at once.
        max_word_pieces: pieces kept of one word.
        word_dropout: share of words that are masked in training.
    """

    window: int
    overlap: int
    batch_pieces: int
    max_word_pieces: int
    word_dropout: float = 0.0


class WordRows(NamedTuple):
    """Where the words that are read from a pack have their pieces.

    Attributes:
        words: *(n_read,)* numbers of the words in the batch.
        rows: *(n,)* rows of the pack, word after word.
        offsets: *(n_read,)* where each word's rows begin in `rows`.
    """

    words: Tensor
    rows: Tensor
    offsets: Tensor


@dataclass
class EncoderBatch:
    """The encoder's output for a batch of documents.

    Attributes:
        states: of all words, by layer.
        coverage: for each document, how it was read.
    """

    states: WordStates
    coverage: list[dict[str, int]]

    @cached_property
    def doc_data(self) -> list[TransformerData]:
        """The output as spacy-transformers' listeners read it: one row per word, aligned one to one."""
        ends = np.cumsum(self.states.lengths).tolist()
        arrays = {layer: torch2xp(states.detach()) for layer, states in self.states.layers.items()}
        return [
            word_data({layer: array[end - n : end] for layer, array in arrays.items()}, n)
            for n, end in zip(self.states.lengths, ends, strict=True)
        ]


def word_data(layers: Mapping[int, Any], n_words: int) -> TransformerData:
    """Wrap one document's states *(n_words, width)* by layer; the top layer is spaCy's ``last_hidden_state``."""
    if n_words == 0:
        return TransformerData.empty()
    output = ModelOutput()
    for layer, array in layers.items():
        output[_key(layer)] = array[None]
    align = Ragged(cast(Any, np.arange(n_words)), cast(Any, np.ones(n_words, dtype="i")))
    return TransformerData(wordpieces=WordpieceBatch.empty(), model_output=output, align=align)


def layer_of(data: TransformerData, layer: int) -> Any:
    """One layer's states *(n_words, width)* from what `word_data` wrapped; none if the encoder was not asked for that layer."""
    array = data.model_output.get(_key(layer))
    return None if array is None else array[0]


def _key(layer: int) -> str:
    return "last_hidden_state" if layer == TOP else f"layer_{layer}"


def EntityEncoder(
    checkpoint: Mapping[str, Any], reading: ReadingSettings, *, storage: Storage, bf16: bool
) -> Model[list[Doc], EncoderBatch]:
    """Make the encoder's thinc model; `initialize` loads the checkpoint, `from_bytes` needs none.

    Args:
        checkpoint: arguments of `load_checkpoint`.
        reading: how documents are read.
        storage: precision of saved weights.
        bf16: compute in bfloat16 on CUDA devices.
    """
    return Model(
        "entitykit-encoder",
        forward,
        init=_init,
        dims={"nO": None},
        attrs={"checkpoint": dict(checkpoint), "reading": reading, "layers": [TOP], "dropout_rate": None, "pieces": None},
        shims=[TorchShim(build_encoder, group="encoder", storage=storage, bf16=bf16)],
    )


def build_encoder(settings: Mapping[str, Any]) -> TransformerEncoder:
    """Build the encoder from saved settings."""
    return TransformerEncoder(EncoderSettings(**settings["encoder"]))


def load_tokenizer(model: Model[Any, Any]) -> None:
    """Make the word splitter from the shim's settings, once these are known."""
    shim, reading = cast(TorchShim, model.shims[0]), model.attrs["reading"]
    settings = EncoderSettings(**shim.settings["encoder"])
    longest = settings.n_positions - settings.first_position
    if not 0 < reading.overlap < reading.window <= longest or reading.max_word_pieces > reading.window - 2 - reading.overlap:
        found = f"{reading.window} with an overlap of {reading.overlap} and words of up to {reading.max_word_pieces} pieces"
        raise error("E007", setting="window", found=found, expected=f"at most {longest}, more than overlap + longest word + 2")
    model.attrs["pieces"] = WordPieces(shim.settings["tokenizer"], max_word_pieces=reading.max_word_pieces)
    model.set_dim("nO", settings.width, force=True)


def _init(model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    shim = cast(TorchShim, model.shims[0])
    if not shim.is_built:
        encoder, tokenizer = load_checkpoint(**model.attrs["checkpoint"])
        shim.adopt(encoder, {"encoder": asdict(encoder.settings), "tokenizer": tokenizer})
    load_tokenizer(model)


def forward(model: Model[Any, Any], docs: Sequence[Doc], is_train: bool) -> tuple[EncoderBatch, Callable[..., list[Doc]]]:
    """Encode documents; the layers to give are in the model's attribute ``layers``, `TOP` for the last one."""
    shim, reading = cast(TorchShim, model.shims[0]), cast(ReadingSettings, model.attrs["reading"])
    if not shim.is_built:
        raise error("E101")
    pieces: Pieces = model.attrs["pieces"](docs)
    windows = cut_windows(pieces.counts, pieces.lengths, size=reading.window - 2, overlap=reading.overlap)
    if is_train:
        pieces = _mask_words(pieces, reading.word_dropout, model.attrs["pieces"].mask)
    if is_train and model.attrs["dropout_rate"] is not None:
        shim.set_dropout(model.attrs["dropout_rate"])
    with shim.mode(is_train=is_train) as module:
        encoder = cast(TransformerEncoder, module)
        states = _encode(encoder, pieces, windows, model.attrs["pieces"], reading, model.attrs["layers"])

    def backprop(gradients: Mapping[int, Tensor]) -> list[Doc]:
        roots = [layer for layer in gradients if states[layer].requires_grad]
        torch.autograd.backward([states[layer] for layer in roots], [gradients[layer] for layer in roots])
        return []

    batch = EncoderBatch(WordStates(states, tuple(pieces.lengths)), _coverage(pieces, windows))
    return batch, backprop


def _encode(
    encoder: TransformerEncoder,
    pieces: Pieces,
    windows: Sequence[Window],
    splitter: WordPieces,
    reading: ReadingSettings,
    layers: Collection[int],
) -> dict[int, Tensor]:
    """States *(n_words, width)* of each layer, gathered over all packs."""
    device = encoder.embeddings.norm.weight.device
    numbers = {layer: encoder.settings.n_layers if layer == TOP else layer for layer in layers}
    n_words = len(pieces.counts)
    keeps_graph = torch.is_grad_enabled()
    stores = {layer: StateStore(n_words, encoder.settings.width, device, keeps_graph=keeps_graph) for layer in layers}
    for pack, read in make_packs(pieces, windows, splitter, budget=reading.batch_pieces, device=device):
        states = encoder(pack, set(numbers.values()))
        for layer, number in numbers.items():
            stores[layer].put(read.words, pool_words(states[number].float(), read.rows, read.offsets))
    return {layer: store.finish() for layer, store in stores.items()}


def make_packs(
    pieces: Pieces, windows: Sequence[Window], splitter: WordPieces, *, budget: int, device: torch.device
) -> Iterator[tuple[Pack, WordRows]]:
    """Lay windows end to end in packs of at most `budget` pieces, each with the rows of the words that are read from it."""
    if not windows:
        return
    piece_ends = np.cumsum(pieces.counts)
    piece_starts = piece_ends - pieces.counts
    piece_shapes = np.repeat(pieces.shapes, pieces.counts)
    starts, ends, read_starts, read_ends = np.array(windows, dtype=np.int64).T
    inner = piece_ends[ends - 1] - piece_starts[starts]  # pieces of each window, special ones not counted
    for numbers in pack_windows(inner + 2, budget=budget):
        sizes = inner[numbers]
        lengths = sizes + 2
        offsets = np.cumsum(lengths) - lengths  # row of each window's first special piece
        rows = ranges(offsets + 1, sizes)
        source = ranges(piece_starts[starts[numbers]], sizes)
        ids = np.full(int(lengths.sum()), splitter.suffix, dtype=np.int64)
        ids[offsets] = splitter.prefix
        ids[rows] = pieces.ids[source]
        shapes = np.zeros_like(ids)
        shapes[rows] = piece_shapes[source]
        positions = ranges(np.zeros_like(lengths), lengths)
        # row of a word's first piece = its piece number, shifted from the window's place in the text to that in the pack
        words = ranges(read_starts[numbers], read_ends[numbers] - read_starts[numbers])
        shift = np.repeat(offsets + 1 - piece_starts[starts[numbers]], read_ends[numbers] - read_starts[numbers])
        counts = pieces.counts[words]
        index = ranges(piece_starts[words] + shift, counts)
        tensors = (torch.from_numpy(a).to(device) for a in (ids, positions, shapes, words, index, np.cumsum(counts) - counts))
        t_ids, t_positions, t_shapes, t_words, t_index, t_offsets = tensors
        yield Pack(t_ids, t_positions, t_shapes, tuple(lengths.tolist())), WordRows(t_words, t_index, t_offsets)


def _mask_words(pieces: Pieces, share: float, mask: int) -> Pieces:
    """Hide words at random, but not their shapes: what an unknown word looks like to an uncased checkpoint."""
    if not share:
        return pieces
    hidden = torch.rand(len(pieces.counts)).numpy() < share
    return pieces._replace(ids=np.where(np.repeat(hidden, pieces.counts), mask, pieces.ids))


def _coverage(pieces: Pieces, windows: Sequence[Window]) -> list[dict[str, int]]:
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
