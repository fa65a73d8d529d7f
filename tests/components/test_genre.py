"""`entitykit_genre` links what it is given or finds, learns to, is saved, and follows its knowledge base."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import fix_random_seed

from entitykit.components.genre import Genre
from entitykit.components.links import Linked, register_links
from entitykit.components.nils import leave_vectors, register_nils
from entitykit.decoding.beams import Beam
from entitykit.decoding.genre import advance, markup_tokens
from entitykit.errors import CheckpointError, ConfigError, EntityKitError, EntityKitWarning
from entitykit.knowledge.base import EntityKB, load_kb
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from tests.pipelines import fast_optimizer
from tests.seq2seq import save_bart

ENTITIES = [
    Entity(id="Q1", name="Ada", aliases=(Alias("Countess"),)),
    Entity(id="Q2", name="London", count=5),
    Entity(id="Q3", name="London", count=9, description="in Ontario"),
    Entity(id="Q4", name="Don [x]", aliases=(Alias("Don"), Alias("river"))),
]
SENTENCES = [
    ("the Countess met Ada", {(1, 2): "Q1", (3, 4): "Q1"}),
    ("Don { in } the London", {(0, 1): "Q4", (5, 6): "Q3"}),
    ("nobody [ was here ]", {}),
]
TEXTS = ["", " \n ", *(text for text, _ in SENTENCES), "Ada " * 15, "London  is\u00a0on\nDon . 😀 Ada 東京", "x" * 50 + " Ada"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bart(tmp_path_factory.mktemp("bart"), scale=0.0)


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    EntityStore.build(tmp_path / "kb", ENTITIES)
    return EntityStore.open(tmp_path / "kb")


def config(checkpoint: Path, **settings: object) -> dict[str, Any]:
    model = {"@architectures": "entitykit.Genre.v1", "name": str(checkpoint), "context": 64, "passage": 40, "output": 120}
    return {"model": model | {"smoothing": 0.0}, "beams": 3, **settings}


def make_pipeline(checkpoint: Path, store: EntityStore | None, **settings: object) -> Language:
    nlp = spacy.blank("xx")
    pipe = nlp.add_pipe("entitykit_genre", config=config(checkpoint, **settings))
    assert isinstance(pipe, Genre)
    if store is not None:
        pipe.initialize(list, kb=store)
    return nlp


def make_doc(nlp: Language, text: str, links: Mapping[tuple[int, int], str]) -> Doc:
    doc = Doc(nlp.vocab, words=text.split())
    doc.ents = [Span(doc, start, end, label="THING", kb_id=id_) for (start, end), id_ in links.items()]
    return doc


def examples(nlp: Language, *, given: bool) -> list[Example]:
    return [
        Example(make_doc(nlp, text, dict.fromkeys(links, "") if given else {}), make_doc(nlp, text, links))
        for text, links in SENTENCES
    ]


def links(doc: Doc) -> dict[tuple[int, int], str]:
    return {(ent.start, ent.end): ent.kb_id_ for ent in doc.ents}


def train(nlp: Language, *, given: bool, steps: int) -> None:
    fix_random_seed(0)
    optimizer = fast_optimizer(encoder_learn_rate=0.01)
    for _ in range(steps):
        nlp.update(examples(nlp, given=given), sgd=optimizer, losses={})


class Trained:
    """Each task is learned once."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder
        EntityStore.build(folder / "kb", ENTITIES)
        self.bytes: dict[str, bytes] = {}

    def load(self, task: str, **settings: object) -> Language:
        store = EntityStore.open(self.folder / "kb")
        if task not in self.bytes:
            nlp = make_pipeline(self.checkpoint, store, task=task)
            train(nlp, given=task == "names", steps=80)
            self.bytes[task] = nlp.to_bytes()
        return make_pipeline(self.checkpoint, None, task=task, **settings).from_bytes(self.bytes[task])


