"""TACRED's JSON, also of TACREV and Re-TACRED: sentences with a subject, an object and the relation between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entitykit.corpora.files import member, read_json, typed
from entitykit.corpora.parsed import Mention, ParsedDoc, Relation, RelationPair

SUFFIXES = (".json",)

NO_RELATION = "no_relation"
"""The label of a pair that has none of the relations."""


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a JSON list of examples: `token`; `subj_start`, `subj_end` (inclusive), `subj_type`; the same of `obj`; `relation`.

    Subject and object are the entities. The relation leads from subject to object, in `doc.user_data["relations"]`;
    `no_relation` is none. `doc.user_data["relation_pair"]` has both and the label. Of the other keys only `id` is read.

    Args:
        path: the file.

    Raises:
        CorpusError: E203 to E207 for the file and its values, E208 for offsets outside the tokens.
    """
    for number, record in enumerate(typed(read_json(path), list, what="the file", where=str(path)), start=1):
        where = f"{path}, example {number}"
        words = [typed(word, str, what="a token", where=where) for word in member(record, "token", list, where=where)]
        subject, other = (_mention(record, key, where) for key in ("subj", "obj"))
        label = member(record, "relation", str, where=where, default="")
        ends = [subject.start, subject.end], [other.start, other.end]
        relations = [] if label == NO_RELATION else [Relation(head=ends[0], tail=ends[1], label=label)]
        yield ParsedDoc(
            id=str(record.get("id") or f"{path.stem}-{number}"),
            where=where,
            words=words,
            entities=[subject, other],
            relations=relations if label else None,
            pair=RelationPair(first=ends[0], second=ends[1], label=label, one_way=True) if label else None,
        )


def _mention(record: object, key: str, where: str) -> Mention:
    start, last = (member(record, f"{key}_{end}", int, where=where) for end in ("start", "end"))
    return Mention(start, last + 1, member(record, f"{key}_type", str, where=where))
