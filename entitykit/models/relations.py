"""Classifying ordered pairs of entities (`SpERTRelations`): what the two are, and what is said between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear
from entitykit.models.relations_pairs import in_reach
from entitykit.models.spans import BLOCK, document_bounds, end_states, entity_states, in_blocks, range_max
from entitykit.types import TOP, EntityPairs, Spans, WordStates, no_spans

WORDS_BETWEEN = (1, 2, 3, 5, 8, 12, 18, 27, 40)
"""Numbers of words between two entities from which a bucket begins; the first is for none."""
ENTITIES_BETWEEN = 3
"""More are counted as so many."""
NEIGHBOURS = 2
"""Gold entities on each side of a drawn span with which it is paired."""


@dataclass(frozen=True, kw_only=True)
class SpERTRelationsSettings:
    """Settings of `SpERTRelations`.

    The published head reads what this one does with `hidden`, `product` and `types` 0 and `ends`, `directed` and `near` off.
    With `between` and `size_width` off, too, it is what LUKE puts on two entity tokens (Yamada et al. 2020).

    Attributes:
        width: size of a word's state.
        n_labels: relation types.
        n_types: entity types.
        hidden: hidden units of the classifier; 0: it is linear.
        product: size of two projections, of head and tail, whose product is read, too: what fits each other; 0: none.
        ends: an entity's first and last word are read beside its state.
        lower_layers: encoder layers in which these words are read, too; 0 is the embedding layer. A head on an encoder that
            stays as it is gains from them.
        types: size of the embedding of an entity's type; 0: none.
        type_dropout: share of entities in training whose type is not told, so that the words count, too.
        between: read the maximum over the words between the two.
        directed: these words are read differently where the tail stands first.
        near: count the words between the two, and the entities between them that are of the head's type, or of the tail's.
        size_width: size of the embedding of an entity's width; 0: none.
        max_width: widths above count as this one.
        negatives: spans that are no entities, drawn in training from the encoder's proposals for every gold entity, and paired
            with gold entities nearby: none of these pairs is related.
        dropout: probability in training.
        loss_weight: weight of the loss.
    """

    width: int
    n_labels: int
    n_types: int = 0
    hidden: int = 384
    product: int = 128
    ends: bool = True
    lower_layers: Sequence[int] = ()
    types: int = 25
    type_dropout: float = 0.1
    between: bool = True
    directed: bool = True
    near: bool = True
    size_width: int = 25
    max_width: int = 10
    negatives: float = 0.0
    dropout: float = 0.1
    loss_weight: float = 1.0


class RelationOutput(NamedTuple):
    """Scored pairs.

    Attributes:
        entities: those that were given, and in training further spans that are none, with all their pairs.
        logits: *(n_pairs, n_labels)* of each relation by itself.
    """

    entities: EntityPairs
    logits: Tensor


class SpERTRelations(nn.Module):
    """A classifier of pairs from both entities, their widths, and the maximum over the words between (Eberts and Ulges 2020).

    The paper's one linear layer over all parts is the sum of a layer for each part, which is how it is computed here: once per
    entity and once per stretch between two, not once per pair.

    Args:
        settings: see `SpERTRelationsSettings`.
    """

    def __init__(self, settings: SpERTRelationsSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        n_out = s.hidden or s.n_labels
        n_in = s.width * (3 + 2 * len(s.lower_layers) if s.ends else 1) + s.size_width + s.types
        self.size = nn.Embedding(s.max_width + 1, s.size_width) if s.size_width else None
        self.kind = nn.Embedding(s.n_types + 1, s.types) if s.types else None
        self.dropout = nn.Dropout(s.dropout)
        self.head = Linear(n_in, n_out)
        self.tail = Linear(n_in, n_out, bias=False)
        self.between = Between(s.width, n_out, directions=2 if s.directed else 1, dropout=s.dropout) if s.between else None
        self.fit = Fit(n_in, n_out, size=s.product, dropout=s.dropout) if s.product else None
        self.near = Nearness(n_out) if s.near else None
        self.outer = Linear(s.hidden, s.n_labels) if s.hidden else None

    def forward(self, states: WordStates, entities: EntityPairs) -> RelationOutput:
        """Score pairs.

        Args:
            states: with the top layer, and with proposals if `negatives` are to be drawn.
            entities: gold ones in training.
        """
        s = self.settings
        if self.training and s.negatives and states.entities is not None:
            entities = add_negatives(entities, states.entities.spans, states, s.negatives, s.n_types)
        described = self._describe(states, entities)
        heads, tails = self.head(described), self.tail(described)
        gaps, gap_of = gaps_between(entities)
        between = None if self.between is None else self.between(states.layers[TOP], gaps)

        further = [self.fit(described, entities)] if self.fit is not None else []
        further += [self.near(entities, s.n_types)] if self.near is not None else []

        def score(pairs: slice) -> Tensor:
            head, tail, gap = entities.heads[pairs], entities.tails[pairs], gap_of[pairs]
            total = heads[head] + tails[tail]
            for part in further:
                total = total + part(pairs)
            if between is not None:
                total = total + between[gap, (head > tail).long() if s.directed else 0]
            return total if self.outer is None else self.outer(self.dropout(F.gelu(total)))

        return RelationOutput(entities, in_slices(score, len(entities.heads), heads.new_zeros(0, s.n_labels)))

    def _describe(self, states: WordStates, entities: EntityPairs) -> Tensor:
        """All about each entity that its pairs share *(n_entities, n_in)*."""
        spans = Spans(entities.starts, entities.ends)
        parts = [entity_states(states, spans)]
        if self.settings.ends:
            parts += end_states(states, spans, self.settings.lower_layers)
        if self.size is not None:
            parts.append(self.size((spans.ends - spans.starts).clamp_max(self.settings.max_width)))
        if self.kind is not None:
            types = entities.types
            if self.training and self.settings.type_dropout:
                types = types.masked_fill(torch.rand(types.shape, device=types.device) < self.settings.type_dropout, 0)
            parts.append(self.kind(types))
        return self.dropout(torch.cat(parts, dim=1))

    def loss(self, output: RelationOutput, targets: Tensor, known: Tensor) -> Tensor:
        """Binary cross-entropy, summed over relation types, the mean over pairs of annotated documents.

        Args:
            output: of `forward`.
            targets: *(n_pairs, n_labels)*, 1 where the relation holds.
            known: *(n_pairs,)* whether the pair's document is annotated.

        Returns:
            A scalar, 0 if there are no pairs.
        """
        return self.settings.loss_weight * mean_bce(output.logits, targets, known)


class Between(nn.Module):
    """A linear layer over the maximum over a stretch of words; a learned vector, zero before training, is the maximum of none.

    Args:
        width: size of a word's state.
        n_out: size of what is said.
        directions: forms of it.
        dropout: probability in training.
    """

    def __init__(self, width: int, n_out: int, *, directions: int, dropout: float) -> None:
        super().__init__()
        self.directions = directions
        self.nothing = nn.Parameter(torch.zeros(1, width))
        self.dropout = nn.Dropout(dropout)
        self.layer = Linear(width, n_out * directions, bias=False)

    def forward(self, words: Tensor, gaps: Spans) -> Tensor:
        """Read stretches *(n_gaps,)* of words; *(n_gaps + 1, directions, n_out)*, of which the first row is for no words."""
        read = in_blocks(lambda block: self.layer(self.dropout(range_max(words, block))), gaps)
        return torch.cat([self.layer(self.nothing), read]).view(len(gaps.starts) + 1, self.directions, -1)


class Fit(nn.Module):
    """What a head and a tail say by fitting each other: a linear layer over the product of their projections.

    Args:
        n_in: size of what is known of an entity.
        n_out: size of what is said.
        size: of the projections.
        dropout: probability in training.
    """

    def __init__(self, n_in: int, n_out: int, *, size: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.tails = Linear(n_in, size), Linear(n_in, size)
        self.dropout = nn.Dropout(dropout)
        self.layer = Linear(size, n_out, bias=False)

    def forward(self, described: Tensor, entities: EntityPairs) -> Callable[[slice], Tensor]:
        """A function of rows that gives what is said of pairs *(n_pairs, n_out)*."""
        heads, tails = F.gelu(self.heads(described)), F.gelu(self.tails(described))
        return lambda pairs: self.layer(self.dropout(heads[entities.heads[pairs]] * tails[entities.tails[pairs]]))


class Nearness(nn.Module):
    """How near two entities are: words between them, and entities between them that are of the type of either.

    A place is seldom said of a person if another place stands between. Counts are of given entities, and all are cut off at
    the last bucket; the tail may stand on either side.

    Args:
        n_out: size of what is said.
    """

    buckets: Tensor

    def __init__(self, n_out: int) -> None:
        super().__init__()
        self.register_buffer("buckets", torch.tensor(WORDS_BETWEEN), persistent=False)
        self.words = nn.Embedding(2 * (len(WORDS_BETWEEN) + 1), n_out)
        self.like_head = nn.Embedding(2 * (ENTITIES_BETWEEN + 1), n_out)
        self.like_tail = nn.Embedding(2 * (ENTITIES_BETWEEN + 1), n_out)
        for table in (self.words, self.like_head, self.like_tail):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, entities: EntityPairs, n_types: int) -> Callable[[slice], Tensor]:
        """A function of rows that gives what is said of pairs *(n_pairs, n_out)*."""
        before = F.one_hot(entities.types, n_types + 1).cumsum(0)  # of each type, up to and with each entity

        def say(pairs: slice) -> Tensor:
            heads, tails = entities.heads[pairs], entities.tails[pairs]
            left, right = torch.minimum(heads, tails), torch.maximum(heads, tails)
            turned = (heads > tails).long()
            n_words = (entities.starts[right] - entities.ends[left]).clamp_min(0)
            said = self.words(2 * torch.bucketize(n_words, self.buckets, right=True) + turned)
            for table, side in ((self.like_head, heads), (self.like_tail, tails)):
                types = entities.types[side]
                # the right one is counted if it is of the type, and must not be
                between = before[right, types] - before[left, types] - (entities.types[right] == types).long()
                said = said + table(2 * between.clamp(0, ENTITIES_BETWEEN) + turned)
            return said

        return say


def build_spert_relations(settings: Mapping[str, Any]) -> SpERTRelations:
    """Build the head from saved settings."""
    return SpERTRelations(SpERTRelationsSettings(**with_n_labels(settings)))


def with_n_labels(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings with the numbers of labels and entity types in the place of their names."""
    plain = {key: value for key, value in settings.items() if key not in ("labels", "entity_types")}
    return plain | {"n_labels": len(settings["labels"]), "n_types": len(settings["entity_types"])}


