"""A store of clusters: what it keeps, and what happens to the processes that use it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from entitykit.errors import CheckpointError, InputError, OutputError
from entitykit.knowledge import cluster_store
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_schema import ClusterReport, NewDocument
from entitykit.knowledge.cluster_store import FILE, ClusterStore

ROOT = Path(__file__).parents[2]
WIDTH = 4


def document(name: str, *directions: int) -> NewDocument:
    """A mention for each direction, whose vector it is."""
    places = [(i, i + 1) for i in range(len(directions))]
    mentions = [Mention(f"{name}{i}", "left ", f" right {i}") for i in range(len(directions))]
    vectors = np.eye(WIDTH, dtype=np.float32)[list(directions)].reshape(-1, WIDTH)
    return NewDocument(name, f"digest {name}", places, ["X"] * len(directions), mentions, vectors)


def put(
    store: ClusterStore, documents: Sequence[NewDocument], clusters: Sequence[int], merged: dict[int, int] | None = None
) -> None:
    with store.changing():
        store.put(documents, np.array(clusters, dtype=np.int64), merged or {})


@pytest.fixture
def store(tmp_path: Path) -> ClusterStore:
    store = ClusterStore.create(tmp_path / "store", width=WIDTH, fingerprint="weights")
    put(store, [document("a", 0, 1), document("b", 0), document("empty")], [1, 2, 1])
    return store


def test_what_was_put_is_there(store: ClusterStore) -> None:
    assert (store.n_documents, store.n_mentions, store.next_cluster, store.last_mention, store.n_merged) == (3, 3, 3, 3, 0)
    assert store.sizes.tolist() == [2, 1]
    assert store.digests(["a", "empty", "nobody"]) == {"a": "digest a", "empty": "digest empty"}
    assert store.clusters_in("a") == {(0, 1): 1, (1, 2): 2}
    assert store.clusters_in("empty") == store.clusters_in("nobody") == {}
    mentions, clusters = store.members(np.array([1]))
    assert (mentions.tolist(), clusters.tolist()) == ([1, 3], [1, 1])
    assert store.clusters_of(np.array([2, 3])).tolist() == [2, 1]
    assert store.mentions(np.array([1, 3])) == [Mention("a0", "left ", " right 0"), Mention("b0", "left ", " right 0")]
    np.testing.assert_array_equal(store.vectors(np.array([2, 3])), np.eye(WIDTH)[[1, 0]])
    cosines, found = store.nearest(np.array([[0, 0.6, 0.8, 0]], dtype=np.float32), 4)
    assert found.tolist()[0][0] == 2
    assert cosines[0, 0] == pytest.approx(0.6)
    assert found.tolist()[0][3] == -1
    one, two = store.export()
    assert one["id"] == "C1"
    assert [mention["text"] for mention in one["mentions"]] == ["a0", "b0"]
    assert two["mentions"] == [{"document": "a", "start": 1, "end": 2, "label": "X", "text": "a1"}]


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    with ClusterStore.create(tmp_path, width=WIDTH, fingerprint="weights") as store:
        assert store.nearest(np.eye(WIDTH, dtype=np.float32), 2)[1].tolist() == [[-1, -1]] * WIDTH
        assert list(store.export()) == []
        assert store.sizes.tolist() == []
        assert (store.next_cluster, store.last_mention) == (1, 0)
        nothing = np.empty(0, dtype=np.int64)
        assert store.mentions(nothing) == []
        assert store.vectors(nothing).shape == (0, WIDTH)


def test_merged_clusters_lead_on(store: ClusterStore) -> None:
    put(store, [document("c", 2)], [3])
    put(store, [document("d", 3)], [2], {3: 2})
    put(store, [], [], {2: 1})
    assert [store.resolve(n) for n in (1, 2, 3, 9)] == [1, 1, 1, 9]
    assert store.sizes.tolist() == [5]
    assert store.n_merged == 2
    put(store, [document("e", 3)], [store.next_cluster])
    assert store.clusters_in("e") == {(0, 1): 4}


def test_numbers_are_not_given_again(store: ClusterStore) -> None:
    with store.changing():
        assert store.remove(["b", "nobody"]) == 1
        assert store.nearest(np.eye(1, WIDTH, dtype=np.float32), 3)[1].tolist() == [[1, 2, -1]]
        assert store.last_mention == 3
        store.put([document("b", 3)], np.array([store.next_cluster]), {})
    assert store.clusters_in("b") == {(0, 1): 3}
    assert store.nearest(np.eye(WIDTH, dtype=np.float32)[3:], 1)[1].tolist() == [[4]]


def test_clusters_that_lose_mentions_are_undecided(store: ClusterStore) -> None:
    put(store, [document("c", 2)], [3])
    with store.changing():
        for name in "abc":
            store.put_candidates(name, {(0, 1): {"Q1": 0.5}})
        store.link({1: "Q1", 2: "", 3: "Q3"})
    assert store.undecided().tolist() == []
    with store.changing():
        store.remove(["a", "nobody"])
    assert store.links_of(np.array([1, 2, 3])) == {3: "Q3"}
    assert [(cluster["id"], cluster.get("kb_id")) for cluster in store.export()] == [("C1", None), ("C3", "Q3")]
    assert store.undecided().tolist() == [1]
    put(store, [document("a", 0)], [1])
    assert store.undecided().tolist() == [1]
    with store.changing():
        store.remove(["b"])
    assert store.undecided().tolist() == []  # of what is left nobody has said anything
    with store.changing():
        store.link({1: ""})
    put(store, [], [], {3: 1})
    assert store.undecided().tolist() == [1]


def test_a_change_that_fails_is_undone(store: ClusterStore) -> None:
    def fail() -> None:
        with store.changing():
            store.remove(["a"])
            store.put([document("new", 2)], np.array([7]), {2: 1})
            raise RuntimeError

    before = list(store.export())
    with pytest.raises(RuntimeError):
        fail()
    assert list(store.export()) == before
    assert store.next_cluster == 3
    assert sorted(store.nearest(np.eye(1, WIDTH, dtype=np.float32), 3)[1][0].tolist()) == [1, 2, 3]


def test_others_see_what_was_committed(store: ClusterStore) -> None:
    with ClusterStore.open(store.folder, read_only=True) as other:
        assert other.nearest(np.eye(WIDTH, dtype=np.float32)[3:], 1)[0][0, 0] < 0.5
        with store.changing():
            store.put([document("c", 3)], np.array([3]), {})
            assert other.n_documents == 3
        assert other.n_documents == 4
        assert other.nearest(np.eye(WIDTH, dtype=np.float32)[3:], 1)[0][0, 0] == pytest.approx(1)
        with pytest.raises(OutputError, match="E635.*read only"), other.changing():
            pass


def test_what_is_no_store(tmp_path: Path, store: ClusterStore) -> None:
    with pytest.raises(CheckpointError, match="E633.*there is none"):
        ClusterStore.open(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="E635.*a store already"):
        ClusterStore.create(store.folder, width=WIDTH, fingerprint="")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="E635"):
        ClusterStore.create(tmp_path / "file", width=WIDTH, fingerprint="")
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(CheckpointError, match="E634"):
        ClusterStore.open(tmp_path)
    (tmp_path / FILE).unlink()
    with sqlite3.connect(tmp_path / FILE) as connection:
        connection.execute("CREATE TABLE mentions (mention INTEGER)")
    connection.close()
    with pytest.raises(CheckpointError, match="E634.*application 0"):
        ClusterStore.open(tmp_path)
    store.close()
    with pytest.raises(CheckpointError, match="E633"):
        _ = store.n_mentions


def test_a_change_within_a_change(store: ClusterStore) -> None:
    """Is part of it; what fails within is undone alone, where the outer one goes on."""

    def put_and_fail(new: NewDocument) -> None:
        with store.changing():
            put(store, [new], [4])
            raise RuntimeError

    before = list(store.export())
    with store.changing():
        put(store, [document("c", 2)], [3])
        assert store.clusters_in("c") == {(0, 1): 3}
        with pytest.raises(RuntimeError):
            put_and_fail(document("d", 3))
        assert store.clusters_in("d") == {}
        assert store.nearest(np.eye(WIDTH, dtype=np.float32)[2:3], 1)[1].tolist() == [[4]]
    assert (store.n_documents, store.next_cluster) == (4, 4)
    with ClusterStore.open(store.folder, read_only=True) as other:
        assert list(other.export()) == list(store.export()) != before
    with pytest.raises(RuntimeError):
        put_and_fail(document("e", 3))
    assert store.clusters_in("e") == {}
    put(store, [document("e", 3)], [4])
    assert store.nearest(np.eye(WIDTH, dtype=np.float32)[3:], 1)[1].tolist() == [[store.last_mention]]


def test_a_block_that_reads_sees_one_state(store: ClusterStore) -> None:
    with ClusterStore.open(store.folder) as other:
        with other.reading(), other.reading():
            assert other.n_documents == 3
            put(store, [document("c", 2)], [3])
            assert (other.n_documents, other.clusters_in("c")) == (3, {})
            with pytest.raises(OutputError, match=r"E635.*with store.reading\(\).*leave that first"), other.changing():
                pass
        assert other.n_documents == 4
        with other.changing(), other.reading():
            other.remove(["c"])
            assert other.n_documents == 3
        assert store.n_documents == 3


def test_documents_that_are_put_twice(store: ClusterStore) -> None:
    with pytest.raises(InputError, match="E639.*'b' is in the store already"):
        put(store, [document("b", 1)], [7])
    assert store.clusters_in("b") == {(0, 1): 1}


def test_a_store_that_somebody_else_has_made(store: ClusterStore) -> None:
    """Meanwhile, between looking and making one, is opened, where that is asked for."""
    with ClusterStore.create(store.folder, width=WIDTH, fingerprint="weights", or_open=True) as same:
        assert same.n_documents == 3


def test_the_index_of_a_store_that_stays_open(store: ClusterStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Becomes an inverted file when it has grown, as that of one that is opened then."""
    monkeypatch.setattr(cluster_store, "EXACT", 40)
    rng = np.random.default_rng(0)
    for number in range(60):
        vector = rng.normal(size=(1, WIDTH)).astype(np.float32)
        put(store, [document(f"n{number}", 0)._replace(vectors=vector / np.linalg.norm(vector))], [store.next_cluster])
    found = store.nearest(np.eye(WIDTH, dtype=np.float32), 2)
    assert store._index is not None
    assert store._index.kind == "ivf"
    assert len(store._index) == store.n_mentions == 63
    with ClusterStore.open(store.folder) as other:
        np.testing.assert_array_equal(other.nearest(np.eye(WIDTH, dtype=np.float32), 2)[1], found[1])


