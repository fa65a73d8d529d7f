"""What Re-DocRED says of entities: its types and relations by the names of the default pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from spacy.tokens import Doc

TYPES = {"PER": "PERSON", "ORG": "ORG", "LOC": "PLACE", "TIME": "DATE", "MISC": "MISC"}

LABELS = {
    "P6": "head_of_government",
    "P17": "country",
    "P19": "born_in",
    "P20": "died_in",
    "P22": "father",
    "P26": "spouse",
    "P27": "citizen_of",
    "P40": "child",
    "P50": "author",
    "P54": "plays_for",
    "P57": "director",
    "P69": "educated_at",
    "P102": "party",
    "P108": "employer",
    "P127": "owned_by",
    "P131": "located_in",
    "P159": "headquarters_in",
    "P161": "cast_member",
    "P170": "creator",
    "P175": "performer",
    "P178": "developer",
    "P206": "next_to_water",
    "P264": "record_label",
    "P361": "part_of",
    "P463": "member_of",
    "P569": "born_on",
    "P570": "died_on",
    "P571": "founded_on",
    "P577": "published_on",
    "P607": "fought_in",
}
"""Wikidata properties that have enough examples within sentences, by names of our own."""


def relations_in_sentences(doc: Doc) -> Iterator[dict[str, Any]]:
    """Each relation between two mentions of one sentence, once."""
    entities = {(span.start, span.end) for span in doc.ents}
    sentence = {token.i: number for number, sent in enumerate(doc.sents) for token in sent}
    seen = set()
    for relation in doc.user_data["cluster_relations"]:
        label = LABELS.get(relation["label"])
        heads, tails = (doc.spans[f"coref_clusters_{relation[end]}"] for end in ("head", "tail"))
        for head, tail in product(heads, tails):
            key = (head.start, head.end), (tail.start, tail.end), label
            if label and {key[0], key[1]} <= entities and sentence[head.start] == sentence[tail.start] and key not in seen:
                seen.add(key)
                yield {"head": list(key[0]), "tail": list(key[1]), "label": label}
