"""BLINK's published bi-encoders: two towers that read mentions and entities as the paper's own code does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.checkpoints import one_line
from entitykit.bridge.encoder import build_encoder
from entitykit.bridge.linking import LinkInput, TextSettings, compare
from entitykit.bridge.packs import ReadingSettings
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import TextReader
from entitykit.bridge.weights import STORAGES, Storage
from entitykit.errors import error
from entitykit.models.bi_encoder import BiEncoderSettings, LinkOutput, build_bi_encoder
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
    """Load a bi-encoder such as ``biencoder_wiki_large.bin``, to read texts with it; `blink` makes a model of it.

    Args:
        path: see `load_towers`.
        config: see there.
        tokenizer: see there.
        batch_pieces: pieces that run through a tower at once.

    Raises:
        CheckpointError: see there.
    """
    shims = [TorchShim(build_encoder, group="encoder") for _ in range(2)]
    load_towers(shims, path, config, tokenizer)
    return Blink(*(TextReader(shim, batch_pieces=batch_pieces, pooling="first") for shim in shims))


def load_towers(shims: Sequence[TorchShim], path: str | Path, config: Mapping[str, Any], tokenizer: str) -> None:
    """Load the weights of a bi-encoder.

    Args:
        shims: that take the tower of mentions, and that of entities.
        path: the file; it may hold tensors only, and no code of it is run.
        config: of the BERT that both towers are, as in its config.json.
        tokenizer: of that BERT, as JSON of the `tokenizers` library.

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
    for shim, tower in zip(shims, (towers.mentions, towers.entities), strict=True):
        settings = settings_from_config(dict(config), name=str(path))
        encoder = TransformerEncoder(settings)
        converted = convert_weights(tower, dict(config), settings, name=str(path), mask_piece=0)
        encoder.load_state_dict(encoder.state_dict() | converted)
        shim.adopt(encoder, {"encoder": asdict(settings), "tokenizer": tokenizer})


def blink(
    name: str,
    bert: str = "bert-large-uncased",
    context_pieces: int = PIECES,
    entity_pieces: int = PIECES,
    batch_pieces: int = 4096,
    storage: str = "fp32",
    bf16: bool = False,
) -> Model[LinkInput, LinkOutput]:
    """Make BLINK's bi-encoder, registered as ``entitykit.Blink.v1``: it reads by itself, and needs no shared encoder.

    `initialize` loads the checkpoint, `from_disk` needs none.

    Args:
        name: the checkpoint, a file such as ``biencoder_wiki_large.bin``; see `load_towers`.
        bert: the BERT that both towers are, whose configuration and tokenizer are read: a folder, or a name on the Hub.
        context_pieces: pieces of a mention in context, special ones included.
        entity_pieces: pieces of a name and its description, special ones included.
        batch_pieces: pieces that run through a tower at once; this bounds its memory.
        storage: precision of saved weights: ``fp32``, ``fp16`` or ``int8``.
        bf16: compute in bfloat16 on CUDA devices; on CPUs that have instructions for it, multiply in bfloat16 in training.

    Raises:
        ConfigError: E585 for settings that cannot be.
    """
    if batch_pieces < 1:
        raise error("E585", setting="batch_pieces", found=batch_pieces, expected="at least 1")
    if storage not in STORAGES:
        raise error("E585", setting="storage", found=storage, expected=" or ".join(STORAGES))
    reading = ReadingSettings(window=PIECES, overlap=0, batch_pieces=batch_pieces, max_word_pieces=PIECES)
    towers: list[Model[Any, Any]] = [
        Model(
            "entitykit-blink-tower",
            _no_forward,
            attrs={"reading": reading},
            shims=[TorchShim(build_encoder, group="encoder", storage=cast(Storage, storage), bf16=bf16)],
        )
        for _ in range(2)
    ]
    both: Model[Any, Any] = Model(
        "entitykit-blink-towers", _no_forward, init=partial(_init, name, bert), layers=towers, dims={"nO": None}
    )
    head = BiEncoderSettings(width=0, mention="context", cosine=False, temperature=1.0)
    texts = TextSettings(pooling="first", form="marked", context_pieces=context_pieces, entity_pieces=entity_pieces)
    return Model(
        "entitykit-blink",
        forward,
        layers=[both],
        shims=[TorchShim(build_bi_encoder, group="head")],
        dims={"nO": None},
        attrs={"settings": asdict(head), "texts": asdict(texts), "towers": True, "dropout_rate": None, "probe": None},
    )


def forward(model: Model[Any, Any], X: LinkInput, is_train: bool) -> tuple[LinkOutput, Callable[[Tensor], Sequence[Doc]]]:
    """As the bi-encoder's, but both towers learn by themselves; `backprop` takes the loss."""
    if is_train and model.attrs["dropout_rate"] is not None:
        for tower in model.layers[0].layers:
            cast(TorchShim, tower.shims[0]).set_dropout(model.attrs["dropout_rate"])
    output = compare(model, X, None, learns=is_train, is_train=is_train)

    def backprop(loss: Tensor) -> Sequence[Doc]:
        if loss.requires_grad:
            loss.backward()
        return X.docs

    return output, backprop


def _init(name: str, bert: str, model: Model[Any, Any], X: object = None, Y: object = None) -> None:
    shims = [cast(TorchShim, tower.shims[0]) for tower in model.layers]
    if not all(shim.is_built for shim in shims):
        load_towers(shims, name, *_read_bert(bert))
    model.set_dim("nO", cast(TransformerEncoder, shims[0].module).settings.width, force=True)


def _read_bert(name: str) -> tuple[dict[str, Any], str]:
    """The configuration of a checkpoint, and its tokenizer as JSON; its weights are not read."""
    from transformers import AutoConfig, AutoTokenizer  # slow to import, and only needed here

    try:
        config = AutoConfig.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
    except (OSError, ValueError) as reason:
        raise error("E001", name=name, reason=one_line(reason)) from reason
    if not tokenizer.is_fast:
        raise error("E002", name=name, file="fast tokenizer", expected="tokenizer.json")
    return config.to_dict(), tokenizer.backend_tokenizer.to_str()


def _no_forward(model: Model[Any, Any], X: Any, is_train: bool) -> Any:
    """Towers read texts, not documents, and a `TextReader` does that."""
    raise NotImplementedError
