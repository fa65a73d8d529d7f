"""Word shapes: what an uncased checkpoint does not see of a word's letters."""

from __future__ import annotations

N_SHAPES = 16
(
    _SPACE,
    _PUNCTUATION,
    _LOWER,
    _TITLE,
    _UPPER,
    _LETTER,
    _MIXED,
    _LOWER_MARKED,
    _TITLE_MARKED,
    _UPPER_MARKED,
    _DIGITS,
    _DIGITS_MARKED,
    _DIGITS_LOWER,
    _DIGITS_UPPER,
    _CASELESS,
    _INITIAL,
) = range(N_SHAPES)


def word_shape(word: str) -> int:
    """Classify a word by case, digits and marks.

    One example of each class: white space, ``.``, ``house``, ``Paris``, ``NATO``, ``A``, ``iPhone``, ``non-stop``, ``O'Hara``,
    ``U.S.``, ``1984``, ``3,000``, ``3rd``, ``G7``, ``北京``, ``J.``.

    Args:
        word: a token's text.

    Returns:
        0 to `N_SHAPES` - 1.
    """
    letters = [c for c in word if c.isalpha()]
    digits = any(c.isdigit() for c in word)
    if not letters:
        if digits:
            return _DIGITS if word.isdigit() else _DIGITS_MARKED
        return _SPACE if not word.strip() else _PUNCTUATION
    upper = [c for c in letters if c.isupper()]
    if digits:
        return _DIGITS_UPPER if upper else _DIGITS_LOWER
    marked = len(letters) < len(word)
    if not upper:
        if not any(c.islower() for c in letters):
            return _CASELESS
        return _LOWER_MARKED if marked else _LOWER
    if len(upper) == len(letters):
        if len(letters) == 1:
            return _INITIAL if marked else _LETTER
        return _UPPER_MARKED if marked else _UPPER
    if len(upper) == 1 and letters[0].isupper():
        return _TITLE_MARKED if marked else _TITLE
    return _TITLE_MARKED if marked and letters[0].isupper() else _MIXED
