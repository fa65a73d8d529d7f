from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.conll2012 import coreference, parse, read_parts
from entitykit.corpora.read import read_docs
from entitykit.errors import CorpusError
from tests.corpora.util import entities, offsets, starts, words

Read = Callable[..., list[Doc]]

TALK = """#begin document (bc/talk); part 000
bc/talk  0  0  Ada   NNP  (TOP(S*  -    -  -  Eve  (PERSON)  *  (7)
bc/talk  0  1  met   VBD  *        met  01 1  Eve  *         *  -
bc/talk  0  2  the   DT   *        -    -  -  Eve  (ORG*     *  (2
bc/talk  0  3  Royal NNP  *        -    -  -  Eve  (NORP)    *  -
bc/talk  0  4  Club  NNP  *))      -    -  -  Eve  *)        *  2)

bc/talk  0  0  It    PRP  *        -    -  -  -    *         *  (2)|(7
bc/talk  0  1  pays  VBZ  *        -    -  -  -    *         *  (9)
bc/talk  0  2  her   PRP  *        -    -  -  -    *         *  7)|(7)
#end document
#begin document (bc/talk); part 001
bc/talk  1  0  Ada   NNP  *        -    -  -  -    *         *  -
#end document
"""

COREF_ONLY = "#begin document (a novel); part 0\n{}\n#end document\n"


def novel(*cells: str) -> str:
    return COREF_ONLY.format("\n".join(f"n\t0\t{i}\tw{i}" + "\t_" * 8 + f"\t{cell}" for i, cell in enumerate(cells)))


def test_a_doc_per_part(read: Read) -> None:
    first, second = read(TALK, "conll2012")
    assert words(first) == ["Ada", "met", "the", "Royal", "Club", "It", "pays", "her"]
    assert [doc.user_data["id"] for doc in (first, second)] == ["bc/talk_000", "bc/talk_001"]
    assert starts(first) == [0, 5]
    assert [token.tag_ for token in first][:3] == ["NNP", "VBD", "DT"]
    assert first.user_data["speakers"] == ["Eve"] * 5 + [""] * 3
    assert "speakers" not in second.user_data


def test_clusters_in_the_order_of_their_first_mentions(read: Read) -> None:
    first, second = read(TALK, "conll2012")
    assert {key for key in first.spans if key.startswith("coref")} == {f"coref_clusters_{i}" for i in (1, 2, 3)}
    assert offsets(first.spans["coref_clusters_1"]) == [(0, 1, ""), (5, 8, ""), (7, 8, "")]
    assert offsets(first.spans["coref_clusters_2"]) == [(2, 5, ""), (5, 6, "")]
    assert offsets(first.spans["coref_clusters_3"]) == [(6, 7, "")]
    assert offsets(first.spans["mentions"]) == [
        (start, end, "") for start, end in ((0, 1), (2, 5), (5, 8), (5, 6), (6, 7), (7, 8))
    ]
    assert (list(second.spans["coref_clusters_1"]), len(second.spans["mentions"])) == ([], 0)


def test_entities(read: Read) -> None:
    first, second = read(TALK, "conll2012")
    assert entities(first) == [("Ada", "PERSON"), ("Royal", "NORP"), ("the Royal Club", "ORG")]
    assert second.has_annotation("ENT_IOB") is False


def test_tabs_and_empty_cells(read: Read) -> None:
    (doc,) = read(novel("(1", "", "1)"), "conll2012")
    assert offsets(doc.spans["coref_clusters_1"]) == [(0, 3, "")]
    assert not doc.has_annotation("TAG")


