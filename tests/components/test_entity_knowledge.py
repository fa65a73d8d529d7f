"""External vectors in a pipeline: they reach the tokens of spans that name an entity, teach, and can change."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.errors import ConfigError
from entitykit.knowledge.vectors import VectorTable
from entitykit.models.encoder.knowledge import CandidateMixture, margin_link_loss, softmax_link_loss
from entitykit.scoring.linking import register_candidates
from entitykit.types import Spans
from tests.pipelines import READING, encoder_module, fast_optimizer, finish, make_example, make_pipeline, train

KINDS = ("projection", "mixture", "attention")
WORDS = "Paris met Paris"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two entities with opposite vectors."""
    table = VectorTable.create(tmp_path / "vectors", 8)
    vector = np.linspace(-1, 1, 8, dtype=np.float32)
    table.put(["Q1", "Q2"], np.stack([vector, -vector]))
    return tmp_path / "vectors"


def encoder(table: Path, kind: str) -> dict[str, Any]:
    vectors = {"@misc": "entitykit.VectorTable.v1", "path": str(table)}
    return {"entities": READING["entities"] | {"knowledge": kind, "proposals": 0.0}, "vectors": vectors}


def with_ids(nlp: Language, *ids: str) -> Doc:
    doc = Doc(nlp.vocab, words=WORDS.split())
    doc.spans["linked"] = [Span(doc, at, at + 1, kb_id=identifier) for at, identifier in zip((0, 2), ids, strict=True)]
    return doc


def make(checkpoint: Path, table: Path, kind: str, *, keep_keys: bool = False, **of_entities: Any) -> Language:
    settings = encoder(table, kind)
    settings |= {"entities": settings["entities"] | of_entities, "keep_keys": keep_keys}
    nlp = make_pipeline(checkpoint, "span_ner", encoder=settings)
    nlp.get_pipe("entitykit_encoder").given = ("linked",)  # type: ignore[attr-defined]
    nlp.initialize(lambda: [make_example(nlp, WORDS, [(0, 1, "PERSON"), (2, 3, "PLACE")])])
    return nlp


def learn(nlp: Language, steps: int) -> list[float]:
    """The same word is a person or a place, in either position: only the id tells which."""
    optimizer = fast_optimizer()
    losses = []
    for _ in range(steps):
        examples = []
        for labels, ids in ((("PERSON", "PLACE"), ("Q1", "Q2")), (("PLACE", "PERSON"), ("Q2", "Q1"))):
            example = make_example(nlp, WORDS, [(0, 1, labels[0]), (2, 3, labels[1])])
            example.predicted = with_ids(nlp, *ids)
            examples.append(example)
        losses.append(nlp.update(examples, sgd=False, losses={})["span_ner"])  # type: ignore[arg-type]
        finish(nlp, optimizer)
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_late_tokens_read_what_early_ones_read(tiny_bert: Path, table: Path, kind: str) -> None:
    """Ids of a span and its candidates, several spans at one place, and ids that are not in the table."""
    nlp = make(tiny_bert, table, kind, keep_keys=True)
    knowledge = encoder_module(nlp).entities.knowledge
    for parameter in knowledge.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    register_candidates()
    doc = with_ids(nlp, "Q1", "Q7")
    doc.spans["linked"].append(Span(doc, 0, 1, kb_id="Q2"))
    doc.spans["linked"].append(Span(doc, 1, 3))
    doc.spans["linked"][3]._.kb_ents = [("Q2", 0.7), ("Q1", 0.2)]
    doc = nlp(doc)
    encoder, spans = nlp.get_pipe("entitykit_encoder"), list(doc.spans["linked"])
    early = states(doc)[[0, 2, 0, 1]]
    np.testing.assert_allclose(encoder.entity_states(doc, spans), early, rtol=0, atol=2e-6)  # type: ignore[attr-defined]
    in_batch = encoder.late_tokens([nlp.make_doc(""), doc], Spans(torch.tensor([1, 0]), torch.tensor([3, 1])))  # type: ignore[attr-defined]
    np.testing.assert_allclose(in_batch.numpy(), early[[3, 0]], rtol=0, atol=2e-6)
    spans[3]._.kb_ents = []  # which belongs to the place
    without = encoder.entity_states(doc, [Span(doc, span.start, span.end) for span in spans])  # type: ignore[attr-defined]
    changed = np.abs(without - early).max(axis=1) > 1e-3
    assert changed.tolist() == [True, False, True, True]


