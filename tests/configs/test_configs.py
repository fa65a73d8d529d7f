"""Every config that ships trains two steps and evaluates, as it stands but for the checkpoint and the number of steps."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus
from spacy.training.initialize import init_nlp
from spacy.training.loop import train
from spacy.util import load_config

from entitykit.components.indexed import build_index
from entitykit.errors import EntityKitWarning
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.seq2seq import save_bart

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.cfg"))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two annotated sentences as a `.spacy` file."""
    nlp = spacy.blank("en")
    docs = DocBin(store_user_data=True)
    for words, entities in (
        (["Ada", "met", "Lord", "Byron", "in", "London", "."], [(0, 1, "PERSON"), (2, 4, "PERSON"), (5, 6, "PLACE")]),
        (["The", "poet", "left", "."], []),
    ):
        doc = Doc(nlp.vocab, words=words)
        links = [f"Q:{' '.join(words[start:end])}" for start, end, _ in entities]
        doc.set_ents([Span(doc, *entity, kb_id=link) for entity, link in zip(entities, links, strict=True)])
        doc.spans["sc"] = doc.spans["mentions"] = doc.spans["links"] = list(doc.ents)
        pairs = [(a, b) for a in doc.ents for b in doc.ents if a.label_ == "PERSON" and b.label_ == "PLACE"]
        doc.user_data["relations"] = [
            {"head": [a.start, a.end], "tail": [b.start, b.end], "label": "Live_In"} for a, b in pairs
        ]
        for number, ent in enumerate(doc.ents, start=1):
            doc.spans[f"coref_clusters_{number}"] = [ent]
        numbers = {ent.start: number for number, ent in enumerate(doc.ents, start=1)}
        doc.user_data["cluster_relations"] = [
            {"head": numbers[a.start], "tail": numbers[b.start], "label": "Live_In"} for a, b in pairs
        ]
        doc.user_data |= {"coref_ids": links, "topic": "poets"}
        states = [["?", "London"]] if doc.ents else []
        steps = [[0, len(doc.text)]]
        doc.user_data["procedure"] = {"participants": ["Ada"][: len(states)], "states": states, "steps": steps}
        doc.user_data["salience"] = [{"mentions": [[ent.start, ent.end]], "score": 1 / (1 + ent.start)} for ent in doc.ents]
        docs.add(doc)
    docs.to_disk(tmp_path / "corpus.spacy")
    return tmp_path / "corpus.spacy"


@pytest.fixture
def kb(tmp_path: Path) -> Path:
    """The entities of the sentences."""
    names = ["Ada", "Lord Byron", "London"]
    EntityStore.build(tmp_path / "kb", [Entity(id=f"Q:{name}", name=name, description="a name") for name in names])
    return tmp_path / "kb"


def test_the_configs_of_the_readme_are_there() -> None:
    assert {
        "entqa.cfg",
        "genre.cfg",
        "linking.cfg",
        "linking_head.cfg",
        "linking_distilled.cfg",
        "linking_keywords.cfg",
        "reranker.cfg",
        "mentions.cfg",
        "ner.cfg",
        "relations.cfg",
        "relation_pairs.cfg",
        "relations_head.cfg",
        "coref.cfg",
        "coref_head.cfg",
        "cross_document.cfg",
        "cross_document_pairs.cfg",
        "relations_document.cfg",
        "ner_nested.cfg",
        "salience.cfg",
        "salience_head.cfg",
        "tiny.cfg",
        "tracker.cfg",
        "en_entitykit_sm.cfg",
    } <= {path.name for path in CONFIGS}


START = {
    "linker": "linking.cfg",
    "teacher": "linking.cfg",
    "vectors": "cross_document.cfg",
    "pipeline": "en_entitykit_sm.cfg",
}
"""Of a config that goes on from another pipeline: the setting with its path, and the config that makes it."""


