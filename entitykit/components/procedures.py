"""Procedures in documents: which steps there are, whom they are about, and what in the text may be a place."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.bridge.procedures import Participant, Place, Procedure
from entitykit.components.gold import reference_spans
from entitykit.decoding.procedures import are_texts, given_procedure, gold_grid
from entitykit.decoding.tracker import NOWHERE, UNKNOWN
from entitykit.errors import error
from entitykit.scoring.porter import stem

# What neither begins nor ends the name of a place; prepositions that tell a place of their own ("beneath the earth") may.
EDGE_WORDS = (
    "a an the this that these those such some any each every all both no not and or nor but so because since as if then than "
    "when while once until after before during again also now there here where which who whom whose what how it its itself he "
    "she they them their his her we us our you your i is are was were be been being am has have had having do does did done "
    "can could may might will would shall should must to of in on at by for from with into onto through over up down out off "
    "away about along across toward towards very more most much many few less too just only even still back together"
)
EDGES = frozenset(EDGE_WORDS.split())
ARTICLES = frozenset({"a", "an", "the"})
APOSTROPHES = "'’"
"""They stand apart from a word, or with it, as tokenizers please."""
JOINTS = frozenset('-\u2010\u2011"“”') | frozenset(APOSTROPHES)
"""Marks in a name that one text has and another has not; what other marks part is not one name."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Where the parts of a procedure are.

    Attributes:
        participants: span groups, or ``ents``; the first that a document has is taken.
        steps: a span group.
        places: a span group, or ``ents``; none: phrases of the text.
        max_place_words: words of such a phrase at most.
    """

    participants: tuple[str, ...]
    steps: str
    places: str | None
    max_place_words: int


class GoldProcedure(NamedTuple):
    """A procedure and where its participants are before the first and after every step; None: it is not annotated."""

    procedure: Procedure
    states: list[list[str]] | None


def find_procedure(doc: Doc, sources: Sources, name: str) -> Procedure:
    """Read a document as a procedure.

    ``doc.user_data["procedure"]`` may have `participants`, names, and `steps`, their starts and ends in characters; so may,
    under its own key, what a reader leaves there (`entitykit.decoding.procedures.GIVEN`). What is not given is found in span
    groups, the steps else in the sentences.

    Args:
        doc: the document.
        sources: where what is not given is.
        name: of the component, for messages.

    Raises:
        InputError: E612 for given values of another form, E613 for a document without steps, E615 for a span group with steps
            that overlap.
    """
    given = given_procedure(doc.user_data)
    if "participants" in given:
        participants = named_participants(doc, given["participants"])
    else:
        participants = _found_participants(doc, sources.participants)
    steps = _steps(doc, given, sources.steps, name)
    if not participants:
        return Procedure(len(doc), steps or [], [])
    if steps is None:
        raise error("E613", name=name, text=doc.text[:40], group=sources.steps)
    return _with_places(doc, steps, participants, sources)


def gold_procedure(eg: Example, sources: Sources) -> GoldProcedure:
    """Read an example: steps, participants and their states are those of the reference, in the words of the predicted document.

    Args:
        eg: the example; an annotated reference has a grid as `entitykit.decoding.procedures.gold_grid` reads it.
        sources: where places are.

    Raises:
        InputError: E612 for a grid of another form.
    """
    grid = gold_grid(eg.reference.user_data)
    doc = eg.predicted
    if grid is None:
        return GoldProcedure(Procedure(len(doc), [], []), None)
    if doc.text != eg.reference.text:
        raise error("E612", found="of another text than the predicted document's", expected="the same text")
    participants = named_participants(doc, grid["participants"])
    steps = words_of(doc, grid["steps"])
    return GoldProcedure(_with_places(doc, steps, participants, sources), [list(row) for row in grid["states"]])


def _with_places(doc: Doc, steps: Sequence[Place], participants: Sequence[Participant], sources: Sources) -> Procedure:
    bare = Procedure(len(doc), steps, participants)
    if sources.places is None:
        spans: Iterable[Place] = _phrases(doc, bare.parts, sources.max_place_words)
    else:
        spans = [(span.start, span.end) for span in reference_spans(doc, [sources.places]) or ()]
    found: dict[Key, list[Place]] = {}
    for start, end in spans:
        if key := _key(doc[i].text for i in range(start, end)):
            found.setdefault(key, []).append((start, end))
    names = [" ".join(doc[slice(*own[0])].text.split()) for own in found.values()]
    return Procedure(len(doc), steps, participants, list(found.values()), names)


# Steps


def _steps(doc: Doc, given: Mapping[str, Any], group: str, name: str) -> list[Place] | None:
    """Steps that are given, else those of a span group, else the sentences; none where there are not even these."""
    if "steps" in given:
        return words_of(doc, given["steps"])
    if group in doc.spans:
        steps = sorted((span.start, span.end) for span in doc.spans[group])
        for one, other in pairwise(steps):
            if one[1] > other[0]:
                raise error("E615", name=name, group=group, one=doc[slice(*one)].text[:40], other=doc[slice(*other)].text[:40])
        return steps
    if doc.has_annotation("SENT_START"):
        return [(sent.start, sent.end) for sent in doc.sents]
    return None if len(doc) else []


def words_of(doc: Doc, places: Any) -> list[Place]:
    """Words of steps, which are given in characters; a word that two share belongs to the first.

    Raises:
        InputError: E612 for values that are no places of the text one after the other.
    """
    try:
        table = np.array([[int(start), int(end)] for start, end in places], dtype=np.int64).reshape(-1, 2)
    except (TypeError, ValueError) as reason:
        raise error("E612", found=f"steps {places!r}"[:100], expected="starts and ends in characters") from reason
    edges = table.ravel()
    if (np.diff(edges) < 0).any() or (len(edges) and (edges[0] < 0 or edges[-1] > len(doc.text))):
        expected = f"starts and ends in characters, one after the other and at most {len(doc.text)}"
        raise error("E612", found=f"steps {places!r}"[:100], expected=expected)
    starts = np.array([token.idx for token in doc], dtype=np.int64)
    ends = starts + np.array([len(token) for token in doc], dtype=np.int64)
    found: list[Place] = []
    for start, end in table.tolist():
        first = max(int(np.searchsorted(ends, start, side="right")), found[-1][1] if found else 0)
        found.append((first, max(first, int(np.searchsorted(starts, end, side="left")) if end > start else first)))
    return found


# Participants


def named_participants(doc: Doc, names: Any) -> list[Participant]:
    """Participants that are given by name, with all places where the text has one of a name's alternatives.

    Raises:
        InputError: E612 for names that are no texts.
    """
    if not are_texts(names):
        raise error("E612", found=f"participants {names!r}"[:100], expected="a list of names")
    words = _index(doc)
    return [Participant(each, sorted(_mentions(words, each))) for each in names]


def _found_participants(doc: Doc, keys: Sequence[str]) -> list[Participant]:
    """Distinct phrases of the first group that there is; they are mentioned wherever the text has the same words.

    *The ice* is one mention, and not another one without its article.
    """
    spans = next((found for key in keys if (found := reference_spans(doc, [key])) is not None), [])
    groups: dict[Key, list[Place]] = {}
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        if key := _key(token.text for token in span):
            groups.setdefault(key, []).append((span.start, span.end))
    words = _index(doc)
    participants = []
    for own in groups.values():
        name = " ".join(doc[slice(*own[0])].text.split())
        participants.append(Participant(name, sorted({*own, *_outside(_mentions(words, name.replace(";", " ")), own)})))
    return participants


def _outside(found: Iterable[Place], own: Sequence[Place]) -> Iterator[Place]:
    """Places that lie in none of others, which are sorted."""
    starts, reached = [start for start, _ in own], list(accumulate((end for _, end in own), max))
    for start, end in found:
        before = bisect_right(starts, start)
        if not before or reached[before - 1] < end:
            yield start, end


class _Words(NamedTuple):
    """The pieces of a document's tokens, words and marks as `_split` tells them apart, without those that a name may lack.

    Attributes:
        stems: of the pieces.
        tokens: their tokens in the document.
        starts: of each stem the pieces that are the first word of their token.
        ends: the pieces that are the last word of theirs.
    """

    stems: list[str]
    tokens: list[int]
    starts: dict[str, list[int]]
    ends: set[int]


def _index(doc: Doc) -> _Words:
    """Index a document; how its tokenizer keeps marks within words, as in *COVID-19* and *U.S.*, makes no difference."""
    words = _Words([], [], {}, set())
    for token in doc:
        pieces = [piece for piece in _split(token.text) if not _may_lack(piece)]
        of_words = [i for i, piece in enumerate(pieces, start=len(words.stems)) if _is_word(piece)]
        words.stems.extend(map(_stem, pieces))
        words.tokens.extend([token.i] * len(pieces))
        if of_words:
            words.starts.setdefault(words.stems[of_words[0]], []).append(of_words[0])
            words.ends.add(of_words[-1])
    return words


def _mentions(words: _Words, name: str) -> set[Place]:
    """Where one of a name's alternatives is.

    No place begins or ends with an article or a mark, nor within a token: *19* is not mentioned in *COVID-19*.
    """
    found = set()
    for alternative in name.split(";"):
        kept = [word for word in _split(alternative) if not _may_lack(word)]
        of_words = [i for i, word in enumerate(kept) if _is_word(word)]
        wanted = [_stem(word) for word in kept[of_words[0] : of_words[-1] + 1]] if of_words else []
        for start in words.starts.get(wanted[0], ()) if wanted else ():
            end = start + len(wanted)
            if end - 1 in words.ends and words.stems[start:end] == wanted:
                found.add((words.tokens[start], words.tokens[end - 1] + 1))
    return found


def _may_lack(word: str) -> bool:
    """Whether a name is the same without it."""
    return word.isspace() or word in JOINTS or word.lower() in ARTICLES


# Places


def _phrases(doc: Doc, parts: Sequence[Place], longest: int) -> Iterator[Place]:
    """Runs of words within a part that have no punctuation and neither begin nor end with a word of `EDGES`."""
    words = [token.text.lower() for token in doc]
    is_word = [_is_word(word) for word in words]
    for start, end in parts:
        for first in range(start, end):
            if not is_word[first] or words[first] in EDGES:
                continue
            for last in range(first, min(first + longest, end)):
                if not is_word[last]:
                    break
                if words[last] not in EDGES:
                    yield first, last + 1


def find_place(place: str, keys: Mapping[Key, int]) -> int:
    """Number of a gold place among the choices of a tracker: 0 nowhere, 1 unknown, then those in the text.

    A place that is not in the text as it stands is the longest part of it that is, which ProPara's measure by sentence takes
    for right.

    Args:
        place: as in a grid.
        keys: of the places in the text to their numbers, see `place_keys`.

    Returns:
        -1 if there is none.
    """
    if place in (NOWHERE, UNKNOWN):
        return 0 if place == NOWHERE else 1
    wanted = _key(_split(place))
    for size in range(len(wanted), 0, -1):
        for first in range(len(wanted) - size + 1):
            if (number := keys.get(wanted[first : first + size])) is not None:
                return number
    return -1


def place_keys(procedure: Procedure) -> dict[Key, int]:
    """Stems of the places, without articles, and their numbers among a tracker's choices."""
    found: dict[Key, int] = {}
    for number, name in enumerate(procedure.names, start=2):
        found.setdefault(_key(_split(name)), number)
    return found


def _key(words: Iterable[str]) -> Key:
    """Stems of words, without articles and punctuation."""
    return tuple(_stem(word) for word in words if _is_word(word) and word.lower() not in ARTICLES)


def _is_word(word: str) -> bool:
    return any(map(str.isalnum, word))


def _split(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


@lru_cache(maxsize=100_000)
def _stem(word: str) -> str:
    return stem(word.strip(APOSTROPHES) or word)
