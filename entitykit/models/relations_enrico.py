"""Entities and relations that are filtered, refined by attention over words, and scored (`EnriCo`, Zaratiana et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear
from entitykit.models.mentions import loss_of_mentions
from entitykit.models.ner import mean_cross_entropy, proposals_of
from entitykit.models.relations import Between, gaps_between, in_slices, mean_bce, with_n_labels
from entitykit.models.relations_pairs import near_pairs, pairs_among
from entitykit.models.spans import document_bounds, end_states, entity_states, join_spans
from entitykit.types import TOP, EntityPairs, MentionOutput, Spans, WordStates, no_spans

Bounds = tuple[Tensor, Tensor]
"""For every word its document's first word and end."""

ROWS = 512
"""Spans or pairs that attend to words at once."""
SPARE = 10
"""Spans, and pairs, of each document that are kept on top of those per word."""


@dataclass(frozen=True, kw_only=True)
class EnriCoSettings:
    """Settings of `EnriCo`.

    Attributes:
        width: size of a word's state.
        n_labels: relation types.
        n_types: entity types.
        joint: find the entities, too, among the encoder's proposals; otherwise they are given.
        described: relation types are texts, see `EnriCo.set_descriptions`; otherwise each has a learned vector.
        size: of the representations of spans and pairs.
        layers: of attention over words; 0: no refinement.
        heads: of the attention.
        context: words on each side of a span or pair that it reads.
        keep_spans: spans per word that the first filter keeps.
        keep_pairs: pairs per word that the second filter keeps.
        positive: weight of a relation that holds against one that does not.
        filter_weight: weight of the loss of each filter.
        probe_weight: weight of the loss of the encoder's probe, whose proposals are filtered.
        dropout: probability in training.
        loss_weight: weight of the loss.
    """

    width: int
    n_labels: int
    n_types: int
    joint: bool = True
    described: bool = False
    size: int = 256
    layers: int = 1
    heads: int = 4
    context: int = 32
    keep_spans: float = 0.3
    keep_pairs: float = 2.0
    positive: float = 2.0
    filter_weight: float = 0.5
    probe_weight: float = 1.0
    dropout: float = 0.1
    loss_weight: float = 1.0


class EnriCoOutput(NamedTuple):
    """Scored spans and pairs.

    Attributes:
        entities: spans and pairs that were kept; types are those that were given, or the likeliest.
        logits: *(n_pairs, n_labels)* of each relation by itself.
        type_logits: *(n_entities, n_types + 1)*, 0 is "no entity"; none where entities are given.
        seen_spans: what the first filter chose from; none where entities are given.
        span_logits: *(n_seen,)* of the first filter.
        seen_pairs: the kept spans with all pairs that the second filter chose from.
        pair_logits: *(n_seen_pairs,)* of the second filter.
        n_far: *(n_documents,)* pairs that no filter has seen, because there may be no more; none where entities are given.
        mentions: what the encoder's probe says; none where entities are given, or it has none.
    """

    entities: EntityPairs
    logits: Tensor
    type_logits: Tensor | None
    seen_spans: Spans | None
    span_logits: Tensor
    seen_pairs: EntityPairs
    pair_logits: Tensor
    n_far: Tensor | None
    mentions: MentionOutput | None


class EnriCoTargets(NamedTuple):
    """What `EnriCo.loss` compares the output with.

    Attributes:
        pairs: *(n_pairs, n_labels)*, 1 where the relation holds.
        known: *(n_pairs,)* whether the pair's document is annotated.
        seen_pairs: *(n_seen_pairs, n_labels)*, the same for all that the second filter chose from.
        seen_known: *(n_seen_pairs,)*.
        entities: types *(n_entities,)* of the kept spans, and *(n_seen,)* of all that the first filter chose from: 0 for none,
            -100 where a document has no annotation; none where entities are given.
        probe: gold spans in its band *(n_words, window + 1)*, and the words *(n_words,)* of documents with annotated entities;
            none where it does not learn.
    """

    pairs: Tensor
    known: Tensor
    seen_pairs: Tensor
    seen_known: Tensor
    entities: tuple[Tensor, Tensor] | None = None
    probe: tuple[Tensor, Tensor] | None = None


