"""What is trained in LUKE's form is a LUKE checkpoint of `transformers`, with the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from transformers import LukeForMaskedLM

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.luke_tasks import load_luke
from entitykit.bridge.weights import parse_weights
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import Pack
from entitykit.models.luke import LukeVocabulary, VocabularySettings
from entitykit.pretraining.loop import pretrain
from tests.pretraining.util import FACTS, sentences, small, write

FORM: dict[str, Any] = {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True}
LOAD: dict[str, Any] = {"word_shapes": False, "n_layers": None, "train_pieces": True, "injection": Injection(**FORM)}


def test_scores_are_the_same(tiny_roberta: Path, tmp_path: Path) -> None:
    corpus = write(tmp_path / "links.jsonl", sentences())
    result = pretrain(small(corpus, tiny_roberta, tmp_path / "out", word_shapes=False, steps=3, **FORM))
    ours, tokenizer = load_checkpoint(str(result), **LOAD)
    again, same = load_checkpoint(str(tmp_path / "out/luke"), **LOAD)
    theirs, info = LukeForMaskedLM.from_pretrained(tmp_path / "out/luke", output_loading_info=True)
    assert same == tokenizer
    assert not [key for key in info["missing_keys"] if "pooler" not in key]
    assert not info["unexpected_keys"]
    ids = torch.randint(5, 100, (9,))
    pack = Pack(ids, torch.arange(9), torch.zeros_like(ids), (9,))
    entities = EntityPack(torch.tensor([2, 4]), torch.tensor([1, 2, 5, 6, 7]), torch.tensor([0, 2]), (2,))
    positions = torch.full((1, 2, 30), -1)
    positions[0, 0, :2], positions[0, 1, :3] = torch.tensor([1, 2]), torch.tensor([5, 6, 7])
    with torch.no_grad():
        expected = theirs.eval()(ids[None], entity_ids=entities.ids[None], entity_position_ids=positions)
        for encoder in (ours.eval(), again.eval()):
            encoded = encoder.with_entities(pack, (2,), lambda _: entities)
            parts = {
                "entity": (encoded.entities, encoder.entities.ids, expected.entity_logits),
                "word": (encoded.layers[2], encoder.embeddings.pieces, expected.logits),
            }
            for name, (states, table, scores) in parts.items():
                weights, values = parse_weights((result / f"{name}_head.safetensors").read_bytes())
                head = LukeVocabulary(VocabularySettings(**values))
                head.load_state_dict(weights)
                torch.testing.assert_close(head(states, table.weight), scores[0], rtol=0, atol=1e-4)


def test_entities_are_named_with_the_result(tiny_roberta: Path, tmp_path: Path) -> None:
    corpus = write(tmp_path / "links.jsonl", sentences())
    pretrain(small(corpus, tiny_roberta, tmp_path / "out", word_shapes=False, steps=1, **FORM))
    luke = load_luke(str(tmp_path / "out/luke"))
    doc = spacy.blank("xx")("Finch sang three old ballads")
    (titles,) = luke(doc, [doc[0:1]], n=20)  # type: ignore[call-arg,arg-type]
    assert {title for title, _ in titles} == {"[PAD]", "[UNK]", "[MASK]", *FACTS}
    assert sum(probability for _, probability in titles) == pytest.approx(1)
