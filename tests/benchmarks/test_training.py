from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import DocBin, Span
from spacy.training import Corpus, Example
from spacy.util import load_model_from_config, registry

from entitykit.benchmarks import injection, mentions, ner, relation_documents, relation_pairs, relations, training
from entitykit.benchmarks.parts import Settings
from entitykit.benchmarks.pipelines import give_tokens, read_config
from entitykit.benchmarks.pretrained import pretrained_checkpoint
from entitykit.benchmarks.table import run_benchmark
from entitykit.benchmarks.training import Task, run_seeds, spacy_train, work_folder, write_docs
from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.components.ner import THRESHOLDS
from entitykit.components.relations import Relations
from entitykit.corpora.clusters import PREFIX
from entitykit.corpora.given import given_clusters, given_mentions
from entitykit.errors import ConfigError, InputError
from entitykit.models.encoder.settings import Injection


@pytest.mark.parametrize("key", ["conll04_ner_f1", "conll04_spert", "scierc_spacy_ner", "wnut17_spacy_spancat"])
def test_every_system_trains_and_is_scored(key: str, settings: Settings, in_process: list[Path]) -> None:
    report = run_benchmark("ner", settings, only=[key])
    assert 0 <= report.figures[key].value <= 1
    assert report.settings[key]["max_steps"] == 2
    assert report.settings[key]["seeds"]["0"]["minutes"] >= 0
    assert len(in_process) == 1


def test_the_threshold_is_chosen_on_dev(settings: Settings, in_process: list[Path]) -> None:
    keys = ["wnut17_ner_f1", "wnut17_ner_calibrated_f1"]
    report = run_benchmark("ner", settings, only=keys)
    assert list(report.figures) == keys
    outcome = report.settings[keys[0]]["seeds"]["0"]
    assert [report.figures[key].value for key in keys] == [outcome["ents_f"], outcome["calibrated_f"]]
    assert outcome["threshold"] in THRESHOLDS
    assert len(in_process) == 1


@pytest.mark.parametrize("form", ["_published", "_luke", "_luke_markers", "_enrico", "_enrico_joint_unrefined"])
def test_entities_and_relations(form: str, settings: Settings, in_process: list[Path]) -> None:
    keys = [f"conll04_ner_f1{form}", f"conll04_rel_f1{form}"]
    report = run_benchmark("relations", settings, only=keys)
    assert all(0 <= report.figures[key].value <= 1 for key in keys)
    assert report.settings[keys[1]]["max_steps"] == 2
    assert len(in_process) == 1


@pytest.mark.parametrize("form", ["", "_enrico_joint"])
def test_one_training_is_decoded_in_all_ways(form: str, settings: Settings, in_process: list[Path]) -> None:
    """As the figure says; entities of a joint head, too."""
    decoded: list[tuple[str, bool]] = []
    original = Relations._decode

    def watched(self: Relations, *args: Any) -> Any:
        way = self.settings["decoder"], bool(self.rules.schema.relations)
        if decoded[-1:] != [way]:
            decoded.append(way)
        return original(self, *args)

    keys = list(relations.FIGURES["conll04", form])
    assert {f"conll04_rel_f1{form}{way}" for way in ("", "_exact", "_beam", "_no_schema")} <= set(keys)
    assert ("conll04_ner_f1_enrico_joint_beam" in keys) == (form == "_enrico_joint")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Relations, "_decode", watched)
        report = run_benchmark("relations", settings, only=keys)
    assert all(0 <= report.figures[key].value <= 1 for key in keys)
    outcome = report.settings[f"conll04_rel_f1{form}"]["seeds"]["0"]
    assert {f"{way}{score}" for way in ("", "exact_", "beam_", "no_schema_") for score in relations.SCORES} < set(outcome)
    given = f"conll04_rel_f1{form}_gold"
    assert (given in keys) == ("gold_rel_strict_f" in outcome) == (form == "")
    if form == "":
        assert outcome["gold_rel_entities_r"] == 1.0  # the pipeline had the gold entities, and no others
        assert report.figures[given].value == outcome["gold_rel_strict_f"]
    ways = [("greedy", True), ("beam", True), ("exact", True), ("greedy", False), ("greedy", True)]
    assert (len(in_process), decoded) == (1, ways if form == "" else ways[:-1])


