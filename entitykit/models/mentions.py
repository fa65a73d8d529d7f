"""ToMMeR: finding mentions of entities in an early layer, by matching a span's last word with its first (Morand et al. 2025).

For a span from word j to word i, both included::

    m(i, j)     = cos(Q x_i, K x_j)
    logit(i, j) = θ1 m(i, j) + θ2 min_{j' > j} m(i, j') + θ3 max_{j' > j} m(i, j') + θ4 v(i) + θ5 v(i + 1)

where v is linear, spans that are too wide or begin after their end count as 0 in the minimum and the maximum, and so does what
lies outside, so that min ≤ 0 ≤ max. We add, unless the settings say otherwise, what the published formula leaves to the match
alone: how well j begins a mention, ``θ6 u(j) + θ7 u(j - 1)``, and a bias for the span's width.

Scores form a band *(n_words, window + 1)*: row i, column k is the span from i - k to i. Nothing is quadratic in the text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.errors import error
from entitykit.models.linear import Linear
from entitykit.models.spans import BLOCK, document_bounds
from entitykit.types import MentionOutput, Spans, WordStates

_ROWS = 32  # rows of the band that one small matrix product computes


@dataclass(frozen=True, kw_only=True)
class ToMMeRSettings:
    """Settings of the probe.

    Attributes:
        width: size of a word's state.
        layer: encoder layer that is read.
        rank: size of the matched projections.
        window: a span's last word is at most this far from its first.
        cosine: match by cosine; otherwise by dot product over the square root of the rank.
        start_terms: add u(j) and u(j - 1).
        width_bias: add a bias per width.
        balance: how much a mention weighs in the loss, see `balanced_bce`.
    """

    width: int
    layer: int
    rank: int = 64
    window: int = 25
    cosine: bool = True
    start_terms: bool = True
    width_bias: bool = True
    balance: float = 0.0


class ToMMeR(nn.Module):
    """The mention probe.

    Args:
        settings: see `ToMMeRSettings`.
    """

    def __init__(self, settings: ToMMeRSettings) -> None:
        super().__init__()
        self.settings = settings
        self.query = Linear(settings.width, settings.rank, bias=False)
        self.key = Linear(settings.width, settings.rank, bias=False)
        self.end = Linear(settings.width, 1)
        self.start = Linear(settings.width, 1) if settings.start_terms else None
        self.theta = nn.Parameter(torch.ones(7 if settings.start_terms else 5))
        self.width_bias = nn.Parameter(torch.zeros(settings.window + 1)) if settings.width_bias else None

    def forward(self, states: WordStates, spans: Spans | None = None) -> MentionOutput:
        """Score every span within the window.

        Args:
            states: with the settings' layer.
            spans: not read; the probe scores all spans.
        """
        words = states.layers[self.settings.layer]
        first, end = document_bounds(states.lengths if states.runs is None else states.runs, words.device)
        back = torch.arange(self.settings.window + 2, device=words.device)  # one more, for the word before the widest span
        inside = torch.arange(len(first), device=words.device)[:, None] - back >= first[:, None]
        blocks = [self._block(words, end, inside, row) for row in range(0, len(words), BLOCK)]
        band = torch.cat(blocks) if blocks else words.new_zeros(0, self.settings.window + 1)
        return MentionOutput(band, inside[:, :-1])

    def _block(self, words: Tensor, end: Tensor, inside: Tensor, row: int) -> Tensor:
        """Rows `row` to `row + BLOCK` of the band; needs the words of the window before them and the word after."""
        window = self.settings.window
        stop = min(row + BLOCK, len(words))
        low = max(row - window - 1, 0)
        x = words[low : stop + 1]
        query, key = self.query(words[row:stop]), self.key(words[low:stop])
        if self.settings.cosine:
            query, key = unit(query), unit(key)
        else:
            query = query / self.settings.rank**0.5
        inside = inside[row:stop]
        keys = F.pad(key, (0, 0, window, 0))[row - low :]  # from the word `window` before the first row
        match = banded_product(query, keys, window).masked_fill(~inside[:, :-1], 0.0)
        nothing = match.new_zeros(len(match), 1)  # the word i alone has no start behind it
        below = torch.cat([nothing, match[:, :-1]], dim=1)  # column k now holds the start that is one word later
        lowest = torch.cummin(below, dim=1).values
        highest = torch.cummax(below, dim=1).values
        v = self.end(x).squeeze(1)
        at_end = v[row - low : stop - low]
        after = F.pad(v, (0, 1))[row - low + 1 : stop - low + 1]
        after = after.masked_fill(torch.arange(row + 1, stop + 1, device=x.device) >= end[row:stop], 0.0)
        t = self.theta
        logits = t[0] * match + t[1] * lowest + t[2] * highest + (t[3] * at_end + t[4] * after)[:, None]
        if self.start is not None:
            logits = logits + self._start_terms(self.start(x).squeeze(1), row - low, inside)
        if self.width_bias is not None:
            logits = logits + self.width_bias
        return logits

    def _start_terms(self, u: Tensor, skip: int, inside: Tensor) -> Tensor:
        """θ6 u(j) + θ7 u(j - 1), where no word precedes a document's first; `u` begins `skip` words before the first row."""
        n, window = len(inside), self.settings.window
        # (n + window + 1,) with u(j) of the first row's widest span, and of the word before it, in front
        u = F.pad(u[: skip + n], (window + 1 - skip, 0))
        by_distance = u.unfold(0, window + 2, 1).flip(1)  # (n, window + 2): column k is u(i - k)
        before = by_distance[:, 1:].masked_fill(~inside[:, 1:], 0.0)
        return self.theta[5] * by_distance[:, :-1] + self.theta[6] * before

    def loss(self, output: MentionOutput, is_mention: Tensor, known: Tensor) -> Tensor:
        """See `loss_of_mentions`."""
        return loss_of_mentions(output, is_mention, known, balance=self.settings.balance)


