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
    """One device: a CUDA device if there is one, or else the CPU."""

    n = 1
    number = 0

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, module: nn.Module) -> Any:
        """The module itself."""
        return module

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

    Raises:
        ConfigError: E131 without the library accelerate.
    """

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator, DistributedDataParallelKwargs
        except ImportError as reason:
            raise error("E131") from reason
        # a pass without entities leaves parts of the encoder without gradients
        handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
        self._accelerator = Accelerator(mixed_precision="no", kwargs_handlers=handlers)
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
