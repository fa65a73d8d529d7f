"""Names that do not occur in a text: trained on such, `find` leaves them without mentions, though nobody else is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from spacy.language import Language
from thinc.api import fix_random_seed

from entitykit.bridge.coref import find_named
from entitykit.errors import ConfigError
from tests.pipelines import add_head, fast_optimizer, make_pipeline, train
from tests.stories import NAMES, stories

STRANGERS = ("Zoe", "Ahab")
READERS = ["tests_names"]


def trained(checkpoint: Path, absent: int, *, batch: int, steps: int, seed: int = 0) -> Language:
    fix_random_seed(seed)
    nlp = make_pipeline(checkpoint)
    nlp.add_pipe("tests_names")
    model = {"absent": absent, "absent_share": 1.0, "proposed": False}
    add_head(nlp, "coref_major", model=model, mentions=["names"])
    examples, optimizer = stories(nlp), fast_optimizer()
    nlp.initialize(lambda: examples)
    for step in range(steps):
        first = step * batch % len(examples)
        train(nlp, examples[first : first + batch], 1, optimizer=optimizer, annotates=READERS)
    return nlp


def taken(nlp: Language) -> tuple[int, int]:
    """How many mentions names get that their texts do not have, and how many the two that they have get of their own."""
    coref = nlp.get_pipe("coref_major")
    head, n_wrong, n_right = coref._reading_head(), 0, 0
    for eg in stories(nlp):
        doc = nlp(eg.reference.text)
        ((found, _),) = coref._mentions([doc])
        there = [doc[0].text, doc[6].text]
        for name in {*NAMES, *STRANGERS} - {*there}:
            n_wrong += int((find_named(head, coref._phrases(doc, [name], {}), found, hybrid=True) >= 0).sum())
        own = find_named(head, coref._phrases(doc, there, {}), found, hybrid=True)
        n_right += int((own == [0, 0, 1, 1, 0, 1]).sum())
    return n_wrong, n_right


@pytest.mark.parametrize(("batch", "steps"), [(15, 60), (1, 300)], ids=["of-the-batch", "of-updates-before"])
def test_absent_names_take_nothing(tiny_bert: Path, batch: int, steps: int) -> None:
    without, with_absent = (taken(trained(tiny_bert, absent, batch=batch, steps=steps)) for absent in (0, 4))
    assert without[1] == with_absent[1] == 6 * 15
    assert without[0] >= 3 * 15
    assert with_absent[0] == 0


@pytest.mark.parametrize("wrong", [{"absent": -1}, {"absent_share": -0.1}, {"absent_share": 1.1}])
def test_wrong_settings(tiny_bert: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="E007"):
        add_head(make_pipeline(tiny_bert), "coref_major", model=wrong)


def test_the_same_seed_draws_the_same_names(tiny_bert: Path) -> None:
    first, again, other = (
        trained(tiny_bert, 1, batch=5, steps=6, seed=seed).get_pipe("coref_major").head.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
