"""A linker and a reranker behind it, for four entities of which three have one name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import spacy
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components.linker import Linker
from entitykit.components.reranker import Reranker
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.pipelines import BI_ENCODER, CROSS_ENCODER, OURS, encoder_config, fast_optimizer, train

ENCODER, LINKER, RERANKER = "entitykit_encoder", "entitykit_linker", "entitykit_reranker"

TEXTS = [
    ("Mary Jones went to New York", [(0, 2, "Q1"), (4, 6, "Q2")]),
    ("on the river New York sank", [(3, 5, "Q3")]),
    ("in New York the river is long", [(1, 3, "Q2"), (4, 5, "NIL")]),
]


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


def make_examples(nlp: Language) -> list[Example]:
    found = []
    for text, links in TEXTS:
        predicted, reference = (Doc(nlp.vocab, words=text.split()) for _ in range(2))
        reference.set_ents([Span(reference, a, b, label="X", kb_id=id_) for a, b, id_ in links])
        predicted.set_ents([Span(predicted, a, b, label="X") for a, b, _ in links])
        found.append(Example(predicted, reference))
    return found


def initialized(checkpoint: Path, store: EntityStore, **options: Any) -> tuple[Language, Linker, Reranker]:
    nlp = make(checkpoint, store, **options)
    nlp.initialize(lambda: make_examples(nlp))
    linker, reranker = nlp.get_pipe(LINKER), nlp.get_pipe(RERANKER)
    assert isinstance(linker, Linker)
    assert isinstance(reranker, Reranker)
    return nlp, linker, reranker


def teach(nlp: Language, steps: int) -> list[dict[str, float]]:
    """Train the reranker alone, as configs/reranker.cfg does."""
    others = [ENCODER, LINKER]
    optimizer = fast_optimizer(encoder_learn_rate=2e-3)
    return train(nlp, make_examples(nlp), steps, optimizer=optimizer, exclude=others, annotates=others)


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
    store.add(
        [
            Entity(id="Q1", name="Mary Jones", description="a mayor"),
            Entity(id="Q2", name="New York", description="a city in the north"),
            Entity(id="Q3", name="New York", description="a ship of long ago"),
            Entity(id="Q4", name="New York", description="a song"),
        ]
    )
    return store
