"""LUKE's classifiers of pairs of entities: from their states in the document, or from a text of each pair's own with marks.

In such a text ``@`` stands around the head and ``#`` around the tail, from which LUKE's own marks start to learn (Yamada et al.
2020); what stands for an entity is the maximum over its pieces' states, those of its marks among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.tokens import Span as SpacySpan
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.linking import heard_encoder
from entitykit.bridge.listener import EncoderListener, request_layers
from entitykit.bridge.pieces import mark_style
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import Ids, TextReader, share_room
from entitykit.errors import error, warn
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.models.marked_pairs import MarkedPairsSettings, build_marked_pairs
from entitykit.models.relations import RelationOutput, SpERTRelationsSettings, build_spert_relations
from entitykit.models.spans import range_max
from entitykit.types import ENTITIES, TOP, EntityPairs, Spans

HEAD, TAIL = "@", "#"
"""What stands before and behind each argument."""

LEAST = 16
"""Fewest pieces of a pair's text."""

Span = tuple[int, int]


def luke_pair(
    tok2vec: Model[list[Doc], Any],
    hidden: int = 0,
    dropout: float = 0.1,
    loss_weight: float = 1.0,
    markers: bool = False,
    pair_pieces: int = 128,
) -> Model[HeadInput, Any]:
    """Make LUKE's classifier of two entity states, registered as ``entitykit.LukePair.v1``.

    Args:
        tok2vec: embedding layer.
        hidden: hidden units; 0: it is linear, as published.
        dropout: probability in training.
        loss_weight: weight of the loss.
        markers: read each pair anew, with marks around its head and tail, as published; that costs a text per pair, which the
            encoder that `tok2vec` hears reads. Otherwise the states are those of the document, and nothing else is read, so
            that the entities should have tokens in the encoder.
        pair_pieces: pieces of such a text, special ones included.

    Raises:
        ConfigError: E007 for texts that are too short.
    """
    if not markers:
        plain = SpERTRelationsSettings(
            width=0,
            n_labels=0,
            hidden=hidden,
            product=0,
            ends=False,
            types=0,
            between=False,
            directed=False,
            near=False,
            size_width=0,
            dropout=dropout,
            loss_weight=loss_weight,
        )
        return TorchHead(tok2vec, build_spert_relations, _learned(asdict(plain)), layers=[TOP, ENTITIES])
    if pair_pieces < LEAST:
        raise error("E007", setting="pair_pieces", found=pair_pieces, expected=f"at least {LEAST}")
    request_layers(tok2vec, [])
    settings = MarkedPairsSettings(width=0, n_labels=0, hidden=hidden, dropout=dropout, loss_weight=loss_weight)
    attrs = {"settings": _learned(asdict(settings)), "pair_pieces": pair_pieces}
    return Model(
        "entitykit-marked-pairs",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_marked_pairs, group="head")],
        dims={"nO": None},
        attrs={**attrs, "dropout_rate": None, "probe": None},
    )


