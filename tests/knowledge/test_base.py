"""The store as a spaCy knowledge base: what spaCy's own `entity_linker` asks of one."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import spacy
from spacy import registry
from spacy.kb import InMemoryLookupKB
from spacy.language import Language
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import CheckpointError, ConfigError, InputError
from entitykit.knowledge.base import EntityKB, empty_kb, load_kb, write_vectors
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.vectors import VectorTable
from tests.knowledge.kb import CITIES, build

WIDTH = 4
TEXT = "Paris is the capital of France. Alexandros, called Paris, lived in Troy. London is old."
ENTS = ["Paris", "Alexandros", "Paris", "London"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path / "kb").close()
    table = VectorTable.create(tmp_path / "kb" / "vectors", WIDTH)
    table.put([entity.id for entity in CITIES], np.arange(3 * WIDTH).reshape(3, WIDTH) + 1)
    return tmp_path / "kb"


@pytest.fixture
def kb(folder: Path) -> EntityKB:
    return load_kb(folder)(Vocab())


def make_doc(nlp: Language) -> spacy.tokens.Doc:
    doc = nlp.make_doc(TEXT)
    places, start = [], 0
    for name in ENTS:
        start = TEXT.index(name, start)
        places.append(doc.char_span(start, start + len(name), label="X"))
        start += len(name)
    doc.ents = places
    for token in doc:
        token.is_sent_start = token.i == 0 or doc[token.i - 1].text == "."
    return doc


def test_candidates_are_those_of_spacy(kb: EntityKB) -> None:
    """The same as spaCy's own knowledge base gives with the same probabilities."""
    nlp = spacy.blank("en")
    own = InMemoryLookupKB(nlp.vocab, WIDTH)
    for entity in CITIES:
        own.add_entity(entity.id, entity.count, kb.get_vector(entity.id))
    own.add_alias("Paris", ["Q90", "Q830149", "Q167646"], [12 / 16, 3 / 16, 1 / 16])
    own.add_alias("Alexandros", ["Q167646"], [1.0])
    ents = make_doc(nlp).ents
    for found, wanted in zip(kb.get_candidates_batch(ents), own.get_candidates_batch(ents), strict=True):
        wanted = sorted(wanted, key=lambda candidate: -candidate.prior_prob)
        assert [candidate.entity_ for candidate in found] == [candidate.entity_ for candidate in wanted]
        assert [candidate.alias_ for candidate in found] == [candidate.alias_ for candidate in wanted]
        assert [candidate.prior_prob for candidate in found] == [candidate.prior_prob for candidate in wanted]
        assert [candidate.entity_freq for candidate in found] == [candidate.entity_freq for candidate in wanted]
        assert [candidate.entity_vector for candidate in found] == [candidate.entity_vector for candidate in wanted]
    assert [len(kb.get_candidates(ent)) for ent in ents] == [3, 1, 3, 0]
    assert list(kb.get_vectors(["Q90", "none"])[1]) == list(own.get_vector("none")) == [0] * WIDTH
    assert kb.get_vector("Q9090").tolist() == [1, 2, 3, 4]  # through a redirect


def test_spelling_and_number_of_candidates(folder: Path) -> None:
    doc = spacy.blank("en")("PARIS")
    two = load_kb(folder, max_candidates=2)(doc.vocab)
    assert [(candidate.entity_, candidate.alias_) for candidate in two.get_candidates(doc[:])] == [
        ("Q90", "PARIS"),
        ("Q830149", "PARIS"),
    ]
    with pytest.raises(InputError, match=r"\[E507\] The option max_candidates is 0"):
        load_kb(folder, max_candidates=0)(doc.vocab)


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("with_vectors", [True, False])
def test_entity_linker_of_spacy(folder: Path, tmp_path: Path, with_vectors: bool, batch_size: int) -> None:
    """Trained, saved, loaded from disk and from bytes, it gives the same links."""
    if not with_vectors:
        (folder / "vectors").rename(folder / "elsewhere")
    nlp = spacy.blank("en")
    config = {
        "generate_empty_kb": {"@misc": "entitykit.EmptyKB.v1"},
        "incl_context": with_vectors,
        "candidates_batch_size": batch_size,
        "use_gold_ents": False,
    }
    linker = nlp.add_pipe("entity_linker", config=config)
    gold = make_doc(nlp)
    for ent, id_ in zip(gold.ents, ["Q90", "Q167646", "Q167646", ""], strict=True):
        for token in ent:
            token.ent_kb_id_ = id_
    examples = [Example(make_doc(nlp), gold)]
    loader = registry.misc.get("entitykit.KB.v1")(path=folder)
    linker.initialize(lambda: examples, nlp=nlp, kb_loader=loader)
    optimizer = nlp.initialize(lambda: examples)
    assert isinstance(linker.kb, EntityKB)
    if with_vectors:
        for _ in range(3):
            nlp.update(examples, sgd=optimizer)

    def links(pipeline: Language) -> list[str]:
        return [ent.kb_id_ for ent in pipeline(make_doc(pipeline)).ents]

    found = links(nlp)
    assert found[1] == "Q167646"
    assert found[3] == "NIL"
    assert with_vectors or found[0] == "Q90"
    nlp.to_disk(tmp_path / "pipeline")
    nlp.to_disk(tmp_path / "pipeline")  # over itself
    loaded = spacy.load(tmp_path / "pipeline")
    assert links(loaded) == found
    assert len(loaded.get_pipe("entity_linker").kb) == 3
    copy = spacy.blank("en")
    copy.add_pipe("entity_linker", config=config)
    assert links(copy.from_bytes(nlp.to_bytes())) == found


