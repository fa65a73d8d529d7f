"""Range maxima and enumerated spans equal their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entitykit.models import spans as module
from entitykit.models.spans import all_spans, document_bounds, end_states, in_blocks, range_max
from entitykit.types import TOP, Spans, WordStates

CPU = torch.device("cpu")
BOUNDS = st.integers(1, 70).flatmap(
    lambda n: st.tuples(
        st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(1, n)).map(lambda ab: (min(ab[0], ab[1] - 1), ab[1])))
    )
)


@given(BOUNDS)
def test_range_max(case: tuple[int, list[tuple[int, int]]]) -> None:
    n, bounds = case
    words = torch.randn(n, 3)
    found = range_max(words, make_spans(bounds))
    expected = [words[start:end].max(0).values for start, end in bounds]
    assert torch.equal(found, torch.stack(expected) if expected else torch.zeros(0, 3))


def test_range_max_gradients() -> None:
    words = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    spans = make_spans([(0, 9), (3, 4), (2, 4), (1, 4), (4, 9), (0, 8)])
    assert torch.autograd.gradcheck(lambda words: range_max(words, spans), words)


@given(lengths=st.lists(st.integers(0, 6), max_size=5), max_width=st.integers(1, 8))
def test_all_spans(lengths: list[int], max_width: int) -> None:
    expected = []
    first = 0
    for n in lengths:
        expected += [(first + i, first + j) for i in range(n) for j in range(i + 1, n + 1) if j - i <= max_width]
        first += n
    spans = all_spans(lengths, max_width, CPU)
    assert list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)) == expected


def test_end_states() -> None:
    layers = {layer: torch.randn(5, 2) for layer in (TOP, 0, 3)}
    found = end_states(WordStates(layers, (2, 3)), make_spans([(0, 2), (4, 5)]), [3, 0])
    expected = [layers[layer][[word, 4]] for word in (0, 1) for layer in (TOP, 3, 0)]
    assert all(map(torch.equal, found, expected))
    assert len(found) == 6


def test_document_bounds() -> None:
    first, end = document_bounds([2, 0, 3], CPU)
    assert first.tolist() == [0, 0, 2, 2, 2]
    assert end.tolist() == [2, 2, 5, 5, 5]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7])
def test_in_blocks(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    sizes: list[int] = []

    def widths(spans: Spans) -> torch.Tensor:
        sizes.append(len(spans.starts))
        return (spans.ends - spans.starts)[:, None]

    starts = torch.arange(n)
    assert in_blocks(widths, Spans(starts, 2 * starts + 1)).tolist() == [[i + 1] for i in range(n)]
    assert max(sizes) <= 3


def make_spans(bounds: list[tuple[int, int]]) -> Spans:
    starts, ends = zip(*bounds, strict=True) if bounds else ((), ())
    return Spans(torch.tensor(starts, dtype=torch.long), torch.tensor(ends, dtype=torch.long))
