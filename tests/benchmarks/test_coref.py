from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.cli.train import train
from spacy.tokens import Doc
from thinc.api import Config

from entitykit.benchmarks import coref, longdoc, training
from entitykit.benchmarks.coref import by_cluster, major_entities
from entitykit.benchmarks.memory import measure
from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.components import coref as component
from entitykit.components.speakers import said_by
from entitykit.corpora.given_speakers import speakers_of

WORDS = ["Ada", "met", "the", "poet", "in", "London", ".", "He", "liked", "Ada", ",", "and", "she", "liked", "London", "."]
CELLS = {0: "(0)", 2: "(1", 3: "1)", 5: "(2)", 7: "(1)", 9: "(0)", 12: "(0)", 14: "(2)"}
FILES = ("1_one", "2_two", "74_the_adventures_of_tom_sawyer", "84_frankenstein_or_the_modern_prometheus")
GAP = [
    "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL",
    "test-1\tAda met Eve, and she left.\tshe\t17\tAda\t0\tTRUE\tEve\t8\tFALSE\thttp://example.org",
    "test-2\tBob met Tom, and he left.\the\t17\tBob\t0\tFALSE\tTom\t8\tTRUE\thttp://example.org",
]


@pytest.fixture
def with_corpora(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    assert settings.data is not None
    folder = settings.data / "litbank" / "coref" / "conll"
    folder.mkdir(parents=True)
    for file in settings.data.glob("litbank/entities/tsv/*"):
        file.unlink()
    for name in FILES:  # two to train on, one of the development and one of the test part
        rows = [f"{name}\t0\t{i}\t{word}" + "\t_" * 8 + f"\t{CELLS.get(i, '_')}" for i, word in enumerate(WORDS)]
        text = "\n".join([f"#begin document ({name}); part 0", *rows, "#end document", ""])
        (folder / f"{name}_brat.conll").write_text(text, encoding="utf-8")
    (settings.data / "gap").mkdir()
    (settings.data / "gap" / "gap-test.tsv").write_text("\n".join(GAP) + "\n", encoding="utf-8")
    config = Config().from_disk(CONFIGS / "coref.cfg", interpolate=False)
    config["training"]["eval_frequency"] = 2
    config["components"]["entitykit_encoder"]["model"]["entities"]["inject_layer"] = 1
    config.to_disk(settings.configs / "coref.cfg")
    monkeypatch.setattr(training, "spacy_train", here)
    return settings


def here(config: Path, output: Path, overrides: Mapping[str, str]) -> None:
    """Training in this process."""
    train(config, output, overrides={**overrides, "system.seed": int(overrides["system.seed"])})


@pytest.mark.parametrize("form", coref.CHANGES["litbank"])
def test_litbank(form: str, with_corpora: Settings) -> None:
    (keys,) = (part.keys for part in coref.PARTS if f"litbank_conll_f1{form}" in part.keys)
    report = run_benchmark("coref", with_corpora, only=keys)
    assert report.figures.keys() == set(keys)
    assert all(0 <= figure.value <= 1 for key, figure in report.figures.items() if key not in coref.LOSSES)
    assert report.settings[f"litbank_coref{form}"]["max_steps"] == 2


def test_gum_and_gap(with_corpora: Settings) -> None:
    report = run_benchmark("coref", with_corpora, only=["gum_conll_f1", "gap_f1", "gap_bias"])
    assert list(report.figures) == ["gum_conll_f1", "gap_f1", "gap_bias"]
    assert all(0 <= figure.value <= 1 for key, figure in report.figures.items() if key != "gap_bias")
    published = report.settings["gum_coref"]["published for GAP"]["syntactic parallelism, the snippet alone"]
    assert published["overall"] == 0.669


def test_gum_with_speakers(with_corpora: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who speaks is known in training, and when the test part is scored."""
    known: list[list[str]] = []

    def watched(docs: Sequence[Doc]) -> Any:
        known.extend(speakers_of(doc) or [] for doc in docs)
        return said_by(docs)

    monkeypatch.setattr(component, "said_by", watched)
    assert 0 <= run_benchmark("coref", with_corpora, only=["gum_conll_f1_speakers"]).figures["gum_conll_f1_speakers"].value <= 1
    assert {name for names in known for name in names} == {"", "Ada"}
    assert all(known)


def test_what_bounded_memories_lose_is_asked_of_longdoc_too(with_corpora: Settings, tmp_path: Path) -> None:
    """With a work folder nothing is trained twice."""
    there = replace(with_corpora, work=tmp_path / "work")
    keys = ["bounded_f1_loss", "bounded_f1_loss_learned20"]
    found = run_benchmark("coref", there, only=[*keys, "litbank_conll_f1", "litbank_conll_f1_learned20"]).figures
    again = run_benchmark("longdoc", there, only=keys).figures
    assert again == {key: found[key] for key in keys}
    learned = 100 * (found["litbank_conll_f1"].value - found["litbank_conll_f1_learned20"].value)
    assert found["bounded_f1_loss_learned20"].value == pytest.approx(learned)


def test_novels(with_corpora: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longdoc, "NOVELS", ("novels/1_*.txt", "novels/2_*.txt"))
    monkeypatch.setattr(longdoc, "SHORT_PART", 20)
    monkeypatch.setattr(longdoc, "peak_memory", measure)
    report = run_benchmark("longdoc", with_corpora, only=["growth", "coref_coverage"])
    assert report.figures["coref_coverage"] == (1.0, 1.0, 1.0)
    assert report.figures["growth"].value > 0


@pytest.fixture
def doc() -> Doc:
    doc = Doc(spacy.blank("en").vocab, words=WORDS)
    groups = ([(2, 4), (7, 8)], [(0, 1), (9, 10), (12, 13)], [(5, 6), (14, 15)])
    for i, group in enumerate(groups, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in group]
    return doc


def test_major_entities_have_names(doc: Doc) -> None:
    found = {name: len(cluster) for name, cluster in major_entities(doc)}
    assert found == {"Ada": 3, "London": 2}  # the poet has none


def test_clusters_by_name(doc: Doc) -> None:
    found = by_cluster(doc, ["ada", "poet", "Paris"])
    assert [span.start for span in found["ada"]] == [0, 9, 12]
    assert [span.start for span in found["poet"]] == [2, 7]
    assert found["Paris"] == []
    assert by_cluster(Doc(doc.vocab), ["Ada"]) == {"Ada": []}
