"""Speakers on the predicted documents: who says a word is known beforehand, as from a transcript, and not predicted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.errors import error

SPEAKERS = "speakers"

Corpus = Callable[[Language], Iterable[Example]]


def given_speakers(corpus: Corpus) -> Corpus:
    """Wrap a reader, registered as ``entitykit.GivenSpeakers.v1``.

    Args:
        corpus: any reader whose references may have speakers in ``doc.user_data``, as those of CoNLL-2012 and GUM leave them.
    """

    def read(nlp: Language) -> Iterator[Example]:
        for eg in corpus(nlp):
            yield give_speakers(eg)

    return read


def give_speakers(eg: Example) -> Example:
    """Give the words of the predicted document the speakers of the reference, each that of the first word that it touches.

    Raises:
        InputError: E646 if the reference has another number of speakers than words, or something else than names.
    """
    speakers = speakers_of(eg.reference)
    if speakers is not None:
        touched = (eg.alignment.x2y[token.i] for token in eg.predicted)
        eg.predicted.user_data[SPEAKERS] = [speakers[int(words[0])] if len(words) else "" for words in touched]
    return eg


def speakers_of(doc: Doc) -> list[str] | None:
    """The speakers of a document's words, empty where nobody speaks; None if it has no speakers.

    Raises:
        InputError: E646 if there are more or fewer of them than words, or something else than names.
    """
    given = doc.user_data.get(SPEAKERS)
    if given is None:
        return None
    names = [name or "" for name in given] if isinstance(given, (list, tuple)) else None
    if names is None:
        raise error("E646", found=type(given).__name__, n=len(doc))
    others = [name for name in names if not isinstance(name, str)]
    if others or len(names) != len(doc):
        found = f"{len(names)} values, {len(others)} of which are neither texts nor None"
        raise error("E646", found=found, n=len(doc))
    return names
