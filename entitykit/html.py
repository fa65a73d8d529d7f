"""Show documents with their entities as one web page that needs nothing else: no server, no network, no libraries.

Entities are boxes, nested ones boxes in boxes. A box that crosses another one is cut at its edge: the pieces have dashed ends
and the last one carries the label. Untyped mentions are dotted lines under the text. Below are the entities that it is about,
those with several mentions, relations as arcs, and links.
"""

from __future__ import annotations

import heapq
import zlib
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from spacy.tokens import Doc

from entitykit.corpora.jsonl import doc_to_record
from entitykit.html_arcs import STYLE as ARCS
from entitykit.html_arcs import draw_relations
from entitykit.html_coref import SCRIPT as CHAINS_SCRIPT
from entitykit.html_coref import STYLE as CHAINS
from entitykit.html_coref import Chain, draw_chains, find_chains
from entitykit.html_links import STYLE as LINKS
from entitykit.html_links import draw_links
from entitykit.html_salience import STYLE as SALIENCE
from entitykit.html_salience import draw_salience
from entitykit.html_tracking import STYLE as STATES
from entitykit.html_tracking import draw_states

# A label is a hue; lightness is the same for all, so that every label is readable on its box in both colour schemes.
STYLE = """
:root { color-scheme: light dark; --page: #f7f7f4; --card: #fff; --ink: #1c1e21; --soft: #5d636b; --line: #d9d9d2;
  --box: 85% 93%; --edge: 45% 58%; --tag: 80% 22%; }
@media (prefers-color-scheme: dark) {
  :root { --page: #121416; --card: #1b1e21; --ink: #e4e6e8; --soft: #9aa1a9; --line: #33383d;
    --box: 45% 17%; --edge: 40% 46%; --tag: 75% 84%; } }
* { box-sizing: border-box; }
body { display: flex; flex-direction: column; gap: 1rem; max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem;
  background: var(--page); color: var(--ink); font: 1.0625rem/1.5 system-ui, "Noto Sans", sans-serif; }
header, nav { order: -1; }  /* the legend is written last */
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
h2 { margin: 0 0 .75rem; font-size: 1rem; overflow-wrap: anywhere; }
small { color: var(--soft); font-weight: 400; margin-inline-start: .5em; }
nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .4rem; max-height: 40vh; overflow: auto;
  padding: .6rem 0; background: var(--page); }
nav small { flex-basis: 100%; margin: 0; }
label { display: inline-flex; align-items: center; gap: .4em; padding: .15em .7em; border: 1px solid hsl(var(--h) var(--edge));
  border-radius: 1em; background: hsl(var(--h) var(--box)); color: hsl(var(--h) var(--tag)); font-size: .8125rem;
  font-weight: 600; cursor: pointer; }
label.mentions { border-color: var(--line); background: none; color: var(--soft); }
label:has(:not(:checked)) { opacity: .6; }
input { margin: 0; accent-color: currentColor; }
main { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
article { padding: 1rem 1.25rem 1.25rem; border: 1px solid var(--line); border-radius: .6rem; background: var(--card);
  content-visibility: auto; contain-intrinsic-size: auto 30rem; }
.text { line-height: 1.8; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.text.h1 { line-height: 2.1; }
.text.h2 { line-height: 2.6; }
.text.h3 { line-height: 3; }
mark { padding: 1px 3px; border: 1px solid hsl(var(--h) var(--edge)); border-radius: .3em; background: hsl(var(--h) var(--box));
  color: inherit; }
mark.h1 { padding-block: 5px; }
mark.h2 { padding-block: 9px; }
mark.h3 { padding-block: 13px; }
mark::after { margin: 0 .3em; color: hsl(var(--h) var(--tag)); font-size: .65em; font-weight: 700; letter-spacing: .03em;
  white-space: nowrap; unicode-bidi: isolate; }
mark.cut-end { border-inline-end-style: dashed; }
mark.cut-end::after { display: none; }
mark.cut-start { border-inline-start-style: dashed; }
u { text-decoration: underline dotted var(--soft) 1.5px; text-underline-offset: .2em; }
.no-mentions u { text-decoration: none; }
@media print { nav { position: static; } }
"""