def linked_example(nlp: Language, context: str, right: str) -> Example:
    """Only the context tells which candidate is right; before it is read, both are equally probable."""
    doc = Doc(nlp.vocab, words=["Paris", context])
    doc.spans["linked"] = [Span(doc, 0, 1)]
    doc.spans["linked"][0]._.kb_ents = [("Q1", 0.4), ("Q2", 0.4)]
    gold = Doc(nlp.vocab, words=["Paris", context])
    gold.spans["sc"] = [Span(gold, 0, 1, kb_id=right)]
    gold.set_ents([Span(gold, 0, 1, label="PERSON")])
    return Example(doc, gold)


@pytest.mark.parametrize("link", ["softmax", "margin"])
def test_a_mixture_learns_from_gold_links(tiny_bert: Path, table: Path, link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    register_candidates()
    nlp = make(tiny_bert, table, "mixture", knowledge_settings={"link": link})
    contexts = {"sang": "Q1", "fell": "Q2", "rained": "NIL", "1987": "Q77"}  # of which the last is no candidate
    nlp.get_pipe("entitykit_encoder").gold = ("sc",)  # type: ignore[attr-defined]
    examples = [linked_example(nlp, *each) for each in contexts.items()]
    seen: list[tuple[torch.Tensor, ...]] = []
    loss = CandidateMixture.loss
    monkeypatch.setattr(CandidateMixture, "loss", lambda module, *given: seen.append(given) or loss(module, *given))
    history = [losses["entitykit_encoder_links"] for losses in train(nlp, examples, 200 if link == "softmax" else 40)]
    scores, gold, present = seen[-1]
    assert (gold.tolist(), present.tolist()) == ([1, 2, 0, -100], [[True, True]] * 4)
    expected = (softmax_link_loss if link == "softmax" else margin_link_loss)(scores, gold, present)
    assert history[-1] == pytest.approx(expected.item(), rel=1e-5)
    assert history[-1] < history[0]
    if link == "softmax":
        assert scores.argmax(1).tolist()[:3] == [1, 2, 0]


def test_gold_links_that_teach_nothing(tiny_bert: Path, table: Path) -> None:
    """Spans without a gold link, links without a vector, a weight of 0, and modules that score nothing."""
    register_candidates()
    nlp = make(tiny_bert, table, "mixture")
    example = linked_example(nlp, "sang", "")
    assert "entitykit_encoder_links" not in train(nlp, [example], 1)[0]
    example.reference.spans["sc"] = [Span(example.reference, 0, 1, kb_id="Q404")]
    example.predicted.spans["linked"][0]._.kb_ents = [("Q404", 0.5), ("Q1", 0.2)]  # one has no vector
    assert train(nlp, [example], 1)[0]["entitykit_encoder_links"] == 0
    for kind, settings in (("mixture", {"link_weight": 0.0}), ("projection", {})):
        other = make(tiny_bert, table, kind, knowledge_settings=settings)
        assert train(other, [linked_example(other, "sang", "Q1")], 1)[0].get("entitykit_encoder_links", 0.0) == 0


def states(doc: Doc) -> Any:
    return doc._.trf_data.model_output["entity_states"][0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_id_tells(tiny_bert: Path, table: Path, kind: str, tmp_path: Path) -> None:
    nlp = make(tiny_bert, table, kind)
    np.testing.assert_array_equal(states(nlp(with_ids(nlp, "Q1", "Q2"))), states(nlp(with_ids(nlp, "", "Q7"))))  # at first
    learn(nlp, 60)
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q1", "Q2")).ents] == ["PERSON", "PLACE"]
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q2", "Q1")).ents] == ["PLACE", "PERSON"]
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp", config={"components.entitykit_encoder.given": ["linked"]})
    assert [ent.label_ for ent in loaded(with_ids(loaded, "Q2", "Q1")).ents] == ["PLACE", "PERSON"]


def test_a_vector_changes_without_training(tiny_bert: Path, table: Path) -> None:
    nlp = make(tiny_bert, table, "projection")
    learn(nlp, 60)
    vectors = VectorTable(table)
    values, _ = vectors.lookup(["Q1", "Q2"])
    vectors.put(["Q9"], values[1:])
    refresh = nlp.get_pipe("entitykit_encoder").refresh_vectors  # type: ignore[attr-defined]
    assert (refresh(), refresh()) == (True, False)
    assert [ent.label_ for ent in nlp(with_ids(nlp, "Q1", "Q9")).ents] == ["PERSON", "PLACE"]


def test_unknown_ids_change_nothing(tiny_bert: Path, table: Path) -> None:
    nlp = make(tiny_bert, table, "mixture")
    learn(nlp, 5)
    assert encoder_module(nlp).entities.knowledge is not None
    np.testing.assert_array_equal(states(nlp(with_ids(nlp, "", "NIL"))), states(nlp(with_ids(nlp, "Q5", "Q6"))))


def other_table(path: Path, width: int) -> str:
    VectorTable.create(path, width)
    return str(path)


def test_a_table_of_another_width(tiny_bert: Path, table: Path, tmp_path: Path) -> None:
    """Beside a trained encoder, and in the place of the one that it reads."""
    nlp = make(tiny_bert, table, "mixture")
    nlp.to_disk(tmp_path / "nlp")
    key = "components.entitykit_encoder.model.vectors.path"
    expected = r"E007.*vectors is the table '.*wide' of width 9; expected one of width 8"
    with pytest.raises(ConfigError, match=expected):
        spacy.load(tmp_path / "nlp", config={key: other_table(tmp_path / "wide", 9)})
    loaded = spacy.load(tmp_path / "nlp", config={key: other_table(tmp_path / "equal", 8)})
    with pytest.raises(ConfigError, match=expected):
        make_pipeline(tiny_bert, encoder=encoder(tmp_path / "wide", "mixture")).from_bytes(nlp.to_bytes(exclude=["span_ner"]))
    shutil.rmtree(tmp_path / "equal")
    other_table(tmp_path / "equal", 7)
    with pytest.raises(ConfigError, match=r"E007.*width 7; expected one of width 8"):
        loaded.get_pipe("entitykit_encoder").refresh_vectors()  # type: ignore[attr-defined]


def test_no_table_to_refresh(tiny_bert: Path, table: Path, tmp_path: Path) -> None:
    nlp = make_pipeline(tiny_bert, "span_ner")
    with pytest.raises(ConfigError, match=r"E007.*vectors is none; expected a table"):
        nlp.get_pipe("entitykit_encoder").refresh_vectors()  # type: ignore[attr-defined]


def test_knowledge_without_tokens(tiny_bert: Path, table: Path) -> None:
    settings = encoder(table, "projection")
    settings["entities"] |= {"tokens": False}
    with pytest.raises(ConfigError, match=r"E007.*knowledge is projection.*Set tokens = true"):
        make_pipeline(tiny_bert, "span_ner", encoder=settings)


def with_settings(table: Path, kind: str, **settings: Any) -> dict[str, Any]:
    made = encoder(table, kind)
    return made | {"entities": made["entities"] | {"knowledge_settings": settings}}


def test_settings_of_the_module(tiny_bert: Path, table: Path, tmp_path: Path) -> None:
    """They are those of the module, and saved with it."""
    nlp = make_pipeline(tiny_bert, "span_ner", encoder=with_settings(table, "attention", n_heads=4, gate=1.0))
    nlp.initialize(lambda: [make_example(nlp, WORDS, [(0, 1, "PERSON")])])
    nlp.to_disk(tmp_path / "nlp")
    for made in (nlp, spacy.load(tmp_path / "nlp")):
        module = encoder_module(made).entities.knowledge
        assert (module.settings.n_heads, module.settings.gate, module.settings.width) == (4, 1.0, 32)
    mixture = make_pipeline(tiny_bert, "span_ner", encoder=with_settings(table, "mixture", link="margin", hidden=7))
    mixture.initialize(lambda: [make_example(mixture, WORDS, [(0, 1, "PERSON")])])
    assert encoder_module(mixture).entities.knowledge.inner.weight.shape == (7, 2)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("projection", {"n_heads": 2}, r"knowledge_settings is \['n_heads'\]; expected of projection: dropout\."),
        ("mixture", {"width": 2}, r"knowledge_settings is \['width'\]; expected of mixture: link, threshold"),
        ("mixture", {"link": "best"}, "link is best"),
        ("attention", {"n_heads": 5}, "n_heads is 5"),
        (None, {"gate": 1.0}, "knowledge_settings .* where knowledge = null"),
    ],
)
def test_settings_that_the_module_does_not_have(
    tiny_bert: Path, table: Path, kind: str | None, settings: dict[str, Any], message: str
) -> None:
    made = with_settings(table, kind or "", **settings)
    if kind is None:
        made = {"entities": made["entities"] | {"knowledge": None}}
    with pytest.raises(ConfigError, match=f"E007.*{message}"):
        make_pipeline(tiny_bert, "span_ner", encoder=made).initialize()


@pytest.mark.parametrize("settings", [{"knowledge": "projection"}, {"knowledge": "magic"}])
def test_settings_that_do_not_fit(tiny_bert: Path, settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="E007"):
        make_pipeline(tiny_bert, "span_ner", encoder={"entities": READING["entities"] | settings})
