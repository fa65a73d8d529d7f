"""One device by torch alone, or all that `accelerate launch` was told of."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from entitykit.errors import error


class Devices(Protocol):
    """What the training loop must know of the devices.

    Attributes:
        device: this process's.
        n: processes.
        number: this process's.
    """

    device: torch.device
    n: int
    number: int

    def wrap(self, module: nn.Module) -> Any:
        """Make a module that computes at the chosen precision, and adds up its gradients over all processes."""

    def hold(self, wrapped: Any) -> AbstractContextManager[Any]:
        """Keep gradients for oneself for a while."""

    def total(self, values: Tensor) -> Tensor:
        """Add up values over all processes."""

    def wait(self) -> None:
        """Wait for all processes."""


class OneDevice:
    """One device: a CUDA device if there is one, or else the CPU.

    Args:
        bf16: compute in bfloat16 if it is a CUDA device that can.
    """

    n = 1
    number = 0

    def __init__(self, *, bf16: bool) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._bf16 = bf16 and has_bf16()

    def wrap(self, module: nn.Module) -> Any:
        """A function that runs the module."""

        def run(*args: Any) -> Any:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
                return module(*args)

        return run

    def hold(self, wrapped: Any) -> AbstractContextManager[Any]:
        """Nothing to do."""
        return nullcontext()

    def total(self, values: Tensor) -> Tensor:
        """The same values."""
        return values

    def wait(self) -> None:
        """Nothing to wait for."""


class Accelerated:
    """All processes of `accelerate launch`; one, if it was not used.

    Args:
        bf16: compute in bfloat16 if the CUDA devices can.

    Raises:
        ConfigError: E131 without the library accelerate.
    """

    def __init__(self, *, bf16: bool) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError as reason:
            raise error("E131") from reason
        # a pass without entities leaves parts of the encoder without gradients
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        precision = "bf16" if bf16 and has_bf16() else "no"
        self._accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=handlers)
        self.device: torch.device = self._accelerator.device
        self.n: int = self._accelerator.num_processes
        self.number: int = self._accelerator.process_index

    def wrap(self, module: nn.Module) -> Any:
        """The module as accelerate prepares it."""
        return self._accelerator.prepare_model(module)

    def hold(self, wrapped: Any) -> AbstractContextManager[Any]:
        """Keep gradients for oneself for a while."""
        return self._accelerator.no_sync(wrapped)

    def total(self, values: Tensor) -> Tensor:
        """Add up values over all processes."""
        return self._accelerator.reduce(values, reduction="sum")

    def wait(self) -> None:
        """Wait for all processes."""
        self._accelerator.wait_for_everyone()


def has_bf16() -> bool:
    """Whether there is a CUDA device that computes in bfloat16."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
