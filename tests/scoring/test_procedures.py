"""The scorer of grids on documents."""

from __future__ import annotations

import spacy
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.scoring.procedures import STATES, tracking_score


def test_participants_of_one_name_keep_their_rows() -> None:
    if not Doc.has_extension(STATES):
        Doc.set_extension(STATES, default=None)
    nlp = spacy.blank("en")
    predicted, reference = nlp("Hay is cut. Bales form."), nlp("Hay is cut. Bales form.")
    named, steps = {"participants": ["bale", "bale"]}, [[0, 11], [12, 23]]
    reference.user_data["propara"] = {**named, "steps": steps, "states": [["-", "-", "field"], ["?", "barn", "barn"]]}
    predicted._.set(STATES, {**named, "states": [["-", "field", "field"], ["?", "barn", "barn"]]})
    assert tracking_score([Example(predicted, reference)])["tracking_states_acc"] == 5 / 6
