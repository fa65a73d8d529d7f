"""`entitykit_tracker`: what happens to the participants of a procedure, and where they are, as plain values in a grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.procedures import Procedure
from entitykit.bridge.tracker import ENTITY_FIRST, SHARED, ProcedureBatch, StepTexts, TrackerModel
from entitykit.components.base import TorchPipe, is_dummy
from entitykit.components.gold import GroupWatch, reference_spans
from entitykit.components.procedures import GoldProcedure, Sources, find_place, find_procedure, gold_procedure, place_keys
from entitykit.decoding.procedures import given_procedure, gold_grid
from entitykit.decoding.tracker import NOWHERE, TAGS, Track, make_chain, tags_of, track
from entitykit.errors import error, warn
from entitykit.models.tracker import TrackerOutput

BATCH_CELLS = 2**17
"""Words that are read for participants, and pairs of a moment and a place, that are scored at once."""

ANY_PLACES = "Raise max_place_words, or give such phrases as places"
GIVEN_PLACES = "Have such spans written under {key} (setting places), too, or leave places out, so that any phrase may be one"
"""What can be done against W612, the second where places are those of a group."""

FEWER_PARTICIPANTS = "Name the participants that matter in doc.user_data['procedure'], or raise max_cells"
FEWER_TEXTS = "Train it with input = 'one_pass', which reads a text once and not for each step, or raise max_cells"
"""What can be done against W613, the second where a text is read for each step."""

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.StateTracker.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "participants": ["participants", "mentions"],
    "steps": "steps",
    "places": None,
    "max_place_words": 4,
    "max_cells": 2**22,
    "scorer": {"@scorers": "entitykit.tracking_scorer.v1"},
}


@Language.factory(
    "entitykit_tracker",
    assigns=["doc._.entity_states"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"tracking_f": 1.0, "tracking_p": 0.0, "tracking_r": 0.0},
)
def make_tracker(
    nlp: Language,
    name: str,
    model: TrackerModel,
    participants: list[str],
    steps: str,
    places: str | None,
    max_place_words: int,
    max_cells: int,
    scorer: Callable[..., Any] | None,
) -> Tracker:
    """Make the tracker.

    ``doc.user_data["procedure"]`` of a document may name `participants` and have `steps`, starts and ends in characters; the
    settings say where to look for what is not given there.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.StateTracker.v1`.
        participants: span groups, or ``ents``: distinct phrases of the first that a document has are the participants.
        steps: a span group; a document that does not have it needs sentences, which are the steps then.
        places: a span group, or ``ents``, with what may be a place; none: any phrase that begins and ends with no function word
            of English.
        max_place_words: words of such a phrase at most.
        max_cells: of a document at most, which bounds time and memory: for each participant a cell for each moment and place,
            and for each word that is read. A participant has an eighth of them at most: places that are mentioned least often
            are left out, and then participants; a warning says how many. It does not hold in training.
        scorer: scores examples.
    """
    settings = {
        "participants": list(participants),
        "steps": steps,
        "places": places,
        "max_place_words": max_place_words,
        "max_cells": max_cells,
    }
    return Tracker(nlp.vocab, model, name, settings=settings, scorer=scorer)


class Tracker(TorchPipe):
    """Writes ``doc._.entity_states``, a dict of JSON values, see `as_json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for setting in ("max_place_words", "max_cells"):
            if self.settings[setting] < 1:
                raise error("E109", name=self.name, setting=setting, found=self.settings[setting], expected="at least 1")
        self._texts = StepTexts(self.model, self.name) if self.model.attrs["input"] != SHARED else None
        self._participants = GroupWatch(self.name, "participants", "; or name participants in doc.user_data['procedure']")
        self._places = GroupWatch(self.name, "places")

    @property
    def _sources(self) -> Sources:
        s = self.settings
        return Sources(tuple(s["participants"]), s["steps"], s["places"], s["max_place_words"])

    @property
    def _by_step(self) -> bool:
        return bool(self.model.attrs["input"] == ENTITY_FIRST)

    # Learning

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """The tags, which are the same for all."""
        return TAGS

    def learned_settings(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The tags in the order in which they are decoded."""
        # `initialize` has put there what it was given or has found, which is nothing where there are no examples
        self.cfg["labels"] = list(TAGS)
        return {"labels": list(TAGS)}

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Refuse a corpus without grids, and say how many gold places cannot be found.

        Warns:
            W612 for such places; where another component finds what may be a place, in the documents that it has seen.
        """
        if examples and not is_dummy(examples) and not any(gold_grid(eg.reference.user_data) for eg in examples):
            raise error("E106", name=self.name, keys='user_data["procedure"], ["propara"] or ["boxes"]')
        gold = [gold_procedure(eg, self._sources) for eg in examples]
        key = self.settings["places"]
        known = [key is None or reference_spans(eg.predicted, [key]) is not None for eg in examples]
        found = [place for each in compress(gold, known) for row in _choices(each) for place in row]
        if n := found.count(-1):
            advice = ANY_PLACES if key is None else GIVEN_PLACES.format(key=key)
            warn("W612", n=n, total=len(found), name=self.name, advice=advice, stacklevel=4)

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> Any:
        """The gold participants in training; else those that the documents have.

        Warns:
            W642 once, if the first documents have no group of places where the setting names one; and once, if the first that
            are given no participants have no group of these.
        """
        key = self.settings["places"]
        self._places.check(docs, [] if key is None else [key])
        if examples is None:
            alone = [doc for doc in docs if "participants" not in given_procedure(doc.user_data)]
            self._participants.check(alone, self.settings["participants"])
            return ProcedureBatch([self._find(doc) for doc in docs], self._texts)
        return ProcedureBatch([gold_procedure(eg, self._sources).procedure for eg in examples], self._texts)

    def _find(self, doc: Doc) -> Procedure:
        """A document's procedure, as much of it as may be followed.

        Warns:
            W613 if that is not all of it.
        """
        whole = find_procedure(doc, self._sources, self.name)
        found = whole.within(self.settings["max_cells"], by_step=self._by_step)
        if found is not whole:
            warn(
                "W613",
                name=self.name,
                n=len(whole.participants) - len(found.participants),
                total=len(whole.participants),
                n_places=len(whole.places) - len(found.places),
                total_places=len(whole.places),
                most=self.settings["max_cells"],
                advice=FEWER_TEXTS if self._by_step else FEWER_PARTICIPANTS,
                stacklevel=5,
            )
        return found

    def targets(self, examples: Sequence[Example], output: Any) -> tuple[Tensor, ...]:
        """What happens at each moment, the place, and whether it is asked for."""
        tags: list[int] = []
        places: list[int] = []
        happens: list[bool] = []
        for eg in examples:
            gold = gold_procedure(eg, self._sources)
            for row, states in zip(_choices(gold), gold.states or (), strict=True):
                own = tags_of(states)
                tags += [0, *(TAGS.index(tag) for tag in own)]
                places += row
                happens += [states[0] != NOWHERE, *(tag in ("C", "M") for tag in own)]
        device = output.tags.device
        return (
            torch.tensor(tags, dtype=torch.long, device=device),
            torch.tensor(places, dtype=torch.long, device=device),
            torch.tensor(happens, dtype=torch.bool, device=device),
        )

    # Predicting

    def predict(self, docs: Iterable[Doc]) -> list[Any]:
        """Follow each document's participants, without changing it."""
        docs = list(docs)
        procedures = self.candidates(docs, None).procedures
        tracks: list[list[Track]] = [[] for _ in docs]
        for group in self._groups(procedures):
            numbers, parts = zip(*group, strict=True)
            batch = ProcedureBatch(parts, self._texts)
            output = self.model.predict(HeadInput([docs[i] for i in numbers], batch))  # type: ignore[arg-type]
            found = self._tracks(output, parts)
            for i, part in group:
                tracks[i] += [next(found) for _ in part.participants]
        return [as_json(procedure, own) for procedure, own in zip(procedures, tracks, strict=True)]

    def _groups(self, procedures: Sequence[Procedure]) -> Iterator[list[tuple[int, Procedure]]]:
        """Documents' numbers with some of their participants, as many as are scored at once; none without participants."""
        group: list[tuple[int, Procedure]] = []
        size = 0
        for number, procedure in enumerate(procedures):
            each = procedure.cells(by_step=self._by_step)
            at_once = max(BATCH_CELLS // max(each, 1), 1)
            for first in range(0, len(procedure.participants), at_once):
                part = procedure.only(first, first + at_once)
                if group and size + each * len(part.participants) > BATCH_CELLS:
                    yield group
                    group, size = [], 0
                group.append((number, part))
                size += each * len(part.participants)
        if group:
            yield group

    def _tracks(self, output: TrackerOutput, procedures: Sequence[Procedure]) -> Iterator[Track]:
        """Decide for one participant after the other."""
        chain = make_chain(*(part.detach().float().cpu().numpy() for part in self.head.crf.scores()))
        tags, places = (part.float().cpu().numpy().astype(np.float64) for part in (output.tags, output.places))
        moment = cell = 0
        for procedure in procedures:
            n_moments, n_choices = procedure.n_moments, 2 + len(procedure.places)
            for _ in procedure.participants:
                rows = places[cell : cell + n_moments * n_choices].reshape(n_moments, n_choices)
                yield track(tags[moment + 1 : moment + n_moments], list(rows), procedure.names, chain)
                moment, cell = moment + n_moments, cell + rows.size

    def set_annotations(self, docs: Iterable[Doc], scores: Sequence[Any]) -> None:
        """Write grids."""
        for doc, states in zip(docs, scores, strict=True):
            doc._.entity_states = states


def as_json(procedure: Procedure, tracks: Sequence[Track]) -> dict[str, Any]:
    """What is written to a document.

    Args:
        procedure: with n_steps steps.
        tracks: of its participants.

    Returns:
        `participants`, their names; `mentions`, for each the starts and ends, in tokens, of what mentions it; `steps`, their
        starts and ends in tokens; `states`, for each participant where it is before the first and after every step: a place in
        the text, `?` where that is unknown, `-` where it does not exist; `tags`, for each what happens at every step (see
        `entitykit.decoding.tracker`), and `scores`, the probabilities of that; and `place_scores`, those of the states, or None
        where the participant does not exist.
    """
    return {
        "participants": [participant.name for participant in procedure.participants],
        "mentions": [[list(span) for span in participant.mentions] for participant in procedure.participants],
        "steps": [list(step) for step in procedure.steps],
        "states": [each.states for each in tracks],
        "tags": [each.tags for each in tracks],
        "scores": [each.tag_scores for each in tracks],
        "place_scores": [each.place_scores for each in tracks],
    }


def _choices(gold: GoldProcedure) -> list[list[int]]:
    """Numbers of the gold places among a moment's choices; -1 for those that are none of them."""
    if gold.states is None:
        return []
    keys = place_keys(gold.procedure)
    return [[find_place(state, keys) for state in row] for row in gold.states]
