"""The linker: what it learns from, where its gradients go, and what it knows of its index."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Optimizer

from entitykit.components.indexed import build_index
from entitykit.components.linker import Linker
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.linked_texts import ENTITIES, linked_examples
from tests.pipelines import (
    BI_ENCODER,
    OURS,
    READING,
    encoder_config,
    encoder_gradient,
    encoder_weights,
    fast_optimizer,
    finish,
    train,
)

ENCODER, LINKER = "entitykit_encoder", "entitykit_linker"


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    store = EntityStore.create(tmp_path / "kb")
    store.add(ENTITIES)
    return store


def make(
    checkpoint: Path, store: EntityStore, *, encoder: dict[str, Any] | None = None, given: bool = False, **settings: Any
) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe(ENCODER, config=encoder_config(checkpoint, **(encoder or {})) | ({"given": ["ents"]} if given else {}))
    model = BI_ENCODER | {"tok2vec": OURS} | settings.pop("model", {})
    kb = {"@misc": "entitykit.KB.v1", "path": str(store.folder)}
    nlp.add_pipe(LINKER, config={"kb": kb, "model": model, **settings})
    return nlp


def initialized(checkpoint: Path, store: EntityStore, **options: Any) -> tuple[Language, Linker, list[Example]]:
    nlp = make(checkpoint, store, **options)
    examples = linked_examples(nlp)
    nlp.initialize(lambda: examples)
    linker = nlp.get_pipe(LINKER)
    assert isinstance(linker, Linker)
    return nlp, linker, examples


class Steps:
    """An optimizer's steps of each module."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, optimizer: Optimizer) -> None:
        self.groups: list[str] = []
        step = type(optimizer).step_module

        def counted(own: Any, key: int, group: str, module: Any) -> None:
            if any(p.grad is not None for p in module.parameters()):
                self.groups.append(group)
            step(own, key, group, module)

        monkeypatch.setattr(type(optimizer), "step_module", counted)


@pytest.mark.parametrize("mention", ["context", "state"])
@pytest.mark.parametrize("direct", [False, True], ids=["loop", "direct"])
def test_the_encoder_steps_once_per_update(
    tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch, mention: str, direct: bool
) -> None:
    """As the only head, too, whose gradients may all go by the texts and none by the words."""
    nlp, _, examples = initialized(tiny_bert, store, model={"mention": mention})
    optimizer = fast_optimizer()
    steps = Steps(monkeypatch, optimizer)
    before = encoder_weights(nlp)
    for n in range(1, 4):
        if direct:
            nlp.update(examples, sgd=optimizer)
        else:
            nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
            finish(nlp, optimizer)
            assert steps.groups.count("encoder") == n
        assert steps.groups.count("head") == n
    nlp.get_pipe(ENCODER).predict([eg.predicted for eg in examples])
    nlp.to_bytes()
    assert steps.groups.count("encoder") == 3
    assert not torch.equal(encoder_weights(nlp), before)


@pytest.mark.parametrize("mention", ["context", "state"])
def test_gradients_are_those_of_the_whole_graph(tiny_bert: Path, store: EntityStore, mention: str) -> None:
    """Against differences of the loss along a random direction of all weights of the encoder."""
    nlp, linker, examples = initialized(tiny_bert, store, model={"mention": mention}, negatives=0)
    module = nlp.get_pipe(ENCODER).model.shims[0].module.double()
    linker.head.double()

    def loss() -> float:
        nlp.get_pipe(ENCODER).update(examples, losses={})
        found = linker.update(examples, losses={})[LINKER]
        return found

    encoder_gradient(nlp)
    loss()
    nlp.get_pipe(ENCODER)._backward()
    gradients = encoder_gradient(nlp)
    weights = {name: p for name, p in module.named_parameters() if name in gradients}
    direction = {name: torch.randn_like(p) for name, p in weights.items()}
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for name, p in weights.items():
                p += sign * 1e-3 * direction[name]
        nlp.get_pipe(ENCODER)._pending = None
        values.append(loss())
        with torch.no_grad():
            for name, p in weights.items():
                p -= sign * 1e-3 * direction[name]
        nlp.get_pipe(ENCODER)._pending = None
    expected = sum(float((gradients[name] * direction[name]).sum()) for name in weights)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=0.05, abs=0.05)