class EncoderProbe(nn.Module):
    """The head of a component that takes what the encoder's own probe says: it has no weights.

    Args:
        balance: how much a mention weighs in the loss, see `balanced_bce`.
    """

    def __init__(self, balance: float) -> None:
        super().__init__()
        self.balance = balance

    def forward(self, states: WordStates, spans: Spans) -> MentionOutput:
        """Give the encoder's scores.

        Raises:
            ConfigError: E113 if the encoder has no probe.
        """
        if states.mentions is not None:
            return states.mentions
        if sum(states.lengths):
            raise error("E113")
        return MentionOutput(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.bool))  # a batch without words was not encoded

    def loss(self, output: MentionOutput, is_mention: Tensor, known: Tensor) -> Tensor:
        """See `loss_of_mentions`; what it gives back is the gradient of the encoder's probe."""
        return loss_of_mentions(output, is_mention, known, balance=self.balance)


def build_tommer(settings: Mapping[str, Any]) -> ToMMeR | EncoderProbe:
    """Build the probe from saved settings; without a layer, the encoder's own is used."""
    if settings["layer"] is None:
        return EncoderProbe(settings["balance"])
    return ToMMeR(ToMMeRSettings(**{k: v for k, v in settings.items() if k != "labels"}))


def loss_of_mentions(output: MentionOutput, is_mention: Tensor, known: Tensor, *, balance: float) -> Tensor:
    """Cross-entropy of mentions against all other spans within the window.

    Args:
        output: from a probe.
        is_mention: *(n_words, window + 1)* gold.
        known: *(n_words,)* words of documents whose mentions are annotated.
        balance: how much a mention weighs, see `balanced_bce`.

    Returns:
        The loss per mention, a scalar.
    """
    return balanced_bce(output.band, is_mention, output.valid & known[:, None], balance)


def unit(x: Tensor) -> Tensor:
    """Scale rows to length 1; rows of zeros, such as white space has, stay zeros and keep a finite gradient."""
    squared = (x * x).sum(dim=1, keepdim=True)
    return x * torch.where(squared > 0, squared, 1.0).rsqrt()


