"""Coreference clusters as span groups: `coref_clusters_1`, `coref_clusters_2`, … in the order of their first mentions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from spacy.tokens import Span, Token

from entitykit.corpora.name_words import tells
from entitykit.corpora.parsed import Mention

PREFIX = "coref_clusters"
LONG = 5  # words of a mention that is too long for a name
PARTICLES = frozenset({"al", "bin", "da", "de", "del", "den", "der", "di", "du", "el", "ibn", "la", "le", "van", "von"})
"""Words in lower case that names have."""

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
    """The mention that names an entity best, or none if no mention has a word that tells who is meant.

    The first of these that there is, the earliest in the text of equal ones: a proper name, all of whose words that tell have
    capitals, without a line break; another mention with a capitalised word that tells; any that tells. Of each, those that are
    entities of the document (``doc.ents``) come first, and long ones last.
    """
    telling = [(span, words) for span in cluster if (words := [token for token in span if tells(token)])]
    return min(telling, key=lambda each: _rank(*each), default=(None, []))[0]


def _rank(span: Span, words: Sequence[Token]) -> tuple[bool, bool, bool, bool, int]:
    """Sort by how well a mention names its entity, the best first.

    Args:
        span: a mention.
        words: those that tell.
    """
    has_capital = any(word.text[0].isupper() for word in words)
    is_proper = has_capital and all(map(_is_proper, words)) and "\n" not in span.text
    return not has_capital, not is_proper, len(span) > LONG, not _is_entity(span), span.start


def _is_proper(word: Token) -> bool:
    """Whether a word may be one of a proper name: it has a capital, or no letters, or is one such as *de*."""
    letters = [char for char in word.text if char.isalpha()]
    return not letters or any(char.isupper() for char in letters) or word.lower_ in PARTICLES


def _is_entity(span: Span) -> bool:
    """Whether a mention is one of ``doc.ents``, of which reading them all would take long for each cluster."""
    tags = [token.ent_iob_ for token in span.doc[span.start : span.end + 1]]
    return tags[: len(span)] == ["B", *["I"] * (len(span) - 1)] and tags[len(span) :] != ["I"]


def _place(mention: Mention) -> tuple[int, int]:
    """Sort by start; of mentions that start together the longest comes first."""
    return mention.start, -mention.end
