"""NIF: texts with linked phrases as RDF, in Turtle, which GERBIL's corpora are published in (Hellmann et al., ISWC 2013)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from entitykit.corpora.parsed import NIL, UNTYPED, Mention, ParsedDoc
from entitykit.corpora.titles import title
from entitykit.corpora.turtle import RDF, read_triples
from entitykit.errors import error

SUFFIXES = (".ttl", ".nif")

NIF = "http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#"
ITSRDF = "http://www.w3.org/2005/11/its/rdf#"

TYPE, CONTEXT, PHRASE, TEXT = f"{RDF}type", f"{NIF}Context", f"{NIF}Phrase", f"{NIF}isString"
BEGIN, END, ANCHOR, OF = (f"{NIF}{name}" for name in ("beginIndex", "endIndex", "anchorOf", "referenceContext"))
ENTITY, CLASS = f"{ITSRDF}taIdentRef", f"{ITSRDF}taClassRef"
SAME = "http://www.w3.org/2002/07/owl#sameAs"

FRAGMENT = re.compile(r".*[#/](?:char=|offset_)(?P<begin>\d+)[,_](?P<end>\d+)", re.DOTALL)
KB = ("dbpedia.org/resource/", "wikipedia.org/wiki/", "wikidata.org/entity/", "wikidata.org/wiki/")
"""The knowledge bases of GERBIL's setting; other addresses stand for emerging entities."""

OFFSETS = {"characters": "characters", "utf16": "UTF-16 units"}


class Value(NamedTuple):
    """An object of a triple, and its line."""

    text: str
    line: int


Properties = dict[str, list[Value]]


def parse(path: Path, *, kb_id: str = "title", kb: Sequence[str] = KB, offsets: str = "characters") -> Iterator[ParsedDoc]:
    """Read a file of contexts, one `Doc` each, in their order.

    A mention is a `nif:Phrase` or what has `itsrdf:taIdentRef` or `itsrdf:taClassRef`; its offsets are `nif:beginIndex` and
    `nif:endIndex`, or the address's `#char=0,12` or `#offset_0_12`. The first `taIdentRef` that is in the knowledge base, or
    for which the file has an `owl:sameAs` that is, becomes `kb_id_`; without one it is `NIL`. The last part of the first class
    is the label. All addresses are in `doc.user_data["nif"]`, with the mention's offsets in characters. Contexts without text
    (collections) are skipped.

    Args:
        path: the file.
        kb_id: `title` for the last part of the address with spaces, `uri` for the whole.
        kb: what comes after `http://`, with any subdomain before it, in addresses of the knowledge base; empty for all
            addresses.
        offsets: `characters`, as NIF says, or `utf16` for files that count as Java does.

    Raises:
        ConfigError: E213 for another `kb_id` or `offsets`.
        CorpusError: E204 and E243 for the Turtle, E244 for a mention without offsets, context or with offsets outside the text,
            E245 for a mention whose `nif:anchorOf` is not at its offsets.
    """
    for option, value, known in (("kb_id", kb_id, ("title", "uri")), ("offsets", offsets, tuple(OFFSETS))):
        if value not in known:
            raise error("E213", option=option, found=value, expected=" or ".join(known))
    known_kb = re.compile(rf"https?://(?:[\w-]+\.)*(?:{'|'.join(map(re.escape, kb))})") if kb else re.compile("")
    resources = _resources(path)
    phrases: dict[str, list[tuple[str, Properties]]] = {}
    for name, found in resources.items():
        if OF in found and not _is_context(found) and (ENTITY in found or CLASS in found or _is_a(found, PHRASE)):
            phrases.setdefault(_context_of(name, found, resources, path), []).append((name, found))
    for name, found in resources.items():
        if not _is_context(found):
            continue
        where = f"{path}, line {found[TYPE][0].line if TYPE in found else found[TEXT][0].line}"
        if TEXT not in found:
            yield ParsedDoc(id=name, where=where, skip="it has no nif:isString")
            continue
        text = found[TEXT][0].text
        at = _utf16_positions(text) if offsets == "utf16" else None
        mentions = []
        as_json = []
        for phrase, properties in phrases.get(name, []):
            start, end = _place(phrase, properties, text, at, path, OFFSETS[offsets])
            entities, classes = _entities(properties, resources), [value.text for value in properties.get(CLASS, ())]
            label = title(classes[0]) if classes else ""
            mentions.append(Mention(start, end, label or UNTYPED, _identifier(entities, known_kb, kb_id)))
            as_json.append({"start": start, "end": end, "entities": entities, "classes": classes})
        data = {"nif": {"mentions": as_json}}
        yield ParsedDoc(id=name, where=where, text=text, offsets="characters", entities=mentions, user_data=data)