def test_relations_of_given_pairs(settings: Settings, in_process: list[Path]) -> None:
    report = run_benchmark("relations", settings, only=[relation_pairs.KEY])
    outcome = report.settings[relation_pairs.KEY]["seeds"]["0"]
    assert set(outcome) == {*relation_pairs.SCORES, "minutes"}
    assert report.figures[relation_pairs.KEY].value == outcome["rel_pair_macro_f"]
    assert len(in_process) == 1


def test_given_pairs_are_all_that_is_related(settings: Settings, tmp_path: Path) -> None:
    """Both directions of it, wherever the entities stand; nothing of the rest of the sentence."""
    train, shown, test = relation_pairs.prepare(replace(settings, quick=False), tmp_path)
    vocab = spacy.blank("en").vocab
    docs = [list(DocBin().from_disk(path).get_docs(vocab)) for path in (train, shown, test)]
    assert [len(part) for part in docs] == [8, 8, 8]
    assert [[ent.text for ent in doc.ents] for doc in docs[0][:3]] == [
        ["Ada", "London"],
        ["Ada", "London"],
        ["Babbage", "Turin"],
    ]
    labels = [[relation["label"] for relation in doc.user_data["relations"]] for doc in docs[2][:3]]
    assert labels == [["Was-In"], [], ["Was-In"]]
    nlp = load_model_from_config(read_config(settings, "relation_pairs").interpolate(), auto_fill=True)
    examples = list(given_mentions(Corpus(test), "sc")(nlp))
    nlp.initialize(lambda: examples)
    pipe = nlp.get_pipe("entitykit_relations")
    pairs = pipe.candidates([eg.predicted for eg in examples], None)  # type: ignore[attr-defined]
    assert len(pairs.heads) == 2 * len(examples)


def test_nested_arguments_are_both_given(settings: Settings, tmp_path: Path) -> None:
    """As TACRED has some; by the readers of the config."""
    config = read_config(settings, "relation_pairs")
    nlp = load_model_from_config(config.interpolate(), auto_fill=True)
    doc = nlp.make_doc("the mayor of New York")
    doc.spans["sc"] = [Span(doc, 0, 5, label="PERSON"), Span(doc, 3, 5, label="CITY")]
    doc.set_ents([doc.spans["sc"][0]])
    doc.user_data["relations"] = [{"head": [0, 5], "tail": [3, 5], "label": "mayor_of"}]
    config["paths"] = dict.fromkeys(("train", "dev"), str(write_docs(tmp_path / "x.spacy", [doc], user_data=True)))
    examples = list(registry.resolve({"readers": config.interpolate()["corpora"]})["readers"]["train"](nlp))
    nlp.initialize(lambda: examples)
    pairs = nlp.get_pipe("entitykit_relations").candidates([eg.predicted for eg in examples], None)  # type: ignore[attr-defined]
    assert (pairs.starts.tolist(), pairs.ends.tolist(), len(pairs.heads)) == ([0, 3], [5, 5], 2)


@pytest.mark.parametrize("keys", [relation_documents.KEYS, relation_documents.TOKEN_KEYS])
def test_relations_of_documents(settings: Settings, in_process: list[Path], keys: tuple[str, ...]) -> None:
    report = run_benchmark("relations", settings, only=keys)
    assert all(0 <= report.figures[key].value <= 1 for key in keys)
    assert set(report.settings[keys[0]]["seeds"]["0"]) == {*relation_documents.SCORES, "minutes"}
    assert len(in_process) == 1


