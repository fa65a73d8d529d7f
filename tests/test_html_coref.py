"""Chains of mentions in the page."""

from __future__ import annotations

import re

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.html import render_html
from entitykit.html_coref import SHOWN, find_chains


@pytest.fixture(scope="module")
def nlp() -> Language:
    return spacy.blank("en")


def make_doc(nlp: Language, text: str, *clusters: list[tuple[int, int]]) -> Doc:
    doc = nlp(text)
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def test_chains_have_several_mentions_and_a_name(nlp: Language) -> None:
    doc = make_doc(nlp, "She and Ada met Byron ; he liked Ada", [(2, 3), (0, 1), (7, 8)], [(5, 6)], [(4, 5), (6, 7)])
    chains = find_chains(doc)
    assert [(chain.number, chain.name, len(chain.places)) for chain in chains] == [(1, "Ada", 3), (3, "Byron", 2)]
    assert chains[0].places[0] == (8, 11)
    assert find_chains(nlp("Ada")) == []


def test_mentions_of_a_chain_are_marked_once_each(nlp: Language) -> None:
    doc = make_doc(nlp, "Ada met her friend Byron and he met Ada", [(0, 1), (2, 3), (8, 9)], [(2, 5), (6, 7)])
    doc.spans["mentions"] = [doc[0:1], doc[7:8]]
    doc.set_ents([Span(doc, 0, 1, label="PERSON"), Span(doc, 1, 3, label="ODD")])  # crosses a mention
    page = render_html([doc])
    text = page[page.index('<div class="text') :].partition("</div>")[0]
    assert len(re.findall(r'<u[^>]* data-chain="1">', text)) == 3
    assert len(re.findall(r'<u[^>]* data-chain="2">', text)) >= 2
    assert len(re.findall(r"<u(?![^>]*data-chain)", text)) == 1  # the other mention
    plain = re.sub(r"<[^>]+>", "", text)
    assert plain.strip() == doc.text
    assert re.findall(r'<li data-chain="(\d)" dir="auto">([^<]+)</li>', page) == [("1", "Ada ×3"), ("2", "her friend Byron ×2")]


def test_the_script_is_there_once_and_only_with_chains(nlp: Language) -> None:
    doc = make_doc(nlp, "Ada met Ada", [(0, 1), (2, 3)])
    assert render_html([doc, doc]).count("chain-on") == render_html([doc]).count("chain-on") > 0
    assert "chain-on" not in render_html([nlp("Ada met Ada")])


def test_names_are_escaped_and_the_list_is_bounded(nlp: Language) -> None:
    doc = make_doc(nlp, "<b> & <b>", [(0, 3), (4, 7)])
    page = render_html([doc])
    assert "&lt;b&gt; ×2" in page
    assert "<b>" not in page
    many = make_doc(nlp, "a " * 2 * (SHOWN + 3), *([(2 * i, 2 * i + 1), (2 * i + 1, 2 * i + 2)] for i in range(SHOWN + 3)))
    page = render_html([many])
    assert page.count("<li") == SHOWN + 1
    assert "and 3 more" in page
