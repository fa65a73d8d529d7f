from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import linked, offsets, starts, words

Read = Callable[..., list[Doc]]

WIKI = "http://en.wikipedia.org/wiki/"
LUTON = f"Luton_Town\t{WIKI}Luton_Town_F.C.\t18177\t/m/01cwq9"
CORPUS = f"""-DOCSTART- (1 EU)
Luton\tB\tLuton Town\t{LUTON}
Town\tI\tLuton Town\t{LUTON}
England\tB\tEngland\tEngland\t{WIKI}England\t9316\t/m/02jx1
beat
Smith\tB\tSmith\t--NME--
.

Caf\u00e9\tB\tCaf\u00e9\tCaf\\u00e9\t{WIKI}Caf%C3%A9_%28AC%2FDC%29\t000
closed

-DOCSTART- (947testa CRICKET (DAY 2))
Hello\tO
-DOCSTART- (1163testb SOCCER)
Japan\tB\tJapan\tJapan\t{WIKI}Japan\t15573\t/m/03_3d

"""


def test_documents(read: Read) -> None:
    report = Report()
    docs = read(CORPUS, "aida", report=report)
    assert [doc.user_data["id"] for doc in docs] == ["1 EU", "947testa CRICKET (DAY 2)", "1163testb SOCCER"]
    assert words(docs[0]) == ["Luton", "Town", "England", "beat", "Smith", ".", "Café", "closed"]
    assert starts(docs[0]) == [0, 6]
    assert linked(docs[0].spans["sc"]) == [
        ("Luton Town", "ENTITY", "Luton Town F.C."),
        ("England", "ENTITY", "England"),
        ("Smith", "ENTITY", "NIL"),
        ("Café", "ENTITY", "Café (AC/DC)"),
    ]
    assert len(docs[1].ents) == 0
    assert (report.entities, report.linked, report.nil) == (5, 4, 1)


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ("url", [f"{WIKI}Luton_Town_F.C.", f"{WIKI}England", "NIL", f"{WIKI}Caf%C3%A9_%28AC%2FDC%29"]),
        ("page", ["18177", "9316", "NIL", "NIL"]),
        ("freebase", ["/m/01cwq9", "/m/02jx1", "NIL", "NIL"]),
        ("yago", ["Luton_Town", "England", "NIL", "Caf\\u00e9"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*W207")
def test_other_ids(read: Read, column: str, ids: list[str]) -> None:
    assert [ent.kb_id_ for ent in read(CORPUS, "aida", kb_id=column)[0].ents] == ids


def test_entities_without_such_an_id_are_counted(read: Read) -> None:
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W207\] .*corpus.tsv: 1 links have no id .* The first: 'Café', .*line 9"):
        read(CORPUS, "aida", kb_id="page", report=report)
    assert (report.unmapped, report.linked, report.nil) == (1, 3, 2)


@pytest.mark.parametrize(("split", "names"), [("train", "1"), ("testa", "947testa"), ("testb", "1163testb")])
def test_splits(read: Read, split: str, names: str) -> None:
    (doc,) = read(CORPUS, "aida", split=split)
    assert doc.user_data["id"].split()[0] == names


def test_tags_that_follow_nothing(read: Read) -> None:
    report = Report()
    text = "a\tI\ta b\tA\tu/wiki/A\n\nb\tI\ta b\tA\tu/wiki/A\nc\tB\tc\tnull\tnull\nd\nd\tB\td\tnull\tu/wiki/D\n"
    with pytest.warns(EntityKitWarning, match=r"\[W202\] .*: 3 tags .* The first: I of 'a b' follows no mention .*line 1"):
        (doc,) = read(text, "aida", report=report)
    assert offsets(doc.spans["sc"]) == [(0, 1, "ENTITY"), (1, 3, "ENTITY"), (4, 5, "ENTITY")]
    assert [ent.kb_id_ for ent in doc.ents] == ["A", "A", "D"]
    assert report.repaired == 3


@pytest.mark.parametrize(
    ("line", "code", "reason"),
    [
        ("a\tB", "E219", r"line 3: found 'a\tB'; expected a token alone, or a token, B or I"),
        ("a\tB\ta", "E219", ""),
        ("a\t0\ta\tA", "E219", ""),
        ("a NNP I-NP I-PER\tx", "E219", ""),
        ("\tB\ta\tA", "E210", "line 3: token 1 is empty"),
        ("  \tB\ta\tA", "E210", ""),
        (b"\xff", "E204", "line 3: the byte 0xff"),
    ],
)
def test_malformed(read: Read, line: str | bytes, code: str, reason: str) -> None:
    content = b"-DOCSTART- (1 x)\nfine\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n"
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.tsv.*{reason}"):
        read(content, "aida")


def test_nothing_to_read(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E203\]"):
        read("\n\n", "aida")
    with pytest.raises(CorpusError, match=r"\[E235\] .* 1 were not selected"):
        read("-DOCSTART- (1 x)\na\n", "aida", split="testb")


@pytest.mark.parametrize(("option", "value"), [("kb_id", "qid"), ("split", "test")])
def test_unknown_options(read: Read, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E213\] The option {option} is '{value}'; expected: \w+, \w+"):
        read(CORPUS, "aida", **{option: value})


token = st.text(st.characters(codec="utf-8", exclude_characters="\t\n\r"), min_size=1, max_size=5).filter(
    lambda text: bool(text.strip()) and not text.startswith("-DOCSTART-")
)
mention = st.tuples(st.lists(token, min_size=1, max_size=3), st.sampled_from(["", "NIL", "Ada B."]))
"""Tokens, and what they are: no mention, one without entity, one with."""


@given(st.lists(st.lists(mention, min_size=1, max_size=4), min_size=1, max_size=3))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, nlp: Language, sentences: list[list[tuple[list[str], str]]]
) -> None:
    lines, gold, n_words, first = ["-DOCSTART- (1 x)"], [], 0, []
    for sentence in sentences:
        first.append(n_words)
        for parts, entity in sentence:
            name = "--NME--" if entity == "NIL" else "Ada_B."
            tail = f"\t{' '.join(parts)}\t{name}" + ("" if entity == "NIL" else f"\t{WIKI}{name}\t7")
            lines += [part + (f"\t{'I' if i else 'B'}{tail}" if entity else "") for i, part in enumerate(parts)]
            gold += [(n_words, n_words + len(parts), entity)] if entity else []
            n_words += len(parts)
        lines.append("")
    path = tmp_path_factory.mktemp("aida") / "x.tsv"
    path.write_bytes("\n".join(lines).encode())
    (doc,) = read_docs(path, "aida", nlp)
    assert words(doc) == [part for sentence in sentences for parts, _ in sentence for part in parts]
    assert [(span.start, span.end, span.kb_id_) for span in doc.spans["sc"]] == gold
    assert starts(doc) == first
