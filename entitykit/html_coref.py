"""Show which mentions are the same entity: hovering over one, or over the entity in the list, marks all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from spacy.tokens import Doc

from entitykit.corpora.clusters import representative
from entitykit.scoring.coref import clusters_in

STYLE = """
ul.chains { display: flex; flex-wrap: wrap; gap: .2rem .6rem; margin: .75rem 0 0; padding: 0; list-style: none;
  color: var(--soft); font-size: .8125rem; }
ul.chains::before { content: "the same"; align-self: center; }
ul.chains li { padding: 0 .3em; border-radius: .3em; cursor: default; overflow-wrap: anywhere; }
u[data-chain] { text-decoration-style: solid; text-decoration-color: var(--line); }
.chain-on { background: hsl(48 95% 60% / .45); border-radius: .2em; }
"""

SCRIPT = """
document.addEventListener("mouseover", (event) => {
  for (const each of document.querySelectorAll(".chain-on")) each.classList.remove("chain-on");
  const over = event.target.closest("[data-chain]");
  if (over)
    for (const each of over.closest("article").querySelectorAll(`[data-chain="${over.dataset.chain}"]`))
      each.classList.add("chain-on");
});
"""

SHOWN = 24
"""Entities in the list at most."""


class Chain(NamedTuple):
    """An entity that a document mentions more than once.

    Attributes:
        number: of the entity in the document.
        name: how it is shown.
        places: start and end of its mentions in characters.
    """

    number: int
    name: str
    places: list[tuple[int, int]]


def find_chains(doc: Doc) -> list[Chain]:
    """The clusters of a document that have several mentions, those with most mentions first."""
    clusters = [(number, cluster) for number, cluster in enumerate(clusters_in(doc) or (), start=1) if len(cluster) > 1]
    return [
        Chain(number, (representative(cluster) or cluster[0]).text, [(span.start_char, span.end_char) for span in cluster])
        for number, cluster in sorted(clusters, key=lambda each: -len(each[1]))
    ]


def draw_chains(chains: Sequence[Chain], visible: Callable[[str], str]) -> str:
    """Draw the list of entities; nothing if there are none.

    Args:
        chains: of `find_chains`.
        visible: escapes text.
    """
    if not chains:
        return ""
    items = [
        f'<li data-chain="{chain.number}" dir="auto">{visible(" ".join(chain.name.split()))} ×{len(chain.places)}</li>'
        for chain in chains[:SHOWN]
    ]
    if len(chains) > SHOWN:
        items.append(f"<li>and {len(chains) - SHOWN} more</li>")
    return f'<ul class="chains" aria-label="Mentions of the same entity">{"".join(items)}</ul>\n'
