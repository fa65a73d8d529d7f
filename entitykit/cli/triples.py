"""`entitykit triples`: write the relations of annotated documents as a table, as RDF or as a graph."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin

from entitykit.cli.convert import print_table
from entitykit.cli.inputs import FAILURES, is_failure_list
from entitykit.cli.outputs import STDOUT, check_outputs, kind_by_ending, open_text
from entitykit.corpora.files import corpus_files, read_json_lines
from entitykit.corpora.jsonl import record_to_doc
from entitykit.corpora.report import Report
from entitykit.corpora.triples import BASE, LINKS, Names, Triple, csv_lines, graphml_lines, nt_lines, read_triples
from entitykit.errors import error, warn

FORMATS = ("csv", "nt", "graphml")
JSON_LINES = (".jsonl", ".ndjson")

IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>\"{}|^`\\]*")

DESCRIPTION = """Write the relations of annotated documents as triples, those in doc._.relations or else gold ones.

csv is a table with texts, types, ids and offsets; nt is N-Triples; graphml is a graph. A linked entity is one node of the whole
corpus, mentions that a linker has grouped as one unknown entity are one node, other mentions with the same text are one node of
their document. A coreference cluster has the link of any of its mentions."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = DESCRIPTION
    parser.add_argument(
        "input",
        type=Path,
        metavar="IN",
        help="annotated documents, .spacy or .jsonl as of entitykit annotate; a file, or a folder",
    )
    parser.add_argument("output", metavar="OUT", help="file to write, - for standard output")
    parser.add_argument("--format", choices=FORMATS, help="default: by the ending of OUT, csv without one")
    parser.add_argument(
        "--base", default=BASE, metavar="IRI", help="of relations, types and unlinked entities (default: %(default)s)"
    )
    parser.add_argument(
        "--links", default=LINKS, metavar="IRI", help="of linked entities, before their id (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Write triples and print how many; the answer is the exit code, 0.

    Raises:
        CorpusError: E201, E202 and E424 for inputs that cannot be read, E204 to E226 for JSON lines that cannot be.
        InputError: E345, E346 or E349 for relations that cannot be read, E427 if the input would be replaced, E428 for an IRI
            that is none, E432 for an output whose ending names no format.
        OutputError: E425 and E426 if the output cannot be written.

    Warns:
        W423 if there are no relations.
    """
    for option in ("base", "links"):
        if not IRI.fullmatch(getattr(args, option)):
            raise error("E428", option=f"--{option}", found=repr(getattr(args, option)), expected="an absolute IRI")
    kind = args.format or kind_by_ending(args.output, {f".{name}": name for name in FORMATS}, "csv")
    files = _files(args.input)
    check_outputs([args.output], map(str, files))
    names = Names(args.base, args.links)
    counts = {"documents": 0, "triples": 0}
    triples = _counted(args.input, files, counts)
    lines = csv_lines(triples) if kind == "csv" else {"nt": nt_lines, "graphml": graphml_lines}[kind](triples, names)
    with open_text(args.output) as file:
        file.writelines(lines)
    with redirect_stdout(sys.stderr if args.output == STDOUT else sys.stdout):
        print_table(list(counts.items()))
    if not counts["triples"]:
        warn("W423", source=args.input, n=counts["documents"])
    return 0


def _files(source: Path) -> list[Path]:
    """The files to read; of a folder without lists of what `entitykit annotate` could not read."""
    found = corpus_files(source, (".spacy", *JSON_LINES))
    return [file for file in found if file == source or not (file.name.endswith(FAILURES) and is_failure_list(file))]


def _counted(source: Path, files: list[Path], counts: dict[str, int]) -> Iterator[Triple]:
    nlp = spacy.blank("xx")
    for file in files:
        name = file.stem if file == source else file.relative_to(source).with_suffix("").as_posix()  # of several, each its own
        for number, doc in enumerate(_read(file, nlp), start=1):
            counts["documents"] += 1
            for triple in read_triples(doc, f"{name}-{number}"):
                counts["triples"] += 1
                yield triple


def _read(path: Path, nlp: Language) -> Iterator[Doc]:
    if path.suffix.lower() in JSON_LINES:
        report = Report()
        for line, record in read_json_lines(path):
            yield record_to_doc(record, nlp, report=report, where=f"{path}, line {line}")
        report.warn(str(path))
        return
    number = 0
    try:
        for number, doc in enumerate(DocBin().from_disk(path).get_docs(nlp.vocab), start=1):  # noqa: B007 - also for the message
            yield doc
    except OSError as problem:
        raise error("E422", path=path, reason=problem.strerror or problem) from problem
    except Exception as problem:  # what a damaged file raises depends on where it is damaged
        raise error("E424", path=path, kind="a DocBin", place=f"document {number + 1}", reason=problem) from problem
