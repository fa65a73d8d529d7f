"""Links as a table: each once, escaped, and nothing for documents that were not linked."""

from __future__ import annotations

import re

import spacy
from spacy.tokens import Doc, Span

from entitykit.html import render_html
from entitykit.html_links import STYLE
from entitykit.scoring.linking import register_candidates

NLP = spacy.blank("xx")


def make(words: list[str], links: list[tuple[int, int, str, list[tuple[str, float]]]]) -> Doc:
    register_candidates()
    doc = Doc(NLP.vocab, words=words)
    doc.ents = [Span(doc, start, end, label="X", kb_id=kb_id) for start, end, kb_id, _ in links]
    for ent, (*_, candidates) in zip(doc.ents, links, strict=True):
        ent._.kb_ents = candidates
    return doc


def rows(page: str) -> list[list[str]]:
    table = re.search(r"<table>(.*?)</table>", page, re.DOTALL)
    return [] if table is None else [row.split("<td")[1:] for row in table[1].split("<tr>")[2:]]


def test_links() -> None:
    """The same mention with the same candidates is one row, and so is one that is linked to nothing."""
    many = [(f"q{i}", 0.5 - i / 10) for i in range(6)]
    page = render_html(
        [
            make(
                ["Paris", "met", "<Paris>", "and", "Paris", "near", "Rome"],
                [
                    (0, 1, "Q90", [("Q90", 0.9), ("Q167646", 0.1)]),
                    (2, 3, "", many),
                    (4, 5, "Q90", [("Q90", 0.9), ("Q167646", 0.1)]),
                ],
            )
        ]
    )
    assert page.count(STYLE) == 1
    assert "2 links" in page
    found = rows(page)
    assert found[0] == [' dir="auto">Paris', ">Q90", ">Q90<small>0.90</small>, Q167646<small>0.10</small></tr>"]
    assert found[1][0] == ' dir="auto">&lt;Paris&gt;'
    assert found[1][1] == ">none"
    assert found[1][2].endswith("q3<small>0.20</small> and 2 more</tr>")


def test_names_of_entities() -> None:
    """The name of what was decided is shown, and those of candidates when they are pointed at."""
    doc = make(["Paris"], [(0, 1, "Q90", [("Q90", 0.9), ("Q1", 0.1)])])
    (row,) = rows(render_html([doc], names={"Q90": 'Paris: a "city" <in France>'}))
    assert row[1] == ">Q90<br><small>Paris: a &quot;city&quot; &lt;in France&gt;</small>"
    assert '<span title="Paris: a &quot;city&quot; &lt;in France&gt;">Q90</span><small>0.90</small>, Q1<small>' in row[2]


def test_one_row_where_only_flat_entities_are_linked() -> None:
    doc = make(["Paris", "met", "Rome"], [(0, 1, "Q90", [("Q90", 0.9)])])
    doc.spans["sc"] = [Span(doc, 0, 1, label="X"), Span(doc, 2, 3, label="X")]
    assert [row[1] for row in rows(render_html([doc]))] == [">Q90"]


def test_without_links() -> None:
    doc = make(["Paris"], [(0, 1, "", [])])
    assert "links" not in render_html([doc])
    pages = render_html([make(["Paris"], [(0, 1, "Q90", [])]) for _ in range(2)])
    assert pages.count(STYLE) == 1
    assert pages.count("<table>") == 2
