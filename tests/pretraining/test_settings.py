from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from entitykit.errors import ConfigError, CorpusError
from entitykit.pretraining.settings import make_settings, read_settings
from tests.pretraining.util import sentences, small, write

ROOT = Path(__file__).parents[2]
LEAST = {"corpus": "c", "checkpoint": "k", "output": "o"}


def test_the_config_that_ships() -> None:
    settings = read_settings(ROOT / "configs/pretrain_entities.json")
    assert (settings.checkpoint, settings.mask_words, settings.mask_entities) == ("minilm", 0.15, 0.15)
    assert settings.injection.inject_layer == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stepps": 3}, "stepps is set; expected only: corpus"),
        ({"steps": "3"}, "steps is '3'; expected int"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"steps": True}, "steps is True; expected int"),
        ({"bf16": 1}, "bf16 is 1; expected bool"),
        ({"vocabulary": 3}, "vocabulary is 3; expected str or null"),
        ({"mask_words": 1.5}, "mask_words is 1.5; expected 0 to 1"),
        ({"train": "heads"}, "train is 'heads'; expected all or entities"),
        ({"entity_weight": 0, "word_weight": 0}, "expected one of them above 0"),
        ({"mask_entities": 0, "mask_words": 0}, "mask_words is 0; expected above 0: nothing that is masked"),
        ({"mask_entities": 0, "word_weight": 0}, "mask_entities is 0; expected above 0: nothing that is masked"),
        ({"entity_weight": 0, "mask_words": 0}, "mask_words is 0; expected above 0: nothing that is masked"),
        ({"window": 100, "max_word_pieces": 51}, "max_word_pieces is 51; expected at most half the window"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E130\] The pretraining setting .*{reason}"):
        make_settings(LEAST | change)


def test_settings_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[E130\] The pretraining setting output is missing"):
        make_settings({"corpus": "c", "checkpoint": "k"})
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(CorpusError, match=r"\[E206\]"):
        read_settings(path)
    with pytest.raises(CorpusError, match=r"\[E238\]"):
        read_settings(tmp_path / "gone.json")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_entities", ROOT / "scripts/pretrain_entities.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains(tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write(tmp_path / "links.jsonl", sentences())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(vars(small(corpus, tiny_bert, tmp_path / "out"))))
    assert script().main([str(config), "steps=2", "train=entities", "word_weight=0"]) == 0
    out = capsys.readouterr().out
    assert "step 2/2" in out
    assert f"result: {tmp_path / 'out/model'}" in out
    assert (tmp_path / "out/model/entitykit_encoder.safetensors").is_file()
    assert not (tmp_path / "out/model/word_head.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"), [(["steps"], "steps is without a value"), (["x=1"], "x is set"), (["steps=a"], "'a'")]
)
def test_the_script_refuses(arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(LEAST))
    assert script().main([str(config), *arguments]) == 1
    assert reason in capsys.readouterr().err
