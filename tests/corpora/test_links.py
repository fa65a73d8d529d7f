from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.entity_vocabulary import MASK, SPECIAL, UNKNOWN, EntityVocabulary, count_entities, most_frequent
from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning

Read = Callable[..., list[Doc]]

TEXT = "Ada Lovelace wrote to Babbage's friends in London."


def lines(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def links(doc: Doc) -> list[tuple[str, str]]:
    return [(span.text, span.kb_id_) for span in doc.spans["links"]]


def test_links_are_spans_with_their_entity(read: Read) -> None:
    record = {"id": "p1", "text": TEXT, "links": [[0, 12, "Ada Lovelace"], [0, 3, "Ada (name)"], [43, 49, "London"]]}
    (doc,) = read(lines(record), "links")
    assert links(doc) == [("Ada Lovelace", "Ada Lovelace"), ("Ada", "Ada (name)"), ("London", "London")]
    assert {span.label_ for span in doc.spans["links"]} == {""}
    assert (doc.text, doc.user_data["id"], len(doc.ents)) == (TEXT, "p1", 0)


def test_links_without_whole_tokens_are_expanded_and_counted(tmp_path: Path, nlp: Language) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(lines({"text": TEXT, "links": [[22, 25, "Babbage"], [42, 49, "London"], [12, 13, "nothing"]]}))
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W201\] .*1 spans did not end where tokens do .* 1 lost .* 1 hold no visible"):
        (doc,) = read_docs(path, "links", nlp, report=report)
    assert links(doc) == [("Babbage", "Babbage"), ("London", "London")]
    assert (report.expanded, report.trimmed, report.dropped) == (1, 1, 1)


def test_the_least_record(read: Read) -> None:
    doc, other = read(lines({"text": "Hi."}, {"text": "", "links": None}), "links")
    assert (links(doc), links(other), doc.user_data["id"], len(other)) == ([], [], "corpus-1", 0)


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"links": []}, "E207"),
        ({"text": 3}, "E206"),
        ({"text": "a", "links": [[0, 1]]}, "E206"),
        ({"text": "a", "links": [[0, 1.5, "A"]]}, "E206"),
        ({"text": "a", "links": [[0, 1, None]]}, "E206"),
        ({"text": "a", "links": {"0": 1}}, "E206"),
        ({"text": "a", "links": [[1, 0, "A"]]}, "E226"),
        ({"text": "a", "links": [[-1, 1, "A"]]}, "E226"),
        ({"text": "a", "links": [[0, 2, "A"]]}, "E226"),
        ({"text": "a", "links": [[5, 6, "A"]]}, "E226"),
        ({"text": "a", "links": [[0, 1, " "]]}, "E226"),
        ({"text": "a", "links": [[0, 1, "\ud800"]]}, "E209"),
    ],
)
def test_malformed_record(read: Read, record: dict[str, Any], code: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.jsonl, line 2"):
        read(lines({"text": "a"}, record), "links")


def test_entities_are_counted_and_the_most_frequent_kept(read: Read, tmp_path: Path) -> None:
    links_to = ["B", "A", "C", "B", "D", "A", "B"]
    text = " ".join("x" * len(links_to))
    counts = count_entities(
        read(lines({"text": text, "links": [[2 * i, 2 * i + 1, e] for i, e in enumerate(links_to)]}), "links")
    )
    assert counts == {"B": 3, "A": 2, "C": 1, "D": 1}
    vocabulary = most_frequent(counts, 3)
    assert vocabulary.titles == (*SPECIAL, "B", "A", "C")  # of C and D, which are as frequent, the first
    assert [vocabulary.row(title) for title in ("B", "C", "D", "[MASK]")] == [3, 5, UNKNOWN, UNKNOWN]
    assert ("A" in vocabulary, "D" in vocabulary, "[MASK]" in vocabulary, vocabulary.titles[MASK]) == (
        True,
        False,
        False,
        "[MASK]",
    )
    path = tmp_path / "entities.json"
    path.write_bytes(vocabulary.to_bytes())
    assert EntityVocabulary.from_disk(path).titles == vocabulary.titles
    assert json.loads(path.read_text())["[MASK]"] == MASK


@pytest.mark.parametrize("titles", [["A", "A"], ["A", "[MASK]"], [""]])
def test_titles_must_be_distinct(titles: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"\[E241\]"):
        EntityVocabulary(titles)


def test_nothing_to_keep() -> None:
    for counts, size in (({}, 5), ({"A": 1}, 0)):
        with pytest.raises(ConfigError, match=r"\[E241\]"):
            most_frequent(counts, size)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("[]", "E206"),
        ("{", "E205"),
        ("", "E203"),
        ("{}", "E240"),
        ('{"[PAD]": 0, "[UNK]": 1, "A": 2}', "E240"),
        ('{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": 4}', "E240"),
        ('{"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "A": true}', "E240"),
        ('{"[PAD]": 0, "[UNK]": 1, "[MASK]": "2"}', "E240"),
    ],
)
def test_a_file_that_is_no_vocabulary(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "entities.json"
    path.write_text(content)
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*entities.json"):
        EntityVocabulary.from_disk(path)
