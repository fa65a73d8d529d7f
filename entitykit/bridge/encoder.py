"""The shared encoder as a thinc model: Docs in, the states of their words out, each layer pooled from pieces once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn, cast

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.coverage import count_coverage, count_entities
from entitykit.bridge.entities import Candidates, EntityReader
from entitykit.bridge.late import KeyStore
from entitykit.bridge.packs import Layout, ReadingSettings, make_packs
from entitykit.bridge.pieces import Pieces, WordPieces
from entitykit.bridge.shim import Build, TorchShim
from entitykit.bridge.spill import StateStore
from entitykit.bridge.states import EncoderBatch
from entitykit.bridge.weights import Storage
from entitykit.bridge.windows import cut_windows
from entitykit.errors import error
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.settings import encoder_settings
from entitykit.models.encoder.transformer import TransformerEncoder, pool_words
from entitykit.types import ENTITIES, MENTIONS, TOP, Spans, WordStates, no_spans

POOLINGS = ("mean", "first", "last")


Load = Callable[..., tuple[torch.nn.Module, str]]
"""Loads an encoder and its tokenizer's JSON; the encoder has the interface of `TransformerEncoder`, its settings included."""


def build_encoder(settings: Mapping[str, Any]) -> TransformerEncoder:
    """Build the encoder from saved settings."""
    return TransformerEncoder(encoder_settings(settings["encoder"]))


def EntityEncoder(
    checkpoint: Mapping[str, Any],
    reading: ReadingSettings,
    *,
    storage: Storage,
    bf16: bool,
    load: Load = load_checkpoint,
    build: Build = build_encoder,
    vectors: VectorTable | None = None,
) -> Model[list[Doc], EncoderBatch]:
    """Make the encoder's thinc model; `initialize` loads the checkpoint, `from_bytes` needs none.

    Args:
        checkpoint: arguments of `load`.
        reading: how documents are read.
        storage: precision of saved weights.
        bf16: compute in bfloat16 on CUDA devices; on CPUs that have instructions for it, multiply so in training.
        load: loads the encoder; module-level, so that it can be pickled.
        build: builds it from saved settings; module-level, too.
        vectors: external vectors of entities, which are not saved with the model.
    """
    return Model(
        "entitykit-encoder",
        forward,
        init=partial(_init, load),
        dims={"nO": None},
        attrs={
            "checkpoint": dict(checkpoint),
            "reading": reading,
            "layers": [TOP],
            "dropout_rate": None,
            "pieces": None,
            "vectors": vectors,
            "replace_listener_cfg": refuse_copy,
        },
        shims=[TorchShim(build, group="encoder", storage=storage, bf16=bf16)],
    )


def refuse_copy(encoder: Mapping[str, Any], listener: Mapping[str, Any]) -> NoReturn:
    """What spaCy calls before a head gets a copy of its encoder (``nlp.replace_listeners``), with the settings of both.

    Raises:
        ConfigError: E124, always: only the encoder's component gives heads the states that they read.
    """
    raise error("E124")


def load_tokenizer(model: Model[Any, Any]) -> None:
    """Make the word splitter from the shim's settings, once these are known.

    Raises:
        ConfigError: E007 for a window that the encoder cannot read, and as `check_vectors`.
    """
    check_vectors(model)
    shim, reading = cast(TorchShim, model.shims[0]), model.attrs["reading"]
    settings = cast(TransformerEncoder, shim.module).settings
    splitter = WordPieces(shim.settings["tokenizer"], max_word_pieces=reading.max_word_pieces)
    longest = settings.n_positions - settings.first_position
    room = reading.window - splitter.n_special - reading.overlap
    if not 0 < reading.overlap < reading.window <= longest or reading.max_word_pieces > room:
        found = f"{reading.window} with an overlap of {reading.overlap} and words of up to {reading.max_word_pieces} pieces"
        expected = f"at most {longest}, more than overlap + longest word + {splitter.n_special}"
        raise error("E007", setting="window", found=found, expected=expected)
    model.attrs["pieces"] = splitter
    model.set_dim("nO", settings.width, force=True)


