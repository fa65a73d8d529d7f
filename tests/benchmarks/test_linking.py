from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc, Span
from thinc.api import Config

from entitykit.benchmarks import linking
from entitykit.benchmarks.link_data import (
    among_namesakes,
    build_kb,
    entities_of,
    examples_of,
    link_by,
    prepare_bc5cdr,
    prepare_elevant,
    prepare_wordnet,
)
from entitykit.benchmarks.parts import CONFIGS, Settings
from entitykit.benchmarks.table import run_benchmark
from entitykit.knowledge.candidates import AliasSource
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore

KB = [
    {"id": "1", "name": "bank", "aliases": ["bank"], "description": "land beside a river"},
    {"id": "2", "name": "bank", "aliases": ["bank"], "description": "a house that keeps money"},
    {"id": "3", "name": "dye", "aliases": ["dye"], "description": "give a colour to cloth"},
]
USES = [("they sat on the bank", "bank", "1"), ("the bank lends at five percent", "bank", "2"), ("dye the cloth", "dye", "3")]

PUBTATOR = """{id}|t|Naloxone and clonidine.
{id}|a|Hypertension came back, and pain.
{id}\t0\t8\tNaloxone\tChemical\tD009270
{id}\t13\t22\tclonidine\tChemical\tD003000
{id}\t24\t36\tHypertension\tDisease\tD006973
{id}\t52\t56\tpain\tDisease\tD010146|D000001

"""


@pytest.fixture
def linked(settings: Settings) -> Settings:
    """Settings with a config for linking and the three kinds of data."""
    for name in ("linking", "linking_distilled", "linking_keywords", "reranker"):
        config = Config().from_disk(CONFIGS / f"{name}.cfg", interpolate=False)
        config["training"]["eval_frequency"] = 2
        if name == "reranker":
            config["components"]["entitykit_reranker"]["model"] |= {"context_pieces": 64, "entity_pieces": 64}
        config.to_disk(settings.configs / f"{name}.cfg")
    data = settings.data
    assert data is not None
    uses = [{"text": text, "start": text.index(m), "end": text.index(m) + len(m), "gold": id_} for text, m, id_ in USES]
    articles = [
        {"text": "Ada met Ada Byron.", "labels": [_label(0, 3, "Q1", "Ada Lovelace"), _label(8, 17, "Q1", "Ada Lovelace")]},
        {"text": "Turin is far.", "labels": [_label(0, 5, "Q2", "Turin")]},
    ]
    train, dev = (PUBTATOR.format(id=i) for i in ("7", "8"))
    for file, text in {
        "wordnet_linking/kb.jsonl": _lines(KB),
        **{f"wordnet_linking/{part}.jsonl": _lines(uses) for part in ("train", "dev")},
        **{f"elevant/{name}.benchmark.jsonl": _lines(articles) for name in ("news-fair-v2-no-coref", "spotlight")},
        "elevant/wiki-fair-v2-no-coref.benchmark.jsonl": _lines(articles[:1]),
        "bc5cdr_pubtator/CDR_TrainingSet.PubTator.txt": train + dev,
        "bc5cdr_pubtator/CDR_DevelopmentSet.PubTator.txt": dev,
        "bc5cdr_pubtator/CDR_TestSet.PubTator.txt": PUBTATOR.format(id="9"),
    }.items():
        (data / file).parent.mkdir(parents=True, exist_ok=True)
        (data / file).write_text(text, encoding="utf-8")
    return settings


def _lines(records: Sequence[Mapping[str, object]]) -> str:
    return "".join(f"{json.dumps(record)}\n" for record in records)


def _label(start: int, end: int, id_: str, name: str) -> dict[str, object]:
    return {"span": [start, end], "entity_id": id_, "name": name, "type": "Q5"}


