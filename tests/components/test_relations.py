"""Relations: which pairs are looked at, what is learned from them, and what is written."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from entitykit.bridge.head import HeadInput
from entitykit.components.pairs import Scope, pairs_in_scope
from entitykit.components.relation_gold import wanted_relations
from entitykit.components.relations import Relations
from entitykit.decoding.schema import RelationSchema
from entitykit.errors import ConfigError, EntityKitWarning
from tests.pipelines import OURS, encoder_config, fast_optimizer, train

Entity = tuple[int, int, str]
Triple = tuple[int, int, str]

SPERT: dict[str, Any] = {"@architectures": "entitykit.SpERTRelations.v1", "hidden": 16, "tok2vec": OURS}

TEXTS: list[tuple[str, list[Entity], list[Triple]]] = [
    ("Mary Jones lives in New York", [(0, 2, "PERSON"), (4, 6, "PLACE")], [(0, 1, "Live_In")]),
    ("New York is the home of John", [(0, 2, "PLACE"), (6, 7, "PERSON")], [(1, 0, "Live_In")]),
    ("John met Mary in London", [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")], [(0, 1, "Met")]),
    ("London and Peter", [(0, 1, "PLACE"), (2, 3, "PERSON")], []),
    ("It rained", [], []),
]


def make(checkpoint: Path, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint))
    nlp.add_pipe("entitykit_relations", config={"model": SPERT, **settings})
    return nlp


def reference(nlp: Language, text: str, entities: Sequence[Entity], triples: Sequence[Triple]) -> Doc:
    doc = Doc(nlp.vocab, words=text.split())
    doc.spans["all"] = [Span(doc, *entity) for entity in entities]
    doc.set_ents(spacy.util.filter_spans(list(doc.spans["all"])))
    doc.user_data["relations"] = [
        {"head": list(entities[head][:2]), "tail": list(entities[tail][:2]), "label": label} for head, tail, label in triples
    ]
    return doc


def example(nlp: Language, text: str, entities: Sequence[Entity], triples: Sequence[Triple]) -> Example:
    """The predicted document has the entities, as after a component that finds them all."""
    gold = reference(nlp, text, entities, triples)
    given = gold.copy()
    given.user_data = {}
    return Example(given, gold)


def initialized(checkpoint: Path, **settings: Any) -> tuple[Language, list[Example]]:
    nlp = make(checkpoint, **settings)
    examples = [example(nlp, *each) for each in TEXTS]
    nlp.initialize(lambda: examples)
    return nlp, examples


def component(nlp: Language) -> Relations:
    return nlp.get_pipe("entitykit_relations")


def triples_of(doc: Doc) -> list[tuple[str, str, str]]:
    return [(doc[slice(*r["head"])].text, r["label"], doc[slice(*r["tail"])].text) for r in doc._.relations]


def run(nlp: Language, text: str, entities: Sequence[Entity]) -> Doc:
    return nlp(example(nlp, text, entities, []).x)


def test_learns_and_writes(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    train(nlp, examples, 60)
    docs = [nlp(eg.x) for eg in examples]
    assert [triples_of(doc) for doc in docs] == [
        [("Mary Jones", "Live_In", "New York")],
        [("John", "Live_In", "New York")],
        [("John", "Met", "Mary")],
        [],
        [],
    ]
    (relation,) = docs[1]._.relations
    assert 0.5 < relation.pop("score") <= 1
    assert relation == {
        "head": [6, 7],
        "tail": [0, 2],
        "head_span": [24, 28],
        "tail_span": [0, 8],
        "label": "Live_In",
        "sentence": None,
    }
    assert docs[0]._.rel == docs[0]._.relations
    data = DocBin(docs=docs, store_user_data=True).to_bytes()
    for doc, again in zip(docs, DocBin().from_bytes(data).get_docs(nlp.vocab), strict=True):
        assert json.dumps(again._.relations) == json.dumps(doc._.relations)


def test_the_sentence_of_both(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, threshold=0.0, schema=None, scope="document")
    doc = examples[2].x
    doc[2].is_sent_start = True
    found = {(*r["head"], *r["tail"]): r["sentence"] for r in nlp(doc)._.relations}
    assert found[2, 3, 4, 5] == 1
    assert found[0, 1, 2, 3] is None


@pytest.mark.parametrize("scope", ["sentence", "window", "document"])
def test_no_entity_and_one(tiny_bert: Path, scope: str) -> None:
    nlp, _ = initialized(tiny_bert, scope="document", threshold=0.0)
    component(nlp).settings["scope"] = scope
    assert [doc._.relations for doc in nlp.pipe(["", " ", "Peter met nobody"])] == [[], [], []]
    assert run(nlp, "Peter met nobody", [(0, 1, "PERSON")])._.relations == []
    assert Doc(nlp.vocab, words=["Peter"])._.relations is None


def test_nested_and_crossing_arguments(tiny_bert: Path) -> None:
    """From a span group; no pair is of a span with itself, or with another type of the same span."""
    nlp = make(tiny_bert, entities="all", schema=None)
    entities = [(0, 5, "PERSON"), (3, 5, "PLACE"), (1, 4, "PLACE"), (3, 5, "CITY")]
    one = example(nlp, "the mayor of New York", entities, [(0, 1, "Mayor"), (2, 0, "Odd")])
    nlp.initialize(lambda: [one])
    assert train(nlp, [one], 60)[-1]["entitykit_relations"] < 0.1
    doc = nlp(one.x)
    # the place New York is an entity twice, and its relations are written once
    assert sorted(triples_of(doc)) == [
        ("mayor of New", "Odd", "the mayor of New York"),
        ("the mayor of New York", "Mayor", "New York"),
    ]


def test_learned_schema(tiny_bert: Path) -> None:
    """Live_In has a person and a place: whatever the probabilities, nothing else is written."""
    nlp, _ = initialized(tiny_bert, threshold=0.0)
    doc = run(nlp, "Mary met John in London", [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")])
    found = set(triples_of(doc))
    assert found == {
        ("Mary", "Met", "John"),
        ("John", "Met", "Mary"),
        ("Mary", "Live_In", "London"),
        ("John", "Live_In", "London"),
    }
    nlp.get_pipe("entitykit_relations").settings["threshold"] = 1.0
    assert run(nlp, "Mary met John", [(0, 1, "PERSON"), (2, 3, "PERSON")])._.relations == []


def test_given_schema(tiny_bert: Path, tmp_path: Path) -> None:
    rules = {"relations": {"Met": {"symmetric": True, "head": ["PERSON"], "tail": ["PERSON"]}}, "one_per_pair": True}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(rules))
    entities = [(0, 1, "PERSON"), (2, 3, "PERSON")]
    for schema in (rules, str(path)):
        nlp, _ = initialized(tiny_bert, threshold=0.0, schema=schema, decoder="exact")
        doc = run(nlp, "Mary met John", entities)
        pairs = [(r["head"][0], r["tail"][0]) for r in doc._.relations]
        assert len(pairs) == len(set(pairs))
        assert [r["head"] for r in doc._.relations if r["label"] == "Met"] in ([], [[0, 1]])


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"relations": {"Met": {"head": ["GHOST"]}}}, "E341.*GHOST"),
        ({"relations": {"Haunts": {"symmetric": True}}}, "E341.*Haunts"),
        ({"relations": {"Met": {"symmetric": True, "inverse": "Live_In"}}}, "E342.*Met"),
        ({"relations": {"Met": {"haed": ["PERSON"]}}}, "E340.*haed"),
        ("no_such_file.json", "E340.*no_such_file"),
    ],
)
def test_bad_schema(tiny_bert: Path, schema: Any, code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        initialized(tiny_bert, schema=schema)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"scope": "page"}, "scope of 'entitykit_relations' is page; expected sentence or window or document"),
        ({"decoder": "best"}, "decoder of 'entitykit_relations' is best"),
        ({"window": -1}, "window of 'entitykit_relations' is -1; expected at least 0"),
        ({"max_pairs": 1}, "max_pairs of 'entitykit_relations' is 1; expected at least 2"),
        ({"threshold": 1.1}, "threshold of 'entitykit_relations' is 1.1"),
    ],
)
def test_bad_settings(wrong: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"E109.*{found}"):
        spacy.blank("xx").add_pipe("entitykit_relations", config=wrong)


def test_no_relations_to_learn_from(tiny_bert: Path) -> None:
    nlp = make(tiny_bert)
    with pytest.raises(ConfigError, match="E106.*entitykit_relations"):
        nlp.initialize(lambda: [example(nlp, *TEXTS[3])])


def test_unknown_label_in_training(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    with pytest.raises(ConfigError, match="E110.*Hates.*Live_In, Met"):
        train(nlp, [example(nlp, "Mary met John", [(0, 1, "PERSON"), (2, 3, "PERSON")], [(0, 1, "Hates")])], 1)


def test_relations_of_what_is_no_entity(tiny_bert: Path) -> None:
    """They are learned, and counted."""
    nlp = make(tiny_bert)
    one = example(nlp, *TEXTS[0])
    one.y.user_data["relations"] = [*one.y.user_data["relations"], {"head": [2, 3], "tail": [4, 6], "label": "Verb_Of"}]
    with pytest.warns(EntityKitWarning, match="W123. 1 of 2 gold relations"):
        nlp.initialize(lambda: [one])
    batch = component(nlp).candidates([one.x], [one])
    assert list(zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)) == [(0, 2), (2, 3), (4, 6)]
    assert batch.types.tolist() == [1, 0, 2]


def test_relations_out_of_scope(tiny_bert: Path) -> None:
    """And of a thing with itself, where the schema does not look."""
    nlp = make(tiny_bert, window=1)
    examples = [example(nlp, *each) for each in TEXTS[:3]]
    examples.append(example(nlp, "Peter", [(0, 1, "PERSON")], [(0, 0, "Is")]))
    itself = pytest.warns(EntityKitWarning, match="W125. 1 of 4 gold relations")
    with itself, pytest.warns(EntityKitWarning, match="W122. 2 of 4 gold relations"):
        nlp.initialize(lambda: examples)
    train(nlp, examples, 2)


def test_documents_without_annotation_teach_nothing(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    bare = example(nlp, *TEXTS[2])
    del bare.y.user_data["relations"]
    pipe = component(nlp)
    docs = [examples[0].x, bare.x]
    output, _ = pipe.model.begin_update(_input(pipe, nlp, docs, [examples[0], bare]))
    targets, known = pipe.targets([examples[0], bare], output)
    assert known.tolist() == [True] * 2 + [False] * 6
    assert targets.tolist() == [[1.0, 0.0]] + [[0.0, 0.0]] * 7


def _input(pipe: Relations, nlp: Language, docs: list[Doc], examples: list[Example]) -> HeadInput:
    nlp.get_pipe("entitykit_encoder").update(examples)
    return HeadInput(docs, pipe.candidates(docs, examples))


def test_other_tokens_than_the_gold(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    gold = reference(nlp, *TEXTS[0])
    predicted = Doc(nlp.vocab, words=["Mary", "Jo", "nes", "lives", "in", "New", "York"], spaces=[1, 0, 1, 1, 1, 1, 0])
    eg = Example(predicted, Doc(nlp.vocab, words=[t.text for t in gold], spaces=[True] * 5 + [False]))
    eg.reference.set_ents([Span(eg.reference, ent.start, ent.end, ent.label_) for ent in gold.ents])
    eg.reference.user_data["relations"] = gold.user_data["relations"]
    batch = component(nlp).candidates([predicted], [eg])
    assert list(zip(batch.starts.tolist(), batch.ends.tolist(), strict=True)) == [(0, 3), (5, 7)]
    assert wanted_relations([eg], ["Live_In", "Met"], RelationSchema(), "relations").relations == {(0, 3, 5, 7): [0]}


def test_sentences_are_needed(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, scope="sentence")
    examples = [example(nlp, *each) for each in TEXTS]
    with pytest.raises(ConfigError, match="E120.*Mary Jones lives.*sentencizer"):
        nlp.initialize(lambda: examples)
    for eg in examples:
        for doc in (eg.x, eg.y):
            for token in doc:
                token.is_sent_start = token.i == 0
    nlp.initialize(lambda: examples)


def test_the_cap_is_reported(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, scope="document", threshold=0.0, schema=None)
    component(nlp).settings["max_pairs"] = 4
    with pytest.warns(EntityKitWarning, match="W120. 'entitykit_relations' left out 8 of 12 pairs of 4 entities"):
        doc = run(nlp, "a x b x x c x x x d", [(0, 1, "P"), (2, 3, "P"), (5, 6, "P"), (9, 10, "P")])
    pairs = {(r["head"][0], r["tail"][0]) for r in doc._.relations}
    assert pairs == {(0, 2), (2, 0), (2, 5), (5, 2)}


def test_two_thousand_entities(tiny_bert: Path) -> None:
    """As many pairs as the window holds, and bounded memory: nothing is as large as all pairs by a state's size."""
    nlp, _ = initialized(tiny_bert, threshold=1.0)
    words = ["Peter", "x"] * 2000
    doc = Doc(nlp.vocab, words=words)
    doc.set_ents([Span(doc, i, i + 1, label="PERSON") for i in range(0, 4000, 2)])
    largest = 0
    original = torch.nn.functional.gelu

    def watched(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, x.numel())
        return original(x, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patch.setattr("entitykit.models.relations.F.gelu", watched)
        component(nlp).settings["window"] = 8
        nlp(doc)
        assert not [w for w in caught if "W120" in str(w.message)]
        component(nlp).settings.update(scope="document", max_pairs=10000)
        nlp(doc)
    (message,) = (str(warning.message) for warning in caught if "W120" in str(warning.message))
    assert "left out 3988000 of 3998000 pairs of 2000 entities" in message
    assert largest <= max(8192 * 16, 2000 * 128)  # a block of pairs, or all entities


def test_batches_equal_singles(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, threshold=0.3, schema=None)
    train(nlp, examples, 10)
    together = [doc._.relations for doc in nlp.pipe([eg.x.copy() for eg in examples])]
    alone = [nlp(eg.x.copy())._.relations for eg in examples]
    assert [[r | {"score": 0} for r in doc] for doc in together] == [[r | {"score": 0} for r in doc] for doc in alone]
    for a, b in zip(chain(*together), chain(*alone), strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_saved_with_its_schema(tiny_bert: Path, tmp_path: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    train(nlp, examples, 30, optimizer=fast_optimizer())
    nlp.to_disk(tmp_path / "nlp")
    for loaded in (spacy.load(tmp_path / "nlp"), make(tiny_bert).from_bytes(nlp.to_bytes())):
        assert [loaded(eg.x.copy())._.relations for eg in examples] == [nlp(eg.x.copy())._.relations for eg in examples]
        np.testing.assert_array_equal(component(loaded).constraints.allowed, component(nlp).constraints.allowed)


VOCAB = spacy.blank("xx").vocab

spans = st.lists(st.tuples(st.integers(0, 11), st.integers(1, 4)).map(lambda x: (x[0], min(x[0] + x[1], 12))), max_size=7)


@settings(max_examples=60, deadline=None)
@given(spans, st.sampled_from(["sentence", "window", "document"]), st.integers(0, 6), st.sampled_from([2, 6, 100]))
def test_pairs_in_scope(places: list[tuple[int, int]], kind: str, window: int, limit: int) -> None:
    """Against all pairs, one by one."""
    doc = Doc(VOCAB, words=["x"] * 12, sent_starts=[i in (0, 5, 6) for i in range(12)])
    places.sort()
    starts, ends = (np.array([place[side] for place in places], dtype=np.int64) for side in (0, 1))
    pairs, n_lost = pairs_in_scope(doc, starts, ends, Scope(kind, window, limit), "x")
    number = [sum(i >= start for start in (0, 5, 6)) for i in range(12)]

    def near(a: int, b: int) -> bool:
        if kind == "sentence":
            return number[places[a][0]] == number[places[b][0]]
        return kind == "document" or places[max(a, b)][0] - places[min(a, b)][1] <= window

    n = range(len(places))
    expected = [(a, b) for a in n for b in n if places[a] != places[b] and near(a, b)]
    found = [tuple(pair) for pair in pairs.tolist()]
    assert found == sorted(set(found))
    assert set(found) <= set(expected)
    assert set(found) == {(b, a) for a, b in found}
    assert len(found) + n_lost == len(expected)
    assert len(found) == min(limit, len(expected))

    def distance(pair: tuple[int, ...]) -> int:
        return max(0, places[max(pair)][0] - places[min(pair)][1])

    nearest = sorted(((a, b) for a, b in expected if a < b), key=distance)[: limit // 2]  # of equally near ones the first
    assert set(found) == {pair for a, b in nearest for pair in ((a, b), (b, a))}


def test_memory_does_not_grow_with_all_pairs() -> None:
    """The places of 2000 entities' two million pairs would have 32 MB."""
    starts = np.arange(2000) * 3
    doc = Doc(VOCAB, words=["x"] * 6000)
    tracemalloc.start()
    pairs, n_lost = pairs_in_scope(doc, starts, starts + 1, Scope("document", 0, 1000), "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pairs[pairs[:, 0] < pairs[:, 1]].tolist() == [[i, i + 1] for i in range(500)]
    assert n_lost == 2000 * 1999 - 1000
    assert peak < 2e6


def test_lower_layers_need_the_ends(tiny_bert: Path) -> None:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(tiny_bert))
    with pytest.raises(ConfigError, match="E007.*lower_layers"):
        nlp.add_pipe("entitykit_relations", config={"model": SPERT | {"ends": False, "lower_layers": [0]}})
