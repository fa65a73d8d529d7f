"""The bi-encoder as a thinc model: states of documents below, further texts beside them, both with gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.listener import EncoderListener, request_layers
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.texts import POOLINGS, Composed, Ids, TextReader
from entitykit.errors import ConfigError, error
from entitykit.models.bi_encoder import BiEncoder, BiEncoderSettings, LinkOutput, build_bi_encoder
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.models.scale import MAX_SCALE
from entitykit.types import ENTITIES, TOP, Spans, WordStates

MENTIONS = ("state", "context")
FORMS = ("marked", "prefixed")

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How texts are composed and read.

    Attributes:
        pooling: what stands for a text, see `TextReader`.
        form: of a mention's context: ``marked`` in its place, or ``prefixed`` to its text; names stand before descriptions with
            a mark of their own, or with a colon.
        context_pieces: pieces of a mention in context.
        entity_pieces: pieces of a name and its description.
    """

    pooling: str
    form: str
    context_pieces: int
    entity_pieces: int

    def contexts(self, reader: TextReader, lefts: Sequence[str], mentions: Sequence[str], rights: Sequence[str]) -> Composed:
        """Compose mentions in context."""
        compose = reader.marked if self.form == "marked" else reader.prefixed
        return compose(lefts, mentions, rights, size=self.context_pieces)

    def entities(self, reader: TextReader, names: Sequence[str], descriptions: Sequence[str]) -> Composed:
        """Compose names and descriptions."""
        return reader.described(names, descriptions, size=self.entity_pieces, mark=self.form == "marked")


class LinkInput(NamedTuple):
    """A batch whose mentions need vectors.

    Attributes:
        docs: the documents.
        spans: *(n_mentions,)* the mentions, where the model reads them in their documents.
        contexts: the mentions, where the model reads them by themselves.
        reader: reads texts.
        choose: gives the texts of the entities to compare with, once the mentions' vectors *(n_mentions, size)* are known;
            none: mentions only.
        entity_reader: reads the texts of entities; none: `reader`.
    """

    docs: Sequence[Doc]
    spans: Spans
    contexts: Sequence[Ids]
    reader: TextReader
    choose: Callable[[Floats], Sequence[Ids]] | None
    entity_reader: TextReader | None = None


def bi_encoder(
    tok2vec: Model[list[Doc], Any],
    mention: str = "context",
    pooling: str = "mean",
    form: str = "marked",
    context_pieces: int = 128,
    entity_pieces: int = 128,
    projection: int | None = None,
    cosine: bool = True,
    temperature: float = 0.05,
    dropout: float = 0.0,
) -> Model[LinkInput, LinkOutput]:
    """Make the bi-encoder, registered as ``entitykit.BiEncoder.v1``; see `TextSettings` and `BiEncoderSettings`.

    Args:
        tok2vec: ``entitykit.EncoderListener.v1``: the encoder that it hears reads the entities' texts, too.
        mention: what a mention is: its ``state`` in the document (its entity token where the encoder has tokens, else the mean
            of its words), which costs nothing; or its ``context``, which is read anew for each mention.
        pooling: what stands for a text: the ``mean`` of its pieces, or the ``first``.
        form: ``marked``: a mention in its place in its context, between marks; ``prefixed``: before its text, with a colon.
        context_pieces: pieces of a mention in context, special ones included.
        entity_pieces: pieces of a name and its description, special ones included.
        projection: size of the vectors that are compared, each side projected to it; none: the states themselves.
        cosine: compare directions; otherwise the inner product counts, as in BLINK.
        temperature: what scores are divided by at the beginning, at least 0.01; it is learned.
        dropout: probability before the projections in training.

    Raises:
        ConfigError: E580 for settings that cannot be.
    """
    given = {"mention": (mention, MENTIONS), "pooling": (pooling, POOLINGS), "form": (form, FORMS)}
    for setting, (found, allowed) in given.items():
        if found not in allowed:
            raise error("E580", setting=setting, found=found, expected=" or ".join(allowed))
    if not temperature >= 1 / MAX_SCALE:
        raise error("E580", setting="temperature", found=temperature, expected=f"at least {1 / MAX_SCALE}")
    settings = BiEncoderSettings(
        width=0, mention=mention, projection=projection, cosine=cosine, temperature=temperature, dropout=dropout
    )
    texts = TextSettings(pooling=pooling, form=form, context_pieces=context_pieces, entity_pieces=entity_pieces)
    request_layers(tok2vec, [TOP, ENTITIES] if mention == "state" else [])
    return Model(
        "entitykit-bi-encoder",
        forward,
        layers=[tok2vec],
        shims=[TorchShim(build_bi_encoder, group="head")],
        dims={"nO": None},
        attrs={"settings": asdict(settings), "texts": asdict(texts), "dropout_rate": None, "probe": None},
    )


def text_settings(model: Model[Any, Any]) -> TextSettings:
    """How a bi-encoder composes texts."""
    return TextSettings(**model.attrs["texts"])


def heard_encoder(tok2vec: Model[Any, Any]) -> Model[Any, Any]:
    """The encoder that a listener inside `tok2vec` hears.

    Raises:
        ConfigError: E583 if there is none.
    """
    encoders = (node.encoder for node in tok2vec.walk() if isinstance(node, EncoderListener))
    encoder = next((encoder for encoder in encoders if encoder is not None), None)
    if encoder is None:
        raise error("E583")
    return encoder


