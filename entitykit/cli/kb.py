"""`entitykit kb`: build a knowledge base from JSON lines, change it, look at it, and write it out again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from entitykit.cli.annotate import load_pipeline
from entitykit.cli.convert import print_table
from entitykit.cli.outputs import STDOUT, check_outputs, open_text
from entitykit.corpora.files import corpus_files, read_lines
from entitykit.errors import error, warn
from entitykit.knowledge.base import write_vectors
from entitykit.knowledge.entities import Entity, read_aliases, read_entities, read_phrases, write_lines
from entitykit.knowledge.entity_index import Floats
from entitykit.knowledge.schema import FILE, read_meta
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.store_write import StoreReport

DESCRIPTION = """Build, change and inspect a knowledge base: a folder with entities, their names and what finds them.

An entity is a line of JSON: {"id": "Q90", "name": "Paris", "aliases": ["Paname", ["Paris", 12]], "description":
"capital of France", "type": "LOC", "count": 14, "redirects": ["Q9090"]}. Only id and name are required; the number of an alias
says how often it names the entity. A counted phrase is a line ["paris", 1200]: how often it occurs in some text, whether it
names an entity or not. A further alias of an entity that is there is a line ["Paname", "Q90", 7]."""

EPILOG = """A knowledge base may be read while it is changed. Whatever happens to `add` and `remove`, all batches that were
written stay; `build` makes the whole or nothing. Exit code: 0; 1 if `remove` did not find an id; 2 if something cannot be read
or written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, summary in ACTIONS.items():
        action = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        action.add_argument("kb", type=Path, metavar="KB_DIR", help="folder of the knowledge base")
        if name in ("build", "add"):
            some = "+" if name == "build" else "*"
            action.add_argument("inputs", nargs=some, type=Path, metavar="IN.jsonl", help="files of entities, or folders")
            action.add_argument("--phrases", action="append", default=[], type=Path, metavar="FILE", help="counted phrases")
            if name == "add":
                action.add_argument("--aliases", action="append", default=[], type=Path, metavar="FILE", help="further aliases")
        elif name == "remove":
            action.add_argument("ids", nargs="*", metavar="ID", help="id of an entity")
            action.add_argument(
                "--ids", dest="files", action="append", default=[], type=Path, metavar="FILE", help="one id a line"
            )
        elif name == "info":
            action.add_argument("--check", action="store_true", help="read everything, and compare what must agree")
        elif name == "export":
            action.add_argument("output", metavar="OUT.jsonl", help="file to write, or - for standard output")
            action.add_argument("--phrases", metavar="FILE", help="write counted phrases, too, as `build` reads them")
        elif name == "vectors":
            makers = "with entitykit_linker or entitykit_entqa"
            action.add_argument("--pipeline", required=True, metavar="NAME_OR_PATH", help=makers)
            action.add_argument("--gpu", type=int, metavar="ID", help="GPU to use (default: none)")


def run(args: argparse.Namespace) -> int:
    """Do what was asked; the answer is the exit code.

    Raises:
        CorpusError: E2xx and E504 for inputs that cannot be read.
        InputError: E505 for an alias of an entity that is not there.
        CheckpointError: E500 and E501 for a knowledge base that cannot be opened.
        ConfigError: E420 and E429 if a pipeline cannot be loaded, E512 if it makes no vectors of entities.
        OutputError: E425 and E426 for an output, E502 and E503 for a knowledge base, E055 for vectors, that cannot be written.
    """
    actions = {"build": build, "add": add, "remove": remove, "info": info, "export": export, "vectors": vectors}
    return actions[args.action](args)


def build(args: argparse.Namespace) -> int:
    """Make a knowledge base, and print what was read and changed."""
    phrases = chain.from_iterable(map(read_phrases, _files(args.phrases)))
    source = ", ".join(str(path) for path in args.inputs)
    report = EntityStore.build(args.kb, _entities(args.inputs), phrases=phrases, source=source)
    print_table(report.rows())
    return 0


