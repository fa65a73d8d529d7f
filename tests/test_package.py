"""The installed package: its names are found without importing it, and they are pinned here."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

import entitykit

# A name in a saved config must mean the same for ever: add names here, never remove or change one.
REGISTERED = {
    "console_scripts": {"entitykit"},
    "spacy_factories": {
        "entitykit_coref",
        "entitykit_cross_document",
        "entitykit_dictionary",
        "entitykit_encoder",
        "entitykit_entqa",
        "entitykit_genre",
        "entitykit_keywords",
        "entitykit_linker",
        "entitykit_mention_pairs",
        "entitykit_mentions",
        "entitykit_ner",
        "entitykit_relations",
        "entitykit_reranker",
        "entitykit_tracker",
        "entitykit_salience",
    },
    "spacy_architectures": {
        "entitykit.BiEncoder.v1",
        "entitykit.Blink.v1",
        "entitykit.AntecedentCoref.v1",
        "entitykit.ClusterRelations.v1",
        "entitykit.MajorEntities.v1",
        "entitykit.OnlineCoref.v1",
        "entitykit.CrossDocument.v1",
        "entitykit.CrossEncoder.v1",
        "entitykit.EarlyLM.v1",
        "entitykit.EncoderListener.v1",
        "entitykit.EnriCo.v1",
        "entitykit.EntQA.v1",
        "entitykit.EntityEncoder.v1",
        "entitykit.Genre.v1",
        "entitykit.Keywords.v1",
        "entitykit.LukePair.v1",
        "entitykit.Salience.v1",
        "entitykit.SalienceCrossEncoder.v1",
        "entitykit.MentionPairs.v1",
        "entitykit.SpERT.v1",
        "entitykit.SpERTRelations.v1",
        "entitykit.SpanNER.v1",
        "entitykit.StateTracker.v1",
        "entitykit.ToMMeR.v1",
        "entitykit.TypedToMMeR.v1",
    },
    "spacy_readers": {
        "entitykit.AIDA.v1",
        "entitykit.BLINK.v1",
        "entitykit.Boxes.v1",
        "entitykit.CoNLL04.v1",
        "entitykit.CoNLL2012.v1",
        "entitykit.Columns.v1",
        "entitykit.Corpus.v1",
        "entitykit.Distilled.v1",
        "entitykit.DistilledLinks.v1",
        "entitykit.DocRED.v1",
        "entitykit.DyGIE.v1",
        "entitykit.ECBPlus.v1",
        "entitykit.Elevant.v1",
        "entitykit.GAP.v1",
        "entitykit.GENRE.v1",
        "entitykit.GUM.v1",
        "entitykit.GivenClusters.v1",
        "entitykit.GivenEntities.v1",
        "entitykit.GivenMentions.v1",
        "entitykit.GivenProcedures.v1",
        "entitykit.GivenSpeakers.v1",
        "entitykit.Hub.v1",
        "entitykit.Jsonl.v1",
        "entitykit.Layered.v1",
        "entitykit.Links.v1",
        "entitykit.LitBank.v1",
        "entitykit.NIF.v1",
        "entitykit.ProPara.v1",
        "entitykit.PubTator.v1",
        "entitykit.Salience.v1",
        "entitykit.SemEval2010Task8.v1",
        "entitykit.TACRED.v1",
        "entitykit.WordNetLinking.v1",
    },
    "spacy_scorers": {
        "entitykit.coref_scorer.v1",
        "entitykit.cross_document_scorer.v1",
        "entitykit.gap_scorer.v1",
        "entitykit.linking_scorer.v1",
        "entitykit.major_entities_scorer.v1",
        "entitykit.mentions_scorer.v1",
        "entitykit.ner_scorer.v1",
        "entitykit.relations_scorer.v1",
        "entitykit.tracking_scorer.v1",
        "entitykit.salience_scorer.v1",
    },
    "spacy_misc": {
        "entitykit.Augmenter.v1",
        "entitykit.EmptyKB.v1",
        "entitykit.Entities.v1",
        "entitykit.KB.v1",
        "entitykit.VectorTable.v1",
    },
    "spacy_batchers": {"entitykit.batch_by_value.v1"},
    "spacy_callbacks": {"entitykit.build_index.v1"},
    "thinc_optimizers": {"entitykit.AdamW.v1"},
}
ENTRY_POINTS = list(distribution("entitykit").entry_points)

ADD_PIPE = """
import sys
import spacy
assert not [name for name in sys.modules if name.partition(".")[0] == "entitykit"]
for name in sys.argv[1:]:
    nlp = spacy.blank("en")
    nlp.add_pipe(name)
    print(*nlp.pipe_names)
"""


def test_registered_names_are_pinned() -> None:
    found: dict[str, set[str]] = {}
    for entry_point in ENTRY_POINTS:
        found.setdefault(entry_point.group, set()).add(entry_point.name)
    assert found == REGISTERED


@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda entry_point: entry_point.name)
def test_registered_name_leads_to_a_function(entry_point: EntryPoint) -> None:
    assert callable(entry_point.load())


def test_pipes_are_added_without_importing_entitykit() -> None:
    names = sorted(REGISTERED["spacy_factories"])
    run = subprocess.run([sys.executable, "-c", ADD_PIPE, *names], capture_output=True, text=True, check=False)
    assert run.stdout.split() == names, run.stderr


def test_version_is_that_of_the_metadata() -> None:
    assert entitykit.__version__ == distribution("entitykit").version
    assert re.fullmatch(r"\d+\.\d+\.\d+", entitykit.__version__)


def test_changelog_describes_the_version() -> None:
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {entitykit.__version__}" in changelog


def test_package_is_typed() -> None:
    assert (Path(entitykit.__file__).parent / "py.typed").exists()
