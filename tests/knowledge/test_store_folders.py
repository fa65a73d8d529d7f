"""Folders that are half copied, damaged, in the way or not to be written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from entitykit.errors import CheckpointError, ConfigError, OutputError
from entitykit.knowledge import connection
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.knowledge.kb import CITIES, PARIS, PRINCE, add, build

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    return build(tmp_path / "kb")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kb: shutil.rmtree(kb), r"\[E500\] Cannot open the knowledge base '.*kb': there is no such folder"),
        (lambda kb: [path.unlink() for path in kb.iterdir()], r"\[E500\] .*: there is none"),
        (lambda kb: (kb / "meta.json").unlink(), r"\[E501\] .*meta.json is damaged, .*no such file"),
        (lambda kb: (kb / "entities.sqlite").unlink(), r"\[E501\] .*entities.sqlite is damaged, .*no such file"),
        (lambda kb: os.truncate(kb / "meta.json", 20), r"\[E501\] .*meta.json .* found what is no JSON"),
        (lambda kb: os.truncate(kb / "meta.json", 0), r"\[E501\] .*meta.json .* found what is no JSON"),
        (lambda kb: (kb / "meta.json").write_text("{}"), r"\[E501\] .*meta.json .* found \{\}; expected JSON of format 1"),
        (lambda kb: os.truncate(kb / "entities.sqlite", 50_000), r"\[E501\] .*entities.sqlite .* found database disk image is"),
        (lambda kb: os.truncate(kb / "entities.sqlite", 4096), r"\[E501\] .*entities.sqlite "),
        (lambda kb: os.truncate(kb / "entities.sqlite", 50), r"\[E501\] .*entities.sqlite "),
        (lambda kb: os.truncate(kb / "entities.sqlite", 0), r"\[E501\] .*entities.sqlite .* found format 0"),
        (lambda kb: (kb / "entities.sqlite").write_bytes(b"text" * 5000), r"\[E501\] .*entities.sqlite .* file is not a "),
        (
            lambda kb: edit_meta(kb, store="0123"),
            r"\[E501\] .*entities.sqlite .* found the store [0-9a-f]{16}; expected 0123, as",
        ),
        (
            lambda kb: edit_meta(kb, version=7),
            r"\[E501\] .* found version 1; expected 7 or later, .*is entities.sqlite-wal miss",
        ),
        (lambda kb: edit_meta(kb, format=2), r"\[E501\] .*meta.json .*; expected JSON of format 1"),
    ],
)
def test_a_folder_that_was_copied_in_part(store: EntityStore, change: Callable[[Path], object], message: str) -> None:
    store.close()
    change(store.folder)
    with pytest.raises(CheckpointError, match=message):
        EntityStore.open(store.folder)


def edit_meta(folder: Path, **values: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_damage_inside_is_found_by_check(store: EntityStore) -> None:
    store.close()
    with sqlite3.connect(store.folder / "entities.sqlite") as raw:
        raw.execute("DELETE FROM aliases WHERE row = 2 AND place = 1")
    raw.close()
    with pytest.raises(CheckpointError, match=r"\[E501\] .* found 5 aliases; expected 6"):
        EntityStore.open(store.folder).check()


def test_a_copy_takes_the_place_of_another(store: EntityStore, tmp_path: Path) -> None:
    store.copy_to(tmp_path / "copy")
    before = (tmp_path / "copy" / "entities.sqlite").stat().st_mtime_ns
    store.copy_to(tmp_path / "copy")  # nothing to do
    assert (tmp_path / "copy" / "entities.sqlite").stat().st_mtime_ns == before
    store.add([Entity(id="Q1", name="Universe")])
    store.copy_to(tmp_path / "copy")
    assert list(EntityStore.open(tmp_path / "copy")) == list(store)


@pytest.mark.parametrize("named", [True, False])
def test_a_copy_that_went_its_own_way_is_replaced(store: EntityStore, tmp_path: Path, named: bool) -> None:
    """Though its version and its numbers are the same; also where both were made before states had names."""
    store.copy_to(tmp_path / "copy")
    other = EntityStore.open(tmp_path / "copy")
    add(store, [replace(PARIS, description="a city")])
    add(other, [replace(PRINCE, description="a shepherd")])
    assert (store.version, len(store), store.n_aliases) == (other.version, len(other), other.n_aliases)
    other.close()
    if not named:
        for folder in (store.folder, other.folder):
            with sqlite3.connect(folder / "entities.sqlite") as raw:
                raw.execute("DROP TABLE states")
            raw.close()
    store.copy_to(tmp_path / "copy")
    with EntityStore.open(tmp_path / "copy") as copy:
        assert list(copy) == list(store)
        add(copy, [PRINCE])  # a state gets a name when it is written
    assert len(list(EntityStore.open(tmp_path / "copy"))) == len(CITIES)


def test_states_that_a_store_was_in(store: EntityStore, tmp_path: Path) -> None:
    """Its own, and those of the store of which it is a copy, up to where they part; none of one that was built again."""
    states = [(store.version, store.state)]
    store.remove(["Q90"])
    states.append((store.version, store.state))
    store.copy_to(tmp_path / "copy")
    with EntityStore.open(tmp_path / "copy") as copy:
        add(copy, [PARIS])
        add(store, [PARIS])
        assert (copy.version, list(copy)) == (store.version, list(store))
        assert copy.state != store.state
        for each in (store, copy):
            assert all(each.was_in(*state) for state in [*states, (each.version, each.state)])
            assert not each.was_in(each.version + 1, each.state)
        assert not store.was_in(copy.version, copy.state)
        assert not copy.was_in(store.version, store.state)
    with build(tmp_path / "again") as again:
        assert again.version == states[0][0]
        assert not again.was_in(*states[0])
        assert again.was_in(again.version, "")  # nobody knows the name
        assert not again.was_in(again.version + 1, "")


def test_what_was_made_of_another_store_goes_with_it(store: EntityStore, tmp_path: Path) -> None:
    def make_more(folder: Path) -> None:
        for name in ("names", "vectors"):
            (folder / name).mkdir()
            (folder / name / "file").write_text("x")

    def made(folder: Path) -> set[str]:
        return {path.name for path in folder.iterdir() if path.is_dir()}

    make_more(store.folder)
    store.copy_to(tmp_path / "copy")
    assert made(tmp_path / "copy") == set()
    make_more(tmp_path / "copy")
    store.copy_to(tmp_path / "copy")  # is that store already
    assert made(tmp_path / "copy") == {"names", "vectors"}
    store.remove(["Q90"])
    store.copy_to(tmp_path / "copy", keep=("vectors",))
    assert made(tmp_path / "copy") == {"vectors"}
    store.close()
    for name in ("meta.json", "entities.sqlite"):
        (store.folder / name).unlink()
    build(store.folder).close()
    assert made(store.folder) == set()


def test_a_store_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads, other processes and pickles open it there, wherever the process has gone."""
    monkeypatch.chdir(tmp_path)
    store = build(Path("kb"))
    monkeypatch.chdir("/")
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(len(store)))
    thread.start()
    thread.join()
    assert found == [len(pickle.loads(pickle.dumps(store)))] == [len(CITIES)]
    add(store, [PARIS])
    assert store.folder == tmp_path / "kb"


