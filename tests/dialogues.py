"""Talks in which only the speakers tell who *I* and *you* are."""

from __future__ import annotations

import random
from collections.abc import Sequence

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gwen", "Hal"]


def talk(rng: random.Random, names: Sequence[str], turns: int, *, you: bool) -> list[tuple[str, str]]:
    """Words and speakers of a talk between two; who begins, and how often one goes on, is left to chance."""
    speakers = rng.sample(names, 2)
    said = ["I", "saw", *(["You"] if you else ["it"]), "."]
    return [(word, speaker) for speaker in [*speakers, *rng.choices(speakers, k=turns - 2)] for word in said]


def example(nlp: Language, spoken: Sequence[tuple[str, str]]) -> Example:
    """The talk with its speakers and with clusters: each speaker's *I* and the other's *you*."""
    words, speakers = ([pair[side] for pair in spoken] for side in (0, 1))
    gold = Doc(nlp.vocab, words=words, user_data={"speakers": speakers})
    meant: dict[str, list[int]] = {}
    for i, (word, speaker) in enumerate(spoken):
        if word in ("I", "You"):
            other = next(name for name in speakers if name != speaker)
            meant.setdefault(speaker if word == "I" else other, []).append(i)
    for number, places in enumerate(meant.values(), start=1):
        gold.spans[f"coref_clusters_{number}"] = [gold[i : i + 1] for i in places]
    return Example(Doc(nlp.vocab, words=words), gold)


def talks(nlp: Language, n: int, *, seed: int, you: bool, names: Sequence[str] = NAMES, turns: int = 6) -> list[Example]:
    rng = random.Random(seed)
    return [example(nlp, talk(rng, names, turns, you=you)) for _ in range(n)]
