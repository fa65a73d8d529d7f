"""Tag schemes: BIO (IOB2), IOB1, BIOES (IOBES) and BILOU, read as the conlleval script reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

from entitykit.corpora.parsed import Mention
from entitykit.errors import error

Scheme = Literal["bio", "iob1", "bioes", "bilou"]

TAG = re.compile(r"(?P<outside>O)|(?P<prefix>[BIESLU])-(?P<label>(?:(?!,[BIESLU]-|,O\b).)+)")
"""One tag; several of one token, joined by commas as annotators left them, are none."""
PREFIXES: dict[Scheme, str] = {"bio": "BI", "iob1": "BI", "bioes": "BIES", "bilou": "BILU"}
TO_BIOES = str.maketrans("LU", "ES")


class Tag(NamedTuple):
    """A tag in two parts: prefix (`O` or one of the scheme's letters) and label (empty for `O`)."""

    prefix: str
    label: str


class Decoded(NamedTuple):
    """The entities of a sentence, and the tokens whose tag the scheme forbids at that place."""

    entities: list[Mention]
    repaired: list[int]


def parse_tag(text: str, *, where: str) -> Tag:
    """Split a tag such as `B-PER` or `O`.

    Raises:
        CorpusError: E211 if it is no tag.
    """
    found = TAG.fullmatch(text)
    if found is None:
        raise error("E211", where=where, found=text, expected="O or B-PER, one for each token")
    return Tag("O", "") if found["outside"] else Tag(found["prefix"], found["label"])


def detect_scheme(sentences: Iterable[Sequence[Tag]], *, path: object) -> Scheme:
    """Tell the scheme from the tags of a whole file.

    E or S means BIOES, L or U means BILOU. With B and I alone it is IOB1 if B- only stands where the entity before it, directly
    adjacent and of the same type, makes it necessary, and some entity starts with I-; otherwise BIO.

    Raises:
        CorpusError: E212 if the prefixes of two schemes are mixed.
    """
    sentences = list(sentences)
    prefixes = {tag.prefix for tags in sentences for tag in tags} - {"O", "B", "I"}
    if not prefixes:
        return "iob1" if _is_iob1(sentences) else "bio"
    for scheme in ("bioes", "bilou"):
        if prefixes <= set(PREFIXES[scheme]):
            return scheme
    raise error("E212", path=path, found=", ".join(sorted(prefixes)))


def check_scheme(scheme: str) -> Scheme:
    """Give back the scheme if it is known.

    Raises:
        ConfigError: E213 if it is not.
    """
    if scheme not in get_args(Scheme):
        raise error("E213", option="scheme", found=scheme, expected=", ".join(("auto", *get_args(Scheme))))
    return scheme  # type: ignore[return-value]


def decode(tags: Sequence[Tag], scheme: Scheme, *, where: str) -> Decoded:
    """Read the entities of one sentence; a tag at a forbidden place starts or ends an entity as in conlleval.

    Args:
        tags: the sentence's tags.
        scheme: what the tags mean.
        where: file and line, for messages.

    Raises:
        CorpusError: E211 for a prefix that the scheme does not have.
    """
    entities: list[Mention] = []
    repaired: list[int] = []
    open_start = -1
    previous = Tag("O", "")
    for i, tag in enumerate([*_bioes(tags, scheme, where), Tag("O", "")]):
        continues = tag.prefix in "IE" and previous.prefix in "BI" and tag.label == previous.label
        if open_start >= 0 and not continues:
            entities.append(Mention(open_start, i, previous.label))
            if scheme in ("bioes", "bilou") and previous.prefix in "BI":
                repaired.append(i - 1)
            open_start = -1
        if tag.prefix != "O" and not continues:
            open_start = i
            if tag.prefix == "E" or (tag.prefix == "I" and scheme != "iob1"):
                repaired.append(i)
        previous = tag
    return Decoded(entities, sorted(set(repaired)))


def _bioes(tags: Sequence[Tag], scheme: Scheme, where: str) -> Iterator[Tag]:
    tags_like = " ".join(f"{prefix}-PER" for prefix in PREFIXES[scheme])
    for tag in tags:
        if tag.prefix not in PREFIXES[scheme] + "O":
            raise error("E211", where=where, found=f"{tag.prefix}-{tag.label}", expected=f"O or {tags_like} ({scheme})")
        yield tag._replace(prefix=tag.prefix.translate(TO_BIOES))


def _is_iob1(sentences: Iterable[Sequence[Tag]]) -> bool:
    starts_with_i = False
    for tags in sentences:
        for before, tag in zip([Tag("O", ""), *tags], tags, strict=False):
            adjacent = before.label == tag.label
            if tag.prefix == "B" and not adjacent:
                return False
            starts_with_i |= tag.prefix == "I" and not adjacent
    return starts_with_i
