"""Small pipelines on a tiny checkpoint, their examples, and what tests count in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.util import filter_spans
from torch import nn

from entitykit.bridge.optimizer import AdamW, adamw

Config = dict[str, Any]

OURS: Config = {"@architectures": "entitykit.EncoderListener.v1"}
STOCK: Config = {"@architectures": "spacy-transformers.TransformerListener.v1", "pooling": {"@layers": "reduce_mean.v1"}}

TOMMER: Config = {"@architectures": "entitykit.ToMMeR.v1", "layer": 1, "rank": 8, "window": 5}
SPAN_NER: Config = {
    "@architectures": "entitykit.SpanNER.v1",
    "probe_layer": 1,
    "rank": 8,
    "window": 5,
    "hidden": 32,
    "proposals": 1.0,
}
SPERT: Config = {"@architectures": "entitykit.SpERT.v1", "max_width": 6, "context": 4}


def transitions(state_type: str) -> Config:
    return {
        "@architectures": "spacy.TransitionBasedParser.v2",
        "state_type": state_type,
        "extra_state_tokens": False,
        "hidden_width": 16,
        "maxout_pieces": 2,
        "use_upper": True,
    }


SPANCAT: Config = {
    "@architectures": "spacy.SpanCategorizer.v1",
    "reducer": {"@layers": "spacy.mean_max_reducer.v1", "hidden_size": 16},
    "scorer": {"@layers": "spacy.LinearLogistic.v1"},
}

HEADS: dict[str, tuple[str, Config, Config]] = {
    "mentions": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {}),
    "candidates": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {"per_word": 0.5, "candidates": 1.0}),
    "span_ner": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {}),
    "nested": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {"annotate": "spans"}),
    "mentions_reading": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {}),
    "span_ner_reading": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {}),
    "nested_luke": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {"annotate": "spans"}),
    "spert": ("entitykit_ner", SPERT | {"tok2vec": OURS}, {}),
    "spert_nested": ("entitykit_ner", SPERT | {"tok2vec": OURS}, {"annotate": "spans", "decoder": "exact_nested"}),
    "tagger": ("tagger", {"@architectures": "spacy.Tagger.v2", "tok2vec": STOCK}, {}),
    "parser": ("parser", transitions("parser") | {"tok2vec": STOCK}, {"min_action_freq": 1}),
    "ner": ("ner", transitions("ner") | {"tok2vec": STOCK}, {}),
    "spancat": (
        "spancat",
        SPANCAT | {"tok2vec": STOCK},
        {"suggester": {"@misc": "spacy.ngram_suggester.v1", "sizes": [1, 2, 3, 4, 5]}, "spans_key": "sc"},
    ),
}
"""Kind to factory, model and settings; the component is called like the kind."""

_TOKENS: Config = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "rank": 8, "window": 5, "proposals": 1.0}
READING: Config = {"entities": _TOKENS}
LUKE: Config = {"entities": _TOKENS | {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True}}
ENCODERS: dict[str, Config] = {"mentions_reading": READING, "span_ner_reading": READING, "nested_luke": LUKE}
"""Kinds whose encoder has entity tokens, which see only words and themselves, or are as in LUKE."""

SENTENCES: list[tuple[str, list[tuple[int, int, str]]]] = [
    ("Mary Jones went to New York", [(0, 2, "PERSON"), (4, 6, "PLACE")]),
    ("The mayor of New York met John", [(0, 5, "PERSON"), (3, 5, "PLACE"), (6, 7, "PERSON")]),
    ("In 1987 it rained", []),
    ("Peter", [(0, 1, "PERSON")]),
    ("the river Thames in London is long", [(0, 3, "PLACE"), (2, 3, "PLACE"), (4, 5, "PLACE")]),
    (
        "Aberdeen is north of the river Don and of the hill",
        [(0, 1, "PLACE"), (4, 7, "PLACE"), (6, 7, "PLACE"), (9, 11, "PLACE")],
    ),
]
"""Words, and nested entities as [start, end) with their types."""


def encoder_config(checkpoint: Path, **settings: object) -> Config:
    small = {"window": 64, "overlap": 8, "max_word_pieces": 20, "batch_pieces": 256, "position_shift": 0.0}
    return {"model": {"@architectures": "entitykit.EntityEncoder.v1", "name": str(checkpoint), **small, **settings}}


def make_pipeline(
    checkpoint: Path | None, *heads: str, encoder: Mapping[str, object] | None = None, **settings: object
) -> Language:
    """An encoder and heads with common settings, not initialized; without a checkpoint there is no encoder."""
    nlp = spacy.blank("xx")  # English has a list of exceptions, whose reading would take longer than most tests
    if checkpoint is not None:
        forms = [ENCODERS[kind] for kind in heads if kind in ENCODERS]
        nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint, **(encoder or (forms or [{}])[0])))
    for kind in heads:
        add_head(nlp, kind, **settings)
    return nlp


def add_head(nlp: Language, kind: str, *, model: Mapping[str, object] | None = None, **settings: object) -> None:
    factory, architecture, config = HEADS[kind]
    nlp.add_pipe(factory, name=kind, config={"model": {**architecture, **(model or {})}, **config, **settings})


def make_example(nlp: Language, text: str, entities: Sequence[tuple[int, int, str]]) -> Example:
    """Nested entities in ``sc``, the longest of them in ``doc.ents``, and tags and a chain of heads for stock components."""
    words = text.split()
    n = len(words)
    gold = Doc(
        nlp.vocab,
        words=words,
        tags=[word[0].lower() for word in words],
        heads=[0, *list(range(n - 1))] if n else None,
        deps=["ROOT"] + ["dep"] * (n - 1) if n else None,
        sent_starts=[True] + [False] * (n - 1) if n else None,
    )
    spans = [Span(gold, start, end, label=label) for start, end, label in entities]
    gold.spans["sc"] = spans
    gold.set_ents(filter_spans(spans))
    return Example(Doc(nlp.vocab, words=words), gold)


def make_examples(nlp: Language) -> list[Example]:
    return [make_example(nlp, text, entities) for text, entities in SENTENCES]


def initialized(checkpoint: Path, *heads: str, encoder: Mapping[str, object] | None = None) -> tuple[Language, list[Example]]:
    """A pipeline ready for training, and its examples."""
    nlp = make_pipeline(checkpoint, *heads, encoder=encoder)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    return nlp, examples


def fast_optimizer(**settings: Any) -> AdamW:
    return adamw(**({"encoder_learn_rate": 3e-3, "head_learn_rate": 1e-2, "weight_decay": 0.0} | settings))


def train(
    nlp: Language, examples: Sequence[Example], steps: int, *, optimizer: Any = None, **options: Any
) -> list[dict[str, float]]:
    """Update on all examples as spaCy's training loop does, and return the losses of each step."""
    optimizer = fast_optimizer() if optimizer is None else optimizer
    history = []
    for _ in range(steps):
        history.append(nlp.update(examples, sgd=False, losses={}, **options))  # type: ignore[arg-type]
        finish(nlp, optimizer, exclude=options.get("exclude", ()))
        optimizer.step_schedules()
    return history


