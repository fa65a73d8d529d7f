"""Salient entities under a text: in their order, escaped, not too many, and nothing where there are none."""

from __future__ import annotations

import re
from typing import Any

import spacy
from spacy.tokens import Doc

from entitykit.components.extensions import register_extensions
from entitykit.html import render_html
from entitykit.html_salience import SHOWN, STYLE

NLP = spacy.blank("xx")


def make(values: list[dict[str, Any]] | None) -> Doc:
    register_extensions()
    doc = Doc(NLP.vocab, words=["Ada", "met", "Byron"])
    doc._.salience = values
    return doc


def value(name: str, score: float, **values: Any) -> dict[str, Any]:
    return {"entity": name, "label": "PERSON", "mentions": [[0, 1]], "score": score, "salient": score >= 0.5, **values}


def items(page: str) -> list[str]:
    found = re.search(r'<ol class="salience".*?>(.*)</ol>', page)
    return [] if found is None else re.findall(r"<li(.*?)</li>", found[1])


def test_list() -> None:
    docs = [make([value("<Ada>", 0.91, id="Q7259", mentions=[[0, 1], [2, 3]]), value("Byron", 0.5), value("x", 0.2)])] * 2
    page = render_html(docs)
    assert page.count(STYLE) == 1
    assert items(page) == [
        ' style="--score: 91%" title="0.91 · 2 mentions · PERSON · Q7259" dir="auto">&lt;Ada&gt;',
        ' style="--score: 50%" title="0.50 · 1 mention · PERSON" dir="auto">Byron',
    ]


def test_many() -> None:
    found = items(render_html([make([value(f"name {i}", 0.9) for i in range(SHOWN + 3)])]))
    assert len(found) == SHOWN + 1
    assert found[-1] == ' class="more">and 3 more'


def test_none() -> None:
    for values in (None, [], [value("Ada", 0.1)]):
        assert "salience" not in render_html([make(values)])
