"""Gold mentions on the predicted documents, so that linking is trained and scored without finding mentions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spacy.language import Language
from spacy.tokens import Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from entitykit.errors import warn

Corpus = Callable[[Language], Iterable[Example]]


def given_mentions(corpus: Corpus, key: str = "ents") -> Corpus:
    """Wrap a reader, registered as ``entitykit.GivenMentions.v1``.

    Args:
        corpus: any reader.
        key: where the mentions are, and are put, without their entities: ``ents`` or a span group.

    Warns:
        W585 at the end, for mentions that the predicted tokenization has no words for.
    """

    def read(nlp: Language) -> Iterator[Example]:
        n_lost = n = 0
        for eg in corpus(nlp):
            gold: Iterable[Span] = eg.reference.ents if key == "ents" else eg.reference.spans.get(key) or ()
            spans = list(gold)
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
