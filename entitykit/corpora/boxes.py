"""The world of boxes: things are put into boxes, moved and removed; where is each after every step?

A generator for the task of Kim and Schuster, ACL 2023, "Entity tracking in language models": an initial state in words, then
operations, a sentence each. The splits have no initial state in common that has the same numbers of things in the same boxes
(its signature), so that a model cannot answer from memory. All of it is made from the seed; the sentences and the things are
our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from spacy.language import Language
from spacy.training import Example

from entitykit.corpora.build import build_doc
from entitykit.corpora.parsed import Mention, ParsedDoc
from entitykit.corpora.propara import STEP, STEPS
from entitykit.corpora.report import Report
from entitykit.decoding.tracker import NOWHERE
from entitykit.errors import error

NAMES = (
    "apple axe bag ball basket bell belt book boot bottle bowl bread brick broom brush bucket button cake camera candle cap "
    "card carpet chain chair cheese clock coat coin comb compass cork cup curtain dice dish doll drum egg envelope fan "
    "feather flag flute fork glass glove guitar hammer hat helmet horn jar jug kettle key kite knife ladder lamp leaf lemon "
    "letter lock map mask match medal melon mirror mug nail napkin needle net note onion paddle pan pearl pen phone pillow "
    "pin pipe plate pot purse ring rope ruler sail scarf shell shoe soap sock spoon stamp stone string tent thread ticket "
    "tie torch towel tray umbrella vase violin wallet watch wheel whistle wire"
)
THINGS = tuple(NAMES.split())

SHARES = {"train": 0.45, "dev": 0.1, "test": 0.45}

T = TypeVar("T")

State = tuple[tuple[str, ...], ...]
"""The things in each box, sorted."""

Kind = Literal["move", "put", "remove"]


@dataclass(frozen=True)
class BoxesSettings:
    """Settings of the world, with the published values.

    Attributes:
        n_boxes: number of boxes, at least 2.
        n_operations: operations after the initial state.
        mean_items: mean of the Poisson distribution of things per box at the beginning.
        max_items: no box ever has more.
        wording: `box` for "Box 0", `container` for "Container A".
    """

    n_boxes: int = 7
    n_operations: int = 12
    mean_items: float = 2.0
    max_items: int = 3
    wording: Literal["box", "container"] = "box"

    def __post_init__(self) -> None:
        if not 2 <= self.n_boxes <= 26:
            raise error("E265", setting="n_boxes", found=self.n_boxes, expected="2 to 26")
        if self.n_operations < 0:
            raise error("E265", setting="n_operations", found=self.n_operations, expected="0 or more")
        if self.max_items < 1 or self.n_boxes * self.max_items > len(THINGS):
            expected = f"1 to {len(THINGS) // self.n_boxes}, because there are {len(THINGS)} things"
            raise error("E265", setting="max_items", found=self.max_items, expected=expected)
        if not self.mean_items >= 0:
            raise error("E265", setting="mean_items", found=self.mean_items, expected="0 or more")
        if self.wording not in ("box", "container"):
            raise error("E265", setting="wording", found=self.wording, expected="box or container")


class Operation(NamedTuple):
    """A step: what happens to which thing, and the boxes it comes from and goes to, -1 for none."""

    kind: Kind
    thing: str
    source: int
    target: int


class World(NamedTuple):
    """The states before the first and after every operation, one more than there are operations."""

    states: Sequence[State]
    operations: Sequence[Operation]


def generate(settings: BoxesSettings, rng: np.random.Generator) -> World:
    """Make a world; each operation is of a kind that is possible, all of these being equally likely.

    Args:
        settings: its size.
        rng: source of randomness.
    """
    counts = np.minimum(rng.poisson(settings.mean_items, settings.n_boxes), settings.max_items)
    things = iter(rng.permutation(THINGS).tolist())
    boxes = [[next(things) for _ in range(n)] for n in counts]
    states, operations = [_freeze(boxes)], []
    for _ in range(settings.n_operations):
        operation = _draw(boxes, settings, rng)
        if operation.source >= 0:
            boxes[operation.source].remove(operation.thing)
        if operation.target >= 0:
            boxes[operation.target].append(operation.thing)
        operations.append(operation)
        states.append(_freeze(boxes))
    return World(states, operations)


def signature(state: State) -> tuple[int, ...]:
    """Count the things in each box."""
    return tuple(map(len, state))


def split_of(state: State) -> str:
    """Tell the split of a world from the signature of its initial state; it does not depend on the seed."""
    digest = hashlib.sha256(" ".join(map(str, signature(state))).encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    return next((name for name, end in zip(SHARES, accumulate(SHARES.values()), strict=True) if place < end), "test")


def repeat_initial(world: World, step: int) -> State:
    """Answer with the initial state: the baseline that tracks nothing.

    Args:
        world: what happens.
        step: number of operations so far.
    """
    return world.states[0]


def count_operations(world: World, step: int, box: int) -> int:
    """Count the operations on a box so far.

    Args:
        world: what happens.
        step: number of operations so far.
        box: number of the box.
    """
    return sum(box in (operation.source, operation.target) for operation in world.operations[:step])


def name_box(box: int, wording: str) -> str:
    """Give the name of a box."""
    return f"Box {box}" if wording == "box" else f"Container {chr(ord('A') + box)}"


def describe_box(things: Sequence[str]) -> str:
    """Say what is in a box, as the text and the answers do: `contains the cup and the key` or `is empty`."""
    return f"contains {' and '.join(f'the {thing}' for thing in things)}" if things else "is empty"


def read_answer(text: str) -> frozenset[str] | None:
    """Read the things that an answer names, or None if it is not of the form of `describe_box`; a full stop may follow."""
    answer = text.strip().removesuffix(".").strip()
    if answer == "is empty":
        return frozenset()
    parts = answer.removeprefix("contains ").split(" and ")
    fits = answer.startswith("contains ") and all(part.startswith("the ") and part[4:].strip() for part in parts)
    return frozenset(part[4:].strip() for part in parts) if fits else None


def describe_state(state: State, wording: str) -> str:
    """Say in a sentence what is in all boxes."""
    return ", ".join(f"{name_box(box, wording)} {describe_box(things)}" for box, things in enumerate(state)) + "."


def describe_operation(operation: Operation, wording: str) -> str:
    """Say in a sentence what happens."""
    source, target = (name_box(max(box, 0), wording) for box in (operation.source, operation.target))
    return {
        "move": f"Move the {operation.thing} from {source} to {target}.",
        "put": f"Put the {operation.thing} into {target}.",
        "remove": f"Remove the {operation.thing} from {source}.",
    }[operation.kind]


def describe(world: World, wording: str, *, step: int | None = None) -> list[str]:
    """Tell a world as sentences: the initial state, then the operations, all or the first `step`."""
    operations = [describe_operation(operation, wording) for operation in world.operations[:step]]
    return [describe_state(world.states[0], wording), *operations]


def ask(world: World, wording: str, *, step: int, box: int) -> str:
    """Make the text that a language model goes on with `contains the …` or `is empty`.

    Args:
        world: what happens.
        wording: `box` or `container`.
        step: number of operations so far.
        box: number of the box that is asked about.
    """
    return " ".join([*describe(world, wording, step=step), name_box(box, wording)])


def worlds(settings: BoxesSettings, *, split: str = "", n: int = 2_200, seed: int = 0) -> Iterator[World]:
    """Make worlds.

    Args:
        settings: their size.
        split: `train`, `dev` or `test`, of which there are 45, 10 and 45 % of all signatures; empty for all.
        n: number of worlds in all splits.
        seed: the same seed gives the same worlds.

    Raises:
        ConfigError: E213 for another split, E265 for a negative `n`.
    """
    if split and split not in SHARES:
        raise error("E213", option="split", found=split, expected=", ".join(SHARES))
    if n < 0:
        raise error("E265", setting="n", found=n, expected="0 or more")
    rng = np.random.default_rng(seed)
    made = (generate(settings, rng) for _ in range(n))
    return (world for world in made if not split or split_of(world.states[0]) == split)


def boxes(
    split: str = "",
    *,
    n: int = 2_200,
    seed: int = 0,
    n_boxes: int = 7,
    n_operations: int = 12,
    mean_items: float = 2.0,
    max_items: int = 3,
    wording: Literal["box", "container"] = "box",
) -> Callable[[Language], Iterator[Example]]:
    """Make the reader of worlds (`entitykit.Boxes.v1`), one `Doc` per world.

    The span group `steps` has the initial state's sentence and those of the operations. `doc.user_data["boxes"]` is a grid as
    ProPara's, with `participants`, all things; `states`, for each the name of its box, or `-`, before the first and after every
    operation; and `steps`, start and end of the operations' sentences in characters.

    Args:
        split: `train`, `dev` or `test`; empty for all.
        n: number of worlds in all splits.
        seed: the same seed gives the same worlds.
        n_boxes: number of boxes.
        n_operations: operations after the initial state.
        mean_items: mean number of things per box at the beginning, before the limit.
        max_items: no box ever has more.
        wording: `box` for "Box 0", `container` for "Container A".

    Raises:
        ConfigError: see `worlds` and `BoxesSettings`.
    """
    settings = BoxesSettings(n_boxes, n_operations, mean_items, max_items, wording)
    made = list(worlds(settings, split=split, n=n, seed=seed))

    def read(nlp: Language) -> Iterator[Example]:
        for number, world in enumerate(made, start=1):
            reference = build_doc(_parsed(world, wording, f"boxes-{split or 'all'}-{seed}-{number}"), nlp, Report())
            yield Example(nlp.make_doc(reference.text), reference)

    return read


def _draw(boxes: Sequence[Sequence[str]], settings: BoxesSettings, rng: np.random.Generator) -> Operation:
    full = [i for i, box in enumerate(boxes) if box]
    roomy = [i for i, box in enumerate(boxes) if len(box) < settings.max_items]
    moves = [(i, j) for i in full for j in roomy if i != j]
    ways: dict[Kind, bool] = {"move": bool(moves), "put": bool(roomy), "remove": bool(full)}
    kind = _pick([kind for kind, is_possible in ways.items() if is_possible], rng)
    if kind == "put":
        present = {thing for box in boxes for thing in box}
        return Operation(kind, _pick([thing for thing in THINGS if thing not in present], rng), -1, _pick(roomy, rng))
    source, target = _pick(moves, rng) if kind == "move" else (_pick(full, rng), -1)
    return Operation(kind, _pick(boxes[source], rng), source, target)


def _pick(values: Sequence[T], rng: np.random.Generator) -> T:
    return values[int(rng.integers(len(values)))]


def _freeze(boxes: Sequence[Sequence[str]]) -> State:
    return tuple(tuple(sorted(box)) for box in boxes)


def _parsed(world: World, wording: str, name: str) -> ParsedDoc:
    sentences = describe(world, wording)
    starts = list(accumulate((len(sentence) + 1 for sentence in sentences), initial=0))
    steps = [(start, start + len(sentence)) for start, sentence in zip(starts, sentences, strict=False)]
    places = [{thing: box for box, things in enumerate(state) for thing in things} for state in world.states]
    things = list(dict.fromkeys(thing for place in places for thing in place))
    grid = [[name_box(place[thing], wording) if thing in place else NOWHERE for place in places] for thing in things]
    return ParsedDoc(
        id=name,
        where=name,
        text=" ".join(sentences),
        offsets="characters",
        annotated=(),
        groups={STEPS: [Mention(start, end, STEP) for start, end in steps]},
        user_data={"boxes": {"participants": things, "states": grid, "steps": [list(step) for step in steps[1:]]}},
    )
