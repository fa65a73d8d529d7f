"""The mention scorer, by hand."""

from __future__ import annotations

import pytest
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config

from entitykit.errors import InputError
from entitykit.scoring.mentions import gold_mentions, make_mentions_scorer, mention_score

VOCAB = Vocab()
WORDS = [f"w{i}" for i in range(20)]


def predicted_doc(
    mentions: list[tuple[int, int]], ranked: list[tuple[int, int, float | None]] | None = None, words: list[str] = WORDS
) -> Doc:
    doc = Doc(VOCAB, words=words)
    doc.spans["mentions"] = [doc[start:end] for start, end in mentions]
    if ranked is not None:
        doc.spans["mention_candidates"] = [doc[start:end] for start, end, _ in ranked]
        doc.spans["mention_candidates"].attrs["scores"] = [score for *_, score in ranked]
    return doc


def reference_doc(mentions: list[tuple[int, int]], words: list[str] = WORDS) -> Doc:
    doc = Doc(VOCAB, words=words)
    doc.spans["sc"] = [Span(doc, start, end, "X") for start, end in mentions]
    return doc


def ten_ranked(*first: tuple[int, int]) -> list[tuple[int, int, float | None]]:
    """Ten candidates, half a one per word: the given ones first, then words from the last backwards."""
    spans = [*first, *((i, i + 1) for i in range(19, 0, -1))][:10]
    return [(start, end, 1.0 - rank / 10) for rank, (start, end) in enumerate(spans)]


def test_gold_mentions_are_the_distinct_spans_of_all_layers() -> None:
    doc = reference_doc([(0, 3), (1, 2)])
    doc.spans["mentions"] = [doc[1:2], doc[4:6]]
    doc.spans["other"] = [doc[7:8]]
    doc.ents = [Span(doc, 0, 3, "Y"), Span(doc, 9, 10, "Y")]
    assert gold_mentions(doc) == {(0, 3), (1, 2), (4, 6), (9, 10)}
    assert gold_mentions(doc, gold_keys=["other"]) == {(7, 8), (0, 3), (9, 10)}
    assert gold_mentions(Doc(VOCAB, words=["a"])) is None
    assert gold_mentions(reference_doc([])) == set()


def test_scores_by_hand() -> None:
    gold = [(0, 1), (2, 4), (5, 10), (10, 11)]
    ranked = ten_ranked((2, 4), (7, 8), (6, 7), (5, 6), (0, 1), (5, 10))
    eg = Example(predicted_doc([(0, 1), (2, 4), (5, 9)], ranked), reference_doc(gold))
    assert mention_score([eg]) == {
        "mentions_p": pytest.approx(2 / 3),
        "mentions_r": 2 / 4,
        "mentions_f": pytest.approx(4 / 7),
        "mentions_recall_at_0.2": 1 / 4,  # the best 4
        "mentions_recall_at_0.3": 3 / 4,  # the best 6
        "mentions_recall_at_0.5": 3 / 4,
        "mentions_recall_per_width": {"1": 1 / 2, "2-3": 1.0, "4-7": 0.0, "8-15": None, "16+": None},
    }


def test_candidates_are_ranked_by_score_and_then_by_position() -> None:
    tied = [(i, i + 1, 0.5) for i in range(9)] + [(15, 18, 0.9)]
    scores = mention_score([Example(predicted_doc([], tied), reference_doc([(15, 18), (2, 3), (3, 4)]))])
    assert scores["mentions_recall_at_0.2"] == pytest.approx(2 / 3)


def test_recall_pools_documents() -> None:
    one = Example(predicted_doc([], ten_ranked((0, 1))), reference_doc([(0, 1)]))
    other = Example(predicted_doc([], ten_ranked()), reference_doc([(0, 1), (0, 2), (0, 3)]))
    no_gold = Example(predicted_doc([(0, 1)]), reference_doc([]))  # has no candidates: nothing there could be missed
    assert mention_score([one, other, no_gold])["mentions_recall_at_0.5"] == 1 / 4


