"""Entity vectors of one encoder on disk: what is loaded is what was saved, whatever happens to the process that saves."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entitykit.errors import CheckpointError
from entitykit.knowledge import entity_index
from entitykit.knowledge.entity_index import META, EntityIndex
from entitykit.knowledge.files import replace_folder
from tests.knowledge.killed import run_killed

WIDTH = 8


def make_index(n: int = 4, fingerprint: str = "f") -> EntityIndex:
    vectors = np.random.default_rng(n).normal(size=(n, WIDTH)).astype(np.float32)
    blocks = ((np.arange(i, min(i + 3, n)), vectors[i : i + 3]) for i in range(0, n, 3))
    return EntityIndex.build(blocks, width=WIDTH, fingerprint=fingerprint, version=1)


def test_vectors_are_kept_and_mapped(tmp_path: Path) -> None:
    index = make_index()
    index.save(tmp_path / "index")
    for again in (
        EntityIndex.load(tmp_path / "index"),
        EntityIndex.from_bytes(index.to_bytes()),
        pickle.loads(pickle.dumps(index)),
    ):
        assert again.meta == index.meta
        rows = np.array([index.rows[2], 999, index.rows[0]])
        for a, b in zip(again.vectors(rows), index.vectors(rows), strict=True):
            np.testing.assert_array_equal(a, b)
        assert again.vectors(rows)[1].tolist() == [True, False, True]
        queries = np.eye(WIDTH, dtype=np.float32)
        np.testing.assert_array_equal(again.search(queries, 3)[1], index.search(queries, 3)[1])


def test_search_is_exact_where_all_are_compared() -> None:
    index = make_index()
    queries = np.random.default_rng(1).normal(size=(5, WIDTH)).astype(np.float32)
    expected = np.argsort(-(queries @ index.vectors(index.rows)[0].T), axis=1)
    np.testing.assert_array_equal(index.search(queries, 4)[1], index.rows[expected])


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_amended_is_like_built_anew(kind: str, tmp_path: Path) -> None:
    """Twice, with rows that were added, changed, removed and again changed; saved, too. The first one stays as it was."""
    rng = np.random.default_rng(3)
    vectors = {row: rng.normal(size=WIDTH).astype(np.float32) for row in range(30)}
    queries = rng.normal(size=(5, WIDTH)).astype(np.float32)

    def built(version: int) -> EntityIndex:
        rows = np.array(sorted(vectors))
        block = np.stack([vectors[row] for row in sorted(vectors)])
        state = {"version": version, "state": f"state {version}"}
        return EntityIndex.build([(rows, block)], width=WIDTH, fingerprint="f", kind=kind, recall=1.0, **state)  # type: ignore[arg-type]

    def answers(index: EntityIndex) -> list[Any]:
        return [index.meta, *(a.tolist() for a in (*index.vectors(np.arange(40)), *index.search(queries, 8), index.rows))]

    first = index = built(1)
    before = answers(first)
    for version, changed in ((2, [2, 5, 7, 31, 30]), (3, [5, 30, 35, 0]), (4, [])):
        for row in changed:
            vectors[row] = rng.normal(size=WIDTH).astype(np.float32)
        for row in {2: [5, 7], 3: [0]}.get(version, []):
            del vectors[row]
        rows = np.array(sorted(set(changed) & vectors.keys()), dtype=np.int64)
        new = np.stack([vectors[row] for row in rows.tolist()]) if len(rows) else np.zeros((0, WIDTH), dtype=np.float32)
        index = index.amended(np.array(sorted(changed), dtype=np.int64), rows, new, version=version, state=f"state {version}")
        meta, *expected = answers(built(version))
        index.save(tmp_path / "index")
        for each in (index, EntityIndex.load(tmp_path / "index"), pickle.loads(pickle.dumps(index))):
            assert len(each) == len(vectors)
            found_meta, *found = answers(each)
            assert found_meta == meta
            for a, b in zip(found, expected, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert answers(first) == before


def test_an_empty_knowledge_base(tmp_path: Path) -> None:
    index = EntityIndex.build(iter(()), width=WIDTH, fingerprint="f", version=1)
    assert len(index) == 0
    index.save(tmp_path / "index")
    again = EntityIndex.load(tmp_path / "index")
    assert again.search(np.ones((1, WIDTH), dtype=np.float32), 2)[1].tolist() == [[-1, -1]]
    assert not again.vectors(np.array([3]))[1].any()


def test_damaged_files(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    make_index().save(folder)
    (path,) = folder.glob("vectors-*")
    content = path.read_bytes()
    for damaged in (content[:-1], b"123"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="E551"):
            EntityIndex.load(folder)
    path.write_bytes(content)
    for damaged in (b"{}", b"[]", b"{"):
        (folder / META).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="E551"):
            EntityIndex.load(folder)
    (folder / META).unlink()
    with pytest.raises(CheckpointError, match="E550"):
        EntityIndex.load(folder)
    with pytest.raises(CheckpointError, match="E551"):
        EntityIndex.from_bytes(b"no archive")


# Saves three indexes, the last one from where it was loaded, and of each kill what was left.
KILLED = """
from pathlib import Path
import numpy as np
from entitykit.knowledge.entity_index import EntityIndex
vectors = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)

