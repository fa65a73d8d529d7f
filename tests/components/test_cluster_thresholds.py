"""Thresholds of clusters across documents, calibrated."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import ConfigError
from tests.components.test_cross_document import GROUP, ByVectors, by_entity, clusters, document, partition


def with_gold(docs: Iterable[Doc]) -> list[Example]:
    """Examples whose gold clusters are the labels of the mentions."""
    examples = []
    for doc in docs:
        gold = Doc(doc.vocab, words=[token.text for token in doc])
        for i, span in enumerate(doc.spans[GROUP], start=1):
            gold.spans[f"coref_clusters_{i}"] = [gold[span.start : span.end]]
        gold.user_data["coref_ids"] = [span.label_ for span in doc.spans[GROUP]]
        examples.append(Example(doc, gold))
    return examples


def test_thresholds_are_calibrated_and_saved() -> None:
    pipe = ByVectors()
    examples = with_gold(document(f"d{i}", [i, (i + 1) % 4], noise=0.25) for i in range(4))
    docs = [eg.predicted for eg in examples]
    found = pipe.calibrate(examples)
    left = clusters(docs)
    best = pipe.score(examples)["cross_document_conll_f"]
    assert clusters(docs) == left
    for threshold in pipe.thresholds:
        assert ByVectors(threshold=threshold, mean_threshold=threshold).score(examples)["cross_document_conll_f"] <= best
    assert pipe.cfg["threshold"] == found.threshold
    assert ByVectors(threshold=0.9).merging.threshold == 0.9
    pipe.settings["threshold"] = 0.123  # what the config says, counts
    assert (pipe.merging.threshold, pipe.merging.mean_threshold) == (0.123, found.mean_threshold)


def test_of_thresholds_that_are_equally_good_the_middle_ones_are_taken() -> None:
    """And one that the config has is left as it is."""
    examples = with_gold([document("a", [0, 1]), document("b", [0, 2])])  # clear at any threshold
    pipe = ByVectors()
    found = pipe.calibrate(examples)
    assert (found.threshold, found.mean_threshold) == (0.5, 0.5)
    assert partition(eg.predicted for eg in examples) == by_entity([eg.predicted for eg in examples])
    for given_value in ({"threshold": 0.0}, {"mean_threshold": 0.9}, {"threshold": 0.0, "mean_threshold": 0.9}):
        pipe = ByVectors(**given_value)
        found = pipe.calibrate(examples)
        assert {name: value for name, value in pipe.cfg.items() if name in given_value} == dict.fromkeys(given_value)
        assert {"threshold": found.threshold, "mean_threshold": found.mean_threshold}.items() >= given_value.items()
    before = [ByVectors(threshold=0.0).score(examples), ByVectors(threshold=0.5).score(examples)]
    assert before[0] != before[1]  # so that nothing but 0 was tried there


def test_nothing_to_calibrate_by() -> None:
    examples = with_gold([document("a", [0, 1]), document("b", [0, 2])])
    docs = [eg.predicted for eg in examples]
    without = [Example(doc, Doc(doc.vocab, words=[token.text for token in doc])) for doc in docs]
    for given_examples, changed, reason in (
        ([], {}, "no two mentions"),
        (with_gold([document("a", [0])]), {}, "no two mentions"),
        (examples, {"least": 1.0}, "no two mentions"),
        (without, {}, "nothing to score"),
    ):
        pipe = ByVectors(**changed)
        with pytest.raises(ConfigError, match=f"E637.*{reason}"):
            pipe.calibrate(given_examples)
        assert pipe.cfg == {"threshold": None, "mean_threshold": None}
