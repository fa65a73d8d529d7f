"""Relations as arcs: well-formed, escaped, in place, and nothing changes without them."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html import unescape
from typing import Any

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, Span

from entitykit import html_arcs
from entitykit.corpora.triples import WRITTEN
from entitykit.errors import InputError
from entitykit.html import render_html
from entitykit.html_arcs import CELL, LEVEL, STYLE

NLP = spacy.blank("xx")


def make(
    words: list[str], ents: list[tuple[int, int, str]], relations: list[tuple[tuple[int, int], tuple[int, int], str]]
) -> Doc:
    doc = Doc(NLP.vocab, words=words)
    doc.spans["sc"] = [Span(doc, start, end, label=label) for start, end, label in ents]
    values = [{"head": list(head), "tail": list(tail), "label": label, "score": 0.876} for head, tail, label in relations]
    doc.user_data[WRITTEN] = values
    return doc


def figures(page: str) -> list[ET.Element]:
    """All figures, read as XML."""
    return [ET.fromstring(found) for found in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def texts(figure: ET.Element, name: str | None = None) -> list[str]:
    return [found.text or "" for found in figure.iter("text") if found.get("class") == name]


def test_a_sentence() -> None:
    doc = make(
        ["Ada", "Lovelace", "lived", "in", "<London>", "."],
        [(0, 2, "PER"), (4, 5, "LOC")],
        [((0, 2), (4, 5), "Live & In"), ((4, 5), (0, 2), "")],
    )
    page = render_html([doc])
    (figure,) = figures(page)
    assert texts(figure) == ["Ada Lovelace", " lived in ", "<London>"]
    assert texts(figure, "name") == ["Live & In", "(no label)"]
    assert [hint.text for hint in figure.iter("title")] == [
        "Ada Lovelace – Live & In → <London> · 0.88",
        "<London> – (no label) → Ada Lovelace · 0.88",
    ]
    assert [box.get("class") for box in figure.iter("rect") if box.get("class") != "back"] == ["l0", "l1"]
    assert page.count(STYLE) == 1
    assert "&lt;London&gt;" in page
    words = [found for found in figure.iter("text") if found.get("class") is None]
    assert [float(word.get("x", "")) for word in words] == [0, 12 * CELL, 22 * CELL]


def test_arcs_that_overlap_have_levels_of_their_own() -> None:
    words = list("abcdefgh")
    relations = [((0, 1), (7, 8), "r"), ((0, 1), (2, 3), "r"), ((5, 6), (7, 8), "r"), ((2, 3), (5, 6), "r")]
    (figure,) = figures(render_html([make(words, [], relations)]))
    assert heights(figure) == [46, 46 - LEVEL, 46, 46]  # in the order of the text, the short ones first


def heights(figure: ET.Element) -> list[float]:
    """How high the arcs are drawn."""
    return [float(re.findall(r"V([\d.]+)", path.get("d", ""))[0]) for path in figure.iter("path") if path.get("class") is None]


def test_a_chain_is_no_higher_than_its_crossings() -> None:
    """Each arc begins where two others are, and none lies in another: three levels, however long the text is."""
    relations = [((2 * i, 2 * i + 1), (2 * i + 4, 2 * i + 5), "r") for i in range(2000)]
    (figure,) = figures(render_html([make(["word"] * 4010, [], relations)]))
    assert len(set(heights(figure))) <= 3
    lefts = [float(word.get("x", "")) for word in figure.iter("text") if word.get("class") is None]
    cells = [len(word.text or "") for word in figure.iter("text") if word.get("class") is None]
    assert lefts == [sum(cells[:i]) * CELL for i in range(len(cells))]  # far to the right, too


def test_relations_apart_are_figures_of_their_own_in_order() -> None:
    words = list("abcdefgh")
    page = render_html([make(words, [], [((5, 6), (7, 8), "r"), ((0, 1), (2, 3), "s"), ((1, 2), (2, 3), "t")])])
    assert [texts(figure, "name") for figure in figures(page)] == [["s", "t"], ["r"]]


def test_long_stretches_are_cut_short_and_arguments_are_not() -> None:
    words = ["x" * 100, *(["word"] * 200), "y"]
    (figure,) = figures(render_html([make(words, [], [((0, 1), (201, 202), "r")])]))
    argument, stretch, other = texts(figure)
    assert (argument, other) == ("x" * 100, "y")
    assert re.fullmatch(r"[word ]{24} … [word ]{24}", stretch)
    assert float(figure.get("width", "0")) < 160 * CELL


def test_nested_arguments_and_self_relations() -> None:
    words = ["the", "captain", "of", "the", "ship"]
    (figure,) = figures(render_html([make(words, [], [((0, 5), (3, 5), "of"), ((3, 5), (3, 5), "self")])]))
    assert texts(figure) == ["the captain of ", "the ship"]
    boxes = [float(box.get("width", "0")) for box in figure.iter("rect") if box.get("class") == "plain"]
    assert boxes == sorted(boxes, reverse=True)
    paths = [path.get("d", "") for path in figure.iter("path") if path.get("class") is None]
    begin, end = re.match(r"M([\d.]+) .*Q([\d.]+) ", paths[1]).groups()  # type: ignore[union-attr]
    assert float(end) - float(begin) == 20  # a loop over one word


def test_without_relations_the_page_is_as_ever() -> None:
    doc = make(["Ada"], [(0, 1, "PER")], [])
    page = render_html([doc])
    assert "arcs" not in page
    del doc.user_data[WRITTEN]
    assert render_html([doc]) == page


def test_gold_relations_are_drawn_too() -> None:
    doc = make(["a", "b"], [], [])
    del doc.user_data[WRITTEN]
    doc.user_data["relations"] = [{"head": [0, 1], "tail": [1, 2], "label": "r"}]
    (figure,) = figures(render_html([doc, doc])[:-1])[:1]
    assert [hint.text for hint in figure.iter("title")] == ["a – r → b"]
    doc.user_data["relations"] = [{"head": [0, 1]}]
    with pytest.raises(InputError, match="E345"):
        render_html([doc])


@st.composite
def documents(draw: st.DrawFn) -> Doc:
    word = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=5)
    words = draw(st.lists(word, min_size=1, max_size=9))
    place = st.integers(0, len(words) - 1).flatmap(lambda start: st.tuples(st.just(start), st.integers(start + 1, len(words))))
    relations: Any = draw(st.lists(st.tuples(place, place, st.sampled_from(["r", "<s>", '"', "", "\x00&"])), max_size=6))
    ents = draw(st.lists(place.map(lambda found: (*found, "PER")), max_size=3))
    return make(words, ents, relations)


@settings(max_examples=60, deadline=None)
@given(documents())
def test_any_text_and_any_relations_are_drawn(doc: Doc) -> None:
    page = html_arcs.draw_relations(doc, {"PER": 0}, lambda text: re.sub(r"[^ -~]|[<&\"]", "?", text))
    drawn = figures(page)
    assert sum(len(texts(figure, "name")) for figure in drawn) == len(doc.user_data[WRITTEN])
    for figure in drawn:
        left, _, width, height = map(float, figure.get("viewBox", "").split())
        for rect in figure.iter("rect"):
            x, y = float(rect.get("x", "")), float(rect.get("y", ""))
            assert left <= x
            assert x + float(rect.get("width", "")) <= left + width
            assert 0 <= y < height


@settings(max_examples=30, deadline=None)
@given(documents())
def test_every_figure_of_a_page_is_escaped(doc: Doc) -> None:
    page = render_html([doc])
    for figure in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        for text in re.findall(r"<text[^>]*>(.*?)</text>", figure, re.DOTALL):
            assert "<" not in text
            assert not re.search(r"[\x00-\x08]", unescape(text))
