"""Small pipelines on a tiny checkpoint, their examples, and what tests count in them."""

from __future__ import annotations

import shutil
import tempfile
from atexit import register
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span, SpanGroup
from spacy.training import Example
from spacy.util import filter_spans
from torch import nn

from entitykit.bridge.optimizer import AdamW, adamw
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from entitykit.scoring.linking import register_candidates
from tests.cross_document import BEFORE, CROSS_DOCUMENT
from tests.written import CLUSTERS, DOCUMENT, EVIDENCE, TRACKER, procedure_of, relations_of, salience_of, tracks_of

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

BI_ENCODER: Config = {"@architectures": "entitykit.BiEncoder.v1", "context_pieces": 64, "entity_pieces": 64}
CROSS_ENCODER: Config = {"@architectures": "entitykit.CrossEncoder.v1", "context_pieces": 64, "entity_pieces": 64}
ENTQA: Config = {"@architectures": "entitykit.EntQA.v1", "entity_pieces": 40}

SPERT_RELATIONS: Config = {"@architectures": "entitykit.SpERTRelations.v1", "hidden": 16, "size_width": 4, "types": 4}
ONLINE_COREF: Config = {"@architectures": "entitykit.OnlineCoref.v1", "size": 16, "match": 8, "hidden": 16, "size_width": 4}
MAJOR_ENTITIES: Config = ONLINE_COREF | {"@architectures": "entitykit.MajorEntities.v1", "least": 2}
LUKE_PAIRS: Config = {"@architectures": "entitykit.LukePair.v1", "markers": True, "pair_pieces": 100}
SALIENCE: Config = {"@architectures": "entitykit.Salience.v1", "hidden": 16, "fit": 8, "deciles": 4}
SALIENCE_CROSS: Config = {"@architectures": "entitykit.SalienceCrossEncoder.v1", "hidden": 16, "pieces": 100, "windows": 20}
ANTECEDENTS: Config = ONLINE_COREF | {"@architectures": "entitykit.AntecedentCoref.v1"}
ENRICO: Config = {"@architectures": "entitykit.EnriCo.v1", "size": 16, "keep_spans": 1.0}


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
    **CROSS_DOCUMENT,
    "mentions": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {}),
    "candidates": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {"per_word": 0.5, "candidates": 1.0}),
    "span_ner": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {}),
    "nested": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {"annotate": "spans"}),
    "mentions_reading": ("entitykit_mentions", TOMMER | {"tok2vec": OURS}, {}),
    "span_ner_reading": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {}),
    "nested_luke": ("entitykit_ner", SPAN_NER | {"tok2vec": OURS}, {"annotate": "spans"}),
    "spert": ("entitykit_ner", SPERT | {"tok2vec": OURS}, {}),
    "spert_nested": ("entitykit_ner", SPERT | {"tok2vec": OURS}, {"annotate": "spans", "decoder": "exact_nested"}),
    "linker": ("entitykit_linker", BI_ENCODER | {"tok2vec": OURS}, {}),
    "linker_state": ("entitykit_linker", BI_ENCODER | {"tok2vec": OURS, "mention": "state", "projection": 16}, {}),
    "reranker": ("entitykit_reranker", CROSS_ENCODER, {}),
    "reranker_shared": ("entitykit_reranker", CROSS_ENCODER | {"tok2vec": OURS}, {}),
    "dictionary": ("entitykit_dictionary", {}, {}),
    "keywords": ("entitykit_keywords", {"@architectures": "entitykit.Keywords.v1", "hidden": 16, "tok2vec": OURS}, {}),
    "relations": ("entitykit_relations", SPERT_RELATIONS | {"tok2vec": OURS, "lower_layers": [0]}, {"entities": "names"}),
    "relations_joint": ("entitykit_relations", ENRICO | {"tok2vec": OURS}, {"entities": "names"}),
    "coref": ("entitykit_coref", ONLINE_COREF | {"tok2vec": OURS}, {}),
    "coref_antecedents": ("entitykit_coref", ANTECEDENTS | {"tok2vec": OURS, "lower_layers": [0]}, {}),
    "coref_major": ("entitykit_coref", MAJOR_ENTITIES | {"tok2vec": OURS, "update": "gate"}, {}),
    "coref_tokens": ("entitykit_coref", MAJOR_ENTITIES | {"tok2vec": OURS, "lower_layers": [1, 0]}, {}),
    "relations_marked": ("entitykit_relations", LUKE_PAIRS | {"tok2vec": OURS}, {"entities": "names", "window": 8}),
    "relations_clusters": ("entitykit_relations", CLUSTERS | {"tok2vec": OURS}, DOCUMENT),
    "relations_evidence": ("entitykit_relations", EVIDENCE | {"tok2vec": OURS}, DOCUMENT),
    "salience": ("entitykit_salience", SALIENCE | {"tok2vec": OURS}, {"mentions": "names", "clusters": ""}),
    "salience_cross": ("entitykit_salience", SALIENCE_CROSS, {"mentions": "names", "clusters": ""}),
    "tracker": ("entitykit_tracker", TRACKER | {"tok2vec": OURS}, {"participants": ["names"]}),
    "tracker_texts": ("entitykit_tracker", TRACKER | {"tok2vec": OURS, "input": "one_pass"}, {"participants": ["names"]}),
    "entqa": ("entitykit_entqa", ENTQA | {"tok2vec": OURS}, {"candidates": 6, "read": 6}),
    "tagger": ("tagger", {"@architectures": "spacy.Tagger.v2", "tok2vec": STOCK}, {}),
    "parser": ("parser", transitions("parser") | {"tok2vec": STOCK}, {"min_action_freq": 1}),
    "ner": ("ner", transitions("ner") | {"tok2vec": STOCK}, {}),
    "spancat": (
        "spancat",
        SPANCAT | {"tok2vec": STOCK},
        {"suggester": {"@misc": "spacy.ngram_suggester.v1", "sizes": [1, 2, 3, 4, 5]}, "spans_key": "sc"},
    ),
}
"""Kind to factory, model (none for a component without one) and settings; the component is called like the kind."""

