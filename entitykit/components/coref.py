"""`entitykit_coref`: which mentions of a text are the same entity, as span groups ``coref_clusters_1`` and so on."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.coref import link_mentions
from entitykit.bridge.coref_memory import EntityMemory, Found
from entitykit.bridge.encoder import EncoderInput
from entitykit.bridge.head import HeadInput
from entitykit.bridge.linking import heard_encoder
from entitykit.components.base import SpanPrediction, TorchPipe, is_dummy, known_words, may_be_spans, per_document, write_group
from entitykit.components.clusters import (
    GoldClusters,
    gold_clusters,
    name_keys,
    telling_words,
    warn_large,
    warn_shared,
)
from entitykit.components.gold import GroupWatch, Place, group_spans
from entitykit.components.major_entities import Asked, alternatives, asked_names, occurrences, share_words
from entitykit.components.speakers import check_speakers, said_by
from entitykit.decoding.coref import NONE, MemorySettings, group_mentions
from entitykit.errors import error
from entitykit.models.antecedent_coref import AntecedentCoref
from entitykit.models.coref import NO_ENTITY, CorefOutput, Named, OnlineCoref
from entitykit.models.coref_words import Words
from entitykit.models.major_entities import MajorEntities
from entitykit.scoring.coref import PREFIX, cluster_keys
from entitykit.types import GivenMentions, Spans, WordStates

CLUSTERS, HYBRID, STATIC = MEMORIES = ("clusters", "hybrid", "static")

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.OnlineCoref.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "mentions": [],
    "threshold": 0.5,
    "new": 0.0,
    "singletons": True,
    "capacity": 1000,
    "forget": "lru",
    "compared": 64,
    "settled": 0,
    "scorer": {"@scorers": "entitykit.coref_scorer.v1"},
}


@Language.factory(
    "entitykit_coref",
    assigns=["doc.spans", "doc._.coref_clusters", "doc._.resolved_text"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"coref_conll_f": 1.0, "coref_mentions_f": 0.0, "coref_lea_f": 0.0},
)
def make_coref(
    nlp: Language,
    name: str,
    model: Model[HeadInput, Any],
    mentions: list[str],
    threshold: float,
    new: float,
    singletons: bool,
    capacity: int,
    forget: str,
    compared: int,
    settled: int,
    scorer: Callable[..., Any] | None,
) -> Coref:
    """Make the coreference component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.OnlineCoref.v1`, `entitykit.MajorEntities.v1`, or `entitykit.AntecedentCoref.v1`, which has no memory.
        mentions: span groups, or ``ents``, whose spans may be mentions, beside those that the encoder proposes.
        threshold: least probability of a mention.
        new: score of starting an entity; with more, more mentions do.
        singletons: write entities with one mention.
        capacity: entities that are remembered at once; 0: all. A text of any length needs no more memory than for these.
        forget: which entity makes room: the least recently mentioned one, ``lru``, or the one that was ``learned`` to come
            again least likely, which may be the new one.
        compared: of the remembered entities so many are compared in full with a mention, with the latest ones and those of the
            same name; 0: all.
        settled: an entity that was named so often takes no mention with another proper name; 0: it may, as in training.
        scorer: scores examples.
    """
    given = {**locals()}
    settings = {key: given[key] for key in DEFAULT_CONFIG if key not in ("model", "scorer")}
    return Coref(nlp.vocab, model, name, settings=settings, scorer=scorer, tokenizer=nlp.tokenizer)


Scored = tuple[Found, NDArray[np.float32]]
"""Mentions of a document, and their probabilities."""


class Clusters(NamedTuple):
    """What is predicted of a document.

    Attributes:
        starts: *(n,)* first words of mentions, sorted.
        ends: *(n,)* ends, exclusive.
        entities: *(n,)* the mentions' entities.
        scores: *(n,)* probabilities of being a mention.
    """

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    entities: NDArray[np.int64]
    scores: NDArray[np.float32]


class Coref(TorchPipe):
    """Writes the span groups ``coref_clusters_N``, from which ``doc._.coref_clusters`` and ``doc._.resolved_text`` are read.

    Its arguments are those of `TorchPipe`, and the pipeline's tokenizer, for names that do not occur in a text.
    """

    def __init__(self, *args: Any, tokenizer: Callable[[str], Doc], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tokenizer = tokenizer
        self._groups = GroupWatch(self.name, "mentions")
        s = self.settings
        self._memory_settings()
        if not 0 < s["threshold"] < 1:
            raise error("E109", name=self.name, setting="threshold", found=s["threshold"], expected="between 0 and 1")
        for setting in ("compared", "settled"):
            if s[setting] < 0:
                raise error("E109", name=self.name, setting=setting, found=s[setting], expected="at least 0")

    # Learning

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """Clusters have no types."""
        return ()

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Check that there are clusters to learn from, and somebody who speaks if the head is to compare speakers.

        Raises:
            ConfigError: E643 if the memory is to forget by what the head does not learn, E106 without any cluster.

        Warns:
            W641 for mentions in several clusters, W643 for documents of very many, W640 if nobody speaks.
        """
        if self.settings["forget"] == "learned" and not settings["keep_weight"]:
            raise error("E643")
        if is_dummy(examples):
            return
        if examples and not len(gold_clusters(examples).spans.starts):
            raise error("E106", name=self.name, keys=f"{PREFIX}_1, {PREFIX}_2, …")
        warn_shared(examples, self.name)
        warn_large(examples, self.name)
        if examples and settings.get("speakers"):
            check_speakers([eg.predicted for eg in examples], self.name)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> GivenMentions:
        """Spans that documents have, and in training the gold mentions with their entities.

        Warns:
            W642 once, if the first documents have no group of mentions.
        """
        self._groups.check(docs, self.settings["mentions"])
        own = group_spans(docs, self.settings["mentions"]).spans
        gold = GoldClusters.nothing() if examples is None else gold_clusters(examples)
        return GivenMentions(
            torch.cat([gold.spans.starts, own.starts]),
            torch.cat([gold.spans.ends, own.ends]),
            torch.cat([gold.entities, torch.full_like(own.starts, NO_ENTITY)]),
            *self._compared_by(docs),
        )

    def _compared_by(self, docs: Sequence[Doc]) -> tuple[Tensor, Tensor]:
        """What words of a batch are compared by, and those who say them if the head compares these."""
        speaking = docs if self.head.settings.speakers else ()
        return torch.from_numpy(telling_words(docs)), torch.from_numpy(said_by(speaking))

    def targets(self, examples: Sequence[Example], output: CorefOutput) -> tuple[Tensor, ...]:
        """Which spans are mentions, and whether their documents are annotated."""
        gold = gold_clusters(examples)
        docs = [eg.predicted for eg in examples]
        device = output.logits.device
        n = sum(len(doc) for doc in docs) + 1
        keys = (gold.spans.starts * n + gold.spans.ends).to(device)
        is_mention = torch.isin(output.spans.starts * n + output.spans.ends, keys)
        return is_mention, known_words(gold.known, docs, device)[output.spans.starts]

    # Predicting

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find each document's mentions and their entities, without changing it."""
        head = self._reading_head()
        return [self._cluster(head, found) for found in self._mentions(list(docs))]

    def stream(self, parts: Iterable[Doc]) -> Iterator[Doc]:
        """Annotate the parts of one long text, such as chapters, with one memory.

        An entity has the same number in all of them, so that numbers of span groups may have gaps. What the parts had of such
        groups is replaced. Without `singletons`, an entity is written from the part on that has its second mention: that a
        first one is not the only one cannot be known before.

        Args:
            parts: in order, read by the encoder, as from ``nlp.pipe(chapters)``.

        Raises:
            ConfigError: E644 for a model that has no memory.
        """
        if isinstance(self.head, AntecedentCoref):
            raise error("E644", name=self.name)
        memory, least = self._memory(self._reading_head()), 1 if self.settings["singletons"] else 2
        n_words, counts = 0, Counter[int]()  # mentions of the entities that are remembered
        for doc in parts:
            (found,) = self._mentions([doc])
            clusters = self._follow(found, memory, first=n_words)
            counts.update(clusters.entities.tolist())
            written = [entity for entity in np.unique(clusters.entities).tolist() if counts[entity] >= least]
            self._write(doc, clusters, {entity: entity + 1 for entity in written})
            counts = Counter({entity: counts[entity] for entity in memory.books.entities.tolist()})
            n_words += len(doc)
            yield doc

    def find(
        self, doc: Doc, names: Sequence[str], *, descriptions: Mapping[str, str] | None = None, memory: str = CLUSTERS
    ) -> dict[str, list[Span]]:
        """Find every mention of the entities that are named, and of no others.

        A name that occurs in the text stands for what it means there, in any case of letters; another one for what the encoder
        makes of it, and of its description, by itself, and nothing is found unless one of the mentions shares a word with
        either, titles aside. So does one that has no entity token anywhere in the text, where the encoder has tokens.

        Args:
            doc: read by the encoder, as ``nlp`` gives it.
            names: each of another entity, or of one that has several, with ``;`` between them. Where several are found as one
                cluster, those that share a word all have it; it is divided among others.
            descriptions: what is said of entities whose names do not occur, by name.
            memory: ``clusters``: entities are followed as for coreference, and each name is that of the cluster that has it
                most often, or of mentions that hold it; names that no cluster has are looked for by ``hybrid`` among the other
                mentions. ``hybrid``: there are no other entities, and mentions are compared with the names and with what was
                found before; ``static``: with the names alone, all at once.

        Returns:
            Mentions by name, in the order of the text.

        Raises:
            ConfigError: E640 if the model is not `entitykit.MajorEntities.v1`, E109 for another memory.
            InputError: E641 for one text in the place of names, for a name that is none, empty or there twice, and for a
                description that is none, or of another name.
        """
        head = self._reading_head()
        if not isinstance(head, MajorEntities):
            raise error("E640", name=self.name, found=type(head).__name__)
        if memory not in MEMORIES:
            raise error("E109", name=self.name, setting="memory", found=memory, expected=" or ".join(MEMORIES))
        wanted, described = asked_names(names, descriptions or {})
        if not wanted:
            return {}
        (scored,) = self._mentions([doc])
        found = scored[0]
        spans = [doc[start:end] for start, end in zip(found.starts.tolist(), found.ends.tolist(), strict=True)]
        entities = self._cluster(head, scored).entities if memory == CLUSTERS else np.full(len(spans), NONE)
        whose = {each: name for name in wanted for each in alternatives(name)}
        described = {each: described[name] for each, name in whose.items() if name in described}
        phrases = self._phrases(doc, list(whose), described)
        asked = Asked(spans, found, entities, list(whose), phrases, list(whose.values()))
        keys, mentions = name_keys(doc), {name: set[int]() for name in wanted}
        for each, rows in asked.rows(head, described, hybrid=memory != STATIC).items():
            said = Doc(self.vocab, words=self._words(f"{each} {described.get(each, '')}"))
            if occurrences(doc, each) or share_words([spans[row] for row in rows], keys, said):
                mentions[whose[each]].update(rows)
        return {name: [spans[row] for row in sorted(rows)] for name, rows in mentions.items()}

    def _phrases(self, doc: Doc, names: Sequence[str], described: Mapping[str, str]) -> Named:
        """What each name says: in the text where it occurs, the mean of all places that have states; else by itself."""
        tokens = self._tokens(doc)
        found = {name: [(span.start, span.end) for span in occurrences(doc, name)] for name in names}
        if tokens is not None:
            found = {name: [place for place in places if place in tokens] for name, places in found.items()}
        there, apart = [name for name in names if found[name]], [name for name in names if not found[name]]
        parts = [self._say([doc], [found[name] for name in there])] if there else []
        if apart:
            parts.append(self._say(*self._read(apart, described)))
        rows = torch.tensor([[*there, *apart].index(name) for name in names])
        words = Words(*(torch.cat(each) for each in zip(*(part.words for part in parts), strict=True)))
        return Named(torch.cat([part.vectors for part in parts]), words).rows(rows)

    def _tokens(self, doc: Doc) -> set[Place] | None:
        """The spans of a document that have entity tokens; None if the encoder has none, so that every span has a state."""
        states = self.model.layers[0].predict([doc])
        if not isinstance(states, WordStates) or states.entities is None or states.entities.states is None:
            return None
        starts, ends = states.entities.spans
        return set(zip(starts.tolist(), ends.tolist(), strict=True))

    def _read(self, names: Sequence[str], described: Mapping[str, str]) -> tuple[list[Doc], list[list[Place]]]:
        """Read names by themselves, each with its description.

        Returns:
            A document of each, and the name's place in these, end to end.
        """
        docs: list[Doc] = []
        places: list[list[Place]] = []
        for name in names:
            first, words, more = sum(map(len, docs)), self._words(name), self._words(described.get(name, ""))
            docs.append(Doc(self.vocab, words=[*words, *([":", *more] if more else [])]))
            places.append([(first, first + len(words))])
        starts, ends = torch.tensor(places).squeeze(1).unbind(1)
        encoded = heard_encoder(self.model.layers[0]).predict(EncoderInput(docs, Spans(starts, ends), {}))
        for doc, data in zip(docs, encoded.doc_data, strict=True):
            doc._.trf_data = data
        return docs, places

    def _words(self, text: str) -> list[str]:
        """The words of a text, as the pipeline has them."""
        return [token.text for token in self._tokenizer(" ".join(text.split()))]

    def _say(self, docs: Sequence[Doc], places: Sequence[Sequence[Place]]) -> Named:
        """What names say that have these places in documents, which lie end to end: the means of these."""
        starts, ends = torch.tensor([place for own in places for place in own]).unbind(1)
        given = GivenMentions(starts, ends, torch.full_like(starts, NO_ENTITY), *self._compared_by(docs))
        output: CorefOutput = self.model.predict(HeadInput(docs, given))
        n = sum(map(len, docs)) + 1
        rows = torch.searchsorted((output.spans.starts * n + output.spans.ends).cpu(), starts * n + ends)
        by_name = rows.split([len(own) for own in places])
        vectors, firsts = output.vectors.float().cpu(), torch.stack([own[0] for own in by_name])
        return Named(
            torch.stack([vectors[own].mean(0) for own in by_name]), Words(*(part.cpu()[firsts] for part in output.words))
        )

    def _memory(self, head: OnlineCoref) -> EntityMemory:
        chosen = {key: self.settings[key] for key in ("compared", "new", "settled")}
        return EntityMemory(head, self._memory_settings(), **chosen)

    def _memory_settings(self) -> MemorySettings:
        """Raises E352 if they are wrong."""
        return MemorySettings(self.settings["capacity"], self.settings["forget"])

    def _reading_head(self) -> OnlineCoref:
        """The head for what is done mention after mention, on the CPU: a device would wait most of the time.

        `AntecedentCoref`, which scores many pairs of mentions at once, stays where it is.
        """
        stays = self._shim.device.type == "cpu" or isinstance(self.head, AntecedentCoref)
        head: OnlineCoref = self.head if stays else copy.deepcopy(self.head).cpu()
        return head.eval()

    def _mentions(self, docs: Sequence[Doc]) -> list[Scored]:
        """Each document's mentions, and their probabilities."""
        output: CorefOutput = self.model.predict(HeadInput(docs, self.candidates(docs, None)))
        probabilities = output.logits.float().sigmoid().cpu().numpy()
        starts, ends = output.spans.starts.cpu().numpy(), output.spans.ends.cpu().numpy()
        kept = (probabilities >= self.settings["threshold"]) & may_be_spans(docs, starts, ends)
        words, vectors = Words(*(part.cpu() for part in output.words)), output.vectors.float().cpu()
        found = []
        for rows, firsts, stops in per_document(output.spans, [len(doc) for doc in docs]):
            own = np.flatnonzero(kept[rows])
            of_batch = torch.from_numpy(own + (rows.start or 0))
            mentions = Found(firsts[own], stops[own], words.rows(of_batch), vectors[of_batch])
            found.append((mentions, probabilities[of_batch.numpy()]))
        return found

    def _cluster(self, head: OnlineCoref, found: Scored) -> Clusters:
        if not isinstance(head, AntecedentCoref):
            return self._follow(found, self._memory(head))
        mentions, scores = found
        return Clusters(mentions.starts, mentions.ends, link_mentions(head, mentions, new=self.settings["new"]), scores)

    def _follow(self, found: Scored, memory: EntityMemory, *, first: int = 0) -> Clusters:
        mentions, scores = found
        placed = mentions._replace(starts=mentions.starts + first, ends=mentions.ends + first)
        return Clusters(mentions.starts, mentions.ends, memory.follow(placed), scores)

    def annotate(self, doc: Doc, prediction: Any) -> None:
        """Write one document's clusters, numbered in the order of their first mentions."""
        groups = group_mentions(prediction.entities, singletons=self.settings["singletons"])
        self._write(doc, prediction, {int(prediction.entities[group[0]]): n for n, group in enumerate(groups, start=1)})

    def _write(self, doc: Doc, found: Clusters, numbers: Mapping[int, int]) -> None:
        """Write clusters under the numbers of their entities; those without one are left out."""
        for key in cluster_keys(doc):
            del doc.spans[key]
        order = np.argsort(found.entities, kind="stable")
        edges = np.searchsorted(found.entities[order], [[entity, entity + 1] for entity in numbers]).reshape(-1, 2)
        for number, (low, high) in zip(numbers.values(), edges.tolist(), strict=True):
            rows = order[low:high]
            spans = SpanPrediction(found.starts[rows], found.ends[rows], [""] * len(rows), found.scores[rows])
            write_group(doc, f"{PREFIX}_{number}", spans)
        if not numbers:  # says that there are none, and not that nobody looked
            nothing = np.zeros(0, dtype=np.int64)
            write_group(doc, f"{PREFIX}_1", SpanPrediction(nothing, nothing, [], np.zeros(0, dtype=np.float32)))
