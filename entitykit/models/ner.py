"""Classifying spans as entities: the probe's proposals (`SpanNER`), or all spans up to a width (`SpERT`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.errors import error
from entitykit.models.linear import Linear
from entitykit.models.mentions import ToMMeR, ToMMeRSettings, loss_of_mentions, top_spans
from entitykit.models.spans import document_bounds, end_states, entity_states, in_blocks, join_spans, range_max
from entitykit.types import TOP, MentionOutput, Spans, WordStates, no_spans


@dataclass(frozen=True, kw_only=True)
class SpanNERSettings:
    """Settings of `SpanNER`.

    Attributes:
        width: size of a word's state.
        n_labels: entity types; the class "no entity" comes on top.
        probe_layer: encoder layer in which the probe looks for mentions; none: the spans are those with entity tokens, which
            the encoder's own probe proposes, or documents have beforehand.
        rank: size of the probe's projections.
        window: a span's last word is at most this far from its first.
        proposals: spans proposed per word.
        hidden: hidden units of the classifier.
        size_width: size of the embedding of a span's width.
        dropout: probability in training.
        probe_weight: weight of the probe's loss.
        balance: how much a mention weighs in it, see `entitykit.models.mentions.balanced_bce`.
    """

    width: int
    n_labels: int
    probe_layer: int | None
    rank: int = 64
    window: int = 25
    proposals: float = 0.5
    hidden: int = 384
    size_width: int = 25
    dropout: float = 0.1
    probe_weight: float = 1.0
    balance: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SpERTSettings:
    """Settings of `SpERT`.

    Attributes:
        width: size of a word's state.
        n_labels: entity types; the class "no entity" comes on top.
        max_width: most words of a span.
        context: words on each side of a span whose maximum is its context.
        size_width: size of the embedding of a span's width.
        dropout: probability in training.
    """

    width: int
    n_labels: int
    max_width: int = 10
    context: int = 32
    size_width: int = 25
    dropout: float = 0.1


class NEROutput(NamedTuple):
    """Scored spans.

    Attributes:
        spans: *(n_spans,)* by document.
        logits: *(n_spans, n_labels + 1)*; class 0 is "no entity".
        mentions: the probe's scores, of heads that have one.
    """

    spans: Spans
    logits: Tensor
    mentions: MentionOutput | None = None


class SpanNER(nn.Module):
    """A mention probe and a classifier of what it proposes. Where the encoder has a probe and entity tokens, it proposes.

    In training the proposals are the hard negatives, gold spans always join them, and the probe's own loss is added.

    Args:
        settings: see `SpanNERSettings`.
    """

    def __init__(self, settings: SpanNERSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.probe = None
        if s.probe_layer is not None:
            self.probe = ToMMeR(ToMMeRSettings(width=s.width, layer=s.probe_layer, rank=s.rank, window=s.window))
        self.size = nn.Embedding(s.window + 2, s.size_width)
        self.dropout = nn.Dropout(s.dropout)
        self.inner = Linear(3 * s.width + s.size_width, s.hidden)
        self.outer = Linear(s.hidden, s.n_labels + 1)

    def forward(self, states: WordStates, spans: Spans) -> NEROutput:
        """Propose spans and classify them.

        Args:
            states: with the probe's layer and the top one.
            spans: further spans to classify, such as gold ones in training.
        """
        if self.probe is None:
            mentions, proposed = states.mentions, proposals_of(states)
        else:
            mentions = self.probe(states)
            proposed = top_spans(mentions, states.lengths, self.settings.proposals)
        candidates = join_spans(proposed, spans)
        logits = in_blocks(lambda block: self._classify(states, block), candidates)
        return NEROutput(candidates, logits, mentions)

    def _classify(self, states: WordStates, spans: Spans) -> Tensor:
        sizes = (spans.ends - spans.starts).clamp_max(self.settings.window + 1)
        parts = [*end_states(states, spans), entity_states(states, spans), self.size(sizes)]
        hidden = F.gelu(self.inner(self.dropout(torch.cat(parts, dim=1))))
        return self.outer(self.dropout(hidden))

    def loss(self, output: NEROutput, classes: Tensor, is_mention: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """See `loss_of_proposals`."""
        return loss_of_proposals(output, classes, is_mention, known, self.settings)


class SpERT(nn.Module):
    """A classifier of any span from its maximum, its width and its context (Eberts and Ulges 2020).

    The paper's context is the state of the sentence's [CLS] piece; a text of any length has none, so the context here is the
    maximum over the words around the span.

    Args:
        settings: see `SpERTSettings`.
    """

    def __init__(self, settings: SpERTSettings) -> None:
        super().__init__()
        self.settings = settings
        self.size = nn.Embedding(settings.max_width + 2, settings.size_width)
        self.dropout = nn.Dropout(settings.dropout)
        self.outer = Linear(2 * settings.width + settings.size_width, settings.n_labels + 1)

    def forward(self, states: WordStates, spans: Spans) -> NEROutput:
        """Classify the given spans; `entitykit.models.spans.all_spans` enumerates them for prediction."""
        words = states.layers[TOP]
        first, end = document_bounds(states.lengths, words.device)
        return NEROutput(spans, in_blocks(lambda block: self._classify(words, first, end, block), spans))

    def _classify(self, words: Tensor, first: Tensor, end: Tensor, spans: Spans) -> Tensor:
        around = Spans(
            torch.maximum(spans.starts - self.settings.context, first[spans.starts]),
            torch.minimum(spans.ends + self.settings.context, end[spans.starts]),
        )
        sizes = (spans.ends - spans.starts).clamp_max(self.settings.max_width + 1)
        parts = [range_max(words, spans), range_max(words, around), self.size(sizes)]
        return self.outer(self.dropout(torch.cat(parts, dim=1)))

    def loss(self, output: NEROutput, classes: Tensor) -> Tensor:
        """Cross-entropy over the given spans; classes as in `SpanNER.loss`."""
        return mean_cross_entropy(output.logits, classes)


def build_span_ner(settings: Mapping[str, Any]) -> SpanNER:
    """Build the head from saved settings."""
    return SpanNER(SpanNERSettings(**_with_n_labels(settings)))


def build_spert(settings: Mapping[str, Any]) -> SpERT:
    """Build the head from saved settings."""
    return SpERT(SpERTSettings(**_with_n_labels(settings)))


class ProbeLoss(Protocol):
    """The settings of a head's loss that are its probe's."""

    @property
    def probe_weight(self) -> float:
        """Weight of the probe's loss."""

    @property
    def balance(self) -> float:
        """How much a mention weighs in it."""


