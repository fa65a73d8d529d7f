"""Rated entities of examples in the words of the predicted documents, and a reader that gives them to the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from spacy.language import Language
from spacy.tokens import Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example

from entitykit.bridge.salience import MentionedEntity
from entitykit.components.gold import places_in_predicted
from entitykit.components.grouping import name_of
from entitykit.scoring.salience_documents import SALIENCE, rated_entities

Corpus = Callable[[Language], Iterable[Example]]


class GoldEntity(NamedTuple):
    """A rated entity.

    Attributes:
        entity: its name and its mentions, in the words of the predicted document.
        grade: how much it matters.
    """

    entity: MentionedEntity
    grade: float


def gold_entities(eg: Example) -> tuple[list[GoldEntity], int]:
    """The rated entities of an example.

    Returns:
        Those with a mention that touches a predicted word, and the number of the others.

    Raises:
        InputError: E620 for ratings that cannot be read.
    """
    find = places_in_predicted(eg)
    found, n_lost = [], 0
    for rated in rated_entities(eg.reference, eg.reference.user_data.get(SALIENCE)) or ():
        places = sorted({place for start, end in rated.mentions if (place := find(start, end)) is not None})
        if places:
            name = name_of([eg.predicted[start:end] for start, end in places])
            found.append(GoldEntity(MentionedEntity(name, places), rated.score))
        else:
            n_lost += 1
    return found, n_lost


def given_entities(corpus: Corpus, prefix: str = SALIENCE) -> Corpus:
    """Wrap a reader, so that rating entities is scored without finding them; registered as ``entitykit.GivenEntities.v1``.

    Args:
        corpus: any reader.
        prefix: the mentions of each rated entity are put in the span groups ``{prefix}_1``, ``{prefix}_2`` … of predicted
            documents: give `entitykit_salience` the same as its `clusters`.
    """

    def read(nlp: Language) -> Iterator[Example]:
        for eg in corpus(nlp):
            give_entities(eg, prefix)
            yield eg

    return read


def give_entities(eg: Example, prefix: str = SALIENCE) -> None:
    """Put the rated entities of an example's reference on its predicted document; see `given_entities`."""
    for number, (entity, _) in enumerate(gold_entities(eg)[0], start=1):
        spans = [Span(eg.predicted, start, end) for start, end in entity.mentions]
        eg.predicted.spans[f"{prefix}_{number}"] = SpanGroup(eg.predicted, name=f"{prefix}_{number}", spans=spans)
