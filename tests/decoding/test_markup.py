"""Markup says which spans are marked, whatever a model has written."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entitykit.decoding.markup import TextLink, recover, without_brackets

SOURCE = "In 1503, Leonardo began the Mona Lisa [sic] {in Florence}."
LEONARDO, LISA = TextLink(9, 17, "Leonardo da Vinci"), TextLink(28, 37, "Mona Lisa")
WRITTEN = "In 1503, { Leonardo } [ Leonardo da Vinci ] began the { Mona Lisa } [ Mona Lisa ] (sic) (in Florence)."
TEXT = st.text(st.sampled_from("abc é{}[]() .\n\u3000"), max_size=40)


def write_markup(source: str, links: Sequence[TextLink]) -> str:
    """The source with its mentions marked, as GENRE learns to write it."""
    parts = []
    position = 0
    for start, end, name in links:
        marked = f"{{ {without_brackets(source[start:end])} }} [ {without_brackets(name)} ]"
        parts += [without_brackets(source[position:start]), marked]
        position = end
    return "".join([*parts, without_brackets(source[position:])])


def test_written_and_read_again() -> None:
    assert write_markup(SOURCE, [LEONARDO, LISA]) == WRITTEN
    assert recover(SOURCE, WRITTEN) == ([LEONARDO, LISA], 0)


def visible(text: str) -> str:
    return "".join(text.split())


@given(st.data())
def test_any_links_are_found_again(data: st.DataObject) -> None:
    source = data.draw(TEXT)
    edges = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=8)))
    names = st.text(st.sampled_from("xyz[{ "), min_size=1).filter(str.strip)
    links = [TextLink(a, b, data.draw(names)) for a, b in zip(edges[::2], edges[1::2], strict=False) if source[a:b].strip()]
    found = recover(source, write_markup(source, links))
    assert found.n_lost == 0
    assert [without_brackets(link.name).strip() for link in links] == [link.name for link in found.links]
    for link, again in zip(links, found.links, strict=True):
        assert source[link.start : link.end].strip() == source[again.start : again.end]
        assert link.start <= again.start < again.end <= link.end


@given(TEXT, TEXT)
@example("", "{ a } [ b ]")
@example("a", "}{ a ][ } [ b ]")
@example("a a", "{ a } [ b ] { a } [ c ] { a } [ d ]")
def test_never_raises(source: str, markup: str) -> None:
    found = recover(source, markup)
    assert all(0 <= link.start < link.end <= len(source) for link in found.links)
    assert all(a.end <= b.start for a, b in zip(found.links, found.links[1:], strict=False))


@pytest.mark.parametrize(
    ("markup", "links", "n_lost"),
    [
        ("", [], 0),
        (WRITTEN[:70], [LEONARDO], 0),  # it breaks off within a name
        (WRITTEN.replace(" ", ""), [LEONARDO._replace(name="LeonardodaVinci"), LISA._replace(name="MonaLisa")], 0),
        (WRITTEN.replace("began", "started painting"), [LEONARDO, LISA], 0),  # from here on, words are aligned
        (WRITTEN.replace("In 1503, ", ""), [LEONARDO, LISA], 0),
        (WRITTEN.replace("{ Mona Lisa }", "{ Mona Liza }"), [LEONARDO], 1),
        (WRITTEN.replace("{ Leonardo }", "{ }"), [LISA], 1),
        (WRITTEN.replace("[ Mona Lisa ]", "[ ]"), [LEONARDO], 1),
        (WRITTEN.replace("] began", " began"), [LISA], 0),
        ("{ { Leonardo } [ Leonardo da Vinci ]", [LEONARDO], 0),  # by its word, although the text before is missing
        ("In 1503, { Leonardo } [ Leonardo da Vinci ] ] { began the", [LEONARDO], 0),
        ("{ Nobody } [ Nobody ] was here", [], 1),
    ],
)
def test_what_models_write(markup: str, links: list[TextLink], n_lost: int) -> None:
    assert recover(SOURCE, markup) == (links, n_lost)


def test_degenerate_output_takes_no_time() -> None:
    start = time.perf_counter()
    recover("the " * 1000, "{ a } [ b ] " + "the { the } [ the ] " * 900)
    recover("word " * 20_000, "{ a } [ b ] " + "another { word } [ x ] " * 10_000)
    assert time.perf_counter() - start < 5
