"""GENRE's two tasks: what the model reads for a document, what it may write, and which entities an output means."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp
from typing import NamedTuple, cast

from spacy.tokens import Doc

from entitykit.bridge.genre_text import MAX_NAME, Form, GenreText, Passage
from entitykit.decoding.beams import Beam
from entitykit.decoding.genre import AnyTokens, Markup, Names, State, begin_markup, begin_name, markup_tokens
from entitykit.decoding.markup import recover
from entitykit.errors import error, warn
from entitykit.knowledge.trie import CompactTrie
from entitykit.models.genre import IGNORED

Spans = Sequence[tuple[int, int]]
"""Mentions: first word and end, exclusive."""

Restrict = Callable[[Sequence[str]], list[CompactTrie | None]]
"""The names that each of some mentions may have."""


@dataclass(frozen=True, kw_only=True)
class GenreSettings:
    """How documents are read, and outputs written.

    Attributes:
        context: most tokens of a source in disambiguation.
        passage: most tokens of a passage that is written with markup.
        output: most tokens of what is written.
        batch_tokens: tokens that are at work at once: of sources, once for each beam, or, in training, of sources and outputs;
            this bounds memory.
        smoothing: label smoothing in training.
        marks: what stands before and behind the mention that is to be disambiguated.
    """

    context: int = 384
    passage: int = 256
    output: int = 1024
    batch_tokens: int = 16384
    smoothing: float = 0.1
    marks: tuple[str, str] = ("[START_ENT]", "[END_ENT]")


class Request(NamedTuple):
    """One output that is wanted.

    Attributes:
        doc: the document's number.
        source: tokens, special ones included.
        state: where the output begins.
        span: the mention, in disambiguation.
        passage: in markup.
    """

    doc: int
    source: list[int]
    state: State
    span: tuple[int, int] = (0, 0)
    passage: Passage | None = None


class Linked(NamedTuple):
    """A mention and what it may name.

    Attributes:
        start: its first word.
        end: its end, exclusive.
        rows: of the entities with each name, the best name first; empty for a name that no entity has.
        scores: probability of each of these names.
    """

    start: int
    end: int
    rows: list[list[int]]
    scores: list[float]


class Target(NamedTuple):
    """What a model is to learn.

    Attributes:
        source: tokens, special ones included.
        output: tokens, the end included.
        labels: the output again, with `IGNORED` in the place of tokens of which nobody knows whether they are right.
    """

    source: list[int]
    output: list[int]
    labels: list[int]


class NameTask:
    """Disambiguation: for each mention in its context, the name of its entity.

    Args:
        text: reads and writes.
        settings: of reading and writing.
        names: of all entities.
        restrict: gives the names that mentions may have; none: all.
        free: let the model write anything, and look up what it has written.
    """

    form: Form = "name"

    def __init__(
        self,
        text: GenreText,
        settings: GenreSettings,
        names: CompactTrie,
        restrict: Restrict | None = None,
        *,
        free: bool = False,
    ) -> None:
        self.text, self.settings, self.names, self.restrict = text, settings, names, restrict
        self.anything = AnyTokens(text.n_tokens, text.end, settings.output - 1) if free else None

    def requests(self, docs: Sequence[Doc], spans: Sequence[Spans]) -> list[Request]:
        """The outputs that documents' mentions need; none for a mention that may have no name.

        Warns:
            W531 if mentions are longer than the context.
        """
        found: list[Request] = []
        n_cut = 0
        for number, (doc, mentions) in enumerate(zip(docs, spans, strict=True)):
            sources, cut = self._sources(doc, mentions)
            n_cut += cut
            allowed: Sequence[Names | None] = [self.anything or self.names] * len(mentions)
            if self.restrict is not None and self.anything is None:
                allowed = self.restrict([doc[start:end].text for start, end in mentions])
            for span, source, names in zip(mentions, sources, allowed, strict=True):
                if names is not None:
                    found.append(Request(number, source, begin_name(names, self.text.end), span))
        if n_cut:
            warn("W531", n=n_cut, longest=self.settings.context)
        return found

    def read(self, doc: Doc, request: Request, beams: Sequence[Beam]) -> tuple[list[Linked], int]:
        """The mention, with the names that were written for it; none if the best of what was written freely is no name.

        The number is that of mentions that are left out: none.
        """
        found = Linked(*request.span, [], [])
        for beam in beams:
            rows = self._rows(beam)
            if self.anything is not None and not rows and not found.rows:
                break
            if rows and rows not in found.rows:
                found.rows.append(rows)
                found.scores.append(exp(beam.total))
        return [found], 0

    def _rows(self, beam: Beam) -> list[int]:
        if self.anything is not None:
            return rows_of(self.text.decode(beam.tokens), self)
        return cast(CompactTrie, beam.state.names).rows(beam.state.node).tolist()

    def targets(self, doc: Doc, links: Sequence[tuple[int, int, str]]) -> tuple[list[Target], int]:
        """What to learn from mentions and the names of their entities, and how many are left out."""
        sources, _ = self._sources(doc, [(start, end) for start, end, _ in links])
        names = self.text.names([name for *_, name in links], self.form)
        pairs = list(zip(sources, names, strict=True))
        outputs = [(source, [*name, self.text.end]) for source, name in pairs if 0 < len(name) <= MAX_NAME]
        return [Target(source, output, output) for source, output in outputs], len(pairs) - len(outputs)

    def _sources(self, doc: Doc, mentions: Spans) -> tuple[list[list[int]], int]:
        if not mentions:
            return [], 0
        pieces = self.text.read(doc.text, markup=False)
        edges = [(doc[start].idx, doc[end - 1].idx + len(doc[end - 1])) for start, end in mentions]
        found = [self.text.context(doc.text, pieces, *edge, self.settings.context, self.settings.marks) for edge in edges]
        return [source for source, _ in found], sum(cut > 0 for _, cut in found)


class MarkupTask:
    """Markup: each passage of a document is written with its mentions and their names.

    Args:
        text: reads and writes.
        settings: of reading and writing.
        names: of all entities.
        restrict: gives the names that mentions may have; none: all.
        free: let the model write anything, and read what it has marked.
        max_words: of a mention, where these are not given.

    Raises:
        ConfigError: E536 for a tokenizer without marks, E537 if a passage with one mention is longer than an output may be.
    """

    form: Form = "markup"

    def __init__(
        self,
        text: GenreText,
        settings: GenreSettings,
        names: CompactTrie,
        restrict: Restrict | None = None,
        *,
        free: bool = False,
        max_words: int = 10,
    ) -> None:
        self.text, self.settings, self.names, self.restrict, self.max_words = text, settings, names, restrict, max_words
        self.marks = text.marks()
        self.anything = AnyTokens(text.n_tokens, text.end, settings.output - 1) if free else None
        needed = settings.passage + 5 + names.longest
        if needed > settings.output:
            raise error(
                "E537", setting="output", found=settings.output, expected=f"at least {needed}, for a passage and a name"
            )

    def requests(self, docs: Sequence[Doc], spans: Sequence[Spans | None]) -> list[Request]:
        """The outputs that documents need; their spans are all that may be mentions, or none: any.

        Warns:
            W533 if some of the spans can be no mentions.
        """
        found = []
        n = n_lost = 0
        for number, (doc, mentions) in enumerate(zip(docs, spans, strict=True)):
            allowed = None if mentions is None or self.anything else set(mentions)
            reached: set[tuple[int, int]] = set()
            for passage in self.text.passages(doc, self.settings.passage):
                places = [] if self.anything else self._places(passage, allowed)
                reached.update((passage.starts[first], passage.ends[last]) for first, last in places)
                state = begin_name(self.anything, self.text.end) if self.anything else self._state(doc, passage, places)
                found.append(Request(number, self.text.source(passage.ids), state, passage=passage))
            if allowed is not None:
                n, n_lost = n + len(allowed), n_lost + len(allowed - reached)
        if n_lost:
            warn("W533", n=n_lost, total=n)
        return found

    def _state(self, doc: Doc, passage: Passage, places: Sequence[tuple[int, int]]) -> State:
        """Where the output for a passage begins; its places may be mentions."""
        places = places if len(self.names) else []
        names: dict[tuple[int, int], CompactTrie] = {}
        if self.restrict is not None:
            mentions = [doc[passage.starts[first] : passage.ends[last]].text for first, last in places]
            found = zip(places, self.restrict(mentions), strict=True)
            names = {place: each for place, each in found if each is not None}
            places = list(names)
        ends: dict[int, list[int]] = {}
        for first, last in places:
            ends.setdefault(first, []).append(last)
        task = Markup(
            source=passage.ids,
            ends=ends,
            names=lambda first, last: names.get((first, last), self.names),
            longest=max((each.longest for each in names.values()), default=self.names.longest),
            limit=self.settings.output,
            marks=self.marks,
        )
        return begin_markup(task)

    def _places(self, passage: Passage, allowed: set[tuple[int, int]] | None) -> list[tuple[int, int]]:
        """First tokens and ends of what may be a mention, in order."""
        found = []
        stops = sorted(passage.ends.items())
        for first, word in sorted(passage.starts.items()):
            for last, end in stops[bisect_right(stops, (first, -1)) :]:
                if allowed is None and end > word + self.max_words:
                    break
                if word < end and first < last and (allowed is None or (word, end) in allowed):
                    found.append((first, last))
        return found

    def read(self, doc: Doc, request: Request, beams: Sequence[Beam]) -> tuple[list[Linked], int]:
        """The mentions of the best output, each with one name, and how many of what was written freely are left out."""
        passage = request.passage
        if passage is None or not beams:
            return [], 0
        if self.anything is not None:
            return self._read_free(doc, passage, beams[0])
        totals = beams[0].totals
        found = []
        for link in beams[0].state.links:
            rows = cast(CompactTrie, link.names).rows(link.node).tolist()
            score = exp(totals[link.last + 1] - totals[link.first])
            found.append(Linked(passage.starts[link.start], passage.ends[link.end], [rows], [score]))
        return found, 0

    def _read_free(self, doc: Doc, passage: Passage, beam: Beam) -> tuple[list[Linked], int]:
        """Mentions, with the entities that have their names, and how many are not in the text, or overlap the one before.

        Their score is the mean probability of the output's tokens.
        """
        written = recover(doc.text[passage.start : passage.end], self.text.decode(beam.tokens))
        score = exp(beam.total / max(beam.state.length, 1))
        found: list[Linked] = []
        for start, end, name in written.links:
            span = doc.char_span(passage.start + start, passage.start + end, alignment_mode="expand")
            if span is not None and (not found or span.start >= found[-1].end):
                found.append(Linked(span.start, span.end, [rows_of(name, self)], [score]))
        return found, len(written.links) + written.n_lost - len(found)

    def targets(self, doc: Doc, links: Sequence[tuple[int, int, str]]) -> tuple[list[Target], int]:
        """What to learn from mentions and the names of their entities, and how many are left out.

        A mention may begin or not where nobody has annotated the word (``ent_iob`` 0): its first token is not learned. Passages
        without any annotated word are left out.
        """
        names = self.text.names([name for *_, name in links], self.form)
        known = (doc.to_array("ENT_IOB") != 0).tolist()
        found, n_kept = [], 0
        for passage in self.text.passages(doc, self.settings.passage):
            if not any(known[word] for word in passage.starts.values()):
                continue
            first = {word: token for token, word in passage.starts.items()}
            last = {word: token for token, word in passage.ends.items()}
            within: list[tuple[int, int, list[int]]] = []
            room = self.settings.output - len(passage.ids) - 1
            for (start, end, _), name in sorted(zip(links, names, strict=True)):
                begin, stop = first.get(start, -1), last.get(end, -1)
                follows = 0 <= begin < stop and (not within or within[-1][1] <= begin)
                if follows and 0 < len(name) <= min(MAX_NAME, room - 4):
                    within.append((begin, stop, name))
                    room -= len(name) + 4
            n_kept += len(within)
            unknown = {token for token, word in passage.starts.items() if not known[word]}
            learned = [IGNORED if i in unknown else token for i, token in enumerate(passage.ids)]
            output, labels = ([*markup_tokens(ids, within, self.marks), self.text.end] for ids in (passage.ids, learned))
            found.append(Target(self.text.source(passage.ids), output, labels))
        return found, len(links) - n_kept


def rows_of(name: str, task: NameTask | MarkupTask) -> list[int]:
    """Rows of the entities with a name that was written freely."""
    tokens = task.text.names([name.strip()], task.form)[0]
    return task.names.rows(int(task.names.find([tokens])[0])).tolist() if tokens else []
