"""SpERT's JSON of sentences with entities and relations, in the two key styles in which CoNLL04 is published."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from entitykit.corpora.files import items, member, read_json, typed
from entitykit.corpora.parsed import Mention, ParsedDoc, Relation
from entitykit.errors import error

SUFFIXES = (".json",)


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a JSON list of sentences, one `Doc` each; relations go to `doc.user_data["relations"]`.

    An object has `tokens`, `entities` and optionally `relations` and `orig_id`. Offsets are tokens, end exclusive. Two styles:
    `[start, end, type]` with `[head_start, head_end, tail_start, tail_end, type]`, or SpERT's own `{"type", "start", "end"}`
    with `{"type", "head", "tail"}`, where head and tail are indices into the entities.

    Args:
        path: the file.

    Raises:
        CorpusError: E203 to E207 for the file and its values, E208 for offsets outside the tokens, E216 for an entity index
            that does not exist.
    """
    for number, record in enumerate(typed(read_json(path), list, what="the file", where=str(path)), start=1):
        where = f"{path}, sentence {number}"
        words = [typed(word, str, what="a token", where=where) for word in member(record, "tokens", list, where=where)]
        entities = [_entity(value, where) for value in member(record, "entities", list, where=where)]
        relations = [_relation(value, entities, where) for value in member(record, "relations", list, where=where, default=[])]
        name = record.get("orig_id", f"{path.stem}-{number}")
        yield ParsedDoc(id=str(name), where=where, words=words, entities=entities, relations=relations)


def _entity(value: object, where: str) -> Mention:
    if isinstance(value, dict):
        start, end = (member(value, key, int, where=where) for key in ("start", "end"))
        return Mention(start, end, member(value, "type", str, where=where))
    return Mention(*items(value, int, int, str, what="an entity", where=where))


def _relation(value: object, entities: Sequence[Mention], where: str) -> Relation:
    if not isinstance(value, dict):
        *offsets, label = items(value, int, int, int, int, str, what="a relation", where=where)
        return Relation(head=offsets[:2], tail=offsets[2:], label=label)
    ends = []
    for key in ("head", "tail"):
        index = member(value, key, int, where=where)
        if not 0 <= index < len(entities):
            raise error("E216", where=where, key=key, index=index, n=len(entities))
        ends.append([entities[index].start, entities[index].end])
    return Relation(head=ends[0], tail=ends[1], label=member(value, "type", str, where=where))
