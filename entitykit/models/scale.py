"""Temperatures that are learned, as the logarithm of what scores are multiplied by."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

MAX_SCALE = 100.0
"""Scores are multiplied by no more than this, as in CLIP (Radford et al. 2021): beyond, training becomes unstable."""


def bounded_scale(log_scale: Tensor) -> Tensor:
    """``exp(log_scale)``, but no more than `MAX_SCALE`; what has gone beyond can be learned back."""
    return cast(Tensor, _Scale.apply(log_scale))  # type: ignore[no-untyped-call]


class _Scale(torch.autograd.Function):
    """``exp(x)``, but no more than `MAX_SCALE`. Beyond, gradients pass that lead back, and those that lead on do not."""

    @staticmethod
    def forward(ctx: Any, log_scale: Tensor) -> Tensor:
        scale = log_scale.exp()
        bounded = scale.clamp_max(MAX_SCALE)
        ctx.save_for_backward(bounded, scale > MAX_SCALE)
        return bounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        bounded, beyond = ctx.saved_tensors
        gradient = grads[0] * bounded
        return torch.where(beyond, gradient.clamp_min(0), gradient)