def test_mentions_of_documents_have_tokens(settings: Settings, tmp_path: Path) -> None:
    """Those of all clusters, from the reader that gives them."""
    config = read_config(settings, "relations_document")
    give_tokens(config, settings, [f"{PREFIX}_*"])
    nlp = load_model_from_config(config.interpolate(), auto_fill=True)
    examples = list(given_clusters(Corpus(relation_documents.prepare(settings, tmp_path)[0]))(nlp))
    nlp.initialize(lambda: examples)
    doc = examples[0].predicted
    expected = {(span.start, span.end) for name, group in doc.spans.items() if name.startswith(PREFIX) for span in group}
    found = nlp.get_pipe("entitykit_encoder").predict([doc]).states.entities  # type: ignore[attr-defined]
    assert set(zip(found.spans.starts.tolist(), found.spans.ends.tolist(), strict=True)) == expected != set()
    assert len(found.states) == len(expected)


def test_the_split_of_documents() -> None:
    """By the titles alone."""
    nlp = spacy.blank("xx")
    docs = [nlp.make_doc("x") for _ in range(20)]
    for i, doc in enumerate(docs):
        doc.user_data["id"] = f"title {i}"
    train, test = relation_documents.split(docs, 5)
    again = relation_documents.split(docs[::-1], 5)
    assert (train, test) == again
    assert len(train) == 15
    assert {doc.user_data["id"] for doc in train + test} == {f"title {i}" for i in range(20)}


@pytest.mark.filterwarnings(r"ignore:\[W622\] 6 of 18")  # the articles do not name all entities
@pytest.mark.parametrize("data", ["wikinews", "gum"])
@pytest.mark.parametrize("form", ["", "_frozen_counts", "_cross", "_frequency", "_position"])
def test_salience(data: str, form: str, settings: Settings, in_process: list[Path]) -> None:
    keys = [f"{data}_{score}{form}" for score in ("f1", "auc", "ndcg")]
    report = run_benchmark("salience", settings, only=keys)
    assert all(0 <= report.figures[key].value <= 1 for key in keys)
    assert len(in_process) == (form in ("", "_cross"))


def test_cost_of_relations(settings: Settings) -> None:
    assert run_benchmark("relations", settings, only=["cost_over_ner"]).figures["cost_over_ner"].value > 0


@pytest.mark.parametrize("name", mentions.READERS)
def test_recall_of_mentions(name: str, settings: Settings, in_process: list[Path]) -> None:
    figures = run_benchmark("mentions", settings, only=[f"{name}_recall{at}" for at in mentions.RECALLS]).figures
    assert 0 <= figures[f"{name}_recall_at_0.2"].value <= figures[f"{name}_recall_at_0.3"].value
    assert figures[f"{name}_recall_at_0.3"].value <= figures[f"{name}_recall"].value <= 1


def test_what_a_user_types(settings: Settings, tmp_path: Path) -> None:
    """The one training here that runs in a process of its own."""
    config = read_config(settings, "ner")
    config["training"]["max_steps"] = 2
    config.to_disk(tmp_path / "ner.cfg")
    train, dev, _ = ner.prepare("conll04", settings, tmp_path)
    spacy_train(tmp_path / "ner.cfg", tmp_path / "output", {"paths.train": str(train), "paths.dev": str(dev)})
    assert spacy.load(tmp_path / "output" / "model-last").pipe_names == ["entitykit_encoder", "entitykit_ner"]


def test_training_that_fails_shows_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho the disk is full >&2\nexit 3\n", encoding="utf-8")
    python.chmod(0o755)
    monkeypatch.setattr(training.sys, "executable", str(python))
    with pytest.raises(ConfigError, match=r"(?s)E445.*exit code 3.*train.*--system\.seed 0.*the disk is full"):
        spacy_train(tmp_path / "ner.cfg", tmp_path, {"system.seed": "0"})