def mean_bce(logits: Tensor, targets: Tensor, known: Tensor, *, positive: float = 1.0) -> Tensor:
    """Binary cross-entropy, summed over columns, the mean over rows that are known; 0 if there are none.

    Args:
        logits: *(n, columns)*.
        targets: *(n, columns)*, 1 or 0.
        known: *(n,)*.
        positive: weight of ones against zeros.
    """
    weight = logits.new_full((1,), positive)
    each = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none", pos_weight=weight).sum(1)
    return each.masked_fill(~known, 0.0).sum() / known.sum().clamp_min(1)


def gaps_between(entities: EntityPairs) -> tuple[Spans, Tensor]:
    """The stretches of words between the two entities of each pair.

    Args:
        entities: with n_pairs pairs.

    Returns:
        Each stretch once, and for each pair *(n_pairs,)* the stretch's row plus one; 0 where no word lies between.
    """
    left, right = torch.minimum(entities.heads, entities.tails), torch.maximum(entities.heads, entities.tails)
    starts, ends = entities.ends[left], entities.starts[right]
    apart = starts < ends
    gaps, rows = torch.unique(torch.stack([starts[apart], ends[apart]], dim=1), dim=0, return_inverse=True)
    numbers = torch.zeros_like(left)
    numbers[apart] = rows + 1
    return Spans(gaps[:, 0], gaps[:, 1]), numbers


