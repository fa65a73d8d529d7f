"""The losses fall, and hidden entities are found."""

from __future__ import annotations

from pathlib import Path

from entitykit.pretraining.loop import Report, Step, pretrain
from entitykit.pretraining.settings import PretrainSettings
from tests.pretraining.util import sentences, small, write


def run(settings: PretrainSettings) -> list[Step]:
    steps: list[Step] = []
    pretrain(settings, Report(step=steps.append))
    return steps


def test_entities_and_words_are_learned(tiny_bert: Path, tmp_path: Path) -> None:
    """Chance is one in eight, and one in two for whoever has seen the name alone."""
    corpus = write(tmp_path / "links.jsonl", sentences())
    changes = {"steps": 140, "batch_size": 16, "pass_size": 16, "save_every": 500, "learn_rate": 5e-3, "mask_words": 0.1}
    steps = run(small(corpus, tiny_bert, tmp_path / "out", **changes))
    last = steps[-20:]
    assert sum(step.entities for step in last) / 20 < 0.35 * steps[0].entities
    assert sum(step.words for step in last) / 20 < 0.7 * steps[0].words
    assert sum(step.accuracy for step in last) / 20 > 0.7


def test_luke_learns_too(tiny_bert: Path, tmp_path: Path) -> None:
    corpus = write(tmp_path / "links.jsonl", sentences())
    form = {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True, "word_weight": 0.0}
    steps = run(small(corpus, tiny_bert, tmp_path / "out", steps=40, batch_size=16, pass_size=16, learn_rate=5e-3, **form))
    assert sum(step.entities for step in steps[-10:]) / 10 < 0.75 * steps[0].entities
