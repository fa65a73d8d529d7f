"""The table of benchmarks, and one way to run them all."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from entitykit.benchmarks.parts import Figure, Part, Settings
from entitykit.errors import error

BENCHMARKS = {
    "encoder": "speed of the shared encoder against transformers and spacy-transformers",
    "longdoc": "time and memory on documents of up to 100,000 words",
    "ner": "named entities of CoNLL04, SciERC and WNUT-17, beside SpERT's and spaCy's components",
    "relations": "entities and relations of CoNLL04 and SciERC in one joint run, what each part is good for, and given pairs",
    "injection": "where entity states come from: pooled from words, or tokens that begin in some layer",
    "mentions": "recall of the mentions of GUM and LitBank",
    "trie": "size and speed of six million names in a compact token trie",
    "linking": "linking to WordNet's entities with a bi-encoder, and baselines on BC5CDR, WikiFair and NewsFair",
    "coref": "coreference of LitBank and GUM, pronouns of GAP, and entities that are asked for by name",
    "cross_document": "entities of ECB+ across documents, at once and one document after the other, beside their names",
    "salience": "salient entities of Wikinews and GUM, beside frequency and first position, and a cross-encoder",
    "tracking": "what happens to the participants of ProPara's procedures, and the world of boxes",
    "index": "the nearest of 5.9 million entity vectors: time, recall, size",
}
"""What each module `entitykit.benchmarks.NAME` measures, in its `PARTS`."""


class Report(NamedTuple):
    """A benchmark's outcome; JSON values but for the figures.

    Attributes:
        benchmark: its name.
        figures: by key.
        settings: what it ran with, and details behind the figures.
        machine: see `entitykit.benchmarks.machine`.
        versions: of Python and the libraries.
    """

    benchmark: str
    figures: dict[str, Figure]
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values: one number per key, the ranges among the settings."""
        ranges = {key: [figure.low, figure.high] for key, figure in self.figures.items()}
        return {
            **self._asdict(),
            "figures": {key: figure.value for key, figure in self.figures.items()},
            "settings": {**self.settings, "ranges": ranges},
        }


def run_benchmark(name: str, settings: Settings, *, only: Collection[str] = ()) -> Report:
    """Measure a benchmark's figures.

    Args:
        name: a key of `BENCHMARKS`.
        settings: what it runs with.
        only: the figures wanted; empty for all.

    Raises:
        InputError: E440 to E442 for missing data, E443 for a figure that the benchmark does not have.
        ConfigError: E006 if the checkpoint's package is missing, E444 for a missing config, E445 if a training fails, E446 and
            E447 if memory cannot be measured, E448 if a package to compare with is missing.
    """
    parts: list[Part] = import_module(f"entitykit.benchmarks.{name}").PARTS
    known = [key for part in parts for key in part.keys]
    for key in only:
        if key not in known:
            raise error("E443", name=name, found=key, expected=", ".join(known))
    from entitykit.benchmarks.machine import describe_machine, versions  # here, because it imports torch

    machine = describe_machine()  # first, for the load that was there before
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    for part in parts:
        if set(only) & set(part.keys) if only else not part.on_request and (part.in_quick or not settings.quick):
            result = part.measure(settings)
            figures.update((key, figure) for key, figure in result.figures.items() if not only or key in only)
            details.update(result.details)
    return Report(name, figures, {**_as_json(settings), "only": sorted(only), **details}, machine, versions())


def _as_json(settings: Settings) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settings).items()}
