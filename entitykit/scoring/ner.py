"""Scorer of named entities: flat in `doc.ents`, computed by seqeval, or nested in a span group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Span
from spacy.training import Example

from entitykit.errors import error
from entitykit.scoring.spans import (
    PRF,
    LabelledSpan,
    Scores,
    SpanScores,
    char_positions,
    locate,
    macro_average,
    normalise_surface,
    score_spans,
)

Surfaces = dict[LabelledSpan, str]
"""The spans of a document and their normalised surface forms."""


def make_ner_scorer() -> Callable[..., Scores]:
    """Return the scorer that a config names `entitykit.ner_scorer.v1`."""
    return ner_score


def ner_score(
    examples: Iterable[Example],
    *,
    annotate: Literal["ents", "spans"] = "ents",
    spans_key: str = "sc",
    seen: Set[str] | None = None,
    **_: object,
) -> Scores:
    """Score predicted entities strictly: start, end and label must be those of a gold entity.

    Reads `doc.ents` or `doc.spans[spans_key]` of both Docs, which may be tokenized differently. References without that
    annotation are skipped, and so are predicted `ents` on tokens whose annotation is missing.

    Args:
        examples: predicted and reference Docs.
        annotate: "ents" for flat entities, "spans" for those of a span group.
        spans_key: the span group.
        seen: normalised surface forms of the training entities, see `normalise_surface`; None leaves the unseen scores None.
        **_: other settings that spaCy passes to every scorer.

    Returns:
        With the prefix `ents` or `spans_{spans_key}`: `_p`, `_r` and `_f` over all entities, `_per_type` (label to p, r, f),
        `_macro_f` (mean over the labels in gold), and `_unseen_p`, `_unseen_r`, `_unseen_f` over the gold and predicted
        entities whose surface form is not in `seen`. None where there is nothing to score.

    Raises:
        ConfigError: E306 for an unknown `annotate`.
        InputError: E305 for an example whose texts differ.
    """
    if annotate not in ("ents", "spans"):
        raise error("E306", found=annotate)
    documents = []
    for eg in examples:
        documents += _flat_surfaces(eg) if annotate == "ents" else _nested_surfaces(eg, spans_key)
    score = score_flat_spans if annotate == "ents" else score_spans
    scores = score([set(gold) for gold, _ in documents], [set(predicted) for _, predicted in documents])
    unseen = SpanScores(None, None, {})
    if seen is not None:
        unseen = score([_not_in(seen, gold) for gold, _ in documents], [_not_in(seen, predicted) for _, predicted in documents])
    prefix = "ents" if annotate == "ents" else f"spans_{spans_key}"
    per_type = {label: {"p": each.precision, "r": each.recall, "f": each.f1} for label, each in scores.per_type.items()}
    return {
        **_named(prefix, scores.micro),
        f"{prefix}_per_type": per_type or None,
        f"{prefix}_macro_f": scores.macro.f1 if scores.macro else None,
        **_named(f"{prefix}_unseen", unseen.micro),
    }


def score_flat_spans(gold: Sequence[Set[LabelledSpan]], predicted: Sequence[Set[LabelledSpan]]) -> SpanScores:
    """Score predicted spans without overlaps by seqeval in strict IOB2 mode.

    Args:
        gold: one set of spans per document, without overlaps.
        predicted: the same documents' predicted spans, without overlaps.

    Returns:
        The scores, with seqeval's numbers; only `macro` is averaged here, because seqeval's counts labels without gold spans.
    """
    labels = sorted({label for spans in (*gold, *predicted) for *_, label in spans})
    if not labels:
        return SpanScores(None, None, {})
    from seqeval.metrics import classification_report  # here, because it imports scikit-learn, which takes a second
    from seqeval.scheme import IOB2

    # Numbers for labels: seqeval would strip hyphens from them, and report a label "micro avg" twice.
    codes = {label: str(code) for code, label in enumerate(labels)}
    stretches = [tags for pair in zip(gold, predicted, strict=True) for tags in _tag(*pair, codes)]
    report = classification_report(
        [[in_gold for in_gold, _ in tags] for tags in stretches],
        [[in_predicted for _, in_predicted in tags] for tags in stretches],
        mode="strict",
        scheme=IOB2,
        output_dict=True,
        zero_division=0,
    )
    per_type = {label: _from_seqeval(report[code]) for label, code in codes.items()}
    return SpanScores(_from_seqeval(report["micro avg"]), macro_average(per_type), per_type)


def _tag(gold: Set[LabelledSpan], predicted: Set[LabelledSpan], codes: Mapping[str, str]) -> list[list[tuple[str, str]]]:
    """Write a document's spans as pairs of IOB2 tags, one pair for each stretch between two neighbouring span boundaries.

    A tag per token would give the same scores, but has no tokens to stand on when the two tokenizations differ. The tags are
    cut into sequences where both are O, because seqeval's time grows with the square of a sequence.
    """
    boundaries = sorted({offset for start, end, _ in gold | predicted for offset in (start, end)})
    index = {offset: at for at, offset in enumerate(boundaries)}
    both = []
    for spans in (gold, predicted):
        tags = ["O"] * len(boundaries)
        for start, end, label in spans:
            tags[index[start] : index[end]] = [f"I-{codes[label]}"] * (index[end] - index[start])
            tags[index[start]] = f"B-{codes[label]}"
        both.append(tags)
    return [list(tags) for inside, tags in groupby(zip(*both, strict=True), key=lambda pair: pair != ("O", "O")) if inside]


def _from_seqeval(row: Mapping[str, float]) -> PRF:
    return PRF(float(row["precision"]), float(row["recall"]), float(row["f1-score"]), int(row["support"]))


def _flat_surfaces(eg: Example) -> list[tuple[Surfaces, Surfaces]]:
    """Return the gold and predicted entities of an example, or nothing if its reference has none annotated."""
    if not eg.reference.has_annotation("ENT_IOB"):
        return []
    in_predicted, in_reference = char_positions(eg)
    predicted = _surfaces(eg.predicted.ents, in_predicted)
    if not eg.reference.has_annotation("ENT_IOB", require_complete=True):
        unknown = {
            int(position)
            for token in eg.reference
            if token.ent_iob == 0
            for position in in_reference[token.idx : token.idx + len(token)]
        }
        predicted = {span: surface for span, surface in predicted.items() if unknown.isdisjoint(range(span[0], span[1]))}
    return [(_surfaces(eg.reference.ents, in_reference), predicted)]


def _nested_surfaces(eg: Example, spans_key: str) -> list[tuple[Surfaces, Surfaces]]:
    """Return the gold and predicted spans of an example, or nothing if its reference does not have the group."""
    if spans_key not in eg.reference.spans:
        return []
    in_predicted, in_reference = char_positions(eg)
    predicted = eg.predicted.spans.get(spans_key, ())
    return [(_surfaces(eg.reference.spans[spans_key], in_reference), _surfaces(predicted, in_predicted))]


def _surfaces(spans: Iterable[Span], positions: NDArray[np.int64]) -> Surfaces:
    return {(*locate(span, positions), span.label_): normalise_surface(span.text) for span in spans}


def _not_in(seen: Set[str], surfaces: Surfaces) -> set[LabelledSpan]:
    return {span for span, surface in surfaces.items() if surface not in seen}


def _named(prefix: str, scores: PRF | None) -> Scores:
    """Return scores under spaCy's keys."""
    precision, recall, f1 = scores[:3] if scores else (None, None, None)
    return {f"{prefix}_p": precision, f"{prefix}_r": recall, f"{prefix}_f": f1}
