"""From span logits to entities: what is kept, how it is labelled and scored, and where it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc

from entitykit.components.ner import NER, THRESHOLDS, _sample
from entitykit.errors import ConfigError
from entitykit.models.ner import NEROutput
from entitykit.models.spans import all_spans
from entitykit.types import Spans
from tests.pipelines import SPERT, add_head, initialized, make_example, make_examples, make_pipeline, train

# Spans of two documents of five and three words, and their log-probabilities of none, X and Y.
SPANS = Spans(torch.tensor([0, 0, 1, 3, 5, 7]), torch.tensor([2, 4, 3, 5, 8, 8]))
PROBABILITIES = [
    [0.10, 0.85, 0.05],
    [0.20, 0.10, 0.70],
    [0.30, 0.60, 0.10],
    [0.60, 0.30, 0.10],
    [0.05, 0.05, 0.90],
    [0.40, 0.10, 0.50],
]
VOCAB = spacy.blank("xx").vocab
DOCS = [Doc(VOCAB, words=["word"] * n) for n in (5, 0, 3)]


def make_component(kind: str = "span_ner", *, labels: tuple[str, ...] = ("X", "Y"), **settings: Any) -> NER:
    nlp = spacy.blank("xx")
    add_head(nlp, kind, **settings)
    component = nlp.get_pipe(kind)
    component.cfg["labels"] = list(labels)
    return component


def decode(component: NER, key: str) -> list[list[tuple[int, int, str, float]]]:
    output = NEROutput(SPANS, torch.tensor(PROBABILITIES).log() + 7)  # logits are known up to a constant
    predictions = [prediction[key] for prediction in component.decode(output, DOCS)]
    return [
        list(zip(p.starts.tolist(), p.ends.tolist(), p.labels, np.round(p.scores, 5).tolist(), strict=True))
        for p in predictions
    ]


def test_flat() -> None:
    """Of spans that overlap the surer one, where sure is how much likelier it is than nothing."""
    expected = [[(0, 2, "X", 0.85)], [], [(0, 3, "Y", 0.9)]]
    assert decode(make_component(), "ents") == [
        [(a, b, label, pytest.approx(p)) for a, b, label, p in spans] for spans in expected
    ]


def test_nested() -> None:
    expected = [[(0, 4, "Y", 0.7), (0, 2, "X", 0.85)], [], [(0, 3, "Y", 0.9), (2, 3, "Y", 0.5)]]
    assert decode(make_component("nested"), "sc") == [
        [(a, b, label, pytest.approx(p)) for a, b, label, p in spans] for spans in expected
    ]
    overlapping = decode(make_component("nested", decoder="overlapping"), "sc")
    assert [(a, b) for a, b, _, _ in overlapping[0]] == [(0, 4), (0, 2), (1, 3)]


def test_threshold() -> None:
    assert [[span[:2] for span in spans] for spans in decode(make_component("nested", threshold=0.8), "sc")] == [
        [(0, 2)],
        [],
        [(0, 3)],
    ]


@pytest.mark.parametrize(("space", "expected"), [("\n", [(0, 4), (0, 2)]), ("\n \n", [(0, 2)])])
def test_white_space(space: str, expected: list[tuple[int, int]]) -> None:
    """No entity ends in it, or reaches over a blank line."""
    docs = [Doc(VOCAB, words=words) for words in (["a", "b", space, "d", "e"], [], [" ", "a", "b"])]
    output = NEROutput(SPANS, torch.tensor(PROBABILITIES).log())
    found = [prediction["sc"] for prediction in make_component("nested").decode(output, docs)]
    assert [list(zip(p.starts.tolist(), p.ends.tolist(), strict=True)) for p in found] == [expected, [], [(2, 3)]]


def test_other_group() -> None:
    assert len(decode(make_component("nested", spans_key="mine"), "mine")[0]) == 2


def test_no_labels() -> None:
    output = NEROutput(SPANS, torch.zeros(6, 1))
    predictions = make_component(labels=()).decode(output, DOCS)
    assert [len(prediction["ents"].starts) for prediction in predictions] == [0, 0, 0]


def test_written_flat(tiny_bert: Path) -> None:
    """Entities of before are replaced; the same spans have scores."""
    nlp, examples = initialized(tiny_bert, "span_ner")
    train(nlp, examples, 40)
    doc = Doc(nlp.vocab, words=examples[0].text.split(), ents=["O", "O", "B-OLD", "O", "O", "O"])
    nlp(doc)
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("Mary Jones", "PERSON"), ("New York", "PLACE")]
    assert list(doc.spans["ents"]) == list(doc.ents)
    assert all(0.5 < score < 1 for score in doc.spans["ents"].attrs["scores"])
    assert "sc" not in doc.spans


@pytest.mark.parametrize("project", [True, False])
def test_written_nested(tiny_bert: Path, project: bool) -> None:
    nlp, examples = initialized(tiny_bert, "nested")
    nlp.get_pipe("nested").settings["project_ents"] = project
    train(nlp, examples, 60)
    doc = Doc(nlp.vocab, words=examples[1].text.split(), ents=["B-OLD", "O", "O", "O", "O", "O", "O"])
    nlp(doc)
    assert [span.text for span in doc.spans["sc"]] == ["The mayor of New York", "New York", "John"]
    assert len(doc.spans["sc"].attrs["scores"]) == 3
    assert [ent.text for ent in doc.ents] == (["The mayor of New York", "John"] if project else ["The"])


def test_sampled_negatives_stay_within_their_number() -> None:
    spans = all_spans([4, 0, 30, 1], 3, torch.device("cpu"))
    chosen = _sample(spans, [4, 0, 30, 1], 10)
    documents = [sum(low <= start < high for start in chosen.starts.tolist()) for low, high in ((0, 4), (4, 34), (34, 35))]
    assert documents == [9, 10, 1]
    pairs = set(zip(chosen.starts.tolist(), chosen.ends.tolist(), strict=True))
    assert len(pairs) == 20
    assert pairs <= set(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))


def test_candidates_of_spert_in_training(tiny_bert: Path) -> None:
    """Gold spans, however wide, and not more negatives than asked for."""
    nlp, _ = initialized(tiny_bert, "spert")
    component = nlp.get_pipe("spert")
    component.model.attrs["negatives"] = 3
    wide = make_example(nlp, "the old town hall of New York is here", [(0, 7, "PLACE")])
    spans = component.candidates([wide.x], [wide])
    pairs = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
    assert (0, 7) in pairs
    assert len(pairs) == 4
    everything = component.candidates([wide.x], None)
    assert len(everything.starts) == sum(9 - width + 1 for width in range(1, SPERT["max_width"] + 1))


def test_seen_surfaces_are_remembered(tiny_bert: Path) -> None:
    """The scorer tells entities that were met in training from others, also after loading."""
    nlp, _ = initialized(tiny_bert, "span_ner")
    loaded = make_pipeline(tiny_bert, "span_ner").from_bytes(nlp.to_bytes())
    for pipeline in (nlp, loaded):
        seen = pipeline.get_pipe("span_ner").scorer_arguments()["seen"]
        assert {surface.lower() for surface in seen} >= {"mary jones", "new york"}


def test_a_threshold_finds_what_is_less_probable_than_nothing() -> None:
    """Otherwise a label of which the model is less sure than of "no entity" could not be had at all."""
    found = decode(make_component("nested", decoder="overlapping", threshold=0.05), "sc")
    usual = decode(make_component("nested", decoder="overlapping"), "sc")
    assert sum(map(len, found)) > sum(map(len, usual))
    assert all(set(each) <= set(more) for each, more in zip(usual, found, strict=True))


def test_calibrate(tiny_bert: Path, tmp_path: Path) -> None:
    """The threshold is the best of all that are tried, is kept with the pipeline, and gives way to the setting."""
    nlp, examples = initialized(tiny_bert, "span_ner")
    train(nlp, examples, 12)
    pipe = nlp.get_pipe("span_ner")
    f1 = {}
    for threshold in THRESHOLDS:
        pipe.settings["threshold"] = threshold
        f1[threshold] = nlp.evaluate(make_examples(nlp))["ents_f"]
    pipe.settings["threshold"] = None
    before = nlp.evaluate(make_examples(nlp))["ents_f"]
    read = make_examples(nlp)
    for eg in read:
        eg.predicted = nlp(eg.predicted)
    found = pipe.calibrate(read)
    assert f1[found] == max(f1.values()) > min(f1.values())
    assert found == max(threshold for threshold in THRESHOLDS if f1[threshold] == f1[found])
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path)
    assert again.evaluate(make_examples(again))["ents_f"] == f1[found] >= before
    strict = spacy.load(tmp_path, config={"components.span_ner.threshold": 1.0})
    assert not any(doc.ents for doc in strict.pipe(eg.text for eg in examples))
    nlp.initialize(lambda: examples)
    assert "threshold" not in pipe.cfg


def test_calibrate_without_entities(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner")
    with pytest.raises(ConfigError, match="E106"):
        nlp.get_pipe("span_ner").calibrate([])
    assert "threshold" not in nlp.get_pipe("span_ner").cfg
