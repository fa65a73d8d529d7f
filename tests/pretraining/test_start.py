"""What a checkpoint knows of entities goes on by their titles: rows, and the heads that chose among them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LukeForMaskedLM, LukeModel, RobertaTokenizerFast

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.corpora.entity_vocabulary import EntityVocabulary
from entitykit.errors import CheckpointError, CorpusError, EntityKitWarning
from entitykit.pretraining.loop import pretrain
from entitykit.pretraining.objective import EntityPretraining
from entitykit.pretraining.start import begin
from tests.luke import SIZES, make_model
from tests.pipelines import READING, initialized
from tests.pretraining.util import FACTS, sentences, small, write
from tests.util import byte_pairs

FORM: dict[str, Any] = {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True}
TITLES = sorted(FACTS)
ROWS = {"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3, **{title: 4 + i for i, title in enumerate(TITLES[:5])}}
NEW = ["A newcomer", *TITLES[4:1:-1]]


def save(path: Path, kind: Any = LukeForMaskedLM, rows: dict[str, Any] | None = ROWS) -> Any:
    tokenizer = byte_pairs()
    model = make_model(kind, vocab_size=tokenizer.get_vocab_size(), entity_vocab_size=len(ROWS), max_position_embeddings=130)
    if kind is LukeForMaskedLM:
        model.tie_weights()
        for bias in (model.entity_predictions.bias, model.lm_head.bias):
            torch.nn.init.normal_(bias)
    model.save_pretrained(path)
    RobertaTokenizerFast(tokenizer_object=tokenizer).save_pretrained(path)
    if rows is not None:
        (path / "entity_vocab.json").write_text(json.dumps(rows))
    return model


def start(path: Path, titles: list[str] = NEW, **changes: Any) -> EntityPretraining:
    settings = small(path, path, path, word_shapes=False, **FORM | changes)
    encoder, _ = load_checkpoint(str(path), word_shapes=False, n_layers=None, train_pieces=True, injection=settings.injection)
    return begin(encoder, EntityVocabulary(titles), settings)


def rows_of(module: EntityPretraining) -> Tensor:
    assert module.encoder.entities is not None
    return module.encoder.entities.ids.weight


@torch.no_grad()
def test_entities_and_heads_of_luke_go_on(tmp_path: Path) -> None:
    """Scores of entities that both know, and of words, are those of LUKE; who is new begins as [MASK]."""
    theirs = save(tmp_path).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error", EntityKitWarning)
        module = start(tmp_path)
    old = theirs.luke.entity_embeddings.entity_embeddings.weight
    known = [0, 1, 2, *(ROWS[title] for title in NEW[1:])]
    torch.testing.assert_close(rows_of(module)[[0, 1, 2, 4, 5, 6]], old[known], rtol=0, atol=0)
    torch.testing.assert_close(rows_of(module)[3], old[2], rtol=0, atol=0)
    states = torch.randn(7, SIZES["hidden_size"])
    found = module.entity_head(states, rows_of(module))[:, [0, 1, 2, 4, 5, 6]]
    torch.testing.assert_close(found, theirs.entity_predictions(states)[:, known], rtol=0, atol=1e-5)
    assert module.word_head is not None
    pieces = module.encoder.embeddings.pieces.weight
    torch.testing.assert_close(module.word_head(states, pieces), theirs.lm_head(states), rtol=0, atol=1e-5)
    assert start(tmp_path, word_weight=0).word_head is None


def test_the_result_in_lukes_format_goes_on_as_ours(tiny_roberta: Path, tmp_path: Path) -> None:
    corpus = write(tmp_path / "links.jsonl", sentences())
    pretrain(small(corpus, tiny_roberta, tmp_path / "out", word_shapes=False, steps=3, **FORM))
    ours, theirs = (start(tmp_path / "out" / name, TITLES).state_dict() for name in ("model", "luke"))
    assert not torch.equal(ours["encoder.entities.ids.weight"][4], ours["encoder.entities.ids.weight"][2])
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name == "encoder.entities.positions.weight":  # LUKE has rows for positions that no piece has
            continue
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=1e-6)


def test_titles_that_share_a_row(tmp_path: Path) -> None:
    """As those of an entity in several languages do."""
    save(tmp_path, rows=ROWS | {"A newcomer": ROWS[TITLES[0]]})
    rows = rows_of(start(tmp_path, ["A newcomer", TITLES[0], TITLES[1]]))
    assert torch.equal(rows[3], rows[4])
    assert not torch.equal(rows[3], rows[5])


def test_a_checkpoint_without_heads(tmp_path: Path) -> None:
    model = save(tmp_path, LukeModel)
    rows = rows_of(start(tmp_path))
    assert torch.equal(rows[4], model.entity_embeddings.entity_embeddings.weight[ROWS[NEW[1]]])


def test_nothing_says_whose_the_rows_are(tmp_path: Path) -> None:
    save(tmp_path, rows=None)
    with pytest.warns(EntityKitWarning, match=r"\[W130\] .* has 9 rows, .* there is no .*entity_vocab.json to say whose"):
        rows = rows_of(start(tmp_path))
    assert torch.equal(rows, rows[:1].expand_as(rows))


def test_no_entity_is_known(tmp_path: Path) -> None:
    save(tmp_path)
    with pytest.warns(EntityKitWarning, match=r"\[W130\] .* has 9 rows, .* no title in .* is in the vocabulary"):
        start(tmp_path, ["Q1", "Q2"])


def test_the_encoder_of_a_pipeline_that_was_pretrained(tiny_roberta: Path, tmp_path: Path) -> None:
    """It has the rows, and no titles."""
    corpus = write(tmp_path / "links.jsonl", sentences())
    result = pretrain(small(corpus, tiny_roberta, tmp_path / "out", word_shapes=False, steps=1))
    initialized(result, "mentions", encoder=READING)[0].to_disk(tmp_path / "nlp")
    with pytest.warns(EntityKitWarning, match=r"\[W130\] .* has 11 rows, .* there is no .*entity_vocab.json"):
        start(tmp_path / "nlp", TITLES, inject_layer=1, words_see_entities=False, entities_see_entities=False)


def test_a_checkpoint_without_entities_says_nothing(tiny_roberta: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", EntityKitWarning)
        start(tiny_roberta)


@pytest.mark.parametrize("row", [9, -1, True, "4"])
def test_rows_that_are_not_there(tmp_path: Path, row: object) -> None:
    save(tmp_path, rows=ROWS | {"Ada": row})
    with pytest.raises(CorpusError, match=rf"\[E240\] .*entity_vocab.json' has the row {row} of 'Ada'; expected rows .* 8"):
        start(tmp_path)


def test_half_a_head(tmp_path: Path) -> None:
    save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["entity_predictions.transform.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"\[E004\] .*'entity_predictions.transform.dense.weight'"):
        start(tmp_path)
