"""Tiny random encoder-decoders of `transformers`, with the tokenizers that their kinds have, and what tests ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartTokenizerFast,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5TokenizerFast,
)

from entitykit.bridge.genre import pad_sources, write
from entitykit.bridge.genre_tasks import GenreSettings
from entitykit.bridge.genre_text import GenreText
from entitykit.bridge.seq2seq import build_seq2seq, load_seq2seq
from entitykit.bridge.shim import TorchShim
from entitykit.decoding.beams import Beam
from entitykit.decoding.genre import State
from entitykit.models.genre import Seq2Seq
from tests.util import CHARACTERS, ENDINGS, WORDS, byte_pairs

NAMES = ["New York", "New York City", "York", "The [River]", "Thames", "the", "Ada", "Ada Lovelace", "A{d}a", "東京"]
TEXT = (
    "In 1833 Ada met the [first] engineer of New York's river company in { London }. They didn't stay. 東京 is far \u00a0 away!"
)
SETTINGS = GenreSettings(context=96, passage=24, output=100, batch_tokens=500)


WIDTH, N_LAYERS = 16, 2
MAX_PIECES = 256
MARKS = ("{", "}", "[", "]")


def save_bart(path: Path, *, scale: float = 1.0) -> Path:
    """Save a BART, whose pieces are bytes and merges of them; each mark has a piece of its own after a space."""
    tokenizer = byte_pairs([*(("Ġ", mark) for mark in (*MARKS, "(", "t")), ("h", "e"), ("i", "n"), ("Ġt", "he"), ("e", "r")])
    fast = BartTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_PIECES)
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=WIDTH,
        encoder_layers=N_LAYERS,
        decoder_layers=N_LAYERS,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=MAX_PIECES,
        dropout=0.0,
        attention_dropout=0.0,
    )
    return save(path, config, fast, scale)


def save_t5(path: Path, *, scale: float = 1.0) -> Path:
    """Save a T5, whose pieces are those of a unigram model."""
    tokenizer = unigrams()
    fast = T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0)
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        d_model=WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=N_LAYERS,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    return save(path, config, fast, scale)


def save(path: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, scale: float) -> Path:
    """Save a model with the same random weights in every run, large enough that outputs differ."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config).eval()
        for parameter in model.parameters():
            parameter.data += scale * 0.2 * torch.randn(parameter.shape)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def unigrams() -> Tokenizer:
    """Make a T5 tokenizer; ▁ stands for a space."""
    special = ["<pad>", "</s>", "<unk>"]
    scored = dict.fromkeys(special, 0.0)
    scored |= dict.fromkeys(["▁", *CHARACTERS], -8.0)
    scored |= {piece: -6.0 for piece in ENDINGS if len(piece) > 1}
    scored |= {f"▁{word}": -4.0 for word in (*WORDS, *MARKS)}
    tokenizer = Tokenizer(models.Unigram(list(scored.items()), unk_id=2, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


class Generator(NamedTuple):
    shim: TorchShim
    text: GenreText

    @property
    def module(self) -> Seq2Seq:
        module = self.shim.module
        assert isinstance(module, Seq2Seq)
        return module

    def write(self, sources: Sequence[Sequence[int]], states: Sequence[State], **settings: Any) -> list[list[Beam]]:
        defaults = {"width": 50, "n_best": 50, "length_penalty": 0.0, "budget": 10_000}
        return write(self.shim, sources, states, **{**defaults, **settings})

    @torch.no_grad()
    def score(self, source: Sequence[int], output: Sequence[int]) -> float:
        """By one pass over the whole output, without what beam search keeps."""
        ids, mask = pad_sources([source], 0, self.shim.device)
        log_p = self.module(ids, mask, torch.tensor([output])).double().log_softmax(-1)[0]
        return float(log_p[torch.arange(len(output)), torch.tensor(output)].sum())


def make_generator(kind: str, path: Path) -> Generator:
    """One of the two with larger random weights, so that outputs differ much."""
    module, settings = load_seq2seq(str((save_bart if kind == "bart" else save_t5)(path, scale=0.3)))
    shim = TorchShim(build_seq2seq, group="encoder")
    shim.adopt(module, settings)
    return Generator(shim, GenreText(settings))


def sources(generator: Generator) -> list[list[int]]:
    pieces = generator.text.read(TEXT, markup=False)
    edges = [(TEXT.index(mention), TEXT.index(mention) + len(mention)) for mention in ("Ada", "New York", "river")]
    return [generator.text.context(TEXT, pieces, *edge, size, SETTINGS.marks)[0] for edge in edges for size in (64, 96)]
