"""LUKE checkpoints of `transformers`: the result as one of them, where its form is LUKE's, and the heads that one had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from entitykit.bridge.checkpoints import find_checkpoint, one_line, quiet_transformers
from entitykit.errors import error
from entitykit.models.encoder.families import FAMILIES
from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.luke import LukeVocabulary
from entitykit.models.luke_weights import load_entity_vocabulary, load_word_vocabulary
from entitykit.pretraining.objective import EntityPretraining


def is_luke(settings: EncoderSettings, tokenizer: str) -> bool:
    """Whether an encoder is as LUKE: entity tokens from the embeddings on, all see all, RoBERTa's positions and pieces."""
    entities = settings.entities
    if entities is None or entities.inject_layer or not (entities.words_see_entities and entities.entities_see_entities):
        return False
    return settings.first_position > 0 and not settings.n_shapes and '"ByteLevel"' in tokenizer


def save_luke(folder: Path, module: EntityPretraining, tokenizer: str) -> None:
    """Write configuration, tokenizer and weights as LukeForMaskedLM has them; the entities' file is not written.

    Args:
        folder: that is there.
        module: in LUKE's form, see `is_luke`.
        tokenizer: as JSON of the `tokenizers` library.
    """
    (folder / "config.json").write_text(json.dumps(_config(module.encoder.settings), indent=2), encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    tensors = {f"luke.{name}": tensor for name, tensor in _encoder(module).items()}
    tensors |= _head(module.entity_head, "entity_predictions.transform.dense", "entity_predictions.transform.LayerNorm")
    tensors["entity_predictions.bias"] = module.entity_head.bias
    if module.word_head is not None:
        tensors |= _head(module.word_head, "lm_head.dense", "lm_head.layer_norm")
        tensors["lm_head.bias"] = module.word_head.bias
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, folder / "model.safetensors", metadata={"format": "pt"})


def load_luke_heads(name: str) -> dict[str, dict[str, Tensor]]:
    """Weights of the heads that a LUKE checkpoint was pretrained with, as `EntityPretraining` calls them; none that it lacks.

    Args:
        name: a folder or a name on the Hub.

    Raises:
        CheckpointError: as `find_checkpoint`; E003 for a vocabulary that is not tied to its embedding, E004 for half a head,
            E005 for damaged files, E010 for weights that are not finite.
    """
    from transformers import LukeForMaskedLM  # slow to import, and only needed here

    folder = find_checkpoint(name)
    try:
        with quiet_transformers():
            model, info = LukeForMaskedLM.from_pretrained(folder, output_loading_info=True)
    except Exception as reason:  # transformers and safetensors raise many kinds for damaged files
        raise error("E005", path=folder, reason=one_line(reason)) from reason
    config, missing = model.config.to_dict(), set(info["missing_keys"])
    tensors = {key: tensor for key, tensor in model.state_dict().items() if key not in missing}
    heads = {"entity_head": load_entity_vocabulary, "word_head": load_word_vocabulary}
    there = [head for head, bias in zip(heads, ("entity_predictions.bias", "lm_head.bias"), strict=True) if bias in tensors]
    return {head: heads[head](tensors, config, name=name).state_dict() for head in there}


def _config(settings: EncoderSettings) -> dict[str, Any]:
    entities = settings.entities
    if entities is None:
        raise ValueError("LUKE has entity tokens")
    ours = {theirs: getattr(settings, name) for name, theirs in FAMILIES["luke"].keys.items() if name != "activation"}
    return {
        **ours,
        "model_type": "luke",
        "architectures": ["LukeForMaskedLM"],
        "hidden_act": "gelu",
        "attention_probs_dropout_prob": 0.0,
        "type_vocab_size": 1,
        "pad_token_id": settings.first_position - 1,
        "entity_vocab_size": entities.vocab_size,
        "entity_emb_size": entities.embedding_width,
        "use_entity_aware_attention": entities.own_queries,
    }


def _encoder(module: EntityPretraining) -> dict[str, Tensor]:
    settings, weights = module.encoder.settings, module.encoder.state_dict()
    family, nothing = FAMILIES["luke"], torch.zeros(1, settings.width)
    positions = weights["entities.positions.weight"]
    tensors = {
        "embeddings.word_embeddings.weight": weights["embeddings.pieces.weight"],
        "embeddings.position_embeddings.weight": weights["embeddings.positions.weight"],
        "embeddings.token_type_embeddings.weight": nothing,
        "entity_embeddings.entity_embeddings.weight": weights["entities.ids.weight"],
        "entity_embeddings.position_embeddings.weight": F.pad(positions, (0, 0, 0, settings.n_positions - len(positions))),
        "entity_embeddings.token_type_embeddings.weight": nothing,
    }
    if "entities.up.weight" in weights:
        tensors["entity_embeddings.entity_embedding_dense.weight"] = weights["entities.up.weight"]
    for kind in ("weight", "bias"):
        tensors[f"embeddings.LayerNorm.{kind}"] = weights[f"embeddings.norm.{kind}"]
        tensors[f"entity_embeddings.LayerNorm.{kind}"] = weights[f"entities.norm.{kind}"]
        for i in range(settings.n_layers):
            ours, theirs = f"layers.{i}.", family.layer.format(i=i)
            q, k, v = weights[f"{ours}attention.qkv.{kind}"].chunk(3)
            parts = {family.parts["q"]: q, family.parts["k"]: k, family.parts["v"]: v}
            parts |= {their: weights[f"{ours}{part}.{kind}"] for part, their in family.parts.items() if part not in "qkv"}
            if f"{ours}attention.of_words.{kind}" in weights:
                parts["attention.self.w2e_query"] = weights[f"{ours}attention.of_words.{kind}"]
                e2w, e2e = weights[f"{ours}attention.of_entities.{kind}"].chunk(2)
                parts |= {"attention.self.e2w_query": e2w, "attention.self.e2e_query": e2e}
            tensors |= {f"{theirs}{part}.{kind}": tensor for part, tensor in parts.items()}
    return tensors


def _head(head: LukeVocabulary, inner: str, norm: str) -> dict[str, Tensor]:
    weights = head.state_dict()
    names = {"inner": inner, "norm": norm}
    return {f"{their}.{kind}": weights[f"{our}.{kind}"] for our, their in names.items() for kind in ("weight", "bias")}