_TOKENS: Config = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "rank": 8, "window": 5, "proposals": 1.0}
READING: Config = {"entities": _TOKENS}
LUKE: Config = {"entities": _TOKENS | {"inject_layer": 0, "words_see_entities": True, "entities_see_entities": True}}
PROPOSING: Config = {"entities": _TOKENS | {"tokens": False}}
PROPOSING_ALL: Config = {"entities": _TOKENS | {"tokens": False, "proposals": 10.0}}
ENCODERS: dict[str, Config] = {
    **dict.fromkeys(("coref", "coref_antecedents", "coref_major"), PROPOSING_ALL),
    "coref_tokens": {"entities": _TOKENS | {"proposals": 10.0}},
    "relations_joint": PROPOSING,
    "mentions_reading": READING,
    "span_ner_reading": READING,
    "nested_luke": LUKE,
    "entqa": {"batch_pieces": 1024},
}
"""Kinds whose encoder has entity tokens, which see only words and themselves, or are as in LUKE, or reads more at once."""

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
    if factory in ("entitykit_linker", "entitykit_reranker") or (kind == "coref" and settings.get("mentions")):
        nlp.add_pipe("tests_capitals")
    if factory == "entitykit_reranker":
        nlp.add_pipe("tests_candidates")
        architecture = {"tok2vec": nlp.config["components"]["entitykit_encoder"]["model"], **architecture}  # else its own
    if factory in ("entitykit_linker", "entitykit_reranker", "entitykit_dictionary", "entitykit_entqa", "entitykit_keywords"):
        config = {"kb": {"@misc": "entitykit.KB.v1", "path": str(knowledge_base())}, **config}
    if factory == "entitykit_tracker":
        nlp.add_pipe("sentencizer", config={"punct_chars": [".", "rained", "long", "hill"]})  # of SENTENCES in a row
    reads_names = kind in ("relations", "relations_marked") or factory in ("entitykit_salience", "entitykit_tracker")
    if reads_names and "tests_names" not in nlp.pipe_names:
        nlp.add_pipe("tests_names")
    if kind in ("salience_cross", "mention_pairs"):
        architecture = {"tok2vec": nlp.config["components"]["entitykit_encoder"]["model"], **architecture}  # else its own
    for annotator in BEFORE.get(kind, ()):
        nlp.add_pipe(annotator)
    models = {"model": {**architecture, **(model or {})}} if architecture else {}
    nlp.add_pipe(factory, name=kind, config={**models, **config, **settings})


