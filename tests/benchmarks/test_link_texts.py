"""WikiFair and NewsFair end to end: what is found is linked, thresholds come from the other set, nested labels cost nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import spacy

from entitykit.benchmarks import link_texts, linking
from entitykit.benchmarks.link_data import ELEVANT, LinkData, examples_of, link_by, prepare_elevant
from entitykit.benchmarks.parts import Settings
from entitykit.components.linker import Linker
from entitykit.decoding.calibration import Calibration
from entitykit.knowledge.candidates import AliasSource
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.pipelines import BI_ENCODER, OURS, encoder_config

Label = tuple[str, str, str]
"""Text of a mention, id and name of its entity."""

TURIN, ADA = ("Turin", "Q2", "Turin"), ("Ada", "Q1", "Ada Lovelace")
WIDE = ("Turin University", "Q3", "University of Turin")


def write(settings: Settings, **articles: list[tuple[str, list[Label]]]) -> None:
    assert settings.data is not None
    (settings.data / "elevant").mkdir(exist_ok=True)
    for name, file in ELEVANT.items():
        lines = []
        for text, labels in articles[name]:
            places = [(text.index(mention), text.index(mention) + len(mention)) for mention, _, _ in labels]
            found = [
                {"span": place, "entity_id": id_, "name": title, "type": "Q5"}
                for place, (_, id_, title) in zip(places, labels, strict=True)
            ]
            lines.append(json.dumps({"text": text, "labels": found}))
        (settings.data / file).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def own(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that finds every "Turin" and "Ada", and a head for it."""
    nlp = spacy.blank("en")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(tiny_bert))
    ruler = nlp.add_pipe("entity_ruler")
    nlp.add_pipe("doc_cleaner")
    nlp.initialize()
    ruler.add_patterns([{"label": "X", "pattern": [{"ORTH": name}]} for name in ("Turin", "Ada")])  # type: ignore[attr-defined]
    nlp.to_disk(tmp_path / "pipeline")
    monkeypatch.setattr(link_texts, "PIPELINE", str(tmp_path / "pipeline"))
    EntityStore.create(tmp_path / "kb").add([Entity(id="Q1", name="Ada"), Entity(id="Q2", name="Turin")])
    kb = {"@misc": "entitykit.KB.v1", "path": str(tmp_path / "kb")}
    config = {"model": BI_ENCODER | {"tok2vec": OURS, "mention": "state"}, "candidates": {"alias": 8, "dense": 0}}
    head = nlp.add_pipe("entitykit_linker", config={**config, "kb": kb})
    head.initialize(list, nlp=nlp)  # type: ignore[attr-defined]
    head.to_disk(tmp_path / "head")  # type: ignore[attr-defined]
    cfg = json.loads((tmp_path / "head" / "cfg.json").read_text(encoding="utf-8"))
    (tmp_path / "head" / "cfg.json").write_text(json.dumps({**cfg, "kb": None}), encoding="utf-8")
    (tmp_path / "head" / "config.json").write_text(json.dumps({**config, "kb": None}), encoding="utf-8")
    monkeypatch.setattr(link_texts, "HEAD", tmp_path / "head")


@pytest.mark.usefixtures("own")
def test_figures(settings: Settings) -> None:
    text = "Ada left Turin."
    both = [(text, [ADA, TURIN])]
    write(settings, wikifair=both, newsfair=[*both, ("Ada came to Turin.", [])], spotlight=both)
    result = link_texts.PART.measure(settings)
    assert set(result.figures) == set(link_texts.PART.keys)
    figures = {key: figure.value for key, figure in result.figures.items()}
    assert figures["wikifair_ner_prior_f1"] == figures["wikifair_ner_linker_f1"] == figures["wikifair_names_linker_f1"] == 1.0
    assert figures["newsfair_ner_prior_f1"] == pytest.approx(2 / 3)  # two links of the second text are wrong
    assert any(part is link_texts.PART for part in linking.PARTS)


@pytest.mark.usefixtures("own")
def test_what_is_nil_is_learned_from_the_other_set(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Ada left Turin."
    write(settings, wikifair=[(text, [ADA])], newsfair=[(text, [TURIN])], spotlight=[(text, [ADA, TURIN])])
    nothing, everything = Calibration(1.0, 1e9), Calibration(1.0, None)  # scores of NIL

    def calibrate(linker: Linker, examples: list[spacy.training.Example]) -> Calibration:
        (ent,) = examples[0].reference.ents
        return nothing if ent.kb_id_ == "Q1" else everything

    monkeypatch.setattr(Linker, "calibrate", calibrate)
    result = link_texts.measure_own(settings)
    assert result.figures["wikifair_ner_linker_f1"].value == pytest.approx(2 / 3)  # "Turin" is linked, too
    assert result.figures["newsfair_ner_linker_f1"].value == 0.0
    assert result.details["own"]["wikifair_ner"] == everything._asdict()


def test_labels_within_others_cost_nothing(settings: Settings, tmp_path: Path) -> None:
    """Whoever finds the inner of two labels, or the other of two in the same place, is not wrong; what has no label is."""
    university, turin = [WIDE, TURIN], [TURIN]
    text = "Ada left Turin University."
    write(settings, wikifair=[(text, university)], newsfair=[("Turin", turin)], spotlight=[("Ada", [ADA])])
    data = prepare_elevant(settings, tmp_path, "wikifair")
    assert precision(data, ["Turin"]) == (0, 0)
    assert precision(data, ["Turin", "Ada"]) == (0, 1)
    same = [TURIN, ("Turin", "Q9", "Turin the other")]
    for usual in same:
        write(settings, wikifair=[("Turin", same)], newsfair=[("Turin", turin)], spotlight=[("Turin", [usual])] * 2)
        data = prepare_elevant(settings, tmp_path, "wikifair")
        assert data.details["test_mentions"] == 1
        assert precision(data, ["Turin"])[1] == 0


def precision(data: LinkData, mentions: list[str]) -> tuple[int, int]:
    """Right and wrong links, where each of these words is linked to what it names most often."""
    nlp = spacy.blank("en")
    (eg,) = examples_of(data.test, nlp, given=False)
    starts = [(eg.predicted.text.index(m), m) for m in mentions]
    eg.predicted.ents = [eg.predicted.char_span(start, start + len(m), label="X") for start, m in starts]
    with EntityStore.open(data.kb, read_only=True) as store:
        scores = link_by(AliasSource(store), store, [eg], kb=store)
    p = scores["linking_micro_p"] or 0.0
    gold = {(ent.start, ent.kb_id_) for ent in eg.reference.ents}
    optional = {(span.start, span.end, span.kb_id_) for span in eg.reference.spans["optional"]}
    counted = [ent for ent in eg.predicted.ents if (ent.start, ent.end, ent.kb_id_) not in optional]
    right = sum((ent.start, ent.kb_id_) in gold for ent in counted)
    assert p == (right / len(counted) if counted else 0.0)
    return right, len(counted) - right