def add(args: argparse.Namespace) -> int:
    """Add entities, aliases or counted phrases, and print what was read and changed, also when it fails."""
    if not (args.inputs or args.aliases or args.phrases):
        expected = "a file of entities, --aliases FILE or --phrases FILE"
        raise error("E507", option="IN.jsonl", found="missing", expected=expected)
    report, n_aliases, n_phrases = StoreReport(), 0, 0
    with EntityStore.open(args.kb) as store:
        try:
            store.add(_entities(args.inputs), report=report)
            for path in _files(args.aliases):
                n_aliases += store.add_aliases(read_aliases(path))
            for path in _files(args.phrases):
                n_phrases += store.count_phrases(read_phrases(path))
        finally:
            more = [("aliases", n_aliases, args.aliases), ("phrases", n_phrases, args.phrases)]
            print_table([*report.rows(), *((what, n) for what, n, files in more if files)])
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove entities, and name the ids that have none."""
    ids = [*args.ids, *(line.strip() for path in args.files for _, line in read_lines(path) if line.strip())]
    if not ids:
        raise error("E507", option="ID", found="missing", expected="ids, or --ids FILE")
    with EntityStore.open(args.kb) as store:
        with store.reading():
            rows = store.rows(ids)
            own = set(store.ids(rows[rows >= 0]))
        n = store.remove(ids)
    unknown = [id_ for id_ in dict.fromkeys(ids) if id_ not in own]
    print_table([("entities removed", n), *([("ids without entity", len(unknown))] if unknown else [])])
    for id_ in unknown:
        print(f"entitykit: no entity {id_!r}", file=sys.stderr)
    return 1 if unknown else 0


def info(args: argparse.Namespace) -> int:
    """Print numbers of a knowledge base."""
    meta = read_meta(args.kb)
    with EntityStore.open(args.kb, read_only=True) as store:
        if args.check:
            store.check()
        print_table(
            [
                ("entities", len(store)),
                ("names and aliases", store.n_aliases),
                ("entities with a description", store.n_described),
                ("redirects", store.n_redirects),
                ("phrases counted in text", store.n_phrases),
                ("version of the contents", store.version),
                ("kilobytes on disk", (args.kb / FILE).stat().st_size // 1000),
            ]
        )
    print(f"built by {meta.built.get('by', '?')} from {meta.built.get('from') or 'nothing'}")
    if args.check:
        print("checked: all is whole")
    return 0


def export(args: argparse.Namespace) -> int:
    """Write all entities, and counted phrases if a file for them was given, as `build` reads them.

    Raises:
        InputError: E427 and E507 if both are to be written to one place.

    Warns:
        W503 for phrases that are not written.
    """
    if args.output == args.phrases == STDOUT:
        raise error("E507", option="--phrases", found=STDOUT, expected="a file, because entities go to standard output")
    check_outputs([args.output, args.phrases], [])
    with EntityStore.open(args.kb, read_only=True) as store:
        with open_text(args.output) as file:
            file.writelines(write_lines(entity.to_json() for entity in store))
        if args.phrases is not None:
            with open_text(args.phrases) as file:
                file.writelines(write_lines(store.phrases()))
        elif n := store.n_phrases:
            warn("W503", n=n, path=args.kb, output=args.output)
    return 0


def vectors(args: argparse.Namespace) -> int:
    """Make vectors of all entities, in the place of those that are there, where `EntityKB.get_vector` looks for them."""
    with EntityStore.open(args.kb, read_only=True) as store:
        nlp = load_pipeline(args.pipeline, gpu=args.gpu)
        makers = [pipe for _, pipe in nlp.pipeline if hasattr(pipe, "entity_vectors")]
        if not makers:
            raise error("E512", name=args.pipeline, found=", ".join(nlp.pipe_names))
        width, blocks = makers[-1].entity_vectors(store)
        n = write_vectors(args.kb, width, _shown(blocks, len(store)))
    print_table([("vectors", n), ("numbers of a vector", width)])
    return 0


ACTIONS = {
    "build": "make a knowledge base from JSON lines",
    "add": "add entities, or update those with the same ids; add aliases and counted phrases",
    "remove": "remove entities by id",
    "info": "print numbers of a knowledge base",
    "export": "write all entities, and counted phrases, as JSON lines",
    "vectors": "make vectors of all entities, which spaCy's own linker reads",
}


def _entities(inputs: Sequence[Path]) -> Iterator[Entity]:
    """Read entities from files and folders, and show how far it is."""
    entities = chain.from_iterable(map(read_entities, _files(inputs)))
    return iter(tqdm(entities, unit=" entities", disable=None, file=sys.stderr))


def _shown(blocks: Iterable[tuple[list[str], Floats]], total: int) -> Iterator[tuple[list[str], Floats]]:
    """Pass blocks on, and show how far it is."""
    with tqdm(total=total, unit=" entities", disable=None, file=sys.stderr) as bar:
        for ids, vectors in blocks:
            yield ids, vectors
            bar.update(len(ids))


def _files(inputs: Iterable[Path]) -> list[Path]:
    return [file for path in inputs for file in corpus_files(path, (".jsonl",))]
