"""Draw the relations of a document as arcs over its words: SVG that needs no script and no font.

The words are set in cells of one width, so that all places are known without a browser. Relations whose words overlap are one
figure; long stretches without arguments are cut short in it, and what is still too wide for the page is scrolled.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from spacy.tokens import Doc

from entitykit.corpora.triples import Entity, Triple, read_triples

STYLE = """
figure.arcs { margin: .75rem 0 0; padding: .25rem 0; overflow-x: auto; }
figure.arcs svg { display: block; font: 14px ui-monospace, "DejaVu Sans Mono", "Noto Sans Mono", monospace; }
figure.arcs text { fill: var(--ink); white-space: pre; }
figure.arcs rect { fill: hsl(var(--h, 0) var(--box)); stroke: hsl(var(--h, 0) var(--edge)); }
figure.arcs rect.plain { fill: none; stroke: var(--line); }
figure.arcs path { fill: none; stroke: var(--soft); stroke-width: 1.25; }
figure.arcs path.end { fill: var(--soft); stroke: none; }
figure.arcs rect.back { fill: var(--card); stroke: none; }
figure.arcs text.name { font-size: 11px; font-weight: 600; text-anchor: middle; }
figure.arcs g:hover path { stroke: var(--ink); stroke-width: 2; }
"""

CELL = 8.5  # width of a character of the words, in pixels
NAME_CELL = 7.0  # of a relation's name
LEVEL = 22  # from one arc to the next higher one
TOP, BASE = 12, 30  # space above the highest arc, and for the words
MARGIN = 4  # for the boxes' edges
LONGEST, KEPT = 60, 24  # characters of a stretch without arguments that are shown; of a longer one at each end
GAP = " … "
NO_NAME = "(no label)"

Place = tuple[int, int]


class Arc(NamedTuple):
    """A relation to draw.

    Attributes:
        head: where its head is, in pixels.
        tail: where its tail is.
        low: the left end of all that is drawn of it.
        high: the right end.
        triple: the relation.
    """

    head: float
    tail: float
    low: float
    high: float
    triple: Triple


def draw_relations(doc: Doc, numbers: Mapping[str, int], visible: Callable[[str], str]) -> str:
    """Draw the relations of a document, as `entitykit.corpora.triples.read_triples` reads them.

    Args:
        doc: the document.
        numbers: of entity types; a type's style class is `l` with its number.
        visible: escapes text.

    Returns:
        Figures in the order of the text; nothing for a document without relations.
    """
    return "".join(_figure(doc.text, group, numbers, visible) for group in _groups(read_triples(doc)))


def _groups(triples: Iterable[Triple]) -> Iterator[list[Triple]]:
    """Put relations together whose words, from the first of both arguments to the last, overlap."""
    group: list[Triple] = []
    end = -1
    for triple in sorted(triples, key=_extent):
        low, high = _extent(triple)
        if group and low >= end:
            yield group
            group = []
        end = max(end, high) if group else high
        group.append(triple)
    if group:
        yield group


def _extent(triple: Triple) -> Place:
    return min(triple.head.start, triple.tail.start), max(triple.head.end, triple.tail.end)


def _figure(text: str, triples: Sequence[Triple], numbers: Mapping[str, int], visible: Callable[[str], str]) -> str:
    entities = {(entity.start, entity.end): entity for one in triples for entity in (one.head, one.tail)}
    pieces, lefts, width = _lay_out(text, sorted(entities))
    arcs = [_arc(one, lefts) for one in triples]
    left = min(0.0, *(arc.low for arc in arcs)) - MARGIN
    width = max(width, *(arc.high for arc in arcs)) + MARGIN - left
    levels = _levels(arcs)
    ground = TOP + LEVEL * (max(levels) + 1)
    height = ground + BASE
    drawn = [
        _box(entity, lefts, ground, numbers) for _, entity in sorted(entities.items(), key=lambda item: item[0][0] - item[0][1])
    ]
    for shown, x, n_cells in pieces:
        length = f' textLength="{n_cells * CELL:.1f}" lengthAdjust="spacingAndGlyphs"' if n_cells else ""
        drawn.append(f'<text x="{x:.1f}" y="{ground + 19}"{length}>{visible(shown)}</text>')
    drawn += [_drawn_arc(arc, level, ground, visible) for arc, level in zip(arcs, levels, strict=True)]
    said = "; ".join(f"{one.head.text} – {one.relation} → {one.tail.text}" for one in triples)
    return (
        f'<figure class="arcs"><svg xml:space="preserve" role="img" aria-label="{visible(said)}" width="{width:.1f}" '
        f'height="{height}" viewBox="{left:.1f} 0 {width:.1f} {height}">{"".join(drawn)}</svg></figure>\n'
    )


def _lay_out(text: str, places: Sequence[Place]) -> tuple[list[tuple[str, float, int]], dict[int, float], float]:
    """Cut a stretch of text where arguments begin and end, and set the pieces side by side.

    Args:
        text: of the document.
        places: of the arguments, sorted.

    Returns:
        The pieces, each with its left edge and number of cells; the position of each edge of an argument; and the width.
    """
    edges = sorted({edge for place in places for edge in place})
    covered_until = 0
    inside: dict[int, bool] = {}
    starts = [start for start, _ in places]
    for edge in edges:
        covered_until = max(
            [covered_until, *(end for _, end in places[bisect_right(starts, edge - 1) : bisect_right(starts, edge)])]
        )
        inside[edge] = edge < covered_until
    pieces: list[tuple[str, float, int]] = []
    lefts: dict[int, float] = {}
    x = 0.0
    for i, edge in enumerate(edges):
        lefts[edge] = x
        if i + 1 == len(edges):
            break
        shown = " ".join(text[edge : edges[i + 1]].splitlines()).translate({9: " "})
        if not inside[edge] and len(shown) > LONGEST:
            shown = shown[:KEPT] + GAP + shown[-KEPT:]
        n_cells = _cells(shown)
        pieces.append((shown, x, n_cells))
        x += n_cells * CELL
    return pieces, lefts, x


def _cells(text: str) -> int:
    """Count cells: none for combining marks, two for East Asian characters and emoji."""
    shown = (char for char in text if not unicodedata.category(char).startswith("M"))
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in shown)


def _arc(triple: Triple, lefts: Mapping[int, float]) -> Arc:
    head, tail = ((lefts[entity.start] + lefts[entity.end]) / 2 for entity in (triple.head, triple.tail))
    if head < tail:
        head, tail = head + 3, tail - 3  # so that arcs to both sides of a word are told apart
    elif head > tail:
        head, tail = head - 3, tail + 3
    else:
        head, tail = head - 10, tail + 10
    half = _cells(triple.relation or NO_NAME) * NAME_CELL / 2 + 6
    middle = (head + tail) / 2
    return Arc(head, tail, min(head, tail, middle - half), max(head, tail, middle + half), triple)


def _levels(arcs: Sequence[Arc]) -> list[int]:
    """Give each arc the lowest level that is free where it is, above all arcs that lie within it."""
    levels = [0] * len(arcs)
    drawn: list[list[tuple[float, float]]] = []  # for each level the ends of what is on it, which is apart, in order
    for i in sorted(range(len(arcs)), key=lambda i: (arcs[i].high - arcs[i].low, i)):
        low, high = arcs[i].low, arcs[i].high
        level = next((n + 1 for n in reversed(range(len(drawn))) if _holds(drawn[n], low, high)), 0)
        while level < len(drawn) and _touches(drawn[level], low, high):
            level += 1
        if level == len(drawn):
            drawn.append([])
        insort(drawn[level], (low, high))
        levels[i] = level
    return levels


def _holds(drawn: Sequence[tuple[float, float]], low: float, high: float) -> bool:
    """Whether one of them lies between two ends."""
    first = bisect_left(drawn, low, key=itemgetter(0))
    return first < len(drawn) and drawn[first][1] <= high


def _touches(drawn: Sequence[tuple[float, float]], low: float, high: float) -> bool:
    """Whether one of them has anything between two ends."""
    first = bisect_right(drawn, low, key=itemgetter(1))
    return first < len(drawn) and drawn[first][0] < high


def _box(entity: Entity, lefts: Mapping[int, float], ground: int, numbers: Mapping[str, int]) -> str:
    left, right = lefts[entity.start], lefts[entity.end]
    name = f"l{numbers[entity.label]}" if entity.label in numbers else "plain"
    return f'<rect class="{name}" x="{left - 2:.1f}" y="{ground + 4}" width="{right - left + 4:.1f}" height="21" rx="4"/>'


def _drawn_arc(arc: Arc, level: int, ground: int, visible: Callable[[str], str]) -> str:
    """Draw a line up from the head, over to above the tail and down to it, with the name on it."""
    y = ground - LEVEL * (level + 1) + 6
    turn = min(6.0, abs(arc.tail - arc.head) / 2) * (1 if arc.tail >= arc.head else -1)
    line = (
        f"M{arc.head:.1f} {ground + 2}V{y + 6}Q{arc.head:.1f} {y} {arc.head + turn:.1f} {y}"
        f"H{arc.tail - turn:.1f}Q{arc.tail:.1f} {y} {arc.tail:.1f} {y + 6}V{ground - 3}"
    )
    name = arc.triple.relation or NO_NAME
    middle, half = (arc.head + arc.tail) / 2, _cells(name) * NAME_CELL / 2
    score = "" if arc.triple.score is None else f" · {arc.triple.score:.2f}"
    hint = f"{arc.triple.head.text} – {name} → {arc.triple.tail.text}{score}"
    return (
        f'<g><title>{visible(hint)}</title><path d="{line}"/>'
        f'<path class="end" d="M{arc.tail:.1f} {ground + 3}l-4 -7h8z"/>'
        f'<rect class="back" x="{middle - half - 2:.1f}" y="{y - 6}" width="{2 * half + 4:.1f}" height="12"/>'
        f'<text class="name" x="{middle:.1f}" y="{y + 4}" textLength="{2 * half:.1f}" lengthAdjust="spacingAndGlyphs">'
        f"{visible(name)}</text></g>"
    )
