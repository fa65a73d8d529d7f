"""Entities that somebody asks for by name: where names stand, and which clusters of coreference are theirs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc, Span

from entitykit.bridge.coref import find_named
from entitykit.bridge.coref_memory import Found
from entitykit.bridge.known_words import KnownWords, said_words
from entitykit.components.clusters import name_keys
from entitykit.corpora.name_words import TITLES
from entitykit.decoding.coref import NONE
from entitykit.errors import error
from entitykit.models.coref import Named
from entitykit.models.coref_words import (
    NAMES,
    OTHER_FIRST,
    OTHER_GENDER,
    OTHER_PROPER,
    OTHER_TITLED,
    SAME_FULL,
    SAME_LAST,
    SAME_NAME,
    SAME_WORD,
)
from entitykit.models.major_entities import MajorEntities

Ints = NDArray[np.int64]

OTHERS = (OTHER_PROPER, OTHER_TITLED, OTHER_FIRST, OTHER_GENDER)
"""Kinds of names that are somebody else's."""
SURNAMES = (SAME_LAST, SAME_FULL, SAME_NAME)
"""Kinds of names by which an entity is found whose name does not stand in the text as it was asked for."""
APOSTROPHES = "['\u2019\u02bc]"


def asked_names(names: object, descriptions: object) -> tuple[list[str], dict[str, str]]:
    """The names that somebody asks for, and what is said of them.

    Raises:
        InputError: E641 for a text in the place of names, and for what is no name of its own, or no description of one.
    """
    if isinstance(names, str) or not isinstance(names, Iterable) or not isinstance(descriptions, Mapping):
        raise error("E641", found=names if isinstance(descriptions, Mapping) else descriptions, names=names)
    wanted, described = list(names), dict(descriptions)
    odd = [name for name in wanted if not isinstance(name, str)]
    every = [each for name in wanted if isinstance(name, str) for each in alternatives(name) or [""]]
    odd += [each for each in every if not each or every.count(each) > 1]
    odd += [name for name in described if name not in wanted]
    odd += [text for text in described.values() if not isinstance(text, str)]
    if odd:
        raise error("E641", found=odd[0], names=", ".join(map(str, wanted)))
    return wanted, described


def alternatives(name: str) -> list[str]:
    """The names of one entity, which are parted by semicolons."""
    return [each for part in name.split(";") if (each := part.strip())]


def occurrences(doc: Doc, name: str) -> list[Span]:
    """Where a name stands in a text as whole tokens, in any case, and whatever the white space in it.

    One kind of apostrophe is like another, *Mr* is like *Mr.*, and letters may be composed in any way. Of a name that is a stop
    word in lower case, such as US, only the places where it is written so; if it has a small letter, others, too, if there are
    none.
    """
    words = name.split()
    found = re.finditer(r"\s+".join(map(_pattern, words)), doc.text, re.IGNORECASE)
    spans = [span for match in found if (span := doc.char_span(*match.span())) is not None]
    if not name.endswith("."):  # what ends a sentence behind a title is none of it
        spans = [span[:-1] if span[-1].text == "." else span for span in spans]
    if all(doc.vocab[word.lower()].is_stop for word in words):
        return [span for span in spans if span.text.split() == words] or ([] if name.isupper() else spans)
    return spans


def _pattern(word: str) -> str:
    """What a word of a name looks like in texts."""
    title = word.rstrip(".")
    forms = [word] if title.lower() not in TITLES else [title + ".", title]
    every = {unicodedata.normalize(form, each): None for each in forms for form in ("NFC", "NFD")}
    patterns = [re.sub(APOSTROPHES, APOSTROPHES, re.escape(each)) for each in every]
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"


def share_words(mentions: Sequence[Span], keys: Ints, said: Doc) -> bool:
    """Whether mentions have a word that tells who is meant of what is said of somebody, titles aside.

    Args:
        mentions: of one document.
        keys: its `name_keys`.
        said: a name, and a description.
    """
    wanted = name_keys(said)
    own = np.concatenate([keys[:0], *(keys[span.start : span.end] for span in mentions)])
    return bool(np.isin(own, wanted[wanted != 0]).any())


