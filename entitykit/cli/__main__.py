"""The `entitykit` command: it finds the subcommand's module and turns what goes wrong into a message and an exit code."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from entitykit import __version__
from entitykit.errors import EntityKitError, EntityKitWarning, error

COMMANDS = {
    "annotate": "find entities in texts, folders, JSON lines, Parquet or .spacy files",
    "convert": "turn an annotated corpus into a .spacy file for training",
    "triples": "write the relations of annotated documents as a table, as RDF or as a graph",
    "find": "find every mention of entities that are named",
    "cluster": "give the same entity one id in all documents of a corpus, and keep it as the corpus grows",
    "kb": "build, change and inspect a knowledge base of entities",
    "benchmark": "measure quality or speed; print a table and write the figures as JSON",
}
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: the arguments after the program's name; by default those of the process.

    Returns:
        The exit code: that of the subcommand, 2 for an `EntityKitError`, 130 after Ctrl-C, 141 when nobody reads the output.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # tables are for people; files and documents are UTF-8 anyway
    try:
        command = next((argument for argument in arguments if argument in COMMANDS), None)
        args = parser(command).parse_args(arguments)
        with short_warnings():
            code: int = import_module(f"entitykit.cli.{args.command}").run(args)
        _flush()
    except EntityKitError as problem:
        print(f"entitykit: {problem}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("entitykit: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _leave_stdout()
        return BROKEN_PIPE
    return code


def _flush() -> None:
    """Write what was printed.

    Raises:
        OutputError: E425 if that cannot be done.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as problem:
        _leave_stdout()
        raise error("E425", path="standard output", reason=problem.strerror or problem) from problem


def _leave_stdout() -> None:
    import_module("entitykit.cli.outputs").leave_stdout()  # takes time to import and only this needs it


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the argument parser.

    Args:
        command: the only subcommand whose module is imported for its arguments, so that ``--help`` answers at once.
    """
    root = _Parser(prog="entitykit", description="Entity-centric information extraction for spaCy.")
    root.add_argument("--version", action="version", version=f"entitykit {__version__}")
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize() + ".")
        if name == command:
            import_module(f"entitykit.cli.{name}").add_arguments(subparser)
    return root


class _Parser(argparse.ArgumentParser):
    """Refuses unknown options where they stand, with the usage of the subcommand; argparse shows that of the program."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """See `argparse.ArgumentParser`; nothing is left over."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


@contextmanager
def short_warnings() -> Iterator[None]:
    """Show entitykit's own warnings as one line, without the place in the code that a program's user has no use for."""
    full_format = warnings.formatwarning

    def short_format(message: Warning | str, category: type[Warning], *where: Any, **line: Any) -> str:
        if issubclass(category, EntityKitWarning):
            return f"entitykit: {message}\n"
        return full_format(message, category, *where, **line)

    warnings.formatwarning = short_format
    try:
        yield
    finally:
        warnings.formatwarning = full_format


if __name__ == "__main__":
    sys.exit(main())
