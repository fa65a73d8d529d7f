"""A small world: eight invented entities, and sentences from which each can be told though its names are shared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from entitykit.pretraining.settings import PretrainSettings, make_settings

Record = dict[str, Any]

FACTS = {
    "Orla Finch (engineer)": ("Finch", "{} drew the plan of a stone bridge"),
    "Orla Finch (singer)": ("Finch", "{} sang three old ballads at night"),
    "Brindle Bay": ("Brindle", "boats lie at anchor in {} all winter"),
    "Brindle (horse)": ("Brindle", "{} won the race and ate the oats"),
    "Cobalt Society": ("the society", "members pay dues to {} every spring"),
    "Chess Society of Ulm": ("the society", "grandmasters of {} play at the board"),
    "Mount Perrin": ("Perrin", "snow covers the summit of {} in June"),
    "Jules Perrin": ("Perrin", "the verses of {} rhyme without fail"),
}
OPENINGS = ["", "they say that ", "in the book ", "as we know "]


def record(text: str, *links: tuple[str, str]) -> Record:
    """Text with links from the first place of a mention to its entity."""
    return {"text": text, "links": [[text.index(name), text.index(name) + len(name), title] for name, title in links]}


def sentences() -> list[Record]:
    """Every fact with every opening."""
    return [record(opening + fact.format(name), (name, title)) for opening in OPENINGS for title, (name, fact) in FACTS.items()]


def write(path: Path, records: Sequence[Record]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


def small(corpus: Path, checkpoint: Path, output: Path, **changes: Any) -> PretrainSettings:
    """Settings for a tiny checkpoint."""
    values = {
        "corpus": str(corpus),
        "checkpoint": str(checkpoint),
        "output": str(output),
        "language": "xx",
        "inject_layer": 1,
        "window": 64,
        "max_word_pieces": 20,
        "steps": 6,
        "batch_size": 8,
        "pass_size": 4,
        "learn_rate": 3e-3,
        "warmup_steps": 2,
        "save_every": 3,
        "mask_entities": 0.5,
        "bf16": False,
    }
    return make_settings(values | changes)
