"""What a mention is searched by, and how often that finds its entity."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.benchmarks.keywords import SEARCHES, keywords_config, recalls
from entitykit.benchmarks.parts import Settings
from entitykit.bridge.keywords import SCORES, register_keywords
from entitykit.errors import ConfigError
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore

SHIPS = [Entity(id=f"S{i}", name=f"ship {i}", description="old grey tall") for i in range(70)]
BANKS = [
    Entity(id="B1", name="bank", description="house of money"),
    Entity(id="B2", name="bank", description="land by a river"),
]


def make_example(scores: list[float], id_: str) -> Example:
    """A text whose words nearly all speak of ships."""
    register_keywords()
    vocab = spacy.blank("xx").vocab
    words = ["old", "grey", "tall", "Bank", "old", "river"]
    predicted, reference = Doc(vocab, words=words), Doc(vocab, words=words)
    predicted.set_ents([Span(predicted, 3, 4, label="X")])
    reference.set_ents([Span(reference, 3, 4, label="X", kb_id=id_)])
    predicted._.set(SCORES, scores)
    return Example(predicted, reference)


def test_recalls(tmp_path: Path) -> None:
    """By the mention the first bank is found first; the river tells which one is meant."""
    EntityStore.build(tmp_path / "kb", [*SHIPS, *BANKS])
    unsure, sure = [0.01, 0.01, 0.01, 0.5, 0.01, 0.05], [0.01, 0.01, 0.01, 0.5, 0.01, 0.7]
    examples = [make_example(unsure, "B1"), make_example(sure, "B2"), make_example(sure, "S69")]
    with EntityStore.open(tmp_path / "kb") as store:
        found = {name: recalls(store, examples, choose) for name, choose in SEARCHES.items()}
    assert found["mention"] == {"acc": pytest.approx(1 / 3), "recall64": pytest.approx(2 / 3)}
    assert found["keywords"] == {"acc": pytest.approx(2 / 3), "recall64": pytest.approx(2 / 3)}
    assert found["context"] == found["keywords_all"] == {"acc": pytest.approx(1 / 3), "recall64": pytest.approx(2 / 3)}


def test_keywords_must_be_there(tmp_path: Path) -> None:
    """Otherwise others would be scored in their place."""
    EntityStore.build(tmp_path / "kb", BANKS)
    example = make_example([0.5] * 6, "B1")
    example.predicted._.set(SCORES, None)
    with EntityStore.open(tmp_path / "kb") as store, pytest.raises(ConfigError, match="E588"):
        recalls(store, [example], SEARCHES["keywords"])


def test_config(settings: Settings, tmp_path: Path) -> None:
    """It goes on from the checkpoint of the settings; without the config there is a code."""
    with pytest.raises(ConfigError, match="E444.*linking_keywords"):
        keywords_config(settings, tmp_path)
