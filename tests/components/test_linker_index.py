"""Indexes that are saved with a linker: whose they are, and what happens to those of another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import spacy

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
