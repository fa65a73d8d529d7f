"""`entitykit annotate`: run a pipeline over files and write what it finds.

One broken input never stops the run: it is listed beside the output, its neighbours are annotated, and the exit code says so.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field

import spacy
from spacy.language import Language
from spacy.tokens import Doc
from tqdm import tqdm

from entitykit.cli.failures import FailureLog, failures_path
from entitykit.cli.inputs import Document, Failure, failure, is_text, read_documents, readable_files
from entitykit.cli.outputs import FORMATS, Writer, check_outputs, open_output, output_kind
from entitykit.cli.stream import Result, annotate
from entitykit.corpora.jsonl import all_entities
from entitykit.errors import error

# spaCy's limit of a million protects its parser's memory; a long novel has three.
MAX_CHARACTERS = 10_000_000

DESCRIPTION = """Annotate texts with a pipeline.

Inputs are text files (.txt .md .text), JSON lines (.jsonl .ndjson), Parquet, DocBins (.spacy), folders of these, or - for one
text on standard input. JSON lines and Parquet need a text field; "id" is kept and all other fields go to "meta". Of DocBins the
tokens are kept and the annotations are made anew."""

EPILOG = """Exit code: 0 if all is well; 1 if something could not be read, annotated or written, each listed in
OUT.errors.jsonl, or on standard error if OUT is -; 2 if nothing was written."""


@dataclass
class Counts:
    """What a run has done so far; times in seconds."""

    documents: int = 0
    words: int = 0
    entities: int = 0
    started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.perf_counter() - self.started

    @property
    def speed(self) -> str:
        """Words per second, to show."""
        return f"{self.words / self.seconds:,.0f} words/s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, or - for standard input")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="file to write, or - for JSON lines on standard output"
    )
    parser.add_argument("--pipeline", default="en_entitykit_sm", metavar="NAME_OR_PATH", help="default: %(default)s")
    parser.add_argument("--format", choices=list(FORMATS), help="default: by the ending of OUT, jsonl without one")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="documents per batch (default: %(default)s)")
    parser.add_argument("--n-process", type=int, default=1, metavar="N", help="processes to run in (default: %(default)s)")
    add_reading_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="show neither progress nor summary, but where failures are listed")


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how inputs are read, of every command that runs a pipeline on them."""
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field with the text (default: %(default)s)")
    parser.add_argument("--gpu", type=int, metavar="ID", help="GPU to use (default: none)")
    parser.add_argument(
        "--max-length",
        type=int,
        default=MAX_CHARACTERS,
        metavar="N",
        help="most characters of a document (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Annotate the inputs and write the output; 0 if all of them came out, 1 if some failed.

    Raises:
        EntityKitError: E420 to E432 if nothing can be read, annotated or written.
    """
    kind = _check(args)
    listed = failures_path(args.output)
    files = readable_files(args.inputs, outputs=[args.output, listed])
    nlp = load_pipeline(args.pipeline, gpu=args.gpu, max_length=args.max_length)
    failures = FailureLog(args.output)
    with open_output(args.output, kind) as writer:
        failures.clear()
        documents = read_documents(files, nlp.vocab, text_field=args.text_field)
        # The number of documents is only known beforehand if every file is one.
        total = len(files) if all(isinstance(file, str) and is_text(file) for file in files) else None
        with closing(annotate(nlp, documents, batch_size=args.batch_size, n_process=args.n_process)) as results:
            counts = _write_all(results, writer, failures, total=total, quiet=args.quiet)
    where = f", listed in {failures.path}" if failures.n and failures.path else ""
    if args.quiet and where:
        print(f"entitykit: failed: {failures.n:,}{where}", file=sys.stderr)
    if not args.quiet:
        print(
            f"documents: {counts.documents:,}, words: {counts.words:,}, entities: {counts.entities:,}, "
            f"seconds: {counts.seconds:.1f} ({counts.speed}), failed: {failures.n:,}{where}; written to {args.output}",
            file=sys.stderr,
        )
    return 1 if failures.n else 0


def _check(args: argparse.Namespace) -> str:
    """Check the options against each other and give the output format.

    Raises:
        InputError: E427 if an input, or the list of failures, would be replaced, E428 for an option that cannot work, E432 for
            an output whose ending names no format.
    """
    for option in ("batch_size", "n_process"):
        if getattr(args, option) < 1:
            raise error("E428", option=f"--{option.replace('_', '-')}", found=getattr(args, option), expected="1 or more")
    if args.gpu is not None and args.n_process > 1:
        raise error("E428", option="--n-process", found=args.n_process, expected="1 together with --gpu")
    check_outputs([args.output, failures_path(args.output)], args.inputs)
    return output_kind(args.output, args.format)


def load_pipeline(name: str, *, gpu: int | None = None, max_length: int = MAX_CHARACTERS) -> Language:
    """Load a pipeline to annotate with.

    Args:
        name: an installed package or the path of a folder.
        gpu: the GPU to run on; None for the CPU.
        max_length: characters of the longest document.

    Raises:
        InputError: E428 for a length that nothing has.
        ConfigError: E420 if the pipeline cannot be loaded, E429 if the GPU cannot be used.
    """
    if max_length < 1:
        raise error("E428", option="--max-length", found=max_length, expected="1 or more")
    if gpu is not None:
        try:
            spacy.require_gpu(gpu)
        except Exception as problem:  # depends on what is missing: a driver, cupy, the device
            raise error("E429", gpu=gpu, reason=problem) from problem
    try:
        nlp = spacy.load(name)
    except Exception as problem:  # anything that a component's code may raise
        raise error("E420", name=name, reason=str(problem).rstrip(".")) from problem
    nlp.max_length = max_length
    # Vectors are large, of no use in the output, and would be copied between processes.
    nlp.add_pipe("doc_cleaner", name="annotate_cleaner", last=True, config={"attrs": {"tensor": None, "_.trf_data": None}})
    return nlp


def _write_all(results: Iterable[Result], writer: Writer, failures: FailureLog, *, total: int | None, quiet: bool) -> Counts:
    counts = Counts()
    interval = 0.5 if sys.stderr.isatty() else 30  # a log file is no place for a line twice a second
    with tqdm(total=total, unit=" documents", disable=quiet, file=sys.stderr, mininterval=interval, dynamic_ncols=True) as bar:
        for result in results:
            if isinstance(result, Failure):
                failures.add(result)
            else:
                _write(*result, writer, failures, counts)
            bar.set_postfix_str(counts.speed, refresh=False)
            bar.update()
    return counts


def _write(document: Document, doc: Doc, writer: Writer, failures: FailureLog, counts: Counts) -> None:
    try:
        writer.write(doc)
    except OSError:
        raise  # the disk is to blame, not the document
    except Exception as problem:  # noqa: BLE001  such as a component's value in `doc.user_data` that no format can hold
        failures.add(failure(problem, document.input, line=document.line, document_id=document.id))
    else:
        counts.documents += 1
        counts.words += len(doc)
        counts.entities += len(all_entities(doc))
