"""Checkpoints that the encoder cannot run are refused by name; what it can run is read completely."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, BertConfig, BertModel, DistilBertConfig, LukeConfig, LukeModel, RobertaConfig

from entitykit.errors import CheckpointError, ConfigError
from entitykit.models.encoder.families import convert_weights, settings_from_config
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import TransformerEncoder

SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}
LUKE = SIZES | {"entity_vocab_size": 7, "entity_emb_size": 6, "max_position_embeddings": 34, "type_vocab_size": 1}


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
        (BertConfig(is_decoder=True).to_dict(), "setting is_decoder 'True'"),
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


def test_entity_settings_of_luke() -> None:
    """They are the checkpoint's own: vocabulary, size, queries, and a table of positions in which none is left out."""
    injection = Injection(inject_layer=1, words_see_entities=True)
    settings = settings_from_config(LukeConfig(**LUKE).to_dict(), name="", injection=injection)
    entities = settings.entities
    assert (settings.n_positions, settings.first_position, settings.n_layers) == (34, 2, 3)
    assert (entities.inject_layer, entities.words_see_entities, entities.entities_see_entities) == (1, True, False)
    assert (entities.vocab_size, entities.embedding_width, entities.mask) == (7, 6, 2)
    assert (entities.n_positions, entities.max_pieces, entities.own_queries) == (34, 30, True)
    one_query = LukeConfig(**LUKE, use_entity_aware_attention=False).to_dict()
    assert not settings_from_config(one_query, name="", injection=injection).entities.own_queries


def test_entity_settings_of_a_checkpoint_without_any() -> None:
    settings = settings_from_config(RobertaConfig(**SIZES).to_dict(), name="", injection=Injection(inject_layer=2))
    entities = settings.entities
    assert (entities.vocab_size, entities.embedding_width, entities.mask) == (1, 16, 0)
    assert (entities.n_positions, entities.max_pieces, entities.own_queries) == (settings.n_positions - 2, 0, True)


@pytest.mark.parametrize("kind", [BertConfig, LukeConfig])
@pytest.mark.parametrize("layer", [-1, 3, 4])
def test_tokens_must_begin_below_the_last_layer(kind: type[BertConfig | LukeConfig], layer: int) -> None:
    config = kind(**SIZES).to_dict()
    with pytest.raises(ConfigError, match=rf"E007.*inject_layer is {layer}; expected 0-2, a layer below the last of 'mine'"):
        settings_from_config(config, name="mine", injection=Injection(inject_layer=layer))


@pytest.mark.parametrize("words_see_entities", [False, True])
@pytest.mark.parametrize("inject_layer", [0, 1, 2])
@pytest.mark.parametrize("changes", [{}, {"entity_emb_size": 16}, {"use_entity_aware_attention": False}], ids=str)
def test_every_weight_of_luke_has_its_place(changes: dict[str, object], inject_layer: int, words_see_entities: bool) -> None:
    """And nothing that is needed may be missing."""
    model = LukeModel(LukeConfig(**(LUKE | changes)))
    config, tensors = model.config.to_dict(), model.state_dict()
    injection = Injection(inject_layer=inject_layer, words_see_entities=words_see_entities)
    settings = settings_from_config(config, name="", injection=injection)
    weights = convert_weights(tensors, config, settings, name="")
    new = {"entities.span.weight"} if inject_layer else set()  # no checkpoint has it
    expected = TransformerEncoder(settings).state_dict()
    assert {name: tensor.shape for name, tensor in weights.items()} == {
        name: tensor.shape for name, tensor in expected.items() if name not in new
    }
    unused = [f"layer.{i}.attention.self.{query}_query" for i in range(inject_layer) for query in ("w2e", "e2w", "e2e")]
    unused += ["pooler", "position_ids"] + ([] if words_see_entities else ["w2e_query"])
    needed = [name for name in tensors if not any(part in name for part in unused)]
    for name in needed:
        with pytest.raises(CheckpointError, match=rf"E004.*'mine' has no tensor '{name}'"):
            convert_weights({k: v for k, v in tensors.items() if k != name}, config, settings, name="mine")
    assert convert_weights({name: tensors[name] for name in needed}, config, settings, name="mine").keys() == weights.keys()


def test_luke_without_entity_tokens_is_a_roberta() -> None:
    model = LukeModel(LukeConfig(**LUKE))
    config = model.config.to_dict()
    settings = settings_from_config(config, name="")
    assert settings.entities is None
    of_entities = ("entity_embeddings", "w2e_query", "e2w_query", "e2e_query")
    tensors = {name: tensor for name, tensor in model.state_dict().items() if not any(part in name for part in of_entities)}
    weights = convert_weights(tensors, config, settings, name="")
    assert weights.keys() == TransformerEncoder(settings).state_dict().keys()


@pytest.mark.parametrize("words_see_entities", [False, True])
def test_tokens_begin_as_masked_pieces(words_see_entities: bool) -> None:
    """In a checkpoint that has none, they have the words' queries, and are copies: what one learns the other does not."""
    model = BertModel(BertConfig(**SIZES))
    config = model.config.to_dict()
    injection = Injection(inject_layer=1, words_see_entities=words_see_entities)
    settings = settings_from_config(config, name="", injection=injection)
    weights = convert_weights(model.state_dict(), config, settings, name="", mask_piece=4)
    assert weights.keys() | {"entities.span.weight"} == TransformerEncoder(settings).state_dict().keys()
    assert torch.equal(weights["entities.ids.weight"], model.embeddings.word_embeddings.weight[4:5])
    assert torch.equal(weights["entities.positions.weight"], weights["embeddings.positions.weight"])
    query = model.encoder.layer[2].attention.self.query.weight
    assert torch.equal(weights["layers.2.attention.of_entities.weight"], torch.cat([query, query]))
    assert "layers.0.attention.of_entities.weight" not in weights
    assert ("layers.2.attention.of_words.weight" in weights) == words_see_entities
    pointers = [tensor.data_ptr() for tensor in weights.values()]
    assert len({*pointers}) == len(pointers)
