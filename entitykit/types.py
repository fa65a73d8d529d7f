"""Tensor types that encoder and heads share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

TOP = -1
"""The number that stands for an encoder's last layer, however many it has."""
ENTITIES = -1000
"""The number under which the states of entity tokens are asked for, and their gradients given back; no layer has it."""
MENTIONS = -1001
"""The same for the scores of the encoder's own mention probe."""
NO_TITLE, TITLE, MANS_TITLE, WOMANS_TITLE = range(4)
"""What a word is before a name: none of these; Captain; Mr.; Mrs."""


class Spans(NamedTuple):
    """Spans of a packed batch: words are numbered through the batch, and no span crosses documents.

    Attributes:
        starts: *(n_spans,)* first words.
        ends: *(n_spans,)* ends, exclusive.
    """

    starts: Tensor
    ends: Tensor


class EntityPairs(NamedTuple):
    """Entities of a packed batch, and the ordered pairs of them that may be related.

    Attributes:
        starts: *(n_entities,)* first words, sorted; words are numbered as in `Spans`.
        ends: *(n_entities,)* ends, exclusive.
        types: *(n_entities,)* numbers of the entities' types; 0 is an unknown one.
        heads: *(n_pairs,)* rows of the pairs' first arguments, of which the relation is said.
        tails: *(n_pairs,)* rows of the second ones, in the same document.
        reach: *(n_words, 2)* where a model finds the entities, how far each is paired with those behind it: these begin before
            the first number of its first word, and before the second one of its last word; the same for spans that it
            draws in training. Else empty.
        most: *(n_documents,)* where a model finds the entities, pairs of two of them at most, the nearest.
        itself: whether it pairs each with itself, too.
        related: *(n_pairs,)* where a model filters given pairs, in training which of them have gold relations; else empty.
    """

    starts: Tensor
    ends: Tensor
    types: Tensor
    heads: Tensor
    tails: Tensor
    reach: Tensor = torch.zeros(0, 2, dtype=torch.long)
    most: Tensor = torch.zeros(0, dtype=torch.long)
    itself: Tensor = torch.tensor(False)
    related: Tensor = torch.zeros(0, dtype=torch.bool)


class ClusterPairs(NamedTuple):
    """Entities of a packed batch with several mentions each, and the ordered pairs of them that may be related.

    Attributes:
        starts: *(n_mentions,)* first words, sorted; words are numbered as in `Spans`.
        ends: *(n_mentions,)* ends, exclusive.
        members: *(n_mentions,)* rows of the entities that are mentioned; each has a mention.
        types: *(n_entities,)* numbers of the entities' types; 0 is an unknown one.
        heads: *(n_pairs,)* rows of the pairs' first arguments, of which the relation is said.
        tails: *(n_pairs,)* rows of the second ones, in the same document.
        near_heads: *(n_pairs,)* rows of the heads' mentions that are nearest to one of the tails'.
        near_tails: *(n_pairs,)* rows of the tails' mentions that these are nearest to.
        sentences: *(n_words,)* numbers of the words' sentences, which count through the batch; each document begins one, and no
            number is left out. Empty where nobody asks for evidence.
    """

    starts: Tensor
    ends: Tensor
    members: Tensor
    types: Tensor
    heads: Tensor
    tails: Tensor
    near_heads: Tensor
    near_tails: Tensor
    sentences: Tensor = torch.zeros(0, dtype=torch.long)


class GivenMentions(NamedTuple):
    """Mentions that documents of a packed batch have, and what their words are compared by.

    Attributes:
        starts: *(n_mentions,)* first words; words are numbered as in `Spans`.
        ends: *(n_mentions,)* ends, exclusive.
        entities: *(n_mentions,)* numbers of their entities, each of one document; -1 where none is known.
        names: *(n_words, 3)* of each word: a number if it tells who is meant, the same for equal words whatever their case, or
            0; whether it has a capital, 0 or 1; which title before a name it is, `NO_TITLE` to `WOMANS_TITLE`.
        speakers: *(n_words, 2)* a number for who says each word, and one for the word as it is said by them, the same for equal
            words of one speaker; 0 where nobody is known to. Empty where nobody asks.
    """

    starts: Tensor
    ends: Tensor
    entities: Tensor
    names: Tensor
    speakers: Tensor = torch.zeros(0, 2, dtype=torch.long)


class EntityMentions(NamedTuple):
    """Entities of a packed batch and all their mentions.

    Attributes:
        starts: *(n_mentions,)* first words; words are numbered as in `Spans`.
        ends: *(n_mentions,)* ends, exclusive.
        entities: *(n_mentions,)* numbers of the mentions' entities, which count through the batch from 0; each has a mention,
            and all its mentions are in one document.
        sentences: *(n_words,)* numbers of the words' sentences, which count through the batch; each document begins one.
    """

    starts: Tensor
    ends: Tensor
    entities: Tensor
    sentences: Tensor

    @property
    def n_entities(self) -> int:
        """How many entities there are."""
        return int(self.entities.max()) + 1 if len(self.entities) else 0


class MentionOutput(NamedTuple):
    """A mention probe's scores of all spans within its window.

    Attributes:
        band: *(n_words, window + 1)* logits; row i, column k is the span from word i - k to word i, included.
        valid: *(n_words, window + 1)* whether that span lies within a document.
    """

    band: Tensor
    valid: Tensor


class EntityTokens(NamedTuple):
    """Entity tokens of a batch, sorted by start, then by end.

    Attributes:
        spans: *(n_tokens,)*, each span once.
        states: *(n_tokens, width)* after the last layer; none if the encoder only proposes spans, whose states are pooled.
    """

    spans: Spans
    states: Tensor | None


class WordStates(NamedTuple):
    """What an encoder says about the words of a batch of documents, packed: the documents lie end to end.

    Attributes:
        layers: encoder layer to states *(n_words, width)*; a head finds those that it asked for. `TOP` is the last layer.
        lengths: words of each document, summing to `n_words`.
        entities: tokens of spans, if the encoder has any and a head asked for `ENTITIES`.
        mentions: what the encoder's own probe says, if it has one and a head asked for `MENTIONS`.
        runs: words that were read from the same window, run after run; none: each document is one. Positions begin anew in each
            window, so what was learned of two words' states in one window does not hold for words of two.
        late: gives tokens to spans that have none, *(n_spans, width)* without gradients; none where that cannot be.
    """

    layers: Mapping[int, Tensor]
    lengths: tuple[int, ...]
    entities: EntityTokens | None = None
    mentions: MentionOutput | None = None
    runs: tuple[int, ...] | None = None
    late: Callable[[Spans], Tensor] | None = None

    def tensors(self) -> dict[int, Tensor]:
        """All tensors that have gradients, by layer, `ENTITIES` and `MENTIONS`."""
        found = dict(self.layers)
        if self.entities is not None and self.entities.states is not None:
            found[ENTITIES] = self.entities.states
        if self.mentions is not None:
            found[MENTIONS] = self.mentions.band
        return found

    def leaves(self) -> WordStates:
        """The same values cut off from the encoder, so that a head's gradients stop there and can be collected."""
        new = {key: tensor.detach().requires_grad_() for key, tensor in self.tensors().items()}
        return WordStates(
            {layer: new[layer] for layer in self.layers},
            self.lengths,
            None if self.entities is None else self.entities._replace(states=new.get(ENTITIES)),
            None if self.mentions is None else self.mentions._replace(band=new[MENTIONS]),
            self.runs,
            self.late,
        )


def no_spans(device: torch.device | None = None) -> Spans:
    """Spans of which there are none."""
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    return Spans(nothing, nothing)
