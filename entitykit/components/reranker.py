"""`entitykit_reranker`: scores the best candidates of a linker again: a cross-encoder reads each together with the mention."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples
from thinc.api import Optimizer, set_dropout_rate

from entitykit.bridge.cross_encoder import CrossEncoderModel, PairTexts, learn
from entitykit.bridge.link_texts import Place
from entitykit.components.base import check_loss
from entitykit.components.deciding import DecidingPipe
from entitykit.components.links import GoldLink, Linked, Scored, left_candidates, write_links
from entitykit.components.nils import group_again
from entitykit.errors import error, warn
from entitykit.knowledge.augment import Augmenter
from entitykit.knowledge.entities import Entity

_LEAST_P = 1e-9  # of a probability whose logarithm is taken

DEFAULT_CONFIG = {
    "model": {
        "@architectures": "entitykit.CrossEncoder.v1",
        "tok2vec": {"@architectures": "entitykit.EntityEncoder.v1", "name": "minilm"},
    },
    "kb": None,
    "mentions": "ents",
    "top_k": 16,
    "threshold": 0.0,
    "linker_weight": 0.0,
    "negatives": 7,
    "augment": None,
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_reranker",
    requires=["span._.kb_ents"],
    assigns=["doc.ents", "doc.spans", "span._.kb_ents", "span._.kb_reranked", "doc._.nil_clusters"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"linking_micro_f": 1.0, "linking_micro_p": 0.0, "linking_micro_r": 0.0},
)
def make_reranker(
    nlp: Language,
    name: str,
    model: CrossEncoderModel,
    kb: Any,
    mentions: str,
    top_k: int,
    threshold: float,
    linker_weight: float,
    negatives: int,
    augment: Any,
    scorer: Callable[..., Any] | None,
) -> "Reranker":
    """Make the reranker.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.CrossEncoder.v1`.
        kb: the knowledge base, the linker's; none: that with which the component was initialized.
        mentions: where mentions are: ``ents`` or a span group.
        top_k: candidates of a mention that are scored again, the linker's best. Those behind them stay behind them, with a
            probability of 0.
        threshold: least probability of a link; below it a mention is NIL.
        linker_weight: what the logarithm of the linker's probability counts beside the score.
        negatives: wrong candidates that are learned with each mention, the linker's best.
        augment: ``entitykit.Augmenter.v1``, which adds descriptions to the contexts in which mentions are read; none: they are
            read as they stand.
        scorer: scores examples.
    """
    settings = {
        "mentions": mentions,
        "top_k": top_k,
        "threshold": threshold,
        "linker_weight": linker_weight,
        "negatives": negatives,
    }
    return Reranker(nlp.vocab, model, name, settings=settings, kb=kb, augment=augment, scorer=scorer)


class Reranker(DecidingPipe):
    """Writes ``kb_id_`` and ``span._.kb_ents`` anew, and ``span._.kb_reranked``, where a linker's `explain` finds scores.

    Args:
        *args: see `TorchPipe`.
        augment: see `make_reranker`.
        **kwargs: see `KBPipe`.
    """

    def __init__(self, *args: Any, augment: Augmenter | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._texts = PairTexts(self.cross_encoder, self.name, augment)
        self._alone = False  # whether there was a warning of a linker that is missing

    @property
    def cross_encoder(self) -> CrossEncoderModel:
        """The thinc model."""
        return cast(CrossEncoderModel, self.model)

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        self.check_least(top_k=1, threshold=0, linker_weight=0, negatives=1)

    # What spaCy calls

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from the gold links of a batch among the candidates that a linker has left, and the gold entity.

        A gold mention that the pipeline has not found has its namesakes for candidates.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "Reranker.update")
        links, gold = self.known_links(examples)
        docs = [eg.predicted for eg in examples]
        chosen = [(link, rows) for link, rows in zip(links, self._choices(docs, links, gold), strict=True) if len(rows) > 1]
        if not chosen:
            return losses
        set_dropout_rate(self.model, drop)
        entities = self._entities(row for _, rows in chosen for row in rows)
        places, candidates = [link.place for link, _ in chosen], [[entities[row] for row in rows] for _, rows in chosen]
        loss = learn(self.cross_encoder, docs, self._texts.input(docs, places, candidates), [0] * len(chosen))
        check_loss(self.name, loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def _choices(self, docs: Sequence[Doc], links: Sequence[GoldLink], gold: Sequence[int]) -> list[list[int]]:
        """Rows for each mention: the gold one first, then wrong ones."""
        left = [left_candidates(docs[doc][start:end]) for doc, start, end in (link.place for link in links)]
        if links and not any(left) and not self._alone:
            self._alone = True
            warn("W591", n=len(links), name=self.name, stacklevel=4)
        ids = list({id_ for pairs in left for id_, _ in pairs or ()})
        rows = dict(zip(ids, self.store.rows(ids).tolist(), strict=True))
        names = [docs[doc][start:end].text for doc, start, end in (link.place for link in links)]
        found = []
        for row, pairs, matches in zip(gold, left, self.store.by_alias_batch(names), strict=True):
            others = [match.row for match in matches] if pairs is None else [rows[id_] for id_, _ in pairs]
            wrong = [other for other in others if other not in (row, -1)]
            found.append([row, *wrong[: self.settings["negatives"]]])
        return found

    def _entities(self, rows: Iterable[int]) -> dict[int, Entity]:
        wanted = sorted(set(rows))
        return dict(zip(wanted, self.store.entities(wanted), strict=True))

    def score_mentions(self, docs: Sequence[Doc], places: Sequence[Place]) -> list[list[Scored]]:
        """The linker's best candidates; what is to become their probability is the score, weighed with the linker's.

        Raises:
            ConfigError: E593 for a mention that no linker has seen.
        """
        left = [self._left(docs[place.doc][place.start : place.end]) for place in places]
        ids = list({id_ for pairs in left for id_, _ in pairs})
        with self.store.reading():
            rows = dict(zip(ids, self.store.rows(ids).tolist(), strict=True))
            entities = self._entities(row for row in rows.values() if row >= 0)
        left = [[(id_, p) for id_, p in pairs if rows[id_] >= 0] for pairs in left]
        if not any(left):
            return [[] for _ in places]
        batch = self._texts.input(docs, places, [[entities[rows[id_]] for id_, _ in pairs] for pairs in left])
        scores = iter(self.cross_encoder.predict(batch).tolist())
        weight = self.settings["linker_weight"]
        return [
            [
                Scored(rows[id_], id_, score, score + weight * math.log(max(p, _LEAST_P)), {"linker": p})
                for (id_, p), score in zip(pairs, scores, strict=False)
            ]
            for pairs in left
        ]

    def _left(self, span: Span) -> list[tuple[str, float]]:
        pairs = left_candidates(span)
        if pairs is None:
            raise error("E593", name=self.name, text=span.text[:60])
        return pairs[: self.settings["top_k"]]

    def decide(self, place: Place, scored: Sequence[Scored]) -> Linked:
        """Turn scores into probabilities, choose, and note what was scored."""
        link = super().decide(place, scored)
        candidates = [[each.id, each.sources["linker"], each.score] for each in scored]
        noted = {"candidates": candidates, "nil": link.nil, "threshold": self.settings["threshold"]}
        return link._replace(reranked=noted)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write links, and group mentions that are NIL anew if the linker has grouped them."""
        for doc, links in zip(docs, scores, strict=True):
            write_links(doc, self.gold_key, [_with_rest(doc, link) for link in links], None)
            group_again(doc, self.gold_key)


def _with_rest(doc: Doc, link: Linked) -> Linked:
    """A link with the candidates that were not scored again behind the others."""
    there = {each.id for each in link.candidates}
    rest = [id_ for id_, _ in left_candidates(doc[link.start : link.end]) or () if id_ not in there]
    return link._replace(candidates=[*link.candidates, *(Scored(-1, id_, 0.0, 0.0, {}) for id_ in rest)])
