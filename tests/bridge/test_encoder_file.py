"""A training begins with the encoder of a trained pipeline, by whatever name it goes, with or without entity tokens."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from tokenizers import Tokenizer

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.encoder_file import find_encoder_file
from entitykit.errors import CheckpointError, ConfigError
from entitykit.models.encoder.settings import Injection, ProbeSettings
from entitykit.models.encoder.transformer import TransformerEncoder
from tests.pipelines import PROPOSING, READING, encoder_config, initialized, make_pipeline, train
from tests.util import N_LAYERS

ENCODER = "entitykit_encoder"
PACKAGE, FOLDER = "en_trained_before", "en_trained_before-1.2.3"


def load(name: Path | str, injection: Injection | None = None) -> TransformerEncoder:
    return load_checkpoint(str(name), word_shapes=None, n_layers=None, train_pieces=True, injection=injection)[0]


def trained(checkpoint: Path, path: Path, **encoder: Any) -> Language:
    nlp, examples = initialized(checkpoint, "span_ner", encoder=encoder)
    train(nlp, examples, 2)
    nlp.to_disk(path)
    return nlp


@pytest.fixture
def package(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A pipeline that is installed as a package."""
    folder = tmp_path / "site" / PACKAGE
    folder.mkdir(parents=True)
    trained(tiny_bert, folder / FOLDER)
    meta = {"lang": "en", "name": "trained_before", "version": "1.2.3"}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    (folder / "__init__.py").write_text("", encoding="utf-8")
    info = tmp_path / "site" / f"{PACKAGE}-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.2.3\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    invalidate_caches()
    yield PACKAGE
    sys.modules.pop(PACKAGE, None)


def of_nlp(nlp: Language) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = nlp.get_pipe(ENCODER).model.shims[0].module.state_dict()
    return state


def test_names_of_a_trained_encoder(tiny_bert: Path, tmp_path: Path, package: str) -> None:
    path = tmp_path / "site" / PACKAGE / FOLDER
    expected = of_nlp(spacy.load(path))
    assert not torch.equal(expected["layers.0.inner.weight"], load(tiny_bert).state_dict()["layers.0.inner.weight"])
    for name in (path, path / ENCODER, package):
        found = load(name).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items()), name
    assert find_encoder_file("minilm") is None
    assert find_encoder_file("pytest") is None  # a package, but no pipeline
    assert find_encoder_file(str(tiny_bert)) is None


def test_a_training_goes_on_from_it(package: str, tmp_path: Path) -> None:
    """Another head on the same encoder, saved and loaded without what it began with."""
    nlp, examples = initialized(Path(package), "spert")
    train(nlp, examples, 2)
    nlp.to_disk(tmp_path / "next")
    shutil.rmtree(tmp_path / "site" / PACKAGE)
    again = spacy.load(tmp_path / "next")
    for key, tensor in of_nlp(nlp).items():
        assert torch.equal(of_nlp(again)[key], tensor), key


@pytest.mark.parametrize("tokens", [False, True], ids=["pooled", "tokens"])
def test_an_encoder_without_tokens_gets_new_ones(tiny_bert: Path, tmp_path: Path, tokens: bool) -> None:
    """They begin as they would in a checkpoint of `transformers`: as masks, with the queries that the words have by now."""
    trained(tiny_bert, tmp_path / "nlp")
    injection = Injection(inject_layer=1, tokens=tokens, words_see_entities=tokens, probe=ProbeSettings(rank=4))
    plain, found = load(tiny_bert, injection), load(tmp_path / "nlp", injection)
    assert found.settings == plain.settings
    state, words = found.state_dict(), load(tmp_path / "nlp").state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in words.items())
    assert any(key.startswith("probe.") for key in state)
    if tokens:
        query = words["layers.1.attention.qkv.weight"][: plain.settings.width]
        assert torch.equal(state["layers.1.attention.of_entities.weight"], torch.cat([query, query]))
        assert torch.equal(state["layers.1.attention.of_words.weight"], query)
        mask = Tokenizer.from_file(str(tiny_bert / "tokenizer.json")).token_to_id("[MASK]")
        assert torch.equal(state["entities.ids.weight"][0], words["embeddings.pieces.weight"][mask])
        assert not state["entities.span.weight"].any()


def test_trained_tokens_stay(tiny_bert: Path, tmp_path: Path) -> None:
    nlp = trained(tiny_bert, tmp_path / "nlp", **READING)
    layer = READING["entities"]["inject_layer"]
    expected = of_nlp(nlp)
    found = load(tmp_path / "nlp", Injection(inject_layer=layer)).state_dict()
    assert {key for key in expected if key.startswith("entities.")} == {key for key in found if key.startswith("entities.")}
    assert all(torch.equal(expected[key], tensor) for key, tensor in found.items())
    with pytest.raises(ConfigError, match=rf"E007.*inject_layer is {1 - layer}; expected {layer}, in which"):
        load(tmp_path / "nlp", Injection(inject_layer=1 - layer))
    pooled = load(tmp_path / "nlp", Injection(inject_layer=1 - layer, tokens=False))  # without tokens any layer will do
    assert pooled.entities is None


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_layers_that_are_not_there(tiny_bert: Path, tmp_path: Path, layer: int) -> None:
    trained(tiny_bert, tmp_path / "nlp")
    with pytest.raises(ConfigError, match=rf"E007.*inject_layer is {layer}; expected 0-{N_LAYERS - 1}"):
        load(tmp_path / "nlp", Injection(inject_layer=layer, tokens=False))


@pytest.mark.parametrize("name", ["rank", "window"])
def test_a_probe_of_another_size(tiny_bert: Path, tmp_path: Path, name: str) -> None:
    nlp = trained(tiny_bert, tmp_path / "nlp", **READING)
    old = nlp.get_pipe(ENCODER).model.shims[0].module.settings.entities.probe
    other = replace(old, **{name: getattr(old, name) + 1})
    with pytest.raises(ConfigError, match=rf"E007.*{name} is {getattr(other, name)}; expected {getattr(old, name)}"):
        load(tmp_path / "nlp", Injection(inject_layer=1, probe=other))


def test_a_probe_in_another_layer_begins_anew(tiny_bert: Path, tmp_path: Path) -> None:
    nlp = trained(tiny_bert, tmp_path / "nlp", **PROPOSING)
    probe = nlp.get_pipe(ENCODER).model.shims[0].module.settings.entities.probe
    same, other = (
        load(tmp_path / "nlp", Injection(inject_layer=layer, tokens=False, probe=probe)).state_dict() for layer in (1, 0)
    )
    of_probe = {key: tensor for key, tensor in of_nlp(nlp).items() if key.startswith("probe.")}
    assert of_probe
    assert all(torch.equal(same[key], tensor) for key, tensor in of_probe.items())
    assert not all(torch.equal(other[key], tensor) for key, tensor in of_probe.items())


def test_a_pipeline_without_encoder(tiny_bert: Path, tmp_path: Path) -> None:
    spacy.blank("en").to_disk(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"E011.*none; expected one"):
        load(tmp_path / "none")
    nlp = make_pipeline(tiny_bert)
    nlp.add_pipe("entitykit_encoder", name="second", config=encoder_config(tiny_bert))
    nlp.initialize()
    nlp.to_disk(tmp_path / "two")
    with pytest.raises(CheckpointError, match=r"E011.*entitykit_encoder, second; expected one"):
        load(tmp_path / "two")
    assert load(tmp_path / "two/second") is not None
