"""How well a mention fits an entity (`PairScorer`), from both, their product, distance, count, words and speakers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.errors import error
from entitykit.models.linear import Linear

DISTANCES = (1, 2, 3, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
"""Words since an entity's last mention from which a bucket begins; bucket 0 is for a mention that overlaps it, and bucket 1 for
one that is the last mention itself."""
NEVER = len(DISTANCES) + 2
"""The bucket for an entity that has not been mentioned yet."""
COUNTS = (1, 2, 3, 4, 6, 10, 20, 40)
"""Mentions of an entity from which a bucket begins."""
NO_NAME, OTHER_NAME, OTHER_PROPER, SAME_WORD, SAME_LAST, SAME_NAME = range(6)
"""How a mention's words compare with those of an entity: none of them tells; they differ; they differ, and both are written as
proper names are; the first word of one is the first or the last of the other; the last is the same; all are. An entity counts
as the mention of it that is most like. A title before a name is one of its words, but not the first: Captain Ahab shares it
with the captain, and not with Captain Cook."""
NO_SPEAKER, OTHER_SPEAKER, SAME_SPEAKER, SAME_SAYING = range(4)
"""How a mention's speaker compares with those of an entity's mentions: the one, or all of the others, are not known; it is none
of them; it is one of them; and that one has said the same words for it. In a talk between two, each of them is *I* for the one
and *you* for the other, so that both have spoken of both, but neither has called both *I*."""


class Words(NamedTuple):
    """By which words, and whose, mentions are compared: numbers for those that tell who is meant, 0 for none.

    Attributes:
        names: *(n,)* what stands for all words of a span that tell, in any order.
        titles: *(n,)* for the title before its name.
        firsts: *(n,)* for the first of its words that tell, titles before a name aside.
        lasts: *(n,)* for the span's last word, if it tells.
        proper: *(n,)* whether that one has a capital.
        speakers: *(n,)* who says the span's first word; 0 where nobody is known to.
        sayings: *(n,)* what stands for all words of the span as they are said by their speakers, in any order.
    """

    names: Tensor
    titles: Tensor
    firsts: Tensor
    lasts: Tensor
    proper: Tensor
    speakers: Tensor
    sayings: Tensor

    def rows(self, rows: Tensor | slice) -> Words:
        """Some of them."""
        return Words(*(part[rows] for part in self))


class Side(NamedTuple):
    """What a mention, or an entity, says in `PairScorer`.

    Attributes:
        said: *(n, hidden)*.
        keys: *(n, match)*.
    """

    said: Tensor
    keys: Tensor

    def rows(self, rows: Tensor) -> Side:
        """Some of them."""
        return Side(self.said[rows], self.keys[rows])


class PairScorer(nn.Module):
    """How well a mention fits an entity: a network over both, their product and all that is compared; and the product itself.

    How much that counts is learned for each kind of words: what an encoder makes of Lisbon and of Porto is much alike.

    Args:
        size: of a vector.
        match: of the projections whose product says how well the two fit.
        hidden: hidden units.
        names: compare words, too.
        speakers: compare who speaks, too.
        keeps: learn whether an entity is mentioned again.
        dropout: probability in training.
    """

    def __init__(self, *, size: int, match: int, hidden: int, names: bool, speakers: bool, keeps: bool, dropout: float) -> None:
        super().__init__()
        self.entity, self.mention = Linear(size, hidden), Linear(size, hidden, bias=False)
        self.entity_key, self.mention_key = Linear(size, match), Linear(size, match)
        self.product = Linear(match, hidden, bias=False)
        self.distance = nn.Embedding(NEVER + 1, hidden)
        self.count = nn.Embedding(len(COUNTS) + 1, hidden)
        self.name = nn.Embedding(SAME_NAME + 1, hidden) if names else None
        self.trust = nn.Parameter(torch.ones(SAME_NAME + 1)) if names else None
        self.dropout = nn.Dropout(dropout)
        self.outer = Linear(hidden, 1)
        self.again = Linear(hidden, 1) if keeps else None
        self.speaker = nn.Embedding(SAME_SAYING + 1, hidden) if speakers else None
        for table in (self.distance, self.count, self.name, self.speaker):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def of_entities(self, vectors: Tensor) -> Side:
        """What entities say *(n, size)*."""
        return Side(self.entity(vectors), self.entity_key(vectors))

    def of_mentions(self, vectors: Tensor) -> Side:
        """What mentions say *(n, size)*."""
        return Side(self.mention(vectors), self.mention_key(vectors))

    def forward(
        self, entity: Side, mention: Side, distance: Tensor, count: Tensor, name: Tensor, speaker: Tensor | None = None
    ) -> Tensor:
        """Scores *(n,)*, part of which is the product of keys by itself: it is cheap enough to choose candidates by.

        Args:
            entity: n entities.
            mention: n mentions, or one for all.
            distance: *(n,)* of `distances`.
            count: *(n,)* bucket of `COUNTS`.
            name: *(n,)* `NO_NAME` to `SAME_NAME`.
            speaker: *(n,)* `NO_SPEAKER` to `SAME_SAYING`, which count if they are compared; none: nobody is known to speak.
        """
        product = entity.keys * mention.keys
        hidden = entity.said + mention.said + self.product(self._dropped(product)) + self.distance(distance) + self.count(count)
        if self.name is not None:
            hidden = hidden + self.name(name)
        if self.speaker is not None:
            hidden = hidden + self.speaker(torch.full_like(name, NO_SPEAKER) if speaker is None else speaker)
        scored: Tensor = self.outer(self._dropped(F.gelu(hidden))).squeeze(1)
        alike = product.sum(-1) / product.shape[-1] ** 0.5
        return scored + (alike if self.trust is None else alike * self.trust[name])

    def _dropped(self, x: Tensor) -> Tensor:
        dropped: Tensor = self.dropout(x) if self.training else x
        return dropped

    def keep(self, said: Tensor, distance: Tensor, count: Tensor) -> Tensor:
        """Logits *(n,)* of being mentioned again, which a bounded memory goes by.

        Args:
            said: *(n, hidden)* by entities.
            distance: *(n,)* as in `forward`.
            count: *(n,)*.

        Raises:
            ConfigError: E643 if it was not learned.
        """
        if self.again is None:
            raise error("E643")
        return self.again(F.gelu(said.detach() + self.distance(distance) + self.count(count))).squeeze(1)

    def keep_new(self, said: Tensor) -> Tensor:
        """The same logits *(n,)* of entities that begin with a mention, as it comes: no word ago, mentioned once.

        Args:
            said: *(n, hidden)* by entities that have this mention alone.

        Raises:
            ConfigError: E643 if it was not learned.
        """
        nothing = torch.zeros(len(said), dtype=torch.long, device=said.device)
        return self.keep(said, distances(nothing, nothing > 0), buckets(nothing + 1, COUNTS))


def buckets(numbers: Tensor, edges: tuple[int, ...]) -> Tensor:
    """The bucket of each number: how many edges it reaches."""
    return torch.bucketize(numbers, _edges(edges, numbers.device), right=True)


@cache
def _edges(edges: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(edges, device=device)


def distances(words: Tensor, overlap: Tensor) -> Tensor:
    """Buckets of the words since the start of an entity's last mention; 0 where a mention overlaps that one."""
    return (buckets(words, DISTANCES) + 1).masked_fill(overlap, 0)


