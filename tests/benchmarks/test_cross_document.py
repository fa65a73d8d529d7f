"""The benchmark of ECB+ on a few documents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Config

from entitykit.benchmarks import cross_document
from entitykit.benchmarks.cross_document import same_head, same_string
from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.table import run_benchmark

SENTENCES = [("Ada met the poet in London .", {"A": [0], "P": [2, 3], "L": [4, 5]}), ("The poet left .", {"P": [0, 1]})]


def write_ecbplus(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("Train", "Dev", "Test"):
        lines, mentions = [], []
        for topic in (1, 2):
            for number, (text, clusters) in enumerate(SENTENCES * 2):
                name = f"{topic}_{number}ecb"
                lines += [f"{name}\t0\t{i}\t{word}\t-" for i, word in enumerate(text.split())]
                for id_, tokens in clusters.items():
                    record = {"doc_id": name, "sent_id": 0, "tokens_number": tokens, "mention_type": "HUM"}
                    mentions.append({**record, "coref_chain": f"{id_}{topic}"})
        (folder / f"ECB_{split}_corpus.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"ECB_{split}_Entity_gold_mentions.json").write_text(json.dumps(mentions), encoding="utf-8")


@pytest.fixture
def ecb(settings: Settings, tmp_path: Path, tiny_bert: Path) -> Settings:
    write_ecbplus(tmp_path / "ecb" / "ecbplus")
    for name in ("cross_document", "cross_document_pairs"):
        config = Config().from_disk(CONFIGS / f"{name}.cfg", interpolate=False)
        config["training"]["eval_frequency"] = 2
        if name == "cross_document":
            config["components"]["entitykit_mentions"]["model"]["layer"] = 1
        else:
            config["components"]["entitykit_mention_pairs"]["model"]["context_pieces"] = 20
        config.to_disk(settings.configs / f"{name}.cfg")
    return replace(settings, data=tmp_path / "ecb", work=tmp_path / "work")


def test_names(ecb: Settings) -> None:
    keys = [f"ecb_gold_{name}{part}_f1" for name in ("string", "head") for part in ("", "_topics")]
    figures = run_benchmark("cross_document", ecb, only=keys).figures
    assert figures["ecb_gold_string_topics_f1"].value == 1.0
    assert figures["ecb_gold_string_f1"].value < 1.0


def test_models(ecb: Settings, in_process: list[Path]) -> None:
    """The cross-encoder goes on from the pipeline that the first figures are of."""
    keys = ["ecb_gold_vectors_f1", "ecb_predicted_vectors_f1", "ecb_incremental_vectors_f1", "ecb_mentions_f1"]
    report = run_benchmark("cross_document", ecb, only=keys)
    assert set(report.figures) == set(keys)
    assert all(0 <= figure.value <= 1 for figure in report.figures.values())
    seed = report.settings["ecb_vectors"]["seeds"]["0"]
    assert seed["gold"]["mentions_f"] == seed["incremental"]["mentions_f"] == 1.0
    assert len(in_process) == 1
    figures = run_benchmark("cross_document", ecb, only=["ecb_gold_f1"]).figures
    assert 0 <= figures["ecb_gold_f1"].value <= 1
    assert len(in_process) == 2


def test_gold_mentions_are_given(ecb: Settings, tmp_path: Path) -> None:
    data = cross_document.prepare(ecb, tmp_path / "prepared")
    assert data.test.exists()
    docs = [eg.reference for eg in _examples(data.test)]
    assert [len(doc.spans["sc"]) for doc in docs[:2]] == [3, 1]
    assert list(docs[0].user_data["coref_ids"]) == ["A1", "P1", "L1"]


def _examples(path: Path) -> list[Example]:
    return list(spacy.training.Corpus(path)(spacy.blank("en")))


@pytest.mark.parametrize(
    ("text", "string", "head"),
    [
        ("The old poets", "old poets", "poet"),
        ("in western Canada", "in western canada", "canada"),
        ("the president of the United States", "president of united states", "president"),
        ("Ada 's", "ada 's", "ada"),
        ("the", "the", "the"),
        ("boss", "boss", "boss"),
        ("men , who left", "men , who left", "men"),
    ],
)
def test_strings_and_heads(text: str, string: str, head: str) -> None:
    doc = Doc(spacy.blank("en").vocab, words=text.split())
    assert (same_string(doc[:]), same_head(doc[:])) == (string, head)
