"""The oneDNN product equals torch's in value and in every gradient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from entitykit.models import linear as module
from entitykit.models.linear import Linear, bf16_products, linear, linear_gelu, n_padded
from tests.util import can_multiply_in_bf16

SIZES = st.integers(1, 70)


@pytest.fixture(autouse=True, scope="module")
def _however_few() -> Iterator[None]:
    """oneDNN multiplies small matrices, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LEAST", 0)
        yield


def close(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor | None]:
    direction = torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()
    return list(torch.autograd.grad(y, [x for x in inputs if x.requires_grad], direction))


@given(rows=SIZES, n_in=SIZES, n_out=SIZES, has_bias=st.booleans(), transposed=st.booleans(), gelu=st.booleans())
def test_value_and_gradients(rows: int, n_in: int, n_out: int, has_bias: bool, transposed: bool, gelu: bool) -> None:
    x = torch.randn(n_in, rows).t() if transposed else torch.randn(rows, n_in)
    inputs = [x.requires_grad_(), (torch.randn(n_out, n_in) / n_in**0.5).requires_grad_()]
    has_bias = has_bias or gelu
    if has_bias:
        inputs.append(torch.randn(n_out, requires_grad=True))
    found = linear_gelu(*inputs) if gelu else linear(*inputs)
    expected = F.linear(*inputs)
    if gelu:
        expected = F.gelu(expected)
    close(found, expected)
    close(gradients(found, inputs), gradients(expected, inputs))
    with torch.no_grad():
        close(linear_gelu(*inputs) if gelu else linear(*inputs), expected)


@pytest.mark.parametrize("trained", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_gradients_of_what_is_trained(trained: tuple[int, ...]) -> None:
    """Frozen weights with trained biases, among others, learn."""
    inputs = [torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)]
    for i in trained:
        inputs[i].requires_grad_()
    close(gradients(linear(*inputs), inputs), gradients(F.linear(*inputs), inputs))
    close(gradients(linear_gelu(*inputs), inputs), gradients(F.gelu(F.linear(*inputs)), inputs))


def test_no_rows() -> None:
    layer = Linear(4, 3)
    y = layer(torch.zeros(0, 4))
    assert y.shape == (0, 3)
    y.sum().backward()
    assert not layer.weight.grad.any()


def test_other_precisions_go_to_torch() -> None:
    layer = Linear(4, 3).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.skipif(not module._HAS_ONEDNN, reason="this build of torch has no oneDNN")
def test_torch_multiplies_few_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as few as `_LEAST` products, it is done before oneDNN begins."""
    monkeypatch.setattr(module, "_LEAST", 6 * 4 * 3)
    products: list[int] = []
    product = module._product
    monkeypatch.setattr(module, "_product", lambda x, *rest: products.append(len(x)) or product(x, *rest))
    layer = Linear(4, 3)
    for n_rows in (6, 7):
        x = torch.randn(n_rows, 4)
        with torch.no_grad():
            close(layer(x), F.linear(x, layer.weight, layer.bias))
    assert products == [7]


@pytest.mark.skipif(not module._HAS_ONEDNN, reason="this build of torch has no oneDNN")
def test_onednn_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three products of a training step and the one of prediction."""
    calls: list[tuple[int, ...]] = []
    product = module._product

    def count(x: Tensor, *args: object) -> Tensor:
        calls.append(tuple(x.shape))
        return product(x, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_product", count)
    layer = Linear(4, 3)
    layer(torch.randn(5, 4, requires_grad=True)).sum().backward()
    assert calls == [(8, 4), (8, 3), (3, 8)]  # see `n_padded`
    with torch.no_grad():
        layer(torch.randn(5, 4))
    assert len(calls) == 4


@given(st.integers(1, 100_000))
def test_numbers_of_rows(n_rows: int) -> None:
    padded = n_padded(n_rows)
    assert n_rows <= padded < max(n_rows * 17 / 16, n_rows + 8)
    assert n_padded(padded) == padded
    assert len({n_padded(n) for n in range(1025, 2049)}) == 16


@pytest.mark.skipif(not module._HAS_ONEDNN, reason="this build of torch has no oneDNN")
def test_few_kernels_for_many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shape that oneDNN has not seen costs memory that is not given back."""
    shapes = set()
    product = module._product

    def count(x: Tensor, weight: Tensor, *args: object) -> Tensor:
        shapes.add((*x.shape, *weight.shape))
        return product(x, weight, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_product", count)
    layer = Linear(4, 3)
    for n_rows in range(513, 1025):
        layer(torch.ones(n_rows, 4, requires_grad=True)).sum().backward()
    assert len(shapes) == 3 * 16


@pytest.mark.skipif(not can_multiply_in_bf16(), reason="oneDNN has no bfloat16 on this processor")
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_in_bfloat16(monkeypatch: pytest.MonkeyPatch, has_bias: bool) -> None:
    """Factors are rounded, sums are not, results are; gradients stay float32, after the context has ended, too."""
    monkeypatch.setattr(module, "has_bf16_products", lambda: True)
    inputs = [torch.randn(50, 300), torch.randn(20, 300) / 17, *([torch.randn(20)] if has_bias else [])]
    rounded = [x.bfloat16().double().requires_grad_() for x in inputs]
    for x in inputs:
        x.requires_grad_()
    with bf16_products():
        found = linear(*inputs)
    expected = F.linear(*rounded)
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)
    direction = torch.randn(50, 20)
    gradients = torch.autograd.grad(found, inputs, direction)
    of_rounded = torch.autograd.grad(expected, rounded, direction.bfloat16().double())
    for gradient, exact in zip(gradients[:2], of_rounded[:2], strict=True):
        assert gradient.dtype == torch.float32
        torch.testing.assert_close(gradient.double(), exact, rtol=2**-8, atol=1e-5)
    if has_bias:
        torch.testing.assert_close(gradients[2], direction.sum(0))


def test_bfloat16_is_for_training_and_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(5, 40), torch.randn(30, 40)
    exact = F.linear(x, weight)
    with bf16_products():
        close(linear(x, weight), exact)
        with bf16_products(enabled=False):
            close(linear(x, weight.requires_grad_()), exact)
    monkeypatch.setattr(module, "has_bf16_products", lambda: False)
    with bf16_products():
        close(linear(x, weight), exact)
