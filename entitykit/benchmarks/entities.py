"""What entity tokens cost: beside the words-only pass, and beside `transformers.LukeModel` with the same weights.

LUKE is random here, in the sizes of LUKE-base without its entity vocabulary: what a pass costs does not depend on what it says.
Windows have up to 512 pieces and up to 128 entities. Memory is the peak of a process of its own, above the loaded model.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from spacy.training.batchers import minibatch_by_words
from torch import Tensor

from entitykit.benchmarks.memory import STATUS, resident, watch
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, progress
from entitykit.benchmarks.pipelines import ENCODER, encoder_pipeline
from entitykit.benchmarks.texts import mixed_texts
from entitykit.benchmarks.timing import in_turn, rate, ratio
from entitykit.errors import error
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.families import convert_weights, settings_from_config
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.types import ENTITIES, TOP

HUB_BATCH = 8
LUKE_BASE = {"vocab_size": 50267, "entity_vocab_size": 4, "type_vocab_size": 1, "max_position_embeddings": 514}
LUKE_SMALL = LUKE_BASE | {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
LUKE = Injection(inject_layer=0, words_see_entities=True, entities_see_entities=True)


class Size(NamedTuple):
    """How much is measured: words of all texts, windows for LUKE, and rounds."""

    n_words: int
    n_windows: int
    rounds: int


FULL = Size(15_000, 24, 5)
QUICK = Size(2_000, 6, 3)


class Mention(NamedTuple):
    """A window's entity: its first piece and its end."""

    start: int
    end: int


class Sample(NamedTuple):
    """A window: its pieces and its entities."""

    ids: Tensor
    mentions: list[Mention]


def measure_cost(settings: Settings) -> Result:
    """Compare passes with 0.3 entity tokens per word, the probe's proposals, with the pass that reads words only."""
    size = QUICK if settings.quick else FULL
    texts = mixed_texts(settings, size.n_words)
    plain = encoder_pipeline(settings)
    encoder = cast(TransformerEncoder, plain.get_pipe(ENCODER).model.shims[0].module)  # type: ignore[attr-defined]
    middle = encoder.settings.n_layers // 2
    forms = {
        "reading": {"inject_layer": middle},
        "seen": {"inject_layer": middle, "words_see_entities": True, "entities_see_entities": True},
        "luke": {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True},
    }
    docs = [plain.make_doc(text) for text in texts]
    batches = list(minibatch_by_words(docs, 8192, tolerance=0.0, get_length=len))
    models = {"words": plain.get_pipe(ENCODER).model}  # type: ignore[attr-defined]
    for name, form in forms.items():
        with_tokens = encoder_pipeline(
            replace(settings, encoder={**settings.encoder, "entities": {"@misc": "entitykit.Entities.v1", **form}})
        )
        models[name] = with_tokens.get_pipe(ENCODER).model  # type: ignore[attr-defined]
        models[name].attrs["layers"] = [TOP, ENTITIES]
    progress(f"entity tokens: {len(texts)} texts, {sum(map(len, docs)):,} words, {size.rounds} rounds")
    sides = {name: partial(_predict, model, batches) for name, model in models.items()}
    seconds = in_turn(sides, rounds=size.rounds)
    figures = {
        "entity_token_cost": ratio(seconds["reading"], seconds["words"]),
        "entity_token_cost_seen": ratio(seconds["seen"], seconds["words"]),
        "entity_token_cost_luke": ratio(seconds["luke"], seconds["words"]),
        "entity_words_per_s": rate(sum(map(len, docs)), seconds["reading"]),
    }
    return Result(figures, {"entity_tokens": {"seconds": seconds}})


def _predict(model: Any, batches: Sequence[Sequence[Any]]) -> None:
    for batch in batches:
        model.predict(batch)


def measure_luke(settings: Settings) -> Result:
    """Compare with `transformers.LukeModel`, in speed and in memory."""
    if not STATUS.exists():
        raise error("E446", path=STATUS)
    size = QUICK if settings.quick else FULL
    sides = luke_sides(quick=settings.quick, n_windows=size.n_windows)
    progress(f"LUKE: {size.n_windows} windows, {size.rounds} rounds")
    seconds = in_turn(sides, rounds=size.rounds)
    peaks = {side: _peak_elsewhere(side, settings) for side in sides}
    memory = peaks["entitykit"] / peaks["transformers"]
    figures = {
        "vs_hf_luke_speed": ratio(seconds["transformers"], seconds["entitykit"]),
        "vs_hf_luke_memory": Figure(memory, memory, memory),
    }
    return Result(figures, {"luke": {"seconds": seconds, "peak_mb": {side: peak / 2**20 for side, peak in peaks.items()}}})


