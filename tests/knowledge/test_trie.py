"""A compact trie is a dictionary of dictionaries, whatever is added, saved and loaded, and says what is wrong with input."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entitykit.errors import CheckpointError, InputError, OutputError
from entitykit.knowledge import trie_file
from entitykit.knowledge.flat_trie import MAX_TOKEN, Sequences
from entitykit.knowledge.trie import CompactTrie

ROOT = Path(__file__).parents[2]
TOKENS = st.sampled_from([0, 1, 2, 7, 255, 256, 65535])
WIDE = st.sampled_from([0, 1, 65535, 65536, 65537, 131072, 250_000, MAX_TOKEN])
ROWS = st.sampled_from([0, 1, 2, 255, 256, 70_000, 2**40])


class Reference:
    """The published form: a dictionary of what follows each token; rows are kept under None."""

    def __init__(self) -> None:
        self.root: dict[Any, Any] = {}

    def add(self, sequence: Sequence[int], row: int) -> None:
        node = self.root
        for token in sequence:
            node = node.setdefault(token, {})
        node.setdefault(None, set()).add(row)

    def names(self, node: dict[Any, Any] | None = None, before: tuple[int, ...] = ()) -> dict[tuple[int, ...], list[int]]:
        node = self.root if node is None else node
        found = {before: sorted(node[None])} if None in node else {}
        for token, child in node.items():
            if token is not None:
                found |= self.names(child, (*before, token))
        return found


def check_equal(trie: CompactTrie, reference: Reference, others: Sequence[int] = (3, 65535, 65536)) -> None:
    """Walk both at once, level by level, with all look-ups in batches, and each alone."""
    level: list[tuple[int, dict[Any, Any]]] = [(trie.root, reference.root)]
    n_names = 0
    while level:
        nodes = [node for node, _ in level]
        is_name = trie.is_name(nodes).tolist()
        tries = []
        for (node, expected), tokens, ends in zip(level, trie.next_tokens_batch(nodes), is_name, strict=True):
            wanted = sorted(token for token in expected if token is not None)
            assert tokens.tolist() == wanted
            assert ends == (None in expected)
            tries += [(node, expected, token) for token in dict.fromkeys([*wanted, *others])]
            n_names += ends
        reached = trie.step_batch([node for node, _, _ in tries], [token for *_, token in tries]).tolist()
        assert [place < 0 for place in reached] == [token not in expected for _, expected, token in tries]
        node, expected, token = tries[0]
        assert trie.step(node, token) == reached[0]
        assert trie.next_tokens(node).tolist() == sorted(token for token in expected if token is not None)
        assert trie.rows(node).tolist() == sorted(expected.get(None, ()))
        level = [
            (place, expected[token]) for place, (_, expected, token) in zip(reached, tries, strict=True) if token in expected
        ]
    assert len(trie) == n_names


def contents(trie: CompactTrie) -> dict[tuple[int, ...], list[int]]:
    (tokens, lengths), rows = trie.sequences()
    ends = np.cumsum(lengths)
    found: dict[tuple[int, ...], list[int]] = {}
    for start, end, row in zip((ends - lengths).tolist(), ends.tolist(), rows.tolist(), strict=True):
        found.setdefault(tuple(tokens[start:end].tolist()), []).append(row)
    return found


class Dictionary(RuleBasedStateMachine):
    @initialize(wide=st.booleans(), data=st.data())
    def build(self, wide: bool, data: st.DataObject) -> None:
        self.pairs = st.lists(st.tuples(st.lists(WIDE if wide else TOKENS, min_size=1, max_size=5), ROWS), max_size=12)
        self.folder = Path(tempfile.mkdtemp())
        self.reference = Reference()
        pairs = data.draw(self.pairs)
        for sequence, row in pairs:
            self.reference.add(sequence, row)
        self.trie = CompactTrie.build([sequence for sequence, _ in pairs], [row for _, row in pairs], fingerprint="f")

    @rule(data=st.data())
    def add(self, data: st.DataObject) -> None:
        pairs = data.draw(self.pairs)
        for sequence, row in pairs:
            self.reference.add(sequence, row)
        self.trie.add((sequence for sequence, _ in pairs), [row for _, row in pairs])

    @rule(rows=st.sets(ROWS, max_size=2))
    def remove(self, rows: set[int]) -> None:
        names = self.reference.names()
        assert self.trie.remove(rows) == sum(row in rows for found in names.values() for row in found)
        self.reference = Reference()
        for sequence, row in ((sequence, row) for sequence, found in names.items() for row in found if row not in rows):
            self.reference.add(sequence, row)

    @rule()
    def save(self) -> None:
        self.trie.save(self.folder)

    @rule()
    def save_and_load(self) -> None:
        self.trie.save(self.folder)
        self.trie = CompactTrie.load(self.folder, "f")

    @invariant()
    def equal(self) -> None:
        check_equal(self.trie, self.reference)
        names = self.reference.names()
        assert contents(self.trie) == names
        assert self.trie.longest == max(map(len, names), default=0)
        nodes = self.trie.find([*names, (3,), (0, 3), (7, 7, 7, 7, 7, 7)]).tolist()
        assert nodes[-3:] == [-1] * 3
        assert [self.trie.rows(node).tolist() for node in nodes[:-3]] == list(names.values())


TestDictionary = Dictionary.TestCase
TestDictionary.settings = settings(max_examples=40, stateful_step_count=6)


def random_names(n: int, vocabulary: int, seed: int = 0) -> tuple[Sequences, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, n)
    tokens = np.minimum(rng.zipf(1.2, lengths.sum()), vocabulary) - 1
    return Sequences(tokens, lengths), rng.integers(0, 2**20, n)


@pytest.mark.parametrize("vocabulary", [300, 250_000])
def test_thousands_of_names(tmp_path: Path, vocabulary: int) -> None:
    names, rows = random_names(10_000, vocabulary)
    reference = Reference()
    ends = names.lengths.cumsum()
    lists = [names.tokens[end - length : end].tolist() for end, length in zip(ends, names.lengths, strict=True)]
    for sequence, row in zip(lists, rows.tolist(), strict=True):
        reference.add(sequence, row)
    trie = CompactTrie.build(names, rows)
    check_equal(trie, reference)
    CompactTrie.build(iter(lists), iter(rows.tolist())).save(tmp_path)
    loaded = CompactTrie.load(tmp_path)
    assert contents(loaded) == contents(trie) == reference.names()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0 <= size - loaded.nbytes < 400


def test_order_of_the_names_does_not_matter() -> None:
    names = [[5], [5, 6], [1, 2, 3], [1, 2], [5]]
    a = CompactTrie.build(names, [4, 3, 2, 1, 0])
    b = CompactTrie.build(names[::-1], [0, 1, 2, 3, 4])
    assert all(np.array_equal(x, y) for x, y in zip(a._flat.arrays(), b._flat.arrays(), strict=True))


def test_one_name_of_a_thousand_entities() -> None:
    trie = CompactTrie.build([[1, 2]] * 1001, [*range(1000), 7])
    assert len(trie) == 1
    assert trie.rows(trie.find([[1, 2]])[0]).tolist() == list(range(1000))


def test_nothing_follows_no_node() -> None:
    for trie in (CompactTrie.build([[1]], [0]), CompactTrie.build([], [])):
        for _ in range(2):
            assert trie.step(-1, 1) == -1
            assert trie.next_tokens(-1).tolist() == []
            assert trie.rows(-1).tolist() == []
            assert trie.is_name([-1, trie.root]).tolist() == [False, False]
            trie.add([[1, 2]], [0])
        assert trie.next_tokens(trie.root).tolist() == [1]


@pytest.mark.parametrize(
    ("sequences", "rows", "message"),
    [
        ([[1], []], [0, 1], "no token in name 1; expected at least one"),
        ([[-1]], [0], "the token -1"),
        ([[MAX_TOKEN + 1]], [0], f"the token {MAX_TOKEN + 1}; expected 0 to {MAX_TOKEN}"),
        ([[2**70]], [0], "E534"),
        ([[1.5]], [0], "float64; expected whole numbers"),
        (["ab"], [0], "expected whole numbers"),
        ([1, 2], [0, 1], "no sequence"),
        ([[1]], [0, 1], r"rows int64 \(2,\); expected 1"),
        ([[1]], [-1], "rows from -1"),
        ([[1]], [0.5], "rows float64"),
        (Sequences(np.arange(3), np.array([1, 1])), [0, 1], r"tokens \(3,\); expected 2"),
        (Sequences(np.arange(3), np.array([1.0, 2.0])), [0, 1], "lengths float64"),
    ],
)
def test_what_are_no_names(sequences: Any, rows: Any, message: str) -> None:
    trie = CompactTrie.build([[1]], [0])
    with pytest.raises(InputError, match=message):
        CompactTrie.build(sequences, rows)
    with pytest.raises(InputError, match=message):
        trie.add(sequences, rows)
    assert contents(trie) == {(1,): [0]}


def test_another_tokenizer(tmp_path: Path) -> None:
    CompactTrie.build([[1]], [0], fingerprint="bart").save(tmp_path)
    assert CompactTrie.load(tmp_path).fingerprint == "bart"
    with pytest.raises(CheckpointError, match=r"E533.*'bart'; expected 't5'"):
        CompactTrie.load(tmp_path, "t5")


def test_damaged_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"E530.*nowhere"):
        CompactTrie.load(tmp_path / "nowhere")
    CompactTrie.build([[1, 2], [3]], [0, 1]).save(tmp_path)
    meta = json.loads((tmp_path / "trie.json").read_text())
    for change in ({"version": 2}, {"rows": -1}, {"nodes": "4"}, {"file": "../trie-00.bin"}, {"row_bytes": 9}, {"more": 1}):
        (tmp_path / "trie.json").write_text(json.dumps(meta | change))
        with pytest.raises(CheckpointError, match=r"E531.*trie\.json"):
            CompactTrie.load(tmp_path)
    (tmp_path / "trie.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"E531.*no JSON"):
        CompactTrie.load(tmp_path)
    (tmp_path / "trie.json").write_text(json.dumps(meta))
    os.truncate(tmp_path / meta["file"], 40)
    with pytest.raises(CheckpointError, match=r"E531.*fewer bytes"):
        CompactTrie.load(tmp_path)
    (tmp_path / meta["file"]).unlink()
    with pytest.raises(CheckpointError, match=r"E531.*no such file"):
        CompactTrie.load(tmp_path)


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trie = CompactTrie.build([[1]], [0])
    trie.save(tmp_path)
    trie.add([[2]], [1])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"E532.*No space left"):
            trie.save(tmp_path)
    assert contents(CompactTrie.load(tmp_path)) == {(1,): [0]}
    assert contents(trie) == {(1,): [0], (2,): [1]}
    trie.save(tmp_path)
    assert contents(CompactTrie.load(tmp_path)) == contents(trie)
    assert len(list(tmp_path.glob("trie-*.bin"))) == 1


def test_file_is_replaced_while_a_reader_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trie = CompactTrie.build([[1]], [0])
    trie.save(tmp_path)
    trie.add([[2]], [1])
    read = trie_file._read_meta

    def read_then_lose(folder: Path) -> trie_file.Meta:
        meta = read(folder)
        monkeypatch.setattr(trie_file, "_read_meta", read)
        trie.save(tmp_path)
        return meta

    monkeypatch.setattr(trie_file, "_read_meta", read_then_lose)
    assert contents(CompactTrie.load(tmp_path)) == {(1,): [0], (2,): [1]}


# Saves in a fork that kills itself before its k-th call to the disk, for every k; a file that is not yet synced loses its end.
KILLED = """
import os, signal, stat, sys
from entitykit.knowledge.trie import CompactTrie
folder = sys.argv[1]
CompactTrie.build([[1]], [0]).save(folder)
os.fsync = lambda number: None
def guard(function, calls, last):
    def call(*args):
        calls[0] += 1
        if calls[0] == last:
            if isinstance(args[0], int) and stat.S_ISREG(os.fstat(args[0]).st_mode):
                os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call
status, k = 1, 0
while status:
    k += 1
    child = os.fork()
    if child == 0:
        trie, calls = CompactTrie.load(folder), [0]
        trie.add([[k + 1]], [k])
        for name in ("fsync", "replace", "unlink"):
            setattr(os, name, guard(getattr(os, name), calls, k))
        trie.save(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    trie = CompactTrie.load(folder)
    print(status, k, len(trie), bool(trie.find([[k + 1]])[0] >= 0))
print(len(os.listdir(folder)))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_any_step_leaves_the_old_or_the_new_names(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    *lines, n_files = run.stdout.splitlines()
    assert len(lines) > 5
    assert n_files == "3"
    n_names = 1
    for line in lines:
        status, _, n, new = line.split()
        assert status == ("9" if line is not lines[-1] else "0")
        n_names += new == "True"
        assert int(n) == n_names
    assert lines[0].endswith("False")
    assert lines[-1].endswith("True")


def test_readers_in_threads(tmp_path: Path) -> None:
    names, rows = random_names(2000, 300)
    trie = CompactTrie.build(names, rows)
    trie.add([[299, 299]], [1])
    nodes = trie.find(names).tolist()
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(node for node, found in zip(nodes, trie.find(names).tolist(), strict=True) if node != found)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
