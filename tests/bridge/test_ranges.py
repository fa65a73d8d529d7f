"""Numbers with which no model can be built are refused with their setting's name, and not by torch."""

from __future__ import annotations

from typing import Any

import pytest
from spacy.util import registry

from entitykit.bridge.ranges import LEAST, SHARES, check_ranges
from entitykit.errors import ConfigError

LISTENER = {"@architectures": "entitykit.EncoderListener.v1"}
WRONG: dict[str, dict[str, float]] = {
    "ToMMeR": {"rank": 0, "window": -1},
    "SpanNER": {"rank": -3, "window": -2, "hidden": 0, "proposals": -0.5, "dropout": 1.0},
    "SpERT": {"max_width": 0, "context": -1, "size_width": -1, "dropout": -0.1},
    "TypedToMMeR": {"rank": 0, "window": -1, "hidden": 0},
    "SpERTRelations": {"hidden": -1, "product": -1, "max_width": 0, "type_dropout": 1.5, "negatives": -0.1},
    "EnriCo": {"size": 0, "heads": 0, "layers": -1, "dropout": 1.0},
    "Entities": {"rank": -3, "window": -1, "proposals": -0.5},
}


def make(registered: str, **settings: Any) -> Any:
    kind = "misc" if registered == "Entities" else "architectures"
    below = {"tok2vec": LISTENER} if kind == "architectures" else {}
    return registry.resolve({"made": {f"@{kind}": f"entitykit.{registered}.v1", **below, **settings}})["made"]


@pytest.mark.parametrize(("kind", "setting"), [(kind, setting) for kind, wrong in WRONG.items() for setting in wrong])
def test_out_of_range(kind: str, setting: str) -> None:
    found = WRONG[kind][setting]
    with pytest.raises(ConfigError, match=rf"E007.* setting {setting} is {found}; expected at least "):
        make(kind, **{setting: found})


def test_the_least_values_are_taken() -> None:
    assert make("SpERTRelations", hidden=0, product=0, types=0, size_width=0) is not None
    assert make("SpanNER", hidden=1, rank=1, window=0, dropout=0.0) is not None
    check_ranges(dict(LEAST) | dict.fromkeys(SHARES, 0.99))
    with pytest.raises(ConfigError, match=r"E007.*hidden is 0; expected at least 1"):
        make("SpanNER", hidden=0)


def test_words_cannot_see_tokens_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"E007.*words_see_entities is True; expected false where tokens = false"):
        make("Entities", tokens=False, words_see_entities=True)
