"""What components write to documents, as plain lists: a `DocBin` gives tuples; and settings and procedures of tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from spacy.tokens import Doc, Span

Values = dict[str, Any]

TRACKER: Values = {"@architectures": "entitykit.StateTracker.v1", "hidden": 16, "size": 8}
CLUSTERS: Values = {"@architectures": "entitykit.ClusterRelations.v1", "size": 12, "hidden": 16, "product": 4}
EVIDENCE: Values = CLUSTERS | {"evidence": True}
DOCUMENT: Values = {"entities": "coref", "scope": "document"}


def relations_of(doc: Doc) -> list[Values]:
    found = (doc._.relations if Doc.has_extension("relations") else None) or ()
    return [{key: list(v) if isinstance(v, tuple) else v for key, v in relation.items()} for relation in found]


def salience_of(doc: Doc) -> list[Values]:
    """By places: equal scores are in any order."""
    found = (doc._.salience if Doc.has_extension("salience") else None) or ()
    values = [{**value, "mentions": [list(place) for place in value["mentions"]]} for value in found]
    return sorted(values, key=lambda value: value["mentions"])


def tracks_of(doc: Doc) -> tuple[Values, dict[str, list[float]]]:
    """What a tracker writes, and its scores apart."""
    found = (doc._.entity_states if Doc.has_extension("entity_states") else None) or {}
    plain = json.loads(json.dumps(found))
    rows = {key: plain.pop(key, []) for key in ("scores", "place_scores")}
    return plain, {key: [score for row in own for score in row if score is not None] for key, own in rows.items()}


def procedure_of(doc: Doc, names: Sequence[Span]) -> Values:
    """A single step, in which the first name moves to the last; the second comes to be, the third is gone, and so on."""
    found = [text for text in dict.fromkeys(name.text for name in names) if text != "The"]
    rows = [["?", *found[-1:]], ["-", "?"], ["?", "-"]]
    states = [rows[i % 3] for i in range(len(found))] if len(found) > 1 else [["?", "?"]] * len(found)
    return {"participants": found, "states": states, "steps": [[0, len(doc.text)]] if len(doc) else []}