def test_a_frozen_encoder_gets_nothing(tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, linker, examples = initialized(tiny_bert, store, model={"projection": 8})
    read = type(linker._texts.reader).read
    graphs = []

    def watched(self: Any, sequences: Any, *, learns: bool = False) -> torch.Tensor:
        states = read(self, sequences, learns=learns)
        graphs.append(states.requires_grad)
        return states

    monkeypatch.setattr(type(linker._texts.reader), "read", watched)
    before = encoder_weights(nlp)
    train(nlp, examples, 2)
    assert graphs == [True] * 4
    assert not torch.equal(encoder_weights(nlp), before)
    before, head, graphs[:] = encoder_weights(nlp), linker.model.to_bytes(), []
    train(nlp, examples, 2, exclude=[ENCODER], annotates=[ENCODER])
    assert graphs == [False] * 4
    assert not encoder_gradient(nlp)
    assert torch.equal(encoder_weights(nlp), before)
    assert linker.model.to_bytes() != head


def test_entity_tokens_are_mentions(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, examples = initialized(tiny_bert, store, model={"mention": "state"}, encoder=READING, given=True)
    train(nlp, examples, 30)
    linker.build_index()
    assert nlp.evaluate(examples)["linking_inkb_acc"] == 1.0


def test_links_are_written(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, examples = initialized(tiny_bert, store)
    train(nlp, examples, 30)
    linker.build_index()
    doc = nlp(examples[0].predicted)
    assert [(ent.text, ent.label_, ent.kb_id_) for ent in doc.ents] == [("Mary Jones", "X", "Q1"), ("New York", "X", "Q2")]
    assert [token.ent_kb_id_ for token in doc] == ["Q1", "Q1", "", "", "Q2", "Q2"]
    pairs = doc.ents[1]._.kb_ents
    assert pairs[0][0] == "Q2"
    assert sum(score for _, score in pairs) == pytest.approx(1)
    explained = linker.explain(doc.ents[1])
    assert explained.id == "Q2"
    assert [(each.id, each.score) for each in explained.candidates] == [(id_, pytest.approx(score)) for id_, score in pairs]
    assert {each.id: each.prior for each in explained.candidates} == {"Q1": None, "Q2": 0.5, "Q3": 0.5}
    assert explained.candidates[0].found_by == ("alias", "dense")
    lines = str(explained).splitlines()
    assert len(lines) == 2 + len(pairs)
    assert lines[2].startswith("*  Q2  New York")


def test_groups(tiny_bert: Path, store: EntityStore) -> None:
    """Spans of a group keep their scores, and entities stay as they are."""
    with pytest.warns(EntityKitWarning, match="W586"):  # the links of the examples are in doc.ents
        nlp, linker, _ = initialized(tiny_bert, store, mentions="sc")
    doc = nlp.make_doc("in New York the river")
    doc.spans["sc"] = [Span(doc, 1, 3, label="A"), Span(doc, 0, 3, label="B"), Span(doc, 1, 3, label="C")]
    doc.spans["sc"].attrs["scores"] = [0.1, 0.2, 0.3]
    linker.settings["candidates"] = {"alias": 5}
    doc = nlp(doc)
    assert [(s.start, s.end, s.label_, s.kb_id_[:1]) for s in doc.spans["sc"]] == [
        (1, 3, "A", "Q"),
        (0, 3, "B", ""),
        (1, 3, "C", "Q"),
    ]
    assert doc.spans["sc"].attrs["scores"] == [0.1, 0.2, 0.3]
    assert doc.spans["sc"][1]._.kb_ents == []
    assert not doc.ents
    assert not nlp("no group").spans


def test_threshold_and_calibration(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    nlp, linker, examples = initialized(tiny_bert, store)
    linker.build_index()
    docs = [Example(nlp(eg.predicted), eg.reference) for eg in examples]
    found = linker.calibrate(docs)
    assert found.nil is not None  # the river is in no knowledge base
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp", config={f"components.{LINKER}.threshold": 1.0})
    assert loaded.get_pipe(LINKER).calibration == found
    assert not any(ent.kb_id_ for ent in loaded(examples[0].predicted.copy()).ents)


def test_a_changed_encoder_is_noticed(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    """Its index finds candidates; they are scored as the encoder now is. There is one warning, and none in training."""
    nlp, linker, examples = initialized(tiny_bert, store)
    linker.build_index()
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    texts = loaded.get_pipe(LINKER)._texts
    assert texts.is_fresh(loaded.get_pipe(LINKER).index)
    train(nlp, examples, 3)
    nlp(examples[0].predicted.copy())
    nlp = make(tiny_bert, store).from_bytes(nlp.to_bytes())
    linker = nlp.get_pipe(LINKER)
    with pytest.warns(EntityKitWarning, match="W582"):
        doc = nlp(examples[0].predicted.copy())
    stale = [score for ent in doc.ents for _, score in ent._.kb_ents]
    nlp(examples[0].predicted.copy())  # without another one
    linker.build_index()
    fresh = [score for ent in nlp(examples[0].predicted.copy()).ents for _, score in ent._.kb_ents]
    assert stale == pytest.approx(fresh, abs=5e-3)  # vectors of the index have half precision


def test_a_changed_knowledge_base_is_noticed(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, _ = initialized(tiny_bert, store)
    linker.build_index()
    store.add([Entity(id="Q4", name="New York", description="a song")])
    store.remove(["Q3"])
    doc = Doc(nlp.vocab, words=["New", "York"], ents=["B-X", "I-X"])
    with pytest.warns(EntityKitWarning, match="2 entities"):
        doc = nlp(doc)
    assert {id_ for id_, _ in doc.ents[0]._.kb_ents} == {"Q1", "Q2", "Q4"}


def test_cut_texts_are_counted(tiny_bert: Path, store: EntityStore) -> None:
    nlp, linker, _ = initialized(tiny_bert, store, model={"entity_pieces": 12, "context_pieces": 12})
    with pytest.warns(EntityKitWarning, match="3 of 3"):
        linker.build_index()
    doc = Doc(nlp.vocab, words=["the"] * 20, ents=["B-X"] + ["I-X"] * 19)
    with pytest.warns(EntityKitWarning, match="W584"):
        nlp(doc)


def test_unknown_gold_is_counted(tiny_bert: Path, store: EntityStore) -> None:
    store.remove(["Q1"])
    with pytest.warns(EntityKitWarning, match="1 of 4 gold links"):
        initialized(tiny_bert, store)


def test_hard_negatives_are_mined(tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, linker, examples = initialized(tiny_bert, store, mine_every=2, negatives=2)
    builds = []
    build = type(linker).build_index
    monkeypatch.setattr(type(linker), "build_index", lambda self, **how: builds.append(how) or build(self, **how))
    train(nlp, examples, 5)
    assert builds == [{"quiet": True}] * 2


def test_what_an_index_is_and_finds_is_told(tiny_bert: Path, store: EntityStore, capsys: pytest.CaptureFixture[str]) -> None:
    """To who builds it, in one line; and it is built as the settings say."""
    store.add([Entity(id=f"N{i}", name=f"the river {i}", description="long " * (i % 9)) for i in range(60)])
    settings = {"index": "ivf", "index_codes": "pq", "index_recall": 0.1}
    nlp, linker, _ = initialized(tiny_bert, store, **settings)
    capsys.readouterr()
    report = linker.build_index().index.report
    assert (report.kind, report.codes, report.n, report.n_cells > 1) == ("ivf", "pq", 63, True)
    out, err = capsys.readouterr()
    assert not out
    found = rf"recall64 {report.recall64:.3f} \({report.recall64_in_256:.3f} ranked by exact vectors\)"
    assert re.fullmatch(rf"{LINKER}: ivf index of 63 entities, pq, {found}, \d+\.\d s\n", err)
    build_index()(nlp)  # there is one that fits
    linker.build_index(quiet=True)
    assert capsys.readouterr().err == ""
    linker.build_index("flat")
    assert capsys.readouterr().err.startswith(f"{LINKER}: flat index of 63 entities, float32, recall64 1.000")


def test_an_index_that_fits_is_kept(tiny_bert: Path, store: EntityStore) -> None:
    nlp, _, examples = initialized(tiny_bert, store)
    first = build_index()(nlp).get_pipe(LINKER).index
    assert build_index()(nlp).get_pipe(LINKER).index is first
    train(nlp, examples, 1)
    second = build_index()(nlp).get_pipe(LINKER).index
    assert second is not first
    store.add([Entity(id="Q4", name="New York", description="a song")])
    assert len(build_index()(nlp).get_pipe(LINKER).index) == len(second) + 1


@pytest.mark.parametrize("way", ["bytes", "disk", "pickle"])
def test_saved_with_its_index(tiny_bert: Path, store: EntityStore, tmp_path: Path, way: str) -> None:
    nlp, linker, examples = initialized(tiny_bert, store)
    build_index()(nlp)
    assert linker.index is not None
    expected = nlp(examples[0].predicted.copy()).ents[1]._.kb_ents
    pipes: list[Any]
    if way == "pickle":
        pipes = pickle.loads(pickle.dumps([pipe for _, pipe in nlp.pipeline]))
    elif way == "disk":
        nlp.to_disk(tmp_path / "nlp")
        pipes = [pipe for _, pipe in spacy.load(tmp_path / "nlp").pipeline]
    else:
        pipes = [pipe for _, pipe in make(tiny_bert, store).from_bytes(nlp.to_bytes()).pipeline]
    assert pipes[1].index.meta == linker.index.meta
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        doc = pipes[1](pipes[0](examples[0].predicted.copy()))
        assert doc.ents[1]._.kb_ents == [(id_, pytest.approx(score)) for id_, score in expected]
        assert len(pipes[1].build_index()) == 3


def test_without_encoder_or_knowledge_base(tiny_bert: Path, store: EntityStore) -> None:
    nlp = make(tiny_bert, store, kb=None)
    with pytest.raises(ConfigError, match="E538"):
        nlp.initialize(lambda: linked_examples(nlp))
    nlp.get_pipe(LINKER).set_kb(store)
    nlp.initialize(lambda: linked_examples(nlp))
    nlp.remove_pipe(ENCODER)
    with pytest.raises(ConfigError, match="E105"):
        make_alone(store).initialize()


def make_alone(store: EntityStore) -> Language:
    nlp = spacy.blank("xx")
    kb = {"@misc": "entitykit.KB.v1", "path": str(store.folder)}
    nlp.add_pipe(LINKER, config={"kb": kb, "model": BI_ENCODER | {"tok2vec": OURS}})
    return nlp


@pytest.mark.parametrize(
    "settings",
    [
        {"candidates": {"alias": -1}},
        {"candidates": {"nothing": 1}},
        {"threshold": -0.1},
        {"keep": 0},
        {"index": "tree"},
        {"index_codes": "int4"},
        {"index_recall": 1.5},
        {"model": {"mention": "word"}},
        {"model": {"form": "x"}},
        {"model": {"pooling": "max"}},
        {"model": {"temperature": 0.0}},
        {"model": {"temperature": 0.0099}},
    ],
    ids=str,
)
def test_settings_that_cannot_be(tiny_bert: Path, store: EntityStore, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E109|E557|E580"):
        make(tiny_bert, store, **settings)
