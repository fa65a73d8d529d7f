"""`entitykit_relations`: relations between the entities of a document, as plain values in ``doc._.relations``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model, Optimizer

from entitykit.bridge.head import HeadInput
from entitykit.bridge.linking import heard_encoder
from entitykit.bridge.texts import TextReader
from entitykit.components.base import SpanPrediction, TorchPipe, known_words, write_group
from entitykit.components.cluster_pairs import COREF, Survey
from entitykit.components.gold import ENTS, gold_spans, reference_spans, warn_ambiguous
from entitykit.components.pairs import (
    RELATIONS,
    Found,
    Scope,
    as_json,
    pack_pairs,
    pairs_in_scope,
    reach_in_scope,
    unpack_kept,
    unpack_pairs,
    warn_far,
    warn_filtered,
)
from entitykit.components.relation_gold import (
    Reach,
    entity_classes,
    gold_relations,
    reference_relations,
    related_pairs,
    wanted_relations,
)
from entitykit.components.relation_rules import LEARNED, Rules, check_settings
from entitykit.decoding.relations import Constraints, Decoded, Entities, decode_relations
from entitykit.errors import error, warn
from entitykit.models.mentions import spans_to_band
from entitykit.models.relations_enrico import EnriCoOutput, EnriCoTargets
from entitykit.scoring.ner import ner_score
from entitykit.types import ClusterPairs, EntityPairs

Floats = NDArray[np.float32]

DESCRIPTION = 64
"""Pieces that are read of a relation's description."""

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.SpERTRelations.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "entities": ENTS,
    "scope": "window",
    "window": 100,
    "max_pairs": 100000,
    "schema": LEARNED,
    "decoder": "greedy",
    "order": "joint",
    "beam_width": 8,
    "time_limit": 10.0,
    "threshold": 0.5,
    "descriptions": {},
    "scorer": {"@scorers": "entitykit.relations_scorer.v1"},
}


@Language.factory(
    "entitykit_relations",
    assigns=["doc._.relations", "doc._.rel", "doc._.cluster_relations"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"rel_strict_f": 1.0, "rel_strict_p": 0.0, "rel_strict_r": 0.0},
)
def make_relations(
    nlp: Language,
    name: str,
    model: Model[HeadInput, Any],
    entities: str,
    scope: str,
    window: int,
    max_pairs: int,
    schema: str | dict[str, Any] | None,
    decoder: str,
    order: str,
    beam_width: int,
    time_limit: float,
    threshold: float,
    descriptions: dict[str, str],
    scorer: Callable[..., Any] | None,
) -> Relations:
    """Make the relation component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.SpERTRelations.v1`, `entitykit.LukePair.v1` or `entitykit.EnriCo.v1`; or
            `entitykit.ClusterRelations.v1` for entities of several mentions.
        entities: where entities are, in gold and in predicted documents: ``ents``, a span group, or ``coref``: each coreference
            cluster is an entity. A joint model finds them by itself, and writes them there.
        scope: pairs that are looked at: of one ``sentence``, which needs sentence boundaries; with few words between them, a
            ``window``; or of the whole ``document``.
        window: words between two entities at most, for ``window``.
        max_pairs: pairs of two entities of a document at most, the nearest ones; a warning says how many were left out.
        schema: what relations may be, see `entitykit.decoding.schema`: its settings, or a JSON file with them, which is read
            when training begins and stays with the pipeline; ``learned``: between the types of entities that they have in the
            training data; none: anything.
        decoder: how relations are chosen that the schema does not allow together: ``greedy``, ``beam`` or ``exact``.
        order: of decisions of a joint model: ``entity_first``, ``relation_first`` or ``joint``.
        beam_width: sets of relations that ``beam`` keeps.
        time_limit: seconds for one document after which ``exact`` takes the best that it has found, with a warning.
        threshold: a relation's probability must be above it.
        descriptions: what relations are in words, by label, for a model that reads descriptions; of others it reads the label.
        scorer: scores examples.

    Raises:
        ConfigError: E603 for clusters without the model that reads them, or the other way round.
    """
    given = {**locals(), "descriptions": dict(descriptions)}
    settings = {key: given[key] for key in DEFAULT_CONFIG if key not in ("model", "scorer")}
    if (entities == COREF) != bool(model.attrs.get("clusters")):
        raise error("E603", name=name, found=entities, expected=COREF)
    if entities == COREF:
        from entitykit.components.cluster_relations import ClusterRelations  # here, because it is a kind of `Relations`

        return ClusterRelations(nlp.vocab, model, name, settings=settings, scorer=scorer)
    return Relations(nlp.vocab, model, name, settings=settings, scorer=scorer)