class Asked(NamedTuple):
    """What somebody asks for in a text, and the mentions that are there.

    Attributes:
        spans: mentions, in order.
        found: the same.
        entities: *(n,)* of them by coreference; `NONE` of all where they were not followed.
        names: what is asked for; several may be of one entity.
        phrases: *(n_names,)* the same.
        whose: the entity of each name, where somebody has said so; equal for names of one.
    """

    spans: Sequence[Span]
    found: Found
    entities: Ints
    names: Sequence[str]
    phrases: Named
    whose: Sequence[str]

    def rows(self, head: MajorEntities, descriptions: Mapping[str, str], *, hybrid: bool) -> dict[str, list[int]]:
        """The mentions of each name, by their rows.

        Where coreference has one entity for names of several people, its mentions are divided among these by the head, which
        also looks for names of no entity among the mentions of all others. A mention that is one of the names goes there.

        Args:
            head: on the CPU, not in training.
            descriptions: what is said of names, by which one may also be an entity that has been called otherwise.
            hybrid: see `find_named`.
        """
        found: dict[str, set[int]] = {name: set() for name in self.names}
        kinds = self._kinds() if (self.entities != NONE).any() else {}
        chosen = self._clusters(kinds, descriptions) if kinds else {}
        people = self._people(chosen)
        for entity in dict.fromkeys(chosen.values()):
            rows = np.flatnonzero(self.entities == entity)
            rivals = list(dict.fromkeys(people[name] for name, own in chosen.items() if own == entity))
            owners = np.zeros(len(rows), dtype=np.int64)
            if len(rivals) > 1:
                owners = self._divide(head, rows, rivals, hybrid=True)
            for name, own in chosen.items():
                if own == entity:
                    found[name].update(rows[owners == rivals.index(people[name])].tolist())
        rest = [name for name in self.names if name not in chosen]
        free = np.flatnonzero(~np.isin(self.entities, list(chosen.values())))
        if rest and len(free):
            owners = self._divide(head, free, rest, hybrid=hybrid)
            for i, name in enumerate(rest):
                own = free[owners == i]
                if name not in descriptions:  # what has been called by another proper name is not this one's
                    own = own[~np.isin(self.entities[own], [e for e, kind in kinds.get(name, {}).items() if kind in OTHERS])]
                found[name].update(own.tolist())
        for row, name in self._named().items():
            for other in self.names:
                if people[other] != people[name]:
                    found[other].discard(row)
            found[name].add(row)
        return {name: sorted(rows) for name, rows in found.items()}

    def _clusters(self, kinds: Mapping[str, Mapping[int, int]], descriptions: Mapping[str, str]) -> dict[str, int]:
        """The entity that each name, or else its description, stands for; see `entities_by_name`.

        A name that no mention has is also that of the only entity whose last name is the same, as Knightley is of Mr.
        Knightley and of George Knightley, if nothing else speaks against it.

        Args:
            kinds: of `_kinds`.
            descriptions: what is said of names.
        """
        chosen = entities_by_name(self.spans, self.entities, self.names)
        for name in self.names:
            if name in chosen:
                continue
            if (text := descriptions.get(name)) and (described := entities_by_name(self.spans, self.entities, [text])):
                chosen[name] = described[text]
                continue
            fitting = {entity: kind for entity, kind in kinds[name].items() if kind in SURNAMES}
            most = max(fitting.values(), default=None)
            best = [entity for entity, kind in fitting.items() if kind == most]
            if len(best) == 1:
                chosen[name] = best[0]
        return chosen

    def _kinds(self) -> dict[str, dict[int, int]]:
        """Of each name, how it compares with all entities."""
        known, every = KnownWords(NAMES), np.unique(self.entities)
        for entity, word in zip(self.entities.tolist(), said_words(self.found.words), strict=True):
            known.add(entity, word)
        words = said_words(self.phrases.words)
        compared = [dict(zip(every.tolist(), known.kinds(word, every).tolist(), strict=True)) for word in words]
        return dict(zip(self.names, compared, strict=True))

    def _people(self, chosen: Mapping[str, int]) -> dict[str, str]:
        """Whom each name names, by the first name of theirs: whoever has asked so, or one entity's names that share a word."""
        people: dict[str, str] = {}
        words = [self.phrases.words.rows(slice(row, row + 1)) for row in range(len(self.names))]
        for row, name in enumerate(self.names):
            people[name] = name
            for other in range(row):
                kind = int(NAMES.compare(words[other], words[row]))
                alike = kind >= SAME_WORD and kind not in OTHERS
                together = chosen.get(self.names[other], NONE) == chosen.get(name)
                if (together and alike) or self.whose[other] == self.whose[row]:
                    people[name] = people[self.names[other]]
                    break
        return people

    def _divide(self, head: MajorEntities, rows: Ints, names: Sequence[str], *, hybrid: bool) -> Ints:
        """The number of the name to which each mention goes, -1 for none."""
        phrases = self.phrases.rows(torch.tensor([self.names.index(name) for name in names]))
        return find_named(head, phrases, self.found.rows(rows), hybrid=hybrid)

    def _named(self) -> dict[int, str]:
        """Mentions that are a name, in any case, and which."""
        rows = {(span.start, span.end): row for row, span in enumerate(self.spans)}
        if not rows:
            return {}
        doc = self.spans[0].doc
        found: dict[int, str] = {}
        for name in self.names:
            for span in occurrences(doc, name):
                if (row := rows.get((span.start, span.end))) is not None:
                    found.setdefault(row, name)
        return found


