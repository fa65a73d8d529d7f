"""NaN and infinite numbers are refused where they come in: in checkpoints, in saved pipelines, and in losses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import spacy
import torch
from safetensors.torch import load_file, save_file
from spacy.language import Language
from torch import Tensor

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.early_lm import load_early_lm
from entitykit.bridge.tommer_files import load_tommer
from entitykit.errors import CheckpointError, ConfigError
from tests.bridge.test_tommer_files import make_tensors, save_probe
from tests.pipelines import READING, annotations, encoder_module, encoder_weights, fast_optimizer, finish, initialized, train

WEIGHTS = "model.safetensors"


def spoil(tensor: Tensor, value: float) -> None:
    """Change the last number only."""
    with torch.no_grad():
        tensor.view(-1)[-1] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("early_lm", [False, True], ids=["encoder", "EarlyLM"])
def test_checkpoint(tiny_bert: Path, tmp_path: Path, value: float, early_lm: bool) -> None:
    """The message has the checkpoint's own name for the tensor; what is not read does not matter."""
    path = shutil.copytree(tiny_bert, tmp_path / "copy")
    tensors = load_file(path / WEIGHTS)

    def load(n_layers: int) -> object:
        save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})
        if early_lm:
            return load_early_lm(str(path), n_layers=n_layers, bos=True, frozen=True)
        return load_checkpoint(str(path), word_shapes=None, n_layers=n_layers, train_pieces=True)

    spoil(tensors["pooler.dense.weight"], value)
    load(2)
    spoil(tensors["encoder.layer.1.output.dense.weight"], value)
    load(1)
    with pytest.raises(CheckpointError, match=r"E010.*copy' .*'encoder\.layer\.1\.output\.dense\.weight'"):
        load(2)


def spoiled(nlp: Language, name: str, path: Path) -> Path:
    module = encoder_module(nlp)
    spoil(module.get_parameter(name), float("nan"))
    nlp.to_disk(path)
    return path


@pytest.mark.parametrize("name", ["layers.1.outer.weight", "probe.theta"], ids=["layer", "probe only"])
def test_saved_pipeline(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    """Read whole, and as the checkpoint of another encoder."""
    nlp, _ = initialized(tiny_bert, "span_ner", encoder=READING)
    path = spoiled(nlp, name, tmp_path / "nlp")
    with pytest.raises(CheckpointError, match=rf"E010.*entitykit_encoder/weights\.safetensors'.*'{name}'"):
        spacy.load(path)
    with pytest.raises(CheckpointError, match=rf"E010.*'{name}'"):
        load_checkpoint(str(path / "entitykit_encoder"), word_shapes=None, n_layers=None, train_pieces=True)


def test_head_of_a_saved_pipeline(tiny_bert: Path, tmp_path: Path) -> None:
    nlp, _ = initialized(tiny_bert, "mentions")
    spoil(nlp.get_pipe("mentions").head.query.weight, float("inf"))  # type: ignore[attr-defined]
    nlp.to_disk(tmp_path / "nlp")
    with pytest.raises(CheckpointError, match=r"E010.*mentions/weights\.safetensors'.*'query\.weight'"):
        spacy.load(tmp_path / "nlp")


def test_released_probe(tmp_path: Path) -> None:
    tensors = make_tensors()
    spoil(tensors["W_K"], float("nan"))
    with pytest.raises(CheckpointError, match="E010.*'W_K'"):
        load_tommer(str(save_probe(tmp_path / "probe", tensors)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_loss(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Nothing is learned from it, and what was learned before stays."""
    nlp, examples = initialized(tiny_bert, "mentions", "span_ner")
    train(nlp, examples, 3)
    before, found = encoder_weights(nlp), annotations(nlp(examples[0].text))
    head = nlp.get_pipe("span_ner").head  # type: ignore[attr-defined]
    loss: Callable[..., Tensor] = head.loss
    with monkeypatch.context() as patched:
        patched.setattr(head, "loss", lambda *given: loss(*given) * value)
        with pytest.raises(ConfigError, match=rf"E118.*'span_ner' is {value}"):
            nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    assert torch.equal(encoder_weights(nlp), before)
    assert annotations(nlp(examples[0].text)) == found
    assert train(nlp, examples, 1)[0]["span_ner"] > 0
    finish(nlp, fast_optimizer())
    assert encoder_weights(nlp).isfinite().all()


@pytest.mark.parametrize("kind", ["linker", "linker_state", "reranker", "entqa", "salience_cross", "tracker", "coref"])
def test_loss_of_every_kind_of_update(tiny_bert: Path, kind: str) -> None:
    """Where a weight became NaN during the training."""
    nlp, examples = initialized(tiny_bert, kind)
    train(nlp, examples, 1)
    for parameter in nlp.get_pipe(kind).model.shims[0].module.parameters():  # type: ignore[attr-defined]
        with torch.no_grad():
            parameter.fill_(float("nan"))
    with pytest.raises(ConfigError, match=rf"E118.*'{kind}' is nan"):
        train(nlp, examples, 1)
