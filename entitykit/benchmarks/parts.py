"""What a benchmark is made of: parts, each of which measures some figures under the same settings."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from entitykit.errors import error

CONFIGS = Path(__file__).parents[2] / "configs"
"""The training configs, which are in the repository and not in the installed package."""


class Figure(NamedTuple):
    """A measured number.

    Attributes:
        value: the median of several rounds, or the mean of several seeds.
        low: the least of them.
        high: the greatest of them.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a benchmark runs with.

    Attributes:
        data: the folder with the corpora; None where the benchmark can do without.
        work: a folder that keeps what was trained and measured, so that a run that was cut off goes on; None: it starts anew.
        configs: the folder with the training configs.
        quick: measure on less data.
        seeds: one training each.
        max_steps: steps of a training; 0 for those of the config.
        encoder: settings of `entitykit.EntityEncoder.v1`; `name` is the checkpoint.
    """

    data: Path | None = None
    work: Path | None = None
    configs: Path = CONFIGS
    quick: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    max_steps: int = 0
    encoder: Mapping[str, Any] = field(default_factory=lambda: {"name": "minilm"})


class Result(NamedTuple):
    """What a part measured.

    Attributes:
        figures: by key.
        details: sizes, rates and single runs behind the figures, as JSON values.
    """

    figures: Mapping[str, Figure]
    details: Mapping[str, Any]


class Part(NamedTuple):
    """A piece of a benchmark that runs as a whole or not at all.

    Attributes:
        keys: the figures that it gives.
        measure: runs it.
        in_quick: whether the quick form runs it, where no figures are chosen.
        on_request: whether it runs only where one of its figures is chosen: it needs a package that entitykit does not, a
            checkpoint of another kind, or trainings where the others need none.
    """

    keys: tuple[str, ...]
    measure: Callable[[Settings], Result]
    in_quick: bool = True
    on_request: bool = False


def find_files(settings: Settings, pattern: str) -> list[Path]:
    """Find files of the data folder, sorted by path.

    Args:
        settings: with the folder.
        pattern: such as `novels/*.txt`.

    Raises:
        InputError: E440 without a data folder or with one that does not exist, E441 where no file fits.
    """
    if settings.data is None or not settings.data.is_dir():
        raise error("E440", found=settings.data, pattern=pattern)
    found = sorted(settings.data.glob(pattern))
    if not found:
        raise error("E441", folder=settings.data, pattern=pattern)
    return found


def mean(values: Sequence[float]) -> Figure:
    """The mean of several runs, and their range."""
    return Figure(sum(values) / len(values), min(values), max(values))


def progress(text: str) -> None:
    """Tell whoever waits what is being measured now."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
