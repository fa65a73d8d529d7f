"""The heads of coreference as thinc models, and how mentions are linked to earlier ones, or to phrases that name entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.coref_memory import Found, comparisons
from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.known_words import KnownWords, said_words
from entitykit.bridge.ranges import check_ranges
from entitykit.bridge.shim import Build
from entitykit.decoding.coref import NONE, assign, link_antecedents
from entitykit.errors import error
from entitykit.models.antecedent_coref import AntecedentCoref, AntecedentCorefSettings, build_antecedent_coref
from entitykit.models.coref import UPDATES, Mentions, Named, OnlineCorefSettings, build_online_coref
from entitykit.models.coref_pairs import COUNTS, NEVER, Side, buckets, distances
from entitykit.models.coref_words import NAMES, Words
from entitykit.models.major_entities import MajorEntities, MajorEntitiesSettings, build_major_entities
from entitykit.types import ENTITIES, TOP

Ints = NDArray[np.int64]

ROWS = 256  # mentions that are compared at once with those before them
PAIRS = 2**16  # of a mention and a phrase that are scored at once
LEAST = {
    **dict.fromkeys(("match", "antecedents", "least", "most"), 1),
    **dict.fromkeys(("mention_weight", "keep_weight", "major_weight", "absent"), 0),
}
"""The least values of settings that other heads do not have."""


def link_mentions(head: AntecedentCoref, found: Found, *, new: float = 0.0) -> Ints:
    """Give each mention its entity by the best of the mentions before it *(n,)*, numbered from 0.

    Args:
        head: on any device, not in training.
        found: the mentions of a text.
        new: score of starting an entity, which wins a tie.
    """
    n, most, device = len(found.starts), head.settings.antecedents, next(head.parameters()).device
    starts, ends = torch.from_numpy(found.starts), torch.from_numpy(found.ends)
    document = torch.zeros_like(starts, device=device)
    antecedents = np.full(n, NONE, dtype=np.int64)
    for low in range(0, n, ROWS):
        first, high = max(low - most, 0), min(low + ROWS, n)
        rows, before = torch.arange(low, high)[:, None], torch.arange(first, high)
        near = (rows > before) & (rows - before <= most)
        own, earlier = near.nonzero().to(device).unbind(1)
        words = Words(*(part[first:high].to(device) for part in found.words))
        block = Mentions(starts[first:high].to(device), ends[first:high].to(device), words, document[first:high])
        scores = torch.full(near.shape, -torch.inf)
        with torch.no_grad():
            scores[near] = head.scores(block, found.vectors[first:high].to(device), own + (low - first), earlier).cpu()
        best = scores.max(dim=1)
        linked = best.values > new
        antecedents[low:high][linked.numpy()] = best.indices[linked].numpy() + first
    return link_antecedents(antecedents)


def find_named(head: MajorEntities, phrases: Named, found: Found, *, hybrid: bool) -> Ints:
    """Give each mention the phrase of its entity *(n,)*, -1 for none.

    Args:
        head: on the CPU, not in training.
        phrases: what names the entities.
        found: the mentions.
        hybrid: an entity is also what its phrase and the mentions so far make of it; otherwise the phrase alone says who it is.
    """
    n, n_phrases = len(found.starts), len(phrases.vectors)
    if not n or not n_phrases:
        return np.full(n, NONE, dtype=np.int64)
    mentions, step = Named(found.vectors, found.words), max(PAIRS // n_phrases, 1)
    with torch.no_grad():
        static = torch.cat([head.fits(phrases, mentions.rows(slice(low, low + step))) for low in range(0, n, step)])
        if not hybrid:
            return assign(static.double().numpy())
        return _find_hybrid(head, phrases, mentions, found, static)


def _find_hybrid(head: MajorEntities, phrases: Named, mentions: Named, found: Found, static: Tensor) -> Ints:
    n = len(phrases.vectors)
    entities, every = np.full(len(found.starts), NONE, dtype=np.int64), np.arange(n)
    vectors, counts = phrases.vectors.clone(), torch.zeros(n, dtype=torch.long)
    starts, ends = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    asked, known = KnownWords(NAMES), [KnownWords(by) for by in comparisons(head)]
    for entity, word in enumerate(said_words(phrases.words)):
        asked.add(entity, word)  # whoever asks is none of those who speak
    sides, said = head.scorer.of_entities(vectors), head.scorer.of_mentions(mentions.vectors)
    for row, word in enumerate(said_words(mentions.words)):
        start = int(found.starts[row])
        distance = torch.where(counts > 0, distances(start - starts, ends > start), NEVER)
        names, *speakers = (each.kinds(word, every) for each in known)
        compared = map(torch.from_numpy, (np.maximum(names, asked.kinds(word, every)), *speakers))
        mention = Side(*(part[row : row + 1] for part in said))
        scores = static[row] + head.scorer(sides, mention, distance, buckets(counts, COUNTS), *compared)
        best = int(scores.argmax())
        if scores[best] <= 0:
            continue
        entities[row] = best
        counts[best] += 1
        vectors[best] = head.updated(vectors[best : best + 1], mentions.vectors[row : row + 1], float(counts[best]))[0]
        starts[best], ends[best] = start, int(found.ends[row])
        for table, part in zip(sides, head.scorer.of_entities(vectors[best : best + 1]), strict=True):
            table[best] = part[0]
        for each in known:
            each.add(best, word)
    return entities


def online_coref(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    update: str = "mean",
    names: bool = True,
    speakers: bool = False,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    keep_weight: float = 0.1,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the head that follows entities, registered as ``entitykit.OnlineCoref.v1``; see `OnlineCorefSettings`.

    Raises:
        ConfigError: E007 for an update that there is not, and for numbers out of range.
    """
    return _head(tok2vec, build_online_coref, OnlineCorefSettings, {**locals()})