def in_slices(function: Callable[[slice], Tensor], n: int, nothing: Tensor, *, size: int | None = None) -> Tensor:
    """Apply a function of rows to `size` of `n` at a time, so that what it allocates is bounded.

    Args:
        function: a slice of rows to one row each.
        n: rows.
        nothing: the result for no rows.
        size: of a slice; none: `BLOCK`.
    """
    step = size or BLOCK
    return torch.cat([nothing, *(function(slice(first, first + step)) for first in range(0, n, step))])


def add_negatives(entities: EntityPairs, proposed: Spans, states: WordStates, rate: float, n_types: int) -> EntityPairs:
    """Add spans that are no entities, and pair each with gold entities nearby, in both directions.

    Likelier are drawn those that the encoder's probe finds likelier, because those are what a classifier of entities lets
    through; their types are random.

    Args:
        entities: gold ones, with `reach` for pairs that must be near enough.
        proposed: by the encoder, sorted.
        states: with the probe's scores, if there is a probe.
        rate: spans per gold entity of the batch.
        n_types: entity types.
    """
    drawn = _draw_negatives(entities, proposed, states, rate)
    n, n_gold, device = len(drawn.starts), len(entities.starts), entities.starts.device
    if not n:
        return entities
    types = torch.randint(1, n_types + 1, (n,), device=device) if n_types else torch.zeros(n, dtype=torch.long, device=device)
    new, known = _pairs_with_gold(drawn, entities, states.lengths)
    starts, ends = torch.cat([entities.starts, drawn.starts]), torch.cat([entities.ends, drawn.ends])
    order, place = _sorting(Spans(starts, ends), sum(states.lengths))
    starts, ends, new, known = starts[order], ends[order], place[n_gold + new], place[known]
    if len(entities.reach):
        is_near = in_reach(Spans(starts, ends), entities, new, known)
        new, known = new[is_near], known[is_near]
    return EntityPairs(
        starts,
        ends,
        torch.cat([entities.types, types])[order],
        torch.cat([place[entities.heads], new, known]),
        torch.cat([place[entities.tails], known, new]),
    )


