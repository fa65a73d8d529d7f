"""Weights of LUKE's task heads, from the state dicts of the `transformers` classes that have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from entitykit.errors import error
from entitykit.models.encoder.families import convert_weights, get_tensor
from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.luke import (
    ClassifierSettings,
    LukeNER,
    LukeRelations,
    LukeTyping,
    LukeVocabulary,
    VocabularySettings,
)


class _Names(NamedTuple):
    """Where a `transformers` model keeps a `LukeVocabulary`, and the embedding that it is tied to."""

    inner: str
    norm: str
    bias: str
    decoder: str
    embedding: str


_OF_ENTITIES = _Names(
    "entity_predictions.transform.dense",
    "entity_predictions.transform.LayerNorm",
    "entity_predictions.bias",
    "entity_predictions.decoder.weight",
    "luke.entity_embeddings.entity_embeddings.weight",
)
_OF_PIECES = _Names(
    "lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder.weight", "luke.embeddings.word_embeddings.weight"
)
_ENCODER = "luke."
_Classifier = TypeVar("_Classifier", LukeNER, LukeTyping, LukeRelations)


def split_checkpoint(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], settings: EncoderSettings, *, name: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Divide a `transformers` model of a LUKE task into its encoder and its head.

    Args:
        tensors: the model's state dict.
        config: its ``config.json``.
        settings: from `settings_from_config`.
        name: the checkpoint, for messages.

    Returns:
        The encoder's weights by our names, as from `convert_weights`; and the head's by theirs, for the loaders below.

    Raises:
        CheckpointError: E004 for a tensor that is missing, E003 for a vocabulary that is not tied to its embedding.
    """
    for names in (_OF_ENTITIES, _OF_PIECES):
        _check_tied(tensors, names, name)
    of_encoder = {key.removeprefix(_ENCODER): tensor for key, tensor in tensors.items() if key.startswith(_ENCODER)}
    tied = {_OF_ENTITIES.decoder, _OF_PIECES.decoder}
    of_head = {key: tensor.float() for key, tensor in tensors.items() if not key.startswith(_ENCODER) and key not in tied}
    return convert_weights(of_encoder, config, settings, name=name), of_head


def load_classifier(
    head: type[_Classifier], tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, name: str
) -> _Classifier:
    """Make the head of LukeForEntitySpanClassification, LukeForEntityClassification or LukeForEntityPairClassification.

    Args:
        head: `LukeNER`, `LukeTyping` or `LukeRelations`.
        tensors: the model's state dict, or the head's part from `split_checkpoint`.
        config: its ``config.json``.
        name: the checkpoint, for messages.

    Raises:
        CheckpointError: E004 for a tensor that is missing, E003 for the classifier of another task.
    """
    weight = get_tensor(tensors, "classifier.weight", name)
    expected = head.n_states * config["hidden_size"]
    if weight.shape[1] != expected:
        found = f"of {weight.shape[1]} inputs"
        raise error("E003", name=name, what="classifier", found=found, expected=f"one of {expected} inputs for {head.__name__}")
    module = head(
        ClassifierSettings(width=config["hidden_size"], n_labels=weight.shape[0], dropout=config["hidden_dropout_prob"])
    )
    parts = [key for key, _ in module.outer.named_parameters()]
    module.outer.load_state_dict({part: get_tensor(tensors, f"classifier.{part}", name) for part in parts})
    return module


def load_entity_vocabulary(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, name: str) -> LukeVocabulary:
    """Make the entity head of LukeForMaskedLM; arguments and errors as `load_word_vocabulary`."""
    return _load_vocabulary(tensors, config, _OF_ENTITIES, config["entity_emb_size"], name)


def load_word_vocabulary(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, name: str) -> LukeVocabulary:
    """Make the word head of LukeForMaskedLM.

    Args:
        tensors: the model's state dict, or the head's part from `split_checkpoint`.
        config: its ``config.json``.
        name: the checkpoint, for messages.

    Raises:
        CheckpointError: E004 for a tensor that is missing, E003 for a vocabulary that is not tied to its embedding.
    """
    return _load_vocabulary(tensors, config, _OF_PIECES, config["hidden_size"], name)


def _load_vocabulary(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], names: _Names, embedding_width: int, name: str
) -> LukeVocabulary:
    _check_tied(tensors, names, name)
    weights = {"bias": get_tensor(tensors, names.bias, name)}
    for kind in ("weight", "bias"):
        weights[f"inner.{kind}"] = get_tensor(tensors, f"{names.inner}.{kind}", name)
        weights[f"norm.{kind}"] = get_tensor(tensors, f"{names.norm}.{kind}", name)
    head = LukeVocabulary(
        VocabularySettings(
            width=config["hidden_size"],
            embedding_width=embedding_width,
            vocab_size=len(weights["bias"]),
            layer_norm_eps=config["layer_norm_eps"],
        )
    )
    head.load_state_dict(weights)
    return head


def _check_tied(tensors: Mapping[str, Tensor], names: _Names, name: str) -> None:
    decoder, embedding = tensors.get(names.decoder), tensors.get(names.embedding)
    if decoder is not None and embedding is not None and not torch.equal(decoder, embedding):
        raise error("E003", name=name, what="output embedding", found=names.decoder, expected=f"the same as {names.embedding}")
