"""The typed head: equal to its formula, fed by the probe, trained inside `entitykit_ner`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from torch import Tensor

from entitykit.bridge.architectures import encoder_listener, typed_tommer
from entitykit.errors import ConfigError
from entitykit.models.typed_tommer import TypedToMMeR, build_typed_tommer
from entitykit.types import TOP, EntityTokens, MentionOutput, Spans, WordStates
from tests.pipelines import OURS, annotations, encoder_config, make_example, make_examples, scores, train

WIDTH = 6
LENGTHS = (4, 0, 5)
PROBE: dict[str, Any] = {"probe_layer": 1, "rank": 3, "window": 3}
SETTINGS = PROBE | {"width": WIDTH, "labels": ["A", "B"], "layer": 2, "hidden": 5}
NOTHING = Spans(*(torch.zeros(0, dtype=torch.long),) * 2)


def make_head(**settings: Any) -> TypedToMMeR:
    return build_typed_tommer(SETTINGS | settings).eval()


def make_states() -> WordStates:
    return WordStates({layer: torch.randn(sum(LENGTHS), WIDTH) for layer in (1, 2, TOP)}, LENGTHS)


@torch.no_grad()
def test_equals_the_formula() -> None:
    """Also after learning, when the vector of "no entity" is no longer zero."""
    head = make_head()
    head.none += torch.randn(1, 5)
    states = make_states()
    output = head(states, Spans(torch.tensor([0, 4, 6]), torch.tensor([4, 5, 9])))
    weights = {name: value.double() for name, value in head.named_parameters()}
    words = states.layers[2].double()
    assert len(output.spans.starts) >= 3
    for start, end, logits in zip(output.spans.starts.tolist(), output.spans.ends.tolist(), output.logits, strict=True):
        ends = torch.cat([words[start], words[end - 1]])
        x = weights["inner.weight"] @ ends + weights["inner.bias"]
        x = weights["outer.weight"] @ (x / (1 + torch.exp(-x))) + weights["outer.bias"]
        expected = [float(x @ weights["none"][0]), *(float(x @ vector) for vector in weights["types"])]
        assert logits.tolist() == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_no_entity_begins_at_zero() -> None:
    output = make_head(threshold=0.0)(make_states(), NOTHING)
    assert len(output.logits)
    assert not output.logits[:, 0].any()
    assert output.logits[:, 1:].all()


@torch.no_grad()
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("proposals", [0.5, 1.0, 9.0])
def test_candidates_are_mentions_and_given_spans(threshold: float, proposals: float) -> None:
    """What the probe says with at least the threshold, the best of it for each document, and what was given."""
    head, states = make_head(threshold=threshold, proposals=proposals), make_states()
    given = {(0, 3), (5, 6)}
    output = head(states, Spans(torch.tensor([0, 5]), torch.tensor([3, 6])))
    expected = set(given)
    mentions = head.probe(states)
    first = 0
    for length in LENGTHS:
        cells = [(i, k) for i in range(first, first + length) for k in range(4) if i - k >= first]
        best = sorted(cells, key=lambda cell: -float(mentions.band[cell]))[: int(torch.tensor(length * proposals).ceil())]
        expected |= {(i - k, i + 1) for i, k in best if torch.sigmoid(mentions.band[i, k]) >= threshold}
        first += length
    assert set(zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True)) == expected


@torch.no_grad()
def test_encoder_that_proposes() -> None:
    """Its probe and its proposals take the place of the head's own."""
    head, states = make_head(probe_layer=None), make_states()
    proposed = Spans(torch.tensor([1, 5]), torch.tensor([3, 6]))
    mentions = MentionOutput(torch.zeros(sum(LENGTHS), 4), torch.ones(sum(LENGTHS), 4, dtype=torch.bool))
    states = states._replace(entities=EntityTokens(proposed, torch.randn(2, WIDTH)), mentions=mentions)
    output = head(states, Spans(torch.tensor([0]), torch.tensor([2])))
    assert list(zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True)) == [(0, 2), (1, 3), (5, 6)]
    assert output.mentions is mentions
    with pytest.raises(ConfigError, match="E113"):
        head(make_states(), NOTHING)


def test_loss_is_that_of_both_parts() -> None:
    output = make_head()(make_states(), Spans(torch.tensor([0]), torch.tensor([2])))
    classes = torch.arange(len(output.logits)) % 3
    classes[-1] = -100
    is_mention = torch.zeros_like(output.mentions.valid)  # type: ignore[union-attr]
    is_mention[1, 1] = True
    known = torch.ones(sum(LENGTHS), dtype=torch.bool)

    def loss(weight: float) -> Tensor:
        return make_head(probe_weight=weight).loss(output, classes, is_mention, known)

    log_p = torch.log_softmax(output.logits, dim=1)
    typed = -torch.stack([log_p[i, c] for i, c in enumerate(classes.tolist()) if c >= 0]).mean()
    torch.testing.assert_close(loss(0.0), typed)
    torch.testing.assert_close(loss(2.0) - loss(1.0), loss(1.0) - loss(0.0))
    assert loss(1.0) > loss(0.0)


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_threshold_out_of_range(threshold: float) -> None:
    with pytest.raises(ConfigError, match="E109.*threshold"):
        typed_tommer(encoder_listener(), threshold=threshold)


def make_pipeline(path: Path, annotate: str) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(path))
    model = {"@architectures": "entitykit.TypedToMMeR.v1", "tok2vec": OURS, **PROBE, "window": 5, "hidden": 32}
    nlp.add_pipe("entitykit_ner", name="typed", config={"model": model, "annotate": annotate})
    return nlp


@pytest.mark.parametrize(("annotate", "score"), [("ents", "ents_f"), ("spans", "spans_sc_f")])
def test_learns_in_the_ner_component(tiny_bert: Path, tmp_path: Path, annotate: str, score: str) -> None:
    """A handful of sentences by heart, known again after loading; batches and empty documents make no difference."""
    nlp = make_pipeline(tiny_bert, annotate)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    train(nlp, [*examples, make_example(nlp, "", [])], 60)
    assert nlp.evaluate(examples)[score] == 1.0
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    texts = ["", " ", *(eg.text for eg in examples)]
    for text, doc in zip(texts, loaded.pipe(texts), strict=True):
        assert annotations(doc) == annotations(nlp(text))
        for key, values in scores(nlp(text)).items():
            assert scores(doc)[key] == pytest.approx(values, abs=1e-5)