SCRIPT = """
for (const input of document.querySelectorAll("nav input"))
  input.onchange = () => document.body.classList.toggle(input.value, !input.checked);
"""

# Common types get hues far from each other; any other label gets the hue of its checksum.
HUES = {
    **dict.fromkeys(["PERSON", "PER"], 212),
    **dict.fromkeys(["ORGANIZATION", "ORG"], 275),
    **dict.fromkeys(["PLACE", "LOCATION", "LOC"], 165),
    **dict.fromkeys(["FACILITY", "FAC"], 188),
    **dict.fromkeys(["OBJECT", "PRODUCT"], 18),
    **dict.fromkeys(["WORK", "WORK_OF_ART"], 320),
    **dict.fromkeys(["VEHICLE", "VEH"], 75),
    "GPE": 130,
    "DATE": 42,
    "TIME": 55,
    "EVENT": 350,
    "ANIMAL": 95,
    "SUBSTANCE": 240,
    "ABSTRACT": 298,
    "QUANTITY": 30,
}

# Characters that a browser would not show, as the pictures that Unicode has for them.
CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {0x7F: 0x2421}


class Mark(NamedTuple):
    """A stretch of text to mark, or a piece of one.

    Attributes:
        start: first character.
        end: one past the last character.
        label: entity type; None for an untyped mention.
        hint: what hovering shows.
        chain: number of the entity that the mention is of, among those with several; 0 for none.
        cut_start: whether an earlier piece of the same stretch ends here.
        cut_end: whether a later piece of the same stretch follows.
    """

    start: int
    end: int
    label: str | None
    hint: str = ""
    chain: int = 0
    cut_start: bool = False
    cut_end: bool = False


class Page:
    """A page that is written piece by piece, so that any number of documents needs the memory of one.

    The legend comes last, because only then all labels have been counted; the style sheet shows it at the top.

    Args:
        names: of linked entities by id, shown beside the ids.
    """

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = names or {}
        self.labels: Counter[str] = Counter()
        self.n_mentions = 0
        self.n_documents = 0
        self.n_words = 0
        self.styles: set[str] = set()

    def begin(self, title: str) -> str:
        """Give the page's beginning, up to the first document."""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
            f'<header><h1 dir="auto">{escape(title)}</h1></header>\n<main>\n'
        )

    def document(self, doc: Doc) -> str:
        """Give the part that shows one document: its entities as `annotate` writes them, `doc.spans["mentions"]`, relations."""
        record = doc_to_record(doc)
        entities = record["entities"]
        chains = find_chains(doc)
        mentions = _with_chains(record.get("spans", {}).get("mentions", []), chains)
        name = record.get("id") or f"Document {self.n_documents + 1}"
        self.labels.update(entity["label"] for entity in entities)
        self.n_mentions += len(mentions)
        self.n_documents += 1
        self.n_words += len(doc)
        numbers = {label: number for number, label in enumerate(self.labels)}
        pieces = nest(_marks(entities, mentions))
        heights = _heights(pieces)
        body = "".join(_markup(record["text"], pieces, heights, numbers))
        size = f"{_counted(len(doc), 'word', 'words')}, {_counted(len(entities), 'entity', 'entities')}"
        arcs = self._styled(ARCS, draw_relations(doc, numbers, _visible))
        same = self._styled(CHAINS, draw_chains(chains, _visible))
        links = self._styled(LINKS, draw_links(doc, _visible, self.names))
        about = self._styled(SALIENCE, draw_salience(doc, _visible))
        states = self._styled(STATES, draw_states(doc, _visible))
        heading = f'<h2 dir="auto">{_visible(name)}<small>{size}</small></h2>'
        text = f'<div class="text h{max(heights, default=0)}">{body}</div>'
        return f"<article>\n{heading}\n{text}\n{about}{same}{arcs}{links}{states}</article>\n"

    def _styled(self, style: str, part: str) -> str:
        """Put the style of a kind of part before the first one."""
        if not part or style in self.styles:
            return part
        self.styles.add(style)
        return f"<style>{style}</style>{part}"

    def end(self) -> str:
        """Give the legend with the number of entities of every label, and the page's end."""
        numbers = {label: number for number, label in enumerate(self.labels)}
        styles = "".join(_label_style(label, number) for label, number in numbers.items())
        switches = [_switch(f"l{numbers[label]}", label, count) for label, count in self.labels.most_common()]
        if self.n_mentions:
            switches.append(_switch("mentions", "mention", self.n_mentions))
        script = SCRIPT + (CHAINS_SCRIPT if CHAINS in self.styles else "")
        counts = (
            _counted(self.n_documents, "document", "documents"),
            _counted(self.n_words, "word", "words"),
            _counted(self.labels.total(), "entity", "entities"),
        )
        return (
            f'</main>\n<nav aria-label="Labels">\n{"".join(switches)}<small>{", ".join(counts)}</small>\n</nav>\n'
            f"<style>\n{styles}</style>\n<script>{script}</script>\n</body>\n</html>\n"
        )


