"""`entitykit_salience`: how much each entity matters to a document, as plain values in ``doc._.salience``."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import math
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from thinc.api import Model, Optimizer, set_dropout_rate
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.salience import CrossModel, EntityTexts, MentionedEntity, is_cross_encoder, learn
from entitykit.components.base import TorchPipe, check_loss, is_dummy
from entitykit.components.gold import GroupWatch
from entitykit.components.grouping import SAME, EntityGroup, Grouping, group_entities, sentence_numbers
from entitykit.components.salience_gold import GoldEntity, gold_entities
from entitykit.corpora.clusters import PREFIX
from entitykit.errors import error, warn
from entitykit.scoring.salience import best_threshold
from entitykit.scoring.salience_documents import SALIENCE, compare_entities
from entitykit.types import EntityMentions

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.Salience.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "mentions": "ents",
    "clusters": "coref_clusters",
    "same": ["id", "name"],
    "ignore": [],
    "named": False,
    "highest": 1.0,
    "salient": 1.0,
    "graded": True,
    "threshold": None,
    "sample": 0,
    "scorer": {"@scorers": "entitykit.salience_scorer.v1"},
}


@Language.factory(
    "entitykit_salience",
    assigns=["doc._.salience"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"salience_f": 0.5, "salience_auc": 0.5, "salience_p": 0.0, "salience_r": 0.0, "salience_ndcg": 0.0},
)
def make_salience(
    nlp: Language,
    name: str,
    model: Model[Any, Any],
    mentions: str,
    clusters: str,
    same: list[str],
    ignore: list[str],
    named: bool,
    highest: float,
    salient: float,
    graded: bool,
    threshold: float | None,
    sample: int,
    scorer: Callable[..., Any] | None,
) -> "Salience":
    """Make the salience component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.Salience.v1` or `entitykit.SalienceCrossEncoder.v1`.
        mentions: see `Grouping`, like the next four.
        clusters: span groups that are entities.
        same: what makes names those of one entity.
        ignore: labels of names that are left out.
        named: leave out clusters without a name.
        highest: the highest grade that an entity can have in gold.
        salient: entities with at least this grade are salient.
        graded: learn the grade, over the highest one; otherwise whether an entity is salient.
        threshold: entities with at least this score are called salient; none: what `calibrate` has found, and before that one
            half or, if graded, `salient` over `highest` where that is less.
        sample: entities of a document that a cross-encoder learns from in an update, drawn at random; 0 for all.
        scorer: scores examples.
    """
    settings = {
        "mentions": mentions,
        "clusters": clusters,
        "same": list(same),
        "ignore": list(ignore),
        "named": named,
        "highest": highest,
        "salient": salient,
        "graded": graded,
        "threshold": threshold,
        "sample": sample,
    }
    return Salience(nlp.vocab, model, name, settings=settings, scorer=scorer)


class Salience(TorchPipe):
    """Writes ``doc._.salience``: a dict of JSON values for each entity, see `as_json`; the most salient one first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg |= {"threshold": None}
        self._check_settings()
        s = self.settings
        same, ignore = tuple(s["same"]), tuple(s["ignore"])
        self.grouping = Grouping(mentions=s["mentions"], clusters=s["clusters"], same=same, ignore=ignore, named=s["named"])
        watched, instead = ("mentions", "") if s["mentions"] else ("clusters", "; or set mentions to where the names are")
        self._groups = GroupWatch(self.name, watched, instead)
        self._texts = EntityTexts(cast(CrossModel, self.model), self.name) if is_cross_encoder(self.model) else None

    def _check_settings(self) -> None:
        s = self.settings
        expected = {
            "mentions": (bool(s["mentions"] or s["clusters"]), "a name, where clusters has none"),
            "same": (set(s["same"]) <= set(SAME), f"some of: {', '.join(SAME)}"),
            "named": (bool(s["mentions"]) or not s["named"], "false, where mentions has no name"),
            "highest": (s["highest"] > 0, "above 0"),
            "salient": (0 < s["salient"] <= s["highest"], "above 0, up to highest"),
            "threshold": (s["threshold"] is None or 0 <= s["threshold"] <= 1, "0 to 1, or none"),
            "sample": (s["sample"] >= 0, "at least 0"),
        }
        for setting, (is_fine, allowed) in expected.items():
            if not is_fine:
                raise error("E109", name=self.name, setting=setting, found=s[setting], expected=allowed)

    @property
    def threshold(self) -> float:
        """The least score of a salient entity."""
        s = self.settings
        usual = min(s["salient"] / s["highest"], 0.5) if s["graded"] else 0.5
        found: float | None = s["threshold"] if s["threshold"] is not None else self.cfg["threshold"]
        return usual if found is None else found

    # Learning

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """None: entities are rated, not labelled."""
        return ()

    def learned_settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """What is expected of an entity before anything is known.

        There must be something to learn; how many rated entities the texts do not name is said.

        Raises:
            ConfigError: E106 without ratings.
            InputError: E620 for ratings that cannot be read, E622 for a grade above the highest.
        """
        if examples and not is_dummy(examples) and all(SALIENCE not in eg.reference.user_data for eg in examples):
            raise error("E106", name=self.name, keys='user_data["salience"]')
        targets, n_lost = [], 0
        for eg in examples:
            gold, lost = gold_entities(eg)
            targets += self._targets(gold)
            n_lost += lost
        if n_lost:
            warn("W622", name=self.name, n=n_lost, total=len(targets) + n_lost, stacklevel=4)
        return {"prior": sum(targets) / len(targets)} if targets else {}

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> EntityMentions:
        """Rated entities in training, else those that documents have."""
        if examples is None:
            return pack_entities(docs, [self.find(doc) for doc in docs])
        return pack_entities(docs, [[gold.entity for gold in gold_entities(eg)[0]] for eg in examples])

    def targets(self, examples: Sequence[Example], output: Any) -> tuple[Tensor, ...]:
        """What the probability of each rated entity should be."""
        found = [target for eg in examples for target in self._targets(gold_entities(eg)[0])]
        return (torch.tensor(found, device=output.logits.device),)

    def _targets(self, gold: Iterable[GoldEntity]) -> list[float]:
        s, found = self.settings, []
        for _, grade in gold:
            if not grade <= s["highest"]:
                raise error("E622", name=self.name, found=grade, highest=s["highest"])
            found.append(grade / s["highest"] if s["graded"] else float(grade >= s["salient"]))
        return found

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn from the rated entities of a batch."""
        if self._texts is None:
            return super().update(examples, drop=drop, sgd=sgd, losses=losses)
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "Salience.update")
        gold = [self._draw(gold_entities(eg)[0]) for eg in examples]
        if not any(gold):
            return losses
        set_dropout_rate(self.model, drop)
        docs = [eg.predicted for eg in examples]
        entities = self._texts.input(docs, [[each.entity for each in own] for own in gold])
        loss = learn(cast(CrossModel, self.model), docs, entities, [target for own in gold for target in self._targets(own)])
        check_loss(self.name, loss)
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        losses[self.name] += loss
        return losses

    def _draw(self, gold: list[GoldEntity]) -> list[GoldEntity]:
        n = self.settings["sample"]
        return random.sample(gold, n) if n and len(gold) > n else gold

    def calibrate(self, examples: Iterable[Example]) -> float:
        """Find the threshold that gives the best F1, and keep it.

        Args:
            examples: other than those of the training; their predicted documents have what components before this one write.

        Returns:
            The threshold, which is used where the setting is none.

        Raises:
            InputError: E620 for ratings that cannot be read.
            ConfigError: E623 if no salient entity is found, so that no threshold is better than another.
        """
        examples = list(examples)
        docs = [eg.predicted for eg in examples]
        self.set_annotations(docs, self.predict(docs))
        compared = [each for each in map(compare_entities, examples) if each is not None]
        gold, predicted = [each.grades for each in compared], [each.scores for each in compared]
        salient = self.settings["salient"]
        threshold = best_threshold(gold, predicted, salient=salient)
        if not math.isfinite(threshold):
            n = sum(grade >= salient for grades in gold for grade in grades)
            raise error("E623", name=self.name, n=n, salient=salient)
        self.cfg["threshold"] = threshold
        return threshold

    # Predicting

    def find(self, doc: Doc) -> list[EntityGroup]:
        """The entities of a document."""
        return group_entities(doc, self.grouping)

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Score each document's entities, without changing it.

        Warns:
            W104 for empty spans, which are left out. W642 once, if the first documents have nothing that may be an entity, see
            docs/salience.md.
        """
        docs = list(docs)
        found = [self.find(doc) for doc in docs]
        self._groups.check(docs, self._watched())
        if self._texts is None:
            logits = self.model.predict(HeadInput(docs, pack_entities(docs, found))).logits
        elif any(found):
            named = [[MentionedEntity(group.name, group.mentions) for group in own] for own in found]
            logits = cast(CrossModel, self.model).predict(self._texts.input(docs, named))
        else:
            return [[] for _ in docs]
        scores = iter(logits.float().sigmoid().cpu().tolist())
        return [as_json([(group, next(scores)) for group in own], self.threshold) for own in found]

    def _watched(self) -> list[str]:
        """Groups of which documents should have one.

        None where entities are the clusters of coreference alone: not every such component writes a group where it finds none.
        """
        mentions, clusters = self.grouping.mentions, self.grouping.clusters
        if not mentions and clusters == PREFIX:
            return []
        return [*([mentions] if mentions else []), *([f"{clusters}_*"] if clusters else [])]

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write how much entities matter."""
        for doc, values in zip(docs, scores, strict=True):
            doc._.salience = values

    def scorer_arguments(self) -> dict[str, Any]:
        """From which grade, and which score, entities are salient."""
        return {"salient": self.settings["salient"], "threshold": self.threshold}

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "Salience":
        """Read what `to_disk` wrote."""
        super().from_disk(path, exclude=exclude)
        if self._texts is not None:
            self._texts.forget()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "Salience":
        """Read what `to_bytes` gave."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        if self._texts is not None:
            self._texts.forget()
        return self


def pack_entities(docs: Sequence[Doc], entities: Sequence[Sequence[EntityGroup | MentionedEntity]]) -> EntityMentions:
    """Lay the entities of documents end to end.

    Args:
        docs: the documents.
        entities: of each document, each with a mention at least.
    """
    words = np.cumsum([0, *(len(doc) for doc in docs)])
    places: list[tuple[int, int]] = []
    rows: list[int] = []
    n = n_sentences = 0
    sentences = [np.zeros(0, dtype=np.int64)]
    for first, doc, own in zip(words.tolist(), docs, entities, strict=False):
        for entity in own:
            places += [(first + start, first + end) for start, end in entity.mentions]
            rows += [n] * len(entity.mentions)
            n += 1
        numbers = sentence_numbers(doc) + n_sentences
        sentences.append(numbers)
        n_sentences = int(numbers[-1]) + 1 if len(numbers) else n_sentences
    table = torch.tensor(places, dtype=torch.long).reshape(-1, 2)
    of_words = torch.from_numpy(np.concatenate(sentences))
    return EntityMentions(table[:, 0], table[:, 1], torch.tensor(rows, dtype=torch.long), of_words)


def as_json(scored: Iterable[tuple[EntityGroup, float]], threshold: float) -> list[dict[str, Any]]:
    """What is written to a document.

    Args:
        scored: entities and their scores.
        threshold: the least score of a salient one.

    Returns:
        For each entity `entity`, its name; `label` of its names, or empty; `mentions`, starts and ends in tokens; `id`, if it
        is linked; `score`, from 0 to 1; and whether it is `salient`. By score; equal ones by their first mentions.
    """
    ordered = sorted(scored, key=lambda each: (-each[1], each[0].mentions[0]))
    return [
        {
            "entity": group.name,
            "label": group.label,
            "mentions": [list(place) for place in group.mentions],
            **({"id": group.id} if group.id else {}),
            "score": float(score),
            "salient": score >= threshold,
        }
        for group, score in ordered
    ]
