"""One mention in its context per line, as JSON: BLINK's style, which ZESHEL is converted to, and GENRE's, which is KILT's.

BLINK: `{"context_left": "", "mention": "Ada", "context_right": "met Bob.", "label_id": 974, "label_title": "Ada Lovelace"}`
GENRE: `{"id": 1, "input": "[START_ENT] Ada [END_ENT] met Bob.", "output": [{"answer": "Ada Lovelace"}], "candidates": []}`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from entitykit.corpora.files import member, read_json_lines, typed
from entitykit.corpora.parsed import NIL, UNTYPED, Mention, Note, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".jsonl",)

CONTEXTS = ("context_left", "mention", "context_right")
MARKED = re.compile(r"(?P<left>.*?)\[START_ENT\] ?(?P<mention>.*?) ?\[END_ENT\](?P<right>.*)", re.DOTALL)
UNKNOWN = {"", "-1", NIL}
GENRE_KB_IDS = ("title", "page")


def parse_blink(path: Path, *, kb_id: str = "label_id", join: str = " ") -> Iterator[ParsedDoc]:
    """Read BLINK's JSON lines, one `Doc` per mention.

    The text is left context, mention and right context; only the mention has entity annotation, because what else the text
    names is not said. All other keys of the record are `doc.user_data["blink"]`.

    Args:
        path: the file.
        kb_id: the key whose value becomes `kb_id_`: a string or a whole number; null, empty and -1 mean NIL. `label_id` of a
            record with a `world` (ZESHEL) counts within it: its name and a colon are put before it.
        join: what is put between context and mention where neither has white space.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E226 for an empty mention.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        left, mention, right = (member(record, key, str, where=where) for key in CONTEXTS)
        value = record[kb_id] if kb_id in record else member(record, kb_id, str, where=where)
        entity = _identifier(value, f"'{kb_id}'", where)
        if kb_id == "label_id" and entity != NIL and record.get("world") is not None:
            entity = f"{member(record, 'world', str, where=where)}:{entity}"
        yield _in_context(
            _seam(left, mention, join),
            mention,
            _seam(mention, right, join)[len(mention) :] + right,
            entity=entity,
            name=_name(record, path, line),
            where=where,
            data={"blink": {key: value for key, value in record.items() if key not in CONTEXTS}},
        )


def parse_genre(path: Path, *, kb_id: str = "title") -> Iterator[ParsedDoc]:
    """Read GENRE's JSON lines, one `Doc` per mention.

    The mention is between `[START_ENT] ` and ` [END_ENT]` of `input`, or else in `meta` with `left_context` and
    `right_context`. Only the mention has entity annotation. The first `output` that has an answer is its entity, none means
    NIL. Everything but `input` and `meta` is `doc.user_data["genre"]`, the candidates among it.

    Args:
        path: the file.
        kb_id: `title` for the answer, `page` for `wikipedia_id` of its first provenance.

    Raises:
        ConfigError: E213 for another `kb_id`.
        CorpusError: E204 to E207 for the file and its values, E226 without a mention or with an empty one.
    """
    if kb_id not in GENRE_KB_IDS:
        raise error("E213", option="kb_id", found=kb_id, expected=" or ".join(GENRE_KB_IDS))
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        left, mention, right = _marked(record, where)
        entity, notes = _answer(record, kb_id, where)
        data = {key: value for key, value in record.items() if key not in ("input", "meta")}
        yield _in_context(
            left, mention, right, entity=entity, name=_name(record, path, line), where=where, data={"genre": data}, notes=notes
        )


def mention_doc(text: str, mention: Mention, *, name: str, where: str, data: Mapping[str, Any], notes: list[Note]) -> ParsedDoc:
    """Make a document of which only one mention is annotated, in characters.

    Raises:
        CorpusError: E226 for offsets outside the text.
    """
    if not 0 <= mention.start < mention.end <= len(text):
        found = f"a mention [{mention.start}, {mention.end})"
        raise error("E226", where=where, found=found, expected=f"0 <= start < end <= {len(text)}")
    return ParsedDoc(
        id=name,
        where=where,
        text=text,
        offsets="characters",
        entities=[mention],
        annotated=[(mention.start, mention.end)],
        user_data=data,
        notes=notes,
    )


def _in_context(
    left: str,
    mention: str,
    right: str,
    *,
    entity: str,
    name: str,
    where: str,
    data: Mapping[str, Any],
    notes: list[Note] | None = None,
) -> ParsedDoc:
    if not mention.strip():
        raise error("E226", where=where, found=f"the mention {mention!r}", expected="visible text")
    found = Mention(len(left), len(left) + len(mention), UNTYPED, entity)
    return mention_doc(left + mention + right, found, name=name, where=where, data=data, notes=notes or [])


def _seam(before: str, after: str, join: str) -> str:
    """Give the first text with what must stand between it and the second."""
    return before if not before or not after or before[-1].isspace() or after[0].isspace() else before + join


def _marked(record: object, where: str) -> tuple[str, str, str]:
    text = member(record, "input", str, where=where)
    match = MARKED.fullmatch(text)
    if match is not None:
        return match["left"], match["mention"], match["right"]
    meta = member(record, "meta", dict, where=where, default={})
    if "mention" not in meta:
        raise error(
            "E226", where=where, found=f"the input {text[:60]!r}", expected="[START_ENT] and [END_ENT] around a mention"
        )
    left, mention, right = (member(meta, key, str, where=where) for key in ("left_context", "mention", "right_context"))
    return _seam(left, mention, " "), mention, _seam(mention, right, " ")[len(mention) :] + right


def _answer(record: object, kb_id: str, where: str) -> tuple[str, list[Note]]:
    for output in member(record, "output", list, where=where, default=[]):
        answer = member(output, "answer", str, where=where, default="")
        if answer in UNKNOWN:
            continue
        if kb_id == "title":
            return answer, []
        pages = member(output, "provenance", list, where=where, default=[])
        page = typed(pages[0], dict, what="a provenance", where=where).get("wikipedia_id") if pages else None
        entity = _identifier(page, "'wikipedia_id'", where)
        if entity != NIL:
            return entity, []
        return NIL, [Note("unmapped", f"'{answer}' has no wikipedia_id ({where})")]
    return NIL, []


def _identifier(value: object, what: str, where: str) -> str:
    """Give a string or a whole number as a string; None, empty and -1 are NIL."""
    if value is None:
        return NIL
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else typed(value, str, what=what, where=where)
    return NIL if text in UNKNOWN else text


def _name(record: dict[str, Any], path: Path, line: int) -> str:
    name = next((record[key] for key in ("query_id", "id", "_id") if record.get(key) is not None), None)
    return f"{path.stem}-{line}" if name is None else str(name)
