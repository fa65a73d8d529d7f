"""Entity salience on Wikinews: how much each entity of an article matters (Trani et al., Comput. Intell. 34, 2018)."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from entitykit.corpora.files import member, read_json, read_json_lines, typed
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.corpora.titles import title
from entitykit.errors import error

DATASET = "saliency-dataset.json"
ENTITIES = "wikinews-entities.json"

SPLITS = ("test", "dev", "train")
FOLDS = 5
"""The data set has no split: articles whose number divided by this leaves 0 are for testing, those that leave 1 for
development."""

HEADLINE = "headline"
DATELINE = "dateline"
GROUP = "entity"

Names = tuple[str, list[str]]
"""Title of an entity, and how it is mentioned, in lower case."""


def parse(path: str | Path, *, split: str = "") -> Iterator[ParsedDoc]:
    """Read the articles of `saliency-dataset.json`, with the names of entities from `wikinews-entities.json` beside it.

    The text is the headline and the paragraphs, without the dateline, two line ends between them.
    `doc.user_data["salience"]` is a list of the entities that were rated, in the order of the file: `id`, the page in
    Wikipedia, `entity`, its title, `score`, the mean rating from 0 (not relevant) to 3 (top relevant), and `group`, the name of
    the span group with its mentions. The data set has no offsets: mentions are the occurrences of an entity's names in the
    text, whatever their case, the longest first, without overlaps within an entity. The group is empty where none occurs, and
    also for the entities that the second file does not name, whose `entity` is empty.

    Args:
        path: the folder, or `saliency-dataset.json` in it.
        split: `train`, `dev` or `test`, see `FOLDS`; empty for all.

    Raises:
        ConfigError: E213 for another split.
        CorpusError: E204 to E207 for the files and their values, E238 if a file cannot be read.
    """
    if split and split not in SPLITS:
        raise error("E213", option="split", found=split, expected=", ".join(SPLITS))
    file = Path(path)
    file = file / DATASET if file.is_dir() else file
    names = _read_names(file.with_name(ENTITIES))
    for line, record in read_json_lines(file):
        where = f"{file}, line {line}"
        identifier = member(record, "docId", int, where=where)
        text = _text(member(record, "document", list, where=where), where)
        rated: list[dict[str, Any]] = []
        groups: dict[str, list[Mention]] = {}
        for rating in member(record, "saliency", list, where=where):
            entity = member(rating, "entityid", int, where=where)
            name, mentions = names.get((identifier, entity), ("", []))
            group = f"{GROUP}_{len(rated) + 1}"
            score = float(member(rating, "score", float, where=where))
            rated.append({"id": entity, "entity": name, "score": score, "group": group})
            groups[group] = [Mention(start, end, "", name) for start, end in find_names(text, mentions)]
        yield ParsedDoc(
            id=str(identifier),
            where=where,
            text=text,
            offsets="characters",
            groups=groups,
            user_data={"salience": rated},
            annotated=(),
            selected=split in ("", SPLITS[min(identifier % FOLDS, 2)]),
        )


def find_names(text: str, names: Sequence[str]) -> list[tuple[int, int]]:
    """Find whole-word occurrences of names, whatever their case; of those that overlap the first, then the longest.

    Args:
        text: the text.
        names: the names, in any order.

    Returns:
        Start and end in characters, sorted.
    """
    ordered = sorted({name for name in names if name.strip()}, key=lambda name: (-len(name), name))
    if not ordered:
        return []
    pattern = "|".join(re.escape(name) for name in ordered)
    return [match.span() for match in re.finditer(rf"(?<!\w)(?:{pattern})(?!\w)", text, re.IGNORECASE)]


def _read_names(file: Path) -> Mapping[tuple[int, int], Names]:
    names: dict[tuple[int, int], Names] = {}
    for i, record in enumerate(typed(read_json(file), list, what="the file", where=str(file)), start=1):
        where = f"{file}, entity {i}"
        key = (member(record, "doc_id", int, where=where), member(record, "entity_id", int, where=where))
        name = title(member(record, "meta_wiki_title", str, where=where))
        mentions = member(record, "meta_mentions", list, where=where, default=[])
        names[key] = (name, [name, *(typed(mention, str, what="a mention", where=where) for mention in mentions)])
    return names


def _text(parts: Sequence[object], where: str) -> str:
    values = ((member(part, "name", str, where=where), member(part, "value", str, where=where, default="")) for part in parts)
    return "\n\n".join(html.unescape(value).strip() for name, value in values if name != DATELINE)
