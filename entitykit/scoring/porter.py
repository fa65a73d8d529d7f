"""Porter's stemmer (Program 14, 1980) with the changes of NLTK's default mode, as ProPara's evaluation normalises places."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

VOWELS = "aeiou"

IRREGULAR = {
    "skies": "sky",
    "dying": "die",
    "lying": "lie",
    "tying": "tie",
    "innings": "inning",
    "outings": "outing",
    "cannings": "canning",
} | {word: word for word in ("sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed")}

STEP_2 = (
    *(("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"), ("bli", "ble")),
    *(("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"), ("ization", "ize"), ("ation", "ate"), ("ator", "ate")),
    *(("alism", "al"), ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"), ("aliti", "al"), ("iviti", "ive")),
    *(("biliti", "ble"), ("fulli", "ful")),
)
STEP_3 = (("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""), ("ness", ""))
STEP_4 = (
    *("al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion"),
    *("ou", "ism", "ate", "iti", "ous", "ive", "ize"),
)


def stem(word: str) -> str:
    """Give the stem of a word; a phrase is stemmed as if it were one word.

    Args:
        word: the word, in any case.
    """
    word = word.lower()
    if word in IRREGULAR:
        return IRREGULAR[word]
    if len(word) <= 2:
        return word
    for step in (_plural, _past, _final_y, _step_2, _step_3, _step_4, _final_e, _double_l):
        word = step(word)
    return word


def _is_consonant(word: str, i: int) -> bool:
    if word[i] == "y":
        return i == 0 or not _is_consonant(word, i - 1)
    return word[i] not in VOWELS


def _measure(word: str) -> int:
    """Count the vowels that a consonant follows."""
    kinds = [_is_consonant(word, i) for i in range(len(word))]
    return sum(not before and after for before, after in pairwise(kinds))


def _has_vowel(word: str) -> bool:
    return not all(_is_consonant(word, i) for i in range(len(word)))


def _ends_short(word: str) -> bool:
    """Tell whether a word ends in consonant, vowel, consonant other than w, x or y, or is a vowel and a consonant."""
    last = [_is_consonant(word, i) for i in range(len(word))][-3:]
    return (last == [True, False, True] and word[-1] not in "wxy") or (len(word) == 2 and last == [False, True])


def _replace(word: str, rules: Sequence[tuple[str, str]], condition: Callable[[str], bool]) -> str:
    """Apply the first rule whose suffix the word has, if what is before it fulfils the condition."""
    for suffix, replacement in rules:
        if word.endswith(suffix):
            before = word.removesuffix(suffix)
            return before + replacement if condition(before) else word
    return word


def _plural(word: str) -> str:
    if word.endswith("ies") and len(word) == 4:
        return word[:-1]
    return _replace(word, (("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")), lambda before: True)


def _past(word: str) -> str:
    if word.endswith("ied"):
        return word[:-1] if len(word) == 4 else word[:-2]
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    suffix = next((suffix for suffix in ("ed", "ing") if word.endswith(suffix) and _has_vowel(word.removesuffix(suffix))), None)
    if suffix is None:
        return word
    before = word.removesuffix(suffix)
    if before.endswith(("at", "bl", "iz")):
        return before + "e"
    if len(before) > 1 and before[-1] == before[-2] and _is_consonant(before, len(before) - 1):
        return before if before[-1] in "lsz" else before[:-1]
    return before + "e" if _measure(before) == 1 and _ends_short(before) else before


def _final_y(word: str) -> str:
    return _replace(word, (("y", "i"),), lambda before: len(before) > 1 and _is_consonant(before, len(before) - 1))


def _step_2(word: str) -> str:
    if word.endswith("alli") and _measure(word.removesuffix("alli")) > 0:
        return _step_2(word.removesuffix("li"))
    if word.endswith("logi"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    return _replace(word, STEP_2, lambda before: _measure(before) > 0)


def _step_3(word: str) -> str:
    return _replace(word, STEP_3, lambda before: _measure(before) > 0)


def _step_4(word: str) -> str:
    suffix = next((suffix for suffix in STEP_4 if word.endswith(suffix)), None)
    if suffix is None:
        return word
    before = word.removesuffix(suffix)
    return before if _measure(before) > 1 and (suffix != "ion" or before.endswith(("s", "t"))) else word


def _final_e(word: str) -> str:
    before = word.removesuffix("e")
    short = _measure(before) == 1 and not _ends_short(before)
    return before if before != word and (_measure(before) > 1 or short) else word


def _double_l(word: str) -> str:
    return word[:-1] if word.endswith("ll") and _measure(word[:-1]) > 1 else word
