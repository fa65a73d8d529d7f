"""DyGIE JSON lines: documents in sentences with entities, relations and coreference clusters (SciERC)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from entitykit.corpora.clusters import cluster_groups
from entitykit.corpora.files import items, member, read_json_lines, typed
from entitykit.corpora.parsed import Mention, ParsedDoc, Relation
from entitykit.errors import error

SUFFIXES = (".json", ".jsonl")


class Sentence(NamedTuple):
    """One sentence of a record; all offsets are the document's tokens, end exclusive.

    Attributes:
        start: its first token.
        words: its tokens.
        entities: its entities.
        relations: its relations.
    """

    start: int
    words: list[str]
    entities: list[Mention]
    relations: list[Relation]


def parse(path: Path, *, unit: str = "document") -> Iterator[ParsedDoc]:
    """Read one record per line: `sentences`, `ner`, optionally `relations`, `clusters`, `doc_key`; offsets end inclusive.

    Relations go to `doc.user_data["relations"]`, clusters to the span groups `coref_clusters_1`, `coref_clusters_2`, …; one
    empty group says that a document has none.

    Args:
        path: the file.
        unit: `document` for one `Doc` per record; `sentence` for one per sentence, which has no room for clusters.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E208 for offsets outside the `Doc`'s tokens, E217 for
            annotations of another number of sentences.
        ConfigError: E213 for another unit.
    """
    if unit not in ("document", "sentence"):
        raise error("E213", option="unit", found=unit, expected="document, sentence")
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        name = member(record, "doc_key", str, where=where, default=f"{path.stem}-{line}")
        sentences = _sentences(record, where)
        if unit == "sentence":
            yield from (_sentence_doc(f"{name}-{i}", sentence, where) for i, sentence in enumerate(sentences, start=1))
            continue
        yield ParsedDoc(
            id=name,
            where=where,
            words=[word for sentence in sentences for word in sentence.words],
            sent_starts=[i == 0 for sentence in sentences for i in range(len(sentence.words))],
            entities=[mention for sentence in sentences for mention in sentence.entities],
            groups=_clusters(record, where),
            relations=[relation for sentence in sentences for relation in sentence.relations],
        )


def _sentences(record: object, where: str) -> list[Sentence]:
    texts = member(record, "sentences", list, where=where)
    layers = {"ner": member(record, "ner", list, where=where)}
    layers["relations"] = member(record, "relations", list, where=where, default=[[] for _ in texts])
    for key, layer in layers.items():
        if len(layer) != len(texts):
            raise error("E217", where=where, key=key, found=len(layer), expected=len(texts))
    sentences = []
    start = 0
    for tokens, ner, relations in zip(texts, layers["ner"], layers["relations"], strict=True):
        words = [typed(word, str, what="a token", where=where) for word in typed(tokens, list, what="a sentence", where=where)]
        entities = [_mention(value, where) for value in typed(ner, list, what="'ner' of a sentence", where=where)]
        pairs = [_relation(value, where) for value in typed(relations, list, what="'relations' of a sentence", where=where)]
        sentences.append(Sentence(start, words, entities, pairs))
        start += len(words)
    return sentences


def _mention(value: object, where: str) -> Mention:
    start, last, label = items(value, int, int, str, what="an entity", where=where)
    return Mention(start, last + 1, label)


def _relation(value: object, where: str) -> Relation:
    head, head_last, tail, tail_last, label = items(value, int, int, int, int, str, what="a relation", where=where)
    return Relation(head=[head, head_last + 1], tail=[tail, tail_last + 1], label=label)


def _clusters(record: dict[str, object], where: str) -> dict[str, list[Mention]]:
    """The groups; none for a record that does not speak of clusters."""
    if record.get("clusters") is None:
        return {}
    return cluster_groups([_cluster(value, where) for value in member(record, "clusters", list, where=where)])


def _cluster(value: object, where: str) -> Sequence[Mention]:
    mentions = [
        items(span, int, int, what="a mention", where=where) for span in typed(value, list, what="a cluster", where=where)
    ]
    if not mentions:
        raise error("E206", where=where, what="a cluster", found="[]", expected="a list of one mention at least")
    return [Mention(start, last + 1, "") for start, last in mentions]


def _sentence_doc(name: str, sentence: Sentence, where: str) -> ParsedDoc:
    relations = [
        Relation(
            head=[offset - sentence.start for offset in pair["head"]],
            tail=[offset - sentence.start for offset in pair["tail"]],
            label=pair["label"],
        )
        for pair in sentence.relations
    ]
    entities = [mention.shift(-sentence.start) for mention in sentence.entities]
    return ParsedDoc(
        id=name,
        where=where,
        words=sentence.words,
        sent_starts=[i == 0 for i in range(len(sentence.words))],
        entities=entities,
        relations=relations,
    )
