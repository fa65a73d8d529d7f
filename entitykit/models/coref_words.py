"""By which words, and by whose, mentions are compared with entities (`Words`), and what comes of it (`Comparison`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.types import MANS_TITLE, NO_TITLE, WOMANS_TITLE

NO_NAME, OTHER_NAME, OTHER_PROPER, OTHER_TITLED, SAME_WORD = range(5)
SAME_LAST, OTHER_FIRST, SAME_FULL, OTHER_GENDER, SAME_NAME = range(5, 10)
"""How a mention's words compare with those of an entity: none of them tells; they differ; they differ, and both are written as
proper names are; they differ, and both have a title, such as Mr. Elton and Miss Bates; the first word of one is the first or
the last of the other; the last is the same; it is, but first names differ, as of John and Abigail Adams; first and last are the
same, as of John Quincy Adams; the last is the same, and one title is a man's, the other a woman's; all are the same. A title
before a name is one of its words, but not the first: Captain Ahab shares it with the captain, not with Captain Cook. Of two
that have titles, only the first words and the last words of the names are looked at."""
APART = (OTHER_TITLED, OTHER_GENDER)
"""Kinds of names that keep a mention and an entity apart in prediction, whatever else speaks for them. Those who marry, such as
Miss Taylor, who is Mrs. Weston then, are lost by it."""
NO_SPEAKER, OTHER_SPEAKER, SAME_SPEAKER, SAME_SAYING = range(4)
"""How a mention's speaker compares with those of an entity's mentions: the one, or all of the others, are not known; it is none
of them; it is one of them; and that one has said the same words for it. In a talk between two, each of them is *I* for the one
and *you* for the other, so that both have spoken of both, but neither has called both *I*."""


FIRST = 31
"""By which a first name differs from a last one in what stands for both."""
ALWAYS = 2**31 - 1
"""What is as rare as one in so many counts, too."""


class Words(NamedTuple):
    """By which words, and whose, mentions are compared: numbers for those that tell who is meant, 0 for none.

    Attributes:
        names: *(n,)* what stands for all words of a span that tell, in any order.
        titles: *(n,)* for the title before its name.
        firsts: *(n,)* for the first of its words that tell, titles before a name aside.
        lasts: *(n,)* for the span's last word, if it tells.
        proper: *(n,)* whether that one has a capital.
        surnames: *(n,)* the last word again, if there is another one before it, and both have capitals.
        fulls: *(n,)* what stands for both then.
        titled: *(n,)* whether there is a title before its name.
        titled_firsts: *(n,)* the first word again, if there is one.
        titled_lasts: *(n,)* likewise, the last one.
        men: *(n,)* the last word again, if that title is a man's.
        women: *(n,)* likewise, if it is a woman's.
        spoken: *(n,)* whether it is known who says the span's first word.
        speakers: *(n,)* for who that is.
        sayings: *(n,)* what stands for all words of the span as they are said by their speakers, in any order.
    """

    names: Tensor
    titles: Tensor
    firsts: Tensor
    lasts: Tensor
    proper: Tensor
    surnames: Tensor
    fulls: Tensor
    titled: Tensor
    titled_firsts: Tensor
    titled_lasts: Tensor
    men: Tensor
    women: Tensor
    spoken: Tensor
    speakers: Tensor
    sayings: Tensor

    def rows(self, rows: Tensor | slice) -> Words:
        """Some of them."""
        return Words(*(part[rows] for part in self))


class Way(NamedTuple):
    """A way in which a mention may compare with another: a part of its `Words` is not 0, and equals a part of the other's.

    Attributes:
        kind: what it is then.
        of_entity: the part of the earlier mention, which is of an entity.
        of_mention: the part of the mention.
    """

    kind: int
    of_entity: str
    of_mention: str


class Comparison(NamedTuple):
    """How mentions are compared with entities.

    Attributes:
        ways: that are looked at in turn; the last that holds counts.
        other: the kind of those for which no way holds.
        unknown: the kind of mentions that do not tell anything.
        tells: the part that these do not have.
        rare: a way holds of an entity if it holds of more than one in so many of its mentions that tell, rounded down. In a
            long text some join an entity in error, and must not take along all later ones of their name.
    """

    ways: Sequence[Way]
    other: int
    unknown: int
    tells: str
    rare: int

    def compare(self, of: Words, words: Words) -> Tensor:
        """The kinds of mentions beside single ones, in the shape to which all are broadcast.

        Args:
            of: words of the earlier mentions.
            words: of the mentions.
        """
        return self.kinds(self.holds(of, words), words)

    def holds(self, of: Words, words: Words) -> list[Tensor]:
        """Whether each way holds of single mentions; arguments and shape as of `compare`."""
        sides = ((getattr(of, way.of_entity), getattr(words, way.of_mention)) for way in self.ways)
        return [(entity == mention) & (mention != 0) for entity, mention in sides]

    def kinds(self, holds: Sequence[Tensor], words: Words) -> Tensor:
        """The kinds, where it is known of each way whether it holds."""
        kinds = torch.full_like(holds[0], self.other, dtype=torch.long)
        for way, each in zip(self.ways, holds, strict=True):
            kinds = torch.where(each, way.kind, kinds)
        return torch.where(getattr(words, self.tells) != 0, kinds, self.unknown)


NAMES = Comparison(
    ways=(
        Way(OTHER_PROPER, "proper", "proper"),
        Way(SAME_WORD, "firsts", "firsts"),
        Way(SAME_WORD, "firsts", "lasts"),
        Way(SAME_WORD, "firsts", "titles"),
        Way(SAME_WORD, "lasts", "firsts"),
        Way(SAME_WORD, "titles", "firsts"),
        Way(SAME_LAST, "lasts", "lasts"),
        # a plain Weston among the names of Mr. Knightley does not make him Mr. Weston
        Way(OTHER_TITLED, "titled", "titled"),
        Way(SAME_WORD, "titled_firsts", "titled_firsts"),
        Way(SAME_LAST, "titled_lasts", "titled_lasts"),
        Way(OTHER_FIRST, "surnames", "surnames"),
        Way(SAME_FULL, "fulls", "fulls"),
        Way(OTHER_GENDER, "men", "women"),
        Way(OTHER_GENDER, "women", "men"),
        Way(SAME_NAME, "names", "names"),
    ),
    other=OTHER_NAME,
    unknown=NO_NAME,
    tells="names",
    rare=32,
)
SPEAKERS = Comparison(
    ways=(
        Way(OTHER_SPEAKER, "spoken", "spoken"),
        Way(SAME_SPEAKER, "speakers", "speakers"),
        Way(SAME_SAYING, "sayings", "sayings"),
    ),
    other=NO_SPEAKER,
    unknown=NO_SPEAKER,
    tells="speakers",
    rare=ALWAYS,
)


def words_of(words: Tensor, speakers: Tensor, starts: Tensor, ends: Tensor) -> Words:
    """What spans are compared by.

    Args:
        words: *(n_words, 3)* the `names` of `GivenMentions`.
        speakers: *(n_words, 2)* of `GivenMentions`, or none.
        starts: *(n,)* first words of spans.
        ends: *(n,)* their ends, exclusive.
    """
    tell, capital, titles = words.unbind(1)
    before = F.pad(tell.cumsum(0), (1, 0))
    names = tell.masked_fill(titles != NO_TITLE, 0)
    own = _first_of(names, names, starts, ends)
    first = _first_of(tell, tell, starts, ends)
    has_title = (own != 0) & (first != own)
    title = torch.where(has_title, _first_of(tell, titles, starts, ends), NO_TITLE)
    last, proper = tell[ends - 1], capital[ends - 1] == 1
    is_full = proper & (own != last) & (_first_of(names, capital, starts, ends) == 1)
    who = said = torch.zeros_like(starts)
    if len(speakers):
        who, spoken = speakers[starts, 0], F.pad(speakers[:, 1].cumsum(0), (1, 0))
        said = torch.where(who != 0, spoken[ends] - spoken[starts], 0)
    return Words(
        names=before[ends] - before[starts],
        titles=torch.where(has_title, first, 0),
        firsts=torch.where(own != 0, own, first),
        lasts=last,
        proper=proper,
        surnames=torch.where(is_full, last, 0),
        fulls=torch.where(is_full, FIRST * own + last, 0),
        titled=has_title,
        titled_firsts=torch.where(has_title, own, 0),
        titled_lasts=torch.where(has_title, last, 0),
        men=torch.where(title == MANS_TITLE, last, 0),
        women=torch.where(title == WOMANS_TITLE, last, 0),
        spoken=who != 0,
        speakers=who,
        sayings=said,
    )


def _first_of(tell: Tensor, numbers: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """The number of the first word of each span *(n,)* that tells, which is not 0; 0 where none does."""
    n = len(tell)
    places = torch.where(tell != 0, torch.arange(n, device=tell.device), n)
    following = places.flip(0).cummin(0).values.flip(0)[starts]
    return torch.where(following < ends, numbers[following.clamp_max(n - 1)], 0)