def _draw_negatives(entities: EntityPairs, proposed: Spans, states: WordStates, rate: float) -> Spans:
    """Proposed spans that are no entities, in the order in which they were drawn; arguments as of `add_negatives`."""
    n_words = sum(states.lengths) + 1
    wrong = ~torch.isin(proposed.starts * n_words + proposed.ends, entities.starts * n_words + entities.ends)
    starts, ends = proposed.starts[wrong], proposed.ends[wrong]
    n = min(round(rate * len(entities.starts)), len(starts))
    if not n:
        return no_spans(starts.device)
    weights = torch.ones(len(starts), device=starts.device)
    if states.mentions is not None:
        band, back = states.mentions.band.detach(), ends - 1 - starts
        within = back < band.shape[1]  # given spans may be longer than those that the probe scores
        weights = band[ends - 1, back.clamp_max(band.shape[1] - 1)].sigmoid().masked_fill(~within, 0.0) + 1e-6
    rows = torch.multinomial(weights, n)
    return Spans(starts[rows], ends[rows])


def _pairs_with_gold(drawn: Spans, entities: EntityPairs, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Rows of drawn spans, and of up to `NEIGHBOURS` entities of the document on each side of where they begin *(n_pairs,)*."""
    first, _ = document_bounds(lengths, drawn.starts.device)
    steps = torch.arange(-NEIGHBOURS, NEIGHBOURS, device=drawn.starts.device)
    near = torch.searchsorted(entities.starts, drawn.starts)[:, None] + steps
    there = near.clamp(0, len(entities.starts) - 1)
    same = (near == there) & (first[entities.starts[there]] == first[drawn.starts][:, None])
    return same.nonzero()[:, 0], there[same]


def _sorting(spans: Spans, n_words: int) -> tuple[Tensor, Tensor]:
    """Rows of spans by start, then by end *(n_spans,)*, and where each row is among these *(n_spans,)*."""
    order = torch.argsort(spans.starts * (n_words + 1) + spans.ends, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return order, place
