"""ProPara's measures of entity-state tracking: by sentence (Cat-1 to Cat-3), and by document (inputs, outputs, …, moves).

A grid has, for each participant, where it is before the first and after every step: a place, `?` for an unknown one, `-` where
it does not exist. A participant is created at a step if it did not exist before and does after it, destroyed the other way
round, and moved if it exists before and after it at two places, of which one may be unknown.

The rules are those of the authors' scripts: `propara/eval/evalQA.py` of allenai/propara (Mishra et al., NAACL 2018) by
sentence, `propara/evaluator` of allenai/aristo-leaderboard (Tandon et al., EMNLP 2018) by document, with these differences.
Events are taken from the grid; the script by sentence reads a file with several annotators' events. Its words are stemmed by
Porter's second algorithm, here by the first, which tells the same words apart in all places of ProPara's grids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from entitykit.decoding.tracker import NOWHERE, UNKNOWN
from entitykit.errors import error
from entitykit.scoring.porter import stem
from entitykit.scoring.spans import PRF

T = TypeVar("T")

Grid = Mapping[str, Sequence[str]]
"""The states of each participant by its name, alternatives separated by `;`: one more than there are steps."""

CATEGORIES = {"cat1": (1, 4, 7), "cat2": (2, 5, 8), "cat3": (3, 6, 9, 10)}
N_QUESTIONS = {"cat1": 750, "cat2": 601, "cat3": 823}
"""The questions of each category in ProPara's test set, which weight the micro average as published."""

LEADING = ("a", "an", "the", "your", "his", "their", "my", "another", "other", "this", "that")


class Event(NamedTuple):
    """A change of a participant: `create`, `destroy` or `move`, the step from 1, and where it is before and after it."""

    kind: str
    step: int
    before: str
    after: str


class SentenceScores(NamedTuple):
    """Scores by sentence; None where there is no question.

    Attributes:
        cat1: mean accuracy of: is it created (1), destroyed (4), moved (7)?
        cat2: mean of: at which step is it created (2), destroyed (5), by accuracy, and moved (8), by F1?
        cat3: mean accuracy of: where is it created (3), destroyed (6), moved from (9) and to (10)?
        macro: mean of the categories.
        micro: the same weighted as published, see `N_QUESTIONS`.
        questions: the score of each question by its number in the script.
    """

    cat1: float | None
    cat2: float | None
    cat3: float | None
    macro: float | None
    micro: float | None
    questions: Mapping[int, float | None]


class DocumentScores(NamedTuple):
    """Scores by document; precision and recall of each question are means over documents, and `overall` has the means of these.

    Attributes:
        overall: all four; its F1 is that of the means, as that of each question.
        inputs: what is destroyed and was not created.
        outputs: what is created and neither destroyed nor moved before.
        conversions: what is destroyed while something else is created, where and when.
        moves: what moves, from where, to where and when.
    """

    overall: PRF
    inputs: PRF
    outputs: PRF
    conversions: PRF
    moves: PRF


def find_events(states: Sequence[str]) -> list[Event]:
    """List the changes of a participant.

    Args:
        states: where it is before the first and after every step.
    """
    events = []
    for step, (before, after) in enumerate(pairwise(states), start=1):
        if before != after:
            kind = "create" if before == NOWHERE else "destroy" if after == NOWHERE else "move"
            events.append(Event(kind, step, before, after))
    return events


def score_sentences(gold: Sequence[Grid], predicted: Sequence[Grid]) -> SentenceScores:
    """Score where and when participants change; those that never do in gold are not asked about.

    Args:
        gold: the grid of each paragraph.
        predicted: the same paragraphs' predicted grids.

    Raises:
        InputError: E330 for grids of other participants or steps.
    """
    counts: dict[int, Counter[str]] = {number: Counter() for numbers in CATEGORIES.values() for number in numbers}
    for in_gold, in_predicted in _pairs(gold, predicted):
        for name, states in in_gold.items():
            if events := find_events(states):
                for number, outcome in _ask(events, in_predicted[name]):
                    counts[number][outcome] += 1
    questions = {number: _accuracy(found, f1=number == 8) for number, found in counts.items()}
    scores = {name: _mean([questions[number] for number in numbers]) for name, numbers in CATEGORIES.items()}
    weights = [N_QUESTIONS[name] for name, score in scores.items() if score is not None]
    known = [score for score in scores.values() if score is not None]
    micro = sum(weight * score for weight, score in zip(weights, known, strict=True)) / sum(weights) if known else None
    return SentenceScores(**scores, macro=_mean(known), micro=micro, questions=questions)


