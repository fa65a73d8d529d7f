"""WikiFair and NewsFair end to end with what the repository has: the default pipeline, and the linking head of the demo.

Mentions are the entities that the pipeline finds (`ner`), or the names of the knowledge base (`names`); the head chooses among
the entities that have the mention as a name. It has learned from descriptions, and here reads titles, because these knowledge
bases have no more. What makes a mention NIL is calibrated on the other set, with the other set's knowledge base.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import spacy
from spacy.language import Language
from spacy.training import Example

from entitykit.benchmarks.link_data import LinkData, examples_of, link_by, prepare_elevant
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, mean, progress
from entitykit.benchmarks.training import work_folder
from entitykit.corpora.elevant import OPTIONAL
from entitykit.decoding.calibration import Calibration
from entitykit.knowledge.candidates import AliasSource
from entitykit.knowledge.store import EntityStore
from entitykit.scoring.linking import linking_score

PIPELINE = "en_entitykit_sm"
HEAD = Path(__file__).parents[2] / "examples" / "heads" / "linker"
"""The head of the demo, which is in the repository and not in the installed package."""

SETS = ("wikifair", "newsfair")
FOUND = ("ner", "names")
LINKER = "entitykit_linker"


def linking_pipeline(kb: Path, found: str) -> Language:
    """The default pipeline with the demo's linker.

    Args:
        kb: folder of the knowledge base.
        found: where mentions come from, see `FOUND`.
    """
    nlp = spacy.load(PIPELINE, exclude=["doc_cleaner"])
    loader = {"@misc": "entitykit.KB.v1", "path": str(kb)}
    if found == "names":
        nlp.add_pipe("entitykit_dictionary", config={"kb": loader, "overwrite": True})
    config = json.loads((HEAD / "config.json").read_text(encoding="utf-8"))
    linker: Any = nlp.add_pipe(LINKER, config={**config, "kb": loader})
    linker.from_disk(HEAD)
    linker.build_index()  # of the entities' texts, so that none is read with each batch
    return nlp


class Linked(NamedTuple):
    """A set that was read.

    Attributes:
        examples: with what was found and linked.
        linker: the component.
        kb: the knowledge base.
    """

    examples: list[Example]
    linker: Any
    kb: Path

    def score(self, decide: Callable[[EntityStore], Mapping[str, Any]]) -> float:
        """InKB micro F1, strong, 0 where nothing is linked."""
        with EntityStore.open(self.kb, read_only=True) as store:
            return float(decide(store)["linking_micro_f"] or 0.0)

    def score_calibrated(self, calibration: Calibration) -> float:
        """Link anew with another calibration, and score."""
        self.linker.cfg |= calibration._asdict()
        for _ in self.linker.pipe(eg.predicted for eg in self.examples):
            pass
        return self.score(lambda store: linking_score(self.examples, optional_key=OPTIONAL, kb=store))

    def score_prior(self) -> float:
        """Link to what is named most often, and score."""
        return self.score(lambda store: link_by(AliasSource(store), store, self.examples, kb=store))


def read_set(data: LinkData, found: str) -> Linked:
    """Annotate the texts of a set."""
    nlp = linking_pipeline(data.kb, found)
    examples = examples_of(data.test, nlp, given=False)
    for eg, doc in zip(examples, nlp.pipe([eg.predicted for eg in examples]), strict=True):
        eg.predicted = doc
    return Linked(examples, nlp.get_pipe(LINKER), data.kb)


def measure_own(settings: Settings) -> Result:
    """Both sets, with mentions of both kinds; beside the head, what the alias table says of the pipeline's mentions."""
    figures: dict[str, Figure] = {}
    details: dict[str, Any] = {}
    with work_folder(settings) as work:
        data = {name: prepare_elevant(settings, work, name) for name in SETS}
        for found in FOUND:
            sets = {name: read_set(own, found) for name, own in data.items()}
            calibrations = {name: own.linker.calibrate(own.examples) for name, own in sets.items()}
            for name, other in (SETS, SETS[::-1]):
                figures[f"{name}_{found}_linker_f1"] = mean([sets[name].score_calibrated(calibrations[other])])
                details[f"{name}_{found}"] = calibrations[other]._asdict()
                if found == "ner":
                    figures[f"{name}_ner_prior_f1"] = mean([sets[name].score_prior()])
                progress(f"{name}, {found}: {details[f'{name}_{found}']}")
    return Result(figures, {"own": details})


PART = Part(
    tuple(f"{name}_{key}_f1" for name in SETS for key in ("ner_prior", *(f"{found}_linker" for found in FOUND))),
    measure_own,
    on_request=True,
)
"""On request, because the pipeline is a package of its own."""
