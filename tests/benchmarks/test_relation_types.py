"""Relations that a training has not seen: what is learned from, what is asked for, and how answers are counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc, DocBin
from spacy.training import Example

from entitykit.benchmarks import relation_types
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.relation_types import UNSEEN, prepare, sentences
from entitykit.benchmarks.table import run_benchmark
from entitykit.components.relations import Relations
from entitykit.corpora.read import read_docs
from tests.benchmarks.data import SENTENCES

SEEN, ASKED, OTHER = "P27", "P22", "P9999"


def document(number: int) -> dict[str, object]:
    """Everybody is related to all places; the two of the first sentence also to each other."""
    places = [(i, *entity) for i, (_, entities) in enumerate(SENTENCES) for entity in entities]
    mentions = [[{"name": "x", "sent_id": i, "pos": [start, end], "type": label}] for i, start, end, label in places]
    people, where = ([n for n, place in enumerate(places) if place[3] == label] for label in ("person", "location"))
    labels = [{"h": h, "t": t, "r": label} for h in people for t in where for label in (SEEN, OTHER)]
    labels += [{"h": h, "t": t, "r": ASKED} for h, t in (people[:2], people[1::-1])]
    return {"title": f"letters {number}", "sents": [words for words, _ in SENTENCES], "vertexSet": mentions, "labels": labels}


@pytest.fixture
def related(settings: Settings) -> Settings:
    assert settings.data is not None
    (settings.data / "redocred" / "dev_revised.json").write_text(json.dumps([document(i) for i in range(8)]))
    return settings


def test_sentences_have_their_own_relations(related: Settings) -> None:
    assert related.data is not None
    doc = next(iter(read_docs(related.data / "redocred" / "dev_revised.json", "docred", spacy.blank("en"))))
    found = list(sentences(doc, [SEEN, ASKED]))
    assert [[word.text for word in one] for one in found] == [SENTENCES[0][0], SENTENCES[3][0]]
    for one, (_, entities) in zip(found, (SENTENCES[0], SENTENCES[3]), strict=True):
        assert [(span.start, span.end, span.label_) for span in one.spans["sc"]] == entities
        relations = {(*r["head"], *r["tail"], r["label"]) for r in one.user_data["relations"]}
        (first, second, place) = (entity[:2] for entity in entities)
        asked = {(*first, *second, ASKED), (*second, *first, ASKED)} if one is found[0] else set()
        assert relations == {(*first, *place, SEEN), (*second, *place, SEEN)} | asked


def test_a_training_sees_what_it_may(related: Settings, tmp_path: Path) -> None:
    assert ASKED in UNSEEN
    assert SEEN not in UNSEEN
    parts = [list(DocBin().from_disk(path).get_docs(spacy.blank("en").vocab)) for path in prepare(related, tmp_path)]
    labels = [{relation["label"] for doc in part for relation in doc.user_data["relations"]} for part in parts]
    assert labels == [{SEEN}, {SEEN}, {SEEN, ASKED}]
    assert {doc.text.strip() for doc in parts[0]} == {" ".join(SENTENCES[3][0])}  # nothing of what is asked for later
    assert {doc.text.strip() for doc in parts[2]} == {" ".join(SENTENCES[i][0]) for i in (0, 3)}


def test_it_is_asked_for_others(related: Settings, in_process: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    describe = Relations.set_descriptions
    monkeypatch.setattr(Relations, "set_descriptions", lambda self, given: (asked.append(list(given)), describe(self, given)))
    report = run_benchmark("relations", related, only=[*relation_types.SCORES])
    assert asked == [list(UNSEEN)]
    assert len(in_process) == 1
    assert report.settings["redocred_unseen_f1"]["unseen"] == list(UNSEEN)
    assert report.figures["redocred_unseen_guess"].value == 1.0  # there is one such relation
    assert all(0 <= figure.value <= 1 for figure in report.figures.values())


def test_the_most_probable_relation_is_the_answer() -> None:
    nlp = spacy.blank("en")
    doc, reference = (Doc(nlp.vocab, words=["Ada", "met", "Byron"]) for _ in range(2))
    if not Doc.has_extension("relations"):
        Doc.set_extension("relations", default=None)
    pair, back = {"head": [0, 1], "tail": [2, 3]}, {"head": [2, 3], "tail": [0, 1]}
    reference.user_data["relations"] = [pair | {"label": "r"}, pair | {"label": "s"}, back | {"label": "r"}]
    doc._.relations = [pair | {"label": "t", "score": 0.2}, pair | {"label": "s", "score": 0.4}]
    assert list(relation_types._answers(doc, Example(doc, reference).reference)) == [({"r", "s"}, "s"), ({"r"}, "")]
