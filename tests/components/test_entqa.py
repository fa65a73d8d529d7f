"""EntQA: entities of passages first, then their mentions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components.entqa import EntQALinker
from entitykit.components.gold import ENTS
from entitykit.components.passages import learn_passages
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.pipelines import ENTQA, OURS, encoder_config, encoder_gradient, encoder_weights, train

NAME = "entitykit_entqa"

KB = [
    Entity(id="Q1", name="Mary Jones", description="a mayor"),
    Entity(id="Q2", name="London", description="a river"),
    Entity(id="Q3", name="Peter", description="long"),
    Entity(id="Q4", name="John", description="the hill"),
]
TEXTS = [
    ("Mary Jones met Peter in 1987 and Peter met the mayor", [(0, 2, "Q1"), (3, 4, "Q3"), (7, 8, "Q3"), (9, 11, "Q1")]),
    ("it rained and London is long", [(3, 4, "Q2")]),
    ("the hill is north of London", [(0, 2, "Q4"), (5, 6, "Q2")]),
    ("it rained in the north", []),
]
"""Words and links; two entities have several mentions in one passage, and a text has none."""


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    store = EntityStore.create(tmp_path / "kb")
    store.add(KB)
    return store


def make(checkpoint: Path, store: EntityStore, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint, batch_pieces=1024))
    model = ENTQA | {"tok2vec": OURS} | settings.pop("model", {})
    kb = {"@misc": "entitykit.KB.v1", "path": str(store.folder)}
    nlp.add_pipe(NAME, config={"kb": kb, "model": model, "candidates": 4, "read": 4, **settings})
    return nlp


def make_examples(nlp: Language, key: str = ENTS) -> list[Example]:
    found = []
    for text, links in TEXTS:
        reference = Doc(nlp.vocab, words=text.split())
        spans = [Span(reference, a, b, label="X", kb_id=id_) for a, b, id_ in links]
        if key == ENTS:
            reference.set_ents(spans)
        else:
            reference.spans[key] = spans
        found.append(Example(Doc(nlp.vocab, words=text.split()), reference))
    return found


def initialized(checkpoint: Path, store: EntityStore, **settings: Any) -> tuple[Language, EntQALinker, list[Example]]:
    nlp = make(checkpoint, store, **settings)
    examples = make_examples(nlp, settings.get("spans_key", ENTS))
    nlp.initialize(lambda: examples)
    pipe = nlp.get_pipe(NAME)
    assert isinstance(pipe, EntQALinker)
    return nlp, pipe, examples


def test_finds_and_links(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    """Learns from nothing but a few sentences: every mention, also the second of an entity, and none where there is none."""
    nlp, pipe, examples = initialized(tiny_bert, store, mine_every=30)
    train(nlp, examples, 100)
    assert pipe.index is not None  # it was mined
    pipe.build_index()
    scores = nlp.evaluate(examples)
    assert scores["linking_micro_f"] == scores["linking_mentions_r"] == 1.0
    doc = nlp(TEXTS[0][0])
    assert [(ent.start, ent.end, ent.kb_id_, ent.label_) for ent in doc.ents] == [(*link, "ENTITY") for link in TEXTS[0][1]]
    assert all(ent._.kb_ents[0][0] == ent.kb_id_ and 0.05 <= ent._.kb_ents[0][1] <= 1 for ent in doc.ents)
    nlp.to_disk(tmp_path / "nlp")
    strict = spacy.load(tmp_path / "nlp", config={f"components.{NAME}.threshold": 1.0})
    assert not strict(TEXTS[0][0]).ents
    nothing = strict.make_doc("")
    assert not strict(nothing).ents
    # longer than a passage: what is found in the overlap is found once
    words = " it rained and it rained in the north of the hill ".join(text for text, _ in TEXTS).split()
    long = spacy.load(tmp_path / "nlp")(Doc(strict.vocab, words=words))
    assert len({(ent.start, ent.end) for ent in long.ents}) == len(long.ents) > 3
    store.remove(["Q3"])
    with pytest.warns(EntityKitWarning, match="W583. 1 entities"):
        assert "Q3" not in {ent.kb_id_ for ent in nlp(TEXTS[0][0]).ents}


def test_gradients_are_those_of_the_whole_graph(tiny_bert: Path, store: EntityStore) -> None:
    """Of retriever and reader together, against differences of the loss along a random direction of the encoder's weights."""
    nlp, pipe, examples = initialized(tiny_bert, store, negatives=9)
    encoder: Any = nlp.get_pipe("entitykit_encoder")
    module = encoder.model.shims[0].module.double()
    pipe._texts.reader.batch_pieces = 150  # some passages after the other

    def loss() -> float:
        encoder.update(examples, losses={})
        return pipe.update(examples, losses={})[NAME]

    loss()
    encoder._backward()
    gradients = encoder_gradient(nlp)
    weights = {name: p for name, p in module.named_parameters() if name in gradients}
    direction = {name: torch.randn_like(p) for name, p in weights.items()}
    values = []
    for sign in (1, -1):
        for factor in (sign, -sign):
            with torch.no_grad():
                for name, p in weights.items():
                    p += factor * 1e-3 * direction[name]
            encoder._pending = None
            if factor == sign:
                values.append(loss())
    expected = sum(float((gradients[name] * direction[name]).sum()) for name in weights)
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=0.05, abs=0.05)


