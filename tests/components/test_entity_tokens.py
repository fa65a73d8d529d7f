"""Entity tokens in pipelines: one pass serves all heads, the encoder's own probe learns, and every span is accounted for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.types import ENTITIES, MENTIONS, TOP
from tests.pipelines import (
    LUKE,
    PROPOSING,
    READING,
    SENTENCES,
    annotations,
    counted_passes,
    encoder_module,
    encoder_weights,
    fast_optimizer,
    finish,
    initialized,
    make_example,
    make_pipeline,
    train,
)

HEADS = ("mentions", "span_ner")
FORMS = {"reading": READING, "LUKE": LUKE}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, Any]:
    return FORMS[request.param]


def entity_states(doc: Doc) -> Any:
    return doc._.trf_data.model_output["entity_states"][0]


def entity_spans(doc: Doc) -> list[tuple[int, int]]:
    return [tuple(span) for span in doc._.trf_data.model_output["entity_spans"][0].tolist()]


def test_one_pass_each_way(tiny_bert: Path, form: dict[str, Any]) -> None:
    nlp, examples = initialized(tiny_bert, *HEADS, encoder=form)
    before = encoder_weights(nlp)
    with counted_passes(nlp) as passes:
        nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
        finish(nlp, fast_optimizer())
    assert (passes.forward, passes.backward) == (1, 1)
    assert not torch.equal(encoder_weights(nlp), before)


def test_heads_have_no_probe_of_their_own(tiny_bert: Path, form: dict[str, Any]) -> None:
    nlp, _ = initialized(tiny_bert, *HEADS, encoder=form)
    assert nlp.get_pipe("span_ner").head.probe is None  # type: ignore[attr-defined]
    assert not list(nlp.get_pipe("mentions").head.parameters())  # type: ignore[attr-defined]
    assert encoder_module(nlp).probe is not None


@pytest.mark.parametrize("head", HEADS)
def test_each_head_teaches_the_probe_and_the_tokens(tiny_bert: Path, form: dict[str, Any], head: str) -> None:
    nlp, examples = initialized(tiny_bert, head, encoder=form)
    module = encoder_module(nlp)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    train(
        nlp, examples, 2
    )  # the projection of a span's states begins at 0, and what is behind it learns from the second step on
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert {"probe.query.weight", "probe.theta"} <= moved
    of_tokens = {name for name in before if name.startswith("entities.") or ".of_" in name}
    if head == "span_ner":
        assert of_tokens <= moved
    else:
        assert not of_tokens & moved


def test_the_same_mentions_for_both_heads(tiny_bert: Path) -> None:
    """`mentions` decodes the encoder's scores: together or alone it finds the same."""
    nlp, examples = initialized(tiny_bert, *HEADS, encoder=READING)
    train(nlp, examples, 30)
    assert nlp.evaluate([make_example(nlp, text, spans) for text, spans in SENTENCES])["mentions_r"] > 0.8
    expected = annotations(nlp(SENTENCES[1][0]))["groups"]["mentions"]
    with nlp.select_pipes(disable=["span_ner"]):
        assert annotations(nlp(SENTENCES[1][0]))["groups"]["mentions"] == expected


@contextmanager
def counted_layers(nlp: Language) -> Iterator[Counter[int]]:
    """How often each layer of the encoder runs."""
    module, runs = nlp.get_pipe("entitykit_encoder").model.shims[0].module, Counter[int]()  # type: ignore[attr-defined]
    hooks = [
        layer.attention_norm.register_forward_hook(lambda *_, i=i: runs.update([i])) for i, layer in enumerate(module.layers)
    ]
    yield runs
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("form", [PROPOSING, READING, LUKE], ids=["pooled", "reading", "luke"])
def test_nothing_is_run_that_nobody_reads(tiny_bert: Path, form: dict[str, Any]) -> None:
    """Mentions alone need the layers up to that in which the probe looks, and no token, in training, too."""
    nlp, examples = initialized(tiny_bert, "mentions", encoder=form)
    below = form["entities"]["inject_layer"]
    with counted_layers(nlp) as runs:
        train(nlp, examples, 2)
        doc = nlp(SENTENCES[0][0])
        assert nlp.evaluate(examples)["mentions_r"] is not None
    assert set(runs) == set(range(below))
    encoder = nlp.get_pipe("entitykit_encoder")
    assert encoder.model.attrs["layers"] == [MENTIONS]  # type: ignore[attr-defined]
    assert doc._.coverage["entities"] == 0
    alone = encoder.predict([doc]).states.mentions.band  # type: ignore[attr-defined]
    encoder.model.attrs["layers"] = [TOP, MENTIONS]  # type: ignore[attr-defined]
    assert torch.equal(encoder.model.predict([doc]).states.mentions.band, alone)  # type: ignore[attr-defined]


def test_tokens_are_not_made_for_heads_that_read_words(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "spert", encoder=READING)
    assert ENTITIES not in nlp.get_pipe("entitykit_encoder").model.attrs["layers"]  # type: ignore[attr-defined]


def test_gold_spans_have_tokens_in_training(tiny_bert: Path) -> None:
    """Without proposals, the head is taught by the gold spans alone."""
    none = {"entities": READING["entities"] | {"proposals": 0.0}}
    nlp, examples = initialized(tiny_bert, "span_ner", encoder=none)
    assert train(nlp, examples, 20)[-1]["span_ner"] < 5
    assert not nlp(SENTENCES[0][0]).ents  # and nothing is proposed
    assert nlp(SENTENCES[0][0])._.coverage["entities"] == 0


