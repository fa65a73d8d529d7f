"""A table of vectors survives what happens to the processes that use it, and is not read when it is opened."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entitykit.errors import EntityKitError, OutputError
from entitykit.knowledge import state, vectors
from entitykit.knowledge.vectors import VectorTable

WIDTH = 3
ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    return VectorTable.create(tmp_path / "table", WIDTH)


def vector(value: float) -> list[float]:
    return [value, -value, 1.0]


def contents(table: VectorTable) -> dict[str, list[float]]:
    ids = list(table.ids())
    return dict(zip(ids, table.lookup(ids)[0].tolist(), strict=True))


OPERATIONS = [
    ["put", ["a", "b", "c"], 1.0],
    ["put", ["b", "d"], 2.0],
    ["remove", ["a"], 0.0],
    ["put", ["e", "f", "g", "b"], 3.0],
    ["compact", [], 0.0],
    ["put", ["a", "h"], 4.0],
    ["remove", ["b", "e"], 0.0],
]

# Runs the operations in a fork that kills itself before its k-th call to the disk, for every k; a file that is not yet synced
# loses its last byte. What was committed is printed, then the table is written again.
KILLED = """
import json, os, sys
from entitykit.knowledge import vectors
from tests.knowledge.killed import killed_everywhere
vectors.RECENT = 3
os.fsync = lambda number: None  # a killed process, unlike a machine without power, loses nothing that it wrote
folder, operations = sys.argv[1], json.loads(sys.argv[2])

def work(path, watch):
    table = vectors.VectorTable.create(path, 3)
    watch.guard_disk()
    for number, (name, ids, value) in enumerate(operations):
        getattr(table, name)(*([ids] if name != "compact" else []), *([[[value, 0, 0]] * len(ids)] if name == "put" else []))
        watch.done(number + 1)

for status, n, path in killed_everywhere(work, folder):
    table = vectors.VectorTable(path)
    ids = list(table.ids())
    before = dict(zip(ids, table.lookup(ids)[0][:, 0].tolist()))
    table.put(["new", "b"], [[9, 0, 0]] * 2)
    table.compact()
    ids = list(vectors.VectorTable(path).ids())
    after = dict(zip(ids, table.lookup(ids)[0][:, 0].tolist()))
    print(json.dumps([status, n, before, after, sorted(os.listdir(path))]))
