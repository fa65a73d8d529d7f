"""BLINK as published: the first piece's state of two BERT towers, and their inner product (Wu et al., EMNLP 2020).

The formula, and the names of the weights in the ``.bin`` files, are those of facebookresearch/BLINK (`blink/biencoder`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Towers(NamedTuple):
    """Weights of BLINK's two encoders, under the names that `transformers` gives to a BertModel's.

    Attributes:
        mentions: of the encoder of mentions in context.
        entities: of the encoder of titles and descriptions.
        others: names of weights that belong to neither.
    """

    mentions: dict[str, Tensor]
    entities: dict[str, Tensor]
    others: list[str]


def blink_scores(mentions: Tensor, entities: Tensor) -> Tensor:
    """Inner products of all mentions with all entities.

    Args:
        mentions: *(n_mentions, width)* states of [CLS].
        entities: *(n_entities, width)* the same.

    Returns:
        *(n_mentions, n_entities)*.
    """
    return mentions @ entities.T


def split_towers(weights: Mapping[str, Tensor]) -> Towers:
    """Tell the towers' weights apart.

    Args:
        weights: of a ``.bin`` file of a bi-encoder, with or without ``module.`` before the names.
    """
    towers = Towers({}, {}, [])
    parts = {"context_encoder.bert_model.": towers.mentions, "cand_encoder.bert_model.": towers.entities}
    for name, tensor in weights.items():
        bare = name.removeprefix("module.")
        prefix = next((prefix for prefix in parts if bare.startswith(prefix)), None)
        if prefix is None:
            towers.others.append(name)
        else:
            parts[prefix][bare.removeprefix(prefix)] = tensor
    return towers
