from __future__ import annotations

from collections.abc import Callable

import pytest
from spacy.tokens import Doc

from entitykit.corpora.report import Report
from entitykit.errors import CorpusError, EntityKitWarning
from tests.corpora.util import entities

Read = Callable[..., list[Doc]]

TITLE = "Zinc-induced nausea."
ABSTRACT = "Fever and nausea followed 5mg zinc."


def line(text: str, label: str, *concept: str, after: int = 0) -> str:
    start = f"{TITLE} {ABSTRACT}".index(text, after)
    return "\t".join(["11", str(start), str(start + len(text)), text, label, *concept])


HEAD = f"11|t|{TITLE}\n11|a|{ABSTRACT}\n"
BODY = [
    line("Zinc", "Chemical", "D015032"),
    line("nausea", "Disease", "D009325"),
    line("Fever and nausea", "Disease", "D005334|D009325", "Fever|nausea"),
    line("zinc", "Chemical", "-1", after=25),
    "11\tCID\tD015032\tD009325",
]
DOCUMENT = HEAD + "\n".join(BODY) + "\n"


def test_document(read: Read) -> None:
    (doc,) = read(DOCUMENT, "pubtator")
    assert doc.text == f"{TITLE} {ABSTRACT}"
    assert [(ent.text, ent.label_, ent.kb_id_) for ent in doc.spans["sc"]] == [
        ("Zinc", "Chemical", "D015032"),
        ("nausea", "Disease", "D009325"),
        ("Fever and nausea", "Disease", "D005334|D009325"),
        ("zinc", "Chemical", "NIL"),
    ]
    assert [ent.kb_id_ for ent in doc.ents] == ["D015032", "D009325", "D005334|D009325", "NIL"]
    assert doc.user_data == {
        "id": "11",
        "concept_relations": [{"head": "D015032", "tail": "D009325", "label": "CID"}],
        "composite_mentions": [{"start": 21, "end": 37, "ids": ["D005334", "D009325"], "names": ["Fever", "nausea"]}],
    }


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_several_documents(read: Read, end: str) -> None:
    text = f"\n\n{DOCUMENT}\n\n22|t|Empty\n22|a|\n\n33|t|\n33|a|Only here\n33\t1\t5\tOnly\tX\n"
    docs = read(text.replace("\n", end), "pubtator")
    assert [(doc.user_data["id"], doc.text) for doc in docs] == [
        ("11", f"{TITLE} {ABSTRACT}"),
        ("22", "Empty "),
        ("33", " Only here"),
    ]
    assert entities(docs[2]) == [("Only", "X")]


def test_links_are_counted(read: Read) -> None:
    report = Report()
    central = "22|t|ab cd\n22|a|\n22\t0\t2\tab\tGene\t-\n22\t3\t5\tcd\tGene\t672;7157\n"  # PubTator Central
    docs = read(f"{DOCUMENT}\n{central}", "pubtator", report=report)
    assert [ent.kb_id_ for ent in docs[1].ents] == ["NIL", "672;7157"]
    assert (report.entities, report.linked, report.nil) == (6, 4, 2)


def test_mentions_inside_tokens_are_expanded(read: Read) -> None:
    report = Report()
    with pytest.warns(
        EntityKitWarning, match=r"W201.* 2 spans did not end .*first: A \[0, 4\) .*line 1\) became 'pre5x' \[0, 5\)"
    ):
        (doc,) = read("1|t|pre5x\n1|a|ab\n1\t0\t4\tpre5\tA\n1\t7\t8\tb\tB\n", "pubtator", report=report)
    assert entities(doc) == [("pre5x", "A"), ("ab", "B")]
    assert report.expanded == 2


def test_a_mention_of_a_space_is_dropped_and_reported(read: Read) -> None:
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"W201.* 1 hold no visible character .*first: A \[1, 2\)"):
        (doc,) = read("1|t|a b\n1|a|c\n1\t1\t2\t \tA\n", "pubtator", report=report)
    assert (entities(doc), report.dropped) == ([], 1)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("11|a|x\n", "E219", r"line 1: found '11\|a\|x'; expected ID\|t\|title"),
        ("11|t|x\n", "E219", r"line 1: found '11\|t\|x'; expected 11\|a\|abstract"),
        ("11|t|x\n12|a|y\n", "E219", r"line 2: found '12\|a\|y'; expected 11\|a\|abstract"),
        ("11|t|x\n11|a|y\n12\t0\t1\tx\tA\n", "E219", r"line 3: found '12\t0"),
        ("11|t|x\n11|a|y\n11\t0\tx\tA\n\n", "E219", "line 3"),
        (
            "11|t|x\n11|a|y\n11\t0\t1\tz\tA\n",
            "E218",
            r"line 3: the text of 3 characters has 'x' at \[0, 1\); the mention says 'z'",
        ),
        ("11|t|x\n11|a|y\n11\t2\t9\ty\tA\n", "E218", r"3 characters has 'y' at \[2, 9\)"),
        ("11|t|x\n11|a|y\n11\t-1\t1\tx\tA\n", "E219", "line 3"),
        ("11|t|x\n11|a|y\n\n11|t|x\n", "E219", "line 4"),
        ("", "E203", ""),
    ],
)
def test_malformed(read: Read, text: str, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.txt.*{reason}"):
        read(text, "pubtator")
