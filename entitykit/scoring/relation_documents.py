"""Scores of relations between entity clusters of documents, as DocRED defines them: F1, Ign-F1 and F1 of evidence.

Definitions: Yao et al., "DocRED" (ACL 2019), and its scorer (github.com/thunlp/DocRED): Ign-F1 takes right predictions of facts
that the training data have out of precision, and leaves recall as it is; evidence counts sentences of all predictions, of which
those of right ones can be right. A sentence is known by its place where both documents have sentence boundaries, else by its
number. Left out is the scorer's 1e-5 in the denominator of that precision.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Set
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.decoding.relation_values import relation_list
from entitykit.errors import error, warn
from entitykit.scoring.spans import PRF, Scores, char_positions, locate, macro_average, prf

CLUSTER_RELATIONS = "cluster_relations"
"""Gold relations between clusters are `doc.user_data["cluster_relations"]`, predicted ones `doc._.cluster_relations`."""

CLUSTER = re.compile(r"coref_clusters_(\d+)")

Fact = tuple[str, str, str]
"""The head's and the tail's names as they are written in a text, and the relation."""

Cluster = tuple[frozenset[tuple[int, int]], int]
"""The places of a cluster's mentions, and how many clusters before it have the same."""


class ClusterRelations(NamedTuple):
    """The relations of one document between clusters.

    Attributes:
        evidence: of each relation (head, tail, label), the sentences that say so: their numbers, or their places.
        names: texts of the mentions of each cluster.
    """

    evidence: dict[tuple[Cluster, Cluster, str], frozenset[Hashable]]
    names: dict[Cluster, frozenset[str]]


def known_facts(docs: Iterable[Doc]) -> set[Fact]:
    """All facts that annotated documents say, by each name of the head with each of the tail.

    Args:
        docs: with clusters in `doc.spans["coref_clusters_1"]`, … and relations in `doc.user_data["cluster_relations"]`.

    Raises:
        InputError: E346 or E349 for relations that cannot be read.
    """
    facts = set()
    for doc in docs:
        relations = _read(doc, doc.user_data.get(CLUSTER_RELATIONS) or (), np.arange(len(doc.text)), {})
        for head, tail, label in relations.evidence:
            facts |= {(a, b, label) for a in relations.names[head] for b in relations.names[tail]}
    return facts


