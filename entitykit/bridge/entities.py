"""Entity tokens of a batch: which spans get one in each pack, and their states gathered over all packs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from entitykit.bridge.packs import Integers, Layout
from entitykit.bridge.spill import StateStore
from entitykit.bridge.windows import Window
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.entities import EntityPack, Knowledge
from entitykit.models.encoder.knowledge import ABSENT, CandidateMixture
from entitykit.models.encoder.settings import EntitySettings
from entitykit.models.encoder.transformer import TransformerEncoder, pool_words
from entitykit.models.mentions import top_spans
from entitykit.types import EntityTokens, MentionOutput, Spans, WordStates, no_spans

NOTHING = ""
"""Stands for an entity that no candidate is."""
Candidates = Mapping[tuple[int, int], Mapping[str, float]]
"""Spans of a batch, and the ids that they may name with their priors."""


class EntityReader:
    """Proposes the spans of a batch that get tokens, adds those that are given, and collects the tokens' states.

    A span belongs to the window from which its last word is read. What the window does not see of its beginning is not in the
    token, and is counted in `clipped`.

    Args:
        encoder: with entity tokens.
        windows: of the batch.
        n_words: of the batch.
        given: *(n_given,)* spans that get tokens whatever the probe says of them.
        candidates: ids and priors of what spans (start, end) may name.
        vectors: a table that has external vectors of some ids.
        links: in training, the ids that spans (start, end) name in truth, `NOTHING` for what no candidate is.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        windows: Sequence[Window],
        n_words: int,
        given: Spans,
        candidates: Candidates | None = None,
        vectors: VectorTable | None = None,
        links: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        settings = encoder.settings.entities
        if settings is None:
            raise ValueError("this encoder has no entity tokens")
        self.encoder = encoder
        self._candidates = candidates or {}
        self._vectors = vectors
        self._links = links or {}
        self._last: Knowledge | None = None  # of the tokens that were chosen last
        self._linked: list[tuple[Knowledge, Tensor]] = []
        self.settings: EntitySettings = settings
        self.device = next(encoder.parameters()).device
        self._given = given.starts.cpu().numpy(), given.ends.cpu().numpy()
        sizes = [window.read_end - window.read_start for window in windows]
        self._owner = np.repeat(np.arange(len(windows)), sizes)  # windows are in the order of the text, and read each word once
        self._n_windows = len(windows)
        self._starts: list[Integers] = []
        self._ends: list[Integers] = []
        self._states: list[Tensor] = []
        self.clipped = np.zeros(n_words, dtype=np.int64)  # by a span's last word
        self._band: StateStore | None = None
        if settings.probe is not None:
            columns = settings.probe.window + 1
            self._band = StateStore(n_words, columns, self.device, keeps_graph=torch.is_grad_enabled())
            self._valid = torch.zeros(n_words, columns, dtype=torch.bool, device=self.device)

    def propose(self, layout: Layout, states: Tensor) -> EntityPack:
        """Choose a pack's tokens.

        Args:
            layout: of the pack.
            states: *(n_pieces, width)* in the layer where the tokens begin.
        """
        proposed = self.probe(layout, states)
        given = self._given_in(layout)
        return self._tokens(layout, *(np.concatenate([a, b]) for a, b in zip(proposed, given, strict=True)))

    def take_given(self, layout: Layout) -> EntityPack:
        """The given spans' tokens in a pack, and no others."""
        return self._tokens(layout, *self._given_in(layout))

    def _tokens(self, layout: Layout, window: Integers, starts: Integers, ends: Integers) -> EntityPack:
        window, starts, ends = np.unique(np.stack([window, starts, ends]), axis=1)
        self._starts.append(starts)
        self._ends.append(ends)
        seen = layout.windows[window, 0]
        self.clipped += np.bincount(ends[starts < seen] - 1, minlength=len(self.clipped))
        rows, offsets = layout.span_rows(window, np.maximum(starts, seen), ends)
        ids = torch.full((len(starts),), self.settings.mask, dtype=torch.long, device=self.device)
        counts = np.bincount(window, minlength=len(layout.windows)).tolist()
        t_rows, t_offsets = torch.from_numpy(rows).to(self.device), torch.from_numpy(offsets).to(self.device)
        self._last = self._knowledge(starts, ends)
        return EntityPack(ids, t_rows, t_offsets, tuple(counts), self._last)

    def _knowledge(self, starts: Integers, ends: Integers) -> Knowledge | None:
        """The external vectors of tokens' candidates; none if no token has any."""
        found = [self._candidates.get(span, {}) for span in zip(starts.tolist(), ends.tolist(), strict=True)]
        most = max(map(len, found), default=0)
        if self._vectors is None or not most:
            return None
        padded = [[*each, *[None] * (most - len(each))] for each in found]
        vectors, present = self._vectors.lookup([identifier for row in padded for identifier in row])
        priors = [[*each.values(), *[0.0] * (most - len(each))] for each in found]
        there = torch.from_numpy(present).to(self.device).view(len(found), most)
        return Knowledge(
            torch.from_numpy(vectors).to(self.device).view(len(found), most, -1),
            there,
            torch.tensor(priors, device=self.device),
            self._gold(starts, ends, found, there) if self._links else None,
        )

    def _gold(self, starts: Integers, ends: Integers, found: Sequence[Mapping[str, float]], present: Tensor) -> Tensor:
        """Which candidate is right: its number + 1, 0 for none of them, -100 where that is not known, or has no vector."""
        links = [self._links.get(span) for span in zip(starts.tolist(), ends.tolist(), strict=True)]
        columns = [{NOTHING: 0, **{link: number for number, link in enumerate(each, start=1)}} for each in found]
        right = [-100 if link is None else own.get(link, -100) for link, own in zip(links, columns, strict=True)]
        gold = torch.tensor(right, device=self.device)
        has_vector = F.pad(present, (1, 0), value=True).gather(1, gold.clamp_min(0)[:, None]).squeeze(1)
        return gold.masked_fill(~has_vector, -100)

    def probe(self, layout: Layout, states: Tensor) -> tuple[Integers, Integers, Integers]:
        """Run the probe on a pack and keep its scores.

        Returns:
            The proposed spans: their windows in the pack, their first words and their ends in the batch.
        """
        nothing = np.zeros(0, dtype=np.int64)
        settings, probe = self.settings.probe, self.encoder.probe
        if settings is None or probe is None or self._band is None:
            return nothing, nothing, nothing
        seen = layout.seen
        words = pool_words(states.float(), seen.rows, seen.offsets)
        lengths = layout.windows[:, 1] - layout.windows[:, 0]
        counted = layout.windows[:, 3] - layout.windows[:, 2]
        output = probe(WordStates({self.settings.inject_layer: words}, tuple(lengths.tolist())))
        is_read = torch.from_numpy(_is_read(layout.windows)).to(self.device)
        of_read = seen.words[is_read]
        self._band.put(of_read, output.band[is_read].float())
        self._valid[of_read] = output.valid[is_read]
        found = top_spans(
            MentionOutput(output.band, output.valid & is_read[:, None]),
            lengths.tolist(),
            settings.proposals,
            counted=counted.tolist(),
            threshold=settings.threshold,
        )
        last = (found.ends - 1).cpu().numpy()
        window = np.repeat(np.arange(len(lengths)), lengths)[last]
        return window, seen.words[found.starts].cpu().numpy(), seen.words[found.ends - 1].cpu().numpy() + 1

    def _given_in(self, layout: Layout) -> tuple[Integers, Integers, Integers]:
        """The given spans of a pack's windows."""
        starts, ends = self._given
        in_pack = np.full(self._n_windows, -1, dtype=np.int64)
        in_pack[layout.numbers] = np.arange(len(layout.numbers))
        window = in_pack[self._owner[ends - 1]]
        here = window >= 0
        return window[here], starts[here], ends[here]

    def put(self, states: Tensor, scores: Tensor | None = None) -> None:
        """Take what was made of the tokens that were chosen last.

        Args:
            states: *(n_entities, width)*.
            scores: of their candidates, if there are any, see `KnowledgeOutput`.
        """
        self._states.append(states.float())
        if self._last is not None and self._last.gold is not None and scores is not None:
            self._linked.append((self._last, scores.float()))

    def link_loss(self) -> Tensor | None:
        """How well the candidates' scores tell which of them is right, if there is a module that scores them (KnowBert)."""
        module = None if self.encoder.entities is None else self.encoder.entities.knowledge
        if not self._linked or not isinstance(module, CandidateMixture):
            return None
        most = max(scores.shape[1] for _, scores in self._linked)
        scores = torch.cat([F.pad(each, (0, most - each.shape[1]), value=ABSENT) for _, each in self._linked])
        present = torch.cat([F.pad(each.present, (0, most - 1 - each.present.shape[1])) for each, _ in self._linked])
        gold = torch.cat([each.gold for each, _ in self._linked if each.gold is not None])
        return module.settings.link_weight * module.loss(scores, gold, present)

    def tokens(self) -> EntityTokens:
        """All tokens of the batch."""
        if not self._starts:
            none = torch.zeros(0, self.encoder.settings.width, device=self.device)
            return EntityTokens(no_spans(self.device), none if self.settings.tokens else None)
        starts, ends = np.concatenate(self._starts), np.concatenate(self._ends)
        order = np.lexsort((ends, starts))
        first, end, rows = (torch.from_numpy(a).to(self.device) for a in (starts[order], ends[order], order))
        return EntityTokens(Spans(first, end), torch.cat(self._states)[rows] if self.settings.tokens else None)

    def mentions(self) -> MentionOutput | None:
        """The probe's scores for all words, if there is a probe."""
        return None if self._band is None else MentionOutput(self._band.finish(), self._valid)


def _is_read(windows: Integers) -> np.ndarray:
    """For every word that the windows see, window after window, whether it is read from there."""
    sizes = windows[:, 1] - windows[:, 0]
    word = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(windows[:, 0], sizes)
    return (word >= np.repeat(windows[:, 2], sizes)) & (word < np.repeat(windows[:, 3], sizes))
