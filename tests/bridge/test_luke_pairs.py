"""Texts of pairs with marks around both, what is read of them, and learning from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import strategies as st
from spacy.tokens import Doc, Span
from spacy.training import Example
from transformers import AutoModel

from entitykit.bridge import texts
from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.encoder import build_encoder
from entitykit.bridge.luke_pairs import MarkedPairReader, PairTexts
from entitykit.bridge.shim import TorchShim
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.types import EntityPairs
from tests.pipelines import OURS, STOCK, encoder_config, encoder_gradient, train

VOCAB = spacy.blank("xx").vocab
NAME = "entitykit_relations"
MARKED: dict[str, Any] = {"@architectures": "entitykit.LukePair.v1", "markers": True, "pair_pieces": 48, "tok2vec": OURS}


@pytest.fixture(scope="module")
def reader(tiny_bert: Path) -> MarkedPairReader:
    return make_reader(tiny_bert)


def make_reader(path: Path) -> MarkedPairReader:
    encoder, json = load_checkpoint(str(path), word_shapes=False, n_layers=None, train_pieces=True)
    shim = TorchShim(build_encoder, group="encoder")
    shim.adopt(encoder, {"tokenizer": json})
    return MarkedPairReader(shim, batch_pieces=64)


def compose(
    reader: MarkedPairReader, texts: list[str], *pairs: tuple[int, tuple[int, int], tuple[int, int]], size: int
) -> PairTexts:
    """Pairs are the number of a text, head and tail."""
    docs = [Doc(VOCAB, words=text.split()) for text in texts]
    firsts = [sum(map(len, docs[:i])) for i in range(len(docs))]
    both = [[(firsts[n] + span[0], firsts[n] + span[1]) for span in spans] for n, *spans in pairs]
    places = sorted({span for spans in both for span in spans})
    rows = [[places.index(spans[k]) for spans in both] for k in (0, 1)]
    columns = [[a for a, _ in places], [b for _, b in places], [0] * len(places), *rows]
    return reader.compose(docs, EntityPairs(*(torch.tensor(column, dtype=torch.long) for column in columns)), size=size)


def words_of(reader: MarkedPairReader, ids: Any) -> str:
    pieces = [reader._tokenizer.id_to_token(i) for i in ids.tolist()]
    return " ".join(pieces).replace(" ##", "")


def test_byte_level_pieces_keep_the_space_before(tiny_roberta: Path) -> None:
    """A word is the same pieces behind a mark as in a text; one without a space before it has none here either."""
    reader = make_reader(tiny_roberta)
    doc = Doc(VOCAB, words=["Mary", "met", "Anne", "'s", "king", "Peter"], spaces=[True, True, False, True, True, False])
    columns = [[0, 2, 3, 5], [1, 3, 4, 6], [0] * 4, [1, 0], [2, 3]]
    pairs = EntityPairs(*(torch.tensor(column, dtype=torch.long) for column in columns))
    texts = reader.compose([doc], pairs, size=60)
    pieces = ["".join(map(reader._tokenizer.id_to_token, ids.tolist())) for ids in texts.ids]
    assert pieces == ["<s>ĠMaryĠmet@ĠAnne@#'s#ĠkingĠPeter</s>", "<s>@ĠMary@ĠmetĠAnne'sĠking#ĠPeter#</s>"]
    whole = reader.tokenize([" king Peter"])[0].tolist()
    ids = texts.ids[0].tolist()
    assert any(ids[i : i + len(whole)] == whole for i in range(len(ids)))


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ((0, 2), (4, 6), "[CLS] @ mary jones @ lives in # new york # [SEP]"),
        ((4, 6), (0, 2), "[CLS] # mary jones # lives in @ new york @ [SEP]"),
        ((2, 3), (3, 4), "[CLS] mary jones @ lives @ # in # new york [SEP]"),
        ((0, 6), (4, 6), "[CLS] @ mary jones lives in # new york # @ [SEP]"),
        ((0, 2), (0, 6), "[CLS] # @ mary jones @ lives in new york # [SEP]"),
        ((0, 3), (2, 5), "[CLS] @ mary jones # lives @ in new # york [SEP]"),
    ],
    ids=["apart", "turned", "next to each other", "nested", "nested, turned", "crossing"],
)
def test_marks(reader: MarkedPairReader, head: tuple[int, int], tail: tuple[int, int], expected: str) -> None:
    texts = compose(reader, ["the river", "Mary Jones lives in New York"], (1, head, tail), size=40)
    assert words_of(reader, texts.ids[0]) == expected
    assert texts.cut.tolist() == [0]
    for (start, end), mark in zip(texts.places[0].tolist(), "@#", strict=True):
        inner = words_of(reader, texts.ids[0][start:end])
        assert inner.startswith(mark)
        assert inner.endswith(mark)


sizes = st.tuples(st.integers(0, 25), st.integers(1, 6))


@given(first=sizes, second=sizes, size=st.integers(16, 40))
def test_whatever_is_cut(reader: MarkedPairReader, first: tuple[int, int], second: tuple[int, int], size: int) -> None:
    """No text is too long; both arguments have their marks; what is left is in order, and is counted."""
    words = [f"{letter}" for letter in "abcdefghijklmnopqrstuvwxyzABCDE"]
    spans = [(start, start + n) for start, n in (first, second)]
    texts = compose(reader, [" ".join(words).lower()], (0, *spans), size=size)
    pieces = words_of(reader, texts.ids[0]).split()
    assert len(pieces) <= size
    assert [pieces.count(mark) for mark in "@#"] == [2, 2]
    for (start, end), mark in zip(texts.places[0].tolist(), "@#", strict=True):
        assert pieces[start] == pieces[end - 1] == mark
    low, high = min(a for a, _ in spans), max(b for _, b in spans)
    inner = [piece for piece in pieces[texts.places.min() : texts.places.max()] if piece not in "@#"]
    assert len(inner) == high - low - texts.cut[0]
    assert texts.cut[0] == max(0, high - low - (size - 6))
    if not texts.cut[0]:
        assert len(pieces) == min(size, 31 + 6)


def test_the_middle_is_cut_first(reader: MarkedPairReader) -> None:
    texts = compose(reader, ["x " + "a " * 30 + "y"], (0, (0, 1), (31, 32)), size=16)
    assert words_of(reader, texts.ids[0]) == "[CLS] @ x @ " + "a " * 8 + "# y # [SEP]"
    assert texts.cut.tolist() == [22]


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta", "tiny_xlmr"])
@pytest.mark.parametrize("words", [["don't", "the", "rivers", ",", "9"], ["a", "\n\n"], ["\u200b"]], ids=repr)
def test_far_words_are_not_tokenized(
    checkpoint: str, words: list[str], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are those of a reader that tokenizes all that lies between."""
    reader, size = make_reader(request.getfixturevalue(checkpoint)), 40
    text = ["John", *(words * 500)[:500], "Mary"]
    doc = Doc(VOCAB, words=text, spaces=[i % 3 > 0 for i in range(502)])
    pairs = EntityPairs(*(torch.tensor(column) for column in ([0, 501], [1, 502], [0, 0], [0, 1], [1, 0])))
    tokenize, lengths = type(reader).tokenize, []
    monkeypatch.setattr(type(reader), "tokenize", lambda self, texts: lengths.extend(map(len, texts)) or tokenize(self, texts))
    found = reader.compose([doc], pairs, size=size)
    n_read = max(lengths)
    part = type(reader)._part
    monkeypatch.setattr(type(reader), "_part", lambda self, doc, start, end, _: part(self, doc, start, end, None))
    expected = reader.compose([doc], pairs, size=size)
    assert [ids.tolist() for ids in found.ids] == [ids.tolist() for ids in expected.ids]
    assert found.places.tolist() == expected.places.tolist()
    assert (found.cut > 0).tolist() == (expected.cut > 0).tolist()
    if len(words) == 5:
        assert n_read < size * 10 < max(lengths)


