"""`entitykit_linker`: links mentions to a knowledge base by candidates from several sources and a bi-encoder."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer, set_dropout_rate

from entitykit.bridge.link_texts import LinkTexts, Place
from entitykit.bridge.linking import Floats, LinkInput
from entitykit.bridge.texts import Ids
from entitykit.components.deciding import DecidingPipe
from entitykit.components.indexed import IndexedPipe
from entitykit.components.links import Explanation, GoldLink, Scored, explain_link, soft_targets, write_links
from entitykit.errors import error, warn
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.candidates import SOURCES, Candidate, all_sources, find_candidates, hard_negatives
from entitykit.models.bi_encoder import LinkOutput
from entitykit.models.cross_encoder import distillation_loss

_LEAST_PRIOR = 1e-4

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.BiEncoder.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "kb": None,
    "mentions": "ents",
    "candidates": {"alias": 32, "fuzzy": 0, "words": 0, "dense": 64},
    "threshold": 0.0,
    "prior_weight": 0.0,
    "keep": 64,
    "negatives": 2,
    "mine_every": 0,
    "index": "auto",
    "distill": 0.0,
    "distill_temperature": 2.0,
    "augment": None,
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_linker",
    assigns=["doc.ents", "doc.spans", "span._.kb_ents"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"linking_micro_f": 1.0, "linking_micro_p": 0.0, "linking_micro_r": 0.0},
)
def make_linker(
    nlp: Language,
    name: str,
    model: Model[LinkInput, LinkOutput],
    kb: Any,
    mentions: str,
    candidates: dict[str, int],
    threshold: float,
    prior_weight: float,
    keep: int,
    negatives: int,
    mine_every: int,
    index: str,
    distill: float,
    distill_temperature: float,
    augment: Any,
    scorer: Callable[..., Any] | None,
) -> "Linker":
    """Make the linker.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.BiEncoder.v1`.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
        mentions: where mentions are: ``ents`` or a span group.
        candidates: how many candidates each source may give for a mention: ``alias``, ``fuzzy``, ``words`` and ``dense``, which
            needs `Linker.build_index`.
        threshold: least probability of a link; below it a mention is NIL.
        prior_weight: what the logarithm of p(entity | mention) counts beside the bi-encoder's score.
        keep: candidates that are written to ``span._.kb_ents``, the most probable ones.
        negatives: wrong entities that are learned with each mention beside those of the other mentions: its namesakes and,
            once there is an index, what it ranks highest.
        mine_every: build the index anew after so many updates, for negatives as the model now sees them; 0: never.
        index: kind of the index, see `entitykit.knowledge.index.VectorIndex`.
        distill: weight, 0 to 1, of what gold mentions learn from a teacher's probabilities of their candidates, such as
            ``entitykit.DistilledLinks.v1`` leaves in ``span._.kb_ents`` of references; the rest is that of the gold entities.
        distill_temperature: at which both are compared.
        augment: ``entitykit.Augmenter.v1``, which adds descriptions to the contexts in which mentions are read; none: they are
            read as they stand.
        scorer: scores examples.
    """
    settings = {
        "mentions": mentions,
        "candidates": dict(candidates),
        "threshold": threshold,
        "prior_weight": prior_weight,
        "keep": keep,
        "negatives": negatives,
        "mine_every": mine_every,
        "index": index,
        "distill": distill,
        "distill_temperature": distill_temperature,
    }
    return Linker(nlp.vocab, model, name, settings=settings, kb=kb, augment=augment, scorer=scorer)


class Linker(IndexedPipe, DecidingPipe):
    """Writes ``kb_id_`` of mentions, empty for NIL, and ``span._.kb_ents``: pairs of id and probability, the best first.

    Args:
        *args: see `TorchPipe`.
        augment: see `make_linker`.
        **kwargs: see `KBPipe`.
    """

    def __init__(self, *args: Any, augment: Augmenter | None = None, **kwargs: Any) -> None:
        self.augment = augment
        super().__init__(*args, **kwargs)
        self._texts: LinkTexts = LinkTexts(self.model, self.name, augment)
        self._n_updates = 0
        self._untaught = False  # whether there was a warning of a teacher that is missing

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        limits = self.settings["candidates"]
        for source, limit in limits.items():
            if source not in SOURCES or limit < 0:
                expected = "numbers of at least 0 for " + ", ".join(SOURCES)
                raise error("E109", name=self.name, setting="candidates", found=f"{source} = {limit}", expected=expected)
        self.check_least(threshold=0, prior_weight=0, keep=1, negatives=0, mine_every=0, distill=0)
        if self.settings["distill"] > 1:
            raise error("E109", name=self.name, setting="distill", found=self.settings["distill"], expected="0 to 1")
        if not self.settings["distill_temperature"] > 0:
            found = self.settings["distill_temperature"]
            raise error("E109", name=self.name, setting="distill_temperature", found=found, expected="above 0")
        if self.augment is not None and self.model.attrs["settings"]["mention"] != "context":
            expected = 'none, or mention = "context" in its model'
            raise error("E109", name=self.name, setting="augment", found="set", expected=expected)

    # What spaCy calls

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from the gold links of a batch; the encoder gets the gradients of what it reads for it, too."""
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "Linker.update")
        links, gold = self.known_links(examples)
        if not links:
            return losses
        taught = self._taught(links) if self.settings["distill"] else [{} for _ in links]
        if self.settings["mine_every"] and self._n_updates and self._n_updates % self.settings["mine_every"] == 0:
            self.build_index()
        self._n_updates += 1
        set_dropout_rate(self.model, drop)
        columns: list[int] = []

        def choose(vectors: Floats) -> list[Ids]:
            texts = [mention.text for mention in mentions]
            wrong = hard_negatives(self.store, self.index, texts, vectors, gold, self.settings["negatives"])
            columns.extend(dict.fromkeys([*gold, *wrong, *(row for own in taught for row in own)]))
            return self._texts.compose(self.store.entities(columns)).ids

        batch, mentions = self._texts.input([eg.predicted for eg in examples], [link.place for link in links], choose)
        output, backprop = self.model.begin_update(cast(Any, batch))
        numbers = {row: i for i, row in enumerate(columns)}
        targets, entities = (torch.tensor(x, device=output.logits.device) for x in ([numbers[row] for row in gold], columns))
        loss = self.head.loss(output, targets, entities)
        if any(taught):
            chosen, teacher = (table.to(loss.device) for table in soft_targets(taught, numbers))
            weight, temperature = self.settings["distill"], self.settings["distill_temperature"]
            loss = (1 - weight) * loss + weight * distillation_loss(output.logits, chosen, teacher, temperature)
        backprop(loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += float(loss.detach())
        return losses

    def _taught(self, links: Sequence[GoldLink]) -> list[dict[int, float]]:
        """Rows of entities, with a teacher's probabilities, for each mention."""
        ids = [id_ for link in links for id_, _ in link.taught]
        if not ids and not self._untaught:
            self._untaught = True
            warn("W592", name=self.name, n=len(links), stacklevel=4)
        rows = dict(zip(ids, self.store.rows(ids).tolist(), strict=True))
        return [{rows[id_]: p for id_, p in link.taught if rows[id_] >= 0} for link in links]

    def score_mentions(self, docs: Sequence[Doc], places: Sequence[Place]) -> list[list[Scored]]:
        """Candidates of mentions; what is to become their probability is still the score, weighed with the prior."""
        if not places:
            return []
        batch, mentions = self._texts.input(docs, places, None)
        vectors = self.model.predict(cast(Any, batch)).mentions.cpu().numpy()
        mentions = [mention._replace(vector=vector) for mention, vector in zip(mentions, vectors, strict=True)]
        limits = dict(self.settings["candidates"])
        if self.index is None:
            limits["dense"] = 0
        with self.store.reading():
            found = find_candidates(all_sources(self.store, self.index), limits, mentions)
            rows = np.array(sorted({each.row for own in found for each in own}), dtype=np.int64)
            entities = self._texts.vectors(self.store, rows, self.index)
            ids = dict(zip(rows.tolist(), self.store.ids(rows), strict=True))
        scale, scored = float(self.head.scale.detach()), []
        for vector, own in zip(vectors, found, strict=True):
            scores = entities[np.searchsorted(rows, np.array([each.row for each in own], dtype=np.int64))] @ vector
            pairs = zip(own, scores.tolist(), strict=True)
            scored.append([Scored(c.row, ids[c.row], s, scale * s + self._weighed_prior(c), c.scores) for c, s in pairs])
        return scored

    def _weighed_prior(self, candidate: Candidate) -> float:
        weight = self.settings["prior_weight"]
        return weight * math.log(max(candidate.scores.get("alias", 0.0), _LEAST_PRIOR)) if weight else 0.0

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write links."""
        for doc, links in zip(docs, scores, strict=True):
            write_links(doc, self.gold_key, links, self.settings["keep"])

    def explain(self, span: Span) -> Explanation:
        """Show all candidates of a span of a document that the pipeline has read, and what speaks for each."""
        place = Place(0, span.start, span.end)
        link = self.decide(place, self.score_mentions([span.doc], [place])[0])
        entities = self.store.entities([each.row for each in link.candidates])
        return explain_link(span, link, entities, self.settings["threshold"])
