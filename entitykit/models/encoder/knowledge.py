"""External vectors of entities inside the encoder: modules that add what is known of a span's candidates to its entity state.

All are called alike, ``module(states, vectors, present, priors)``, and two things hold for all:

- a state whose span has no candidate that is present comes out as it went in, bit by bit, whatever has been learned;
- a new module changes no state at all, because what it adds goes through a projection (or, in `SigmoidCrossAttention`, a gate)
  that starts at zero. So it can join a trained checkpoint; in the first step only that projection or gate learns.

The vectors themselves are frozen; `entitykit.knowledge.vectors.VectorTable.lookup` gives them with what is present.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.errors import error
from entitykit.models.linear import Linear

ABSENT = -1e4
"""Score of a candidate that is not there: its share in a softmax is exactly 0 (KnowBert's value)."""
LINKS = ("softmax", "margin")


@dataclass(frozen=True, kw_only=True)
class VectorProjectionSettings:
    """Settings of `VectorProjection`.

    Attributes:
        width: size of an entity state.
        vector_width: size of an external vector.
        dropout: probability in training.
    """

    width: int
    vector_width: int
    dropout: float = 0.1


@dataclass(frozen=True, kw_only=True)
class CandidateMixtureSettings:
    """Settings of `CandidateMixture`.

    Attributes:
        width: size of an entity state.
        vector_width: size of an external vector.
        link: ``softmax``: "none of them" competes with the candidates; ``margin``: it takes the place of candidates that all
            score below the threshold.
        threshold: least score of a candidate that takes part, with ``margin``.
        margin: how far from 0 the loss wants the scores, with ``margin``.
        hidden: hidden units that score a candidate.
        link_weight: weight of `CandidateMixture.loss` beside the losses of the heads, where gold links are known.
        dropout: probability in training.
        layer_norm_eps: the epsilon of every layer norm.
    """

    width: int
    vector_width: int
    link: str = "softmax"
    threshold: float = 0.0
    margin: float = 0.2
    hidden: int = 100
    link_weight: float = 1.0
    dropout: float = 0.1
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class SigmoidCrossAttentionSettings:
    """Settings of `SigmoidCrossAttention`.

    Attributes:
        width: size of an entity state.
        vector_width: size of an external vector.
        n_heads: attention heads of `width / n_heads` each.
        gate: where the gate starts: 0, states as they were; 1, KPR as published.
        dropout: probability in training.
        layer_norm_eps: the epsilon of every layer norm.
    """

    width: int
    vector_width: int
    n_heads: int = 1
    gate: float = 0.0
    dropout: float = 0.1
    layer_norm_eps: float = 1e-12


class KnowledgeOutput(NamedTuple):
    """What a module makes of entity states.

    Attributes:
        states: *(m, width)*.
        scores: *(m, 1 + c)* of `CandidateMixture`: column 0 stands for "none of them", column 1 + i for candidate i; `ABSENT`
            for candidates that are not there.
    """

    states: Tensor
    scores: Tensor | None = None


class VectorProjection(nn.Module):
    """Add a projection of one vector: ``state + W LayerNorm(vector)``; the norm makes the scale of the vectors irrelevant.

    Args:
        settings: see `VectorProjectionSettings`.
    """

    def __init__(self, settings: VectorProjectionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.norm = nn.LayerNorm(settings.vector_width)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = _zeros(Linear(settings.vector_width, settings.width, bias=False))

    def forward(self, states: Tensor, vectors: Tensor, present: Tensor, priors: Tensor | None = None) -> KnowledgeOutput:
        """Add each span's first vector that is present.

        Args:
            states: *(m, width)*.
            vectors: *(m, c, vector_width)*.
            present: *(m, c)* boolean.
            priors: not read.
        """
        rows = _with_candidates(present)
        first = (present[rows].cumsum(dim=1) == 0).sum(dim=1)
        known = self.norm(vectors[rows, first].to(states.dtype))
        return KnowledgeOutput(_replace(states, rows, states[rows] + self.dropout(self.out(known))))


class CandidateMixture(nn.Module):
    """Add a mixture of the candidates' vectors, weighted by how well each fits (KnowBert, Peters et al. 2019).

    In formulas::

        s = LayerNorm(P state)      e_i = LayerNorm(vector_i)      e_0 = a learned vector for "none of them"
        score_i = MLP([s · e_i / √vector_width, prior_i])
        state + W LayerNorm(s + Σ softmax(score)_i e_i)

    KnowBert mixes a span's own candidates and lets words attend to the spans; here a span has a token that words may attend to,
    so that the mixture goes back into its state. KnowBert's layer over the spans of a sentence is left to the encoder's layers.

    Args:
        settings: see `CandidateMixtureSettings`.

    Raises:
        ConfigError: E007 for another link than `LINKS`.
    """

    def __init__(self, settings: CandidateMixtureSettings) -> None:
        super().__init__()
        if settings.link not in LINKS:
            raise error("E007", setting="link", found=settings.link, expected=" or ".join(LINKS))
        self.settings = s = settings
        self.state = Linear(s.width, s.vector_width)
        self.state_norm = nn.LayerNorm(s.vector_width, eps=s.layer_norm_eps)
        self.vector_norm = nn.LayerNorm(s.vector_width, eps=s.layer_norm_eps)
        self.none = nn.Parameter(torch.zeros(s.vector_width))
        self.inner = Linear(2, s.hidden)
        self.outer = Linear(s.hidden, 1)
        self.mixture_norm = nn.LayerNorm(s.vector_width, eps=s.layer_norm_eps)
        self.dropout = nn.Dropout(s.dropout)
        self.out = _zeros(Linear(s.vector_width, s.width))

    def forward(self, states: Tensor, vectors: Tensor, present: Tensor, priors: Tensor | None = None) -> KnowledgeOutput:
        """Score the candidates and add their mixture.

        Args:
            states: *(m, width)*.
            vectors: *(m, c, vector_width)*.
            present: *(m, c)* boolean.
            priors: *(m, c)* probabilities of the candidates before the text is read; what they leave to 1 is that of "none of
                them". Without priors, all of a span's candidates and "none of them" are equally probable.
        """
        rows = _with_candidates(present)
        x, there = states[rows], present[rows]
        s = self.state_norm(self.state(x))
        known = vectors[rows].to(x.dtype).masked_fill(~there[:, :, None], 0.0)
        # (n, 1 + c, vector_width)
        entities = torch.cat([self.none.expand(len(rows), 1, -1), self.vector_norm(known)], dim=1)
        scores = self._score(s, entities, there, None if priors is None else priors[rows])
        weights = scores.masked_fill(~self._taking_part(scores, there), ABSENT).softmax(dim=1)
        mixture = (weights[:, None] @ entities).squeeze(1)
        added = self.out(self.mixture_norm(s + self.dropout(mixture)))
        all_scores = scores.new_full((len(states), scores.shape[1]), ABSENT)
        all_scores[:, 0] = self.settings.threshold
        return KnowledgeOutput(_replace(states, rows, x + self.dropout(added)), _replace(all_scores, rows, scores))

    def _score(self, s: Tensor, entities: Tensor, there: Tensor, priors: Tensor | None) -> Tensor:
        """Scores *(n, 1 + c)*; with ``margin``, that of "none of them" is the threshold."""
        if priors is None:
            priors = (1 / (1 + there.sum(dim=1, keepdim=True))).to(s.dtype).expand(there.shape)
        priors = priors.to(s.dtype).masked_fill(~there, 0.0)
        left = (1 - priors.sum(dim=1, keepdim=True)).clamp_min(0)
        match = (entities @ s[:, :, None]).squeeze(2) / math.sqrt(self.settings.vector_width)
        features = torch.stack([match, torch.cat([left, priors], dim=1)], dim=2)  # (n, 1 + c, 2)
        scores = self.outer(F.relu(self.inner(features.flatten(0, 1)))).view(match.shape)
        candidates = scores[:, 1:].masked_fill(~there, ABSENT)
        none = scores[:, :1] if self.settings.link == "softmax" else torch.full_like(left, self.settings.threshold)
        return torch.cat([none, candidates], dim=1)

    def _taking_part(self, scores: Tensor, there: Tensor) -> Tensor:
        """What is mixed *(n, 1 + c)*."""
        if self.settings.link == "softmax":
            return F.pad(there, (1, 0), value=True)
        high = there & (scores[:, 1:] >= self.settings.threshold)
        return torch.cat([~high.any(dim=1, keepdim=True), high], dim=1)

    def loss(self, scores: Tensor, gold: Tensor, present: Tensor) -> Tensor:
        """The loss that fits the settings' link: `softmax_link_loss` or `margin_link_loss`."""
        if self.settings.link == "softmax":
            return softmax_link_loss(scores, gold, present)
        return margin_link_loss(scores, gold, present, self.settings.margin)


class SigmoidCrossAttention(nn.Module):
    """Let each state read its vectors by sigmoid attention (KPR, knowledgeable-embedding/knowledgeable-embedding).

    In formulas::

        e_i = LayerNorm(U vector_i + position_i)      e_0 = a learned vector to read where nothing fits
        read = Σ σ(Q state · K e_i / √head_width - log(number of e)) V e_i
        state + gate (LayerNorm(state + read) - state)

    The gate is learned, one number for each of the state's, and starts at 0; with the gate at 1 this is KPR exactly. A state
    without vectors stays as it is, though, where KPR reads e_0 and normalizes.

    Args:
        settings: see `SigmoidCrossAttentionSettings`.

    Raises:
        ConfigError: E007 if the heads do not divide the width.
    """

    def __init__(self, settings: SigmoidCrossAttentionSettings) -> None:
        super().__init__()
        if settings.n_heads < 1 or settings.width % settings.n_heads:
            expected = f"a divisor of the width {settings.width}"
            raise error("E007", setting="n_heads", found=settings.n_heads, expected=expected)
        self.settings = s = settings
        self.vector = Linear(s.vector_width, s.width, bias=False)
        self.vector_norm = nn.LayerNorm(s.width, eps=s.layer_norm_eps)
        self.nothing = nn.Parameter(torch.zeros(s.width))
        self.query = Linear(s.width, s.width)
        self.key = Linear(s.width, s.width)
        self.value = Linear(s.width, s.width)
        self.norm = nn.LayerNorm(s.width, eps=s.layer_norm_eps)
        self.gate = nn.Parameter(torch.full((s.width,), float(s.gate)))
        self.dropout = nn.Dropout(s.dropout)

    def forward(
        self, states: Tensor, vectors: Tensor, present: Tensor, priors: Tensor | None = None, positions: Tensor | None = None
    ) -> KnowledgeOutput:
        """Read the vectors.

        Args:
            states: *(m, width)*.
            vectors: *(m, c, vector_width)*.
            present: *(m, c)* boolean.
            priors: not read.
            positions: *(m, c, width)* embeddings of where each vector's entity stands, or none.
        """
        rows = _with_candidates(present)
        x, there = states[rows], present[rows]
        known = vectors[rows].to(x.dtype).masked_fill(~there[:, :, None], 0.0)
        known = self.vector(known.flatten(0, 1)).view(*there.shape, self.settings.width)
        if positions is not None:
            known = known + positions[rows]
        known = self.dropout(self.vector_norm(known))
        read = self._attend(x, torch.cat([self.nothing.expand(len(rows), 1, -1), known], dim=1), there)
        full = self.norm(x + self.dropout(read)).to(x.dtype)
        return KnowledgeOutput(_replace(states, rows, torch.lerp(x, full, self.gate.to(x.dtype))))

    def _attend(self, x: Tensor, entities: Tensor, there: Tensor) -> Tensor:
        """What is read *(n, width)*.

        Each state has keys of its own, so that ``q · (K e)`` is cheaper as ``(q K) · e``, and ``Σ w V e`` as ``V Σ w e``.
        """
        heads = (self.settings.n_heads, self.settings.width // self.settings.n_heads)
        by_head = (*heads, self.settings.width)
        query = self.query(x).view(len(x), *heads)
        folded = torch.einsum("nhd,hdw->nhw", query, self.key.weight.view(by_head))
        scores = folded @ entities.mT + (query * self.key.bias.view(heads)).sum(dim=2, keepdim=True)  # (n, n_heads, 1 + c)
        n_keys = (1 + there.sum(dim=1)).to(scores.dtype)
        weights = (scores / math.sqrt(heads[1]) - n_keys.log()[:, None, None]).sigmoid()
        weights = weights.masked_fill(~F.pad(there, (1, 0), value=True)[:, None], 0.0)
        read = torch.einsum("nhw,hdw->nhd", weights @ entities, self.value.weight.view(by_head))
        read = read + weights.sum(dim=2, keepdim=True) * self.value.bias.view(heads)
        return read.reshape(x.shape)


KnowledgeModule = VectorProjection | CandidateMixture | SigmoidCrossAttention
KINDS = ("projection", "mixture", "attention")
_SETTINGS = (VectorProjectionSettings, CandidateMixtureSettings, SigmoidCrossAttentionSettings)
_SIZES = ("width", "vector_width")


def check_knowledge(kind: str, chosen: Collection[str]) -> None:
    """Check a kind of module, and the names of the settings that were chosen for it.

    Raises:
        ConfigError: E007 for another kind, and for a setting that it does not have.
    """
    if kind not in KINDS:
        raise error("E007", setting="knowledge", found=kind, expected=" or ".join(KINDS))
    names = [field.name for field in fields(_SETTINGS[KINDS.index(kind)]) if field.name not in _SIZES]
    if unknown := sorted(set(chosen) - set(names)):
        raise error("E007", setting="knowledge_settings", found=unknown, expected=f"of {kind}: {', '.join(names)}")


def build_knowledge(kind: str, settings: Mapping[str, Any]) -> KnowledgeModule:
    """Build a module from saved settings.

    Args:
        kind: ``projection``, ``mixture`` or ``attention``.
        settings: the fields of that kind's settings.

    Raises:
        ConfigError: E007 for another kind, and for a value that cannot be.
    """
    if kind == "projection":
        return VectorProjection(VectorProjectionSettings(**settings))
    if kind == "mixture":
        return CandidateMixture(CandidateMixtureSettings(**settings))
    if kind == "attention":
        return SigmoidCrossAttention(SigmoidCrossAttentionSettings(**settings))
    raise error("E007", setting="knowledge", found=kind, expected=" or ".join(KINDS))


def softmax_link_loss(scores: Tensor, gold: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of the right candidate among all, "none of them" included.

    Args:
        scores: *(m, 1 + c)* of a `KnowledgeOutput` whose module links by ``softmax``.
        gold: *(m,)* columns: 1 + the number of the right candidate, which must be present; 0 if none of them is right; -100 if
            that is not known.
        present: *(m, c)* boolean.

    Returns:
        The mean over spans that have a candidate and an annotation, a scalar; 0 if there are none.
    """
    counted = present.any(dim=1) & (gold != -100)
    total = F.cross_entropy(scores, gold.masked_fill(~counted, -100), ignore_index=-100, reduction="sum")
    return total / counted.sum().clamp_min(1)


def margin_link_loss(scores: Tensor, gold: Tensor, present: Tensor, margin: float = 0.2) -> Tensor:
    """Push the right candidate's score above the margin and the others' below its negative.

    Args:
        scores: *(m, 1 + c)* of a `KnowledgeOutput` whose module links by ``margin``.
        gold: *(m,)* as in `softmax_link_loss`.
        present: *(m, c)* boolean.
        margin: distance from 0.

    Returns:
        The mean of ``max(0, margin - score)`` of right candidates and ``max(0, margin + score)`` of others over all that are
        present in annotated spans, a scalar; 0 if there are none.
    """
    counted = present & (gold != -100)[:, None]
    right = torch.arange(1, scores.shape[1], device=scores.device) == gold[:, None]
    losses = F.relu(margin + torch.where(right, -scores[:, 1:], scores[:, 1:]))
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp_min(1)


def _with_candidates(present: Tensor) -> Tensor:
    """Numbers *(n,)* of the rows that have something present: all others are not computed."""
    return present.any(dim=1).nonzero().squeeze(1)


def _replace(states: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Put new states in some rows; the others keep every bit."""
    return states.index_copy(0, rows, new.to(states.dtype))


def _zeros(linear: Linear) -> Linear:
    """A layer that gives zeros."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
