"""One softmax over several kinds of keys equals its formula, row by row, in value and in gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from entitykit.models.encoder import attention as module
from entitykit.models.encoder.attention import Part, attend, attend_in_one, attend_reference

Attend = Callable[[Sequence[Part], Part | None], Tensor]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


def by_loop(parts: Sequence[Part], own: Part | None = None) -> Tensor:
    """The module's formula for one query at a time; padding is left out."""
    batch, heads, n_queries, width = parts[0].query.shape
    rows = []
    for b in range(batch):
        for h in range(heads):
            for i in range(n_queries):
                scores, values = [], []
                for part in parts:
                    for j in range(part.key.shape[2]):
                        if part.padding is None or not part.padding[b, j]:
                            scores.append(part.query[b, h, i] @ part.key[b, h, j] / width**0.5)
                            values.append(part.value[b, h, j])
                if own is not None:
                    scores.append(own.query[b, h, i] @ own.key[b, h, i] / width**0.5)
                    values.append(own.value[b, h, i])
                exponentials = torch.stack(scores).sub(max(scores)).exp()
                rows.append((exponentials[:, None] * torch.stack(values)).sum(0) / exponentials.sum())
    return torch.stack(rows).view(batch, heads, n_queries, width)


def heads_of(rows: int, shape: tuple[int, int, int], *, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    """Random heads *(batch, heads, rows, width)*, in memory as a projection leaves them: (batch, rows, heads, width)."""
    batch, heads, width = shape
    return (scale * torch.randn(batch, rows, heads, width, dtype=dtype)).requires_grad_().transpose(1, 2)


def make_part(
    n_queries: int,
    n_keys: int,
    shape: tuple[int, int, int] = (2, 3, 4),
    *,
    padding: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
    scale: float = 1.0,
) -> Part:
    q, k, v = (heads_of(n, shape, dtype=dtype, scale=scale) for n in (n_queries, n_keys, n_keys))
    return Part(q, k, v, padding)


def tensors_of(parts: Sequence[Part], own: Part | None) -> list[Tensor]:
    return [tensor for part in [*parts, *([] if own is None else [own])] for tensor in part[:3]]


def gradients(run: Attend, parts: Sequence[Part], own: Part | None, direction: Tensor) -> list[Tensor]:
    """Zeros where everything of a part is padding."""
    loss = (run(parts, own) * direction).sum()
    return list(torch.autograd.grad(loss, tensors_of(parts, own), materialize_grads=True))


def check(parts: Sequence[Part], own: Part | None = None) -> None:
    """All forms give the loop's values and gradients."""
    expected = by_loop(parts, own)
    direction = torch.arange(expected.numel(), dtype=expected.dtype).cos().view_as(expected)
    expected_gradients = gradients(by_loop, parts, own, direction)
    tolerance = TOLERANCES[expected.dtype]
    for run in (attend, attend_in_one, attend_reference):
        torch.testing.assert_close(run(parts, own), expected, rtol=tolerance, atol=tolerance)
        found = gradients(run, parts, own, direction)
        torch.testing.assert_close(found, expected_gradients, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            torch.testing.assert_close(run(parts, own), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 9)),
    n_queries=st.integers(1, 5),
    keys=st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["none", "some", "whole-sequences"])), min_size=1, max_size=3),
    has_own=st.booleans(),
    dtype=st.sampled_from(list(TOLERANCES)),
    seed=st.integers(0, 999),
)
@example(shape=(2, 2, 4), n_queries=3, keys=[(3, "none"), (4, "whole-sequences")], has_own=False, dtype=torch.float64, seed=0)
@example(shape=(2, 2, 4), n_queries=3, keys=[(4, "whole-sequences")], has_own=True, dtype=torch.float64, seed=1)
def test_any_shapes(
    shape: tuple[int, int, int], n_queries: int, keys: list[tuple[int, str]], has_own: bool, dtype: torch.dtype, seed: int
) -> None:
    torch.manual_seed(seed)
    parts = []
    for i, (n_keys, kind) in enumerate(keys):
        padding = None
        if kind == "some":
            padding = torch.rand(shape[0], n_keys) < 0.5
        elif kind == "whole-sequences":  # this kind of keys is there in some sequences only
            padding = (torch.rand(shape[0], 1) < 0.5).expand(-1, n_keys).clone()
        if padding is not None and i == 0 and not has_own:
            padding[:, 0] = False  # something must be there
        parts.append(make_part(n_queries, n_keys, shape, padding=padding, dtype=dtype))
    check(parts, make_part(n_queries, n_queries, shape, dtype=dtype) if has_own else None)


@pytest.mark.parametrize("has_own", [False, True], ids=["parts", "own"])
@pytest.mark.parametrize("n_parts", [1, 2, 3])
def test_gradients_by_finite_differences(n_parts: int, has_own: bool) -> None:
    padding = torch.tensor([[False, False, True], [True, True, True]])
    parts = [make_part(3, 4), make_part(3, 3, padding=padding), make_part(3, 1)][:n_parts]
    own = make_part(3, 3) if has_own else None
    paddings = [part.padding for part in parts]

    def run(*tensors: Tensor) -> Tensor:
        triples = [tensors[i : i + 3] for i in range(0, len(tensors), 3)]
        of_own = Part(*triples.pop()) if has_own else None
        return attend([Part(*triple, padding) for triple, padding in zip(triples, paddings, strict=True)], of_own)

    assert torch.autograd.gradcheck(run, [tensor.detach().requires_grad_() for tensor in tensors_of(parts, own)])


