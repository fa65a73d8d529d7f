from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import CorpusError, EntityKitWarning
from tests.corpora.util import entities, offsets, starts, words

Read = Callable[..., list[Doc]]

NOVEL = """The\tB-PER\tO\tO\t
mayor\tI-PER\tO\tO\t
of\tI-PER\tO\tO\t
Oldtown\tI-PER\tB-GPE\tO\t

slept\tO\tO\tO\t
Lord\tB-PER\tB-PER\tO\t
Grey\tO\tI-PER\tB-PER\t
"""


def test_layers_nest_and_overlap(read: Read) -> None:
    report = Report()
    (doc,) = read(NOVEL, "layered", report=report)
    assert words(doc) == ["The", "mayor", "of", "Oldtown", "slept", "Lord", "Grey"]
    assert starts(doc) == [0, 4]
    assert sorted(offsets(doc.spans["sc"])) == [(0, 4, "PER"), (3, 4, "GPE"), (5, 6, "PER"), (5, 7, "PER"), (6, 7, "PER")]
    assert [(ent.text, ent.label_) for ent in doc.ents] == [("The mayor of Oldtown", "PER"), ("Lord Grey", "PER")]
    assert (report.documents, report.entities, report.not_flat) == (1, 5, 3)
    assert doc.user_data["id"] == "corpus"


def test_without_tab_at_the_line_ends(read: Read) -> None:
    (doc,) = read(NOVEL.replace("\t\n", "\n"), "layered")
    assert entities(doc) == entities(read(NOVEL, "layered")[0])


def test_an_entity_ends_with_its_sentence(read: Read) -> None:
    with pytest.warns(EntityKitWarning, match="W202.* 1 tags"):
        (doc,) = read("a\tB-A\n\nb\tI-A\n", "layered")
    assert offsets(doc.spans["sc"]) == [(0, 1, "A"), (1, 2, "A")]


def test_the_same_entity_in_two_layers_counts_once(read: Read) -> None:
    report = Report()
    (doc,) = read("a\tB-A\tB-A\n", "layered", report=report)
    assert offsets(doc.spans["sc"]) == [(0, 1, "A")]
    assert report.duplicates == 1


def test_a_document_per_file_in_the_order_of_names(tmp_path: Path, nlp: Language) -> None:
    for name in ("c", "a", "b"):
        (tmp_path / f"{name}.tsv").write_text(f"{name}\tB-X\t\n", encoding="utf-8")
    assert [doc.user_data["id"] for doc in read_docs(tmp_path, "layered", nlp)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("a\n", "E215", "line 1: there is no column 1 among 1"),
        ("a\tO\tO\nb\tO\n", "E214", "line 2: 2 columns; expected 3"),
        ("a\tO\tB-A\nb\tO\tS-A\n", "E211", "line 1: 'S-A' is no tag here"),
        ("a\tO\tX\n", "E211", "line 1: 'X' is no tag"),
        ("\tO\n", "E210", "line 1: token 1"),
        ("", "E203", ""),
    ],
)
def test_malformed(read: Read, text: str, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.tsv.*{reason}"):
        read(text, "layered")
