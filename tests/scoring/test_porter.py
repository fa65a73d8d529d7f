"""Porter's stemmer on examples of its rules; all of NLTK's answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.scoring.porter import stem

STEMS = {
    "1a": "caresses:caress ponies:poni ties:tie cats:cat feed:feed agreed:agre plastered:plaster bled:bled sing:sing",
    "1b": "conflated:conflat troubled:troubl sized:size hopping:hop tanned:tan falling:fall failing:fail filing:file",
    "1c": "happy:happi sky:sky enjoy:enjoy by:by died:die spied:spi",
    "2": "relational:relat conditional:condit rational:ration digitizer:digit vietnamization:vietnam callousness:callous",
    "2b": "feudalism:feudal sensibiliti:sensibl hopefully:hope conformabli:conform archaeology:archaeolog analogi:analog",
    "3": "triplicate:triplic formative:form electrical:electr hopeful:hope goodness:good",
    "4": "revival:reviv allowance:allow replacement:replac adoption:adopt communism:commun effective:effect station:station",
    "5": "probate:probat rate:rate cease:ceas controll:control roll:roll",
    "irregular": "skies:sky dying:die innings:inning news:news succeed:succeed as:as",
    "ProPara": "oceans:ocean clouds:cloud Branches:branch leaves:leav atmosphere:atmospher roots:root bodies:bodi",
}


@pytest.mark.parametrize("pairs", STEMS.values(), ids=list(STEMS))
def test_stems(pairs: str) -> None:
    expected = dict(pair.split(":") for pair in pairs.split())
    assert {word: stem(word) for word in expected} == expected


def test_a_phrase_is_one_word() -> None:
    assert stem("bottom of the swamps") == "bottom of the swamp"
    assert stem("the clouds above") == "the clouds abov"
    assert stem("") == ""


@given(st.text(alphabet="aeiouybdlstz ", max_size=12))
def test_never_longer_than_the_word(word: str) -> None:
    assert len(stem(word)) <= len(word) + 1  # hop(ping) but fil(ing) + e
