"""How fast the shared encoder reads text of mixed lengths.

Against `transformers` with the same weights, tokenization is left out on both sides: there from piece ids, padded beforehand,
to hidden states; here from documents whose words were all tokenized before to the states of words. Looking up their pieces,
cutting windows, packing and pooling are in our time. Against the stock `transformer` component both pipelines start from text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.training.batchers import minibatch_by_words
from thinc.api import Optimizer
from torch import Tensor

from entitykit.benchmarks import entities
from entitykit.benchmarks.parts import Part, Result, Settings, progress
from entitykit.benchmarks.pipelines import ENCODER, encoder_pipeline, entity_pipeline, stock_pipeline
from entitykit.benchmarks.texts import mixed_texts
from entitykit.benchmarks.timing import in_turn, rate, ratio
from entitykit.bridge.checkpoints import find_checkpoint
from entitykit.bridge.packs import make_packs
from entitykit.bridge.windows import cut_windows
from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.models.linear import has_bf16_products, linear

PADDED_BATCH = 128
SORTED_BATCH = 32
PIPE_BATCH = 128  # documents, as in spaCy's own transformer configs
TRAIN_BATCH = 8


class Size(NamedTuple):
    """How much is measured: words of all texts, and rounds."""

    n_words: int
    rounds: int


FULL = Size(15_000, 5)
QUICK = Size(2_500, 3)


class HubBatch(NamedTuple):
    """A batch as `transformers` takes it, *(texts, pieces of the longest text)* each."""

    input_ids: Tensor
    attention_mask: Tensor


def measure_model(settings: Settings) -> Result:
    """Compare the encoder with `transformers` and with the machine's matrix products."""
    size = QUICK if settings.quick else FULL
    texts = mixed_texts(settings, size.n_words)
    nlp = encoder_pipeline(settings)
    model = nlp.get_pipe(ENCODER).model  # type: ignore[attr-defined]
    batch_words = nlp.get_pipe(ENCODER).batch_words  # type: ignore[attr-defined]
    docs = [nlp.make_doc(text) for text in texts]
    batches = list(minibatch_by_words(docs, batch_words, tolerance=0.0, get_length=len))
    encoder = cast(TransformerEncoder, model.shims[0].module)
    packs = [pack for batch in batches for pack in _packs(model, batch)]
    inputs = _inputs(encoder, max(len(pack.ids) for pack in packs))
    hub, encoded = _hub_model(settings, texts, longest=encoder.settings.n_positions - encoder.settings.first_position)
    padded = _hub_batches(hub, encoded, PADDED_BATCH)
    by_length = _hub_batches(hub, sorted(encoded, key=len), SORTED_BATCH)
    progress(f"encoder: {len(texts)} texts, {sum(map(len, docs)):,} words, {size.rounds} rounds")
    with torch.no_grad():
        seconds = in_turn(
            {
                "entitykit": lambda: [model.predict(batch) for batch in batches],
                "padded": lambda: [hub(**batch._asdict()) for batch in padded],
                "sorted": lambda: [hub(**batch._asdict()) for batch in by_length],
                "torch.mm": partial(_products, encoder, packs, inputs, onednn=False),
                "oneDNN": partial(_products, encoder, packs, inputs, onednn=True),
            },
            rounds=size.rounds,
        )
    return _compare_models(docs, encoded, packs, encoder.settings, seconds)