class Chosen(NamedTuple):
    """What is predicted of one document.

    Attributes:
        relations: as they are written.
        entities: of a joint model.
    """

    relations: list[dict[str, Any]]
    entities: SpanPrediction | None


class Relations(TorchPipe):
    """Writes ``doc._.relations``, which is also ``doc._.rel``: dicts of JSON values, see `as_json`.

    With a joint model also ``doc.ents``, or a span group.

    Attributes:
        gold_key: where gold relations are in ``doc.user_data``.
    """

    gold_key = RELATIONS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg |= {"entity_types": [], "descriptions": dict(self.settings["descriptions"])}
        check_settings(self.settings, self.name)
        self.rules = Rules(self.cfg, self.settings, no_overlap=self.is_joint and self.settings["entities"] == ENTS)

    @property
    def constraints(self) -> Constraints:
        """What relations may be, in numbers of labels.

        Raises:
            ConfigError: E341 if the schema has labels that the component does not know.
        """
        return self.rules.constraints

    @property
    def scope(self) -> Scope:
        """Which pairs are looked at; of entities with themselves only where a given schema says so."""
        return Scope(self.settings["scope"], self.settings["window"], self.settings["max_pairs"], not self.rules.schema.no_self)

    @property
    def is_joint(self) -> bool:
        """Whether the model finds the entities, too."""
        return bool(self.model.attrs.get("joint"))

    def set_descriptions(self, descriptions: Mapping[str, str]) -> None:
        """Look for other relations than those of the training, of a model that reads descriptions.

        The schema keeps what it says of those that it knows. Where anything is wrong, nothing changes.

        Args:
            descriptions: what the relations are in words, by label.

        Raises:
            ConfigError: E121 if the model does not read descriptions.
        """
        if not self.model.attrs.get("described"):
            raise error("E121", name=self.name)
        self.rules.restrict(list(descriptions))
        self.cfg["descriptions"] = dict(descriptions)

    def _read_descriptions(self) -> None:
        """Give the head the states of the relations' descriptions, as the encoder reads them now."""
        if not self.model.attrs.get("described"):
            return
        given = self.cfg["descriptions"]
        texts = [given.get(label) or label.replace("_", " ") for label in self.labels]
        reader = TextReader.of(heard_encoder(self.model.layers[0]))
        composed = reader.described(texts, [""] * len(texts), size=min(reader.longest, DESCRIPTION), mark=False)
        if composed.cut.any():
            warn("W124", n=int((composed.cut > 0).sum()), name=self.name, longest=DESCRIPTION, stacklevel=5)
        self.head.set_descriptions(reader.read(composed.ids).to(self._shim.device))

    # Learning

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """The relation types of a gold document, and their inverses."""
        return self.rules.with_inverses(relation.label for relation in reference_relations(reference) or ())

    def learned_settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The types of entities."""
        spans = [span for eg in examples for span in reference_spans(eg.reference, [self.settings["entities"]]) or ()]
        self.cfg["entity_types"] = sorted({span.label_ for span in spans if span.label_})
        return {"entity_types": self.cfg["entity_types"]}

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Learn the schema, and say which gold relations are out of reach."""
        if examples and not self.labels:
            raise error("E106", name=self.name, keys=f'user_data["{self.gold_key}"]')
        forbidden, reach = self.rules.begin(), Reach()
        triples: list[tuple[str, str, str]] = []
        for survey in self._survey(examples, settings):
            triples += survey.triples()
            for head, tail, _ in survey.relations:
                reach.add(head, tail, survey.near)
            if forbidden is not None:
                forbidden.add(survey.entities.given(forbidden.constraints), survey.entities.labels, survey.rows_in_reach())
        if self.is_joint:
            warn_ambiguous((eg.reference for eg in examples), [self.settings["entities"]], self.name)
        reach.warn(self.name)
        n_odd = reach.n - len(triples)
        if n_odd and self.settings["entities"] != COREF:  # a cluster may be without a type
            warn("W123", name=self.name, n=n_odd, total=reach.n, entities=self.settings["entities"], stacklevel=4)
        if forbidden is not None:
            forbidden.warn(self.name, reach.n)
        self.rules.learn(triples)

    def _survey(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> Iterator[Survey]:
        """Survey the documents that have gold relations; arguments are places."""
        for eg in examples:
            relations, _ = gold_relations(eg)
            if relations:
                found = self._gold(eg)
                places = list(zip(found.starts.tolist(), found.ends.tolist(), strict=True))
                rows: dict[tuple[int, int], list[int]] = {place: [] for place in places}
                for row, place in enumerate(places):
                    rows[place].append(row)
                yield Survey(found, rows, relations, {(places[head], places[tail]) for head, tail in found.pairs.tolist()})

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from the gold relations of a batch, and with a joint model from its gold entities."""
        self._read_descriptions()
        return super().update(examples, drop=drop, sgd=sgd, losses=losses)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> EntityPairs | ClusterPairs:
        """Pairs of gold entities in training; else of those that the documents have, or none where the model finds them."""
        if examples is None:
            return self._pack_pairs(docs, [self._find(doc) for doc in docs])
        found = [self._gold(eg) for eg in examples]
        pairs = self._pack_pairs(docs, found, draws=bool(self.model.attrs["settings"].get("negatives")))
        filters_given = self.model.attrs.get("joint") is False
        return pairs._replace(related=related_pairs(examples, found, self.rules.schema)) if filters_given else pairs

    def _pack_pairs(self, docs: Sequence[Doc], found: Sequence[Found], *, draws: bool = False) -> EntityPairs:
        """With what a model that finds entities, or draws spans in training, must know of the scope."""
        pairs = pack_pairs(docs, found, self.cfg["entity_types"])
        return pairs._replace(**reach_in_scope(docs, self.scope, self.name)) if self.is_joint or draws else pairs

    def _find(self, doc: Doc) -> Found:
        spans = () if self.is_joint else reference_spans(doc, [self.settings["entities"]]) or ()
        return self._pair(doc, [(span.start, span.end, span.label_) for span in spans])

    def _gold(self, eg: Example) -> Found:
        """The gold entities, and whatever gold relations have as arguments besides."""
        gold = gold_spans([eg], [self.settings["entities"]])
        found = list(zip(gold.spans.starts.tolist(), gold.spans.ends.tolist(), gold.labels, strict=True))
        places = {(start, end) for start, end, _ in found}
        relations, _ = gold_relations(eg)
        further = {place for relation in relations or () for place in (relation.head, relation.tail)} - places
        return self._pair(eg.predicted, [*found, *((start, end, "") for start, end in further)])

    def _pair(self, doc: Doc, entities: Iterable[tuple[int, int, str]]) -> Found:
        ordered = sorted(set(entities))
        starts, ends = (np.array([entity[side] for entity in ordered], dtype=np.int64) for side in (0, 1))
        pairs, n_lost = pairs_in_scope(doc, starts, ends, self.scope, self.name)
        warn_far(n_lost, len(pairs), len(ordered), self.name)
        return Found(starts, ends, [label for _, _, label in ordered], pairs)

    def targets(self, examples: Sequence[Example], output: Any) -> tuple[Any, ...]:
        """Which relations pairs have, and whether their documents are annotated; for EnriCo `EnriCoTargets`."""
        gold = wanted_relations(examples, self.labels, self.rules.schema, self.name)
        of_pairs = gold.of_pairs(output.entities)
        if not isinstance(output, EnriCoOutput):
            return of_pairs
        docs = [eg.predicted for eg in examples]
        warn_filtered(output, [len(doc) for doc in docs], self.name)
        targets = EnriCoTargets(*of_pairs, *gold.of_pairs(output.seen_pairs))
        if output.seen_spans is None:
            return targets
        ents, types = gold_spans(examples, [self.settings["entities"]]), self.cfg["entity_types"]
        annotated = known_words(ents.known, docs, output.logits.device)
        kept, seen = (entity_classes(ents, each, annotated, types, self.name) for each in (output.entities, output.seen_spans))
        targets = targets._replace(entities=(kept, seen))
        if output.mentions is None:
            return targets
        is_mention = spans_to_band(ents.spans, output.mentions.band.shape).to(annotated.device)
        return targets._replace(probe=(is_mention, annotated))

    # Predicting

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find each document's relations, and entities with a joint model, without changing it."""
        docs = list(docs)
        self._read_descriptions()
        found = [self._find(doc) for doc in docs]
        output = self.model.predict(HeadInput(docs, self._pack_pairs(docs, found)))
        if isinstance(output, EnriCoOutput):
            warn_filtered(output, [len(doc) for doc in docs], self.name)
        log_p: list[Any] = [None] * len(docs)
        probabilities = output.logits.float().sigmoid().cpu().numpy()
        if self.is_joint:
            lengths = [len(doc) for doc in docs]
            found, rows = unpack_pairs(output.entities, lengths)
            log_p = [output.type_logits.float().log_softmax(dim=1).cpu().numpy()[own] for own in rows]
        elif len(output.entities.heads) < sum(len(each.pairs) for each in found):
            found = unpack_kept(output.entities, found)
        edges = np.cumsum([0, *(len(each.pairs) for each in found)]).tolist()
        return [
            self._choose(doc, each, own, probabilities[low:high])
            for doc, each, own, low, high in zip(docs, found, log_p, edges[:-1], edges[1:], strict=True)
        ]

    def _choose(self, doc: Doc, found: Found, log_p: Floats | None, probabilities: Floats) -> Chosen:
        given = found.given(self.constraints) if log_p is None else Entities(found.starts, found.ends, log_p=log_p)
        chosen = self._decode(given, found.pairs, probabilities)
        relations = as_json(doc, found, [(m.head, m.tail, self.labels[m.relation], m.score) for m in chosen.relations])
        if log_p is None:
            return Chosen(relations, None)
        rows, kinds = chosen.entities, chosen.types
        labels = [self.cfg["entity_types"][kind] for kind in kinds.tolist()]
        scores = np.exp(log_p[rows, kinds + 1]).astype(np.float32)
        return Chosen(relations, SpanPrediction(found.starts[rows], found.ends[rows], labels, scores))

    def _decode(self, entities: Entities, pairs: NDArray[np.int64], probabilities: Floats) -> Decoded:
        names = ("decoder", "order", "threshold", "beam_width", "time_limit")
        settings = {name: self.settings[name] for name in names}
        return decode_relations(entities, pairs, probabilities, self.constraints, **settings)

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write relations, and entities of a joint model."""
        key = self.settings["entities"]
        for doc, chosen in zip(docs, scores, strict=True):
            doc._.relations = chosen.relations
            if chosen.entities is not None:
                spans = write_group(doc, key, chosen.entities)
                if key == ENTS:
                    doc.set_ents(spans)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score relations, and entities of a joint model."""
        examples, key = list(examples), self.settings["entities"]
        scores = super().score(examples, **kwargs)
        if self.is_joint and self.scorer is not None:
            scores |= ner_score(examples, annotate="ents" if key == ENTS else "spans", spans_key=key)
        return scores

    def scorer_arguments(self) -> dict[str, Any]:
        """Where the entities are, and which relations imply another direction."""
        return {"entities": self.settings["entities"], "mirrors": self.rules.schema.mirrors}

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> Relations:
        """Read what `to_disk` wrote."""
        super().from_disk(path, exclude=exclude)
        self.rules.forget()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Relations:
        """Read what `to_bytes` gave."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        self.rules.forget()
        return self
