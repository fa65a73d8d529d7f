"""Make spaCy documents from parsed ones: tokens, spans, the flat projection, and an account of every change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.util import filter_spans

from entitykit.corpora.align import align
from entitykit.corpora.parsed import NIL, Mention, ParsedDoc, Place
from entitykit.corpora.report import Report
from entitykit.corpora.triples import UNKNOWN
from entitykit.errors import error

ENTITIES = "sc"


def build_doc(parsed: ParsedDoc, nlp: Language, report: Report) -> Doc:
    """Make the `Doc` of a parsed document.

    Writes all entities to `doc.spans["sc"]`, their flat projection (longest first) to `doc.ents`, other groups to `doc.spans`,
    scores to the groups' `attrs["scores"]`, and `id`, relations, salience and the parser's values to `doc.user_data`. Tokens
    outside `parsed.annotated` have no entity annotation.

    Args:
        parsed: the document.
        nlp: gives the vocabulary, and the tokenizer where the corpus has no tokens.
        report: counts the document and what had to be changed.

    Raises:
        CorpusError: E208 for spans outside the tokens, E209 for text that is not Unicode, E210 for an empty token, E226
            for an entity without label, or a relation of a span without text.
    """
    _check_strings(parsed)
    doc = _tokenize(parsed, nlp)
    doc.user_data.update(parsed.user_data)
    if parsed.id:
        doc.user_data["id"] = parsed.id
    _set_layers(doc, parsed, report)
    for problem, example in parsed.notes:
        report.note(problem, example)
    entities = list(_unique(_on_tokens(doc, parsed.entities, parsed, report), parsed.where, report))
    _set_group(doc, ENTITIES, entities)
    flat = filter_spans(list(doc.spans[ENTITIES]))
    doc.set_ents(flat, missing=_unannotated(doc, parsed, flat))
    for name, mentions in parsed.groups.items():
        _set_group(doc, name, list(_on_tokens(doc, mentions, parsed, report)))
    report.documents += 1
    report.tokens += len(doc)
    report.entities += len(entities)
    report.not_flat += len(entities) - len(doc.ents)
    report.nil += sum(mention.kb_id == NIL for mention in entities)
    report.linked += sum(mention.kb_id not in ("", NIL) for mention in entities)
    report.labels.update(mention.label for mention in entities)
    return doc


def _tokenize(parsed: ParsedDoc, nlp: Language) -> Doc:
    if parsed.words is None:
        return nlp.make_doc(parsed.text)
    if "" in parsed.words:
        raise error("E210", where=parsed.where, number=parsed.words.index("") + 1)
    spaces = None if parsed.spaces is None else list(parsed.spaces)
    starts: list[bool | int | None] | None = None if parsed.sent_starts is None else list(parsed.sent_starts)
    annotations: dict[str, Any] = dict(parsed.annotations)
    return Doc(nlp.vocab, words=list(parsed.words), spaces=spaces, sent_starts=starts, **annotations)


def _check_strings(parsed: ParsedDoc) -> None:
    """Find in advance what spaCy cannot store: half characters, which JSON can spell, and entities without label."""
    texts = [parsed.id, parsed.text, parsed.words, parsed.user_data]
    spans = [parsed.entities, parsed.groups, parsed.relations, parsed.pair, parsed.salience, parsed.unknown]
    try:
        json.dumps([texts, spans], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as problem:
        raise error("E209", where=parsed.where, found=f"U+{ord(problem.object[problem.start]):04X}") from problem
    if not all(mention.label for mention in parsed.entities):
        raise error("E226", where=parsed.where, found="an entity without label", expected="a label")


def _on_tokens(doc: Doc, mentions: Sequence[Mention], parsed: ParsedDoc, report: Report) -> Iterator[Mention]:
    """Give mentions in tokens, without those on none."""
    return (mention for mention in _each_on_tokens(doc, mentions, parsed, report) if mention is not None)


def _each_on_tokens(doc: Doc, mentions: Sequence[Mention], parsed: ParsedDoc, report: Report) -> Iterator[Mention | None]:
    """Check token offsets, or align character offsets and count what moved; None for a mention on no token."""
    if parsed.offsets == "tokens":
        for mention in mentions:
            _check(doc, mention.start, mention.end, mention.label, parsed.where)
            yield mention
        return
    spans = align(doc, [(mention.start, mention.end) for mention in mentions])
    for mention, span in zip(mentions, spans, strict=True):
        wanted = f"{mention.label} [{mention.start}, {mention.end}) ({parsed.where})"
        if span is None:
            report.note("dropped", f"{wanted} holds no visible character")
            yield None
            continue
        if span.change:
            found = doc[span.start : span.end]
            report.note(span.change, f"{wanted} became {found.text!r} [{found.start_char}, {found.end_char})")
        yield mention._replace(start=span.start, end=span.end)


def _set_layers(doc: Doc, parsed: ParsedDoc, report: Report) -> None:
    """Write what has places and is no span: relations, the pair that is asked about, salience, groups of unknown entities.

    Raises:
        CorpusError: E208 for a place outside the tokens, E226 for an argument that holds no visible character.
    """
    found = _find_places(doc, parsed, report)

    def argument(place: Sequence[int], label: str) -> Place:
        if found[place[0], place[1]] is None:
            raise error("E226", where=parsed.where, found=f"'{label}' of a span without text", expected="visible characters")
        return list(found[place[0], place[1]] or ())

    def kept(places: Iterable[Sequence[int]]) -> list[Place]:
        return [list(place) for start, end in places if (place := found[start, end]) is not None]

    if parsed.relations is not None:
        doc.user_data["relations"] = [
            {**one, "head": argument(one["head"], one["label"]), "tail": argument(one["tail"], one["label"])}
            for one in parsed.relations
        ]
    if (pair := parsed.pair) is not None:
        first, second = argument(pair["first"], pair["label"]), argument(pair["second"], pair["label"])
        doc.user_data["relation_pair"] = {**pair, "first": first, "second": second}
    if parsed.salience is not None:
        doc.user_data["salience"] = [
            {**one, "mentions": kept(one["mentions"])} if "mentions" in one else dict(one) for one in parsed.salience
        ]
    if parsed.unknown is not None:
        data: dict[Any, Any] = doc.user_data
        data[UNKNOWN] = {name: kept(places) for name, places in parsed.unknown.items()}


def _find_places(doc: Doc, parsed: ParsedDoc, report: Report) -> dict[tuple[int, int], tuple[int, int] | None]:
    """Find the tokens of all places that `_set_layers` needs, None for places on no token; those of spans are counted there."""
    wanted: dict[tuple[int, int], str] = {}
    named = [(one["label"], [one["head"], one["tail"]]) for one in parsed.relations or ()]
    if parsed.pair is not None:
        named.append((parsed.pair["label"], [parsed.pair["first"], parsed.pair["second"]]))
    named += [("salience", one.get("mentions", [])) for one in parsed.salience or ()]
    named += [(name, list(places)) for name, places in (parsed.unknown or {}).items()]
    for name, places in named:
        for start, end in places:
            wanted.setdefault((start, end), name)
    spans = {(mention.start, mention.end) for mention in chain(parsed.entities, *parsed.groups.values())}
    found: dict[tuple[int, int], tuple[int, int] | None] = {}
    for known, counts in ((True, Report()), (False, report)):
        mentions = [Mention(*place, name) for place, name in wanted.items() if (place in spans) is known]
        for mention, moved in zip(mentions, _each_on_tokens(doc, mentions, parsed, counts), strict=True):
            found[mention.start, mention.end] = None if moved is None else (moved.start, moved.end)
    return found


def _check(doc: Doc, start: int, end: int, label: str, where: str) -> None:
    if not 0 <= start < end <= len(doc):
        raise error("E208", where=where, start=start, end=end, label=label, n=len(doc))


def _unique(mentions: Iterator[Mention], where: str, report: Report) -> Iterator[Mention]:
    """Keep the first of several entities with the same offsets, label and link: a metric over sets could not see the others."""
    seen = set()
    for mention in mentions:
        key = (mention.start, mention.end, mention.label, mention.kb_id)
        if key in seen:
            report.note("duplicates", f"{mention.label} at tokens [{mention.start}, {mention.end}) ({where})")
        else:
            seen.add(key)
            yield mention


def _unannotated(doc: Doc, parsed: ParsedDoc, entities: Sequence[Span]) -> list[Span]:
    """Find the stretches of tokens that touch neither what is annotated nor an entity."""
    if parsed.annotated is None:
        return []
    if parsed.offsets == "characters":
        places = [(span.start, span.end) for span in align(doc, parsed.annotated) if span is not None]
    else:
        places = list(parsed.annotated)
    places += [(span.start, span.end) for span in entities]
    known = {token for start, end in places for token in range(start, end)}
    unknown = [list(tokens) for is_known, tokens in groupby(range(len(doc)), key=known.__contains__) if not is_known]
    return [doc[tokens[0] : tokens[-1] + 1] for tokens in unknown]


def _set_group(doc: Doc, name: str, mentions: Sequence[Mention]) -> None:
    spans = [Span(doc, m.start, m.end, label=m.label, kb_id=m.kb_id, span_id=m.id) for m in mentions]
    group = SpanGroup(doc, name=name, spans=spans)
    if any(mention.score is not None for mention in mentions):
        group.attrs["scores"] = [mention.score for mention in mentions]
    doc.spans[name] = group