def test_recall_is_none_where_a_longer_list_might_have_held_the_missing_mention() -> None:
    short = ten_ranked((0, 1))[:6]
    missed = mention_score([Example(predicted_doc([], short), reference_doc([(0, 1), (2, 9)]))])
    assert missed["mentions_recall_at_0.3"] == 0.5
    assert missed["mentions_recall_at_0.5"] is None
    found = mention_score([Example(predicted_doc([], short), reference_doc([(0, 1)]))])
    assert found["mentions_recall_at_0.5"] == 1.0


def test_no_candidates_and_no_gold_are_none() -> None:
    for eg in (
        Example(predicted_doc([]), reference_doc([(0, 1)])),
        Example(predicted_doc([], ten_ranked()), reference_doc([])),
    ):
        scores = mention_score([eg])
        assert [scores[f"mentions_recall_at_{k}"] for k in (0.2, 0.3, 0.5)] == [None, None, None]
    unannotated = Example(predicted_doc([(0, 1)], ten_ranked()), Doc(VOCAB, words=WORDS))
    assert set(mention_score([unannotated]).values()) == {None}
    assert set(mention_score([]).values()) == {None}


def test_a_number_of_candidates_that_floats_round_down() -> None:
    words = [f"w{i}" for i in range(100)]
    ranked = [(i, i + 1, 1.0 - i / 100) for i in range(29)]
    eg = Example(predicted_doc([], ranked, words), reference_doc([(28, 29), (99, 100)], words))
    assert mention_score([eg], recall_at=[0.29])["mentions_recall_at_0.29"] == 0.5


def test_every_width_has_a_class() -> None:
    gold = [(0, 1), (0, 2), (0, 3), (0, 4), (0, 7), (0, 8), (0, 15), (0, 16), (0, 20)]
    eg = Example(predicted_doc([(0, 1), (0, 3), (0, 7), (0, 15), (0, 20)]), reference_doc(gold))
    assert mention_score([eg])["mentions_recall_per_width"] == {"1": 1.0, "2-3": 0.5, "4-7": 0.5, "8-15": 0.5, "16+": 0.5}


def test_tokenizations_may_differ() -> None:
    reference = Doc(VOCAB, words=["New", "York", "-", "based"], spaces=[True, False, False, False])
    reference.spans["sc"] = [reference[0:2], reference[0:4]]
    predicted = Doc(VOCAB, words=["New", "York-based"], spaces=[True, False])
    predicted.spans["mentions"] = [predicted[0:2], predicted[1:2]]
    scores = mention_score([Example(predicted, reference)])
    assert (scores["mentions_p"], scores["mentions_r"]) == (0.5, 0.5)
    assert scores["mentions_recall_per_width"] == {"1": None, "2-3": 0.0, "4-7": 1.0, "8-15": None, "16+": None}


def test_candidates_without_scores() -> None:
    reference = reference_doc([(0, 1)])
    for scores, found in ((None, "no scores"), ([0.5], "1 scores"), ([0.5, None], "1 missing scores")):
        predicted = predicted_doc([], [(0, 1, 0.5), (1, 2, 0.4)])
        predicted.spans["mention_candidates"].attrs["scores"] = scores
        with pytest.raises(InputError, match=f"E307.*{found}"):
            mention_score([Example(predicted, reference)])


def test_the_registered_scorer_takes_what_spacy_passes() -> None:
    scores = make_mentions_scorer()([Example(predicted_doc([(0, 1)]), reference_doc([(0, 1)]))], labels=("X",), threshold=0.5)
    assert scores["mentions_f"] == 1.0


def test_score_names_fit_into_a_config() -> None:
    config = Config({"training": {"score_weights": dict.fromkeys(mention_score([]), 0.25)}})
    assert Config().from_str(config.to_str()) == config
