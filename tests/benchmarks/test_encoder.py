from __future__ import annotations

import math
from typing import cast

import pytest
import torch

from entitykit.benchmarks import encoder, entities
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.pipelines import ENCODER, encoder_pipeline
from entitykit.benchmarks.table import run_benchmark
from entitykit.models.encoder.transformer import Pack, TransformerEncoder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "QUICK", encoder.Size(150, 2))
    monkeypatch.setattr(entities, "QUICK", entities.Size(150, 2, 2))


def test_end_to_end(settings: Settings) -> None:
    report = run_benchmark("encoder", settings)
    assert list(report.figures) == [key for part in encoder.PARTS for key in part.keys]
    for figure in report.figures.values():
        assert 0 < figure.low <= figure.value <= figure.high < math.inf
    details = report.settings["model"]
    assert details["pieces_read_twice"] >= 0
    assert 0 < details["padded_share_of_real_pieces"] <= 1


def test_figures_follow_from_the_times(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    times = {"entitykit": [2.0, 4.0], "padded": [6.0, 12.0], "sorted": [3.0, 6.0], "torch.mm": [1.0, 2.0], "oneDNN": [0.5, 1.0]}
    monkeypatch.setattr(encoder, "in_turn", lambda sides, rounds: {name: times[name] for name in sides})
    report = run_benchmark(
        "encoder", settings, only=["vs_padded", "vs_sorted", "onednn_vs_mkl", "of_matmul_rate", "of_onednn_rate"]
    )
    values = {key: figure.value for key, figure in report.figures.items()}
    assert (values["vs_padded"], values["vs_sorted"], values["onednn_vs_mkl"]) == (3.0, 1.5, 2.0)
    # products alone take half of the encoder's time; attention comes on top of what is computed in it
    details = report.settings["model"]
    assert values["of_matmul_rate"] == pytest.approx(details["gflops_encoder"] / details["gflops_torch_mm"])
    assert 0.5 < values["of_matmul_rate"] == 2 * values["of_onednn_rate"]


def test_operations_are_those_of_the_layers(settings: Settings) -> None:
    """Counted by torch on the same encoder, computed by layers that it can count."""
    from torch.utils.flop_counter import FlopCounterMode

    nlp = encoder_pipeline(settings)
    module = cast(TransformerEncoder, nlp.get_pipe(ENCODER).model.shims[0].module)  # type: ignore[attr-defined]
    lengths = (9, 9, 30)
    zeros = torch.zeros(sum(lengths), dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        module.double()(Pack(zeros, zeros, zeros, lengths), {module.settings.n_layers})
    expected = encoder.linear_operations(sum(lengths), module.settings)
    expected += encoder.attention_operations(lengths, module.settings)
    assert counter.get_total_flops() == expected


def test_padded_batches_hold_every_piece_once(settings: Settings) -> None:
    texts = ["Ada met the poet in London .", "It rained .", "The river was frozen for two weeks in the winter ."]
    hub, encoded = encoder._hub_model(settings, texts, longest=128)
    batches = encoder._hub_batches(hub, encoded, 2)
    assert [batch.input_ids.shape[0] for batch in batches] == [2, 1]
    found = [row[mask.bool()].tolist() for batch in batches for row, mask in zip(*batch, strict=True)]
    assert found == encoded


def test_share_of_real_pieces() -> None:
    assert encoder._real_share([1, 4, 3], 2) == 8 / (2 * 4 + 3)
