from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.scorer import Scorer
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.util import registry
from spacy.vocab import Vocab

from entitykit.errors import ConfigError, InputError
from entitykit.scoring.linking import Link, linking_score, register_candidates, score_links

VOCAB = Vocab()
WORDS = [f"w{i}" for i in range(20)]

Spans = Sequence[tuple[int, int, str]]


@pytest.fixture(autouse=True)
def _no_extension() -> None:
    if Span.has_extension("kb_ents"):
        Span.remove_extension("kb_ents")


def doc_of(links: Spans, words: Sequence[str] = WORDS, *, annotate: str = "ents", label: str = "X") -> Doc:
    doc = Doc(VOCAB, words=list(words))
    spans = [Span(doc, start, end, label=label, kb_id=entity) for start, end, entity in links]
    if annotate == "ents":
        doc.set_ents(spans)
    else:
        doc.spans["sc"] = spans
    return doc


def example(gold: Spans, predicted: Spans, **settings: str) -> Example:
    return Example(doc_of(predicted, **settings), doc_of(gold, **settings))


def scores_of(*examples: Example, **settings: Any) -> dict[str, Any]:
    return linking_score(examples, **settings)


def prf(scores: dict[str, Any], name: str) -> tuple[float, float, float]:
    return tuple(scores[f"linking_{name}_{letter}"] for letter in "prf")


def spacy_micro(*examples: Example) -> tuple[float, float, float]:
    scores = Scorer.score_links(examples, negative_labels=["NIL"])
    return tuple(scores[f"nel_micro_{letter}"] for letter in "prf")


def test_strong_and_weak_by_hand() -> None:
    gold = [(0, 2, "Q1"), (3, 4, "Q2"), (5, 8, "Q3"), (10, 11, "NIL")]
    predicted = [(0, 2, "Q1"), (3, 4, "Q9"), (6, 8, "Q3"), (10, 11, "Q4"), (12, 13, "Q5")]
    scores = scores_of(example(gold, predicted))
    # Strong: only Q1 of 5 predictions and of 3 gold links with an id. Weak: Q3, too.
    assert prf(scores, "micro") == pytest.approx((1 / 5, 1 / 3, 1 / 4))
    assert prf(scores, "macro") == prf(scores, "micro")
    assert prf(scores, "weak_micro") == pytest.approx((2 / 5, 2 / 3, 1 / 2))
    assert prf(scores, "nil") == (0, 0, 0)
    # Gold mentions whose offsets are predicted: Q1, Q2 and the NIL mention.
    assert scores["linking_mentions_r"] == 3 / 4
    assert scores["linking_acc"] == pytest.approx(1 / 3)
    assert scores["linking_inkb_acc"] == 1 / 2


def test_macro_by_hand() -> None:
    examples = [
        example([(0, 1, "Q1"), (2, 3, "Q2")], [(0, 1, "Q1")]),  # 1, 1/2, 2/3
        example([(0, 1, "Q1")], [(0, 1, "Q2")]),  # 0, 0, 0
        example([], []),  # neither: 1, 1, 1
        example([], [(4, 5, "Q3")]),  # 0, 0, 0
        example([(4, 5, "NIL")], [(4, 5, "")]),  # no link with an id on either side: 1, 1, 1
    ]
    scores = scores_of(*examples)
    assert prf(scores, "macro") == pytest.approx((3 / 5, 2.5 / 5, (2 / 3 + 2) / 5))
    assert prf(scores, "micro") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert prf(scores, "nil") == (1, 1, 1)


@pytest.mark.parametrize(
    ("gold", "predicted", "in_kb", "nil"),
    [  # what GERBIL's own test InKBClassBasedFMeasureCalculatorTest expects, with offsets; None where it gives no value
        ([], [], None, None),
        ([(0, 1, "Q1")], [], (0, 0, 0), None),
        ([], [(0, 1, "Q1")], (0, 0, 0), None),
        ([(0, 1, "Q1")], [(0, 1, "Q1")], (1, 1, 1), None),
        ([(0, 1, "NIL")], [], None, (0, 0, 0)),
        ([], [(0, 1, "NIL")], None, (0, 0, 0)),
        ([(0, 1, "NIL")], [(0, 1, "NIL")], None, (1, 1, 1)),
        ([(0, 1, "Q1"), (2, 3, "NIL"), (4, 5, "")], [(4, 5, "NIL"), (2, 3, ""), (0, 1, "Q1")], (1, 1, 1), (1, 1, 1)),
        ([(0, 1, "Q1"), (2, 3, "NIL")], [(0, 1, "Q1"), (2, 3, "Q2"), (4, 5, "Q3")], (1 / 3, 1, 1 / 2), (0, 0, 0)),
    ],
)
def test_in_kb_and_nil(gold: Spans, predicted: Spans, in_kb: Any, nil: Any) -> None:
    scores = scores_of(example(gold, predicted))
    assert prf(scores, "micro") == pytest.approx(in_kb or (None, None, None))
    assert prf(scores, "nil") == pytest.approx(nil or (None, None, None))


