"""`entitykit cluster` over files, a store, and what is written of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.tokens import DocBin
from spacy.vocab import Vocab

from entitykit.cli.__main__ import main
from entitykit.cli.cluster import Links
from entitykit.errors import EntityKitWarning
from tests.cli.failing import read_json_lines, write_json_lines
from tests.knowledge.kb import build
from tests.pipelines import SENTENCES, add_head, initialized, make_examples, make_pipeline, train

LINES = [text for text, _ in SENTENCES]


@pytest.fixture(scope="module")
def pipeline(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    nlp, examples = initialized(tiny_bert, "cross_document")
    train(nlp, examples, 40)
    path = tmp_path_factory.mktemp("pipeline") / "nlp"
    nlp.to_disk(path)
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_json_lines(folder / "a.jsonl", [{"id": f"line {i}", "text": text} for i, text in enumerate(LINES[:4])])
    (folder / "b.txt").write_text(LINES[4])
    (folder / "c.txt").write_text(LINES[5])
    return folder


def run(*args: object) -> int:
    return main(["cluster", *map(str, args), "--quiet"])


def ids_of(path: Path) -> dict[str, list[str]]:
    """Ids of the clusters of each document's mentions."""
    return {record["id"]: [span["id"] for span in record["spans"]["cross_document"]] for record in read_json_lines(path)}


def clusters(path: Path) -> dict[str, int]:
    return {cluster["id"]: len(cluster["mentions"]) for cluster in read_json_lines(path)}


