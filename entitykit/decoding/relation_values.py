"""Relations as documents and files hold them, checked in one place: gold ones, and what components have written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from entitykit.errors import error


class RelationValue(NamedTuple):
    """A relation of a document.

    Attributes:
        head: start and end of the first argument, in tokens.
        tail: of the second one.
        label: relation type.
        score: its probability; none if it has none, as gold relations.
    """

    head: tuple[int, int]
    tail: tuple[int, int]
    label: str
    score: float | None


def relation_list(values: object) -> Sequence[Any]:
    """Give back a document's relations if they are a list.

    Raises:
        InputError: E349 if they are none.
    """
    if not isinstance(values, list | tuple):
        raise error("E349", found=repr(values)[:80])
    return values


def read_relation(value: Any, n: int) -> RelationValue:
    """Read a relation.

    Args:
        value: an object with `head`, `tail` and `label`, and perhaps `score`.
        n: tokens of its document.

    Raises:
        InputError: E345 if it is something else, or an argument is not among the tokens.
    """
    match value:
        case {
            "head": [int(head), int(head_end)],
            "tail": [int(tail), int(tail_end)],
            "label": str(label),
        } if 0 <= head < head_end <= n and 0 <= tail < tail_end <= n:
            score = value.get("score")
            if isinstance(score, int | float | None):
                return RelationValue((head, head_end), (tail, tail_end), label, score)
    raise error("E345", found=repr(value)[:80], n=n)


def read_relations(values: object, n: int) -> Iterator[RelationValue]:
    """Read all relations of a document of `n` tokens; errors as of `relation_list` and `read_relation`."""
    return (read_relation(value, n) for value in relation_list(values))
