"""What is given of a document's procedure in its user data: steps, participants, and, in gold documents, a grid of states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from entitykit.errors import error

PROCEDURE = "procedure"
GIVEN = (PROCEDURE, "propara", "boxes")
"""Keys of ``doc.user_data`` that may have a procedure, ours first, then those that corpus readers leave."""

Given = Mapping[str, Any]


def given_procedure(user_data: Mapping[Any, Any]) -> Given:
    """Find what is given: `participants`, `steps`, `states`, some of these or nothing.

    Args:
        user_data: of a document.

    Raises:
        InputError: E612 for something else than a dict.
    """
    found: Any = next((user_data[key] for key in GIVEN if key in user_data), {})
    if not isinstance(found, Mapping):
        raise error("E612", found=f"of the type {type(found).__name__}", expected="a dict of participants and steps")
    return found


def gold_grid(user_data: Mapping[Any, Any]) -> Given | None:
    """Find the grid of a gold document.

    Args:
        user_data: of a document.

    Returns:
        `participants`, `steps` in characters, and `states`, for each participant one more than steps; None if there are none.

    Raises:
        InputError: E612 for a grid of another form.
    """
    given = given_procedure(user_data)
    if "states" not in given:
        return None
    missing = [key for key in ("participants", "steps") if key not in given]
    if missing:
        raise error("E612", found=f"without {' and '.join(missing)}", expected="participants, steps and states")
    _check_forms(given)
    sizes = [len(given["states"]), *(len(row) for row in given["states"])]
    expected = [len(given["participants"]), *[len(given["steps"]) + 1] * len(given["participants"])]
    if sizes != expected:
        raise error("E612", found=f"with states {sizes}", expected=f"rows and their lengths {expected}")
    return given


def _check_forms(grid: Given) -> None:
    for key, fits, form in (
        ("participants", are_texts, "a list of names"),
        ("steps", _are_pairs, "a list of starts and ends in characters"),
        ("states", _are_rows, "for each participant a list of states, which are texts"),
    ):
        if not fits(grid[key]):
            raise error("E612", found=f"{key} {grid[key]!r}"[:100], expected=form)


def are_texts(values: object) -> bool:
    """Whether a value is a list of texts."""
    match values:
        case [*texts]:
            return all(isinstance(each, str) for each in texts)
    return False


def _are_rows(values: object) -> bool:
    match values:
        case [*rows]:
            return all(map(are_texts, rows))
    return False


def _are_pairs(values: object) -> bool:
    match values:
        case [*pairs]:
            return all(isinstance(pair, Sequence) and len(pair) == 2 for pair in pairs)
    return False
