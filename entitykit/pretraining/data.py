"""Hyperlinked text as windows of pieces and entities in memory-mapped files, so that any window is there at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc

from entitykit.bridge.pieces import Pieces, WordPieces, ranges
from entitykit.bridge.windows import Window, cut_windows
from entitykit.corpora.entity_vocabulary import EntityVocabulary
from entitykit.corpora.links import LINKS
from entitykit.errors import error
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.transformer import Pack
from entitykit.pretraining.checkpoint import complete
from entitykit.pretraining.objective import Text

Integers = NDArray[np.int64]
_PARTS = {"pieces": 1, "words": 2, "entities": 3}  # columns of each file
_AT_ONCE = 256  # documents


@dataclass
class Counts:
    """What was made of a corpus, and what was left out.

    Attributes:
        documents: documents read.
        windows: windows cut of them.
        pieces: pieces in these.
        shortened: words of which not all pieces are kept.
        links: links of the corpus.
        unknown: links to entities that are not in the vocabulary, left out.
        cut: links that no window sees from end to end, left out.
        crowded: entity tokens above a window's limit, left out.
        tokens: entity tokens in the windows; where windows overlap, a link has several.
    """

    documents: int = 0
    windows: int = 0
    pieces: int = 0
    shortened: int = 0
    links: int = 0
    unknown: int = 0
    cut: int = 0
    crowded: int = 0
    tokens: int = 0


class Windows:
    """The windows of a prepared corpus.

    Args:
        folder: what `prepare` made.
        splitter: gives the special pieces around a window.
    """

    def __init__(self, folder: Path, splitter: WordPieces) -> None:
        self.counts = Counts(**json.loads((folder / "data.json").read_text(encoding="utf-8"))["counts"])
        self._splitter = splitter
        self._parts = {name: np.memmap(folder / f"{name}.bin", np.int32, "r").reshape(-1, n) for name, n in _PARTS.items()}
        self._index = np.fromfile(folder / "index.bin", np.int64).reshape(-1, len(_PARTS))

    def __len__(self) -> int:
        return len(self._index) - 1

    def text(self, numbers: Integers) -> Text:
        """Lay windows end to end, sorted by length, with their entities; on the CPU.

        Args:
            numbers: of the windows.
        """
        lengths = self._index[numbers + 1, 0] - self._index[numbers, 0]
        numbers = numbers[np.argsort(lengths, kind="stable")]
        before, after = self._splitter.prefix, self._splitter.suffix
        ids: list[Any] = []
        words: list[Any] = []
        shapes: list[Any] = []
        tokens: list[Integers] = []
        sizes, counts = [], []
        n_words = n_rows = 0
        for number in numbers.tolist():
            pieces, of_words, entities = (self._slice(name, number) for name in _PARTS)
            ids += [before, pieces[:, 0], after]
            of_piece = np.repeat(np.arange(len(of_words)), of_words[:, 0])
            words += [[-1] * len(before), of_piece + n_words, [-1] * len(after)]
            shapes += [[0] * len(before), of_words[of_piece, 1], [0] * len(after)]
            tokens.append(entities + np.array([0, 1, 1]) * (n_rows + len(before)))
            sizes.append(len(pieces) + len(before) + len(after))
            counts.append(len(entities))
            n_words += len(of_words)
            n_rows += sizes[-1]
        lengths = np.array(sizes)
        flat = (np.concatenate([np.asarray(part, np.int64) for part in parts]) for parts in (ids, shapes, words))
        t_ids, t_shapes, t_words = (torch.from_numpy(array) for array in flat)
        positions = torch.from_numpy(ranges(np.zeros_like(lengths), lengths))
        return Text(Pack(t_ids, positions, t_shapes, tuple(sizes)), t_words, _entity_pack(np.concatenate(tokens), counts))

    def _slice(self, name: str, number: int) -> Integers:
        column = list(_PARTS).index(name)
        return self._parts[name][self._index[number, column] : self._index[number + 1, column]].astype(np.int64)


def _entity_pack(tokens: Integers, counts: Sequence[int]) -> EntityPack:
    """Tokens *(n, 3)* of entity, first row and end."""
    widths = tokens[:, 2] - tokens[:, 1]
    rows = ranges(tokens[:, 1], widths)
    ids, t_rows, offsets = (torch.from_numpy(part.copy()) for part in (tokens[:, 0], rows, np.cumsum(widths) - widths))
    return EntityPack(ids, t_rows, offsets, tuple(counts))


def prepare(
    docs: Iterable[Doc],
    folder: Path,
    splitter: WordPieces,
    vocabulary: EntityVocabulary,
    *,
    window: int,
    max_entities: int,
    made_of: dict[str, Any],
) -> Counts:
    """Cut documents into windows and write them to a folder, which is there only once it is complete.

    Args:
        docs: with links in `doc.spans["links"]`.
        folder: to make.
        splitter: of the checkpoint.
        vocabulary: rows of the entities.
        window: most pieces of a window, special ones included.
        max_entities: most entity tokens of a window.
        made_of: written to ``data.json``: what must be the same for the files to be of use again.

    Raises:
        CorpusError: E242 if no link can be learned.
        OutputError: E134 if the folder cannot be written.
    """
    counts = Counts()
    with complete(folder) as made:
        with ExitStack() as stack:
            files = {part: stack.enter_context((made / f"{part}.bin").open("wb")) for part in [*_PARTS, "index"]}
            writer = _Writer(files, splitter, vocabulary, window, max_entities, counts)
            for batch in _batches(docs):
                writer.add(batch)
            writer.finish()
        if not counts.tokens:
            raise error("E242", path=made_of.get("corpus", ""), n=counts.links, unknown=counts.unknown, cut=counts.cut)
        text = json.dumps({"made_of": made_of, "counts": asdict(counts)}, indent=2)
        (made / "data.json").write_text(text, encoding="utf-8")
    return counts


def _batches(docs: Iterable[Doc]) -> Iterator[list[Doc]]:
    rest = iter(docs)
    while batch := list(islice(rest, _AT_ONCE)):
        yield batch


@dataclass
class _Writer:
    files: Mapping[str, BinaryIO]
    splitter: WordPieces
    vocabulary: EntityVocabulary
    window: int
    max_entities: int
    counts: Counts

    def __post_init__(self) -> None:
        self._ends = np.zeros(len(_PARTS), np.int64)
        self._index = [self._ends.copy()]

    def add(self, docs: list[Doc]) -> None:
        pieces = self.splitter(docs)
        size = self.window - self.splitter.n_special
        windows = [cut for cut in cut_windows(pieces.counts, pieces.lengths, size=size, overlap=0) if _has_pieces(pieces, cut)]
        links = self._links(docs, pieces.lengths)
        self.counts.documents += len(docs)
        self.counts.shortened += int(pieces.shortened.sum())
        is_seen = np.zeros(len(links), dtype=bool)
        for cut in windows:
            first, last = np.searchsorted(links[:, 1], [cut.start, cut.end])
            inside = first + np.flatnonzero(links[first:last, 2] <= cut.end)
            is_seen[inside] = True
            self.counts.crowded += max(len(inside) - self.max_entities, 0)
            self._write(pieces, cut, links[inside[: self.max_entities]])
        self.counts.cut += int((~is_seen).sum())

    def finish(self) -> None:
        np.array(self._index).tofile(self.files["index"])

    def _links(self, docs: list[Doc], lengths: list[int]) -> Integers:
        """Entities, first words and ends in the batch *(n, 3)* of the links that are in the vocabulary, in order."""
        found = []
        for doc, shift in zip(docs, np.cumsum(lengths) - lengths, strict=True):
            group = doc.spans.get(LINKS, [])
            self.counts.links += len(group)
            known = [span for span in group if span.kb_id_ in self.vocabulary]
            self.counts.unknown += len(group) - len(known)
            found += [(self.vocabulary.row(span.kb_id_), span.start + shift, span.end + shift) for span in known]
        return np.array(sorted(found, key=lambda link: link[1:]), dtype=np.int64).reshape(-1, 3)

    def _write(self, pieces: Pieces, cut: Window, links: Integers) -> None:
        counts = pieces.counts[cut.start : cut.end]
        first = int(pieces.starts[cut.start])
        n = int(counts.sum())
        starts = pieces.starts[links[:, 1]] - first
        ends = pieces.starts[links[:, 2] - 1] + pieces.counts[links[:, 2] - 1] - first
        parts = {
            "pieces": pieces.ids[first : first + n, None],
            "words": np.stack([counts, pieces.shapes[cut.start : cut.end]], axis=1),
            "entities": np.stack([links[:, 0], starts, ends], axis=1),
        }
        for name, array in parts.items():
            array.astype(np.int32).tofile(self.files[name])
        self._ends = self._ends + np.array([len(parts[name]) for name in _PARTS])
        self._index.append(self._ends)
        self.counts.windows += 1
        self.counts.pieces += n
        self.counts.tokens += len(links)


def _has_pieces(pieces: Pieces, cut: Window) -> bool:
    return bool(pieces.counts[cut.start : cut.end].any())
