"""Batches of training documents that belong together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from spacy.training import Example

from entitykit.errors import error

Batcher = Callable[[Iterable[Example]], Iterator[list[Example]]]


def batch_by_value(key: str = "topic", size: int = 1500) -> Batcher:
    """Make batches of documents with the same value in ``doc.user_data``, registered as ``entitykit.batch_by_value.v1``.

    Mentions that are hard to tell apart are in documents about the same: such batches teach more than others. All documents of
    a pass are held in memory; the batches of all values come in random order.

    Args:
        key: name of the value.
        size: words of a batch at most; a longer document is a batch of its own.

    Raises:
        InputError: E638 for a document without the value.
    """

    def batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
        groups: dict[object, list[Example]] = {}
        for eg in examples:
            if key not in eg.reference.user_data:
                found = f"no '{key}' in doc.user_data"
                raise error("E638", found=found, expected="one, to make batches by", text=eg.reference.text[:40])
            groups.setdefault(eg.reference.user_data[key], []).append(eg)
        together = [batch for group in groups.values() for batch in _cut(group, size)]
        random.shuffle(together)
        yield from together

    return batches


def _cut(group: Iterable[Example], size: int) -> Iterator[list[Example]]:
    batch: list[Example] = []
    n = 0
    for eg in group:
        if batch and n + len(eg.predicted) > size:
            yield batch
            batch, n = [], 0
        batch.append(eg)
        n += len(eg.predicted)
    if batch:
        yield batch
