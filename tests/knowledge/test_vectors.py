"""A table of vectors is a dict on disk, and tells what is wrong with it and with what it is given."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from spacy import registry

from entitykit.errors import CheckpointError, ConfigError, InputError, OutputError
from entitykit.knowledge import state, vectors
from entitykit.knowledge.vectors import VectorTable, vector_table

WIDTH = 3

# Ids that JSON must escape, and one that is no Unicode text.
IDS = ["Q1", "Q2", "Q10", "é", "\ud800", 'a"b', 'x", "row": 3}', "a\nb", "\u2028", "\\", " ", "null"]
FLOATS = st.floats(-1e4, 1e4, width=16)


def vector(value: float) -> list[float]:
    return [value, -value, 1.0]


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    return VectorTable.create(tmp_path / "table", WIDTH)


def contents(table: VectorTable) -> dict[str, tuple[float, ...]]:
    ids = list(table.ids())
    found, present = table.lookup(ids)
    assert present.all()
    assert len(ids) == len(set(ids)) == len(table)
    return {id_: tuple(row) for id_, row in zip(ids, found.tolist(), strict=True)}


def test_a_table_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = VectorTable.create("table", WIDTH)
    monkeypatch.chdir("/")
    assert table.put(["Q1"], [vector(2.0)]) == 1
    assert contents(pickle.loads(pickle.dumps(table))) == {"Q1": tuple(vector(2.0))}


class Dictionary(RuleBasedStateMachine):
    """Whatever is put, removed, compacted and opened again, the table holds what a dict holds."""

    @initialize(dtype=st.sampled_from(["float32", "float16"]))
    def create(self, dtype: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.table = VectorTable.create(self.folder / "table", WIDTH, dtype)
        self.other = VectorTable(self.folder / "table")
        self.model: dict[str, tuple[float, ...]] = {}
        self.seen: dict[str, tuple[float, ...]] = {}  # by the other reader

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True), value=FLOATS)
    def put(self, ids: list[str], value: float) -> None:
        rows = {id_: tuple(vector(value + i)) for i, id_ in enumerate(ids)}
        rows = {id_: tuple(np.array(row, dtype=self.table.dtype).tolist()) for id_, row in rows.items()}
        assert self.table.put(ids, np.array(list(rows.values())).reshape(-1, WIDTH)) == len(rows.keys() - self.model.keys())
        for id_, row in rows.items():
            self.model.pop(id_, None)
            self.model[id_] = row

    @rule(ids=st.lists(st.sampled_from(IDS), unique=True))
    def remove(self, ids: list[str]) -> None:
        assert self.table.remove(ids) == len(self.model.keys() & set(ids))
        for id_ in ids:
            self.model.pop(id_, None)

    @rule()
    def compact(self) -> None:
        self.table.compact()
        n_bytes = len(self.model) * WIDTH * np.dtype(self.table.dtype).itemsize
        assert [path.stat().st_size for path in (self.folder / "table").glob("vectors-*")] == [n_bytes]

    @rule()
    def reopen(self) -> None:
        self.table = VectorTable(self.folder / "table")

    @rule()
    def swap(self) -> None:
        """Another object writes from here on, with an old state in its hands."""
        self.table, self.other = self.other, self.table
        self.table.refresh()
        self.seen = dict(self.model)

    @rule()
    def refresh(self) -> None:
        self.other.refresh()
        assert not self.other.refresh()
        self.seen = dict(self.model)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "table"):
            return
        assert list(contents(self.table).items()) == list(self.model.items())
        assert contents(self.other) == self.seen
        found, present = self.table.lookup([*IDS, None, "unknown", ""])
        assert present.tolist() == [id_ in self.model for id_ in IDS] + [False] * 3
        assert found.dtype == np.float32
        assert not found[~present].any()
        assert all((id_ in self.table) == (id_ in self.model) for id_ in IDS)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


@pytest.mark.parametrize(("recent", "hashes"), [(2, 2), (2, 2**64), (100, 2**64)])
def test_is_a_dict(monkeypatch: pytest.MonkeyPatch, recent: int, hashes: int) -> None:
    """With an index that is written often, rarely or never, and with ids that share a hash."""
    real = state.digest
    monkeypatch.setattr(state, "digest", lambda key: real(key) % hashes)
    monkeypatch.setattr(vectors, "digest", lambda key: real(key) % hashes)
    monkeypatch.setattr(vectors, "RECENT", recent)
    monkeypatch.setattr(os, "fsync", lambda _: None)

    class Case(Dictionary.TestCase):
        settings = settings(max_examples=25, stateful_step_count=15)

    Case().runTest()


def test_lookup(table: VectorTable) -> None:
    table.put(["a", "b"], [vector(1), vector(2)])
    found, present = table.lookup(["b", None, "a", "c", "b"])
    np.testing.assert_array_equal(found, np.array([vector(2), [0] * 3, vector(1), [0] * 3, vector(2)], dtype=np.float32))
    assert present.tolist() == [True, False, True, False, True]
    found[:] = 7  # a copy: the table stays as it is
    np.testing.assert_array_equal(table.lookup(["a"])[0], [vector(1)])
    assert 5 not in table
    empty, none = table.lookup([])
    assert (empty.shape, none.shape) == ((0, WIDTH), (0,))
    assert table.put([], np.zeros((0, WIDTH))) == table.remove([]) == 0


def test_half_precision_rounds(tmp_path: Path) -> None:
    table = VectorTable.create(tmp_path, 2, dtype="float16")
    table.put(["a"], [[1 / 3, 1000.3]])
    np.testing.assert_array_equal(table.lookup(["a"])[0], np.array([[1 / 3, 1000.3]], dtype=np.float16).astype(np.float32))
    assert (table.width, table.dtype, table.path) == (2, "float16", tmp_path)


def test_copies_open_the_table(table: VectorTable) -> None:
    table.put(["a"], [vector(1)])
    for other in (pickle.loads(pickle.dumps(table)), copy.deepcopy(table)):
        assert contents(other) == contents(table)


def test_named_in_a_config(table: VectorTable) -> None:
    table.put(["a"], [vector(1)])
    block = {"table": {"@misc": "entitykit.VectorTable.v1", "path": str(table.path)}}
    resolved = registry.resolve(block)["table"]
    assert contents(resolved) == contents(vector_table(table.path)) == contents(table)


BAD_PUTS = {
    "wrong width": (["a"], [[1.0, 2.0]], "E052"),
    "too few": (["a", "b"], [vector(1)], "E052"),
    "one vector alone": (["a"], vector(1), "E052"),
    "no numbers": (["a"], [["x", "y", "z"]], "E052"),
    "NaN": (["b", "a"], [vector(1), vector(float("nan"))], "E053.* 1 vectors .* 'a'"),
    "infinite": (["a"], [vector(float("inf"))], "E053"),
    "too large": (["a"], [vector(1e300)], "E053"),
    "twice": (["a", "a"], [vector(1), vector(2)], "E054.*'a' twice"),
    "empty id": ([""], [vector(1)], "E054"),
    "number": ([5], [vector(1)], "E054.*5"),
    "string": ("abc", [vector(1)] * 3, "E054.*'abc'"),
}


@pytest.mark.parametrize("name", BAD_PUTS)
def test_bad_input(table: VectorTable, name: str) -> None:
    ids, rows, message = BAD_PUTS[name]
    with pytest.raises(InputError, match=message):
        table.put(ids, rows)  # type: ignore[arg-type]
    assert len(table) == 0


def test_bad_ids(table: VectorTable) -> None:
    for call in (table.remove, table.lookup):
        for ids in ("ab", [5]):
            with pytest.raises(InputError, match="E054"):
                call(ids)  # type: ignore[arg-type]


def test_creating(tmp_path: Path) -> None:
    VectorTable.create(tmp_path / "a" / "b", 2).put(["x"], [[1, 2]])
    with pytest.raises(OutputError, match=r"E055.*already"):
        VectorTable.create(tmp_path / "a" / "b", 2)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="E055"):
        VectorTable.create(tmp_path / "file", 2)
    for options in ({"width": 0}, {"width": 2, "dtype": "bfloat16"}):
        with pytest.raises(ConfigError, match="E056"):
            VectorTable.create(tmp_path / "c", **options)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="E050"):
        VectorTable(tmp_path / "nowhere")


def edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob(name)
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new))

    return apply


def cut(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob(name)
        os.truncate(path, path.stat().st_size - 1)

    return apply


def lose(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (path,) = folder.glob(name)
        path.unlink()

    return apply


def scribble(folder: Path) -> None:
    (path,) = folder.glob("vectors-*")
    path.write_bytes(np.full(4 * WIDTH, np.nan, dtype="<f4").tobytes())


DAMAGES = {
    "no vectors": (lose("vectors-*"), "E050"),
    "no ids": (lose("ids-*"), "E050"),
    "no index": (lose("index-*"), "E050"),
    "vectors cut": (cut("vectors-*"), "E051"),
    "ids cut": (cut("ids-*"), "E051"),
    "index cut": (cut("index-*"), "E051"),
    "table cut": (cut("table.json"), "E051.*table.json"),
    "another version": (edit("table.json", b'"version": 1', b'"version": 2'), "E051.*version 1"),
    "another width": (edit("table.json", b'"width": 3', b'"width": 4'), "E051.*expected at least 64"),
    "another type": (edit("table.json", b"float32", b"float64"), "E051"),
    "negative": (edit("table.json", b'"rows": 4', b'"rows": -4'), "E051"),
    "a key is missing": (edit("table.json", b'"rows": 4, ', b""), "E051"),
    "fewer rows": (edit("table.json", b'"rows": 4', b'"rows": 3'), "E051.*rows below 3"),
    "other numbers of ids": (edit("table.json", b'"entries": 4', b'"entries": 3'), "E051.*4 ids"),
    "a line": (edit("ids-*", b'{"id": "a"', b'{"ix": "a"'), "E051.*the line"),
    "a recent line": (edit("ids-*", b'"d", "row": 3', b'"d", "row": x'), "E051.*the line"),
    "another row": (edit("ids-*", b'"a", "row": 0', b'"a", "row": 1'), "E051.*row 0"),
    "NaN": (scribble, "E051.*NaN"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told(table: VectorTable, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(vectors, "RECENT", 2)
    table.put(["a", "b", "c"], [vector(1)] * 3)  # in the index
    table.put(["d"], [vector(1)])  # not in it
    damage, message = DAMAGES[name]
    damage(table.path)
    with pytest.raises(CheckpointError, match=message):
        contents(VectorTable(table.path))


def test_gone_table_leaves_the_reader_as_it_is(table: VectorTable) -> None:
    table.put(["a"], [vector(1)])
    shutil.rmtree(table.path)
    with pytest.raises(CheckpointError, match="E050"):
        table.refresh()
    assert contents(table) == {"a": tuple(vector(1))}
    other = VectorTable.create(table.path, WIDTH)
    other.put(["b"], [vector(2)])
    assert table.refresh()
    assert contents(table) == contents(other)
