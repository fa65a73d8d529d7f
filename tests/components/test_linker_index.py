"""Indexes that are saved with a linker: whose they are, and what happens to those of another."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy

from entitykit.bridge.texts import Composed
from entitykit.components.indexed import build_index
from entitykit.components.linker import Linker
from entitykit.errors import CheckpointError, EntityKitWarning
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.entity_index import META
from entitykit.knowledge.store import EntityStore
from tests.components.test_linker import ENCODER, LINKER, initialized, make
from tests.pipelines import train


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    store = EntityStore.create(tmp_path / "kb")
    store.add([Entity(id=f"Q{i}", name=name) for i, name in enumerate(("Mary Jones", "New York", "New York"), start=1)])
    return store


def saved(path: Path, checkpoint: Path, store: EntityStore, **model: Any) -> Path:
    nlp, linker, _ = initialized(checkpoint, store, model=model)
    linker.build_index()
    nlp.to_disk(path)
    return path


def put(index_of: Path, into: Path) -> None:
    shutil.rmtree(into / LINKER / "entities")
    shutil.copytree(index_of / LINKER / "entities", into / LINKER / "entities")


def test_an_index_of_another_encoder(tiny_bert: Path, tiny_distilbert: Path, store: EntityStore, tmp_path: Path) -> None:
    """Is refused as soon as it is loaded, though its vectors have the same size; both encoders are named."""
    one, two = (saved(tmp_path / p.name, p, store) for p in (tiny_bert, tiny_distilbert))
    meta = json.loads((one / LINKER / "entities" / META).read_text())
    other = json.loads((two / LINKER / "entities" / META).read_text())
    put(one, two)
    names = f"{meta['encoder']}; this pipeline has vectors of size 32 by {other['encoder']}"
    with pytest.raises(CheckpointError, match=rf"E586\].*'{LINKER}'.*entities has vectors of size 32 by {names}.*build_index"):
        spacy.load(two)
    spacy.load(two, exclude=[ENCODER])  # which nobody can compare
    del meta["encoder"]  # as in earlier versions, where a warning is all
    (two / LINKER / "entities" / META).write_text(json.dumps(meta))
    nlp = spacy.load(two)
    with pytest.warns(EntityKitWarning, match="W582"):
        nlp(spacy.tokens.Doc(nlp.vocab, words=["Mary"], ents=["B-X"]))


def test_an_index_of_another_width(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    one, two = (saved(tmp_path / str(size), tiny_bert, store, projection=size) for size in (8, 16))
    kept = shutil.copytree(two, tmp_path / "kept")
    put(one, two)
    with pytest.raises(
        CheckpointError, match=r"E586\].*vectors of size 8 by 2 layers .*; this pipeline has vectors of size 16"
    ):
        spacy.load(two)
    wide, narrow = (make(tiny_bert, store, model={"projection": size}).from_disk(path) for size, path in ((16, kept), (8, one)))
    wide.get_pipe(LINKER).index = narrow.get_pipe(LINKER).index
    data = wide.to_bytes()
    with pytest.raises(CheckpointError, match=r"E586\].*the bytes has vectors of size 8"):
        make(tiny_bert, store, model={"projection": 16}).from_bytes(data)


def test_an_index_of_the_same_encoder_that_has_learned(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    nlp, linker, examples = initialized(tiny_bert, store)
    linker.build_index()
    train(nlp, examples, 2)
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    with pytest.warns(EntityKitWarning, match="W582"):
        loaded(examples[0].predicted.copy())


def linker_of(nlp: spacy.Language) -> Linker:
    linker = nlp.get_pipe(LINKER)
    assert isinstance(linker, Linker)
    return linker


CITIES = [Entity(id=f"Q{i}", name="New York", description=d) for i, d in enumerate(("a city", "a ship", "a river"), start=1)]


def scored(linker: Any, nlp: spacy.Language) -> dict[str, Any]:
    """What the linker says of each candidate of a mention."""
    doc = nlp(spacy.tokens.Doc(nlp.vocab, words=["in", "New", "York"], ents=["O", "B-X", "I-X"]))
    return {each.id: pytest.approx(each.dense, abs=1e-3) for each in linker.explain(doc.ents[0]).candidates}


def test_an_index_of_another_knowledge_base(tiny_bert: Path, tmp_path: Path) -> None:
    """That was built in the place of the first one, of the same entities or others: nobody is taken for someone else."""
    EntityStore.build(tmp_path / "kb", CITIES)
    nlp, linker, _ = initialized(tiny_bert, EntityStore.open(tmp_path / "kb"), candidates={"alias": 0, "dense": 9})
    linker.build_index()
    nlp.to_disk(tmp_path / "nlp")
    expected = scored(linker, nlp)
    assert len(expected) == 3
    for entities in (CITIES[::-1], CITIES[1:]):
        shutil.rmtree(tmp_path / "kb")
        EntityStore.build(tmp_path / "kb", entities)
        nlp = spacy.load(tmp_path / "nlp")
        linker = linker_of(nlp)
        with pytest.warns(EntityKitWarning, match=f"W588.*'{LINKER}' is of another knowledge base than '.*kb'.*build_index"):
            assert scored(linker, nlp) == {}  # rather than by the rows of others
        linker.settings["candidates"] = {"alias": 9, "dense": 9}
        assert scored(linker, nlp) == {each.id: expected[each.id] for each in entities}
        old = linker.index
        assert linker_of(build_index()(nlp)).index is not old
        linker.settings["candidates"] = {"dense": 9}
        assert scored(linker, nlp) == {each.id: expected[each.id] for each in entities}


def test_an_index_from_before_states_had_names(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    """Is taken by its number, as long as the knowledge base has come as far."""
    path = saved(tmp_path / "nlp", tiny_bert, store)
    meta = json.loads((path / LINKER / "entities" / META).read_text())
    assert meta.pop("state") == store.state
    for version, belongs in ((store.version, True), (store.version + 1, False)):
        (path / LINKER / "entities" / META).write_text(json.dumps(meta | {"version": version}))
        linker = linker_of(spacy.load(path))
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert (linker.own_index is not None) == belongs
        assert ["W588" in str(each.message) for each in told] == ([] if belongs else [True])


def test_an_index_follows_the_knowledge_base(tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without being built: entities that were added, changed or removed are found, or not, as if it had been."""
    store.add([Entity(id=f"N{i}", name=f"name {i}", description="north " * (i % 7)) for i in range(90)])
    nlp, linker, _ = initialized(tiny_bert, store, candidates={"alias": 0, "dense": 64})
    linker.build_index()
    texts, first = linker._texts, linker.index
    near = list(scored(linker, nlp))
    assert len(near) == 64
    store.remove(near[:60])
    with pytest.warns(EntityKitWarning, match="W583. 60 entities"):
        assert len(scored(linker, nlp)) == len(store) == 33
    store.add(
        [Entity(id="NEW", name="river"), replace(next(iter(store)), description="in New York"), Entity(id="Y", name="york")]
    )
    read: list[str] = []
    compose = texts.compose

    def watched(entities: Sequence[Entity]) -> Composed:
        read.extend(each.id for each in entities)
        return compose(entities)

    monkeypatch.setattr(texts, "compose", watched)
    with pytest.warns(EntityKitWarning, match="W583. 63 entities"):
        found = scored(linker, nlp)
    assert scored(linker, nlp) == found  # without reading or warning again
    assert sorted(read) == sorted(["NEW", next(iter(store)).id, "Y"])
    queries = np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)
    assert first is not None
    amended = texts.current(store, first)
    assert linker.index is first
    built = linker.build_index()
    assert scored(linker, nlp) == found
    for i in range(2):  # scores and rows
        np.testing.assert_allclose(amended.search(queries, 30)[i], built.search(queries, 30)[i], atol=1e-5)
