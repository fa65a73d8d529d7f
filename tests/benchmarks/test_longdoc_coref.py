from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import spacy
from transformers import AutoTokenizer

from entitykit.benchmarks import longdoc_coref, memory
from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.pipelines import MENTIONS_PER_WORD, coref_pipeline
from entitykit.benchmarks.table import run_benchmark
from entitykit.cli.benchmark import table
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.scoring.coref import clusters_in
from tests.benchmarks.data import NOVEL

KEYS = [f"fastcoref_{figure}_{size}" for figure in ("speed", "memory") for size in ("2k", "10k", "50k")]
N_WORDS = 150


@pytest.fixture(autouse=True)
def _small(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longdoc_coref, "QUICK_SIZES", dict.fromkeys(longdoc_coref.SIZES, N_WORDS))
    config = spacy.util.load_config(CONFIGS / "coref.cfg")
    config["components"]["entitykit_encoder"]["model"]["entities"]["inject_layer"] = 1
    config.to_disk(settings.configs / "coref.cfg")


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with fastcoref and without room for it; ours is measured in this process."""
    monkeypatch.setattr(longdoc_coref, "import_fastcoref", lambda: None)
    monkeypatch.setattr(longdoc_coref, "free_memory", lambda: 0.0)
    monkeypatch.setattr(longdoc_coref, "peak_memory", memory.measure)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of fastcoref's name, which sets up the log like the real one."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] == "fastcoref"]

    for name in loaded():
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "fastcoref" / "coref_models").mkdir(parents=True)
    (tmp_path / "fastcoref" / "coref_models" / "modeling_fcoref.py").write_text("", encoding="utf-8")
    init = tmp_path / "fastcoref" / "__init__.py"
    init.write_text("import logging\nlogging.basicConfig(level=logging.INFO, force=True)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield init
    for name in loaded():
        del sys.modules[name]


@pytest.mark.parametrize("key", ["fastcoref_speed_2k", "fastcoref_memory_50k"])
def test_fastcoref_is_missing(key: str, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastcoref", None)
    with pytest.raises(ConfigError, match=r"E448.*pip install --no-deps fastcoref.*--only"):
        run_benchmark("longdoc", settings, only=[key])


def test_fastcoref_cannot_be_imported(package: Path) -> None:
    package.write_text("from torch import what_was_removed", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"E448.*cannot import name 'what_was_removed'"):
        longdoc_coref.import_fastcoref()


def test_import_leaves_the_log_alone(package: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    assert Path(longdoc_coref.import_fastcoref().__file__) == package
    assert (root.handlers, root.level) == before


@pytest.mark.usefixtures("only_ours")
def test_our_side_is_measured_without_room_for_theirs(settings: Settings) -> None:
    with pytest.warns(EntityKitWarning, match="W421.*150 words") as caught:
        report = run_benchmark("longdoc", settings, only=["fastcoref_speed_50k", "fastcoref_memory_50k"])
    assert [str(each.message).split()[1] for each in caught] == ["fastcoref_speed_50k", "fastcoref_memory_50k"]
    assert report.figures == {}
    assert len(list(table(report))) == 2  # what ran where, and that it was quick
    speed, space = report.settings["fastcoref_speed_50k"], report.settings["fastcoref_memory_50k"]
    assert speed["words"] == space["words"] == N_WORDS
    assert list(speed["seconds"]) == list(speed["words_per_s"]) == list(space["memory"]) == ["entitykit"]
    assert len(speed["seconds"]["entitykit"]) == longdoc_coref.ROUNDS
    fastest = min(speed["seconds"]["entitykit"])
    assert speed["words_per_s"]["entitykit"]["high"] == pytest.approx(N_WORDS / fastest)


def test_our_mentions_are_as_many_as_asked_and_not_joined(settings: Settings) -> None:
    nlp = coref_pipeline(settings)
    doc = nlp(NOVEL * 3)
    found = longdoc_coref.n_mentions(nlp, NOVEL * 3)
    assert found == pytest.approx(MENTIONS_PER_WORD * len(doc), rel=0.3)
    assert len(clusters_in(doc) or []) == found


def test_room_is_counted_in_pairs_of_pieces(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    n_pieces = len(AutoTokenizer.from_pretrained(settings.encoder["name"]).tokenize(NOVEL)) + 2
    needed = 4 * 5 * n_pieces**2
    monkeypatch.setattr(longdoc_coref, "free_memory", lambda: float(needed))
    assert longdoc_coref._has_room(settings, NOVEL, N_WORDS, "key")
    monkeypatch.setattr(longdoc_coref, "free_memory", lambda: float(needed - 1))
    with pytest.warns(EntityKitWarning, match=f"W421.*{n_pieces} pieces"):
        assert not longdoc_coref._has_room(settings, NOVEL, N_WORDS, "key")


def test_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:    300 kB\n", encoding="ascii")
    monkeypatch.setattr(longdoc_coref, "MEMINFO", tmp_path / "meminfo")
    assert longdoc_coref.free_memory() == 300 * 1024
    monkeypatch.setattr(longdoc_coref, "MEMINFO", tmp_path / "nothing")
    assert longdoc_coref.free_memory() == float("inf")


@pytest.mark.skipif(find_spec("fastcoref") is None, reason="fastcoref is not installed")
@pytest.mark.filterwarnings("ignore:Specifying null_placement in SortOptions:FutureWarning")
def test_beside_fastcoref(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = run_benchmark("longdoc", settings, only=["fastcoref_speed_2k"])
    details = report.settings["fastcoref_speed_2k"]
    seconds = details["seconds"]
    ratios = sorted(a / b for a, b in zip(seconds["fastcoref"], seconds["entitykit"], strict=True))
    assert report.figures["fastcoref_speed_2k"] == (ratios[1], ratios[0], ratios[2])
    longdoc_coref.save_fastcoref(settings, tmp_path / "peer")
    peer = longdoc_coref.load_fastcoref(tmp_path / "peer")
    (result,) = longdoc_coref.predict(peer, NOVEL)
    assert result.clusters == []
    assert len(result.coref_logit) == len(peer.tokenizer(NOVEL)["input_ids"]) // 4
    monkeypatch.setattr(
        longdoc_coref,
        "peak_memory",
        lambda model, text, module="": (longdoc_coref.measure if module else memory.measure)(model, text),
    )
    use = run_benchmark("longdoc", settings, only=["fastcoref_memory_2k"])
    assert use.settings["fastcoref_memory_2k"]["memory"].keys() == {"entitykit", "fastcoref"}


def test_only_on_request() -> None:
    parts = {key: part for part in longdoc_coref.PARTS for key in part.keys}
    assert list(parts) == KEYS
    assert all(part.on_request for part in parts.values())
