"""What documents bring along for components of `entitykit annotate`."""

from __future__ import annotations

from pathlib import Path

import pytest
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.cli.__main__ import main
from entitykit.corpora.given_speakers import speakers_of
from tests.cli.failing import read_json_lines, save_pipeline, write_json_lines
from tests.pipelines import initialized

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*args: object) -> int:
    return main(["annotate", *map(str, args)])


@Language.component("repeats_speakers")
def repeats_speakers(doc: Doc) -> Doc:
    doc.spans["spoken"] = [Span(doc, i, i + 1, label=name) for i, name in enumerate(speakers_of(doc) or ()) if name]
    return doc


@pytest.mark.parametrize("n_process", [1, 2])
def test_speakers_arrive_where_components_look(tmp_path: Path, n_process: int) -> None:
    records = [
        {"id": "a", "text": "Oslo it is", "speakers": ["Eve", None, ""]},
        {"id": "b", "text": "Oslo it is", "speakers": ["Eve"]},
        {"id": "c", "text": "Oslo it is", "speakers": ["Eve", 3, None]},
        {"id": "d", "text": "Oslo it is", "speakers": "Eve"},
    ]
    corpus = write_json_lines(tmp_path / "corpus.jsonl", records)
    out, pipeline = tmp_path / "out.jsonl", save_pipeline(tmp_path, "repeats_speakers")
    assert run(corpus, "-o", out, "--pipeline", pipeline, "--n-process", n_process) == 1
    found = {record["id"]: record for record in read_json_lines(out)}
    assert {id_: [span["label"] for span in record["spans"]["spoken"]] for id_, record in found.items()} == {
        "a": ["Eve"],
        "d": [],
    }
    assert found["d"]["meta"] == {"speakers": "Eve"}
    failed = read_json_lines(tmp_path / "out.jsonl.errors.jsonl")
    assert [(each["document_id"], each["error_code"]) for each in failed] == [("b", "E646"), ("c", "E646")]
    assert "1 values, 0 of which are neither texts nor None; expected a list of 3" in failed[0]["error"]
    assert "3 values, 1 of which are neither texts nor None" in failed[1]["error"]


def test_speakers_that_no_component_reads_may_be_anything(tmp_path: Path) -> None:
    records = [{"text": "Oslo it is", "speakers": speakers} for speakers in (["Ada", "Bob"], [1, None], [{"name": "Eve"}])]
    corpus = write_json_lines(tmp_path / "corpus.jsonl", records)
    pipeline = save_pipeline(tmp_path)
    for name in ("out.jsonl", "out.spacy"):
        assert run(corpus, "-o", tmp_path / name, "--pipeline", pipeline) == 0
    assert [each["meta"]["speakers"] for each in read_json_lines(tmp_path / "out.jsonl")] == [
        each["speakers"] for each in records
    ]


def test_a_recipe_with_its_participants(tmp_path: Path, tiny_bert: Path) -> None:
    """The grid has a row for each participant that the line names, and a column for each of its steps."""
    nlp, _ = initialized(tiny_bert, "tracker")
    nlp.to_disk(tmp_path / "pipeline")
    out = tmp_path / "out.jsonl"
    assert run(EXAMPLES / "recipe.jsonl", "-o", out, "--pipeline", tmp_path / "pipeline") == 0
    (given,), (record,) = read_json_lines(EXAMPLES / "recipe.jsonl"), read_json_lines(out)
    grid = record["entity_states"]
    assert grid["participants"] == given["procedure"]["participants"]
    assert [len(row) for row in grid["states"]] == [len(given["procedure"]["steps"]) + 1] * len(grid["participants"])
    assert grid["steps"] == given["procedure"]["steps"]
    mentioned = [{given["text"][slice(*place)] for place in own} for own in grid["mentions"]]
    assert mentioned == [{"flour"}, {"sugar"}, {"eggs"}, {"milk"}, {"butter"}, {"batter", "mixture"}, {"pancake"}]
    assert run(EXAMPLES / "recipe.jsonl", "-o", tmp_path / "page.html", "--pipeline", tmp_path / "pipeline") == 0
    assert '<details class="states">' in (tmp_path / "page.html").read_text(encoding="utf-8")
