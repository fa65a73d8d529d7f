"""One link for each cluster."""

from __future__ import annotations

import pytest
from spacy.tokens import Doc, Span
from spacy.vocab import Vocab

from entitykit.components.cluster_links import link_clusters
from entitykit.components.links import register_links
from entitykit.errors import InputError

Candidates = list[tuple[str, float]]


def make(*mentions: tuple[str, Candidates | None], key: str = "ents") -> Doc:
    """A document whose words are mentions: the id of the cluster, and what a linker has left."""
    register_links()
    doc = Doc(Vocab(), words=[f"w{i}" for i in range(len(mentions))])
    spans = [Span(doc, i, i + 1, label="X", kb_id="old") for i in range(len(mentions))]
    for span, (_, candidates) in zip(spans, mentions, strict=True):
        if candidates is not None:
            span._.kb_ents = candidates
    if key == "ents":
        doc.set_ents(spans)
    else:
        doc.spans[key] = spans
    doc.spans["cross_document"] = [Span(doc, i, i + 1, span_id=id_) for i, (id_, _) in enumerate(mentions) if id_]
    return doc


@pytest.mark.parametrize("key", ["ents", "names"])
def test_the_mean_decides(key: str) -> None:
    one = make(("C1", [("Q1", 0.6), ("Q2", 0.4)]), ("", [("Q7", 0.9)]), key=key)
    two = make(("C1", [("Q2", 0.9), ("Q1", 0.1)]), ("C2", [("Q3", 0.3)]), ("C3", None), key=key)
    assert link_clusters([one, two], mentions=key) == {"C1": "Q2", "C2": ""}
    mentions = [list(doc.ents if key == "ents" else doc.spans[key]) for doc in (one, two)]
    assert [[span.kb_id_ for span in spans] for spans in mentions] == [["Q2", "old"], ["Q2", "", "old"]]
    assert [span.label_ for span in mentions[0]] == ["X", "X"]
    for spans in mentions:
        assert [id_ for id_, _ in spans[0]._.kb_ents] == ["Q2", "Q1"]
        assert [p for _, p in spans[0]._.kb_ents] == pytest.approx([0.65, 0.35])
    assert mentions[0][1]._.kb_ents == [("Q7", 0.9)]


def test_a_threshold_and_nil() -> None:
    docs = [make(("C1", [("Q1", 0.5)])), make(("C1", [("Q1", 0.7)]))]
    assert link_clusters(docs) == {"C1": "Q1"}
    assert link_clusters(docs, threshold=0.61) == {"C1": ""}
    docs = [make(("C1", [("Q1", 0.9)])), make(("C1", [])), make(("C1", []))]
    assert link_clusters(docs) == {"C1": ""}  # 0.3 against 0.7 that it is none


def test_documents_without_clusters() -> None:
    doc = make(("C1", []))
    del doc.spans["cross_document"]
    with pytest.raises(InputError, match="E631"):
        link_clusters([doc])
