"""Outputs for a batch of sources, by beam search: at each step the decoder reads one token more of each beam. Their loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from entitykit.bridge.genre_tasks import GenreSettings, Target
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.windows import pack_windows
from entitykit.decoding.beams import Beam, Search, extend, options
from entitykit.decoding.genre import State
from entitykit.models.genre import IGNORED, Seq2Seq, Writing


def write(
    shim: TorchShim,
    sources: Sequence[Sequence[int]],
    states: Sequence[State],
    *,
    width: int,
    n_best: int,
    length_penalty: float,
    budget: int,
) -> list[list[Beam]]:
    """Write the best outputs for each source.

    Args:
        shim: with a `Seq2Seq`.
        sources: tokens, special ones included.
        states: where each output begins.
        width: beams of each source.
        n_best: most outputs of each source.
        length_penalty: see `Search`.
        budget: tokens of sources, once for each beam, that are at work at once; a longer source is alone.

    Returns:
        The finished outputs of each source, the best first; none where nothing is allowed.
    """
    found: list[list[Beam]] = [[] for _ in sources]
    lengths = np.array([len(source) for source in sources], dtype=np.int64)
    with shim.mode(is_train=False) as module:
        for batch in pack_windows(lengths, budget=max(budget // width, 1)):
            searches = [Search(states[i], width=width, n_best=n_best, length_penalty=length_penalty) for i in batch.tolist()]
            _search(cast(Seq2Seq, module), shim, [sources[i] for i in batch.tolist()], searches)
            for i, search in zip(batch.tolist(), searches, strict=True):
                found[i] = search.finished
    return found


def _search(module: Seq2Seq, shim: TorchShim, sources: Sequence[Sequence[int]], searches: Sequence[Search]) -> None:
    """Run searches to their ends."""
    device = shim.device
    writing = Writing(module, *pad_sources(sources, shim.settings["pad"] or 0, device))
    active = list(searches)
    while active:
        choices = options(active)
        rows = np.repeat(np.arange(len(choices)), [len(tokens) for tokens in choices])
        tokens = np.concatenate(choices).astype(np.int64)
        log_p = writing.log_p(torch.from_numpy(rows).to(device), torch.from_numpy(tokens).to(device))
        parents, following = extend(active, choices, log_p.cpu().numpy())
        active = [search for search in active if search.live]
        if active:
            writing.extend(torch.tensor(parents, device=device), torch.tensor(following, device=device))


def losses_of_parts(shim: TorchShim, targets: Sequence[Target], settings: GenreSettings) -> Iterator[Tensor]:
    """The loss of a batch in parts, each with a graph of its own: the mean over all tokens that are learned.

    Args:
        shim: with a `Seq2Seq`.
        targets: of the batch.
        settings: with the tokens of sources and outputs that are at work at once; a longer target is alone.
    """
    n_tokens = sum(label != IGNORED for target in targets for label in target.labels)
    lengths = np.array([len(target.source) + len(target.output) for target in targets], dtype=np.int64)
    for part in pack_windows(lengths, budget=settings.batch_tokens):
        some = [targets[i] for i in part.tolist()]
        with shim.mode(is_train=True) as module:
            seq2seq = cast(Seq2Seq, module)
            ids, mask = pad_sources([target.source for target in some], shim.settings["pad"] or 0, shim.device)
            outputs = pad_targets([target.output for target in some], shim.device)
            labels = pad_targets([target.labels for target in some], shim.device)
            loss = seq2seq.loss(seq2seq(ids, mask, outputs), labels, smoothing=settings.smoothing) / n_tokens
        yield loss


def pad_sources(sources: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens and mask *(n, longest)*, which is 1 for tokens and 0 for what fills up."""
    ids = _fill(sources, pad, device)
    mask = _fill([[1] * len(source) for source in sources], 0, device)
    return ids, mask


def pad_targets(targets: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Targets *(n, longest)*, filled up with `IGNORED`."""
    return _fill(targets, IGNORED, device)


def _fill(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Tensor:
    longest = max(map(len, rows), default=0)
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long, device=device)