"""


def expected_states() -> list[dict[str, float]]:
    states: list[dict[str, float]] = [{}]
    for name, ids, value in OPERATIONS:
        new = dict(states[-1])
        for id_ in ids:
            if name == "put":
                new[id_] = value
            else:
                new.pop(id_, None)
        states.append(new)
    return states


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_leaves_what_was_committed(tmp_path: Path) -> None:
    """The operation that was under way is done or not begun, and the table can be written again."""
    states = expected_states()
    command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(OPERATIONS)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(ends) > 5 * len(OPERATIONS)  # disk calls of every operation
    assert {status for status, *_ in ends[:-1]} == {9}
    assert ends[-1][:3] == [0, len(OPERATIONS), states[-1]]
    for _, n_done, before, after, files in ends:
        assert before in states[n_done : n_done + 2], n_done
        assert after == before | {"new": 9.0, "b": 9.0}
        assert [name.partition("-")[0] for name in files] == ["ids", "index", "lock", "table.json", "vectors"]


LOOP = """
import sys
from entitykit.knowledge.vectors import VectorTable
table = VectorTable(sys.argv[1])
ids = [f"e{i}" for i in range(500)]
value = int(table.lookup(ids[:1])[0][0, 0])
while True:
    value += 1
    table.put(ids, [[value] * table.width] * len(ids))
    if value % 5 == 0:
        table.compact()
    print(value, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    ids = [f"e{i}" for i in range(500)]
    VectorTable.create(tmp_path / "table", 256).put(ids, np.zeros((500, 256)))
    command = [sys.executable, "-c", LOOP, str(tmp_path / "table")]
    for pause in (0.0, 0.013, 0.031, 0.05):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            reported = int(process.stdout.readline())
            time.sleep(pause)
            process.kill()
            reported = max([reported, *map(int, process.stdout.read().split("\n")[:-1])])
        found, present = VectorTable(tmp_path / "table").lookup(ids)
        assert present.all()
        assert len(np.unique(found)) == 1
        assert found[0, 0] in (reported, reported + 1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names open files as Linux does")
def test_all_is_on_the_disk_before_it_is_committed(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def name(path: str | Path) -> str:
        return Path(path).name.partition("-")[0]

    monkeypatch.setattr(vectors, "RECENT", 0)
    monkeypatch.setattr(os, "fsync", lambda number: calls.append(name(os.readlink(f"/proc/self/fd/{number}"))))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (calls.append(f"{name(old)} > {name(new)}"), replace(old, new)))
    committed = ["table", "table.json.new", "table.json.new > table.json", "table"]
    table.put(["a"], [vector(1)])
    assert calls == ["vectors", "ids", "index", *committed]
    calls.clear()
    table.remove(["a"])
    assert calls == ["ids", "index", *committed]
    calls.clear()
    table.compact()
    assert calls == ["ids", "vectors", "index", *committed]


@pytest.mark.parametrize("operation", ["put", "remove", "compact"])
def test_full_disk_changes_nothing(table: VectorTable, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    table.put(["a", "b"], [vector(1), vector(2)])
    before = contents(table)
    calls: dict[str, Callable[[], Any]] = {
        "put": lambda: table.put(["a", "c"], [vector(3), vector(4)]),
        "remove": lambda: table.remove(["a"]),
        "compact": lambda: table.compact(),
    }

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"E055.*No space left"):
            calls[operation]()
    assert contents(table) == contents(VectorTable(table.path)) == before
    calls[operation]()
    assert (contents(table) != before) == (operation != "compact")


def test_readers_see_one_state_while_others_write(tmp_path: Path) -> None:
    ids = [f"e{i}" for i in range(50)]
    writers = [VectorTable.create(tmp_path / "table", WIDTH), VectorTable(tmp_path / "table")]
    writers[0].put(ids, np.zeros((50, WIDTH)))
    errors: list[object] = []
    written = threading.Event()

    def read() -> None:
        try:
            reader = VectorTable(tmp_path / "table")
            while not written.is_set():
                reader.refresh()
                found, present = reader.lookup(ids)
                if not present.all() or len(np.unique(found)) != 1:
                    errors.append(found)
        except EntityKitError as failure:
            errors.append(failure)

    def write(writer: VectorTable, first: int) -> None:
        for value in range(first, first + 30):
            writer.put(ids, np.full((50, WIDTH), value))
            if value % 3 == 0:
                writer.compact()

    readers = [threading.Thread(target=read) for _ in range(2)]
    writes = [threading.Thread(target=write, args=(writer, 100 * i)) for i, writer in enumerate(writers, start=1)]
    for thread in [*readers, *writes]:
        thread.start()
    for thread in writes:
        thread.join()
    written.set()
    for thread in readers:
        thread.join()
    assert not errors
    assert float(VectorTable(tmp_path / "table").lookup(["e0"])[0][0, 0]) in (129.0, 229.0)


def test_files_are_replaced_while_a_reader_opens_them(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    table.put(["a"], [vector(1)])
    reader = VectorTable(table.path)
    table.put(["b"], [vector(2)])
    read = state.read_commit

    def read_then_lose(folder: Path) -> state.Commit:
        commit = read(folder)
        monkeypatch.setattr(state, "read_commit", read)
        table.compact()
        return commit

    monkeypatch.setattr(state, "read_commit", read_then_lose)
    assert reader.refresh()
    assert contents(reader) == {"a": vector(1), "b": vector(2)}


def test_iterating_while_writing(table: VectorTable) -> None:
    """The ids are those of when it began."""
    table.put(["a", "b"], [vector(1), vector(2)])
    found = []
    for id_ in table.ids():
        table.put([f"{id_}{id_}", "b"], [vector(3), vector(4)])
        found.append(id_)
    assert found == ["a", "b"]
    assert list(table.ids()) == ["a", "aa", "bb", "b"]


MEASURED = """
import sys
from pathlib import Path
from entitykit.knowledge.vectors import VectorTable
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
before = resident()
table = VectorTable(sys.argv[1])
opened = resident()
found, present = table.lookup(["a", "b", "c", "unknown"])
print(len(table), found[:, 0].tolist(), present.tolist(), opened - before, resident() - opened)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measured on Linux")
def test_opening_a_million_rows_reads_none(tmp_path: Path) -> None:
    """The rows are holes in a file of 4 GB, beside an index of a million ids, of which three are real."""
    n, width = 1_000_000, 1024
    path = tmp_path / "table"
    table = VectorTable.create(path, width)
    table.put(["a", "b", "c"], np.arange(1, 4)[:, None].repeat(width, axis=1))
    table.compact()
    commit = state.read_commit(path)
    real = np.fromfile(path / commit.index_name, dtype="<u8").reshape(3, 3)
    filler = np.zeros((3, n - 3), dtype="<u8")
    filler[0] = np.random.default_rng(0).integers(0, 2**64, n - 3, dtype=np.uint64)
    (path / commit.index_name).write_bytes(state.sorted_index(np.concatenate([real, filler], axis=1)).tobytes())
    os.truncate(path / commit.vectors_name, n * commit.row_bytes)
    values = json.loads((path / state.TABLE).read_text())
    (path / state.TABLE).write_text(json.dumps(values | {"rows": n, "entries": n, "index_entries": n}))
    command = [sys.executable, "-c", MEASURED, str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert output.startswith("1000000 [1.0, 2.0, 3.0, 0.0] [True, True, True, False] ")
    opened, looked_up = map(int, output.split()[-2:])
    assert opened < 2 * 2**20
    assert looked_up < 40 * 2**20  # Linux maps up to 2 MB of what it has in memory at the first touch of each place


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counted on Linux")
def test_old_states_are_let_go(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that reads and writes for weeks opens no more and more files."""
    monkeypatch.setattr(vectors, "RECENT", 2)
    counts = []
    for value in range(9):
        table.put(["a", "b", "c"], [vector(value)] * 3)
        table.compact()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert len(set(counts)) == 1