class EnriCo(nn.Module):
    """Span filter, pair filter, refinement, scores.

    Spans are described by their first and last word and their state, pairs by both spans and the words between. The best spans
    are kept, and of all their pairs the best; what is kept reads the words around it, and is matched with types. In training
    gold entities and all pairs of them are always kept; where entities are given, the pairs that have gold relations.

    Args:
        settings: see `EnriCoSettings`.
    """

    descriptions: Tensor

    def __init__(self, settings: EnriCoSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.span = nn.Sequential(nn.Dropout(s.dropout), Linear(3 * s.width, s.size), nn.GELU(), nn.Dropout(s.dropout))
        self.head = Linear(s.size, s.size)
        self.tail = Linear(s.size, s.size, bias=False)
        self.between = Between(s.width, s.size, directions=2, dropout=s.dropout)
        self.kind = None if s.joint else nn.Embedding(s.n_types + 1, s.size)
        self.span_filter = Linear(s.size, 1) if s.joint else nn.Identity()
        self.pair_filter = Linear(s.size, 1)
        self.spans = nn.ModuleList(Refinement(s) for _ in range(s.layers if s.joint else 0))
        self.pairs = nn.ModuleList(Refinement(s) for _ in range(s.layers))
        self.type_of = Linear(s.size, s.n_types + 1) if s.joint else None
        self.labels = None if s.described else nn.Parameter(torch.randn(s.n_labels, s.size))
        self.reader = Linear(s.width, s.size) if s.described else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("descriptions", torch.zeros(s.n_labels, s.width), persistent=False)

    def set_descriptions(self, states: Tensor) -> None:
        """Take states *(n_labels, width)* of texts that say what each relation is; these need not be those of the training."""
        self.descriptions = states.detach()

    def forward(self, states: WordStates, given: EntityPairs) -> EnriCoOutput:
        """Find and score.

        Args:
            states: with the top layer, and with the encoder's proposals if entities are to be found.
            given: entities, gold ones in training; if they are to be found, these are kept in training only, and it is said how
                those that are found are paired.
        """
        s, words = self.settings, states.layers[TOP]
        bounds = document_bounds(states.lengths, words.device)
        if s.joint:
            seen_spans, span_logits, seen, n_far, described = self._find(states, given, len(words))
        else:
            seen_spans, span_logits, seen, n_far = None, words.new_zeros(0), given, None
            described = self._describe(states, Spans(given.starts, given.ends))
        if self.kind is not None:
            described = described + self.kind(seen.types)
        join = self._joiner(words, seen, described)
        pair_logits = in_slices(lambda rows: self.pair_filter(join(rows)).squeeze(1), len(seen.heads), words.new_zeros(0))
        forced = self._forced(seen, given)
        of_document = seen.starts[seen.heads]
        pairs = best_by_document(pair_logits.detach(), of_document, forced, states.lengths, s.keep_pairs)
        entities = seen._replace(heads=seen.heads[pairs], tails=seen.tails[pairs], related=seen.related[:0])
        type_logits = None
        if self.type_of is not None:
            around = _around(seen.starts, seen.ends, bounds, s.context)
            type_logits = self.type_of(_refine(self.spans, described, words, around))
            if s.n_types:
                entities = entities._replace(types=type_logits[:, 1:].argmax(1) + 1)
        logits = self._score(words, entities, join(pairs), bounds)
        mentions = states.mentions if s.joint else None
        return EnriCoOutput(entities, logits, type_logits, seen_spans, span_logits, seen, pair_logits, n_far, mentions)

    def _find(self, states: WordStates, given: EntityPairs, n_words: int) -> tuple[Spans, Tensor, EntityPairs, Tensor, Tensor]:
        """Filter spans and pair those that are left.

        Returns:
            All spans and their logits, the kept ones with their pairs, how many pairs too many there were, and what spans are.
        """
        s = self.settings
        gold = join_spans(Spans(given.starts, given.ends), no_spans(given.starts.device))
        spans = join_spans(proposals_of(states), gold)
        described = self._describe(states, spans)
        logits = self.span_filter(described).squeeze(1)
        forced = _is_among(spans, gold, n_words) & self.training
        rows = best_by_document(logits.detach(), spans.starts, forced, states.lengths, s.keep_spans)
        kept = Spans(spans.starts[rows], spans.ends[rows])
        heads, tails, n_far = near_pairs(kept, given, states.lengths)
        return spans, logits, EntityPairs(*kept, torch.zeros_like(rows), heads, tails), n_far, described[rows]

    def _forced(self, seen: EntityPairs, given: EntityPairs) -> Tensor:
        """Pairs that are kept in any case *(n_seen_pairs,)*."""
        if self.training and self.settings.joint:
            return pairs_among(seen, given)
        if self.training and len(given.related):
            return given.related
        return torch.zeros_like(seen.heads, dtype=torch.bool)

    def _describe(self, states: WordStates, spans: Spans) -> Tensor:
        parts = [*end_states(states, spans), entity_states(states, spans)]
        described: Tensor = self.span(torch.cat(parts, dim=1))
        return described

    def _joiner(self, words: Tensor, entities: EntityPairs, described: Tensor) -> Callable[[slice | Tensor], Tensor]:
        """A function of rows that gives what pairs are before they are refined *(n_pairs, size)*."""
        gaps, gap_of = gaps_between(entities)
        between, of_heads, of_tails = self.between(words, gaps), self.head(described), self.tail(described)

        def join(rows: slice | Tensor) -> Tensor:
            heads, tails = entities.heads[rows], entities.tails[rows]
            return F.gelu(of_heads[heads] + of_tails[tails] + between[gap_of[rows], (heads > tails).long()])

        return join

    def _score(self, words: Tensor, entities: EntityPairs, joined: Tensor, bounds: Bounds) -> Tensor:
        sides = (entities.heads, entities.tails)
        starts = torch.minimum(*(entities.starts[side] for side in sides))
        ends = torch.maximum(*(entities.ends[side] for side in sides))
        around = _around(starts, ends, bounds, self.settings.context)
        refined = _refine(self.pairs, joined, words, around)
        labels = self.reader(self.descriptions) if self.labels is None else self.labels
        return refined @ labels.T / self.settings.size**0.5 + self.bias

    def loss(self, output: EnriCoOutput, *targets: Any) -> Tensor:
        """Binary cross-entropy of relations, both filters and the probe, and cross-entropy of entity types.

        Args:
            output: of `forward`.
            *targets: the parts of `EnriCoTargets`, in its order.

        Returns:
            A scalar.
        """
        s, gold = self.settings, EnriCoTargets(*targets)
        total = mean_bce(output.logits, gold.pairs, gold.known, positive=s.positive)
        is_related = gold.seen_pairs.any(dim=1, keepdim=True)
        total = total + s.filter_weight * mean_bce(output.pair_logits[:, None], is_related, gold.seen_known)
        if output.type_logits is not None and gold.entities is not None:
            types, seen_types = gold.entities
            total = total + mean_cross_entropy(output.type_logits, types)
            is_entity = (seen_types > 0)[:, None]
            total = total + s.filter_weight * mean_bce(output.span_logits[:, None], is_entity, seen_types != -100)
        if output.mentions is not None and gold.probe is not None:
            is_mention, annotated = gold.probe
            total = total + s.probe_weight * loss_of_mentions(output.mentions, is_mention, annotated, balance=0.0)
        return s.loss_weight * total


class Refinement(nn.Module):
    """Attention from spans or pairs to the words around, and a feed-forward layer, both residual.

    Args:
        settings: of the head.
    """

    def __init__(self, settings: EnriCoSettings) -> None:
        super().__init__()
        size = settings.size
        self.n_heads = settings.heads
        self.before, self.after = nn.LayerNorm(size), nn.LayerNorm(size)
        self.query, self.key, self.value = Linear(size, size), Linear(settings.width, size), Linear(settings.width, size)
        self.out = Linear(size, size)
        self.inner, self.outer = Linear(size, 2 * size), Linear(2 * size, size)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, words: Tensor, around: Spans) -> Tensor:
        """Refine rows.

        Args:
            x: *(n, size)*.
            words: *(n_words, width)*.
            around: *(n,)* the words that each row reads.

        Returns:
            *(n, size)*.
        """
        query, key, value = self.query(self.before(x)), self.key(words), self.value(words)

        def attend(rows: slice) -> Tensor:
            starts, ends = around.starts[rows], around.ends[rows]
            low, high = int(starts.min()), int(ends.max())  # a band: rows are sorted, and read what is near
            place = torch.arange(low, high, device=x.device)
            mask = (place >= starts[:, None]) & (place < ends[:, None])
            q, k, v = (self._split(part) for part in (query[rows], key[low:high], value[low:high]))
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            return read.transpose(0, 1).reshape(len(starts), -1)

        x = x + self.dropout(self.out(in_slices(attend, len(x), x[:0], size=ROWS)))
        refined: Tensor = x + self.dropout(self.outer(F.gelu(self.inner(self.after(x)))))
        return refined

    def _split(self, x: Tensor) -> Tensor:
        """*(n, size)* to *(heads, n, size / heads)*."""
        return x.view(len(x), self.n_heads, -1).transpose(0, 1)


