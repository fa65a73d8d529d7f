from __future__ import annotations

import colorsys
import re
import runpy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from entitykit import html
from entitykit.html import Mark, nest, render_html
from tests.pipelines import counted_passes

EXAMPLES = Path(__file__).parents[1] / "examples"

NLP = spacy.blank("xx")

Offsets = tuple[int, int, str]


def make_doc(
    words: list[str],
    entities: Sequence[Offsets],
    mentions: Sequence[Offsets] = (),
    *,
    scores: list[float | None] | None = None,
) -> Doc:
    doc = Doc(NLP.vocab, words=words)
    for name, offsets in (("sc", entities), ("mentions", mentions)):
        doc.spans[name] = SpanGroup(doc, name=name, spans=[Span(doc, start, end, label=label) for start, end, label in offsets])
    if scores is not None:
        doc.spans["sc"].attrs["scores"] = scores
    return doc


class Shown(HTMLParser):
    """What a browser shows of a page: per document the text, and its marks with their offsets, classes and hints."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.marks: list[list[tuple[str, str, str, str]]] = []
        self.open: list[tuple[str, int, dict[str, str]]] = []
        self.inside = False
        self.feed(page)
        self.close()
        assert not self.open
        assert not self.inside

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "div":
            self.inside = True
            self.texts.append("")
            self.marks.append([])
        elif self.inside:
            self.open.append((tag, len(self.texts[-1]), values))

    def handle_endtag(self, tag: str) -> None:
        if tag == "div":
            self.inside = False
        elif self.inside:
            opened, start, values = self.open.pop()
            assert opened == tag
            self.marks[-1].append((tag, self.texts[-1][start:], values.get("class", ""), values.get("title", "")))

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.texts[-1] += data


@st.composite
def documents(draw: st.DrawFn) -> Doc:
    word = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), min_size=1, max_size=5)
    words = draw(st.lists(word, max_size=12))
    if not words:
        return make_doc([], [])
    n = len(words)
    span = st.tuples(st.integers(0, n - 1), st.integers(1, n), st.sampled_from(["PER", "LOC", "<b>", ""]))
    spans = st.lists(span.map(lambda s: (s[0], max(s[0] + 1, s[1]), s[2])), max_size=8)
    return make_doc(words, draw(spans), [(start, end, "") for start, end, _ in draw(spans)])


@given(st.lists(documents(), max_size=3))
def test_any_text_and_any_spans_are_shown(docs: list[Doc]) -> None:
    shown = Shown(render_html(docs))
    assert shown.texts == [doc.text.translate(html.CONTROLS) for doc in docs]
    for doc, marks in zip(docs, shown.marks, strict=True):
        assert sum("cut-end" not in classes for tag, _, classes, _ in marks if tag == "mark") == len(doc.spans["sc"])
        underlined = "".join(text for tag, text, _, _ in marks if tag == "u")
        mentioned = "".join(span.text for span in doc.spans["mentions"])
        assert Counter(underlined) == Counter(mentioned.translate(html.CONTROLS))


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from(["A", "B", None])), max_size=9))
def test_pieces_are_nested_and_cover_their_marks(offsets: list[tuple[int, int, str | None]]) -> None:
    marks = [Mark(start, end, label, hint=str(i)) for i, (start, end, label) in enumerate(offsets)]
    pieces = nest(marks)
    for i, one in enumerate(pieces):
        for other in pieces[i + 1 :]:
            assert one.start <= other.start
            assert other.start >= one.end or other.end <= one.end
    for mark in marks:
        parts = [piece for piece in pieces if piece.hint == mark.hint]
        assert [(part.cut_start, part.cut_end) for part in parts] == [(i > 0, i < len(parts) - 1) for i in range(len(parts))]
        assert [position for part in parts for position in range(part.start, part.end)] == list(range(mark.start, mark.end))


def test_nested_entities_are_boxes_in_boxes() -> None:
    words = ["the", "captain", "of", "the", "ship"]
    doc = make_doc(words, [(3, 5, "VEH"), (0, 5, "PER")], scores=[0.875, None])
    page = render_html([doc], title="A & B")
    assert '<mark class="l1 h1" title="PER">the captain of <mark class="l0" title="VEH · 0.88">the ship</mark></mark>' in page
    assert "<title>A &amp; B</title>" in page


def test_crossing_entities_are_cut_and_labelled_once() -> None:
    doc = make_doc(list("abcd"), [(0, 3, "X"), (1, 4, "Y")])
    (marks,) = Shown(render_html([doc])).marks
    assert marks == [
        ("mark", "b c", "l1 cut-end", "Y"),
        ("mark", "a b c", "l0 h1", "X"),
        ("mark", " d", "l1 cut-start", "Y"),
    ]


def test_a_mention_never_cuts_an_entity() -> None:
    doc = make_doc(list("abcd"), [(1, 4, "X")], [(0, 2, "")])
    doc.spans["mentions"].attrs["scores"] = [0.5]
    (marks,) = Shown(render_html([doc])).marks
    assert marks == [("u", "a ", "", "mention · 0.50"), ("u", "b", "", "mention · 0.50"), ("mark", "b c d", "l0", "X")]


def test_an_entity_keeps_its_hint_where_a_mention_has_the_same_offsets() -> None:
    doc = make_doc(list("ab"), [(0, 1, "X")], [(0, 1, "")])
    assert '<mark class="l0" title="X"><u>a</u></mark> b' in render_html([doc])


def test_flat_entities_come_from_ents() -> None:
    doc = Doc(NLP.vocab, words=["Ada"], ents=["B-PER"])
    assert '<mark class="l0" title="PER">Ada</mark>' in render_html([doc])


def test_white_space_and_newlines_are_kept() -> None:
    text = "  two\n\n\tthree   \n"
    assert Shown(render_html([NLP(text)])).texts == [text]
    assert "white-space: pre-wrap" in html.STYLE


@pytest.mark.parametrize("text", ["", " ", "שלום עולם", "مرحبا Ada بالعالم", "Zoe\u0308 👩‍👩‍👧 🇯🇵", "x" * 100_000])
def test_unusual_texts(text: str) -> None:
    doc = NLP(text)
    doc.spans["sc"] = [Span(doc, 0, 1, label="X")] if len(doc) else []
    assert Shown(render_html([doc])).texts == [text]


def test_control_characters_are_visible() -> None:
    assert Shown(render_html([NLP("a\x00b\x07c\x7f")])).texts == ["a␀b␇c␡"]


def test_nothing_in_a_document_becomes_markup() -> None:
    evil = "</style><script>alert(1)</script>\"'&"
    doc = make_doc([evil], [(0, 1, evil)])
    doc.user_data["id"] = evil
    page = render_html([doc], title=evil)
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("</style>") == 2
    assert Shown(page).texts == [doc.text]


def test_the_page_needs_nothing_else() -> None:
    page = render_html([make_doc(list("ab"), [(0, 1, "X")])])
    assert not re.search(r"https?:|src=|href=|url\(|@import|<link", page)
    assert '<meta charset="utf-8">' in page


def test_the_legend_counts_and_switches_labels() -> None:
    docs = [make_doc(list("abc"), [(0, 1, "X"), (1, 2, "Y")], [(0, 2, "")]), make_doc(list("abc"), [(0, 1, "Y")])]
    page = render_html(docs)
    legend = re.findall(r'<label class="(\w+)"><input type="checkbox" checked value="([\w-]+)">(.*?)</label>', page)
    assert legend == [("l1", "no-l1", "Y 2"), ("l0", "no-l0", "X 1"), ("mentions", "no-mentions", "mention 1")]
    for _, switch, _ in legend:
        assert f".{switch} " in page
    assert "2 documents, 6 words, 3 entities" in page
    assert "1 document, 1 word, 0 entities" in render_html([Doc(NLP.vocab, words=["Ada"])])


def test_a_label_has_one_colour_everywhere() -> None:
    def hue(page: str, label: str) -> str:
        (number,) = re.findall(rf'value="no-l(\d+)">{label} ', page)
        return re.findall(rf"\.l{number} {{ --h: (\d+);", page)[0]

    first = render_html([make_doc(list("ab"), [(0, 1, "PERSON"), (1, 2, "RARE")])])
    second = render_html([make_doc(list("ab"), [(0, 1, "RARE"), (1, 2, "OTHER"), (0, 2, "PERSON")])])
    assert hue(first, "RARE") == hue(second, "RARE") != hue(first, "PERSON") == hue(second, "PERSON")


def luminance(color: tuple[float, float, float]) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: float, other: float) -> float:
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_hue_is_readable(scheme: int) -> None:
    def percentages(name: str) -> tuple[float, float]:
        saturation, lightness = re.findall(rf"--{name}: (\d+)% (\d+)%;", html.STYLE)[scheme]
        return int(saturation) / 100, int(lightness) / 100

    ink = re.findall(r"--ink: #(..)(..)(..);", html.STYLE)[scheme]
    text = luminance(tuple(int(channel, 16) / 255 for channel in ink))  # type: ignore[arg-type]
    (box_saturation, box_lightness), (tag_saturation, tag_lightness) = percentages("box"), percentages("tag")
    for hue in range(360):
        box = luminance(colorsys.hls_to_rgb(hue / 360, box_lightness, box_saturation))
        tag = luminance(colorsys.hls_to_rgb(hue / 360, tag_lightness, tag_saturation))
        assert contrast(text, box) >= 7, hue
        assert contrast(tag, box) >= 4.5, hue


def test_the_size_follows_the_number_of_marks() -> None:
    n = 20_000
    spans = [(i, i + 2, "PERSON") for i in range(0, n - 2, 2)]
    page = render_html([make_doc(["word"] * n, spans, spans)])
    assert len(page) < n * 5 + len(spans) * 80 + 10_000


def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("span_ruler", config={"spans_key": "sc"})
    ruler.add_patterns(  # type: ignore[attr-defined]
        [
            {"label": "PERSON", "pattern": "The captain of the Marigold"},
            {"label": "VEHICLE", "pattern": "the Marigold"},
            {"label": "FACILITY", "pattern": "São Bento Station"},
        ]
    )
    nlp.to_disk(tmp_path / "pipeline")
    demo = runpy.run_path(str(EXAMPLES / "demo.py"))
    demo["main"](str(tmp_path / "pipeline"), tmp_path / "build" / "demo.html")
    printed = capsys.readouterr().out
    rows = [re.split(r" {2,}", line) for line in printed.splitlines()]
    assert rows[0] == ["document", "entity", "label", "score", "depth"]
    assert ["fiction.txt", "The captain of the Marigold", "PERSON", "0"] in rows
    assert ["fiction.txt", "the Marigold", "VEHICLE", "1"] in rows
    assert ["news.txt", "São Bento Station", "FACILITY", "0"] in rows
    assert "words/s" in printed
    page = (tmp_path / "build" / "demo.html").read_text(encoding="utf-8")
    assert Shown(page).texts == [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.txt"))]
    assert "build/demo.html" in printed


def test_the_demo_with_its_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The heads that are shipped fit the pipeline that is shipped, and all of what they find is printed and shown.

    The encoder reads all texts in one pass, and nothing besides.
    """
    passes = []
    annotate = Language.pipe

    def counting(nlp: Language, texts: Iterable[str]) -> Iterator[Doc]:
        with counted_passes(nlp) as counted:
            yield from annotate(nlp, texts)
        passes.append(counted.forward)

    monkeypatch.setattr(Language, "pipe", counting)
    demo = runpy.run_path(str(EXAMPLES / "demo.py"))
    demo["main"](demo["DEFAULT"], tmp_path / "demo.html")
    assert passes == [1]
    printed = capsys.readouterr().out
    rows = [re.split(r" {2,}", line) for line in printed.splitlines()]
    headers = [tuple(row) for row, below in pairwise(rows) if set(below[0]) == {"-"}]
    assert headers == [demo[name] for name in ("ENTITIES", "LINKS", "CHAINS", "SALIENCE", "RELATIONS")]
    assert any(row[0] == "news.txt" and row[1].startswith("Lisbon: capital of Port") for row in rows)
    saved = spacy.load(tmp_path / "demo_pipeline")
    assert set(demo["HEADS"]) <= set(saved.pipe_names)
    assert saved("Ada Byron lived in Lisbon. She liked it.")._.coref_clusters
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert 'title="Lisbon: capital of Portugal' in page
    n_texts = len(list(EXAMPLES.glob("*.txt")))
    chains = re.findall(r'<ul class="chains"[^>]*>(.*?)</ul>', page)
    assert len(chains) == n_texts  # each of the texts speaks of something more than once
    for number in re.findall(r'data-chain="(\d+)"', chains[0]):
        assert len(re.findall(rf'<u [^>]*data-chain="{number}"', page)) > 1
    about = re.findall(r'<ol class="salience"[^>]*>(.*?)</ol>', page)
    assert len(about) == n_texts - 1  # the abstract is about a program without a name
    assert re.search(r'<li style="--score: \d+%"[^>]*>Lisbon</li>', about[-1])
    table = rows[rows.index(list(demo["RELATIONS"])) + 2 :]
    related = [row[2] for row in table[: table.index([""])]]
    assert len(related) > 2
    assert re.findall(r'<text class="name"[^>]*>([^<]*)</text>', page) == related  # an arc for each
    assert Shown(page).texts == [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.txt"))]


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [("abc", 5, "abc  "), ("abcdef", 4, "abc…"), ("東京都庁", 5, "東京…"), ("e\u0301a", 3, "e\u0301a "), ("👍👍", 3, "👍…")],
)
def test_the_demo_fits_any_script(text: str, columns: int, shown: str) -> None:
    assert runpy.run_path(str(EXAMPLES / "demo.py"))["fit"](text, columns) == shown
