"""Entity tokens for spans that arrive after the pass are those of spans that were there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.bridge.late import KeyStore
from entitykit.bridge.packs import Layout
from entitykit.corpora.given import given_mentions
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.models.encoder.transformer import Cache
from tests.pipelines import (
    LUKE,
    READING,
    SENTENCES,
    annotations,
    counted_passes,
    fast_optimizer,
    initialized,
    make_example,
    make_examples,
    make_pipeline,
    scores,
    train,
)

LONG = " ".join(text for text, _ in SENTENCES * 6)
SMALL_WINDOWS = {"window": 32, "overlap": 12, "max_word_pieces": 10}


@pytest.fixture(scope="module")
def nlp(tiny_bert: Path) -> Language:
    encoder = READING | SMALL_WINDOWS | {"keep_keys": True}
    nlp, examples = initialized(tiny_bert, "span_ner", encoder=encoder)
    train(nlp, examples, 3)
    return nlp


def late(nlp: Language, doc: Doc, spans: Sequence[tuple[int, int]]) -> Any:
    return nlp.get_pipe("entitykit_encoder").entity_states(doc, [Span(doc, *span) for span in spans])  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", [SENTENCES[1][0], LONG], ids=["short", "long"])
def test_late_equals_early(nlp: Language, text: str) -> None:
    doc = nlp(text)
    output = doc._.trf_data.model_output
    spans = [tuple(span) for span in output["entity_spans"][0].tolist()]
    assert len(spans) > 5
    order = np.random.default_rng(0).permutation(len(spans))
    with counted_passes(nlp) as passes:
        found = late(nlp, doc, [spans[i] for i in order])
    assert passes.forward == 0  # the text is not read again
    np.testing.assert_allclose(found, output["entity_states"][0][order], rtol=0, atol=2e-6)


def test_other_spans_change_nothing(nlp: Language) -> None:
    doc = nlp(LONG)
    alone = late(nlp, doc, [(3, 5)])
    np.testing.assert_allclose(late(nlp, doc, [(0, 2), (3, 5), (2, 9), (3, 5)])[[1, 3]], np.repeat(alone, 2, axis=0), atol=2e-6)


def test_kept_on_saved_documents(nlp: Language) -> None:
    """In batches as alone, and after the document was written and read."""
    alone = nlp(LONG)
    batch = list(nlp.pipe(["", SENTENCES[0][0], LONG, " "]))
    expected = late(nlp, alone, [(4, 6), (50, 53)])
    for doc in (batch[2], Doc(nlp.vocab).from_bytes(alone.to_bytes())):
        np.testing.assert_allclose(late(nlp, doc, [(4, 6), (50, 53)]), expected, rtol=0, atol=2e-6)


def test_half_precision(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pass in bfloat16 leaves goes to the document as arrays, which have no such type."""
    put = KeyStore.put

    def put_halves(store: KeyStore, layout: Layout, cache: Cache) -> None:
        put(store, layout, Cache(cache.pack, cache.states.bfloat16(), [keys.bfloat16() for keys in cache.keys]))

    monkeypatch.setattr(KeyStore, "put", put_halves)
    doc = nlp(LONG)
    output = doc._.trf_data.model_output
    spans = [tuple(span) for span in output["entity_spans"][0].tolist()]
    assert np.abs(late(nlp, doc, spans) - output["entity_states"][0]).max() < 0.1


def test_no_spans(nlp: Language) -> None:
    assert late(nlp, nlp("Peter"), []).shape == (0, 32)
    assert late(nlp, nlp(""), []).shape == (0, 32)


def test_clipped(nlp: Language) -> None:
    doc = nlp(LONG)
    with pytest.warns(EntityKitWarning, match="W002"):
        assert np.isfinite(late(nlp, doc, [(0, len(doc))])).all()


