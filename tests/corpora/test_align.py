from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc
from spacy.vocab import Vocab

from entitykit.corpora.align import TokenSpan, align

VOCAB = Vocab()
#                                                   0-2   3    4-7     8    9-10
TEXT = Doc(VOCAB, words=["Ada", " ", "Lovelace", ",", "Countess"], spaces=[True, False, False, True, False])
assert TEXT.text == "Ada  Lovelace, Countess"


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, 3, TokenSpan(0, 1, "")),
        (0, 13, TokenSpan(0, 3, "")),
        (5, 13, TokenSpan(2, 3, "")),
        (0, 4, TokenSpan(0, 1, "trimmed")),
        (3, 14, TokenSpan(2, 4, "trimmed")),
        (15, 99, TokenSpan(4, 5, "trimmed")),
        (-3, 3, TokenSpan(0, 1, "trimmed")),
        (1, 3, TokenSpan(0, 1, "expanded")),
        (0, 7, TokenSpan(0, 3, "expanded")),
        (2, 6, TokenSpan(0, 3, "expanded")),
        (6, 7, TokenSpan(2, 3, "expanded")),
        (1, 1, None),
        (3, 3, None),
        (3, 5, None),
        (14, 15, None),
        (23, 30, None),
        (-5, -2, None),
        (9, 6, None),
    ],
)
def test_span(start: int, end: int, expected: TokenSpan | None) -> None:
    assert list(align(TEXT, [(start, end)])) == [expected]


def test_keeps_order_and_number() -> None:
    assert list(align(TEXT, [(5, 13), (3, 4), (0, 3)])) == [TokenSpan(2, 3, ""), None, TokenSpan(0, 1, "")]


def test_empty_document(nlp: Language) -> None:
    assert list(align(nlp.make_doc(""), [(0, 0), (0, 5)])) == [None, None]


tokens = st.lists(st.tuples(st.text("ab \n\u0301😀", min_size=1, max_size=4), st.booleans()), max_size=8)


@given(tokens, st.data())
def test_covers_the_visible_characters_with_the_fewest_tokens(tokens: list[tuple[str, bool]], data: st.DataObject) -> None:
    doc = Doc(VOCAB, words=[word for word, _ in tokens], spaces=[space for _, space in tokens])
    end = data.draw(st.integers(0, len(doc.text) + 2))
    start = data.draw(st.integers(0, end))
    wanted = {i for i in range(start, min(end, len(doc.text))) if not doc.text[start : i + 1].isspace()}
    while wanted and doc.text[max(wanted)].isspace():
        wanted.remove(max(wanted))
    (span,) = align(doc, [(start, end)])
    if not wanted:
        assert span is None
        return
    assert span is not None
    touching = [token.i for token in doc if wanted & set(range(token.idx, token.idx + len(token)))]
    assert (span.start, span.end) == (touching[0], touching[-1] + 1)
    found = doc[span.start : span.end]
    if (found.start_char, found.end_char) == (start, end):
        assert span.change == ""
    elif (found.start_char, found.end_char) == (min(wanted), max(wanted) + 1):
        assert span.change == "trimmed"
    else:
        assert span.change == "expanded"
