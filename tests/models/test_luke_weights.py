"""Checkpoints of LUKE's tasks are read completely, tied or not saved twice, and refused where something is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    LukeForEntityClassification,
    LukeForEntityPairClassification,
    LukeForEntitySpanClassification,
    LukeForMaskedLM,
)

from entitykit.errors import CheckpointError
from entitykit.models.luke import ClassifierSettings, LukeNER, LukeRelations, LukeTyping
from entitykit.models.luke_weights import load_classifier, load_entity_vocabulary, load_word_vocabulary
from tests.luke import MASK, SIZES, make_model, make_packs, make_window, split_model, their_input

N_LABELS = 5
WIDTH = SIZES["hidden_size"]
Load = Callable[..., Any]


@torch.no_grad()
def test_saved_checkpoint_without_what_is_tied(tmp_path: Path) -> None:
    model = make_model(LukeForMaskedLM)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert "lm_head.decoder.weight" not in tensors
    encoder, weights = split_model(model, tensors=tensors)
    assert not any(name.startswith("luke.") for name in weights)
    window = make_window(9, (MASK, 1, 3), (7, 4, 5))
    pack, entities = make_packs([window])
    encoded = encoder.with_entities(pack, (3,), lambda _: entities)
    theirs = model(**their_input(window))
    config = model.config.to_dict()
    for given in (tensors, weights, model.state_dict()):
        of_entities = load_entity_vocabulary(given, config, name="")
        torch.testing.assert_close(
            of_entities(encoded.entities, encoder.entities.ids.weight), theirs.entity_logits[0], rtol=0, atol=1e-5
        )
        of_pieces = load_word_vocabulary(given, config, name="")
        torch.testing.assert_close(
            of_pieces(encoded.layers[3], encoder.embeddings.pieces.weight), theirs.logits[0], rtol=0, atol=1e-5
        )


CLASSIFIERS = {
    LukeNER: (LukeForEntitySpanClassification, ["classifier.weight", "classifier.bias"]),
    LukeTyping: (LukeForEntityClassification, ["classifier.weight", "classifier.bias"]),
    LukeRelations: (LukeForEntityPairClassification, ["classifier.weight"]),
}
VOCABULARIES = {
    load_entity_vocabulary: [
        f"entity_predictions.{part}" for part in ("transform.dense.bias", "transform.LayerNorm.weight", "bias")
    ],
    load_word_vocabulary: [f"lm_head.{part}" for part in ("dense.weight", "layer_norm.bias", "bias")],
}


@pytest.mark.parametrize("head", CLASSIFIERS, ids=lambda head: head.__name__)
def test_incomplete_or_other_classifier(head: type[Any]) -> None:
    kind, names = CLASSIFIERS[head]
    model = make_model(kind, num_labels=N_LABELS)
    config, tensors = model.config.to_dict(), model.state_dict()
    loaded = load_classifier(head, {name: tensor.half() for name, tensor in tensors.items()}, config, name="mine")
    assert loaded.settings == ClassifierSettings(width=WIDTH, n_labels=N_LABELS, dropout=0.1)
    assert all(parameter.dtype == torch.float32 for parameter in loaded.parameters())
    assert [f"classifier.{name.removeprefix('outer.')}" for name, _ in loaded.named_parameters()] == names
    for name in names:
        with pytest.raises(CheckpointError, match=rf"E004.*'mine' has no tensor '{name}'"):
            load_classifier(head, {k: v for k, v in tensors.items() if k != name}, config, name="mine")
    for other in CLASSIFIERS.keys() - {head}:
        with pytest.raises(CheckpointError, match=rf"E003.*'mine' has the classifier 'of {head.n_states * WIDTH} inputs'"):
            load_classifier(other, tensors, config, name="mine")


@pytest.mark.parametrize("load", VOCABULARIES, ids=lambda load: load.__name__)
def test_incomplete_vocabulary(load: Load) -> None:
    model = make_model(LukeForMaskedLM)
    for name in VOCABULARIES[load]:
        tensors = {k: v for k, v in model.state_dict().items() if k != name}
        with pytest.raises(CheckpointError, match=rf"E004.*'mine' has no tensor '{name}'"):
            load(tensors, model.config.to_dict(), name="mine")


@pytest.mark.parametrize(("load", "name"), [(load_word_vocabulary, "lm_head"), (load_entity_vocabulary, "entity_predictions")])
def test_vocabulary_that_is_not_tied(load: Load, name: str) -> None:
    """Its own output embedding would be lost."""
    model = make_model(LukeForMaskedLM)
    tensors = model.state_dict()
    tensors[f"{name}.decoder.weight"] = tensors[f"{name}.decoder.weight"] + 1
    message = rf"E003.*the output embedding '{name}\.decoder\.weight'"
    with pytest.raises(CheckpointError, match=message):
        split_model(model, tensors=tensors)
    with pytest.raises(CheckpointError, match=message):
        load(tensors, model.config.to_dict(), name="tiny")


def test_incomplete_encoder() -> None:
    model = make_model(LukeForEntityClassification)
    tensors = model.state_dict()
    del tensors["luke.encoder.layer.1.attention.self.e2w_query.bias"]
    with pytest.raises(
        CheckpointError, match=r"E004.*'tiny' has no tensor 'encoder\.layer\.1\.attention\.self\.e2w_query\.bias'"
    ):
        split_model(model, tensors=tensors)
    encoder_only = {name.removeprefix("luke."): tensor for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="E004"):
        split_model(model, tensors=encoder_only)
