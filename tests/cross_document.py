"""Kinds of components of coreference across documents, for `tests.pipelines`, and what must be on documents before them."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, SpanGroup

Config = dict[str, Any]

_OURS: Config = {"@architectures": "entitykit.EncoderListener.v1"}
_VECTORS: Config = {"@architectures": "entitykit.CrossDocument.v1", "hidden": 16, "tok2vec": _OURS}
_PAIRS: Config = {"@architectures": "entitykit.MentionPairs.v1", "hidden": 16, "context_pieces": 24}
_ALL: Config = {"pairs": 0, "least": 0.0}

CROSS_DOCUMENT: dict[str, tuple[str, Config, Config]] = {
    "cross_document": ("entitykit_cross_document", _VECTORS, {"mentions": "phrases"}),
    "mention_pairs": ("entitykit_mention_pairs", _PAIRS, _ALL),
    "mention_pairs_shared": ("entitykit_mention_pairs", _PAIRS | {"tok2vec": _OURS}, _ALL),
}

PAIRS_AFTER = ("tests_phrases", "tests_vectors")
BEFORE = {
    "cross_document": ("tests_phrases",),
    "mention_pairs": PAIRS_AFTER,
    "mention_pairs_shared": PAIRS_AFTER,
    "relations_clusters": ("tests_clusters",),
    "relations_evidence": ("tests_clusters", "sentencizer"),
}
"""Components that must run before those of a kind."""


@Language.component("tests_phrases")
def phrases(doc: Doc) -> Doc:
    """The entities of a sentence that is known, else all runs of capitalised words, in a group."""
    from tests.pipelines import SENTENCES, names_in

    known = next((entities for text, entities in SENTENCES if text.split() == [token.text for token in doc]), None)
    places = [(name.start, name.end) for name in names_in(doc)] if known is None else [place[:2] for place in known]
    spans = [doc[start:end] for start, end in places]
    doc.spans["phrases"] = SpanGroup(doc, name="phrases", spans=spans, attrs={"scores": [1.0] * len(spans)})
    return doc


@Language.component("tests_vectors")
def vectors(doc: Doc) -> Doc:
    """Vectors of the phrases by their text alone."""
    rows = [np.random.default_rng(zlib.crc32(span.text.encode())).normal(size=8) for span in doc.spans["phrases"]]
    table = np.array([row / np.linalg.norm(row) for row in rows], dtype="<f4").reshape(-1, 8)
    attrs = {"scores": [1.0] * len(rows), "vectors": table.tobytes(), "size": 8, "odds": [2.0, 0.0], "fingerprint": "tests"}
    spans = list(doc.spans["phrases"])
    doc.spans["cross_document"] = SpanGroup(doc, name="cross_document", spans=spans, attrs=attrs)
    return doc
