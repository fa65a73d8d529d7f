"""A linker on one of BLINK's published bi-encoders: two towers of its own, and no shared encoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from tokenizers import Tokenizer
from transformers import BertConfig, BertModel

from entitykit.bridge.blink import Blink, load_blink
from entitykit.components.linker import Linker
from entitykit.errors import CheckpointError, ConfigError, EntityKitWarning
from entitykit.knowledge.store import EntityStore
from tests.bridge.test_blink import N_UNUSED, save
from tests.components.test_linker import store
from tests.linked_texts import TEXTS, linked_examples
from tests.pipelines import fast_optimizer

__all__ = ["store"]

LINKER = "entitykit_linker"
SIZES = {"context_pieces": 24, "entity_pieces": 24}
LINKED = TEXTS[:2]
"""Those without NIL."""


@pytest.fixture(scope="module")
def bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT whose tokenizer has the pieces that are marks; its weights are of no use here, and are not there."""
    folder = tmp_path_factory.mktemp("blink")
    tokenizer = Tokenizer.from_file(str(tiny_bert / "tokenizer.json"))
    tokenizer.add_special_tokens([f"[unused{i}]" for i in range(N_UNUSED)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_bytes((tiny_bert / "tokenizer_config.json").read_bytes())
    values = json.loads((tiny_bert / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(values | {"vocab_size": tokenizer.get_vocab_size()}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def checkpoint(bert: Path) -> Path:
    config = BertConfig(**json.loads((bert / "config.json").read_text(encoding="utf-8")))
    return save(bert / "blink.bin", [BertModel(config).eval() for _ in range(2)])


def make(checkpoint: Path, store: EntityStore, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    model = {
        "@architectures": "entitykit.Blink.v1",
        "name": str(checkpoint),
        "bert": str(checkpoint.parent),
        **SIZES,
        **settings,
    }
    nlp.add_pipe(LINKER, config={"kb": {"@misc": "entitykit.KB.v1", "path": str(store.folder)}, "model": model})
    return nlp


def initialized(checkpoint: Path, store: EntityStore, **settings: Any) -> tuple[Language, Linker]:
    nlp = make(checkpoint, store, **settings)
    nlp.initialize(lambda: linked_examples(nlp, LINKED))
    linker = nlp.get_pipe(LINKER)
    assert isinstance(linker, Linker)
    return nlp, linker


def wanted_scores(blink: Blink, store: EntityStore, words: Sequence[str], start: int, end: int) -> dict[str, float]:
    left, mention, right = (" ".join(words[a:b]) for a, b in ((0, start), (start, end), (end, len(words))))
    entities = list(store)
    found = blink.scores(
        blink.read_mentions([left], [mention], [right], size=24),
        blink.read_entities([e.name for e in entities], [e.description for e in entities], size=24),
    )
    return dict(zip([entity.id for entity in entities], found[0].tolist(), strict=True))


def test_scores_are_those_of_the_checkpoint(checkpoint: Path, store: EntityStore, tmp_path: Path) -> None:
    """Which are compared with `transformers` where they are read alone; with an index, without one, and when it was saved."""
    nlp, linker = initialized(checkpoint, store)
    config = json.loads((checkpoint.parent / "config.json").read_text(encoding="utf-8"))
    blink = load_blink(checkpoint, config, (checkpoint.parent / "tokenizer.json").read_text(encoding="utf-8"))
    text, links = LINKED[0]
    for saved in (False, True):
        if saved:
            nlp.to_disk(tmp_path / "nlp")
            nlp = spacy.load(tmp_path / "nlp")
            linker = nlp.get_pipe(LINKER)
            assert linker.index is not None
        doc = nlp(linked_examples(nlp, LINKED)[0].predicted)
        for ent, (start, end, _) in zip(doc.ents, links, strict=True):
            wanted = wanted_scores(blink, store, text.split(), start, end)
            explained = linker.explain(ent)
            assert {each.id: each.dense for each in explained.candidates} == {
                each.id: pytest.approx(wanted[each.id], rel=2e-3, abs=2e-2) for each in explained.candidates
            }
            probabilities = torch.tensor([each.dense for each in explained.candidates]).softmax(0)
            assert [each.score for each in explained.candidates] == pytest.approx(probabilities.tolist(), abs=1e-4)
            assert len(explained.candidates) == (3 if linker.index is not None else 3 - (start == 0) * 2 - (start > 0))
            assert ent.kb_id_ == explained.candidates[0].id
        linker.build_index()


def test_it_learns_and_both_towers_do(checkpoint: Path, store: EntityStore) -> None:
    nlp, linker = initialized(checkpoint, store, storage="fp16")
    linker.build_index()
    towers = [shim.module for shim in (tower.shims[0] for tower in linker.model.layers[0].layers)]
    before = [tower.layers[0].outer.weight.detach().clone() for tower in towers]
    optimizer = fast_optimizer(encoder_learn_rate=2e-3)
    losses = []
    for _ in range(25):
        losses.append(nlp.update(linked_examples(nlp, LINKED), sgd=optimizer, losses={})[LINKER])
    assert losses[-1] < 0.2 * losses[0]
    assert all(not torch.equal(tower.layers[0].outer.weight, old) for tower, old in zip(towers, before, strict=True))
    again = make(checkpoint, store, storage="fp16").from_bytes(nlp.to_bytes())
    with pytest.warns(EntityKitWarning, match="W582"):  # the towers are those of the index no more
        again(linked_examples(again, LINKED)[0].predicted)
    linker.build_index()
    assert nlp.evaluate(linked_examples(nlp, LINKED))["linking_inkb_acc"] == 1.0


def test_checkpoints_and_settings_that_cannot_be(checkpoint: Path, store: EntityStore, tmp_path: Path) -> None:
    for settings in ({"storage": "fp8"}, {"batch_pieces": 0}):
        with pytest.raises(ConfigError, match="E585"):
            make(checkpoint, store, **settings)
    for settings, code in (({"name": str(tmp_path / "none.bin")}, "E005"), ({"bert": str(tmp_path / "none")}, "E001")):
        with pytest.raises(CheckpointError, match=code):
            initialized(checkpoint, store, **settings)


def test_bf16_is_of_the_towers(checkpoint: Path, store: EntityStore) -> None:
    for bf16 in (False, True):
        _, linker = initialized(checkpoint, store, bf16=bf16)
        towers = linker.model.layers[0].layers
        assert [tower.shims[0].bf16 for tower in towers] == [bf16, bf16]
