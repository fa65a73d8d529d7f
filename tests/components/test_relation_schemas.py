"""What schemas and decoders do in a pipeline: types that they do not know, relations of a thing with itself, and conflicts."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.components.cluster_pairs import pair_clusters, read_clusters
from entitykit.components.pairs import Scope, pairs_in_scope
from entitykit.decoding.relation_exact import Programme
from entitykit.errors import ConfigError, EntityKitWarning
from tests.components import test_cluster_relations as clusters
from tests.components import test_relations as plain
from tests.components.test_relations import Entity, component, triples_of
from tests.pipelines import OURS, train

LIVE_IN = {"relations": {"Live_In": {"head": ["PERSON"], "tail": ["PLACE"]}}}


def make_clusters(nlp: Language, text: str, entities: list[Entity]) -> Doc:
    """Each entity is a cluster."""
    return clusters.example(nlp, text, [(label, [(start, end)]) for start, end, label in entities], []).x


@pytest.mark.parametrize("schema", [LIVE_IN, "learned"], ids=["given", "learned"])
def test_entities_of_other_types_are_not_related(tiny_bert: Path, schema: Any) -> None:
    """Of types that the schema does not know; of entities without a type anything may be."""
    entities = [(0, 2, "MONEY"), (3, 4, "DATE"), (5, 6, "PERSON")]
    for module, make, where in ((plain, None, {"entities": "all"}), (clusters, make_clusters, {})):
        nlp, _ = module.initialized(tiny_bert, threshold=0.0, schema=schema, scope="document", **where)
        of_types = nlp.get_pipe("entitykit_relations")
        for own, expected in (
            (entities, set()),
            ([*entities, (7, 8, "PLACE")], {("Mary", "Live_In", "London")}),
            ([(0, 2, ""), *entities[1:]], {("Mary", "Live_In", "ten dollars")}),
        ):
            text = "ten dollars in May for Mary in London"
            doc = nlp(plain.example(nlp, text, own, []).x if make is None else make(nlp, text, own))
            assert {each for each in triples_of(doc) if each[1] == "Live_In"} == expected, (module, own)
        assert of_types.constraints.allowed.shape[1] == len(of_types.cfg["entity_types"]) + 2


@pytest.mark.parametrize("decoder", ["beam", "exact"])
def test_conflicts_are_decided_for_the_best_sum(tiny_bert: Path, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the schema has it: each person has one place, and each place one person; the heaviest pair keeps two out."""
    rule = {"functional": True, "inverse_functional": True}
    schema = {"relations": {"Live_In": rule, "Met": {"head": ["PLACE"], "tail": ["PLACE"]}}}
    with pytest.warns(EntityKitWarning, match="W126. 1 of 3 gold relations"):
        nlp, _ = plain.initialized(tiny_bert, schema=schema, scope="document")
    entities = [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE"), (6, 7, "PLACE")]
    scores = {(0, 2): 0.9, (0, 3): 0.85, (1, 2): 0.85}
    pipe = component(nlp)
    forward = pipe.head.forward

    def said(*inputs: Any) -> Any:
        output = forward(*inputs)
        pairs = zip(output.entities.heads.tolist(), output.entities.tails.tolist(), strict=True)
        p = torch.tensor([[scores.get(pair, 0.1), 0.0] for pair in pairs])
        return output._replace(logits=p.logit())

    monkeypatch.setattr(pipe.head, "forward", said)
    found = {}
    for name, width in (("greedy", 8), (decoder, 8), (decoder, 1)):
        pipe.settings.update(decoder=name, beam_width=width)
        found[name, width] = triples_of(plain.run(nlp, "Mary and Peter like London and York", entities))
    assert found["greedy", 8] == [("Mary", "Live_In", "London")]
    assert found[decoder, 8] == [("Mary", "Live_In", "York"), ("Peter", "Live_In", "London")]
    assert (found[decoder, 1] == found["greedy", 8]) == (decoder == "beam")


def test_the_time_of_exact_decoding_can_be_set(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def solve(self: Programme, weights: Any, seconds: float) -> tuple[None, bool]:
        asked.append(seconds)
        return None, False

    clock = itertools.count(0.0, 0.5)  # writing the programme down takes half a second
    monkeypatch.setattr("entitykit.decoding.relation_exact.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(Programme, "solve", solve)
    schema = {"relations": {"Live_In": {"functional": True}}}
    nlp, _ = plain.initialized(tiny_bert, threshold=0.0, schema=schema, decoder="exact", time_limit=2.5)
    with pytest.warns(EntityKitWarning, match=r"W340.* in 2\.5 seconds.*Raise time_limit"):
        plain.run(nlp, "Mary met John in London", [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")])
    assert asked == [2.0]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"beam_width": 0}, "beam_width of 'entitykit_relations' is 0; expected at least 1"),
        ({"time_limit": 0.0}, "time_limit of 'entitykit_relations' is 0.0; expected above 0"),
    ],
)
def test_bad_settings(wrong: dict[str, Any], found: str) -> None:
    with pytest.raises(ConfigError, match=f"E109.*{found}"):
        spacy.blank("xx").add_pipe("entitykit_relations", config=wrong)


def test_a_thing_is_related_to_itself_where_the_schema_says_so(tiny_bert: Path) -> None:
    """It is learned, and found; elsewhere such gold relations are counted with what helps."""
    texts = [
        ("Peter shaved", [(0, 1, "PERSON")], [(0, 0, "Shaves")]),
        ("Peter met Mary", [(0, 1, "P"), (2, 3, "P")], [(0, 1, "Met")]),
    ]
    of_clusters = [
        (text, [(label, [(start, end)]) for start, end, label in entities], [(a + 1, b + 1, r) for a, b, r in triples])
        for text, entities, triples in texts
    ]
    for module, gold in ((plain, texts), (clusters, of_clusters)):
        nlp = module.make(tiny_bert, schema=None)
        with pytest.warns(EntityKitWarning, match="W125. 1 of 2 gold relations are of an entity with itself.*no_self = false"):
            nlp.initialize(lambda: [module.example(nlp, *each) for each in gold])  # noqa: B023
        nlp = module.make(tiny_bert, schema={"no_self": False})
        examples = [module.example(nlp, *each) for each in gold]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nlp.initialize(lambda: examples)  # noqa: B023
        train(nlp, examples, 60)
        found = [triples_of(nlp(eg.x.copy())) for eg in examples]
        assert found == [[("Peter", "Shaves", "Peter")], [("Peter", "Met", "Mary")]], module


def test_gold_relations_that_the_schema_forbids(tiny_bert: Path) -> None:
    """Are counted by kind: by their types, and beside others of their text; those out of scope are counted elsewhere."""
    london, rest = [(0, 1, "PERSON"), (2, 3, "PLACE"), (4, 5, "PLACE")], [(0, 1, "PERSON"), (2, 3, "")]
    texts = [
        ("Mary left London and York", london, [(0, 1, "Left"), (0, 2, "Left"), (0, 0, "Is")]),
        ("Mary left Peter", rest, [(0, 1, "Left"), (1, 0, "Left")]),
    ]
    of_clusters = [
        (text, [(label, [(start, end)]) for start, end, label in entities], [(a + 1, b + 1, r) for a, b, r in triples])
        for text, entities, triples in texts
    ]
    schema = {"relations": {"Left": {"head": ["PERSON"], "tail": ["PLACE"], "functional": True}}}
    for module, gold in ((plain, texts), (clusters, of_clusters)):
        nlp = module.make(tiny_bert, schema=schema)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            nlp.initialize(lambda: [module.example(nlp, *each) for each in gold])  # noqa: B023
        (found,) = [str(warning.message) for warning in caught if "W126" in str(warning.message)]
        assert "2 of 5 gold relations" in found
        assert "Left from PERSON to PLACE (1); Left from no type to PERSON (1)." in found


@pytest.mark.parametrize("rule", [{"symmetric": True}, {"inverse": "Home_Of"}], ids=["symmetric", "inverse"])
def test_what_gold_relations_imply_is_learned(tiny_bert: Path, rule: dict[str, Any]) -> None:
    """Though gold says one direction only, and never names the inverse; scores know that, too."""
    mirror = rule.get("inverse", "Live_In")
    for module in (plain, clusters):
        nlp, examples = module.initialized(tiny_bert, schema={"relations": {"Live_In": rule}})
        train(nlp, examples, 60)
        pipe = component(nlp)
        assert pipe.labels == tuple(sorted({"Live_In", "Met", mirror}))
        found = nlp.evaluate(examples)
        assert found["rel_strict_f" if module is plain else "rel_doc_f"] == 1.0, module
        written = [triple for eg in examples for triple in triples_of(nlp(eg.x.copy()))]
        assert ("John", "Live_In", "New York") in written or rule == {"symmetric": True}
        assert (("New York", mirror, "John") in written) != (("John", mirror, "New York") in written)


def test_a_learned_schema_needs_a_training(tiny_bert: Path, tmp_path: Path) -> None:
    nlp, examples = plain.initialized(tiny_bert, schema=LIVE_IN)
    nlp.to_disk(tmp_path)
    again = spacy.load(tmp_path, config={"components": {"entitykit_relations": {"schema": "learned"}}})
    with pytest.raises(ConfigError, match="E606"):
        again(examples[0].x)
    again.initialize(lambda: examples)
    again(examples[0].x)
    assert component(again).rules.schema.relations["Live_In"].types


@pytest.mark.parametrize("flag", ["no_overlap", "one_per_pair"])
def test_flags_forbid_gold_relations(tiny_bert: Path, flag: str) -> None:
    nlp = plain.make(tiny_bert, entities="all", schema={flag: True})
    entities = [(0, 5, "PERSON"), (3, 5, "PLACE"), (6, 7, "PERSON")]
    triples = [(0, 2, "Met"), (1, 2, "Near"), (0, 2, "Near")] if flag == "no_overlap" else [(0, 2, "Met"), (0, 2, "Near")]
    with pytest.warns(EntityKitWarning, match=f"W126. 1 of {len(triples)} gold relations"):
        nlp.initialize(lambda: [plain.example(nlp, "the mayor of New York met John", entities, triples)])


def test_arguments_of_all_relations_do_not_overlap(tiny_bert: Path) -> None:
    """With entities that are given, as with those that are found."""
    nlp, _ = plain.initialized(tiny_bert, entities="all", schema={"no_overlap": True}, threshold=0.0)
    entities = [(0, 5, "PERSON"), (3, 5, "PLACE"), (6, 7, "PERSON")]
    found = plain.run(nlp, "the mayor of New York met John", entities)._.relations
    used = {tuple(relation[end]) for relation in found for end in ("head", "tail")}
    assert used in ({(0, 5), (6, 7)}, {(3, 5), (6, 7)})


def test_a_schema_from_a_file_stays_with_the_pipeline(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file is gone or has changed; another schema is taken where the config is given one."""
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text(json.dumps(LIVE_IN), encoding="utf-8")
    nlp, _ = plain.initialized(tiny_bert, threshold=0.0, schema="schema.json")
    nlp.to_disk("nlp")
    Path("schema.json").unlink()
    entities: list[Entity] = [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")]
    text = "Mary met John in London"
    expected = triples_of(plain.run(nlp, text, entities))
    Path("other.json").write_text('{"relations": {"Live_In": {"head": ["PLACE"], "tail": ["PERSON"]}}}', encoding="utf-8")
    other = {"components": {"entitykit_relations": {"schema": "other.json"}}}
    for loaded, same in (
        (spacy.load("nlp"), True),
        (plain.make(tiny_bert, threshold=0.0, schema="schema.json").from_bytes(nlp.to_bytes()), True),
        (spacy.load("nlp", config=other), False),
    ):
        found = triples_of(plain.run(loaded, text, entities))
        assert (found == expected) == same
    assert {each for each in found if each[1] == "Live_In"} == {("London", "Live_In", "Mary"), ("London", "Live_In", "John")}
    with pytest.raises(ConfigError, match=r"E340.*schema\.json.*no readable file"):
        plain.initialized(tiny_bert, schema="schema.json")


@pytest.mark.parametrize("schema", ["given", "file", "learned"])
def test_other_descriptions_keep_the_schema(tiny_bert: Path, tmp_path: Path, schema: str) -> None:
    """Of the labels that it knows, by their inverses, too."""
    rules = {"relations": {"Met": {"inverse": "Live_In"}, "Live_In": {"head": ["PERSON"], "tail": ["PLACE"]}}}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(rules), encoding="utf-8")
    setting = {"given": rules, "file": str(path), "learned": "learned"}[schema]
    texts = [plain.TEXTS[0], ("London met John", [(0, 1, "PLACE"), (2, 3, "PERSON")], [(0, 1, "Met")])]
    nlp, _ = described(tiny_bert, texts, setting)
    pipe = component(nlp)
    pipe.set_descriptions({"Met": "a meeting", "Wohnt": "home of somebody"})
    entities: list[Entity] = [(0, 1, "PERSON"), (2, 3, "PLACE")]
    expected = [("John", "Wohnt", "London"), ("London", "Met", "John"), ("London", "Wohnt", "John")]
    assert sorted(triples_of(plain.run(nlp, "John likes London", entities))) == expected
    nlp.to_disk(tmp_path / "nlp")
    assert sorted(triples_of(plain.run(spacy.load(tmp_path / "nlp"), "John likes London", entities))) == expected


def test_descriptions_that_cannot_be_change_nothing(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, _ = described(tiny_bert, [plain.TEXTS[0]], LIVE_IN)
    pipe = component(nlp)
    before = json.dumps(pipe.cfg)
    monkeypatch.setitem(pipe.cfg, "entity_types", ["PERSON"])
    with pytest.raises(ConfigError, match="E341.*PLACE"):
        pipe.set_descriptions({"Live_In": "home", "Met": "a meeting"})
    monkeypatch.undo()
    assert json.dumps(pipe.cfg) == before


def described(checkpoint: Path, texts: Any, schema: Any) -> tuple[Language, Any]:
    model = {"@architectures": "entitykit.EnriCo.v1", "size": 16, "joint": False, "described": True, "tok2vec": OURS}
    nlp = plain.make(checkpoint, model=model, schema=schema, threshold=0.0)
    examples = [plain.example(nlp, *each) for each in texts]
    nlp.initialize(lambda: examples)
    return nlp, examples


@pytest.mark.parametrize("more", [{}, {"markers": True}], ids=["states", "markers"])
def test_lukes_pairs_of_a_thing_with_itself(tiny_bert: Path, more: dict[str, Any]) -> None:
    """In a text of the pair's own both marks stand around the same words."""
    model = {"@architectures": "entitykit.LukePair.v1", "tok2vec": OURS, **more}
    nlp = plain.make(tiny_bert, model=model, schema={"no_self": False})
    texts = [("Peter shaved", [(0, 1, "PERSON")], [(0, 0, "Shaves")]), ("Mary slept", [(0, 1, "PERSON")], [])]
    examples = [plain.example(nlp, *each) for each in texts]
    nlp.initialize(lambda: examples)
    train(nlp, examples, 40)
    assert [triples_of(nlp(eg.x.copy())) for eg in examples] == [[("Peter", "Shaves", "Peter")], []]


VOCAB = spacy.blank("xx").vocab

places = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 3)).map(lambda x: (x[0], x[0] + x[1])), max_size=5)


