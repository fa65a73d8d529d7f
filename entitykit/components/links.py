"""Links of mentions to entities: gold ones in the words of predicted documents; predicted ones, written and explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from torch import Tensor

from entitykit.bridge.link_texts import Place
from entitykit.components.gold import ENTS, places_in_predicted, reference_spans, spans_of
from entitykit.knowledge.entities import Entity
from entitykit.scoring.linking import CANDIDATES, register_candidates

RERANKED = "kb_reranked"
"""The extension ``span._.kb_reranked``: of a mention whose candidates were scored again a dict of JSON values, else none.

It has `candidates`, lists of an id, the linker's probability and the new score; `nil`, NIL's probability; and `threshold`.
"""


class GoldLink(NamedTuple):
    """A mention of a reference.

    Attributes:
        place: its document and its words in the predicted one.
        id: of its entity; empty or NIL if it has none.
        taught: ids that a teacher has left in ``span._.kb_ents`` of the reference, with probabilities above 0.
    """

    place: Place
    id: str
    taught: Sequence[tuple[str, float]] = ()


class Scored(NamedTuple):
    """A candidate of a mention.

    Attributes:
        row: of the entity.
        id: of the entity.
        score: what the bi-encoder or the cross-encoder says.
        probability: calibrated, among all candidates and NIL; before that, the score that is to become one.
        sources: what each source that has found it says.
        prior: p(entity | mention) by the aliases; none: the mention does not name it, or nobody has looked.
        coherence: how near it is to the entities of the document that were decided before; none: nobody has looked.
    """

    row: int
    id: str
    score: float
    probability: float
    sources: Mapping[str, float]
    prior: float | None = None
    coherence: float | None = None


class Linked(NamedTuple):
    """A mention that was linked.

    Attributes:
        start: first word.
        end: its end, exclusive.
        candidates: the most probable first.
        nil: probability that it names nothing that is known.
        id: what was decided; empty for NIL.
        reranked: see `RERANKED`.
    """

    start: int
    end: int
    candidates: Sequence[Scored]
    nil: float
    id: str
    reranked: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ExplainedCandidate:
    """One row of an `Explanation`.

    Attributes:
        id: of the entity.
        name: of the entity.
        description: of the entity.
        prior: p(entity | mention) by the aliases; none: it has no such alias.
        fuzzy: similarity of its most similar name; none: not found so.
        sparse: BM25 of the words that it shares with the mention and its context; none: there are none.
        dense: what the bi-encoder says.
        coherence: with the entities of the document that were decided before; none: it does not count.
        rerank: what the cross-encoder says; none: it has not read it.
        found_by: the sources that found it.
        score: the final score: its probability, calibrated.
    """

    id: str
    name: str
    description: str
    prior: float | None
    fuzzy: float | None
    sparse: float | None
    dense: float
    coherence: float | None
    rerank: float | None
    found_by: tuple[str, ...]
    score: float


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Why a mention was linked as it was.

    Attributes:
        text: of the mention.
        id: what was decided; empty for NIL.
        nil: probability of NIL.
        threshold: least probability of a link.
        candidates: the most probable first.
        keywords: words of the context that count for `sparse` beside the mention's, the likeliest or nearest first.
    """

    text: str
    id: str
    nil: float
    threshold: float
    candidates: tuple[ExplainedCandidate, ...]
    keywords: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = ("", "id", "name", "prior", "fuzzy", "sparse", "dense", "coherence", "rerank", "score", "description")
        rows = [
            (
                "*" if each.id == self.id else "",
                each.id,
                each.name[:30],
                *map(_number, (each.prior, each.fuzzy, each.sparse, each.dense, each.coherence, each.rerank, each.score)),
                each.description[:60],
            )
            for each in self.candidates
        ]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        numbers = range(3, 10)
        lines = [
            "  ".join(
                cell.rjust(w) if i in numbers else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in [head, *rows]
        ]
        title = f"{self.text!r}: {self.id or 'NIL'} (NIL {self.nil:.3f}, threshold {self.threshold:.3f})"
        if self.keywords:
            title += f", keywords: {' '.join(self.keywords)}"
        return "\n".join(line.rstrip() for line in [title, *lines])


def gold_links(examples: Sequence[Example], key: str) -> tuple[list[GoldLink], int]:
    """The mentions of references, and how many touch no word of the predicted documents and are left out.

    Args:
        examples: with mentions in `key`.
        key: ``ents`` or a span group.
    """
    found, n_lost = [], 0
    for i, eg in enumerate(examples):
        find = places_in_predicted(eg)
        for span in reference_spans(eg.reference, [key]) or ():
            place = find(span.start, span.end)
            if place is None:
                n_lost += 1
            else:
                taught = [(id_, p) for id_, p in (span._.kb_ents or ()) if p > 0] if span.has_extension(CANDIDATES) else ()
                found.append(GoldLink(Place(i, *place), span.kb_id_, taught))
    return found, n_lost


def as_candidates(pairs: Iterable[tuple[str, float]]) -> list[Scored]:
    """Candidates of which only ids and probabilities are known, in the order that is given."""
    return [Scored(-1, id_, probability, probability, {}) for id_, probability in pairs]


def soft_targets(taught: Sequence[Mapping[int, float]], columns: Mapping[int, int]) -> tuple[Tensor, Tensor]:
    """A teacher's probabilities as tables.

    Args:
        taught: of each mention, rows of entities with their probabilities.
        columns: row of an entity to its column among the student's logits.

    Returns:
        Columns *(n_mentions, k)*, -1 where there are fewer, and probabilities *(n_mentions, k)*.
    """
    shape = len(taught), max((len(own) for own in taught), default=0)
    numbers, values = torch.full(shape, -1), torch.zeros(shape)
    for i, own in enumerate(taught):
        numbers[i, : len(own)] = torch.tensor([columns[row] for row in own], dtype=torch.long)
        values[i, : len(own)] = torch.tensor(list(own.values()))
    return numbers, values


def mentions_of(doc: Doc, key: str) -> list[tuple[int, int]]:
    """The places of a document's mentions, each once."""
    return list(dict.fromkeys((span.start, span.end) for span in spans_of(doc, key)))


def write_links(doc: Doc, key: str, links: Iterable[Linked], most: int | None) -> None:
    """Write ids and candidates to the mentions of a document; whatever else they have stays.

    Args:
        doc: the document.
        key: ``ents`` or a span group.
        links: of its mentions.
        most: candidates that are written of each; none: all.
    """
    found = {(link.start, link.end): link for link in links}
    group = None if key == ENTS else doc.spans.get(key)
    if key != ENTS and group is None:
        return
    spans = []
    for span in spans_of(doc, key):
        link = found.get((span.start, span.end))
        kb_id = "" if link is None else link.id
        spans.append(Span(doc, span.start, span.end, label=span.label, kb_id=kb_id, span_id=span.id))
        spans[-1]._.kb_ents = [] if link is None else [(each.id, each.probability) for each in link.candidates[:most]]
        reranked = None if link is None else link.reranked
        if spans[-1]._.get(RERANKED) != reranked:
            spans[-1]._.set(RERANKED, reranked)
    if group is None:
        doc.set_ents(spans, default="unmodified")
    else:
        doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=dict(group.attrs))


