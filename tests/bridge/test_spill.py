"""States come out in the order of the words, from memory and from the mapped file alike."""

from __future__ import annotations

import errno
import mmap
import os

import pytest
import torch

from entitykit.bridge import spill
from entitykit.bridge.spill import StateStore
from entitykit.errors import OutputError

N_WORDS, WIDTH = 50, 3
CPU = torch.device("cpu")


@pytest.fixture(params=["memory", "file", "graph"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> StateStore:
    if request.param == "file":
        monkeypatch.setattr(spill, "SPILL_WORDS", N_WORDS - 1)
    store = StateStore(N_WORDS, WIDTH, CPU, keeps_graph=request.param == "graph")
    assert (store._map is not None) == (request.param == "file")
    return store


def test_packs_in_any_order(store: StateStore) -> None:
    expected = torch.randn(N_WORDS, WIDTH)
    expected[7] = 0  # no pack holds it
    numbers = torch.randperm(N_WORDS)
    for words in numbers[numbers != 7].split(9):
        store.put(words, expected[words])
    assert torch.equal(store.finish(), expected)


def test_nothing_put(store: StateStore) -> None:
    assert torch.equal(store.finish(), torch.zeros(N_WORDS, WIDTH))


def test_gradients_flow_through() -> None:
    store = StateStore(4, 2, CPU, keeps_graph=True)
    packs = [torch.randn(2, 2, requires_grad=True), torch.randn(1, 2, requires_grad=True)]
    store.put(torch.tensor([3, 0]), packs[0])
    store.put(torch.tensor([1]), packs[1])
    weights = torch.arange(8.0).view(4, 2)
    (store.finish() * weights).sum().backward()
    assert torch.equal(packs[0].grad, weights[[3, 0]])
    assert torch.equal(packs[1].grad, weights[[1]])


def test_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spill, "SPILL_WORDS", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OutputError, match=r"E008.*states of 50 words.*No space left"):
        StateStore(N_WORDS, WIDTH, CPU, keeps_graph=False)


def test_systems_that_cannot_reserve_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "SPILL_WORDS", 0)
    monkeypatch.delattr(os, "posix_fallocate")
    store = StateStore(N_WORDS, WIDTH, CPU, keeps_graph=False)
    store.put(torch.arange(N_WORDS), torch.ones(N_WORDS, WIDTH))
    assert torch.equal(store.finish(), torch.ones(N_WORDS, WIDTH))


def test_systems_that_cannot_drop_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(mmap.mmap):
        def __getattribute__(self, name: str) -> object:
            if name == "madvise":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr(spill, "SPILL_WORDS", 0)
    monkeypatch.setattr(mmap, "mmap", Plain)
    store = StateStore(N_WORDS, WIDTH, CPU, keeps_graph=False)
    store.put(torch.arange(N_WORDS), torch.ones(N_WORDS, WIDTH))
    assert torch.equal(store.finish(), torch.ones(N_WORDS, WIDTH))
