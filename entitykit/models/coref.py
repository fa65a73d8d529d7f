"""Coreference from left to right (`OnlineCoref`): every mention joins an entity that the text has named before, or starts one.

After fast-coref (Toshniwal et al. 2020, 2021): an entity is the mean of its mentions' vectors, and a mention fits it by the
score of a small network over both, their product, the words since its last mention and how many it has had. In training the
entities are gold ones, so all mentions of a batch are scored at once: what an entity is before mention t depends on its
mentions before t only, and there is one version of it per mention.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.coref_pairs import COUNTS, PairScorer, buckets, distances
from entitykit.models.coref_words import NAMES, SPEAKERS, Comparison, Words, words_of
from entitykit.models.linear import Linear
from entitykit.models.ner import proposals_of
from entitykit.models.spans import document_bounds, end_states, entity_states, in_blocks, join_spans
from entitykit.types import GivenMentions, Spans, WordStates

NO_ENTITY = -1
UPDATES = ("mean", "gate")


@dataclass(frozen=True, kw_only=True)
class OnlineCorefSettings:
    """Settings of `OnlineCoref`.

    Attributes:
        width: size of a word's state.
        lower_layers: encoder layers whose states of a mention's first and last word are read beside the top ones; 0 is the
            embedding layer. A head on an encoder that stays as it is gains from them.
        proposed: score the spans that the encoder's probe proposes; otherwise only those that documents have.
        size: of the vector of a mention, and of an entity.
        match: of the projections whose product says how well the two fit.
        hidden: hidden units of the score.
        update: what a further mention makes of an entity: the `mean` of all, or EntityNLM's learned `gate`.
        names: compare words, too.
        speakers: compare who speaks, too, where documents say it.
        size_width: size of the embedding of a span's width.
        max_width: widths above count as this one.
        dropout: probability in training.
        mention_weight: weight of the loss of mentions.
        keep_weight: weight of the loss of what a bounded memory learns to forget; 0: it is not learned.
        loss_weight: weight of the whole loss.
    """

    width: int
    lower_layers: Sequence[int] = ()
    proposed: bool = True
    size: int = 256
    match: int = 64
    hidden: int = 128
    update: str = "mean"
    names: bool = True
    speakers: bool = False
    size_width: int = 25
    max_width: int = 26
    dropout: float = 0.2
    mention_weight: float = 1.0
    keep_weight: float = 0.1
    loss_weight: float = 1.0


class CorefOutput(NamedTuple):
    """Scored mentions of a batch and, in training, how well gold mentions fit the entities before them.

    Attributes:
        spans: *(n_spans,)* candidates by start, then by end.
        logits: *(n_spans,)* of being a mention.
        vectors: *(n_spans, size)*.
        words: *(n_spans,)* by which the spans are compared.
        taught: how gold mentions fit the entities before them; none without gold mentions.
        asked: how they fit entities that were asked for, of `entitykit.models.major_entities`; none without gold mentions.
    """

    spans: Spans
    logits: Tensor
    vectors: Tensor
    words: Words
    taught: Taught | None = None
    asked: Asked | None = None


class Named(NamedTuple):
    """Mentions, or phrases that name entities.

    Attributes:
        vectors: *(n, size)*.
        words: *(n,)* by which they are compared.
    """

    vectors: Tensor
    words: Words

    def rows(self, rows: Tensor | slice) -> Named:
        """Some of them."""
        return Named(self.vectors[rows], self.words.rows(rows))

    def and_others(self, others: Named) -> Named:
        """These, and others behind them."""
        words = Words(*(torch.cat(pair) for pair in zip(self.words, others.words, strict=True)))
        return Named(torch.cat([self.vectors, others.vectors]), words)


class Taught(NamedTuple):
    """Gold mentions of a batch against the gold entities before them.

    Attributes:
        entities: *(n,)* numbers of the mentions' entities.
        previous: *(n,)* the row of each one's last mention before, -1 for the first.
        mentions: *(n_pairs,)* rows of mentions.
        versions: *(n_pairs,)* the row of the last mention, before it, of an entity that it is compared with.
        scores: *(n_pairs,)* how well they fit; 0 is the score of starting an entity.
        keep: *(n_pairs + n_entities,)* logits of being mentioned again, if that is learned: of the version of each pair when
            its mention comes, and of each entity when its first mention does.
    """

    entities: Tensor
    previous: Tensor
    mentions: Tensor
    versions: Tensor
    scores: Tensor
    keep: Tensor | None


class Asked(NamedTuple):
    """Gold mentions of a batch against entities that were asked for; -inf for those of other documents.

    Attributes:
        rows: *(n_asked,)* the mentions that name them.
        static: *(n, n_asked)* how well mentions fit what names say; 0 is the score of no entity asked for.
        hybrid: *(n, n_asked)* the same with the mentions that the entities have had.
        absent: the same two *(n, n_names)* against names that their documents do not have, -inf where they are not asked for
            these; none if no document is asked for such.
    """

    rows: Tensor
    static: Tensor
    hybrid: Tensor
    absent: Sequence[Tensor] | None = None


class OnlineCoref(nn.Module):
    """Finds mentions among the encoder's proposals, and scores how they fit entities.

    Args:
        settings: see `OnlineCorefSettings`.
    """

    def __init__(self, settings: OnlineCorefSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        n_in = (3 + 2 * len(s.lower_layers)) * s.width + s.size_width
        self.width = nn.Embedding(s.max_width + 1, s.size_width)
        self.dropout = nn.Dropout(s.dropout)
        self.mention_inner = Linear(n_in, s.size)
        self.mention_outer = Linear(s.size, 1)
        self.describe = Linear(n_in, s.size)
        self.norm = nn.LayerNorm(s.size)
        compared = {"names": s.names, "speakers": s.speakers}
        self.scorer = PairScorer(
            size=s.size, match=s.match, hidden=s.hidden, **compared, keeps=s.keep_weight > 0, dropout=s.dropout
        )
        self.gate = Linear(s.size, s.size, bias=False) if s.update == "gate" else None

    def forward(self, states: WordStates, given: GivenMentions) -> CorefOutput:
        """Score mentions.

        Args:
            states: with the top layer, and the encoder's proposals if they are used.
            given: further spans, in training the gold mentions with their entities; what words are compared by.
        """
        own = Spans(given.starts, given.ends)
        spans = join_spans(proposals_of(states), own) if self.settings.proposed else join_spans(own, own)
        described = in_blocks(lambda block: self._score(states, block), spans)
        logits, vectors = described[:, 0], described[:, 1:]
        words = words_of(given.names, given.speakers, spans.starts, spans.ends)
        taught, asked = None, None
        if (given.entities != NO_ENTITY).any():
            rows, entities = _gold_rows(spans, given, sum(states.lengths) + 1)
            first, _ = document_bounds(states.lengths, vectors.device)
            gold = Mentions(spans.starts[rows], spans.ends[rows], words.rows(rows), first[spans.starts[rows]])
            taught, asked = self._teach(vectors[rows], gold, entities)
        return CorefOutput(spans, logits, vectors, words, taught, asked)

    def _score(self, states: WordStates, spans: Spans) -> Tensor:
        """The logit of each span, and its vector *(n_spans, 1 + size)*."""
        widths = self.width((spans.ends - spans.starts).clamp_max(self.settings.max_width))
        ends = end_states(states, spans, self.settings.lower_layers)
        parts = self.dropout(torch.cat([*ends, entity_states(states, spans), widths], dim=1))
        logits = self.mention_outer(self.dropout(F.gelu(self.mention_inner(parts))))
        return torch.cat([logits, self.norm(self.describe(parts))], dim=1)

    def entity_vectors(self, vectors: Tensor, entities: Tensor) -> Tensor:
        """What each mention's entity is once it has it.

        Args:
            vectors: *(n, size)* of mentions in order.
            entities: *(n,)* their entities.

        Returns:
            *(n, size)*.
        """
        same = (entities[:, None] == entities).tril()
        if self.gate is None:
            return same.to(vectors.dtype) @ vectors / same.sum(1, keepdim=True)
        rank = same.sum(1) - 1
        result = vectors
        for step in range(1, int(rank.max()) + 1 if len(rank) else 0):
            now = (rank == step).nonzero().squeeze(1)
            previous = (same[now] & (rank == step - 1)).long().argmax(dim=1)
            result = result.index_copy(0, now, self.updated(result[previous], vectors[now], rank[now, None]))
        return result

    def updated(self, entity: Tensor, mention: Tensor, count: Tensor | float) -> Tensor:
        """An entity's vector after a further mention.

        By a gate as in EntityNLM (Ji et al. 2017): δ = σ(hᵀ W e / √size), e ← δ e + (1 − δ) h, scaled to length √size, about
        that of a mention's vector. There the product is not divided, and an entity is scaled to length 1.

        Args:
            entity: *(n, size)*.
            mention: *(n, size)*.
            count: *(n, 1)* mentions that it has had, or one number.
        """
        if self.gate is None:
            return entity + (mention - entity) / (count + 1)
        weight = (self.gate(entity) * mention).sum(dim=1, keepdim=True).div(entity.shape[1] ** 0.5).sigmoid()
        mixed = weight * entity + (1 - weight) * mention
        return F.normalize(mixed, dim=1) * entity.shape[1] ** 0.5

    def _teach(self, vectors: Tensor, gold: Mentions, entities: Tensor) -> tuple[Taught, Asked | None]:
        previous, following = _neighbours(entities)
        rows = torch.arange(len(entities), device=entities.device)
        current = (following[None] >= rows[:, None]) | (following[None] < 0)  # no later version yet
        mentions, versions = (current.tril(-1) & (gold.documents[:, None] == gold.documents)).nonzero().unbind(1)
        entity, mention = self.scorer.of_entities(self.entity_vectors(vectors, entities)), self.scorer.of_mentions(vectors)
        counts = (entities[:, None] == entities).tril().sum(1)
        distance = distances(gold.starts[mentions] - gold.starts[versions], gold.ends[versions] > gold.starts[mentions])
        count = buckets(counts[versions], COUNTS)
        known = [None if kinds is None else kinds[mentions, versions] for kinds in self._known_words(gold, entities)]
        scores = self.scorer(entity.rows(versions), mention.rows(mentions), distance, count, *known)
        keep = None
        if self.settings.keep_weight:
            logits = [self.scorer.keep(entity.said[versions], distance, count), self.scorer.keep_new(entity.said[previous < 0])]
            keep = torch.cat(logits)
        return Taught(entities, previous, mentions, versions, scores, keep), None

    def _known_words(self, gold: Mentions, entities: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of each mention (row) and version of an entity (column), how words and speakers compare *(n, n)*."""
        names = _known(NAMES, gold.words, entities)
        return names, _known(SPEAKERS, gold.words, entities) if self.settings.speakers else None

    def loss(self, output: CorefOutput, is_mention: Tensor, known: Tensor) -> Tensor:
        """Cross-entropy of spans, per gold mention; of the entity of each gold mention; and of whether an entity comes again.

        Args:
            output: of `forward` in training.
            is_mention: *(n_spans,)* gold.
            known: *(n_spans,)* whether the span's document is annotated.
        """
        s, taught = self.settings, output.taught
        each = F.binary_cross_entropy_with_logits(output.logits, is_mention.to(output.logits.dtype), reduction="none")
        total = s.mention_weight * each.masked_fill(~known, 0.0).sum() / is_mention.sum().clamp_min(1)
        if taught is None:
            return s.loss_weight * total
        return s.loss_weight * (total + self._loss_of_entities(taught))

    def _loss_of_entities(self, taught: Taught) -> Tensor:
        table = score_table(taught)
        loss = F.cross_entropy(table, torch.where(taught.previous < 0, len(table), taught.previous))
        if taught.keep is None:
            return loss
        _, following = _neighbours(taught.entities)
        rows = torch.cat([taught.versions, (taught.previous < 0).nonzero().squeeze(1)])
        again = (following[rows] >= 0).to(taught.keep.dtype)
        return loss + self.settings.keep_weight * F.binary_cross_entropy_with_logits(taught.keep, again)


