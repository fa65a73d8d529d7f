"""ECB+: news in topics, with clusters of entities across documents (Cybulska and Vossen, LREC 2014).

Two formats: the release's XML, a document per file, and the text files with JSON mentions of Barhom et al. (ACL 2019),
`ECB_Dev_corpus.txt` beside `ECB_Dev_Entity_gold_mentions.json`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from entitykit.corpora.clusters import IDS, named_groups
from entitykit.corpora.files import member, read_json, read_lines, read_text, typed
from entitykit.corpora.parsed import Mention, Note, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".txt", ".xml")

KINDS = {"entity": "Entity", "event": "Event"}
CORPUS = "_corpus"
EVENTS = ("ACTION", "NEG_ACTION")
"""How the tags of the release's events begin; all others are entities."""


class Word(NamedTuple):
    """A token: its document, sentence and number as in the file, its text and place."""

    document: str
    sentence: int
    number: int
    text: str
    where: str


class Tagged(NamedTuple):
    """A mention by its tokens in the document, from 0, in order; `cluster` may name a cluster of the whole corpus."""

    words: Sequence[int]
    label: str
    cluster: str
    where: str


def parse(path: Path, *, mentions: str = "entity") -> Iterator[ParsedDoc]:
    """Read a document of the release (`.xml`), or a file of documents with its JSON mentions (`…_corpus.txt`).

    The mentions are the entities, with their type as label, and the span groups `coref_clusters_1`, `coref_clusters_2`, …,
    those of one mention included. `doc.user_data["coref_ids"]` has the clusters' ids in the order of the groups; the same id in
    several documents is the same entity. `doc.user_data["topic"]` is the number at the beginning of the document's name.

    Args:
        path: the file.
        mentions: `entity` or `event`.

    Raises:
        ConfigError: E213 for other `mentions`.
        CorpusError: E204 to E207 for the files and their values, E214 and E220 for columns, E219 for a document that goes on
            after another one, E226 for mentions without such tokens, E261 for text that is no XML, E262 for text without its
            mentions.
    """
    if mentions not in KINDS:
        raise error("E213", option="mentions", found=mentions, expected=", ".join(KINDS))
    if path.suffix == ".xml":
        yield _read_release(path, mentions)
        return
    gold = _read_mentions(path, KINDS[mentions])
    seen: set[str] = set()
    for name, group in groupby(_read_words(path), key=lambda word: word.document):
        words = list(group)
        if name in seen:
            raise error("E219", where=words[0].where, found=name, expected="a document in one piece")
        seen.add(name)
        places = {(word.sentence, word.number): i for i, word in enumerate(words)}
        found = [_tagged(record, places, where) for where, record in gold.pop(name, [])]
        yield _document(name, words, found, f"{path}, document {name}")
    for name, records in gold.items():
        raise error("E226", where=records[0][0], found=f"the document {name}", expected=f"one that is in {path}")


def _document(name: str, words: Sequence[Word], tagged: Sequence[Tagged], where: str) -> ParsedDoc:
    clusters: dict[str, list[Mention]] = {}
    entities: list[Mention] = []
    notes: list[Note] = []
    for mention in tagged:
        first, last = mention.words[0], mention.words[-1]
        if last - first >= len(mention.words):
            notes.append(Note("discontinuous", f"{mention.label} ({mention.where})"))
        span = Mention(first, last + 1, mention.label)
        entities.append(span)
        clusters.setdefault(mention.cluster, []).append(span)
    groups, ids = named_groups(clusters)
    return ParsedDoc(
        id=name,
        where=where,
        words=[word.text for word in words],
        sent_starts=[i == 0 or word.sentence != words[i - 1].sentence for i, word in enumerate(words)],
        entities=sorted(entities, key=lambda mention: (mention.start, -mention.end)),
        groups=groups,
        user_data={IDS: ids, "topic": name.split("_")[0]},
        notes=notes,
    )


