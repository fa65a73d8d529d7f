from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.util import load_config_from_str, registry

from entitykit.corpora.boxes import (
    THINGS,
    BoxesSettings,
    Operation,
    World,
    ask,
    boxes,
    count_operations,
    describe,
    describe_box,
    generate,
    read_answer,
    repeat_initial,
    signature,
    split_of,
    worlds,
)
from entitykit.errors import ConfigError
from tests.corpora.util import labelled

WORLD = World(
    states=[
        (("cup", "key"), (), ("pen",)),
        (("key",), ("cup",), ("pen",)),
        (("key",), ("cup", "hat"), ("pen",)),
        (("key",), ("cup", "hat"), ()),
    ],
    operations=[Operation("move", "cup", 0, 1), Operation("put", "hat", -1, 1), Operation("remove", "pen", 2, -1)],
)

SETTINGS = st.builds(
    BoxesSettings,
    n_boxes=st.integers(2, 7),
    n_operations=st.integers(0, 15),
    mean_items=st.floats(0, 5),
    max_items=st.integers(1, 4),
)


@settings(max_examples=50)
@given(SETTINGS, st.integers(0, 1_000))
def test_operations_lead_from_state_to_state(chosen: BoxesSettings, seed: int) -> None:
    world = generate(chosen, np.random.default_rng(seed))
    assert len(world.states) == len(world.operations) + 1 == chosen.n_operations + 1
    contents = [set(things) for things in world.states[0]]
    for operation, state in zip(world.operations, world.states[1:], strict=True):
        if operation.kind == "put":
            assert operation.source == -1
            assert all(operation.thing not in things for things in contents)
        else:
            contents[operation.source].remove(operation.thing)
        if operation.kind == "remove":
            assert operation.target == -1
        else:
            assert operation.target != operation.source
            contents[operation.target].add(operation.thing)
        assert [set(things) for things in state] == contents
    for state in world.states:
        present = [thing for things in state for thing in things]
        assert len(present) == len(set(present))
        assert len(state) == chosen.n_boxes
        assert max(signature(state)) <= chosen.max_items


def test_the_smallest_world_is_never_stuck() -> None:
    world = generate(BoxesSettings(n_boxes=2, max_items=1, n_operations=200, mean_items=9), np.random.default_rng(0))
    assert {operation.kind for operation in world.operations} == {"move", "put", "remove"}


def test_the_seed_decides() -> None:
    def made(seed: int) -> list[World]:
        return list(worlds(BoxesSettings(), n=20, seed=seed))

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_splits_share_no_signature() -> None:
    still = BoxesSettings(n_operations=0)
    everything = list(worlds(still, n=1_000))
    parts = {name: list(worlds(still, n=1_000, split=name)) for name in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == len(everything)
    signatures = {name: {signature(world.states[0]) for world in part} for name, part in parts.items()}
    assert not signatures["train"] & signatures["test"]
    assert not signatures["dev"] & (signatures["train"] | signatures["test"])
    for name, share in (("train", 0.45), ("dev", 0.1), ("test", 0.45)):
        assert len(parts[name]) / 1_000 == pytest.approx(share, abs=0.05)
        assert all(split_of(world.states[0]) == name for world in parts[name])


def test_things_are_single_words() -> None:
    assert len(set(THINGS)) == len(THINGS) >= 100
    assert all(thing.isalpha() and thing.islower() for thing in THINGS)


def test_sentences() -> None:
    assert describe(WORLD, "box") == [
        "Box 0 contains the cup and the key, Box 1 is empty, Box 2 contains the pen.",
        "Move the cup from Box 0 to Box 1.",
        "Put the hat into Box 1.",
        "Remove the pen from Box 2.",
    ]
    assert describe(WORLD, "container", step=1)[1:] == ["Move the cup from Container A to Container B."]
    assert ask(WORLD, "box", step=0, box=2) == describe(WORLD, "box")[0] + " Box 2"


def test_the_baseline_repeats_the_initial_state() -> None:
    assert repeat_initial(WORLD, 3) == WORLD.states[0]
    assert [count_operations(WORLD, step, 1) for step in range(4)] == [0, 1, 2, 2]
    assert count_operations(WORLD, 3, 2) == 1


@given(st.lists(st.sampled_from(THINGS), max_size=4, unique=True))
def test_answers_are_read_back(things: list[str]) -> None:
    assert read_answer(f" {describe_box(things)}.\n") == frozenset(things)


@pytest.mark.parametrize("text", ["", "contains", "contains nothing", "the cup", "contains the ", "contains the cup and key"])
def test_answers_of_another_form(text: str) -> None:
    assert read_answer(text) is None


def test_examples(nlp: Language) -> None:
    examples = list(boxes("dev", n=60, n_operations=3)(nlp))
    made = list(worlds(BoxesSettings(n_operations=3), n=60, split="dev"))
    assert len(examples) == len(made) > 0
    for eg, world in zip(examples, made, strict=True):
        reference = eg.reference
        assert [text for text, _ in labelled(reference.spans["steps"])] == describe(world, "box")
        grid = reference.user_data["boxes"]
        assert [reference.text[start:end] for start, end in grid["steps"]] == describe(world, "box")[1:]
        for step, state in enumerate(world.states):
            inside = {
                name: row[step] for name, row in zip(grid["participants"], grid["states"], strict=True) if row[step] != "-"
            }
            assert inside == {thing: f"Box {box}" for box, things in enumerate(state) for thing in things}
        assert not reference.has_annotation("ENT_IOB")
        assert (eg.predicted.text, "steps" in eg.predicted.spans) == (reference.text, False)


def test_the_reader_in_a_config(nlp: Language) -> None:
    config = load_config_from_str('[reader]\n@readers = "entitykit.Boxes.v1"\nsplit = "test"\nn = 5\nwording = "container"')
    reader = registry.resolve(config)["reader"]
    assert all(eg.reference.text.startswith("Container A ") for eg in reader(nlp))
    assert [eg.reference.text for eg in reader(nlp)] == [eg.reference.text for eg in reader(nlp)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_boxes": 1}, "n_boxes of the boxes is 1; expected 2 to 26"),
        ({"n_operations": -1}, "n_operations of the boxes is -1"),
        ({"max_items": 0}, "max_items of the boxes is 0"),
        ({"max_items": 50}, "max_items of the boxes is 50; expected 1 to"),
        ({"mean_items": float("nan")}, "mean_items of the boxes is nan"),
        ({"wording": "crate"}, "wording of the boxes is crate; expected box or container"),
        ({"n": -1}, "n of the boxes is -1"),
    ],
)
def test_wrong_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E265\] The setting {message}"):
        boxes(**options)
    with pytest.raises(ConfigError, match=r"\[E213\] The option split is 'all'; expected: train, dev, test"):
        boxes("all")
