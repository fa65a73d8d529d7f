"""A linker and a reranker behind it, for four entities of which three have one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language

from entitykit.components.linker import Linker
from entitykit.components.reranker import Reranker
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.linked_texts import ENTITIES, linked_examples
from tests.pipelines import BI_ENCODER, CROSS_ENCODER, OURS, encoder_config, fast_optimizer, train

ENCODER, LINKER, RERANKER = "entitykit_encoder", "entitykit_linker", "entitykit_reranker"


def make(
    checkpoint: Path, store: EntityStore, *, own: bool = True, linker: dict[str, Any] | None = None, **config: Any
) -> Language:
    nlp = spacy.blank("xx")
    encoder = encoder_config(checkpoint)
    kb = {"@misc": "entitykit.KB.v1", "path": str(store.folder)}
    nlp.add_pipe(ENCODER, config=encoder)
    nlp.add_pipe(LINKER, config={"kb": kb, "model": BI_ENCODER | {"tok2vec": OURS}, **(linker or {})})
    model = CROSS_ENCODER | {"tok2vec": encoder["model"] if own else OURS} | config.pop("model", {})
    nlp.add_pipe(RERANKER, config={"kb": kb, "model": model, **config})
    return nlp


def initialized(checkpoint: Path, store: EntityStore, **options: Any) -> tuple[Language, Linker, Reranker]:
    nlp = make(checkpoint, store, **options)
    nlp.initialize(lambda: linked_examples(nlp))
    linker, reranker = nlp.get_pipe(LINKER), nlp.get_pipe(RERANKER)
    assert isinstance(linker, Linker)
    assert isinstance(reranker, Reranker)
    return nlp, linker, reranker


def teach(nlp: Language, steps: int) -> list[dict[str, float]]:
    """Train the reranker alone, as configs/reranker.cfg does."""
    others = [ENCODER, LINKER]
    optimizer = fast_optimizer(encoder_learn_rate=2e-3)
    return train(nlp, linked_examples(nlp), steps, optimizer=optimizer, exclude=others, annotates=others)


def build_saved(checkpoint: Path, store: EntityStore, folder: Path) -> Path:
    """A pipeline whose reranker knows the examples, and whose linker knows nothing."""
    nlp, linker, _ = initialized(checkpoint, store)
    linker.build_index()
    teach(nlp, 80)
    nlp.to_disk(folder)
    return folder


def build_store(folder: Path) -> EntityStore:
    """Three entities of one name, and another."""
    store = EntityStore.create(folder)
    store.add([*ENTITIES, Entity(id="Q4", name="New York", description="a song")])
    return store
