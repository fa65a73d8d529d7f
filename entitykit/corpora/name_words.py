"""Words that names begin with or are, where a stop word list or a capital alone would mislead; English ones."""

from __future__ import annotations

from spacy.tokens import Token

MEN = frozenset(
    {
        *("mr", "mister", "master", "sir", "lord", "monsieur", "father", "brother", "uncle", "pope", "king", "prince"),
        *("emperor", "duke", "count", "baron"),
    }
)
"""Titles of men, in lower case and without a full stop."""
WOMEN = frozenset(
    {
        *("mrs", "ms", "miss", "dame", "lady", "madam", "madame", "mademoiselle", "sister", "aunt", "queen", "princess"),
        *("empress", "duchess", "countess", "baroness"),
    }
)
"""Titles of women."""
TITLES = (
    MEN
    | WOMEN
    | {
        *("dr", "doctor", "prof", "professor", "rev", "reverend", "saint", "st", "rabbi", "captain", "capt", "colonel", "col"),
        *("major", "general", "gen", "sergeant", "sgt", "lieutenant", "lt", "admiral", "commander", "president", "minister"),
        *("senator", "sen", "governor", "gov", "mayor", "judge", "justice", "inspector", "detective", "officer"),
    }
)
"""All that may stand before a name."""
ACRONYMS = frozenset({"us", "who", "it"})
"""Stop words that are names where they are written in capitals."""
AROUND = 3
"""Tokens on each side that tell whether the text itself is in capitals."""


def is_acronym(token: Token) -> bool:
    """Whether a stop word is US, WHO or IT: in capitals, and the words around it are not."""
    if not token.is_upper or token.lower_ not in ACRONYMS:
        return False
    near = token.doc[max(token.i - AROUND, 0) : token.i + AROUND + 1]
    others = [word.is_upper for word in near if word.is_alpha and word.i != token.i]
    return not (others and all(others))


def tells(token: Token) -> bool:
    """Whether a word tells who is meant: no stop word, unless it is an acronym, punctuation or white space."""
    return not (token.is_punct or token.is_space or (token.is_stop and not is_acronym(token)))
