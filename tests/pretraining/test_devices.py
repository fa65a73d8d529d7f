"""Several processes learn what they say they do, killed or not; bfloat16 learns what single precision does."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import socket
from pathlib import Path

import pytest
import torch

from entitykit.bridge.weights import parse_weights
from entitykit.models import linear
from entitykit.pretraining.loop import Report, Step, pretrain
from entitykit.pretraining.settings import PretrainSettings
from tests.pretraining.util import sentences, small, write
from tests.util import can_multiply_in_bf16

KILLED, DIED = 4, 9  # the step, and the exit code of a process that ends without a word


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus") / "links.jsonl", sentences())


def weights(output: Path) -> dict[str, torch.Tensor]:
    return parse_weights((output / "model/entitykit_encoder.safetensors").read_bytes())[0]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def one_of_two(settings: PretrainSettings, rank: int, port: int, until: int) -> None:
    """A process with the environment in which `accelerate launch` and `torchrun` start one; it dies after the step `until`."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in numbers.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    importlib.import_module("accelerate.state").AcceleratorState._reset_state(True)  # what another test has left in the parent

    def die(step: Step) -> None:
        if step.step == until:
            os._exit(DIED)

    pretrain(settings, Report(step=die))
    os._exit(0)


def run_two(settings: PretrainSettings, *, until: int = 0) -> list[int | None]:
    """Both processes' exit codes; when the first dies, the second is killed."""
    context, port = multiprocessing.get_context("fork"), free_port()
    pair = [context.Process(target=one_of_two, args=(settings, rank, port, until)) for rank in (0, 1)]
    for process in pair:
        process.start()
    pair[0].join(60)
    if until:
        pair[1].kill()
    pair[1].join(60)
    return [process.exitcode for process in pair]


def test_two_processes_killed_and_not(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """A training that was killed and started again ends where one ends that was not."""
    pytest.importorskip("accelerate")
    whole, broken = (small(corpus, tiny_bert, tmp_path / name, accelerate=True) for name in ("whole", "broken"))
    assert run_two(whole) == [0, 0]
    assert run_two(broken, until=KILLED)[0] == DIED
    assert not (tmp_path / "broken/model").exists()
    assert [path.name for path in (tmp_path / "broken/checkpoints").iterdir()] == ["step-00000003"]
    assert run_two(broken) == [0, 0]
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "broken")]
    assert [json.loads(line)["step"] for line in logs[0]] == [1, 2, 3, 4, 5, 6]
    for one, two in zip(*logs, strict=True):
        assert json.loads(two) == pytest.approx(json.loads(one), rel=1e-5)
    expected = weights(tmp_path / "whole")
    for name, tensor in weights(tmp_path / "broken").items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-5)


@pytest.mark.skipif(not can_multiply_in_bf16(), reason="oneDNN has no bfloat16 on this processor")
def test_bfloat16_on_the_cpu(corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products are made in half the numbers; weights, gradients and losses stay in single precision."""
    monkeypatch.setattr(linear, "has_bf16_products", lambda: True)
    monkeypatch.setattr(linear, "_LEAST", 0)
    found: dict[bool, list[Step]] = {}
    for bf16 in (False, True):
        steps: list[Step] = []
        settings = small(corpus, tiny_bert, tmp_path / str(bf16), bf16=bf16)
        pretrain(settings, Report(step=steps.append))
        found[bf16] = steps
    for exact, rounded in zip(found[False], found[True], strict=True):
        assert rounded.words == pytest.approx(exact.words, rel=0.02)
        assert rounded.entities == pytest.approx(exact.entities, rel=0.05)
    assert found[True] != found[False]
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in weights(tmp_path / "True").values())