def test_too_long_for_the_encoder(reader: MarkedPairReader) -> None:
    with pytest.raises(ConfigError, match="E581"):
        compose(reader, ["a b"], (0, (0, 1), (1, 2)), size=1000)


def test_reads_as_transformers_does(reader: MarkedPairReader, tiny_bert: Path) -> None:
    """The maximum over the pieces of each argument and its marks."""
    pairs = [(0, (0, 1), (2, 3)), (1, (0, 2), (1, 4)), (0, (2, 3), (0, 1))]
    texts = compose(reader, ["John met Mary", "the river of New York"], *pairs, size=40)
    found = reader.read_places(texts)
    model = AutoModel.from_pretrained(tiny_bert, add_pooling_layer=False).eval()
    for ids, places, both in zip(texts.ids, texts.places.tolist(), found, strict=True):
        with torch.no_grad():
            states = model(torch.from_numpy(ids)[None]).last_hidden_state[0]
        expected = torch.stack([states[start:end].amax(0) for start, end in places])
        torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-5)
    assert reader.read_places(compose(reader, ["a"], size=40)).shape == (0, 2, 32)


def make(checkpoint: Path, **settings: Any) -> spacy.language.Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint))
    nlp.add_pipe(NAME, config={"model": MARKED, **settings})
    return nlp