def test_gradients_of_what_is_trained() -> None:
    """Frozen keys, such as those of a cached pass, leave the others' gradients as they are."""
    parts = [make_part(3, 4), make_part(3, 2)]
    frozen = [parts[0]._replace(key=parts[0].key.detach(), value=parts[0].value.detach()), parts[1]]
    leaves = [frozen[0].query, *frozen[1][:3]]
    found = torch.autograd.grad(attend(frozen).square().sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad(by_loop(frozen).square().sum(), leaves))
    assert not attend([Part(*(tensor.detach() for tensor in part[:3])) for part in parts]).requires_grad


@pytest.mark.parametrize("layout", ["expanded", "as-heads", "as-rows"])
def test_gradients_arrive_in_any_layout(layout: str) -> None:
    def run(attend: Attend, parts: Sequence[Part], own: Part | None) -> tuple[Tensor, ...]:
        out = attend(parts, own)
        if layout == "as-rows":
            out = out.transpose(1, 2).reshape(-1, 12)
        loss = out.sum() if layout == "expanded" else (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum()
        return torch.autograd.grad(loss, tensors_of(parts, own))

    parts, own = [make_part(5, 6), make_part(5, 3)], make_part(5, 5)
    torch.testing.assert_close(run(attend, parts, own), run(attend_reference, parts, own))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_tensors_in_any_layout(dtype: torch.dtype) -> None:
    """The kernel itself reads beyond the tensors where a head's numbers are no neighbours in memory."""

    def scattered(part: Part) -> Part:
        return Part(*(tensor.detach().transpose(0, 3).contiguous().requires_grad_().transpose(0, 3) for tensor in part[:3]))

    parts, own = [make_part(3, 4, dtype=dtype), make_part(3, 2, dtype=dtype)], make_part(3, 3, dtype=dtype)
    check([scattered(part) for part in parts], scattered(own))
    check([parts[0], scattered(parts[1])], own)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_more_rows_than_one_block_of_the_kernel(dtype: torch.dtype) -> None:
    padding = torch.rand(1, 700) < 0.2
    parts = [make_part(900, 600, (1, 2, 8), dtype=dtype), make_part(900, 700, (1, 2, 8), padding=padding, dtype=dtype)]
    own = make_part(900, 900, (1, 2, 8), dtype=dtype)
    direction = torch.randn(1, 2, 900, 8, dtype=dtype)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(attend(parts, own), attend_reference(parts, own), rtol=tolerance, atol=tolerance)
    found, expected = (gradients(run, parts, own, direction) for run in (attend, attend_reference))
    torch.testing.assert_close(found, expected, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("run", [attend, attend_in_one])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, run: Attend) -> None:
    """Values and gradients have the inputs' precision, and are near those of the same numbers in double precision."""
    padding = torch.tensor([[False, False, True], [False, True, True]])
    parts, own = [make_part(5, 7, dtype=dtype), make_part(5, 3, padding=padding, dtype=dtype)], make_part(5, 5, dtype=dtype)
    exact = [
        part._replace(**{name: getattr(part, name).double() for name in ("query", "key", "value")}) for part in (*parts, own)
    ]
    out, expected = run(parts, own), attend_reference(exact[:-1], exact[-1])
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, rtol=0.02, atol=0.02)
    direction = torch.randn_like(expected)
    found = gradients(run, parts, own, direction.to(dtype))
    for gradient, of_exact in zip(found, gradients(attend_reference, exact[:-1], exact[-1], direction), strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient.double(), of_exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("run", [attend, attend_in_one])
def test_large_scores_do_not_overflow(run: Attend) -> None:
    """One part's largest score lies hundreds above the other's, which then has no weight."""
    parts = [make_part(3, 4, dtype=torch.float32), make_part(3, 2, dtype=torch.float32, scale=30.0)]
    found, expected = run(parts, None), attend_reference(parts)
    assert found.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(g.isfinite().all() for g in gradients(run, parts, None, torch.ones_like(found)))


@pytest.mark.parametrize("n_parts", [1, 2])
def test_rows_that_have_no_keys_at_all(n_parts: int) -> None:
    """What such a row attends to means nothing; it is finite, and no other sequence notices."""
    padding = torch.tensor([[True] * 3, [False] * 3])
    parts = [make_part(4, 3, padding=padding, dtype=torch.float32) for _ in range(n_parts)]
    out = attend(parts)
    assert out.isfinite().all()
    direction = torch.ones_like(out)
    assert all(g.isfinite().all() for g in gradients(attend, parts, None, direction))
    alone = [Part(*(tensor[1:] for tensor in part[:3])) for part in parts]
    torch.testing.assert_close(out[1:], by_loop(alone), rtol=1e-5, atol=1e-5)
    direction[0] = 0  # such rows are not read
    found = gradients(attend, parts, None, direction)
    assert not any(g[0].any() for g in found)
    expected = torch.autograd.grad(by_loop(alone).sum(), tensors_of(parts, None))
    torch.testing.assert_close(found, list(expected), rtol=1e-5, atol=1e-5)


def test_no_memory_for_each_query() -> None:
    """Of thousands of tokens in a window, the padding's bias has one row."""
    bias = make_part(5000, 3, padding=torch.zeros(2, 3, dtype=torch.bool)).bias
    assert bias is not None
    assert bias.shape == (2, 1, 5000, 3)
    assert bias.untyped_storage().nbytes() == 2 * 3 * 8


def test_where_the_kernel_does_not_tell_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: one call of the device's fused attention, and no scores of our own."""
    parts, own = [make_part(3, 4), make_part(3, 2)], make_part(3, 3)
    monkeypatch.setattr(module, "attend_reference", None)
    expected = attend(parts, own)
    monkeypatch.setattr(module, "_HAS_FLASH", False)
    torch.testing.assert_close(attend(parts, own), expected)
