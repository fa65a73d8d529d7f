"""What a linker knows of mentions before it decides them, and what the mentions of a document say of each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc

from entitykit.bridge.keywords import predicted_keywords
from entitykit.bridge.link_texts import Place
from entitykit.bridge.linking import Floats
from entitykit.components.links import Scored
from entitykit.decoding.calibration import Calibration
from entitykit.decoding.coherence import decide_together
from entitykit.knowledge.candidates import CandidateSource, Mention, Nearest, all_sources, nearest_words
from entitykit.knowledge.store_reader import StoreReader


class Seen(NamedTuple):
    """What is known of mentions before they are decided.

    Attributes:
        texts: as candidates are searched for.
        scored: their candidates, each by itself.
        mentions: *(n_mentions, size)* their vectors.
        rows: *(n_entities,)* of all candidates, which rise.
        entities: *(n_entities, size)* their vectors.
    """

    texts: list[Mention]
    scored: list[list[Scored]]
    mentions: Floats
    rows: NDArray[np.int64]
    entities: Floats


def sources_of(settings: Mapping[str, Any], store: StoreReader, index: Nearest | None) -> list[CandidateSource]:
    """The sources of candidates, as a linker's settings say."""
    names = ("normalised", "least_prior", "least_similarity")
    return all_sources(store, index, **{name: settings[name] for name in names})


def give_keywords(
    docs: Sequence[Doc], places: Sequence[Place], mentions: Sequence[Mention], settings: Mapping[str, Any]
) -> list[Mention]:
    """Give mentions the words of their contexts that they are searched by: predicted ones, else the nearest ones.

    Args:
        docs: the documents.
        places: of the mentions.
        mentions: as candidates are searched for.
        settings: the linker's.

    Raises:
        ConfigError: E588 for documents that have other words than those for which keywords were predicted.
    """
    most, threshold = settings["keywords"], settings["keyword_threshold"]
    found = []
    for mention, place in zip(mentions, places, strict=True):
        predicted = predicted_keywords(docs[place.doc], place, most, threshold)
        found.append(mention._replace(keywords=nearest_words(mention, most) if predicted is None else predicted))
    return found


def weigh_coherence(
    places: Sequence[Place], seen: Seen, calibration: Calibration, *, weight: float, threshold: float
) -> list[list[Scored]]:
    """Candidates with what the entities of their documents that are decided before say of them.

    Args:
        places: the mentions, document after document.
        seen: what is known of them.
        calibration: how scores become probabilities.
        weight: what the others count; 0: nothing is changed.
        threshold: least probability of a link.
    """
    found = list(seen.scored)
    if not weight:
        return found
    for _, numbers in groupby(range(len(places)), key=lambda i: places[i].doc):
        own = list(numbers)
        rows = [np.array([each.row for each in seen.scored[i]], dtype=np.int64) for i in own]
        there = np.unique(np.concatenate(rows))
        together = decide_together(
            [np.array([each.probability for each in seen.scored[i]]) for i in own],
            [np.searchsorted(there, each) for each in rows],
            seen.entities[np.searchsorted(seen.rows, there)],
            calibration,
            weight=weight,
            threshold=threshold,
        )
        for i, values in zip(own, together.coherence, strict=True):
            found[i] = [
                each._replace(probability=each.probability + weight * value, coherence=value)
                for each, value in zip(seen.scored[i], values.tolist(), strict=True)
            ]
    return found
