"""`entitykit_relations` between entities that have several mentions: coreference clusters, across a document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.components.cluster_pairs import (
    CLUSTER_RELATIONS,
    Clusters,
    Related,
    Survey,
    between_clusters,
    clusters_as_json,
    gold_facts,
    pack_clusters,
    pair_clusters,
    read_clusters,
    reference_clusters,
    register_cluster_relations,
)
from entitykit.components.pairs import warn_far
from entitykit.components.relation_evidence import (
    Chosen,
    Sentences,
    evidence_targets,
    find_evidence,
    gold_evidence,
    gold_sentences,
    read_sentences,
    with_sentences,
)
from entitykit.components.relations import Relations
from entitykit.errors import error, warn
from entitykit.types import ClusterPairs


class ClusterRelations(Relations):
    """Writes ``doc._.relations``, see `clusters_as_json`, and ``doc._.cluster_relations``: dicts of JSON values.

    With a model that finds evidence, both have `evidence`: numbers of the document's sentences, from 0.
    """

    gold_key = CLUSTER_RELATIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        register_cluster_relations()

    # Learning

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """The relation types of a gold document, and their inverses."""
        return self.rules.with_inverses(fact.label for fact in gold_facts(reference, read_clusters(reference)) or ())

    def learned_settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The types of entities."""
        found = {label for eg in examples for label in read_clusters(eg.reference).labels}
        self.cfg["entity_types"] = sorted(found - {""})
        return {"entity_types": self.cfg["entity_types"]}

    def _survey(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> Iterator[Survey]:
        """Survey all documents; arguments are numbers of clusters.

        Raises:
            ConfigError: E123 if evidence is to be learned, and there is none.
        """
        n_said = 0
        for eg in examples:
            entities = reference_clusters(eg)
            # not by `_pair_clusters`: the warning is to name the line that calls `initialize`
            related, n_lost = pair_clusters(eg.predicted, entities, self.scope, self.name)
            warn_far(n_lost, len(related.pairs), len(entities.labels), self.name)
            facts = gold_facts(eg.reference, entities) or ()
            n_said += len(gold_evidence(eg, facts)) if settings["evidence"] else 0
            rows = {row: [row] for row in range(len(entities.labels))}
            yield Survey(entities, rows, facts, set(map(tuple, related.pairs.tolist())))
        if examples and settings["evidence"] and not n_said:
            raise error("E123", name=self.name)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> ClusterPairs:
        """Pairs of gold entities in training, and gold sentences for evidence; else of those that the documents have."""
        if examples is None:
            found = self._pair_all(docs)
            return self._pack(docs, found, self._sentences(docs, found))
        found = [self._pair_clusters(eg.predicted, reference_clusters(eg)) for eg in examples]
        return self._pack(docs, found, [gold_sentences(eg) for eg in examples] if self.finds_evidence else None)

    def _pack(self, docs: Sequence[Doc], found: Sequence[Related], sentences: Sequence[Sentences] | None) -> ClusterPairs:
        pairs = pack_clusters(docs, found, self.cfg["entity_types"])
        return pairs if sentences is None else with_sentences(pairs, sentences)

    def _sentences(self, docs: Sequence[Doc], found: Sequence[Related]) -> list[Sentences] | None:
        """Those of documents, if anybody asks for evidence."""
        if not self.finds_evidence:
            return None
        return [read_sentences(doc, related, self.name) for doc, related in zip(docs, found, strict=True)]

    @property
    def finds_evidence(self) -> bool:
        """Whether the model was trained to find the sentences that say so."""
        return self.head.evidence is not None

    def _pair_all(self, docs: Sequence[Doc]) -> list[Related]:
        return [self._pair_clusters(doc, read_clusters(doc)) for doc in docs]

    def _pair_clusters(self, doc: Doc, entities: Clusters) -> Related:
        related, n_lost = pair_clusters(doc, entities, self.scope, self.name)
        warn_far(n_lost, len(related.pairs), len(entities.labels), self.name)
        return related

    def targets(self, examples: Sequence[Example], output: Any) -> tuple[Tensor, ...]:
        """Which relations pairs have, and whether their documents are annotated; and gold evidence, if the model finds any.

        Raises:
            ConfigError: E110 for a label that is not known.
            InputError: E348 for evidence that cannot be read.

        Warns:
            W121 for relations with an argument that touches no predicted word.
        """
        numbers = {label: i for i, label in enumerate(self.labels)}
        relations: dict[tuple[int, int], list[int]] = {}
        known: list[bool] = []
        says: dict[tuple[int, int], Any] = {}
        n_lost = 0
        for eg in examples:
            entities = reference_clusters(eg)
            facts, first = gold_facts(eg.reference, entities), len(known)
            says |= gold_evidence(eg, facts or (), first) if self.finds_evidence else {}
            for head, tail, label in self.rules.schema.with_mirrors(facts or ()):
                if label not in numbers:
                    raise error("E110", name=self.name, label=label, labels=", ".join(self.labels))
                if head is None or tail is None:
                    n_lost += 1
                else:
                    relations.setdefault((first + head, first + tail), []).append(numbers[label])
            known.extend([facts is not None] * len(entities.labels))
        if n_lost:
            warn("W121", n=n_lost, stacklevel=5)
        pairs, device = output.pairs, output.logits.device
        places = zip(pairs.heads.tolist(), pairs.tails.tolist(), strict=True)
        cells = [(row, label) for row, place in enumerate(places) for label in relations.get(place, ())]
        targets = torch.zeros_like(output.logits)
        if cells:
            targets[tuple(torch.tensor(cells, device=device).T)] = 1.0
        further = evidence_targets(pairs, says) if self.finds_evidence else ()
        return targets, torch.tensor(known, dtype=torch.bool, device=device)[pairs.heads], *further

    # Predicting

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find each document's relations, without changing it.

        Raises:
            ConfigError: E122 for a document without sentences, if evidence is to be found.
        """
        docs = list(docs)
        found = self._pair_all(docs)
        sentences = self._sentences(docs, found)
        output = self.model.predict(HeadInput(docs, self._pack(docs, found, sentences)))
        probabilities = output.logits.float().sigmoid().cpu().numpy()
        edges = np.cumsum([0, *(len(each.pairs) for each in found)]).tolist()
        rows = zip(found, edges[:-1], edges[1:], strict=True)
        chosen = [self._choose_facts(each, probabilities[low:high]) for each, low, high in rows]
        evidence: Sequence[list[list[int]] | None] = [None] * len(docs)
        if sentences is not None:
            evidence = find_evidence(output.evidence, chosen, found, sentences, output.logits.device)
        return [clusters_as_json(*each) for each in zip(docs, found, chosen, evidence, strict=True)]

    def _choose_facts(self, related: Related, probabilities: Any) -> Chosen:
        chosen = self._decode(related.entities.given(self.constraints), related.pairs, probabilities)
        return [(m.head, m.tail, self.labels[m.relation], m.score) for m in chosen.relations]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write relations."""
        for doc, relations in zip(docs, scores, strict=True):
            doc._.relations = relations
            doc._.set(CLUSTER_RELATIONS, between_clusters(relations))
