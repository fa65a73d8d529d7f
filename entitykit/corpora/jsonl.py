"""entitykit JSON lines, both ways: one document per line, offsets in characters, end exclusive.

`{"id": "doc-1", "text": "Ada met Bob.", "tokens": [[0, 3], [4, 7], [8, 11], [11, 12]],
"entities": [{"start": 0, "end": 3, "label": "PERSON", "score": 0.93}], "spans": {"mentions": [...]},
"relations": [{"head": [0, 3], "tail": [8, 11], "label": "MET", "score": 0.8}], "meta": {...}}`

Only `text` is required when reading. A span may have a `kb_id`, and an `id` of its own, such as that of its cluster across
documents; a `score` of null means that there is none. `entitykit.corpora.layers` has `relations` and what else is no span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup

from entitykit.corpora.build import ENTITIES, build_doc
from entitykit.corpora.files import items, member, read_json_lines, typed
from entitykit.corpora.layers import layers_of, parse_layers
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.corpora.report import Report
from entitykit.errors import error

SUFFIXES = (".jsonl",)

SCORED_ENTS = "ents"


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of entitykit JSON lines.

    `relations`, `cluster_relations`, `salience` and `meta` go to `doc.user_data` under the same keys, `entity_states` to
    `doc.user_data["procedure"]`, `nil_clusters` to `doc._.nil_clusters`. Without `tokens` the pipeline's tokenizer splits the
    text.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E225 for tokens that do not fit the text, E226 for a reversed
            span or a reserved group.
    """
    for line, record in read_json_lines(path):
        yield _parse_record(record, where=f"{path}, line {line}", fallback_id=f"{path.stem}-{line}")


def record_to_doc(record: dict[str, Any], nlp: Language, *, report: Report | None = None, where: str = "the record") -> Doc:
    """Make a `Doc` of one record.

    Writes the entities to `doc.spans["sc"]` and, flat, to `doc.ents`; other groups to `doc.spans`; `id`, `meta` and the layers,
    as `parse` says, to `doc.user_data`.

    Args:
        record: the JSON object.
        nlp: gives the vocabulary, and the tokenizer for a record without tokens.
        report: counts what had to be changed; without one, W201 warns of it.
        where: file and line, for messages.

    Raises:
        CorpusError: E206, E207, E209, E210, E225, E226 for values that cannot be used.
    """
    own = Report()
    doc = build_doc(_parse_record(record, where=where, fallback_id=""), nlp, own)
    if report is None:
        own.warn(where)
    else:
        report.add(own)
    return doc


def doc_to_record(doc: Doc) -> dict[str, Any]:
    """Make the JSON object of a `Doc`.

    `entities` are those of `all_entities`, with the scores of `doc.spans["sc"]`, or of `doc.spans["ents"]` for those that are
    not there; all other groups are `spans`, and so is `ents` beside `sc`. Relations, salience and the like are as `layers_of`
    gives them. Of `doc.user_data` also `id` and `meta` are written, and nothing else.

    Args:
        doc: any document.

    Returns:
        JSON values only; absent parts (`id`, `spans`, layers, `meta`) are left out.

    Raises:
        CorpusError: E227 if a group has another number of scores than spans.
        InputError: as `layers_of`.
    """
    groups = {name: _group_records(group, name) for name, group in doc.spans.items()}
    nested = groups.pop(ENTITIES, None)
    flat = groups.get(SCORED_ENTS, []) if nested is not None else groups.pop(SCORED_ENTS, [])
    scores = {(one["start"], one["end"], one["label"]): one["score"] for one in flat}
    entities = [_span_record(span, None) for span in all_entities(doc)]
    for i, entity in enumerate(entities):
        place = (entity["start"], entity["end"], entity["label"])
        entity["score"] = nested[i]["score"] if nested is not None and i < len(nested) else scores.get(place)
    record = {"id": doc.user_data.get("id"), "text": doc.text, "tokens": [[token.idx, token.idx + len(token)] for token in doc]}
    record |= {"entities": entities, "spans": groups or None, **layers_of(doc), "meta": doc.user_data.get("meta")}
    return {key: value for key, value in record.items() if value is not None}


