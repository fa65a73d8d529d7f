"""The tracker as a thinc model: it hears the shared encoder's words, or has a text of its own read for each participant.

These texts begin with the participant, so that the encoder reads the steps as its story (Gupta and Durrett 2019, "Effective Use
of Transformer Networks for Entity Tracking"): ``[CLS] participant [SEP] steps up to t [SEP]`` for every step t, whose first
piece is classified (`entity_first`, ET_BERT); or ``[CLS] participant [SEP] step 1 [SEP] step 2 [SEP] …`` once, in which the
piece behind each step is (`one_pass`, the form of ET_GPT; an encoder reads what follows, too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.attrs import IS_SPACE
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge import head
from entitykit.bridge.entqa import PassageReader
from entitykit.bridge.head import HeadInput
from entitykit.bridge.listener import EncoderListener, request_layers
from entitykit.bridge.pieces import Pieces, ranges
from entitykit.bridge.procedures import Ints, Place, Procedure, Reading, pack_procedures
from entitykit.bridge.ranges import check_ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.text_heads import text_encoder
from entitykit.decoding.tracker import may_follow, may_start
from entitykit.errors import ConfigError, error, warn
from entitykit.models.tracker import StateTrackerSettings, TrackerBatch, TrackerOutput, build_state_tracker
from entitykit.types import TOP, WordStates

SHARED, ENTITY_FIRST, ONE_PASS = INPUTS = ("shared", "entity_first", "one_pass")
NAME_PIECES = 32
"""Pieces that are read of a participant's name."""

TrackerModel = Model[HeadInput, TrackerOutput]


def state_tracker(
    tok2vec: Model[list[Doc], Any],
    input: str = SHARED,  # noqa: A002 - so it is called in configs
    hidden: int = 128,
    size: int = 96,
    dropout: float = 0.1,
    place_weight: float = 0.5,
    still_weight: float = 0.2,
) -> TrackerModel:
    """Make the tracker's model, registered as ``entitykit.StateTracker.v1``; see `StateTrackerSettings`.

    Args:
        tok2vec: ``entitykit.EncoderListener.v1``: the encoder that it hears reads the participants' texts, too; or, for these,
            ``entitykit.EntityEncoder.v1``, which is the tracker's own and learns with it.
        input: ``shared``: the words as the shared encoder has read them; or a text for each participant: ``one_pass``, and for
            each of its steps: ``entity_first``.
        hidden: size of what words are projected to.
        size: size of the recurrent layer over the steps, in each direction.
        dropout: probability in training.
        place_weight: weight of the places in the loss.
        still_weight: weight in it of moments at which nothing happens.

    Raises:
        ConfigError: E610 for settings that cannot be, E007 for other values out of range.
    """
    if input not in INPUTS:
        raise error("E610", setting="input", found=input, expected=" or ".join(INPUTS))
    for setting, value, least in (("hidden", hidden, 1), ("size", size, 1), ("place_weight", place_weight, 0)):
        if value < least:
            raise error("E610", setting=setting, found=value, expected=f"at least {least}")
    if not 0 <= still_weight <= 1:
        raise error("E610", setting="still_weight", found=still_weight, expected="0 to 1")
    settings = StateTrackerSettings(
        width=0,
        starts=tuple(may_start().tolist()),
        transitions=tuple(map(tuple, may_follow().tolist())),
        marked=input != SHARED,
        hidden=hidden,
        size=size,
        dropout=dropout,
        place_weight=place_weight,
        still_weight=still_weight,
    )
    check_ranges({"dropout": dropout})
    layers = [TOP] if input == SHARED else []
    request_layers(tok2vec, layers)
    return Model(
        "entitykit-state-tracker",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_state_tracker, group="head")],
        dims={"nO": None},
        attrs={"settings": asdict(settings), "layers": layers, "input": input, "dropout_rate": None, "probe": None},
    )


class ProcedureBatch(NamedTuple):
    """What stands in the place of spans in the tracker's input.

    Attributes:
        procedures: of each document.
        texts: composes and reads texts; none for the shared encoder's words.
    """

    procedures: Sequence[Procedure]
    texts: StepTexts | None


