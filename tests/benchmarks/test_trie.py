from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from entitykit.benchmarks import trie
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.errors import ConfigError
from entitykit.knowledge.flat_trie import Sequences
from entitykit.knowledge.trie import CompactTrie


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie, "QUICK", trie.Amount(3000, 500, 2, 2))


def test_end_to_end(settings: Settings) -> None:
    report = run_benchmark("trie", settings)
    assert list(report.figures) == [key for part in trie.PARTS for key in part.keys]
    assert all(figure.value > 0 for key, figure in report.figures.items() if key != "trie_resident_mb")
    details = report.settings["trie"]
    assert 0.9 * 3000 < details["names"] <= 3000  # tokens have no capitals
    assert details["tokens_per_lookup"] > 1
    assert report.figures["trie_mb"].value < 0.1


def test_names_are_different_and_the_same_every_time(tiny_bert: Path) -> None:
    tokenizer = trie.load_tokenizer(str(tiny_bert))
    names = list(trie.synthetic_names(tokenizer, 2000))
    assert names == list(trie.synthetic_names(tokenizer, 2000))
    assert len(set(names)) == 2000
    tokens, lengths = trie.tokenise(tokenizer, iter(names))
    assert tokenizer.decode(tokens[: lengths[0]].tolist()) == names[0].lower()
    assert len(lengths) == 2000


def test_dictionaries_are_counted_as_they_are() -> None:
    one, two = sys.getsizeof({}), sys.getsizeof({1: 1})
    numbers = sum(map(sys.getsizeof, (7, 8, -1)))
    # the root holds 7; 7 holds 8 and the end; 8 holds the end; two ends hold nothing
    full = sys.getsizeof(dict.fromkeys((8, -1)))
    assert trie.dictionary_bytes(Sequences(np.array([7, 8, 7]), np.array([2, 1]))) == numbers + two + full + two + 2 * one


def test_places_are_those_of_the_names() -> None:
    names = Sequences(np.array([7, 8, 9]), np.array([2, 1]))
    compact = CompactTrie.build(names, [0, 1])
    nodes, tokens = trie._places(compact, names)
    assert sorted(tokens.tolist()) == [-1, -1, 7, 8, 9]
    assert (compact.step_batch(nodes, tokens) >= 0).tolist() == (tokens >= 0).tolist()


def test_memory_of_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    compact = CompactTrie.build(Sequences(rng.integers(0, 30_000, 1_000_000), np.full(250_000, 4)), np.arange(250_000))
    compact.save(tmp_path)
    assert compact.nbytes < trie._resident_elsewhere(tmp_path) < 2 * compact.nbytes + 2**20
    monkeypatch.setattr(trie.sys, "executable", "false")
    with pytest.raises(ConfigError, match=r"E447.*exit code 1"):
        trie._resident_elsewhere(tmp_path)
