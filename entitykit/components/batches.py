"""Batches that are bounded by words as well as by documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from spacy.tokens import Doc

BATCH_WORDS = 8192


class PipedInBatches:
    """A component that annotates a stream in batches bounded by words as well as by documents.

    Attributes:
        batch_words: most words in a batch, a longer document aside.
    """

    name: str
    predict: Callable[..., Any]
    set_annotations: Callable[..., Any]
    get_error_handler: Callable[[], Callable[..., Any]]
    batch_words: int = BATCH_WORDS

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream; failures go to the error handler."""
        handle = self.get_error_handler()
        for docs in batch_by_words(stream, n_docs=batch_size, n_words=self.batch_words):
            try:
                self.set_annotations(docs, self.predict(docs))
            except Exception as reason:  # noqa: BLE001 - spaCy's contract: whatever fails is the error handler's to judge
                handle(self.name, self, docs, reason)
            else:
                yield from docs


def batch_by_words(stream: Iterable[Doc], *, n_docs: int, n_words: int) -> Iterator[list[Doc]]:
    """Group documents in order.

    Args:
        stream: documents.
        n_docs: most documents in a batch.
        n_words: most words in a batch; a longer document is a batch of its own.
    """
    batch: list[Doc] = []
    total = 0
    for doc in stream:
        if batch and (len(batch) >= n_docs or total + len(doc) > n_words):
            yield batch
            batch, total = [], 0
        batch.append(doc)
        total += len(doc)
    if batch:
        yield batch
