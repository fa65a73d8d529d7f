"""What a training begins with: what an earlier one, ours or LUKE's, made of the same entities goes on, and so do its heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from entitykit.bridge.checkpoints import find_checkpoint
from entitykit.bridge.encoder_file import find_encoder_file
from entitykit.bridge.weights import parse_weights
from entitykit.corpora.entity_vocabulary import MASK, SPECIAL, EntityVocabulary
from entitykit.corpora.files import read_json, typed
from entitykit.errors import error, warn
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.pretraining.checkpoint import HEADS, VOCABULARY_FILE
from entitykit.pretraining.luke_format import load_luke_heads
from entitykit.pretraining.objective import EntityPretraining
from entitykit.pretraining.settings import PretrainSettings


def begin(encoder: TransformerEncoder, vocabulary: EntityVocabulary, settings: PretrainSettings) -> EntityPretraining:
    """Make the module to train.

    Args:
        encoder: of the checkpoint.
        vocabulary: the entities to learn.
        settings: of the training.

    Raises:
        CorpusError: E2xx if the checkpoint's own vocabulary cannot be read.
        CheckpointError: E005 if its heads cannot; as `load_luke_heads` for a LUKE checkpoint.

    Warns:
        W130 if the checkpoint knows entities, and none of them goes on.
    """
    old = encoder.entities.ids.weight.detach().clone() if encoder.entities is not None else None
    module = EntityPretraining(encoder, n_entities=len(vocabulary), mask=MASK, words=settings.word_weight > 0)
    if old is None or len(old) == 1:  # [MASK] alone
        return module
    own = find_encoder_file(settings.checkpoint)
    folder = find_checkpoint(settings.checkpoint) if own is None else own.parent
    file = folder / VOCABULARY_FILE
    known = _rows(file, len(old))
    shared = [(row, known[title]) for row, title in enumerate(vocabulary.titles) if title in known]
    if not any(row >= len(SPECIAL) for row, _ in shared):
        reason = f"no title in {file} is in the vocabulary" if known else f"there is no {file} to say whose they are"
        warn("W130", n=len(old), name=settings.checkpoint, reason=reason)
    heads = load_luke_heads(settings.checkpoint) if own is None else _own_heads(folder)
    _go_on(module, old, torch.tensor(shared, dtype=torch.long).reshape(-1, 2), heads)
    return module


def _go_on(module: EntityPretraining, old: Tensor, shared: Tensor, heads: Mapping[str, dict[str, Tensor]]) -> None:
    """Put in what is known: the rows of an embedding and its entity head by `shared` *(n, 2)*, new rows and old ones."""
    of_new, of_old = shared.unbind(1)
    with torch.no_grad():
        module.get_parameter("encoder.entities.ids.weight")[of_new] = old[of_old]
        for name, weights in heads.items():
            head = getattr(module, name)
            if head is None:
                continue
            bias = weights.pop("bias")
            head.load_state_dict(weights, strict=False)
            if name == "entity_head":
                head.bias[of_new] = bias[of_old]
            else:
                head.bias.copy_(bias)


def _rows(path: Path, n: int) -> dict[str, int]:
    """The rows of an embedding of `n` by title, if there is a file of them; in multilingual ones several titles share a row."""
    if not path.is_file():
        return {}
    rows: dict[str, int] = typed(read_json(path), dict, what="the entity vocabulary", where=str(path))
    for title, row in rows.items():
        if type(row) is not int or not 0 <= row < n:
            raise error("E240", path=path, found=f"the row {row} of {title!r}", expected=f"rows from 0 to {n - 1}")
    return rows


def _own_heads(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Weights of the heads that a pretraining of ours has left."""
    files = {name: folder / file for name, file in HEADS.items()}
    return {name: parse_weights(file.read_bytes(), path=file)[0] for name, file in files.items() if file.is_file()}
