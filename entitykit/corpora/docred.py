"""DocRED's JSON, also of Re-DocRED: documents with entities of several mentions, and relations between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from entitykit.corpora.files import items, member, read_json, typed
from entitykit.corpora.parsed import Mention, Note, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".json",)


def parse(path: Path, *, names: str = "") -> Iterator[ParsedDoc]:
    """Read a JSON list of documents: `title`, `sents`, `vertexSet` and, where it is annotated, `labels`.

    All mentions are entities; those of the first entity are also the span group `coref_clusters_1`, and so on. Relations go to
    `doc.user_data["cluster_relations"]`: `head` and `tail`, the numbers of the span groups; `label`; `evidence`, the numbers of
    sentences, from 0.

    Args:
        path: the file.
        names: a JSON file that names properties, `{"P17": "country"}` or `{"P17": ["country", "what it means"]}`; the names
            become the labels. Without one the labels are properties; so are those of properties that it does not have (W208).

    Raises:
        CorpusError: E203 to E207 for the files and their values, E208 for offsets outside a sentence, E216 for an entity that
            does not exist, E226 for a sentence that does not exist.
    """
    table = _names(Path(names)) if names else None
    for number, record in enumerate(typed(read_json(path), list, what="the file", where=str(path)), start=1):
        where = f"{path}, document {number}"
        sentences = [
            [typed(word, str, what="a token", where=where) for word in typed(sentence, list, what="a sentence", where=where)]
            for sentence in member(record, "sents", list, where=where)
        ]
        starts = [0, *accumulate(map(len, sentences))]
        entities = [
            [_mention(value, starts, where) for value in typed(mentions, list, what="an entity", where=where)]
            for mentions in member(record, "vertexSet", list, where=where)
        ]
        data: dict[str, Any] = {}
        notes: list[Note] = []
        if record.get("labels") is not None:
            labels = member(record, "labels", list, where=where)
            found = [_relation(label, len(entities), len(sentences), where) for label in labels]
            data["cluster_relations"] = found if table is None else [_named(each, table, notes, where) for each in found]
        yield ParsedDoc(
            id=member(record, "title", str, where=where),
            where=where,
            words=[word for sentence in sentences for word in sentence],
            sent_starts=[i == 0 for sentence in sentences for i in range(len(sentence))],
            entities=[mention for mentions in entities for mention in mentions],
            groups={
                f"coref_clusters_{i}": [mention._replace(label="") for mention in mentions]
                for i, mentions in enumerate(entities, start=1)
            },
            user_data=data,
            notes=notes,
        )


def _mention(value: object, starts: Sequence[int], where: str) -> Mention:
    sentence = member(value, "sent_id", int, where=where)
    start, end = items(member(value, "pos", list, where=where), int, int, what="'pos'", where=where)
    label = member(value, "type", str, where=where)
    if not 0 <= sentence < len(starts) - 1:
        raise error("E226", where=where, found=f"'sent_id' {sentence}", expected=f"a number below {len(starts) - 1}")
    length = starts[sentence + 1] - starts[sentence]
    if not 0 <= start < end <= length:
        raise error("E208", where=f"{where}, sentence {sentence}", start=start, end=end, label=label, n=length)
    return Mention(start, end, label).shift(starts[sentence])


def _relation(value: object, n_entities: int, n_sentences: int, where: str) -> dict[str, Any]:
    ends = {}
    for key, name in (("h", "head"), ("t", "tail")):
        index = member(value, key, int, where=where)
        if not 0 <= index < n_entities:
            raise error("E216", where=where, key=name, index=index, n=n_entities)
        ends[name] = index + 1
    label = member(value, "r", str, where=where)
    evidence = [
        typed(sentence, int, what="'evidence'", where=where)
        for sentence in member(value, "evidence", list, where=where, default=[])
    ]
    if not all(0 <= sentence < n_sentences for sentence in evidence):
        raise error("E226", where=where, found=f"'evidence' {evidence}", expected=f"numbers below {n_sentences}")
    return {**ends, "label": label, "evidence": sorted(set(evidence))}


def _named(relation: dict[str, Any], names: Mapping[str, str], notes: list[Note], where: str) -> dict[str, Any]:
    label = relation["label"]
    if label not in names:
        notes.append(Note("unnamed", f"{label} ({where})"))
    return {**relation, "label": names.get(label, label)}


def _names(path: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for key, value in typed(read_json(path), dict, what="the file", where=str(path)).items():
        first = value[0] if isinstance(value, list) and value else value
        names[key] = typed(first, str, what=f"the name of '{key}'", where=str(path))
    return names