@settings(max_examples=40, deadline=None)
@given(places, st.sampled_from(["sentence", "window", "document"]), st.sampled_from([2, 6, 100]))
def test_pairs_with_themselves_come_on_top(found: list[tuple[int, int]], kind: str, limit: int) -> None:
    """Whatever the scope, and in the same order."""
    doc = Doc(VOCAB, words=["x"] * 12, sent_starts=[i in (0, 5) for i in range(12)])
    found.sort()
    starts, ends = (np.array([place[side] for place in found], dtype=np.int64) for side in (0, 1))
    pairs, n_lost = pairs_in_scope(doc, starts, ends, Scope(kind, 2, limit), "x")
    all_pairs, n_all_lost = pairs_in_scope(doc, starts, ends, Scope(kind, 2, limit, itself=True), "x")
    own = [[i, i] for i in range(len(found))]
    assert all_pairs.tolist() == sorted([*pairs.tolist(), *own])
    assert n_lost == n_all_lost
    for number, place in enumerate(dict.fromkeys(found), start=1):
        doc.spans[f"coref_clusters_{number}"] = [Span(doc, *place)]
    entities = read_clusters(doc)
    related, _ = pair_clusters(doc, entities, Scope(kind, 2, limit), "x")
    all_related, _ = pair_clusters(doc, entities, Scope(kind, 2, limit, itself=True), "x")
    own = [[i, i] for i in range(len(entities.labels))]
    assert all_related.pairs.tolist() == sorted([*related.pairs.tolist(), *own])
    of_own = all_related.near[all_related.pairs[:, 0] == all_related.pairs[:, 1]]
    assert of_own.tolist() == [[i, i] for i in entities.firsts.tolist()]
