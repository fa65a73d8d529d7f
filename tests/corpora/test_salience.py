from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spacy.language import Language

from entitykit.corpora.read import read_docs
from entitykit.corpora.salience import SPLITS, find_names
from entitykit.errors import ConfigError, CorpusError

ARTICLE: dict[str, Any] = {
    "docId": 4,
    "saliency": [{"entityid": 1, "score": 2.33}, {"entityid": 2, "score": 1}, {"entityid": 3, "score": 0.5}],
    "document": [
        {"name": "headline", "value": "Oslo &amp; the fjord"},
        {"name": "dateline", "value": "May 1, Oslo"},
        {"name": "body_par_000", "value": "The city of Oslo likes OSLO's ships."},
        {"name": "body_par_001"},
    ],
}
NAMES = [
    {"doc_id": 4, "entity_id": 1, "meta_wiki_title": "Oslo", "meta_mentions": ["city of oslo", "os"]},
    {"doc_id": 4, "entity_id": 2, "meta_wiki_title": "Bergen_%28city%29", "meta_mentions": ["bergen", ""]},
    {"doc_id": 5, "entity_id": 3, "meta_wiki_title": "Ship", "meta_mentions": ["ships"]},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "saliency-dataset.json").write_text(json.dumps(ARTICLE) + "\n", encoding="utf-8")
    (tmp_path / "wikinews-entities.json").write_text(json.dumps(NAMES), encoding="utf-8")
    (tmp_path / "wikinews-docs.json").write_text("[]", encoding="utf-8")
    return tmp_path


def test_ratings_and_mentions(folder: Path, nlp: Language) -> None:
    (doc,) = read_docs(folder, "salience", nlp)
    assert doc.text == "Oslo & the fjord\n\nThe city of Oslo likes OSLO's ships.\n\n"
    assert doc.user_data == {
        "id": "4",
        "salience": [
            {"id": 1, "entity": "Oslo", "score": 2.33, "group": "entity_1"},
            {"id": 2, "entity": "Bergen (city)", "score": 1.0, "group": "entity_2"},
            {"id": 3, "entity": "", "score": 0.5, "group": "entity_3"},
        ],
    }
    assert [(span.text, span.kb_id_) for span in doc.spans["entity_1"]] == [
        ("Oslo", "Oslo"),
        ("city of Oslo", "Oslo"),
        ("OSLO", "Oslo"),
    ]
    assert [len(doc.spans[key]) for key in ("entity_2", "entity_3")] == [0, 0]
    assert not doc.has_annotation("ENT_IOB")


def test_split(folder: Path, nlp: Language) -> None:
    lines = "\n".join(json.dumps({**ARTICLE, "docId": number}) for number in range(4, 12))
    (folder / "saliency-dataset.json").write_text(lines, encoding="utf-8")
    parts = {split: [doc.user_data["id"] for doc in read_docs(folder, "salience", nlp, split=split)] for split in SPLITS}
    assert parts == {"test": ["5", "10"], "dev": ["6", "11"], "train": ["4", "7", "8", "9"]}
    with pytest.raises(ConfigError, match=r"\[E213\] The option split is 'all'"):
        next(read_docs(folder, "salience", nlp, split="all"))


def test_the_file_itself(folder: Path, nlp: Language) -> None:
    assert len(list(read_docs(folder / "saliency-dataset.json", "salience", nlp))) == 1


def test_no_such_files(folder: Path, nlp: Language) -> None:
    (folder / "wikinews-entities.json").unlink()
    with pytest.raises(CorpusError, match=r"\[E238\] Cannot read '.*wikinews-entities.json'"):
        list(read_docs(folder, "salience", nlp))
    with pytest.raises(CorpusError, match=r"\[E238\]"):
        list(read_docs(folder / "gone", "salience", nlp))


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        ({"docId": "4"}, "E206", "'docId' is '4'"),
        ({"saliency": [{"entityid": 1}]}, "E207", "'score' is missing"),
        ({"document": None}, "E207", "'document' is missing"),
        ({"document": [{"value": "x"}]}, "E207", "'name' is missing"),
    ],
)
def test_malformed(folder: Path, nlp: Language, change: dict[str, Any], code: str, reason: str) -> None:
    (folder / "saliency-dataset.json").write_text(json.dumps(ARTICLE | change), encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*saliency-dataset.json, line 1: .*{reason}"):
        list(read_docs(folder, "salience", nlp))


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("The EU, eu-wide; EUR", ["eu"], [(4, 6), (8, 10)]),
        ("New York City", ["york city", "new york"], [(0, 8)]),
        ("New York City", ["new", "new york city"], [(0, 13)]),
        ("U.S. (U.S.)", ["u.s.", "("], [(0, 4), (6, 10)]),
        ("anything", [], []),
        ("anything", ["", " "], []),
    ],
)
def test_names(text: str, names: list[str], found: list[tuple[int, int]]) -> None:
    assert find_names(text, names) == found
