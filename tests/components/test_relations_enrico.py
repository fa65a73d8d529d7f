"""EnriCo in a pipeline: entities and relations found together, and relations by description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language
from spacy.training import Example

from entitykit.bridge import texts
from entitykit.errors import ConfigError, EntityKitWarning
from tests.components.test_relations import TEXTS, component, example, triples_of
from tests.pipelines import OURS, PROPOSING, READING, encoder_config, encoder_gradient, train

MODEL: dict[str, Any] = {"@architectures": "entitykit.EnriCo.v1", "size": 16, "keep_spans": 1.0, "tok2vec": OURS}


def make(checkpoint: Path, *, encoder: dict[str, Any] = PROPOSING, model: dict[str, Any], **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint, **encoder))
    nlp.add_pipe("entitykit_relations", config={"model": MODEL | model, **settings})
    return nlp


def initialized(checkpoint: Path, **settings: Any) -> tuple[Language, list[Example]]:
    nlp = make(checkpoint, **settings)
    examples = [example(nlp, *each) for each in TEXTS]
    nlp.initialize(lambda: examples)
    return nlp, examples


@pytest.mark.parametrize("encoder", [PROPOSING, READING], ids=["pooled", "tokens"])
@pytest.mark.parametrize("order", ["entity_first", "relation_first", "joint"])
def test_finds_entities_and_relations(tiny_bert: Path, encoder: dict[str, Any], order: str) -> None:
    nlp, examples = initialized(tiny_bert, encoder=encoder, model={}, order=order)
    train(nlp, examples, 60)
    for eg, (text, entities, triples) in zip(examples, TEXTS, strict=True):
        doc = nlp(text)
        assert [(ent.start, ent.end, ent.label_) for ent in doc.ents] == entities
        assert triples_of(doc) == triples_of_gold(eg, entities, triples)
        assert [(span.start, span.end) for span in doc.spans["ents"]] == [entity[:2] for entity in entities]
        assert all(0.5 < score <= 1 for score in doc.spans["ents"].attrs["scores"])
    scores = nlp.evaluate(examples)
    assert scores["rel_strict_f"] == scores["ents_f"] == 1.0


def triples_of_gold(eg: Example, entities: Any, triples: Any) -> list[tuple[str, str, str]]:
    texts = [eg.y[start:end].text for start, end, _ in entities]
    return [(texts[head], label, texts[tail]) for head, tail, label in triples]


def test_nested_entities_are_written_to_a_group(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, model={}, entities="all", schema=None)
    nested = [(0, 5, "PERSON"), (3, 5, "PLACE")]
    one = example(nlp, "the mayor of New York", nested, [(0, 1, "Rules")])
    nlp.initialize(lambda: [one])
    train(nlp, [one], 60)
    doc = nlp("the mayor of New York")
    assert [(span.start, span.end, span.label_) for span in doc.spans["all"]] == nested
    assert triples_of(doc) == [("the mayor of New York", "Rules", "New York")]
    assert not doc.ents


def test_arguments_with_several_types(tiny_bert: Path) -> None:
    """Types of given entities are all heard; of what a model has to find it learns one."""
    entities = [(0, 1, "PERSON"), (0, 1, "KING"), (2, 3, "PLACE")]
    for joint in (False, True):
        nlp = make(tiny_bert, model={"joint": joint}, entities="all")
        one = example(nlp, "John loves London", entities, [(0, 2, "Loves")])
        if joint:
            with pytest.warns(EntityKitWarning, match="W103. 1 places have gold spans with more than one label"):
                nlp.initialize(lambda: [one])  # noqa: B023
        else:
            nlp.initialize(lambda: [one])  # noqa: B023


def test_needs_proposals(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, encoder={}, model={})
    with pytest.raises(ConfigError, match="E113"):
        nlp("Mary lives in London")


def test_heads_must_divide_the_size() -> None:
    with pytest.raises(ConfigError, match="E007.*size.*15"):
        spacy.blank("xx").add_pipe("entitykit_relations", config={"model": MODEL | {"size": 15}})


@pytest.mark.parametrize("joint", [True, False])
def test_described_relations(tiny_bert: Path, joint: bool) -> None:
    """They are learned like others; a label that was never trained, with the same words, means the same."""
    descriptions = {"Live_In": "home of somebody"}
    nlp, examples = initialized(tiny_bert, model={"described": True, "joint": joint}, descriptions=descriptions)
    train(nlp, examples, 60)
    text, entities, _ = TEXTS[0]
    given = example(nlp, text, entities, []).x
    assert triples_of(nlp(given.copy())) == [("Mary Jones", "Live_In", "New York")]
    component(nlp).set_descriptions({"Wohnt_In": "home of somebody"})
    assert component(nlp).labels == ("Wohnt_In",)
    assert triples_of(nlp(given.copy())) == [("Mary Jones", "Wohnt_In", "New York")]
    again = make(tiny_bert, model={"described": True, "joint": joint}).from_bytes(nlp.to_bytes())
    assert triples_of(again(given.copy())) == [("Mary Jones", "Wohnt_In", "New York")]
    component(nlp).set_descriptions({})
    assert nlp(given.copy())._.relations == []


def test_labels_have_no_descriptions(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, model={"joint": False})
    with pytest.raises(ConfigError, match="E121.*described = true"):
        component(nlp).set_descriptions({"Near": "not far"})


def test_long_descriptions_are_cut_with_a_warning(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, model={"described": True, "joint": False}, descriptions={"Met": "word " * 99})
    with pytest.warns(EntityKitWarning, match="W124. 1 descriptions"):
        nlp(examples[0].x)


def test_the_tokenizer_is_built_once(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not anew for every document and update in which descriptions are read."""
    nlp, examples = initialized(tiny_bert, model={"described": True, "joint": False})
    nlp(examples[0].x.copy())
    monkeypatch.setattr(texts, "Tokenizer", None)
    nlp(examples[0].x.copy())
    nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]


