"""ProPara: paragraphs about processes, with grids of where each participant is (Mishra et al., NAACL 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from entitykit.corpora.files import member, read_json_lines, typed
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.errors import error

SUFFIXES = (".json", ".jsonl")

STEPS = "steps"
STEP = "STEP"


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of grids, one JSON object per line with `para_id`, `sentence_texts`, `participants` and `states`.

    The text is the sentences with a space between them; the span group `steps` has one span per sentence that is not empty.
    `doc.user_data["propara"]` has `participants`, names with `;` between alternatives; `states`, for each participant where it
    is before the first and after every step: a place in the text, `?` for an unknown place, `-` where it does not exist; and
    `steps`, start and end of every sentence in characters.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E226 for a grid of another size.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        sentences = _texts(member(record, "sentence_texts", list, where=where), "a sentence", where)
        participants = _texts(member(record, "participants", list, where=where), "a participant", where)
        states = [
            _texts(typed(row, list, what="a row of 'states'", where=where), "a state", where)
            for row in member(record, "states", list, where=where)
        ]
        sizes = [len(states), *map(len, states)]
        expected = [len(participants), *[len(sentences) + 1] * len(participants)]
        if sizes != expected:
            raise error("E226", where=where, found=f"a grid of {sizes}", expected=f"rows and their lengths {expected}")
        ends = list(accumulate((len(sentence) + 1 for sentence in sentences), initial=0))
        steps = [(start, start + len(sentence)) for start, sentence in zip(ends, sentences, strict=False)]
        yield ParsedDoc(
            id=member(record, "para_id", str, where=where),
            where=where,
            text=" ".join(sentences),
            offsets="characters",
            annotated=(),
            groups={STEPS: [Mention(start, end, STEP) for start, end in steps if start < end]},
            user_data={"propara": {"participants": participants, "states": states, "steps": [list(step) for step in steps]}},
        )


def _texts(values: list[Any], what: str, where: str) -> list[str]:
    return [typed(value, str, what=what, where=where) for value in values]
