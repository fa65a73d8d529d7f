"""The metrics by hand, against direct definitions, and on all small cases."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entitykit.errors import InputError
from entitykit.scoring.coref_metrics import Clusters, CorefScores, score_clusters
from entitykit.scoring.spans import PRF


def score(gold: Sequence[str], predicted: Sequence[str], *, singletons: bool = True) -> CorefScores:
    """Score one document; a cluster is a text of one letter per mention."""
    scores = score_clusters([gold], [predicted], singletons=singletons)
    assert scores is not None
    return scores


def percent(scores: PRF) -> tuple[float, float, float]:
    return tuple(round(100 * value, 2) for value in (scores.recall, scores.precision, scores.f1))


# The example of Bagga and Baldwin (1998), which Luo (2005) takes up: twelve mentions in three entities.
KEY = ["12345", "67", "89ABC"]
JOINS_SMALL = ["12345", "6789ABC"]  # response (a): the small entity is merged with a large one
JOINS_LARGE = ["1234589ABC", "67"]  # response (b): the large entities are merged


def test_one_wrong_link_costs_muc_the_same_everywhere() -> None:
    # Recall: no gold link is lost, (4 + 1 + 4) / 9. Precision: 4 + (7 - 2) of 4 + 6, and 10 - 2 + 1 of 9 + 1.
    for response in (JOINS_SMALL, JOINS_LARGE):
        assert score(KEY, response).muc[:2] == (pytest.approx(9 / 10), 1.0)
        assert round(100 * score(KEY, response).muc.f1, 1) == 94.7  # 2 · 0.9 / 1.9


def test_b_cubed_and_ceaf_punish_the_worse_error_more() -> None:
    # B³ precision (a): 5 · 5/5 + 2 · 2/7 + 5 · 5/7 of 12 = 16/21; (b): 10 · 5/10 + 2 = 7 of 12.
    assert score(KEY, JOINS_SMALL).b_cubed[:2] == (pytest.approx(16 / 21), 1.0)
    assert score(KEY, JOINS_LARGE).b_cubed[:2] == (pytest.approx(7 / 12), 1.0)
    assert [round(100 * score(KEY, response).b_cubed.f1, 1) for response in (JOINS_SMALL, JOINS_LARGE)] == [86.5, 73.7]
    # φ4 (a): 1 for the entity found, 2 · 5 / (5 + 7) for the larger half: (1 + 5/6) of 2 and of 3. (b): 1 + 2 · 5 / 15.
    assert score(KEY, JOINS_SMALL).ceaf_e[:3] == (pytest.approx(11 / 12), pytest.approx(11 / 18), pytest.approx(11 / 15))
    assert score(KEY, JOINS_LARGE).ceaf_e[:3] == (pytest.approx(5 / 6), pytest.approx(5 / 9), pytest.approx(2 / 3))


def test_lea_by_hand() -> None:
    # Recall 1. Precision (a): 5 · 10/10 + 7 · (1 + 10)/21 of 12 = 26/36; (b): 10 · (10 + 10)/45 + 2 · 1 of 12 = 29/54.
    assert score(KEY, JOINS_SMALL).lea[:2] == (pytest.approx(26 / 36), 1.0)
    assert score(KEY, JOINS_LARGE).lea[:2] == (pytest.approx(29 / 54), 1.0)


# The example of the reference scorer's paper (Pradhan, Luo, Recasens, Hovy, Ng and Strube, ACL 2014), which Moosavi and Strube
# (2016) take up: key {a, b, c} and {d, e, f, g}, response {a, b}, {c, d} and {f, g, h, i}. Published, as recall and precision:
# MUC 0.40, 0.40; B³ 0.42, 0.50; CEAF-e 0.65, 0.43.
def test_missing_and_invented_mentions() -> None:
    scores = score(["abc", "defg"], ["ab", "cd", "fghi"])
    # links resolved: 1 of 3 and 1 of 6; recall (3 · 1/3 + 4 · 1/6) / 7 = 0.24; precision (2 · 1/1 + 2 · 0 + 4 · 1/6) / 8 = 0.33
    assert percent(scores.lea) == (23.81, 33.33, 27.78)
    # MUC: (2 - 1) + (1 - 1) + (1 - 1) + (2 - 1) = 2 links, of 2 + 3 in the key and 1 + 1 + 3 in the response
    assert percent(scores.muc) == (40.0, 40.0, 40.0)
    # B³: recall (4/3 + 1/3 + 1/4 + 4/4) / 7, precision (4/2 + 1/2 + 1/2 + 4/4) / 8
    assert percent(scores.b_cubed) == (41.67, 50.0, 45.45)
    # CEAF-e: abc–ab 2 · 2/5, defg–fghi 2 · 2/8, together 1.3 of 2 and of 3
    assert percent(scores.ceaf_e) == (65.0, 43.33, 52.0)
    # mentions: a, b, c, d, f, g of 7 and 8
    assert percent(scores.mentions) == (85.71, 75.0, 80.0)
    assert scores.conll_f1 == pytest.approx((0.4 + 5 / 11 + 0.52) / 3)
    assert [part.n_gold for part in (scores.mentions, scores.muc, scores.b_cubed, scores.ceaf_e, scores.lea)] == [7, 5, 7, 2, 7]


def test_singletons() -> None:
    # Key: ab, c, d. Response: a, b, c, de.
    scores = score(["ab", "c", "d"], ["a", "b", "c", "de"])
    assert scores.muc == PRF(0.0, 0.0, 0.0, 1)
    # B³: recall (1/2 + 1/2 + 1 + 1) / 4, precision (1 + 1 + 1 + 1/2) / 5
    assert percent(scores.b_cubed) == (75.0, 70.0, 72.41)
    # CEAF-e: ab–a 2/3, c–c 1, d–de 2/3: 7/3 of 3 and of 4
    assert percent(scores.ceaf_e) == (77.78, 58.33, 66.67)
    # LEA: c alone resolves its link to itself, 1 of 4 and of 5; d is no singleton in the response, a and b are none in the key
    assert percent(scores.lea) == (25.0, 20.0, 22.22)
    without = score(["ab", "c", "d"], ["a", "b", "c", "de"], singletons=False)
    assert without.mentions == PRF(0.0, 0.0, 0.0, 2)  # ab against de
    assert without.ceaf_e == PRF(0.0, 0.0, 0.0, 1)


def test_documents_are_summed_before_dividing() -> None:
    # MUC: 1 of 1 and 1 link in the first, 0 of 2 and of 0 in the second; the mean of the two documents' recall would be 1/2.
    scores = score_clusters([["ab"], ["abc"]], [["ab"], []])
    assert scores is not None
    assert scores.muc == PRF(1.0, pytest.approx(1 / 3), pytest.approx(1 / 2), 3)
    assert scores.ceaf_e[:2] == (1.0, 1 / 2)
    assert scores.b_cubed[:2] == (1.0, 2 / 5)


def test_the_best_alignment_is_not_the_greedy_one() -> None:
    scores = score(["abcd", "efgh"], ["abcef", "d"])
    # φ4: abcd–abcef 6/9, abcd–d 2/5, efgh–abcef 4/9, efgh–d 0. 2/5 + 4/9 beats 6/9 + 0.
    assert scores.ceaf_e.recall == pytest.approx((2 / 5 + 4 / 9) / 2)


def test_nothing_to_score() -> None:
    assert score_clusters([], []) is None
    assert score_clusters([[]], [[[], ""]]) is None
    assert score_clusters([["a"]], [["b"]], singletons=False) is None
    only_predicted = score([], ["ab"])
    assert only_predicted.b_cubed == PRF(0.0, 0.0, 0.0, 0)
    assert only_predicted.conll_f1 == 0.0


def test_a_mention_in_two_clusters() -> None:
    with pytest.raises(InputError, match=r"\[E320\] The mention b is in two predicted clusters"):
        score(["ab"], ["ab", "bc"])
    assert score(["ab"], ["aab"]).conll_f1 == 1.0  # twice in one cluster is once


def test_documents_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_clusters([["ab"]], [])


@st.composite
def clusterings(draw: st.DrawFn, mentions: str = "abcdefg") -> list[str]:
    labels = draw(st.lists(st.integers(0, 4), min_size=len(mentions), max_size=len(mentions)))  # 0: no mention
    return [
        "".join(m for m, at in zip(mentions, labels, strict=True) if at == label) for label in range(1, 5) if label in labels
    ]


def side(xs: Clusters, ys: Clusters) -> dict[str, tuple[float, float]]:
    """Numerator and denominator of one side, straight from the papers' definitions."""
    of = {mention: set(y) for y in ys for mention in y}
    muc = [len(x) - len({frozenset(of.get(mention, {mention})) & frozenset(x) for mention in x}) for x in xs]
    b_cubed = [sum(len(set(x) & of.get(mention, set())) for mention in x) / len(x) for x in xs]
    lea = []
    for x in xs:
        links = list(combinations(x, 2)) or [(x[0], x[0])]
        found = [a in of and b in of[a] and (a != b or len(of[a]) == 1) for a, b in links]
        lea.append(len(x) * sum(found) / len(links))
    n = sum(map(len, xs))
    return {"muc": (sum(muc), n - len(xs)), "b_cubed": (sum(b_cubed), n), "lea": (sum(lea), n)}