def _ask(events: Sequence[Event], states: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Ask all questions about a participant: the question's number, and tp, fp, tn or fn."""
    created, destroyed, moved = _first_creation(states), _last_destruction(states), _moves(states)
    kinds = {event.kind for event in events}
    for number, kind, answer in ((1, "create", created), (4, "destroy", destroyed), (7, "move", moved)):
        yield number, f"{'t' if bool(answer) == (kind in kinds) else 'f'}{'p' if answer else 'n'}"
    for event in events:
        if event.kind != "move":
            number, answer = (2, created) if event.kind == "create" else (5, destroyed)
            yield number, "fn" if not answer else "tp" if answer == event.step else "fp"
        for number, kind, wanted, found in (
            (3, "create", event.after, states[event.step]),
            (6, "destroy", event.before, states[event.step - 1]),
            (9, "move", event.before, states[event.step - 1]),
            (10, "move", event.after, states[event.step]),
        ):
            if kind == event.kind and wanted != UNKNOWN:
                yield number, "fn" if found in (NOWHERE, UNKNOWN) else "tp" if is_place(found, wanted) else "fp"
    if "move" in kinds:
        wanted_steps = {event.step for event in events if event.kind == "move"}
        for step in wanted_steps | moved:
            yield 8, "fn" if step not in moved else "tp" if step in wanted_steps else "fp"


def _first_creation(states: Sequence[str]) -> int:
    """Give the step that creates what did not exist at first, or 0."""
    return next((step for step, state in enumerate(states) if state != NOWHERE), 0)


def _last_destruction(states: Sequence[str]) -> int:
    """Give the step that destroys what does not exist at the end, or 0."""
    left = next((i for i, state in enumerate(reversed(states)) if state != NOWHERE), 0)
    return len(states) - left if left else 0


def _moves(states: Sequence[str]) -> set[int]:
    return {event.step for event in find_events(states) if event.kind == "move"}


def is_place(found: str, wanted: str) -> bool:
    """Tell whether a predicted place is, word by word and stemmed, the gold one or a part of it."""
    stems = [" ".join(stem(word) for word in place.lower().replace('"', "").split()) for place in (found, wanted)]
    return found == wanted or f" {stems[0]} " in f" {stems[1]} "


def _accuracy(counts: Counter[str], *, f1: bool) -> float | None:
    right, wrong = counts["tp"] + counts["tn"], counts["fp"] + counts["fn"]
    if not right + wrong:
        return None
    return 2 * right / (2 * right + wrong) if f1 else right / (right + wrong)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


Names = frozenset[str]
"""The alternatives of a name."""


class Conversion(NamedTuple):
    """What is destroyed, what is created, where, and at which step."""

    destroyed: Sequence[Names]
    created: Sequence[Names]
    places: Sequence[str]
    step: int


class Move(NamedTuple):
    """What moves, from where, to where, and at which step."""

    participant: Names
    before: str
    after: str
    step: int


def score_documents(gold: Sequence[Grid], predicted: Sequence[Grid]) -> DocumentScores:
    """Score what a process consumes, makes, converts and moves.

    Args:
        gold: the grid of each paragraph, at least one.
        predicted: the same paragraphs' predicted grids.

    Raises:
        InputError: E330 for grids of other participants or steps, and for no grid at all.
    """
    per_document = [_score_document(in_gold, in_predicted) for in_gold, in_predicted in _pairs(gold, predicted)]
    if not per_document:
        raise error("E330", what="paragraphs", found="none", expected="at least one")
    questions = []
    for question in range(4):
        means = [sum(values) / len(per_document) for values in zip(*(scores[question] for scores in per_document), strict=True)]
        questions.append(_prf(*means, n_gold=len(per_document)))
    overall = [sum(score[i] for score in questions) / 4 for i in range(2)]
    return DocumentScores(_prf(*overall, n_gold=len(per_document)), *questions)


def _score_document(gold: Grid, predicted: Grid) -> list[tuple[float, float]]:
    """Give precision and recall of each question."""
    return [
        _match(_inputs(gold), _inputs(predicted), lambda a, b: _jaccard([a], [b])),
        _match(_outputs(gold), _outputs(predicted), lambda a, b: _jaccard([a], [b])),
        _match(find_conversions(gold), find_conversions(predicted), _compare_conversions),
        _match(_all_moves(gold), _all_moves(predicted), _compare_moves),
    ]


def _inputs(grid: Grid) -> list[Names]:
    """List what is destroyed, was not created before, and is neither created nor moved later."""
    return [
        _names(name) for name, states in grid.items() if _is(states, "destroy", before={"create"}, after={"create", "move"})
    ]


def _outputs(grid: Grid) -> list[Names]:
    """List what is created, neither destroyed nor moved before, and not destroyed later."""
    return [
        _names(name) for name, states in grid.items() if _is(states, "create", before={"destroy", "move"}, after={"destroy"})
    ]


def _is(states: Sequence[str], kind: str, *, before: set[str], after: set[str]) -> bool:
    kinds = [event.kind for event in find_events(states)]
    return any(one == kind and before.isdisjoint(kinds[:i]) and after.isdisjoint(kinds[i + 1 :]) for i, one in enumerate(kinds))


def find_conversions(grid: Grid) -> list[Conversion]:
    """List what becomes what: destroyed and created at one step, or at two neighbouring ones that do nothing else of that kind.

    As published, two steps count as one only before the last but one step, and what is destroyed and created itself is not in
    both.
    """
    n_steps = max((len(states) for states in grid.values()), default=1) - 1
    created, destroyed = _at(grid, "create", n_steps), _at(grid, "destroy", n_steps)
    conversions = []
    for i in range(n_steps):
        gone, made, may_span = destroyed[i], created[i], i + 1 < n_steps - 1
        if gone and not made and may_span and not destroyed[i + 1]:
            made = created[i + 1]
        elif made and not gone and may_span and not created[i + 1]:
            gone = destroyed[i + 1]
        places = list(dict.fromkeys([*made.values(), *gone.values()]))
        names_gone = [name for name in gone if name not in created[i]]
        names_made = [name for name in made if name not in destroyed[i]]
        if names_gone and names_made:
            conversions.append(Conversion([*map(_names, names_gone)], [*map(_names, names_made)], places, i + 1))
    return conversions


def _at(grid: Grid, kind: str, n_steps: int) -> list[dict[str, str]]:
    """Give for each step the participants that are created or destroyed at it, and where."""
    found: list[dict[str, str]] = [{} for _ in range(n_steps)]
    for name, states in grid.items():
        for event in find_events(states):
            if event.kind == kind:
                found[event.step - 1][name] = event.after if kind == "create" else event.before
    return found


def _all_moves(grid: Grid) -> list[Move]:
    return [
        Move(_names(name), event.before, event.after, event.step)
        for name, states in grid.items()
        for event in find_events(states)
        if event.kind == "move"
    ]


def _match(gold: Sequence[T], predicted: Sequence[T], compare: Callable[[T, T], float]) -> tuple[float, float]:
    """Compare each answer with its best counterpart; one of the other side may serve several."""
    if not gold or not predicted:
        return float(not predicted), float(not gold)
    precision = sum(max(compare(one, other) for one in gold) for other in predicted)
    if len(gold) == len(predicted):  # as published, recall then counts the predictions' counterparts, too
        return precision / len(predicted), precision / len(gold)
    return precision / len(predicted), sum(max(compare(one, other) for other in predicted) for one in gold) / len(gold)


def _compare_conversions(gold: Conversion, predicted: Conversion) -> float:
    if gold.step != predicted.step:
        return 0.0
    places = _jaccard([normalise(place) for place in gold.places], [normalise(place) for place in predicted.places])
    return (places + _jaccard(gold.destroyed, predicted.destroyed) + _jaccard(gold.created, predicted.created)) / 3


def _compare_moves(gold: Move, predicted: Move) -> float:
    if gold.step != predicted.step:
        return 0.0
    places = sum(
        _jaccard([normalise(a)], [normalise(b)]) for a, b in ((gold.before, predicted.before), (gold.after, predicted.after))
    )
    return (_jaccard([gold.participant], [predicted.participant]) + places) / 3


def _jaccard(gold: Sequence[Names], predicted: Sequence[Names]) -> float:
    """Compare lists of names: pairs with a common alternative, of all names less these pairs."""
    if set(gold) == set(predicted):
        return 1.0
    common = sum(not a.isdisjoint(b) for a in gold for b in predicted)
    rest = len(gold) + len(predicted) - common
    return common / rest if rest > 0 else 1.0


def normalise(place: str) -> Names:
    """Stem a place, or a name, without its first word if that is an article or the like."""
    if place in (UNKNOWN, NOWHERE):
        return frozenset({place})
    words = place.lower()
    leading = next((word for word in LEADING if words.startswith(f"{word} ")), None)
    return frozenset({stem(words.removeprefix(f"{leading} ") if leading else words).strip()})


def _names(participant: str) -> Names:
    return frozenset(name.strip() for name in participant.split(";"))


def _prf(precision: float, recall: float, *, n_gold: int) -> PRF:
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return PRF(precision, recall, f1, n_gold)


def _pairs(gold: Sequence[Grid], predicted: Sequence[Grid]) -> Iterator[tuple[Grid, Grid]]:
    if len(gold) != len(predicted):
        raise error("E330", what="paragraphs", found=len(predicted), expected=len(gold))
    for in_gold, in_predicted in zip(gold, predicted, strict=True):
        if in_gold.keys() != in_predicted.keys():
            raise error("E330", what="participants", found=", ".join(in_predicted), expected=", ".join(in_gold))
        sizes, found = ([len(grid[name]) for name in in_gold] for grid in (in_gold, in_predicted))
        if sizes != found:
            raise error("E330", what="states per participant", found=found, expected=sizes)
        yield in_gold, in_predicted
