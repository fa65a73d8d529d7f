"""The registered architectures: functions of a config block that make thinc models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from spacy.tokens import Doc
from thinc.api import Model

from entitykit.bridge import encoder as bridge_encoder
from entitykit.bridge.early_lm import build_early_lm, load_early_lm
from entitykit.bridge.head import HeadInput, TorchHead
from entitykit.bridge.listener import EncoderListener
from entitykit.bridge.packs import ReadingSettings
from entitykit.bridge.ranges import check_ranges
from entitykit.bridge.states import EncoderBatch
from entitykit.bridge.weights import STORAGES, Storage
from entitykit.errors import error
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.knowledge import check_knowledge
from entitykit.models.encoder.settings import Injection, ProbeSettings
from entitykit.models.mentions import ToMMeRSettings, build_tommer
from entitykit.models.ner import SpanNERSettings, SpERTSettings, build_span_ner, build_spert
from entitykit.models.relations import SpERTRelationsSettings, build_spert_relations
from entitykit.models.relations_enrico import EnriCoSettings, build_enrico
from entitykit.models.typed_tommer import TypedToMMeRSettings, build_typed_tommer
from entitykit.types import ENTITIES, MENTIONS, TOP, WordStates

Tok2Vec = Model[list[Doc], Any]
Head = Model[HeadInput, Any]


def entity_encoder(
    name: str = "minilm",
    window: int = 256,
    overlap: int = 64,
    batch_pieces: int = 4096,
    max_word_pieces: int = 64,
    word_dropout: float = 0.0,
    position_shift: float = 0.5,
    word_shapes: bool | None = None,
    n_layers: int | None = None,
    train_pieces: bool = True,
    storage: str = "fp32",
    bf16: bool = False,
    entities: Injection | None = None,
    keep_keys: bool = False,
    vectors: VectorTable | None = None,
) -> Model[list[Doc], EncoderBatch]:
    """Make the shared encoder, registered as ``entitykit.EntityEncoder.v1``.

    Args:
        name: a checkpoint of a BERT, RoBERTa, XLM-R, DistilBERT or LUKE model: a folder, a name on the Hub, or ``minilm``;
            or a pipeline whose encoder was trained before: its folder, such as ``out/model-best``, or its package.
        window: most pieces that the encoder sees at once, special pieces included.
        overlap: pieces that neighbouring windows of a long document share.
        batch_pieces: pieces that run through the encoder at once; this bounds its memory.
        max_word_pieces: pieces kept of one word; words that have more are counted in ``doc._.coverage`` and warned of.
        word_dropout: share of words whose pieces are masked in training, so that heads learn to rely on context and word shape.
        position_shift: share of windows whose positions begin at random in training, and not at 0: without it, a model that was
            trained on sentences would know nothing of the later positions in the windows of a document.
        word_shapes: add an embedding of each word's capitals and digits; none: where the checkpoint does not see them.
        n_layers: keep only the lowest layers of the checkpoint; none: all.
        train_pieces: learn piece embeddings too.
        storage: precision of saved weights: ``fp32``, ``fp16`` or ``int8``.
        bf16: compute in bfloat16 on CUDA devices; on CPUs that have instructions for it, multiply in bfloat16 in training.
        entities: a probe and tokens inside the encoder, ``entitykit.Entities.v1``; none: states of spans are pooled.
        keep_keys: in prediction, keep on each document what entity tokens for spans that arrive later must know, for heads and
            for `SharedEncoder.entity_states`: 2 * width numbers per piece and layer.
        vectors: external vectors of entities, ``entitykit.VectorTable.v1``, which entity tokens read as their `knowledge`
            setting says: those of the ids (``kb_id_``) of given spans. The table may change without training.

    Raises:
        ConfigError: E007 for a value out of range.
    """
    given = {"overlap": overlap, "batch_pieces": batch_pieces, "max_word_pieces": max_word_pieces, "word_dropout": word_dropout}
    check_ranges(given)
    if not 0 <= position_shift <= 1:
        raise error("E007", setting="position_shift", found=position_shift, expected="0 to 1")
    checkpoint: dict[str, Any] = {"name": name, "word_shapes": word_shapes, "n_layers": n_layers, "train_pieces": train_pieces}
    checkpoint["injection"] = entities
    reading = ReadingSettings(
        window=window,
        overlap=overlap,
        batch_pieces=batch_pieces,
        max_word_pieces=max_word_pieces,
        word_dropout=word_dropout,
        position_shift=position_shift,
        keep_keys=keep_keys,
    )
    seen = entities is not None and (entities.words_see_entities or entities.entities_see_entities)
    if keep_keys and (entities is None or not entities.tokens or seen):
        expected = "false, or entity tokens that neither words nor other entities see"
        raise error("E007", setting="keep_keys", found="true", expected=expected)
    if (entities is None or entities.knowledge is None) != (vectors is None):
        raise error(
            "E007",
            setting="vectors",
            found="set" if vectors else "none",
            expected="a table if entities have a knowledge setting, else none",
        )
    if entities is not None and vectors is not None:
        checkpoint["injection"] = replace(entities, vector_width=vectors.width)
    return bridge_encoder.EntityEncoder(checkpoint, reading, storage=_storage(storage), bf16=bf16, vectors=vectors)


def early_lm(
    name: str,
    n_layers: int | None = None,
    window: int = 512,
    overlap: int = 128,
    batch_pieces: int = 4096,
    max_word_pieces: int = 64,
    pooling: str = "last",
    bos: bool = True,
    frozen: bool = True,
    storage: str = "fp32",
    bf16: bool = False,
) -> Model[list[Doc], EncoderBatch]:
    """Make an encoder of the lowest layers of a language model, registered as ``entitykit.EarlyLM.v1``.

    It stands in the place of `entitykit.EntityEncoder.v1`, under the same heads. The last layer is the highest that is kept.

    Args:
        name: a checkpoint that `transformers` loads with ``AutoModel`` (Llama, Qwen, Pythia, GPT-2, ModernBERT, DeBERTa …): a
            folder or a name on the Hub.
        n_layers: layers to keep, the lowest ones; none: all.
        window: most pieces that the model sees at once, special pieces included.
        overlap: pieces that neighbouring windows of a long document share.
        batch_pieces: pieces that run through the model at once; this bounds its memory.
        max_word_pieces: pieces kept of one word; words that have more are counted in ``doc._.coverage`` and warned of.
        pooling: which of a word's pieces make its state: the ``last``, which alone has read the whole word where a model reads
            from left to right, the ``first``, or the ``mean`` of all.
        bos: start each window with the model's beginning-of-text piece even if its tokenizer adds none: the state of whatever
            comes first in a language model says little of the word.
        frozen: learn nothing and keep no gradients, so that only heads are trained.
        storage: precision of saved weights: ``fp32``, ``fp16`` or ``int8``.
        bf16: compute in bfloat16 on CUDA devices.

    Raises:
        ConfigError: E007 for a value out of range.
    """
    check_ranges({"overlap": overlap, "batch_pieces": batch_pieces, "max_word_pieces": max_word_pieces})
    if pooling not in bridge_encoder.POOLINGS:
        raise error("E007", setting="pooling", found=pooling, expected=" or ".join(bridge_encoder.POOLINGS))
    reading = ReadingSettings(
        window=window, overlap=overlap, batch_pieces=batch_pieces, max_word_pieces=max_word_pieces, pooling=pooling
    )
    checkpoint = {"name": name, "n_layers": n_layers, "bos": bos, "frozen": frozen}
    return bridge_encoder.EntityEncoder(
        checkpoint, reading, storage=_storage(storage), bf16=bf16, load=load_early_lm, build=build_early_lm
    )


def entities(
    inject_layer: int = 3,
    tokens: bool = True,
    words_see_entities: bool = False,
    entities_see_entities: bool = False,
    probe: bool = True,
    proposals: float = 0.3,
    threshold: float = 0.0,
    rank: int = 64,
    window: int = 25,
    knowledge: str | None = None,
    knowledge_settings: dict[str, Any] | None = None,
) -> Injection:
    """Describe entities inside the encoder, registered as ``entitykit.Entities.v1``.

    LUKE is `inject_layer` 0, with words and entities seeing entities.

    Args:
        inject_layer: the layer in whose states the probe looks for spans, and the tokens begin.
        tokens: give spans tokens; otherwise the probe only proposes spans, and their states are pooled from words.
        words_see_entities: words attend to entity tokens; otherwise words are as without them.
        entities_see_entities: entity tokens attend to each other, not only to words and themselves.
        probe: propose spans by a mention probe in that layer; otherwise only given spans have tokens.
        proposals: spans proposed per word.
        threshold: least probability of a proposed span.
        rank: size of the probe's projections.
        window: a span's last word is at most this far from its first.
        knowledge: how tokens read the external vectors of what their spans may name: by ``projection``, KnowBert's ``mixture``
            or KPR's ``attention``; the table is the encoder's `vectors`.
        knowledge_settings: of that module: `dropout` of all; `link`, `threshold`, `margin`, `hidden` and `link_weight` of a
            mixture; `n_heads` and `gate` of an attention; see `entitykit.models.encoder.knowledge`.

    Raises:
        ConfigError: E007 for a value out of range.
    """
    if knowledge is not None:
        check_knowledge(knowledge, knowledge_settings or {})
    if knowledge is not None and not tokens:
        expected = "none where tokens = false, for only entity tokens read vectors. Set tokens = true, or leave out both"
        raise error("E007", setting="knowledge", found=knowledge, expected=expected)
    if knowledge_settings and knowledge is None:
        raise error("E007", setting="knowledge_settings", found=knowledge_settings, expected="none where knowledge = null")
    check_ranges({"proposals": proposals, "rank": rank, "window": window})
    if words_see_entities and not tokens:
        expected = "false where tokens = false, for there is nothing to see. Set tokens = true"
        raise error("E007", setting="words_see_entities", found=words_see_entities, expected=expected)
    if not 0 <= threshold < 1:
        raise error("E007", setting="threshold", found=threshold, expected="at least 0 and below 1")
    return Injection(
        inject_layer=inject_layer,
        tokens=tokens,
        words_see_entities=words_see_entities,
        entities_see_entities=entities_see_entities,
        probe=ProbeSettings(proposals=proposals, threshold=threshold, rank=rank, window=window) if probe else None,
        knowledge=knowledge,
        knowledge_settings=knowledge_settings or {},
    )


def encoder_listener(upstream: str = "*") -> Model[list[Doc], WordStates]:
    """Make a head's connection to the shared encoder, registered as ``entitykit.EncoderListener.v1``.

    Args:
        upstream: the encoder component's name, or ``*`` for any.
    """
    return EncoderListener(upstream)


def tommer(
    tok2vec: Tok2Vec,
    layer: int | None = 3,
    rank: int = 64,
    window: int = 25,
    cosine: bool = True,
    start_terms: bool = True,
    width_bias: bool = True,
    balance: float = 0.0,
) -> Head:
    """Make the mention probe, registered as ``entitykit.ToMMeR.v1``; see `ToMMeRSettings`, and E007 for values out of range."""
    given = {**locals()}
    return TorchHead(tok2vec, build_tommer, _settings(ToMMeRSettings, given), layers=[MENTIONS], probe="layer")


def span_ner(
    tok2vec: Tok2Vec,
    probe_layer: int | None = 3,
    rank: int = 64,
    window: int = 25,
    proposals: float = 0.5,
    hidden: int = 384,
    size_width: int = 25,
    dropout: float = 0.1,
    probe_weight: float = 1.0,
    balance: float = 0.0,
) -> Head:
    """Make the classifier of proposed spans, ``entitykit.SpanNER.v1``; see `SpanNERSettings`; E007 for values out of range."""
    given = {**locals()}
    reads = [TOP, ENTITIES, MENTIONS]
    return TorchHead(tok2vec, build_span_ner, _settings(SpanNERSettings, given), layers=reads, probe="probe_layer")


def typed_tommer(
    tok2vec: Tok2Vec,
    probe_layer: int | None = 3,
    layer: int = TOP,
    rank: int = 64,
    window: int = 25,
    cosine: bool = True,
    start_terms: bool = True,
    width_bias: bool = True,
    threshold: float = 0.5,
    proposals: float = 1.0,
    hidden: int = 1024,
    probe_weight: float = 1.0,
    balance: float = 0.0,
) -> Head:
    """Make the matcher of mentions with types, registered as ``entitykit.TypedToMMeR.v1``; see `TypedToMMeRSettings`.

    Raises:
        ConfigError: E109 for a threshold out of range, E007 for other values.
    """
    given = {**locals()}
    if not 0 <= threshold < 1:
        raise error("E109", name="TypedToMMeR", setting="threshold", found=threshold, expected="at least 0 and below 1")
    settings, reads = _settings(TypedToMMeRSettings, given), [layer, ENTITIES, MENTIONS]
    return TorchHead(tok2vec, build_typed_tommer, settings, layers=reads, probe="probe_layer")


def spert(
    tok2vec: Tok2Vec,
    max_width: int = 10,
    context: int = 32,
    negatives: int = 100,
    size_width: int = 25,
    dropout: float = 0.1,
) -> Head:
    """Make the classifier of all spans, registered as ``entitykit.SpERT.v1``; see `SpERTSettings`.

    Args:
        tok2vec: embedding layer.
        max_width: most words of a span.
        context: words on each side of a span that are its context.
        negatives: spans without an entity drawn from each document for training.
        size_width: size of the embedding of a span's width.
        dropout: probability in training.

    Raises:
        ConfigError: E007 for a value out of range.
    """
    given = {**locals()}
    model = TorchHead(tok2vec, build_spert, _settings(SpERTSettings, given), layers=[TOP])
    model.attrs["max_width"] = max_width
    model.attrs["negatives"] = negatives
    return model


def spert_relations(
    tok2vec: Tok2Vec,
    hidden: int = 384,
    product: int = 128,
    ends: bool = True,
    lower_layers: Sequence[int] = (),
    types: int = 25,
    type_dropout: float = 0.1,
    between: bool = True,
    directed: bool = True,
    near: bool = True,
    size_width: int = 25,
    max_width: int = 10,
    negatives: float = 0.0,
    dropout: float = 0.1,
    loss_weight: float = 1.0,
) -> Head:
    """Make the classifier of pairs, registered as ``entitykit.SpERTRelations.v1``; see `SpERTRelationsSettings`.

    Raises:
        ConfigError: E007 for a value out of range, and for lower layers where first and last words are not read.
    """
    given = {**locals()}
    if lower_layers and not ends:
        raise error("E007", setting="lower_layers", found=list(lower_layers), expected="[] where ends = false")
    given["lower_layers"] = list(lower_layers)
    reads = [TOP, *lower_layers, ENTITIES, *([MENTIONS] if negatives else [])]
    return TorchHead(tok2vec, build_spert_relations, _settings(SpERTRelationsSettings, given, hidden=0), layers=reads)


def enrico(
    tok2vec: Tok2Vec,
    joint: bool = True,
    described: bool = False,
    size: int = 256,
    layers: int = 1,
    heads: int = 4,
    context: int = 32,
    keep_spans: float = 0.3,
    keep_pairs: float = 2.0,
    positive: float = 2.0,
    filter_weight: float = 0.5,
    probe_weight: float = 1.0,
    dropout: float = 0.1,
    loss_weight: float = 1.0,
) -> Head:
    """Make the head that filters, refines and scores, registered as ``entitykit.EnriCo.v1``; see `EnriCoSettings`.

    Raises:
        ConfigError: E007 for a value out of range, and for a size that the heads do not divide.
    """
    settings = _settings(EnriCoSettings, {**locals()})
    if size % heads:
        raise error("E007", setting="size", found=size, expected=f"a multiple of the {heads} heads")
    model = TorchHead(tok2vec, build_enrico, settings, layers=[TOP, ENTITIES, MENTIONS])
    model.attrs["joint"], model.attrs["described"] = joint, described
    return model


def _storage(name: str) -> Storage:
    if name not in STORAGES:
        raise error("E007", setting="storage", found=name, expected=" or ".join(STORAGES))
    return "fp32" if name == "fp32" else "fp16" if name == "fp16" else "int8"


def _settings(kind: type, given: dict[str, Any], **least: int) -> dict[str, Any]:
    """The arguments that are fields of a settings dataclass, if they are in range; E007 as `check_ranges`."""
    names = {field.name for field in fields(kind)}
    found = {name: value for name, value in given.items() if name in names}
    check_ranges(found, **least)
    return found