@pytest.fixture(scope="module")
def trained(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(checkpoint, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize("task", ["names", "markup"])
def test_overfit(trained: Trained, task: str) -> None:
    nlp = trained.load(task)
    for eg in examples(nlp, given=task == "names"):
        doc = nlp(eg.predicted)
        assert links(doc) == links(eg.reference)
        assert doc.text == eg.reference.text
        for ent in doc.ents:
            assert ent.label_ == ("THING" if task == "names" else "ENTITY")
            assert ent._.kb_ents[0][0] == ent.kb_id_
            assert 0 < ent._.kb_ents[0][1] <= 1
            assert [score for _, score in ent._.kb_ents] == sorted((score for _, score in ent._.kb_ents), reverse=True)
    assert nlp.evaluate(examples(nlp, given=task == "names"))["linking_micro_f"] == 1.0


def test_overfit_freely(trained: Trained) -> None:
    """Without a constraint, what was learned is written just so, and its names are found in the knowledge base."""
    for task in ("names", "markup"):
        nlp = trained.load(task, candidates="free")
        for eg in examples(nlp, given=task == "names"):
            assert links(nlp(eg.predicted)) == links(eg.reference)


def test_what_is_marked_freely_and_is_no_name_is_nil(trained: Trained, tmp_path: Path) -> None:
    EntityStore.build(tmp_path / "kb", ENTITIES[1:])
    for threshold, found in ((0.0, ["Countess", "Ada"]), (1.1, [])):
        nlp = trained.load("markup", candidates="free", threshold=threshold)
        nlp.get_pipe("entitykit_genre").set_kb(EntityStore.open(tmp_path / "kb"))  # type: ignore[attr-defined]
        doc = nlp("the Countess met Ada")
        assert [(ent.text, ent.label_, ent.kb_id_, ent._.kb_ents) for ent in doc.ents] == [(x, "ENTITY", "", []) for x in found]


def test_what_is_marked_freely_and_is_not_there_is_counted(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp = trained.load("markup", candidates="free")
    task = nlp.get_pipe("entitykit_genre").task  # type: ignore[attr-defined]
    other = nlp.make_doc("the Duchess met Ada")
    (passage,) = task.text.passages(other, 40)
    begin, end = ({word: token for token, word in places.items()} for places in (passage.starts, passage.ends))
    (name,) = task.text.names(["Ada"], "markup")
    marked = [(begin[1], end[2], name), (begin[3], end[4], name)]
    output = [*markup_tokens(passage.ids, marked, task.marks), task.text.end]

    def write(shim: object, sources: object, states: Any, **_: object) -> list[list[Beam]]:
        beam = Beam(states[0], 0.0)
        for token in output:
            beam = Beam(advance([beam.state], [token])[0], beam.total, token, beam)
        return [[beam] for _ in states]

    monkeypatch.setattr("entitykit.components.genre.write", write)
    with pytest.warns(EntityKitWarning, match=r"W534. 2 of 4 mentions that 'entitykit_genre' has written freely"):
        docs = list(nlp.pipe(["the Countess met Ada"] * 2))
    assert [links(doc) for doc in docs] == [{(3, 4): "Q1"}] * 2


def check_equal(found: Doc, expected: Doc) -> None:
    assert found.text == expected.text
    assert links(found) == links(expected)
    for a, b in zip(found.ents, expected.ents, strict=True):
        assert [id_ for id_, _ in a._.kb_ents] == [id_ for id_, _ in b._.kb_ents]
        assert [score for _, score in a._.kb_ents] == pytest.approx([score for _, score in b._.kb_ents], abs=1e-4)


def documents(nlp: Language) -> list[Doc]:
    docs = [nlp.make_doc(text) for text in TEXTS]
    for doc in docs:
        words = [token for token in doc if token.is_alpha and len(token) < 20]
        doc.ents = [Span(doc, word.i, word.i + 1, label="THING") for word in words[::3]]
    return docs


@pytest.mark.parametrize("task", ["names", "markup"])
def test_any_text_in_any_company(trained: Trained, task: str, tmp_path: Path) -> None:
    """Batches, saved pipelines and other processes give what single documents give."""
    nlp = trained.load(task)
    singles = [nlp(doc) for doc in documents(nlp)]
    for doc, before in zip(singles, documents(nlp), strict=True):
        assert doc.text == before.text
        assert all(ent.kb_id_ in {"Q1", "Q3", "Q4"} for ent in doc.ents)
        if task == "names":
            assert [(ent.start, ent.end) for ent in doc.ents] == [(ent.start, ent.end) for ent in before.ents]
    nlp.to_disk(tmp_path / "nlp")
    assert {path.suffix for path in (tmp_path / "nlp" / "entitykit_genre").iterdir()} == {".json", ".safetensors"}
    pipe = pickle.loads(pickle.dumps(nlp.get_pipe("entitykit_genre")))
    ways = [
        nlp.pipe(documents(nlp)),
        spacy.load(tmp_path / "nlp").pipe(documents(nlp)),
        pipe.pipe(documents(nlp)),
    ]
    for way in ways:
        for found, expected in zip(way, singles, strict=True):
            check_equal(found, expected)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_two_processes(trained: Trained) -> None:
    nlp = trained.load("names")
    singles = [nlp(doc) for doc in documents(nlp)]
    for found, expected in zip(nlp.pipe(documents(nlp), n_process=2, batch_size=3), singles, strict=True):
        check_equal(found, expected)


def test_every_word_of_a_long_document_is_read(trained: Trained) -> None:
    nlp = trained.load("markup")
    text = " ".join(["the Countess met Ada ."] * 30)
    doc = nlp(Doc(nlp.vocab, words=text.split()))
    found = [ent.start for ent in doc.ents if ent.text == "Ada"]
    assert len(found) > 20
    assert max(found) > 140


def test_candidates_by_alias(trained: Trained) -> None:
    nlp = trained.load("names", candidates="alias")
    doc = nlp(make_doc(nlp, "Countess river London nobody Ada", {(i, i + 1): "" for i in range(5)}))
    assert [ent.kb_id_ for ent in doc.ents] == ["Q1", "Q4", "Q3", "", "Q1"]
    assert [[id_ for id_, _ in ent._.kb_ents] for ent in doc.ents] == [["Q1"], ["Q4"], ["Q3", "Q2"], [], ["Q1"]]
    nlp = trained.load("markup", candidates="alias")
    doc = nlp("the nobody Countess met Ada")
    assert {ent.text for ent in doc.ents} <= {"Countess", "Ada"}


def test_threshold_is_nil(trained: Trained) -> None:
    nlp = trained.load("names", threshold=1.1)
    doc = nlp(make_doc(nlp, *SENTENCES[0]))
    assert [ent.kb_id_ for ent in doc.ents] == ["", ""]
    assert all(ent._.kb_ents for ent in doc.ents)
    assert not trained.load("markup", threshold=1.1)(SENTENCES[0][0]).ents


def test_span_groups(trained: Trained) -> None:
    """Overlapping mentions are linked; the group keeps what else it has."""
    nlp = trained.load("names", mentions="sc")
    doc = make_doc(nlp, "the Countess met Ada", {})
    doc.spans["sc"] = [doc[1:2], doc[0:2], Span(doc, 3, 4, label="X", span_id="s")]
    doc.spans["sc"].attrs["scores"] = [0.1, 0.2, 0.3]
    doc = nlp(doc)
    assert [(span.text, span.kb_id_, span.label_, span.id_) for span in doc.spans["sc"]] == [
        ("Countess", "Q1", "", ""),
        ("the Countess", doc.spans["sc"][1].kb_id_, "", ""),
        ("Ada", "Q1", "X", "s"),
    ]
    assert doc.spans["sc"].attrs == {"scores": [0.1, 0.2, 0.3]}
    assert not doc.ents
    assert "sc" not in nlp("Ada").spans
    found = trained.load("markup", mentions="sc")(doc)
    assert {ent.text for ent in found.ents} <= {"Countess", "the Countess", "Ada"}
    assert not trained.load("markup", mentions="sc")("the Countess met Ada").ents


def test_knowledge_base_changes(checkpoint: Path, store: EntityStore) -> None:
    """What is removed is not named, what is added can be."""
    nlp = make_pipeline(checkpoint, store)

    def candidates() -> set[str]:
        doc = nlp(make_doc(nlp, "Ada", {(0, 1): ""}))
        return {id_ for id_, _ in doc.ents[0]._.kb_ents}

    assert candidates() == {"Q1", "Q2", "Q3", "Q4"}
    store.remove(["Q3", "Q1"])
    assert candidates() == {"Q2", "Q4"}
    store.add([Entity(id="Q9", name="Ada"), Entity(id="Q2", name="Paris")])
    assert candidates() == {"Q2", "Q4", "Q9"}
    store.remove(["Q2", "Q4", "Q9"])
    assert candidates() == set()


def test_what_a_reranker_left_goes_with_the_links(checkpoint: Path, store: EntityStore) -> None:
    register_links()
    nlp = make_pipeline(checkpoint, store)
    doc = make_doc(nlp, "Ada met Paris", {(0, 1): ""})
    doc.ents[0]._.kb_reranked = {"candidates": [["Q1", 0.5, 1.0]], "nil": 0.1, "threshold": 0.0}
    assert nlp(doc).ents[0]._.kb_reranked is None


def test_groups_of_unknown_entities_are_those_of_the_last_links(checkpoint: Path, store: EntityStore) -> None:
    register_nils()
    nlp = make_pipeline(checkpoint, store, threshold=1.1)
    doc = make_doc(nlp, "Ada met Paris", {(0, 1): "", (2, 3): ""})
    links = [Linked(0, 1, [], 0.0, "Q1"), Linked(2, 3, [], 0.0, "")]
    leave_vectors(doc, links, np.eye(2, dtype=np.float32), similarity=0.5)
    doc._.nil_clusters = {"NIL-1": [[2, 3]]}  # of a linker that knew Ada
    assert nlp(doc)._.nil_clusters == {"NIL-1": [[0, 1]], "NIL-2": [[2, 3]]}


@pytest.mark.parametrize("task", ["names", "markup"])
def test_knowledge_base_of_one_entity_and_of_none(checkpoint: Path, tmp_path: Path, task: str) -> None:
    for n in range(2):
        EntityStore.build(tmp_path / str(n), ENTITIES[:n])
        nlp = make_pipeline(checkpoint, EntityStore.open(tmp_path / str(n)), task=task)
        doc = nlp(make_doc(nlp, "Ada met Ada", {(0, 1): "", (2, 3): ""}))
        assert {ent.kb_id_ for ent in doc.ents} <= {"Q1" if n else ""}


def test_where_the_knowledge_base_comes_from(checkpoint: Path, store: EntityStore, tmp_path: Path) -> None:
    vocab = spacy.blank("xx").vocab
    for kb in (store, EntityKB(vocab, store), lambda vocab: store, load_kb(store.folder)):
        pipe = Genre(vocab, make_model(checkpoint), "genre", settings=settings(), kb=kb)
        assert pipe.store.folder == store.folder
    other = EntityStore.create(tmp_path / "other")
    of_config = make_pipeline(checkpoint, None, kb={"@misc": "entitykit.KB.v1", "path": str(store.folder)})
    of_config.initialize()
    of_config.to_disk(tmp_path / "of_config")
    changed = {"components.entitykit_genre.kb.path": str(other.folder)}
    for loaded, folder in (
        (spacy.load(tmp_path / "of_config"), store.folder),
        (spacy.load(tmp_path / "of_config", config=changed), other.folder),
    ):
        pipe = loaded.get_pipe("entitykit_genre")
        assert isinstance(pipe, Genre)
        assert pipe.store.folder == folder
    nlp = make_pipeline(checkpoint, store)
    nlp.to_disk(tmp_path / "nlp")
    store.close()
    (tmp_path / "kb").rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="E500"):
        spacy.load(tmp_path / "nlp")


def make_model(checkpoint: Path) -> Any:
    model = config(checkpoint)["model"]
    return spacy.registry.resolve({"model": model})["model"]


def settings(**values: object) -> dict[str, Any]:
    return {
        "task": "names",
        "mentions": None,
        "candidates": "all",
        "beams": 2,
        "length_penalty": 1.0,
        "threshold": 0.0,
        "max_words": 5,
        "label": "X",
        **values,
    }


def test_without_knowledge_base_or_weights(checkpoint: Path, store: EntityStore) -> None:
    nlp = make_pipeline(checkpoint, None)
    with pytest.raises(ConfigError, match=r"E538.*'entitykit_genre'"):
        nlp("Ada")
    pipe = nlp.get_pipe("entitykit_genre")
    assert isinstance(pipe, Genre)
    pipe.set_kb(store)
    with pytest.raises(ConfigError, match="E101"):
        nlp("Ada")


@pytest.mark.parametrize(
    "wrong",
    [{"task": "both"}, {"candidates": "some"}, {"beams": 0}, {"max_words": 0}, {"threshold": -1.0}, {"length_penalty": -1.0}],
)
def test_settings_that_cannot_be(checkpoint: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(EntityKitError, match=rf"E109.*{next(iter(wrong))}"):
        make_pipeline(checkpoint, None, **wrong)


@pytest.mark.parametrize("task", ["names", "markup"])
def test_gold_that_cannot_be_learned(checkpoint: Path, store: EntityStore, task: str) -> None:
    nlp = make_pipeline(checkpoint, store, task=task)
    doc = make_doc(nlp, "Ada met nobody in London", {(0, 1): "Q1", (2, 3): "Q77", (4, 5): "NIL"})
    with pytest.warns(EntityKitWarning, match=r"W532.*1 of 2 gold links"):
        losses = nlp.update([Example(doc.copy(), doc)], sgd=fast_optimizer())
    assert losses["entitykit_genre"] > 0
    assert nlp.update([]) == {}
    assert nlp.update([Example(nlp.make_doc(""), nlp.make_doc(""))]) == {"entitykit_genre": 0.0}