def finish(nlp: Language, optimizer: Any, *, exclude: Sequence[str] = ()) -> None:
    for name, pipe in nlp.pipeline:
        if name not in exclude:
            pipe.finish_update(optimizer)


def encoder_module(nlp: Language) -> nn.Module:
    return nlp.get_pipe("entitykit_encoder").model.shims[0].module


def encoder_weights(nlp: Language) -> torch.Tensor:
    """A matrix of the lowest layer, which every head's gradient reaches, copied."""
    return encoder_module(nlp).layers[0].outer.weight.detach().clone()


def encoder_gradient(nlp: Language) -> dict[str, torch.Tensor]:
    """The encoder's gradients, which are taken away."""
    parameters = dict(encoder_module(nlp).named_parameters())
    gradients = {name: p.grad.to_dense().clone() for name, p in parameters.items() if p.grad is not None}
    encoder_module(nlp).zero_grad()
    return gradients


class Passes:
    """Forward and backward passes through the encoder."""

    def __init__(self) -> None:
        self.forward = 0
        self.backward = 0
        self.layers = 0


@contextmanager
def counted_passes(nlp: Language) -> Iterator[Passes]:
    """Count passes: each goes through the embeddings once, as long as the batch fits in one pack."""
    passes = Passes()

    def forward(module: object, inputs: object, output: torch.Tensor) -> None:
        passes.forward += 1
        if output.requires_grad:
            output.register_hook(backward)

    def backward(gradient: torch.Tensor) -> None:
        passes.backward += 1

    def layer(*_: object) -> None:
        passes.layers += 1

    module = encoder_module(nlp)
    hooks = [module.embeddings.register_forward_hook(forward), *(part.register_forward_hook(layer) for part in module.layers)]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def annotations(doc: Doc) -> dict[str, Any]:
    """All that heads write, as plain values; scores apart."""
    groups = {key: [(span.start, span.end, span.label_) for span in group] for key, group in doc.spans.items()}
    ents = [(ent.start, ent.end, ent.label_) for ent in doc.ents]
    return {"ents": ents, "groups": groups, "tags": [token.tag_ for token in doc], "heads": [token.head.i for token in doc]}


def scores(doc: Doc) -> dict[str, list[float]]:
    return {key: list(group.attrs.get("scores", [])) for key, group in doc.spans.items()}
