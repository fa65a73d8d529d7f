"""Entity tokens for spans that arrive after the pass are those of spans that were there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.bridge.late import KeyStore
from entitykit.bridge.packs import Layout
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.models.encoder.transformer import Cache
from tests.pipelines import LUKE, READING, SENTENCES, counted_passes, initialized, train

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
