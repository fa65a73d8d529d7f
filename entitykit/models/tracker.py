"""Following the participants of a procedure: what happens to each at every step, and where it is then (NCET).

Gupta and Durrett 2019, "Tracking Discrete and Continuous Entity State for Process Understanding": from the words that mention a
participant and those that tell what is done, a recurrent layer over the steps gives the scores of six tags, which a conditional
random field chooses together, and of the places of the text. The published model reads the verbs of a step, which a tagger
finds; here an attention over all words of the step stands in for them, which the participant asks. The published one scores a
place by a recurrent layer of its own; here a place is scored from its words, those of them that are in the step, and where they
stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from entitykit.models.crf import CRF
from entitykit.models.linear import Linear
from entitykit.models.relations import in_slices
from entitykit.types import TOP, WordStates

NEAR = 8
"""Classes of how long ago a place was mentioned: 0 to 3 steps, more; 1 step later, more; and what is no place of the text."""
SIDES = 9
"""Classes of where a place stands in a step: the participant is not there; 1, 2–3, 4–6, more words before; the same behind."""
NO_PLACE = 2
"""Places that are no words come first: the participant is nowhere, its place is unknown, and no words were read."""


class TrackerBatch(NamedTuple):
    """The participants of a batch's procedures, in rows of the states that the head is given.

    A participant has a moment before the first step and one after every step. A bag is the words of a place that were read
    for a moment; a cell is a moment with a place where the participant may be then.

    Attributes:
        moments: *(n_participants,)* moments of each, at least one.
        marks: *(n_moments,)* row that stands for the moment; -1 where the input has none.
        mention_rows: words that mention the participant, moment after moment; before the first step all that do.
        mention_counts: *(n_moments,)* how many they are.
        step_rows: words of the step, moment after moment; before the first step the words before it.
        step_counts: *(n_moments,)* how many they are.
        bag_rows: words of the bags.
        bag_counts: *(n_bags,)* how many they are.
        cell_counts: *(n_moments,)* cells of each moment: nowhere, unknown, then places.
        cell_bags: *(n_cells,)* the place's words: bags count from `NO_PLACE` + 1, below are 0 nowhere, 1 unknown, 2 no words.
        cell_here: *(n_cells,)* those of them that are in the step.
        cell_near: *(n_cells,)* when it was mentioned, see `NEAR`.
        cell_sides: *(n_cells,)* where it stands in the step, see `SIDES`.
        cell_own: *(n_cells,)* 1 where the place's words are words of the participant, else 0.
    """

    moments: Tensor
    marks: Tensor
    mention_rows: Tensor
    mention_counts: Tensor
    step_rows: Tensor
    step_counts: Tensor
    bag_rows: Tensor
    bag_counts: Tensor
    cell_counts: Tensor
    cell_bags: Tensor
    cell_here: Tensor
    cell_near: Tensor
    cell_sides: Tensor
    cell_own: Tensor


class TrackerOutput(NamedTuple):
    """Scores of a batch.

    Attributes:
        tags: *(n_moments, n_tags)*; those of the moments before the first step mean nothing.
        places: *(n_cells,)*.
        batch: what was scored.
    """

    tags: Tensor
    places: Tensor
    batch: TrackerBatch


@dataclass(frozen=True, kw_only=True)
class StateTrackerSettings:
    """Settings of `StateTracker`.

    Attributes:
        width: size of a word's state.
        starts: whether a participant may begin with each tag.
        transitions: whether the second tag may follow the first.
        marked: whether moments have rows that stand for them.
        hidden: size of what words are projected to.
        size: size of the recurrent layer, in each direction.
        dropout: probability in training.
        place_weight: weight of the places in the loss.
        still_weight: weight in it of moments at which nothing happens, so that no place is asked for; 0: they do not count.
    """

    width: int
    starts: tuple[bool, ...]
    transitions: tuple[tuple[bool, ...], ...]
    marked: bool = False
    hidden: int = 128
    size: int = 96
    dropout: float = 0.1
    place_weight: float = 0.5
    still_weight: float = 0.2


class StateTracker(nn.Module):
    """Scores tags and places of participants.

    Args:
        settings: see `StateTrackerSettings`.
    """

    def __init__(self, settings: StateTrackerSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.moments = Moments(s)
        self.recurrent = nn.LSTM(s.hidden, s.size, batch_first=True, bidirectional=True)
        n_read = s.hidden + 2 * s.size
        self.dropout = nn.Dropout(s.dropout)
        self.tags = Linear(n_read, len(s.starts))
        self.crf = CRF(s.starts, s.transitions)
        self.places = Places(s, n_read)

    def forward(self, states: WordStates, batch: TrackerBatch) -> TrackerOutput:
        """Score the moments and cells of a batch.

        Args:
            states: with the top layer, of words or of pieces.
            batch: rows of it.
        """
        words = self.dropout(states.layers[TOP])
        moments = self.moments(words, batch)
        read = self.dropout(torch.cat([moments, self._recur(moments, batch.moments)], dim=1))
        return TrackerOutput(self.tags(read), self.places(words, read, batch), batch)

    def _recur(self, moments: Tensor, counts: Tensor) -> Tensor:
        """Run the recurrent layer over the moments of each participant: *(n_moments, hidden)* to *(n_moments, 2 * size)*."""
        if not len(counts):
            return moments.new_zeros(0, 2 * self.settings.size)
        padded = pack_padded_sequence(pad(moments, counts), counts.cpu(), batch_first=True, enforce_sorted=False)
        found, _ = pad_packed_sequence(self.recurrent(padded)[0], batch_first=True)
        return found[positions(counts)]

    def loss(self, output: TrackerOutput, tags: Tensor, places: Tensor, happens: Tensor) -> Tensor:
        """Negative log-likelihood of the tags, the mean over steps, and cross-entropy of the places, a weighted mean.

        Args:
            output: of `forward`.
            tags: *(n_moments,)* gold tags; 0 at moments before the first step.
            places: *(n_moments,)* number of the gold cell among the moment's; -1 where it is none of them.
            happens: *(n_moments,)* whether the place is asked for there: a participant comes to be or moves, or is there from
                the beginning.

        Returns:
            A scalar, 0 if there are no moments.
        """
        counts = output.batch.moments
        if not len(counts):
            return output.tags.sum() * 0.0
        steps = pad(output.tags, counts)[:, 1:], pad(tags, counts)[:, 1:], counts - 1
        total = -self.crf.log_likelihood(*steps).sum() / (counts - 1).sum().clamp_min(1)
        weights = torch.where(happens, 1.0, self.settings.still_weight).masked_fill(places < 0, 0.0)
        scores = cell_table(output.places, output.batch.cell_counts)
        wrong = F.cross_entropy(scores, places.clamp_min(0), reduction="none")
        return total + self.settings.place_weight * (weights * wrong).sum() / weights.sum().clamp_min(1e-6)


class Moments(nn.Module):
    """What is said of a participant at a moment: its mentions, the step as it asks for it, and what stands for both."""

    def __init__(self, settings: StateTrackerSettings) -> None:
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.mention = Linear(width, hidden)
        self.who = Linear(hidden, hidden)
        self.query, self.key, self.value = Linear(hidden, hidden), Linear(width, hidden), Linear(width, hidden)
        self.salient = Linear(width, 1, bias=False)
        self.mark = Linear(width, hidden, bias=False) if settings.marked else None
        self.absent = nn.Parameter(torch.zeros(hidden))
        self.wordless = nn.Parameter(torch.zeros(hidden))
        self.before = nn.Parameter(torch.zeros(hidden))

    def forward(self, words: Tensor, batch: TrackerBatch) -> Tensor:
        """From words *(n_words, width)* to moments *(n_moments, hidden)*."""
        mentions = mean_rows(self.mention(words), batch.mention_rows, batch.mention_counts)
        mentions = torch.where(batch.mention_counts[:, None] > 0, mentions, self.absent)
        firsts = batch.moments.cumsum(0) - batch.moments
        who = torch.repeat_interleave(mentions[firsts], batch.moments, dim=0)
        total = mentions + self.who(who) + self._step(words, who, batch)
        is_before = torch.zeros(len(total), dtype=torch.bool, device=total.device).index_fill(0, firsts, True)
        total = total + torch.where(is_before[:, None], self.before, torch.zeros_like(self.before))
        if self.mark is not None:
            marks = self.mark(words[batch.marks.clamp_min(0)]) if len(words) else torch.zeros_like(total)
            total = total + marks.masked_fill(batch.marks[:, None] < 0, 0.0)
        return F.gelu(total)

    def _step(self, words: Tensor, who: Tensor, batch: TrackerBatch) -> Tensor:
        """Attention of the participants over the words of each step *(n_moments, hidden)*."""
        rows, counts = batch.step_rows, batch.step_counts
        moments = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        asked = (self.query(who)[moments] * self.key(words)[rows]).sum(1) / who.shape[1] ** 0.5
        weights = softmax_in_groups(asked + self.salient(words)[rows, 0], moments, len(counts))
        read = torch.zeros_like(who).index_add(0, moments, weights[:, None] * self.value(words)[rows])
        return torch.where(counts[:, None] > 0, read, self.wordless)


class Places(nn.Module):
    """A pointer: scores of the places where participants may be."""

    def __init__(self, settings: StateTrackerSettings, n_read: int) -> None:
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.ask, self.fit = Linear(n_read, hidden), Linear(n_read, hidden)
        self.place, self.here = Linear(width, hidden), Linear(width, hidden)
        self.special = nn.Parameter(torch.randn(NO_PLACE + 1, hidden) * 0.1)
        self.near, self.side, self.own = (nn.Embedding(n, hidden) for n in (NEAR, SIDES, 2))
        for table in (self.near, self.side, self.own):
            nn.init.normal_(table.weight, std=0.1)
        self.dropout = nn.Dropout(settings.dropout)
        self.score = Linear(hidden, 1, bias=False)

    def forward(self, words: Tensor, read: Tensor, batch: TrackerBatch) -> Tensor:
        """Scores of cells *(n_cells,)* from words *(n_words, width)* and moments *(n_moments, n_read)*."""
        bags, here = (
            torch.cat([self.special, mean_rows(layer(words), batch.bag_rows, batch.bag_counts)])
            for layer in (self.place, self.here)
        )
        ask, fit = self.ask(read), self.fit(read) / bags.shape[1] ** 0.5
        moments = torch.repeat_interleave(torch.arange(len(ask), device=ask.device), batch.cell_counts)

        def score(cells: slice) -> Tensor:
            moment, bag = moments[cells], batch.cell_bags[cells]
            described = bags[bag] + here[batch.cell_here[cells]] + self.near(batch.cell_near[cells])
            described = described + self.side(batch.cell_sides[cells]) + self.own(batch.cell_own[cells])
            hidden = self.dropout(F.gelu(ask[moment] + described))
            return self.score(hidden)[:, 0] + (fit[moment] * bags[bag]).sum(1)

        return in_slices(score, len(moments), ask.new_zeros(0))


def build_state_tracker(settings: Mapping[str, Any]) -> StateTracker:
    """Build the head from saved settings."""
    plain = {key: value for key, value in settings.items() if key != "labels"}
    plain["starts"] = tuple(plain["starts"])
    plain["transitions"] = tuple(tuple(row) for row in plain["transitions"])
    return StateTracker(StateTrackerSettings(**plain))


def mean_rows(values: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Means of rows, group after group; 0 for a group of none.

    Args:
        values: *(n, size)*.
        rows: *(sum of counts,)* numbers of rows of `values`.
        counts: *(n_groups,)*.

    Returns:
        *(n_groups, size)*.
    """
    groups = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    total = values.new_zeros(len(counts), values.shape[1]).index_add(0, groups, values[rows])
    return total / counts.clamp_min(1)[:, None]


def softmax_in_groups(logits: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Softmax over the logits *(n,)* of each group, whose numbers are `groups` *(n,)*."""
    highest = logits.new_full((n_groups,), -torch.inf).scatter_reduce(0, groups, logits.detach(), "amax")
    powers = (logits - highest[groups]).exp()
    return powers / logits.new_zeros(n_groups).index_add(0, groups, powers)[groups]


def positions(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each member of groups *(n_groups,)* of these sizes in a table with a row per group."""
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    firsts = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    return rows, torch.arange(len(rows), device=counts.device) - firsts


def pad(values: Tensor, counts: Tensor) -> Tensor:
    """Groups of rows as a table: *(n, …)* to *(n_groups, longest, …)*, zeros behind the end of a group."""
    longest = int(counts.max()) if len(counts) else 0
    return values.new_zeros(len(counts), longest, *values.shape[1:]).index_put(positions(counts), values)


def cell_table(scores: Tensor, counts: Tensor) -> Tensor:
    """Scores of cells *(n_cells,)* as a table with a row per moment *(n_moments, most cells)*, -inf behind a row's end."""
    longest = int(counts.max()) if len(counts) else 0
    return scores.new_full((len(counts), longest), -torch.inf).index_put(positions(counts), scores)
