"""GAP's measures by hand."""

from __future__ import annotations

import pytest
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab
from thinc.api import Config

from entitykit.errors import InputError
from entitykit.scoring.gap import GapDecision, decide, score_gap
from entitykit.scoring.spans import PRF

WORDS = ["Mr", "Al", "Roe", ",", "son", "of", "Dr", "Ed", "Roe", ",", "met", "Bo", "and", "his", "dog", "."]


def snippet(*clusters: list[tuple[int, int]]) -> Doc:
    doc = Doc(Vocab(), words=WORDS)
    offsets = {"pronoun": doc[13:14], "a": doc[1:3], "b": doc[11:12]}
    doc.user_data["gap"] = {name: [span.start_char, span.end_char] for name, span in offsets.items()}
    doc.user_data["gap"] |= {"a_coref": True, "b_coref": False}
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def test_scores_by_hand() -> None:
    decisions = [
        GapDecision("She", (True, False), (True, False)),  # 1 right
        GapDecision("her", (False, True), (True, False)),  # 1 wrong, 1 missed
        GapDecision("hers", (False, False), (False, False)),
        GapDecision("he", (True, False), (True, True)),  # 1 right, 1 wrong
        GapDecision("His", (False, True), (False, False)),  # 1 missed
        GapDecision("him", (False, True), (False, True)),  # 1 right
    ]
    scores = score_gap(decisions)
    assert scores.feminine == PRF(1 / 2, 1 / 2, 0.5, 2)
    assert scores.masculine == PRF(pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3)
    assert scores.overall == PRF(pytest.approx(3 / 5), pytest.approx(3 / 5), pytest.approx(3 / 5), 5)
    assert scores.bias == pytest.approx(0.5 / (2 / 3))


def test_no_bias_without_two_scores() -> None:
    assert score_gap([GapDecision("she", (True, False), (True, False))]).bias is None
    assert score_gap([]) == (PRF(0.0, 0.0, 0.0, 0),) * 3 + (None,)


def test_an_unknown_pronoun() -> None:
    with pytest.raises(
        InputError, match=r"\[E321\] A decision is about the pronoun 'they'; GAP has: he, her, hers, him, his, she"
    ):
        score_gap([GapDecision("they", (True, False), (True, False))])


@pytest.mark.parametrize(
    ("clusters", "predicted"),
    [
        ([[(1, 3), (13, 14)]], (True, False)),
        ([[(0, 3), (13, 14)]], (True, False)),  # a mention that covers the name
        ([[(0, 10), (13, 14)], [(0, 3)]], (False, False)),  # the shortest one counts
        ([[(2, 3), (13, 14)]], (True, False)),  # a mention within the name
        ([[(1, 2), (5, 6)], [(1, 3), (13, 14)]], (True, False)),
        ([[(11, 12), (13, 14)]], (False, True)),
        ([[(1, 3), (11, 12), (13, 14)]], (True, True)),
        ([[(1, 3), (13, 15)]], (False, False)),  # the pronoun itself is no mention
        ([[(1, 3), (11, 12)]], (False, False)),
        ([], (False, False)),
    ],
)
def test_decisions_of_clusters(clusters: list[list[tuple[int, int]]], predicted: tuple[bool, bool]) -> None:
    assert decide(snippet(*clusters)) == GapDecision("his", (True, False), predicted)


def test_a_name_that_ends_within_a_word() -> None:
    doc = snippet([(0, 3), (13, 14)])
    doc.user_data["gap"]["a"][1] -= 1
    assert decide(doc).predicted == (True, False)


def test_another_document() -> None:
    with pytest.raises(InputError, match=r"\[E322\] The Doc is no snippet of GAP: doc.user_data has no 'gap'"):
        decide(Doc(Vocab(), words=["she"]))


def test_the_scorer() -> None:
    """The snippet is the reference's, the clusters the predicted document's."""
    found = snippet([(1, 3), (13, 14)])
    data = found.user_data.pop("gap")
    right, wrong = Example(found, snippet()), Example(snippet([(11, 12), (13, 14)]), snippet())
    other = Example(snippet(), Doc(Vocab(), words=WORDS))  # no snippet
    config = Config({"scorer": {"@scorers": "entitykit.gap_scorer.v1"}})
    score = registry.resolve(config)["scorer"]
    scores = score([right, wrong, other])
    assert (scores["gap_p"], scores["gap_r"], scores["gap_f"]) == (0.5, 0.5, 0.5)
    assert scores["gap_masculine_f"] == 0.5
    assert (scores["gap_feminine_f"], scores["gap_bias"]) == (0.0, None)
    assert data["a_coref"]
    assert set(score([other]).values()) == {None}
    with pytest.raises(InputError, match="E305"):
        score([Example(Doc(Vocab(), words=["she"]), Doc(Vocab(), words=["he"], user_data={"gap": data}))])
