"""`entitykit_cross_document`: vectors of mentions, near for mentions of one entity in any documents, and clusters of them."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.linking import Fingerprint
from entitykit.components.cluster_documents import GROUP, given_id
from entitykit.components.clustering import FINGERPRINT, ODDS, SIZE, VECTORS, ClusteringPipe, cosines_of, probability
from entitykit.components.clusters import cluster_places, warn_shared
from entitykit.components.gold import ENTS, GroupWatch, reference_spans
from entitykit.components.near import Doubles, Floats, Ints
from entitykit.corpora.clusters import IDS
from entitykit.decoding.cross_document import ScorePairs
from entitykit.errors import error, warn
from entitykit.knowledge.cluster_schema import Mentions
from entitykit.knowledge.neighbours import Nearest
from entitykit.models.cross_document import MentionVectors
from entitykit.scoring.coref import clusters_in
from entitykit.types import Spans

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.CrossDocument.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "mentions": ENTS,
    "spans_key": GROUP,
    "neighbours": 10,
    "least": 0.0,
    "threshold": None,
    "mean_threshold": None,
    "sampled": 20,
    "negatives": 10,
    "memory": 4096,
    "scorer": {"@scorers": "entitykit.cross_document_scorer.v1"},
}


@Language.factory(
    "entitykit_cross_document",
    assigns=["doc.spans"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"cross_document_conll_f": 1.0, "cross_document_muc_f": 0.0, "cross_document_b3_f": 0.0},
)
def make_cross_document(
    nlp: Language,
    name: str,
    model: Model[HeadInput, MentionVectors],
    mentions: str,
    spans_key: str,
    neighbours: int,
    least: float,
    threshold: float | None,
    mean_threshold: float | None,
    sampled: int,
    negatives: int,
    memory: int,
    scorer: Callable[..., Any] | None,
) -> "CrossDocument":
    """Make the bi-encoder of coreference across documents.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.CrossDocument.v1`.
        mentions: where mentions are: ``ents`` or a span group.
        spans_key: span group that the mentions are written to, with their vectors and, once documents are clustered, with the
            ids of their clusters.
        neighbours: the nearest mentions of each that are looked at.
        least: pairs with a lower probability are not looked at.
        threshold: a pair with a higher probability joins its clusters; none: as `ClusteringPipe.calibrate` has found, else 0.5.
        mean_threshold: least mean probability between two clusters of several mentions that merge; none: likewise.
        sampled: of a larger cluster so many mentions are compared for that; 0: all.
        negatives: near clusters of earlier batches that a mention learns to be apart from, beside those of its own batch.
        memory: clusters of earlier batches that are remembered for that.
        scorer: scores examples.
    """
    settings = {
        "mentions": mentions,
        "spans_key": spans_key,
        "neighbours": neighbours,
        "least": least,
        "threshold": threshold,
        "mean_threshold": mean_threshold,
        "sampled": sampled,
        "negatives": negatives,
        "memory": memory,
    }
    return CrossDocument(nlp.vocab, model, name, settings=settings, scorer=scorer)


class Described(NamedTuple):
    """The mentions of one document.

    Attributes:
        spans: start, end and label of each.
        scores: of each.
        vectors: *(n_mentions, size)*.
        attrs: what the span group says of the vectors.
    """

    spans: Sequence[tuple[int, int, str]]
    scores: Sequence[float]
    vectors: Floats
    attrs: Mapping[str, Any]


class CrossDocument(ClusteringPipe):
    """Writes ``doc.spans["cross_document"]``: the mentions, with `scores`, `vectors`, `odds` and `fingerprint` in its `attrs`.

    `cluster` and `add_to` give the mentions an `id_`. It learns from batches of documents whose clusters
    (``doc.spans["coref_clusters_1"]`` …) have ids in ``doc.user_data["coref_ids"]``; clusters without ids are their document's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for setting in ("negatives", "memory"):
            if self.settings[setting] < 0:
                found = self.settings[setting]
                raise error("E109", name=self.name, setting=setting, found=found, expected="at least 0")
        self._fingerprint = Fingerprint()
        self._groups = GroupWatch(self.name, "mentions")
        self._memory: dict[str, Floats] = {}

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """Mentions' types are not learned."""
        return ()

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Begin without a memory.

        Warns:
            W631 if no cluster is in several documents, W641 for mentions in several clusters.
        """
        self._memory = {}
        self._fingerprint.forget()
        warn_shared(examples, self.name)
        found = [ids for eg in examples if (ids := set(gold_mentions(eg).values()))]
        n = len(set().union(*found))
        if len(found) > 1 and n == sum(map(len, found)):
            warn("W631", name=self.name, n=n, stacklevel=4)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> Spans:
        """The mentions of documents; in training those of gold clusters."""
        if examples is None:
            own = [[span[:2] for span in mentions_in_order(doc, self.settings["mentions"])] for doc in docs]
        else:
            own = [sorted(gold_mentions(eg)) for eg in examples]
        firsts = np.cumsum([0, *(len(doc) for doc in docs)])
        places = [(first + start, first + end) for first, each in zip(firsts, own, strict=False) for start, end in each]
        table = torch.from_numpy(np.array(places, dtype=np.int64).reshape(-1, 2))
        return Spans(table[:, 0], table[:, 1])

    def targets(self, examples: Sequence[Example], output: MentionVectors) -> tuple[Tensor, Tensor]:
        """Clusters of the batch, and near ones of earlier batches; those of the batch are then remembered."""
        gold = [gold_mentions(eg) for eg in examples]
        ids = [own[place] for own in gold for place in sorted(own)]
        vectors = output.vectors.detach()
        numbers = {id_: i for i, id_ in enumerate(dict.fromkeys(ids))}
        others = self._others(vectors.cpu().numpy(), numbers)
        clusters = torch.tensor([numbers[id_] for id_ in ids], dtype=torch.long, device=vectors.device)
        sums = vectors.new_zeros(len(numbers), vectors.shape[1]).index_add(0, clusters, vectors)
        self._remember(dict(zip(numbers, torch.nn.functional.normalize(sums, dim=1).cpu().numpy(), strict=True)))
        return clusters, torch.from_numpy(others).to(vectors)

    def _others(self, vectors: Floats, own: Mapping[str, int]) -> Floats:
        """Centroids of remembered clusters that are near to mentions and not theirs."""
        there = [vector for id_, vector in self._memory.items() if id_ not in own]
        if not there or not len(vectors) or not self.settings["negatives"]:
            return np.zeros((0, vectors.shape[1]), dtype=np.float32)
        known = np.stack(there)
        nearest = Nearest(vectors, self.settings["negatives"])
        nearest.see(known, np.arange(len(known)))
        rows = nearest.ranked()[1]
        return known[np.unique(rows[rows >= 0])]

    def _remember(self, centroids: Mapping[str, Floats]) -> None:
        for id_, vector in centroids.items():
            self._memory.pop(id_, None)
            self._memory[id_] = vector
        for id_ in list(self._memory)[: max(0, len(self._memory) - self.settings["memory"])]:
            del self._memory[id_]

    # Predicting

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Compute the vectors of each document's mentions, without changing it.

        Warns:
            W642 once, if the first documents have no group of mentions.
        """
        docs = list(docs)
        self._groups.check(docs, [self.settings["mentions"]])
        found = [mentions_in_order(doc, self.settings["mentions"]) for doc in docs]
        output: MentionVectors = self.model.predict(HeadInput(docs, self.candidates(docs, None)))
        vectors = output.vectors.float().cpu().numpy()
        head, edges = self.head, np.cumsum([0, *map(len, found)]).tolist()
        odds = [float(head.sharpness.detach()), float(head.middle.detach())]
        attrs = {SIZE: head.size, ODDS: odds, FINGERPRINT: self._fingerprint(self.model)}
        return [
            Described([span[:3] for span in own], [span[3] for span in own], vectors[low:high], attrs)
            for own, low, high in zip(found, edges[:-1], edges[1:], strict=True)
        ]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write mentions with their vectors."""
        key = self.settings["spans_key"]
        for doc, own in zip(docs, scores, strict=True):
            spans = [Span(doc, start, end, label=label) for start, end, label in own.spans]
            attrs = {"scores": list(own.scores), VECTORS: own.vectors.astype("<f4").tobytes(), **own.attrs}
            doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=attrs)

    def scorer_of(self, mentions: Mentions, vectors: Floats, odds: tuple[float, float]) -> ScorePairs:
        """Score pairs by the cosine of their vectors."""

        def score(pairs: Ints) -> Doubles:
            return probability(cosines_of(vectors, pairs), odds)

        return score


def mentions_in_order(doc: Doc, key: str) -> list[tuple[int, int, str, float]]:
    """Start, end, label and score of a document's mentions, by place; of several in one place the first.

    Args:
        doc: the document.
        key: ``ents`` or a span group; scores that are missing are 1.
    """
    spans = reference_spans(doc, [key]) or []
    given = doc.spans[key].attrs.get("scores") if key in doc.spans else None
    group = zip(doc.spans[key], given, strict=False) if given is not None else ()
    scores: dict[tuple[int, int], float] = {}
    for span, score in group:
        scores.setdefault((span.start, span.end), 1.0 if score is None else float(score))
    found: dict[tuple[int, int], tuple[int, int, str, float]] = {}
    for span in spans:
        place = span.start, span.end
        found.setdefault(place, (*place, span.label_, scores.get(place, 1.0)))
    return [found[place] for place in sorted(found)]


def gold_mentions(eg: Example) -> dict[tuple[int, int], str]:
    """Gold mentions in the words of the predicted document, and the ids of their clusters; one in several is in the first.

    Args:
        eg: if the reference has no ids, its clusters are its own.

    Raises:
        InputError: E638 if there are ids, but not one for each cluster.

    Warns:
        W101 for mentions that touch no word of the predicted document.
    """
    clusters = clusters_in(eg.reference) or []
    ids = eg.reference.user_data.get(IDS)
    if ids is None:
        ids = [f"{given_id(eg.reference) or eg.reference.text}/{i}" for i in range(len(clusters))]
    if len(ids) != len(clusters):
        found = f"{len(ids)} ids in doc.user_data['{IDS}']"
        raise error("E638", found=found, expected=f"{len(clusters)}, one for each cluster", text=eg.reference.text[:40])
    places, n_lost = cluster_places(eg, clusters)
    if n_lost:
        warn("W101", n=n_lost, stacklevel=5)
    return {place: str(ids[row]) for place, row in places.items()}
