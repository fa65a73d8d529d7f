"""The tiny checkpoints load as real ones do and split words; the network is off."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from tests.util import MAX_PIECES, N_LAYERS, WIDTH

CHECKPOINTS = ["tiny_bert", "tiny_distilbert", "tiny_roberta", "tiny_xlmr"]
TEXT = "The engineer John Carpenter moved from Aberdeen to New York in 1987, didn't he?"


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_checkpoint_loads_and_runs(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModel.from_pretrained(checkpoint)
    assert tokenizer.is_fast
    batch = tokenizer(TEXT, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch, output_hidden_states=True).hidden_states
    assert len(states) == N_LAYERS + 1
    assert states[-1].shape == (1, batch["input_ids"].shape[1], WIDTH)
    assert states[-1].isfinite().all()


def test_longest_sequence_runs(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    batch = tokenizer("word " * MAX_PIECES, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape[1] == tokenizer.model_max_length == MAX_PIECES
    with torch.no_grad():
        assert AutoModel.from_pretrained(checkpoint)(**batch).last_hidden_state.shape[1] == MAX_PIECES


def test_words_split_and_nothing_is_unknown(checkpoint: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    encoding = tokenizer(TEXT)
    assert tokenizer.unk_token_id not in encoding["input_ids"]
    pieces_of_words = [encoding.word_ids().count(word) for word in set(encoding.word_ids()) - {None}]
    assert min(pieces_of_words) == 1
    assert max(pieces_of_words) > 2
    assert encoding["input_ids"][0] == tokenizer.cls_token_id
    assert encoding["input_ids"][-1] == tokenizer.sep_token_id


def test_bert_is_uncased_and_distilbert_is_not(tiny_bert: Path, tiny_distilbert: Path) -> None:
    uncased, cased = AutoTokenizer.from_pretrained(tiny_bert), AutoTokenizer.from_pretrained(tiny_distilbert)
    assert uncased("John")["input_ids"] == uncased("john")["input_ids"]
    assert cased("John")["input_ids"] != cased("john")["input_ids"]


def test_network_is_off() -> None:
    with pytest.raises(RuntimeError, match="network is off"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # an address kept for documentation
    with pytest.raises(RuntimeError, match="network is off"):
        socket.getaddrinfo("example.org", 80)