def test_a_word_that_looks_like_a_comment(read: Read) -> None:
    (doc,) = read(COREF_ONLY.format("n 0 0 # (1)\nn 0 1 #begin -"), "conll2012")
    assert words(doc) == ["#", "#begin"]


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", "E203", "holds no document"),
        ("n 0 0 a -\n", "E219", "line 1: found 'n 0 0 a -'; expected #begin document"),
        ("#begin document (a); part 0\nn 0 0 a -\n", "E219", "the end of the file"),
        ("#begin document (a); part 0\n#begin document (b); part 0\n", "E219", "line 2: .*expected #end document"),
        (COREF_ONLY.format("n 0 0 a"), "E214", "line 2: 4 columns; expected 5 or more"),
        (COREF_ONLY.format("n\t0\t0\t\t-"), "E210", "line 2: token 1 is empty"),
        (novel("(1", "_"), "E222", r"line 2: the entity bracket '\(1' does not fit: it is never closed"),
        (novel("_", "1)"), "E222", r"line 3: .*'1\)' does not fit: nothing of that cluster is open"),
        (novel("(1)(2)"), "E220", r"line 2: the coreference is '\(1\)\(2\)'"),
        (TALK.replace("(ORG*", "(ORG|"), "E220", r"line 4: the entity is '\(ORG\|'"),
        (TALK.replace("(ORG*", "*    "), "E222", r"line 6: .*no entity is open"),
        (TALK.replace("*)      ", "*       ", 1), "E222", r"line 4: .*'\(ORG' does not fit: it is never closed"),
    ],
)
def test_malformed(read: Read, text: str, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.conll.*{reason}"):
        read(text, "conll2012")


SPANS = st.sets(
    st.tuples(st.integers(0, 6), st.integers(1, 3)).map(lambda pair: (pair[0], min(pair[0] + pair[1], 7))), max_size=6
)


@given(spans=SPANS, data=st.data())
def test_brackets_give_back_the_spans(
    tmp_path_factory: pytest.TempPathFactory, spans: set[tuple[int, int]], data: st.DataObject
) -> None:
    """Nested spans of a cluster close inner ones first; crossing spans need clusters of their own."""
    clusters: dict[int, list[tuple[int, int]]] = {}
    for start, end in sorted(spans):
        fits = [
            n for n, cluster in clusters.items() if all(a == start or b == end or start >= b or end <= b for a, b in cluster)
        ]
        name = data.draw(st.sampled_from([*fits, len(clusters)]))
        clusters.setdefault(name, []).append((start, end))
    cells = ["_"] * 7
    for i in range(7):
        opening = sorted(
            ((end, n) for n, cluster in clusters.items() for start, end in cluster if start == i and end > i + 1), reverse=True
        )
        parts = [f"({n}" for _, n in opening]
        parts += [f"({n})" for n, cluster in clusters.items() for start, end in cluster if (start, end) == (i, i + 1)]
        parts += [f"{n})" for n, cluster in clusters.items() for start, end in cluster if end == i + 1 and start < i]
        cells[i] = "|".join(parts) or "_"
    path = tmp_path_factory.mktemp("novel") / "x.conll"
    path.write_text(novel(*cells), encoding="utf-8")
    (part,) = read_parts(path)
    found = {key: {(mention.start, mention.end) for mention in group} for key, group in coreference(part, path).items()}
    assert found.pop("mentions") == spans
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, clusters.values())) or not spans


NOVEL = {
    "coref/conll/1_a_brat.conll": novel("(1", "1)", "(2)"),
    "coref/conll/829_gullivers_travels_into_several_remote_nations_of_the_world_brat.conll": novel("(1)", "_", "_"),
    "coref/conll/805_this_side_of_paradise_brat.conll": novel("_", "_", "_"),
    "entities/tsv/1_a_brat.tsv": "w0\tB-PER\tO\t\nw1\tI-PER\tB-GPE\t\nw2\tO\tO\t\n",
}


@pytest.fixture
def litbank(tmp_path: Path) -> Path:
    for name, text in NOVEL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_litbank_joins_clusters_and_types(litbank: Path, nlp: Language) -> None:
    first, second, third = read_docs(litbank, "litbank", nlp)
    assert first.user_data["id"] == "1_a_brat"
    assert offsets(first.spans["sc"]) == [(0, 2, "PER"), (1, 2, "GPE")]
    assert offsets(first.spans["coref_clusters_1"]) == [(0, 2, "")]
    assert offsets(first.spans["mentions"]) == [(0, 2, ""), (2, 3, "")]
    assert [doc.has_annotation("ENT_IOB") for doc in (first, second, third)] == [True, False, False]
    assert list(second.spans["coref_clusters_1"]) == []


@pytest.mark.parametrize(("split", "first"), [("train", "1"), ("dev", "805"), ("test", "829")])
def test_litbank_splits(litbank: Path, nlp: Language, split: str, first: str) -> None:
    (doc,) = read_docs(litbank, "litbank", nlp, split=split)
    assert doc.user_data["id"].split("_")[0] == first


def test_litbank_of_two_versions(litbank: Path, nlp: Language) -> None:
    (litbank / "entities/tsv/1_a_brat.tsv").write_text("w0\tO\t\nv1\tO\t\n", encoding="utf-8")
    with pytest.raises(
        CorpusError, match=r"\[E260\] .*1_a_brat.conll and .*1_a_brat.tsv .*: 3 and 2 tokens, .* from token 2 on"
    ):
        list(read_docs(litbank, "litbank", nlp))


def test_parse_gives_plain_values(litbank: Path) -> None:
    (parsed,) = parse(litbank / "coref/conll/1_a_brat.conll")
    assert (parsed.id, parsed.words) == ("a novel_0", ["w0", "w1", "w2"])
