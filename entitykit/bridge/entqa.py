"""EntQA as a thinc model: passages of documents, which the shared encoder reads alone, and with each of their candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.link_texts import LinkTexts
from entitykit.bridge.linking import FORMS, Floats, LinkInput, TextSettings, forward, heard_encoder
from entitykit.bridge.listener import request_layers
from entitykit.bridge.pieces import Pieces, WordPieces, ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import POOLINGS, Ids, TextReader
from entitykit.bridge.windows import cut_windows, pack_windows
from entitykit.errors import error, warn
from entitykit.models.bi_encoder import BiEncoderSettings, LinkOutput
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.models.entqa import EntQA, Places, ReaderOutput, build_entqa
from entitykit.models.scale import MAX_SCALE
from entitykit.types import no_spans

PASSAGES = ("words", "sentences")
LEAST_PIECES = 8
"""Fewest pieces that a passage or an entity may have."""

_TOPIC_MARK = 1  # of `entitykit.bridge.texts.MARKS`, as published


@dataclass(frozen=True, kw_only=True)
class PassageSettings:
    """How documents are cut.

    Attributes:
        passages: ``words``: runs of words that overlap; ``sentences``: as many whole sentences as have room, without overlap,
            and runs of words that overlap of longer sentences.
        passage_pieces: most pieces of a passage.
        overlap: pieces that neighbouring runs of words share: a mention that is no longer is whole in one of them.
        topic: so many of the document's first words stand behind each passage.
    """

    passages: str
    passage_pieces: int
    overlap: int
    topic: int


class Passage(NamedTuple):
    """A part of a document, ready to be read.

    Attributes:
        doc: number of its document.
        start: its first word.
        end: its end, exclusive.
        table: *(2, n_pieces)* pieces with the special ones and the topic, and their word shapes.
        firsts: *(n_words,)* where in the table each word has its first piece; -1 for white space.
        lasts: *(n_words,)* the same of last pieces.
    """

    doc: int
    start: int
    end: int
    table: Ids
    firsts: Ids
    lasts: Ids


def entqa(
    tok2vec: Model[list[Doc], Any],
    passages: str = "words",
    passage_pieces: int = 32,
    overlap: int = 16,
    topic: int = 1,
    entity_pieces: int = 128,
    pooling: str = "mean",
    form: str = "marked",
    projection: int | None = None,
    cosine: bool = True,
    temperature: float = 0.05,
    dropout: float = 0.0,
) -> Model[LinkInput, LinkOutput]:
    """Make EntQA's model, registered as ``entitykit.EntQA.v1``: a bi-encoder of passages and entities, and a reader.

    Args:
        tok2vec: ``entitykit.EncoderListener.v1``: the encoder that it hears reads everything.
        passages: how documents are cut, see `PassageSettings`.
        passage_pieces: most pieces of a passage.
        overlap: pieces that neighbouring runs of words share.
        topic: so many of the document's first words stand behind each passage.
        entity_pieces: pieces of a name and its description, special ones included.
        pooling: what stands for a text that is read alone: the ``mean`` of its pieces, or the ``first``.
        form: between name and description stands a mark (``marked``) or a colon (``prefixed``).
        projection: size of the vectors that are compared, each side projected to it; none: the states themselves.
        cosine: compare directions; otherwise the inner product counts, as published.
        temperature: what the scores of vectors are divided by at the beginning, at least 0.01; it is learned.
        dropout: probability before projections and heads in training.

    Raises:
        ConfigError: E600 for settings that cannot be.
    """
    choices = {"passages": (passages, PASSAGES), "pooling": (pooling, POOLINGS), "form": (form, FORMS)}
    for setting, (found, allowed) in choices.items():
        if found not in allowed:
            raise error("E600", setting=setting, found=found, expected=" or ".join(allowed))
    least = {"passage_pieces": LEAST_PIECES, "entity_pieces": LEAST_PIECES, "topic": 0, "overlap": 1}
    given = {"passage_pieces": passage_pieces, "entity_pieces": entity_pieces, "topic": topic, "overlap": overlap}
    for setting, value in given.items():
        if value < least[setting]:
            raise error("E600", setting=setting, found=value, expected=f"at least {least[setting]}")
    if overlap >= passage_pieces:
        raise error("E600", setting="overlap", found=overlap, expected=f"less than passage_pieces, {passage_pieces}")
    if not temperature >= 1 / MAX_SCALE:
        raise error("E600", setting="temperature", found=temperature, expected=f"at least {1 / MAX_SCALE}")
    head = BiEncoderSettings(
        width=0, mention="context", projection=projection, cosine=cosine, temperature=temperature, dropout=dropout
    )
    texts = TextSettings(pooling=pooling, form=form, context_pieces=passage_pieces, entity_pieces=entity_pieces)
    cut = PassageSettings(passages=passages, passage_pieces=passage_pieces, overlap=overlap, topic=topic)
    request_layers(tok2vec, [])
    return Model(
        "entitykit-entqa",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_entqa, group="head")],
        dims={"nO": None},
        attrs={"settings": asdict(head), "texts": asdict(texts), "passages": asdict(cut), "dropout_rate": None, "probe": None},
    )


class PassageReader(TextReader):
    """Reads texts that have word shapes, too *(2, n_pieces)*, and pairs of a passage and an entity."""

    def splitter(self, most: int) -> WordPieces:
        """Splits words as the encoder does, but keeps at most so many pieces of one."""
        return WordPieces(self.shim.settings["tokenizer"], max_word_pieces=most)

    def n_around(self, topic: int) -> int:
        """Pieces around a passage, or an entity; with a topic, its mark."""
        return len(self._prefix) + len(self._suffix) + (len(self._marks[_TOPIC_MARK]) if topic else 0)

    def passage(self, inner: Ids, topic: Ids) -> tuple[Ids, int]:
        """A passage's table from that of its words and that of its topic, and where the words begin in it."""
        mark = self._marks[_TOPIC_MARK] if topic.shape[1] else self._marks[_TOPIC_MARK][:0]
        parts = [_plain(self._prefix), inner, _plain(mark), topic, _plain(self._suffix)]
        return np.concatenate(parts, axis=1), len(self._prefix)

    def _packs(self, sequences: Sequence[Ids]) -> Iterator[tuple[Ids, Pack]]:
        tables = [each if each.ndim == 2 else _plain(each) for each in sequences]
        lengths = np.array([table.shape[1] for table in tables], dtype=np.int64)
        device = self.shim.device
        for numbers in pack_windows(lengths, budget=self.batch_pieces):
            sizes = lengths[numbers]
            ids, shapes = np.concatenate([tables[i] for i in numbers.tolist()], axis=1)
            positions = ranges(np.zeros_like(sizes), sizes)
            t_ids, t_positions, t_shapes = (torch.from_numpy(a).to(device) for a in (ids, positions, shapes))
            yield numbers, Pack(t_ids, t_positions, t_shapes, tuple(sizes.tolist()))

    def states(self, pack: Pack, *, learns: bool) -> Tensor:
        """States of a pack's pieces *(n_pieces, width)*; with a graph and dropout if the encoder `learns`."""
        with self.shim.mode(is_train=learns) as module:
            encoder = cast(TransformerEncoder, module)
            n_layers = encoder.settings.n_layers
            return encoder(pack, {n_layers})[n_layers].float()

    def packs(self, pairs: Sequence[tuple[Passage, Ids]]) -> Iterator[tuple[Ids, Pack]]:
        """Pairs of passages and entities, each a sequence without the entity's own first special pieces, and their numbers."""
        n = len(self._prefix)
        yield from self._packs([np.concatenate([each.table, _plain(entity[n:])], axis=1) for each, entity in pairs])


