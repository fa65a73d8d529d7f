from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, Span

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.pieces import WordPieces
from entitykit.corpora.entity_vocabulary import EntityVocabulary
from entitykit.errors import CorpusError, OutputError
from entitykit.pretraining.data import Windows, prepare

NLP = spacy.blank("xx")
VOCABULARY = EntityVocabulary(["River Don", "Aberdeen", "Peter"])


@pytest.fixture(scope="module")
def splitter(tiny_bert: Path) -> WordPieces:
    _, tokenizer = load_checkpoint(str(tiny_bert), word_shapes=None, n_layers=None, train_pieces=True)
    return WordPieces(tokenizer, max_word_pieces=10)


def make_doc(text: str, *links: tuple[int, int, str]) -> Doc:
    doc = NLP.make_doc(text)
    doc.spans["links"] = [Span(doc, start, end, kb_id=title) for start, end, title in links]
    return doc


def make_windows(docs: list[Doc], folder: Path, splitter: WordPieces, **limits: Any) -> Windows:
    prepare(docs, folder, splitter, VOCABULARY, made_of={"corpus": "c"}, **({"window": 40, "max_entities": 8} | limits))
    return Windows(folder, splitter)


def test_entities_lie_on_the_pieces_of_their_mentions(splitter: WordPieces, tmp_path: Path) -> None:
    docs = [
        make_doc("Peter swam in the river Don", (0, 1, "Peter"), (3, 6, "River Don"), (5, 6, "Peter")),
        make_doc("in Aberdeen", (1, 2, "Aberdeen")),
        make_doc("no links"),
        make_doc("  "),
    ]
    windows = make_windows(docs, tmp_path / "data", splitter)
    text = windows.text(np.arange(len(windows)))
    ids = text.pack.ids
    assert len(windows) == 3
    assert list(text.pack.lengths) == sorted(text.pack.lengths)
    mentions = []
    ends = [*text.entities.offsets.tolist()[1:], len(text.entities.rows)]
    for row, start, end in zip(text.entities.ids.tolist(), text.entities.offsets.tolist(), ends, strict=True):
        mentions.append((VOCABULARY.titles[row], ids[text.entities.rows[start:end]].tolist()))
    expected = [("Aberdeen", "Aberdeen"), ("Peter", "Peter"), ("River Don", "the river Don"), ("Peter", "Don")]
    split = [(title, [i for word in name.split() for i in splitter.split(word)]) for title, name in expected]
    assert sorted(mentions) == sorted(split)
    special = text.words < 0
    assert special.sum() == 2 * 3
    assert set(ids[special].tolist()) == {*splitter.prefix, *splitter.suffix}
    assert sum(text.entities.counts) == 4
    assert windows.counts.documents == 4


def test_long_documents_are_read_whole(splitter: WordPieces, tmp_path: Path) -> None:
    names = [f"w{i} " for i in range(60)]
    doc = make_doc("".join(names), (0, 1, "Peter"), (10, 60, "River Don"), (50, 52, "Aberdeen"), (5, 6, "nobody"))
    windows = make_windows([doc], tmp_path / "data", splitter)
    seen = set()
    for number in range(len(windows)):
        text = windows.text(np.array([number]))
        assert text.pack.lengths[0] <= 40
        seen |= {tuple(text.pack.ids[text.words == word].tolist()) for word in text.words.unique().tolist() if word >= 0}
    assert seen == {tuple(splitter.split(name.strip())) for name in names}
    counts = windows.counts
    assert (counts.links, counts.unknown, counts.cut) == (4, 1, 1)
    assert counts.tokens >= 2
    assert counts.windows == len(windows) > 2


def test_what_is_left_out_is_counted(splitter: WordPieces, tmp_path: Path) -> None:
    doc = make_doc("a b c d supercalifragilistic", *((i, i + 1, "Peter") for i in range(4)))
    counts = make_windows([doc], tmp_path / "data", splitter, max_entities=3).counts
    assert (counts.tokens, counts.crowded, counts.shortened) == (3, 1, 1)


def test_nothing_to_learn(splitter: WordPieces, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with pytest.raises(CorpusError, match=r"\[E242\] .*'c': of its 1 links, 1 lead to entities outside the vocabulary"):
        make_windows([make_doc("a b", (0, 1, "nobody"))], folder, splitter)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(splitter: WordPieces, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"\[E134\]"):
        make_windows([make_doc("a b", (0, 1, "Peter"))], tmp_path / "file" / "data", splitter)
