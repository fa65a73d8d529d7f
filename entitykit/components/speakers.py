"""Who says the words of documents: ``doc.user_data["speakers"]`` is a list of names, empty or None where nobody speaks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from spacy.attrs import LOWER
from spacy.strings import get_string_id
from spacy.tokens import Doc

from entitykit.corpora.given_speakers import speakers_of
from entitykit.errors import warn

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # spreads numbers, as in Knuth's multiplicative hashing


def said_by(docs: Sequence[Doc]) -> NDArray[np.int64]:
    """Numbers for the speaker of each word of a batch, and for the word as that speaker says it *(n_words, 2)*.

    Both are 0 where nobody is known to speak. Equal names have equal numbers, in whatever documents; so have equal words of one
    speaker, in any case of letters.

    Raises:
        InputError: E646 for a document with another number of speakers than words, or with something else than names.
    """
    found = [np.zeros((0, 2), dtype=np.int64)]
    for doc in docs:
        names = speakers_of(doc) or [""] * len(doc)
        numbers = {name: get_string_id(name) if name else 0 for name in set(names)}
        who = np.array([numbers[name] for name in names], dtype=np.uint64)
        words = doc.to_array([LOWER]).astype(np.uint64).reshape(-1)
        said = np.where(who != 0, (words ^ who) * FACTOR, np.uint64(0))
        found.append(np.stack([who, said], axis=1).view(np.int64))
    return np.concatenate(found)


def check_speakers(docs: Sequence[Doc], name: str) -> None:
    """Warn if nobody speaks in any of the documents from which a component is to learn who does.

    Warns:
        W640 then.
    """
    if not any(any(speakers_of(doc) or ()) for doc in docs):
        warn("W640", n=len(docs), name=name)
