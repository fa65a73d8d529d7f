from __future__ import annotations

from collections.abc import Callable

import pytest
from spacy.tokens import Doc

from entitykit.errors import CorpusError
from entitykit.scoring.gap import GapDecision, decide

Read = Callable[..., list[Doc]]

HEADER = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"
ROW = "d-1\tZoë saw \"Bo Roe's dog. She ran.\tShe\t23\tZoë\t0\tTRUE\tBo Roe\t9\tfalse\thttp://x/y\n"


def test_snippets(read: Read) -> None:
    (doc,) = read(HEADER + ROW, "gap")
    assert doc.text == "Zoë saw \"Bo Roe's dog. She ran."
    assert doc.user_data == {
        "id": "d-1",
        "gap": {
            "pronoun": [23, 26],
            "a": [0, 3],
            "b": [9, 15],
            "a_coref": True,
            "b_coref": False,
            "url": "http://x/y",
        },
    }
    assert not doc.has_annotation("ENT_IOB")
    assert set(doc.spans) == {"sc"}


def test_the_scorer_reads_it(read: Read) -> None:
    (doc,) = read(HEADER + ROW, "gap")
    assert decide(doc) == GapDecision("She", (True, False), (False, False))
    doc.spans["coref_clusters_1"] = [doc[0:1], *(doc[token.i : token.i + 1] for token in doc if token.text == "She")]
    assert decide(doc).predicted == (True, False)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (ROW, "E219", r"line 1: found 'd-1 Zoë.*'; expected ID Text Pronoun"),
        (HEADER + ROW.replace("\thttp://x/y", ""), "E214", "line 2: 10 columns; expected 11"),
        (HEADER + ROW.replace("\t23\t", "\t22\t"), "E226", "line 2: found ' Sh' at 22; expected Pronoun 'She'"),
        (HEADER + ROW.replace("\t9\t", "\t-9\t"), "E220", "line 2: the B-offset is '-9'; expected a whole number"),
        (HEADER + ROW.replace("\tBo Roe\t", "\t\t"), "E226", "line 2: .*expected B ''"),
        (HEADER + ROW.replace("\tfalse\t", "\tno\t"), "E220", "line 2: the B-coref is 'no'; expected TRUE or FALSE"),
        (HEADER, "E203", "holds no document"),
    ],
)
def test_malformed(read: Read, text: str, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.tsv.*{reason}"):
        read(text, "gap")