def _compare_models(
    docs: Sequence[Doc],
    encoded: Sequence[Sequence[int]],
    packs: Sequence[Pack],
    settings: EncoderSettings,
    seconds: dict[str, list[float]],
) -> Result:
    n_words = sum(map(len, docs))
    lengths = [length for pack in packs for length in pack.lengths]
    of_products = linear_operations(sum(lengths), settings)
    of_encoder = of_products + attention_operations(lengths, settings)
    # FLOP/s of the encoder over those of products alone: the times' ratio, weighted by what was computed in them
    share = of_encoder / of_products
    figures = {
        "words_per_s": rate(n_words, seconds["entitykit"]),
        "padded_words_per_s": rate(n_words, seconds["padded"]),
        "sorted_words_per_s": rate(n_words, seconds["sorted"]),
        "vs_padded": ratio(seconds["padded"], seconds["entitykit"]),
        "vs_sorted": ratio(seconds["sorted"], seconds["entitykit"]),
        "of_matmul_rate": ratio([share * time for time in seconds["torch.mm"]], seconds["entitykit"]),
        "of_onednn_rate": ratio([share * time for time in seconds["oneDNN"]], seconds["entitykit"]),
        "onednn_vs_mkl": ratio(seconds["torch.mm"], seconds["oneDNN"]),
    }
    pieces = [len(ids) for ids in encoded]
    details = {
        "texts": {**_distribution([len(doc) for doc in docs]), "pieces_per_word": round(sum(pieces) / n_words, 3)},
        "padded_share_of_real_pieces": round(_real_share(pieces, PADDED_BATCH), 3),
        "pieces_in_packs": sum(lengths),
        "pieces_read_twice": sum(lengths) - sum(pieces),
        "rows_of_packs": sorted({sum(pack.lengths) for pack in packs}),
        "gflop": of_encoder / 1e9,
        "gflops_encoder": rate(of_encoder / 1e9, seconds["entitykit"]).value,
        "gflops_torch_mm": rate(of_products / 1e9, seconds["torch.mm"]).value,
        "gflops_onednn": rate(of_products / 1e9, seconds["oneDNN"]).value,
        "seconds": {name: [round(time, 4) for time in times] for name, times in seconds.items()},
    }
    return Result(figures, {"model": details})


def measure_pipeline(settings: Settings) -> Result:
    """Compare a pipeline of the shared encoder with one of the stock `transformer` component, from text to `doc._.trf_data`."""
    size = QUICK if settings.quick else FULL
    texts = mixed_texts(settings, size.n_words)
    ours, stock = encoder_pipeline(settings), stock_pipeline(settings)
    n_words = sum(len(ours.make_doc(text)) for text in texts)
    progress(f"pipeline: {len(texts)} texts, {n_words:,} words, {size.rounds} rounds")
    seconds = in_turn(
        {"entitykit": partial(_pipe, ours, texts), "spacy-transformers": partial(_pipe, stock, texts)}, rounds=size.rounds
    )
    figures = {
        "pipeline_words_per_s": rate(n_words, seconds["entitykit"]),
        "spacy_transformers_words_per_s": rate(n_words, seconds["spacy-transformers"]),
        "vs_spacy_transformers": ratio(seconds["spacy-transformers"], seconds["entitykit"]),
    }
    return Result(figures, {"pipeline": {"batch_size": PIPE_BATCH, "words": n_words, "seconds": seconds}})


