"""Every config that ships trains two steps and evaluates, as it stands but for the checkpoint and the number of steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.cfg"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two annotated sentences as a `.spacy` file."""
    nlp = spacy.blank("en")
    docs = DocBin()
    for words, entities in (
        (["Ada", "met", "Lord", "Byron", "in", "London", "."], [(0, 1, "PERSON"), (2, 4, "PERSON"), (5, 6, "PLACE")]),
        (["The", "poet", "left", "."], []),
    ):
        doc = Doc(nlp.vocab, words=words)
        doc.set_ents([Span(doc, start, end, label=label) for start, end, label in entities])
        doc.spans["sc"] = doc.spans["mentions"] = list(doc.ents)
        docs.add(doc)
    docs.to_disk(tmp_path / "corpus.spacy")
    return tmp_path / "corpus.spacy"


def test_the_configs_of_the_readme_are_there() -> None:
    assert {"mentions.cfg", "ner.cfg", "ner_nested.cfg", "tiny.cfg", "en_entitykit_sm.cfg"} <= {path.name for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains_two_steps(path: Path, corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    overrides: dict[str, object] = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "training.max_steps": 2,
        "training.eval_frequency": 1,
        "components.entitykit_encoder.model.name": str(tiny_bert),
        "components.entitykit_encoder.model.window": 128,
        "components.entitykit_encoder.model.overlap": 32,
    }
    config = load_config(path)
    for name, component in config["components"].items():
        for layer in ("layer", "probe_layer"):
            if layer in component.get("model", {}):
                overrides[f"components.{name}.model.{layer}"] = 1
        if "entities" in component.get("model", {}):
            overrides[f"components.{name}.model.entities.inject_layer"] = 1
        if "n_layers" in component.get("model", {}):
            overrides[f"components.{name}.model.n_layers"] = 2
    nlp = init_nlp(load_config(path, overrides=overrides, interpolate=False))
    before = {name: pipe.model.to_bytes() for name, pipe in nlp.pipeline if hasattr(pipe, "model")}
    (tmp_path / "out").mkdir()
    trained, saved = train(nlp, tmp_path / "out")
    assert saved is not None
    for name, pipe in trained.pipeline:
        if name in before:
            assert pipe.model.to_bytes() != before[name], name
    again = spacy.load(tmp_path / "out" / "model-last")
    doc = again("Ada met Lord Byron in London.")
    assert doc._.coverage["read"] == len(doc)
