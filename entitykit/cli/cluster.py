"""`entitykit cluster`: add documents to a store of clusters, so that the same entity has one id in all of them."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from spacy.language import Language
from spacy.tokens import Doc, DocBin
from tqdm import tqdm

from entitykit.cli.annotate import add_reading_arguments, load_pipeline
from entitykit.cli.convert import print_table
from entitykit.cli.failures import FailureLog, failures_path
from entitykit.cli.inputs import STDIN, Document, Failure, failure, read_documents, readable_files
from entitykit.cli.outputs import FORMATS, STDOUT, Writer, check_outputs, check_writable, open_output, open_text, output_kind
from entitykit.cli.stream import Result, annotate
from entitykit.errors import error, warn
from entitykit.knowledge.cluster_file import FILE
from entitykit.knowledge.cluster_schema import ClusterReport, given_twice
from entitykit.knowledge.cluster_store import ClusterStore

DESCRIPTION = """Cluster the mentions of a growing corpus: the same entity has one id, whatever document it is in.

Inputs are read as by `entitykit annotate`, and annotated by a pipeline with entitykit_cross_document. Their mentions join the
clusters of the store, or begin new ones; ids that were given stay. A document with the id of one that is there takes its place,
and one that has not changed is left as it is, so the same inputs may be given again. The id of a text file is its path as
typed, that of a text on standard input a digest of it. STORE is made if it is not there. With --link all mentions of a cluster
get one entity, or the provisional id of one that no knowledge base has."""

LINKS = "span._.kb_ents"
"""What components say that they assign that link."""

VECTORS = "entitykit_cross_document"
"""The factory of components that make vectors of mentions."""

EPILOG = """Every batch is a transaction: whatever happens, all batches that were written stay. Exit code: 0 if all is well; 1
if something could not be read, annotated or written, each listed in OUT.errors.jsonl, or on standard error without such a file;
2 if something else went wrong."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="file, folder, or - for standard input")
    parser.add_argument("-o", "--output", metavar="OUT", help="write the documents, each mention with the id of its cluster")
    parser.add_argument("--pipeline", metavar="NAME_OR_PATH", help="with entitykit_cross_document; needed for inputs")
    parser.add_argument("--format", choices=list(FORMATS), help="of OUT; default: by its ending, otherwise jsonl")
    parser.add_argument(
        "--batch-size", type=int, default=256, metavar="N", help="documents that are added at once (default: %(default)s)"
    )
    add_reading_arguments(parser)
    parser.add_argument(
        "--link",
        action="store_true",
        help="decide for each cluster which entity it is, by what the pipeline's linker says of it",
    )
    parser.add_argument("--export", metavar="FILE", help="write all clusters as JSON lines, - for standard output")
    parser.add_argument("--info", action="store_true", help="print numbers of the store")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Add documents, and print or write what was asked for; the answer is the exit code.

    Raises:
        InputError: E427 and E428 for options that cannot work, E421 if nothing can be read.
        ConfigError: E420 and E429 if the pipeline cannot be loaded, E632 if it does not cluster, E645 if it does not link.
        CheckpointError: E633 and E634 for a store that cannot be opened.
        OutputError: E425 and E426 for an output, E635 for a store that cannot be written.
    """
    _check(args)
    n_failed = add(args) if args.inputs else 0
    if args.export or args.info:
        with ClusterStore.open(args.store, read_only=True) as store:
            if args.export:
                export(store, args.export)
            if args.info:
                with _printed(args):
                    info(store)
    return 1 if n_failed else 0


def add(args: argparse.Namespace) -> int:
    """Add the inputs to the store, and write them; the answer is how many failed."""
    output = args.output or STDOUT  # without a file, failures go to standard error
    files = readable_files(args.inputs, outputs=[args.output, failures_path(output), args.export])
    nlp = load_pipeline(args.pipeline, gpu=args.gpu, max_length=args.max_length)
    pipe = clustering_pipe(nlp, args.pipeline)
    links = Links.of(nlp, args.pipeline) if args.link else None
    failures, report = FailureLog(output), ClusterReport()
    failures.clear()
    documents = _each_once(map(_named, read_documents(files, nlp.vocab, text_field=args.text_field)))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        spool, store = Path(folder, "documents.spacy"), None
        results = stack.enter_context(closing(annotate(nlp, documents, batch_size=32)))
        shown = tqdm(results, unit=" documents", disable=args.quiet or None, file=sys.stderr)
        with open_output(str(spool), "spacy") as writer:
            for docs in _batches(shown, failures, args.batch_size):
                store = store or stack.enter_context(pipe.open_store(args.store, docs))
                report.add(pipe.add_to(store, docs))
                if links is not None:
                    pipe.link(store, docs, mentions=links.mentions, threshold=links.threshold)
                if args.output:
                    for doc in docs:
                        writer.write(doc)
        if args.output:
            _write(pipe, links, args, _read(spool, nlp), failures)
    with _printed(args):
        print_table([*report.rows(), ("failed", failures.n)])
    return failures.n


def clustering_pipe(nlp: Language, name: str) -> Any:
    """The last component that clusters.

    Raises:
        ConfigError: E632 if there is none.
    """
    for _, pipe in reversed(nlp.pipeline):
        if hasattr(pipe, "add_to"):
            return pipe
    raise error("E632", name=name, found=", ".join(nlp.pipe_names))


class Links(NamedTuple):
    """Where links are.

    Attributes:
        mentions: ``ents`` or a span group.
        threshold: least probability of a link.
    """

    mentions: str
    threshold: float

    @classmethod
    def of(cls, nlp: Language, name: str) -> Links:
        """As the last component that links says it (`link_key`, `least_link`); ``ents`` and 0 if it does not.

        Raises:
            ConfigError: E645 if there is none.

        Warns:
            W644 if vectors are made of the mentions of another group.
        """
        linkers = [each for each in nlp.pipe_names if LINKS in nlp.get_pipe_meta(each).assigns]
        if not linkers:
            raise error("E645", name=name, found=", ".join(nlp.pipe_names))
        linker: Any = nlp.get_pipe(linkers[-1])
        links = cls(getattr(linker, "link_key", "ents"), getattr(linker, "least_link", 0.0))
        for each in nlp.pipe_names:
            if nlp.get_pipe_meta(each).factory == VECTORS:
                pipe: Any = nlp.get_pipe(each)
                expected = pipe.settings["mentions"]
                if expected != links.mentions:
                    warn("W644", linker=linkers[-1], found=links.mentions, name=each, expected=expected, stacklevel=3)
        return links


def export(store: ClusterStore, path: str) -> None:
    """Write clusters as JSON lines."""
    with open_text(path) as file:
        file.writelines(f"{json.dumps(cluster, ensure_ascii=False)}\n" for cluster in store.export())


def info(store: ClusterStore) -> None:
    """Print numbers of a store."""
    sizes = store.sizes
    print_table(
        [
            ("documents", store.n_documents),
            ("mentions", store.n_mentions),
            ("clusters", len(sizes)),
            ("clusters of several mentions", int((sizes > 1).sum())),
            ("mentions of the largest", int(sizes.max(initial=0))),
            ("clusters that became part of others", store.n_merged),
            ("numbers of a vector", store.width),
            ("kilobytes on disk", (store.folder / FILE).stat().st_size // 1000),
        ]
    )
    print(f"built by {store.built} for vectors of {store.fingerprint}")


def _check(args: argparse.Namespace) -> None:
    """Check the options against each other."""
    if not (args.inputs or args.info or args.export):
        raise error("E428", option="INPUT", found="missing", expected="something to read, --info or --export FILE")
    if args.inputs and not args.pipeline:
        raise error("E428", option="--pipeline", found="missing", expected="a pipeline with entitykit_cross_document")
    if args.link and not args.inputs:
        raise error("E428", option="--link", found="given without inputs", expected="documents to link")
    if args.batch_size < 1:
        raise error("E428", option="--batch-size", found=args.batch_size, expected="1 or more")
    if args.output == args.export == STDOUT:
        raise error("E428", option="--export", found=STDOUT, expected="a file beside --output -")
    check_outputs([args.output, failures_path(args.output or STDOUT), args.export], args.inputs)
    if args.output is not None:
        output_kind(args.output, args.format)
    for path in (args.output, args.export):
        if path is not None:
            check_writable(path)


def _printed(args: argparse.Namespace) -> redirect_stdout[TextIO]:
    """Where tables go: not into what is written to standard output."""
    return redirect_stdout(sys.stderr if STDOUT in (args.output, args.export) else sys.stdout)


def _named(item: Document | Failure) -> Document | Failure:
    """A document; what came on standard input has an id of its own, because another one may come tomorrow."""
    if isinstance(item, Failure) or item.input != STDIN:
        return item
    return item._replace(id=hashlib.blake2b(str(item.content).encode(), digest_size=16).hexdigest())


def _each_once(documents: Iterable[Document | Failure]) -> Iterator[Document | Failure]:
    """Documents with the id of an earlier one fail."""
    seen: set[str] = set()
    for item in documents:
        if isinstance(item, Document) and item.id in seen:
            yield failure(given_twice(item.id), item.input, line=item.line, document_id=item.id)
            continue
        if isinstance(item, Document):
            seen.add(item.id)
        yield item


def _batches(results: Iterable[Result], failures: FailureLog, size: int) -> Iterator[list[Doc]]:
    batch: list[Doc] = []
    for result in results:
        if isinstance(result, Failure):
            failures.add(result)
            continue
        batch.append(result[1])
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read(spool: Path, nlp: Language) -> Iterator[Doc]:
    """The documents, one shard after the other."""
    for path in sorted(spool.iterdir()) if spool.is_dir() else [spool]:
        yield from DocBin().from_disk(path).get_docs(nlp.vocab)


def _write(pipe: Any, links: Links | None, args: argparse.Namespace, docs: Iterable[Doc], failures: FailureLog) -> None:
    """Write the documents with the ids that their clusters have when all are added."""
    writer: Writer
    with open_output(args.output, output_kind(args.output, args.format)) as writer:
        if not (args.store / FILE).exists():
            return  # nothing could be annotated
        with ClusterStore.open(args.store, read_only=True) as store:
            for doc in docs:
                try:
                    pipe.ids_from(store, [doc])
                    if links is not None:
                        pipe.links_from(store, [doc], mentions=links.mentions)
                    writer.write(doc)
                except OSError:
                    raise  # the disk is to blame, not the document
                except Exception as problem:  # noqa: BLE001  such as a value in `doc.user_data` that no format can hold
                    failures.add(failure(problem, args.output, document_id=doc.user_data.get("id")))
