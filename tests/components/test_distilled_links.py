"""A bi-encoder learns from a reranker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language

from entitykit.components.linker import Linker
from entitykit.corpora.distilled_links import distilled_links
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.store import EntityStore
from tests.linked_texts import linked_examples
from tests.pipelines import BI_ENCODER, OURS, encoder_config, train
from tests.rerankers import ENCODER, LINKER, RERANKER, build_saved, build_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EntityStore:
    return build_store(tmp_path_factory.mktemp("reranker") / "kb")


@pytest.fixture(scope="module")
def saved(tiny_bert: Path, store: EntityStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_saved(tiny_bert, store, tmp_path_factory.mktemp("saved") / "nlp")


def make_student(checkpoint: Path, store: EntityStore, **settings: Any) -> tuple[Language, Linker]:
    nlp = spacy.blank("xx")
    nlp.add_pipe(ENCODER, config=encoder_config(checkpoint))
    kb = {"@misc": "entitykit.KB.v1", "path": str(store.folder)}
    nlp.add_pipe(LINKER, config={"kb": kb, "model": BI_ENCODER | {"tok2vec": OURS}, **settings})
    nlp.initialize(lambda: linked_examples(nlp))
    linker = nlp.get_pipe(LINKER)
    assert isinstance(linker, Linker)
    return nlp, linker


def test_a_student_learns_the_probabilities(saved: Path, tiny_bert: Path, store: EntityStore) -> None:
    """Of its teacher, which reads each document once; without the gold entities' loss, it learns nothing else."""
    nlp, linker = make_student(tiny_bert, store, distill=1.0, distill_temperature=1.0, negatives=0)
    reader = distilled_links(linked_examples, saved, top_k=3)
    examples = list(reader(nlp))
    teacher = reader._nlp
    assert teacher is not None
    reader._nlp = None
    assert [eg.reference.ents[0]._.kb_ents for eg in reader(nlp)] == [eg.reference.ents[0]._.kb_ents for eg in examples]
    assert reader._nlp is None
    assert all(len(ent._.kb_ents) <= 3 for eg in examples for ent in eg.reference.ents)
    assert [(e.kb_id_, e.label_) for e in examples[0].reference.ents] == [("Q1", "X"), ("Q2", "X")]
    wanted = dict(examples[1].reference.ents[0]._.kb_ents)
    history = train(nlp, examples, 60)
    assert history[-1][LINKER] < 0.05 * history[0][LINKER]
    linker.build_index()
    explained = linker.explain(nlp(linked_examples(nlp)[1].predicted).ents[0])
    found = {each.id: each.score for each in explained.candidates if each.id in wanted}
    assert {id_: p / sum(found.values()) for id_, p in found.items()} == pytest.approx(
        {id_: p / sum(wanted.values()) for id_, p in wanted.items()}, abs=0.1
    )


def test_a_student_without_a_teacher(tiny_bert: Path, store: EntityStore, tmp_path: Path, saved: Path) -> None:
    nlp, _ = make_student(tiny_bert, store, distill=0.5)
    with pytest.warns(EntityKitWarning, match="W592"):
        train(nlp, linked_examples(nlp), 2)
    for path in (None, tmp_path / "nothing"):
        with pytest.raises(ConfigError, match="E596"):
            list(distilled_links(linked_examples, path)(nlp))
    with pytest.raises(ConfigError, match="E596.*no candidates"):
        list(distilled_links(linked_examples, saved, disable=[LINKER, RERANKER])(nlp))
    with pytest.raises(ConfigError, match="E213"):
        distilled_links(linked_examples, saved, top_k=0)
    for settings in ({"distill": 1.5}, {"distill": -1.0}, {"distill_temperature": 0.0}):
        with pytest.raises(ConfigError, match="E109.*distill"):
            make_student(tiny_bert, store, **settings)
