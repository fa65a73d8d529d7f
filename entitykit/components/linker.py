"""`entitykit_linker`: links mentions to a knowledge base by candidates from several sources and a bi-encoder."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer, set_dropout_rate

from entitykit.bridge.keywords import THRESHOLD
from entitykit.bridge.link_texts import LinkTexts, Place
from entitykit.bridge.linking import Floats, LinkInput
from entitykit.bridge.texts import Ids
from entitykit.components.base import check_loss
from entitykit.components.batches import BATCH_WORDS, batch_by_words
from entitykit.components.deciding import DecidingPipe
from entitykit.components.gold import NIL
from entitykit.components.indexed import IndexedPipe
from entitykit.components.links import Explanation, GoldLink, Linked, Scored, explain_link, soft_targets, write_links
from entitykit.components.nils import NIL_CLUSTERS, group_again, leave_vectors, name_unknown, unlinked
from entitykit.components.seen import Seen, give_keywords, sources_of, weigh_coherence
from entitykit.errors import error, warn
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.candidates import (
    KEYWORDS,
    SOURCES,
    find_candidates,
    hard_negatives,
    keywords_of,
    word_query,
)
from entitykit.knowledge.store_reader import LEAST
from entitykit.models.bi_encoder import LinkOutput
from entitykit.models.cross_encoder import distillation_loss

_LEAST_PRIOR = 1e-4
BATCH_DOCS = 128

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.BiEncoder.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "kb": None,
    "mentions": "ents",
    "candidates": {"alias": 32, "fuzzy": 0, "words": 0, "dense": 64},
    "normalised": True,
    "least_prior": 0.0,
    "least_similarity": LEAST,
    "keywords": KEYWORDS,
    "keyword_threshold": THRESHOLD,
    "threshold": 0.0,
    "prior_weight": 0.0,
    "coherence": 0.0,
    "nil_clusters": False,
    "nil_similarity": 0.5,
    "keep": None,
    "negatives": 2,
    "mine_every": 0,
    "index": "auto",
    "index_codes": "int8",
    "index_recall": 0.97,
    "distill": 0.0,
    "distill_temperature": 2.0,
    "augment": None,
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_linker",
    assigns=["doc.ents", "doc.spans", "span._.kb_ents", "doc._.nil_clusters", "doc._.nil_vectors"],
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
    normalised: bool,
    least_prior: float,
    least_similarity: float,
    keywords: int,
    keyword_threshold: float,
    threshold: float,
    prior_weight: float,
    coherence: float,
    nil_clusters: bool,
    nil_similarity: float,
    keep: int | None,
    negatives: int,
    mine_every: int,
    index: str,
    index_codes: str,
    index_recall: float,
    distill: float,
    distill_temperature: float,
    augment: Any,
    scorer: Callable[..., Any] | None,
) -> "Linker":
    """Make the linker.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.BiEncoder.v1` or `entitykit.Blink.v1`.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
        mentions: where mentions are: ``ents`` or a span group.
        candidates: how many candidates each source may give for a mention: ``alias``, ``fuzzy``, ``words`` and ``dense``, which
            needs `Linker.build_index`.
        normalised: names that ``alias`` finds, and that have a prior, may differ as `entitykit.knowledge.text.normalise` says;
            otherwise in nothing.
        least_prior: least p(entity | mention) of what ``alias`` finds.
        least_similarity: least similarity of the names that ``fuzzy`` finds, above 0, up to 1.
        keywords: so many words of the context, at most, does ``words`` search for beside the mention's: those with the highest
            probabilities where `entitykit_keywords` has read the document, else the nearest ones.
        keyword_threshold: least of these probabilities; 0 as published: the likeliest words, however improbable they are.
        threshold: least probability of a link; below it a mention is NIL.
        prior_weight: what the logarithm of p(entity | mention) counts beside the bi-encoder's score, whichever source has found
            the entity; of one that the mention does not name by any alias it is taken for 0.0001.
        coherence: what counts beside it how near a candidate is, by the cosine of their vectors, to the entities of its
            document that were decided before, the most confident mention first; 0: mentions are decided independently.
        nil_clusters: group mentions of a document that are NIL by the unknown entities that they seem to name, and write the
            groups to ``doc._.nil_clusters``; what decides after the linker groups them anew.
        nil_similarity: least mean cosine of the mentions of two groups that are one entity, -1 to 1.
        keep: candidates that are written to ``span._.kb_ents``, the most probable ones; none: all that the sources have found.
        negatives: wrong entities that are learned with each mention beside those of the other mentions: its namesakes and,
            once there is an index, what it ranks highest.
        mine_every: build the index anew after so many updates, for negatives as the model now sees them; 0: never.
        index: kind of the index, see `entitykit.knowledge.index.VectorIndex`.
        index_codes: numbers of an inverted file: ``int8``, or ``pq``, which takes a quarter of the memory.
        index_recall: share of the 64 nearest entities that the index must find.
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
        "normalised": normalised,
        "least_prior": least_prior,
        "least_similarity": least_similarity,
        "keywords": keywords,
        "keyword_threshold": keyword_threshold,
        "threshold": threshold,
        "prior_weight": prior_weight,
        "coherence": coherence,
        "nil_clusters": nil_clusters,
        "nil_similarity": nil_similarity,
        "keep": keep,
        "negatives": negatives,
        "mine_every": mine_every,
        "index": index,
        "index_codes": index_codes,
        "index_recall": index_recall,
        "distill": distill,
        "distill_temperature": distill_temperature,
    }
    return Linker(nlp.vocab, model, name, settings=settings, kb=kb, augment=augment, scorer=scorer)


class Decided(NamedTuple):
    """What is predicted of a document.

    Attributes:
        links: of its mentions.
        vectors: *(n_links, size)* by which those that are NIL are grouped; none: they are not.
    """

    links: list[Linked]
    vectors: Floats | None


class Linker(IndexedPipe, DecidingPipe):
    """Writes ``kb_id_`` of mentions, empty for NIL, and ``span._.kb_ents``: pairs of id and probability, the best first.

    With `nil_clusters` also ``doc._.nil_clusters``, of which ``span._.nil_id`` reads.

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
        self.check_index()
        self.check_least(threshold=0, prior_weight=0, coherence=0, keep=1, keywords=0, negatives=0, mine_every=0)
        s = self.settings
        expected_of = {
            "least_prior": (0 <= s["least_prior"] <= 1, "0 to 1"),
            "least_similarity": (0 < s["least_similarity"] <= 1, "above 0, up to 1"),
            "keyword_threshold": (0 <= s["keyword_threshold"] <= 1, "0 to 1"),
            "distill": (0 <= s["distill"] <= 1, "0 to 1"),
            "distill_temperature": (s["distill_temperature"] > 0, "above 0"),
            "nil_similarity": (-1 <= s["nil_similarity"] <= 1, "-1 to 1"),
        }
        for setting, (is_fine, allowed) in expected_of.items():
            if not is_fine:
                raise error("E109", name=self.name, setting=setting, found=s[setting], expected=allowed)
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
            self.build_index(quiet=True)
        self._n_updates += 1
        set_dropout_rate(self.model, drop)
        columns: list[int] = []

        def choose(vectors: Floats) -> list[Ids]:
            texts = [mention.text for mention in mentions]
            wrong = hard_negatives(self.store, self.own_index, texts, vectors, gold, self.settings["negatives"])
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
        value = check_loss(self.name, loss)
        backprop(loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += value
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
        """Candidates of mentions, each by itself; what is to become their probability is the score, weighed with the prior."""
        return self._see(docs, places).scored

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Link the mentions of documents, without changing them."""
        docs = list(docs)
        places = self.mentions(docs)
        seen = self._see(docs, places)
        links = self.decide_all(len(docs), places, self._weigh_coherence(places, seen))
        if not self.settings["nil_clusters"]:
            return [Decided(own, None) for own in links]
        ends = np.cumsum([len(own) for own in links])
        return [Decided(own, seen.mentions[end - len(own) : end]) for own, end in zip(links, ends.tolist(), strict=True)]

    def cluster_nils(self, docs: Sequence[Doc], *, name: str = "corpus") -> int:
        """Group mentions that are NIL across documents, and write the groups to ``doc._.nil_clusters`` in place of others.

        Args:
            docs: all documents of a corpus, which the pipeline has read.
            name: of the corpus; ids are NIL, this name and a number, such as ``NIL-corpus-1``.

        Returns:
            The number of groups.
        """
        places = unlinked(docs, self.gold_key)
        vectors, first = [np.zeros((0, self.head.size), dtype=np.float32)], 0
        for batch in batch_by_words(docs, n_docs=BATCH_DOCS, n_words=BATCH_WORDS):
            own = [p._replace(doc=p.doc - first) for p in places if first <= p.doc < first + len(batch)]
            if own:
                vectors.append(self.model.predict(cast(Any, self._texts.input(batch, own, None)[0])).mentions.cpu().numpy())
            first += len(batch)
        similarity = self.settings["nil_similarity"]
        found = name_unknown(docs, places, np.concatenate(vectors), similarity=similarity, name=f"{NIL}-{name}")
        for doc, groups in zip(docs, found, strict=True):
            doc._.set(NIL_CLUSTERS, groups)
        return len({id_ for groups in found for id_ in groups})

    def _see(self, docs: Sequence[Doc], places: Sequence[Place]) -> Seen:
        if not places:
            nothing = np.zeros((0, self.head.size), dtype=np.float32)
            return Seen([], [], nothing, np.zeros(0, dtype=np.int64), nothing)
        batch, mentions = self._texts.input(docs, places, None)
        vectors = self.model.predict(cast(Any, batch)).mentions.cpu().numpy()
        mentions = [mention._replace(vector=vector) for mention, vector in zip(mentions, vectors, strict=True)]
        limits = dict(self.settings["candidates"])
        if limits.get("words"):
            mentions = give_keywords(docs, places, mentions, self.settings)
        with self.store.reading():
            index = self.current_index()
            if index is None:
                limits["dense"] = 0
            found = find_candidates(sources_of(self.settings, self.store, index), limits, mentions)
            rows = np.array(sorted({each.row for own in found for each in own}), dtype=np.int64)
            entities = self._texts.vectors(self.store, rows, index)
            ids = dict(zip(rows.tolist(), self.store.ids(rows), strict=True))
            asked = [mention.text for mention in mentions], [[each.row for each in own] for own in found]
            priors = self.store.priors(*asked, normalised=self.settings["normalised"])
        scale, scored = float(self.head.scale.detach()), []
        for vector, own, prior in zip(vectors, found, priors, strict=True):
            scores = entities[np.searchsorted(rows, np.array([each.row for each in own], dtype=np.int64))] @ vector
            pairs = zip(own, scores.tolist(), strict=True)
            weighed = ((c, s, scale * s + self._weighed_prior(prior.get(c.row))) for c, s in pairs)
            scored.append([Scored(c.row, ids[c.row], s, score, c.scores, prior.get(c.row)) for c, s, score in weighed])
        return Seen(mentions, scored, vectors, rows, entities)

    def _weigh_coherence(self, places: Sequence[Place], seen: Seen) -> list[list[Scored]]:
        weight, threshold = self.settings["coherence"], self.settings["threshold"]
        return weigh_coherence(places, seen, self.calibration, weight=weight, threshold=threshold)

    def _weighed_prior(self, prior: float | None) -> float:
        weight = self.settings["prior_weight"]
        return weight * math.log(max(prior or 0.0, _LEAST_PRIOR)) if weight else 0.0

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write links, and groups of mentions that are NIL."""
        for doc, (links, vectors) in zip(docs, scores, strict=True):
            write_links(doc, self.gold_key, links, self.settings["keep"])
            if vectors is not None:
                leave_vectors(doc, links, vectors, similarity=self.settings["nil_similarity"])
                group_again(doc, self.gold_key)

    def explain(self, span: Span) -> Explanation:
        """Show all candidates of a span of a document that the pipeline has read, and what speaks for each.

        With `coherence` the other mentions of the document speak, too.
        """
        place = Place(0, span.start, span.end)
        others = self.mentions([span.doc]) if self.settings["coherence"] else []
        places = [place, *(other for other in others if other != place)]
        seen = self._see([span.doc], places)
        link = self.decide(place, self._weigh_coherence(places, seen)[0])
        rows = [each.row for each in link.candidates]
        (mention,) = give_keywords([span.doc], [place], seen.texts[:1], self.settings)
        with self.store.reading():
            entities, words = self.store.entities(rows), self.store.word_scores(word_query(mention), rows)
        return explain_link(span, link, entities, self.settings["threshold"], words=words, keywords=keywords_of(mention))