def given_pipeline(checkpoint: Path, form: dict[str, Any]) -> Language:
    nlp = make_pipeline(checkpoint, "span_ner", encoder=form)
    encoder = nlp.get_pipe("entitykit_encoder")
    encoder.given = ("ruler",)  # type: ignore[attr-defined]
    nlp.initialize(lambda: [make_example(nlp, text, spans) for text, spans in SENTENCES])
    return nlp


def with_group(nlp: Language, text: str, spans: list[tuple[int, int]]) -> Doc:
    doc = Doc(nlp.vocab, words=text.split())
    doc.spans["ruler"] = [Span(doc, start, end) for start, end in spans]
    return doc


def test_given_spans_have_tokens(tiny_bert: Path, form: dict[str, Any]) -> None:
    """Overlapping and repeated ones, one that holds the document, and thousands of them."""
    none = {"entities": form["entities"] | {"proposals": 0.0}}
    nlp = given_pipeline(tiny_bert, none)
    doc = nlp(with_group(nlp, SENTENCES[1][0], [(0, 7), (0, 5), (3, 5), (3, 5), (2, 6)]))
    assert entity_spans(doc) == [(0, 5), (0, 7), (2, 6), (3, 5)]
    assert doc._.coverage["entities"] == 4
    words = " ".join(["."] * 60)
    every = [(start, end) for start in range(60) for end in range(start + 1, 61)]
    doc = nlp(with_group(nlp, words, every))
    assert entity_spans(doc) == every


def test_a_given_span_does_not_disturb_the_others(tiny_bert: Path) -> None:
    nlp = given_pipeline(tiny_bert, READING)
    alone = nlp(with_group(nlp, SENTENCES[1][0], []))
    beside = nlp(with_group(nlp, SENTENCES[1][0], [(0, 7), (1, 6)]))
    states = dict(zip(entity_spans(beside), entity_states(beside), strict=True))
    for span, state in zip(entity_spans(alone), entity_states(alone), strict=True):
        torch.testing.assert_close(torch.from_numpy(states[span]), torch.from_numpy(state), rtol=0, atol=1e-5)


def test_spans_across_windows(tiny_bert: Path) -> None:
    """A span that begins before its window is clipped, counted and warned of, and keeps its own offsets."""
    nlp = given_pipeline(tiny_bert, {"entities": READING["entities"] | {"proposals": 0.0}, "window": 32, "overlap": 8})
    doc = with_group(nlp, " ".join(["word"] * 200), [(0, 150), (10, 12), (0, 1), (199, 200), (28, 30)])
    with pytest.warns(EntityKitWarning, match="W002"):
        nlp(doc)
    assert entity_spans(doc) == [(0, 1), (0, 150), (10, 12), (28, 30), (199, 200)]
    assert doc._.coverage["clipped"] == 1
    assert doc._.coverage["read"] == 200
    assert torch.isfinite(torch.from_numpy(entity_states(doc))).all()


def test_word_states_are_those_of_the_plain_encoder(tiny_bert: Path) -> None:
    """If words do not see entity tokens; bit for bit."""
    plain, _ = initialized(tiny_bert, "spert")
    nlp, _ = initialized(tiny_bert, "span_ner", encoder=READING)
    text = " ".join(text for text, _ in SENTENCES)
    states = [pipe(text)._.trf_data.model_output["last_hidden_state"] for pipe in (plain, nlp)]
    assert (states[0] == states[1]).all()


def test_a_span_without_token_is_an_error(tiny_bert: Path) -> None:
    """The encoder's gold groups do not have what the component learns."""
    nlp = make_pipeline(tiny_bert, "nested", encoder=READING)
    nlp.get_pipe("entitykit_encoder").gold = ()  # type: ignore[attr-defined]
    words = " ".join(["word"] * 20)
    examples = [make_example(nlp, words, [(0, 20, "PLACE")])]  # wider than the probe's window, so never proposed
    with pytest.warns(EntityKitWarning, match="W102"):
        nlp.initialize(lambda: examples)
    with pytest.raises(ConfigError, match=r"E112.*gold"):
        nlp.update(examples)


def test_a_layer_that_is_not_there(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"E007.*inject_layer is 2.*0-1"):
        initialized(tiny_bert, "span_ner", encoder={"entities": READING["entities"] | {"inject_layer": 2}})


@pytest.mark.parametrize("setting", [{"proposals": -1.0}, {"threshold": 1.0}])
def test_values_out_of_range(tiny_bert: Path, setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="E007"):
        initialized(tiny_bert, "span_ner", encoder={"entities": READING["entities"] | setting})


def test_threshold_of_proposals(tiny_bert: Path) -> None:
    nlp, examples = initialized(
        tiny_bert, "mentions", "span_ner", encoder={"entities": READING["entities"] | {"threshold": 0.5}}
    )
    train(nlp, examples, 30)
    doc = nlp(SENTENCES[5][0])
    assert {(span.start, span.end) for span in doc.spans["mentions"]} >= set(entity_spans(doc))
    assert entity_spans(doc)
