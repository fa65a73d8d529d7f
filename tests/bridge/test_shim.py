"""The shim builds its module from settings that it saves, and trains it with any optimizer."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from thinc.api import Adam, Model
from torch import nn
from torch.nn import functional as F

from entitykit.bridge import shim as module_of_shim
from entitykit.bridge.shim import TorchShim
from entitykit.errors import CheckpointError, ConfigError
from entitykit.models import linear
from tests.util import can_multiply_in_bf16

SETTINGS = {"width": 3, "labels": ["A", "B"]}


def build(settings: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(settings["width"], len(settings["labels"])), nn.Dropout(0.5))


def make_shim(**options: Any) -> TorchShim:
    shim = TorchShim(build, group="head", **options)
    shim.create(SETTINGS)
    return shim


def equal(a: TorchShim, b: TorchShim) -> bool:
    states = a.module.state_dict(), b.module.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[1][name], x) for name, x in states[0].items())


def test_not_built() -> None:
    shim = TorchShim(build, group="head")
    assert not shim.is_built
    with pytest.raises(ConfigError, match=r"E101.*nlp\.initialize"):
        _ = shim.module
    assert not shim.copy().is_built
    assert not TorchShim(build, group="head").from_bytes(shim.to_bytes()).is_built
    with shim.use_params({(shim.id, "0.weight"): torch.ones(1)}):
        pass


def test_bytes() -> None:
    shim = make_shim()
    loaded = TorchShim(build, group="head").from_bytes(shim.to_bytes())
    assert loaded.settings == SETTINGS
    assert equal(loaded, shim)


def test_pickle() -> None:
    shim = make_shim(storage="fp16")
    loaded = pickle.loads(pickle.dumps(shim))
    assert equal(loaded, shim)
    assert (loaded.settings, loaded.storage) == (SETTINGS, "fp16")


def test_copy_is_independent() -> None:
    shim = make_shim(storage="fp16")
    other = shim.copy()
    assert equal(other, shim)
    assert other.id != shim.id
    assert (other.settings, other.storage, other.group) == (SETTINGS, "fp16", "head")
    with torch.no_grad():
        other.module[0].weight += 1
    other.settings["labels"].append("C")
    assert not equal(other, shim)
    assert shim.settings == SETTINGS


@pytest.mark.parametrize("data", [b"", b"x", bytes(100)])
def test_damaged_bytes(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"E005.*'here'"):
        TorchShim(build, group="head").from_bytes(data, path="here")


def test_truncated_bytes() -> None:
    data = make_shim().to_bytes()
    with pytest.raises(CheckpointError, match="E005"):
        TorchShim(build, group="head").from_bytes(data[:-1])


def build_other(settings: Mapping[str, Any]) -> nn.Module:
    return nn.Linear(settings["size"], 1)


def build_larger(settings: Mapping[str, Any]) -> nn.Module:
    return nn.Sequential(nn.Linear(settings["width"] + 1, 2))


@pytest.mark.parametrize("builder", [build_other, build_larger])
def test_bytes_of_another_model(builder: Any) -> None:
    with pytest.raises(CheckpointError, match="E005"):
        TorchShim(builder, group="head").from_bytes(make_shim().to_bytes())


def test_bytes_that_do_not_fit_change_nothing() -> None:
    shim = TorchShim(build_larger, group="head")
    shim.create(SETTINGS)
    before, other = shim.copy(), make_shim()
    with pytest.raises(CheckpointError, match="E005"):
        shim.from_bytes(other.to_bytes())
    assert shim.settings == SETTINGS
    assert equal(shim, before)
    empty = TorchShim(build_larger, group="head")
    with pytest.raises(CheckpointError, match="E005"):
        empty.from_bytes(other.to_bytes())
    assert not empty.is_built


def test_modes() -> None:
    shim = make_shim()
    with shim.mode(is_train=True) as module:
        assert module.training
        assert torch.is_grad_enabled()
    with shim.mode(is_train=False) as module:
        assert not module.training
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()


@pytest.mark.skipif(not can_multiply_in_bf16(), reason="oneDNN has no bfloat16 on this processor")
def test_bf16_on_a_cpu_is_for_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions are those of single precision, and nobody is warned at every call."""
    monkeypatch.setattr(linear, "has_bf16_products", lambda: True)
    monkeypatch.setattr(linear, "_LEAST", 0)
    shim = TorchShim(lambda settings: linear.Linear(3, 2), group="encoder", bf16=True)
    shim.create({})
    x = torch.tensor([[1.001, 2.003, 3.007]])
    exact = F.linear(x, shim.module.weight, shim.module.bias)
    with shim.mode(is_train=False) as module:
        torch.testing.assert_close(module(x), exact, rtol=1e-6, atol=1e-6)
    with shim.mode(is_train=True) as module:
        rounded = module(x)
    assert rounded.dtype == torch.float32
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded, exact)


def test_one_thread_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a process has inherited none of its parent's threads, and torch would wait for them for ever."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with make_shim().mode(is_train=False):
            assert torch.get_num_threads() == 2
        monkeypatch.setattr(module_of_shim, "_PROCESS", -1)
        with make_shim().mode(is_train=False):
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(n_threads)


def test_dropout_reaches_the_module() -> None:
    shim = make_shim()
    shim.set_dropout(0.0)
    with shim.mode(is_train=True) as module:
        assert torch.equal(module(torch.ones(1, 3)), module(torch.ones(1, 3)))


def test_adam_of_thinc() -> None:
    """It moves every parameter against its gradient by the rate, and takes the gradient away."""
    shim = make_shim()
    model = Model("test", lambda model, x, is_train: (x, lambda y: y), shims=[shim])
    before = {name: x.detach().clone() for name, x in shim.module.named_parameters()}
    with shim.mode(is_train=True) as module:
        module[0](torch.tensor([[1.0, -2.0, 3.0]])).sum().backward()
    signs = {name: x.grad.sign() for name, x in shim.module.named_parameters()}
    model.finish_update(Adam(0.01))
    for name, parameter in shim.module.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.01 * signs[name], rtol=1e-4, atol=1e-5)
        assert parameter.grad is None
    model.finish_update(Adam(0.01))  # nothing to do


def test_module_stays_the_same_object_under_thinc() -> None:
    """An optimizer of torch keeps references to parameters."""
    shim = make_shim()
    parameter = shim.module[0].weight
    for _ in range(2):
        shim.module[0](torch.ones(1, 3)).sum().backward()
        shim.finish_update(Adam(0.1))
    with shim.use_params({(shim.id, "0.weight"): torch.zeros(2, 3)}):
        assert not shim.module[0].weight.any()
    assert shim.module[0].weight is parameter
    assert parameter.any()
