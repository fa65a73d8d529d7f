"""Evidence of relations between clusters: which sentences there are, which are gold evidence, and which were found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from entitykit.components.cluster_pairs import CLUSTER_RELATIONS, Fact, Related
from entitykit.components.gold import places_in_predicted
from entitykit.components.grouping import sentence_numbers
from entitykit.components.pairs import end_to_end
from entitykit.errors import error
from entitykit.types import ClusterPairs

Ints = NDArray[np.int64]
Chosen = list[tuple[int, int, str, float]]
"""Numbers of head and tail, label and probability of one document's relations."""


class Sentences(NamedTuple):
    """The sentences of one document that have words.

    Attributes:
        of_words: *(n_words,)* the words' sentences, by their rows in `numbers`; sorted.
        numbers: *(n_sentences,)* their numbers in ``doc.sents``, or in those of the reference.
    """

    of_words: Ints
    numbers: Ints


def read_sentences(doc: Doc, related: Related, name: str) -> Sentences:
    """The sentences of a document, in which evidence is to be found.

    Args:
        doc: with sentence boundaries, unless there are no pairs.
        related: its pairs.
        name: the component's, for messages.

    Raises:
        ConfigError: E122 if the document has no sentences.
    """
    if not len(related.pairs):
        return _rows_of(np.zeros(len(doc), dtype=np.int64))
    if not doc.has_annotation("SENT_START"):
        raise error("E122", name=name, text=doc.text[:40])
    return _rows_of(sentence_numbers(doc))


def gold_sentences(eg: Example) -> Sentences:
    """The sentences of a reference in the words of the predicted document; all words are one where it has no boundaries.

    A word that touches several is of the first, one that touches none of the one before.
    """
    numbers = np.full(len(eg.predicted), -1, dtype=np.int64)
    if eg.reference.has_annotation("SENT_START"):
        find = places_in_predicted(eg)
        for number, sentence in reversed(list(enumerate(eg.reference.sents))):
            if (place := find(sentence.start, sentence.end)) is not None:
                numbers[slice(*place)] = number
    return _rows_of(np.maximum.accumulate(numbers))


def _rows_of(numbers: Ints) -> Sentences:
    found, rows = np.unique(numbers, return_inverse=True)
    return Sentences(rows.astype(np.int64), found)


def with_sentences(pairs: ClusterPairs, sentences: Sequence[Sentences]) -> ClusterPairs:
    """Packed pairs together with the sentences of each document."""
    counts = [len(each.numbers) for each in sentences]
    return pairs._replace(sentences=end_to_end((each.of_words for each in sentences), counts))


def gold_evidence(eg: Example, facts: Sequence[Fact], first: int = 0) -> dict[tuple[int, int], NDArray[np.bool_]]:
    """The evidence of a reference: of each pair of entities, which of `gold_sentences` say any relation of the two.

    Pairs whose relations all come without evidence are left out: which sentences say so is not known.

    Args:
        eg: the reference has sentence boundaries if it has evidence.
        facts: from `gold_facts`.
        first: the number of the document's first entity.

    Raises:
        InputError: E348 for evidence that is no list of numbers of its sentences.
    """
    doc = eg.reference
    n = len(list(doc.sents)) if doc.has_annotation("SENT_START") else 0
    found: dict[tuple[int, int], set[int]] = {}
    for (head, tail, _), relation in zip(facts, doc.user_data[CLUSTER_RELATIONS] if facts else (), strict=True):
        given = relation.get("evidence") or ()
        if not isinstance(given, list | tuple) or not all(isinstance(each, int) and 0 <= each < n for each in given):
            expected = f"a list of numbers from 0, below {n}" if n else "a document with sentence boundaries"
            raise error("E348", found=repr(given)[:80], text=doc.text[:40], expected=expected)
        if given and head is not None and tail is not None:
            found.setdefault((first + head, first + tail), set()).update(given)
    numbers = gold_sentences(eg).numbers if found else ()
    return {pair: np.isin(numbers, list(says)) for pair, says in found.items()}


def evidence_targets(pairs: ClusterPairs, gold: Mapping[tuple[int, int], NDArray[np.bool_]]) -> tuple[Tensor, Tensor]:
    """What `ClusterRelations.loss` takes of evidence: rows of pairs, and which sentences of their documents are evidence.

    Args:
        pairs: of a batch.
        gold: of the batch's documents, from `gold_evidence`.
    """
    places = zip(pairs.heads.tolist(), pairs.tails.tolist(), strict=True)
    known = [(row, gold[place]) for row, place in enumerate(places) if place in gold]
    says = np.concatenate([np.zeros(0, dtype=bool), *(each for _, each in known)])
    rows = torch.tensor([row for row, _ in known], dtype=torch.long)
    return rows.to(pairs.heads.device), torch.from_numpy(says).to(pairs.heads.device)


def find_evidence(
    evidence: Callable[[Tensor], Tensor],
    chosen: Sequence[Chosen],
    found: Sequence[Related],
    sentences: Sequence[Sentences],
    device: Any,
) -> list[list[list[int]]]:
    """The sentences that say so of the relations of each document: their numbers, where the probability is above 0.5.

    Args:
        evidence: of the model's output.
        chosen: the relations of each document.
        found: the pairs of each document.
        sentences: of each document.
        device: of the model.
    """
    rows, sizes, first = [np.zeros(0, dtype=np.int64)], [], 0
    for relations, related, own in zip(chosen, found, sentences, strict=True):
        n = len(related.entities.labels)
        keys = related.pairs[:, 0] * n + related.pairs[:, 1]  # sorted
        wanted = np.array([head * n + tail for head, tail, *_ in relations], dtype=np.int64)
        rows.append(first + np.searchsorted(keys, wanted))
        sizes += [len(own.numbers)] * len(relations)
        first += len(keys)
    with torch.no_grad():
        logits = evidence(torch.from_numpy(np.concatenate(rows)).to(device)).float().cpu().numpy()
    parts = iter(np.split(logits, np.cumsum(sizes)))
    return [
        [own.numbers[np.flatnonzero(next(parts) > 0)].tolist() for _ in relations]
        for relations, own in zip(chosen, sentences, strict=True)
    ]
