"""`entitykit_encoder`: reads every document once and serves all heads; one forward and one backward pass per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from spacy_transformers.annotation_setters import null_annotation_setter
from spacy_transformers.data_classes import TransformerData
from spacy_transformers.layers import TransformerListener
from spacy_transformers.pipeline_component import Transformer, install_extensions
from thinc.api import Model, Optimizer, set_dropout_rate, torch2xp, xp2torch
from torch import Tensor

from entitykit.bridge.coverage import coverage_of_nothing
from entitykit.bridge.encoder import EncoderInput, check_vectors, load_tokenizer
from entitykit.bridge.entities import Candidates
from entitykit.bridge.late import keys_of, late_states
from entitykit.bridge.listener import EncoderListener, Gradients
from entitykit.bridge.shim import TorchShim
from entitykit.bridge.states import EncoderBatch, states_of
from entitykit.components.base import check_loss
from entitykit.components.batches import BATCH_WORDS, PipedInBatches
from entitykit.components.extensions import register_extensions
from entitykit.components.files import read_model, write_model
from entitykit.components.gold import group_spans, pack_spans, packed_gold_links
from entitykit.components.relation_gold import spans_with_tokens
from entitykit.errors import error
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.models.spans import entity_states, join_spans
from entitykit.types import ENTITIES, MENTIONS, TOP, Spans, WordStates

_OF_ENTITIES = (ENTITIES, MENTIONS)

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.EntityEncoder.v1"},
    "batch_words": BATCH_WORDS,
    "gold": ["mentions", "sc", "ents"],
    "given": [],
}


@Language.factory("entitykit_encoder", assigns=["doc._.trf_data", "doc._.coverage"], default_config=DEFAULT_CONFIG)
def make_encoder(
    nlp: Language, name: str, model: Model[list[Doc], EncoderBatch], batch_words: int, gold: list[str], given: list[str]
) -> SharedEncoder:
    """Make the shared encoder component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.EntityEncoder.v1`.
        batch_words: words that are encoded together in prediction, a longer document aside.
        gold: if the encoder has entity tokens, where references have the spans that get one in training, beside the proposed
            ones; span groups, or ``ents``; ``coref_clusters_*`` stands for all groups that begin so. A frozen encoder only
            predicts: it does not read these, but what `given` names.
        given: span groups, or ``ents``, that documents have before they are encoded and whose spans get entity tokens, too. If
            the encoder has external vectors, a token reads those of its span's ids: ``kb_id_`` and ``span._.kb_ents``. Spans
            that components find later get tokens late, if the model has `keep_keys`.
    """
    return SharedEncoder(nlp.vocab, model, name=name, batch_words=batch_words, gold=gold, given=given)


class SharedEncoder(PipedInBatches, Transformer):
    """A `transformer` of spacy-transformers whose backward pass waits until every head has given its gradient.

    Stock components listen with ``spacy-transformers.TransformerListener.v1``, ours with ``entitykit.EncoderListener.v1``. The
    stock class runs the backward pass inside the last listener, and not at all if that one is frozen or skips a batch; here
    `finish_update` runs it.

    Writes ``doc._.trf_data`` (one row per word) and ``doc._.coverage``, a dict of counts: `words`, words `read`, `pieces`,
    `windows`, and words `shortened` because they have too many pieces.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: Model[list[Doc], EncoderBatch],
        *,
        name: str,
        batch_words: int,
        gold: Sequence[str] = (),
        given: Sequence[str] = (),
    ) -> None:
        super().__init__(vocab, cast(Any, model), null_annotation_setter, name=name)
        self.cfg = {}
        self.batch_words = batch_words
        self.gold = tuple(gold)
        self.given = tuple(given)
        self._pending: tuple[Callable[..., object], dict[int, Tensor]] | None = None
        self._heard = False  # whether any head has run its backward pass
        self._late_optimizer: Optimizer | None = None
        self._reads: dict[str, tuple[set[int], set[int]]] = {}  # what each head reads, and its own probe if it has one
        install_extensions()
        register_extensions()

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None) -> None:
        """Load the checkpoint and find the heads that listen."""
        super().initialize(get_examples, nlp=nlp)
        self._request_layers()

    @property
    def _entities(self) -> dict[str, Any] | None:
        """The settings of entity tokens, if the encoder has any."""
        shim = cast(TorchShim, self.model.shims[0])
        settings: dict[str, Any] | None = shim.settings["encoder"].get("entities") if shim.is_built else None
        return settings

    @property
    def _window(self) -> int | None:
        """How far the spans reach that the encoder's own probe proposes, if it has one."""
        probe = (self._entities or {}).get("probe")
        return None if probe is None else int(probe["window"])

    def add_listener(self, listener: TransformerListener, component_name: str) -> None:
        """Connect a head, and note its layers for as long as it is disabled: spaCy tells nobody when it is enabled again."""
        reads, probes = (listener.reads, listener.probes) if isinstance(listener, EncoderListener) else ({TOP}, set())
        nothing: tuple[set[int], set[int]] = set(), set()
        known = self._reads.get(component_name, nothing) if component_name in self.listener_map else nothing
        self._reads[component_name] = known[0] | reads, known[1] | probes
        if isinstance(listener, EncoderListener):
            listener.encoder = self.model
            listener.late = self.late_tokens
        super().add_listener(listener, component_name)

    def _request_layers(self) -> None:
        """Run no layer that no head reads, awake or disabled; if nothing is read, give the last one."""
        shim = cast(TorchShim, self.model.shims[0])
        if not shim.is_built:
            return
        for listener in self.listeners:
            if isinstance(listener, EncoderListener):
                listener.window = self._window
        n_layers = shim.settings["encoder"]["n_layers"]
        possible = range(TOP, n_layers + 1)
        wanted = {name: reads if self._window is not None else reads | probes for name, (reads, probes) in self._reads.items()}
        for component in self.listening_components:
            for layer in wanted[component].difference(possible, _OF_ENTITIES):
                raise error("E104", layer=layer, n_layers=n_layers)
        reads = set().union(*wanted.values())
        probed = MENTIONS in reads and self._window is not None
        layers = sorted(reads.intersection(possible)) or ([] if probed else [TOP])
        self.model.attrs["layers"] = layers + sorted(reads.intersection(_OF_ENTITIES) if self._entities else ())

    def predict(self, docs: Iterable[Doc]) -> EncoderBatch:  # type: ignore[override]
        """Encode documents without changing them; a batch whose heads are still at work stays as it is."""
        if self._backward():
            self._step_late()
        self._request_layers()
        docs = list(docs)
        if not any(len(doc) for doc in docs):
            coverage = coverage_of_nothing(len(docs), has_entities=self._entities is not None)
            return EncoderBatch(WordStates({TOP: torch.zeros(0, 0)}, (0,) * len(docs)), coverage)
        return cast(EncoderBatch, self.model.predict(self._input(docs, ())))

    def _input(self, docs: list[Doc], examples: Sequence[Example]) -> Any:
        """Documents, with the spans that must have entity tokens if the encoder has any."""
        if self._entities is None:
            return docs
        given = group_spans(docs, self.given)
        spans = join_spans(given.spans, spans_with_tokens(examples, self.gold)) if examples else given.spans
        links = packed_gold_links(examples, self.gold) if given.candidates else {}
        return EncoderInput(docs, spans, given.candidates, links)

    def entity_states(self, doc: Doc, spans: Sequence[Span]) -> Any:
        """States of spans of a document that the encoder has read, without reading it again.

        Args:
            doc: with its ``trf_data``.
            spans: any spans of it, such as those of a ruler or of another component. If the encoder has external vectors, a
                token reads those of its span's ids, ``kb_id_`` and ``span._.kb_ents``.

        Returns:
            *(n_spans, width)*: entity tokens that come late, or, if the encoder has none, maxima over the words' states.

        Raises:
            ConfigError: E102 if the encoder has not read the document, E115 if it has kept nothing for late tokens, E125 if
                another one read it, or this one before it was trained further.
            InputError: E117 for a span of another document, and for one without words.
        """
        for span in spans:
            if span.doc is not doc or not 0 <= span.start < span.end <= len(doc):
                n = len(doc)
                raise error("E117", start=span.start, end=span.end, of="this" if span.doc is doc else "another", n=n)
        given = pack_spans([doc], [spans])
        states = states_of([doc], [TOP], self.model.get_dim("nO"))
        if self._entities is None or not self._entities["tokens"] or not len(spans):
            device = states.layers[TOP].device
            return torch2xp(entity_states(states, Spans(*(part.to(device) for part in given.spans))))
        return torch2xp(self._late_states(doc, given.spans, given.candidates))

    def _late_states(self, doc: Doc, spans: Spans, candidates: Candidates) -> Tensor:
        with cast(TorchShim, self.model.shims[0]).mode(is_train=False) as module:
            keys, vectors = keys_of(doc._.trf_data.model_output), self.model.attrs["vectors"]
            return late_states(cast(TransformerEncoder, module), keys, spans, candidates, vectors)

    def late_tokens(self, docs: Sequence[Doc], spans: Spans) -> Tensor:
        """Entity tokens for spans that arrive after their documents were read, from what was kept of these.

        Args:
            docs: a batch that was read.
            spans: *(n_spans,)* of the batch, in any order.

        Returns:
            *(n_spans, width)*, without gradients.

        Raises:
            ConfigError: E115 if nothing was kept, E125 if it was kept of other weights.
        """
        starts, ends = spans.starts.cpu(), spans.ends.cpu()
        states = torch.zeros(len(starts), self.model.get_dim("nO"), device=cast(TorchShim, self.model.shims[0]).device)
        first = 0
        for doc in docs:
            rows = ((starts >= first) & (starts < first + len(doc))).nonzero().squeeze(1)
            if len(rows):
                named = group_spans([doc], self.given).candidates
                found = self._late_states(doc, Spans(starts[rows] - first, ends[rows] - first), named)
                states[rows.to(states.device)] = found
            first += len(doc)
        return states

    def refresh_vectors(self) -> bool:
        """See what was written to the table of external vectors since it was opened; the answer is whether that is anything.

        Raises:
            ConfigError: E007 if the encoder has no table, or the table has got another width.
            CheckpointError: E050 or E051 if the table is gone or damaged; the encoder then goes on with what it read before.
        """
        table = cast("VectorTable | None", self.model.attrs["vectors"])
        if table is None:
            raise error("E007", setting="vectors", found="none", expected="a table that can be refreshed")
        is_new = table.refresh()
        check_vectors(cast(Model[Any, Any], self.model))
        return is_new

    def set_annotations(self, docs: Iterable[Doc], predictions: EncoderBatch) -> None:  # type: ignore[override]
        """Write ``doc._.trf_data`` and ``doc._.coverage``."""
        for doc, data, coverage in zip(docs, predictions.doc_data, predictions.coverage, strict=True):
            doc._.trf_data = data
            doc._.coverage = coverage

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Encode a batch for training and send it to all listeners; the loss is the squared norm of their gradients.

        Where a mixture of candidates learns from gold links, its loss is beside it, as ``NAME_links``.

        Raises:
            ConfigError: E118 if that loss is not finite.
        """
        examples = list(examples)
        validate_examples(examples, "SharedEncoder.update")
        self._finish_late()
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        docs = [eg.predicted for eg in examples]
        if not any(len(doc) for doc in docs):
            return losses
        self._request_layers()
        set_dropout_rate(self.model, drop)
        batch, backprop = cast(Model[list[Doc], EncoderBatch], self.model).begin_update(self._input(docs, examples))
        if batch.link_loss is not None:
            name = f"{self.name}_links"
            check_loss(name, batch.link_loss)
            losses[name] = losses.get(name, 0.0) + batch.link_loss
        gradients: dict[int, Tensor] = {}

        def accumulate(new: Gradients) -> None:
            self._heard = True  # a head may have nothing for the words' states, and have given its gradient to the weights
            for layer, gradient in new.items():
                gradients[layer] = gradients[layer] + gradient if layer in gradients else gradient
                losses[self.name] += float((gradient**2).sum())

        def accumulate_docs(new: Sequence[TransformerData]) -> None:
            accumulate({TOP: _pack_gradients(new)} if new else {})

        self._pending, self._heard = (backprop, gradients), False
        batch_id = TransformerListener.get_batch_id(docs)
        for listener in self.listeners:
            if isinstance(listener, EncoderListener):
                listener.send(docs, batch, accumulate)
            else:
                listener.receive(batch_id, batch.doc_data, accumulate_docs)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Run the pending backward pass and step; if the heads have not run yet (``nlp.update(sgd=…)``), do so later."""
        if self._backward():
            super().finish_update(sgd)
        else:
            self._late_optimizer = sgd

    def _backward(self) -> bool:
        """Run the pending backward pass; false if there is one that waits for gradients."""
        if self._pending is not None:
            backprop, gradients = self._pending
            if not self._heard:
                return False
            self._pending = None
            if gradients:
                backprop(gradients)
        return True

    def _finish_late(self) -> None:
        """Finish the update before this call, if that was put off; a batch to which no head gave a gradient is dropped."""
        self._backward()
        self._pending = None
        self._step_late()

    def _step_late(self) -> None:
        optimizer, self._late_optimizer = self._late_optimizer, None
        if optimizer is not None:
            super().finish_update(optimizer)

    def use_params(self, params: dict[Any, Any]) -> Iterator[None]:
        """Put averaged weights in the encoder for a while, but first finish the update of those that they stand in for."""
        self._finish_late()
        yield from super().use_params(params)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings as JSON and weights as safetensors."""
        self._finish_late()
        write_model(Path(path), self.model, self.cfg)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> SharedEncoder:
        """Read what `to_disk` wrote; needs neither the Hub nor the checkpoint."""
        self.cfg.update(read_model(Path(path), self.model))
        self._load_tokenizer()
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Settings and weights as bytes."""
        self._finish_late()
        return super().to_bytes(exclude=tuple(exclude))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> SharedEncoder:
        """Read what `to_bytes` gave."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        self._load_tokenizer()
        return self

    def _load_tokenizer(self) -> None:
        if cast(TorchShim, self.model.shims[0]).is_built:
            load_tokenizer(self.model)


def _pack_gradients(gradients: Sequence[TransformerData]) -> Tensor:
    """Stock listeners give one array *(1, words, width)* per document that is not empty."""
    return torch.cat([xp2torch(data.model_output["last_hidden_state"])[0] for data in gradients])
