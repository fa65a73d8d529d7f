from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from spacy.tokens import Doc

from entitykit.errors import CorpusError
from tests.corpora.util import labelled

Read = Callable[..., list[Doc]]

GRID = {
    "para_id": "9",
    "sentence_texts": ["Rain falls.", "", "It fills the pond."],
    "participants": ["rain; water", "pond"],
    "states": [["?", "ground", "ground", "pond"], ["-", "-", "-", "?"]],
}


def test_grids(read: Read) -> None:
    (doc,) = read(json.dumps(GRID), "propara")
    assert doc.text == "Rain falls.  It fills the pond."
    assert labelled(doc.spans["steps"]) == [("Rain falls.", "STEP"), ("It fills the pond.", "STEP")]
    assert doc.user_data == {
        "id": "9",
        "propara": {
            "participants": GRID["participants"],
            "states": GRID["states"],
            "steps": [[0, 11], [12, 12], [13, 31]],
        },
    }
    assert not doc.has_annotation("ENT_IOB")


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"states": [["?", "a", "a", "a"]]}, "E226", r"found a grid of \[1, 4\]; expected rows and their lengths \[2, 4, 4\]"),
        ({"states": [["?"] * 4, ["?"] * 3]}, "E226", r"found a grid of \[2, 4, 3\]"),
        ({"states": [["?"] * 4, [None] * 4]}, "E206", "a state is None"),
        ({"participants": None}, "E207", "'participants' is missing"),
        ({"para_id": 9}, "E206", "'para_id' is 9"),
    ],
)
def test_malformed(read: Read, change: dict[str, Any], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.json, line 1: .*{reason}"):
        read(json.dumps(GRID | change), "propara")


def test_no_participants_and_no_steps(read: Read) -> None:
    empty, still = read(
        "\n".join(
            json.dumps(GRID | change)
            for change in ({"participants": [], "states": []}, {"sentence_texts": [], "states": [["?"], ["-"]]})
        ),
        "propara",
    )
    assert empty.user_data["propara"]["states"] == []
    assert (len(still), list(still.spans["steps"])) == (0, [])