def luke_sides(*, quick: bool, n_windows: int) -> dict[str, Callable[[], None]]:
    """Both passes over the same windows with the same weights.

    Args:
        quick: a small model instead of one of LUKE-base's size.
        n_windows: windows of mixed lengths, 64 to 512 pieces, with an entity for every fourth piece.
    """
    from transformers import LukeConfig, LukeModel

    torch.manual_seed(0)
    hub = LukeModel(LukeConfig(**(LUKE_SMALL if quick else LUKE_BASE))).eval()
    config = hub.config.to_dict()
    settings = settings_from_config(config, name="LUKE", injection=LUKE)
    encoder = TransformerEncoder(settings).eval()
    encoder.load_state_dict(encoder.state_dict() | convert_weights(hub.state_dict(), config, settings, name="LUKE"))
    samples = [_sample(int(length)) for length in torch.linspace(64, 512, n_windows)[torch.randperm(n_windows)]]
    ours = [_as_pack(samples[start : start + HUB_BATCH]) for start in range(0, n_windows, HUB_BATCH)]
    theirs = [_as_hub_batch(samples[start : start + HUB_BATCH]) for start in range(0, n_windows, HUB_BATCH)]
    return {"entitykit": partial(_run_ours, encoder, ours), "transformers": partial(_run_theirs, hub, theirs)}


def _run_ours(encoder: TransformerEncoder, packs: Sequence[tuple[Pack, EntityPack]]) -> None:
    with torch.no_grad():
        for pack, entities in packs:
            encoder.with_entities(pack, [encoder.settings.n_layers], lambda _, entities=entities: entities)  # type: ignore[misc]


def _run_theirs(hub: Any, batches: Sequence[dict[str, Tensor]]) -> None:
    with torch.no_grad():
        for batch in batches:
            hub(**batch)


def _sample(length: int) -> Sample:
    starts = torch.randint(0, length - 4, (length // 4,)).tolist()
    widths = torch.randint(1, 5, (length // 4,)).tolist()
    return Sample(
        torch.randint(4, 50000, (length,)), [Mention(start, start + width) for start, width in zip(starts, widths, strict=True)]
    )


def _as_pack(samples: Sequence[Sample]) -> tuple[Pack, EntityPack]:
    samples = sorted(samples, key=lambda sample: len(sample.ids))
    lengths = [len(sample.ids) for sample in samples]
    pack = Pack(
        torch.cat([sample.ids for sample in samples]),
        torch.cat([torch.arange(length) for length in lengths]),
        torch.zeros(sum(lengths), dtype=torch.long),
        tuple(lengths),
    )
    rows: list[int] = []
    offsets: list[int] = []
    first = 0
    for sample, length in zip(samples, lengths, strict=True):
        for mention in sample.mentions:
            offsets.append(len(rows))
            rows.extend(range(first + mention.start, first + mention.end))
        first += length
    counts = tuple(len(sample.mentions) for sample in samples)
    return pack, EntityPack(torch.full((sum(counts),), 2), torch.tensor(rows), torch.tensor(offsets), counts)


def _as_hub_batch(samples: Sequence[Sample]) -> dict[str, Tensor]:
    longest = max(len(sample.ids) for sample in samples)
    most = max(len(sample.mentions) for sample in samples)
    batch = {
        "input_ids": torch.ones(len(samples), longest, dtype=torch.long),
        "attention_mask": torch.zeros(len(samples), longest, dtype=torch.long),
        "entity_ids": torch.zeros(len(samples), most, dtype=torch.long),
        "entity_attention_mask": torch.zeros(len(samples), most, dtype=torch.long),
        "entity_position_ids": torch.full((len(samples), most, 30), -1),
    }
    for i, sample in enumerate(samples):
        batch["input_ids"][i, : len(sample.ids)] = sample.ids
        batch["attention_mask"][i, : len(sample.ids)] = 1
        batch["entity_ids"][i, : len(sample.mentions)] = 2
        batch["entity_attention_mask"][i, : len(sample.mentions)] = 1
        for j, (start, end) in enumerate(sample.mentions):
            batch["entity_position_ids"][i, j, : end - start] = torch.arange(start, end)
    return batch


def _peak_elsewhere(side: str, settings: Settings) -> int:
    """A side's peak of memory, in a process of its own."""
    command = [sys.executable, "-m", "entitykit.benchmarks.entities", side, *(["quick"] if settings.quick else [])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise error("E447", command=" ".join(command), status=run.returncode, output=run.stderr[-2000:])
    return int(json.loads(run.stdout.splitlines()[-1]))


def peak(side: str, *, quick: bool) -> int:
    """Bytes that a side takes above the loaded models and their input."""
    run = luke_sides(quick=quick, n_windows=HUB_BATCH)[side]
    before = resident().anonymous
    with watch() as seen:
        run()
    return max(each.anonymous for each in seen) - before


PARTS = [
    Part(("entity_token_cost", "entity_token_cost_seen", "entity_token_cost_luke", "entity_words_per_s"), measure_cost),
    Part(("vs_hf_luke_speed", "vs_hf_luke_memory"), measure_luke),
]

if __name__ == "__main__":
    print(json.dumps(peak(sys.argv[1], quick="quick" in sys.argv[2:])))
