from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import AWKWARD, entities, offsets, starts, words

Read = Callable[..., list[Doc]]

NEWS = """-DOCSTART- -X- -X- O

Ada NNP I-NP B-PER
Lovelace NNP I-NP I-PER
wrote VBD I-VP O

London NNP I-NP B-LOC

-DOCSTART- -X- -X- O

Nobody NN I-NP O
"""


def test_a_doc_per_sentence(read: Read) -> None:
    docs = read(NEWS, "columns")
    assert [words(doc) for doc in docs] == [["Ada", "Lovelace", "wrote"], ["London"], ["Nobody"]]
    assert [entities(doc) for doc in docs] == [[("Ada Lovelace", "PER")], [("London", "LOC")], []]
    assert [[(ent.text, ent.label_) for ent in doc.ents] for doc in docs] == [entities(doc) for doc in docs]
    assert [doc.user_data["id"] for doc in docs] == ["corpus-1", "corpus-2", "corpus-3"]
    assert [starts(doc) for doc in docs] == [[0], [0], [0]]
    assert all(doc.has_unknown_spaces for doc in docs)


def test_whole_documents(read: Read) -> None:
    first, second = read(NEWS, "columns", n_sents=0)
    assert words(first) == ["Ada", "Lovelace", "wrote", "London"]
    assert offsets(first.spans["sc"]) == [(0, 2, "PER"), (3, 4, "LOC")]
    assert starts(first) == [0, 3]
    assert words(second) == ["Nobody"]


def test_several_sentences_never_cross_a_document(read: Read) -> None:
    text = "".join(f"{word}\tO\n\n" for word in "abc") + "-DOCSTART-\tO\n\nd\tO\n\ne\tO\n"
    assert [words(doc) for doc in read(text, "columns", n_sents=2)] == [["a", "b"], ["c"], ["d", "e"]]


def test_columns_by_number(read: Read) -> None:
    (doc,) = read("1\tB-X\tAda\tNNP\n2\tI-X\tLovelace\tNNP\n", "columns", token_column=-2, tag_column=1)
    assert entities(doc) == [("Ada Lovelace", "X")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_line_ends_and_byte_order_mark(read: Read, end: str, bom: str, last: str) -> None:
    text = bom + "Ada\tB-PER\nwrote\tO\n\t\nBob\tB-PER" + last
    docs = read(text.replace("\n", end), "columns")
    assert [(words(doc), entities(doc)) for doc in docs] == [
        (["Ada", "wrote"], [("Ada", "PER")]),
        (["Bob"], [("Bob", "PER")]),
    ]


def test_comments_and_tokens_that_start_with_a_hash(read: Read) -> None:
    docs = read("# a comment = B-PER or not\n#\n# id 1\n# O\n#tag B-X\n#\n", "columns")
    assert [words(doc) for doc in docs] == [["#", "#tag"]]
    assert [words(doc) for doc in read("# id 1\n#\tO\n# 2\n#tag\tO\n", "columns")] == [["#", "#tag"]]


def test_awkward_tokens(read: Read) -> None:
    text = "".join(f"{token}\tB-X\n" for token in AWKWARD)
    (doc,) = read(text, "columns")
    assert words(doc) == AWKWARD
    assert offsets(doc.spans["sc"]) == [(i, i + 1, "X") for i in range(len(AWKWARD))]


def test_spaces_inside_tokens_between_tabs(read: Read) -> None:
    assert words(read("New York\tB-LOC\n", "columns")[0]) == ["New York"]


def test_repairs_are_counted(read: Read) -> None:
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W202\] .*corpus.tsv: 2 tags are not allowed .* first: I-A in line 1\.$"):
        docs = read("a\tI-A\nb\tI-A\nc\tI-B\n\nd\tB-A\n", "columns", report=report)
    assert [entities(doc) for doc in docs] == [[("a b", "A"), ("c", "B")], [("d", "A")]]
    assert report.repaired == 2


def test_a_stated_scheme_is_not_detected_again(read: Read) -> None:
    assert entities(read("a\tI-A\nb\tI-B\n", "columns")[0]) == [("a", "A"), ("b", "B")]
    with pytest.warns(EntityKitWarning, match="W202"):
        read("a\tI-A\nb\tI-B\n", "columns", scheme="bio")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("a\tO\nb\tc\tO\n", "E214", "line 2: 3 columns; expected 2"),
        ("a O\n\nb\n", "E214", "line 3: 1 columns; expected 2"),
        ("\tO\n", "E210", "line 1: token 1 is empty"),
        ("a\tO\n\tO\n", "E210", "line 2: token 2 is empty"),
        ("a\tO\nb\tPER\n", "E211", "line 2: 'PER' is no tag"),
        ("a\tS-A\nb\tU-A\n", "E212", "mixes tag schemes: S, U"),
        ("", "E203", "holds no document"),
        ("\n\n", "E203", "holds no document"),
        ("# only a comment\n", "E203", "holds no document"),
        (b"a\tO\n\n\xe9\tO\n", "E204", "line 3: the byte 0xe9 is not UTF-8"),
        ("a\tO\n".encode("utf-16"), "E204", "line 1: the byte 0xff is not UTF-8"),
    ],
)
def test_malformed(read: Read, text: str | bytes, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.tsv.*{reason}"):
        read(text, "columns")


def test_no_such_column(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E215\] .*line 1: there is no column 5 among 2"):
        read("a\tO\n", "columns", tag_column=5)


@pytest.mark.parametrize("options", [{"scheme": "iob"}, {"n_sents": -1}])
def test_wrong_options(read: Read, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="E213"):
        read("a\tO\n", "columns", **options)


token = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r"), min_size=1).filter(
    lambda text: not text.startswith("-DOCSTART-") and not text.startswith("\ufeff")
)
sentence = st.lists(st.tuples(token, st.sampled_from(["O", "B-A", "B-B"])), min_size=1, max_size=5)


@given(st.lists(sentence, min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_token_and_entity_is_read(tmp_path: Path, nlp: Language, sentences: list[list[tuple[str, str]]]) -> None:
    path = tmp_path / "any.tsv"
    text = "\n".join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences)
    path.write_bytes(text.encode())
    docs = list(read_docs(path, "columns", nlp))
    assert [words(doc) for doc in docs] == [[word for word, _ in sentence] for sentence in sentences]
    assert [offsets(doc.spans["sc"]) for doc in docs] == [
        [(i, i + 1, tag[2:]) for i, (_, tag) in enumerate(sentence) if tag != "O"] for sentence in sentences
    ]
