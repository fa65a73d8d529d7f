"""What can be set in pretraining, and reading it from a JSON file."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from entitykit.corpora.files import read_json, typed
from entitykit.errors import error
from entitykit.models.encoder.settings import Injection


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """Settings of a pretraining run. Paths count from the working folder.

    Attributes:
        corpus: a file or folder in the format ``links``.
        checkpoint: as ``name`` of `entitykit.EntityEncoder.v1`, or the result of an earlier pretraining.
        output: folder for checkpoints, log and result.
        vocabulary: a file of entities; none: built from the corpus.
        vocabulary_size: entities to keep where it is built.
        language: whose spaCy tokenizer splits the text.
        inject_layer: the layer in whose states entity tokens begin; 0 is LUKE.
        words_see_entities: words attend to entity tokens.
        entities_see_entities: entity tokens attend to each other.
        word_shapes: as in `entitykit.EntityEncoder.v1`.
        n_layers: as in `entitykit.EntityEncoder.v1`.
        train: ``all``, or only what ``entities`` have to themselves, LUKE's first stage.
        window: most pieces of a text, special ones included.
        max_entities: most entity tokens of a window.
        max_word_pieces: pieces kept of one word.
        mask_words: share of words that are masked.
        mask_entities: share of entities that are masked.
        word_weight: of the loss of masked words; 0 for entities alone.
        entity_weight: of the loss of masked entities; 0 for words alone.
        steps: updates of the weights.
        batch_size: windows per step, over all devices.
        pass_size: windows that run through the encoder at once on one device; this bounds its memory.
        learn_rate: the highest.
        warmup_steps: steps in which the rate rises to the highest; it then falls to 0, both linearly.
        weight_decay: for matrices.
        beta2: decay of AdamW's second moment.
        grad_clip: largest norm of the gradient; 0 for no limit.
        seed: of all random numbers.
        save_every: steps between checkpoints.
        keep: checkpoints to keep.
        bf16: compute in bfloat16, on CUDA devices and on CPUs that have instructions for it.
        accelerate: run on all devices for which `accelerate launch` starts processes; otherwise on one.
    """

    corpus: str
    checkpoint: str
    output: str
    vocabulary: str | None = None
    vocabulary_size: int = 500_000
    language: str = "en"
    inject_layer: int = 3
    words_see_entities: bool = False
    entities_see_entities: bool = False
    word_shapes: bool | None = None
    n_layers: int | None = None
    train: str = "all"
    window: int = 256
    max_entities: int = 128
    max_word_pieces: int = 64
    mask_words: float = 0.15
    mask_entities: float = 0.15
    word_weight: float = 1.0
    entity_weight: float = 1.0
    steps: int = 100_000
    batch_size: int = 256
    pass_size: int = 32
    learn_rate: float = 1e-4
    warmup_steps: int = 2500
    weight_decay: float = 0.01
    beta2: float = 0.98
    grad_clip: float = 1.0
    seed: int = 0
    save_every: int = 1000
    keep: int = 2
    bf16: bool = True
    accelerate: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                expected = f"{low} to {high}" if high < _ANY else f"at least {low}"
                raise error("E130", setting=name, found=getattr(self, name), expected=expected)
        if self.train not in TRAINED:
            raise error("E130", setting="train", found=repr(self.train), expected=" or ".join(TRAINED))
        if not self.word_weight and not self.entity_weight:
            raise error("E130", setting="entity_weight", found="0, like word_weight", expected="one of them above 0")
        if not self.word_weight * self.mask_words and not self.entity_weight * self.mask_entities:
            setting = "mask_words" if self.word_weight else "mask_entities"
            raise error("E130", setting=setting, found=0, expected="above 0: nothing that is masked has a weight above 0")
        if self.max_word_pieces > self.window // 2:
            raise error("E130", setting="max_word_pieces", found=self.max_word_pieces, expected="at most half the window")

    @property
    def injection(self) -> Injection:
        """Where entity tokens begin and who sees whom; all spans are given, so there is no probe."""
        return Injection(
            inject_layer=self.inject_layer,
            words_see_entities=self.words_see_entities,
            entities_see_entities=self.entities_see_entities,
        )


_ANY = 10**12
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vocabulary_size", "max_entities", "max_word_pieces", "steps", "batch_size", "pass_size"), (1, _ANY)),
    **dict.fromkeys(("save_every", "keep"), (1, _ANY)),
    **dict.fromkeys(("warmup_steps", "weight_decay", "grad_clip", "seed", "word_weight", "entity_weight"), (0, _ANY)),
    **dict.fromkeys(("mask_words", "mask_entities", "beta2"), (0, 1)),
    "window": (8, _ANY),
    "learn_rate": (1e-12, 1),
}
TRAINED = ("all", "entities")
FREE = ("output", "save_every", "keep", "pass_size", "accelerate", "bf16")
"""Settings that may change when a training goes on: they say nothing of what is learned.

Which words and entities are hidden, and what is dropped out, is drawn for each pass of each process: with another `pass_size`
or another number of devices, these are others from there on, though as many.
"""


def read_settings(path: str | Path) -> PretrainSettings:
    """Read settings from a JSON object.

    Raises:
        CorpusError: E203 to E206 and E238 for a file that cannot be read.
        ConfigError: E130 for an unknown or missing setting, or a value of another type or out of range.
    """
    return make_settings(typed(read_json(Path(path)), dict, what="the settings", where=str(path)))


def make_settings(values: Mapping[str, Any]) -> PretrainSettings:
    """Make settings of JSON values; errors as `read_settings`."""
    hints = get_type_hints(PretrainSettings)
    for name, value in values.items():
        if name not in hints:
            raise error("E130", setting=name, found="set", expected=f"only: {', '.join(hints)}")
        kinds = get_args(hints[name]) if get_origin(hints[name]) is types.UnionType else (hints[name],)
        if not any(_fits(value, kind) for kind in kinds):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise error("E130", setting=name, found=repr(value), expected=expected)
    needed = [field.name for field in fields(PretrainSettings) if field.name in ("corpus", "checkpoint", "output")]
    for name in needed:
        if name not in values:
            raise error("E130", setting=name, found="missing", expected="a path or name")
    return PretrainSettings(**values)


def _fits(value: object, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
