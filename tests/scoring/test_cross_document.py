"""The scorer of coreference across documents, by hand and against the scorer of one document."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import InputError
from entitykit.scoring.coref_metrics import score_clusters
from entitykit.scoring.cross_document import cross_document_score, make_cross_document_scorer

VOCAB = Vocab()


def make(gold: Mapping[str, Sequence[int]] | None, predicted: Mapping[str, Sequence[int]], topic: str = "t") -> Example:
    """Documents of ten words; mentions are single words, by id of their cluster."""
    words = [f"w{i}" for i in range(10)]
    reference, found = Doc(VOCAB, words=words), Doc(VOCAB, words=words)
    if gold is not None:
        for i, places in enumerate(gold.values(), start=1):
            reference.spans[f"coref_clusters_{i}"] = [Span(reference, place, place + 1) for place in places]
        if not gold:
            reference.spans["coref_clusters_1"] = []
        reference.user_data["coref_ids"] = list(gold)
    reference.user_data["topic"] = topic
    found.spans["cross_document"] = [Span(found, p, p + 1, span_id=id_) for id_, places in predicted.items() for p in places]
    return Example(found, reference)


def test_by_hand() -> None:
    """Gold {a0, b0, c0}, {a5}; predicted {a0, b0}, {c0}, {a5}."""
    examples = [
        make({"A": [0], "B": [5]}, {"x": [0], "z": [5]}),
        make({"A": [0]}, {"x": [0]}),
        make({"A": [0]}, {"y": [0]}),
    ]
    scores = cross_document_score(examples)
    assert (scores["cross_document_muc_r"], scores["cross_document_muc_p"]) == (0.5, 1.0)
    assert scores["cross_document_b3_r"] == pytest.approx((2 * 2 / 3 + 1 / 3 + 1) / 4)
    assert scores["cross_document_b3_p"] == 1.0
    phi = 2 * 2 / 5 + 1
    assert scores["cross_document_ceafe_r"] == pytest.approx(phi / 2)
    assert scores["cross_document_ceafe_p"] == pytest.approx(phi / 3)
    f1 = [scores[f"cross_document_{name}_f"] for name in ("muc", "b3", "ceafe")]
    assert scores["cross_document_conll_f"] == pytest.approx(sum(f1) / 3)  # type: ignore[arg-type]
    assert scores["cross_document_mentions_f"] == 1.0
    without = cross_document_score(examples)["cross_document_no_singletons_mentions_r"]
    assert without == pytest.approx(2 / 3)


PARTS = st.lists(st.integers(0, 3), min_size=10, max_size=10)


@given(st.lists(st.tuples(PARTS, PARTS), min_size=1, max_size=3))
def test_all_documents_are_as_one(documents: list[tuple[list[int], list[int]]]) -> None:
    """A corpus scores as one long document with the same clusters; by topics of one document, as the documents."""

    def clusters(labels: list[int]) -> dict[str, list[int]]:
        return {str(label): [i for i, own in enumerate(labels) if own == label] for label in dict.fromkeys(labels)}

    examples = [make(clusters(a), clusters(b), topic=str(i)) for i, (a, b) in enumerate(documents)]
    sides: list[dict[str, set[tuple[int, int]]]] = [{}, {}]
    for number, pair in enumerate(documents):
        for side, labels in zip(sides, pair, strict=True):
            for place, label in enumerate(labels):
                side.setdefault(str(label), set()).add((number, place))
    expected = score_clusters([list(sides[0].values())], [list(sides[1].values())])
    assert expected is not None
    found = cross_document_score(examples)
    assert found["cross_document_conll_f"] == pytest.approx(expected.conll_f1)
    assert found["cross_document_lea_f"] == pytest.approx(expected.lea.f1)
    apart = score_clusters(*([list(clusters(pair[side]).values()) for pair in documents] for side in (0, 1)))
    assert apart is not None
    found = cross_document_score(examples, by="topic")
    assert found["cross_document_conll_f"] == pytest.approx(apart.conll_f1)


def test_what_is_not_annotated_is_skipped() -> None:
    scored = make({"A": [0, 1]}, {"x": [0, 1]})
    assert cross_document_score([scored, make(None, {"x": [3]})])["cross_document_conll_f"] == 1.0
    assert cross_document_score([scored, make({}, {"x": [3]})])["cross_document_mentions_p"] == pytest.approx(2 / 3)
    assert cross_document_score([make(None, {"x": [3]})])["cross_document_conll_f"] is None


def test_mentions_without_ids_are_alone() -> None:
    example = make({"A": [0, 1]}, {"": [0, 1]})
    assert cross_document_score([example])["cross_document_muc_r"] == 0.0
    local = make({"A": [0]}, {"x": [0]})
    del local.reference.user_data["coref_ids"]
    other = make({"A": [0]}, {"y": [0]})
    del other.reference.user_data["coref_ids"]
    assert cross_document_score([local, other])["cross_document_conll_f"] == pytest.approx(2 / 3)  # no links, the rest right


def test_references_that_cannot_be_scored() -> None:
    example = make({"A": [0], "B": [1]}, {})
    example.reference.user_data["coref_ids"] = ["A"]
    with pytest.raises(InputError, match=r"E638.*1 ids.*expected 2"):
        cross_document_score([example])
    with pytest.raises(InputError, match="E638.*no 'genre'"):
        cross_document_score([make({"A": [0]}, {})], by="genre")


def test_the_registered_scorer_can_be_saved() -> None:
    scorer = pickle.loads(pickle.dumps(make_cross_document_scorer(by="topic")))
    examples = [make({"A": [0]}, {"x": [0]}, topic="1"), make({"A": [0]}, {"y": [0]}, topic="2")]
    assert scorer(examples, spans_key="cross_document")["cross_document_b3_f"] == 1.0
    assert make_cross_document_scorer()(examples)["cross_document_b3_f"] < 1.0
