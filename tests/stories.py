"""Stories of two people each, whose names occur once; the rest are pronouns."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

NAMES = ["Ada", "Ben", "Cleo", "Dan", "Eve", "Finn"]
WORDS = ["{}", "came", ".", "She", "sat", ".", "{}", "met", "It", ".", "She", "left", ".", "It", "ran", "."]


def stories(nlp: Language, names: Sequence[str] = NAMES) -> list[Example]:
    """One of each pair of names; pronouns, with a capital so that they are found, tell nothing."""
    for word in ("She", "It"):
        nlp.vocab[word].is_stop = True
    examples = []
    for pair in combinations(names, 2):
        people = iter(pair)
        words = [next(people) if word == "{}" else word for word in WORDS]
        gold = Doc(nlp.vocab, words=words)
        for number, own in enumerate(((pair[0], "She"), (pair[1], "It")), start=1):
            gold.spans[f"coref_clusters_{number}"] = [gold[i : i + 1] for i, word in enumerate(words) if word in own]
        examples.append(Example(Doc(nlp.vocab, words=words), gold))
    return examples