def test_a_copy_onto_itself_changes_nothing(store: EntityStore) -> None:
    """Even where meta.json is older than the tables, as after a process that was killed."""
    old = (store.folder / "meta.json").read_bytes()
    store.add([Entity(id="Q1", name="Universe")])
    (store.folder / "meta.json").write_bytes(old)
    inode = (store.folder / "entities.sqlite").stat().st_ino
    store.copy_to(store.folder / ".." / store.folder.name)
    assert (store.folder / "entities.sqlite").stat().st_ino == inode
    store.add([Entity(id="Q2", name="Earth")])
    assert len(EntityStore.open(store.folder)) == len(CITIES) + 2


def test_two_builds_at_once(tmp_path: Path) -> None:
    """One makes the store, the other waits and is told that it is there."""
    results: list[object] = []
    barrier = threading.Barrier(2)

    def build_one(id_: str) -> None:
        def entities() -> Iterator[Entity]:
            yield from (Entity(id=f"{id_}{i}", name="x") for i in range(3))

        barrier.wait()
        try:
            results.append(EntityStore.build(tmp_path / "kb", entities()).added)
        except OutputError as problem:
            results.append(problem.code)

    threads = [threading.Thread(target=build_one, args=(id_,)) for id_ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["3", "E502"]
    with EntityStore.open(tmp_path / "kb") as store:
        store.check()
        assert len({entity.id[0] for entity in store}) == 1


def test_a_folder_that_cannot_be(store: EntityStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "kb"):
        with pytest.raises(OutputError, match=r"\[E502\]"):
            EntityStore.build(folder, CITIES)
        with pytest.raises(OutputError, match=r"\[E502\]"):
            store.copy_to(folder)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "entities.sqlite").write_text("x")
    with pytest.raises(OutputError, match=r"\[E502\] .* it holds entities.sqlite already"):
        EntityStore.build(tmp_path / "half", CITIES)


def test_old_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(connection, "OLDEST", (99, 0))
    with pytest.raises(ConfigError, match=r"\[E508\] This Python's SQLite \(3.*\) cannot hold a knowledge base: it is too old"):
        EntityStore.build(tmp_path / "kb", CITIES)


READ_ONLY = """
import os, sys
import numpy.ma  # which numpy imports when it needs it: too late for a user who may not read where it is installed
from entitykit.errors import EntityKitError
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
if os.geteuid() == 0:
    os.setuid(65534)  # who may not write everywhere
for read_only in (True, False):
    try:
        with EntityStore.open(sys.argv[1], read_only=read_only) as store:
            print(len(store), store.by_alias("paris")[0].id, store.by_words("troy", 3)[0].id, len(list(store)))
            store.add([Entity(id="Q1", name="Universe")])
    except EntityKitError as problem:
        print(problem.code)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize(("closed", "expected"), [(True, ["3 Q90 Q167646 3", "E502"] * 2), (False, ["E500"] * 2)])
def test_a_folder_that_cannot_be_written(store: EntityStore, closed: bool, expected: list[str]) -> None:
    store.add([PARIS])
    if closed:
        store.close()
    with tempfile.TemporaryDirectory() as shared:  # pytest's own folders are for their owner only
        kb = Path(shared, "kb")
        shutil.copytree(store.folder, kb)
        (kb / "entities.sqlite-shm").unlink(missing_ok=True)
        for path, mode in [*((path, 0o444) for path in kb.iterdir()), (kb, 0o555), (Path(shared), 0o755)]:
            path.chmod(mode)
        run = subprocess.run([sys.executable, "-c", READ_ONLY, str(kb)], capture_output=True, text=True, check=False, cwd=ROOT)
        kb.chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == expected