@Language.component("tests_capitals")
def capitals(doc: Doc) -> Doc:
    """Make an entity of each run of capitalised words."""
    doc.set_ents(names_in(doc))
    return doc


@Language.component("tests_names")
def capitals_in_group(doc: Doc) -> Doc:
    """The same in a span group, with scores."""
    names = names_in(doc)
    doc.spans["names"] = SpanGroup(doc, name="names", spans=names, attrs={"scores": [1.0] * len(names)})
    return doc


@Language.component("tests_clusters")
def names_in_clusters(doc: Doc) -> Doc:
    """The clusters of a sentence that is known; else one of all runs of capitalised words with the same text."""
    known = next((entities for text, entities in SENTENCES if text.split() == [token.text for token in doc]), None)
    entities = [(name.start, name.end, name.text) for name in names_in(doc)] if known is None else known
    for number, places in enumerate(clusters_of(entities), start=1):
        spans = [doc[start:end] for start, end in places]
        doc.spans[f"coref_clusters_{number}"] = SpanGroup(doc, spans=spans, attrs={"scores": [1.0] * len(spans)})
    return doc


def clusters_of(entities: Sequence[tuple[int, int, str]]) -> list[list[tuple[int, int]]]:
    """Entities with the same label."""
    labels = sorted({label for *_, label in entities})
    return [sorted({(start, end) for start, end, own in entities if own == label}) for label in labels]


def names_in(doc: Doc) -> list[Span]:
    runs = groupby(doc, lambda token: token.text.istitle())
    tokens = [list(run) for is_title, run in runs if is_title]
    return [Span(doc, run[0].i, run[-1].i + 1, label="NAME") for run in tokens]


@Language.component("tests_candidates")
def candidates(doc: Doc) -> Doc:
    """Leave candidates on all spans that name an entity, and none on others that are entities."""
    register_candidates()
    for ent in doc.ents:
        ent._.kb_ents = []
    spans = [doc[i:j] for i in range(len(doc)) for j in range(i + 1, min(i + 6, len(doc)) + 1)]
    with EntityStore.open(knowledge_base(), read_only=True) as store:
        found = store.by_alias_batch([span.text for span in spans])
    for span, matches in zip(spans, found, strict=True):
        if matches:
            span._.kb_ents = [(match.id, match.prior) for match in matches]
    return doc


@cache
def knowledge_base() -> Path:
    """A knowledge base of all entities of the sentences, and namesakes of them; it exists as long as the process."""
    folder = Path(tempfile.mkdtemp())
    register(shutil.rmtree, folder, ignore_errors=True)
    found = {}
    whole = [("Mary Jones went to New York", [(0, 6, "TRIP")])]
    for text, entities in [*SENTENCES, *whole]:
        words = text.split()
        for start, end, label in entities:
            name = " ".join(words[start:end])
            found[name] = Entity(id=f"Q:{name}", name=name, description=f"the {label.lower()} of that name")
            found[f"{name} 2"] = Entity(id=f"Q2:{name}", name=name, description="a ship")
    EntityStore.build(folder, found.values())
    return folder


