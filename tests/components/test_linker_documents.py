"""What a linker makes of a document as a whole: mentions that are decided in each other's light, and groups of unknown ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span

from entitykit.components.linker import Linker
from entitykit.decoding.calibration import probabilities
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.store import EntityStore
from tests.components.test_linker import initialized, make, store

__all__ = ["store"]


def mentioned(nlp: Language, text: str, *places: tuple[int, int]) -> Doc:
    doc = Doc(nlp.vocab, words=text.split())
    doc.set_ents([Span(doc, start, end, label="X") for start, end in places])
    return doc


TEXT = ("Mary Jones went to New York on the river", (0, 2), (4, 6))


def test_coherence_is_what_others_say(tiny_bert: Path, store: EntityStore) -> None:
    """The mention with one candidate is certain; the other's candidates get the cosine of their vectors with its entity."""
    nlp, linker, _ = initialized(tiny_bert, store, candidates={"alias": 4, "dense": 0}, coherence=5.0)
    linker.build_index()
    doc = nlp(mentioned(nlp, *TEXT))
    explained = linker.explain(doc.ents[1])
    assert linker.index is not None
    vectors = dict(zip(["Q1", "Q2", "Q3"], linker.index.vectors(store.rows(["Q1", "Q2", "Q3"]))[0], strict=True))
    units = {id_: vector / np.linalg.norm(vector) for id_, vector in vectors.items()}
    assert {each.id: each.coherence for each in explained.candidates} == {
        id_: pytest.approx(float(units["Q1"] @ units[id_]), abs=1e-3) for id_ in ("Q2", "Q3")
    }
    scale = float(linker.head.scale.detach())
    ids = [each.id for each in explained.candidates]
    scores = np.array([scale * each.dense + 5.0 * (each.coherence or 0.0) for each in explained.candidates])
    expected = dict(zip(ids, probabilities(scores, linker.calibration)[0], strict=True))
    assert dict(doc.ents[1]._.kb_ents) == {id_: pytest.approx(p, abs=1e-4) for id_, p in expected.items()}
    assert [(each.id, each.score) for each in explained.candidates] == [
        (id_, pytest.approx(p, abs=1e-6)) for id_, p in doc.ents[1]._.kb_ents
    ]
    assert linker.explain(doc.ents[0]).candidates[0].coherence == 0
    assert "coherence" in str(explained)