def render_html(docs: Iterable[Doc], *, title: str = "Entities", names: Mapping[str, str] | None = None) -> str:
    """Give a whole page that shows documents with their entities and mentions, to be written to a file or shown in a notebook.

    Args:
        docs: annotated documents; read are what `entitykit.corpora.jsonl.doc_to_record` reads.
        title: the page's title.
        names: of linked entities by id, shown beside the ids.
    """
    page = Page(names)
    return "".join([page.begin(title), *map(page.document, docs), page.end()])


def nest(marks: Iterable[Mark]) -> list[Mark]:
    """Cut marks that cross each other, so that of any two pieces one holds the other or they are apart.

    Of two crossing marks the one that starts later is cut, at the end of the earlier one. Mentions lie inside entities with the
    same offsets.

    Returns:
        The pieces in the order in which they open.
    """

    def opening(mark: Mark) -> tuple[int, int, bool, str]:
        return mark.start, -mark.end, mark.label is None, mark.label or ""

    waiting = [(opening(mark), number, mark) for number, mark in enumerate(marks) if mark.start < mark.end]
    heapq.heapify(waiting)
    pieces: list[Mark] = []
    enclosing: list[Mark] = []
    while waiting:
        _, number, piece = heapq.heappop(waiting)
        while enclosing and enclosing[-1].end <= piece.start:
            enclosing.pop()
        if enclosing and enclosing[-1].end < piece.end:
            edge = enclosing[-1].end
            rest = piece._replace(start=edge, cut_start=True)
            heapq.heappush(waiting, (opening(rest), number, rest))
            piece = piece._replace(end=edge, cut_end=True)
        pieces.append(piece)
        enclosing.append(piece)
    return pieces


def _marks(entities: Sequence[Mapping[str, Any]], mentions: Sequence[Mapping[str, Any]]) -> Iterator[Mark]:
    offsets = sorted((entity["start"], entity["end"]) for entity in entities)
    for entity in entities:
        yield Mark(entity["start"], entity["end"], entity["label"], _hint(entity["label"], entity))
    hinted = set(offsets)
    for mention in mentions:
        start, end = mention["start"], mention["end"]
        # A mention that is an entity leaves the hint to the entity's box around it.
        hint = "" if (start, end) in hinted else _hint("mention", mention)
        # A line can be cut without a trace, a box cannot: the mention is cut where an entity starts in it and ends behind it.
        inside = offsets[bisect_right(offsets, (start, end)) : bisect_left(offsets, (end, end))]
        for first, last in pairwise([start, *(begin for begin, until in inside if until > end), end]):
            yield Mark(first, last, None, hint, mention.get("chain", 0))


