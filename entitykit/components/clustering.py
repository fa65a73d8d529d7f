"""`ClusteringPipe`: what components share that build clusters of mentions across documents, at once or in a store.

Mentions lie in a span group with their vectors, which `entitykit_cross_document` has written. A cluster's id is the `id_` of
its mentions there.
"""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.bridge.link_texts import Place, mentions_in
from entitykit.components.base import TorchPipe
from entitykit.components.closed import Likely, agglomerate_all
from entitykit.components.cluster_documents import characters, check_known, clusters_of, given_id, named, write_ids
from entitykit.components.cluster_links import link_clusters, links_from
from entitykit.components.cluster_thresholds import DEFAULT, best_thresholds
from entitykit.components.gold import ENTS
from entitykit.components.joining import join_store
from entitykit.components.near import Doubles, Floats, Ints, near_pairs
from entitykit.decoding.cross_document import MergeSettings, ScorePairs
from entitykit.errors import error
from entitykit.knowledge.candidates import Mention
from entitykit.knowledge.cluster_file import FILE
from entitykit.knowledge.cluster_schema import ClusterReport, Mentions, NewDocument, cluster_id, given_twice
from entitykit.knowledge.cluster_store import ClusterStore

VECTORS, SIZE, ODDS, FINGERPRINT = "vectors", "size", "odds", "fingerprint"
"""What the span group has in its `attrs` besides scores: little-endian float32 of all mentions, one after the other; numbers of
a vector; sharpness and middle of the log-odds of a cosine; and a digest of the weights that made them."""

CONTEXT = 64
"""Words on each side of a mention that are kept for those who read pairs."""

SCORE = "cross_document_conll_f"

THRESHOLDS = "threshold", "mean_threshold"
"""Settings that `calibrate` looks for."""

_TABLE = 16  # pairs of all mentions with each other are computed where they are at most so many times the pairs wanted


class Gathered(NamedTuple):
    """The mentions of documents, document by document.

    Attributes:
        docs: the documents.
        places: *(n_mentions,)* of mentions.
        labels: their types; empty where they have none.
        mentions: in their contexts.
        vectors: *(n_mentions, size)*, of length 1.
        odds: sharpness and middle of the log-odds of a cosine.
        fingerprint: of the weights that made the vectors; empty without any document.
    """

    docs: Sequence[Doc]
    places: Sequence[Place]
    labels: Sequence[str]
    mentions: Sequence[Mention]
    vectors: Floats
    odds: tuple[float, float]
    fingerprint: str

    def take(self, rows: Sequence[int]) -> "Gathered":
        """Some of the mentions, in another order."""
        return self._replace(
            places=[self.places[row] for row in rows],
            labels=[self.labels[row] for row in rows],
            mentions=[self.mentions[row] for row in rows],
            vectors=self.vectors[np.array(rows, dtype=np.int64)],
        )