def make_start(config: str, overrides: dict[str, Any], path: Path) -> Path:
    """A pipeline from which a config goes on."""
    if config == "en_entitykit_sm.cfg":
        layers = {"mentions.model.layer": 1, "ner.model.probe_layer": 1}
        overrides = overrides | {f"components.entitykit_{key}": value for key, value in layers.items()}
    if config == "cross_document.cfg":
        overrides = overrides | {"components.entitykit_mentions.model.layer": 1}
    nlp = init_nlp(load_config(CONFIGS[0].parent / config, overrides=overrides, interpolate=False))
    build_index()(nlp).to_disk(path)
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains_two_steps(path: Path, corpus: Path, kb: Path, tiny_bert: Path, tmp_path: Path) -> None:
    overrides: dict[str, Any] = {
        "paths.train": str(corpus),
        "paths.dev": str(corpus),
        "training.max_steps": 2,
        "training.eval_frequency": 1,
        "components.entitykit_encoder.model.name": str(tiny_bert),
        "components.entitykit_encoder.model.window": 128,
        "components.entitykit_encoder.model.overlap": 32,
    }
    config = load_config(path)
    if "kb" in config["paths"]:
        overrides["paths.kb"] = str(kb)
    for key in START.keys() & config["paths"].keys():
        overrides[f"paths.{key}"] = str(make_start(START[key], overrides | {"paths.kb": str(kb)}, tmp_path / "start"))
    if "source" in config["components"].get("entitykit_encoder", {"source": ""}):
        overrides = {key: value for key, value in overrides.items() if not key.startswith("components.entitykit_encoder")}
    if "entitykit_reranker" in config["components"]:
        own = {"name": str(tiny_bert), "window": 128, "overlap": 32}
        overrides |= {f"components.entitykit_reranker.model.tok2vec.{key}": value for key, value in own.items()}
        overrides |= {f"components.entitykit_reranker.model.{part}_pieces": 64 for part in ("context", "entity")}
    if "entitykit_genre" in config["components"]:
        own = {"name": str(save_bart(tmp_path / "bart")), "context": 64, "passage": 40, "output": 120}
        overrides |= {f"components.entitykit_genre.model.{key}": value for key, value in own.items()}
    if "entitykit_mention_pairs" in config["components"]:
        own = {"name": str(tiny_bert), "window": 128, "overlap": 32}
        overrides |= {f"components.entitykit_mention_pairs.model.tok2vec.{key}": value for key, value in own.items()}
        overrides |= {"components.entitykit_mention_pairs.model.context_pieces": 24}
    for name, component in config["components"].items():
        for layer in ("layer", "probe_layer"):
            if layer in component.get("model", {}):
                overrides[f"components.{name}.model.{layer}"] = 1
        if "lower_layers" in component.get("model", {}):
            overrides[f"components.{name}.model.lower_layers"] = [0, 1]
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
        if name in before and name not in config["training"].get("frozen_components", ()):
            assert pipe.model.to_bytes() != before[name], name
    again = spacy.load(tmp_path / "out" / "model-last")
    # these pipelines find nothing by themselves of what they are about, and say so
    says_so = path.stem in ("salience", "tracker")
    with pytest.warns(EntityKitWarning, match="W642") if says_so else nullcontext():
        doc = again("Ada met Lord Byron in London.")
    assert "entitykit_encoder" not in again.pipe_names or doc._.coverage["read"] == len(doc)


@pytest.mark.parametrize(("name", "group"), [("relations_document", "coref_clusters_*"), ("salience", "salience_*")])
def test_entity_tokens_for_entities_of_many_groups(
    name: str, group: str, corpus: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    """Documents have one group for each entity; with the groups' pattern as `given`, every mention has a token."""
    config = load_config(CONFIGS[0].parent / f"{name}.cfg", interpolate=False)
    encoder = config["components"]["entitykit_encoder"]
    encoder["given"] = [group]
    entities = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "tokens": True, "proposals": 0.0}
    encoder["model"] |= {"name": str(tiny_bert), "window": 128, "overlap": 32, "entities": entities}
    config["paths"] |= {"train": str(corpus), "dev": str(corpus)}
    config["training"] |= {"max_steps": 2, "eval_frequency": 1}
    nlp = init_nlp(config)
    (tmp_path / "out").mkdir()
    assert train(nlp, tmp_path / "out")[1] is not None
    examples = [eg for eg in Corpus(corpus)(nlp) if len(eg.reference.ents)]
    doc = examples[0].predicted
    doc.spans[group.replace("*", "1")] = [doc[0:1], doc[2:4]]
    assert nlp(doc)._.coverage["entities"] == 2


def test_one_pass_each_way_in_spacy_s_own_training(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """Around the whole loop with its evaluations and averages: each batch is read once, and learned from once."""
    paths = {"paths.train": str(corpus), "paths.dev": str(corpus), "training.max_steps": 5, "training.eval_frequency": 2}
    encoder = {"name": str(tiny_bert), "window": 128, "overlap": 32, "entities.inject_layer": 1}
    overrides = paths | {f"components.entitykit_encoder.model.{key}": value for key, value in encoder.items()}
    nlp = init_nlp(load_config(CONFIGS[0].parent / "joint.cfg", overrides=overrides, interpolate=False))
    module = nlp.get_pipe("entitykit_encoder").model.shims[0].module  # type: ignore[attr-defined]
    counts: Counter[str] = Counter()

    def read(_: object, inputs: object, output: torch.Tensor) -> None:
        if not torch.is_grad_enabled():
            counts["predicted"] += 1
            return
        counts["forward"] += 1
        output.register_hook(lambda gradient: counts.update(["backward"]))

    update = nlp.update

    def count(*args: Any, **kwargs: Any) -> Any:
        counts["batches"] += 1
        return update(*args, **kwargs)

    nlp.update = count  # type: ignore[method-assign]
    module.embeddings.register_forward_hook(read)
    train(nlp, None)
    assert counts["batches"] == counts["forward"] == counts["backward"] >= 5
    assert counts["predicted"] >= 2  # evaluations
