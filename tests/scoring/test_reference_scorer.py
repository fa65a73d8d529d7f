"""The test cases of the reference scorer of CoNLL-2011 and 2012, with the values that it expects.

They are those of test/TestCases.README and test/CorefMetricTestConfig.pm in github.com/conll/reference-coreference-scorers
(Pradhan, Luo, Recasens, Hovy, Ng and Strube, ACL 2014); a letter is a mention, and the names are theirs. D and E are from the
paper on B³ (Bagga and Baldwin, 1998), F to L from that on MUC (Vilain et al., 1995). Left out are A-8 and A-9, in which a
mention is in two clusters, which we refuse, and values of CEAF-m and BLANC, which we do not have.
"""

from __future__ import annotations

import pytest

from entitykit.errors import InputError
from entitykit.scoring.coref_metrics import score_clusters
from entitykit.scoring.spans import PRF

Pair = tuple[float, float]
"""Recall and precision."""
Expected = dict[str, Pair]

A = "a bc def"
CASES: dict[str, tuple[str, str, Expected]] = {
    "A-1": (A, "a bc def", {"muc": (1, 1), "b_cubed": (1, 1), "ceaf_e": (1, 1), "lea": (1, 1)}),
    "A-2": (A, "a de", {"muc": (1 / 3, 1), "b_cubed": (7 / 18, 1), "ceaf_e": (0.6, 0.9), "lea": (2 / 6, 1)}),
    "A-3": (
        A,
        "a bcx defy z",
        {"muc": (1, 3 / 5), "b_cubed": (1, 55 / 108), "ceaf_e": (0.88571, 0.66429), "lea": (1, (1 + 3 / 3 + 4 * 3 / 6) / 9)},
    ),
    "A-4": (
        A,
        "a bcx dy z",
        {"muc": (1 / 3, 1 / 3), "b_cubed": (5 / 9, 17 / 42), "ceaf_e": (0.73333, 0.55), "lea": (3 / 6, 2 / 7)},
    ),
    "A-5": (
        A,
        "a bcxB dy z",
        {"muc": (1 / 3, 1 / 4), "b_cubed": (5 / 9, 5 / 16), "ceaf_e": (0.68889, 0.51667), "lea": (3 / 6, (1 + 4 / 6) / 8)},
    ),
    "A-6": (
        A,
        "a bcx dy Bz",
        {"muc": (1 / 3, 1 / 4), "b_cubed": (5 / 9, 17 / 48), "ceaf_e": (0.73333, 0.55), "lea": (3 / 6, 2 / 8)},
    ),
    "A-7": (
        A,
        "a bcxb dy z",
        {"muc": (1 / 3, 1 / 3), "b_cubed": (5 / 9, 17 / 42), "ceaf_e": (0.73333, 0.55), "lea": (3 / 6, 2 / 7)},
    ),
    "A-10": (A, "a b c d e f", {"muc": (0, 0), "b_cubed": (3 / 6, 1), "lea": (1 / 6, 1 / 6)}),
    "A-11": (A, "abcdef", {"muc": (1, 3 / 5), "b_cubed": (1, 7 / 18), "lea": (5 / 6, 4 / 15)}),
    "A-12": (A, "a x y c d e z", {"muc": (0, 0), "b_cubed": (13 / 36, 4 / 7), "lea": (1 / 6, 1 / 7)}),
    "A-13": (A, "axycdez", {"muc": (1 / 3, 1 / 6), "b_cubed": (17 / 36, 6 / 49), "lea": (1 / 6, 1 / 21)}),
    "B-1": ("ab cde", "bcx de", {"lea": (1 / 5, 2 / 5)}),
    "C-1": ("ab cde fg", "bcx de fg", {"lea": (3 / 7, 4 / 7)}),
    "D-1": (
        "12345 67 89ABC",
        "12345 6789ABC",
        {"muc": (1, 9 / 10), "b_cubed": (1, 16 / 21), "lea": (1, (5 + 7 * 11 / 21) / 12)},
    ),
    "E-1": (
        "12345 67 89ABC",
        "1234589ABC 67",
        {"muc": (1, 9 / 10), "b_cubed": (1, 7 / 12), "lea": (1, (10 * 20 / 45 + 2) / 12)},
    ),
    "F-1": ("ABCD", "AB CD", {"muc": (2 / 3, 1), "lea": (2 / 6, 1)}),
    "G-1": ("AB CD", "ABCD", {"muc": (1, 2 / 3), "lea": (1, 2 / 6)}),
    "H-1": ("ABCD", "ABCD", {"muc": (1, 1), "lea": (1, 1)}),
    "J-1": ("ABC", "AC", {"muc": (1 / 2, 1), "lea": (1 / 3, 1)}),
    "K-1": ("BCDEGHJ", "ABC DEF GHI", {"muc": (3 / 6, 3 / 6), "lea": (3 / 21, 3 / 9)}),
    "L-1": ("ABC DEFG", "AB CD FGH", {"muc": (2 / 5, 2 / 4), "lea": ((1 + 4 / 6) / 7, 3 / 7)}),
    "M-1": ("abcdef", "abcdef", {"muc": (1, 1), "b_cubed": (1, 1), "ceaf_e": (1, 1), "lea": (1, 1)}),
    "M-2": ("abcdef", "a b c d e f", {"muc": (0, 0), "lea": (0, 0)}),
    "M-3": ("abcdef", "ab cde f", {"lea": (4 / 15, 5 / 6)}),
    "M-4": ("abcdef", "abcxyz", {"lea": (3 / 15, 3 / 15)}),
    "M-5": ("abcdef", "a b c x y z", {"muc": (0, 0), "lea": (0, 0)}),
    "M-6": ("abcdef", "ab cxy z", {"lea": (1 / 15, 2 / 6)}),
    "N-1": ("a b c d e f", "a b c d e f", {"muc": (0, 0), "b_cubed": (1, 1), "ceaf_e": (1, 1), "lea": (1, 1)}),
    "N-2": ("a b c d e f", "abcdef", {"lea": (0, 0)}),
    "N-3": ("a b c d e f", "ab cde f", {"lea": (1 / 6, 1 / 6)}),
    "N-4": ("a b c d e f", "a b c x y z", {"muc": (0, 0), "lea": (3 / 6, 3 / 6)}),
    "N-5": ("a b c d e f", "abcxyz", {"lea": (0, 0)}),
    "N-6": ("a b c d e f", "ab cxy z", {"lea": (0, 0)}),
}


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    gold, predicted, expected = CASES[name]
    scores = score_clusters([gold.split()], [predicted.split()])
    assert scores is not None
    for metric, pair in expected.items():
        found: PRF = getattr(scores, metric)
        assert (found.recall, found.precision) == pytest.approx(pair, abs=1e-5), metric


def test_a_mention_in_two_clusters_is_refused() -> None:
    """As in A-8, where the reference scorer drops the second one."""
    with pytest.raises(InputError, match="E320"):
        score_clusters([A.split()], [["a", "bcx", "dy", "bz"]])
