"""Coreference across documents as thinc models: vectors of mentions, and pairs of mentions read together with both contexts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.listener import request_layers
from entitykit.bridge.ranges import check_ranges
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.text_heads import in_parts, learning, text_encoder
from entitykit.bridge.texts import Ids, TextReader
from entitykit.errors import error, warn
from entitykit.knowledge.cluster_schema import Mentions
from entitykit.models.bi_encoder import span_means
from entitykit.models.cross_document import (
    CrossDocumentSettings,
    MentionPairs,
    MentionPairsSettings,
    build_cross_document,
    build_mention_pairs,
)
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.models.scale import MAX_SCALE
from entitykit.types import ENTITIES, TOP, Spans

Pairs = NDArray[np.int64]


def cross_document(
    tok2vec: Model[list[Doc], Any],
    projection: int | None = None,
    hidden: int = 512,
    document: bool = True,
    temperature: float = 0.05,
    dropout: float = 0.1,
) -> Model[HeadInput, Any]:
    """Make the bi-encoder of mentions, registered as ``entitykit.CrossDocument.v1``.

    Args:
        tok2vec: ``entitykit.EncoderListener.v1``.
        projection: size of a mention's vector; none: that of the encoder's states.
        hidden: size of the layer that changes a mention's state (its entity token where the encoder has tokens, else the mean
            of its words) by its first and last word.
        document: add a share of the mean of the document's words to the state.
        temperature: what cosines are divided by at the beginning, at least 0.01; it is learned.
        dropout: probability before that layer in training.

    Raises:
        ConfigError: E630 for settings that cannot be, E007 for a dropout out of range.
    """
    for setting, found in (("projection", projection), ("hidden", hidden)):
        if found is not None and found < 1:
            raise error("E630", model="CrossDocument", setting=setting, found=found, expected="at least 1")
    if not temperature >= 1 / MAX_SCALE:
        expected = f"at least {1 / MAX_SCALE}"
        raise error("E630", model="CrossDocument", setting="temperature", found=temperature, expected=expected)
    check_ranges({"dropout": dropout})
    settings = CrossDocumentSettings(
        width=0, projection=projection, hidden=hidden, document=document, temperature=temperature, dropout=dropout
    )
    model = TorchHead(tok2vec, build_cross_document, asdict(settings), layers=[TOP, ENTITIES])
    model.attrs["texts"] = {}  # of which `Fingerprint` asks: vectors depend on the weights alone
    return model


class PairInput(NamedTuple):
    """Pairs of mentions.

    Attributes:
        contexts: of each mention its pieces in context.
        spans: *(n_mentions, 2)* its own first piece among them, and the end, exclusive.
        rows: *(n_pairs, 2)* numbers of mentions.
        reader: composes and reads pairs.
    """

    contexts: Sequence[Ids]
    spans: Pairs
    rows: Pairs
    reader: MentionPairReader

    def texts(self, some: slice) -> tuple[list[Ids], Pairs]:
        """Texts of some pairs, both mentions in their contexts, one behind the other, and where in them these are.

        Returns:
            Of each text its pieces; and *(n, 2, 2)* of both mentions the first piece, and the end, exclusive.
        """
        firsts, seconds = ([self.contexts[row] for row in side] for side in self.rows[some].T.tolist())
        places = self.spans[self.rows[some]]
        lengths = np.array([len(each) for each in firsts], dtype=np.int64)
        places[:, 1] += (self.reader.joined_size(0, 0) + lengths)[:, None]
        return self.reader.joined(firsts, seconds), places


MentionPairsModel = Model[PairInput, Tensor]


def mention_pairs(
    tok2vec: Model[list[Doc], Any], context_pieces: int = 64, hidden: int = 512, dropout: float = 0.1
) -> MentionPairsModel:
    """Make the cross-encoder of pairs of mentions, registered as ``entitykit.MentionPairs.v1``.

    Args:
        tok2vec: ``entitykit.EntityEncoder.v1``, which is the cross-encoder's own and learns with it; or
            ``entitykit.EncoderListener.v1``: the encoder that it hears reads the pairs, too.
        context_pieces: pieces of a mention in context, special ones included; a pair has twice as many.
        hidden: size of each of the two hidden layers.
        dropout: probability before each layer in training.

    Raises:
        ConfigError: E630 for settings that cannot be, E007 for a dropout out of range.
    """
    for setting, found in (("context_pieces", context_pieces), ("hidden", hidden)):
        if found < 1:
            raise error("E630", model="MentionPairs", setting=setting, found=found, expected="at least 1")
    check_ranges({"dropout": dropout})
    request_layers(tok2vec, [])
    return Model(
        "entitykit-mention-pairs",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_mention_pairs, group="head")],
        dims={"nO": None},
        attrs={
            "settings": asdict(MentionPairsSettings(width=0, hidden=hidden, dropout=dropout)),
            "context_pieces": context_pieces,
            "dropout_rate": None,
            "probe": None,
        },
    )


class MentionPairReader(TextReader):
    """Reads pairs of mentions: both contexts in one sequence, with what the checkpoint puts between two texts."""

    def read_places(self, texts: Sequence[Ids], places: Pairs, *, learns: bool = False) -> Tensor:
        """Read texts, and pool the pieces of mentions.

        Args:
            texts: sequences of pieces.
            places: *(n_texts, 2, 2)*, see `PairInput`.
            learns: see `TextReader.read`.

        Returns:
            *(n_texts, 2, width)*, means over the last layer's states, on the encoder's device.
        """
        with self.shim.mode(is_train=learns) as module:
            encoder = cast(TransformerEncoder, module)
            if not len(texts):
                return torch.zeros(0, 2, self.width, device=self.shim.device)
            order, parts = [], []
            for numbers, pack in self._packs(texts):
                states = encoder(pack, {encoder.settings.n_layers})[encoder.settings.n_layers].float()
                lengths = np.array(pack.lengths, dtype=np.int64)
                firsts = (np.cumsum(lengths) - lengths)[:, None, None]
                spans = torch.from_numpy((places[numbers] + firsts).reshape(-1, 2)).to(states.device)
                order.append(numbers)
                parts.append(span_means(states, Spans(spans[:, 0], spans[:, 1])).view(-1, 2, states.shape[1]))
            back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.shim.device)
            return torch.cat(parts)[back]


class MentionTexts:
    """The texts of a cross-encoder of mentions.

    Args:
        model: `entitykit.MentionPairs.v1`.
        name: of the component, for messages.
    """

    def __init__(self, model: MentionPairsModel, name: str) -> None:
        self.model = model
        self.name = name
        self.forget()

    def forget(self) -> None:
        """Begin anew, after weights were replaced."""
        self._reader: MentionPairReader | None = None

    @property
    def reader(self) -> MentionPairReader:
        """Reads pairs with the encoder.

        Raises:
            ConfigError: E595 if there is no encoder, E630 if it cannot read texts as long as the settings say.
        """
        encoder = text_encoder(self.model.layers[0])
        if self._reader is None or self._reader.shim is not encoder.shims[0]:
            reader = cast(MentionPairReader, MentionPairReader.of(encoder))
            size = self.model.attrs["context_pieces"]
            if reader.joined_size(size, size) > reader.longest:
                expected = f"half of the {reader.longest} pieces that the encoder can read"
                raise error("E630", model="MentionPairs", setting="context_pieces", found=size, expected=expected)
            self._reader = reader
        return self._reader

    def input(self, mentions: Mentions, pairs: Pairs) -> PairInput:
        """Pairs *(n_pairs, 2)* of mentions in context.

        Warns:
            W630 for mentions that were cut.
        """
        reader, size = self.reader, self.model.attrs["context_pieces"]
        used, rows = np.unique(pairs, return_inverse=True)
        rows = rows.reshape(-1, 2)
        chosen = [mentions[i] for i in used.tolist()]
        lefts, texts, rights = ([getattr(each, part) for each in chosen] for part in ("left", "text", "right"))
        composed = reader.marked(lefts, texts, rights, size=size)
        if composed.cut.any():
            warn("W630", n=int((composed.cut > 0).sum()), total=len(chosen), longest=size, name=self.name, stacklevel=4)
        own = np.asarray(composed.places).copy()
        own[:, 1] = np.maximum(own[:, 1], own[:, 0] + 1)  # of a mention without pieces, the mark behind it
        return PairInput(composed.ids, own, rows, reader)


def forward(model: MentionPairsModel, X: PairInput, is_train: bool) -> tuple[Tensor, Callable[[Any], Any]]:
    """Log-odds *(n_pairs,)* for prediction; training goes by `learn`."""
    shim = cast(TorchShim, model.shims[0])
    logits = [torch.zeros(0, device=shim.device)]
    for some in _parts(X):
        states = X.reader.read_places(*X.texts(some)).to(shim.device)
        with shim.mode(is_train=False) as module:
            logits.append(module(states).float())
    return torch.cat(logits), lambda gradient: gradient


def learn(model: MentionPairsModel, docs: Sequence[Doc], X: PairInput, same: Sequence[bool]) -> float:
    """Learn which pairs are of one entity: gradients are added to the weights of the head, and of its or the shared encoder.

    Args:
        model: `entitykit.MentionPairs.v1`.
        docs: the batch, which the shared encoder has sent.
        X: pairs, at least one.
        same: of each pair.

    Returns:
        The loss, the mean over the pairs.
    """
    shim, total = cast(TorchShim, model.shims[0]), 0.0
    with learning(model, docs) as learns:
        for some in _parts(X):
            states = X.reader.read_places(*X.texts(some), learns=learns).to(shim.device)
            with shim.mode(is_train=True) as module:
                head = cast(MentionPairs, module)
                loss = head.loss(head(states).float(), torch.tensor(same[some], device=shim.device)) / len(same)
            loss.backward()
            total += float(loss.detach())
    return total


def _parts(X: PairInput) -> Iterator[slice]:
    """Pairs that are composed and read together: as many pieces as the encoder reads at once, or one pair."""
    lengths = np.array([len(each) for each in X.contexts], dtype=np.int64)
    return in_parts(X.reader.joined_size(0, 0) + lengths[X.rows].sum(axis=1), X.reader.batch_pieces)
