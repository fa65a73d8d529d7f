"""The coreference scorer on Docs, by hand."""

from __future__ import annotations

import pytest
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Config

from entitykit.errors import InputError
from entitykit.scoring.coref import clusters_in, coref_score, make_coref_scorer

VOCAB = Vocab()
WORDS = [f"w{i}" for i in range(12)]

Cluster = list[tuple[int, int]]


def doc_with(*clusters: Cluster, words: list[str] = WORDS, prefix: str = "coref_clusters") -> Doc:
    doc = Doc(VOCAB, words=words)
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"{prefix}_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def test_clusters_are_read_in_the_order_of_their_numbers() -> None:
    doc = doc_with(*[[(i, i + 1)] for i in range(11)])
    doc.spans["coref_clusters"] = doc.spans["coref_clusters_x"] = doc.spans["my_coref_clusters_1"] = [doc[0:1]]
    assert [[span.start for span in cluster] for cluster in clusters_in(doc) or []] == [[i] for i in range(11)]


def test_an_empty_group_says_that_there_are_no_clusters() -> None:
    assert clusters_in(doc_with()) is None
    assert clusters_in(doc_with([])) == []
    wrong = Example(doc_with([(0, 1), (2, 3)]), doc_with([]))
    assert coref_score([wrong])["coref_muc_p"] == 0.0
    unannotated = Example(doc_with([(0, 1), (2, 3)]), doc_with())
    assert set(coref_score([unannotated]).values()) == {None}
    right = Example(doc_with([(0, 1), (2, 3)]), doc_with([(0, 1), (2, 3)]))
    assert coref_score([unannotated, right])["coref_conll_f"] == 1.0
    assert coref_score([wrong, right])["coref_muc_p"] == 0.5


def test_scores_by_hand() -> None:
    # gold: {0, 1, 2} and {5}; predicted: {0, 1} and {5} and {2, 7}
    eg = Example(doc_with([(0, 1), (1, 2)], [(5, 6)], [(2, 3), (7, 8)]), doc_with([(0, 1), (1, 2), (2, 3)], [(5, 6)]))
    scores = coref_score([eg])
    assert (scores["coref_mentions_p"], scores["coref_mentions_r"]) == (4 / 5, 1.0)
    assert (scores["coref_muc_p"], scores["coref_muc_r"]) == (1 / 2, 1 / 2)
    # B³: recall (2 · 2/3 + 1/3 + 1) / 4, precision (2 + 1 + 1/2) / 5
    assert (scores["coref_b3_p"], scores["coref_b3_r"]) == (pytest.approx(0.7), pytest.approx(2 / 3))
    # CEAF-e: 4/5 + 1 of 3 and of 2
    assert (scores["coref_ceafe_p"], scores["coref_ceafe_r"]) == (pytest.approx(0.6), pytest.approx(0.9))
    # LEA: recall (3 · 1/3 + 1) / 4, precision (2 + 1 + 0) / 5
    assert (scores["coref_lea_p"], scores["coref_lea_r"]) == (pytest.approx(3 / 5), pytest.approx(2 / 4))
    f1 = [2 * p * r / (p + r) for p, r in ((0.5, 0.5), (0.7, 2 / 3), (0.6, 0.9))]
    assert scores["coref_conll_f"] == pytest.approx(sum(f1) / 3)
    # without {5}: CEAF-e 4/5 of 2 and of 1
    assert (scores["coref_no_singletons_ceafe_p"], scores["coref_no_singletons_ceafe_r"]) == (0.4, 0.8)
    assert scores["coref_no_singletons_muc_f"] == scores["coref_muc_f"]


def test_tokenizations_may_differ() -> None:
    reference = Doc(VOCAB, words=["Ada", "'s", "dog", "saw", "her"], spaces=[False, True, True, True, False])
    reference.spans["coref_clusters_1"] = [reference[0:1], reference[4:5]]
    reference.spans["coref_clusters_2"] = [reference[0:3]]
    predicted = Doc(VOCAB, words=["Ada's", "dog", "saw", "her"], spaces=[True, True, True, False])
    predicted.spans["coref_clusters_1"] = [predicted[0:1], predicted[3:4]]
    predicted.spans["coref_clusters_2"] = [predicted[0:2]]
    scores = coref_score([Example(predicted, reference)])
    assert (scores["coref_mentions_p"], scores["coref_mentions_r"]) == (2 / 3, 2 / 3)


def test_nested_and_crossing_mentions_are_mentions_of_their_own() -> None:
    clusters = [[(0, 3), (5, 8)], [(1, 2), (2, 6)]]
    assert coref_score([Example(doc_with(*clusters), doc_with(*clusters[::-1]))])["coref_conll_f"] == 1.0


def test_a_mention_in_two_clusters() -> None:
    right = doc_with([(0, 1), (1, 2)])
    with pytest.raises(InputError, match=r"\[E320\] The mention \(\d+, \d+\) is in two predicted clusters"):
        coref_score([Example(doc_with([(0, 2)], [(0, 2), (5, 6)]), right)])
    with pytest.raises(InputError, match=r"\[E320\].* in two gold clusters"):
        coref_score([Example(right, doc_with([(0, 2)], [(0, 2), (5, 6)]))])


def test_other_groups_by_prefix() -> None:
    eg = Example(doc_with([(0, 1), (2, 3)], prefix="chains"), doc_with([(0, 1), (2, 3)], prefix="chains"))
    assert coref_score([eg], spans_prefix="chains")["coref_conll_f"] == 1.0
    assert coref_score([eg])["coref_conll_f"] is None


def test_the_registered_scorer_takes_what_spacy_passes() -> None:
    doc = doc_with([(0, 1), (2, 3)])
    assert make_coref_scorer()([Example(doc, doc.copy())], labels=("X",), threshold=0.5)["coref_conll_f"] == 1.0


def test_score_names_fit_into_a_config() -> None:
    config = Config({"training": {"score_weights": dict.fromkeys(coref_score([]), 0.25)}})
    assert Config().from_str(config.to_str()) == config
