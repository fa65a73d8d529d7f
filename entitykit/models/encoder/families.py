"""From the names that `transformers` gives the weights of BERT, RoBERTa, XLM-R, DistilBERT and LUKE models to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from entitykit.errors import error
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings, Injection


@dataclass(frozen=True)
class Family:
    """How one model type names its settings and weights.

    Attributes:
        keys: our setting to the key in ``config.json``.
        layer: prefix of layer `{i}`.
        parts: our part of a layer to its name; `q`, `k` and `v` are joined into one.
        behind_padding: position ids begin behind the padding piece's id, and not at 0.
    """

    keys: Mapping[str, str]
    layer: str
    parts: Mapping[str, str]
    behind_padding: bool = False


_BERT_KEYS = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "inner_width": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_eps": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "activation": "hidden_act",
}
_BERT_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "attention.out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "inner": "intermediate.dense",
    "outer": "output.dense",
    "norm": "output.LayerNorm",
}
_BERT = Family(_BERT_KEYS, "encoder.layer.{i}.", _BERT_PARTS)
_ROBERTA = Family(_BERT_KEYS, "encoder.layer.{i}.", _BERT_PARTS, behind_padding=True)
_DISTILBERT = Family(
    {
        "vocab_size": "vocab_size",
        "width": "dim",
        "n_layers": "n_layers",
        "n_heads": "n_heads",
        "inner_width": "hidden_dim",
        "n_positions": "max_position_embeddings",
        "dropout": "dropout",
        "activation": "activation",
    },
    "transformer.layer.{i}.",
    {
        "q": "attention.q_lin",
        "k": "attention.k_lin",
        "v": "attention.v_lin",
        "attention.out": "attention.out_lin",
        "attention_norm": "sa_layer_norm",
        "inner": "ffn.lin1",
        "outer": "ffn.lin2",
        "norm": "output_layer_norm",
    },
)
FAMILIES: Mapping[str, Family] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "luke": _ROBERTA,
}
LUKE_PIECES = "max_mention_length"
"""A token's position is the mean over so many pieces of its mention: what LUKE's tokenizer has a setting for."""
LUKE_MASK = "entity_mask_id"
"""The row of [MASK] in the entity vocabulary."""
_DEFAULTS = {LUKE_PIECES: 30, LUKE_MASK: 2}


def family_of(config: Mapping[str, Any], *, name: str) -> Family:
    """Find how a checkpoint names its weights.

    Args:
        config: the content of its ``config.json``.
        name: the checkpoint, for messages.

    Raises:
        CheckpointError: E003 for a model type that the encoder cannot run.
    """
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        raise error("E003", name=name, what="model type", found=model_type, expected=", ".join(FAMILIES))
    return FAMILIES[model_type]


def settings_from_config(
    config: Mapping[str, Any],
    *,
    name: str,
    n_shapes: int = 0,
    train_pieces: bool = True,
    injection: Injection | None = None,
) -> EncoderSettings:
    """Read a checkpoint's ``config.json``.

    Args:
        config: its content; of LUKE, what other files say may be among it, as `LUKE_PIECES` and `LUKE_MASK`.
        name: the checkpoint, for messages.
        n_shapes: rows of the word-shape embedding; 0 for none.
        train_pieces: learn piece embeddings.
        injection: entity tokens; none for words only.

    Raises:
        CheckpointError: E003 for a decoder, or for a model type, activation or kind of positions that the encoder has not.
    """
    family = family_of(config, name=name)
    values = {ours: config[theirs] for ours, theirs in family.keys.items() if theirs in config}
    activation = values.pop("activation", "gelu")
    if activation != "gelu":
        raise error("E003", name=name, what="activation", found=activation, expected="gelu")
    positions = config.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise error("E003", name=name, what="kind of positions", found=positions, expected="absolute")
    if config.get("is_decoder"):
        raise error("E003", name=name, what="setting is_decoder", found=True, expected="false: words see those after them, too")
    first_position = config.get("pad_token_id", 1) + 1 if family.behind_padding else 0
    plain = EncoderSettings(**values, first_position=first_position, n_shapes=n_shapes, train_pieces=train_pieces)
    if injection is None:
        return plain
    if not 0 <= injection.inject_layer < plain.n_layers:
        expected = f"0-{plain.n_layers - 1}, a layer below the last of '{name}'"
        raise error("E007", setting="inject_layer", found=injection.inject_layer, expected=expected)
    return replace(plain, entities=_entity_settings(config, plain, injection))


def _entity_settings(config: Mapping[str, Any], plain: EncoderSettings, injection: Injection) -> EntitySettings:
    chosen = {**vars(injection)}
    if config.get("model_type") != "luke":
        return EntitySettings(**chosen, embedding_width=plain.width, n_positions=plain.n_positions - plain.first_position)
    return EntitySettings(
        **chosen,
        vocab_size=config["entity_vocab_size"],
        embedding_width=config["entity_emb_size"],
        mask=config.get(LUKE_MASK, _DEFAULTS[LUKE_MASK]),
        own_queries=config.get("use_entity_aware_attention", True),
        n_positions=plain.n_positions,
        max_pieces=config.get(LUKE_PIECES, _DEFAULTS[LUKE_PIECES]),
    )


def convert_weights(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], settings: EncoderSettings, *, name: str, mask_piece: int = 0
) -> dict[str, Tensor]:
    """Rename the tensors of a `transformers` model to those of `TransformerEncoder`.

    The embedding of the only token type that is used is added to the positions.

    Args:
        tensors: the model's state dict.
        config: its ``config.json``.
        settings: from `settings_from_config`.
        name: the checkpoint, for messages.
        mask_piece: id of the [MASK] piece, with which entity tokens begin in checkpoints that have none.

    Returns:
        A state dict without what no checkpoint has: word-shape embedding, probe, and the projection of a span's states.

    Raises:
        CheckpointError: E004 for a tensor that is missing, E010 for one with NaN or infinite numbers.
    """
    family = family_of(config, name=name)

    def get(key: str) -> Tensor:
        return get_tensor(tensors, key, name)

    positions = get("embeddings.position_embeddings.weight")
    if config.get("type_vocab_size", 0):
        positions = positions + get("embeddings.token_type_embeddings.weight")[0]
    weights = {
        "embeddings.pieces.weight": get("embeddings.word_embeddings.weight"),
        "embeddings.positions.weight": positions,
        "embeddings.norm.weight": get("embeddings.LayerNorm.weight"),
        "embeddings.norm.bias": get("embeddings.LayerNorm.bias"),
    }
    for i in range(settings.n_layers):
        theirs = family.layer.format(i=i)
        for kind in ("weight", "bias"):
            qkv = [get(f"{theirs}{family.parts[part]}.{kind}") for part in "qkv"]
            weights[f"layers.{i}.attention.qkv.{kind}"] = torch.cat(qkv)
            for part, their_part in family.parts.items():
                if part not in ("q", "k", "v"):
                    weights[f"layers.{i}.{part}.{kind}"] = get(f"{theirs}{their_part}.{kind}")
    if settings.entities is not None and settings.entities.tokens:
        if config.get("model_type") == "luke":
            weights |= _luke_entities(get, settings, settings.entities)
        else:
            weights |= begin_as_masks(weights, settings, settings.entities, mask_piece)
    return weights


def get_tensor(tensors: Mapping[str, Tensor], key: str, name: str) -> Tensor:
    """A checkpoint's tensor in single precision; errors as `convert_weights`."""
    if key not in tensors:
        raise error("E004", name=name, tensor=key)
    if not tensors[key].isfinite().all():
        raise error("E010", name=name, tensor=key)
    return tensors[key].float()


