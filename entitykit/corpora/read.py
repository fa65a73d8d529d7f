"""The table of corpus formats, and one way to read them all."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora import (
    aida,
    columns,
    conll04,
    conll2012,
    docred,
    dygie,
    ecbplus,
    elevant,
    gap,
    gum,
    hub,
    jsonl,
    layered,
    linking_jsonl,
    links,
    litbank,
    nif,
    propara,
    pubtator,
    salience,
    semeval2010_task8,
    tacred,
    wordnet_linking,
)
from entitykit.corpora.build import build_doc
from entitykit.corpora.files import corpus_files
from entitykit.corpora.parsed import ParsedDoc
from entitykit.corpora.report import Report
from entitykit.errors import error, warn


@dataclass(frozen=True)
class Format:
    """A corpus format.

    Attributes:
        parse: reads one file; its keyword-only arguments are the format's options.
        suffixes: which files of a folder belong to the corpus; empty if `parse` takes whatever the user names.
    """

    parse: Callable[..., Iterator[ParsedDoc]]
    suffixes: Sequence[str] = ()

    def options(self) -> Mapping[str, inspect.Parameter]:
        """Give the format's options by name, with types and defaults."""
        parameters = inspect.signature(self.parse, eval_str=True).parameters
        return {name: parameter for name, parameter in parameters.items() if parameter.kind is parameter.KEYWORD_ONLY}


FORMATS = {
    "columns": Format(columns.parse, columns.SUFFIXES),
    "layered": Format(layered.parse, layered.SUFFIXES),
    "conll04": Format(conll04.parse, conll04.SUFFIXES),
    "dygie": Format(dygie.parse, dygie.SUFFIXES),
    "gum": Format(gum.parse, gum.SUFFIXES),
    "pubtator": Format(pubtator.parse, pubtator.SUFFIXES),
    "elevant": Format(elevant.parse, elevant.SUFFIXES),
    "aida": Format(aida.parse, aida.SUFFIXES),
    "blink": Format(linking_jsonl.parse_blink, linking_jsonl.SUFFIXES),
    "genre": Format(linking_jsonl.parse_genre, linking_jsonl.SUFFIXES),
    "nif": Format(nif.parse, nif.SUFFIXES),
    "wordnet_linking": Format(wordnet_linking.parse, wordnet_linking.SUFFIXES),
    "jsonl": Format(jsonl.parse, jsonl.SUFFIXES),
    "links": Format(links.parse, links.SUFFIXES),
    "conll2012": Format(conll2012.parse, conll2012.SUFFIXES),
    "litbank": Format(litbank.parse, litbank.SUFFIXES),
    "ecbplus": Format(ecbplus.parse, ecbplus.SUFFIXES),
    "gap": Format(gap.parse, gap.SUFFIXES),
    "propara": Format(propara.parse, propara.SUFFIXES),
    "salience": Format(salience.parse),
    "docred": Format(docred.parse, docred.SUFFIXES),
    "semeval2010_task8": Format(semeval2010_task8.parse, semeval2010_task8.SUFFIXES),
    "tacred": Format(tacred.parse, tacred.SUFFIXES),
    "hub": Format(hub.parse),
}


def find_format(name: str) -> Format:
    """Look a format up.

    Raises:
        ConfigError: E232 if there is no such format.
    """
    if name not in FORMATS:
        raise error("E232", found=name, expected=", ".join(FORMATS))
    return FORMATS[name]


def read_docs(
    path: str | Path,
    format: str,  # noqa: A002 - so it is called in configs and on the command line
    nlp: Language,
    *,
    report: Report | None = None,
    ids: Collection[str] = (),
    exclude: Collection[str] = (),
    limit: int = 0,
    **options: Any,
) -> Iterator[Doc]:
    """Read a corpus as `Doc`s with gold annotations.

    All entities are in `doc.spans["sc"]`, a flat projection (longest first) in `doc.ents`, further layers in other span groups
    and, as JSON values, in `doc.user_data`, where `id` names the document. An entity's link is its `kb_id_`: `NIL` says that no
    knowledge base has it, an empty one that the corpus does not link it.

    Args:
        path: a file, or a folder whose files are read in the order of their paths; for `hub` also a name.
        format: a key of `FORMATS`.
        nlp: gives the vocabulary, and the tokenizer for corpora of raw text.
        report: is filled with the counts of what was read and changed.
        ids: the documents to read; empty for all.
        exclude: documents to leave out.
        limit: read at most so many documents; 0 for all.
        options: the format's own options, see its `parse`.

    Raises:
        ConfigError: E232 for an unknown format, E233 for an unknown option, E213 for a negative limit.
        CorpusError: E2xx with file, line and reason for files that cannot be read, E234 for ids that are not in the corpus.
    """
    chosen = find_format(format)
    unknown = sorted(set(options) - set(chosen.options()))
    if unknown:
        raise error("E233", format=format, found=", ".join(unknown), expected=", ".join(chosen.options()) or "none")
    if limit < 0:
        raise error("E213", option="limit", found=limit, expected="0 or more")
    files = corpus_files(Path(path), chosen.suffixes) if chosen.suffixes else [path]
    selection = _Selection(path, frozenset(ids), frozenset(exclude), limit)
    parsers = ((file, chosen.parse(file, **options)) for file in files)
    return _read(parsers, nlp, report if report is not None else Report(), selection)


class _Selection(NamedTuple):
    path: str | Path
    ids: frozenset[str]
    exclude: frozenset[str]
    limit: int

    def takes(self, parsed: ParsedDoc) -> bool:
        return parsed.selected and parsed.id not in self.exclude and (not self.ids or parsed.id in self.ids)


def _read(
    parsers: Iterable[tuple[str | Path, Iterator[ParsedDoc]]], nlp: Language, report: Report, selection: _Selection
) -> Iterator[Doc]:
    total = Report()
    missing = set(selection.ids)
    for file, documents in parsers:
        counts = Report(files=1)
        try:
            for parsed in documents:
                if not selection.takes(parsed):
                    counts.not_selected += 1
                    continue
                missing.discard(parsed.id)
                if parsed.skip:
                    counts.note("skipped", f"{parsed.id}: {parsed.skip}")
                    continue
                yield build_doc(parsed, nlp, counts)
                if total.documents + counts.documents == selection.limit:
                    break
        finally:  # so that the counts are right too when an error ends the reading, or whoever reads stops early
            total.add(counts)
            report.add(counts)
        counts.warn(file)
        if total.documents and total.documents == selection.limit:
            return
        if not counts.documents + counts.skipped + counts.not_selected:
            raise error("E203", path=file)
    if missing:
        raise error("E234", path=selection.path, found=", ".join(sorted(missing)))
    if not total.documents:
        raise error("E235", path=selection.path, skipped=total.skipped, not_selected=total.not_selected)
    if total.skipped:
        warn("W205", path=selection.path, n=total.skipped, first=total.examples["skipped"])
