"""States of spans from states of words: range maxima, enumeration, and work in blocks so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from entitykit.errors import error
from entitykit.types import TOP, Spans, WordStates

BLOCK = 8192


def document_bounds(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """For every word the first word of its document and the document's end, exclusive.

    Args:
        lengths: words of each document.
        device: of the results.

    Returns:
        Two tensors *(n_words,)*.
    """
    sizes = torch.tensor(lengths, dtype=torch.long, device=device)
    ends = sizes.cumsum(0)
    return torch.repeat_interleave(ends - sizes, sizes), torch.repeat_interleave(ends, sizes)


def all_spans(lengths: Sequence[int], max_width: int, device: torch.device) -> Spans:
    """Every span of up to `max_width` words, by start, then by end.

    Args:
        lengths: words of each document; no span crosses documents.
        max_width: most words of a span.
        device: of the result.
    """
    _, ends = document_bounds(lengths, device)
    first = torch.arange(len(ends), device=device)
    starts = first[:, None].expand(-1, max_width)
    stops = starts + torch.arange(1, max_width + 1, device=device)
    inside = stops <= ends[:, None]
    return Spans(starts[inside], stops[inside])


def range_max(words: Tensor, spans: Spans) -> Tensor:
    """Maximum of each span's word states, per dimension.

    Doubling: level k of a table holds the maxima of all runs of 2^k words, and a span is covered by two runs that may overlap.
    That is O(n log width) for the table and two rows per span, whatever the spans' widths.

    Args:
        words: *(n_words, width)*.
        spans: *(n_spans,)*, none empty.

    Returns:
        *(n_spans, width)*.
    """
    widths = spans.ends - spans.starts
    if len(widths) == 0:
        return words.new_zeros(0, words.shape[1])
    first = int(spans.starts.min())  # the table need only cover the words that the spans do
    words, spans = words[first : int(spans.ends.max())], Spans(spans.starts - first, spans.ends - first)
    longest = int(widths.max())
    # floor(log2(width)) without floating point: the number of powers of two in 2..width
    powers = 2 ** torch.arange(1, max(longest.bit_length(), 1) + 1, device=widths.device)
    levels = torch.bucketize(widths, powers, right=True)
    result = words.new_zeros(len(widths), words.shape[1])
    table = words
    for level in range(int(levels.max()) + 1):
        if level:
            half = 2 ** (level - 1)
            table = torch.maximum(table[:-half], table[half:])
        rows = (levels == level).nonzero().squeeze(1)
        if len(rows):
            left = table[spans.starts[rows]]
            pooled = torch.maximum(left, table[spans.ends[rows] - 2**level]) if level else left
            result = result.index_copy(0, rows, pooled)
    return result


def entity_states(states: WordStates, spans: Spans) -> Tensor:
    """One state for each span: its entity token's where the encoder has tokens, else the maximum over its words' states.

    Args:
        states: with the top layer.
        spans: *(n_spans,)*; those without a token get one late, where that can be.

    Returns:
        *(n_spans, width)*.

    Raises:
        ConfigError: E112 for a span without a token, if none can come late.
    """
    if states.entities is None or states.entities.states is None:
        return range_max(states.layers[TOP], spans)
    tokens = states.entities.spans
    n = sum(states.lengths) + 1
    known, wanted = tokens.starts * n + tokens.ends, spans.starts * n + spans.ends  # sorted as the tokens are
    rows = torch.searchsorted(known, wanted)
    missing = known[rows.clamp_max(len(known) - 1)] != wanted if len(known) else torch.ones_like(wanted, dtype=torch.bool)
    if not missing.any():
        return states.entities.states[rows]
    if states.late is None:
        raise error("E112", n=int(missing.sum()), total=len(wanted))
    late = states.late(Spans(spans.starts[missing], spans.ends[missing])).to(states.entities.states.device)
    return torch.cat([states.entities.states, late])[torch.where(missing, len(known) - 1 + missing.cumsum(0), rows)]


def end_states(states: WordStates, spans: Spans, lower_layers: Sequence[int] = ()) -> list[Tensor]:
    """States of the first words of spans, top ones and those of lower layers, and of their last words, each *(n_spans, width)*.

    What a task has no use for is lost on the way up, so a head on an encoder that was trained for other tasks finds it below.

    Args:
        states: with the top layer and the lower ones.
        spans: *(n_spans,)*.
        lower_layers: their numbers; 0 is the embedding layer.
    """
    layers = [states.layers[layer] for layer in (TOP, *lower_layers)]
    return [layer[words] for words in (spans.starts, spans.ends - 1) for layer in layers]


def join_spans(a: Spans, b: Spans) -> Spans:
    """The union of two sets of spans, sorted by start, then by end."""
    keys = torch.stack([torch.cat([a.starts, b.starts]), torch.cat([a.ends, b.ends])], dim=1)
    starts, ends = torch.unique(keys, dim=0).unbind(1)
    return Spans(starts, ends)


def in_blocks(function: Callable[[Spans], Tensor], spans: Spans) -> Tensor:
    """Apply a function of spans to `BLOCK` spans at a time, so that what it allocates is bounded.

    Args:
        function: spans to one row each.
        spans: *(n_spans,)*.
    """
    blocks = zip(spans.starts.split(BLOCK), spans.ends.split(BLOCK), strict=True)
    return torch.cat([function(Spans(starts, ends)) for starts, ends in blocks])