def make_examples(nlp: spacy.language.Language) -> list[Example]:
    found = []
    for text, relations in (("John met Mary", [(0, 2)]), ("Mary was met by John", [(4, 0)])):
        gold = Doc(nlp.vocab, words=text.split())
        gold.set_ents([Span(gold, i, i + 1, label="PERSON") for i, word in enumerate(text.split()) if word.istitle()])
        given = gold.copy()
        gold.user_data["relations"] = [{"head": [a, a + 1], "tail": [b, b + 1], "label": "Met"} for a, b in relations]
        found.append(Example(given, gold))
    return found


def test_learns_what_only_the_marks_tell(tiny_bert: Path) -> None:
    """Who has met whom; and with the encoder, which gets gradients unless it is frozen."""
    nlp = make(tiny_bert)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    train(nlp, examples, 60)
    found = [[(r["head"], r["tail"]) for r in nlp(eg.x)._.relations] for eg in examples]
    assert found == [[([0, 1], [2, 3])], [([4, 5], [0, 1])]]
    encoder_gradient(nlp)
    nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    nlp.get_pipe("entitykit_encoder")._backward()
    gradient = encoder_gradient(nlp)
    assert any(each.any() for each in gradient.values())
    for _, pipe in nlp.pipeline:
        pipe.model.shims[0].module.zero_grad()  # type: ignore[attr-defined]
    before = nlp.get_pipe("entitykit_encoder").model.to_bytes()
    train(nlp, examples, 2, exclude=["entitykit_encoder"], annotates=["entitykit_encoder"])
    assert not encoder_gradient(nlp)
    assert nlp.get_pipe("entitykit_encoder").model.to_bytes() == before


def test_cuts_are_told(tiny_bert: Path) -> None:
    """Of every batch, and by a pipeline that was saved after it had told of some."""
    nlp = make(tiny_bert, model=MARKED | {"pair_pieces": 16}, threshold=1.0)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    doc = Doc(nlp.vocab, words=["John", *["a"] * 40, "Mary"])
    doc.set_ents([Span(doc, 0, 1, label="PERSON"), Span(doc, 41, 42, label="PERSON")])
    for n in (1, 2):
        with pytest.warns(EntityKitWarning, match=rf"W605. {2 * n} of {2 * n} pairs"):
            list(nlp.pipe([doc.copy() for _ in range(n)]))
    again = make(tiny_bert, model=MARKED | {"pair_pieces": 16}, threshold=1.0).from_bytes(nlp.to_bytes())
    with pytest.warns(EntityKitWarning, match="W605. 2 of 2 pairs"):
        again(doc.copy())


def test_the_tokenizer_is_built_once(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for every document, and its marks are not tokenized for every pair."""
    nlp = make(tiny_bert)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    nlp(examples[0].x.copy())
    monkeypatch.setattr(texts, "Tokenizer", None)
    doc = Doc(nlp.vocab, words=["Mary"] * 8)
    doc.set_ents([Span(doc, i, i + 1, label="PERSON") for i in range(8)])
    tokenized, tokenize = [], MarkedPairReader.tokenize
    monkeypatch.setattr(MarkedPairReader, "tokenize", lambda self, some: tokenized.extend(some) or tokenize(self, some))
    nlp(doc)
    assert tokenized.count("@") == 1


def test_settings_that_cannot_be(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="E007.*pair_pieces"):
        make(tiny_bert, model=MARKED | {"pair_pieces": 15})
    nlp = spacy.blank("xx")
    config = encoder_config(tiny_bert)
    nlp.add_pipe("entitykit_encoder", config=config)
    nlp.add_pipe(NAME, config={"model": MARKED | {"tok2vec": STOCK}})
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    with pytest.raises(ConfigError, match="E605"):
        nlp.update(examples, losses={})
