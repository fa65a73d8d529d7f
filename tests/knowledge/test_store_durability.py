"""A store survives what happens to the processes that use it, and they do not disturb each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entitykit.errors import EntityKitError, OutputError
from entitykit.knowledge.entities import Alias, Entity, Phrase
from entitykit.knowledge.store import EntityStore
from tests.knowledge.kb import CITIES, PARIS, build

ROOT = Path(__file__).parents[2]

OPERATIONS = [
    ["add", ["a", "b", "c"], 1],
    ["add", ["b", "d"], 2],
    ["remove", ["a"], 0],
    ["add", ["e", "f", "b", "g"], 3],
    ["count_phrases", ["e", "f"], 3],
    ["remove", ["b", "e"], 0],
]

# Runs the operations in a fork that kills itself before its k-th SQL statement or call to the disk, for many k. What is there
# afterwards is printed; then the store is written again.
KILLED = """
import json, os, sys
from entitykit.knowledge import connection, store_files
from entitykit.knowledge.entities import Entity, Phrase
from entitykit.knowledge.store import EntityStore
from entitykit.errors import EntityKitError
from tests.knowledge.killed import killed_everywhere
folder, operations, step = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])

def entity(id_, value):
    return Entity(id=id_, name=f"name {id_}", description=f"value{value}", count=value, redirects=(f"old {id_}",))

def work(path, watch):
    connection.connect = store_files.connect = watch.connecting(connection.connect)
    os.fsync, os.replace, os.unlink = map(watch.guard, (lambda _: None, os.replace, os.unlink))
    EntityStore.build(path, [entity("first", 0)])
    watch.done(1)
    with EntityStore.open(path) as store:
        for number, (name, ids, value) in enumerate(operations):
            if name == "add":
                store.add([entity(id_, value) for id_ in ids])
            elif name == "remove":
                store.remove(ids)
            else:
                store.count_phrases([Phrase(f"name {id_}", value) for id_ in ids])
            watch.done(number + 2)

def contents(path):
    with EntityStore.open(path) as store:
        store.check()
        found = {}
        for e in store:
            found[e.id] = e.count
            assert e == entity(e.id, e.count)
            assert [match.id for match in store.by_alias(e.name)] == [e.id]
            assert [match.id for match in store.by_ngrams(e.name, 1)] == [e.id]
            assert e.id in [match.id for match in store.by_words(f"value{e.count}", 100)]
            assert store.entity(f"old {e.id}") == e
        return found, store.n_phrases

for status, n, path in killed_everywhere(work, folder, step):
    try:
        before, n_phrases = contents(path)
    except EntityKitError as problem:
        before, n_phrases = problem.code, 0
        EntityStore.build(path, [entity("first", 0)])
    with EntityStore.open(path) as store:
        store.add([entity("new", 9), entity("b", 9)])
    print(json.dumps([status, n, before, n_phrases, contents(path)[0]]), flush=True)
"""


def expected_states() -> list[dict[str, int]]:
    states = [{"first": 0}]
    for name, ids, value in OPERATIONS:
        new = dict(states[-1])
        for id_ in ids:
            if name == "add":
                new[str(id_)] = int(str(value))
            elif name == "remove":
                new.pop(str(id_), None)
        states.append(new)
    return states


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_leaves_what_was_committed(tmp_path: Path) -> None:
    """The operation that was under way is done or not begun, and the store can be written again, or built if it is not."""
    states = expected_states()
    command = [sys.executable, "-c", KILLED, str(tmp_path), json.dumps(OPERATIONS), "7"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(ends) > 8 * len(OPERATIONS)
    assert {status for status, *_ in ends[:-1]} == {9}
    assert ends[-1][:3] == [0, len(states), states[-1]]
    assert {n for _, n, *_ in ends} == set(range(len(states) + 1))
    for _, n_done, before, n_phrases, after in ends:
        if n_done == 0 and isinstance(before, str):
            assert before in ("E500", "E501")
            assert after == {"first": 0, "new": 9, "b": 9}
        else:
            assert before in states[max(n_done - 1, 0) : n_done + 1]
            assert n_phrases in {0, 2} if n_done == 5 else n_phrases == 2 * (n_done > 5)
            assert after == before | {"new": 9, "b": 9}


LOOP = """
import sys
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
store = EntityStore.open(sys.argv[1])
value = store.entity("e0").count
while True:
    value += 1
    store.add(Entity(id=f"e{i}", name=f"name {i}", description=f"value{value}", count=value) for i in range(300))
    store.add([Entity(id=f"new{value}", name="new")])
    print(value, flush=True)
"""


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Whatever a writer had reported is there after `kill -9`, and at most the next batch."""
    ids = [f"e{i}" for i in range(300)]
    build(tmp_path / "kb", [Entity(id=id_, name=id_) for id_ in ids]).close()
    command = [sys.executable, "-c", LOOP, str(tmp_path / "kb")]
    acknowledged: set[int] = set()
    for round_, pause in enumerate((0.0, 0.013, 0.031, 0.05, 0.11)):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            acknowledged.add(int(process.stdout.readline()))
            time.sleep(pause)
            process.kill()
            acknowledged |= set(map(int, process.stdout.read().split("\n")[:-1]))
        reported = max(acknowledged)
        with EntityStore.open(tmp_path / "kb") as store:
            store.check()
            values = {entity.count for entity in store.entities(store.rows(ids))}
            assert values in ({reported}, {reported + 1})
            new = {int(entity.id.removeprefix("new")) for entity in store if entity.id.startswith("new")}
            assert acknowledged <= new
            assert len(new - acknowledged) <= round_ + 1
            assert len(store.by_words(f"value{max(values)}", 1000)) == 300