def _with_chains(mentions: Sequence[Mapping[str, Any]], chains: Sequence[Chain]) -> list[Mapping[str, Any]]:
    """Mentions with the numbers of their chains, and those that are only in chains."""
    numbers = {place: chain.number for chain in chains for place in chain.places}
    known = {(mention["start"], mention["end"]) for mention in mentions}
    further = [{"start": start, "end": end} for start, end in numbers if (start, end) not in known]
    return [{**m, "chain": numbers.get((m["start"], m["end"]), 0)} for m in [*mentions, *further]]


def _hint(name: str, span: Mapping[str, Any]) -> str:
    score = span.get("score")
    parts = [name or "(no label)", "" if score is None else f"{score:.2f}", span.get("kb_id") or ""]
    return " · ".join(filter(None, parts))


def _heights(pieces: Sequence[Mark]) -> list[int]:
    """Count the levels of boxes in each piece, at most 3: boxes with others in them must be higher, and so must the lines."""
    heights = [0] * len(pieces)
    enclosing: list[int] = []
    for i, piece in enumerate(pieces):
        while enclosing and pieces[enclosing[-1]].end <= piece.start:
            enclosing.pop()
        if piece.label is not None:
            for level, outer in enumerate(reversed(enclosing), start=1):
                heights[outer] = max(heights[outer], min(level, 3))
            enclosing.append(i)
    return heights


def _markup(text: str, pieces: Iterable[Mark], heights: Iterable[int], numbers: Mapping[str, int]) -> Iterator[str]:
    position = 0
    enclosing: list[Mark] = []

    def close_until(limit: int) -> Iterator[str]:
        nonlocal position
        while enclosing and enclosing[-1].end <= limit:
            closed = enclosing.pop()
            yield _visible(text[position : closed.end])
            position = closed.end
            yield "</u>" if closed.label is None else "</mark>"

    for piece, height in zip(pieces, heights, strict=True):
        yield from close_until(piece.start)
        yield _visible(text[position : piece.start])
        position = piece.start
        yield _opening_tag(piece, height, numbers)
        enclosing.append(piece)
    yield from close_until(len(text))
    yield _visible(text[position:])


def _opening_tag(piece: Mark, height: int, numbers: Mapping[str, int]) -> str:
    hint = f' title="{_visible(piece.hint)}"' if piece.hint else ""
    if piece.label is None:
        chain = f' data-chain="{piece.chain}"' if piece.chain else ""
        return f"<u{hint}{chain}>"
    height_class = f" h{height}" if height else ""
    cuts = " cut-start" * piece.cut_start + " cut-end" * piece.cut_end
    return f'<mark class="l{numbers[piece.label]}{height_class}{cuts}"{hint}>'


def _counted(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _visible(text: str) -> str:
    return escape(text).translate(CONTROLS)


def _label_style(label: str, number: int) -> str:
    hue = HUES.get(label.upper(), zlib.crc32(label.encode()) % 360)
    # Escaped as numbers: a label may hold quotes, line ends or "</style>".
    # The word joiner keeps it on the line of the entity's last word.
    content = "".join(f"\\{ord(character):x} " for character in f"\N{WORD JOINER}{label}")
    return (
        f".l{number} {{ --h: {hue}; }} mark.l{number}::after {{ content: '{content}'; }}\n"
        f".no-l{number} mark.l{number} {{ all: unset; }} .no-l{number} mark.l{number}::after {{ content: none; }}\n"
    )


def _switch(name: str, label: str, count: int) -> str:
    shown = _visible(label) or "(no label)"
    return f'<label class="{name}"><input type="checkbox" checked value="no-{name}">{shown} {count:,}</label>\n'