def test_nearest_without_some(store: ClusterStore) -> None:
    query = np.eye(1, WIDTH, dtype=np.float32)
    assert sorted(store.nearest(query, 3)[1][0].tolist()) == [1, 2, 3]
    assert store.nearest(query, 3, without=np.array([1, 2]))[1].tolist() == [[3, -1, -1]]
    assert sorted(store.nearest(query, 3, without=np.array([], dtype=np.int64))[1][0].tolist()) == [1, 2, 3]


# Opens a store as somebody who may not write.
READ_ONLY = """
import os, sys
import numpy as np
import numpy.random  # which is loaded when it is asked for, and must be while we may read it
from entitykit.errors import EntityKitError
from entitykit.knowledge.cluster_store import ClusterStore
if os.geteuid() == 0:
    os.setuid(65534)  # who may not write everywhere
for read_only in (True, False):
    try:
        with ClusterStore.open(sys.argv[1], read_only=read_only) as store:
            print(store.n_documents, len(list(store.export())), store.nearest(np.eye(1, 4, dtype=np.float32), 1)[0].tolist())
            with store.changing():
                pass
    except EntityKitError as problem:
        print(problem.code)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions")
@pytest.mark.parametrize(("closed", "expected"), [(True, ["3 2 [[1.0]]", "E635", "E635"]), (False, ["E633", "E633"])])
def test_a_folder_that_cannot_be_written(store: ClusterStore, closed: bool, expected: list[str]) -> None:
    if closed:
        store.close()
    with tempfile.TemporaryDirectory() as shared:  # pytest's own folders are for their owner only
        copy = Path(shared, "store")
        shutil.copytree(store.folder, copy)
        (copy / f"{FILE}-shm").unlink(missing_ok=True)
        for path, mode in [*((path, 0o444) for path in copy.iterdir()), (copy, 0o555), (Path(shared), 0o755)]:
            path.chmod(mode)
        run = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(copy)], capture_output=True, text=True, check=False, cwd=ROOT
        )
        copy.chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == expected


def test_vectors_that_are_cut_short(store: ClusterStore) -> None:
    with store.changing():
        store._connection.execute("UPDATE mentions SET vector = x'0000' WHERE mention = 1")
    with ClusterStore.open(store.folder) as other, pytest.raises(CheckpointError, match="E634.*16 bytes each"):
        other.nearest(np.eye(1, WIDTH, dtype=np.float32), 1)


def test_reports_add_up() -> None:
    total = ClusterReport(documents=1, mentions=2)
    total.add(ClusterReport(documents=3, merged=1))
    assert dict(total.rows()) == {
        "documents": 4,
        "unchanged": 0,
        "replaced": 0,
        "mentions": 2,
        "new clusters": 0,
        "merged": 1,
    }


# Adds documents in a fork that kills itself before its k-th SQL statement or call to the disk, for many k, and prints what is
# there afterwards, and how many documents were committed.
KILLED = """
import json, os, sys
import numpy as np
from entitykit.errors import EntityKitError
from entitykit.knowledge import cluster_file, cluster_store, files
from entitykit.knowledge.cluster_store import ClusterStore
from tests.knowledge.killed import killed_everywhere
from tests.knowledge.test_cluster_store import document, put
folder, step = sys.argv[1], int(sys.argv[2])

