"""CoNLL-2012 columns: documents in parts, coreference in the last column (OntoNotes, PreCo, LitBank `coref/conll`)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from entitykit.corpora.clusters import cluster_groups
from entitykit.corpora.files import read_lines
from entitykit.corpora.given_speakers import SPEAKERS
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".conll", ".v4_gold_conll", ".v9_gold_conll", ".gold_conll", ".v4_auto_conll")

BEGIN = re.compile(r"#begin document \((?P<name>.*)\); part (?P<part>\d+)\s*")
END = "#end document"
COREFERENCE = re.compile(r"\((?P<whole>[^()|]+)\)|\((?P<opens>[^()|]+)|(?P<closes>[^()|]+)\)")
NAME = re.compile(r"\((?P<label>[^()*|]+)[*)]?|\*|\)")

WORD, TAG, SPEAKER, ENTITY = 3, 4, 9, 10
N_COLUMNS = 12  # with all of these and coreference
NOTHING = ("", "-", "_", "*")


class Part(NamedTuple):
    """A part of a document, which has clusters of its own.

    Attributes:
        name: the document.
        number: the part, as written.
        line: where it begins.
        rows: line number and columns of its words.
        starts: for each word whether a sentence starts there.
    """

    name: str
    number: str
    line: int
    rows: list[tuple[int, list[str]]]
    starts: list[bool]


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of documents, one `Doc` per part, with the id `name_part`.

    Columns are separated by tabs in lines that hold a tab, else by white space: document, part, number, word, tag, parse bit,
    lemma, frame, sense, speaker, entity, …, coreference; the last one is always coreference, and fewer than 12 columns have no
    tags, speakers and entities. Clusters, also those of one mention, are the span groups `coref_clusters_1`,
    `coref_clusters_2`, … and all their mentions the group `mentions`. Speakers are `doc.user_data["speakers"]`, one per word,
    empty where there is none. Documents without any entity in their columns have no entity annotation.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E214 for too few columns, E210 for an empty word, E219 for words outside
            `#begin document (…); part …` and `#end document`, E220 for a cell that is no bracket, E222 for one without partner.
    """
    for part in read_parts(path):
        where, entities = f"{path}, line {part.line}", _entities(part, path)
        yield ParsedDoc(
            id=f"{part.name}_{part.number}",
            where=where,
            words=[fields[WORD] for _, fields in part.rows],
            sent_starts=part.starts,
            entities=entities,
            annotated=None if entities else (),
            groups=coreference(part, path),
            annotations=_tags(part),
            user_data=_speakers(part),
        )


def read_parts(path: Path) -> Iterator[Part]:
    """Read the parts of a file.

    Raises:
        CorpusError: see `parse`.
    """
    part: Part | None = None
    new = True
    for number, text in read_lines(path):
        where = f"{path}, line {number}"
        if begin := BEGIN.fullmatch(text):
            if part is not None:
                raise error("E219", where=where, found=text, expected=f"{END} before it")
            part, new = Part(begin["name"], begin["part"], number, [], []), True
        elif text.strip() == END and part is not None:
            yield part
            part = None
        elif not text.strip():
            new = True
        elif part is None:
            raise error("E219", where=where, found=text[:60], expected="#begin document (name); part 000")
        else:
            fields = text.split("\t") if "\t" in text else text.split()
            if len(fields) <= WORD + 1:
                raise error("E214", where=where, found=len(fields), expected=f"{WORD + 2} or more")
            if not fields[WORD]:
                raise error("E210", where=where, number=len(part.rows) + 1)
            part.rows.append((number, fields))
            part.starts.append(new)
            new = False
    if part is not None:
        raise error("E219", where=str(path), found="the end of the file", expected=f"{END} before it")


def coreference(part: Part, path: Path) -> dict[str, list[Mention]]:
    """Read the clusters of a part as span groups, and all their mentions as the group `mentions`."""
    opened: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    clusters: defaultdict[str, list[Mention]] = defaultdict(list)
    for i, (line, fields) in enumerate(part.rows):
        for cell in () if fields[-1] in NOTHING else fields[-1].split("|"):
            bracket = COREFERENCE.fullmatch(cell)
            if bracket is None:
                raise error(
                    "E220", where=f"{path}, line {line}", what="coreference", found=fields[-1], expected="(1), (1 or 1)"
                )
            name = bracket["whole"] or bracket["opens"] or bracket["closes"]
            if not bracket["closes"]:
                opened[name].append((i, line))
            if not bracket["opens"]:
                if not opened[name]:
                    raise error("E222", where=f"{path}, line {line}", found=cell, reason="nothing of that cluster is open")
                clusters[name].append(Mention(opened[name].pop()[0], i + 1, ""))
    for name, left in opened.items():
        for _, line in left:
            raise error("E222", where=f"{path}, line {line}", found=f"({name}", reason="it is never closed")
    unique = [list(dict.fromkeys(mentions)) for mentions in clusters.values()]
    everything = {mention for mentions in unique for mention in mentions}
    return {"mentions": sorted(everything, key=lambda mention: (mention.start, -mention.end)), **cluster_groups(unique)}


def _entities(part: Part, path: Path) -> list[Mention]:
    entities: list[Mention] = []
    opened: list[tuple[int, str, int]] = []
    for i, (line, fields) in enumerate(part.rows):
        cell = fields[ENTITY] if len(fields) >= N_COLUMNS else ""
        if cell in NOTHING:
            continue
        rest = cell
        while rest:
            bracket = NAME.match(rest)
            if bracket is None:
                raise error("E220", where=f"{path}, line {line}", what="entity", found=cell, expected="(ORG), (ORG*, * or *)")
            rest = rest[bracket.end() :]
            if bracket["label"]:
                opened.append((i, bracket["label"], line))
            if bracket[0].endswith(")"):
                if not opened:
                    raise error("E222", where=f"{path}, line {line}", found=cell, reason="no entity is open")
                start, label, _ = opened.pop()
                entities.append(Mention(start, i + 1, label))
    for _, label, line in opened:
        raise error("E222", where=f"{path}, line {line}", found=f"({label}", reason="it is never closed")
    return entities


def _tags(part: Part) -> dict[str, Sequence[Any]]:
    tags = _column(part, TAG)
    return {"tags": tags} if any(tags) else {}


def _speakers(part: Part) -> dict[str, Any]:
    speakers = _column(part, SPEAKER)
    return {SPEAKERS: speakers} if any(speakers) else {}


def _column(part: Part, column: int) -> list[str]:
    values = [fields[column] if len(fields) >= N_COLUMNS else "" for _, fields in part.rows]
    return ["" if value in NOTHING else value for value in values]