@pytest.mark.parametrize(
    ("gold", "predicted", "spacys", "right"),
    [
        # A link of a span that is no gold entity does not exist for spaCy.
        ([(0, 1, "Q1")], [(0, 1, "Q1"), (4, 5, "Q2")], (1, 1, 1), (1 / 2, 1, 2 / 3)),
        # Nor does a gold link whose entity is not found …
        ([(0, 1, "Q1"), (4, 5, "Q2")], [(0, 1, "Q1")], (1, 1, 1), (1, 1 / 2, 2 / 3)),
        # … or is found in two parts, which counts as one miss and two false links.
        ([(0, 1, "Q1"), (4, 6, "Q2")], [(0, 1, "Q1"), (4, 5, "Q2"), (5, 6, "Q2")], (1, 1, 1), (1 / 3, 1 / 2, 2 / 5)),
        # An entity without a link on either side is a right link for spaCy.
        ([(0, 1, "Q1"), (2, 3, "")], [(0, 1, "Q2"), (2, 3, "")], (1 / 2, 1 / 2, 1 / 2), (0, 0, 0)),
        ([(0, 1, "Q1"), (2, 3, "")], [(0, 1, "Q1"), (2, 3, "NIL")], (1, 1 / 2, 2 / 3), (1, 1, 1)),
        # A gold mention that is NIL under its other name makes a wrong link a miss, too.
        ([(0, 1, "Q1"), (2, 3, "")], [(0, 1, "Q1"), (2, 3, "Q2")], (1 / 2, 1 / 2, 1 / 2), (1 / 2, 1, 2 / 3)),
        # Where all gold entities are predicted, no others, and NIL is written "NIL", both agree.
        ([(0, 1, "Q1"), (2, 3, "NIL"), (4, 5, "Q3")], [(0, 1, "Q1"), (2, 3, "Q2"), (4, 5, "NIL")], (1 / 2,) * 3, (1 / 2,) * 3),
    ],
)
def test_where_spacy_is_wrong(gold: Spans, predicted: Spans, spacys: Any, right: Any) -> None:
    eg = example(gold, predicted)
    assert spacy_micro(eg) == pytest.approx(spacys)
    assert prf(scores_of(eg), "micro") == pytest.approx(right)


def test_spacy_averages_over_labels_and_gerbil_over_documents() -> None:
    one = example([(0, 1, "Q1")], [(0, 1, "Q1")], label="A")
    other = Example(doc_of([(0, 1, "Q2")]), doc_of([(0, 1, "Q3")]))
    third = Example(doc_of([(0, 1, "Q2")]), doc_of([(0, 1, "Q3")]))
    assert Scorer.score_links([one, other, third], negative_labels=["NIL"])["nel_macro_f"] == pytest.approx(1 / 2)
    assert scores_of(one, other, third)["linking_macro_f"] == pytest.approx(1 / 3)


def reference_counts(gold: Sequence[Link], predicted: Sequence[Link], *, weak: bool) -> tuple[int, int, int]:
    """True positives, false positives and false negatives as MatchingsCounterImpl counts them, over lists."""
    used = [False] * len(predicted)
    n_found = 0
    for start, end, entity in gold:
        for i, (first, last, other) in enumerate(predicted):
            overlaps = (start <= first < end or first < start < last) if weak else (start, end) == (first, last)
            if not used[i] and overlaps and entity == other:
                used[i] = True
                n_found += 1
                break
    return n_found, used.count(False), len(gold) - n_found


