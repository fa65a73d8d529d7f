"""What `entitykit_genre` learns: as far as texts are annotated, the mean over tokens, and nothing from what is no number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Example

from entitykit.errors import ConfigError
from entitykit.knowledge.store import EntityStore
from tests.components.test_genre import Trained, checkpoint, examples, make_pipeline, store, trained
from tests.pipelines import fast_optimizer

__all__ = ["checkpoint", "store", "trained"]  # fixtures


def test_markup_within_a_span_group_is_scored_and_learned_by_entities(trained: Trained) -> None:
    """The group says what may be linked, and no more."""
    nlp = trained.load("markup", mentions="sc")
    given = examples(nlp, given=False)
    for eg in given:
        for doc in (eg.predicted, eg.reference):
            doc.spans["sc"] = [Span(doc, ent.start, ent.end, label="X") for ent in eg.reference.ents]
    scores = nlp.evaluate(given)
    assert scores["linking_micro_f"] == scores["linking_acc"] == 1.0
    nothing = nlp.make_doc("the Countess met Ada")
    nothing.spans["sc"] = [Span(nothing, 3, 4, kb_id="Q1")]
    assert nlp.update([Example(nothing.copy(), nothing)], sgd=False) == {"entitykit_genre": 0.0}  # type: ignore[arg-type]
    assert nlp.update(given[:1], sgd=False)["entitykit_genre"] > 0  # type: ignore[arg-type]


def gradients(nlp: Language) -> list[torch.Tensor]:
    module = nlp.get_pipe("entitykit_genre").model.shims[0].module  # type: ignore[attr-defined]
    return [parameter.grad for parameter in module.parameters() if parameter.grad is not None]


def test_markup_does_not_learn_from_what_nobody_annotated(checkpoint: Path, store: EntityStore) -> None:
    nlp = make_pipeline(checkpoint, store, task="markup")
    doc = nlp.make_doc("the Countess met Ada")
    assert nlp.update([Example(doc.copy(), doc)], sgd=False) == {"entitykit_genre": 0.0}  # type: ignore[arg-type]
    assert not gradients(nlp)
    ada = Span(doc, 3, 4, label="X", kb_id="Q1")
    losses = []
    for default in ("missing", "outside"):
        doc.set_ents([ada], default=default)
        losses.append(nlp.update([Example(doc.copy(), doc)], sgd=False)["entitykit_genre"])  # type: ignore[arg-type]
    assert losses[0] > 0
    assert losses[0] != losses[1]


def test_losses_are_of_tokens_and_not_of_outputs(checkpoint: Path, store: EntityStore) -> None:
    nlp = make_pipeline(checkpoint, store)
    of = [nlp.update(examples(nlp, given=True)[:1] * n, sgd=False)["entitykit_genre"] for n in (1, 8)]  # type: ignore[arg-type]
    assert of[0] == pytest.approx(of[1], rel=1e-5)


def test_loss_that_is_not_finite(checkpoint: Path, store: EntityStore) -> None:
    """Nothing is learned from it."""
    nlp = make_pipeline(checkpoint, store)
    module = nlp.get_pipe("entitykit_genre").model.shims[0].module  # type: ignore[attr-defined]
    with torch.no_grad():
        next(module.parameters()).fill_(float("nan"))
    with pytest.raises(ConfigError, match=r"E118.*'entitykit_genre' is nan"):
        nlp.update(examples(nlp, given=True), sgd=fast_optimizer())
    assert not gradients(nlp)
