"""What a training begins with: what an earlier pretraining made of the same entities, and its heads, go on."""

from __future__ import annotations

from pathlib import Path

import torch

from entitykit.bridge.encoder_file import ENCODER_FILE
from entitykit.bridge.weights import parse_weights
from entitykit.corpora.entity_vocabulary import MASK, SPECIAL, EntityVocabulary
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.pretraining.checkpoint import HEADS, VOCABULARY_FILE
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
        CheckpointError: E005 if its heads cannot.
    """
    old = encoder.entities.ids.weight.detach().clone() if encoder.entities is not None else None
    module = EntityPretraining(encoder, n_entities=len(vocabulary), mask=MASK, words=settings.word_weight > 0)
    folder = Path(settings.checkpoint)
    if old is None or module.encoder.entities is None or not (folder / ENCODER_FILE).is_file():
        return module
    known = EntityVocabulary.from_disk(folder / VOCABULARY_FILE)
    titles = [title for title in vocabulary.titles if title in known or title in SPECIAL]
    of_new = torch.tensor([vocabulary.titles.index(title) if title in SPECIAL else vocabulary.row(title) for title in titles])
    of_old = torch.tensor([known.titles.index(title) if title in SPECIAL else known.row(title) for title in titles])
    with torch.no_grad():
        module.encoder.entities.ids.weight[of_new] = old[of_old]
        for name, file in HEADS.items():
            head = getattr(module, name)
            if head is None or not (folder / file).is_file():
                continue
            weights, _ = parse_weights((folder / file).read_bytes(), path=folder / file)
            bias = weights.pop("bias")
            head.load_state_dict(weights, strict=False)
            if name == "entity_head":
                head.bias[of_new] = bias[of_old]
            else:
                head.bias.copy_(bias)
    return module
