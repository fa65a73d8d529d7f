"""Show which entities a document is about: its salient ones under the text, each with a bar as long as its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spacy.tokens import Doc

STYLE = """
ol.salience { display: flex; flex-wrap: wrap; gap: .4rem; margin: .75rem 0 0; padding: 0; list-style: none;
  font-size: .8125rem; }
ol.salience::before { content: "about"; align-self: center; color: var(--soft); }
ol.salience li { padding: .1em .6em; border: 1px solid var(--line); border-radius: .3em; overflow-wrap: anywhere;
  background: linear-gradient(to right, var(--line) var(--score), transparent 0); }
ol.salience li.more { border-color: transparent; background: none; color: var(--soft); }
"""

SALIENCE = "salience"
SHOWN = 8
"""Entities of a document at most."""


def draw_salience(doc: Doc, visible: Callable[[str], str]) -> str:
    """Draw a list of a document's salient entities, the most salient first; hovering shows score and mentions.

    Args:
        doc: read is ``doc._.salience``.
        visible: escapes text.

    Returns:
        Nothing for a document without salient entities, or where nobody looked for any.
    """
    found = salient_entities(doc)
    if not found:
        return ""
    items = [_item(value, visible) for value in found[:SHOWN]]
    if len(found) > SHOWN:
        items.append(f'<li class="more">and {len(found) - SHOWN} more</li>')
    return f'<ol class="salience" aria-label="Salient entities">{"".join(items)}</ol>\n'


def salient_entities(doc: Doc) -> list[Mapping[str, Any]]:
    """The salient ones among the dicts of ``doc._.salience``, if it is known and there are any."""
    found: Sequence[Mapping[str, Any]] | None = doc._.get(SALIENCE) if Doc.has_extension(SALIENCE) else None
    return [value for value in found or () if value["salient"]]


def _item(value: Mapping[str, Any], visible: Callable[[str], str]) -> str:
    n = len(value["mentions"])
    parts = [f"{value['score']:.2f}", f"{n} mention{'s' * (n != 1)}", value["label"], value.get("id", "")]
    hint = visible(" · ".join(filter(None, parts)))
    return f'<li style="--score: {value["score"]:.0%}" title="{hint}" dir="auto">{visible(value["entity"])}</li>'