def reference_measures(counts: tuple[int, int, int]) -> tuple[float, float, float]:
    right, wrong, missed = counts
    if right == 0:
        return (0.0, 0.0, 0.0) if wrong or missed else (1.0, 1.0, 1.0)
    precision, recall = right / (right + wrong), right / (right + missed)
    return precision, recall, 2 * precision * recall / (precision + recall)


offsets = st.tuples(st.integers(0, 8), st.integers(1, 4)).map(lambda pair: (pair[0], sum(pair)))
link = st.tuples(offsets, st.sampled_from(["Q1", "Q2"])).map(lambda pair: (*pair[0], pair[1]))
document = st.tuples(st.frozensets(link, max_size=8), st.frozensets(link, max_size=8))


@given(st.lists(document, max_size=4), st.booleans())
def test_equals_gerbil_on_random_links(documents: list[tuple[frozenset[Link], frozenset[Link]]], weak: bool) -> None:
    found = score_links([gold for gold, _ in documents], [predicted for _, predicted in documents], weak=weak)
    counts = [reference_counts(sorted(gold), sorted(predicted), weak=weak) for gold, predicted in documents]
    if not any(map(any, counts)):
        assert found is None
        return
    assert found is not None
    total = tuple(map(sum, zip(*counts, strict=True)))
    assert found.micro[:3] == pytest.approx(reference_measures(total))  # type: ignore[arg-type]
    each = list(zip(*map(reference_measures, counts), strict=True))
    assert found.macro[:3] == pytest.approx([sum(values) / len(counts) for values in each])
    assert found.micro.n_gold == found.macro.n_gold == sum(len(gold) for gold, _ in documents)


@given(st.lists(document, min_size=1, max_size=3))
def test_weak_is_at_least_strong_and_both_are_symmetric(documents: list[tuple[frozenset[Link], frozenset[Link]]]) -> None:
    gold, predicted = zip(*documents, strict=True)
    strong, weak = (score_links(gold, predicted, weak=weak) for weak in (False, True))
    if strong is None or weak is None:
        assert strong is weak is None
        return
    assert weak.micro.f1 >= strong.micro.f1
    swapped = score_links(predicted, gold)
    assert swapped is not None
    assert (swapped.micro.precision, swapped.micro.recall) == (strong.micro.recall, strong.micro.precision)


def test_each_prediction_matches_one_gold_link_at_most() -> None:
    """One wide span over two gold mentions of one entity, and two narrow ones in one gold mention."""
    wide = score_links([{(0, 2, "Q1"), (3, 5, "Q1")}], [{(0, 5, "Q1")}], weak=True)
    narrow = score_links([{(0, 5, "Q1")}], [{(0, 2, "Q1"), (3, 5, "Q1")}], weak=True)
    assert wide is not None
    assert narrow is not None
    assert (wide.micro.precision, wide.micro.recall) == (1, 1 / 2)
    assert (narrow.micro.precision, narrow.micro.recall) == (1 / 2, 1)


def test_touching_spans_do_not_overlap() -> None:
    scores = scores_of(example([(0, 2, "Q1")], [(2, 3, "Q1")]))
    assert prf(scores, "weak_micro") == (0, 0, 0)


def test_nested_spans_and_duplicates() -> None:
    gold = doc_of([(0, 3, "Q1"), (0, 1, "Q2"), (0, 1, "Q3")], annotate="spans")
    predicted = doc_of([(0, 3, "Q1"), (0, 1, "Q3")], annotate="spans")
    twice = predicted.spans["sc"]
    predicted.spans["sc"] = [*twice, Span(predicted, 0, 3, label="Y", kb_id="Q1")]  # the same link under another type
    scores = scores_of(Example(predicted, gold), annotate="spans")
    assert prf(scores, "micro") == pytest.approx((1, 2 / 3, 4 / 5))
    assert scores["linking_mentions_r"] == 1


def test_ids_that_the_knowledge_base_does_not_have_are_nil() -> None:
    eg = example([(0, 1, "Q1"), (2, 3, "Q2"), (4, 5, "Q9")], [(0, 1, "Q1"), (2, 3, "Q8"), (4, 5, "Q7")])
    assert prf(scores_of(eg), "micro") == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    scores = scores_of(eg, kb={"Q1", "Q2"})
    assert prf(scores, "micro") == pytest.approx((1, 1 / 2, 2 / 3))
    assert prf(scores, "nil") == pytest.approx((1 / 2, 1, 2 / 3))
    assert scores["linking_acc"] == pytest.approx(2 / 3)
    assert scores["linking_inkb_acc"] == 1 / 2


