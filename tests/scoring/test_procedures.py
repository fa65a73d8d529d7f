"""The scorer of grids on documents."""

from __future__ import annotations

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import EntityKitWarning
from entitykit.scoring.procedures import STATES, compare_grids, pair_names, tracking_score

ICE = ["cave", "cave", "-"]


Rows = list[tuple[str, list[str]]]


def example(gold: Rows, predicted: Rows) -> Example:
    """Participants and their states, at two steps."""
    if not Doc.has_extension(STATES):
        Doc.set_extension(STATES, default=None)
    nlp = spacy.blank("en")
    doc, reference = nlp("Hay is cut. Bales form."), nlp("Hay is cut. Bales form.")
    wanted, found = (
        {"participants": [name for name, _ in side], "states": [row for _, row in side]} for side in (gold, predicted)
    )
    reference.user_data["propara"] = {**wanted, "steps": [[0, 11], [12, 23]]}
    doc._.set(STATES, found)
    return Example(doc, reference)


def test_participants_of_one_name_keep_their_rows() -> None:
    first, second = ("bale", ["-", "-", "field"]), ("bale", ["?", "barn", "barn"])
    eg = example([first, second], [("bale", ["-", "field", "field"]), second])
    assert tracking_score([eg])["tracking_states_acc"] == 5 / 6
    compared = compare_grids(example([first, second, ("bale (2)", ICE)], []))
    assert compared is not None
    assert list(compared.gold) == ["bale", "bale (2)", "bale (2) (2)"]


@pytest.mark.parametrize(
    ("gold", "found"),
    [("ice", "Ice"), ("ice; frozen water", "ice"), ("ice", "the ice"), ("ice cubes", "an Ice cube"), ("a; ICE ", "ice;x")],
)
def test_a_participant_by_another_name(gold: str, found: str) -> None:
    scores = tracking_score([example([(gold, ICE)], [(found, ICE)])])
    assert (scores["tracking_f"], scores["tracking_states_acc"], scores["tracking_cat1"]) == (1.0, 1.0, 1.0)


def test_which_participant_is_which() -> None:
    """The same name comes first, then as many alternatives as there are."""
    assert pair_names(["ice", "Ice"], ["Ice", "ice"]) == {0: 1, 1: 0}
    assert pair_names(["water; ice"], ["Ice", "water; ice"]) == {0: 1}
    assert pair_names(["ice; water", "steam; water"], ["Water", "ICE"]) == {0: 1, 1: 0}
    assert pair_names(["snow;"], ["rain;"]) == {}  # the empty alternative is none
    assert pair_names(["leaf", "cubes"], ["Leaves", "a Cube"]) == {1: 1}  # endings that are regular
    assert pair_names(["ice"], ["nice", "rice"]) == pair_names([], ["ice"]) == pair_names(["ice"], []) == {}


def test_invented_participants_cost_precision() -> None:
    """By document; by sentence only gold ones are asked about, and only their states are counted."""
    gone = [(f"thing {i}", ["?", "-", "-"]) for i in range(6)]
    scores = tracking_score([example([("ice", ICE)], [("Ice", ICE), *gone])])
    assert scores["tracking_inputs_f"] == pytest.approx(2 * (1 / 7) / (1 + 1 / 7))
    assert scores["tracking_p"] == pytest.approx((1 / 7 + 1 + 1 + 1) / 4)
    assert (scores["tracking_r"], scores["tracking_states_acc"], scores["tracking_cat1"]) == (1.0, 1.0, 1.0)
    still = [(name, ["?", "?", "?"]) for name, _ in gone]
    assert tracking_score([example([("ice", ICE)], [("ice", ICE), *still])])["tracking_p"] == 1.0  # nothing happens to them
    compared = compare_grids(example([("ice", ICE)], [("ice", ICE), ("ice", ["-", "-", "x"])]))
    assert compared is not None
    assert (compared.gold, compared.n_gold) == ({"ice": ICE, "ice (2)": ["-", "-", "-"]}, 1)


def test_other_steps_are_counted() -> None:
    """And as good as no prediction."""
    gold = [("ice", ICE)]
    right, other = example(gold, gold), example(gold, [("ice", [*ICE, "-"]), ("snow", ["?", "?", "-", "-"])])
    with pytest.warns(EntityKitWarning, match=r"\[W330\] 1 of 2 predicted grids have other steps"):
        scores = tracking_score([right, other])
    assert scores == tracking_score([right, example(gold, [])])
    assert scores["tracking_states_acc"] == 0.5