def _luke_entities(get: Callable[[str], Tensor], settings: EncoderSettings, entities: EntitySettings) -> dict[str, Tensor]:
    """LUKE's own entity embeddings and queries; the only entity type that is used is added to the positions."""
    theirs = "entity_embeddings."
    positions = get(theirs + "position_embeddings.weight") + get(theirs + "token_type_embeddings.weight")[0]
    weights = {
        "entities.ids.weight": get(theirs + "entity_embeddings.weight"),
        "entities.positions.weight": positions,
        "entities.norm.weight": get(theirs + "LayerNorm.weight"),
        "entities.norm.bias": get(theirs + "LayerNorm.bias"),
    }
    if entities.embedding_width != settings.width:
        weights["entities.up.weight"] = get(theirs + "entity_embedding_dense.weight")
    for i in range(entities.inject_layer, settings.n_layers):
        for kind in ("weight", "bias"):
            if not entities.own_queries:
                continue
            queries = f"encoder.layer.{i}.attention.self.{{}}_query.{kind}"
            of_entities = [get(queries.format(part)) for part in ("e2w", "e2e")]
            weights[f"layers.{i}.attention.of_entities.{kind}"] = torch.cat(of_entities)
            if entities.words_see_entities:
                weights[f"layers.{i}.attention.of_words.{kind}"] = get(queries.format("w2e"))
    return weights


def begin_as_masks(
    weights: Mapping[str, Tensor], settings: EncoderSettings, entities: EntitySettings, mask_piece: int
) -> dict[str, Tensor]:
    """What entity tokens begin as in a checkpoint without any: like [MASK] pieces, with the words' queries.

    Args:
        weights: those of the words, by our names.
        settings: of the encoder.
        entities: of the tokens.
        mask_piece: id of the [MASK] piece.

    Returns:
        The tokens' part of a state dict, without what starts at random or zero.
    """
    copies = {
        "entities.ids.weight": weights["embeddings.pieces.weight"][mask_piece : mask_piece + 1],
        "entities.positions.weight": weights["embeddings.positions.weight"][settings.first_position :],
        "entities.norm.weight": weights["embeddings.norm.weight"],
        "entities.norm.bias": weights["embeddings.norm.bias"],
    }
    for i in range(entities.inject_layer, settings.n_layers):
        for kind in ("weight", "bias"):
            query = weights[f"layers.{i}.attention.qkv.{kind}"][: settings.width]
            copies[f"layers.{i}.attention.of_entities.{kind}"] = torch.cat([query, query])
            if entities.words_see_entities:
                copies[f"layers.{i}.attention.of_words.{kind}"] = query
    return {name: tensor.clone() for name, tensor in copies.items()}