def test_the_encoders_probe_learns(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, model={"probe_weight": 1.0})
    nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    nlp.get_pipe("entitykit_encoder")._backward()
    assert any("probe" in name and gradient.any() for name, gradient in encoder_gradient(nlp).items())


def scoped(checkpoint: Path, **settings: Any) -> tuple[Language, list[Example]]:
    """Two persons in a sentence, and a place in the next."""
    nlp = make(checkpoint, model={"keep_pairs": 9.0}, schema=None, **settings)
    entities = [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")]
    examples = [example(nlp, "Mary met John . London waits", entities, [(0, 1, "Met"), (0, 2, "Live_In")])]
    for doc in (examples[0].x, examples[0].y):
        for token in doc:
            token.is_sent_start = token.i in (0, 4)
    return nlp, examples


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({"scope": "document"}, 0),
        ({"scope": "sentence"}, 1),
        ({"window": 2}, 1),
        ({"window": 0}, 2),
    ],
)
def test_found_entities_are_related_within_the_scope(tiny_bert: Path, settings: dict[str, Any], left_out: int) -> None:
    """A relation out of it is neither learned nor written, though it is in the gold."""
    nlp, examples = scoped(tiny_bert, **settings)
    if left_out:
        with pytest.warns(EntityKitWarning, match=f"W122. {left_out} of 2"):
            nlp.initialize(lambda: examples)
    else:
        nlp.initialize(lambda: examples)
    train(nlp, examples, 30)
    component(nlp).settings["threshold"] = 0.0
    doc = nlp(examples[0].x.copy())
    texts = [triple[::2] for triple in triples_of(doc)]
    for pair, n_needed in ((("Mary", "John"), 2), (("Mary", "London"), 1), (("London", "Mary"), 1)):
        assert (pair in texts) == (left_out < n_needed), pair


def test_found_entities_need_sentences_too(tiny_bert: Path) -> None:
    nlp, examples = scoped(tiny_bert, scope="sentence")
    with pytest.warns(EntityKitWarning, match="W122"):
        nlp.initialize(lambda: examples)
    with pytest.raises(ConfigError, match="E120.*Mary met John.*sentencizer"):
        nlp("Mary met John in London")
    assert nlp("")._.relations == []


def test_the_cap_counts_pairs_that_may_be(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, model={"keep_pairs": 9.0}, scope="document")
    train(nlp, examples, 2)
    component(nlp).settings.update(max_pairs=4, threshold=0.0, schema=None)
    with pytest.warns(
        EntityKitWarning, match=r"W120. .* left out \d+ of \d+ pairs of \d+ possible entities .* Raise max_pairs"
    ):
        doc = nlp(TEXTS[0][0])
    assert len({(*r["head"], *r["tail"]) for r in doc._.relations}) <= 4


def test_what_the_filter_leaves_out_of_given_entities_is_counted(tiny_bert: Path) -> None:
    """Of each document, in training, too; it was 2,010 of 47,450 pairs of a document without a word."""
    nlp, examples = initialized(tiny_bert, model={"joint": False, "keep_pairs": 0.0}, scope="document", threshold=0.0)
    many = example(nlp, "a b c d e f", [(i, i + 1, "PERSON") for i in range(6)], [(0, 1, "Met")])
    message = (
        r"W120. 'entitykit_relations' left out 20 of 30 pairs of 6 entities of one document, those that its filter .*keep_pairs"
    )
    with pytest.warns(EntityKitWarning, match=message) as caught:
        doc = nlp(many.x.copy())
    assert len(caught) == 1
    assert len({(*r["head"], *r["tail"]) for r in doc._.relations}) == 10
    with pytest.warns(EntityKitWarning, match=message):
        nlp.update([examples[0], many], sgd=False, losses={})  # type: ignore[arg-type]


def test_pairs_with_gold_relations_are_known_to_the_filter(tiny_bert: Path) -> None:
    """In training, where entities are given; the head keeps these."""
    nlp, _ = initialized(tiny_bert, model={"joint": False}, scope="document")
    gold = [(2, 1, "Met"), (0, 2, "Met"), (0, 2, "Live_In")]
    examples = [example(nlp, "a b c", [(i, i + 1, "PERSON") for i in range(3)], triples) for triples in ([], gold)]
    docs = [eg.x for eg in examples]
    pairs = component(nlp).candidates(docs, examples)
    rows = [(head - 3, tail - 3) for head, tail in zip(pairs.heads.tolist(), pairs.tails.tolist(), strict=True)]
    assert [row for row, related in zip(rows, pairs.related.tolist(), strict=True) if related] == [(0, 2), (2, 1)]
    assert len(component(nlp).candidates(docs, None).related) == 0
    joint, _ = initialized(tiny_bert, model={})
    assert len(component(joint).candidates(docs, examples).related) == 0


def test_found_entities_may_be_related_to_themselves(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, model={}, schema={"no_self": False})
    gold = [("Peter shaved", [(0, 1, "PERSON")], [(0, 0, "Shaves")]), ("Mary slept", [(0, 1, "PERSON")], [])]
    examples = [example(nlp, *each) for each in gold]
    nlp.initialize(lambda: examples)
    train(nlp, examples, 60)
    assert [triples_of(nlp(text)) for text, *_ in gold] == [[("Peter", "Shaves", "Peter")], []]
