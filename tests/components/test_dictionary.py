"""`entitykit_dictionary` in pipelines: what it writes and keeps; what it finds is tested with `MentionDictionary`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.errors import CheckpointError, ConfigError, InputError, OutputError
from entitykit.knowledge.entities import Entity, Phrase
from entitykit.knowledge.store import EntityStore
from tests.knowledge.kb import build

TEXT = "Paris, called Alexandros, never saw Paris, Texas."
IDS = [("Paris", "Q90"), ("Alexandros", "Q167646"), ("Paris, Texas", "Q830149")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build(tmp_path / "kb").close()
    return tmp_path / "kb"


def make(folder: Path | None, **settings: Any) -> Language:
    nlp = spacy.blank("en")
    if folder is not None:
        settings["kb"] = {"@misc": "entitykit.KB.v1", "path": str(folder)}
    nlp.add_pipe("entitykit_dictionary", config=settings)
    return nlp


def links(doc: Doc) -> list[tuple[str, str]]:
    return [(ent.text, ent.kb_id_) for ent in doc.ents]


def test_entities_and_candidates(folder: Path) -> None:
    doc = make(folder, label="NAME")(TEXT)
    assert links(doc) == IDS
    assert {ent.label_ for ent in doc.ents} == {"NAME"}
    assert doc.ents[0]._.kb_ents == [("Q90", 12 / 16), ("Q830149", 3 / 16), ("Q167646", 1 / 16)]
    assert [id_ for id_, _ in make(folder, min_prior=0.1)(TEXT).ents[0]._.kb_ents] == ["Q90", "Q830149"]


def test_entities_that_are_there_stay(folder: Path) -> None:
    nlp = make(folder)
    doc = nlp.make_doc(TEXT)
    doc.ents = [Span(doc, 0, 2, label="X", kb_id="own", span_id="first")]  # "Paris,"
    doc = nlp(doc)
    assert links(doc) == [("Paris,", "own"), *IDS[1:]]
    assert (doc.ents[0].label_, doc.ents[0].id_) == ("X", "first")
    overwriting = make(folder, overwrite=True)
    assert links(overwriting(Doc(overwriting.vocab).from_bytes(doc.to_bytes()))) == IDS


def test_a_span_group(folder: Path) -> None:
    with EntityStore.open(folder) as store:
        store.count_phrases([Phrase("Paris", 64)])
    doc = make(folder, mentions="names")(TEXT)
    group = doc.spans["names"]
    assert [(span.text, span.kb_id_) for span in group] == IDS
    assert group.attrs["scores"] == [16 / 64, None, None]  # nobody has counted the others
    assert not doc.ents
    doc = make(folder, mentions="names", min_link_probability=0.5)(TEXT)
    assert [span.text for span in doc.spans["names"]] == ["Alexandros", "Paris, Texas"]


def test_the_knowledge_base_may_change(folder: Path) -> None:
    nlp = make(folder)
    with EntityStore.open(folder) as store:
        store.add([Entity(id="Q84", name="London")])
        store.remove(["Q90"])
    assert links(nlp("London, Paris")) == [("London", "Q84"), ("Paris", "Q830149")]


def test_without_knowledge_base(folder: Path, tmp_path: Path) -> None:
    nlp = make(None)
    with pytest.raises(ConfigError, match=r"\[E538\] 'entitykit_dictionary' has no knowledge base"):
        nlp(TEXT)
    with pytest.raises(ConfigError, match="E538"):
        nlp.initialize()
    nlp.get_pipe("entitykit_dictionary").initialize(list, kb=EntityStore.open(folder))
    assert links(nlp(TEXT)) == IDS
    nlp.to_disk(tmp_path / "nlp")
    assert links(spacy.load(tmp_path / "nlp")(TEXT)) == IDS  # it knows the folder


def test_a_relative_path(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked up from where the pipeline was saved if it leads nowhere from here; no other path of a config is."""
    monkeypatch.chdir(tmp_path)
    nlp = make(Path("kb"))
    nlp.to_disk(tmp_path / "nlp")
    monkeypatch.chdir("/")
    assert links(make(Path("kb")).from_bytes(nlp.to_bytes())(TEXT)) == IDS
    assert [links(doc) for doc in nlp.pipe([TEXT] * 2, n_process=2, batch_size=1)] == [IDS] * 2
    loaded = spacy.load(tmp_path / "nlp")
    assert links(loaded(TEXT)) == IDS
    loaded.to_disk(tmp_path / "again")
    for path in ("other", str(tmp_path / "other")):
        with pytest.raises(CheckpointError, match=rf"E500.*'{Path(path).absolute()}'.*components.*kb.*path"):
            spacy.load(tmp_path / "again", config={"components.entitykit_dictionary.kb.path": path})
    folder.rename(tmp_path / "other")
    changed = {"components": {"entitykit_dictionary": {"kb": {"@misc": "entitykit.KB.v1", "path": str(tmp_path / "other")}}}}
    with pytest.raises(CheckpointError, match=f"E500.*'{folder}'"):
        spacy.load(tmp_path / "again")
    assert links(spacy.load(tmp_path / "again", config=changed)(TEXT)) == IDS


def test_a_knowledge_base_that_comes_later(tmp_path: Path) -> None:
    nlp = make(tmp_path / "kb")
    with pytest.raises(CheckpointError, match="E500"):
        nlp(TEXT)
    build(tmp_path / "kb").close()
    assert links(nlp(TEXT)) == IDS


def test_settings_and_files_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\[E507\] The option min_prior is 2"):
        make(folder, min_prior=2)
    with pytest.raises(ConfigError, match=r"\[E510\] .* does not know how often phrases occur"):
        make(folder, min_link_probability=0.5)
    pipe = make(folder).get_pipe("entitykit_dictionary")
    with pytest.raises(CheckpointError, match=r"\[E108\]"):
        pipe.from_disk(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match=r"\[E107\]"):
        pipe.to_disk(tmp_path / "file")
    pipe.to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "cfg.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"\[E005\]"):
        pipe.from_disk(tmp_path / "saved")


def test_a_document_that_fails_is_handled(folder: Path) -> None:
    nlp = make(folder)
    failed: list[object] = []
    nlp.set_error_handler(lambda name, pipe, docs, reason: failed.extend(doc.text for doc in docs))
    pipe: Any = nlp.get_pipe("entitykit_dictionary")
    predict = pipe.predict
    pipe.predict = lambda docs: 1 / 0 if docs[0].text == "bad" else predict(docs)
    found = [doc.text for doc in nlp.pipe(["Paris", "bad", "Texas"], batch_size=1)]
    assert (found, failed) == (["Paris", "Texas"], ["bad"])


@pytest.mark.parametrize("key", ["ents", "names"])
def test_scores(folder: Path, key: str) -> None:
    nlp = make(folder, mentions=key)
    gold = nlp.make_doc(TEXT)
    spans = [Span(gold, 0, 1, label="X", kb_id="Q167646"), Span(gold, 3, 4, label="X", kb_id="Q167646")]
    if key == "ents":
        gold.ents = spans
    else:
        gold.spans[key] = spans
    scores = nlp.evaluate([Example(nlp.make_doc(TEXT), gold)])
    assert scores["linking_micro_p"] == pytest.approx(1 / 3)
    assert scores["linking_micro_r"] == pytest.approx(1 / 2)
