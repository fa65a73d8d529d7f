"""Gold mentions, or clusters, on the predicted documents: what comes after is trained and scored without finding them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from entitykit.corpora.build import ENTITIES
from entitykit.corpora.clusters import PREFIX
from entitykit.errors import warn

Corpus = Callable[[Language], Iterable[Example]]


def given_mentions(corpus: Corpus, key: str = "ents", gold: str | None = None) -> Corpus:
    """Wrap a reader, registered as ``entitykit.GivenMentions.v1``.

    Args:
        corpus: any reader.
        key: where the mentions are put, without their entities: ``ents`` or a span group.
        gold: where references have them; none: under the same key.

    Warns:
        W585 at the end, for mentions that the predicted tokenization has no words for.
    """
    source = key if gold is None else gold

    def read(nlp: Language) -> Iterator[Example]:
        n_lost = n = 0
        for eg in corpus(nlp):
            there: Iterable[Span] = eg.reference.ents if source == "ents" else eg.reference.spans.get(source) or ()
            spans = list(there)
            aligned = eg.get_aligned_spans_y2x(spans, allow_overlap=True)
            found = [Span(eg.predicted, span.start, span.end, label=span.label) for span in aligned]
            n, n_lost = n + len(spans), n_lost + len(spans) - len(found)
            if key == "ents":
                eg.predicted.set_ents(found)
            else:
                eg.predicted.spans[key] = SpanGroup(eg.predicted, name=key, spans=found)
            yield eg
        if n_lost:
            warn("W585", n=n_lost, total=n)

    return read


def given_clusters(corpus: Corpus, sentences: bool = False) -> Corpus:
    """Wrap a reader, registered as ``entitykit.GivenClusters.v1``: predicted documents have the gold coreference clusters.

    Their mentions have the labels of the entities in the same places, if they have no other.

    Args:
        corpus: any reader.
        sentences: they have the gold sentence boundaries, too, where there are any.

    Warns:
        W585 at the end, for mentions that the predicted tokenization has no words for.
    """

    def read(nlp: Language) -> Iterator[Example]:
        n_lost = n = 0
        for eg in corpus(nlp):
            if sentences:
                give_sentences(eg)
            before, after = give_clusters(eg)
            n, n_lost = n + before, n_lost + before - after
            yield eg
        if n_lost:
            warn("W585", n=n_lost, total=n)

    return read


def give_clusters(eg: Example) -> tuple[int, int]:
    """Put gold clusters on the predicted document; gives the number of their mentions, and of those that it has words for."""
    n = n_given = 0
    types = _types(eg.reference)
    for name in list(eg.reference.spans):
        if not name.startswith(f"{PREFIX}_"):
            continue
        spans = list(eg.reference.spans[name])
        labelled = [Span(eg.reference, s.start, s.end, label=s.label_ or types.get((s.start, s.end), "")) for s in spans]
        aligned = eg.get_aligned_spans_y2x(labelled, allow_overlap=True)
        found = [Span(eg.predicted, span.start, span.end, label=span.label_) for span in aligned]
        eg.predicted.spans[name] = SpanGroup(eg.predicted, name=name, spans=found)
        n, n_given = n + len(spans), n_given + len(found)
    return n, n_given


def give_sentences(eg: Example) -> None:
    """Put the gold sentence boundaries on the predicted document: a sentence begins with the first word that touches it."""
    if not eg.reference.has_annotation("SENT_START"):
        return
    numbers = {token: i for i, sent in enumerate(eg.reference.sents) for token in range(sent.start, sent.end)}
    alignment = eg.alignment.x2y
    before = -1
    for token in eg.predicted:
        touched = alignment[token.i]
        number = numbers[int(touched[0])] if len(touched) else before
        token.is_sent_start = number > before or token.i == 0
        before = number


def _types(doc: Doc) -> dict[tuple[int, int], str]:
    return {(span.start, span.end): span.label_ for span in (*doc.spans.get(ENTITIES, ()), *doc.ents)}
