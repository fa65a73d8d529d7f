"""Computing in bfloat16, on the devices that do it faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from entitykit.models.linear import bf16_products


@contextmanager
def compute_in_bf16(device: torch.device, *, enabled: bool = True) -> Iterator[None]:
    """Compute in bfloat16 for a while: by autocast on CUDA devices that can, by `bf16_products` on CPUs.

    Args:
        device: where the tensors are.
        enabled: false to change nothing.
    """
    on_cuda = enabled and device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    with torch.autocast("cuda", torch.bfloat16, enabled=on_cuda), bf16_products(enabled=enabled):
        yield
