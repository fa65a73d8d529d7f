"""Scorer of entity-state tracking: ProPara's measures of the grids in ``doc._.entity_states``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from spacy.tokens import Doc
from spacy.training import Example

from entitykit.decoding.procedures import gold_grid
from entitykit.scoring.spans import Scores
from entitykit.scoring.tracking import UNKNOWN, Grid, is_place, score_documents, score_sentences

STATES = "entity_states"
"""The extension of a predicted document."""


def make_tracking_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.tracking_scorer.v1`."""
    return tracking_score


def tracking_score(examples: Iterable[Example], **_: object) -> Scores:
    """Score grids as ProPara's two measures do, see `entitykit.scoring.tracking`.

    Reads ``doc.user_data`` of references, see `entitykit.decoding.procedures`, and ``doc._.entity_states`` of predicted
    documents. References without a grid are skipped. A participant that was not predicted is taken to be at an unknown place
    throughout.

    Args:
        examples: predicted and reference Docs.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        `tracking_p`, `_r` and `_f` by document; F1 of `tracking_inputs`, `tracking_outputs`, `tracking_conversions` and
        `tracking_moves`; by sentence `tracking_cat1` to `tracking_cat3`, `tracking_macro` and `tracking_micro`; and
        `tracking_states_acc`, the share of states that are right. None where there is nothing to score.

    Raises:
        InputError: E330 for predicted grids of other steps, E612 for gold grids of another form.
    """
    gold: list[Grid] = []
    predicted: list[Grid] = []
    for eg in examples:
        grid = gold_grid(eg.reference.user_data)
        if grid is not None:
            gold.append(_named(grid["participants"], grid["states"]))
            predicted.append(_predicted(eg.predicted, gold[-1], len(grid["steps"])))
    if not gold:
        return dict.fromkeys(KEYS)
    by_document, by_sentence = score_documents(gold, predicted), score_sentences(gold, predicted)
    overall = by_document.overall
    pairs = [
        (one, other)
        for own, found in zip(gold, predicted, strict=True)
        for name in own
        for one, other in zip(own[name], found[name], strict=True)
    ]
    right = sum(is_place(other, one) for one, other in pairs)
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


def _predicted(doc: Doc, gold: Grid, n_steps: int) -> Grid:
    """The predicted grid of the gold participants."""
    found = (doc._.get(STATES) if Doc.has_extension(STATES) else None) or {"participants": [], "states": []}
    named = _named(found["participants"], found["states"])
    return {name: named.get(name, [UNKNOWN] * (n_steps + 1)) for name in gold}


def _named(participants: Sequence[str], states: Sequence[Sequence[str]]) -> Grid:
    """The rows by name; of participants of one name the second has a number, and so on."""
    grid: dict[str, Sequence[str]] = {}
    seen: Counter[str] = Counter()
    for name, row in zip(participants, states, strict=True):
        seen[name] += 1
        grid[name if seen[name] == 1 else f"{name} ({seen[name]})"] = list(row)
    return grid