def loss_of_proposals(
    output: NEROutput, classes: Tensor, is_mention: Tensor | None, known: Tensor | None, settings: ProbeLoss
) -> Tensor:
    """Cross-entropy over candidates plus the probe's cross-entropy over all spans.

    Args:
        output: of a head that classifies what a probe proposes.
        classes: *(n_spans,)* gold classes, 0 for none, -100 where a document has no annotation.
        is_mention: *(n_words, window + 1)* gold spans in the probe's band; none if there is no probe.
        known: *(n_words,)* words of annotated documents; none if there is no probe.
        settings: of the head.

    Returns:
        A scalar.
    """
    loss = mean_cross_entropy(output.logits, classes)
    if output.mentions is None or is_mention is None or known is None or not settings.probe_weight:
        return loss
    return loss + settings.probe_weight * loss_of_mentions(output.mentions, is_mention, known, balance=settings.balance)


def mean_cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean cross-entropy over the rows whose class is not -100; 0 if there are none."""
    known = (classes != -100).sum()
    return F.cross_entropy(logits, classes, ignore_index=-100, reduction="sum") / known.clamp_min(1)


def proposals_of(states: WordStates) -> Spans:
    """The spans that the encoder proposes, which are those with entity tokens.

    Raises:
        ConfigError: E113 if the encoder proposes none.
    """
    if states.entities is not None:
        return states.entities.spans
    if sum(states.lengths):
        raise error("E113")
    return no_spans(next(iter(states.layers.values())).device)  # a batch without words was not encoded


def _with_n_labels(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k != "labels"} | {"n_labels": len(settings["labels"])}