def phi4(xs: Clusters, ys: Clusters) -> float:
    """The best alignment by trying all."""
    few, many = sorted((xs, ys), key=len)
    pairs = (
        [2 * len(set(x) & set(y)) / (len(x) + len(y)) for x, y in zip(few, chosen, strict=True)]
        for chosen in permutations(many, len(few))
    )
    return max((sum(pair) for pair in pairs), default=0.0)


@settings(max_examples=60)
@given(clusterings(), clusterings())
def test_equal_to_the_definitions(gold: list[str], predicted: list[str]) -> None:
    if not gold and not predicted:
        return
    scores = score(gold, predicted)
    recall, precision = side(gold, predicted), side(predicted, gold)
    for name in ("muc", "b_cubed", "lea"):
        for found, (part, whole) in (("recall", recall[name]), ("precision", precision[name])):
            assert getattr(getattr(scores, name), found) == pytest.approx(part / whole if whole else 0.0)
    assert scores.ceaf_e.recall == pytest.approx(phi4(gold, predicted) / len(gold) if gold else 0.0)
    assert scores.ceaf_e.precision == pytest.approx(phi4(gold, predicted) / len(predicted) if predicted else 0.0)


@given(clusterings())
def test_the_gold_clusters_are_perfect(gold: list[str]) -> None:
    if any(len(cluster) > 1 for cluster in gold):
        scores = score(gold, [cluster[::-1] for cluster in reversed(gold)])
        assert all(part.f1 == pytest.approx(1.0) for part in scores[:5])
        assert scores.conll_f1 == pytest.approx(1.0)


def test_a_novel_of_mentions() -> None:
    gold = [range(i, 50_000, 9_000) for i in range(9_000)]
    predicted = [range(i, i + 5) for i in range(0, 50_000, 5)]
    scores = score_clusters([gold], [predicted])
    assert scores is not None
    assert scores.mentions.f1 == 1.0
    assert scores.muc.f1 == 0.0