class KnownFacts:
    """The facts of training documents, which are read once, when they are asked for.

    Args:
        path: a DocBin with user data, or a folder of such files.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._facts: set[Fact] | None = None

    def get(self) -> set[Fact] | None:
        """The facts; None where there are no such documents, as on a machine that only evaluates.

        Raises:
            InputError: E604 for a file that cannot be read, E346 for relations in it that cannot be.

        Warns:
            W341 if there are no such documents.
        """
        if self._facts is None:
            path = Path(self.path)
            files = sorted(path.rglob("*.spacy")) if path.is_dir() else [path]
            if not all(file.exists() for file in files) or not files:
                warn("W341", path=path, stacklevel=5)
                return None
            try:
                docs = [doc for file in files for doc in DocBin().from_disk(file).get_docs(Vocab())]
            except Exception as reason:  # what a damaged file raises depends on where it is damaged
                raise error("E604", path=self.path, reason=reason) from reason
            self._facts = known_facts(docs)
        return self._facts


def document_scores(
    examples: Iterable[Example], known: Set[Fact] | None = None, mirrors: Mapping[str, str] = MappingProxyType({})
) -> Scores:
    """Score relations between clusters.

    Reads `doc.user_data["cluster_relations"]` of references and `doc._.cluster_relations` of predicted Docs: lists of dicts
    with `head` and `tail` (numbers of clusters), `label`, and optionally `evidence` (numbers of sentences). References without
    are skipped. A predicted cluster is right if it has the mentions of a gold cluster; with given clusters that is always so.

    Args:
        examples: predicted and reference Docs.
        known: from `known_facts` of the training data; None leaves `rel_doc_ign_…` None.
        mirrors: what holds in the other direction, as in `entitykit.scoring.relations.relations_score`.

    Returns:
        `rel_doc_p`, `_r`, `_f`, `_macro_f`, `_per_type`; `rel_doc_ign_p`, `_f`; `rel_doc_evidence_p`, `_r`, `_f`. None where
        there is nothing to score.

    Raises:
        InputError: E305 for an example whose texts differ, E346 or E349 for relations that cannot be read.
    """
    gold_labels: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    correct: Counter[str] = Counter()
    n_known = 0
    evidence = np.zeros(3, dtype=np.int64)  # right, predicted, gold
    for eg in examples:
        if eg.reference.user_data.get(CLUSTER_RELATIONS) is None:
            continue
        in_predicted, in_reference = char_positions(eg)
        split = all(doc.has_annotation("SENT_START") for doc in (eg.predicted, eg.reference))
        gold = _read(eg.reference, eg.reference.user_data[CLUSTER_RELATIONS], in_reference, mirrors, split=split)
        values = (eg.predicted._.get(CLUSTER_RELATIONS) or ()) if Doc.has_extension(CLUSTER_RELATIONS) else ()
        predicted = _read(eg.predicted, values, in_predicted, mirrors, split=split)
        right = gold.evidence.keys() & predicted.evidence.keys()
        for count, keys in ((gold_labels, gold.evidence), (labels, predicted.evidence), (correct, right)):
            count.update(label for *_, label in keys)
        n_known += sum(_is_known(gold, *triple, known or frozenset(), mirrors) for triple in right)
        evidence += [
            sum(len(gold.evidence[triple] & predicted.evidence[triple]) for triple in right),
            sum(map(len, predicted.evidence.values())),
            sum(map(len, gold.evidence.values())),
        ]
    return _scores(gold_labels, labels, correct, None if known is None else n_known, evidence)


def _scores(
    gold: Counter[str], predicted: Counter[str], correct: Counter[str], n_known: int | None, evidence: NDArray[np.int64]
) -> Scores:
    n_gold, n_predicted, n_correct = gold.total(), predicted.total(), correct.total()
    any_at_all = bool(n_gold + n_predicted)
    per_type = {
        label: prf(n_correct=correct[label], n_predicted=predicted[label], n_gold=gold[label])
        for label in sorted(gold.keys() | predicted.keys())
    }
    macro = macro_average(per_type)
    micro = prf(n_correct=n_correct, n_predicted=n_predicted, n_gold=n_gold) if any_at_all else None
    right, found, wanted = evidence.tolist()
    ign_p = ign_f = None
    if micro is not None and n_known is not None:
        ign_p = prf(n_correct=n_correct - n_known, n_predicted=n_predicted - n_known, n_gold=n_gold).precision
        ign_f = 2 * ign_p * micro.recall / (ign_p + micro.recall) if ign_p else 0.0
    return {
        **_named("rel_doc", micro),
        "rel_doc_macro_f": macro.f1 if macro else None,
        "rel_doc_per_type": {label: {"p": each[0], "r": each[1], "f": each[2]} for label, each in per_type.items()} or None,
        "rel_doc_ign_p": ign_p,
        "rel_doc_ign_f": ign_f,
        **_named("rel_doc_evidence", prf(n_correct=right, n_predicted=found, n_gold=wanted) if found + wanted else None),
    }


def _named(prefix: str, scores: PRF | None) -> Scores:
    precision, recall, f1 = scores[:3] if scores else (None, None, None)
    return {f"{prefix}_p": precision, f"{prefix}_r": recall, f"{prefix}_f": f1}


def _is_known(
    gold: ClusterRelations, head: Cluster, tail: Cluster, label: str, known: Set[Fact], mirrors: Mapping[str, str]
) -> bool:
    mirror = mirrors.get(label)  # the training data may say it in either direction
    return any((a, b, label) in known or (b, a, mirror) in known for a in gold.names[head] for b in gold.names[tail])


def _read(
    doc: Doc, values: object, positions: NDArray[np.int64], mirrors: Mapping[str, str], *, split: bool = False
) -> ClusterRelations:
    """Read relations between clusters; the same relation given twice counts once, with the evidence of both.

    Args:
        doc: with the clusters.
        values: the relations.
        positions: from `char_positions`.
        mirrors: as in `document_scores`.
        split: evidence is known by the places of the document's sentences, not by their numbers.
    """
    clusters: dict[int, Cluster] = {}
    names: dict[Cluster, frozenset[str]] = {}
    numbers = sorted(int(found[1]) for found in map(CLUSTER.fullmatch, doc.spans) if found is not None)
    same: Counter[frozenset[tuple[int, int]]] = Counter()
    for number in numbers:
        group = doc.spans[f"coref_clusters_{number}"]
        places = frozenset(locate(span, positions) for span in group)
        cluster = clusters[number] = places, same[places]
        same[places] += 1
        names[cluster] = frozenset(span.text for span in group)
    # without the white space around them, which belongs to either sentence
    sentences = {i: tuple(end // 2 for end in locate(sent, positions)) for i, sent in enumerate(doc.sents)} if split else {}
    evidence: dict[tuple[Cluster, Cluster, str], frozenset[Hashable]] = {}
    for value in relation_list(values):
        match value:
            case {"head": int(head), "tail": int(tail), "label": str(label)} if label and {head, tail} <= clusters.keys():
                ends, mirror = (clusters[head], clusters[tail]), mirrors.get(label)
                first, second = sorted(ends, key=_place_of) if mirror == label else ends
                forms = [(first, second, label)]
                if mirror not in (None, label):
                    forms.append((second, first, mirror))
                for triple in forms:
                    evidence[triple] = evidence.get(triple, frozenset()) | {
                        sentences.get(i, i) for i in value.get("evidence") or ()
                    }
            case _:
                raise error("E346", found=repr(value)[:80], n=len(clusters))
    return ClusterRelations(evidence, names)


def _place_of(cluster: Cluster) -> tuple[list[tuple[int, int]], int]:
    """Something to sort clusters by."""
    places, number = cluster
    return sorted(places), number