def _read_words(path: Path) -> Iterator[Word]:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        where = f"{path}, line {line}"
        fields = text.split("\t")
        word = "\t".join(fields[3:-1]).strip()  # a few words have a stray tab behind them
        if len(fields) < 5 or "\t" in word:
            raise error("E214", where=where, found=len(fields), expected=5)
        if not word:
            raise error("E210", where=where, number=int(fields[2]) + 1 if fields[2].isdecimal() else fields[2])
        for what, value in (("sentence", fields[1]), ("token", fields[2])):
            if not value.isdecimal():
                raise error("E220", where=where, what=what, found=value, expected="a whole number")
        yield Word(fields[0], int(fields[1]), int(fields[2]), word, where)


def _read_mentions(path: Path, kind: str) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Read the JSON mentions beside a text file, by document."""
    file = path.with_name(f"{path.stem.removesuffix(CORPUS)}_{kind}_gold_mentions.json")
    if not path.stem.endswith(CORPUS) or not file.is_file():
        raise error("E262", path=path, expected=file.name)
    mentions: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for i, record in enumerate(typed(read_json(file), list, what="the file", where=str(file)), start=1):
        where = f"{file}, mention {i}"
        mentions.setdefault(member(record, "doc_id", str, where=where), []).append((where, record))
    return mentions


def _tagged(record: Mapping[str, Any], places: Mapping[tuple[int, int], int], where: str) -> Tagged:
    sentence = member(record, "sent_id", int, where=where)
    numbers = [
        typed(value, int, what="a token number", where=where) for value in member(record, "tokens_number", list, where=where)
    ]
    unknown = [number for number in numbers if (sentence, number) not in places]
    if unknown or not numbers:
        raise error("E226", where=where, found=f"tokens {numbers} of sentence {sentence}", expected="tokens of the text")
    return Tagged(
        words=sorted(places[sentence, number] for number in numbers),
        label=member(record, "mention_type", str, where=where),
        cluster=member(record, "coref_chain", str, where=where),
        where=where,
    )


def _read_release(path: Path, kind: str) -> ParsedDoc:
    """Read a document in XML; a mention that is in no relation is a cluster of its own."""
    try:
        root = ElementTree.fromstring(read_text(path))
    except ElementTree.ParseError as problem:
        raise error("E261", path=path, reason=problem) from problem
    name = root.get("doc_name", path.stem).removesuffix(".xml")
    where, tokens = str(path), root.findall("token")
    words = [
        Word(name, _number(token, "sentence", where), i, (token.text or "").strip(), where) for i, token in enumerate(tokens)
    ]
    places = {token.get("t_id"): i for i, token in enumerate(tokens)}
    cluster_of = _relations(root, name)
    tagged = []
    for markable in root.iterfind("Markables/*"):
        anchors = [anchor.get("t_id") for anchor in markable.iterfind("token_anchor")]
        mention = markable.get("m_id", "")
        if not anchors or markable.tag.startswith(EVENTS) != (kind == "event"):
            continue  # an instance, or of the other kind
        if unknown := [anchor for anchor in anchors if anchor not in places]:
            raise error("E226", where=where, found=f"mention {mention} on token {unknown[0]}", expected="tokens of the text")
        alone = f"Singleton_{markable.tag}_{mention}_{name}"
        tagged.append(Tagged(sorted(places[one] for one in anchors), markable.tag, cluster_of.get(mention, alone), where))
    return _document(name, words, tagged, where)


def _relations(root: ElementTree.Element, name: str) -> dict[str, str]:
    """Give the cluster of every mention that is in a relation: the note of a cross-document one, else one of this document."""
    clusters = {}
    for relation in root.iterfind("Relations/*"):
        cluster = relation.get("note") if relation.tag == "CROSS_DOC_COREF" else None
        for source in relation.iterfind("source"):
            clusters[source.get("m_id", "")] = cluster or f"{relation.tag}_{relation.get('r_id')}_{name}"
    return clusters


def _number(token: ElementTree.Element, attribute: str, where: str) -> int:
    value = token.get(attribute, "")
    if not value.isdecimal():
        raise error("E220", where=where, what=attribute, found=value, expected="a whole number")
    return int(value)