def test_a_corpus_at_once_and_again(tmp_path: Path, pipeline: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, out = tmp_path / "store", tmp_path / "out.jsonl"
    assert run(store, corpus, "-o", out, "--pipeline", pipeline) == 0
    found = ids_of(out)
    assert len(found) == 6
    assert all(id_.startswith("C") for ids in found.values() for id_ in ids)
    assert found["line 2"] == []
    capsys.readouterr()
    assert run(store, corpus, "-o", tmp_path / "again.jsonl", "--pipeline", pipeline) == 0
    assert ids_of(tmp_path / "again.jsonl") == found
    printed = dict(line.rsplit(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert (printed["documents"], printed["unchanged"], printed["mentions"]) == ("6", "6", "0")
    assert run(store, "--export", tmp_path / "clusters.jsonl") == 0
    sizes = clusters(tmp_path / "clusters.jsonl")
    assert sum(sizes.values()) == sum(map(len, found.values()))
    assert sizes.keys() == {id_ for ids in found.values() for id_ in ids}


def test_a_corpus_that_grows(tmp_path: Path, pipeline: Path, corpus: Path) -> None:
    """In batches of one document; what was written last has the ids of the end."""
    store, outputs = tmp_path / "store", [tmp_path / f"{i}.jsonl" for i in range(3)]
    assert run(store, corpus / "a.jsonl", "-o", outputs[0], "--pipeline", pipeline, "--batch-size", 1) == 0
    assert run(store, corpus / "b.txt", corpus / "c.txt", "-o", outputs[1], "--pipeline", pipeline) == 0
    assert run(store, corpus, "-o", outputs[2], "--pipeline", pipeline) == 0
    last = ids_of(outputs[2])
    assert ids_of(outputs[1]).items() <= last.items()
    assert run(store, "--export", tmp_path / "clusters.jsonl") == 0
    assert set(clusters(tmp_path / "clusters.jsonl")) == {id_ for ids in last.values() for id_ in ids}


def test_docbins_keep_ids_and_are_read(tmp_path: Path, pipeline: Path, corpus: Path) -> None:
    store, out = tmp_path / "store", tmp_path / "out.spacy"
    assert run(store, corpus, "-o", out, "--pipeline", pipeline) == 0
    docs = list(DocBin().from_disk(out).get_docs(Vocab()))
    written = {doc.user_data["id"]: [span.id_ for span in doc.spans["cross_document"]] for doc in docs}
    assert run(store, out, "-o", tmp_path / "out.jsonl", "--pipeline", pipeline) == 0
    assert ids_of(tmp_path / "out.jsonl") == written
    assert run(store, corpus, "-o", tmp_path / "out.parquet", "--pipeline", pipeline) == 0


def test_what_is_said_of_a_store(tmp_path: Path, pipeline: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "store"
    assert run(store, corpus, "--pipeline", pipeline) == 0
    capsys.readouterr()
    assert run(store, "--info") == 0
    lines = capsys.readouterr().out.splitlines()
    printed = dict(line.rsplit(maxsplit=1) for line in lines[:-1])
    assert (printed["documents"], printed["numbers of a vector"]) == ("6", "32")
    assert int(printed["mentions"]) == sum(len(entities) for _, entities in SENTENCES)
    assert "entitykit" in lines[-1]
    assert run(store, "--export", "-") == 0
    exported = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(exported) == int(printed["clusters"])


def test_broken_inputs_do_not_stop_it(tmp_path: Path, pipeline: Path, corpus: Path) -> None:
    (corpus / "bad.jsonl").write_text('{"id": "line 1", "text": "the same id"}\nno JSON\n{"text": "Peter"}\n')
    out = tmp_path / "new" / "out.jsonl"
    assert run(tmp_path / "store", corpus, "-o", out, "--pipeline", pipeline) == 1
    failures = read_json_lines(tmp_path / "new" / "out.jsonl.errors.jsonl")
    assert [failure["error_code"] for failure in failures] == ["E639", "E205"]
    assert len(ids_of(out)) == 7


@pytest.mark.parametrize("option", ["--output", "--export"])
def test_tables_stay_out_of_json_lines(
    tmp_path: Path, pipeline: Path, corpus: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert run(tmp_path / "store", corpus, option, "-", "--info", "--pipeline", pipeline) == 0
    out, err = capsys.readouterr()
    assert all("id" in json.loads(line) for line in out.splitlines())
    assert {"failed", "documents", "built"} <= {line.split(maxsplit=1)[0] for line in err.splitlines()}


def test_texts_on_standard_input_are_documents_of_their_own(
    tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, found = tmp_path / "store", []
    for i, text in enumerate((LINES[0], LINES[1], LINES[0])):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert run(store, "-", "-o", tmp_path / f"{i}.jsonl", "--pipeline", pipeline) == 0
        found += read_json_lines(tmp_path / f"{i}.jsonl")
    assert [record["text"] for record in found] == [LINES[0], LINES[1], LINES[0]]
    assert found[0]["id"] == found[2]["id"]
    assert run(store, "--export", tmp_path / "clusters.jsonl") == 0
    mentions = [mention for cluster in read_json_lines(tmp_path / "clusters.jsonl") for mention in cluster["mentions"]]
    assert {mention["document"] for mention in mentions} == {record["id"] for record in found}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], "E428"),
        (["in.txt"], "E428"),
        (["--info"], "E633"),
        (["nowhere.txt", "--pipeline", "PIPELINE"], "E421"),
        (["in.txt", "--pipeline", "PIPELINE", "-o", "in.txt"], "E427"),
        (["out.jsonl.errors.jsonl", "--pipeline", "PIPELINE", "-o", "out.jsonl"], "E427"),
        (["in.txt", "--pipeline", "PIPELINE", "-o", "-", "--export", "-"], "E428"),
        (["in.txt", "--pipeline", "NOT LOADED", "-o", "in.txt/out.jsonl"], "E425"),
        (["in.txt", "--pipeline", "NOT LOADED", "--export", "in.txt/out.jsonl"], "E425"),
        (["in.txt", "--pipeline", "NOT LOADED", "--export", "blank"], "E426"),
        (["in.txt", "--pipeline", "PIPELINE", "-o", "out.jsonl", "--export", "out.jsonl"], "E427"),
        (["in.txt", "--pipeline", "PIPELINE", "--export", "in.txt"], "E427"),
        (["in.txt", "--pipeline", "PIPELINE", "--batch-size", "0"], "E428"),
        (["in.txt", "--pipeline", "PIPELINE", "-o", "-", "--format", "html"], "E428"),
        (["in.txt", "--pipeline", "BLANK"], "E632"),
    ],
)
def test_what_cannot_work(
    arguments: list[str], code: str, tmp_path: Path, pipeline: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_text("Peter")
    spacy.blank("xx").to_disk("blank")
    names = {"PIPELINE": str(pipeline), "BLANK": "blank"}
    assert run("store", *(names.get(each, each) for each in arguments)) == 2
    assert f"[{code}]" in capsys.readouterr().err
    assert not Path("store").exists()


def test_a_store_of_another_pipeline(tmp_path: Path, pipeline: Path, tiny_bert: Path, corpus: Path, capsys: Any) -> None:
    assert run(tmp_path / "store", corpus, "--pipeline", pipeline) == 0
    nlp, examples = initialized(tiny_bert, "cross_document")
    train(nlp, examples, 1)
    nlp.to_disk(tmp_path / "other")
    (corpus / "new.txt").write_text("Peter")
    assert run(tmp_path / "store", corpus / "new.txt", "--pipeline", tmp_path / "other") == 2
    assert "[E636]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def with_linker(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    nlp = make_pipeline(tiny_bert)
    add_head(nlp, "linker_state")
    add_head(nlp, "cross_document", mentions="ents", threshold=0.97, mean_threshold=0.97)
    nlp.initialize(lambda: make_examples(nlp))
    linker: Any = nlp.get_pipe("linker_state")
    linker.build_index()
    path = tmp_path_factory.mktemp("linking") / "nlp"
    nlp.to_disk(path)
    return path


def test_clusters_are_linked(tmp_path: Path, with_linker: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the documents and in the table of clusters, for all mentions of a cluster alike; tomorrow, too."""
    (tmp_path / "more.txt").write_text("Peter and Zork went to New York")
    outputs = [tmp_path / "today.jsonl", tmp_path / "tomorrow.jsonl"]
    assert run(tmp_path / "store", corpus, "-o", outputs[0], "--pipeline", with_linker, "--link", "--batch-size", 2) == 0
    assert run(tmp_path / "store", corpus, tmp_path / "more.txt", "-o", outputs[1], "--pipeline", with_linker, "--link") == 0
    table = tmp_path / "clusters.jsonl"
    assert run(tmp_path / "store", "--export", table) == 0
    decided = {cluster["id"]: cluster["kb_id"] for cluster in read_json_lines(table)}
    assert any(decided.values())
    records = read_json_lines(outputs[1])
    assert len(records) == 7
    for record in records:
        ids = {(span["start"], span["end"]): span["id"] for span in record["spans"]["cross_document"]}
        unknown = {tuple(place): name for name, places in record["nil_clusters"].items() for place in places}
        for entity in record["entities"]:
            cluster = ids[entity["start"], entity["end"]]
            assert entity.get("kb_id", "") == decided[cluster]
            assert unknown.get((entity["start"], entity["end"]), "") == ("" if decided[cluster] else f"NIL-{cluster}")


def test_clusters_whose_documents_change_are_linked_anew(tmp_path: Path, with_linker: Path) -> None:
    """Nobody has decided on them until something is linked again, whatever it is."""
    store, table = tmp_path / "store", tmp_path / "clusters.jsonl"

    def add(id_: str, text: str, *options: str) -> dict[str, str | None]:
        write_json_lines(tmp_path / "in.jsonl", [{"id": id_, "text": text}])
        assert run(store, tmp_path / "in.jsonl", "--pipeline", with_linker, "--export", table, *options) == 0
        return {cluster["id"]: cluster.get("kb_id") for cluster in read_json_lines(table)}

    assert None not in add("a", "Peter and Zork went to New York", "--link").values()
    assert None not in add("b", "Zork and Peter went to New York", "--link").values()
    assert None in add("a", "Nobody went").values()
    assert None not in add("c", "Mary Jones met nobody", "--link").values()


def test_links_without_a_linker_or_inputs(
    tmp_path: Path, pipeline: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "store", corpus, "--pipeline", pipeline, "--link") == 2
    assert "[E645]" in capsys.readouterr().err
    assert run(tmp_path / "store", "--info", "--link") == 2
    assert "[E428]" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["ents", "names"])
def test_clusters_are_linked_by_a_dictionary(tmp_path: Path, tiny_bert: Path, key: str) -> None:
    """Which has settings of its own, and says itself where its mentions are."""
    build(tmp_path / "kb").close()
    nlp = make_pipeline(tiny_bert)
    kb = {"@misc": "entitykit.KB.v1", "path": str(tmp_path / "kb")}
    nlp.add_pipe("entitykit_dictionary", config={"kb": kb, "mentions": key, "min_prior": 0.1})
    add_head(nlp, "cross_document", mentions=key, threshold=0.999)
    nlp.initialize(lambda: make_examples(nlp))
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "in.txt").write_text("Paris, called Alexandros, never saw Paris, Texas.")
    arguments = [tmp_path / "store", tmp_path / "in.txt", "--pipeline", tmp_path / "nlp", "--link"]
    table = tmp_path / "clusters.jsonl"
    assert run(*arguments, "--export", table) == 0
    decided = {cluster["mentions"][0]["text"]: cluster["kb_id"] for cluster in read_json_lines(table)}
    assert decided == {"Paris": "Q90", "Alexandros": "Q167646", "Paris, Texas": "Q830149"}


def test_where_links_are(tiny_bert: Path, tmp_path: Path) -> None:
    """As each component that links says it."""
    build(tmp_path / "kb").close()
    kb = {"@misc": "entitykit.KB.v1", "path": str(tmp_path / "kb")}
    for factory, config, expected in (
        ("entitykit_dictionary", {"mentions": "sc", "min_prior": 0.25}, ("sc", 0.25)),
        ("entitykit_linker", {"mentions": "sc", "threshold": 0.25}, ("sc", 0.25)),
        ("entitykit_reranker", {"mentions": "sc", "threshold": 0.25}, ("sc", 0.25)),
        ("entitykit_entqa", {"annotate": "spans", "spans_key": "found", "threshold": 0.25}, ("found", 0.25)),
        ("entitykit_genre", {"mentions": "sc", "threshold": 0.25}, ("sc", 0.25)),
        ("entitykit_genre", {"mentions": "sc", "task": "markup"}, ("ents", 0.0)),
        ("entitykit_genre", {}, ("ents", 0.0)),
    ):
        nlp = spacy.blank("en")
        nlp.add_pipe(factory, config={"kb": kb, **config})
        assert Links.of(nlp, "") == expected, factory
    nlp.add_pipe("entitykit_cross_document", name="vectors")  # of doc.ents
    assert Links.of(nlp, "") == ("ents", 0.0)
    nlp.add_pipe("entitykit_dictionary", config={"kb": kb, "mentions": "sc"})
    with pytest.warns(EntityKitWarning, match=r"W644.*'entitykit_dictionary' links the mentions of sc, but 'vectors'.*of ents"):
        assert Links.of(nlp, "") == ("sc", 0.0)
