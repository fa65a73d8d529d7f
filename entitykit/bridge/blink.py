"""BLINK's published bi-encoders: two towers that read mentions and entities as the paper's own code does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from entitykit.bridge.encoder import build_encoder
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import TextReader
from entitykit.errors import error
from entitykit.models.blink import blink_scores, split_towers
from entitykit.models.encoder.families import convert_weights, settings_from_config
from entitykit.models.encoder.transformer import TransformerEncoder

PIECES = 128
"""Of a mention in context, and of a title with its description."""


class Blink(NamedTuple):
    """Readers of both towers.

    Attributes:
        mentions: reads mentions in context.
        entities: reads titles and descriptions.
    """

    mentions: TextReader
    entities: TextReader

    def read_mentions(
        self, lefts: Sequence[str], mentions: Sequence[str], rights: Sequence[str], *, size: int = PIECES
    ) -> Tensor:
        """Vectors *(n, width)* of mentions between what is left and right of them."""
        return self.mentions.read(self.mentions.marked(lefts, mentions, rights, size=size).ids)

    def read_entities(self, titles: Sequence[str], descriptions: Sequence[str], *, size: int = PIECES) -> Tensor:
        """Vectors *(n, width)* of entities."""
        return self.entities.read(self.entities.described(titles, descriptions, size=size).ids)

    def scores(self, mentions: Tensor, entities: Tensor) -> Tensor:
        """See `blink_scores`."""
        return blink_scores(mentions, entities)


def load_blink(path: str | Path, config: Mapping[str, Any], tokenizer: str, *, batch_pieces: int = 4096) -> Blink:
    """Load a bi-encoder such as ``biencoder_wiki_large.bin``.

    Args:
        path: the file; it may hold tensors only, and no code of it is run.
        config: of the BERT that both towers are, as in its config.json.
        tokenizer: of that BERT, as JSON of the `tokenizers` library.
        batch_pieces: pieces that run through a tower at once.

    Raises:
        CheckpointError: E005 if the file is damaged or holds more than tensors, E584 if it is no such bi-encoder, E003 and E004
            for a BERT that the weights do not fit.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as reason:  # a damaged file, or one that would run code, can raise anything
        raise error("E005", path=path, reason=" ".join(str(reason).split())[:300]) from reason
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise error("E584", path=path, found=type(weights).__name__)
    towers = split_towers(weights)
    if towers.others or not towers.mentions or not towers.entities:
        raise error("E584", path=path, found=", ".join(towers.others[:5]) or "one tower only")
    readers = []
    for tower in (towers.mentions, towers.entities):
        settings = settings_from_config(dict(config), name=str(path))
        encoder = TransformerEncoder(settings)
        converted = convert_weights(tower, dict(config), settings, name=str(path), mask_piece=0)
        encoder.load_state_dict(encoder.state_dict() | converted)
        shim = TorchShim(build_encoder, group="encoder")
        shim.adopt(encoder, {"encoder": asdict(settings), "tokenizer": tokenizer})
        readers.append(TextReader(shim, batch_pieces=batch_pieces, pooling="first"))
    return Blink(*readers)