class Mentions(NamedTuple):
    """Gold mentions in order: places, words, and what stands for their documents, all *(n,)*."""

    starts: Tensor
    ends: Tensor
    words: Words
    documents: Tensor


def build_online_coref(settings: Mapping[str, Any]) -> OnlineCoref:
    """Build the head from saved settings."""
    return OnlineCoref(OnlineCorefSettings(**{key: value for key, value in settings.items() if key != "labels"}))


def score_table(taught: Taught) -> Tensor:
    """Scores of gold mentions against versions, -inf where none is compared, and of a new entity at the end *(n, n + 1)*."""
    n = len(taught.entities)
    table = taught.scores.new_full((n, n + 1), -torch.inf)
    table[:, n] = 0.0
    return table.index_put((taught.mentions, taught.versions), taught.scores)


def _neighbours(entities: Tensor) -> tuple[Tensor, Tensor]:
    """The row of the mention of the same entity before each one, and after it; -1 where there is none."""
    order = torch.argsort(entities, stable=True)
    same = entities[order][1:] == entities[order][:-1]
    nothing = torch.full_like(entities, -1)
    previous, following = nothing.clone(), nothing.clone()
    previous[order[1:][same]] = order[:-1][same]
    following[order[:-1][same]] = order[1:][same]
    return previous, following


