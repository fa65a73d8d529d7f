"""Tiny random LUKE models of `transformers`, their weights in our encoder, and the same windows as input of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import LukeConfig, PreTrainedModel

from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.families import convert_weights, settings_from_config
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.models.luke_weights import split_checkpoint

MASK, MASK2 = 2, 3  # entity ids
LOWEST_PIECE = 3  # below are special pieces; the models count positions past the padding piece
MAX_MENTION = 30  # positions of a mention that their tokenizer gives
AS_LUKE = Injection(inject_layer=0, words_see_entities=True, entities_see_entities=True)
READ_ONLY = Injection(inject_layer=0)
SIZES = {
    "vocab_size": 40,
    "entity_vocab_size": 11,
    "hidden_size": 32,
    "entity_emb_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 90,
    "type_vocab_size": 1,
    "pad_token_id": 1,
}
Model = TypeVar("Model", bound=PreTrainedModel)


class Mention(NamedTuple):
    """An entity token: its entity, and its pieces [start, end) in the window."""

    entity: int
    start: int
    end: int


class Window(NamedTuple):
    """Pieces *(length,)* and mentions of one sequence."""

    ids: Tensor
    mentions: list[Mention]


def make_model(kind: type[Model], **changes: Any) -> Model:
    """A model in which no parameter is at a value that would hide it; sums of two parameters are exact."""
    model = kind(LukeConfig(**(SIZES | changes))).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.lower().endswith("norm.weight")), std=0.2)
        parameter.data = (parameter.data * 1024).round() / 1024
    return model


def make_encoder(model: PreTrainedModel, injection: Injection = AS_LUKE) -> TransformerEncoder:
    """Our encoder with a LukeModel's weights."""
    config = model.config.to_dict()
    settings = settings_from_config(config, name="tiny", injection=injection)
    encoder = TransformerEncoder(settings).eval()
    encoder.load_state_dict(encoder.state_dict() | convert_weights(model.state_dict(), config, settings, name="tiny"))
    return encoder


def split_model(
    model: PreTrainedModel, injection: Injection = AS_LUKE, *, tensors: Mapping[str, Tensor] | None = None
) -> tuple[TransformerEncoder, dict[str, Tensor]]:
    """Our encoder with a model's weights, and the weights of its head."""
    config = model.config.to_dict()
    settings = settings_from_config(config, name="tiny", injection=injection)
    of_encoder, of_head = split_checkpoint(tensors or model.state_dict(), config, settings, name="tiny")
    encoder = TransformerEncoder(settings).eval()
    encoder.load_state_dict(encoder.state_dict() | of_encoder)
    return encoder, of_head


def make_window(length: int, *mentions: tuple[int, int, int]) -> Window:
    """Random pieces with the given mentions."""
    return Window(torch.randint(LOWEST_PIECE, SIZES["vocab_size"], (length,)), [Mention(*mention) for mention in mentions])


def make_packs(windows: Sequence[Window]) -> tuple[Pack, EntityPack]:
    """Our input."""
    rows: list[int] = []
    offsets: list[int] = []
    first = 0
    for window in windows:
        for _, start, end in window.mentions:
            offsets.append(len(rows))
            rows += range(first + start, first + end)
        first += len(window.ids)
    positions = torch.cat([torch.arange(len(window.ids)) for window in windows])
    ids = torch.cat([window.ids for window in windows])
    pack = Pack(ids, positions, torch.zeros_like(ids), tuple(len(window.ids) for window in windows))
    entities = torch.tensor([mention.entity for window in windows for mention in window.mentions], dtype=torch.long)
    counts = tuple(len(window.mentions) for window in windows)
    return pack, EntityPack(entities, integers(rows), integers(offsets), counts)


def integers(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def their_input(window: Window) -> dict[str, Tensor]:
    """Theirs, as their tokenizer makes it: a batch of one."""
    inputs = {"input_ids": window.ids[None]}
    if not window.mentions:
        return inputs
    positions = torch.full((1, len(window.mentions), MAX_MENTION), -1)
    for i, (_, start, end) in enumerate(window.mentions):
        kept = min(end - start, MAX_MENTION)
        positions[0, i, :kept] = torch.arange(start, start + kept)
    entities = integers([mention.entity for mention in window.mentions])
    return inputs | {"entity_ids": entities[None], "entity_position_ids": positions}
