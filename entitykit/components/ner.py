"""`entitykit_ner`: named entities, flat in ``doc.ents`` or nested in a span group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import filter_spans, minibatch
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.components.base import (
    Prediction,
    SpanPrediction,
    TorchPipe,
    known_words,
    may_be_spans,
    per_document,
    write_group,
)
from entitykit.components.gold import ENTS, Gold, gold_spans, reference_spans, warn_ambiguous
from entitykit.components.mentions import check_decoder, warn_wide
from entitykit.decoding.spans import DECODERS
from entitykit.errors import error
from entitykit.models.mentions import spans_to_band
from entitykit.models.ner import NEROutput
from entitykit.models.spans import all_spans, join_spans
from entitykit.scoring.spans import normalise_surface
from entitykit.types import Spans

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

FLAT = ("greedy", "exact_flat")
"""Decoders whose spans never overlap."""
THRESHOLDS = [i / 40 for i in range(1, 40)]
"""What `calibrate` tries."""
BATCH = 128
"""Documents that it reads at once."""

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.SpanNER.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "annotate": "ents",
    "spans_key": "sc",
    "project_ents": False,
    "decoder": None,
    "threshold": None,
    "scorer": {"@scorers": "entitykit.ner_scorer.v1"},
}


class Candidates(NamedTuple):
    """Spans of one document that may be entities.

    Attributes:
        starts: *(n,)* first words.
        ends: *(n,)* ends, exclusive.
        best: *(n,)* numbers of their likeliest labels.
        of_best: *(n,)* logarithms of these labels' probabilities.
        of_none: *(n,)* the same of "no entity".
    """

    starts: Ints
    ends: Ints
    best: Ints
    of_best: Floats
    of_none: Floats


@Language.factory(
    "entitykit_ner",
    assigns=["doc.ents", "doc.spans"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"ents_f": 1.0, "ents_p": 0.0, "ents_r": 0.0},
)
def make_ner(
    nlp: Language,
    name: str,
    model: Model[HeadInput, Any],
    annotate: str,
    spans_key: str,
    project_ents: bool,
    decoder: str | None,
    threshold: float | None,
    scorer: Callable[..., Any] | None,
) -> NER:
    """Make the NER component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.SpanNER.v1` or `entitykit.SpERT.v1`.
        annotate: what is learned and written: ``ents`` for flat entities in ``doc.ents``, which are replaced; ``spans`` for
            nested ones in a span group.
        spans_key: the span group of nested entities.
        project_ents: of nested entities, also write those to ``doc.ents`` that lie in no longer one.
        decoder: how candidates that overlap are chosen: `greedy` or `exact_flat` for flat entities, any for nested ones;
            none: `greedy` for flat and `greedy_nested` for nested entities.
        threshold: what an entity's probability must be above; none: what `calibrate` has found, and before that the probability
            of "no entity".
        scorer: scores examples.
    """
    settings = {
        "annotate": annotate,
        "spans_key": spans_key,
        "project_ents": project_ents,
        "decoder": decoder,
        "threshold": threshold,
    }
    return NER(nlp.vocab, model, name, settings=settings, scorer=scorer)


class NER(TorchPipe):
    """Writes ``doc.ents``, and the same with scores in ``doc.spans["ents"]``; or nested spans in ``doc.spans[spans_key]``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.settings["annotate"] not in ("ents", "spans"):
            raise error("E109", name=self.name, setting="annotate", found=self.settings["annotate"], expected="ents or spans")
        check_decoder(self._decoder, self.name, FLAT if self.settings["annotate"] == "ents" else DECODERS)
        threshold = self.settings["threshold"]
        if threshold is not None and not 0 < threshold <= 1:
            raise error("E109", name=self.name, setting="threshold", found=threshold, expected="above 0, and at most 1")

    @property
    def _decoder(self) -> str:
        return self.settings["decoder"] or ("greedy" if self.settings["annotate"] == "ents" else "greedy_nested")

    @property
    def _key(self) -> str:
        """The group that is learned and written."""
        return ENTS if self.settings["annotate"] == "ents" else str(self.settings["spans_key"])

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """The entity types of a gold document."""
        return (span.label_ for span in reference_spans(reference, [self._key]) or ())

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Check the gold entities, and remember their surface forms for the score on unseen ones.

        Warns:
            W102 for entities that are too wide, W103 for those with several labels.
        """
        if examples and not self.labels:
            raise error("E106", name=self.name, keys=self._key)
        spans = [span for eg in examples for span in reference_spans(eg.reference, [self._key]) or ()]
        self.cfg.pop("threshold", None)
        self.cfg["seen"] = sorted({normalise_surface(span.text) for span in spans})
        longest = settings["max_width"] if "max_width" in settings else settings["window"] + 1
        warn_wide([len(span) for span in spans], longest, self.name)
        warn_ambiguous((eg.reference for eg in examples), [self._key], self.name)

    def scorer_arguments(self) -> dict[str, Any]:
        """Where the entities are, and which are known from training."""
        seen = frozenset(self.cfg.get("seen") or ())
        return {"annotate": self.settings["annotate"], "spans_key": self.settings["spans_key"], "seen": seen or None}

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> Spans:
        """Gold spans in training; for SpERT also all spans, or a sample of them in training."""
        nothing = torch.zeros(0, dtype=torch.long)
        given = gold_spans(examples, [self._key]).spans if examples is not None else Spans(nothing, nothing)
        if "max_width" not in self.model.attrs:
            return given
        lengths = [len(doc) for doc in docs]
        spans = all_spans(lengths, self.model.attrs["max_width"], torch.device("cpu"))
        if examples is None:
            return spans
        return join_spans(_sample(spans, lengths, self.model.attrs["negatives"]), given)

    def targets(self, examples: Sequence[Example], output: NEROutput) -> tuple[Tensor, ...]:
        """Classes of the candidates; for SpanNER also the gold band and the words that are annotated."""
        gold = gold_spans(examples, [self._key])
        docs = [eg.predicted for eg in examples]
        known = known_words(gold.known, docs, output.logits.device)
        classes = self._classes(gold, output.spans).masked_fill(~known[output.spans.starts], -100)
        if output.mentions is None:
            return (classes,)
        return classes, spans_to_band(gold.spans, output.mentions.band.shape).to(known.device), known

    def _classes(self, gold: Gold, spans: Spans) -> Tensor:
        numbers = {label: i for i, label in enumerate(self.labels, start=1)}
        for label in gold.labels:
            if label not in numbers:
                raise error("E110", name=self.name, label=label, labels=", ".join(self.labels))
        wanted = dict(zip(_pairs(gold.spans), (numbers[label] for label in gold.labels), strict=True))
        return torch.tensor([wanted.get(pair, 0) for pair in _pairs(spans)], dtype=torch.long, device=spans.starts.device)

    def decode(self, output: NEROutput, docs: Sequence[Doc]) -> list[Prediction]:
        """Keep candidates that are probable enough, then let the decoder choose among those that overlap."""
        threshold = self.settings["threshold"] if self.settings["threshold"] is not None else self.cfg.get("threshold")
        return [{self._key: self._choose(candidates, threshold)} for candidates in self._candidates_of(output, docs)]

    def _candidates_of(self, output: NEROutput, docs: Sequence[Doc]) -> list[Candidates]:
        """What may be an entity in each document."""
        log_p = torch.log_softmax(output.logits.float(), dim=1).cpu().numpy()
        possible = may_be_spans(docs, output.spans.starts.cpu().numpy(), output.spans.ends.cpu().numpy())
        if log_p.shape[1] == 1:  # no labels
            possible[:], log_p = False, np.repeat(log_p, 2, axis=1)
        best = log_p[:, 1:].argmax(1)
        of_best, of_none = log_p[np.arange(len(best)), best + 1], log_p[:, 0]
        found = []
        for rows, starts, ends in per_document(output.spans, [len(doc) for doc in docs]):
            kept = possible[rows]
            found.append(Candidates(starts[kept], ends[kept], best[rows][kept], of_best[rows][kept], of_none[rows][kept]))
        return found

    def _choose(self, candidates: Candidates, threshold: float | None) -> SpanPrediction:
        starts, ends, best, of_best, of_none = candidates
        weights = of_best - of_none if threshold is None else np.exp(of_best) - threshold
        chosen = DECODERS[self._decoder](starts, ends, weights)
        labels = [self.labels[label] for label in best[chosen].tolist()]
        return SpanPrediction(starts[chosen], ends[chosen], labels, np.exp(of_best[chosen]))

    def calibrate(self, examples: Iterable[Example]) -> float:
        """Find the threshold that gives the best strict F1, of several the highest, and keep it.

        Texts of another kind than those of the training have entities of which the model is less sure: a lower threshold finds
        them. The best one is half of the F1 that can be had, if probabilities are right (Lipton et al. 2014, arXiv 1402.1892).

        Args:
            examples: other than those of the training; their predicted documents have what components before this one write.

        Returns:
            The threshold, which is used where the setting is none, and saved with the component.

        Raises:
            ConfigError: E106 if there is no gold entity.
        """
        known = [eg for eg in examples if reference_spans(eg.reference, [self._key]) is not None]
        correct, predicted, n_gold = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), 0
        for batch in minibatch(known, BATCH):
            docs = [eg.predicted for eg in batch]
            found = self._candidates_of(self.model.predict(HeadInput(docs, self.candidates(docs, None))), docs)
            for eg, candidates in zip(batch, found, strict=True):
                spans, labels, _ = gold_spans([eg], [self._key])
                gold = {(*place, label) for place, label in zip(_pairs(spans), labels, strict=True)}
                n_gold += len(gold)
                for i, threshold in enumerate(THRESHOLDS):
                    chosen = self._choose(candidates, threshold)
                    predicted[i] += len(chosen.labels)
                    places = zip(chosen.starts.tolist(), chosen.ends.tolist(), chosen.labels, strict=True)
                    correct[i] += len(gold.intersection(places))
        if not n_gold:
            raise error("E106", name=self.name, keys=self._key)
        f1 = 2 * correct / (predicted + n_gold)
        self.cfg["threshold"] = max(threshold for threshold, each in zip(THRESHOLDS, f1, strict=True) if each == f1.max())
        return float(self.cfg["threshold"])

    def annotate(self, doc: Doc, prediction: Prediction) -> None:
        """Write the span group, and ``doc.ents`` where that is asked for."""
        spans = write_group(doc, self._key, prediction[self._key])
        if self.settings["annotate"] == "ents":
            doc.set_ents(spans)
        elif self.settings["project_ents"]:
            doc.set_ents(filter_spans(spans))


def _sample(spans: Spans, lengths: Sequence[int], n: int) -> Spans:
    """At most `n` spans of each document, at random."""
    chosen = []
    edges = torch.tensor([0, *lengths]).cumsum(0)
    firsts = torch.searchsorted(spans.starts, edges)
    for low, high in zip(firsts.tolist(), firsts.tolist()[1:], strict=False):
        chosen.append(low + torch.randperm(high - low)[:n])
    rows = torch.cat(chosen)
    return Spans(spans.starts[rows], spans.ends[rows])


def _pairs(spans: Spans) -> list[tuple[int, int]]:
    return list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
