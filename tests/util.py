"""Tiny random checkpoints, saved as the Hub serves them: config.json, model.safetensors, tokenizer.json and its settings.

Their vocabularies hold the printable ASCII characters, common endings and a few words, so that most words split into several
pieces and ordinary English has no unknown ones.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertTokenizerFast,
    DistilBertConfig,
    DistilBertTokenizerFast,
    LukeConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaTokenizerFast,
)

WIDTH = 32
N_LAYERS = 2
N_HEADS = 4
HIDDEN = 64
MAX_PIECES = 128
"""Pieces in the longest sequence, special ones included."""

CHARACTERS = [*string.ascii_letters, *string.digits, *string.punctuation]
ENDINGS = ["s", "ed", "ing", "er", "es", "ly", "tion", "al", "on", "an", "en", "in", "or", "ar", "th", "st", "nd"]
MERGES = [("Ġ", "t"), ("h", "e"), ("i", "n"), ("Ġt", "he"), ("in", "g"), ("e", "r"), ("e", "d"), ("o", "n"), ("Ġ", "a")]
"""Pairs of bytes that are one piece; Ġ stands for a space."""
WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "a",
    "is",
    "was",
    "for",
    "at",
    "by",
    "with",
    "from",
    "The",
    "In",
    "New",
    "John",
    "river",
]


def save_bert(path: Path) -> Path:
    """Save an uncased BERT."""
    tokenizer = word_pieces(lowercase=True)
    fast = BertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=True, model_max_length=MAX_PIECES)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=MAX_PIECES,
    )
    return save(path, config, fast)


def save_distilbert(path: Path) -> Path:
    """Save a cased DistilBERT."""
    tokenizer = word_pieces(lowercase=False)
    fast = DistilBertTokenizerFast(tokenizer_object=tokenizer, do_lower_case=False, model_max_length=MAX_PIECES)
    config = DistilBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        dim=WIDTH,
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        hidden_dim=HIDDEN,
        max_position_embeddings=MAX_PIECES,
    )
    return save(path, config, fast)


def save_roberta(path: Path) -> Path:
    """Save a RoBERTa, whose pieces are bytes and merges of them."""
    return _save_with_byte_pairs(path, RobertaConfig)


def save_luke(path: Path) -> Path:
    """Save a LUKE with RoBERTa's kind of pieces; LUKE's own tokenizer is slow, but its files are RoBERTa's."""
    return _save_with_byte_pairs(path, LukeConfig, entity_vocab_size=5, entity_emb_size=16)


def _save_with_byte_pairs(path: Path, kind: type[PretrainedConfig], **sizes: int) -> Path:
    tokenizer = byte_pairs()
    fast = RobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_PIECES)
    config = kind(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=MAX_PIECES + 2,  # positions count from 2
        type_vocab_size=1,
        pad_token_id=1,
        **sizes,
    )
    return save(path, config, fast)


def save_xlmr(path: Path) -> Path:
    """Save an XLM-R, whose pieces are those of a unigram model."""
    tokenizer = unigrams()
    fast = XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_PIECES)
    config = XLMRobertaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        intermediate_size=HIDDEN,
        max_position_embeddings=MAX_PIECES + 2,  # positions count from 2
        type_vocab_size=1,
    )
    return save(path, config, fast)


def save(path: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Save a model with the same random weights in every run, and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModel.from_config(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def word_pieces(*, lowercase: bool) -> Tokenizer:
    """Make a BERT tokenizer."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *CHARACTERS, *WORDS, *(f"##{piece}" for piece in CHARACTERS + ENDINGS)]
    vocab = number(pieces)
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocab["[SEP]"]), ("[CLS]", vocab["[CLS]"]))
    return tokenizer


def byte_pairs(merges: Sequence[tuple[str, str]] = MERGES) -> Tokenizer:
    """Make a RoBERTa or BART tokenizer; Ġ stands for a space."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(merge) for merge in merges), "<mask>"]
    vocab = number(pieces)
    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocab["</s>"]), ("<s>", vocab["<s>"]), add_prefix_space=False
    )
    return tokenizer


def unigrams() -> Tokenizer:
    """Make an XLM-R tokenizer; ▁ stands for a space."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    scored = dict.fromkeys(special, 0.0)
    scored |= dict.fromkeys(["▁", *CHARACTERS], -8.0)
    scored |= {piece: -6.0 for piece in ENDINGS if len(piece) > 1}
    scored |= {f"▁{word}": -4.0 for word in WORDS}
    scored["<mask>"] = 0.0
    vocab = number(list(scored))
    tokenizer = Tokenizer(models.Unigram(list(scored.items()), unk_id=vocab["<unk>"], byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", vocab["<s>"]), ("</s>", vocab["</s>"])],
    )
    return tokenizer


def number(pieces: list[str]) -> dict[str, int]:
    """Give each distinct piece its number, in order."""
    return {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}


def can_multiply_in_bf16() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this processor, be it slowly."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
