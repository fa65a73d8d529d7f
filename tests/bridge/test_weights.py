"""Stored weights come back bit by bit, or within a bound that follows from the format; damaged files are refused."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from entitykit.bridge.weights import STORAGES, Storage, dump_weights, parse_weights
from entitykit.errors import CheckpointError

SETTINGS = {"width": 3, "labels": ["PER", "Ö"], "nested": {"rate": 0.1, "none": None}}
N_ROWS = 4097  # the smallest matrix that int8 quantizes


def tensors() -> dict[str, Tensor]:
    """Numbers of every size, rows of zeros, and names that look like those of scales."""
    rows = torch.logspace(-9, 4, N_ROWS)[:, None] * torch.randn(N_ROWS, 5)
    rows[7] = 0
    return {
        "embeddings.weight": rows,
        "layer.weight": torch.randn(8, 4) * 10,
        "layer.bias": torch.tensor([0.0, -0.0, 1e-8, 6e4]),
        "norm.scale": torch.randn(4),
        "theta": torch.tensor(1.5),
        "strided": torch.randn(4, 3).t(),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("storage", STORAGES)
def test_settings_names_and_shapes(storage: Storage) -> None:
    before = tensors()
    after, settings = parse_weights(dump_weights(before, SETTINGS, storage=storage))
    assert settings == SETTINGS
    assert {name: tensor.shape for name, tensor in after.items()} == {name: tensor.shape for name, tensor in before.items()}
    assert all(tensor.dtype == torch.float32 for tensor in after.values())


def test_fp32_keeps_every_bit() -> None:
    before = tensors() | {"special": torch.tensor([1e-45, 3.4e38, -3.4e38])}
    after, _ = parse_weights(dump_weights(before, {}))
    for name, tensor in before.items():
        assert torch.equal(after[name].view(torch.int32), tensor.contiguous().view(torch.int32)), name


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("value", [float("inf"), float("nan")], ids=str)
def test_numbers_that_are_not_finite(storage: Storage, value: float) -> None:
    for name, row in (("layer.weight", 1), ("embeddings.weight", N_ROWS - 1)):
        spoiled = tensors()
        spoiled[name][row, -1] = value
        with pytest.raises(CheckpointError, match=rf"E010.*'my\.safetensors' .*'{name}'"):
            parse_weights(dump_weights(spoiled, SETTINGS, storage=storage), path="my.safetensors")


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_error_bounds(storage: Storage) -> None:
    before = tensors()
    after, _ = parse_weights(dump_weights(before, {}, storage=storage))
    for name, tensor in before.items():
        if storage == "int8" and name == "embeddings.weight":
            # half a step of the row; dividing and multiplying round three times
            step = tensor.abs().amax(1, keepdim=True) / 127
            bound = step / 2 + 3 * 2**-24 * tensor.abs()
        else:
            # eleven significant bits, and below 2^-14 a fixed step of 2^-24
            bound = (tensor.abs() * 2**-11).clamp_min(2**-25)
        assert ((after[name] - tensor).abs() <= bound).all(), name


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_numbers_beyond_half_precision_are_kept(storage: Storage) -> None:
    before = {"large": torch.tensor([1.0, 1e6])}
    after, _ = parse_weights(dump_weights(before, {}, storage=storage))
    assert torch.equal(after["large"], before["large"])


def test_sizes() -> None:
    matrix = {"x": torch.randn(N_ROWS, 64)}
    sizes = [len(dump_weights(matrix, {}, storage=storage)) for storage in STORAGES]
    header = 300
    assert sizes[0] == pytest.approx(4 * matrix["x"].numel(), abs=header)
    assert sizes[1] == pytest.approx(2 * matrix["x"].numel(), abs=header)
    assert sizes[2] == pytest.approx(matrix["x"].numel() + 4 * N_ROWS, abs=header)


@pytest.mark.parametrize("storage", STORAGES)
def test_saving_again_changes_nothing(storage: Storage) -> None:
    first = dump_weights(tensors(), SETTINGS, storage=storage)
    second = dump_weights(*parse_weights(first), storage=storage)
    third = dump_weights(*parse_weights(second), storage=storage)
    before, after = (parse_weights(data)[0] for data in (first, third))
    for name, tensor in before.items():
        # int8: the same integers; a row's scale may be rounded in its last bit
        torch.testing.assert_close(after[name], tensor, rtol=2**-23 if storage == "int8" else 0, atol=0)
    assert third == second


@pytest.mark.parametrize("storage", STORAGES)
@given(cut=st.integers(0, 10_000))
def test_truncated_file(storage: Storage, cut: int) -> None:
    data = dump_weights({"x": torch.ones(5, 5), "y": torch.ones(N_ROWS, 2)}, SETTINGS, storage=storage)
    with pytest.raises(CheckpointError, match=r"E005.*'my\.safetensors'"):
        parse_weights(data[: cut % len(data)], path="my.safetensors")


@pytest.mark.parametrize("header", [[], 5, {}, {"__metadata__": None}, {"__metadata__": {"settings": "{"}}], ids=str)
def test_damaged_header(header: object) -> None:
    text = json.dumps(header).encode()
    with pytest.raises(CheckpointError, match="E005"):
        parse_weights(len(text).to_bytes(8, "little") + text)


def test_missing_scale() -> None:
    data = dump_weights({"x": torch.ones(N_ROWS, 2)}, {}, storage="int8")
    assert data.count(b'"x.scale"') == 1
    with pytest.raises(CheckpointError, match="E005"):
        parse_weights(data.replace(b'"x.scale"', b'"x.sgale"'))


@given(data=st.binary(max_size=200))
def test_any_other_file(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="E005"):
        parse_weights(data)
