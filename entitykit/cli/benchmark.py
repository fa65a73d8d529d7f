"""`entitykit benchmark`: measure quality or speed, print a table, and write the figures as JSON."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable
from pathlib import Path

from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.table import BENCHMARKS, Report, run_benchmark
from entitykit.errors import error

DESCRIPTION = """Run a benchmark and print its figures. Ratios are measured in one run, the two sides in turn. Beside a median
over rounds, or a mean over seeds, stands its range."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["benchmarks:", *(f"  {name:<9} {summary}" for name, summary in BENCHMARKS.items())])
    parser.add_argument("name", choices=list(BENCHMARKS), metavar="NAME", help="one of: " + ", ".join(BENCHMARKS))
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with the corpora; encoder and longdoc can do without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures, settings, machine and versions")
    parser.add_argument("--quick", action="store_true", help="the same on less data, in about a minute; not to be reported")
    parser.add_argument(
        "--seeds", type=whole_numbers, default=(0, 1, 2), metavar="N,…", help="one training for each (default: 0,1,2)"
    )
    parser.add_argument("--only", type=keys, default=(), metavar="KEY,…", help="measure only these figures")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep corpora and results of trainings there, and go on with what is there"
    )
    parser.add_argument("--max-steps", type=int, default=0, metavar="N", help="steps of a training (default: the config's)")
    parser.add_argument("--checkpoint", default="minilm", metavar="NAME", help="name or path (default: %(default)s)")
    parser.add_argument("--configs", type=Path, default=CONFIGS, metavar="DIR", help="folder with the training configs")


def run(args: argparse.Namespace) -> int:
    """Run a benchmark; 0 if all of it was measured.

    Raises:
        EntityKitError: E425 if the JSON file cannot be written, E428 for an option that cannot work, E440 to E448 from
            `run_benchmark`.
    """
    if args.max_steps < 0:
        raise error("E428", option="--max-steps", found=args.max_steps, expected="1 or more")
    if args.json is not None:
        _check_writable(args.json)
    settings = Settings(
        data=args.data,
        work=args.work,
        configs=args.configs,
        quick=args.quick,
        seeds=args.seeds,
        max_steps=args.max_steps,
        encoder={"name": args.checkpoint},
    )
    report = run_benchmark(args.name, settings, only=args.only)
    for line in table(report):
        print(line)
    if args.json is not None:
        write_json(args.json, report)
    return 0


def table(report: Report) -> Iterable[str]:
    """The lines to print: what ran where, and a figure per line with its range."""
    machine = report.machine
    yield f"benchmark {report.benchmark} on {machine['cpu']}, {machine['threads']} threads, load {machine['load']}"
    if report.settings["quick"]:
        yield "--quick: less data than the figures are about"
    width = max((len(key) for key in report.figures), default=0)
    for key, figure in report.figures.items():
        value, low, high = _number(figure.value), _number(figure.low), _number(figure.high)
        yield f"{key:<{width}}  {value:>10}" + (f"  {low} – {high}" if figure.low < figure.high else "")


def write_json(path: Path, report: Report) -> None:
    """Write a report.

    Raises:
        OutputError: E425 if it cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(unfinished, path)
    except OSError as problem:
        unfinished.unlink(missing_ok=True)
        raise error("E425", path=path, reason=problem.strerror) from problem


def _check_writable(path: Path) -> None:
    """Refuse a place that cannot be written before hours are spent."""
    if path.is_dir():
        raise error("E426", path=path)
    if not os.access(path.parent, os.W_OK):
        raise error("E425", path=path, reason="its folder is missing or read-only")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"


def whole_numbers(text: str) -> tuple[int, ...]:
    """Read `0,1,2`."""
    return tuple(int(part) for part in text.split(","))


def keys(text: str) -> tuple[str, ...]:
    """Read `words_per_s,vs_padded`."""
    return tuple(part.strip() for part in text.split(","))
