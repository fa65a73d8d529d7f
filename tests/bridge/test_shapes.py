"""Word shapes: one class for each kind of word that an uncased checkpoint cannot tell apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.bridge.shapes import N_SHAPES, word_shape

EXAMPLES = [
    "  \n",
    ".",
    "house",
    "Paris",
    "NATO",
    "A",
    "iPhone",
    "non-stop",
    "O'Hara",
    "U.S.",
    "1984",
    "3,000",
    "3rd",
    "G7",
    "北京",
    "J.",
]


def test_one_example_of_each_class() -> None:
    assert [word_shape(word) for word in EXAMPLES] == list(range(N_SHAPES))


@pytest.mark.parametrize(
    ("word", "example"),
    [
        ("McDonald", "iPhone"),
        ("eBay's", "iPhone"),
        ("Élysée", "Paris"),
        ("été", "house"),
        ("ÉTÉ", "NATO"),
        ("Jean-Luc", "O'Hara"),
        ("Smith's", "O'Hara"),
        ("COVID-19", "G7"),
        ("1990s", "3rd"),
        ("$3.5", "3,000"),
        ("٣٤", "1984"),
        ("שלום", "北京"),
        ("العربية", "北京"),
        ("😀", "."),
        ("\x00", "."),
        ("", "  \n"),
    ],
)
def test_alike(word: str, example: str) -> None:
    assert word_shape(word) == word_shape(example)


@given(st.text())
def test_any_text_has_a_class(word: str) -> None:
    assert 0 <= word_shape(word) < N_SHAPES