class ClusteringPipe(TorchPipe):
    """Clusters mentions; ``settings["spans_key"]`` names the span group.

    A task adds the hook `scorer_of`.

    Attributes:
        thresholds: that `calibrate` tries.
    """

    thresholds: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg |= dict.fromkeys(THRESHOLDS)
        for setting, least in (("neighbours", 1), ("sampled", 0)):
            if self.settings[setting] < least:
                found = self.settings[setting]
                raise error("E109", name=self.name, setting=setting, found=found, expected=f"at least {least}")
        for setting in (*THRESHOLDS, "least"):
            found = self.settings[setting]
            if found is not None and not 0 <= found <= 1:
                raise error("E109", name=self.name, setting=setting, found=found, expected="0 to 1")

    def scorer_of(self, mentions: Mentions, vectors: Floats, odds: tuple[float, float]) -> ScorePairs:
        """A function of pairs *(n, 2)* of these mentions: probabilities *(n,)* that they are of one entity."""
        raise NotImplementedError

    @property
    def merging(self) -> MergeSettings:
        """When clusters merge: as the settings say, else as `calibrate` has found, else at 0.5."""
        given = (self.settings[name] for name in THRESHOLDS)
        found = (self.cfg[name] for name in THRESHOLDS)
        one, mean = (next((x for x in each if x is not None), DEFAULT) for each in zip(given, found, strict=True))
        return MergeSettings(threshold=one, mean_threshold=mean, n_sampled=self.settings["sampled"])

    # Documents at once

    def cluster(self, docs: Iterable[Doc]) -> None:
        """Cluster the mentions of documents, whatever clusters they are in, and write the clusters' ids.

        The order of the documents does not matter but where two of them are alike. Reads and writes the span group; ids are
        ``C1``, ``C2``, … in the order of the documents' ids or texts.

        Raises:
            InputError: E631 for a document without vectors, E636 for vectors of several models.
        """
        found = gather(list(docs), self.settings["spans_key"])
        order = _in_order(found)
        ordered = found.take(order)
        score = self.scorer_of(ordered.mentions, ordered.vectors, found.odds)
        self._write(found, order, self._cluster(ordered, self._pairs(ordered), score, self.merging))

    def _pairs(self, found: Gathered) -> Ints:
        """Near pairs of mentions that may be of one entity."""
        pairs, cosines = near_pairs(found.vectors, self.settings["neighbours"])
        return pairs[self._likely(found.odds)(cosines)]

    def _likely(self, odds: tuple[float, float]) -> Likely:
        """Which pairs are scored, by their cosines."""
        return lambda cosines: probability(cosines, odds) >= self.settings["least"]

    def _cluster(self, found: Gathered, pairs: Ints, score: ScorePairs, merging: MergeSettings) -> Ints:
        """Clusters of mentions *(n_mentions,)*."""
        k, likely = self.settings["neighbours"], self._likely(found.odds)
        return agglomerate_all(pairs, score, found.vectors, k=k, likely=likely, settings=merging)

    def calibrate(self, examples: Iterable[Example]) -> MergeSettings:
        """Choose the thresholds that cluster examples best, by CoNLL F1: one of the two at a time, until neither gets better.

        One that the config has is left as it is. Of several that are equally good those nearest to 0.5 are taken.

        Args:
            examples: not those of the training; their predicted documents have been read by the pipeline up to here. They are
                left with the ids of the clusters that the chosen thresholds make.

        Returns:
            The settings, which are saved with the pipeline, and count where its config has none.

        Raises:
            InputError: E631 for a document without vectors.
            ConfigError: E637 for examples by which nothing can be chosen.
        """
        examples = list(examples)
        found = gather([eg.predicted for eg in examples], self.settings["spans_key"])
        order = _in_order(found)
        ordered = found.take(order)
        score = Cached(self.scorer_of(ordered.mentions, ordered.vectors, found.odds))
        pairs = self._pairs(ordered)
        if not len(pairs):
            raise error("E637", name=self.name, reason="no two mentions of the examples are compared")

        def measure(threshold: float, mean: float) -> float:
            merging = MergeSettings(threshold=threshold, mean_threshold=mean, n_sampled=self.settings["sampled"])
            self._write(found, order, self._cluster(ordered, pairs, score, merging))
            value = TorchPipe.score(self, examples).get(SCORE)
            if value is None:
                raise error("E637", name=self.name, reason="its scorer finds nothing to score")
            return float(value)

        given = self.settings["threshold"], self.settings["mean_threshold"]
        chosen = best_thresholds(measure, self.thresholds, given)
        self.cfg |= {name: value for name, value in zip(THRESHOLDS, chosen, strict=True) if self.settings[name] is None}
        measure(*chosen)
        return self.merging

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Cluster the predicted documents, and score that."""
        examples = list(examples)
        if self.scorer is None:
            return {}
        self.cluster(eg.predicted for eg in examples)
        return super().score(examples, **kwargs)

    def scorer_arguments(self) -> dict[str, Any]:
        """Where the clusters are."""
        return {"spans_key": self.settings["spans_key"]}

    # A store

    def add_to(self, store: ClusterStore, docs: Iterable[Doc]) -> ClusterReport:
        """Add documents to a store, all or none: their mentions join its clusters or begin new ones. Writes the clusters' ids.

        A document is known by ``doc.user_data["id"]``, else by its text. One that is there already, and has not changed, keeps
        its clusters; one whose text or mentions have changed is taken out first.

        Raises:
            InputError: E631 for a document without vectors, E636 for vectors of another model than the store's, E639 for two
                documents with one id.
            OutputError: E635 if the store cannot be written.
        """
        found = gather(list(docs), self.settings["spans_key"])
        if found.fingerprint and found.fingerprint != store.fingerprint:
            raise error("E636", found=found.fingerprint, expected=store.fingerprint)
        documents = _documents(found, self.settings["spans_key"])
        with store.changing():
            known = store.digests([each.id for each in documents])
            fresh = [each for each in documents if known.get(each.id) != each.digest]
            report = ClusterReport(documents=len(documents), unchanged=len(documents) - len(fresh))
            report.replaced = store.remove([each.id for each in fresh if each.id in known])
            join_store(
                store,
                sorted(fresh, key=lambda each: (each.id, each.digest)),
                report,
                scorer=lambda mentions, vectors: self.scorer_of(mentions, vectors, found.odds),
                likely=self._likely(found.odds),
                k=self.settings["neighbours"],
                merging=self.merging,
            )
            ids = self._ids_in(store, found.docs)
        self._take(found.docs, ids)
        return report

    def ids_from(self, store: ClusterStore, docs: Iterable[Doc]) -> None:
        """Write the ids of the clusters that a store has by now for documents that were added to it.

        Raises:
            InputError: E631 for a document without vectors, E639 for two documents with one id, or one that the store does not
                have as it is.
        """
        docs, key = list(docs), self.settings["spans_key"]
        gather(docs, key)
        with store.reading():
            check_known(store, [named(doc, key) for doc in docs])
            ids = self._ids_in(store, docs)
        self._take(docs, ids)

    def link(self, store: ClusterStore, docs: Iterable[Doc], *, mentions: str = ENTS, threshold: float = 0.0) -> dict[str, str]:
        """Decide for the clusters of documents that were added to a store which entities they are; see `link_clusters`."""
        return link_clusters(docs, mentions=mentions, spans_key=self.settings["spans_key"], threshold=threshold, store=store)

    def links_from(self, store: ClusterStore, docs: Iterable[Doc], *, mentions: str = ENTS) -> None:
        """Write what was decided by now; see `links_from` in `entitykit.components.cluster_links`."""
        links_from(store, docs, mentions=mentions, spans_key=self.settings["spans_key"])

    def open_store(self, folder: str | Path, docs: Sequence[Doc]) -> ClusterStore:
        """Open the store of a folder or, where there is none, make one for vectors such as documents have.

        Raises:
            InputError: E631 for a document without vectors.
            CheckpointError: E633 or E634 for a store that cannot be opened; E633, too, for a new one without a document.
            OutputError: E635 for one that cannot be made.
        """
        if (Path(folder) / FILE).exists():
            return ClusterStore.open(folder)
        if not docs:
            raise error("E633", path=folder, reason="there is none, and no document says of which vectors a new one is")
        found = gather(docs, self.settings["spans_key"])
        return ClusterStore.create(folder, width=found.vectors.shape[1], fingerprint=found.fingerprint, or_open=True)

    def _ids_in(self, store: ClusterStore, docs: Sequence[Doc]) -> list[list[str]]:
        return [clusters_of(store, doc, self.settings["spans_key"]) for doc in docs]

    def _take(self, docs: Sequence[Doc], ids: Sequence[Sequence[str]]) -> None:
        for doc, own in zip(docs, ids, strict=True):
            write_ids(doc, self.settings["spans_key"], own)

    def _write(self, found: Gathered, order: Sequence[int], clusters: Ints) -> None:
        """Write clusters' ids to the mentions, whose clusters are given in another order."""
        numbers = dict(zip(order, clusters.tolist(), strict=True))
        of_doc: list[list[str]] = [[] for _ in found.docs]
        for row, place in enumerate(found.places):
            of_doc[place.doc].append(cluster_id(numbers[row] + 1))
        self._take(found.docs, of_doc)


