"""From the probe's band to mentions: by threshold or by rank, through the decoder, with probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc

from entitykit.components.base import SpanPrediction
from entitykit.components.mentions import Mentions
from entitykit.types import MentionOutput
from tests.pipelines import add_head

# Logits of two documents of four and two words; row i, column k is the span from i - k to i.
BAND = torch.tensor(
    [[3.0, 0, 0], [-1, 2.0, 0], [0.5, -2, 1.0], [-4, -300, -0.5], [1.5, 0, 0], [-3.0, -9.0, 0]],
)
VALID = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]], dtype=torch.bool)
VOCAB = spacy.blank("xx").vocab
DOCS = [Doc(VOCAB, words=["word"] * n) for n in (4, 0, 2)]


def make_component(**settings: Any) -> Mentions:
    nlp = spacy.blank("xx")
    add_head(nlp, "mentions", **settings)
    return nlp.get_pipe("mentions")


def decode(component: Mentions, group: str = "mentions") -> list[list[tuple[int, int, float]]]:
    """Each document's spans with their logits."""
    predictions = component.decode(MentionOutput(BAND, VALID), DOCS)

    def read(prediction: SpanPrediction) -> list[tuple[int, int, float]]:
        assert all(label == "" for label in prediction.labels)
        logits = [logit(p) for p in prediction.scores.tolist()]
        return list(zip(prediction.starts.tolist(), prediction.ends.tolist(), logits, strict=True))

    return [read(prediction[group]) for prediction in predictions]


def logit(probability: float) -> float:
    return round(math.log(probability / (1 - probability)), 3) if probability else -math.inf


def test_threshold() -> None:
    assert decode(make_component()) == [[(0, 3, 1.0), (0, 2, 2.0), (0, 1, 3.0), (2, 3, 0.5)], [], [(0, 1, 1.5)]]
    sigmoid_of_1 = 1 / (1 + math.exp(-1.0))
    assert decode(make_component(threshold=sigmoid_of_1 + 1e-4)) == [[(0, 2, 2.0), (0, 1, 3.0)], [], [(0, 1, 1.5)]]


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        ("overlapping", [(0, 3), (0, 2), (0, 1), (2, 3)]),
        ("greedy", [(0, 1), (2, 3)]),
        ("exact_flat", [(0, 1), (2, 3)]),
        ("greedy_nested", [(0, 3), (0, 2), (0, 1), (2, 3)]),
        ("exact_nested", [(0, 3), (0, 2), (0, 1), (2, 3)]),
    ],
)
def test_decoders(decoder: str, expected: list[tuple[int, int]]) -> None:
    assert [(start, end) for start, end, _ in decode(make_component(decoder=decoder))[0]] == expected


def test_rank() -> None:
    """The best half span per word, rounded up, whatever its probability."""
    assert decode(make_component(per_word=0.5)) == [[(0, 2, 2.0), (0, 1, 3.0)], [], [(0, 1, 1.5)]]
    everything = decode(make_component(per_word=100.0))
    assert [len(spans) for spans in everything] == [9, 0, 3]
    assert (2, 4, -math.inf) in everything[0]  # a probability of 0 without a warning of overflow
    assert decode(make_component(per_word=0.0)) == [[], [], []]


def test_white_space() -> None:
    """No mention begins or ends in it, or reaches over a blank line; where it is a word within, it does not matter."""
    component = make_component(decoder="overlapping")
    for words, expected in (
        (["a", " ", "c", "d"], [(0, 3), (0, 1), (2, 3)]),
        (["a", "\n\n", "c", "d"], [(0, 1), (2, 3)]),
        (["\n", "b", "c", "d"], [(2, 3)]),
    ):
        docs = [Doc(VOCAB, words=words), *DOCS[1:]]
        found = component.decode(MentionOutput(BAND, VALID), docs)[0]["mentions"]
        assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == expected


def test_ranked_candidates_beside_mentions() -> None:
    component = make_component(threshold=0.9, candidates=1.0)
    assert decode(component) == [[(0, 1, 3.0)], [], []]
    # by place, longer spans first
    assert decode(component, "mention_candidates") == [
        [(0, 3, 1.0), (0, 2, 2.0), (0, 1, 3.0), (2, 3, 0.5)],
        [],
        [(0, 1, 1.5), (1, 2, -3.0)],
    ]


def test_scores_are_single_precision_probabilities() -> None:
    prediction = make_component().decode(MentionOutput(BAND, VALID), DOCS)[0]["mentions"]
    assert prediction.scores.dtype == np.float32
    np.testing.assert_allclose(prediction.scores, 1 / (1 + np.exp(-np.array([1.0, 2.0, 3.0, 0.5]))), rtol=1e-6)
