"""`entitykit find`: every mention of the entities that are named, in texts of any length."""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from typing import Any, TypeAlias

from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.cli.annotate import add_reading_arguments, load_pipeline
from entitykit.cli.convert import print_table
from entitykit.cli.failures import FailureLog, failures_path
from entitykit.cli.inputs import Document, Failure, failure, read_documents, readable_files
from entitykit.cli.outputs import STDOUT, check_outputs, open_text
from entitykit.cli.stream import annotate
from entitykit.errors import error

COLUMNS = ("document", "entity", "start", "end", "text", "context")
AROUND = 8
"""Words of context on each side of a mention."""

Rows: TypeAlias = list[tuple[object, ...]]

DESCRIPTION = """Find every mention of some entities, names and pronouns alike, and of no others.

The entities are named as the text names them, several names of one with ; between them; what is said of one after = is used
where its name does not occur. The pipeline needs an entitykit_coref with the model entitykit.MajorEntities.v1. Prints how often
each is mentioned, on standard error if OUT is -; OUT is a table (CSV) of all mentions with their places in characters."""

EPILOG = """Exit code: 0 if all is well; 1 if something could not be read, annotated or searched, each listed in
OUT.errors.jsonl, or on standard error without such a file; 2 if nothing was written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, or - for standard input")
    parser.add_argument("--pipeline", required=True, metavar="NAME_OR_PATH", help="a package or a folder")
    form = "NAME[;NAME][=DESCRIPTION]"
    parser.add_argument("--entity", action="append", required=True, metavar=form, help="an entity; may be given many times")
    parser.add_argument("-o", "--output", metavar="OUT", help="write all mentions, - for standard output")
    parser.add_argument("--memory", choices=("clusters", "hybrid", "static"), default="clusters", help="default: %(default)s")
    add_reading_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Find mentions, print and write them; 0 if all documents were searched, 1 if some failed.

    Raises:
        ConfigError: E420 and E429 if the pipeline cannot be loaded, E642 for one without `entitykit_coref`, E640 for another
            model.
        InputError: E421 if nothing can be read, E427 if an input, or the list of failures, would be replaced, E641 and
            E647 for names that cannot be asked for.
        OutputError: E425 and E426 if the output cannot be written.
    """
    described = _named(args.entity)
    output = args.output or STDOUT  # without a file, failures go to standard error
    written = [args.output, failures_path(output)]
    check_outputs(written, args.inputs)
    files = readable_files(args.inputs, outputs=written)
    nlp = load_pipeline(args.pipeline, gpu=args.gpu, max_length=args.max_length)
    _check_names(nlp, described)
    coref = _coref(nlp, args.pipeline)
    failures, counts, missing = FailureLog(output), dict.fromkeys(described, 0), set(described)
    with _table(args.output) as table:
        failures.clear()
        documents = read_documents(files, nlp.vocab, text_field=args.text_field)
        with closing(annotate(nlp, documents, batch_size=1)) as results:
            for result in results:
                if not isinstance(result, Failure):
                    missing -= {name for name in missing if _occurs(name, result[1].text)}
                found = result if isinstance(result, Failure) else _find(coref, *result, described, args.memory)
                if isinstance(found, Failure):
                    failures.add(found)
                    continue
                for name, rows in found.items():
                    counts[name] += len(rows)
                    table(rows)
    with redirect_stdout(sys.stderr if args.output == STDOUT else sys.stdout):
        print_table(list(counts.items()))
    for name in [name for name, n in counts.items() if not n and name in missing]:
        print(f"entitykit: '{name}' does not occur in the text", file=sys.stderr)
    return 1 if failures.n else 0


def _named(given: Sequence[str]) -> dict[str, str]:
    """Names, and what is said of them; nothing of most.

    Raises:
        InputError: E641 for a name that is there twice, E647 for an empty one.
    """
    pairs = [(name.strip(), text.strip()) for name, _, text in (each.partition("=") for each in given)]
    names = [name for name, _ in pairs]
    if not all(names):
        raise error("E647", found=next(each for each in given if not each.partition("=")[0].strip()))
    if odd := [name for name in names if names.count(name) > 1]:
        raise error("E641", found=odd[0], names=", ".join(names))
    return dict(pairs)


def _check_names(nlp: Language, described: Mapping[str, str]) -> None:
    """Refuse names of small stop words alone, such as *it*, of which nothing is said; *Will* and *The Who* are names.

    Raises:
        InputError: E647 for the first one.
    """
    for name in [each for each, text in described.items() if not text]:
        for part in name.split(";"):
            if part.islower() and all(nlp.vocab[word].is_stop for word in part.split()):
                raise error("E647", found=name)


def _occurs(name: str, text: str) -> bool:
    """Whether a text has a name, or one of its alternatives, as whole words."""
    forms = [r"\s+".join(map(re.escape, part.split())) for part in name.split(";") if part.strip()]
    return any(re.search(rf"(?<!\w){form}(?!\w)", text, re.IGNORECASE) for form in forms)


def _coref(nlp: Language, pipeline: str) -> Any:
    """The component that finds, with the states of the encoder left on documents for it."""
    names = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory == "entitykit_coref"]
    if not names:
        raise error("E642", name=pipeline)
    for name in nlp.pipe_names:
        if nlp.get_pipe_meta(name).factory == "doc_cleaner":
            nlp.remove_pipe(name)
    coref: Any = nlp.get_pipe(names[0])
    if not hasattr(coref.head, "fits"):  # mentions to what names say
        raise error("E640", name=names[0], found=type(coref.head).__name__)
    return coref


def _find(coref: Any, document: Document, doc: Doc, described: Mapping[str, str], memory: str) -> dict[str, Rows] | Failure:
    """Rows of the table by name, or what failed."""
    known = {name: text for name, text in described.items() if text}
    try:
        found = coref.find(doc, list(described), descriptions=known, memory=memory)
    except Exception as problem:  # noqa: BLE001  such as a group of mentions for which the encoder has no tokens
        return failure(problem, document.input, line=document.line, document_id=document.id)
    return {name: [_row(document.id, name, mention) for mention in mentions] for name, mentions in found.items()}


@contextmanager
def _table(output: str | None) -> Iterator[Callable[[Rows], None]]:
    """Open the table if there is one, and give what writes rows to it."""
    if output is None:
        yield lambda rows: None
        return
    with open_text(output) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        yield table.writerows


def _row(document: str, name: str, mention: Span) -> tuple[object, ...]:
    doc = mention.doc
    around = doc[max(mention.start - AROUND, 0) : min(mention.end + AROUND, len(doc))]
    text, context = (" ".join(span.text.split()) for span in (mention, around))
    return document, name, mention.start_char, mention.end_char, text, context