def _learned(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without those that the component adds."""
    return {key: value for key, value in settings.items() if key not in ("width", "n_labels", "n_types")}


def forward(model: Model[Any, Any], X: HeadInput, is_train: bool) -> tuple[RelationOutput, Callable[[Tensor], object]]:
    """Read the pairs and score them; `backprop` takes the loss.

    Raises:
        ConfigError: E605 if there is no encoder that reads texts, E581 if it cannot read as many pieces.

    Warns:
        W605 for pairs whose words were cut.
    """
    tok2vec, shim = model.layers[0], cast(TorchShim, model.shims[0])
    listeners = [node for node in tok2vec.walk() if isinstance(node, EncoderListener)]
    if not any(node.encoder is not None for node in listeners):
        raise error("E605")
    _, backprop_tok2vec = tok2vec(X.docs, is_train)
    learns = is_train and any(node.learns for node in listeners)
    if is_train and model.attrs["dropout_rate"] is not None:
        shim.set_dropout(model.attrs["dropout_rate"])
    reader = cast(MarkedPairReader, MarkedPairReader.of(heard_encoder(tok2vec)))
    texts = reader.compose(X.docs, cast(EntityPairs, X.spans), size=model.attrs["pair_pieces"])
    if texts.cut.any():
        n, longest = int((texts.cut > 0).sum()), model.attrs["pair_pieces"]
        warn("W605", n=n, total=len(texts.cut), longest=longest, stacklevel=6)
    with shim.mode(is_train=is_train) as module:
        states = reader.read_places(texts, learns=learns).to(shim.device)
        output = module(states, EntityPairs(*(part.to(shim.device) for part in X.spans)))

    def backprop(loss: Tensor) -> object:
        if loss.requires_grad:
            loss.backward()
        return backprop_tok2vec({})

    return output, backprop


class PairTexts(NamedTuple):
    """Texts of pairs that are ready to be read.

    Attributes:
        ids: of each its pieces.
        places: *(n_pairs, 2, 2)* of the head and of the tail, with their marks: the first piece and the end, exclusive.
        cut: *(n_pairs,)* pieces of the arguments and between them that were left out; context is not counted. Words that lie
            too far from both arguments to be tokenized count one piece each.
    """

    ids: list[Ids]
    places: NDArray[np.int64]
    cut: NDArray[np.int64]


class MarkedPairReader(TextReader):
    """Composes and reads texts of pairs; see `TextReader` for its arguments.

    Stretches of a document are tokenized one by one. A byte-level tokenizer must see the space before each, as it would in the
    whole text; the first words of a document have one, as `entitykit.bridge.pieces` has it for the document.
    """

    def __init__(self, shim: TorchShim, **settings: Any) -> None:
        super().__init__(shim, **settings)
        self._needs_space = mark_style(shim.settings["tokenizer"]) == "space"

    def _stretches(self, *stretches: SpacySpan) -> list[Ids]:
        """Pieces of stretches of one document."""
        return self.tokenize([f"{self._space_before(each)}{each.text}" for each in stretches])

    def _space_before(self, stretch: SpacySpan) -> str:
        follows = stretch.start == 0 or bool(stretch.doc[stretch.start - 1].whitespace_)
        return " " if self._needs_space and follows and len(stretch) and not stretch[0].is_space else ""

    def compose(self, docs: Sequence[Doc], pairs: EntityPairs, *, size: int) -> PairTexts:
        """Compose a text of each pair: its arguments with marks, what lies between, and as much around as there is room for.

        Args:
            docs: the batch.
            pairs: whose words are numbered through it.
            size: most pieces of a text, special ones included.

        Raises:
            ConfigError: E581 if the encoder cannot read as many.
        """
        if size > self.longest:
            raise error("E581", found=size, least=LEAST, longest=self.longest)
        firsts = np.cumsum([0, *(len(doc) for doc in docs)])
        starts, ends = pairs.starts.cpu().numpy(), pairs.ends.cpu().numpy()
        marks = dict(zip((HEAD, TAIL), self.tokenize([HEAD, TAIL]), strict=True))
        ids, places, cut = [], [], []
        for head, tail in zip(pairs.heads.tolist(), pairs.tails.tolist(), strict=True):
            number = int(np.searchsorted(firsts, starts[head], side="right")) - 1
            spans = [(int(starts[row] - firsts[number]), int(ends[row] - firsts[number])) for row in (head, tail)]
            text = self._compose(docs[number], spans[0], spans[1], marks, size)
            ids.append(text[0])
            places.append(text[1])
            cut.append(text[2])
        return PairTexts(ids, np.array(places, dtype=np.int64).reshape(-1, 2, 2), np.array(cut, dtype=np.int64))

    def _compose(
        self, doc: Doc, head: Span, tail: Span, marks: Mapping[str, Ids], size: int
    ) -> tuple[Ids, list[list[int]], int]:
        """One text: its pieces, the places of head and tail with their marks, and how many pieces were cut."""
        low, high = min(head[0], tail[0]), max(head[1], tail[1])
        edges = sorted({*head, *tail})
        is_between = [a >= min(head[1], tail[1]) and b <= max(head[0], tail[0]) for a, b in pairwise(edges)]
        parts = zip(pairwise(edges), is_between, strict=True)
        inner, skipped = zip(*(self._part(doc, *part, size if middle else None) for part, middle in parts), strict=True)
        left, right = self._stretches(doc[max(0, low - size) : low], doc[high : high + size])
        room = size - len(self._prefix) - len(self._suffix) - 2 * sum(map(len, marks.values()))
        kept = _shorten(inner, room, is_between)
        n_inner = sum(map(len, kept))
        n_left, n_right = share_room(len(left), len(right), room - n_inner)
        pieces, places = [left[len(left) - n_left :]], {HEAD: [0, 0], TAIL: [0, 0]}
        for i, edge in enumerate(edges):
            for mark, opens in _events(head, tail, edge):
                done = len(self._prefix) + sum(map(len, pieces))
                places[mark][0 if opens else 1] = done if opens else done + len(marks[mark])
                pieces.append(marks[mark])
            pieces += kept[i : i + 1]
        n_cut = sum(map(len, inner)) - n_inner + sum(skipped)
        return self._surround(*pieces, right[:n_right]), [places[HEAD], places[TAIL]], n_cut

    def _part(self, doc: Doc, start: int, end: int, size: int | None) -> tuple[Ids, int]:
        """Pieces of words, and how many words in the middle were skipped.

        Args:
            doc: the document.
            start: first word.
            end: end, exclusive.
            size: pieces of which less than half can be kept from either end, so that farther words need not be tokenized;
                none: all are.
        """
        if size is not None and end - start > 2 * size:
            first, last = self._stretches(doc[start : start + size], doc[end - size : end])
            if min(len(first), len(last)) > size // 2:  # else many words have no pieces
                return np.concatenate([first, last]), end - start - 2 * size
        return self._stretches(doc[start:end])[0], 0

    def read_places(self, texts: PairTexts, *, learns: bool = False) -> Tensor:
        """Read texts.

        Args:
            texts: from `compose`.
            learns: see `TextReader.read`.

        Returns:
            *(n_pairs, 2, width)*: of head and tail the maximum over their pieces' states, in single precision, on the encoder's
            device.
        """
        with self.shim.mode(is_train=learns) as module:
            encoder = cast(TransformerEncoder, module)
            if not texts.ids:
                return torch.zeros(0, 2, encoder.settings.width, device=self.shim.device)
            order, parts = [], []
            for numbers, pack in self._packs(texts.ids):
                order.append(numbers)
                states = encoder(pack, {encoder.settings.n_layers})[encoder.settings.n_layers].float()
                sizes = np.array(pack.lengths)
                places = texts.places[numbers] + (np.cumsum(sizes) - sizes)[:, None, None]
                starts, ends = torch.from_numpy(places.reshape(-1, 2)).to(states.device).unbind(1)
                parts.append(range_max(states, Spans(starts, ends)).view(len(numbers), 2, -1))
            back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.shim.device)
            return torch.cat(parts)[back]


def _events(head: Span, tail: Span, edge: int) -> Iterator[tuple[str, bool]]:
    """The marks at an edge, and whether they open: first those that close, the shorter span's first, then those that open."""
    spans = sorted(((head, HEAD), (tail, TAIL)), key=lambda each: each[0][1] - each[0][0])
    yield from ((mark, False) for span, mark in spans if span[1] == edge)
    yield from ((mark, True) for span, mark in reversed(spans) if span[0] == edge)


def _shorten(parts: Sequence[Ids], room: int, between: Sequence[bool]) -> list[Ids]:
    """Parts that have room: what lies between the arguments loses its middle first, then the longest part its end."""
    kept = list(parts)
    over = sum(map(len, kept)) - room
    for i, is_between in enumerate(between):
        if is_between and over > 0:
            n = max(len(kept[i]) - over, 0)
            over -= len(kept[i]) - n
            kept[i] = np.concatenate([kept[i][: n - n // 2], kept[i][len(kept[i]) - n // 2 :]])
    while over > 0:
        longest = max(range(len(kept)), key=lambda i: len(kept[i]))
        kept[longest] = kept[longest][:-1]
        over -= 1
    return kept