def test_saved_and_pickled(kb: EntityKB, tmp_path: Path) -> None:
    kb.to_disk(tmp_path / "copy")
    kb.store.remove(["Q90"])
    old, new = EntityKB(Vocab()).from_disk(tmp_path / "copy"), pickle.loads(pickle.dumps(kb))
    assert [len(old), len(new), len(EntityKB(Vocab()).from_bytes(kb.to_bytes()))] == [3, 2, 2]
    assert np.array_equal(old.get_vector("Q90"), [1, 2, 3, 4])
    assert old.entity_vector_length == new.entity_vector_length == WIDTH
    kb.to_disk(tmp_path / "copy")
    assert len(EntityKB(Vocab()).from_disk(tmp_path / "copy")) == 2
    kb.to_disk(kb.store.folder)  # onto itself
    assert len(kb) == 2
    kb.vectors = None
    kb.to_disk(tmp_path / "copy")
    assert not (tmp_path / "copy" / "vectors").exists()


def test_a_temporary_copy_goes_with_its_object(kb: EntityKB) -> None:
    copy = EntityKB(Vocab(), max_candidates=2).from_bytes(kb.to_bytes())
    folder = copy.store.folder
    assert folder.exists()
    saved = pickle.dumps(copy)
    del copy
    assert not folder.exists()
    again = pickle.loads(saved)
    assert len(again) == len(kb)
    assert again.get_vector("Q90").tolist() == [1, 2, 3, 4]
    assert again.max_candidates == 2
    assert len(again.from_disk(kb.store.folder)) == len(kb)
    assert pickle.loads(pickle.dumps(again)).store.folder == kb.store.folder


def test_vectors_that_were_made_meanwhile_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path / "kb").close()
    (tmp_path / "same").symlink_to(tmp_path / "kb")
    kb = load_kb(tmp_path / "kb")(Vocab())
    write_vectors(tmp_path / "kb", WIDTH, [(["Q90"], np.ones((1, WIDTH)))])
    for folder in ("kb", "same"):
        kb.to_disk(tmp_path / folder)
        assert len(VectorTable(tmp_path / folder / "vectors")) == 1
    with_vectors = load_kb(tmp_path / "kb")(Vocab())
    with_vectors.to_disk(tmp_path / "same")  # onto itself
    assert len(VectorTable(tmp_path / "kb" / "vectors")) == 1


def test_saved_where_its_own_vectors_are(kb: EntityKB, tmp_path: Path) -> None:
    """Beside another store, which is replaced."""
    kb.to_disk(tmp_path / "copy")
    EntityStore.open(tmp_path / "copy").remove(["Q90"])
    mixed = load_kb(kb.store.folder, vectors=tmp_path / "copy" / "vectors")(Vocab())
    mixed.to_disk(tmp_path / "copy")
    again = load_kb(tmp_path / "copy")(Vocab())
    assert (len(again), again.get_vector("Q90").tolist()) == (len(kb), kb.get_vector("Q90").tolist())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_stay_until_new_ones_are_complete(kb: EntityKB, tmp_path: Path, dtype: str) -> None:
    kb.to_disk(tmp_path / "copy")
    kb.vectors = VectorTable.create(tmp_path / "new", WIDTH, dtype)
    kb.vectors.put(["Q90"], np.full((1, WIDTH), 2.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VectorTable, "lookup", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            kb.to_disk(tmp_path / "copy")
    assert len(VectorTable(tmp_path / "copy" / "vectors")) == 3
    kb.to_disk(tmp_path / "copy")
    new = VectorTable(tmp_path / "copy" / "vectors")
    assert (len(new), new.dtype, new.lookup(["Q90"])[0].tolist()) == (1, dtype, [[2.0] * WIDTH])


def test_a_knowledge_base_without_store() -> None:
    kb = empty_kb()(Vocab(), 64)
    assert kb.is_empty()
    with pytest.raises(ConfigError, match=r"\[E509\] This knowledge base is empty: it was never loaded"):
        kb.get_candidates(spacy.blank("en")("Paris")[:])
    with pytest.raises(CheckpointError, match=r"\[E501\] the bytes is damaged"):
        kb.from_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"\[E500\]"):
        kb.from_disk("/nowhere")


def test_an_entity_without_vector(kb: EntityKB) -> None:
    kb.store.add([Entity(id="Q84", name="London"), Entity(id="Q1", name="Universe")])
    with pytest.raises(ConfigError, match=r"\[E511\] 1 entities of the knowledge base have no vector in '.*vectors', .* 'Q84'"):
        kb.get_candidates(spacy.blank("en")("London")[:])
    assert not kb.get_vector("unknown").any()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_shared_with_forked_processes(folder: Path) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("entity_ruler").add_patterns([{"label": "X", "pattern": name} for name in set(ENTS)])
    nlp.add_pipe("sentencizer")
    config = {"generate_empty_kb": {"@misc": "entitykit.EmptyKB.v1"}, "incl_context": False}
    linker = nlp.add_pipe("entity_linker", config=config)
    linker.set_kb(load_kb(folder))
    texts = [TEXT] * 6
    alone = [[ent.kb_id_ for ent in doc.ents] for doc in nlp.pipe(texts)]
    assert [[ent.kb_id_ for ent in doc.ents] for doc in nlp.pipe(texts, n_process=2, batch_size=2)] == alone
    assert alone[0] == ["Q90", "Q167646", "Q90", "NIL"]


def test_only_this_module_needs_spacy() -> None:
    code = "import sys; import entitykit.knowledge.store, entitykit.knowledge.dictionary; print('spacy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_registered(folder: Path) -> None:
    kb = registry.misc.get("entitykit.KB.v1")(path=str(folder), read_only=True)(Vocab())
    assert isinstance(kb.store, EntityStore)
    assert registry.misc.get("entitykit.EmptyKB.v1")(max_candidates=3)(Vocab(), 64).max_candidates == 3
