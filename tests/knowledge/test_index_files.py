"""What was saved survives what happens to the processes that write it, and damage is told."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from entitykit.errors import CheckpointError, OutputError
from entitykit.knowledge import index_files
from entitykit.knowledge.index import VectorIndex
from tests.knowledge.indexes import INT8, KINDS, WIDTH, build, vectors_of
from tests.knowledge.killed import run_killed

VECTORS = vectors_of(100)


def saved(folder: Path, **kind: Any) -> VectorIndex:
    made = build(VECTORS, recall=0.01, **kind)
    made.remove([3, 4])
    made.add(VECTORS[:2], [200, 201])
    made.save(folder)
    return made


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_loaded_is_what_was_saved(kind: dict[str, Any], tmp_path: Path) -> None:
    made = saved(tmp_path, **kind)
    loaded = VectorIndex.load(str(tmp_path), "encoder")
    for mine, theirs in zip(made.search(VECTORS[:9], 20), loaded.search(VECTORS[:9], 20), strict=True):
        assert mine.tolist() == theirs.tolist()
    assert (loaded.report, loaded.kind, loaded.width) == (made.report, kind["kind"], WIDTH)
    assert (loaded.fingerprint, loaded.normalise, len(loaded)) == ("encoder", False, 100)
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == [
        "base",
        "changes",
        "index.json",
        "lock",
        "rows",
    ]


def test_codes_are_mapped_and_stay_readable(tmp_path: Path) -> None:
    """Even if their file is replaced; a copy elsewhere has them itself."""
    made = saved(tmp_path / "one", **INT8)
    loaded = VectorIndex.load(tmp_path / "one")
    lists = loaded._state.base.lists.invlists  # type: ignore[attr-defined]
    assert isinstance(faiss.downcast_InvertedLists(lists), faiss.OnDiskInvertedLists)
    expected = loaded.search(VECTORS[:5], 100)
    made.compact()
    made.save(tmp_path / "one")
    loaded.save(tmp_path / "two")
    again = VectorIndex.load(tmp_path / "two")
    for each in (loaded, again):
        assert each.search(VECTORS[:5], 100)[1].tolist() == expected[1].tolist()
        each.compact()  # rounds what was added
        assert np.allclose(each.search(VECTORS[:5], 100)[0], expected[0], atol=0.1)
        assert sorted(each.search(VECTORS[:1], 100)[1][0].tolist()) == each.rows().tolist()


def test_only_changes_are_written_where_the_base_is(tmp_path: Path) -> None:
    made = saved(tmp_path, **INT8)
    base = {path.name: path.stat().st_ino for path in tmp_path.iterdir() if path.name.startswith(("base", "rows"))}
    for row in (300, 301):  # by what was built, and by what was loaded
        made.add(VECTORS[:1], [row])
        made.save(tmp_path)
        assert {path.name: path.stat().st_ino for path in tmp_path.iterdir() if path.name in base} == base
        assert len(list(tmp_path.glob("changes-*"))) == 1
        made = VectorIndex.load(tmp_path)
        assert row in made
    made.compact()
    made.save(tmp_path)
    assert not base.keys() & {path.name for path in tmp_path.iterdir()}


def test_index_of_another_encoder(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"E552.*'encoder'.*'other'.*build the index anew"):
        VectorIndex.load(tmp_path, "other")
    assert len(VectorIndex.load(tmp_path)) == 100


def test_someone_else_saved_meanwhile(tmp_path: Path) -> None:
    first = saved(tmp_path)
    second = VectorIndex.load(tmp_path)
    second.add(VECTORS[:1], [300])
    second.save(tmp_path)
    first.add(VECTORS[:1], [400])
    with pytest.raises(OutputError, match=r"E559.*Load it again"):
        first.save(tmp_path)
    assert 300 in VectorIndex.load(tmp_path)
    second.save(tmp_path)
    build(VECTORS[:7]).save(tmp_path)  # what was built anew replaces what is there
    assert len(VectorIndex.load(tmp_path)) == 7


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("part", ["base", "rows", "changes", "index.json"])
def test_half_copied_folder(kind: dict[str, Any], part: str, tmp_path: Path) -> None:
    saved(tmp_path, **kind)
    (path,) = (path for path in tmp_path.iterdir() if path.name.startswith(part))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"E551.*{path.name}"):
        VectorIndex.load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="E550" if part == "index.json" else f"E551.*{path.name}.*no such file"):
        VectorIndex.load(tmp_path)
    path.write_bytes(whole)
    assert len(VectorIndex.load(tmp_path)) == 100


@pytest.mark.parametrize("kind", KINDS[1:], ids=str)
def test_file_that_faiss_cannot_read(kind: dict[str, Any], tmp_path: Path) -> None:
    made = saved(tmp_path, **kind)
    (path,) = tmp_path.glob("base-*")
    size = path.stat().st_size
    faiss.write_index(faiss.IndexFlatIP(WIDTH), str(path))
    path.write_bytes((path.read_bytes() + bytes(size))[:size])
    with pytest.raises(CheckpointError, match=r"E551.*base-.*100 vectors of width 16"):
        VectorIndex.load(tmp_path)
    path.write_bytes(bytes(size))
    with pytest.raises(CheckpointError, match=r"E551.*base-.*FAISS cannot read"):
        VectorIndex.load(tmp_path)
    assert len(made) == 100


DAMAGE: list[Callable[[dict[str, Any]], Any]] = [
    lambda values: values.pop("effort"),
    lambda values: values.update(version=2),
    lambda values: values.update(rows="100"),
    lambda values: values.update(width=0),
    lambda values: values.update(width=17),
    lambda values: values.update(rows=99),
    lambda values: values.update(added=1),
    lambda values: values.update(groups=[1]),
    lambda values: values.update(groups=["1", 7]),
    lambda values: values["report"].pop("recall64"),
    lambda values: values["sizes"].clear(),
]


@pytest.mark.parametrize("damage", range(len(DAMAGE)))
def test_damaged_description(damage: int, tmp_path: Path) -> None:
    saved(tmp_path, **INT8)
    values = json.loads((tmp_path / "index.json").read_text())
    DAMAGE[damage](values)
    (tmp_path / "index.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="E551"):
        VectorIndex.load(tmp_path)


def test_no_index(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"E550.*VectorIndex\.save\(\)"):
        VectorIndex.load(tmp_path / "nothing")


def test_files_are_replaced_while_a_reader_opens_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = saved(tmp_path)
    read = index_files.read_meta

    def read_then_lose(folder: Path) -> index_files.Meta:
        meta = read(folder)
        monkeypatch.setattr("entitykit.knowledge.index.read_meta", read)
        made.compact()
        made.save(folder)
        return meta

    monkeypatch.setattr("entitykit.knowledge.index.read_meta", read_then_lose)
    assert len(VectorIndex.load(tmp_path)) == 100


@pytest.mark.parametrize("change", ["add", "compact"])
def test_full_disk_leaves_what_was_there(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = saved(tmp_path, **INT8)
    made.add(VECTORS[:1], [300])
    if change == "compact":
        made.compact()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"E558.*No space left"):
            made.save(tmp_path)
    assert 300 not in VectorIndex.load(tmp_path)
    made.save(tmp_path)
    assert 300 in VectorIndex.load(tmp_path)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="E558"):
        build(VECTORS).save(tmp_path / "file" / "index")


# Saves several states, and of each kill what was left.
KILLED = """
import numpy as np
from entitykit.knowledge.index import VectorIndex
kind = json.loads(sys.argv[2])
vectors = np.random.default_rng(0).standard_normal((64, 8), dtype=np.float32)
made = VectorIndex.build(vectors[:60], np.arange(60), width=8, fingerprint="f", recall=0.01, **kind)

