"""Batches that are bounded by words as well as by documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from spacy.tokens import Doc


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