def left_candidates(span: Span) -> list[tuple[str, float]] | None:
    """Ids and probabilities that a linker has left on a mention, the best first; none if it has not seen it."""
    pairs: list[tuple[str, float]] | None = span._.get(CANDIDATES)
    reranked = span._.get(RERANKED)
    if pairs is None or reranked is None:
        return pairs
    left = {id_: probability for id_, probability, _ in reranked["candidates"]}
    return [*left.items(), *((id_, 0.0) for id_, _ in pairs if id_ not in left)]


def explain_link(
    span: Span,
    link: Linked,
    entities: Sequence[Entity],
    threshold: float,
    *,
    words: Mapping[int, float],
    keywords: Sequence[str] = (),
) -> Explanation:
    """Show a link, and what a reranker has made of it.

    Args:
        span: the mention.
        link: what the linker decides.
        entities: its candidates.
        threshold: the linker's least probability of a link.
        words: BM25 of candidates, by row.
        keywords: words of the context that these count.
    """
    reranked = span._.get(RERANKED)
    rerank = {} if reranked is None else {id_: score for id_, _, score in reranked["candidates"]}
    new = dict(span._.get(CANDIDATES) or ()) if rerank else {each.id: each.probability for each in link.candidates}
    rows = [
        ExplainedCandidate(
            id=each.id,
            name=entity.name,
            description=entity.description,
            prior=each.prior,
            fuzzy=each.sources.get("fuzzy"),
            sparse=words.get(each.row),
            dense=each.score,
            coherence=each.coherence,
            rerank=rerank.get(each.id),
            found_by=tuple(each.sources),
            score=new.get(each.id, 0.0),
        )
        for each, entity in zip(link.candidates, entities, strict=True)
    ]
    id_, nil = link.id, link.nil
    if rerank:
        rows.sort(key=lambda each: -each.score)
        nil, threshold = reranked["nil"], reranked["threshold"]
        id_ = rows[0].id if rows and rows[0].score >= max(threshold, nil) else ""
    return Explanation(text=span.text, id=id_, nil=nil, threshold=threshold, candidates=tuple(rows), keywords=tuple(keywords))


def register_links() -> None:
    """Make what linkers write to mentions known to spaCy, once."""
    register_candidates()
    if not Span.has_extension(RERANKED):
        Span.set_extension(RERANKED, default=None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