def all_entities(doc: Doc) -> list[Span]:
    """Give the entities of a document: those in `doc.spans["sc"]`, then those that are in `doc.ents` only.

    An entity that is linked in one of them is linked: where both have the same words and label, only different links make two.
    """
    found = list(doc.spans.get(ENTITIES, ()))
    rows: dict[tuple[int, int, int], list[int]] = {}
    for row, span in enumerate(found):
        rows.setdefault((span.start, span.end, span.label), []).append(row)
    for ent in doc.ents:
        same = rows.get((ent.start, ent.end, ent.label), [])
        links = {found[row].kb_id for row in same}
        if same and ent.kb_id in {0, *links}:
            continue
        if 0 in links:
            row = next(row for row in same if not found[row].kb_id)
            found[row] = Span(doc, ent.start, ent.end, label=ent.label, kb_id=ent.kb_id, span_id=found[row].id)
        else:
            found.append(ent)
    return found


def character_mentions(values: Sequence[object], where: str) -> list[Mention]:
    """Read spans such as `{"start": 0, "end": 3, "label": "PERSON", "score": 0.93, "kb_id": "Q7259"}`.

    Raises:
        CorpusError: E206 and E207 for wrong or missing values, E226 for a span that ends before it starts.
    """
    mentions = []
    for value in values:
        start, end = (member(value, key, int, where=where) for key in ("start", "end"))
        if not 0 <= start <= end:
            raise error("E226", where=where, found=f"a span [{start}, {end})", expected="0 <= start <= end")
        label, kb_id, own_id = (member(value, key, str, where=where, default="") for key in ("label", "kb_id", "id"))
        has_score = typed(value, dict, what="a span", where=where).get("score") is not None
        score = float(member(value, "score", float, where=where)) if has_score else None
        mentions.append(Mention(start, end, label, kb_id, score, own_id))
    return mentions


def _group_records(group: SpanGroup, name: str) -> list[dict[str, Any]]:
    scores = group.attrs.get("scores")
    if scores is None:
        scores = [None] * len(group)
    if len(scores) != len(group):
        raise error("E227", group=name, n_scores=len(scores), n_spans=len(group))
    return [_span_record(span, score) for span, score in zip(group, scores, strict=True)]


def _span_record(span: Span, score: float | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "start": span.start_char,
        "end": span.end_char,
        "label": span.label_,
        "score": None if score is None else float(score),
    }
    if span.kb_id_:
        record["kb_id"] = span.kb_id_
    return {**record, "id": span.id_} if span.id_ else record


def _parse_record(record: object, *, where: str, fallback_id: str) -> ParsedDoc:
    values = typed(record, dict, what="the record", where=where)
    text = member(values, "text", str, where=where)
    words, spaces = None, None
    if values.get("tokens") is not None:
        words, spaces = _split(text, member(values, "tokens", list, where=where), where)
    groups = member(record, "spans", dict, where=where, default={})
    if ENTITIES in groups:
        raise error("E226", where=where, found=f"the group '{ENTITIES}' in 'spans'", expected="its spans in 'entities'")
    meta = values.get("meta")
    layers = parse_layers(values, where)
    return ParsedDoc(
        id=member(record, "id", str, where=where, default=fallback_id),
        where=where,
        text=text,
        words=words,
        spaces=spaces,
        offsets="characters",
        entities=character_mentions(member(record, "entities", list, where=where, default=[]), where),
        groups={
            name: character_mentions(typed(group, list, what=f"'{name}'", where=where), where) for name, group in groups.items()
        },
        relations=layers.relations,
        salience=layers.salience,
        unknown=layers.unknown,
        user_data=layers.user_data if meta is None else {**layers.user_data, "meta": meta},
    )


def _split(text: str, tokens: Sequence[object], where: str) -> tuple[list[str], list[bool]]:
    """Split the text at the given tokens; white space between them that is more than one space becomes tokens too."""
    words: list[str] = []
    spaces: list[bool] = []
    position = 0
    for value in [*tokens, [len(text), len(text)]]:
        start, end = items(value, int, int, what="a token", where=where)
        gap = text[position:start]
        is_sentinel = start == end == len(text)
        if start < position or gap.strip() or end > len(text) or (end <= start and not is_sentinel):
            raise error("E225", where=where, start=start, end=end, position=position, n=len(text))
        if gap.startswith(" ") and words:
            spaces[-1] = True
            gap = gap[1:]
        for word in (gap, text[start:end]):
            if word:
                words.append(word)
                spaces.append(False)
        position = end
    return words, spaces
