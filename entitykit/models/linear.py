"""Matrix products: the package's linear layer, which takes oneDNN's kernel on CPUs.

torch sends single-precision products on x86 to MKL, which on AMD processors leaves more than half of the machine idle; oneDNN,
which every torch build carries, does not (docs/benchmarks.md has the ratio that `entitykit benchmark encoder` measures). The
operator is the one that torch's own compiler emits. Where it is missing, for few numbers, and for others than float32 on a CPU,
the layer is `torch.nn.Linear`. Within `bf16_products`, what is trained is multiplied in bfloat16 by processors that have
instructions for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_LEAST = 2**20
"""Multiplications from which oneDNN pays: it takes about 30 µs to begin, in which torch's own product has made as many."""
_PRECISION: ContextVar[torch.dtype] = ContextVar("_PRECISION", default=torch.float32)


def has_bf16_products() -> bool:
    """Whether this processor multiplies matrices in bfloat16 faster than in float32 (AVX512-BF16 or AMX)."""
    capabilities = torch.cpu.get_capabilities()
    return _HAS_ONEDNN and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


@contextmanager
def bf16_products(*, enabled: bool = True) -> Iterator[None]:
    """Multiply in bfloat16 for a while, where `linear` is differentiated on a CPU and `has_bf16_products`.

    Both factors are rounded to bfloat16, sums are accumulated in float32, results rounded and given as float32: what
    ``torch.autocast`` does to a linear layer, in its backward products, too. Weights, norms and attention stay in float32.
    """
    token = _PRECISION.set(torch.bfloat16 if enabled and has_bf16_products() else torch.float32)
    try:
        yield
    finally:
        _PRECISION.reset(token)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """``activation(x @ weight.T + bias)`` by oneDNN, outside autograd."""
    algorithm = "none" if activation == "gelu" else ""
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm))


class _OneDnnLinear(torch.autograd.Function):
    """A linear map whose forward and both backward products run in oneDNN, in the precision of `bf16_products`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        precision = _PRECISION.get()
        n_rows = len(x)
        x, weight = _padded(x, precision), weight.to(precision)
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return _product(x, weight, bias if bias is None else bias.to(precision))[:n_rows].float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        dy = _padded(grads[0], x.dtype).contiguous()
        dx = _product(dy, weight.t())[: len(grads[0])].float() if ctx.needs_input_grad[0] else None
        dw = _product(dy.t(), x.t()).float() if ctx.needs_input_grad[1] else None
        db = grads[0].sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return dx, dw, db


def n_padded(n_rows: int) -> int:
    """Rows of a product for which oneDNN has not to make another kernel for each number: 16 numbers per doubling, at least 8.

    It keeps the kernels of a thousand shapes, 0.6 MB each, and each new one parts the free memory around it, so that a training
    whose batches all differ would grow by gigabytes.
    """
    step = max(8, 1 << max(n_rows - 1, 0).bit_length() >> 5)
    return -(-n_rows // step) * step


def _padded(x: Tensor, precision: torch.dtype) -> Tensor:
    """`x` in the given precision, with rows of zeros up to `n_padded`."""
    n_rows, n_all = len(x), n_padded(len(x))
    if n_rows == n_all:
        return x.to(precision)
    padded = x.new_empty(n_all, x.shape[1], dtype=precision)
    padded[:n_rows] = x
    padded[n_rows:] = 0.0
    return padded


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute ``x @ weight.T + bias``.

    Args:
        x: *(rows, n_in)*.
        weight: *(n_out, n_in)*.
        bias: *(n_out,)* or none.

    Returns:
        *(rows, n_out)*.
    """
    if not _takes_onednn(x, weight):
        return F.linear(x, weight, bias)
    if _needs_gradient(x, weight, bias):
        return cast(Tensor, _OneDnnLinear.apply(x, weight, bias))  # type: ignore[no-untyped-call]
    return _product(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x @ weight.T + bias)`` (exact, by the error function); shapes as in `linear`."""
    if _takes_onednn(x, weight) and not _needs_gradient(x, weight, bias):
        return _product(x, weight, bias, "gelu")
    return F.gelu(linear(x, weight, bias))


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` for packed rows *(rows, n_in)*, computed by `linear`."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return linear(x, self.weight, self.bias)


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    usable = _HAS_ONEDNN and x.dim() == 2 and x.shape[0] * weight.numel() > _LEAST
    return usable and all(t.device.type == "cpu" and t.dtype == torch.float32 for t in (x, weight))
