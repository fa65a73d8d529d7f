"""Texts that are composed as in BLINK, and read as `transformers` reads them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModel

from entitykit.bridge import texts
from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.encoder import build_encoder
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import TextReader, share_room
from entitykit.errors import ConfigError


def make_reader(path: Path, *, unused: bool = False, **options: object) -> TextReader:
    encoder, json = load_checkpoint(str(path), word_shapes=False, n_layers=None, train_pieces=True)
    if unused:
        tokenizer = Tokenizer.from_str(json)
        tokenizer.add_special_tokens([f"[unused{i}]" for i in range(3)])
        json = tokenizer.to_str()
    shim = TorchShim(build_encoder, group="encoder")
    shim.adopt(encoder, {"tokenizer": json})
    return TextReader(shim, **({"batch_pieces": 64} | options))


@pytest.fixture(scope="module")
def reader(tiny_bert: Path) -> TextReader:
    return make_reader(tiny_bert)


def pieces(reader: TextReader, ids: np.ndarray) -> list[str]:
    return [reader._tokenizer.id_to_token(i) for i in ids.tolist()]


def test_marks_are_those_of_blink(tiny_bert: Path) -> None:
    reader = make_reader(tiny_bert, unused=True)
    marked = reader.marked(["at the"], ["river"], ["was in"], size=20)
    expected = ["[CLS]", "at", "the", "[unused0]", "river", "[unused1]", "was", "in", "[SEP]"]
    assert pieces(reader, marked.ids[0]) == expected
    described = pieces(reader, reader.described(["the"], ["a river"], size=20).ids[0])
    assert described == ["[CLS]", "the", "[unused2]", "a", "river", "[SEP]"]


def test_checkpoints_without_unused_pieces(reader: TextReader) -> None:
    assert pieces(reader, reader.described(["the"], ["a river"], size=20).ids[0]) == [
        "[CLS]",
        "the",
        ":",
        "a",
        "river",
        "[SEP]",
    ]
    assert pieces(reader, reader.described(["the"], [""], size=20).ids[0]) == ["[CLS]", "the", ":", "[SEP]"]
    assert pieces(reader, reader.described(["the"], [""], size=20, mark=False).ids[0]) == ["[CLS]", "the", "[SEP]"]
    prefixed = pieces(reader, reader.prefixed(["at a"], ["river"], ["of"], size=20).ids[0])
    assert prefixed == ["[CLS]", "river", ":", "at", "a", "river", "of", "[SEP]"]


@given(left=st.integers(0, 30), right=st.integers(0, 30), room=st.integers(0, 40))
def test_room_is_shared_as_in_blink(left: int, right: int, room: int) -> None:
    """Against the rule as the paper's code states it: quotas, of which one side's rest goes to the other."""
    quota_left = room // 2
    quota_right = room - quota_left
    if left <= quota_left:
        quota_right += quota_left - left if right > quota_right else 0
    elif right <= quota_right:
        quota_left += quota_right - right
    assert share_room(left, right, room) == (min(left, quota_left), min(right, quota_right))


@pytest.mark.parametrize(("left", "mention", "right"), list(product([0, 3, 60], [1, 5, 60], [0, 4, 60])))
def test_nothing_is_too_long_and_cuts_are_counted(reader: TextReader, left: int, mention: int, right: int) -> None:
    size = 24
    for compose, n_marks in ((reader.marked, 2), (reader.prefixed, 1)):
        found = compose(["a " * left], ["the " * mention], ["of " * right], size=size)
        words = pieces(reader, found.ids[0])
        assert len(words) <= size
        kept = mention - int(found.cut[0])
        assert kept == min(mention, size - 2 - n_marks)
        assert words.count("the") == (kept if n_marks == 2 else kept + min(kept, size - 3 - kept))
        if n_marks == 2:
            assert len(words) == min(size, left + mention + right + 4)


def test_cut_descriptions_are_counted(reader: TextReader) -> None:
    found = reader.described(["the", "the " * 50], ["a " * 50, "river"], size=20)
    assert [len(ids) for ids in found.ids] == [20, 20]
    assert found.cut.tolist() == [52 - 18, 52 - 18]


@pytest.mark.parametrize("size", [3, 1000])
def test_sizes_that_cannot_be(reader: TextReader, size: int) -> None:
    with pytest.raises(ConfigError, match="E581"):
        reader.described(["a"], ["b"], size=size)


@pytest.mark.parametrize("checkpoint", ["tiny_bert", "tiny_roberta"])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_reads_as_transformers_does(checkpoint: str, pooling: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(checkpoint)
    reader = make_reader(path, pooling=pooling)
    texts = ["the river of New York", "a", "John was in the river in the river", "by the river"]
    composed = reader.described(texts, ["at a river", "", "of", "in"], size=40)
    found = reader.read(composed.ids)
    model = AutoModel.from_pretrained(path, add_pooling_layer=False).eval()
    for ids, state in zip(composed.ids, found, strict=True):
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)[None]).last_hidden_state[0]
        torch.testing.assert_close(state, expected.mean(0) if pooling == "mean" else expected[0], rtol=1e-4, atol=1e-5)


def test_packing_changes_nothing(tiny_bert: Path) -> None:
    ids = make_reader(tiny_bert).described(["a" * n for n in range(1, 12)], [""] * 11, size=40).ids
    one, many = (make_reader(tiny_bert, batch_pieces=n).read(ids) for n in (10_000, 15))
    torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-5)
    assert make_reader(tiny_bert).read([]).shape == (0, 32)


def test_gradients_only_where_the_encoder_learns(reader: TextReader) -> None:
    ids = reader.described(["the river"], ["a city"], size=20).ids
    assert not reader.read(ids).requires_grad
    reader.read(ids, learns=True).sum().backward()
    parameters = dict(reader.shim.module.named_parameters())
    assert all(p.grad is not None for name, p in parameters.items() if "probe" not in name and "shapes" not in name)
    reader.shim.module.zero_grad()


def test_a_tokenizer_is_built_once(tiny_bert: Path, tiny_roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all readers of a checkpoint, and another one for another checkpoint."""
    first = make_reader(tiny_bert)
    with monkeypatch.context() as patch:
        patch.setattr(texts, "Tokenizer", None)
        assert make_reader(tiny_bert)._tokenizer is first._tokenizer
    assert make_reader(tiny_roberta)._tokenizer is not first._tokenizer
