"""Tiny random language models of `transformers`, with the tokenizers that their kinds have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    RobertaConfig,
)

from tests.util import MAX_PIECES, byte_pairs

WIDTH, N_LAYERS = 32, 4
SIZES = {"hidden_size": WIDTH, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4, "intermediate_size": 48}
PIECES = {"bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": MAX_PIECES}


def gpt2(n: int) -> PretrainedConfig:
    return GPT2Config(
        vocab_size=n, n_embd=WIDTH, n_layer=N_LAYERS, n_head=4, n_positions=MAX_PIECES, bos_token_id=0, eos_token_id=0
    )


def llama(n: int) -> PretrainedConfig:
    return LlamaConfig(vocab_size=n, num_key_value_heads=2, **SIZES, **PIECES)


def neox(n: int) -> PretrainedConfig:
    return GPTNeoXConfig(vocab_size=n, rotary_pct=0.5, **SIZES, **PIECES)


def qwen2(n: int) -> PretrainedConfig:
    """With a window of attention in its upper layers."""
    sliding = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
    return Qwen2Config(vocab_size=n, num_key_value_heads=2, **sliding, **SIZES, **PIECES)


def mistral(n: int) -> PretrainedConfig:
    return MistralConfig(vocab_size=n, num_key_value_heads=2, sliding_window=4, **SIZES, **PIECES)


def modernbert(n: int) -> PretrainedConfig:
    special = {"cls_token_id": 0, "sep_token_id": 2, "pad_token_id": 1}
    return ModernBertConfig(vocab_size=n, local_attention=4, global_attn_every_n_layers=3, **special, **SIZES, **PIECES)


def deberta(n: int) -> PretrainedConfig:
    """With relative positions and a convolution after the first layer, as the largest have it."""
    relative = {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm"}
    return DebertaV2Config(
        vocab_size=n, conv_kernel_size=3, conv_act="gelu", **relative, **SIZES, max_position_embeddings=MAX_PIECES
    )


def bert(n: int) -> PretrainedConfig:
    return BertConfig(vocab_size=n, **SIZES, max_position_embeddings=MAX_PIECES)


def roberta(n: int) -> PretrainedConfig:
    return RobertaConfig(vocab_size=n, **SIZES, max_position_embeddings=MAX_PIECES + 2, type_vocab_size=1)


MODELS: dict[str, Callable[[int], PretrainedConfig]] = {
    "gpt2": gpt2,
    "llama": llama,
    "neox": neox,
    "qwen2": qwen2,
    "mistral": mistral,
    "modernbert": modernbert,
    "deberta": deberta,
    "bert": bert,
    "roberta": roberta,
}
DECODERS = ("gpt2", "llama", "neox", "qwen2", "mistral")
WITH_FIRST_PIECE = ("llama", "mistral")
"""Decoders whose tokenizer puts a piece before each text; those of other decoders put none."""


def make_model(config: PretrainedConfig) -> PreTrainedModel:
    """A whole model with the same random weights in every run, large enough that layers differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return model


def make_tokenizer(kind: str) -> Tokenizer:
    """Bytes and merges; the pieces 0, 1 and 2 stand for the beginning, for padding and for the end."""
    tokenizer = byte_pairs()
    if kind in WITH_FIRST_PIECE:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    elif kind in DECODERS:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def save_language_model(path: Path, kind: str) -> Path:
    """Save a model as it is released: decoders with the head that predicts the next piece."""
    tokenizer = make_tokenizer(kind)
    config = MODELS[kind](tokenizer.get_vocab_size())
    model = make_model(config)
    if kind in DECODERS:
        whole = AutoModelForCausalLM.from_config(config)
        whole.base_model.load_state_dict(model.state_dict())
        model = whole
    model.save_pretrained(path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    return path
