"""Entity tokens: which spans of a pack have one, how it begins, and what a layer must know of where tokens are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.encoder.knowledge import KnowledgeOutput, build_knowledge
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings
from entitykit.models.linear import Linear


class Knowledge(NamedTuple):
    """What is known of the candidates of a pack's entity tokens from outside.

    Attributes:
        vectors: *(n_entities, n_candidates, vector_width)*.
        present: *(n_entities, n_candidates)* whether there is such a candidate.
        priors: *(n_entities, n_candidates)*.
        gold: *(n_entities,)* which candidate is right, as `softmax_link_loss` takes it; none if no link is known.
    """

    vectors: Tensor
    present: Tensor
    priors: Tensor
    gold: Tensor | None = None


class EntityPack(NamedTuple):
    """Entity tokens of a pack, sequence after sequence.

    Attributes:
        ids: *(n_entities,)* rows of the entity embedding; the settings' `mask` where nothing is known.
        rows: *(n,)* rows of the pack that the tokens' spans cover, token after token.
        offsets: *(n_entities,)* where each token's rows begin in `rows`.
        counts: tokens of each of the pack's sequences.
        knowledge: of the tokens' candidates, if there is any.
    """

    ids: Tensor
    rows: Tensor
    offsets: Tensor
    counts: tuple[int, ...]
    knowledge: Knowledge | None = None


class Group(NamedTuple):
    """Consecutive sequences of a pack that are equally long, so that one attention call serves them.

    Attributes:
        start: first row of the group in the pack.
        n_sequences: how many.
        length: pieces of each.
        tokens: *(n_sequences, most)* the entity tokens of each sequence, or none if there are none; padded with 0.
        padding: *(n_sequences, most)* true where `tokens` is padding, or none if nothing is.
        rows: *(n_tokens,)* where the group's tokens are in `tokens`, flattened.
    """

    start: int
    n_sequences: int
    length: int
    tokens: Tensor | None = None
    padding: Tensor | None = None
    rows: Tensor | None = None


def lay_out(lengths: Sequence[int], counts: Sequence[int] | None, device: torch.device) -> list[Group]:
    """Group a pack's sequences by length, in their order.

    Args:
        lengths: pieces of each sequence.
        counts: entity tokens of each sequence, or none if there are none at all.
        device: of the indices.
    """
    groups = []
    start = number = token = 0
    for length, run in groupby(lengths):
        count = len(list(run))
        group = Group(start, count, length)
        if counts is not None:
            of_group = torch.tensor(counts[number : number + count])
            if most := int(of_group.max()):
                column = torch.arange(most)
                padding = column >= of_group[:, None]
                first = token + of_group.cumsum(0) - of_group
                group = group._replace(
                    tokens=torch.where(padding, 0, first[:, None] + column).to(device),
                    padding=padding.to(device) if padding.any() else None,
                    rows=(~padding).flatten().nonzero().squeeze(1).to(device),
                )
                token += int(of_group.sum())
        groups.append(group)
        start += count * length
        number += count
    return groups


class EntityEmbeddings(nn.Module):
    """How an entity token begins (LUKE, Yamada et al. 2020).

    ::

        LayerNorm(U embedding[id] + mean over the span's pieces of position[piece]) + W mean over the span's pieces of state

    The last term is ours, for tokens that begin above the embeddings: W starts at zero. At layer 0 there is none.

    Args:
        settings: the encoder's, with entities.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        entities = _of(settings)
        self.max_pieces = entities.max_pieces
        # a batch has few of LUKE's half a million entities, mostly [MASK] alone
        self.ids = nn.Embedding(entities.vocab_size, entities.embedding_width, sparse=True)
        projected = entities.embedding_width != settings.width
        self.up = Linear(entities.embedding_width, settings.width, bias=False) if projected else None
        self.positions = nn.Embedding(entities.n_positions, settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.dropout)
        self.span = Linear(settings.width, settings.width, bias=False) if entities.inject_layer else None
        if self.span is not None:
            nn.init.zeros_(self.span.weight)
        self.knowledge = None
        if entities.knowledge is not None:
            sizes = {"width": settings.width, "vector_width": entities.vector_width}
            self.knowledge = build_knowledge(entities.knowledge, {**entities.knowledge_settings, **sizes})

    def forward(self, entities: EntityPack, positions: Tensor, states: Tensor) -> KnowledgeOutput:
        """Begin tokens.

        Args:
            entities: the tokens.
            positions: *(n_pieces,)* of the pack's pieces in their sequences.
            states: *(n_pieces, width)* in the layer where the tokens begin.

        Returns:
            States *(n_entities, width)*, and the scores of their candidates, if a `CandidateMixture` has read these.
        """
        x = self.ids(entities.ids)
        if self.up is not None:
            x = self.up(x)
        rows, offsets = first_rows(entities.rows, entities.offsets, self.max_pieces)
        x = x + F.embedding_bag(positions[rows], self.positions.weight, offsets, mode="mean")
        x = self.dropout(self.norm(x))
        if self.span is not None:
            x = x + self.span(F.embedding_bag(entities.rows, states, entities.offsets, mode="mean"))
        if self.knowledge is not None and entities.knowledge is not None:
            vectors, present, priors, _ = entities.knowledge
            known: KnowledgeOutput = self.knowledge(x, vectors, present, priors)
            return known
        return KnowledgeOutput(x)


def first_rows(rows: Tensor, offsets: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Keep the first `most` rows of each token (0: all).

    Args:
        rows: *(n,)*.
        offsets: *(n_entities,)* where each token's rows begin.
        most: rows to keep of each.

    Returns:
        Rows and offsets.
    """
    if not most or len(offsets) == 0:
        return rows, offsets
    ends = torch.cat([offsets[1:], offsets.new_tensor([len(rows)])])
    sizes = ends - offsets
    rank = torch.arange(len(rows), device=rows.device) - torch.repeat_interleave(offsets, sizes)
    kept = sizes.clamp_max(most)
    return rows[rank < most], kept.cumsum(0) - kept


def _of(settings: EncoderSettings) -> EntitySettings:
    if settings.entities is None:
        raise ValueError("these encoder settings have no entities")
    return settings.entities