def test_a_frozen_encoder_gets_nothing(tiny_bert: Path, store: EntityStore) -> None:
    nlp, pipe, examples = initialized(tiny_bert, store)
    before, head = encoder_weights(nlp), pipe.model.to_bytes()
    train(nlp, examples, 2, exclude=["entitykit_encoder"], annotates=["entitykit_encoder"])
    assert not encoder_gradient(nlp)
    assert torch.equal(encoder_weights(nlp), before)
    assert pipe.model.to_bytes() != head


def test_what_passages_teach(tiny_bert: Path, store: EntityStore) -> None:
    """Mentions in the passages that hold them; nothing from words that nobody has annotated."""
    nlp, pipe, _ = initialized(tiny_bert, store, model={"passage_pieces": 14, "overlap": 6, "topic": 0})
    words = ["Mary", "Jones", "met", "Peter", "in", "London", "and", "it", "rained", "on", "the", "hill"]
    reference = Doc(nlp.vocab, words=[*words[:2], " ", *words[2:]])
    reference.set_ents([Span(reference, 0, 3, label="X", kb_id="Q1"), Span(reference, 4, 5, label="X", kb_id="Q3")])
    eg = Example(Doc(nlp.vocab, words=[word.text for word in reference]), reference)
    learned = pipe._learned([eg])
    assert learned[0].gold == {store.row("Q1"): [(0, 2)], store.row("Q3"): [(4, 5)]}
    assert not any(each.gold for each in learned if each.passage.start > 4)
    reference.set_ents(
        [Span(reference, 4, 5, label="X", kb_id="Q3")], missing=[reference[5 : len(reference)]], default="outside"
    )
    learned = pipe._learned([eg])
    assert learned[0].gold == {store.row("Q3"): [(4, 5)]}
    for passage, _ in learned:
        assert [first >= 0 for first in passage.firsts] == [
            word != 2 and word < 5 for word in range(passage.start, passage.end)
        ]
        assert ((passage.firsts >= 0) == (passage.lasts >= 0)).all()
        assert passage.start < 5
    unknown = Example(eg.predicted, Doc(nlp.vocab, words=[word.text for word in reference]))
    assert learn_passages([unknown], ENTS, pipe._texts.passages([eg.predicted]), []) == ([], 0)


