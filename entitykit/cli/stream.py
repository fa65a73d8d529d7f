"""Run a pipeline over an endless stream of documents, of which any may fail."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TypeAlias

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import ignore_error, raise_error

from entitykit.cli.inputs import Document, Failure, failure
from entitykit.errors import error

Item: TypeAlias = Document | Failure
Result: TypeAlias = tuple[Document, Doc] | Failure

# A batch ends at this many characters, whatever the number of documents: encoders keep vectors for all words of a batch.
BATCH_CHARACTERS = 500_000


def annotate(
    nlp: Language, documents: Iterable[Item], *, batch_size: int = 32, n_process: int = 1
) -> Generator[Result, None, None]:
    """Run a pipeline over a stream; a document that fails does not harm its neighbours.

    Documents on which a component fails leave spaCy's stream, some components drop their whole batch with them, and some end
    the stream. Whatever does not come back is therefore run once more, alone. Sets the pipeline's error handler.

    Args:
        nlp: the pipeline.
        documents: the stream; failures in it are passed on.
        batch_size: documents per batch.
        n_process: processes to run in.

    Yields:
        In the order of the stream, documents with their annotated `Doc` (id and meta in `doc.user_data`), and failures.
    """
    stream = iter(documents)
    # Processes are started once for the whole stream, and again only for what is left when a component ended it.
    batches = _batches(stream, batch_size) if n_process == 1 else (chain([first], stream) for first in stream)
    nlp.set_error_handler(ignore_error)
    for batch in batches:
        for result in _Run(nlp, batch).results(batch_size=batch_size, n_process=n_process):
            if not isinstance(result, Failure):
                document, doc = result
                doc.user_data["id"] = document.id
                if document.meta:
                    doc.user_data["meta"] = document.meta
            yield result


def _batches(stream: Iterator[Item], batch_size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    n_characters = 0
    for item in stream:
        n_new = 0 if isinstance(item, Failure) else len(str(item.content))
        if batch and (len(batch) == batch_size or n_characters + n_new > BATCH_CHARACTERS):
            yield batch
            batch, n_characters = [], 0
        batch.append(item)
        n_characters += n_new
    if batch:
        yield batch


class _Run:
    """One pass of spaCy's stream over a batch, and the account of what has not come back from it."""

    def __init__(self, nlp: Language, batch: Iterable[Item]) -> None:
        self.nlp = nlp
        self.batch = batch
        self.pending: deque[tuple[int, Item]] = deque()
        self.stopped = False
        self.broken: Exception | None = None

    def results(self, *, batch_size: int, n_process: int) -> Iterator[Result]:
        docs = self.nlp.pipe(self._feed(), as_tuples=True, batch_size=batch_size, n_process=n_process)
        try:
            with suppress(Exception):  # a component ended the stream; what is to blame fails again alone, and is reported then
                for doc, number in docs:
                    if number is not None:  # as it is when a component gives back another Doc
                        yield from self._settle(before=number)
                        yield self.pending.popleft()[1], doc  # type: ignore[misc]  # a failure gives no Doc
            yield from self._settle()
        except GeneratorExit:
            # The run ends early. spaCy waits for its processes, and they wait for somebody who takes what they have done.
            self.stopped = True
            if n_process > 1:
                with suppress(Exception):
                    deque(docs, maxlen=0)
            raise
        if self.broken:
            raise self.broken

    def _feed(self) -> Iterator[tuple[Doc, int]]:
        try:
            for number, item in enumerate(self.batch):
                if self.stopped:
                    return
                self.pending.append((number, item))
                if not isinstance(item, Failure):
                    with suppress(Exception):  # it fails again alone, and is reported then
                        yield _tokenize(self.nlp, item), number
        except Exception as problem:  # noqa: BLE001  the stream's own, raised at its end: not to be taken for the pipeline's
            self.broken = problem

    def _settle(self, before: int | None = None) -> Iterator[Result]:
        """Give what was due before a document that has come back: failures, and documents that are run again alone."""
        while self.pending and self.pending[0][0] != before:
            item = self.pending.popleft()[1]
            yield item if isinstance(item, Failure) else _annotate_alone(self.nlp, item)


def _annotate_alone(nlp: Language, document: Document) -> Result:
    nlp.set_error_handler(raise_error)
    try:
        return document, nlp(_tokenize(nlp, document))
    except Exception as problem:  # noqa: BLE001  anything that a component's code may raise
        return failure(problem, document.input, line=document.line, document_id=document.id)
    finally:
        nlp.set_error_handler(ignore_error)


def _tokenize(nlp: Language, document: Document) -> Doc:
    """The words of a document, with what it brings along; whether that is right, a component says that reads it.

    Raises:
        InputError: E430 if it is too long.
    """
    content = document.content
    if (n := len(str(content))) > nlp.max_length:
        raise error("E430", n=n, limit=nlp.max_length)
    doc = content.copy() if isinstance(content, Doc) else nlp.make_doc(content)
    doc.user_data.update(document.given or {})
    return doc
