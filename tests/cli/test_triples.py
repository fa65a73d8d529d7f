"""Exported triples, read again with the standard library."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.tokens import Doc, DocBin, Span

from entitykit.cli import triples as command
from entitykit.corpora.jsonl import doc_to_record
from entitykit.corpora.triples import UNKNOWN, WRITTEN, Names, Triple, csv_lines, graphml_lines, nt_lines, read_triples
from entitykit.errors import CorpusError, EntityKitError, EntityKitWarning, InputError

NLP = spacy.blank("en")
LINE = re.compile(
    r'<([^<>"{}|^`\\\x00-\x20]*)> <([^<>"{}|^`\\\x00-\x20]*)> (?:<([^<>"{}|^`\\\x00-\x20]*)>|"((?:[^"\\\n\r]|\\.)*)") \.\n'
)
NAMESPACE = "{http://graphml.graphdrawing.org/xmlns}"


def relation(head: tuple[int, int], tail: tuple[int, int], label: str, **more: Any) -> dict[str, Any]:
    return {"head": list(head), "tail": list(tail), "label": label, **more}


def annotated(words: list[str], relations: list[dict[str, Any]], *, gold: bool = False) -> Doc:
    doc = Doc(NLP.vocab, words=words)
    doc.user_data["relations" if gold else WRITTEN] = relations
    return doc


@pytest.fixture
def docs() -> list[Doc]:
    one = annotated(
        ["Ada", "Lovelace", "lived", "in", "London", '"', "&", "<b>"],
        [
            relation((0, 2), (4, 5), "Live_In", score=0.75, sentence=0),
            relation((0, 2), (5, 8), "said: “so”", score=0.5, sentence=None),
        ],
    )
    one.set_ents([Span(one, 0, 2, label="PER", kb_id="Q7259"), Span(one, 4, 5, label="LOC", kb_id="NIL")])
    one.spans["sc"] = [Span(one, 4, 5, label="CITY")]
    one.user_data["id"] = "doc 1/é"
    two = annotated(["London", "is", "where", "Ada", "was"], [relation((3, 4), (0, 1), "Live_In")], gold=True)
    two.set_ents([Span(two, 3, 4, label="PER", kb_id="Q7259")])
    return [one, two]


@pytest.fixture
def source(docs: list[Doc], tmp_path: Path) -> Path:
    path = tmp_path / "x.spacy"
    DocBin(docs=docs, store_user_data=True).to_disk(path)
    return path


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(argument) for argument in arguments]))


def statements(text: str) -> list[tuple[str, str, str | None, str | None]]:
    lines = text.splitlines(keepends=True)
    matches = [LINE.fullmatch(line) for line in lines]
    assert all(matches), [line for line, match in zip(lines, matches, strict=True) if not match]
    assert text.isascii() or '"' in text
    return [match.groups() for match in matches if match]  # type: ignore[misc]


def test_csv(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "x.csv"
    assert run(source, target) == 0
    rows = list(csv.DictReader(io.StringIO(target.read_text(encoding="utf-8"))))
    assert [(row["document"], row["head"], row["relation"], row["tail"], row["score"], row["sentence"]) for row in rows] == [
        ("doc 1/é", "Ada Lovelace", "Live_In", "London", "0.75", "0"),
        ("doc 1/é", "Ada Lovelace", "said: “so”", '" & <b>', "0.5", ""),
        ("x-2", "Ada", "Live_In", "London", "", ""),
    ]
    assert [rows[0][f"head_{name}"] for name in ("type", "id", "start", "end")] == ["PER", "Q7259", "0", "12"]
    assert [rows[0][f"tail_{name}"] for name in ("type", "id", "start", "end")] == ["LOC", "", "22", "28"]
    assert [rows[1][f"tail_{name}"] for name in ("type", "id")] == ["", ""]
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["documents", "2"], ["triples", "3"]]


def test_n_triples(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.nt"
    run(source, target, "--base", "http://a.org/", "--links", "urn:q:")
    found = statements(target.read_text(encoding="utf-8"))
    assert len(found) == len(set(found))
    lives = [(subject, target) for subject, name, target, _ in found if name == "http://a.org/relation/Live_In"]
    assert lives == [
        ("urn:q:Q7259", "http://a.org/entity/doc%201%2F%C3%A9/London"),
        ("urn:q:Q7259", "http://a.org/entity/x-2/London"),
    ]
    texts = {text for subject, name, _, text in found if name.endswith("#label") and subject == "urn:q:Q7259"}
    assert texts == {"Ada Lovelace", "Ada"}
    assert '\\" & <b>' in {text for *_, text in found}
    types = {(subject, kind) for subject, name, kind, _ in found if name.endswith("#type")}
    assert ("urn:q:Q7259", "http://a.org/type/PER") in types
    assert unquote(next(name for _, name, _, _ in found if "said" in name)) == "http://a.org/relation/said: “so”"


def test_graphml(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.graphml"
    run(source, target)
    graph = ET.parse(target).getroot().find(f"{NAMESPACE}graph")
    assert graph is not None
    nodes = {node.get("id"): data(node) for node in graph.iter(f"{NAMESPACE}node")}
    assert [node["text"] for node in nodes.values()] == ["Ada Lovelace", "London", '" & <b>', "London"]
    assert nodes["n0"] == {
        "text": "Ada Lovelace",
        "type": "PER",
        "kb_id": "Q7259",
        "iri": "http://www.wikidata.org/entity/Q7259",
    }
    edges = [(edge.get("source"), edge.get("target"), data(edge)) for edge in graph.iter(f"{NAMESPACE}edge")]
    assert edges[0] == ("n0", "n1", {"relation": "Live_In", "document": "doc 1/é", "sentence": "0", "score": "0.75"})
    assert edges[2] == ("n0", "n3", {"relation": "Live_In", "document": "x-2"})
    keys = {key.get("id") for key in ET.parse(target).getroot().iter(f"{NAMESPACE}key")}
    assert keys >= {name for node in nodes.values() for name in node} | {name for *_, values in edges for name in values}


def data(element: ET.Element) -> dict[str | None, str | None]:
    return {child.get("key"): child.text for child in element}


def test_the_format_option_wins(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "x.csv", "--format", "nt")
    assert statements((tmp_path / "x.csv").read_text(encoding="utf-8"))
    run(source, tmp_path / "x")
    assert (tmp_path / "x").read_text(encoding="utf-8").startswith("document,sentence,head,")
    with pytest.raises(InputError, match=r"E432.*'\.txt'; expected one of \.csv, \.nt, \.graphml\..* --format"):
        run(source, tmp_path / "x.txt")


def test_documents_without_relations_are_told(tmp_path: Path) -> None:
    path = tmp_path / "none.spacy"
    DocBin(docs=[annotated(["Ada"], []), annotated(["Byron"], [])], store_user_data=True).to_disk(path)
    with pytest.warns(EntityKitWarning, match=r"W423. There are no relations in .*none\.spacy, of 2 documents"):
        assert run(path, tmp_path / "x.csv") == 0
    assert (tmp_path / "x.csv").read_text(encoding="utf-8").count("\n") == 1


awkward = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(awkward, min_size=2, max_size=4), label=awkward, name=awkward, kb_id=awkward)
def test_awkward_texts_come_back(words: list[str], label: str, name: str, kb_id: str) -> None:
    doc = annotated(words, [relation((0, 1), (1, 2), label, score=0.125)])
    doc.set_ents([Span(doc, 0, 1, label="T", kb_id=kb_id)])
    (triple,) = read_triples(doc, name)
    assert (triple.head.text, triple.tail.text) == (" ".join(words[0].split()), " ".join(words[1].split()))
    (row,) = list(csv.DictReader(io.StringIO("".join(csv_lines([triple])), newline="")))
    assert (row["relation"], row["document"], row["head_id"]) == (label, name, triple.head.kb_id)
    assert statements("".join(nt_lines([triple])).replace("\x85", "").replace("\u2028", "").replace("\u2029", ""))
    ET.fromstring("".join(graphml_lines([triple])))


@pytest.mark.parametrize(
    ("kb_id", "iri"),
    [
        ("https://kb.org/é?x=1#y", "https://kb.org/é?x=1#y"),
        ("http://dbpedia.org/resource/Zürich", "http://dbpedia.org/resource/Zürich"),
        ("urn:isbn:1", "urn:isbn:1"),
        ("http://a.org/a b<c>", "http://a.org/a%20b%3Cc%3E"),
        ("GO:0008150", "http://www.wikidata.org/entity/GO%3A0008150"),
    ],
)
def test_ids_that_are_iris_stay(kb_id: str, iri: str) -> None:
    """Another graph has the same node; what no IRI may have is encoded, and all else is an id of the knowledge base."""
    doc = annotated(["a", "b"], [relation((0, 1), (1, 2), "r")])
    doc.set_ents([Span(doc, 0, 1, label="T", kb_id=kb_id)])
    (triple,) = read_triples(doc)
    lines = "".join(nt_lines([triple]))
    assert f"<{iri}>" in lines
    assert statements(lines)


def test_unknown_entities_are_one_node(docs: list[Doc]) -> None:
    """By their provisional ids, of their document or of the corpus, unless they have a link."""
    for doc, groups in zip(docs, ({"NIL-1": [[4, 5], [5, 8]], "NIL-2": [[0, 2]]}, {"NIL-c-1": [[0, 1]]}), strict=True):
        doc.user_data[UNKNOWN] = groups
    triples = [triple for doc in docs for triple in read_triples(doc, "two")]
    ends = [triple.tail.unknown for triple in triples]
    assert ends == ["NIL-1", "NIL-1", "NIL-c-1"]
    assert [triple.head.unknown for triple in triples] == [""] * 3
    found = statements("".join(nt_lines(triples, Names("http://a.org/", "urn:q:"))))
    objects = [target for _, name, target, _ in found if "relation/" in name]
    assert sorted(set(objects), key=str) == ["http://a.org/entity/NIL-c-1", "http://a.org/entity/doc%201%2F%C3%A9/NIL-1"]
    rows = list(csv.DictReader(io.StringIO("".join(csv_lines(triples)))))
    assert [(row["head_id"], row["tail_id"]) for row in rows] == [("Q7259", "NIL-1"), ("Q7259", "NIL-1"), ("Q7259", "NIL-c-1")]
    nodes = list(ET.fromstring("".join(graphml_lines(triples))).iter(f"{NAMESPACE}node"))
    assert [data(node).get("kb_id") for node in nodes] == ["Q7259", None, None]


def test_a_cluster_has_what_any_of_its_mentions_has(tmp_path: Path) -> None:
    """`He` is Byron, with his id, type and longest name; a cluster without a link has the group of any mention."""
    words = ["He", "wrote", ".", "Byron", ",", "Lord", "Byron", ",", "left", "London", ",", "the", "city"]
    numbers = {"head_cluster": 1, "tail_cluster": 2}
    doc = annotated(words, [relation((0, 1), (9, 10), "Left", **numbers), relation((0, 1), (9, 10), "Of", head_cluster=None)])
    doc.spans["coref_clusters_1"] = [doc[0:1], doc[3:4], doc[5:7]]
    doc.spans["coref_clusters_2"] = [doc[9:10], doc[11:13]]
    names = [
        Span(doc, 3, 4, label="PERSON", kb_id="Q5679"),
        Span(doc, 5, 7, label="PERSON", kb_id="Q5679"),
        Span(doc, 9, 10, "PLACE"),
    ]
    doc.set_ents(names)
    path = tmp_path / "x.spacy"
    DocBin(docs=[doc], store_user_data=True).to_disk(path)
    run(path, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ends = [[row[f"{end}{key}"] for key in ("", "_type", "_id", "_start", "_end")] for row in rows for end in ("head", "tail")]
    london = ["London", "PLACE", "", "37", "43"]
    assert ends == [["Lord Byron", "PERSON", "Q5679", "19", "29"], london, ["He", "", "", "0", "2"], london]
    run(path, tmp_path / "x.nt")
    said = [line for line in statements((tmp_path / "x.nt").read_text(encoding="utf-8")) if "/relation/" in line[1]]
    assert [subject for subject, name, *_ in said if name.endswith("Left")] == ["http://www.wikidata.org/entity/Q5679"]
    doc.set_ents([Span(doc, 3, 4, label="PERSON", kb_id="NIL")])
    doc.user_data[UNKNOWN] = {"NIL-7": [[3, 4]], "NIL-8": [[11, 13]]}
    (one, _) = read_triples(doc)
    assert (one.head.text, one.head.label, one.head.kb_id, one.head.unknown) == ("Byron", "PERSON", "", "NIL-7")
    assert (one.tail.text, one.tail.label, one.tail.unknown) == ("the city", "", "NIL-8")


def test_a_cluster_that_there_is_not() -> None:
    doc = annotated(["a", "b"], [relation((0, 1), (1, 2), "r", head_cluster=1, tail_cluster=3)])
    doc.spans["coref_clusters_1"] = [doc[0:1]]
    with pytest.raises(InputError, match="E346.*one of the 1 groups"):
        list(read_triples(doc))


@pytest.mark.parametrize("groups", [3, {"NIL-1": [[0]]}, {"NIL-1": [["a", "b"]]}, ["NIL-1"]], ids=str)
def test_groups_that_cannot_be_read(groups: Any) -> None:
    doc = annotated(["a", "b"], [relation((0, 1), (1, 2), "r")])
    doc.user_data[UNKNOWN] = groups
    with pytest.raises(InputError, match="E562"):
        list(read_triples(doc))


def test_documents_of_different_files_have_different_names(tmp_path: Path) -> None:
    doc = annotated(["Ada", "met", "Bob"], [relation((0, 1), (2, 3), "MET")])
    for folder in ("a", "b"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        DocBin(docs=[doc, doc], store_user_data=True).to_disk(tmp_path / "in" / folder / "train.spacy")
    run(tmp_path / "in", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8") as file:
        assert [row["document"] for row in csv.DictReader(file)] == ["a/train-1", "a/train-2", "b/train-1", "b/train-2"]
    run(tmp_path / "in" / "a" / "train.spacy", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8") as file:
        assert [row["document"] for row in csv.DictReader(file)] == ["train-1", "train-2"]


def test_nothing_to_write(tmp_path: Path) -> None:
    no_triples: list[Triple] = []
    assert "".join(csv_lines(no_triples)).count("\n") == 1
    assert "".join(nt_lines(no_triples)) == ""
    assert not list(ET.fromstring("".join(graphml_lines(no_triples))).iter(f"{NAMESPACE}node"))
    assert list(read_triples(Doc(NLP.vocab, words=["a"]))) == []


@pytest.mark.parametrize("values", [0.5, {"head": [0, 1]}], ids=str)
def test_relations_that_are_no_list(values: Any) -> None:
    with pytest.raises(InputError, match="E349.*expected a list"):
        list(read_triples(annotated(["a", "b"], values)))


@pytest.mark.parametrize(
    "value", [relation((0, 1), (1, 9), "r"), {"head": [0, 1]}, 3, relation((0, 1), (1, 2), "r", score="1")]
)
def test_relations_that_cannot_be_read(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.spacy"
    DocBin(docs=[annotated(["a", "b"], [value])], store_user_data=True).to_disk(path)
    with pytest.raises(InputError, match=r"\[E345\]"):
        run(path, tmp_path / "x.nt")
    assert [file.name for file in tmp_path.iterdir()] == ["x.spacy"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["gone.spacy", "x.nt"], "E201"),
        (["x.spacy", "x.spacy", "--format", "nt"], "E427"),
        (["x.spacy", "x.nt", "--base", "no iri"], "E428"),
        (["x.spacy", "x.nt", "--links", "<x:>"], "E428"),
        (["x.spacy", "."], "E426"),
        (["broken.spacy", "x.nt"], "E424"),
    ],
)
def test_mistakes(arguments: list[str], code: str, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    Path("broken.spacy").write_bytes(b"no DocBin")
    with pytest.raises(EntityKitError, match=code):
        run(*arguments)
    assert not Path("x.nt").exists()


def test_a_folder_without_files(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="E202"):
        run(tmp_path, tmp_path / "x.nt")


def test_what_annotate_writes_by_default(docs: list[Doc], tmp_path: Path) -> None:
    """JSON lines, read as the DocBin of the same documents; in a folder without the list of failures."""
    del docs[0].spans["sc"]
    source = tmp_path / "x.spacy"
    DocBin(docs=docs, store_user_data=True).to_disk(source)
    folder = tmp_path / "written"
    folder.mkdir()
    with (folder / "x.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(doc_to_record(doc))}\n" for doc in docs)
    (folder / "x.jsonl.errors.jsonl").write_text('{"input": "a.txt", "error": "gone"}\n', encoding="utf-8")
    found = []
    for path in (source, folder / "x.jsonl", folder):
        run(path, tmp_path / "x.csv")
        found.append((tmp_path / "x.csv").read_text(encoding="utf-8"))
    assert found[0] == found[1] == found[2]
    (folder / "y.jsonl").write_text('{"text": "a", "relations": [{"head": [0, 1]}]}\n', encoding="utf-8")
    with pytest.raises(CorpusError, match=r"E207.*y\.jsonl, line 1"):
        run(folder / "y.jsonl", tmp_path / "x.csv")


def test_standard_output(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table goes there, and the counts do not."""
    monkeypatch.chdir(tmp_path)
    run(source, tmp_path / "x.csv")
    told = capsys.readouterr().out
    assert run(source, "-") == 0
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert printed.err == told != ""
    assert not Path("-").exists()