def words_of(words: Tensor, speakers: Tensor, starts: Tensor, ends: Tensor) -> Words:
    """What spans are compared by.

    Args:
        words: *(n_words, 3)* the `names` of `GivenMentions`.
        speakers: *(n_words, 2)* of `GivenMentions`, or none.
        starts: *(n,)* first words of spans.
        ends: *(n,)* their ends, exclusive.
    """
    tell, capital, is_title = words.unbind(1)
    before = F.pad(tell.cumsum(0), (1, 0))
    own = _first_of(tell.masked_fill(is_title == 1, 0), starts, ends)
    first = _first_of(tell, starts, ends)
    title = torch.where((own != 0) & (first != own), first, 0)
    who = said = torch.zeros_like(starts)
    if len(speakers):
        who, spoken = speakers[starts, 0], F.pad(speakers[:, 1].cumsum(0), (1, 0))
        said = torch.where(who != 0, spoken[ends] - spoken[starts], 0)
    return Words(
        names=before[ends] - before[starts],
        titles=title,
        firsts=torch.where(own != 0, own, first),
        lasts=tell[ends - 1],
        proper=capital[ends - 1] == 1,
        speakers=who,
        sayings=said,
    )


def _first_of(numbers: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The first number of each span *(n,)* that is not 0; 0 where all are."""
    n = len(numbers)
    places = torch.where(numbers != 0, torch.arange(n, device=numbers.device), n)
    following = places.flip(0).cummin(0).values.flip(0)[starts]
    return torch.where(following < ends, numbers[following.clamp_max(n - 1)], 0)


def name_kinds(of: Words, words: Words) -> Tensor:
    """How words compare, `NO_NAME` to `SAME_NAME`, in the shape to which all are broadcast.

    Args:
        of: of entities.
        words: of mentions.
    """
    return kinds_of_names(relations(of, words), words.names)


def relations(of: Words, words: Words) -> tuple[Tensor, ...]:
    """Whether both are proper names, one's first word is the other's first, last or title, the last are the same, and all."""

    def same(a: Tensor, b: Tensor) -> Tensor:
        return (a == b) & (b != 0)

    word = same(of.firsts, words.firsts) | same(of.firsts, words.lasts) | same(of.lasts, words.firsts)
    word = word | same(of.firsts, words.titles) | same(of.titles, words.firsts)
    return of.proper & words.proper, word, same(of.lasts, words.lasts), same(of.names, words.names)


def kinds_of_names(found: Sequence[Tensor], names: Tensor) -> Tensor:
    """`NO_NAME` to `SAME_NAME` from what `relations` found, and from what stands for the mentions' words."""
    kinds = torch.full_like(found[0], OTHER_NAME, dtype=torch.long)
    for kind, holds in zip((OTHER_PROPER, SAME_WORD, SAME_LAST, SAME_NAME), found, strict=True):
        kinds = torch.where(holds, kind, kinds)
    return kinds.masked_fill(names == 0, NO_NAME)


def speaker_kinds(of: Words, words: Words) -> Tensor:
    """How speakers compare, `NO_SPEAKER` to `SAME_SAYING`, in the shape to which all are broadcast.

    Args:
        of: of entities.
        words: of mentions.
    """
    return kinds_of_speakers(same_speakers(of, words))


def same_speakers(of: Words, words: Words) -> tuple[Tensor, ...]:
    """Whether the speakers of both are known, are the same, and say the same words."""
    same = (of.speakers == words.speakers) & (of.speakers != 0)
    return (of.speakers != 0) & (words.speakers != 0), same, same & (of.sayings == words.sayings)


def kinds_of_speakers(found: Sequence[Tensor]) -> Tensor:
    """`NO_SPEAKER` to `SAME_SAYING` from what `same_speakers` found: each holds only where the one before does."""
    return torch.stack([holds.long() for holds in found]).sum(0)
