"""`entitykit_mention_pairs`: scores near mentions of any documents again: a cross-encoder reads both with their contexts."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Optimizer, set_dropout_rate

from entitykit.bridge.cross_document import MentionPairsModel, MentionTexts, learn
from entitykit.components.base import check_loss
from entitykit.components.cluster_documents import GROUP
from entitykit.components.clustering import Cached, ClusteringPipe, cosines_of, gather, log_odds
from entitykit.components.clusters import warn_shared
from entitykit.components.cross_document import gold_mentions
from entitykit.components.near import Doubles, Floats, Ints, near_pairs
from entitykit.decoding.cross_document import ScorePairs
from entitykit.errors import error
from entitykit.knowledge.cluster_schema import Mentions

DEFAULT_CONFIG = {
    "model": {
        "@architectures": "entitykit.MentionPairs.v1",
        "tok2vec": {"@architectures": "entitykit.EntityEncoder.v1", "name": "minilm"},
    },
    "spans_key": GROUP,
    "neighbours": 10,
    "least": 0.05,
    "threshold": None,
    "mean_threshold": None,
    "sampled": 5,
    "vector_weight": 0.0,
    "pairs": 48,
    "scorer": {"@scorers": "entitykit.cross_document_scorer.v1"},
}


@Language.factory(
    "entitykit_mention_pairs",
    requires=["doc.spans"],
    assigns=["doc.spans"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"cross_document_conll_f": 1.0, "cross_document_muc_f": 0.0, "cross_document_b3_f": 0.0},
)
def make_mention_pairs(
    nlp: Language,
    name: str,
    model: MentionPairsModel,
    spans_key: str,
    neighbours: int,
    least: float,
    threshold: float | None,
    mean_threshold: float | None,
    sampled: int,
    vector_weight: float,
    pairs: int,
    scorer: Callable[..., Any] | None,
) -> "MentionPairs":
    """Make the cross-encoder of coreference across documents.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.MentionPairs.v1`.
        spans_key: span group in which `entitykit_cross_document` has left mentions with vectors.
        neighbours: the nearest mentions of each that are read with it.
        least: pairs with a lower probability by the vectors are not read.
        threshold: a pair with a higher probability joins its clusters; none: as `ClusteringPipe.calibrate` has found, else 0.5.
        mean_threshold: least mean probability between two clusters of several mentions that merge; none: likewise.
        sampled: of a larger cluster so many mentions are compared for that; 0: all. Each pair must be read.
        vector_weight: what the log-odds by the vectors count beside the cross-encoder's.
        pairs: near pairs of a batch that are learned from, drawn by chance; 0: all.
        scorer: scores examples.
    """
    settings = {
        "spans_key": spans_key,
        "neighbours": neighbours,
        "least": least,
        "threshold": threshold,
        "mean_threshold": mean_threshold,
        "sampled": sampled,
        "vector_weight": vector_weight,
        "pairs": pairs,
    }
    return MentionPairs(nlp.vocab, model, name, settings=settings, scorer=scorer)


class MentionPairs(ClusteringPipe):
    """Leaves single documents as they are; `cluster` and `add_to` cluster many by what it reads of pairs."""

    thresholds = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # below, more pairs would have to be read

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for setting in ("vector_weight", "pairs"):
            if self.settings[setting] < 0:
                found = self.settings[setting]
                raise error("E109", name=self.name, setting=setting, found=found, expected="at least 0")
        self._texts = MentionTexts(self.pairs_model, self.name)

    @property
    def pairs_model(self) -> MentionPairsModel:
        """The thinc model."""
        return cast(MentionPairsModel, self.model)

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """There are none."""
        return ()

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Look at the gold clusters.

        Warns:
            W641 for mentions in several clusters.
        """
        warn_shared(examples, self.name)

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Load the encoder if it is the component's own, and build the head.

        Raises:
            ConfigError: E105 or E595 without an encoder, E630 for texts that are too long for it.
            CheckpointError: E001 to E006 if the encoder cannot be loaded.
        """
        self._texts.forget()
        super().initialize(get_examples, nlp=nlp, labels=[])
        _ = self._texts.reader  # what is wrong with the encoder is said here

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn which near mentions of a batch are of one entity, by the gold clusters; see `CrossDocument`.

        Mentions are those of the predicted documents, with their vectors; those that no gold cluster has are left out.

        Raises:
            InputError: E631 for a document without vectors: the component that writes them must annotate in training.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "MentionPairs.update")
        docs = [eg.predicted for eg in examples]
        found = gather(docs, self.settings["spans_key"])
        gold = [gold_mentions(eg) for eg in examples]
        ids = [gold[place.doc].get((place.start, place.end)) for place in found.places]
        found = found.take([row for row, id_ in enumerate(ids) if id_ is not None])
        ids = [id_ for id_ in ids if id_ is not None]
        chosen = self._some(near_pairs(found.vectors, self.settings["neighbours"])[0])
        if not len(chosen):
            return losses
        set_dropout_rate(self.model, drop)
        same = [ids[a] == ids[b] for a, b in chosen.tolist()]
        loss = learn(self.pairs_model, docs, self._texts.input(found.mentions, chosen), same)
        check_loss(self.name, loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def _some(self, pairs: Ints) -> Ints:
        """Some of the pairs, and their mentions in any order, so that it does not matter which comes first."""
        limit = self.settings["pairs"] or len(pairs)
        drawn = pairs[torch.randperm(len(pairs))[:limit].numpy()]
        turned = torch.rand(len(drawn)).numpy() < 0.5
        return np.where(turned[:, None], drawn[:, ::-1], drawn)

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Nothing: pairs are of several documents."""
        return [None for _ in docs]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write nothing."""

    def scorer_of(self, mentions: Mentions, vectors: Floats, odds: tuple[float, float]) -> ScorePairs:
        """Score pairs by reading them, in an order that does not depend on that of the documents."""

        def score(pairs: Ints) -> Doubles:
            turned = np.array([mentions[a][:3] > mentions[b][:3] for a, b in pairs.tolist()], dtype=bool)
            ordered = np.where(turned[:, None], pairs[:, ::-1], pairs)
            read = self.pairs_model.predict(self._texts.input(mentions, ordered)).cpu().numpy().astype(np.float64)
            logits = read + self.settings["vector_weight"] * log_odds(cosines_of(vectors, pairs), odds)
            return 1.0 / (1.0 + np.exp(-logits))

        return Cached(score)

    # Saving

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "MentionPairs":
        """Read what `to_disk` wrote."""
        super().from_disk(path, exclude=exclude)
        self._texts.forget()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "MentionPairs":
        """Read what `to_bytes` gave."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        self._texts.forget()
        return self