def encoders(model: Model[Any, Any]) -> tuple[Model[Any, Any], Model[Any, Any]]:
    """What reads the mentions and the entities of a bi-encoder: two towers of its own, or twice the encoder that it hears.

    Raises:
        ConfigError: E583 if there is none.
    """
    if model.attrs.get("towers"):
        mentions, entities = model.layers[0].layers
        return mentions, entities
    heard = heard_encoder(model.layers[0])
    return heard, heard


def describe_encoders(model: Model[Any, Any]) -> str:
    """What reads the texts of a bi-encoder, whatever it has learned: sizes and tokenizer; empty if there is nothing yet."""
    try:
        shims = [cast(TorchShim, each.shims[0]) for each in dict.fromkeys(encoders(model))]
    except ConfigError:
        return ""
    parts = []
    for shim in shims:
        if not shim.is_built:
            return ""
        settings = cast(TransformerEncoder, shim.module).settings
        tokenizer = hashlib.blake2b(shim.settings["tokenizer"].encode(), digest_size=4).hexdigest()
        parts.append(f"{settings.n_layers} layers of width {settings.width} with the tokenizer {tokenizer}")
    return " and ".join(parts)


def forward(model: Model[Any, Any], X: LinkInput, is_train: bool) -> tuple[LinkOutput, Callable[[Tensor], object]]:
    """Give vectors and, of entities that are chosen, logits; `backprop` takes the loss."""
    tok2vec = model.layers[0]
    states, backprop_tok2vec = tok2vec(X.docs, is_train)
    learns = is_train and any(node.learns for node in tok2vec.walk() if isinstance(node, EncoderListener))
    if is_train:
        states = states.leaves()
    output = compare(model, X, states, learns=learns, is_train=is_train)

    def backprop(loss: Tensor) -> object:
        if loss.requires_grad:
            loss.backward()
        gradients = {key: leaf.grad for key, leaf in states.tensors().items() if leaf.grad is not None}
        return backprop_tok2vec(gradients)

    return output, backprop


def compare(model: Model[Any, Any], X: LinkInput, states: WordStates | None, *, learns: bool, is_train: bool) -> LinkOutput:
    """Read the texts of a batch, and compare mentions with the entities that are chosen.

    Args:
        model: whose head compares.
        X: the batch.
        states: of the words, where mentions are read in their documents.
        learns: whether what reads texts gets gradients.
        is_train: whether the head does.
    """
    shim = cast(TorchShim, model.shims[0])
    if is_train and model.attrs["dropout_rate"] is not None:
        shim.set_dropout(model.attrs["dropout_rate"])
    with shim.mode(is_train=is_train) as module:
        head = cast(BiEncoder, module)
        of_context = states is None or head.settings.mention == "context"
        read = X.reader.read(X.contexts, learns=learns) if of_context else _states(head, cast(WordStates, states), X.spans)
        mentions = head.mentions(read.to(shim.device))
        chosen = [] if X.choose is None else X.choose(mentions.detach().cpu().numpy())
        entities = head.entities((X.entity_reader or X.reader).read(chosen, learns=learns).to(shim.device))
        output: LinkOutput = head(mentions, entities)
    return output


def _states(head: BiEncoder, states: WordStates, spans: Spans) -> Tensor:
    if not len(spans.starts):
        return torch.zeros(0, head.settings.width)
    device = states.layers[TOP].device
    return head.states(states, Spans(spans.starts.to(device), spans.ends.to(device)))


def read_entities(model: Model[Any, Any], reader: TextReader, sequences: Sequence[Ids]) -> Floats:
    """Vectors *(n, size)* of entities' texts, without a graph."""
    shim = cast(TorchShim, model.shims[0])
    with shim.mode(is_train=False) as module:
        vectors = cast(BiEncoder, module).entities(reader.read(sequences).to(shim.device))
    return np.ascontiguousarray(vectors.cpu().numpy(), dtype=np.float32)


class Fingerprint:
    """A digest of what entity vectors depend on: the weights of encoder and head as they are saved, and how texts are composed.

    It is computed anew only when a weight has changed.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Compute it anew the next time."""
        self._key: tuple[object, ...] | None = None
        self._held: list[Tensor] = []  # as long as they are, no other weights can lie where they do
        self._digest = ""

    def __getstate__(self) -> dict[str, object]:
        return {"_key": None, "_held": [], "_digest": ""}

    def __call__(self, model: Model[Any, Any]) -> str:
        """Of a bi-encoder."""
        shims = [cast(TorchShim, each.shims[0]) for each in dict.fromkeys((*encoders(model), model))]
        weights = [p for shim in shims for p in shim.module.parameters()]
        key = tuple((p.data_ptr(), p._version) for p in weights)
        if key != self._key:
            self._held = [p.data for p in weights]
            digest = hashlib.blake2b(repr(sorted(model.attrs["texts"].items())).encode(), digest_size=16)
            for shim in shims:
                digest.update(shim.to_bytes())
            self._key, self._digest = key, digest.hexdigest()
        return self._digest
