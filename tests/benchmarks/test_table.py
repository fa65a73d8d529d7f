from __future__ import annotations

import json
from importlib import import_module

import pytest

from entitykit.benchmarks import encoder
from entitykit.benchmarks.parts import Figure, Part, Result, Settings
from entitykit.benchmarks.table import BENCHMARKS, run_benchmark
from entitykit.errors import InputError

# What reports are compared by: a figure keeps its name.
KEYS = {
    "encoder": {"words_per_s", "vs_padded", "vs_sorted", "of_matmul_rate", "vs_spacy_transformers", "pipeline_words_per_s"},
    "longdoc": {"growth", "peak_gb", "growth_100k", "coverage", "peak_mb_100k", "peak_mb_10k", "bytes_per_word_100k"}
    | {f"fastcoref_{figure}_{size}" for figure in ("speed", "memory") for size in ("2k", "10k", "50k")},
    "ner": {
        "conll04_ner_f1",
        *(f"{data}_ner_calibrated_f1" for data in ("scierc", "wnut17")),
        *(f"{data}_{system}" for data in ("scierc", "wnut17") for system in ("ner_f1", "spacy_ner", "spacy_spancat")),
    },
    "relations": {
        "conll04_ner_f1",
        "conll04_rel_f1",
        "scierc_ner_f1",
        "scierc_rel_f1",
        "cost_over_ner",
        "redocred_f1",
        "redocred_ign_f1",
        "semeval_macro_f1",
        "conll04_rel_f1_enrico_joint_unrefined",
        *(
            f"scierc_rel_f1{head}{way}"
            for head in ("", "_luke", "_luke_markers", "_enrico")
            for way in ("", "_exact", "_beam", "_gold")
        ),
        *(f"conll04_{kind}_f1_enrico_joint{way}" for kind in ("ner", "rel") for way in ("", "_exact", "_beam")),
    },
    "injection": {f"{data}_{form}" for data in ("conll04", "litbank") for form in ("spert", "pooled", "tokens_half", "gold")},
    "mentions": {"gum_recall", "litbank_recall"},
    "trie": {"trie_mb", "build_s", "lookup_us", "vs_dict_memory"},
    "linking": {
        *("wordnet_recall64", "wordnet_bi_acc"),
        *(f"{data}_{baseline}_acc" for data in ("wordnet", "bc5cdr") for baseline in ("prior", "bm25")),
        *(f"{data}_{baseline}_f1" for data in ("wikifair", "newsfair") for baseline in ("prior", "bm25")),
    },
    "coref": {
        *(
            "litbank_conll_f1",
            "litbank_mentions_f1",
            "bounded_f1_loss",
            "litbank_conll_f1_antecedents",
            "litbank_conll_f1_gate",
        ),
        *("gum_conll_f1", "gap_f1", "gap_bias", "litbank_major_macro_f1_hybrid", "litbank_major_micro_f1_clusters"),
    },
    "cross_document": {"ecb_gold_f1", "ecb_predicted_f1", "ecb_incremental_f1"},
    "salience": {
        f"{data}_{score}{form}"
        for data in ("wikinews", "gum")
        for score in ("f1", "auc", "ndcg")
        for form in ("", "_frequency", "_position", "_cross")
    },
    "tracking": {
        *("propara_f1", "propara_dev_f1", "propara_f1_shared", "propara_f1_entity_first"),
        *(f"propara_cat{i}" for i in (1, 2, 3)),
        *("boxes_accuracy_initial", "boxes_accuracy_probe", "boxes_changed_probe", "boxes_things_probe"),
        *("boxes_accuracy_tracker", "boxes_changed_tracker", "boxes_accuracy_written", "boxes_accuracy_probe_ops4"),
    },
    "index": {
        f"{key}{size}"
        for key in ("ms_per_mention", "recall64_vs_exact", "index_gb", "build_s")
        for size in ("", "_1m", "_100k")
    },
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of the benchmark `encoder` that were run; they are replaced by three that measure nothing."""
    ran: list[str] = []

    def part(*keys: str, in_quick: bool = True, on_request: bool = False) -> Part:
        def measure(settings: Settings) -> Result:
            ran.append(keys[0])
            return Result({key: Figure(2.0, 1.0, 3.0) for key in keys}, {f"about {keys[0]}": settings.seeds})

        return Part(keys, measure, in_quick, on_request)

    monkeypatch.setattr(encoder, "PARTS", [part("a", "b"), part("c", in_quick=False), part("d", on_request=True)])
    return ran


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_figures(name: str) -> None:
    keys = [key for part in import_module(f"entitykit.benchmarks.{name}").PARTS for key in part.keys]
    assert len(set(keys)) == len(keys)
    assert KEYS[name] <= set(keys)


def test_report_is_json_with_one_number_per_figure(parts: list[str]) -> None:
    report = json.loads(json.dumps(run_benchmark("encoder", Settings(seeds=(3,))).as_json()))
    assert set(report) == {"benchmark", "figures", "settings", "machine", "versions"}
    assert report["figures"] == {"a": 2.0, "b": 2.0, "c": 2.0}
    assert report["settings"]["ranges"]["a"] == [1.0, 3.0]
    assert (report["settings"]["seeds"], report["settings"]["about a"]) == ([3], [3])
    assert report["machine"]["threads"] == 1  # as tests/conftest.py sets it
    assert {"python", "torch", "spacy", "transformers"} <= report["versions"].keys()


def test_only_runs_what_is_wanted(parts: list[str]) -> None:
    assert list(run_benchmark("encoder", Settings(), only=["b"]).figures) == ["b"]
    assert parts == ["a"]


def test_quick_leaves_out_some_parts_unless_they_are_wanted(parts: list[str]) -> None:
    assert list(run_benchmark("encoder", Settings(quick=True)).figures) == ["a", "b"]
    assert list(run_benchmark("encoder", Settings(quick=True), only=["c"]).figures) == ["c"]


def test_some_parts_run_only_on_request(parts: list[str]) -> None:
    assert list(run_benchmark("encoder", Settings()).figures) == ["a", "b", "c"]
    assert list(run_benchmark("encoder", Settings(quick=True), only=["d"]).figures) == ["d"]


def test_unknown_figure(parts: list[str]) -> None:
    with pytest.raises(InputError, match=r"E443.*'speed'; expected: a, b, c, d\."):
        run_benchmark("encoder", Settings(), only=["a", "speed"])
    assert parts == []