def entities_by_name(spans: Sequence[Span], entities: Ints, names: Sequence[str]) -> dict[str, int]:
    """The entity that has each name.

    It is the one with most mentions that are the name, in any case; of equal ones with most that hold it as whole tokens; of
    these the first. Where no mention is the name, it is the one with most that hold it, and that no other name has, if there is
    one. Of several names that are found so, the one that fits best chooses first: so their order counts only where they fit
    equally well.

    Args:
        spans: mentions, in order.
        entities: *(n,)* of them.
        names: several may name one entity; those that no mention holds are left out.
    """
    likeness = {name: of_name for name in names if (of_name := _likenesses(spans, entities, name))}
    best = {name: max(of_name, key=lambda entity: of_name[entity]) for name, of_name in likeness.items()}
    found = {name: entity for name, entity in best.items() if likeness[name][entity].same}
    only_held = [(name, entity) for name in likeness if name not in found for entity in likeness[name]]
    only_held.sort(key=lambda pair: likeness[pair[0]][pair[1]], reverse=True)  # equal ones stay in order
    for name, entity in only_held:
        if name not in found and entity not in found.values():
            found[name] = entity
    return {name: found.get(name, entity) for name, entity in best.items()}


class _Likeness(NamedTuple):
    """How an entity is called: how many of its mentions are a name, and how many hold it; the first number decides."""

    same: int = 0
    held: int = 0


def _likenesses(spans: Sequence[Span], entities: Ints, name: str) -> dict[int, _Likeness]:
    """Of the entities that hold a name, in the order of the first mentions that do."""
    if not spans:
        return {}
    places = np.array([(span.start, span.end) for span in spans], dtype=np.int64)
    named = np.array([(span.start, span.end) for span in occurrences(spans[0].doc, name)], dtype=np.int64).reshape(-1, 2)
    found: dict[int, _Likeness] = {}
    for row, is_name in _holding(places, named):
        same, held = found.get(entity := int(entities[row]), _Likeness())
        found[entity] = _Likeness(same + is_name, held + 1)
    return found


def _holding(places: Ints, named: Ints) -> Iterator[tuple[int, bool]]:
    """The rows of places *(n, 2)* that hold one of those that are a name *(m, 2)*, sorted; and whether they are the name."""
    if len(named):
        following = named[np.searchsorted(named[:, 0], places[:, 0]).clip(max=len(named) - 1)]  # the next name, or the last one
        holds = (following[:, 0] >= places[:, 0]) & (following[:, 1] <= places[:, 1])
        for row in np.flatnonzero(holds).tolist():
            yield row, bool((following[row] == places[row]).all())