def make_example(nlp: Language, text: str, entities: Sequence[tuple[int, int, str]]) -> Example:
    """Nested entities in ``sc``, the longest of them in ``doc.ents``, tags and a chain of heads for stock components.

    Entities of a type are a cluster, and the first is related to the second; it to the first if that is at the beginning.
    Capitalised words are ``names``, each related to the next, and the third to the first; the first name matters most.
    """
    n = len(words := text.split())
    gold = Doc(
        nlp.vocab,
        words=words,
        tags=[word[0].lower() for word in words],
        heads=[0, *list(range(n - 1))] if n else None,
        deps=["ROOT"] + ["dep"] * (n - 1) if n else None,
        sent_starts=[True] + [False] * (n - 1) if n else None,
    )
    spans = [Span(gold, start, end, label=label, kb_id=f"Q:{' '.join(words[start:end])}") for start, end, label in entities]
    gold.spans["sc"] = spans
    gold.set_ents(filter_spans(spans))
    clusters = clusters_of(entities)
    gold.user_data["coref_ids"] = sorted({label for *_, label in entities})
    for i, places in enumerate(clusters or [[]], start=1):
        gold.spans[f"coref_clusters_{i}"] = [gold[start:end] for start, end in places]
    between = [(1, 2, "Next"), *([(2, 1, "First")] if clusters[0][0][0] == 0 else [])] if len(clusters) == 2 else []
    gold.user_data["cluster_relations"] = [{"head": a, "tail": b, "label": r, "evidence": [0]} for a, b, r in between]
    gold.spans["names"] = names = names_in(gold)
    first = {name.text: [name.start, name.end] for name in reversed(names)}
    gold.user_data["salience"] = [{"mentions": [place], "score": float(place[0] == names[0].start)} for place in first.values()]
    gold.user_data["procedure"] = procedure_of(gold, names)
    triples = [(a, b, "Next") for a, b in pairwise(names)] + [(c, names[0], "First") for c in names[2:3]]
    gold.user_data["relations"] = [
        {"head": [a.start, a.end], "tail": [b.start, b.end], "label": label} for a, b, label in triples
    ]
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
    if {"tests_candidates", "tests_vectors"} & set(nlp.pipe_names):
        options = {"annotates": [name for name in nlp.pipe_names if name.startswith("tests_")], **options}
    history = []
    for _ in range(steps):
        history.append(nlp.update(examples, sgd=False, losses={}, **options))  # type: ignore[arg-type]
        finish(nlp, optimizer, exclude=options.get("exclude", ()))
        optimizer.step_schedules()
    return history


def finish(nlp: Language, optimizer: Any, *, exclude: Sequence[str] = ()) -> None:
    for name, pipe in nlp.pipeline:
        if name not in exclude and hasattr(pipe, "finish_update"):
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
    ents = [(ent.start, ent.end, ent.label_, ent.kb_id_) for ent in doc.ents]
    relations = [{**relation, "score": None} for relation in relations_of(doc)]
    salience = [{**value, "score": None} for value in salience_of(doc)]
    tags, heads = [token.tag_ for token in doc], [token.head.i for token in doc]
    lists = {"relations": relations, "salience": salience, "tracks": tracks_of(doc)[0]}
    return {"ents": ents, "groups": groups, "tags": tags, "heads": heads, **lists}


def scores(doc: Doc) -> dict[str, list[float]]:
    found = {key: list(group.attrs.get("scores", [])) for key, group in doc.spans.items()}
    values = {"relations": relations_of(doc), "salience": salience_of(doc)}
    found |= {key: [value["score"] for value in own] for key, own in values.items()} | tracks_of(doc)[1]
    found["keywords"] = (doc._.keyword_scores if Doc.has_extension("keyword_scores") else None) or []
    if Span.has_extension("kb_ents"):
        found["kb_ents"] = [score for ent in doc.ents for _, score in ent._.kb_ents or ()]
    return found
