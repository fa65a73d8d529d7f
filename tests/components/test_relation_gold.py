"""Gold relations: those that cannot be read, arguments that are no entities, and spans that are drawn as wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy

from entitykit.bridge.head import HeadInput
from entitykit.errors import EntityKitWarning, InputError
from tests.components.test_relations import SPERT, TEXTS, component, example, initialized, make
from tests.pipelines import encoder_config, train


def test_arguments_that_are_no_entities_have_tokens_in_training(tiny_bert: Path) -> None:
    nlp = spacy.blank("xx")
    tokens = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "rank": 8, "window": 5, "proposals": 0.2}
    nlp.add_pipe("entitykit_encoder", config=encoder_config(tiny_bert, entities=tokens))
    nlp.add_pipe("entitykit_relations", config={"model": SPERT})
    one, other = example(nlp, *TEXTS[0]), example(nlp, *TEXTS[1])
    one.y.user_data["relations"] = [*one.y.user_data["relations"], {"head": [2, 3], "tail": [4, 6], "label": "Verb_Of"}]
    del other.y.user_data["relations"]
    with pytest.warns(EntityKitWarning, match="W123. 1 of 2 gold relations"):
        nlp.initialize(lambda: [one])
    losses = train(nlp, [other, one], 20)
    assert losses[-1]["entitykit_relations"] < losses[0]["entitykit_relations"]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"head": head, "tail": [4, 6], "label": "Live_In"} for head in ([0, 99], [3, 1], [-2, 1], [2, 2], 0, [0], None)),
        *({"head": [0, 2], "tail": [4, 6], "label": label} for label in (3, None, "")),
        {"head": [0, 2], "label": "Live_In"},
        ["a"],
    ],
    ids=str,
)
def test_gold_relations_that_cannot_be_read(tiny_bert: Path, wrong: Any) -> None:
    """When training begins, and in training."""
    nlp, examples = initialized(tiny_bert)
    examples[0].y.user_data["relations"] = [wrong]
    with pytest.raises(InputError, match=r"\[E345\].*among the 6 tokens"):
        nlp.initialize(lambda: examples)
    with pytest.raises(InputError, match=r"\[E345\].*among the 6 tokens"):
        component(nlp).candidates([examples[0].x], examples[:1])


@pytest.mark.parametrize("wrong", [5, {"head": [0, 2]}, "Live_In"], ids=str)
def test_gold_relations_that_are_no_list(tiny_bert: Path, wrong: Any) -> None:
    nlp = make(tiny_bert)
    one = example(nlp, *TEXTS[0])
    one.y.user_data["relations"] = wrong
    with pytest.raises(InputError, match=r"\[E349\].*expected a list"):
        nlp.initialize(lambda: [one])


def test_negatives_are_in_scope(tiny_bert: Path) -> None:
    """Drawn spans are paired with entities of their sentence only."""
    nlp = spacy.blank("xx")
    entities = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "rank": 8, "window": 2, "proposals": 2.0, "tokens": False}
    nlp.add_pipe("entitykit_encoder", config=encoder_config(tiny_bert, entities=entities))
    nlp.add_pipe("entitykit_relations", config={"model": SPERT | {"negatives": 9.0}, "scope": "sentence"})
    one = example(nlp, "Mary met Peter . London is old", [(0, 1, "P"), (2, 3, "P"), (4, 5, "L")], [(0, 1, "Met")])
    for doc in (one.x, one.y):
        for token in doc:
            token.is_sent_start = token.i in (0, 4)
    nlp.initialize(lambda: [one])
    pipe = component(nlp)
    nlp.get_pipe("entitykit_encoder").update([one])
    output, _ = pipe.model.begin_update(HeadInput([one.x], pipe.candidates([one.x], [one])))
    starts = output.entities.starts
    assert len(output.entities.heads) > 6
    assert ((starts[output.entities.heads] < 4) == (starts[output.entities.tails] < 4)).all()
