"""External vectors in a pipeline: they reach the tokens of spans that name an entity, teach, and can change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.errors import ConfigError
from entitykit.knowledge.vectors import VectorTable
from tests.pipelines import READING, encoder_module, fast_optimizer, finish, make_example, make_pipeline

KINDS = ("projection", "mixture", "attention")
WORDS = "Paris met Paris"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two entities with opposite vectors."""
    table = VectorTable.create(tmp_path / "vectors", 8)
    vector = np.linspace(-1, 1, 8, dtype=np.float32)
    table.put(["Q1", "Q2"], np.stack([vector, -vector]))
    return tmp_path / "vectors"


def encoder(table: Path, kind: str) -> dict[str, Any]:
    vectors = {"@misc": "entitykit.VectorTable.v1", "path": str(table)}
    return {"entities": READING["entities"] | {"knowledge": kind, "proposals": 0.0}, "vectors": vectors}


def with_ids(nlp: Language, *ids: str) -> Doc:
    doc = Doc(nlp.vocab, words=WORDS.split())
    doc.spans["linked"] = [Span(doc, at, at + 1, kb_id=identifier) for at, identifier in zip((0, 2), ids, strict=True)]
    return doc


def make(checkpoint: Path, table: Path, kind: str) -> Language:
    nlp = make_pipeline(checkpoint, "span_ner", encoder=encoder(table, kind))
    nlp.get_pipe("entitykit_encoder").given = ("linked",)  # type: ignore[attr-defined]
    nlp.initialize(lambda: [make_example(nlp, WORDS, [(0, 1, "PERSON"), (2, 3, "PLACE")])])
    return nlp


def learn(nlp: Language, steps: int) -> list[float]:
    """The same word is a person or a place, in either position: only the id tells which."""
    optimizer = fast_optimizer()
    losses = []
    for _ in range(steps):
        examples = []
        for labels, ids in ((("PERSON", "PLACE"), ("Q1", "Q2")), (("PLACE", "PERSON"), ("Q2", "Q1"))):
            example = make_example(nlp, WORDS, [(0, 1, labels[0]), (2, 3, labels[1])])
            example.predicted = with_ids(nlp, *ids)
            examples.append(example)
        losses.append(nlp.update(examples, sgd=False, losses={})["span_ner"])  # type: ignore[arg-type]
        finish(nlp, optimizer)
    return losses


def states(doc: Doc) -> Any:
    return doc._.trf_data.model_output["entity_states"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_id_tells(tiny_bert: Path, table: Path, kind: str, tmp_path: Path) -> None:
    nlp = make(tiny_bert, table, kind)
    np.testing.assert_array_equal(states(nlp(with_ids(nlp, "Q1", "Q2"))), states(nlp(with_ids(nlp, "", "Q7"))))  # at first
    learn(nlp, 60)
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q1", "Q2")).ents] == ["PERSON", "PLACE"]
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q2", "Q1")).ents] == ["PLACE", "PERSON"]
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp", config={"components.entitykit_encoder.given": ["linked"]})
    assert [ent.label_ for ent in loaded(with_ids(loaded, "Q2", "Q1")).ents] == ["PLACE", "PERSON"]


def test_a_vector_changes_without_training(tiny_bert: Path, table: Path) -> None:
    nlp = make(tiny_bert, table, "projection")
    learn(nlp, 60)
    vectors = VectorTable(table)
    values, _ = vectors.lookup(["Q1", "Q2"])
    vectors.put(["Q9"], values[1:])
    nlp.get_pipe("entitykit_encoder").model.attrs["vectors"].refresh()  # type: ignore[attr-defined]
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q1", "Q9")).ents] == ["PERSON", "PLACE"]


def test_unknown_ids_change_nothing(tiny_bert: Path, table: Path) -> None:
    nlp = make(tiny_bert, table, "mixture")
    learn(nlp, 5)
    assert encoder_module(nlp).entities.knowledge is not None
    np.testing.assert_array_equal(states(nlp(with_ids(nlp, "", "NIL"))), states(nlp(with_ids(nlp, "Q5", "Q6"))))


@pytest.mark.parametrize("settings", [{"knowledge": "projection"}, {"knowledge": "magic"}])
def test_settings_that_do_not_fit(tiny_bert: Path, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="E007"):
        make_pipeline(tiny_bert, "span_ner", encoder={"entities": READING["entities"] | settings})
