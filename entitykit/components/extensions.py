"""All that entitykit's components write to ``doc._`` and ``span._``, known to spaCy as soon as there is one of them.

A pipeline may have one head, and read documents that others have annotated: what nobody has looked for must be None there, and
no error. Importing this module registers nothing.
"""

from __future__ import annotations

from spacy.tokens import Doc, Span

from entitykit.bridge.keywords import register_keywords
from entitykit.components.cluster_links import OWN
from entitykit.components.cluster_pairs import register_cluster_relations
from entitykit.components.clusters import register_clusters
from entitykit.components.links import register_links
from entitykit.components.nils import register_nils
from entitykit.components.pairs import register_relations
from entitykit.scoring.procedures import STATES
from entitykit.scoring.salience_documents import SALIENCE

COVERAGE = "coverage"


def register_extensions() -> None:
    """Make all values on documents and spans known to spaCy, once; where no component has looked for them, they are None."""
    register_clusters()
    register_relations()
    register_cluster_relations()
    register_links()
    register_nils()
    register_keywords()
    for name in (COVERAGE, SALIENCE, STATES):
        if not Doc.has_extension(name):
            Doc.set_extension(name, default=None)
    if not Span.has_extension(OWN):
        Span.set_extension(OWN, default=None)
