"""Names that people take for one have one key."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.knowledge.text import dice, fold, grams, normalise, strip_marks


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("New  York\n", "new york"),
        ("“Paris”,", "paris"),
        ("(Paris)", "paris"),
        ("Yahoo!", "yahoo"),
        ("U.S.", "u.s"),
        ("¿Qué?", "qué"),
        ("Straße", "strasse"),
        ("\uff30aris", "paris"),  # full width
        ("ﬁnal", "final"),
        ("e\u0301tude", "étude"),
        ("co\u00adoperate\u200b", "cooperate"),
        ("C++", "c++"),
        ("C#", "c#"),
        (".NET", ".net"),
        ("!!!", "!!!"),
        ("a\x00b", "a b"),
        ("日本。", "日本"),
        ("\u200b", ""),
        ("\ud800", ""),
        ("", ""),
    ],
)
def test_keys(text: str, key: str) -> None:
    assert normalise(text) == key


@given(st.text() | st.text(alphabet="aA\u0301\u0345ß. \"'(\u00ad\u200dİﬁ\u1e9e", max_size=8))
def test_a_key_is_its_own_key(text: str) -> None:
    key = normalise(text)
    assert normalise(key) == key
    if strip_marks(fold(text)):
        assert normalise(f' "{text}\u00ad, ') == key
    assert not {unicodedata.category(char) for char in key} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)))
def test_short_way_of_ascii_is_the_long_way(text: str) -> None:
    long = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    assert fold(text) == long
    assert normalise(text) == (strip_marks(long) or long)


def test_grams() -> None:
    assert grams("ab") == {" ab", "ab "}
    assert grams("a") == {" a "}
    assert grams("") == frozenset()
    assert dice(grams("night"), grams("nacht")) == 0.2  # "ht " of five each
    assert dice(grams("ab"), grams("ab")) == 1
    assert dice(grams(""), grams("")) == 0