def test_other_tokenization_and_spacing() -> None:
    reference = Doc(VOCAB, words=["Ada", "Byron", "'s", "dog"], spaces=[True, False, True, False])
    reference.set_ents([Span(reference, 0, 2, label="X", kb_id="Q1")])
    predicted = Doc(VOCAB, words=["Ada", " ", "Byron's", "dog"], spaces=[True, False, True, False])
    predicted.set_ents([Span(predicted, 0, 3, label="X", kb_id="Q1")])
    scores = scores_of(Example(predicted, reference))
    assert prf(scores, "micro") == (0, 0, 0)
    assert prf(scores, "weak_micro") == (1, 1, 1)
    predicted.set_ents([Span(predicted, 3, 4, label="X", kb_id="Q1")])
    reference.set_ents([Span(reference, 3, 4, label="X", kb_id="Q1")])
    assert prf(scores_of(Example(predicted, reference)), "micro") == (1, 1, 1)


def test_what_is_not_annotated_is_not_scored() -> None:
    reference = doc_of([(4, 5, "Q1")])
    reference.set_ents(list(reference.ents), missing=[reference[0:3], reference[8:20]])
    predicted = doc_of([(0, 1, "Q2"), (2, 4, "Q2"), (4, 5, "Q1"), (6, 7, "Q3"), (9, 12, "Q2")])
    assert prf(scores_of(Example(predicted, reference)), "micro") == (1 / 2, 1, 2 / 3)
    unannotated = Doc(VOCAB, words=WORDS)
    assert set(scores_of(Example(predicted, unannotated)).values()) == {None}
    with_group = doc_of([(0, 1, "Q2")], annotate="spans")  # a reference that has the group alone is annotated everywhere
    scores = scores_of(Example(doc_of([(0, 1, "Q2"), (4, 5, "Q1")], annotate="spans"), with_group), annotate="spans")
    assert prf(scores, "micro") == (1 / 2, 1, 2 / 3)


def test_optional_annotations_may_be_found_and_need_not_be() -> None:
    reference = doc_of([(0, 1, "Q1")])
    reference.spans["optional"] = [Span(reference, 4, 5, kb_id="Q2"), Span(reference, 6, 7, kb_id="NIL")]
    both = doc_of([(0, 1, "Q1"), (4, 5, "Q2"), (6, 7, "")])
    for predicted in (doc_of([(0, 1, "Q1")]), both):
        scores = scores_of(Example(predicted, reference))
        assert prf(scores, "micro") == (1, 1, 1)
        assert prf(scores, "nil") == (None, None, None)
    wrong = scores_of(Example(doc_of([(0, 1, "Q1"), (4, 5, "Q3"), (6, 7, "Q4")]), reference))
    assert prf(wrong, "micro") == (1 / 3, 1, 1 / 2)


def test_candidates() -> None:
    register_candidates()
    gold = [(0, 1, "Q1"), (2, 3, "Q2"), (4, 5, "Q3"), (6, 7, "NIL"), (8, 9, "Q4"), (10, 11, "Q5")]
    eg = example(gold, [(0, 1, "Q1"), (2, 3, "Q9"), (4, 5, ""), (6, 7, "Q9"), (8, 10, "Q4"), (10, 11, "")])
    lists = [[("Q1", 0.9)], [("Q7", 0.1), ("Q2", 0.3), ("Q9", 0.5)], [("Q8", 0.4), ("Q3", 0.4)], [("Q9", 1)], [("Q4", 1)], []]
    for span, candidates in zip(eg.predicted.ents, lists, strict=True):
        span._.kb_ents = candidates
    scores = scores_of(eg, recall_at=(1, 2, 64))
    # Of five gold links: Q1 first, Q2 second, Q3 behind another of its score; Q4 has no span of its own, Q5 no candidate.
    assert scores["linking_recall_at_1"] == 1 / 5
    assert scores["linking_recall_at_2"] == scores["linking_recall_at_64"] == scores["linking_ceiling"] == 3 / 5


