"""`entitykit kb vectors`: spaCy's own linker gets vectors that a pipeline of ours has made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.vocab import Vocab

from entitykit.errors import CheckpointError, ConfigError
from entitykit.knowledge.base import EntityKB, load_kb
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.cli.test_kb import run, table
from tests.knowledge.kb import CITIES, build
from tests.pipelines import initialized


@pytest.fixture(scope="module")
def pipelines(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linker that compares states, one that projects them, and a pipeline without any."""
    folder = tmp_path_factory.mktemp("pipelines")
    for kind in ("linker", "linker_state", "span_ner"):
        initialized(tiny_bert, kind)[0].to_disk(folder / kind)
    return folder


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    build(tmp_path / "kb").close()
    return tmp_path / "kb"


def read(pipeline: Path, kb: Path) -> tuple[EntityKB, dict[str, list[float]]]:
    """The knowledge base as spaCy has it, and vectors that the linker reads by itself."""
    pipe: Any = spacy.load(pipeline).get_pipe(pipeline.name)
    with EntityStore.open(kb, read_only=True) as store:
        ids = [entity.id for entity in store]
        found = pipe._texts.vectors(store, store.rows(ids), None)
    return load_kb(kb)(Vocab()), dict(zip(ids, found.tolist(), strict=True))


def test_vectors_of_all_entities(pipelines: Path, kb: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are those of the linker, and made anew when there are others; then they may have another width."""
    assert load_kb(kb)(Vocab()).entity_vector_length == 0
    for kind in ("linker", "linker_state"):
        capsys.readouterr()
        assert run("vectors", kb, "--pipeline", pipelines / kind) == 0
        own, wanted = read(pipelines / kind, kb)
        width = own.entity_vector_length
        assert table(capsys.readouterr().out) == {"vectors": len(wanted), "numbers of a vector": width}
        assert width == len(wanted["Q90"])
        for id_, vector in wanted.items():
            np.testing.assert_allclose(own.get_vector(id_), vector, rtol=1e-4, atol=1e-5)
        assert own.get_vector("none").tolist() == [0] * width
        with EntityStore.open(kb) as store:
            store.remove(["Q167646"])
            store.add([Entity(id=f"Q:{kind}", name="Universe")])
        with pytest.raises(ConfigError, match=rf"E511.*'Q:{kind}'.*kb vectors"):
            own.get_vector(f"Q:{kind}")
    assert not [path.name for path in kb.iterdir() if path.name.startswith("vectors.")]


def test_vectors_stay_if_new_ones_fail(pipelines: Path, kb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("vectors", kb, "--pipeline", pipelines / "linker") == 0
    before = load_kb(kb)(Vocab()).get_vectors([entity.id for entity in CITIES])
    with pytest.raises(ConfigError, match=r"E512.*entitykit_encoder, .*Give one with entitykit_linker"):
        run("vectors", kb, "--pipeline", pipelines / "span_ner")
    with pytest.raises(ConfigError, match="E420"):
        run("vectors", kb, "--pipeline", kb / "none")
    with pytest.raises(CheckpointError, match="E500"):
        run("vectors", kb / "none", "--pipeline", pipelines / "linker")

    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("entitykit.bridge.link_texts.read_entities", broken)
        with pytest.raises(KeyboardInterrupt):
            run("vectors", kb, "--pipeline", pipelines / "linker_state")
    assert np.array_equal(load_kb(kb)(Vocab()).get_vectors([entity.id for entity in CITIES]), before)
