"""The text of a document with names in the place of pronouns, read from its coreference clusters; for English."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from spacy.tokens import Doc, Span, Token

from entitykit.corpora.clusters import representative
from entitykit.corpora.name_words import is_acronym
from entitykit.scoring.coref import clusters_in

POSSESSIVES = frozenset({"his", "its", "hers", "their", "theirs"})
"""Those of the third person, but for *her*, which may be none."""
THIRD = POSSESSIVES | {"he", "him", "she", "her", "it", "they", "them"}
"""Pronouns that give way to names."""
PERSONAL = THIRD | {
    *("i", "me", "my", "myself", "we", "us", "our", "ours", "ourselves", "you", "your", "yours", "yourself", "yourselves"),
    *("himself", "herself", "itself", "themselves", "themself"),
}
"""A mention with one of these names nobody where it is put in another place."""
SHORT_VERB = re.compile(r"['’](s|re|ll|d|ve|m)", re.IGNORECASE)
"""What is drawn together with a pronoun: *they're*."""
OWNING = re.compile(r"\s*['’]s$|(?<=s)\s*['’]$", re.IGNORECASE)
"""The end of a name in the possessive."""
FIRST_WORDS = frozenset(
    {
        *("a", "an", "the", "this", "that", "these", "those", "some", "any", "all", "both", "each", "every", "no", "another"),
        *("other", "many", "most", "more", "several", "few", "such", "one", "two", "three", "four", "five", "six", "seven"),
        *("eight", "nine", "ten", "eleven", "twelve"),
    }
)
"""Words that have a capital only where a sentence or a name begins with them."""
SENTENCE_ENDS = frozenset({".", "!", "?", ":", "…"})
AFTER_HER = frozenset({"former", "name", "other", "own", "side", "whole"})
"""Stop words of spaCy with which a possessive goes on."""
WITHIN_HER = frozenset(
    {
        *("almost", "always", "back", "bottom", "due", "empty", "ever", "few", "first", "formerly", "front", "full", "further"),
        *("last", "latter", "least", "less", "many", "more", "most", "mostly", "much", "never", "next", "now", "often", "once"),
        *("only", "part", "quite", "rather", "really", "same", "serious", "several", "sometimes", "still", "then", "third"),
        *("top", "various", "very", "well"),
    }
)
"""Stop words with which it goes on in a longer mention: *her very old dog*, but *saw her once*."""
NOT_HERS = frozenset({"again", "away", "soon", "today", "tomorrow", "tonight", "yesterday"})
"""Words that *her* never owns."""


def resolved_text(doc: Doc) -> str | None:
    """The text with names in the place of pronouns; None where nobody looked for clusters.

    A pronoun is a mention of one word of `THIRD`. It gives way to the entity's representative among the mentions without
    pronouns, and a possessive to that with *'s*; if there is no such mention, it stays. So does one with a short verb
    (*they're*), and one that stands within a longer mention of the same entity and does not begin it. *Ada herself* stays, and
    *she herself* becomes *Ada herself*.
    """
    clusters = clusters_in(doc)
    if clusters is None:
        return None
    begins: dict[int, int] = {}
    for cluster in clusters:
        for span in cluster:
            begins[span.start] = max(begins.get(span.start, 0), span.end)
    named: dict[int, str] = {}
    for cluster in clusters:
        name = representative([span for span in cluster if not _has_pronoun(span)])
        if name is not None:
            plain = _within_sentence(name)
            named |= {token.i: _in_place_of(token, plain, begins[token.i]) for token in _pronouns(cluster)}
    return "".join(named.get(token.i, token.text) + token.whitespace_ for token in doc)


def _has_pronoun(span: Span) -> bool:
    """Whether a mention holds a pronoun: no *US*, and no *I* of *Charles I*."""
    for token in span:
        is_number = token.text == "I" and token.i > span.start and token.nbor(-1).is_title
        if token.lower_ in PERSONAL and not is_acronym(token) and not is_number:
            return True
    return False


def _within_sentence(name: Span) -> str:
    """A name as it is written in the middle of a sentence, without the possessive and line breaks."""
    text = " ".join(OWNING.sub("", name.text).split())
    first, rest = name[0], name[1:]
    if not first.is_title or first.lower_ not in FIRST_WORDS or (rest and all(word.is_upper for word in rest)):
        return text
    has_own_capital = not (rest and rest[0].is_lower) and not _begins_sentence(first)  # The Hague
    return text if has_own_capital else first.lower_ + text[len(first) :]


def _begins_sentence(token: Token) -> bool:
    if token.is_sent_start:
        return True
    for i in reversed(range(token.i)):
        word = token.doc[i]
        if "\n" in word.text:
            return True
        if not (word.is_space or word.is_quote or word.is_bracket):
            return word.text in SENTENCE_ENDS
    return True


def _pronouns(cluster: Iterable[Span]) -> Iterator[Token]:
    """The pronouns to replace, but for those within longer mentions that begin before them."""
    begun = end = 0  # of the mentions before, the last that reaches farthest
    for span in sorted(cluster, key=lambda span: (span.start, -span.end)):
        if len(span) == 1 and _can_be_replaced(span[0]) and not begun < span.start < end:
            yield span[0]
        if span.end > end:
            begun, end = span.start, span.end


def _can_be_replaced(token: Token) -> bool:
    following = token.doc[token.i + 1 : token.i + 2].text
    return token.lower_ in THIRD and not is_acronym(token) and not SHORT_VERB.fullmatch(following)


def _in_place_of(pronoun: Token, name: str, end: int) -> str:
    """A name in the form that a pronoun has.

    Args:
        pronoun: to replace.
        name: as it is written in the middle of a sentence.
        end: of the longest mention that begins with the pronoun.
    """
    first = name.split()[0]
    if pronoun.text[0].isupper() and first.islower():  # not iPhone
        name = name[0].upper() + name[1:]
    if not _owns(pronoun, end):
        return name
    is_plural = pronoun.lower_ in ("their", "theirs") and name[-1] in "sS"
    return f"{name}'" if is_plural else f"{name}'s"


def _owns(token: Token, end: int) -> bool:
    """Whether a pronoun is a possessive.

    ``her`` is one if it is tagged so. Where nothing is tagged, it is one if the word after it may belong to it: no stop word, a
    number, or one such as *own*; in a longer mention that begins with it also one such as *very*. It is none in *let her go*.

    Args:
        token: the pronoun.
        end: of the longest mention that begins with it.
    """
    if token.lower_ != "her":
        return token.lower_ in POSSESSIVES
    if token.has_morph():
        return "Yes" in token.morph.get("Poss", [])
    word = next((word for word in token.doc[token.i + 1 :] if not word.is_space), None)
    if word is None or word.lower_ in NOT_HERS:
        return False
    in_mention = end > token.i + 1
    if word.is_stop and not word.like_num:
        return word.lower_ in AFTER_HER or (in_mention and word.lower_ in WITHIN_HER)
    is_let = token.i > 0 and token.nbor(-1).lower_ in ("let", "lets", "letting")
    return in_mention or (word.is_alpha and not is_let)