class PassageTexts(LinkTexts):
    """What EntQA reads: passages, entities, and both together."""

    _reader: TextReader | None

    @property
    def reader(self) -> PassageReader:
        """Reads texts with the shared encoder.

        Raises:
            ConfigError: E583 if there is no encoder, E601 if it cannot read a passage and an entity at once.
        """
        encoder = heard_encoder(self.model.layers[0])
        if not isinstance(self._reader, PassageReader) or self._reader.shim is not encoder.shims[0]:
            reader = PassageReader.of(encoder, pooling=self.settings.pooling)
            self._check_room(cast(PassageReader, reader))
            self._splitter = cast(PassageReader, reader).splitter(self._longest_word(encoder))
            self._reader = reader
        return cast(PassageReader, self._reader)

    @property
    def cutting(self) -> PassageSettings:
        """How documents are cut."""
        return PassageSettings(**self.model.attrs["passages"])

    def _longest_word(self, encoder: Model[Any, Any]) -> int:
        return min(int(encoder.attrs["reading"].max_word_pieces), self.cutting.passage_pieces)

    def _check_room(self, reader: PassageReader) -> None:
        cutting, entity = self.cutting, self.settings.entity_pieces
        encoder = heard_encoder(self.model.layers[0])
        found = reader.n_around(cutting.topic) + cutting.passage_pieces + cutting.topic * self._longest_word(encoder) + entity
        if found > reader.longest:
            parts = f"{cutting.passage_pieces} of a passage, {cutting.topic} words of the topic and {entity} of an entity"
            raise error("E601", found=found, parts=parts, longest=reader.longest)

    # Passages

    def passages(self, docs: Sequence[Doc]) -> list[Passage]:
        """Cut documents; each word that is not white space is in a passage.

        Raises:
            InputError: E602 for a document without sentences, if they are to be passages.

        Warns:
            W600 for words that were shortened.
        """
        reader, cutting = self.reader, self.cutting
        if not any(len(doc) for doc in docs):
            return []
        pieces = self._splitter(docs)
        if pieces.shortened.any():
            longest = self._splitter.max_word_pieces
            warn("W600", n=int(pieces.shortened.sum()), name=self.name, longest=longest, stacklevel=4)
        tables = np.stack([pieces.ids, np.repeat(pieces.shapes, pieces.counts)])
        firsts = np.cumsum([0, *pieces.lengths])
        runs = [run for doc, first in zip(docs, firsts[:-1].tolist(), strict=True) for run in self._runs(doc, first, pieces)]
        windows = cut_windows(pieces.counts, runs, size=cutting.passage_pieces, overlap=cutting.overlap)
        numbers = np.searchsorted(firsts, [window.start for window in windows], side="right") - 1
        topics = [self._topic(tables, pieces, int(firsts[i]), int(firsts[i + 1])) for i in range(len(docs))]
        found = []
        for i, window in zip(numbers.tolist(), windows, strict=True):
            counts = pieces.counts[window.start : window.end]
            if counts.any():
                inner = tables[:, ranges(pieces.starts[[window.start]], counts.sum(keepdims=True))]
                table, first = reader.passage(inner, topics[i])
                begins = first + np.cumsum(counts) - counts
                starts, lasts = np.where(counts > 0, begins, -1), np.where(counts > 0, begins + counts - 1, -1)
                words = (window.start - int(firsts[i]), window.end - int(firsts[i]))
                found.append(Passage(i, *words, table, starts, lasts))
        return found

    def _topic(self, tables: Ids, pieces: Pieces, start: int, end: int) -> Ids:
        """The first words of a document that are not white space."""
        words = start + np.flatnonzero(pieces.counts[start:end])[: self.cutting.topic]
        return np.asarray(tables[:, ranges(pieces.starts[words], pieces.counts[words])])

    def _runs(self, doc: Doc, first: int, pieces: Pieces) -> list[int]:
        """Numbers of words that are cut by themselves."""
        if self.cutting.passages == "words" or not len(doc):
            return [len(doc)]
        if not doc.has_annotation("SENT_START"):
            raise error("E602", name=self.name, text=doc.text[:40])
        runs: list[int] = []
        room = 0
        for sent in doc.sents:
            size = int(pieces.counts[first + sent.start : first + sent.end].sum())
            if runs and size <= room:
                runs[-1] += len(sent)
            else:
                runs.append(len(sent))
                room = self.cutting.passage_pieces
            room -= size
        return runs

    def batch(
        self, docs: Sequence[Doc], passages: Sequence[Passage], choose: Callable[[Floats], Sequence[Ids]] | None
    ) -> LinkInput:
        """What the model is given; see `LinkInput`."""
        return LinkInput(docs, no_spans(), [passage.table for passage in passages], self.reader, choose)

    # Passages and entities

    def read_pairs(self, pairs: Sequence[tuple[Passage, Ids]], *, learns: bool, is_train: bool) -> ReaderOutput:
        """Read passages together with entities.

        Args:
            pairs: passages, and the texts of entities (`compose`); at least one.
            learns: keep the graph of the encoder.
            is_train: keep that of the heads.

        Returns:
            Of all pairs, in their order.
        """
        reader, shim = self.reader, cast(TorchShim, self.model.shims[0])
        most = max(len(passage.firsts) for passage, _ in pairs)
        order, parts = [], []
        for numbers, pack in reader.packs(pairs):
            states = reader.states(pack, learns=learns).to(shim.device)
            sizes = np.array(pack.lengths, dtype=np.int64)
            places = _places([pairs[i][0] for i in numbers.tolist()], np.cumsum(sizes) - sizes, most, shim.device)
            with shim.mode(is_train=is_train) as module:
                parts.append(cast(EntQA, module).read(states, places))
            order.append(numbers)
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(shim.device)
        return ReaderOutput(*(torch.cat(columns)[back] for columns in zip(*parts, strict=True)))


def _plain(ids: Ids) -> Ids:
    """Pieces *(n,)* with the shape of none *(2, n)*."""
    return np.stack([ids, np.zeros_like(ids)])


def _places(passages: Sequence[Passage], rows: Ids, most: int, device: torch.device) -> Places:
    """Where words are in a pack of sequences that begin at `rows`, one for each passage."""
    firsts, lasts = (np.full((len(passages), 1 + most), -1, dtype=np.int64) for _ in range(2))
    for i, passage in enumerate(passages):
        firsts[i, 1 : 1 + len(passage.firsts)], lasts[i, 1 : 1 + len(passage.lasts)] = passage.firsts, passage.lasts
    firsts[:, 0] = lasts[:, 0] = 0
    valid = firsts >= 0
    tables = (rows[:, None] + np.where(valid, each, 0) for each in (firsts, lasts))
    return Places(*(torch.from_numpy(a).to(device) for a in (*tables, valid)))