def make(n, fingerprint):
    return EntityIndex.build([(np.arange(n), vectors[:n])], width=8, fingerprint=fingerprint, version=n)

indexes = [make(10, "a"), make(30, "b")]

def work(path, done):
    for index in (*indexes, None):
        (index or EntityIndex.load(Path(path))).save(Path(path))
        done()

def found(path):
    try:
        found = EntityIndex.load(Path(path))
        assert len(found) == len(found.index) == found.meta.version
        assert np.array_equal(found.vectors(found.rows)[0], vectors[: len(found)].astype(np.float16))
        found.save(Path(path))
        return EntityIndex.load(Path(path)).meta.fingerprint
    except OSError as failure:
        return failure.code
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_leaves_what_was_saved(tmp_path: Path) -> None:
    """The save that was under way is done or not begun, and the folder can be written again."""
    ends = run_killed(KILLED, tmp_path)
    states = ["E550", "a", "b", "b"]
    assert len(ends) > 40
    assert ends[-1][:3] == [0, 3, "b"]
    for _, n_done, found, files in ends:
        assert found in states[n_done : n_done + 2], n_done
        if found != "E550":
            assert files == ["index", "lock", "meta.json", "vectors"]


def test_copies_have_the_same_files(tmp_path: Path) -> None:
    """By name and content; but what is there already is not written over."""
    make_index().save(tmp_path / "one")
    index = EntityIndex.load(tmp_path / "one")
    index.save(tmp_path / "two")
    (one,), (two,) = ((tmp_path / name).glob("vectors-*") for name in ("one", "two"))
    assert (one.name, one.read_bytes()) == (two.name, two.read_bytes())
    index.save(tmp_path / "one")
    (again,) = (tmp_path / "one").glob("vectors-*")
    assert again.name != one.name
    assert again.read_bytes() == two.read_bytes()


def test_files_are_replaced_while_a_reader_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_index(4, "a").save(tmp_path)
    read = entity_index._read_meta

    def read_then_lose(folder: Path) -> Any:
        found = read(folder)
        monkeypatch.setattr(entity_index, "_read_meta", read)
        make_index(9, "b").save(folder)
        return found

    monkeypatch.setattr(entity_index, "_read_meta", read_then_lose)
    assert len(EntityIndex.load(tmp_path)) == 9


def test_a_folder_of_an_earlier_version(tmp_path: Path) -> None:
    """Its files had no names of their own; the next save leaves none of them."""
    make_index().save(tmp_path)
    for path in (*tmp_path.glob("vectors-*"), *tmp_path.glob("index-*")):
        path.rename(tmp_path / (path.name.partition("-")[0] + path.suffix))
    (tmp_path / META).write_text(json.dumps(asdict(make_index().meta)))
    EntityIndex.load(tmp_path).save(tmp_path)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["index", "lock", "meta.json", "vectors"]
    assert len(EntityIndex.load(tmp_path)) == 4


def test_a_folder_goes_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    make_index().save(folder)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)
        replace_folder(folder, None)
    assert not folder.exists()
    replace_folder(folder, None)
    assert not list(tmp_path.iterdir())