def forward(model: TrackerModel, X: HeadInput, is_train: bool) -> tuple[TrackerOutput, Callable[[Tensor], object]]:
    """Score participants; `backprop` takes the loss."""
    asked = cast(ProcedureBatch, X.spans)
    if asked.texts is None:
        batch = pack_procedures(asked.procedures, _shared_readings(X.docs, asked.procedures))
        return head.forward(model, HeadInput(X.docs, cast(Any, batch)), is_train)
    sequences, readings = asked.texts.compose(X.docs, asked.procedures)
    tok2vec, shim = model.layers[0], cast(TorchShim, model.shims[0])
    backprop_tok2vec: Callable[[Any], object] | None = None
    learns = is_train
    listeners = [node for node in tok2vec.walk() if isinstance(node, EncoderListener)]
    if is_train and listeners:
        _, backprop_tok2vec = tok2vec(X.docs, True)
        learns = any(node.learns for node in listeners)
    if is_train and model.attrs["dropout_rate"] is not None:
        for each in [shim] if listeners else [shim, cast(TorchShim, tok2vec.shims[0])]:
            each.set_dropout(model.attrs["dropout_rate"])
    rows = asked.texts.reader.read_rows(sequences, learns=learns).to(shim.device)
    batch = TrackerBatch(*(part.to(shim.device) for part in pack_procedures(asked.procedures, readings)))
    with shim.mode(is_train=is_train) as module:
        output = module(WordStates({TOP: rows}, tuple(sequence.shape[1] for sequence in sequences)), batch)

    def backprop(loss: Tensor) -> object:
        if loss.requires_grad:
            loss.backward()
        return None if backprop_tok2vec is None else backprop_tok2vec({})

    return output, backprop


def _shared_readings(docs: Sequence[Doc], procedures: Sequence[Procedure]) -> list[list[Reading]]:
    """A row for each word that is not white space."""
    found, first = [], 0
    for doc, procedure in zip(docs, procedures, strict=True):
        counts = 1 - doc.to_array(IS_SPACE).astype(np.int64)
        marks = np.full(procedure.n_moments, -1, dtype=np.int64)
        reading = Reading(np.arange(first, first + len(doc))[None], counts[None], marks)
        found.append([reading] * len(procedure.participants))
        first += len(doc)
    return found


class StepReader(PassageReader):
    """Reads texts piece by piece."""

    def read_rows(self, sequences: Sequence[Ints], *, learns: bool) -> Tensor:
        """States of all pieces *(n_pieces, width)*, text after text; arguments as of `read`."""
        order, parts = [np.zeros(0, dtype=np.int64)], [torch.zeros(0, self.width, device=self.shim.device)]
        sizes = np.array([sequence.shape[1] for sequence in sequences], dtype=np.int64)
        firsts = np.cumsum(sizes) - sizes
        for numbers, pack in self._packs(sequences):
            order.append(ranges(firsts[numbers], sizes[numbers]))
            parts.append(self.states(pack, learns=learns))
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.shim.device)
        return torch.cat(parts)[back]

    def beginning(self, name: str) -> tuple[Ints, bool]:
        """The pieces before the steps, and whether those of the name are not all of its."""
        (ids,) = self.tokenize([name])
        kept = np.concatenate([self._prefix, ids[:NAME_PIECES], self.stop])
        return _plain(kept), len(ids) > NAME_PIECES

    @property
    def stop(self) -> Ints:
        """The piece that ends a name or a step: the last one of a text, or else a colon."""
        return self._suffix[-1:] if len(self._suffix) else self._marks[2][:1]


class StepTexts:
    """The texts of a tracker.

    Args:
        model: `entitykit.StateTracker.v1`.
        name: of the component, for messages.
    """

    def __init__(self, model: TrackerModel, name: str) -> None:
        self.model = model
        self.name = name
        self._reader: StepReader | None = None
        self._tokenizer = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None}

    @property
    def reader(self) -> StepReader:
        """Reads texts with the encoder.

        Raises:
            ConfigError: E611 if there is none that can.
        """
        try:
            encoder = text_encoder(self.model.layers[0])
        except ConfigError as reason:
            raise error("E611", name=self.name, input=self.model.attrs["input"]) from reason
        shim = cast(TorchShim, encoder.shims[0])
        tokenizer = shim.settings.get("tokenizer", "")
        if self._reader is None or self._reader.shim is not shim or self._tokenizer != tokenizer:
            self._reader, self._tokenizer = cast(StepReader, StepReader.of(encoder)), tokenizer
            self._splitter = self._reader.splitter(encoder.attrs["reading"].max_word_pieces)
        return self._reader

    def compose(self, docs: Sequence[Doc], procedures: Sequence[Procedure]) -> tuple[list[Ints], list[list[Reading]]]:
        """Make the texts of all participants, and say where in them the words are.

        Warns:
            W610 for names and steps that were cut, W611 for first steps that were left out.
        """
        reader = self.reader
        longest, by_step = reader.longest, self.model.attrs["input"] == ENTITY_FIRST
        texts = _Texts(reader.stop, longest)
        readings, n_cut = [], 0
        for doc, procedure in zip(docs, procedures, strict=True):
            pieces = self._splitter([doc]) if procedure.participants and len(doc) else None
            own = []
            for participant in procedure.participants:
                beginning, is_cut = reader.beginning(participant.name)
                n_cut += is_cut
                compose = texts.by_step if by_step else texts.at_once
                own.append(compose(beginning, procedure.parts, pieces, procedure.n_words))
            readings.append(own)
            n_cut += len(texts.cut)
            texts.cut.clear()
        if n_cut:
            warn("W610", n=n_cut, name=self.name, longest=longest, stacklevel=4)
        if texts.n_left_out:
            warn("W611", n=texts.n_left_out, name=self.name, longest=longest, stacklevel=4)
        return texts.sequences, readings


