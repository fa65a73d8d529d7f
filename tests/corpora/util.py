"""Look at what a reader made."""

from __future__ import annotations

from spacy.tokens import Doc, SpanGroup

AWKWARD = [
    "👩‍👩‍👧",  # one emoji of several characters
    "e\u0301",  # combining mark
    "\u05e9\u05dc\u05d5\u05dd",  # right to left
    "\u200f",  # right-to-left mark
    "\u2028",  # a line break for Python, not for the files
    "\x1c",  # control character, white space for Python
    "\x00",
    "\x07",
    "\u00a0",
    "\ufeff",
    "a\u00a0b",
    "#",
    "O",
    '"',
    "ß",
]
"""Tokens that have broken readers."""


def entities(doc: Doc) -> list[tuple[str, str]]:
    """Text and label of all entities."""
    return labelled(doc.spans["sc"])


def labelled(group: SpanGroup) -> list[tuple[str, str]]:
    """Text and label of all spans."""
    return [(span.text, span.label_) for span in group]


def offsets(group: SpanGroup) -> list[tuple[int, int, str]]:
    """Tokens and label of all spans."""
    return [(span.start, span.end, span.label_) for span in group]


def words(doc: Doc) -> list[str]:
    """The tokens' texts."""
    return [token.text for token in doc]


def starts(doc: Doc) -> list[int]:
    """The tokens that start a sentence."""
    return [token.i for token in doc if token.is_sent_start]


def linked(group: SpanGroup) -> list[tuple[str, str, str]]:
    """Text, label and id of all spans."""
    return [(span.text, span.label_, span.kb_id_) for span in group]


def annotated(doc: Doc) -> list[str]:
    """The tokens that are known to be in an entity or in none."""
    return [token.text for token in doc if token.ent_iob != 0]