def test_all_figures(linked: Settings, in_process: list[Path]) -> None:
    keys = [key for part in linking.PARTS if not part.on_request for key in part.keys]
    report = run_benchmark("linking", linked, only=keys)
    assert set(report.figures) == set(keys)
    figures = {key: figure.value for key, figure in report.figures.items()}
    assert all(0 <= value <= 1 for value in figures.values())
    assert figures["wordnet_recall64"] == figures["wordnet_untrained_recall64"] == 1.0  # there are three entities
    assert figures["wordnet_prior_acc"] == pytest.approx(2 / 3)  # one of two banks, and dye
    assert figures["bc5cdr_prior_acc"] == figures["bc5cdr_bm25_acc"] == 1.0
    assert (figures["newsfair_prior_f1"], figures["newsfair_mentions_r"]) == (1.0, 1.0)
    assert report.settings["wordnet_bi"]["seeds"]["0"]["cpu_minutes"] >= 0
    assert len(in_process) == 10  # without a work folder, what others go on from is trained for each


def test_what_was_trained_is_kept(linked: Settings, in_process: list[Path], tmp_path: Path) -> None:
    data = prepare_wordnet(linked, tmp_path)
    first = linking.wordnet_bi_encoder(linked, tmp_path, data, 0)
    assert linking.wordnet_bi_encoder(linked, tmp_path, data, 0) == first
    assert linking.wordnet_bi_encoder(linked, tmp_path, data, 1).path != first.path
    assert len(in_process) == 2
    nlp = spacy.load(first.path)
    scores = linking.score_linking(nlp, examples_of(data.test, nlp), linking.NAMESAKES)
    assert scores["linking_recall_at_64"] == 1.0


def test_documents_of_the_development_part_are_not_learned(linked: Settings, tmp_path: Path) -> None:
    data = prepare_bc5cdr(linked, tmp_path)
    assert data.details == {
        "entities": 3,
        "train_mentions": 3,
        "test_mentions": 3,
        "test_mentions_linked": 3,
        "test_mentions_in_kb": 3,
        "composite_mentions_left_out": 2,
    }


def test_entities_of_the_other_sets(linked: Settings, tmp_path: Path) -> None:
    data = prepare_elevant(linked, tmp_path, "wikifair")
    with EntityStore.open(data.kb) as store:
        entity = store.entity("Q1")
        assert entity is not None
        assert (entity.name, dict(entity.aliases)["Ada Byron"], entity.count) == ("Ada Lovelace", 2, 4)
    assert data.details["test_mentions_in_kb"] == data.details["test_mentions"] == 2


def test_the_same_knowledge_base_is_built_once(tmp_path: Path) -> None:
    entities = [Entity(id="Q1", name="Ada")]
    path = build_kb(entities, tmp_path, "kb")
    made = path.stat().st_mtime_ns
    assert build_kb(entities, tmp_path, "kb") == path
    assert path.stat().st_mtime_ns == made
    assert build_kb([*entities, Entity(id="Q2", name="Ada")], tmp_path, "kb") != path
    assert sorted(tmp_path.iterdir()) == sorted({path, *tmp_path.glob("kb-*")})


def test_entities_that_documents_link() -> None:
    doc = Doc(spacy.blank("en").vocab, words=["Ada", "met", "Ada", "and", "Lady", "Ada", "or", "Bob"])
    spans = [(0, 1, "Q1"), (2, 3, "Q1"), (4, 6, "Q1"), (7, 8, "NIL")]
    doc.set_ents([Span(doc, start, end, label="X", kb_id=id_) for start, end, id_ in spans])
    doc.spans["sc"] = list(doc.ents)  # the same mentions once more
    (entity,) = entities_of([doc])
    assert entity == Entity(id="Q1", name="Ada", aliases=(Alias("Ada", 2), Alias("Lady Ada", 1)), count=3)


def test_namesakes_and_links_by_name(linked: Settings, tmp_path: Path) -> None:
    data = prepare_wordnet(linked, tmp_path)
    examples = examples_of(data.test, spacy.blank("en"))
    with EntityStore.open(data.kb) as store:
        assert [eg.reference.ents[0].kb_id_ for eg in among_namesakes(examples, store)] == ["1", "2"]
        link_by(AliasSource(store), store, examples)
    assert [eg.predicted.ents[0].kb_id_ for eg in examples] == ["1", "1", "3"]
    assert [id_ for id_, _ in examples[0].predicted.ents[0]._.kb_ents] == ["1", "2"]