def numbered(value: int) -> list[Entity]:
    return [Entity(id=f"e{i}", name=f"name {i}", aliases=(Alias("shared", value),), count=value) for i in range(50)]


def test_readers_see_one_state_while_others_write(tmp_path: Path) -> None:
    store = build(tmp_path / "kb", numbered(1))
    own = EntityStore.open(tmp_path / "kb")  # another connection, as another process has
    problems: list[object] = []
    written = threading.Event()

    def read(reader: EntityStore) -> None:
        try:
            while not written.is_set():
                entities = list(reader)
                matches = reader.by_alias("shared")
                with reader.reading():
                    version = reader.version
                    counts = {entity.count for entity in reader.entities(reader.rows(["e0", "e49"]))}
                    same = reader.version == version
                if (
                    len(counts) != 1
                    or len({e.count for e in entities}) != 1
                    or len({m.prior for m in matches}) != 1
                    or not same
                ):
                    problems.append((counts, len(entities), len(matches)))
        except EntityKitError as problem:
            problems.append(problem)

    def write(writer: EntityStore, first: int) -> None:
        try:
            for value in range(first, first + 15):
                writer.add(numbered(value))
        except EntityKitError as problem:
            problems.append(problem)

    readers = [threading.Thread(target=read, args=(reader,)) for reader in (store, own)]
    writers = [threading.Thread(target=write, args=(writer, 100 * i)) for i, writer in enumerate((store, own), start=1)]
    for thread in [*readers, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    written.set()
    for thread in readers:
        thread.join()
    assert not problems
    assert {entity.count for entity in store} in ({114}, {214})
    assert store.version == 1 + 30
    assert json.loads((tmp_path / "kb" / "meta.json").read_text())["version"] == 31
    store.check()


WRITER = """
import sys
from entitykit.knowledge.store import EntityStore
store = EntityStore.open(sys.argv[1])
with store._database.writing():
    print("writing", flush=True)
    sys.stdin.readline()
"""


def test_the_second_writer_is_told(tmp_path: Path) -> None:
    build(tmp_path / "kb").close()
    command = [sys.executable, "-c", WRITER, str(tmp_path / "kb")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "writing\n"
        with EntityStore.open(tmp_path / "kb", wait=0.05) as store:
            assert store.entity("Q90") == PARIS
            calls: list[Callable[[], Any]] = [
                lambda: store.add([PARIS]),
                lambda: store.remove(["Q90"]),
                lambda: store.count_phrases([Phrase("Paris", 1)]),
            ]
            for call in calls:
                with pytest.raises(OutputError, match=r"\[E503\] Another process or thread writes .*kb.* within 0.05 seconds"):
                    call()
            assert list(store) == CITIES
        patient = EntityStore.open(tmp_path / "kb", wait=60)
        timer = threading.Timer(0.2, lambda: process.stdin and (process.stdin.write("\n"), process.stdin.flush()))
        timer.start()
        assert patient.remove(["Q90"]) == 1
        timer.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_store_is_shared_with_forked_processes(tmp_path: Path) -> None:
    code = """
import os, sys
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
store = EntityStore.open(sys.argv[1])
names = store.names()
next(names)
pids = []
for i in range(3):
    pid = os.fork()
    if pid == 0:
        ok = store.entity("Q90").name == "Paris" and store.add([Entity(id=f"new{i}", name="x")]).added == 1
        os._exit(0 if ok and f"new{i}" in store else 1)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids], len(store), len(list(names)))
store.add([Entity(id="own", name="x")])
store.check()
print(len(store))
"""
    build(tmp_path / "kb").close()
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "kb")], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.stdout == "[0, 0, 0] 6 5\n7\n", run.stderr
    with EntityStore.open(tmp_path / "kb") as store:
        store.check()


def test_full_disk_changes_nothing(tmp_path: Path) -> None:
    store = build(tmp_path / "kb")
    with store._database.reading() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
    store._database._connection().execute(f"PRAGMA max_page_count = {pages}").fetchall()
    many = [Entity(id=f"x{i}", name=f"name {i}", description="text " * 50) for i in range(500)]
    with pytest.raises(OutputError, match=r"\[E502\] Cannot write the knowledge base '.*kb': database or disk is full"):
        store.add(many)
    assert list(store) == CITIES
    store._database._connection().execute("PRAGMA max_page_count = 1000000").fetchall()
    store.add(many)
    assert len(store) == 503
    store.check()


def test_threads_close_what_they_opened(tmp_path: Path) -> None:
    """A server with a thread for every request opens no more and more files."""
    store = build(tmp_path / "kb")

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not Path("/proc/self/fd").exists():
        pytest.skip("counted on Linux")
    counts = []
    for _ in range(5):
        thread = threading.Thread(target=lambda: store.entity("Q90"))
        thread.start()
        thread.join()
        counts.append(count())
    assert len(set(counts)) == 1