def build_enrico(settings: Mapping[str, Any]) -> EnriCo:
    """Build the head from saved settings."""
    return EnriCo(EnriCoSettings(**with_n_labels(settings)))


def best_by_document(scores: Tensor, starts: Tensor, forced: Tensor, lengths: tuple[int, ...], per_word: float) -> Tensor:
    """Rows with the best scores of each document, in order.

    Args:
        scores: *(n,)*.
        starts: *(n,)* a word of each row's document.
        forced: *(n,)* rows that are taken in any case, and count.
        lengths: words of each document.
        per_word: rows per word of a document, rounded up, to which `SPARE` are added.
    """
    sizes = torch.tensor(lengths, device=scores.device)
    document = torch.bucketize(starts.contiguous(), sizes.cumsum(0), right=True)
    limits = (sizes * per_word).ceil().long() + SPARE
    ranked = torch.argsort(scores.masked_fill(forced, float("inf")), descending=True, stable=True)
    ranked = ranked[torch.argsort(document[ranked], stable=True)]
    counts = torch.bincount(document, minlength=len(lengths))
    rank = torch.arange(len(ranked), device=scores.device) - (counts.cumsum(0) - counts)[document[ranked]]
    return ranked[(rank < limits[document[ranked]]) | forced[ranked]].sort().values


def _around(starts: Tensor, ends: Tensor, bounds: Bounds, context: int) -> Spans:
    first, end = bounds
    return Spans(torch.maximum(starts - context, first[starts]), torch.minimum(ends + context, end[starts]))


def _refine(layers: nn.ModuleList, x: Tensor, words: Tensor, around: Spans) -> Tensor:
    for layer in layers:
        x = layer(x, words, around)
    return x


def _is_among(spans: Spans, others: Spans, n_words: int) -> Tensor:
    n = n_words + 1
    return torch.isin(spans.starts * n + spans.ends, others.starts * n + others.ends)
