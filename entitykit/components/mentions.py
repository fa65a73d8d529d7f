"""`entitykit_mentions`: finds mentions of entities, whatever their type, with the probe on an early layer."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.tommer_files import load_tommer
from entitykit.components.base import Prediction, SpanPrediction, TorchPipe, is_dummy, known_words, may_be_spans
from entitykit.components.gold import gold_spans, reference_spans
from entitykit.decoding.spans import DECODERS, top_k
from entitykit.errors import error, warn
from entitykit.models.mentions import spans_to_band
from entitykit.types import MentionOutput, Spans

MENTIONS = "mentions"
CANDIDATES = "mention_candidates"

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.ToMMeR.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "threshold": 0.5,
    "per_word": None,
    "candidates": 0.0,
    "decoder": "overlapping",
    "gold": ["mentions", "sc", "ents"],
    "scorer": {"@scorers": "entitykit.mentions_scorer.v1"},
}


@Language.factory(
    "entitykit_mentions",
    assigns=["doc.spans"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"mentions_f": 1.0, "mentions_p": 0.0, "mentions_r": 0.0, "mentions_recall_at_0.5": 0.0},
)
def make_mentions(
    nlp: Language,
    name: str,
    model: Model[HeadInput, Any],
    threshold: float,
    per_word: float | None,
    candidates: float,
    decoder: str,
    gold: list[str],
    scorer: Callable[..., Any] | None,
) -> "Mentions":
    """Make the mention component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.ToMMeR.v1`.
        threshold: least probability of a mention.
        per_word: instead of the threshold, give this many mentions per word of a document, the best ones.
        candidates: also write this many best spans per word to ``doc.spans["mention_candidates"]``.
        decoder: `overlapping`, `greedy`, `exact_flat`, `greedy_nested` or `exact_nested`.
        gold: where references have their mentions: span groups, or ``ents``; all that are there are joined.
        scorer: scores examples.
    """
    settings = {"threshold": threshold, "per_word": per_word, "candidates": candidates, "decoder": decoder, "gold": gold}
    return Mentions(nlp.vocab, model, name, settings=settings, scorer=scorer)


class Mentions(TorchPipe):
    """Writes ``doc.spans["mentions"]`` and, if asked, ``doc.spans["mention_candidates"]``, both with scores."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._has_probe = False
        check_decoder(self.settings["decoder"], self.name, DECODERS)
        if not 0 < self.settings["threshold"] < 1:
            raise error(
                "E109", name=self.name, setting="threshold", found=self.settings["threshold"], expected="between 0 and 1"
            )
        for setting in ("per_word", "candidates"):
            if (self.settings[setting] or 0) < 0:
                raise error("E109", name=self.name, setting=setting, found=self.settings[setting], expected="at least 0")

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
        probe: str | None = None,
    ) -> None:
        """Build the probe, or take a released one, which needs no training.

        Args:
            get_examples: gives the training examples; with a released probe these need no mentions.
            nlp: the pipeline.
            labels: not used; mentions have no types.
            probe: a probe as the authors of ToMMeR release them: a folder or a name on the Hub, see `load_tommer`.

        Raises:
            ConfigError: E105 if there is no encoder before this component, E106 for examples without mentions, E111 for a probe
                that does not fit the model's settings or the encoder.
            CheckpointError: E009 for a probe that cannot be read.
        """
        self._has_probe = probe is not None
        super().initialize(get_examples, nlp=nlp, labels=labels)
        if probe is not None:
            self._take(probe)

    def _take(self, name: str) -> None:
        """Replace the probe's weights by released ones, whose settings must be those of the config, where they are saved."""
        released = load_tommer(name)
        ours = self._shim.settings
        found = {key: ours[key] for key, value in released.settings.items() if ours[key] != value}
        expected = {key: released.settings[key] for key in found}
        if 0 < released.window < ours["window"]:
            found["window"], expected["window"] = ours["window"], released.window
        if found:
            raise error("E111", probe=name, made_on=released.made_on, name=self.name, found=found, expected=expected)
        self.head.load_state_dict(released.weights)

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """Mentions have no types."""
        return ()

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Check that there are mentions to learn from, and warn of those that the probe cannot reach."""
        spans = [span for eg in examples for span in reference_spans(eg.reference, self.settings["gold"]) or ()]
        if examples and not spans and not self._has_probe and not is_dummy(examples):
            raise error("E106", name=self.name, keys=", ".join(self.settings["gold"]))
        warn_wide([len(span) for span in spans], settings["window"] + 1, self.name)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> Spans:
        """None: the probe scores all spans within its window."""
        nothing = torch.zeros(0, dtype=torch.long)
        return Spans(nothing, nothing)

    def targets(self, examples: Sequence[Example], output: MentionOutput) -> tuple[Tensor, ...]:
        """The gold band, and the words that are annotated."""
        gold = gold_spans(examples, self.settings["gold"])
        known = known_words(gold.known, [eg.predicted for eg in examples], output.band.device)
        return spans_to_band(gold.spans, output.band.shape).to(known.device), known

    def decode(self, output: MentionOutput, docs: Sequence[Doc]) -> list[Prediction]:
        """Choose mentions by threshold or by rank, then by the decoder."""
        band = output.band.masked_fill(~output.valid, float("-inf")).float().cpu().numpy()
        words = np.arange(len(band), dtype=np.int32)[:, None]
        starts = np.maximum(words - np.arange(band.shape[1], dtype=np.int32), 0)
        band[~may_be_spans(docs, starts, np.broadcast_to(words + 1, starts.shape))] = float("-inf")
        ends = np.cumsum([len(doc) for doc in docs]).tolist()
        return [self._decode_document(band[end - len(doc) : end]) for doc, end in zip(docs, ends, strict=True)]

    def _decode_document(self, band: NDArray[np.float32]) -> Prediction:
        settings = self.settings
        if settings["per_word"] is None:
            bias = math.log(settings["threshold"] / (1 - settings["threshold"]))
            last, back = np.nonzero(band > bias)
        else:
            last, back = best_cells(band, settings["per_word"])
            # whatever its score, a span that was asked for counts as kept
            bias = float(band[last, back].min()) - 1.0 if len(last) else 0.0
        starts, ends, logits = last - back, last + 1, band[last, back]
        kept = DECODERS[settings["decoder"]](starts, ends, logits - bias)
        prediction = {MENTIONS: _spans(starts[kept], ends[kept], logits[kept])}
        if settings["candidates"]:
            last, back = best_cells(band, settings["candidates"])
            order = np.lexsort((-last, last - back))  # by start, longer first
            last, back = last[order], back[order]
            prediction[CANDIDATES] = _spans(last - back, last + 1, band[last, back])
        return prediction


def best_cells(band: NDArray[np.float32], per_word: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best-scored spans of a document's band.

    Args:
        band: *(n_words, window + 1)* logits, -inf where there is no span.
        per_word: spans per word, rounded up.

    Returns:
        Rows and columns.
    """
    scores = band.ravel()
    n = min(math.ceil(len(band) * per_word), int(np.isfinite(scores).sum()))
    best = np.sort(top_k(scores, n))
    return best // band.shape[1], best % band.shape[1]


def check_decoder(decoder: str, name: str, allowed: Iterable[str]) -> None:
    """Raise ConfigError E109 for a decoder that the component cannot use."""
    if decoder not in allowed:
        raise error("E109", name=name, setting="decoder", found=decoder, expected="one of " + ", ".join(allowed))


def warn_wide(widths: Sequence[int], longest: int, name: str) -> None:
    """Warn of gold spans that are wider than the head can find."""
    n_wide = sum(width > longest for width in widths)
    if n_wide:
        warn("W102", name=name, n=n_wide, total=len(widths), longest=longest, widest=max(widths), stacklevel=4)


def _spans(starts: NDArray[np.int64], ends: NDArray[np.int64], logits: NDArray[np.float32]) -> SpanPrediction:
    # 1 / (1 + exp(-logits)) without overflow
    probabilities = np.exp(-np.logaddexp(0, -logits)).astype(np.float32)
    return SpanPrediction(starts, ends, [""] * len(starts), probabilities)