def _resources(path: Path) -> dict[str, Properties]:
    resources: dict[str, Properties] = {}
    for triple in read_triples(path):
        resources.setdefault(triple.subject, {}).setdefault(triple.predicate, []).append(Value(triple.object, triple.line))
    return resources


def _is_a(found: Properties, kind: str) -> bool:
    return any(value.text == kind for value in found.get(TYPE, ()))


def _is_context(found: Properties) -> bool:
    return TEXT in found or _is_a(found, CONTEXT)


def _context_of(name: str, found: Properties, resources: Mapping[str, Properties], path: Path) -> str:
    context = found[OF][0]
    if context.text not in resources or TEXT not in resources[context.text]:
        where = f"{path}, line {context.line}"
        raise error(
            "E244", where=where, name=name, found=f"the context '{context.text}'", expected="one with nif:isString in the file"
        )
    return context.text


def _place(name: str, found: Properties, text: str, at: Mapping[int, int] | None, path: Path, unit: str) -> tuple[int, int]:
    """Give the offsets of a mention in characters, checked against its own text if it has one."""
    where = f"{path}, line {found[OF][0].line}"
    fragment = FRAGMENT.fullmatch(name)
    numbers = [found[key][0].text.strip() if key in found else "" for key in (BEGIN, END)]
    if not any(numbers) and fragment is not None:
        numbers = [fragment["begin"], fragment["end"]]
    if not all(number.isdecimal() for number in numbers):
        expected = "nif:beginIndex and nif:endIndex, or an address that ends in #char=0,12 or #offset_0_12"
        raise error("E244", where=where, name=name, found=f"the offsets '{', '.join(numbers)}'", expected=expected)
    first, last = map(int, numbers)
    start, end = (first, last) if at is None else (at.get(first, -1), at.get(last, -1))
    anchor = found[ANCHOR][0].text if ANCHOR in found else None
    if not 0 <= start < end <= len(text):
        shown = f"the offsets [{first}, {last})"
        raise error(
            "E244", where=where, name=name, found=shown, expected=f"such in a text of {len(text)} characters, counted in {unit}"
        )
    if anchor is not None and text[start:end] != anchor:
        raise error("E245", where=where, n=len(text), found=text[start:end], start=first, end=last, expected=anchor, unit=unit)
    return start, end


def _utf16_positions(text: str) -> dict[int, int]:
    """Number the characters by the UTF-16 units before them."""
    positions, units = {}, 0
    for i, character in enumerate(text):
        positions[units] = i
        units += 2 if ord(character) > 0xFFFF else 1
    return {**positions, units: len(text)}


def _entities(found: Properties, resources: Mapping[str, Properties]) -> list[str]:
    """Give the addresses of a mention's entities, each with those that the file says are the same."""
    addresses = []
    for value in found.get(ENTITY, ()):
        addresses += [value.text, *(same.text for same in resources.get(value.text, {}).get(SAME, ()))]
    return addresses


def _identifier(entities: Sequence[str], kb: re.Pattern[str], kb_id: str) -> str:
    address = next((address for address in entities if kb.match(address)), None)
    if address is None:
        return NIL
    return title(address) if kb_id == "title" else address
