"""Steps and participants on the predicted documents, so that tracking is trained and scored without finding them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from spacy.language import Language
from spacy.training import Example

from entitykit.decoding.procedures import PROCEDURE, gold_grid

Corpus = Callable[[Language], Iterable[Example]]


def given_procedures(corpus: Corpus) -> Corpus:
    """Wrap a reader, registered as ``entitykit.GivenProcedures.v1``.

    Args:
        corpus: any reader whose references have grids in ``doc.user_data``, see `entitykit.decoding.procedures`.
    """

    def read(nlp: Language) -> Iterator[Example]:
        for eg in corpus(nlp):
            yield give_procedure(eg)

    return read


def give_procedure(eg: Example) -> Example:
    """Give the predicted document of an example the steps and participants of the reference, not their states."""
    grid = gold_grid(eg.reference.user_data)
    if grid is not None:
        steps = [list(step) for step in grid["steps"]]
        eg.predicted.user_data[PROCEDURE] = {"participants": list(grid["participants"]), "steps": steps}
    return eg
