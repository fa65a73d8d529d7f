"""`entitykit_entqa`: finds and links mentions, entities first: those that a passage may name, then where it names them."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer, set_dropout_rate

from entitykit.bridge.entqa import Passage, PassageTexts
from entitykit.bridge.linking import Floats, LinkInput
from entitykit.bridge.listener import EncoderListener
from entitykit.bridge.texts import Ids
from entitykit.components.base import check_loss
from entitykit.components.gold import ENTS
from entitykit.components.indexed import IndexedPipe
from entitykit.components.links import gold_links
from entitykit.components.mentions import check_decoder
from entitykit.components.ner import FLAT
from entitykit.components.passages import LearnedPassage, learn_passages, reader_targets
from entitykit.decoding.entqa import Answers, choose_answers, find_answers, join_answers
from entitykit.decoding.spans import DECODERS
from entitykit.errors import error, warn
from entitykit.knowledge.candidates import search_alive
from entitykit.knowledge.entity_index import EntityIndex
from entitykit.models.bi_encoder import LinkOutput
from entitykit.models.entqa import reader_loss, retrieval_loss

_MANY = 2048  # entities whose reading takes so long that somebody should know
_BLOCK = 32  # passages that are read together with their candidates in prediction

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.EntQA.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "kb": None,
    "annotate": "ents",
    "spans_key": "sc",
    "label": "ENTITY",
    "candidates": 32,
    "threshold": 0.05,
    "max_words": 10,
    "n_best": 3,
    "decoder": "greedy",
    "negatives": 32,
    "hard": 4,
    "read": 8,
    "mine_every": 0,
    "index": "auto",
    "index_codes": "int8",
    "index_recall": 0.97,
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_entqa",
    assigns=["doc.ents", "doc.spans", "span._.kb_ents"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"linking_micro_f": 1.0, "linking_micro_p": 0.0, "linking_micro_r": 0.0},
)
def make_entqa(
    nlp: Language,
    name: str,
    model: Model[LinkInput, LinkOutput],
    kb: Any,
    annotate: str,
    spans_key: str,
    label: str,
    candidates: int,
    threshold: float,
    max_words: int,
    n_best: int,
    decoder: str,
    negatives: int,
    hard: int,
    read: int,
    mine_every: int,
    index: str,
    index_codes: str,
    index_recall: float,
    scorer: Callable[..., Any] | None,
) -> "EntQALinker":
    """Make the linker that finds entities first.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.EntQA.v1`.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
        annotate: what is learned and written: ``ents`` for ``doc.ents``, which are replaced; ``spans`` for a span group.
        spans_key: the span group.
        label: of the mentions that are found.
        candidates: entities that are read with each passage.
        threshold: least score p(start) p(end) p(entity) of a mention.
        max_words: words of the longest mention.
        n_best: most mentions of an entity in a passage.
        decoder: how mentions that overlap are chosen, see `entitykit.decoding.spans`: `greedy` or `exact_flat`, and any for
            a span group; those of one span are no different mentions.
        negatives: entities at random that each update learns against, beside those of all its passages.
        hard: wrong entities of each passage that the index ranks highest, once there is one.
        read: entities that are read with each passage in training: its own, and the wrong ones of the update that are
            nearest to it.
        mine_every: build the index anew after so many updates, for `hard` entities as the model now sees them; 0: never.
        index: kind of the index, see `entitykit.knowledge.index.VectorIndex`.
        index_codes: numbers of an inverted file: ``int8``, or ``pq``, which takes a quarter of the memory.
        index_recall: share of the 64 nearest entities that the index must find.
        scorer: scores examples.
    """
    settings = {
        "annotate": annotate,
        "spans_key": spans_key,
        "label": label,
        "candidates": candidates,
        "threshold": threshold,
        "max_words": max_words,
        "n_best": n_best,
        "decoder": decoder,
        "negatives": negatives,
        "hard": hard,
        "read": read,
        "mine_every": mine_every,
        "index": index,
        "index_codes": index_codes,
        "index_recall": index_recall,
    }
    return EntQALinker(nlp.vocab, model, name, settings=settings, kb=kb, scorer=scorer)


class Found(NamedTuple):
    """A mention that was found.

    Attributes:
        start: its first word.
        end: its end, exclusive.
        entities: ids of entities that it may name, with their scores, the best first.
    """

    start: int
    end: int
    entities: list[tuple[str, float]]


class EntQALinker(IndexedPipe):
    """Writes mentions with their ``kb_id_``, and ``span._.kb_ents``: pairs of id and score, the best first.

    Args:
        *args: see `IndexedPipe`.
        **kwargs: see `IndexedPipe`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._texts: PassageTexts = PassageTexts(self.model, self.name)
        self._n_updates = 0
        self._spare: tuple[tuple[str, int], EntityIndex] | None = None  # where none was built
        self._rows: tuple[int, Ids] | None = None

    def set_kb(self, kb: Any) -> None:
        """See `KBPipe`."""
        super().set_kb(kb)
        self._spare, self._rows = None, None

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        annotate = self.settings["annotate"]
        if annotate not in ("ents", "spans"):
            raise error("E109", name=self.name, setting="annotate", found=annotate, expected="ents or spans")
        check_decoder(self.settings["decoder"], self.name, FLAT if annotate == "ents" else DECODERS)
        self.check_index()
        self.check_least(candidates=1, max_words=1, n_best=1, read=1, negatives=0, hard=0, mine_every=0, threshold=0)

    @property
    def gold_key(self) -> str:
        """Where links are learned from and written to."""
        return ENTS if self.settings["annotate"] == "ents" else str(self.settings["spans_key"])

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Warn of gold links that cannot be found: to entities that are unknown, or of mentions that are too long."""
        super().learn_corpus(examples, settings)
        longest = self.settings["max_words"]
        widths = [link.place.end - link.place.start for link in gold_links(examples, self.gold_key)[0]]
        n_wide = sum(width > longest for width in widths)
        if n_wide:
            total, widest = len(widths), max(widths)
            warn("W604", n=n_wide, total=total, name=self.name, longest=longest, widest=widest, stacklevel=4)

    # Training

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn to find the entities of passages, and their mentions; the encoder gets the gradients of what it reads for both.

        Warns:
            W602 for gold mentions that are in no passage as a whole.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "EntQALinker.update")
        learned = self._learned(examples)
        if not learned:
            return losses
        if self.settings["mine_every"] and self._n_updates and self._n_updates % self.settings["mine_every"] == 0:
            self.build_index(quiet=True)
        self._n_updates += 1
        set_dropout_rate(self.model, drop)
        columns: list[int] = []
        texts: list[Ids] = []

        def choose(vectors: Floats) -> list[Ids]:
            columns.extend(self._columns(learned, vectors))
            texts.extend(self._texts.compose(self.store.entities(columns)).ids)
            return texts

        batch = self._texts.batch([eg.predicted for eg in examples], [each.passage for each in learned], choose)
        output, backprop = self.model.begin_update(cast(Any, batch))
        gold = torch.tensor([[row in each.gold for row in columns] for each in learned], device=output.logits.device)
        loss = retrieval_loss(output.logits, gold)
        value = check_loss(self.name, loss)
        backprop(loss)
        losses[self.name] += value + self._learn_to_read(learned, columns, texts, output.logits.detach())
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        return losses

    def _learned(self, examples: Sequence[Example]) -> list[LearnedPassage]:
        """Passages of annotated documents with the mentions of entities of the knowledge base."""
        known = list(zip(*self.known_links(examples), strict=True))
        passages = self._texts.passages([eg.predicted for eg in examples])
        learned, n_cut = learn_passages(examples, self.gold_key, passages, known)
        if n_cut:
            warn("W602", n=n_cut, total=len(known), name=self.name, stacklevel=4)
        return learned

    def _columns(self, learned: Sequence[LearnedPassage], vectors: Floats) -> list[int]:
        """Entities of an update: those of its passages, hard ones, and some at random."""
        rows = [row for each in learned for row in each.gold]
        n_hard = self.settings["hard"]
        index = self.own_index if n_hard else None
        if index is not None:
            most = max(len(each.gold) for each in learned)
            near = search_alive(self.store, index, vectors, n_hard + most)[1]
            for each, own in zip(learned, near, strict=True):
                rows += [row for row in own[own >= 0].tolist() if row not in each.gold][:n_hard]
        known = self._all_rows()
        rows += known[random.sample(range(len(known)), min(self.settings["negatives"], len(known)))].tolist()
        return list(dict.fromkeys(rows))

    def _all_rows(self) -> Ids:
        version = self.store.version
        if self._rows is None or self._rows[0] != version:
            self._rows = version, np.unique(np.fromiter((row for row, _ in self.store.names()), dtype=np.int64))
        return self._rows[1]

    def _learn_to_read(
        self, learned: Sequence[LearnedPassage], columns: Sequence[int], texts: Sequence[Ids], logits: torch.Tensor
    ) -> float:
        """Run the reader forward and backward on some passages after the other, as many as run through the encoder at once."""
        learns = any(node.learns for node in self.model.layers[0].walk() if isinstance(node, EncoderListener))
        nearest = logits.argsort(dim=1, descending=True, stable=True).tolist()
        chosen = [self._read_with(each, columns, order) for each, order in zip(learned, nearest, strict=True)]
        total = 0.0
        for block in self._blocks(learned, chosen, texts):
            pairs = [(learned[i].passage, texts[column]) for i in block for column in chosen[i]]
            output = self._texts.read_pairs(pairs, learns=learns, is_train=True)
            owners = [(n, learned[i], columns[column]) for n, i in enumerate(block) for column in chosen[i]]
            loss = reader_loss(output, reader_targets(owners, output.starts)) / len(learned)
            loss.backward()
            total += float(loss.detach())
        return total

    def _read_with(self, learned: LearnedPassage, columns: Sequence[int], nearest: Sequence[int]) -> list[int]:
        """Columns of the entities that are read with a passage: its own, all of them, and the wrong ones that are nearest."""
        own = [i for i in nearest if columns[i] in learned.gold]
        wrong = [i for i in nearest if columns[i] not in learned.gold]
        return own + wrong[: max(self.settings["read"] - len(own), 0)]

    def _blocks(
        self, learned: Sequence[LearnedPassage], chosen: Sequence[Sequence[int]], texts: Sequence[Ids]
    ) -> Iterator[list[int]]:
        """Numbers of passages that are read at once; those without an entity to read them with are left out."""
        block: list[int] = []
        total = 0
        for i, own in enumerate(chosen):
            size = sum(learned[i].passage.table.shape[1] + len(texts[column]) for column in own)
            if block and total + size > self._texts.reader.batch_pieces:
                yield block
                block, total = [], 0
            if own:
                block.append(i)
                total += size
        if block:
            yield block

    # Prediction

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Find and link the mentions of documents, without changing them."""
        docs = list(docs)
        passages = self._texts.passages(docs)
        parts: list[list[Answers]] = [[] for _ in docs]
        if not passages or not len(self.store):
            return [[] for _ in docs]
        vectors = self.model.predict(cast(Any, self._texts.batch(docs, passages, None))).mentions.cpu().numpy()
        with self.store.reading():
            near = search_alive(self.store, self._entity_index(), vectors, self.settings["candidates"])[1]
            chosen = [own[own >= 0] for own in near]
            rows = np.unique(np.concatenate(chosen))
            entities = self.store.entities(rows)
        texts = dict(zip(rows.tolist(), self._texts.compose(entities).ids, strict=True))
        for i in range(0, len(passages), _BLOCK):
            block = range(i, min(i + _BLOCK, len(passages)))
            for n, answers in zip(block, self._read(passages[i : i + _BLOCK], chosen[i : i + _BLOCK], texts), strict=True):
                parts[passages[n].doc].append(answers)
        ids = {row: entity.id for row, entity in zip(rows.tolist(), entities, strict=True)}
        decoder = DECODERS[self.settings["decoder"]]
        answered = (choose_answers(join_answers(own), decoder) for own in parts)
        return [[Found(each.start, each.end, [(ids[row], p) for row, p in each.entities]) for each in own] for own in answered]

    def _read(self, passages: Sequence[Passage], chosen: Sequence[Ids], texts: Mapping[int, Ids]) -> Iterator[Answers]:
        """Answers of passages, in words and rows."""
        pairs = [(passage, texts[row]) for passage, rows in zip(passages, chosen, strict=True) for row in rows.tolist()]
        if not pairs:
            yield from (join_answers([]) for _ in passages)
            return
        output = self._texts.read_pairs(pairs, learns=False, is_train=False)
        starts, ends, ranks = (tensor.float().cpu().numpy() for tensor in output)
        options = {key: self.settings[key] for key in ("max_words", "n_best", "threshold")}
        first = 0
        for passage, rows in zip(passages, chosen, strict=True):
            own, words = slice(first, first + len(rows)), slice(0, 1 + len(passage.firsts))
            first += len(rows)
            found = find_answers(starts[own, words], ends[own, words], ranks[own], **options)
            yield Answers(found.starts + passage.start, found.ends + passage.start, rows[found.entities], found.scores)

    def _entity_index(self) -> EntityIndex:
        """The index, or where there is none of this knowledge base one that is kept until weights or entities change.

        Warns:
            W603 if that takes long; see `current_index`, too.
        """
        index = self.current_index()
        if index is not None:
            return index
        key = self._texts.fingerprint(self.model), self.store.version
        if self._spare is None or self._spare[0] != key:
            if len(self.store) > _MANY:
                warn("W603", n=len(self.store), name=self.name, stacklevel=4)
            self._spare = key, self.make_index()
        return self._spare[1]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write mentions, in the place of those that are there."""
        for doc, found in zip(docs, scores, strict=True):
            spans = []
            for each in found:
                spans.append(Span(doc, each.start, each.end, label=self.settings["label"], kb_id=each.entities[0][0]))
                spans[-1]._.kb_ents = each.entities
            if self.settings["annotate"] == "ents":
                doc.set_ents(spans)
            else:
                key, attrs = self.gold_key, {"scores": [each.entities[0][1] for each in found]}
                doc.spans[key] = SpanGroup(doc, name=key, spans=spans, attrs=attrs)