def major_entities(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    update: str = "mean",
    names: bool = True,
    speakers: bool = False,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    keep_weight: float = 0.1,
    least: int = 3,
    most: int = 8,
    absent: int = 0,
    absent_share: float = 0.5,
    major_weight: float = 1.0,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the same head with entities that somebody names, registered as ``entitykit.MajorEntities.v1``.

    See `MajorEntitiesSettings`.

    Raises:
        ConfigError: E007 for an update that there is not, and for numbers out of range.
    """
    if not 0 <= absent_share <= 1:
        raise error("E007", setting="absent_share", found=absent_share, expected="between 0 and 1")
    return _head(tok2vec, build_major_entities, MajorEntitiesSettings, {**locals()})


def antecedent_coref(
    tok2vec: Model[list[Doc], Any],
    lower_layers: Sequence[int] = (),
    proposed: bool = True,
    size: int = 256,
    match: int = 64,
    hidden: int = 128,
    names: bool = True,
    speakers: bool = False,
    size_width: int = 25,
    max_width: int = 26,
    dropout: float = 0.2,
    mention_weight: float = 1.0,
    antecedents: int = 250,
    loss_weight: float = 1.0,
) -> Model[HeadInput, Any]:
    """Make the head that links mentions to earlier ones, registered as ``entitykit.AntecedentCoref.v1``.

    See `AntecedentCorefSettings`.

    Raises:
        ConfigError: E007 for numbers out of range.
    """
    return _head(tok2vec, build_antecedent_coref, AntecedentCorefSettings, {**locals(), "update": "mean"})


def _head(tok2vec: Model[list[Doc], Any], build: Build, kind: type, given: Mapping[str, Any]) -> Model[HeadInput, Any]:
    if given["update"] not in UPDATES:
        raise error("E007", setting="update", found=given["update"], expected=" or ".join(UPDATES))
    check_ranges(given, **LEAST)
    known = {field.name for field in fields(kind)}
    settings = {key: value for key, value in given.items() if key in known}
    settings["lower_layers"] = list(given["lower_layers"])
    return TorchHead(tok2vec, build, settings, layers=[TOP, *given["lower_layers"], ENTITIES])
