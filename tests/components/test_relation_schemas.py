"""What schemas and decoders do in a pipeline: types that they do not know, relations of a thing with itself, and conflicts."""

from __future__ import annotations

import warnings
from pathlib import Path
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

    monkeypatch.setattr(Programme, "solve", solve)
    schema = {"relations": {"Live_In": {"functional": True}}}
    nlp, _ = plain.initialized(tiny_bert, threshold=0.0, schema=schema, decoder="exact", time_limit=2.5)
    with pytest.warns(EntityKitWarning, match=r"W340.* in 2\.5 seconds.*Raise time_limit"):
        plain.run(nlp, "Mary met John in London", [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "PLACE")])
    assert asked == [2.5]


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