def test_pooled_states_where_there_are_no_tokens(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner")
    doc = nlp(SENTENCES[1][0])
    words = doc._.trf_data.model_output["last_hidden_state"][0]
    np.testing.assert_array_equal(late(nlp, doc, [(3, 5), (0, 7)]), [words[3:5].max(0), words.max(0)])


def test_nothing_was_kept(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner", encoder=READING)
    with pytest.raises(ConfigError, match=r"E115.*keep_keys"):
        late(nlp, nlp(SENTENCES[1][0]), [(0, 1)])


def test_tokens_that_are_seen_cannot_come_late(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"E007.*keep_keys"):
        initialized(tiny_bert, "span_ner", encoder=LUKE | {"keep_keys": True})


@pytest.mark.parametrize("tokens", [True, False], ids=["late", "pooled"])
def test_spans_that_are_none_of_the_document(nlp: Language, tiny_bert: Path, tokens: bool) -> None:
    """Empty ones, and those of another document."""
    nlp = nlp if tokens else initialized(tiny_bert, "span_ner")[0]
    doc, other = nlp(SENTENCES[1][0]), nlp(SENTENCES[4][0])
    states = nlp.get_pipe("entitykit_encoder").entity_states  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"E117.*\[2, 2\) of this document.*<= 7"):
        states(doc, [doc[0:1], doc[2:2]])
    with pytest.raises(InputError, match=r"E117.*\[0, 2\) of another document"):
        states(doc, [other[0:2]])


def test_documents_that_another_encoder_read(nlp: Language, tiny_bert: Path, tmp_path: Path) -> None:
    """In another form, or with other weights; a pipeline that was saved in half precision goes on with what was read before."""
    doc = nlp(SENTENCES[1][0])
    other, _ = initialized(
        tiny_bert, "span_ner", encoder={"entities": READING["entities"] | {"inject_layer": 0}, "keep_keys": True}
    )
    with pytest.raises(ConfigError, match=r"E125.*found keys of 1 layers of width 32; expected keys of 2 layers of width 32"):
        late(other, doc, [(0, 1)])
    same, examples = initialized(
        tiny_bert, "span_ner", encoder=READING | SMALL_WINDOWS | {"keep_keys": True, "storage": "fp16"}
    )
    with pytest.raises(ConfigError, match=r"E125.*found the weights [0-9a-f]{32}; expected the weights"):
        late(same, doc, [(0, 1)])
    before = same(SENTENCES[1][0])
    same.to_disk(tmp_path)
    np.testing.assert_allclose(late(spacy.load(tmp_path), before, [(0, 2)]), late(same, before, [(0, 2)]), rtol=0, atol=0.02)
    train(same, examples, 1, optimizer=fast_optimizer(encoder_learn_rate=2e-5))
    with pytest.raises(ConfigError, match=r"E125.*before it was trained further"):
        late(same, before, [(0, 1)])
    assert late(same, same(SENTENCES[1][0]), [(0, 1)]).shape == (1, 32)


NONE = {"entities": READING["entities"] | {"proposals": 0.0}}
KEEPING = NONE | {"keep_keys": True}


def test_heads_of_spans_that_come_behind_the_encoder(tiny_bert: Path) -> None:
    """What a component finds after the text was read gets the tokens that it would have had before, and no second pass."""
    nlp = make_pipeline(tiny_bert, "relations", encoder=KEEPING)
    encoder = nlp.get_pipe("entitykit_encoder")
    encoder.gold = ("names",)  # type: ignore[attr-defined]
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    train(nlp, examples, 10, annotates=["tests_names"])
    texts = [text for text, _ in SENTENCES]
    with counted_passes(nlp) as passes:
        late = list(nlp.pipe([*texts, ""]))
    assert passes.forward == 1
    assert any(doc._.relations for doc in late)
    assert all(doc._.coverage["entities"] == 0 for doc in late)
    encoder.given = ("names",)  # type: ignore[attr-defined]
    names = nlp.get_pipe("tests_names")
    early = list(nlp.pipe(names(nlp.make_doc(text)) for text in texts))
    assert [doc._.coverage["entities"] for doc in early] == [len(doc.spans["names"]) for doc in early]
    assert [annotations(doc) for doc in early] == [annotations(doc) for doc in late[:-1]]
    for one, two in zip(early, late, strict=False):
        assert scores(one)["relations"] == pytest.approx(scores(two)["relations"], abs=1e-5)


def test_ruler_behind_the_encoder(tiny_bert: Path) -> None:
    """Under a head on a frozen encoder, which learns from the late tokens, too."""
    nlp = make_pipeline(tiny_bert, encoder=KEEPING)
    ruler = nlp.add_pipe("entity_ruler")
    head = {"@architectures": "entitykit.SpERTRelations.v1", "hidden": 16, "size_width": 4, "types": 4}
    tok2vec = {"@architectures": "entitykit.EncoderListener.v1"}
    nlp.add_pipe("entitykit_relations", config={"model": head | {"tok2vec": tok2vec}, "scope": "document"})
    examples = [make_example(nlp, SENTENCES[0][0], SENTENCES[0][1])]
    nlp.initialize(lambda: examples)
    names = {"Mary Jones": "PERSON", "New York": "PLACE"}
    patterns = [{"label": label, "pattern": [{"ORTH": word} for word in name.split()]} for name, label in names.items()]
    ruler.add_patterns(patterns)  # type: ignore[attr-defined]
    annotates, frozen = ["entitykit_encoder", "entity_ruler"], ["entitykit_encoder"]
    losses = train(nlp, examples, 60, annotates=annotates, exclude=frozen)
    assert losses[-1]["entitykit_relations"] < 0.5 * losses[0]["entitykit_relations"]
    doc = nlp(SENTENCES[0][0])
    assert {relation["label"] for relation in doc._.relations} == {"Next"}


def test_spans_that_come_late_where_nothing_is_kept(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, "relations", encoder=NONE)
    nlp.get_pipe("entitykit_encoder").gold = ("names",)  # type: ignore[attr-defined]
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    with pytest.raises(ConfigError, match=r"E112.*keep_keys = true"):
        nlp(SENTENCES[1][0])


def test_a_frozen_encoder_whose_tokens_are_seen(tiny_bert: Path) -> None:
    """It only predicts, so it must be given the spans that its head learns from."""
    nlp, examples = initialized(tiny_bert, "nested", encoder=LUKE)
    frozen: dict[str, Any] = {"exclude": ["entitykit_encoder"], "annotates": ["entitykit_encoder"]}
    nlp.get_pipe("entitykit_encoder").gold = ("sc",)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"E112.*A frozen encoder reads given alone: .*entitykit\.GivenMentions\.v1"):
        train(nlp, examples, 5, **frozen)
    nlp.get_pipe("entitykit_encoder").given = ("gold",)  # type: ignore[attr-defined]
    given = list(given_mentions(lambda _: iter(examples), key="gold", gold="sc")(nlp))
    losses = train(nlp, given, 10, **frozen)
    assert losses[-1]["nested"] < losses[0]["nested"]


@pytest.mark.parametrize("kind", ["relations_clusters", "salience"])
def test_groups_by_pattern(tiny_bert: Path, kind: str) -> None:
    """Clusters have one group each; in training gold ones and those of the document have tokens, in prediction late ones."""
    nlp = make_pipeline(tiny_bert, kind, encoder=KEEPING)
    encoder = nlp.get_pipe("entitykit_encoder")
    encoder.gold = encoder.given = ("coref_clusters_*", "names")  # type: ignore[attr-defined]
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    annotates = [name for name in nlp.pipe_names if name.startswith("tests_")]
    losses = train(nlp, examples, 5, annotates=annotates)
    assert losses[-1][kind] < losses[0][kind]
    found = nlp(SENTENCES[1][0])
    assert annotations(found) == annotations(nlp(found.copy()))
