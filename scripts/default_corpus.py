"""The training corpus of `en_entitykit_sm`: open data sets brought under one label scheme.

Entities are *names*, flat or nested: PERSON, ORG, PLACE, DATE, MISC (works, events, products, languages …), CHEMICAL and
DISEASE. Sources that mark common noun phrases too (GUM, LitBank) give only those that are names, cut down to the name.
Sources that mark no dates get plain ones by rule. Mentions are all phrases that stand for an entity, pronouns included;
only GUM marks them all, so the mention component learns from GUM alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import spacy
from docred_facts import TYPES
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.corpora.read import read_docs

MAX_WORDS = 160
"""Long documents are cut into runs of whole sentences of about this many words."""

GUM_GENRES = ("academic", "bio", "court", "interview", "news", "voyage")
"""Genres whose texts are under CC BY or CC BY-SA."""

GUM_LABELS = {"person": "PERSON", "place": "PLACE", "organization": "ORG", "time": "DATE"}
LITBANK_LABELS = {"PER": "PERSON", "FAC": "PLACE", "GPE": "PLACE", "LOC": "PLACE", "VEH": "MISC", "ORG": "ORG"}
WNUT_LABELS = {
    "person": "PERSON",
    "location": "PLACE",
    "corporation": "ORG",
    "group": "ORG",
    "product": "MISC",
    "creative-work": "MISC",
}
POLITICS_LABELS = {
    "person": "PERSON",
    "politician": "PERSON",
    "organisation": "ORG",
    "politicalparty": "ORG",
    "country": "PLACE",
    "location": "PLACE",
    "election": "MISC",
    "event": "MISC",
    "misc": "MISC",
}
AI_LABELS = {
    "person": "PERSON",
    "researcher": "PERSON",
    "organisation": "ORG",
    "university": "ORG",
    "country": "PLACE",
    "location": "PLACE",
    "conference": "MISC",
    "product": "MISC",
    "programlang": "MISC",
}
BC5CDR_LABELS = {"Chemical": "CHEMICAL", "Disease": "DISEASE"}

_INSIDE_NAMES = {"of", "the", "and", "&", "'s", "’s", "for", "de", "la", "von", "van", "der", "al", "-", "–"}
_MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
_DATE = re.compile(
    rf"\b(?:\d{{1,2}} (?:{_MONTHS})(?: \d{{4}})?|(?:{_MONTHS}) \d{{1,2}}(?: , \d{{4}}|, \d{{4}})?|(?:{_MONTHS}) \d{{4}}"
    r"|(?:1[5-9]|20)\d{2})\b"
)

Relabel = Callable[[Doc], list[Span]]


@dataclass(frozen=True)
class Source:
    """One data set.

    Attributes:
        name: short name, under which scores are reported.
        splits: `train`, `test` and perhaps `dev` to documents.
        licence: of the texts and their annotation.
    """

    name: str
    splits: dict[str, Callable[[], Iterable[Doc]]]
    licence: str


def sources(data: Path) -> list[Source]:
    """All sources below a folder that holds `gum`, `litbank`, `wnut17`, `crossner`, `redocred` and `bc5cdr_pubtator`."""
    nlp = spacy.blank("en")
    return [
        _gum(data / "gum", nlp),
        _litbank(data / "litbank" / "entities" / "tsv", nlp),
        _columns("wnut17", _wnut_files(data / "wnut17"), WNUT_LABELS, nlp, "CC BY 4.0"),
        _columns("politics", _crossner_files(data / "crossner/politics"), POLITICS_LABELS, nlp, "MIT"),
        _columns("ai", _crossner_files(data / "crossner/ai"), AI_LABELS, nlp, "MIT"),
        _docred(data / "redocred" / "dev_revised.json", nlp),
        _bc5cdr(data / "bc5cdr_pubtator", nlp),
    ]


def _wnut_files(folder: Path) -> dict[str, list[Path]]:
    files = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
    return {split: [folder / file] for split, file in files.items()}


def _crossner_files(folder: Path) -> dict[str, list[Path]]:
    """So small a training set takes in the development set; training is not stopped by scores, so nothing needs it."""
    return {"train": [folder / "train.txt", folder / "dev.txt"], "test": [folder / "test.txt"]}


def _gum(folder: Path, nlp: Language) -> Source:
    def docs(split: str) -> Iterator[Doc]:
        wanted = gum_ids(folder / "splits.md", split)
        for doc in read_docs(folder / "dep", "gum", nlp, ids=wanted):
            doc.spans["mentions"] = list(doc.spans["sc"])
            yield from cut(doc, name_spans(doc, GUM_LABELS, _gum_name))

    return Source(
        "gum", {split: lambda s=split: docs(s) for split in ("train", "dev", "test")}, "CC BY 4.0; texts CC BY, CC BY-SA"
    )


def gum_ids(path: Path, split: str) -> list[str]:
    """Documents of the open genres; those that `splits.md` puts in no split are for training."""
    listed: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            current = listed.setdefault(line[3:].strip(), [])
        elif line.strip().startswith("* "):
            current.append(line.strip()[2:])
    held_out = {name for other in listed if other != "train" for name in listed[other]}
    names = sorted(file.stem for file in (path.parent / "dep").glob("*.conllu"))
    chosen = [n for n in names if n not in held_out] if split == "train" else [n for n in names if n in listed[split]]
    return [name for name in chosen if name.split("_")[1] in GUM_GENRES]


def _gum_name(span: Span) -> Span | None:
    """A mention's name: the run of proper nouns around its last one, or the whole date."""
    if span.label_ == "time":
        return span if any(token.text.isdigit() or token.tag_ == "NNP" for token in span) and len(span) <= 6 else None
    head = span.root if span.doc.has_annotation("DEP") else span[-1]
    if head.tag_ not in ("NNP", "NNPS"):
        return None
    start = end = head.i
    while start > span.start and _joins(span.doc, start - 1, span.start, -1):
        start -= 1
    while end + 1 < span.end and _joins(span.doc, end + 1, span.end - 1, 1):
        end += 1
    return span.doc[start : end + 1]


