"""`KBPipe`: what components share that choose among entities of a knowledge base, with calibrated probabilities."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import srsly
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.bridge.link_texts import Place
from entitykit.components.base import TorchPipe
from entitykit.components.gold import NIL
from entitykit.components.links import GoldLink, Linked, Scored, gold_links, mentions_of, register_links
from entitykit.components.with_kb import WithKB
from entitykit.decoding.calibration import Calibration, fit_calibration, probabilities
from entitykit.errors import error, warn


class KBPipe(WithKB, TorchPipe):
    """A trainable component that links mentions to entities of a knowledge base.

    A task adds two hooks: `check_settings` and `score_mentions`. Settings have ``mentions``, ``ents`` or a span group, and a
    ``threshold``, the least probability of a link.

    Args:
        *args: see `TorchPipe`.
        kb: see `set_kb`; or none.
        **kwargs: see `TorchPipe`.
    """

    def __init__(self, *args: Any, kb: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cfg |= {"temperature": 1.0, "nil": None}
        self.check_settings()
        register_links()
        self.begin_kb(kb)

    # The hooks

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        raise NotImplementedError

    def score_mentions(self, docs: Sequence[Doc], places: Sequence[Place]) -> list[list[Scored]]:
        """Candidates of mentions; what is to become their probability is still a score."""
        raise NotImplementedError

    # What it works with

    def check_least(self, **least: float) -> None:
        """Refuse settings that are below the least that they may be."""
        for setting, value in least.items():
            if self.settings[setting] < value:
                raise error("E109", name=self.name, setting=setting, found=self.settings[setting], expected=f"at least {value}")

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
        kb: Any = None,
    ) -> None:
        """Take the knowledge base and build the head.

        Args:
            get_examples: gives the training examples.
            nlp: the pipeline.
            labels: not used; entities are those of the knowledge base.
            kb: see `set_kb`; none: that of the config.

        Raises:
            ConfigError: E105 without an encoder, E538 without a knowledge base.
        """
        if kb is not None:
            self.set_kb(kb)
        _ = self.store
        super().initialize(get_examples, nlp=nlp, labels=[])

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Warn of gold links to entities that the knowledge base does not have."""
        links, _ = gold_links(examples, self.settings["mentions"])
        ids = [link.id for link in links if link.id not in ("", NIL)]
        missing = [id_ for id_, row in zip(ids, self.store.rows(ids).tolist(), strict=True) if row < 0]
        if missing:
            n, total = len(missing), len(ids)
            warn("W580", name=self.name, n=n, total=total, example=missing[0], path=self.store.folder, stacklevel=5)

    def known_links(self, examples: Sequence[Example]) -> tuple[list[GoldLink], list[int]]:
        """Gold mentions that link to entities of the knowledge base, and their rows.

        Warns:
            W101 for mentions that touch no word of the predicted documents.
        """
        links, n_lost = gold_links(examples, self.settings["mentions"])
        if n_lost:
            warn("W101", n=n_lost, stacklevel=4)
        links = [link for link in links if link.id not in ("", NIL)]
        rows = self.store.rows([link.id for link in links]).tolist()
        known = [(link, row) for link, row in zip(links, rows, strict=True) if row >= 0]
        return [link for link, _ in known], [row for _, row in known]

    # Deciding

    @property
    def calibration(self) -> Calibration:
        """How scores become probabilities."""
        return Calibration(self.cfg["temperature"], self.cfg["nil"])

    def mentions(self, docs: Sequence[Doc]) -> list[Place]:
        """The mentions of documents."""
        return [Place(i, *place) for i, doc in enumerate(docs) for place in mentions_of(doc, self.settings["mentions"])]

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Link the mentions of documents, without changing them."""
        docs = list(docs)
        places = self.mentions(docs)
        found: list[list[Linked]] = [[] for _ in docs]
        for place, scored in zip(places, self.score_mentions(docs, places), strict=True):
            found[place.doc].append(self.decide(place, scored))
        return found

    def decide(self, place: Place, scored: Sequence[Scored]) -> Linked:
        """Turn scores into probabilities, and choose."""
        found, nil = probabilities(np.array([each.probability for each in scored]), self.calibration)
        ranked = [each._replace(probability=float(p)) for each, p in zip(scored, found, strict=True)]
        ranked.sort(key=lambda each: (-each.probability, each.row))
        known = bool(ranked) and ranked[0].probability >= max(self.settings["threshold"], nil)
        return Linked(place.start, place.end, ranked, nil, ranked[0].id if known else "")

    def scorer_arguments(self) -> dict[str, Any]:
        """Where the mentions are."""
        key = self.settings["mentions"]
        return {"annotate": "ents"} if key == "ents" else {"annotate": "spans", "spans_key": key}

    def calibrate(self, examples: Iterable[Example]) -> Calibration:
        """Fit the temperature and, if there are mentions that are NIL, its score, so that probabilities mean what they say.

        Args:
            examples: not those of the training; their predicted documents have been read by the pipeline up to here. Mentions
                at the places of gold ones count.

        Returns:
            The calibration, which is saved with the pipeline.
        """
        examples = list(examples)
        links, _ = gold_links(examples, self.settings["mentions"])
        there = [set(mentions_of(eg.predicted, self.settings["mentions"])) for eg in examples]
        links = [link for link in links if link.place[1:] in there[link.place.doc]]
        scored = self.score_mentions([eg.predicted for eg in examples], [link.place for link in links])
        rows = self.store.rows([link.id for link in links]).tolist()
        gold = [next((i for i, each in enumerate(own) if each.row == row), -1) for own, row in zip(scored, rows, strict=True)]
        found = fit_calibration([np.array([each.probability for each in own]) for own in scored], gold)
        values = {"temperature": round(found.temperature, 6), "nil": None if found.nil is None else round(found.nil, 6)}
        self.cfg |= cast(dict[str, Any], srsly.json_loads(srsly.json_dumps(values)))  # as they are when they are loaded
        return self.calibration

    # Saving

    def restored(self) -> None:
        """Open the knowledge base where it was, unless the config has one; called when everything else was read."""
        self.restore_kb(self.cfg)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "KBPipe":
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one."""
        super().from_disk(path, exclude=exclude)
        self.restored()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "KBPipe":
        """Read what `to_bytes` gave; see `from_disk`."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        self.restored()
        return self