def test_documents_do_not_hear_each_other(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, _ = initialized(tiny_bert, store, candidates={"alias": 4, "dense": 0}, coherence=5.0)
    linker.build_index()
    other = ("the river New York sank", (2, 4))
    alone = [nlp(mentioned(nlp, *text)) for text in (TEXT, other)]
    together = list(nlp.pipe([mentioned(nlp, *text) for text in (TEXT, other)]))
    for one, two in zip(alone, together, strict=True):
        assert [ent._.kb_ents for ent in one.ents] == [
            [(id_, pytest.approx(p, abs=1e-5)) for id_, p in ent._.kb_ents] for ent in two.ents
        ]


def test_without_weight_nothing_is_said(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, _ = initialized(tiny_bert, store)
    linker.build_index()
    doc = nlp(mentioned(nlp, *TEXT))
    assert {each.coherence for each in linker.explain(doc.ents[1]).candidates} == {None}
    linker.settings["coherence"] = 1e-9
    again = nlp(mentioned(nlp, *TEXT))
    for one, two in zip(doc.ents, again.ents, strict=True):
        assert [id_ for id_, _ in one._.kb_ents] == [id_ for id_, _ in two._.kb_ents]


@pytest.mark.parametrize("settings", [{"coherence": -1.0}, {"nil_similarity": 1.5}, {"nil_similarity": -2.0}], ids=str)
def test_settings_that_cannot_be(tiny_bert: Path, store: EntityStore, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E109"):
        make(tiny_bert, store, **settings)


UNKNOWN = ("Ann Smith saw the river and Smith saw Mary Jones near Bob", (0, 2), (6, 7), (8, 10), (11, 12))


def nils(tiny_bert: Path, store: EntityStore, **settings: Any) -> tuple[Language, Linker]:
    given = {"candidates": {"alias": 4}, "nil_clusters": True, "nil_similarity": -1.0}
    nlp, linker, _ = initialized(tiny_bert, store, **given | settings)
    return nlp, linker


def test_unknown_mentions_are_grouped(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _ = nils(tiny_bert, store)
    doc = nlp(mentioned(nlp, *UNKNOWN))
    assert [ent.kb_id_ for ent in doc.ents] == ["", "", "Q1", ""]
    assert doc._.nil_clusters == {"NIL-1": [[0, 2], [6, 7]], "NIL-2": [[11, 12]]}
    assert [ent._.nil_id for ent in doc.ents] == ["NIL-1", "NIL-1", "", "NIL-2"]
    copy = Doc(nlp.vocab).from_bytes(doc.to_bytes())
    assert [ent._.nil_id for ent in copy.ents] == ["NIL-1", "NIL-1", "", "NIL-2"]
    data = DocBin(docs=[doc], store_user_data=True).to_bytes()
    (stored,) = DocBin().from_bytes(data).get_docs(nlp.vocab)
    assert [ent._.nil_id for ent in stored.ents] == ["NIL-1", "NIL-1", "", "NIL-2"]
    again = nlp(doc)
    assert again._.nil_clusters == copy._.nil_clusters
    assert nlp(mentioned(nlp, "Mary Jones", (0, 2)))._.nil_clusters == {}


def test_contexts_that_are_not_alike_are_kept_apart(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _ = nils(tiny_bert, store, nil_similarity=1.0)
    doc = nlp(mentioned(nlp, *UNKNOWN))
    assert doc._.nil_clusters == {"NIL-1": [[0, 2]], "NIL-2": [[6, 7]], "NIL-3": [[11, 12]]}


def test_nobody_groups_unless_asked(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _ = nils(tiny_bert, store, nil_clusters=False)
    doc = nlp(mentioned(nlp, *UNKNOWN))
    assert doc._.nil_clusters is None
    assert [ent._.nil_id for ent in doc.ents] == [""] * 4


@pytest.mark.parametrize("mention", ["context", "state"])
def test_a_corpus_is_grouped_as_a_whole(tiny_bert: Path, store: EntityStore, mention: str) -> None:
    nlp, linker = nils(tiny_bert, store, model={"mention": mention})
    texts = [UNKNOWN, ("nothing here",), ("Bob and Smith went on", (0, 1), (2, 3))]
    docs = list(nlp.pipe([mentioned(nlp, *text) for text in texts]))  # type: ignore[arg-type]
    assert docs[2]._.nil_clusters == {"NIL-1": [[0, 1]], "NIL-2": [[2, 3]]}
    assert linker.cluster_nils(docs) == 2
    assert [doc._.nil_clusters for doc in docs] == [
        {"NIL-corpus-1": [[0, 2], [6, 7]], "NIL-corpus-2": [[11, 12]]},
        {},
        {"NIL-corpus-2": [[0, 1]], "NIL-corpus-1": [[2, 3]]},
    ]
    assert linker.cluster_nils([], name="none") == 0
    assert linker.cluster_nils(docs[1:2]) == 0


def test_a_link_that_comes_later_wins(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _ = nils(tiny_bert, store)
    doc = nlp(mentioned(nlp, *UNKNOWN))
    doc.set_ents([Span(doc, 0, 2, label="X", kb_id="Q1"), *doc.ents[1:]])
    assert [ent._.nil_id for ent in doc.ents] == ["", "NIL-1", "", "NIL-2"]


def test_groups_of_spans(tiny_bert: Path, store: EntityStore) -> None:
    with pytest.warns(EntityKitWarning, match="W586"):  # the links of the examples are in doc.ents
        nlp, linker = nils(tiny_bert, store, mentions="sc")
    doc = mentioned(nlp, *UNKNOWN)
    doc.spans["sc"], doc.ents = list(doc.ents), []
    doc = nlp(doc)
    assert doc._.nil_clusters == {"NIL-1": [[0, 2], [6, 7]], "NIL-2": [[11, 12]]}
    assert linker.cluster_nils([doc], name="x") == 2
    assert doc.spans["sc"][1]._.nil_id == "NIL-x-1"
