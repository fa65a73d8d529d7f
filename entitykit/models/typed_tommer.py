"""Typing what ToMMeR finds: a span's ends in a later layer, matched with one vector per type (Morand et al. 2025)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear, linear
from entitykit.models.mentions import ToMMeR, ToMMeRSettings, top_spans
from entitykit.models.ner import NEROutput, loss_of_proposals, proposals_of
from entitykit.models.spans import in_blocks, join_spans
from entitykit.types import TOP, Spans, WordStates


@dataclass(frozen=True, kw_only=True)
class TypedToMMeRSettings:
    """Settings of `TypedToMMeR`.

    Attributes:
        width: size of a word's state.
        n_labels: entity types; the class "no entity" comes on top.
        probe_layer: encoder layer in which the probe looks for mentions; none: the encoder has a probe and proposes.
        layer: encoder layer that tells the types, a later one; -1 is the last.
        rank: size of the probe's projections.
        window: a span's last word is at most this far from its first.
        cosine: the probe matches by cosine, otherwise by dot product.
        start_terms: the probe scores beginnings, too; see `ToMMeRSettings`.
        width_bias: the probe has a bias per width.
        threshold: least probability of a span that is classified.
        proposals: spans per word of a document that are classified at most: before the probe has learned, most spans pass the
            threshold.
        hidden: size of the vectors that are matched.
        probe_weight: weight of the probe's loss.
        balance: how much a mention weighs in it, see `entitykit.models.mentions.balanced_bce`.
    """

    width: int
    n_labels: int
    probe_layer: int | None
    layer: int = TOP
    rank: int = 64
    window: int = 25
    cosine: bool = True
    start_terms: bool = True
    width_bias: bool = True
    threshold: float = 0.5
    proposals: float = 1.0
    hidden: int = 1024
    probe_weight: float = 1.0
    balance: float = 0.0


class TypedToMMeR(nn.Module):
    """A mention probe and a matcher of its mentions with types. Where the encoder has a probe and entity tokens, it proposes.

    For a span from word i to word j and the vectors c of the types::

        e = W2 silu(W1 [z(i); z(j)] + b1) + b2
        logits = [c_none · e, c_1 · e, …]

    where c_none is zero before training. The published head has a probe that was trained before and stays as it is, and begins
    with vectors that the language model gives for the types' names; here the probe learns along, and all vectors are learned.
    Negatives are the probe's mentions that are not gold.

    Args:
        settings: see `TypedToMMeRSettings`.
    """

    def __init__(self, settings: TypedToMMeRSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.probe = None if s.probe_layer is None else ToMMeR(_probe_settings(s, s.probe_layer))
        self.inner = Linear(2 * s.width, s.hidden)
        self.outer = Linear(s.hidden, s.hidden)
        self.types = nn.Parameter(torch.randn(s.n_labels, s.hidden) / s.hidden**0.5)
        self.none = nn.Parameter(torch.zeros(1, s.hidden))

    def forward(self, states: WordStates, spans: Spans) -> NEROutput:
        """Find mentions and match them with types.

        Args:
            states: with the probe's layer and the one that tells types.
            spans: further spans to classify, such as gold ones in training.
        """
        if self.probe is None:
            mentions, found = states.mentions, proposals_of(states)
        else:
            mentions = self.probe(states)
            found = top_spans(mentions, states.lengths, self.settings.proposals, threshold=self.settings.threshold)
        candidates = join_spans(found, spans)
        words = states.layers[self.settings.layer]
        return NEROutput(candidates, in_blocks(lambda block: self._classify(words, block), candidates), mentions)

    def _classify(self, words: Tensor, spans: Spans) -> Tensor:
        hidden = F.silu(self.inner(torch.cat([words[spans.starts], words[spans.ends - 1]], dim=1)))
        return linear(self.outer(hidden), torch.cat([self.none, self.types]))

    def loss(self, output: NEROutput, classes: Tensor, is_mention: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """See `loss_of_proposals`."""
        return loss_of_proposals(output, classes, is_mention, known, self.settings)


def _probe_settings(s: TypedToMMeRSettings, layer: int) -> ToMMeRSettings:
    return ToMMeRSettings(
        width=s.width,
        layer=layer,
        rank=s.rank,
        window=s.window,
        cosine=s.cosine,
        start_terms=s.start_terms,
        width_bias=s.width_bias,
    )


def build_typed_tommer(settings: Mapping[str, Any]) -> TypedToMMeR:
    """Build the head from saved settings."""
    values = {key: value for key, value in settings.items() if key != "labels"}
    return TypedToMMeR(TypedToMMeRSettings(**values, n_labels=len(settings["labels"])))
