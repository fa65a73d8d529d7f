"""Language models of other architectures: what runs gives the library's states, and what does not is refused by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from entitykit.bridge.early_lm import load_early_lm
from entitykit.errors import CheckpointError
from entitykit.models.encoder.transformer import Pack
from tests.language_models import make_model, make_tokenizer
from tests.util import MAX_PIECES

ALIKE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": MAX_PIECES + 2,
}
XLM: dict[str, Any] = {"vocab_size": 120, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "pad_index": 1}


def without(size: str) -> dict[str, Any]:
    return {key: value for key, value in ALIKE.items() if key != size}


NO_PADDING = "gives other states where a batch is padded"
OTHERS: list[tuple[type[Any], dict[str, Any], int | None, str]] = [
    (transformers.XLMConfig, XLM, 1, "'XLMModel, whose layer 1 does not give the states"),
    (transformers.FlaubertConfig, XLM, 1, "'FlaubertModel, whose layer 1 does not give the states"),
    (transformers.RecurrentGemmaConfig, ALIKE | {"lru_width": 16, "attention_window_size": 8}, None, "'The expanded size"),
    (transformers.ConvBertConfig, ALIKE | {"embedding_size": 16, "head_ratio": 1}, None, NO_PADDING),
    (transformers.MobileBertConfig, ALIKE | dict.fromkeys(("embedding_size", "intra_bottleneck_size"), 16), None, NO_PADDING),
    (transformers.LongformerConfig, ALIKE | {"attention_window": 8}, 1, "attention_window"),
    (transformers.CanineConfig, without("vocab_size"), None, "model type 'canine'"),
    (
        transformers.GPTNeoXJapaneseConfig,
        without("intermediate_size"),
        1,
        "'GPTNeoXJapaneseModel, which has a tensor 'layers.0.attention.dense_bias' only where it is cut",
    ),
]


def save_other(path: Path, config: Any) -> Any:
    """A whole model with large random weights, padding's among them."""
    model = make_model(config)
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=make_tokenizer("llama")).save_pretrained(path)
    return model


@pytest.mark.parametrize(("config", "sizes", "kept", "reason"), OTHERS, ids=lambda value: getattr(value, "model_type", ""))
def test_architectures_that_cannot_run(
    tmp_path: Path, config: Any, sizes: dict[str, Any], kept: int | None, reason: str
) -> None:
    """None of them is damaged; what runs but gives other states than the library's is found out before it is used."""
    save_other(tmp_path, config(**sizes))
    with pytest.raises(CheckpointError, match=rf"E003.*{re.escape(reason)}"):
        load_early_lm(str(tmp_path), n_layers=kept, bos=True, frozen=True)


GPT: dict[str, Any] = {"vocab_size": 120, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": MAX_PIECES}
MAMBA: dict[str, Any] = {"vocab_size": 120, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}


@pytest.mark.parametrize(
    ("config", "sizes", "kept", "behind"),
    [
        (transformers.OpenAIGPTConfig, GPT, 1, 0),  # its blocks give lists
        (transformers.OpenAIGPTConfig, GPT, None, 0),
        (transformers.LayoutLMConfig, ALIKE, 1, 0),
        (transformers.LayoutLMConfig, ALIKE, None, 0),  # asks for its pooler
        (transformers.XLMConfig, XLM, None, 0),  # has no blocks, but the library gives the last layer
        (transformers.MambaConfig, MAMBA, 1, 1),  # its list begins with what the first block gives
        (transformers.MambaConfig, MAMBA, None, 1),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_architectures_that_run(tmp_path: Path, config: Any, sizes: dict[str, Any], kept: int | None, behind: int) -> None:
    model = save_other(tmp_path, config(**sizes))
    encoder, _ = load_early_lm(str(tmp_path), n_layers=kept, bos=True, frozen=True)
    ids = torch.arange(5, 12)
    pack = Pack(ids, torch.arange(7), torch.zeros_like(ids), (7,))
    with torch.no_grad():
        output = model(input_ids=ids[None], output_hidden_states=True)
        found = encoder(pack, range(behind, encoder.settings.n_layers + 1))
    for layer, states in found.items():
        is_last = layer == model.config.num_hidden_layers
        expected = output.last_hidden_state if is_last else output.hidden_states[layer - behind]
        torch.testing.assert_close(states, expected[0], rtol=0, atol=1e-5)
