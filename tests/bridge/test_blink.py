"""BLINK's checkpoints: the scores are those of two BERTs of `transformers` and the published formula in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from entitykit.bridge.blink import load_blink
from entitykit.errors import CheckpointError

N_UNUSED = 3


@pytest.fixture(scope="module")
def tokenizer(tiny_bert: Path) -> str:
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    tokenizer.add_special_tokens([f"[unused{i}]" for i in range(N_UNUSED)])
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def config(tiny_bert: Path) -> dict[str, Any]:
    values = json.loads((tiny_bert / "config.json").read_text(encoding="utf-8"))
    return values | {"vocab_size": values["vocab_size"] + N_UNUSED}


@pytest.fixture
def towers(config: dict[str, Any]) -> list[BertModel]:
    return [BertModel(BertConfig(**config)).eval() for _ in range(2)]


def save(path: Path, towers: list[BertModel], *, prefix: str = "", **more: Any) -> Path:
    names = ("context_encoder", "cand_encoder")
    weights = {f"{prefix}{n}.bert_model.{k}": v for n, t in zip(names, towers, strict=True) for k, v in t.state_dict().items()}
    torch.save(weights | more, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
def test_scores(tmp_path: Path, towers: list[BertModel], config: dict[str, Any], tokenizer: str, prefix: str) -> None:
    blink = load_blink(save(tmp_path / "blink.bin", towers, prefix=prefix), config, tokenizer, batch_pieces=30)
    lefts, mentions, rights = ["in the", "", "at a river " * 9], ["river", "New York", "the"], ["was", "is in", "of"]
    titles, descriptions = ["river", "New York"], ["a river in the", ""]
    found = blink.scores(
        blink.read_mentions(lefts, mentions, rights, size=20), blink.read_entities(titles, descriptions, size=20)
    )
    split = Tokenizer.from_str(tokenizer)

    def state(tower: BertModel, text: str) -> np.ndarray:
        ids = torch.tensor([split.encode(text).ids])
        with torch.no_grad():
            return tower(ids, token_type_ids=ids * 0).last_hidden_state[0, 0].numpy()

    texts = [f"{a} [unused0] {m} [unused1] {b}" for a, m, b in zip(lefts[:2], mentions[:2], rights[:2], strict=True)]
    context = np.stack([state(towers[0], text) for text in texts])
    entities = np.stack([state(towers[1], f"{t} [unused2] {d}") for t, d in zip(titles, descriptions, strict=True)])
    np.testing.assert_allclose(found[:2].numpy(), context @ entities.T, rtol=1e-3, atol=1e-4)
    assert found.shape == (3, 2)


class Code:
    """What a file could run that is not only tensors."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("ran",)


def test_files_that_cannot_be(
    tmp_path: Path, towers: list[BertModel], config: dict[str, Any], tokenizer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "blink.bin"
    torch.save({"context_encoder.bert_model.x": Code()}, path)
    with pytest.raises(CheckpointError, match="E005"):
        load_blink(path, config, tokenizer)
    assert "ran" not in capsys.readouterr().out
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="E005"):
        load_blink(path, config, tokenizer)
    save(path, towers, **{"context_encoder.additional_linear.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="E584.*additional_linear"):
        load_blink(path, config, tokenizer)
    torch.save({f"context_encoder.bert_model.{k}": v for k, v in towers[0].state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="E584.*one tower"):
        load_blink(path, config, tokenizer)
