"""Metrics on span sets by hand, and the positions that two tokenizations share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import InputError
from entitykit.scoring.spans import PRF, char_positions, locate, normalise_surface, prf, score_spans

VOCAB = Vocab()


def example(predicted: list[str], reference: list[str], *, spaces: bool = True) -> Example:
    return Example(
        Doc(VOCAB, words=predicted, spaces=[spaces] * len(predicted)),
        Doc(VOCAB, words=reference, spaces=[spaces] * len(reference)),
    )


def test_nested_scores_by_hand() -> None:
    gold = [{(0, 5, "ORG"), (2, 3, "GPE"), (7, 8, "PER")}, {(0, 1, "PER")}]
    predicted = [{(0, 5, "ORG"), (2, 3, "ORG"), (7, 8, "PER"), (7, 9, "PER")}, set()]
    scores = score_spans(gold, predicted)
    assert scores.micro == PRF(precision=2 / 4, recall=2 / 4, f1=0.5, n_gold=4)
    assert scores.per_type == {
        "GPE": PRF(precision=0.0, recall=0.0, f1=0.0, n_gold=1),
        "ORG": PRF(precision=1 / 2, recall=1.0, f1=pytest.approx(2 / 3), n_gold=1),
        "PER": PRF(precision=1 / 2, recall=1 / 2, f1=0.5, n_gold=2),
    }
    assert scores.macro is not None
    assert scores.macro.f1 == pytest.approx((0 + 2 / 3 + 1 / 2) / 3)


def test_macro_leaves_out_labels_that_only_the_model_knows() -> None:
    scores = score_spans([{(0, 1, "A")}], [{(0, 1, "A"), (2, 3, "B")}])
    assert scores.macro == PRF(1.0, 1.0, 1.0, 1)
    assert scores.micro == PRF(0.5, 1.0, pytest.approx(2 / 3), 1)


def test_nothing_to_score_is_none_and_no_hit_is_zero() -> None:
    assert score_spans([set()], [set()]) == (None, None, {})
    assert score_spans([], []) == (None, None, {})
    assert score_spans([{(0, 1, "A")}], [set()]).micro == PRF(0.0, 0.0, 0.0, 1)
    only_predicted = score_spans([set()], [{(0, 1, "A")}])
    assert only_predicted.micro == PRF(0.0, 0.0, 0.0, 0)
    assert only_predicted.macro is None


def test_documents_must_pair_up() -> None:
    with pytest.raises(ValueError, match="zip"):
        score_spans([set()], [])


def test_prf() -> None:
    assert prf(n_correct=3, n_predicted=4, n_gold=6) == PRF(0.75, 0.5, 0.6, 6)


@pytest.mark.parametrize("text", ["New  York\nCity", " new york city ", "NEW\u00a0YORK\tCITY"])
def test_normalise_surface(text: str) -> None:
    assert normalise_surface(text) == "new york city"


def test_positions_ignore_tokens_and_the_amount_of_whitespace() -> None:
    eg = example(["New", "York-", "based"], ["New", "\n\n", "York", "-", "based"])
    in_predicted, in_reference = char_positions(eg)
    assert locate(eg.predicted[0:1], in_predicted) == locate(eg.reference[0:1], in_reference)
    assert locate(eg.predicted[0:2], in_predicted) == locate(eg.reference[0:4], in_reference)
    assert locate(eg.predicted[0:2], in_predicted) != locate(eg.reference[0:3], in_reference)
    assert locate(eg.predicted[0:1], in_predicted) != locate(eg.reference[0:2], in_reference)  # strict about a space token


@given(st.lists(st.text(alphabet="aé😀\u0301 \n", min_size=1, max_size=3), max_size=8))
def test_positions_of_equal_texts_tell_all_spans_apart(words: list[str]) -> None:
    words = [word for word in words if word.strip()]
    eg = example(words, words, spaces=False)
    in_predicted, in_reference = char_positions(eg)
    spans = [(start, end) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    located = [locate(eg.predicted[start:end], in_predicted) for start, end in spans]
    assert located == [locate(eg.reference[start:end], in_reference) for start, end in spans]
    assert len(set(located)) == len(spans)
    assert all(start < end for start, end in located)


@pytest.mark.parametrize("reference", [["Paris", "!"], ["Pari", "ß", "s"], []])
def test_other_texts_are_refused(reference: list[str]) -> None:
    with pytest.raises(InputError, match="E305"):
        char_positions(example(["Paris"], reference))


def test_case_may_differ() -> None:
    in_predicted, in_reference = char_positions(example(["PARIS"], ["Paris"]))
    assert in_predicted.tolist() == in_reference.tolist()
