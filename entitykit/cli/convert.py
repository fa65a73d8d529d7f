"""`entitykit convert`: turn an annotated corpus into a `.spacy` file for training."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import spacy
from spacy.language import Language

from entitykit.cli.outputs import open_output
from entitykit.corpora.read import FORMATS, find_format, read_docs
from entitykit.corpora.report import Report
from entitykit.errors import error

SUFFIX = ".spacy"

DESCRIPTION = """Turn an annotated corpus into a .spacy file for `spacy train`.

All entities go to doc.spans["sc"], and those that do not overlap also to doc.ents (longest first); other annotations go to the
tokens, to further span groups and to doc.user_data. What had to be changed is counted and reported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, _describe_options()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("input", metavar="IN", help="file or folder; for the format hub also a name")
    parser.add_argument(
        "output", metavar="OUT.spacy", help="file to write; a folder of .spacy files if the corpus is very large"
    )
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="format of IN")
    parser.add_argument(
        "--lang", default="en", metavar="CODE", help="language of the tokenizer for raw text (default: %(default)s)"
    )
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the format; may be repeated"
    )


def run(args: argparse.Namespace) -> int:
    """Convert a corpus and print what was read and changed.

    Args:
        args: what `add_arguments` declares.

    Returns:
        The exit code, 0.

    Raises:
        CorpusError: E2xx for files that cannot be read.
        ConfigError: E213 and E233 for settings that do not exist.
        InputError: E290 for an output that does not end in `.spacy`, E291 for an option that cannot be read.
        OutputError: E425 and E426 if the output cannot be written.
    """
    if not args.output.endswith(SUFFIX):
        raise error("E290", path=args.output)
    report = Report()
    docs = read_docs(args.input, args.format, _language(args.lang), report=report, **parse_options(args.option, args.format))
    with open_output(args.output, "spacy") as writer:
        for doc in docs:
            writer.write(doc)
    print_table(report.rows())
    return 0


def parse_options(texts: Iterable[str], format_name: str) -> dict[str, Any]:
    """Read `key=value` texts as the types that the format's options have; lists are separated by commas.

    Raises:
        ConfigError: E233 for an unknown option.
        InputError: E291 for a text without `=` or a value of another type.
    """
    known = _options(format_name)
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise error("E291", found=text, expected="such as n_sents=5")
        if key not in known:
            raise error("E233", format=format_name, found=key, expected=", ".join(known))
        kind = known[key].annotation
        try:
            values[key] = int(value) if kind is int else value if kind is str else value.split(",")
        except ValueError as problem:
            raise error("E291", found=text, expected="with a whole number") from problem
    return values


def print_table(rows: Sequence[tuple[str, int]]) -> None:
    """Print names and numbers in two columns."""
    width = max(len(name) for name, _ in rows)
    for name, number in rows:
        print(f"{name:<{width}}  {number:>11,}")


def _options(format_name: str) -> Mapping[str, inspect.Parameter]:
    """Give the options of a format and those of every format."""
    common = inspect.signature(read_docs, eval_str=True).parameters
    return {**find_format(format_name).options(), **{name: common[name] for name in ("ids", "exclude", "limit")}}


def _describe_options() -> str:
    options = {name: ", ".join(found.options()) or "none" for name, found in FORMATS.items()}
    width = max(map(len, options))
    lines = [f"  {name:<{width}} {names}" for name, names in options.items()]
    return "\n".join(["Options of the formats (all formats: ids, exclude, limit; lists with commas):", *lines])


def _language(code: str) -> Language:
    try:
        return spacy.blank(code)
    except ImportError as problem:
        raise error("E213", option="--lang", found=code, expected="a language code of spaCy, such as en, de or xx") from problem
