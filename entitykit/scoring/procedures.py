"""Scorer of entity-state tracking: ProPara's measures of the grids in ``doc._.entity_states``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from spacy.tokens import Doc
from spacy.training import Example

from entitykit.decoding.procedures import gold_grid
from entitykit.decoding.tracker import NOWHERE, UNKNOWN
from entitykit.errors import warn
from entitykit.scoring.salience_documents import match
from entitykit.scoring.spans import Scores
from entitykit.scoring.tracking import Grid, is_place, normalise, score_documents, score_sentences

STATES = "entity_states"
"""The extension of a predicted document."""


class Compared(NamedTuple):
    """The grids of a document, with the same participants: gold ones first, then predicted ones that are none of them.

    Attributes:
        gold: in gold; the latter never exist.
        predicted: the same participants; gold ones that were not found are at an unknown place throughout.
        n_gold: number of gold participants.
        other_steps: whether the prediction has other steps, and was left out.
    """

    gold: Grid
    predicted: Grid
    n_gold: int
    other_steps: bool


def make_tracking_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.tracking_scorer.v1`."""
    return tracking_score


def tracking_score(examples: Iterable[Example], **_: object) -> Scores:
    """Score grids as ProPara's two measures do, see `entitykit.scoring.tracking`.

    Reads ``doc.user_data`` of references, see `entitykit.decoding.procedures`, and ``doc._.entity_states`` of predicted
    documents. References without a grid are skipped. See `pair_names` for which participant is which. One that was not
    predicted is taken to be at an unknown place throughout; what happens to others, which gold does not have, lowers the
    precision by document.

    Args:
        examples: predicted and reference Docs.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `tracking_p`, `_r` and `_f` by document; F1 of `tracking_inputs`, `tracking_outputs`, `tracking_conversions` and
        `tracking_moves`; by sentence `tracking_cat1` to `tracking_cat3`, `tracking_macro` and `tracking_micro`; and
        `tracking_states_acc`, the share of gold participants' states that are right. None where there is nothing to score.

    Raises:
        InputError: E612 for gold grids of another form.

    Warns:
        W330 for predicted grids of other steps, which count as if nothing had been predicted.
    """
    compared = [each for each in map(compare_grids, examples) if each is not None]
    if not compared:
        return dict.fromkeys(KEYS)
    if n := sum(each.other_steps for each in compared):
        warn("W330", n=n, total=len(compared), stacklevel=4)
    gold, predicted = [each.gold for each in compared], [each.predicted for each in compared]
    by_document, by_sentence = score_documents(gold, predicted), score_sentences(gold, predicted)
    overall = by_document.overall
    pairs = [
        pair
        for each in compared
        for name in islice(each.gold, each.n_gold)
        for pair in zip(each.gold[name], each.predicted[name], strict=True)
    ]
    right = sum(is_place(found, wanted) for wanted, found in pairs)
    return {
        "tracking_p": overall.precision,
        "tracking_r": overall.recall,
        "tracking_f": overall.f1,
        **{f"tracking_{name}_f": getattr(by_document, name).f1 for name in ("inputs", "outputs", "conversions", "moves")},
        **{f"tracking_{name}": getattr(by_sentence, name) for name in ("cat1", "cat2", "cat3", "macro", "micro")},
        "tracking_states_acc": right / len(pairs) if pairs else None,
    }


KEYS = (
    *(f"tracking_{key}" for key in ("p", "r", "f", "inputs_f", "outputs_f", "conversions_f", "moves_f")),
    *(f"tracking_{key}" for key in ("cat1", "cat2", "cat3", "macro", "micro", "states_acc")),
)


def compare_grids(eg: Example) -> Compared | None:
    """Bring the grids of a predicted and a gold document together.

    Returns:
        None if the reference has no grid.

    Raises:
        InputError: E612 for a gold grid of another form.
    """
    grid = gold_grid(eg.reference.user_data)
    if grid is None:
        return None
    names, n_states = grid["participants"], len(grid["steps"]) + 1
    found: Mapping[str, Any] = (eg.predicted._.get(STATES) if Doc.has_extension(STATES) else None) or NOTHING
    other_steps = any(len(row) != n_states for row in found["states"])
    if other_steps:
        found = NOTHING
    rows = found["states"]
    pairs = pair_names(names, found["participants"])
    others = sorted(set(range(len(rows))).difference(pairs.values()))
    keys = _keys([*names, *(found["participants"][row] for row in others)])
    in_gold = [*grid["states"], *([NOWHERE] * n_states for _ in others)]
    of_names = [rows[pairs[i]] if i in pairs else [UNKNOWN] * n_states for i in range(len(names))]
    in_predicted = [*of_names, *(rows[row] for row in others)]
    return Compared(_grid(keys, in_gold), _grid(keys, in_predicted), len(names), other_steps)


def _grid(keys: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    return {key: list(row) for key, row in zip(keys, rows, strict=True)}


NOTHING: Mapping[str, Any] = {"participants": [], "states": []}


def pair_names(gold: Sequence[str], predicted: Sequence[str]) -> dict[int, int]:
    """Find for each gold participant the predicted one.

    Those with the same name are the same, several of one name in their order. Of the others, those are matched that have an
    alternative in common, whatever its case, a regular ending (*cube*, *cubes*, but not *leaf*, *leaves*), and the article
    before it; see `match`.

    Returns:
        Rows of gold to rows of predicted names.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(predicted):
        rows.setdefault(name, []).append(row)
    same = {row: rows[name].pop(0) for row, name in enumerate(gold) if rows.get(name)}
    left = [row for row in range(len(gold)) if row not in same], sorted(row for own in rows.values() for row in own)
    alternatives = ([_alternatives(names[row]) for row in own] for names, own in zip((gold, predicted), left, strict=True))
    return same | {left[0][row]: left[1][other] for row, other in match(*alternatives).items()}


def _alternatives(name: str) -> set[str]:
    return set().union(*(normalise(each.strip()) for each in name.split(";") if each.strip()))


def _keys(names: Iterable[str]) -> list[str]:
    """Names, of which the second that is the same has a number, and so on."""
    found: dict[str, None] = {}
    for name in names:
        key, n = name, 1
        while key in found:
            n += 1
            key = f"{name} ({n})"
        found[key] = None
    return list(found)