def _joins(doc: Doc, i: int, limit: int, step: int) -> bool:
    """Whether a token goes on a name: a proper noun, or a small word with a proper noun behind it."""
    proper = ("NNP", "NNPS")
    if doc[i].tag_ in proper:
        return True
    following = i + step
    inside = min(i, limit) <= following <= max(i, limit)
    return inside and doc[i].lower_ in _INSIDE_NAMES and doc[following].tag_ in proper


def _litbank(folder: Path, nlp: Language) -> Source:
    def docs(first: int, last: int) -> Iterator[Doc]:
        for doc in list(read_docs(folder, "layered", nlp))[first:last]:
            yield from cut(doc, add_dates(doc, name_spans(doc, LITBANK_LABELS, _capitalised_name)))

    return Source(
        "litbank", {"train": lambda: docs(0, 80), "dev": lambda: docs(80, 90), "test": lambda: docs(90, 100)}, "CC BY 4.0"
    )


def _capitalised_name(span: Span) -> Span | None:
    """The capitalised words at the end of a phrase, where a capital is not just that of a sentence's first word."""
    start = span.end
    while start > span.start and (span.doc[start - 1].text[0].isupper() or span.doc[start - 1].lower_ in _INSIDE_NAMES):
        start -= 1
    while start < span.end and not span.doc[start].text[0].isupper():
        start += 1
    if start == span.end or (span.end - start == 1 and span.doc[start].is_sent_start):
        return None
    return span.doc[start : span.end]


def _columns(name: str, files: dict[str, list[Path]], labels: dict[str, str], nlp: Language, licence: str) -> Source:
    def docs(paths: Sequence[Path]) -> Iterator[Doc]:
        for path in paths:
            for doc in read_docs(path, "columns", nlp):
                yield from cut(doc, add_dates(doc, name_spans(doc, labels, lambda span: span)))

    return Source(name, {split: lambda p=paths: docs(p) for split, paths in files.items()}, licence)