def measure_training(settings: Settings) -> Result:
    """Compare updates of encoder, mentions and entities whose products are made in bfloat16 with those in float32."""
    size = QUICK if settings.quick else FULL
    texts = mixed_texts(settings, size.n_words // 3)
    sides = {}
    for name, bf16 in (("float32", False), ("bfloat16", True)):
        nlp = entity_pipeline(replace(settings, encoder={**settings.encoder, "bf16": bf16}))
        examples = [Example.from_dict(nlp.make_doc(text), {"entities": []}) for text in texts]
        sides[name] = partial(_update, nlp, examples, nlp.resume_training())
    n_words = sum(len(eg.reference) for eg in examples)
    progress(f"training: {len(texts)} texts, {n_words:,} words, {size.rounds} rounds")
    seconds = in_turn(sides, rounds=size.rounds)
    figures = {
        "train_words_per_s": rate(n_words, seconds["float32"]),
        "train_words_per_s_bf16": rate(n_words, seconds["bfloat16"]),
        "bf16_train_speed": ratio(seconds["float32"], seconds["bfloat16"]),
    }
    details = {"batch_size": TRAIN_BATCH, "words": n_words, "has_bf16_products": has_bf16_products(), "seconds": seconds}
    return Result(figures, {"training": details})


def linear_operations(n_pieces: int, settings: EncoderSettings) -> float:
    """Additions and multiplications in the linear layers: query, key, value, output, and the feed-forward part."""
    return 2.0 * n_pieces * settings.n_layers * (4 * settings.width**2 + 2 * settings.width * settings.inner_width)


def attention_operations(lengths: Sequence[int], settings: EncoderSettings) -> float:
    """Additions and multiplications in the two products of attention, over sequences of the given numbers of pieces."""
    return 4.0 * settings.n_layers * settings.width * sum(length**2 for length in lengths)


def _inputs(encoder: TransformerEncoder, n_rows: int) -> dict[int, Tensor]:
    """A random matrix of `n_rows` rows for every input size of the encoder's linear layers."""
    sizes = {module.in_features for module in encoder.modules() if isinstance(module, torch.nn.Linear)}
    return {n_in: torch.randn(n_rows, n_in) for n_in in sizes}


def _products(encoder: TransformerEncoder, packs: Sequence[Pack], inputs: dict[int, Tensor], *, onednn: bool) -> None:
    """Multiply as many rows by each of the encoder's matrices as these packs have pieces, and do nothing else."""
    for pack in packs:
        for module in encoder.modules():
            if isinstance(module, torch.nn.Linear):
                x = inputs[module.in_features][: len(pack.ids)]
                _ = linear(x, module.weight) if onednn else torch.mm(x, module.weight.t())


def _packs(model: Any, docs: Sequence[Doc]) -> list[Pack]:
    """The packs that the encoder makes of a batch."""
    splitter, reading = model.attrs["pieces"], model.attrs["reading"]
    pieces = splitter(docs)
    size = reading.window - splitter.n_special
    windows = cut_windows(pieces.counts, pieces.lengths, size=size, overlap=reading.overlap, ends=pieces.ends)
    packs = make_packs(pieces, windows, splitter, budget=reading.batch_pieces, device=torch.device("cpu"))
    return [layout.pack for layout in packs]


def _hub_model(settings: Settings, texts: Sequence[str], *, longest: int) -> tuple[Any, list[list[int]]]:
    """The model as `transformers` loads it, and the piece ids of each text."""
    from transformers import AutoModel, AutoTokenizer

    folder = find_checkpoint(settings.encoder["name"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    hub = AutoModel.from_pretrained(folder).eval()
    encoded = tokenizer(list(texts), truncation=True, max_length=longest)["input_ids"]
    return hub, encoded


def _hub_batches(hub: Any, encoded: Sequence[Sequence[int]], batch_size: int) -> list[HubBatch]:
    batches = []
    for start in range(0, len(encoded), batch_size):
        rows = [torch.tensor(ids) for ids in encoded[start : start + batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=hub.config.pad_token_id)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        batches.append(HubBatch(ids, mask))
    return batches


def _pipe(nlp: Language, texts: Sequence[str]) -> None:
    for _ in nlp.pipe(texts, batch_size=PIPE_BATCH):
        pass


def _update(nlp: Language, examples: Sequence[Example], optimizer: Optimizer) -> None:
    for start in range(0, len(examples), TRAIN_BATCH):
        nlp.update(examples[start : start + TRAIN_BATCH], sgd=optimizer)


def _real_share(lengths: Sequence[int], batch_size: int) -> float:
    """Share of the positions of padded batches that hold a piece."""
    batches = [lengths[start : start + batch_size] for start in range(0, len(lengths), batch_size)]
    return sum(lengths) / sum(len(batch) * max(batch) for batch in batches)


def _distribution(lengths: Sequence[int]) -> dict[str, int]:
    quantiles = np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1]).astype(int).tolist()
    return {"n": len(lengths), "words": sum(lengths), **dict(zip(("min", "q1", "median", "q3", "max"), quantiles, strict=True))}


PARTS = [
    Part(
        (
            "words_per_s",
            "padded_words_per_s",
            "sorted_words_per_s",
            "vs_padded",
            "vs_sorted",
            "of_matmul_rate",
            "of_onednn_rate",
            "onednn_vs_mkl",
        ),
        measure_model,
    ),
    Part(("pipeline_words_per_s", "spacy_transformers_words_per_s", "vs_spacy_transformers"), measure_pipeline),
    Part(("train_words_per_s", "train_words_per_s_bf16", "bf16_train_speed"), measure_training),
    *entities.PARTS,
]