@pytest.fixture
def task(settings: Settings, tmp_path: Path) -> Task:
    corpora = ner.prepare("conll04", settings, tmp_path)
    return Task("conll04", read_config(settings, "ner"), *corpora, ["ents_f"])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the trainings; nothing is trained, and each gives its number as a score."""
    seeds: list[int] = []
    monkeypatch.setattr(training, "_train_and_score", lambda task, config, seed, work: _note(seeds, seed))
    return seeds


def _note(seeds: list[int], seed: int) -> dict[str, float]:
    seeds.append(seed)
    if seed == 13:
        raise OSError("cut off")
    return {"ents_f": float(len(seeds)), "minutes": 0.0}


def test_a_run_that_was_cut_off_goes_on(task: Task, calls: list[int], tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cut off"):
        run_seeds(task, Settings(seeds=(0, 13, 2)), tmp_path)
    outcomes = run_seeds(task, Settings(seeds=(0, 1, 2)), tmp_path)
    assert calls == [0, 13, 1, 2]
    assert {seed: outcome["ents_f"] for seed, outcome in outcomes.items()} == {"0": 1.0, "1": 3.0, "2": 4.0}


def test_what_else_is_measured_is_another_run(task: Task, calls: list[int], tmp_path: Path) -> None:
    """A result of before would lack it."""
    for other in (task, task._replace(scores=["ents_f", "ents_p"]), task._replace(measure=ner._score_calibrated), task):
        run_seeds(other, Settings(seeds=(0,)), tmp_path)
    assert calls == [0, 0, 0]


def test_another_config_or_corpus_is_another_run(task: Task, calls: list[int], tmp_path: Path) -> None:
    run_seeds(task, Settings(seeds=(0,)), tmp_path)
    run_seeds(task, Settings(seeds=(0,), max_steps=5), tmp_path)
    (doc,) = spacy.blank("en").pipe(["It rained."])
    doc.ents = []
    write_docs(task.test, [doc])
    run_seeds(task, Settings(seeds=(0,)), tmp_path)
    run_seeds(task, Settings(seeds=(0,), max_steps=5), tmp_path)
    assert len(calls) == 4


def test_figures_are_means_over_seeds(settings: Settings, calls: list[int]) -> None:
    full = replace(settings, quick=False, seeds=(5, 6))
    assert run_benchmark("ner", full, only=["conll04_ner_f1"]).figures["conll04_ner_f1"] == (1.5, 1.0, 2.0)


def test_work_folder_stays_only_where_it_is_given(tmp_path: Path) -> None:
    with work_folder(Settings(work=tmp_path / "work")) as given, work_folder(Settings()) as temporary:
        assert given.is_dir()
        assert temporary.is_dir()
    with work_folder(Settings(work=tmp_path / "work", quick=True)) as quick:
        assert quick != given
    assert given.is_dir()
    assert not temporary.exists()


def test_data_sets_are_read_as_they_are_published(settings: Settings, tmp_path: Path) -> None:
    full = replace(settings, quick=False)
    sizes = {}
    for name in ner.DATA:
        corpora = ner.prepare(name, full, tmp_path)
        docs = [list(DocBin().from_disk(path).get_docs(spacy.blank("en").vocab)) for path in corpora]
        sizes[name] = [len(part) for part in docs]
        assert [(ent.text, ent.label_) for ent in docs[2][0].ents][:2] == [("Ada", "person"), ("Lord Byron", "person")]
    assert sizes == {"conll04": [16, 8, 8], "scierc": [8, 8, 8], "wnut17": [8, 8, 8]}


def test_splits_of_documents(settings: Settings) -> None:
    full = replace(settings, quick=False)
    gum, litbank = mentions.read_gum(full), mentions.read_litbank(full)
    assert [[doc.user_data["id"] for doc in part] for part in gum] == [
        [f"GUM_news_{split}{i}" for i in range(2)] for split in ("train", "dev", "test")
    ]
    assert [len(part) for part in litbank] == [8, 1, 1]
    assert [part[0].user_data["id"] for part in litbank] == ["00_novel", "08_novel", "09_novel"]


@pytest.mark.parametrize("n_words", [1, 7, 9, 10, 100])
def test_cut_documents_keep_words_and_mentions(settings: Settings, n_words: int) -> None:
    doc = mentions.read_gum(settings).train[0]  # of sentences of 7 and 3 words
    pieces = list(mentions.cut(doc, n_words))
    assert [len(piece) for piece in pieces] == ([10] if n_words >= 10 else [7, 3])
    assert [token.text for piece in pieces for token in piece] == [token.text for token in doc]
    assert [(span.text, span.label_) for piece in pieces for span in piece.spans["sc"]] == [
        (span.text, span.label_) for span in doc.spans["sc"]
    ]


def test_missing_things(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"E444.*ner\.cfg"):
        run_benchmark("ner", Settings(configs=tmp_path / "nowhere"), only=["conll04_ner_f1"])
    with pytest.raises(InputError, match=r"E440.*conll04/train"):
        run_benchmark("ner", Settings(encoder=settings.encoder, configs=settings.configs), only=["conll04_ner_f1"])
    (tmp_path / "empty").mkdir()
    empty = Settings(encoder=settings.encoder, configs=settings.configs, data=tmp_path / "empty")
    with pytest.raises(InputError, match=r"E441.*gum/dep"):
        run_benchmark("mentions", empty, only=["gum_recall"])


@pytest.mark.parametrize("form", [form for form in injection.FORMS if "third" not in form])  # which differ in a number
def test_every_form_of_entity_states_trains_and_is_scored(form: str, settings: Settings, in_process: list[Path]) -> None:
    """And is what its name says."""
    figures = run_benchmark("injection", settings, only=[f"conll04_{form}", f"litbank_{form}"]).figures
    assert all(0 <= figure.value <= 1 for figure in figures.values())
    assert len(in_process) == 2


def test_entity_tokens_are_trained_before_and_once(settings: Settings, in_process: list[Path], tmp_path: Path) -> None:
    path = pretrained_checkpoint(settings, tmp_path, layer=1)
    learned, begun = (
        load_checkpoint(name, word_shapes=None, n_layers=None, train_pieces=True, injection=Injection(inject_layer=1))[0]
        for name in (str(path), settings.encoder["name"])
    )
    assert learned.entities is not None
    assert begun.entities is not None
    titles = json.loads((path / "entity_vocab.json").read_text(encoding="utf-8"))
    assert {"Ada", "London", "Lord Byron", "1"} < titles.keys()
    assert len(learned.entities.ids.weight) == len(titles)
    assert not torch.equal(learned.entities.norm.weight, begun.entities.norm.weight)
    steps = (path.parent / "log.jsonl").read_text(encoding="utf-8")
    assert pretrained_checkpoint(settings, tmp_path, layer=1) == path
    assert (path.parent / "log.jsonl").read_text(encoding="utf-8") == steps


@pytest.mark.parametrize("form", ["gold", "gold_pooled"])
def test_gold_spans_are_all_that_is_named(
    form: str, settings: Settings, in_process: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[tuple[int, int]]] = []

    def evaluate(nlp: Language, examples: list[Example]) -> dict[str, float]:
        for eg in examples:
            if injection.GIVEN not in eg.predicted.spans:  # a look at the development part
                continue
            given = [(span.start, span.end) for span in eg.predicted.spans[injection.GIVEN]]
            doc = nlp.get_pipe("entitykit_ner")(nlp.get_pipe("entitykit_encoder")(eg.predicted))
            assert given == [(ent.start, ent.end) for ent in eg.reference.ents]
            found.append(given)
            assert {(ent.start, ent.end) for ent in doc.ents} <= set(given)
        return {"ents_f": 0.5}

    monkeypatch.setattr(Language, "evaluate", evaluate)
    run_benchmark("injection", settings, only=[f"conll04_{form}"])
    assert any(found)
