"""`entitykit find`: every mention of the entities that are named, in texts of any length."""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from contextlib import ExitStack, closing
from typing import Any

from spacy.language import Language
from spacy.tokens import Span

from entitykit.cli.annotate import load_pipeline
from entitykit.cli.convert import print_table
from entitykit.cli.inputs import Failure, find_files, read_documents
from entitykit.cli.outputs import STDOUT, FailureLog, open_text
from entitykit.cli.stream import annotate
from entitykit.errors import error

COLUMNS = ("document", "entity", "start", "end", "text", "context")
AROUND = 8
"""Words of context on each side of a mention."""

DESCRIPTION = """Find every mention of some entities, names and pronouns alike, and of no others.

The entities are named as the text names them; what is said of one after = is used where its name does not occur. The pipeline
needs an entitykit_coref with the model entitykit.MajorEntities.v1. Prints how often each is mentioned; OUT is a table (CSV) of
all mentions with their places in characters."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="file, folder, or - for standard input")
    parser.add_argument("--pipeline", required=True, metavar="NAME_OR_PATH", help="a package or a folder")
    parser.add_argument(
        "--entity", action="append", required=True, metavar="NAME[=DESCRIPTION]", help="an entity; may be given many times"
    )
    parser.add_argument("-o", "--output", metavar="OUT.csv", help="write all mentions")
    parser.add_argument("--memory", choices=("clusters", "hybrid", "static"), default="clusters", help="default: %(default)s")
    parser.add_argument("--text-field", default="text", metavar="NAME", help="field with the text (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Find mentions, print and write them; 0 if all documents were read, 1 if some failed.

    Raises:
        ConfigError: E420 for a pipeline that cannot be loaded, E642 for one without `entitykit_coref`, E640 for another model.
        InputError: E421 if nothing can be read, E641 for names that cannot be asked for.
        OutputError: E425 and E426 if the output cannot be written.
    """
    named = {name.strip(): text.strip() for name, _, text in (given.partition("=") for given in args.entity)}
    files = find_files(args.inputs)
    if all(isinstance(file, Failure) for file in files):
        raise error("E421", reason=" ".join(file.error for file in files if isinstance(file, Failure)))
    nlp = load_pipeline(args.pipeline)
    coref = _coref(nlp, args.pipeline)
    failures = FailureLog(STDOUT)
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        documents = read_documents(files, nlp.vocab, text_field=args.text_field)
        results = stack.enter_context(closing(annotate(nlp, documents, batch_size=1)))
        table = None
        if args.output is not None:
            table = csv.writer(stack.enter_context(open_text(args.output)), lineterminator="\n")
            table.writerow(COLUMNS)
        for result in results:
            if isinstance(result, Failure):
                failures.add(result)
                continue
            document, doc = result
            described = {name: text for name, text in named.items() if text}
            for name, mentions in coref.find(doc, list(named), descriptions=described, memory=args.memory).items():
                counts[name] += len(mentions)
                if table is not None:
                    table.writerows(_row(document.id, name, mention) for mention in mentions)
    print_table([(name, counts[name]) for name in named])
    return 1 if failures.n else 0


def _coref(nlp: Language, pipeline: str) -> Any:
    """The component that finds, with the states of the encoder left on documents for it."""
    names = [name for name in nlp.pipe_names if nlp.get_pipe_meta(name).factory == "entitykit_coref"]
    if not names:
        raise error("E642", name=pipeline)
    for name in nlp.pipe_names:
        if nlp.get_pipe_meta(name).factory == "doc_cleaner":
            nlp.remove_pipe(name)
    return nlp.get_pipe(names[0])


def _row(document: str, name: str, mention: Span) -> tuple[object, ...]:
    doc = mention.doc
    around = doc[max(mention.start - AROUND, 0) : min(mention.end + AROUND, len(doc))]
    text, context = (" ".join(span.text.split()) for span in (mention, around))
    return document, name, mention.start_char, mention.end_char, text, context