def check_vectors(model: Model[Any, Any]) -> None:
    """Compare the table of external vectors with what the encoder was trained to read.

    Raises:
        ConfigError: E007 if there is a table, and it is of another width.
    """
    vectors: VectorTable | None = model.attrs["vectors"]
    entities = getattr(cast(TransformerEncoder, cast(TorchShim, model.shims[0]).module).settings, "entities", None)
    width = 0 if entities is None or entities.knowledge is None else entities.vector_width
    if vectors is not None and vectors.width != width:
        found = f"the table '{vectors.path}' of width {vectors.width}"
        expected = f"one of width {width}, as in the training" if width else "none, as in the training"
        raise error("E007", setting="vectors", found=found, expected=expected)


def _init(load: Load, model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    shim = cast(TorchShim, model.shims[0])
    if not shim.is_built:
        encoder, tokenizer = load(**model.attrs["checkpoint"])
        shim.adopt(encoder, {"encoder": asdict(cast(TransformerEncoder, encoder).settings), "tokenizer": tokenizer})
    load_tokenizer(model)


class EncoderInput(NamedTuple):
    """Documents, and what is known of their entities beforehand.

    Attributes:
        docs: to be encoded.
        spans: of the batch, which must have entity tokens, such as the gold ones in training.
        candidates: what some of the spans may name.
        links: what some of them name in truth; see `EntityReader`.
    """

    docs: Sequence[Doc]
    spans: Spans
    candidates: Candidates
    links: Mapping[tuple[int, int], str] = MappingProxyType({})


def forward(
    model: Model[Any, Any], X: Sequence[Doc] | EncoderInput, is_train: bool
) -> tuple[EncoderBatch, Callable[..., list[Doc]]]:
    """Encode documents; what to give is in the model's attribute ``layers``: layers, `ENTITIES`, `MENTIONS`."""
    given = X if isinstance(X, EncoderInput) else EncoderInput(X, no_spans(), {})
    shim, reading = cast(TorchShim, model.shims[0]), cast(ReadingSettings, model.attrs["reading"])
    if not shim.is_built:
        raise error("E101")
    splitter: WordPieces = model.attrs["pieces"]
    pieces = splitter(given.docs)
    size = reading.window - splitter.n_special
    windows = cut_windows(pieces.counts, pieces.lengths, size=size, overlap=reading.overlap, ends=pieces.ends)
    coverage = count_coverage(pieces, windows)
    if is_train:
        pieces = _mask_words(pieces, reading.word_dropout, splitter.mask)
        if model.attrs["dropout_rate"] is not None:
            shim.set_dropout(model.attrs["dropout_rate"])
    with shim.mode(is_train=is_train) as module:
        encoder = cast(TransformerEncoder, module)
        has_entities = getattr(encoder.settings, "entities", None) is not None
        reader = None
        if has_entities:
            vectors = model.attrs["vectors"]
            knowledge = given.candidates, vectors, given.links
            reader = EntityReader(encoder, windows, len(pieces.counts), given.spans, *knowledge)
        packs = make_packs(
            pieces,
            windows,
            splitter,
            budget=reading.batch_pieces,
            device=next(encoder.parameters()).device,
            pooling=reading.pooling,
        )
        if is_train and reading.position_shift:
            packs = (_shift_positions(layout, reading) for layout in packs)
        keys = KeyStore(encoder, pieces, windows) if reader is not None and reading.keep_keys and not is_train else None
        states = _encode(encoder, packs, reader, set(model.attrs["layers"]), tuple(pieces.lengths), keys)
        states = states._replace(runs=tuple(window.read_end - window.read_start for window in windows))
    if reader is not None:
        count_entities(coverage, states.entities, reader.clipped)
    tensors = states.tensors()
    link_loss = None if reader is None else reader.link_loss()

    def backprop(gradients: Mapping[int, Tensor]) -> list[Doc]:
        roots = [key for key in gradients if tensors[key].requires_grad]
        of_links = [link_loss] if link_loss is not None and link_loss.requires_grad else []
        values = [*(tensors[key] for key in roots), *of_links]
        torch.autograd.backward(values, [*(gradients[key] for key in roots), *[None for _ in of_links]])
        return []

    kept = None if keys is None else [{} if each is None else each.arrays() for each in keys.documents()]
    return EncoderBatch(states, coverage, kept, None if link_loss is None else float(link_loss.detach())), backprop


def _encode(
    encoder: TransformerEncoder,
    packs: Iterable[Layout],
    reader: EntityReader | None,
    wanted: Collection[int],
    lengths: tuple[int, ...],
    keys: KeyStore | None,
) -> WordStates:
    """Encode a batch pack by pack and gather what is wanted."""
    n_layers, width = encoder.settings.n_layers, encoder.settings.width
    numbers = {layer: n_layers if layer == TOP else layer for layer in wanted if layer >= TOP}
    keeps_graph, device = torch.is_grad_enabled(), next(encoder.parameters()).device
    stores = {layer: StateStore(sum(lengths), width, device, keeps_graph=keeps_graph) for layer in numbers}
    run, proposes, probes = _what_to_run(reader, wanted, max(numbers.values(), default=0))
    run = run or keys is not None
    for layout in packs:
        needed = set(numbers.values())
        if run and reader is not None:
            propose = partial(reader.propose, layout)
            encoded = encoder.with_entities(layout.pack, needed, propose, keep_cache=keys is not None)
            states = encoded.layers
            reader.put(encoded.entities, encoded.scores)
            if keys is not None and encoded.cache is not None:
                keys.put(layout, encoded.cache)
        elif (proposes or probes) and reader is not None:
            begin = reader.settings.inject_layer
            states = encoder(layout.pack, needed | {begin})
            (reader.propose if proposes else reader.probe)(layout, states[begin])
        else:
            states = encoder(layout.pack, needed)
        read = layout.read
        for layer, number in numbers.items():
            stores[layer].put(read.words, pool_words(states[number].float(), read.rows, read.offsets))
    return WordStates(
        {layer: store.finish() for layer, store in stores.items()},
        lengths,
        reader.tokens() if (run or proposes) and reader is not None else None,
        reader.mentions() if probes and reader is not None else None,
    )


def _what_to_run(reader: EntityReader | None, wanted: Collection[int], highest: int) -> tuple[bool, bool, bool]:
    """Whether to run entity tokens, to propose spans without tokens, and to keep the probe's scores: what somebody reads."""
    if reader is None:
        return False, False, False
    settings = reader.settings
    seen = settings.words_see_entities and highest > settings.inject_layer
    run = settings.tokens and (ENTITIES in wanted or seen)
    return run, ENTITIES in wanted and not settings.tokens, MENTIONS in wanted and settings.probe is not None


def _shift_positions(layout: Layout, reading: ReadingSettings) -> Layout:
    """Let windows that are shorter than the longest begin at a random position."""
    pack = layout.pack
    lengths = torch.tensor(pack.lengths)
    room = (reading.window - lengths).clamp_min(0) + 1
    shift = (torch.rand(len(lengths)) * room).long() * (torch.rand(len(lengths)) < reading.position_shift)
    positions = pack.positions + torch.repeat_interleave(shift, lengths).to(pack.positions.device)
    return replace(layout, pack=pack._replace(positions=positions))


def _mask_words(pieces: Pieces, share: float, mask: int) -> Pieces:
    """Hide words at random, but not their shapes: what an unknown word looks like to an uncased checkpoint."""
    if not share:
        return pieces
    hidden = torch.rand(len(pieces.counts)).numpy() < share
    return pieces._replace(ids=np.where(np.repeat(hidden, pieces.counts), mask, pieces.ids))
