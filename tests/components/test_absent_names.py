"""Names that do not occur in a text: trained on such, `find` takes little for them, though nobody else is asked for."""

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
N_OWN = 6 * 15
"""Mentions of those who are named, in all stories."""


def trained(checkpoint: Path, absent: int, *, batch: int, steps: int, seed: int = 0) -> Language:
    fix_random_seed(seed)
    nlp = make_pipeline(checkpoint)
    nlp.add_pipe("tests_names")
    model = {"absent": absent, "absent_share": 1.0, "proposed": False, "update": "mean"}
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


@pytest.fixture(scope="module")
def without(tiny_bert: Path) -> int:
    """What is taken for absent names where none was asked for in training."""
    n_wrong, n_right = taken(trained(tiny_bert, 0, batch=15, steps=60))
    assert n_wrong >= 3 * 15
    assert n_right == N_OWN
    return n_wrong


@pytest.mark.parametrize(
    ("batch", "steps", "share"), [(15, 60, 1 / 3), (3, 150, 1 / 2)], ids=["of-the-batch", "mostly-of-updates-before"]
)
def test_absent_names_take_little(tiny_bert: Path, without: int, batch: int, steps: int, share: float) -> None:
    """This share at most, in the mean of three seeds, as single trainings differ; names that are there keep what is theirs."""
    found = [taken(trained(tiny_bert, 4, batch=batch, steps=steps, seed=seed)) for seed in range(3)]
    assert sum(n_wrong for n_wrong, _ in found) <= 3 * share * without
    assert all(n_right >= 0.9 * N_OWN for _, n_right in found)


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
