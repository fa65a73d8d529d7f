"""What a slow linker says of gold mentions, for a fast one to learn: a bi-encoder from the cross-encoder behind another one.

The teacher is a trained pipeline with `entitykit_linker` and `entitykit_reranker`. It is given the gold mentions, and its
candidates with their probabilities are left on the references, in ``span._.kb_ents``, where a linker whose setting `distill` is
above 0 looks for them (after Wu et al. 2020, who distill BLINK so)::

    [corpora.train]
    @readers = "entitykit.DistilledLinks.v1"
    teacher = "reranker/model-best"

    [corpora.train.corpus]
    @readers = "spacy.Corpus.v1"
    gold_preproc = false
    path = ${paths.train}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import spacy
from spacy.attrs import ORTH, SPACY
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from entitykit.errors import error

Corpus = Callable[[Language], Iterable[Example]]
Pairs = list[tuple[str, float]]

_BATCH = 128  # documents that the teacher reads at once
_CANDIDATES = "kb_ents"


class DistilledLinksReader:
    """Give a corpus's examples with a teacher's candidates on the gold mentions.

    Args:
        corpus: the reader of the corpus.
        teacher: path of the trained pipeline; it is loaded when the corpus is first read.
        key: where gold mentions are, and where the teacher looks for mentions: ``ents`` or a span group.
        top_k: candidates of a mention, the teacher's best.
        disable: components of the teacher that are not to run, such as one that finds mentions.
    """

    def __init__(self, corpus: Corpus, teacher: str | Path, *, key: str, top_k: int, disable: Sequence[str]) -> None:
        self.corpus = corpus
        self.teacher = teacher
        self.key = key
        self.top_k = top_k
        self.disable = list(disable)
        self._nlp: Language | None = None
        self._known: dict[bytes, list[Pairs]] = {}

    def __call__(self, nlp: Language) -> Iterator[Example]:
        """Yield the corpus's examples, changed in place: the gold mentions of references have the teacher's candidates.

        The teacher reads a document once, however often training asks for it.

        Args:
            nlp: the pipeline that is trained.

        Raises:
            ConfigError: E596 if the teacher cannot be loaded or writes no candidates.
        """
        examples = iter(self.corpus(nlp))
        while batch := list(islice(examples, _BATCH)):
            self._ask([eg.reference for eg in batch])
            for eg in batch:
                for span, pairs in zip(_spans(eg.reference, self.key), self._known[self._key_of(eg.reference)], strict=True):
                    span._.set(_CANDIDATES, pairs)
                yield eg

    def _key_of(self, doc: Doc) -> bytes:
        """The same for documents of the same words, spaces and mentions."""
        places = [(span.start, span.end) for span in _spans(doc, self.key)]
        return bytes(doc.to_array([ORTH, SPACY]).tobytes()) + repr(places).encode()

    def _ask(self, docs: Sequence[Doc]) -> None:
        """Let the teacher link the documents that it does not know yet, in their own words."""
        new = {key: doc for doc in docs if (key := self._key_of(doc)) not in self._known}
        if not new:
            return
        teacher = self._load()
        for key, doc in zip(new, teacher.pipe(self._copy(doc, teacher) for doc in new.values()), strict=True):
            self._known[key] = []
            for span in _spans(doc, self.key):
                pairs = span._.get(_CANDIDATES) if span.has_extension(_CANDIDATES) else None
                if pairs is None:
                    raise error("E596", path=self.teacher, reason=f"it writes no candidates to the mentions in '{self.key}'")
                best = sorted(pairs, key=lambda pair: -pair[1])[: self.top_k]
                self._known[key].append([(id_, p) for id_, p in best if p > 0])

    def _copy(self, doc: Doc, teacher: Language) -> Doc:
        spaces = None if doc.has_unknown_spaces else [bool(token.whitespace_) for token in doc]
        copy = Doc(teacher.vocab, words=[token.text for token in doc], spaces=spaces)
        spans = [Span(copy, span.start, span.end, label=span.label_) for span in _spans(doc, self.key)]
        if self.key == "ents":
            copy.set_ents(spans)
        else:
            copy.spans[self.key] = SpanGroup(copy, name=self.key, spans=spans)
        return copy

    def _load(self) -> Language:
        if self._nlp is None:
            try:
                self._nlp = spacy.load(self.teacher, disable=self.disable)
            except (OSError, ValueError, ImportError) as reason:
                raise error("E596", path=self.teacher, reason=" ".join(str(reason).split())[:300]) from reason
        return self._nlp


def distilled_links(
    corpus: Corpus, teacher: str | Path | None, key: str = "ents", top_k: int = 8, disable: Sequence[str] = ()
) -> DistilledLinksReader:
    """Make the reader of a corpus with a teacher's candidates, registered as ``entitykit.DistilledLinks.v1``.

    Args:
        corpus: the corpus's reader, a block of its own in a config.
        teacher: path of a trained pipeline with `entitykit_linker`, and `entitykit_reranker` after it.
        key: where gold mentions are, and where the teacher looks for mentions: ``ents`` or a span group.
        top_k: candidates of a mention, the teacher's best; the student reads each of them anew in training.
        disable: components of the teacher that are not to run, such as one that finds mentions.

    Raises:
        ConfigError: E213 for a `top_k` out of range, E596 if there is no teacher.
    """
    if top_k < 1:
        raise error("E213", option="top_k", found=top_k, expected="at least 1")
    if teacher is None:
        raise error("E596", path=teacher, reason="no path is given")
    return DistilledLinksReader(corpus, teacher, key=key, top_k=top_k, disable=disable)


def _spans(doc: Doc, key: str) -> list[Span]:
    return list(doc.ents if key == "ents" else doc.spans.get(key) or ())