def _gold_rows(spans: Spans, given: GivenMentions, n: int) -> tuple[Tensor, Tensor]:
    """Rows, among sorted spans, of the given ones that have an entity, in order, and the entities."""
    has = given.entities != NO_ENTITY
    keys = given.starts[has] * n + given.ends[has]
    order = torch.argsort(keys)
    return torch.searchsorted(spans.starts * n + spans.ends, keys[order]), given.entities[has][order]


def _known(by: Comparison, words: Words, entities: Tensor) -> Tensor:
    """How mentions (rows) compare with versions (columns), which are all mentions of an entity so far *(n, n)*."""
    order = torch.argsort(entities, stable=True)
    own = entities[order]
    firsts = torch.searchsorted(own, own)

    def so_far(holds: Tensor) -> Tensor:
        """How many of a version's mentions it holds of, by running sums over those of each entity *(n, …)*."""
        sums = F.pad(holds[order].cumsum(0, dtype=torch.int32), (0, 0) * (holds.ndim - 1) + (1, 0))
        return torch.empty_like(sums[1:]).index_copy(0, order, sums[1:] - sums[firsts])

    rare = so_far(getattr(words, by.tells) != 0)[:, None] // by.rare
    later = Words(*(part[:, None] for part in words))
    found = [so_far(each.T) > rare for each in by.holds(words, later)]
    return by.kinds([each.T for each in found], later)
