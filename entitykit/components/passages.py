"""What passages teach: which entities they name and where, as far as their documents are annotated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from entitykit.bridge.entqa import Passage
from entitykit.components.gold import ENTS, reference_spans
from entitykit.components.links import GoldLink
from entitykit.models.entqa import ReaderTargets


class LearnedPassage(NamedTuple):
    """A passage that is learned.

    Attributes:
        passage: words that nobody has annotated are none that may start or end a mention.
        gold: row of each entity that it names, and its mentions, in words of the passage.
    """

    passage: Passage
    gold: dict[int, list[tuple[int, int]]]


def learn_passages(
    examples: Sequence[Example], key: str, passages: Sequence[Passage], links: Sequence[tuple[GoldLink, int]]
) -> tuple[list[LearnedPassage], int]:
    """Find the mentions of passages; those without an annotated word are left out.

    Args:
        examples: whose predicted documents the passages are from.
        key: ``ents`` or a span group.
        passages: of all documents.
        links: gold links with the rows of their entities.

    Returns:
        The passages, and how many mentions are in none of them as a whole.
    """
    mentions: list[set[tuple[int, int, int]]] = [set() for _ in examples]
    for link, row in links:
        i, start, end = link.place
        mentions[i].add((*_trimmed(examples[i].predicted, start, end), row))
    known = [_known_words(eg, key) for eg in examples]
    learned, there = [], [set[tuple[int, int, int]]() for _ in examples]
    for passage in passages:
        words = known[passage.doc][passage.start : passage.end]
        if words.any():
            firsts, lasts = np.where(words, passage.firsts, -1), np.where(words, passage.lasts, -1)
            gold: dict[int, list[tuple[int, int]]] = {}
            for mention in sorted(mentions[passage.doc]):
                start, end = mention[0] - passage.start, mention[1] - passage.start
                if start >= 0 and end <= len(words) and firsts[start] >= 0 and lasts[end - 1] >= 0:
                    there[passage.doc].add(mention)
                    gold.setdefault(mention[2], []).append((start, end))
            learned.append(LearnedPassage(passage._replace(firsts=firsts, lasts=lasts), gold))
    return learned, sum(len(own - seen) for own, seen in zip(mentions, there, strict=True))


def reader_targets(owners: Sequence[tuple[int, LearnedPassage, int]], like: Tensor) -> ReaderTargets:
    """What the reader should say of pairs.

    Args:
        owners: of each pair the number of the passage, the passage, and the row of the entity.
        like: *(n_pairs, 1 + most)* the reader's starts.
    """
    starts, ends = (torch.zeros(like.shape, dtype=torch.bool) for _ in range(2))
    for i, (_, learned, row) in enumerate(owners):
        mentions = learned.gold.get(row, ())
        starts[i, [1 + start for start, _ in mentions] or [0]] = True
        ends[i, [end for _, end in mentions] or [0]] = True  # the last word, behind the null answer
    ranks = torch.tensor([row in learned.gold for _, learned, row in owners])
    passages = torch.tensor([number for number, *_ in owners])
    return ReaderTargets(*(tensor.to(like.device) for tensor in (starts, ends, ranks, passages)))


def _trimmed(doc: Doc, start: int, end: int) -> tuple[int, int]:
    """A span without white space at its ends, where no mention may start or end; a span of white space stays as it is."""
    words = [i for i in range(start, end) if not doc[i].is_space]
    return (words[0], words[-1] + 1) if words else (start, end)


def _known_words(eg: Example, key: str) -> NDArray[np.bool_]:
    """Which words of the predicted document are annotated *(n_words,)*."""
    if reference_spans(eg.reference, [key]) is None:
        return np.zeros(len(eg.predicted), dtype=bool)
    if key != ENTS or not (eg.reference.to_array("ENT_IOB") == 0).any():
        return np.ones(len(eg.predicted), dtype=bool)
    return np.array([value != 0 for value in eg.get_aligned("ENT_IOB")], dtype=bool)