def banded_product(query: Tensor, key: Tensor, window: int) -> Tensor:
    """Products of every query with the keys of its own row and of the `window` rows before it.

    Args:
        query: *(n, rank)*.
        key: *(window + n, rank)*: the keys of the `window` rows before the first query, then those of its rows.
        window: how far back.

    Returns:
        *(n, window + 1)*; column k is the product with the key k rows back.
    """
    n, rank = query.shape
    padding = -n % _ROWS
    query = F.pad(query, (0, 0, 0, padding)).view(-1, _ROWS, rank)
    keys = F.pad(key, (0, 0, 0, padding)).unfold(0, _ROWS + window, _ROWS)  # (blocks, rank, _ROWS + window)
    products = query @ keys
    rows = torch.arange(_ROWS, device=query.device)[:, None]
    columns = rows + window - torch.arange(window + 1, device=query.device)
    return products[:, rows, columns].reshape(-1, window + 1)[:n]


def balanced_bce(logits: Tensor, positive: Tensor, valid: Tensor, balance: float) -> Tensor:
    """Binary cross-entropy per positive, each of which weighs *(negatives / positives) ** balance* against a negative.

    With a balance of 1, as published for ToMMeR, all mentions together weigh as much as all other spans: recall is high at a
    threshold of 1/2 and precision low. With 0 all spans weigh the same, and probabilities are what they say.

    Args:
        logits: any shape.
        positive: boolean, same shape.
        valid: boolean, same shape: what counts at all.
        balance: 0 to 1.

    Returns:
        The sum over what counts, divided by the weight of all positives; without positives the mean; 0 if nothing counts.
    """
    chosen, gold = logits[valid], positive[valid].to(logits.dtype)
    if len(chosen) == 0:
        return logits.sum() * 0
    n_positive = gold.sum()
    weight = torch.where(n_positive > 0, (len(gold) - n_positive) / n_positive.clamp_min(1), torch.ones_like(n_positive))
    weight = torch.where(weight > 0, weight, torch.ones_like(weight)) ** balance  # without negatives
    total = F.binary_cross_entropy_with_logits(chosen, gold, pos_weight=weight, reduction="sum")
    return total / torch.where(n_positive > 0, n_positive * weight, torch.full_like(n_positive, len(gold)))


def spans_to_band(spans: Spans, shape: Sequence[int]) -> Tensor:
    """Mark spans in an empty band.

    Args:
        spans: *(n_spans,)*; those wider than the window have no place in the band and are left out.
        shape: `(n_words, window + 1)`.

    Returns:
        Boolean *(n_words, window + 1)*.
    """
    band = torch.zeros(*shape, dtype=torch.bool, device=spans.starts.device)
    back = spans.ends - 1 - spans.starts
    inside = back < shape[1]
    band[spans.ends[inside] - 1, back[inside]] = True
    return band


def top_spans(
    output: MentionOutput,
    lengths: Sequence[int],
    per_word: float,
    *,
    counted: Sequence[int] | None = None,
    threshold: float = 0.0,
) -> Spans:
    """Each document's best-scored spans.

    Args:
        output: from the probe.
        lengths: words of each document.
        per_word: spans to take for each word of a document, rounded up.
        counted: words of each document that count for `per_word`; none: all.
        threshold: least probability.

    Returns:
        Spans sorted by end, then by width, document after document.
    """
    scores = output.band.detach().masked_fill(~output.valid, float("-inf"))
    n_columns = scores.shape[1]
    chosen = []
    start = 0
    n_valid = F.pad(output.valid.sum(1).cumsum(0), (1, 0))[list(accumulate(lengths, initial=0))].diff().tolist()
    for length, n_counted, n_spans in zip(lengths, lengths if counted is None else counted, n_valid, strict=True):
        rows = scores[start : start + length].flatten()
        n_wanted = min(math.ceil(n_counted * per_word), n_spans)
        best = torch.topk(rows, n_wanted, sorted=False).indices.sort().values
        if threshold > 0:
            best = best[rows[best] >= math.log(threshold / (1 - threshold))]
        chosen.append(best + start * n_columns)
        start += length
    flat = torch.cat(chosen) if chosen else torch.zeros(0, dtype=torch.long, device=scores.device)
    last, back = flat // n_columns, flat % n_columns
    return Spans(last - back, last + 1)