def work(path, watch):
    cluster_store.connect = cluster_file.connect = watch.connecting(cluster_store.connect)
    os.fsync, os.replace = map(watch.guard, (lambda _: None, os.replace))
    store = ClusterStore.create(path, width=4, fingerprint="w")
    watch.done(1)
    put(store, [document("a", 0, 1), document("b", 2)], [1, 2, 3])
    watch.done(2)
    put(store, [document("c", 0)], [1], {3: 2})
    watch.done(3)
    with store.changing():
        store.remove(["a"])
        store.put([document("a", 3)], np.array([4]), {})
    watch.done(4)

def contents(path):
    with ClusterStore.open(path) as store:
        found = [[m["document"], m["start"], c["id"]] for c in store.export() for m in c["mentions"]]
        near = store.nearest(np.eye(4, dtype=np.float32), 1)[1][:, 0].tolist()
        return found, store.n_documents, near

for status, n, path in killed_everywhere(work, folder, step):
    try:
        there = contents(path)
    except EntityKitError as problem:
        there = problem.code
        ClusterStore.create(path, width=4, fingerprint="w").close()
    with ClusterStore.open(path) as store:
        put(store, [document("new", 0)], [store.next_cluster])
        assert store.clusters_in("new")
    print(json.dumps([status, n, there]), flush=True)
"""

STATES = [
    [[], 0, [-1] * 4],
    [[["a", 0, "C1"], ["a", 1, "C2"], ["b", 0, "C3"]], 2, [1, 2, 3]],
    [[["a", 0, "C1"], ["c", 0, "C1"], ["a", 1, "C2"], ["b", 0, "C2"]], 3, [2, 3]],
    [[["c", 0, "C1"], ["b", 0, "C2"], ["a", 0, "C4"]], 3, [4, 3, 5]],
]
"""What is there after each step: mentions, number of documents, and mentions that must be nearest to some direction."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_leaves_what_was_committed(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "3"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(lines) > 10
    assert lines[-1][0] == 0
    for status, n_done, there in lines:
        if there == "E633":
            assert n_done == 0
            continue
        found, n_documents, near = there
        allowed = [STATES[i] for i in (max(n_done - 1, 0), min(n_done, len(STATES) - 1))]
        assert (found, n_documents) in [(state[0], state[1]) for state in allowed], (status, n_done)
        expected = next(state[2] for state in allowed if state[0] == found)
        assert set(expected) - {-1} <= set(near)
    assert lines[-1][2][0] == STATES[-1][0]
