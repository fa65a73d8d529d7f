"""Checkpoints that the encoder cannot run are refused by name; what it can run is read completely."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, BertConfig, DistilBertConfig, RobertaConfig

from entitykit.errors import CheckpointError
from entitykit.models.encoder.families import convert_weights, settings_from_config


def test_settings_of_each_family() -> None:
    bert = settings_from_config(BertConfig(hidden_size=48, num_attention_heads=4).to_dict(), name="")
    assert (bert.width, bert.n_layers, bert.n_heads, bert.inner_width) == (48, 12, 4, 3072)
    assert (bert.n_positions, bert.first_position, bert.layer_norm_eps, bert.dropout) == (512, 0, 1e-12, 0.1)
    roberta = settings_from_config(RobertaConfig(layer_norm_eps=1e-5, max_position_embeddings=514).to_dict(), name="")
    assert (roberta.n_positions, roberta.first_position, roberta.layer_norm_eps) == (514, 2, 1e-5)
    distilbert = settings_from_config(
        DistilBertConfig(dim=64, n_layers=3, n_heads=2, hidden_dim=9, dropout=0.3).to_dict(), name=""
    )
    assert (distilbert.width, distilbert.n_layers, distilbert.n_heads, distilbert.inner_width) == (64, 3, 2, 9)
    assert (distilbert.layer_norm_eps, distilbert.dropout) == (1e-12, 0.3)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (AutoConfig.for_model("gpt2").to_dict(), "model type 'gpt2'"),
        ({}, "model type 'None'"),
        (BertConfig(hidden_act="relu").to_dict(), "activation 'relu'"),
        (DistilBertConfig(activation="relu").to_dict(), "activation 'relu'"),
        (BertConfig(position_embedding_type="relative_key").to_dict(), "kind of positions 'relative_key'"),
    ],
    ids=str,
)
def test_other_models_are_refused(config: dict[str, object], found: str) -> None:
    with pytest.raises(CheckpointError, match=rf"E003.*'mine' has the {found}"):
        settings_from_config(config, name="mine")


def test_missing_tensor() -> None:
    config = BertConfig().to_dict()
    with pytest.raises(CheckpointError, match=r"E004.*'mine' has no tensor 'embeddings\.position_embeddings\.weight'"):
        convert_weights({"x": torch.zeros(1)}, config, settings_from_config(config, name=""), name="mine")
