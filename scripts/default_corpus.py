"""The training corpus of `en_entitykit_sm`: open data sets brought under one label scheme.

Entities are *names*, flat or nested: PERSON, ORG, PLACE, DATE, MISC (works, events, products, languages …), CHEMICAL and
DISEASE. Sources that mark common noun phrases too (GUM, LitBank) give only those that are names, cut down to the name.
Sources that mark no dates get plain ones by rule. Mentions are all phrases that stand for an entity, pronouns included;
only GUM marks them all, so the mention component learns from GUM alone. GUM and LitBank keep their clusters, Re-DocRED its
relations within sentences and links of some of its names: the encoder learns from these, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import spacy
from default_links import LINKS, Known, add_links
from docred_facts import TYPES, relations_in_sentences
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.util import filter_spans

from entitykit.corpora.clusters import PREFIX
from entitykit.corpora.read import read_docs
from entitykit.scoring.coref import cluster_keys

MAX_WORDS = 160
"""Long documents are cut into runs of whole sentences of about this many words …"""

CLUSTER_WORDS = 480
"""… or, where clusters are learned, so many."""

N_DOCRED = 400
"""Documents of Re-DocRED for training."""

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


def sources(data: Path, known: Mapping[str, Known]) -> list[Source]:
    """All sources of names.

    Args:
        data: a folder with `gum`, `litbank`, `wnut17`, `crossner`, `redocred` and `bc5cdr_pubtator`.
        known: what can be linked.
    """
    nlp = spacy.blank("en")
    return [
        _gum(data / "gum", nlp),
        _litbank(data / "litbank", nlp),
        _columns("wnut17", _wnut_files(data / "wnut17"), WNUT_LABELS, nlp, "CC BY 4.0"),
        _columns("politics", _crossner_files(data / "crossner/politics"), POLITICS_LABELS, nlp, "MIT"),
        _columns("ai", _crossner_files(data / "crossner/ai"), AI_LABELS, nlp, "MIT"),
        _docred(data / "redocred" / "dev_revised.json", nlp, known),
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
            yield from cut(doc, name_spans(doc, GUM_LABELS, _gum_name), CLUSTER_WORDS)

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
    def docs(split: str, first: int, last: int) -> Iterator[Doc]:
        entities = list(read_docs(folder / "entities" / "tsv", "layered", nlp))[first:last]
        clusters = read_docs(folder / "coref" / "conll", "litbank", nlp, split=split)
        for doc, other in zip(entities, clusters, strict=True):
            for key in cluster_keys(other):
                doc.spans[key] = [Span(doc, span.start, span.end) for span in other.spans[key]]
            yield from cut(doc, add_dates(doc, name_spans(doc, LITBANK_LABELS, _capitalised_name)), CLUSTER_WORDS)

    parts = {"train": (0, 80), "dev": (80, 90), "test": (90, 100)}
    return Source("litbank", {split: lambda s=split, p=part: docs(s, *p) for split, part in parts.items()}, "CC BY 4.0")


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


def _docred(path: Path, nlp: Language, known: Mapping[str, Known]) -> Source:
    def docs(first: int, last: int) -> Iterator[Doc]:
        for doc in islice(read_docs(path, "docred", nlp), first, last):
            names = name_spans(doc, TYPES, lambda span: span)
            add_links(doc, known)
            doc.set_ents(filter_spans(names))
            doc.user_data["relations"] = list(relations_in_sentences(doc))
            for key in cluster_keys(doc):  # of names alone, so that they say nothing of pronouns
                del doc.spans[key]
            yield from cut(doc, names)

    parts = {"train": (0, N_DOCRED), "dev": (N_DOCRED, 430), "test": (430, 500)}
    return Source("redocred", {split: lambda p=part: docs(*p) for split, part in parts.items()}, "MIT")


def _bc5cdr(folder: Path, nlp: Language) -> Source:
    def docs(file: str, limit: int) -> Iterator[Doc]:
        for doc in read_docs(folder / file, "pubtator", nlp, limit=limit):
            yield from cut(doc, name_spans(doc, BC5CDR_LABELS, lambda span: span))

    return Source(
        "bc5cdr",
        {
            "train": lambda: docs("CDR_DevelopmentSet.PubTator.txt", 300),
            "dev": lambda: docs("CDR_TestSet.PubTator.txt", 30),
            "test": lambda: docs("CDR_TestSet.PubTator.txt", 200),
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


def cut(doc: Doc, names: Sequence[Span], n_words: int = MAX_WORDS) -> Iterator[Doc]:
    """Cut a document between sentences, and give each part its names and what else is marked, numbering clusters anew."""
    borders = [0]
    for token in doc:
        if token.is_sent_start and token.i - borders[-1] >= n_words * 0.75:
            borders.append(token.i)
    groups = {"sc": names} | {key: list(doc.spans[key]) for key in ("mentions", LINKS) if key in doc.spans}
    clusters = [list(doc.spans[key]) for key in cluster_keys(doc)]
    for start, end in zip(borders, [*borders[1:], len(doc)], strict=True):
        part = doc[start:end].as_doc()
        part.spans.clear()
        for key, spans in groups.items():
            part.spans[key] = _within(spans, part, start)
        here = [own for own in (_within(cluster, part, start) for cluster in clusters) if own]
        for number, own in enumerate(here or [[]] if clusters else [], start=1):
            part.spans[f"{PREFIX}_{number}"] = own
        part.user_data.clear()
        if (relations := doc.user_data.get("relations")) is not None:
            part.user_data["relations"] = [
                {"head": [i - start for i in r["head"]], "tail": [i - start for i in r["tail"]], "label": r["label"]}
                for r in relations
                if start <= r["head"][0] < end
            ]
        part.set_ents(filter_spans(part.spans["sc"]))
        yield part


def _within(spans: Iterable[Span], part: Doc, start: int) -> list[Span]:
    """The spans that lie in a part which begins at `start`."""
    end = start + len(part)
    return [
        Span(part, s.start - start, s.end - start, label=s.label, kb_id=s.kb_id)
        for s in spans
        if s.start >= start and s.end <= end
    ]