def test_what_cannot_be_learned_is_counted(tiny_bert: Path, store: EntityStore) -> None:
    nlp, pipe, examples = initialized(tiny_bert, store, model={"passage_pieces": 8, "overlap": 2, "topic": 0})
    examples[0].reference.set_ents([Span(examples[0].reference, 0, 11, label="X", kb_id="Q1")])
    with pytest.warns(EntityKitWarning, match="W602"):
        pipe._learned(examples)
    with pytest.warns(EntityKitWarning, match="W604"):
        nlp.initialize(lambda: examples)


def test_group(tiny_bert: Path, store: EntityStore) -> None:
    """Entities stay as they are; scores stand beside the spans."""
    nlp, _, examples = initialized(tiny_bert, store, annotate="spans", spans_key="links", decoder="overlapping", threshold=0.0)
    train(nlp, examples, 40)
    doc = nlp.make_doc(TEXTS[0][0])
    doc.set_ents([Span(doc, 0, 1, label="OLD")])
    doc = nlp(doc)
    assert [ent.label_ for ent in doc.ents] == ["OLD"]
    group = doc.spans["links"]
    assert len(group)
    assert group.attrs["scores"] == [span._.kb_ents[0][1] for span in group]
    assert all(span.kb_id_ == span._.kb_ents[0][0] and span.label_ == "ENTITY" for span in group)
    assert "linking_micro_f" in nlp.evaluate(examples)


def test_without_an_index(tiny_bert: Path, store: EntityStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entities are read once, and anew when something has changed; of many, somebody is told."""
    nlp, pipe, examples = initialized(tiny_bert, store)
    nlp(TEXTS[0][0])
    first = pipe._spare
    assert first is not None
    nlp(TEXTS[1][0])
    assert pipe._spare is first
    train(nlp, examples, 1)
    monkeypatch.setattr("entitykit.components.entqa._MANY", 2)
    with pytest.warns(EntityKitWarning, match="W603"):
        nlp(TEXTS[1][0])
    assert pipe._spare is not first
    assert pipe.index is None


def test_another_knowledge_base_of_the_same_version(tiny_bert: Path, store: EntityStore, tmp_path: Path) -> None:
    """Nothing of the first one is taken for the second's: not the entities that were read, nor their rows, nor an index."""
    nlp, pipe, examples = initialized(tiny_bert, store, candidates=1, threshold=0.0, negatives=9)

    def found() -> list[tuple[int, int, Any]]:
        return [(ent.start, ent.end, ent._.kb_ents) for ent in nlp(TEXTS[0][0]).ents]

    reversed_, small = (EntityStore.create(tmp_path / name) for name in ("reversed", "small"))
    reversed_.add(KB[::-1])
    small.add(KB[:2])
    assert store.version == reversed_.version == small.version
    expected = found()
    assert expected
    pipe.set_kb(reversed_)
    assert found() == expected
    pipe.build_index()
    pipe.set_kb(store)
    with pytest.warns(EntityKitWarning, match="W588.*another knowledge base"):
        assert found() == expected
    train(nlp, examples, 1)
    pipe.set_kb(small)
    with pytest.warns(EntityKitWarning, match="W588"):  # hard negatives are not those of its rows
        train(nlp, examples, 1)


def test_an_empty_knowledge_base(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.warns(EntityKitWarning, match="W580"):
        nlp, _, examples = initialized(tiny_bert, EntityStore.create(tmp_path / "empty"))
    train(nlp, examples, 1)
    assert not nlp(TEXTS[0][0]).ents


@pytest.mark.parametrize(
    "settings",
    [
        {"annotate": "words"},
        {"decoder": "overlapping"},
        {"index_codes": "int4"},
        {"candidates": 0},
        {"max_words": 0},
        {"n_best": 0},
        {"read": 0},
        {"threshold": -0.1},
        {"negatives": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_be(tiny_bert: Path, store: EntityStore, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E109|E557"):
        make(tiny_bert, store, **settings)
