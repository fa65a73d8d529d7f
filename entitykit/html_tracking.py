"""Show what happens to the participants of a procedure: a table with a row per participant and a column per step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from spacy.tokens import Doc

from entitykit.decoding.tracker import NOWHERE

STYLE = """
details.states { margin-top: .75rem; overflow-x: auto; font-size: .8125rem; }
details.states summary { color: var(--soft); cursor: pointer; }
details.states table { border-collapse: collapse; }
details.states :is(td, th) { padding: .15rem .75rem .15rem 0; text-align: start; vertical-align: top; max-width: 14rem; }
details.states tr + tr { border-top: 1px solid var(--line); }
details.states .still { color: var(--soft); }
details.states .gone { color: var(--line); }
details.states small { margin-inline-start: .25em; }
"""

EVENTS = {"C": "created", "D": "destroyed", "M": "moved"}
"""What is said of tags; the others are states in which nothing happens."""


def draw_states(doc: Doc, visible: Callable[[str], str]) -> str:
    """Draw the participants of a procedure as a table that opens on a click.

    Args:
        doc: read is ``doc._.entity_states``.
        visible: escapes text.

    Returns:
        Nothing for a document without participants, or in which nobody looked for any.
    """
    grid = (doc._.get("entity_states") if Doc.has_extension("entity_states") else None) or {"participants": []}
    n = len(grid["participants"])
    if not n:
        return ""
    steps = (" ".join(doc[start:end].text.split()) or "(empty)" for start, end in grid["steps"])
    head = "".join(f'<th dir="auto">{visible(step)}' for step in steps)
    body = "".join(
        f'<tr><th dir="auto">{visible(name)}{"".join(_cells(grid, row, visible))}</tr>'
        for row, name in enumerate(grid["participants"])
    )
    summary = f"<summary>{n} participant{'s' if n > 1 else ''}</summary>"
    return f'<details class="states">{summary}<table><tr><th><th>before{head}</tr>{body}</table></details>\n'


def _cells(grid: dict[str, Any], row: int, visible: Callable[[str], str]) -> Iterator[str]:
    """One participant's state before the first and after every step, and what happened if something did."""
    tags = [("", None), *zip(grid["tags"][row], grid["scores"][row], strict=True)]
    for state, (tag, score) in zip(grid["states"][row], tags, strict=True):
        kind = "" if tag in EVENTS else ' class="gone"' if state == NOWHERE else ' class="still"'
        event = f"<small>{EVENTS[tag]} {score:.2f}</small>" if tag in EVENTS and score is not None else ""
        yield f'<td dir="auto"{kind}>{visible(state)}{event}'
