"""`DecidingPipe`: what components share that choose among the candidates of a mention, with calibrated probabilities."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import srsly
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.bridge.link_texts import Place
from entitykit.components.kb import KBPipe
from entitykit.components.links import Linked, Scored, gold_links, mentions_of
from entitykit.decoding.calibration import Calibration, fit_calibration, probabilities


class DecidingPipe(KBPipe):
    """Links mentions that are there, in ``settings["mentions"]``; ``settings["threshold"]`` is the least probability of a link.

    A task adds the hook `score_mentions`.

    Args:
        *args: see `KBPipe`.
        **kwargs: see `KBPipe`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg |= {"temperature": 1.0, "nil": None}

    def score_mentions(self, docs: Sequence[Doc], places: Sequence[Place]) -> list[list[Scored]]:
        """Candidates of mentions; what is to become their probability is still a score."""
        raise NotImplementedError

    @property
    def calibration(self) -> Calibration:
        """How scores become probabilities."""
        return Calibration(self.cfg["temperature"], self.cfg["nil"])

    def mentions(self, docs: Sequence[Doc]) -> list[Place]:
        """The mentions of documents."""
        return [Place(i, *place) for i, doc in enumerate(docs) for place in mentions_of(doc, self.gold_key)]

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Link the mentions of documents, without changing them."""
        docs = list(docs)
        places = self.mentions(docs)
        return self.decide_all(len(docs), places, self.score_mentions(docs, places))

    def decide_all(self, n_docs: int, places: Sequence[Place], scored: Sequence[Sequence[Scored]]) -> list[list[Linked]]:
        """Decide mentions, and give those of each document."""
        found: list[list[Linked]] = [[] for _ in range(n_docs)]
        for place, own in zip(places, scored, strict=True):
            found[place.doc].append(self.decide(place, own))
        return found

    def decide(self, place: Place, scored: Sequence[Scored]) -> Linked:
        """Turn scores into probabilities, and choose."""
        found, nil = probabilities(np.array([each.probability for each in scored]), self.calibration)
        ranked = [each._replace(probability=float(p)) for each, p in zip(scored, found, strict=True)]
        ranked.sort(key=lambda each: (-each.probability, each.row))
        known = bool(ranked) and ranked[0].probability >= max(self.settings["threshold"], nil)
        return Linked(place.start, place.end, ranked, nil, ranked[0].id if known else "")

    def calibrate(self, examples: Iterable[Example]) -> Calibration:
        """Fit the temperature and, if there are mentions that are NIL, its score, so that probabilities mean what they say.

        Args:
            examples: not those of the training; their predicted documents have been read by the pipeline up to here. Mentions
                at the places of gold ones count.

        Returns:
            The calibration, which is saved with the pipeline.
        """
        examples = list(examples)
        links, _ = gold_links(examples, self.gold_key)
        there = [set(mentions_of(eg.predicted, self.gold_key)) for eg in examples]
        links = [link for link in links if link.place[1:] in there[link.place.doc]]
        scored = self.score_mentions([eg.predicted for eg in examples], [link.place for link in links])
        rows = self.store.rows([link.id for link in links]).tolist()
        gold = [next((i for i, each in enumerate(own) if each.row == row), -1) for own, row in zip(scored, rows, strict=True)]
        found = fit_calibration([np.array([each.probability for each in own]) for own in scored], gold)
        values = {"temperature": round(found.temperature, 6), "nil": None if found.nil is None else round(found.nil, 6)}
        self.cfg |= cast(dict[str, Any], srsly.json_loads(srsly.json_dumps(values)))  # as they are when they are loaded
        return self.calibration
