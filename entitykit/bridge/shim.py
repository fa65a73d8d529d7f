"""The shim that lets thinc own a torch module: training modes, updates, averages, and weights as safetensors."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from thinc.api import Optimizer, Shim, get_torch_default_device, torch2xp, xp2torch
from torch import nn

from entitykit.bridge.weights import Storage, dump_weights, parse_weights
from entitykit.errors import error
from entitykit.models.precision import compute_in_bf16

Build = Callable[[Mapping[str, Any]], nn.Module]

_PROCESS = os.getpid()


class TorchShim(Shim):
    """A torch module that may not exist yet, the settings it is built from, and how it is stored and trained.

    Args:
        build: a module-level function that builds the module from settings.
        group: ``encoder`` or ``head``; `entitykit.AdamW.v1` has a learning rate for each.
        storage: precision of saved weights, see `entitykit.bridge.weights`.
        bf16: run the module with `compute_in_bf16`.
    """

    def __init__(self, build: Build, *, group: str, storage: Storage = "fp32", bf16: bool = False) -> None:
        super().__init__(None)
        self.build = build
        self.group = group
        self.storage = storage
        self.bf16 = bf16
        self.settings: dict[str, Any] = {}

    @property
    def is_built(self) -> bool:
        """Whether the module exists: it does after `create`, `adopt` or `from_bytes`."""
        return self._model is not None

    @property
    def module(self) -> nn.Module:
        """The torch module.

        Raises:
            ConfigError: E101 before it was built.
        """
        if self._model is None:
            raise error("E101")
        return cast(nn.Module, self._model)

    @property
    def device(self) -> torch.device:
        """Where the module's parameters are, or would be if it had any."""
        parameter = next(self.module.parameters(), None)
        return get_torch_default_device() if parameter is None else parameter.device

    def create(self, settings: Mapping[str, Any]) -> None:
        """Build the module anew from settings (JSON values)."""
        self.adopt(self.build(settings), settings)

    def adopt(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        """Take a module that was built elsewhere from these settings."""
        self.settings = dict(settings)
        self._model = module.to(get_torch_default_device())
        module.eval()

    @contextmanager
    def mode(self, *, is_train: bool) -> Iterator[nn.Module]:
        """Run the module for training (with graph and dropout) or for prediction."""
        module = self.module
        _leave_threads_of_parent()
        module.train(is_train)
        with torch.set_grad_enabled(is_train), compute_in_bf16(self.device, enabled=self.bf16):
            yield module

    def set_dropout(self, rate: float) -> None:
        """Set every dropout of the module, which thinc's own `set_dropout_rate` cannot reach."""
        for part in self.module.modules():
            if isinstance(part, nn.Dropout):
                part.p = rate

    def finish_update(self, optimizer: Optimizer) -> None:
        """Apply and clear the gradients, by torch's AdamW for `entitykit.AdamW.v1`, else parameter by parameter in thinc."""
        if hasattr(optimizer, "step_module"):
            optimizer.step_module(self.id, self.group, self.module)
            return
        for name, parameter in self.module.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                arrays: Any = torch2xp(parameter.data), torch2xp(gradient)
                new, _ = optimizer((self.id, name), *arrays)
                parameter.data = xp2torch(new, device=parameter.device)
                parameter.grad = None

    @contextmanager
    def use_params(self, params: Mapping[Any, Any]) -> Iterator[None]:
        """Put averaged weights in the module for a while.

        Args:
            params: `(shim id, parameter name)` to array, such as an optimizer's `averages`.
        """
        if self._model is None:
            yield
            return
        backup: dict[str, torch.Tensor] = {}
        parameters = dict(self.module.named_parameters())
        for name, parameter in parameters.items():
            if (self.id, name) in params:
                backup[name] = parameter.data
                values = params[self.id, name]
                parameter.data = (values if isinstance(values, torch.Tensor) else xp2torch(values)).to(parameter.data)
        try:
            yield
        finally:
            for name, values in backup.items():
                parameters[name].data = values

    def copy(self) -> TorchShim:
        """A shim of its own with equal weights."""
        other = TorchShim(self.build, group=self.group, storage=self.storage, bf16=self.bf16)
        if self._model is not None:
            other.adopt(copy.deepcopy(self._model), copy.deepcopy(self.settings))
        return other

    def to_device(self, device_type: str, device_id: int) -> None:
        """Move the module (thinc's names: ``cpu`` or ``gpu``)."""
        if self._model is not None:
            self._model.to("cpu" if device_type == "cpu" else f"cuda:{device_id}")

    def to_bytes(self) -> bytes:
        """Settings and weights as one safetensors file, which is empty if the module was not built."""
        if self._model is None:
            return dump_weights({}, {})
        return dump_weights(self._model.state_dict(), self.settings, storage=self.storage)

    def from_bytes(self, data: bytes, *, path: str = "bytes") -> TorchShim:
        """Build the module and load what `to_bytes` gave; what cannot be loaded leaves the shim as it was.

        Raises:
            CheckpointError: E005 if the bytes are damaged, or do not fit the module; E010 for weights that are not finite.
        """
        tensors, settings = parse_weights(data, path=path)
        if not settings:
            return self
        try:
            module = self.build(settings)
            module.load_state_dict(tensors)
        except (RuntimeError, TypeError, KeyError) as reason:
            raise error("E005", path=path, reason=" ".join(str(reason).split())[:300]) from reason
        self.adopt(module, settings)
        return self


def _leave_threads_of_parent() -> None:
    """Use one thread in a forked process, such as spaCy's ``n_process`` starts: torch would wait for ever for its parent's."""
    if os.getpid() != _PROCESS and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
