"""Relations of annotated documents as triples: a table (CSV), RDF (N-Triples) or a graph (GraphML).

A linked entity is one node of the whole corpus. So are mentions that a linker has grouped over a corpus, as the same unknown
entity; grouped in a document, they are one node of it. Other mentions with the same text are one node of their document: there,
and only there, the same words are taken to mean the same. An argument that is a coreference cluster has the id and type of the
first of its mentions that has any, and the longest of its names.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any, NamedTuple
from urllib.parse import quote

from spacy.tokens import Doc

from entitykit.corpora.clusters import PREFIX
from entitykit.corpora.parsed import NIL
from entitykit.decoding.relation_values import read_relation, relation_list
from entitykit.errors import error

RELATIONS = "relations"
WRITTEN = ("._.", RELATIONS, None, None)
"""Where spaCy keeps `doc._.relations`, also in a file and in a process that does not know the extension."""
UNKNOWN = ("._.", "nil_clusters", None, None)
"""The same of `doc._.nil_clusters`: provisional ids, and the places of their mentions."""
OWN = re.compile(rf"{NIL}-\d+")
"""Provisional ids that hold in one document only."""

BASE = "https://example.org/"
LINKS = "http://www.wikidata.org/entity/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"

NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|urn:", re.IGNORECASE)
FORBIDDEN = re.compile(r'[\x00-\x20<>"{}|^`\\]')
"""What RDF 1.1 allows in no IRI."""
ESCAPES = {ord(character): written for character, written in {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"}.items()}


class Entity(NamedTuple):
    """An argument of a relation.

    Attributes:
        text: its words, with one space for white space between them.
        label: entity type; empty if it is no entity.
        kb_id: id in a knowledge base; empty if there is none.
        start: first character of these words.
        end: one past the last character.
        unknown: provisional id of an entity that is in no knowledge base; empty if it has none.
    """

    text: str
    label: str
    kb_id: str
    start: int
    end: int
    unknown: str = ""


class Triple(NamedTuple):
    """A relation.

    Attributes:
        document: name of the document.
        sentence: number of the sentence, from 0; none if it is in several, or not known.
        head: its first argument.
        relation: its label.
        tail: its second argument.
        score: its probability; none for gold relations.
    """

    document: str
    sentence: int | None
    head: Entity
    relation: str
    tail: Entity
    score: float | None


class Names(NamedTuple):
    """IRIs begin with these.

    Attributes:
        base: relations, types, and entities without link.
        links: ids of a knowledge base; ids that are IRIs stay as they are.
    """

    base: str = BASE
    links: str = LINKS


def read_triples(doc: Doc, name: str = "") -> Iterator[Triple]:
    """Give the relations of a document: `doc._.relations`, or where no component has written any, `doc.user_data["relations"]`.

    Types and ids are those of `doc.ents` and span groups with the same offsets. An argument with the number of a cluster
    (`head_cluster`, `tail_cluster`) is all mentions in its group `coref_clusters_N`.

    Args:
        doc: the document.
        name: of the document, if `doc.user_data` has no `id`.

    Raises:
        InputError: E345 for a relation that cannot be read, E349 for relations that are no list, E346 for a relation with a
            cluster that there is not, E562 for groups of unknown entities that cannot be read.
    """
    data: Mapping[Any, Any] = doc.user_data
    values = data.get(WRITTEN)
    if values is None:
        values = data.get(RELATIONS) or ()
    arguments = _Arguments(doc)
    document = str(data.get("id") or name)
    for value in relation_list(values):
        found = read_relation(value, len(doc))
        head, tail = (arguments.read(value, end) for end in ("head", "tail"))
        yield Triple(document, value.get("sentence"), head, found.label, tail, found.score)


class _Arguments:
    """What a document says of the arguments of its relations."""

    def __init__(self, doc: Doc) -> None:
        data: Mapping[Any, Any] = doc.user_data
        self.doc = doc
        self.unknown = _unknown(data.get(UNKNOWN) or {})
        self.entities: dict[tuple[int, int], tuple[str, str]] = {}
        for span in [*doc.ents, *(span for group in doc.spans.values() for span in group)]:
            label, kb_id = self.entities.get((span.start, span.end), ("", ""))
            link = "" if span.kb_id_ == NIL else span.kb_id_
            self.entities[span.start, span.end] = label or span.label_, kb_id or link

    def read(self, relation: Mapping[str, Any], end: str) -> Entity:
        """The head or tail of a relation: a mention, or the cluster that it stands for."""
        number = relation.get(f"{end}_cluster")
        if number is None:
            return self._mention(*relation[end])
        groups = [key for key in self.doc.spans if key.startswith(f"{PREFIX}_")]
        if f"{PREFIX}_{number}" not in groups:
            raise error("E346", found=repr(relation)[:80], n=len(groups))
        places = {(span.start, span.end) for span in self.doc.spans[f"{PREFIX}_{number}"]} | {tuple(relation[end])}
        mentions = [self._mention(*place) for place in sorted(places)]
        linked, typed = ([one for one in mentions if getattr(one, key)] for key in ("kb_id", "label"))
        named = max(linked or typed or mentions, key=lambda one: len(one.text))
        label = next((one.label for one in [*linked, *typed] if one.label), "")
        unknown = "" if linked else next((one.unknown for one in mentions if one.unknown), "")
        return named._replace(label=label, kb_id=linked[0].kb_id if linked else "", unknown=unknown)

    def _mention(self, start: int, end: int) -> Entity:
        span = self.doc[start:end]
        label, kb_id = self.entities.get((start, end), ("", ""))
        provisional = "" if kb_id else self.unknown.get((start, end), "")
        return Entity(" ".join(span.text.split()), label, kb_id, span.start_char, span.end_char, provisional)


def _unknown(groups: Any) -> dict[tuple[int, int], str]:
    """Provisional ids by the places of mentions."""
    try:
        return {(int(start), int(end)): str(id_) for id_, places in groups.items() for start, end in places}
    except (AttributeError, TypeError, ValueError) as reason:
        raise error("E562", found=repr(groups)[:80]) from reason


def csv_lines(triples: Iterable[Triple]) -> Iterator[str]:
    """Write a table with a header, one row per relation; provisional ids stand where there is no other."""
    parts = [f"{end}{name}" for end in ("head", "tail") for name in ("", "_type", "_id", "_start", "_end")]
    yield _csv_row(["document", "sentence", *parts[:5], "relation", *parts[5:], "score"])
    for one in triples:
        score = "" if one.score is None else f"{one.score:.6g}"
        yield _csv_row([one.document, one.sentence, *_cells(one.head), one.relation, *_cells(one.tail), score])


def nt_lines(triples: Iterable[Triple], names: Names = Names()) -> Iterator[str]:  # noqa: B008 - it never changes
    """Write N-Triples (RDF 1.1): each different statement once, among them the texts and types of entities."""
    written: set[tuple[str, str, str]] = set()
    for one in triples:
        head, tail = node_iri(one, one.head, names), node_iri(one, one.tail, names)
        statements = [(head, f"{names.base}relation/{_encoded(one.relation)}", f"<{tail}>")]
        for iri, entity in ((head, one.head), (tail, one.tail)):
            statements.append((iri, LABEL, _literal(entity.text)))
            if entity.label:
                statements.append((iri, TYPE, f"<{names.base}type/{_encoded(entity.label)}>"))
        for statement in sorted(set(statements) - written):
            written.add(statement)
            yield f"<{statement[0]}> <{statement[1]}> {statement[2]} .\n"


def graphml_lines(triples: Iterable[Triple], names: Names = Names()) -> Iterator[str]:  # noqa: B008 - it never changes
    """Write GraphML: a node for each entity, with the text and type where it occurs first, and an edge for each relation."""
    yield '<?xml version="1.0" encoding="UTF-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
    for owner, name, kind in (
        *(("node", name, "string") for name in ("text", "type", "kb_id", "iri")),
        *(("edge", name, "string") for name in ("relation", "document")),
        ("edge", "sentence", "int"),
        ("edge", "score", "double"),
    ):
        yield f'<key id="{name}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>\n'
    yield '<graph edgedefault="directed">\n'
    numbers: dict[str, int] = {}
    for one in triples:
        ends = []
        for entity in (one.head, one.tail):
            iri = node_iri(one, entity, names)
            if iri not in numbers:
                numbers[iri] = len(numbers)
                data = {"text": entity.text, "type": entity.label, "kb_id": entity.kb_id, "iri": iri}
                yield f'<node id="n{numbers[iri]}">{_data(data)}</node>\n'
            ends.append(numbers[iri])
        data = {"relation": one.relation, "document": one.document}
        data |= {name: str(value) for name, value in (("sentence", one.sentence), ("score", one.score)) if value is not None}
        yield f'<edge source="n{ends[0]}" target="n{ends[1]}">{_data(data)}</edge>\n'
    yield "</graph>\n</graphml>\n"


def node_iri(triple: Triple, entity: Entity, names: Names) -> str:
    """The IRI of an argument: of what it is linked to, or made of its text in its document.

    An id that is an IRI, with ``://`` or as a URN, stays as it is; only characters that no IRI has are encoded.
    """
    if IRI.match(entity.kb_id):
        return FORBIDDEN.sub(lambda found: quote(found[0]), entity.kb_id)
    if entity.kb_id:
        return f"{names.links}{_encoded(entity.kb_id)}"
    if entity.unknown and not OWN.fullmatch(entity.unknown):
        return f"{names.base}entity/{_encoded(entity.unknown)}"
    return f"{names.base}entity/{_encoded(triple.document)}/{_encoded(entity.unknown or entity.text)}"


def _cells(entity: Entity) -> tuple[str, str, str, int, int]:
    return entity.text, entity.label, entity.kb_id or entity.unknown, entity.start, entity.end


def _encoded(text: str) -> str:
    return quote(text, safe="")


def _literal(text: str) -> str:
    """Quote a text; control characters are written by their numbers."""
    escaped = text.translate(ESCAPES)
    return '"' + re.sub("[\x00-\x1f\x7f]", lambda found: f"\\u{ord(found[0]):04X}", escaped) + '"'


def _data(values: dict[str, str]) -> str:
    """Write values; characters that no XML can hold become U+FFFD."""
    shown = {name: escape(NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)) for name, value in values.items() if value}
    return "".join(f'<data key="{name}">{value}</data>' for name, value in shown.items())


def _csv_row(values: Iterable[object]) -> str:
    row = io.StringIO()
    csv.writer(row, lineterminator="\n").writerow(["" if value is None else value for value in values])
    return row.getvalue()
