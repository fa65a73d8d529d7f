"""Coreference clusters as span groups: `coref_clusters_1`, `coref_clusters_2`, … in the order of their first mentions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spacy.tokens import Span

from entitykit.corpora.name_words import tells
from entitykit.corpora.parsed import Mention

PREFIX = "coref_clusters"
LONG = 5  # words of a mention that is too long for a name

IDS = "coref_ids"
"""Where `doc.user_data` has the corpus's own ids of clusters, in the order of the groups."""


def cluster_groups(clusters: Iterable[Sequence[Mention]]) -> dict[str, list[Mention]]:
    """Name the groups of a document's clusters; without clusters, one empty group says that there are none.

    Args:
        clusters: the mentions of each cluster, at least one.
    """
    return named_groups({str(i): cluster for i, cluster in enumerate(clusters)})[0]


def named_groups(clusters: Mapping[str, Sequence[Mention]]) -> tuple[dict[str, list[Mention]], list[str]]:
    """Name the groups of clusters that have ids, such as those of a whole corpus, and give the ids in the groups' order."""
    ids = sorted(clusters, key=lambda name: min(map(_place, clusters[name])))
    ordered = [sorted(clusters[name], key=_place) for name in ids]
    return {f"{PREFIX}_{i}": cluster for i, cluster in enumerate(ordered or [[]], start=1)}, ids


def representative(cluster: Sequence[Span]) -> Span | None:
    """The mention that names an entity best: the first with a capitalised word that tells, else the first with any; or none.

    Long mentions come last.
    """
    telling = [span for span in cluster if any(map(tells, span))]
    names = [span for span in telling if any(token.text[0].isupper() and tells(token) for token in span)]
    return min(names or telling, key=lambda span: (len(span) > LONG, span.start), default=None)


def _place(mention: Mention) -> tuple[int, int]:
    """Sort by start; of mentions that start together the longest comes first."""
    return mention.start, -mention.end
