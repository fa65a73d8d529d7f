"""Passages of documents, what is read of them, and which entities are nearest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.bridge.entqa import Passage, PassageTexts
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.knowledge.store import EntityStore
from tests.pipelines import OURS, encoder_config, knowledge_base

ENTQA: dict[str, Any] = {"@architectures": "entitykit.EntQA.v1", "tok2vec": OURS, "entity_pieces": 24}


def make(checkpoint: Path, **model: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint, batch_pieces=1024))
    kb = {"@misc": "entitykit.KB.v1", "path": str(knowledge_base())}
    nlp.add_pipe("entitykit_entqa", config={"kb": kb, "model": ENTQA | model})
    nlp.initialize(list)
    return nlp


def texts_of(nlp: Language) -> PassageTexts:
    texts = nlp.get_pipe("entitykit_entqa")._texts
    assert isinstance(texts, PassageTexts)
    return texts


@pytest.fixture(scope="module")
def small(tiny_bert: Path) -> Language:
    return make(tiny_bert, passage_pieces=12, overlap=5)


def seen(passages: list[Passage], doc: int) -> list[tuple[int, int]]:
    return [(passage.start, passage.end) for passage in passages if passage.doc == doc]


words = st.lists(st.sampled_from(["Peter", "met", "Aberdonian", " ", ".", "unbelievably", "x"]), max_size=40)


@given(st.lists(words, max_size=3))
@settings(max_examples=25)
def test_each_word_is_read(small: Language, texts: list[list[str]]) -> None:
    """In each passage there are its words' pieces; each word is in one, and each short mention in one as a whole."""
    reading = texts_of(small)
    docs = [Doc(small.vocab, words=text) for text in texts]
    passages = reading.passages(docs)
    splitter = reading._splitter
    for i, doc in enumerate(docs):
        pieces = [splitter.split(word.text) for word in doc]
        covered = set()
        for passage in (each for each in passages if each.doc == i):
            assert sum(map(len, pieces[passage.start : passage.end])) <= 12
            for word, first, last in zip(range(passage.start, passage.end), passage.firsts, passage.lasts, strict=True):
                found = passage.table[0, first : last + 1].tolist() if first >= 0 else []
                assert found == pieces[word]
                covered.add(word)
        assert {word.i for word in doc if not word.is_space} <= covered
        for start in range(len(doc)):
            for end in range(start + 1, len(doc) + 1):
                if sum(map(len, pieces[start:end])) <= 5 and not doc[start].is_space and not doc[end - 1].is_space:
                    assert any(a <= start and end <= b for a, b in seen(passages, i)), (start, end)


def test_topic_and_shapes(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, topic=2)
    reading = texts_of(nlp)
    reader, tokenizer = reading.reader, reading.reader._tokenizer
    (passage,) = reading.passages([nlp.make_doc("  Peter met Mary")])
    pieces = [tokenizer.id_to_token(i) for i in passage.table[0].tolist()]
    middle = ["peter", "met", "mary"]
    mark = tokenizer.encode("]", add_special_tokens=False).tokens
    mark = ["[unused1]"] if tokenizer.token_to_id("[unused1]") is not None else mark
    joined = "".join(piece.removeprefix("##") for piece in pieces)
    assert joined == "".join(["[CLS]", *middle, *mark, "peter", "met", "[SEP]"])
    assert len(set(passage.table[1].tolist())) > 1  # words with capitals, words without, and no words
    (alone,) = texts_of(make(tiny_bert, topic=0)).passages([nlp.make_doc("Peter met Mary")])
    assert alone.table.shape[1] == len(passage.table[0]) - len(mark) - _size(reader, "peter met")


def _size(reader: Any, text: str) -> int:
    return len(reader.tokenize([text])[0])


def test_sentences(tiny_bert: Path) -> None:
    """As many whole ones as have room; longer ones are cut as words are."""
    nlp = make(tiny_bert, passages="sentences", passage_pieces=12, overlap=5)
    reading = texts_of(nlp)
    lengths = [3, 4, 2, 30, 5]
    starts = [i == 0 for n in lengths for i in range(n)]
    doc = Doc(nlp.vocab, words=["x"] * sum(lengths), sent_starts=starts)
    passages = seen(reading.passages([Doc(nlp.vocab), doc]), 1)
    assert passages[0] == (0, 9)
    assert passages[-1] == (39, 44)
    assert all(start >= 9 and end <= 39 and end - start == 12 for start, end in passages[1:-1])
    with pytest.raises(InputError, match="E602"):
        reading.passages([Doc(nlp.vocab, words=["x", "y"])])


def test_long_words_are_counted(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, passage_pieces=8, overlap=4)
    with pytest.warns(EntityKitWarning, match="W600"):
        (passage,) = texts_of(nlp).passages([nlp.make_doc("unbelievablyunbelievablyunbelievably" * 2)])
    assert passage.lasts[0] - passage.firsts[0] == 7


@torch.no_grad()
def test_pairs_are_read_alike_alone_and_together(small: Language) -> None:
    reading = texts_of(small)
    docs = [small.make_doc(text) for text in ("Peter met Mary Jones", "In 1987 it rained on the river Don near Aberdeen again")]
    entities = reading.compose(list(some_store())[:3]).ids
    pairs = [(passage, entity) for passage in reading.passages(docs) for entity in entities]
    together = reading.read_pairs(pairs, learns=False, is_train=False)
    for i, pair in enumerate(pairs):
        alone = reading.read_pairs([pair], learns=False, is_train=False)
        width = alone.starts.shape[1]
        assert together.starts[i, width:].isinf().all()
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i, :width] if b.dim() > 1 else b[i], rtol=1e-4, atol=1e-5)


def some_store() -> EntityStore:
    return EntityStore.open(knowledge_base(), read_only=True)


@pytest.mark.parametrize(
    "model",
    [
        {"passages": "pages"},
        {"pooling": "max"},
        {"form": "x"},
        {"passage_pieces": 4},
        {"overlap": 0},
        {"overlap": 32},
        {"topic": -1},
        {"entity_pieces": 2},
        {"temperature": 0.0},
        {"temperature": 0.0099},
        {"entity_pieces": 500},
    ],
    ids=str,
)
def test_settings_that_cannot_be(tiny_bert: Path, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E600|E601"):
        make(tiny_bert, **model)
