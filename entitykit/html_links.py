"""Show to what the mentions of a document are linked, and what else they might have been: a table under the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from spacy.tokens import Doc, Span

from entitykit.corpora.jsonl import all_entities

STYLE = """
details.links { margin-top: .75rem; overflow-x: auto; font-size: .8125rem; }
details.links summary { color: var(--soft); cursor: pointer; }
details.links table { border-collapse: collapse; }
details.links :is(td, th) { padding: .15rem .75rem .15rem 0; text-align: start; vertical-align: top; }
details.links tr + tr { border-top: 1px solid var(--line); }
details.links small { margin-inline-start: .25em; }
"""

SHOWN = 4
"""Candidates of a mention, the most probable ones."""


def draw_links(doc: Doc, visible: Callable[[str], str], names: Mapping[str, str]) -> str:
    """Draw the links of a document's entities as a table that opens on a click, each different one once.

    Args:
        doc: read are ``doc.ents`` and ``doc.spans["sc"]`` with `kb_id_` and `span._.kb_ents`.
        visible: escapes text.
        names: of entities by id: shown under those that were decided, and when the others are pointed at.

    Returns:
        Nothing for a document whose entities nobody tried to link.
    """
    rows = list(dict.fromkeys(_rows(doc, visible, names)))
    if not rows:
        return ""
    head = "<tr><th>mention<th>entity<th>candidates</tr>"
    return f'<details class="links"><summary>{len(rows)} links</summary><table>{head}{"".join(rows)}</table></details>\n'


def _rows(doc: Doc, visible: Callable[[str], str], names: Mapping[str, str]) -> Iterator[str]:
    for span in sorted(all_entities(doc), key=lambda span: (span.start, -span.end)):
        candidates = _candidates(span)
        if span.kb_id_ or candidates:
            named = [(_with_title(id_, visible, names), score) for id_, score in candidates[:SHOWN]]
            shown = ", ".join(f"{name}<small>{score:.2f}</small>" for name, score in named)
            rest = f" and {len(candidates) - SHOWN} more" if len(candidates) > SHOWN else ""
            text = visible(" ".join(span.text.split()))
            name = f"<br><small>{visible(names[span.kb_id_])}</small>" if span.kb_id_ in names else ""
            yield f'<tr><td dir="auto">{text}<td>{visible(span.kb_id_ or "none")}{name}<td>{shown}{rest}</tr>'


def _with_title(id_: str, visible: Callable[[str], str], names: Mapping[str, str]) -> str:
    return f'<span title="{visible(names[id_])}">{visible(id_)}</span>' if id_ in names else visible(id_)


def _candidates(span: Span) -> list[tuple[str, float]]:
    return list(span._.kb_ents or ()) if Span.has_extension("kb_ents") else []
