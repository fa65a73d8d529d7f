"""The measures of GAP: which of two names an ambiguous pronoun stands for, overall, by gender, and their ratio.

Webster, Recasens, Axelrod and Baldridge, TACL 6, 2018; the counts are those of its scorer (gap_scorer.py of
google-research-datasets/gap-coreference): both names of every snippet are a decision each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from spacy.tokens import Doc

from entitykit.errors import error
from entitykit.scoring.coref import PREFIX, clusters_in
from entitykit.scoring.spans import PRF, prf

FEMININE = frozenset({"she", "her", "hers"})
MASCULINE = frozenset({"he", "him", "his"})

Offsets = tuple[int, int]

KEY = "gap"
"""Where `doc.user_data` has the offsets of a snippet's pronoun and names."""


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


def decide(doc: Doc, *, prefix: str = PREFIX) -> GapDecision:
    """Read from a Doc's clusters which names its pronoun stands for.

    GAP leaves open how clusters become decisions. Here the pronoun is the mention on its words; a name is the shortest mention
    that covers it or, if there is none, the longest within it. The pronoun stands for a name whose mention is in its cluster.

    Args:
        doc: reads `doc.user_data["gap"]`, as the corpus format `gap` writes it, and the span groups `{prefix}_N`.
        prefix: what the groups' names start with.

    Raises:
        InputError: E322 for a Doc that is no snippet of GAP.
    """
    snippet = doc.user_data.get(KEY)
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