def _docred(path: Path, nlp: Language) -> Source:
    def docs(first: int, last: int) -> Iterator[Doc]:
        for record in json.loads(path.read_text(encoding="utf-8"))[first:last]:
            doc = Doc(nlp.vocab, words=[word for sentence in record["sents"] for word in sentence])
            starts = [sum(map(len, record["sents"][:i])) for i in range(len(record["sents"]))]
            for start in starts:
                doc[start].is_sent_start = True
            found = {
                (starts[m["sent_id"]] + m["pos"][0], starts[m["sent_id"]] + m["pos"][1], TYPES[m["type"]])
                for entity in record["vertexSet"]
                for m in entity
                if m["type"] in TYPES
            }
            yield from cut(doc, [Span(doc, start, end, label=label) for start, end, label in sorted(found)])

    return Source(
        "redocred", {"train": lambda: docs(0, 400), "dev": lambda: docs(400, 430), "test": lambda: docs(430, 500)}, "MIT"
    )


def _bc5cdr(folder: Path, nlp: Language) -> Source:
    def docs(file: str, first: int, last: int) -> Iterator[Doc]:
        for doc in islice(read_docs(folder / file, "pubtator", nlp), first, last):
            yield from cut(doc, name_spans(doc, BC5CDR_LABELS, lambda span: span))

    return Source(
        "bc5cdr",
        {
            "train": lambda: docs("CDR_DevelopmentSet.PubTator.txt", 0, 300),
            "dev": lambda: docs("CDR_DevelopmentSet.PubTator.txt", 300, 330),
            "test": lambda: docs("CDR_TestSet.PubTator.txt", 0, 200),
        },
        "public domain",
    )


def name_spans(doc: Doc, labels: dict[str, str], cut_to_name: Callable[[Span], Span | None]) -> list[Span]:
    """The entities of a document that are names, under the scheme's labels; GUM's other types are MISC."""
    names: dict[tuple[int, int], Span] = {}
    for span in doc.spans["sc"]:
        label = labels.get(span.label_, "MISC" if labels is GUM_LABELS else None)
        name = cut_to_name(span) if label else None
        if name is not None and label is not None:
            names.setdefault((name.start, name.end), Span(doc, name.start, name.end, label=label))
    return [span for span in names.values() if not _is_title(span, names.values())]


def _is_title(span: Span, names: Iterable[Span]) -> bool:
    """Whether a person is only the beginning of a longer one: LitBank marks the `Mr.` of `Mr. Blowers`."""
    return span.label_ == "PERSON" and any(
        other.label_ == "PERSON" and other.start == span.start and other.end > span.end for other in names
    )


def add_dates(doc: Doc, spans: Sequence[Span]) -> list[Span]:
    """Add plain dates that lie in no other entity."""
    taken = {i for span in spans for i in range(span.start, span.end)}
    dates = [doc.char_span(match.start(), match.end(), label="DATE") for match in _DATE.finditer(doc.text)]
    return [*spans, *(date for date in dates if date is not None and taken.isdisjoint(range(date.start, date.end)))]


def cut(doc: Doc, names: Sequence[Span]) -> Iterator[Doc]:
    """Cut a document between sentences, and give each part its entities and, where they are marked, its mentions."""
    borders = [0]
    for token in doc:
        if token.is_sent_start and token.i - borders[-1] >= MAX_WORDS * 0.75:
            borders.append(token.i)
    groups = {"sc": names} | ({"mentions": doc.spans["mentions"]} if "mentions" in doc.spans else {})
    for start, end in zip(borders, [*borders[1:], len(doc)], strict=True):
        part = doc[start:end].as_doc()
        part.spans.clear()
        for key, spans in groups.items():
            part.spans[key] = [
                Span(part, s.start - start, s.end - start, label=s.label_) for s in spans if s.start >= start and s.end <= end
            ]
        part.user_data.clear()
        part.set_ents(spacy.util.filter_spans(list(part.spans["sc"])))
        yield part