def test_candidates_of_equal_offsets_are_one_list_and_survive_a_docbin() -> None:
    register_candidates()
    register_candidates()
    predicted = doc_of([(0, 1, "Q1")])
    predicted.spans["sc"] = [Span(predicted, 0, 1, label="Y", kb_id="Q1")]
    predicted.ents[0]._.kb_ents = [("Q2", 1.0), ("Q1", 0.5), ("Q2", 0.1)]
    (copy,) = DocBin().from_bytes(DocBin(docs=[predicted], store_user_data=True).to_bytes()).get_docs(VOCAB)
    for annotate in ("ents", "spans"):
        scores = scores_of(Example(copy, doc_of([(0, 1, "Q1")], annotate=annotate)), annotate=annotate)
        assert (scores["linking_recall_at_1"], scores["linking_recall_at_4"]) == (0, 1)


def test_recall_needs_candidates() -> None:
    eg = example([(0, 1, "Q1")], [(0, 1, "Q1")])
    assert scores_of(eg)["linking_ceiling"] is None
    register_candidates()
    assert scores_of(eg)["linking_ceiling"] is None
    assert not eg.predicted.user_data  # looking for candidates writes none
    eg.predicted.ents[0]._.kb_ents = []
    assert scores_of(eg)["linking_ceiling"] == 0
    other = example([(0, 1, "Q2"), (2, 3, "Q2")], [(0, 1, "Q2")])  # a document without candidates misses all of its links
    other.predicted.ents[0]._.kb_ents = [("Q2", 1.0)]
    assert scores_of(eg, other, example([(0, 1, "Q3")], []))["linking_ceiling"] == 1 / 4


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1)), max_size=12), st.sampled_from("abcdef"))
def test_recall_grows_with_k_up_to_the_ceiling(candidates: list[tuple[str, float]], gold: str) -> None:
    register_candidates()
    eg = example([(0, 1, gold)], [(0, 1, "x")])
    eg.predicted.ents[0]._.kb_ents = candidates
    scores = scores_of(eg, recall_at=range(1, 8))
    values = [scores[f"linking_recall_at_{k}"] for k in range(1, 8)]
    assert values == sorted(values)
    assert values[-1] == scores["linking_ceiling"] == (gold in dict(candidates))
    best = max(score for _, score in candidates) if candidates else 0
    if [entity for entity, score in candidates if score == best] == [gold]:
        assert values[0] == 1


@pytest.mark.parametrize(
    "candidates",
    [["Q1"], [("Q1",)], [("Q1", None)], [("Q1", math.nan)], [("Q1", math.inf)], [(1, 0.5)], [("Q1", 0.5, 1)], 7, [None]],
)
def test_candidates_without_scores(candidates: Any) -> None:
    register_candidates()
    eg = example([(0, 1, "Q1")], [(0, 1, "Q1")])
    eg.predicted.ents[0]._.kb_ents = candidates
    with pytest.raises(InputError, match=r"\[E560\] span\._\.kb_ents of 'w0' holds .*expected pairs"):
        scores_of(eg)


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match=r"\[E306\]"):
        scores_of(annotate="all")
    with pytest.raises(ConfigError, match=r"\[E561\] .*recall at 4, 0 candidates"):
        scores_of(recall_at=(4, 0))


def test_other_texts() -> None:
    eg = Example(doc_of([(0, 1, "Q1")]), doc_of([(0, 1, "Q1")], words=["v0", *WORDS[1:]]))
    with pytest.raises(InputError, match=r"\[E305\]"):
        scores_of(eg)


def test_nothing_to_score() -> None:
    assert set(scores_of().values()) == {None}
    empty = Example(Doc(VOCAB), Doc(VOCAB))
    assert set(scores_of(empty).values()) == {None}


def test_order_of_the_spans_does_not_matter() -> None:
    gold = [(i, i + 1, f"Q{i % 3}") for i in range(0, 18, 2)]
    predicted = [(i, i + 2, f"Q{i % 3}") for i in range(0, 18, 2)]
    expected = scores_of(example(gold, predicted, annotate="spans"), annotate="spans")
    for seed in range(3):
        random.Random(seed).shuffle(gold)
        random.Random(seed + 9).shuffle(predicted)
        assert scores_of(example(gold, predicted, annotate="spans"), annotate="spans") == expected


def test_registered() -> None:
    assert registry.scorers.get("entitykit.linking_scorer.v1")() is linking_score
