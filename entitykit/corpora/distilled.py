"""Self-distillation of mentions: a corpus whose gold mentions are joined by those of which a trained pipeline is sure.

Corpora leave mentions out, and a model that learned from one finds some of what it lacks. So a second model is trained from
scratch on both (Morand et al. 2025): a span is a mention if it is gold, or if the first model, the teacher, gives it more than
0.9. Train with any config, then train again with the same config and this as its corpus::

    [corpora.train]
    @readers = "entitykit.Distilled.v1"
    teacher = "first/model-best"

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
_BATCH = 128  # documents that the teacher reads at once


class DistilledReader:
    """Give a corpus's examples with a teacher's mentions among the gold ones.

    Args:
        corpus: the reader of the corpus.
        teacher: path of the trained pipeline; it is loaded when the corpus is first read.
        threshold: a mention of the teacher's is added if its probability is above this.
        group: the references' span group that is added to, and made where there is none.
        teacher_group: the teacher's span group, with scores.
    """

    def __init__(self, corpus: Corpus, teacher: str | Path, *, threshold: float, group: str, teacher_group: str) -> None:
        self.corpus = corpus
        self.teacher = teacher
        self.threshold = threshold
        self.group = group
        self.teacher_group = teacher_group
        self._nlp: Language | None = None
        self._known: dict[bytes, list[tuple[int, int, float]]] = {}

    def __call__(self, nlp: Language) -> Iterator[Example]:
        """Yield the corpus's examples, changed in place: ``reference.spans[group]`` has the teacher's mentions, too.

        The teacher reads a document once, however often training asks for it.

        Args:
            nlp: the pipeline that is trained.

        Raises:
            ConfigError: E239 if the teacher cannot be loaded or writes no scored mentions.
        """
        examples = iter(self.corpus(nlp))
        while batch := list(islice(examples, _BATCH)):
            self._ask([eg.reference for eg in batch])
            for eg in batch:
                self._add(eg.reference)
                yield eg

    def _ask(self, docs: Sequence[Doc]) -> None:
        """Let the teacher read the documents that it does not know yet, in their own words."""
        new = {_key(doc): doc for doc in docs if _key(doc) not in self._known and len(doc)}
        if not new:
            return
        teacher = self._load()
        copies = (
            Doc(
                teacher.vocab,
                words=[token.text for token in doc],
                spaces=None if doc.has_unknown_spaces else [bool(token.whitespace_) for token in doc],
            )
            for doc in new.values()
        )
        for key, doc in zip(new, teacher.pipe(copies), strict=True):
            scores = doc.spans[self.teacher_group].attrs.get("scores") if self.teacher_group in doc.spans else None
            if scores is None or None in scores:
                reason = f"it writes no doc.spans['{self.teacher_group}'] with scores of all its spans"
                raise error("E239", path=self.teacher, reason=reason)
            spans = zip(doc.spans[self.teacher_group], scores, strict=True)
            self._known[key] = [(span.start, span.end, score) for span, score in spans if score > self.threshold]

    def _load(self) -> Language:
        if self._nlp is None:
            try:
                self._nlp = spacy.load(self.teacher)
            except (OSError, ValueError, ImportError) as reason:
                raise error("E239", path=self.teacher, reason=" ".join(str(reason).split())[:300]) from reason
        return self._nlp

    def _add(self, reference: Doc) -> None:
        """Add the teacher's mentions that the group does not have; if it has scores, theirs come after them."""
        found = self._known.get(_key(reference), [])
        old = reference.spans[self.group] if self.group in reference.spans else SpanGroup(reference, name=self.group)
        there = {(span.start, span.end) for span in old}
        new = [mention for mention in found if mention[:2] not in there]
        attrs = dict(old.attrs)
        if "scores" in attrs:
            attrs["scores"] = [*attrs["scores"], *(score for _, _, score in new)]
        spans = [*old, *(Span(reference, start, end) for start, end, _ in new)]
        reference.spans[self.group] = SpanGroup(reference, name=self.group, spans=spans, attrs=attrs)


def distilled(
    corpus: Corpus,
    teacher: str | Path | None,
    *,
    threshold: float = 0.9,
    group: str = "mentions",
    teacher_group: str = "mentions",
) -> DistilledReader:
    """Make the reader of a corpus with a teacher's mentions (`entitykit.Distilled.v1`).

    Gold mentions may also lie in other groups of the references: `entitykit_mentions` joins all that its setting `gold` names.
    A document without any gold annotation gets the teacher's mentions alone. The teacher gives what it writes, so its own
    threshold must not be the higher one, and its decoder should be ``overlapping``.

    Args:
        corpus: the corpus's reader, a block of its own in a config.
        teacher: path of a trained pipeline with `entitykit_mentions`, in the same language.
        threshold: a mention of the teacher's is added if its probability is above this.
        group: the references' span group that is added to, and made where there is none.
        teacher_group: the teacher's span group, with scores.

    Raises:
        ConfigError: E213 for a threshold out of range, E239 if there is no teacher.
    """
    if not 0 <= threshold < 1:
        raise error("E213", option="threshold", found=threshold, expected="at least 0 and below 1")
    if teacher is None:
        raise error("E239", path=teacher, reason="no path is given")
    return DistilledReader(corpus, teacher, threshold=threshold, group=group, teacher_group=teacher_group)


def _key(doc: Doc) -> bytes:
    """The same for documents of the same words and spaces."""
    key: bytes = doc.to_array([ORTH, SPACY]).tobytes()
    return key