class Cached:
    """Scores of pairs, each computed once; for those that are dear."""

    def __init__(self, score: ScorePairs) -> None:
        self._score, self._known = score, dict[tuple[int, int], float]()

    def __call__(self, pairs: Ints) -> Doubles:
        """Scores *(n_pairs,)*; those of pairs that were asked for before are the same."""
        keys = [(a, b) for a, b in pairs.tolist()]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        if new:
            self._known.update(zip(new, self._score(np.array(new, dtype=np.int64)).tolist(), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float64)


def gather(docs: Sequence[Doc], key: str) -> Gathered:
    """Collect what `entitykit_cross_document` has left on documents.

    Raises:
        InputError: E631 for a document without vectors, E636 for vectors of several models.
    """
    places: list[Place] = []
    labels: list[str] = []
    parts, odds, fingerprint, size = [], (1.0, 0.0), "", 0
    for number, doc in enumerate(docs):
        group = doc.spans.get(key)
        if group is None or VECTORS not in group.attrs:
            raise error("E631", key=key, text=doc.text[:40])
        places += [Place(number, span.start, span.end) for span in group]
        labels += [span.label_ for span in group]
        if fingerprint and (group.attrs[FINGERPRINT], group.attrs[SIZE]) != (fingerprint, size):
            raise error("E636", found=group.attrs[FINGERPRINT], expected=fingerprint)
        fingerprint, size = group.attrs[FINGERPRINT], group.attrs[SIZE]
        own = np.frombuffer(group.attrs[VECTORS], dtype="<f4").reshape(len(group), size)
        odds = (float(group.attrs[ODDS][0]), float(group.attrs[ODDS][1]))
        parts.append(own)
    vectors = np.concatenate([np.zeros((0, size), dtype=np.float32), *parts]).astype(np.float32)
    return Gathered(docs, places, labels, mentions_in(docs, places, CONTEXT), vectors, odds, fingerprint)


def probability(cosines: Floats | Doubles, odds: tuple[float, float]) -> Doubles:
    """Probabilities that mentions with these cosines are of one entity, by the vectors alone."""
    return 1.0 / (1.0 + np.exp(-log_odds(cosines, odds)))


def log_odds(cosines: Floats | Doubles, odds: tuple[float, float]) -> Doubles:
    """Log-odds of the same."""
    sharpness, middle = odds
    return sharpness * (np.asarray(cosines, dtype=np.float64) - middle)


def cosines_of(vectors: Floats, pairs: Ints) -> Doubles:
    """Cosines *(n_pairs,)* of pairs of vectors of length 1."""
    rows, places = np.unique(pairs, return_inverse=True)
    if len(rows) ** 2 <= _TABLE * len(pairs):  # as between two clusters, of which each mention is in many pairs
        table = vectors[rows] @ vectors[rows].T
        one, other = places.reshape(-1, 2).T
        return table[one, other].astype(np.float64)
    return np.einsum("ij,ij->i", vectors[pairs[:, 0]], vectors[pairs[:, 1]]).astype(np.float64)


def _in_order(found: Gathered) -> list[int]:
    """Numbers of the mentions in an order that is the same whatever the order of the documents."""
    names = [(given_id(doc), doc.text) for doc in found.docs]
    ranks = {number: rank for rank, number in enumerate(sorted(range(len(names)), key=names.__getitem__))}
    return sorted(range(len(found.places)), key=lambda row: (ranks[found.places[row].doc], *found.places[row][1:]))


def _documents(found: Gathered, key: str) -> list[NewDocument]:
    """The documents as a store takes them; those without mentions, too.

    Raises:
        InputError: E639 for two with one id.
    """
    rows: list[list[int]] = [[] for _ in found.docs]
    for row, place in enumerate(found.places):
        rows[place.doc].append(row)
    documents: dict[str, NewDocument] = {}
    for doc, own in zip(found.docs, rows, strict=True):
        id_, digest = named(doc, key)
        if id_ in documents:
            raise given_twice(id_)
        places, some = characters(doc.spans[key]), found.take(own)
        documents[id_] = NewDocument(id_, digest, places, some.labels, some.mentions, some.vectors)
    return list(documents.values())