class _Texts:
    """Texts that are being composed.

    Args:
        stop: the piece behind each step.
        longest: most pieces of a text.
    """

    def __init__(self, stop: Ints, longest: int) -> None:
        self.stop = _plain(stop)
        self.longest = longest
        self.sequences: list[Ints] = []
        self.n_pieces = 0
        self.cut: set[Place] = set()  # steps of the document, whichever participants' texts they were cut in
        self.n_left_out = 0

    def at_once(self, beginning: Ints, parts: Sequence[Place], pieces: Pieces | None, n_words: int) -> Reading:
        """One text of all parts, or, where that is too long, several with whole parts."""
        reading = _Reading(n_words, len(parts), n_texts=1)
        open_parts, size = [beginning], beginning.shape[1]
        for moment, part in enumerate(parts):
            table, counts = self._part(part, pieces, beginning.shape[1] + 1)
            n = table.shape[1] + 1
            if size + n > self.longest:
                self._close(open_parts)
                open_parts, size = [beginning], beginning.shape[1]
            reading.put(0, part, counts, self.n_pieces + size)
            if moment or table.shape[1]:
                open_parts += [table, self.stop]
                size += n
            reading.marks[moment] = self.n_pieces + size - 1
        self._close(open_parts)
        return Reading(reading.firsts, reading.counts, reading.marks)

    def by_step(self, beginning: Ints, parts: Sequence[Place], pieces: Pieces | None, n_words: int) -> Reading:
        """A text for each step, of all parts up to it, or, where that is too long, of the last ones.

        The last one stands for the moment before the first step, too: what was so then is often told later.
        """
        moments = range(1, len(parts)) if len(parts) > 1 else range(1)
        reading = _Reading(n_words, len(parts), n_texts=len(moments))
        tables = [self._part(part, pieces, beginning.shape[1] + 1) for part in parts]
        ends = np.cumsum([0, *(table.shape[1] for table, _ in tables)])
        for text, moment in enumerate(moments):
            room = self.longest - beginning.shape[1] - 1
            first = int(np.searchsorted(ends, ends[moment + 1] - room))
            self.n_left_out += first > 0
            reading.marks[[0, moment]] = self.n_pieces
            for number in range(first, moment + 1):
                row = self.n_pieces + beginning.shape[1] + int(ends[number] - ends[first])
                reading.put(text, parts[number], tables[number][1], row)
            self._close([beginning, *(table for table, _ in tables[first : moment + 1]), self.stop])
        return Reading(reading.firsts, reading.counts, reading.marks)

    def _part(self, part: Place, pieces: Pieces | None, n_around: int) -> tuple[Ints, Ints]:
        """The pieces of a part, as many words' as have room, and the pieces of each word."""
        if pieces is None:
            return np.zeros((2, 0), dtype=np.int64), np.zeros(part[1] - part[0], dtype=np.int64)
        words = np.arange(*part)
        counts = pieces.counts[words]
        fits = np.cumsum(counts) <= self.longest - n_around
        if not fits.all():
            self.cut.add(part)
        counts = np.where(fits, counts, 0)
        shapes = np.repeat(pieces.shapes[words], counts)
        return np.stack([pieces.ids[ranges(pieces.starts[words], counts)], shapes]), counts

    def _close(self, parts: Sequence[Ints]) -> None:
        self.sequences.append(np.concatenate(parts, axis=1))
        self.n_pieces += self.sequences[-1].shape[1]


class _Reading:
    """A `Reading` that is being made."""

    def __init__(self, n_words: int, n_moments: int, *, n_texts: int) -> None:
        self.firsts = np.zeros((n_texts, n_words), dtype=np.int64)
        self.counts = np.zeros((n_texts, n_words), dtype=np.int64)
        self.marks = np.full(n_moments, -1, dtype=np.int64)

    def put(self, text: int, part: Place, counts: Ints, row: int) -> None:
        """Note that a part's words begin in a row of a text."""
        words = slice(*part)
        self.firsts[text, words], self.counts[text, words] = row + np.cumsum(counts) - counts, counts


def _plain(ids: Ints) -> Ints:
    """Pieces *(n,)* with the word shape of none *(2, n)*."""
    return np.stack([ids, np.zeros_like(ids)])