def work(path, done):
    for step in range(4):
        if step:
            made.add(vectors[60:61], [100 + step])
            made.remove([step])
        if step == 2:
            made.compact()
        made.save(path)
        done()

def found(path):
    try:
        found = VectorIndex.load(path, "f")
        rows = found.rows().tolist()
        assert sorted(found.search(vectors[:1], 70)[1][0].tolist()) == [-1] * (70 - len(rows)) + rows
        found.add(vectors[63:], [999])
        found.save(path)
        assert 999 in VectorIndex.load(path)
        return rows
    except OSError as failure:
        return failure.code
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("kind", [{"kind": "flat"}, {"kind": "ivf", "n_cells": 4}], ids=str)
def test_killed_at_any_step_leaves_what_was_saved(kind: dict[str, Any], tmp_path: Path) -> None:
    """The save that was under way is done or not begun, and the folder can be written again."""
    ends = run_killed(KILLED, tmp_path, json.dumps(kind))
    states: list[Any] = ["E550", list(range(60))]
    for step in (1, 2, 3):
        states.append([row for row in states[-1] if row != step] + [100 + step])
    assert len(ends) > 20
    assert ends[-1][:3] == [0, 4, states[-1]]
    for _, n_done, rows, files in ends:
        assert rows in states[n_done : n_done + 2], n_done
        if rows != "E550":
            assert files == ["base", "changes", "index.json", "lock", "rows"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files as Linux does")
def test_all_is_on_the_disk_before_it_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def name(path: str | Path) -> str:
        return Path(path).name.partition("-")[0]

    made = build(VECTORS)
    monkeypatch.setattr(os, "fsync", lambda number: calls.append(name(os.readlink(f"/proc/self/fd/{number}"))))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(f"{name(old)} > {name(new)}"), replace(old, new)))
    made.save(tmp_path / "index")
    committed = ["index", "index.json.new", "index.json.new > index.json", "index"]
    assert calls == ["base", "rows", "changes", *committed]
    calls.clear()
    made.save(tmp_path / "index")
    assert calls == ["changes", *committed]
    assert np.array_equal(VectorIndex.load(tmp_path / "index").rows(), np.arange(100))
