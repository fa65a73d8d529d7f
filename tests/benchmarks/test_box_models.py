"""The world of boxes read, and answered, by tiny random models of all kinds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from entitykit.benchmarks import tracking
from entitykit.benchmarks.box_models import thing_states, write_answers
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.corpora.boxes import BoxesSettings, describe_box, worlds
from entitykit.errors import CheckpointError
from tests import language_models, seq2seq
from tests.language_models import save_language_model
from tests.seq2seq import save_bart, save_t5

TEXTS = ["Box 0 contains the cup, Box 1 is empty. Move the cup from Box 0 to Box 1.", "Put the key into Box 1."]
THINGS = [["cup"], ["key"]]
PROBE = ["boxes_accuracy_probe", "boxes_changed_probe", "boxes_things_probe", "boxes_accuracy_probe_ops0"]
WRITTEN = ["boxes_accuracy_written", "boxes_changed_written"]


@pytest.fixture(autouse=True)
def longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models with room for a world in pieces that are hardly longer than a character."""
    for module in (language_models, seq2seq):
        monkeypatch.setattr(module, "MAX_PIECES", 4096)


def on(settings: Settings, path: Path) -> Settings:
    return replace(settings, encoder={**settings.encoder, "name": str(path)})


def save(kind: str, path: Path) -> Path:
    savers = {"bart": save_bart, "t5": save_t5}
    return savers[kind](path) if kind in savers else save_language_model(path, kind)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bart", "t5"])
def test_every_kind_is_probed(kind: str, settings: Settings, tmp_path: Path) -> None:
    report = run_benchmark("tracking", on(settings, save(kind, tmp_path / kind)), only=PROBE)
    assert report.figures.keys() == set(PROBE)
    assert all(0 <= figure.value <= 1 for figure in report.figures.values())


def test_states_of_an_encoder_are_its_own(settings: Settings, tmp_path: Path) -> None:
    path = save_bart(tmp_path)
    found = thing_states(on(settings, path), TEXTS, THINGS)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()
    for row, text, (thing,) in zip(found, TEXTS, THINGS, strict=True):
        start = text.rindex(thing)
        pieces = tokenizer(text, return_offsets_mapping=True)
        with torch.no_grad():
            states = model.get_encoder()(torch.tensor([pieces["input_ids"]]))[0][0].numpy()
        own = [i for i, (a, b) in enumerate(pieces["offset_mapping"]) if a < start + len(thing) and b > start and a < b]
        np.testing.assert_allclose(row, states[own].mean(0), rtol=1e-4, atol=1e-5)


def test_a_decoder_reads_what_happens_before_it_is_asked(settings: Settings, tmp_path: Path) -> None:
    there = on(settings, save_language_model(tmp_path, "gpt2"))
    moved = "Put the key into Box 1. Move the key from Box 1 to Box {}."
    one, other = thing_states(there, [moved.format(0), moved.format(2)], [["key"], ["key"]])
    assert not np.allclose(one, other, atol=1e-4)


def greedy(path: Path, prompt: str, n: int) -> str:
    """The likeliest pieces, each by a pass of its own over all before it."""
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    ids = tokenizer(prompt)["input_ids"]
    for _ in range(n):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == model.config.eos_token_id:
            break
    return str(tokenizer.decode(ids[len(tokenizer(prompt)["input_ids"]) :], skip_special_tokens=True))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_answers_are_the_likeliest_pieces(kind: str, tmp_path: Path) -> None:
    path = save_language_model(tmp_path, kind)
    expected = [re.split(r"[.,\n]", greedy(path, text, 40).lstrip())[0].strip() for text in TEXTS]
    assert list(write_answers(str(path), TEXTS)) == expected


def test_right_answers_are_right(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last box of a prompt is asked about, after two shown answers that are right, too."""
    known = {
        tracking.ask(world, "box", step=step, box=box): describe_box(state[box])
        for world in worlds(BoxesSettings(), n=tracking.QUICK_WORLDS)
        for step, state in enumerate(world.states)
        for box in range(len(state))
    }

    def answers(_: str, prompts: Sequence[str]) -> list[str]:
        for line in (line for prompt in prompts for line in prompt.split("\n")[:-1]):
            assert any(line == f"{asked} {answer}." for asked, answer in known.items())
        return [known[prompt.split("\n")[-1]] for prompt in prompts]

    monkeypatch.setattr(tracking, "write_answers", answers)
    report = run_benchmark("tracking", settings, only=[*WRITTEN, "boxes_accuracy_written_ops0"])
    assert {figure.value for key, figure in report.figures.items() if "accuracy" in key} == {1.0}


def test_answers_of_a_random_decoder(settings: Settings, tmp_path: Path) -> None:
    report = run_benchmark("tracking", on(settings, save_language_model(tmp_path, "gpt2")), only=WRITTEN)
    assert len(report.settings["boxes_accuracy_written"]["first answers"]) == 7


def test_checkpoints_that_cannot(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="E449.*a decoder that writes"):
        run_benchmark("tracking", settings, only=WRITTEN)
    monkeypatch.setattr(seq2seq, "MAX_PIECES", 32)
    with pytest.raises(CheckpointError, match="E449.*reads at most 32 pieces"):
        thing_states(on(settings, save_bart(tmp_path / "bart")), TEXTS, THINGS)
    monkeypatch.setattr(language_models, "MAX_PIECES", 64)
    with pytest.raises(CheckpointError, match="E449.*reads at most 64 pieces"):
        list(write_answers(str(save_language_model(tmp_path / "gpt2", "gpt2")), TEXTS))
