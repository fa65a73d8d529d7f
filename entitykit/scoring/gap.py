"""The measures of GAP: which of two names an ambiguous pronoun stands for, overall, by gender, and their ratio.

Webster, Recasens, Axelrod and Baldridge, TACL 6, 2018; the counts are those of its scorer (gap_scorer.py of
google-research-datasets/gap-coreference): both names of every snippet are a decision each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.coref import PREFIX, clusters_in
from entitykit.scoring.spans import PRF, Scores, prf

FEMININE = frozenset({"she", "her", "hers"})
MASCULINE = frozenset({"he", "him", "his"})

Offsets = tuple[int, int]

KEY = "gap"
"""Where `doc.user_data` has the offsets of a snippet's pronoun and names."""


PUBLISHED: Mapping[str, Mapping[str, float]] = {
    "syntactic parallelism, the snippet alone": {"overall": 0.669, "feminine": 0.644, "masculine": 0.694, "bias": 0.93},
    "syntactic parallelism, the page's title, too": {"overall": 0.706, "feminine": 0.688, "masculine": 0.723, "bias": 0.95},
}
"""F1 and bias of the authors' baselines on the test part, as the corpus's README gives them."""


class GapDecision(NamedTuple):
    """One snippet.

    Attributes:
        pronoun: as written.
        gold: whether it stands for the first and for the second name.
        predicted: the same as predicted.
    """

    pronoun: str
    gold: tuple[bool, bool]
    predicted: tuple[bool, bool]


class GapScores(NamedTuple):
    """Scores over all snippets; `n_gold` counts the names that a pronoun stands for.

    Attributes:
        overall: all snippets.
        feminine: those with she, her or hers.
        masculine: those with he, him or his.
        bias: F1 of `feminine` over that of `masculine`; None if either is 0.
    """

    overall: PRF
    feminine: PRF
    masculine: PRF
    bias: float | None


def make_gap_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.gap_scorer.v1`."""
    return gap_score


def gap_score(examples: Iterable[Example], *, spans_prefix: str = PREFIX, **_: object) -> Scores:
    """Score what predicted clusters say of the snippets of GAP, see `decide` and `score_gap`.

    Reads ``doc.user_data["gap"]`` of references, and the span groups `{spans_prefix}_N` of predicted documents. References that
    are no snippets are skipped.

    Args:
        examples: predicted and reference Docs, with the same text.
        spans_prefix: what the names of the groups start with.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `gap_p`, `_r` and `_f`, the same of `gap_feminine` and `gap_masculine`, and `gap_bias`. None where there is nothing to
        score.

    Raises:
        InputError: E305 for an example whose texts differ, E321 for a pronoun that GAP does not have.
    """
    decisions = []
    for eg in examples:
        snippet = eg.reference.user_data.get(KEY)
        if snippet is None:
            continue
        if eg.predicted.text != eg.reference.text:
            raise error("E305", predicted=eg.predicted.text[:60], reference=eg.reference.text[:60])
        decisions.append(decide(eg.predicted, prefix=spans_prefix, snippet=snippet))
    scores = score_gap(decisions) if decisions else None
    found: Scores = {"gap_bias": scores.bias if scores else None}
    for part, name in (("overall", "gap"), ("feminine", "gap_feminine"), ("masculine", "gap_masculine")):
        precision, recall, f1 = getattr(scores, part)[:3] if scores else (None, None, None)
        found |= {f"{name}_p": precision, f"{name}_r": recall, f"{name}_f": f1}
    return found


def score_gap(decisions: Iterable[GapDecision]) -> GapScores:
    """Score decisions about pronouns.

    Args:
        decisions: one per snippet.

    Raises:
        InputError: E321 for a pronoun that GAP does not have.
    """
    given = list(decisions)
    for decision in given:
        if decision.pronoun.lower() not in FEMININE | MASCULINE:
            raise error("E321", found=decision.pronoun, expected=", ".join(sorted(FEMININE | MASCULINE)))
    feminine = _count([decision for decision in given if decision.pronoun.lower() in FEMININE])
    masculine = _count([decision for decision in given if decision.pronoun.lower() in MASCULINE])
    bias = feminine.f1 / masculine.f1 if feminine.f1 and masculine.f1 else None
    return GapScores(_count(given), feminine, masculine, bias)


def _count(decisions: Sequence[GapDecision]) -> PRF:
    pairs = [pair for decision in decisions for pair in zip(decision.gold, decision.predicted, strict=True)]
    return prf(
        n_correct=sum(gold and predicted for gold, predicted in pairs),
        n_predicted=sum(predicted for _, predicted in pairs),
        n_gold=sum(gold for gold, _ in pairs),
    )


def decide(doc: Doc, *, prefix: str = PREFIX, snippet: Mapping[str, Any] | None = None) -> GapDecision:
    """Read from a Doc's clusters which names its pronoun stands for.

    GAP leaves open how clusters become decisions. Here the pronoun is the mention on its words; a name is the shortest mention
    that covers it or, if there is none, the longest within it. The pronoun stands for a name whose mention is in its cluster.

    Args:
        doc: reads `doc.user_data["gap"]`, as the corpus format `gap` writes it, and the span groups `{prefix}_N`.
        prefix: what the groups' names start with.
        snippet: what is read in the place of that; none: it is read.

    Raises:
        InputError: E322 for a Doc that is no snippet of GAP.
    """
    snippet = doc.user_data.get(KEY) if snippet is None else snippet
    if snippet is None:
        raise error("E322", key=KEY)
    clusters = clusters_in(doc, prefix=prefix) or []
    cluster_of = {(span.start_char, span.end_char): i for i, cluster in enumerate(clusters) for span in cluster}
    pronoun, *names = (_on_tokens(doc, snippet[name]) for name in ("pronoun", "a", "b"))
    own = cluster_of.get(pronoun)
    of_names = [_cluster(name, cluster_of) for name in names]
    return GapDecision(
        pronoun=doc.text[slice(*snippet["pronoun"])],
        gold=(snippet["a_coref"], snippet["b_coref"]),
        predicted=(own is not None and of_names[0] == own, own is not None and of_names[1] == own),
    )


def _on_tokens(doc: Doc, offsets: Sequence[int]) -> Offsets:
    start, end = offsets
    words = [token for token in doc if token.idx < end and token.idx + len(token) > start]
    return (words[0].idx, words[-1].idx + len(words[-1])) if words else (start, end)


def _cluster(name: Offsets, cluster_of: Mapping[Offsets, int]) -> int | None:
    """Return the cluster of a name's mention, or None if it has none."""
    start, end = name
    covering = [(last - first, cluster) for (first, last), cluster in cluster_of.items() if first <= start and end <= last]
    within = [(first - last, cluster) for (first, last), cluster in cluster_of.items() if start <= first and last <= end]
    return min(covering or within, default=(0, None))[1]
