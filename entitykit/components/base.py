"""`TorchPipe`: the one place where a trainable component initializes, learns, predicts, and is saved.

A task adds a head (torch) and five hooks: `labels_in`, `candidates`, `targets`, `decode` and `annotate`.
"""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.attrs import IS_SPACE
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer, set_dropout_rate
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.listener import proposed_window
from entitykit.bridge.shim import TorchShim
from entitykit.components.batches import PipedInBatches
from entitykit.components.extensions import register_extensions
from entitykit.components.files import read_model, write_model
from entitykit.errors import error
from entitykit.types import ClusterPairs, EntityMentions, EntityPairs, GivenMentions, Spans


class SpanPrediction(NamedTuple):
    """The spans predicted for one document.

    Attributes:
        starts: *(n_spans,)* first words.
        ends: *(n_spans,)* ends, exclusive.
        labels: of each span; empty strings for untyped spans.
        scores: *(n_spans,)* probabilities.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    labels: Sequence[str]
    scores: NDArray[np.float32]


Prediction = Mapping[str, SpanPrediction]
"""What is predicted for one document: span groups by key."""


class TorchPipe(PipedInBatches, TrainablePipe):
    """A trainable component around a torch head.

    Args:
        vocab: the pipeline's.
        model: from `entitykit.bridge.head.TorchHead`.
        name: the component's name.
        settings: from the config, which is where they are saved: a loaded pipeline can be given others.
        scorer: called as ``scorer(examples, **self.scorer_arguments())``, or none.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: Model[HeadInput, Any],
        name: str,
        *,
        settings: dict[str, Any],
        scorer: Callable[..., Any] | None,
    ) -> None:
        self.vocab = vocab
        self.model = model
        self.name = name
        self.settings = settings
        self.cfg: dict[str, Any] = {"labels": []}  # what is learned besides weights, and saved with them
        self.scorer = scorer
        register_extensions()

    # The hooks

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """The labels that one gold document has."""
        raise NotImplementedError

    def candidates(
        self, docs: Sequence[Doc], examples: Sequence[Example] | None
    ) -> Spans | EntityPairs | EntityMentions | ClusterPairs | GivenMentions:
        """The spans, or pairs of them, that the head must score; `examples` are given in training."""
        raise NotImplementedError

    def targets(self, examples: Sequence[Example], output: Any) -> tuple[Tensor, ...]:
        """What the head's `loss` takes after its output."""
        raise NotImplementedError

    def decode(self, output: Any, docs: Sequence[Doc]) -> list[Prediction]:
        """Choose spans for each document from the head's output."""
        raise NotImplementedError

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write one document's prediction; span groups, unless the task writes more."""
        for key, spans in prediction.items():
            write_group(doc, key, spans)

    # What spaCy calls

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that the component knows."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """What ``spacy init labels`` saves and `initialize` takes."""
        return list(self.labels)

    @property
    def head(self) -> Any:
        """The torch module."""
        return self._shim.module

    @property
    def _shim(self) -> TorchShim:
        return cast(TorchShim, self.model.shims[0])

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Collect labels and build the head.

        Raises:
            ConfigError: E105 if there is no encoder before this component.
        """
        examples = list(get_examples())
        validate_examples(examples, f"{type(self).__name__}.initialize")
        if labels is None:
            labels = sorted({label for eg in examples for label in self.labels_in(eg.reference)})
        self.cfg["labels"] = list(labels)
        tok2vec = self.model.layers[0]
        tok2vec.initialize(X=[eg.predicted for eg in examples[:8]])
        if not tok2vec.has_dim("nO"):
            raise error("E105", name=self.name)
        settings = {**self.model.attrs["settings"], "width": tok2vec.get_dim("nO"), "labels": list(labels)}
        settings.update(self.learned_settings(examples))
        window = proposed_window(tok2vec)
        if self.model.attrs["probe"] is not None and window is not None:
            settings.update({self.model.attrs["probe"]: None, "window": window})
        self.learn_corpus(examples, settings)
        self._shim.create(settings)

    def learned_settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Settings of the head that come from the training examples, the labels aside; called by `initialize`."""
        return {}

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Check the training examples and take from them what must be saved; called by `initialize`.

        Args:
            examples: all of them.
            settings: those that the head is about to be built with.
        """

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from a batch: gradients go to the head now, and to the shared encoder when it asks for them.

        Raises:
            ConfigError: E118 if the loss is not finite; nothing is learned from it.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, f"{type(self).__name__}.update")
        docs = [eg.predicted for eg in examples]
        if not any(len(doc) for doc in docs):
            return losses
        set_dropout_rate(self.model, drop)
        output, backprop = self.model.begin_update(HeadInput(docs, self.candidates(docs, examples)))
        loss = self.head.loss(output, *self.targets(examples, output))
        value = check_loss(self.name, loss)
        backprop(loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += value
        return losses

    def predict(self, docs: Iterable[Doc]) -> list[Prediction]:
        """Predict each document's span groups, without changing it."""
        docs = list(docs)
        output = self.model.predict(HeadInput(docs, self.candidates(docs, None)))
        return self.decode(output, docs)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Prediction]) -> None:
        """Write predictions to documents."""
        for doc, prediction in zip(docs, scores, strict=True):
            self.annotate(doc, prediction)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predicted against gold documents with the component's scorer."""
        if self.scorer is None:
            return {}
        return cast(dict[str, Any], self.scorer(list(examples), **self.scorer_arguments()))

    def scorer_arguments(self) -> dict[str, Any]:
        """What the scorer must know of this component."""
        return {}

    # Saving

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings as JSON and weights as safetensors."""
        write_model(Path(path), self.model, self.cfg)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "TorchPipe":
        """Read what `to_disk` wrote."""
        self.cfg.update(read_model(Path(path), self.model))
        return self


def is_dummy(examples: Sequence[Example]) -> bool:
    """Whether examples are the one that spaCy makes up, without annotation, for ``nlp.initialize()`` without examples."""
    references = [eg.reference for eg in examples]
    return [[token.text for token in doc] for doc in references] == [["x", "y", "z"]] and not any(
        doc.spans or doc.user_data or doc.has_annotation("ENT_IOB") for doc in references
    )


def check_loss(name: str, loss: Tensor | float) -> float:
    """A loss as a number, unless nothing but NaN would be learned from it.

    Raises:
        ConfigError: E118 if it is not finite.
    """
    value = float(loss.detach() if isinstance(loss, Tensor) else loss)
    if not math.isfinite(value):
        raise error("E118", name=name, found=value)
    return value


def write_group(doc: Doc, key: str, prediction: SpanPrediction) -> list[Span]:
    """Write spans to ``doc.spans[key]`` with their scores beside them in ``attrs["scores"]``, and return them."""
    spans = [
        Span(doc, start, end, label=label)
        for start, end, label in zip(prediction.starts.tolist(), prediction.ends.tolist(), prediction.labels, strict=True)
    ]
    doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs={"scores": prediction.scores.tolist()})
    return spans


def per_document(spans: Spans, lengths: Sequence[int]) -> Iterator[tuple[slice, NDArray[np.int64], NDArray[np.int64]]]:
    """Cut packed spans, sorted by document, into documents.

    Args:
        spans: *(n_spans,)*.
        lengths: words of each document.

    Yields:
        The document's rows in `spans`, and its starts and ends, counted from the document's first word.
    """
    starts, ends = spans.starts.cpu().numpy(), spans.ends.cpu().numpy()
    first = 0
    for length in lengths:
        rows = slice(*np.searchsorted(starts, [first, first + length]).tolist())
        yield rows, starts[rows] - first, ends[rows] - first
        first += length


def may_be_spans(docs: Sequence[Doc], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether spans begin and end in visible words and hold no blank line.

    Args:
        docs: their words are numbered through.
        starts: first words, any shape.
        ends: ends, exclusive, of the same shape.
    """
    space = np.concatenate([np.zeros(0, dtype=bool), *(doc.to_array(IS_SPACE).astype(bool) for doc in docs)])
    if not space.any():
        return np.ones(starts.shape, dtype=bool)
    texts = (word.text for doc in docs for word in doc)
    blank = [is_space and text.count("\n") > 1 for is_space, text in zip(space.tolist(), texts, strict=True)]
    n_blank = np.cumsum([False, *blank], dtype=np.int32)
    found: NDArray[np.bool_] = ~space[starts] & ~space[ends - 1] & (n_blank[starts] == n_blank[ends])
    return found


def known_words(known: Sequence[bool], docs: Sequence[Doc], device: torch.device) -> Tensor:
    """For every word whether its document is annotated *(n_words,)*."""
    sizes = torch.tensor([len(doc) for doc in docs], device=device)
    return torch.repeat_interleave(torch.tensor(list(known), device=device), sizes)
