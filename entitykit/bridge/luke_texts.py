"""Texts for LUKE's task models: pieces as LUKE's own tokenizer makes them, entity tokens, marks, and windows of long texts.

A text is cut where entities begin and end, and a space belongs to what comes after it (Yamada et al. 2020; studio-ousia/luke).
Where an entity or a pair is classified, marks stand around it: ``<ent>`` around an entity or a head, ``<ent2>`` around a tail.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from spacy.tokens import Doc, Span
from tokenizers import Tokenizer
from torch import Tensor

from entitykit.bridge.checkpoints import ENTITY_VOCABULARY
from entitykit.bridge.texts import share_room
from entitykit.bridge.windows import pack_windows
from entitykit.errors import error
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.transformer import Pack, TransformerEncoder

MARKS = ("<ent>", "<ent2>")
MASKS = ("[MASK]", "[MASK2]")
"""The entities as which the tokens of a head, or of any other entity, and of a tail begin."""

_BUDGET = 4096  # pieces and entity tokens that run through the encoder at once

Place = tuple[int, int]
"""First and end, exclusive."""


class Text(NamedTuple):
    """A sequence with its entity tokens.

    Attributes:
        ids: pieces, special ones included.
        places: of each entity token its pieces.
        entities: of each its row of the entity embedding.
    """

    ids: list[int]
    places: list[Place]
    entities: list[int]


class LukeReader:
    """An encoder and a tokenizer that make states of texts.

    Args:
        name: the checkpoint, for messages.
        encoder: with entity tokens.
        tokenizer: JSON of the `tokenizers` library.
        rows: of the entity embedding, by title; the special ones among them.
    """

    def __init__(self, name: str, encoder: TransformerEncoder, tokenizer: str, rows: dict[str, int]) -> None:
        self.name = name
        self.encoder = encoder
        self.rows = rows
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        around = self._tokenizer.encode("a")
        first = around.special_tokens_mask.index(0)
        self._prefix, self._suffix = around.ids[:first], around.ids[first + around.special_tokens_mask.count(0) :]
        settings = encoder.settings
        self.room = settings.n_positions - settings.first_position - len(self._prefix) - len(self._suffix)
        """Pieces of a sequence besides the special ones."""

    def mark(self, name: str) -> int:
        """The id of a mark.

        Raises:
            CheckpointError: E002 if the tokenizer has none.
        """
        found: int | None = self._tokenizer.token_to_id(name)
        if found is None:
            raise error("E002", name=self.name, file=f"piece {name} in its tokenizer", expected=", ".join(MARKS))
        return found

    def pieces(self, text: str, places: Sequence[Place]) -> tuple[list[int], list[Place]]:
        """Make pieces of a text.

        Args:
            text: of any length.
            places: characters, where it must be cut.

        Returns:
            Ids without special pieces, and the pieces of each place.
        """
        edges = sorted({edge for place in places for edge in place})
        cuts = [edge - 1 if edge and text[edge - 1] == " " else edge for edge in edges]
        parts = [text[a:b] for a, b in pairwise([0, *cuts, len(text)])]
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(parts, add_special_tokens=False)]
        ends = np.cumsum([len(part) for part in ids])[:-1].tolist()
        piece = dict(zip(edges, ends, strict=True))
        return [number for part in ids for number in part], [(piece[start], piece[end]) for start, end in places]

    def text(self, ids: Sequence[int], places: Sequence[Place], entities: Sequence[str]) -> Text:
        """A sequence of pieces, which must have room, with what belongs around it."""
        shift = len(self._prefix)
        moved = [(start + shift, end + shift) for start, end in places]
        for title in entities:
            if title not in self.rows:
                raise error("E002", name=self.name, file=f"entity {title}", expected=ENTITY_VOCABULARY)
        return Text([*self._prefix, *ids, *self._suffix], moved, [self.rows[title] for title in entities])

    def run(self, texts: Sequence[Text], function: Callable[[Pack, EntityPack], Tensor]) -> Tensor:
        """Apply a function of packs to texts.

        Args:
            texts: each with an entity token.
            function: gives a row for each entity token, or as many rows for one text as for any other.

        Returns:
            The rows, text after text.
        """
        found: dict[int, Tensor] = {}
        sizes = np.array([len(text.ids) + len(text.entities) for text in texts], dtype=np.int64)
        device = next(self.encoder.parameters()).device
        for numbers in pack_windows(sizes, budget=_BUDGET):
            chosen = [texts[number] for number in numbers]
            rows = function(*_lay_out(chosen, device))
            counts = [len(text.entities) for text in chosen]
            even = len(rows) != sum(counts)
            parts = rows.split([len(rows) // len(chosen)] * len(chosen) if even else counts)
            found.update(zip(numbers.tolist(), parts, strict=True))
        return torch.cat([found[number] for number in range(len(texts))])

    def states(self, pack: Pack, entities: EntityPack) -> Tensor:
        """*(n_entities, width)*."""
        return self.encoder.with_entities(pack, (), lambda _: entities).entities


def _lay_out(texts: Sequence[Text], device: torch.device) -> tuple[Pack, EntityPack]:
    lengths = np.array([len(text.ids) for text in texts])
    firsts = (np.cumsum(lengths) - lengths).tolist()
    rows: list[int] = []
    offsets: list[int] = []
    for first, text in zip(firsts, texts, strict=True):
        for start, end in text.places:
            offsets.append(len(rows))
            rows += range(first + start, first + end)

    def integers(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    ids = integers([number for text in texts for number in text.ids])
    positions = torch.cat([torch.arange(int(length), device=device) for length in lengths])
    pack = Pack(ids, positions, torch.zeros_like(ids), tuple(lengths.tolist()))
    numbers = integers([number for text in texts for number in text.entities])
    return pack, EntityPack(numbers, integers(rows), integers(offsets), tuple(len(text.entities) for text in texts))


def characters_of(doc: Doc, spans: Sequence[Span]) -> list[Place]:
    """Characters of spans, without white space at their ends."""
    for span in spans:
        if span.doc is not doc or not span.text.strip():
            of = "this" if span.doc is doc else "another"
            raise error("E117", start=span.start, end=span.end, of=of, n=len(doc))
    stripped = [(span, len(span.text) - len(span.text.lstrip())) for span in spans]
    return [(span.start_char + before, span.start_char + before + len(span.text.strip())) for span, before in stripped]


def in_windows(reader: LukeReader, ids: Sequence[int], places: Sequence[Place], at_once: int) -> tuple[list[int], list[Text]]:
    """Divide a text that is too long for one pass, and spans that are too many.

    Windows overlap by half, and each span is read from the one in which it has most context.

    Returns:
        The numbers of the spans, in their new order, and the texts with their tokens.
    """
    size = reader.room
    starts = [0] if len(ids) <= size else [*range(0, len(ids) - size, size // 2), len(ids) - size]
    edges = np.array([(start, min(start + size, len(ids))) for start in starts])
    table = np.array(places)
    context = np.minimum(table[:, :1] - edges[:, 0], edges[:, 1] - table[:, 1:])  # (n_spans, n_windows)
    if (widest := context.max(axis=1)).min() < 0:
        row = int(widest.argmin())
        raise error("E119", n=int(table[row, 1] - table[row, 0]), name=reader.name, longest=size)
    window = context.argmax(axis=1)
    order: list[int] = []
    texts = []
    for number, (start, end) in enumerate(edges.tolist()):
        inside = (window == number).nonzero()[0]
        for part in np.array_split(inside, -(-len(inside) // at_once)) if len(inside) else ():
            order += part.tolist()
            moved = [(places[row][0] - start, places[row][1] - start) for row in part.tolist()]
            texts.append(reader.text(ids[start:end], moved, MASKS[:1] * len(moved)))
    return order, texts


def marked(reader: LukeReader, doc: Doc, spans: Sequence[Span], marks: Sequence[str], entities: Sequence[str]) -> Text:
    """A text with marks around spans, each in its own token; context that has no room is left out on both sides alike."""
    ids, places = reader.pieces(doc.text, characters_of(doc, spans))
    order = sorted(range(len(spans)), key=lambda i: places[i])
    low, high = places[order[0]][0], max(end for _, end in places)
    room = reader.room - 2 * len(spans) - (high - low)
    if room < 0 or any(places[a][1] > places[b][0] for a, b in pairwise(order)):
        raise error("E119", n=high - low + 2 * len(spans), name=reader.name, longest=reader.room)
    left, right = share_room(low, len(ids) - high, room)
    made = list(ids[low - left : low])
    moved: dict[int, Place] = {}
    done = low
    for i in order:
        start, end = places[i]
        made += [*ids[done:start], reader.mark(marks[i]), *ids[start:end], reader.mark(marks[i])]
        moved[i] = (len(made) - (end - start) - 2, len(made))
        done = end
    made += ids[high : high + right]
    return reader.text(made, [moved[i] for i in range(len(spans))], entities)
