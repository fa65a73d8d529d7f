"""Relations between clusters: which entities and pairs there are, what is learned, and what is written."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
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

from entitykit.components import cluster_pairs
from entitykit.components.cluster_pairs import Clusters, gold_facts, pair_clusters, read_clusters, reference_clusters
from entitykit.components.cluster_relations import ClusterRelations
from entitykit.components.pairs import Scope
from entitykit.corpora.given import give_clusters
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.models.cluster_relations import ClusterRelationOutput
from entitykit.scoring.relations import make_relations_scorer
from tests.pipelines import OURS, encoder_config, train

NAME = "entitykit_relations"
MODEL: dict[str, Any] = {
    "@architectures": "entitykit.ClusterRelations.v1",
    "size": 12,
    "hidden": 16,
    "product": 4,
    "tok2vec": OURS,
}

Cluster = tuple[str, list[tuple[int, int]]]
Text = tuple[str, list[Cluster], list[tuple[int, int, str]]]

TEXTS: list[Text] = [
    (
        "Mary Jones went home . Jones lives in New York",
        [("PERSON", [(0, 2), (5, 6)]), ("PLACE", [(8, 10)])],
        [(1, 2, "Live_In")],
    ),
    ("New York is large . John lives there", [("PLACE", [(0, 2), (7, 8)]), ("PERSON", [(5, 6)])], [(2, 1, "Live_In")]),
    ("John met Mary in London", [("PERSON", [(0, 1)]), ("PERSON", [(2, 3)]), ("PLACE", [(4, 5)])], [(1, 2, "Met")]),
    ("London and Peter", [("PLACE", [(0, 1)]), ("PERSON", [(2, 3)])], []),
    ("It rained", [], []),
]


def make(checkpoint: Path, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint))
    nlp.add_pipe(NAME, config={"model": MODEL, "entities": "coref", "scope": "document", **settings})
    return nlp


def example(nlp: Language, text: str, clusters: Sequence[Cluster], relations: Sequence[tuple[int, int, str]]) -> Example:
    """The predicted document has the clusters, as after a component that finds them all."""
    gold = Doc(nlp.vocab, words=text.split())
    for number, (label, places) in enumerate(clusters, start=1):
        gold.spans[f"coref_clusters_{number}"] = [Span(gold, *place) for place in places]
        gold.set_ents([*gold.ents, *(Span(gold, *place, label=label) for place in places)])
    gold.user_data["cluster_relations"] = [{"head": head, "tail": tail, "label": label} for head, tail, label in relations]
    eg = Example(Doc(nlp.vocab, words=text.split()), gold)
    give_clusters(eg)
    return eg


def initialized(checkpoint: Path, **settings: Any) -> tuple[Language, list[Example]]:
    nlp = make(checkpoint, **settings)
    examples = [example(nlp, *each) for each in TEXTS]
    nlp.initialize(lambda: examples)
    return nlp, examples


def component(nlp: Language) -> ClusterRelations:
    return nlp.get_pipe(NAME)


def triples_of(doc: Doc) -> list[tuple[str, str, str]]:
    return [(doc[slice(*r["head"])].text, r["label"], doc[slice(*r["tail"])].text) for r in doc._.relations]


@pytest.mark.parametrize("adaptive", [True, False])
def test_learns_and_writes(tiny_bert: Path, adaptive: bool) -> None:
    nlp, examples = initialized(tiny_bert, model=MODEL | {"adaptive": adaptive})
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
    score = relation.pop("score")
    assert 0.5 < score <= 1
    assert relation == {
        "head": [5, 6],
        "tail": [0, 2],
        "head_span": [20, 24],
        "tail_span": [0, 8],
        "label": "Live_In",
        "sentence": None,
        "head_cluster": 2,
        "tail_cluster": 1,
    }
    assert docs[1]._.cluster_relations == [{"head": 2, "tail": 1, "label": "Live_In", "score": score}]
    data = DocBin(docs=docs, store_user_data=True).to_bytes()
    for doc, again in zip(docs, DocBin().from_bytes(data).get_docs(nlp.vocab), strict=True):
        assert json.dumps(again._.relations) == json.dumps(doc._.relations)
        assert json.dumps(again._.cluster_relations) == json.dumps(doc._.cluster_relations)
    found = nlp.evaluate([example(nlp, *each) for each in TEXTS])
    assert found["rel_doc_f"] == 1.0
    assert found["rel_doc_ign_f"] is None


def test_ign_f1_leaves_out_what_the_training_says(tiny_bert: Path, tmp_path: Path) -> None:
    path = tmp_path / "train.spacy"
    nlp, examples = initialized(tiny_bert, scorer={"@scorers": "entitykit.relations_scorer.v1", "train": str(path)})
    train(nlp, examples, 60)
    with pytest.warns(EntityKitWarning, match=r"W341.*train\.spacy"):
        found = nlp.evaluate([example(nlp, *each) for each in TEXTS])
    assert (found["rel_doc_f"], found["rel_doc_ign_f"]) == (1.0, None)
    DocBin(docs=[examples[2].y], store_user_data=True).to_disk(path)
    found = nlp.evaluate([example(nlp, *each) for each in TEXTS])
    assert (found["rel_doc_f"], found["rel_doc_ign_p"]) == (1.0, 1.0)
    DocBin(docs=[eg.y for eg in examples], store_user_data=True).to_disk(path)
    again = make_relations_scorer(str(path))([Example(nlp(eg.x), eg.y) for eg in examples])
    assert (again["rel_doc_f"], again["rel_doc_ign_f"]) == (1.0, 0.0)


def test_entities_of_a_document() -> None:
    """In the order of their first mentions; entities that are in no cluster are there, too; the most frequent type counts."""
    doc = Doc(spacy.blank("xx").vocab, words=list("abcdefgh"))
    doc.spans["coref_clusters_7"] = [Span(doc, 4, 5), Span(doc, 6, 7), Span(doc, 2, 3, label="B")]
    doc.spans["coref_clusters_2"] = [Span(doc, 0, 1)]
    doc.spans["coref_clusters_3"] = []
    doc.set_ents([Span(doc, 4, 5, label="A"), Span(doc, 6, 7, label="A"), Span(doc, 1, 2, label="C")])
    found = read_clusters(doc)
    assert found.numbers == [2, None, 7]
    assert found.labels == ["", "C", "A"]
    assert found.starts.tolist() == [0, 1, 2, 4, 6]
    assert found.members.tolist() == [0, 1, 2, 2, 2]
    assert found.firsts.tolist() == [0, 1, 2]
    nothing = read_clusters(Doc(doc.vocab, words=["a"]))
    assert (nothing.labels, nothing.starts.tolist(), nothing.firsts.tolist()) == ([], [], [])


def test_entities_without_a_cluster_are_written_without_a_number(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, threshold=0.0, schema=None)
    doc = nlp.make_doc("Mary met John")
    doc.spans["coref_clusters_1"] = [Span(doc, 0, 1)]
    doc.set_ents([Span(doc, 2, 3, label="PERSON")])
    doc = nlp(doc)
    assert {(r["head_cluster"], r["tail_cluster"]) for r in doc._.relations} == {(1, None), (None, 1)}
    assert doc._.cluster_relations == []


def test_nothing_to_relate(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, threshold=0.0)
    assert [(doc._.relations, doc._.cluster_relations) for doc in nlp.pipe(["", " ", "Peter met nobody"])] == [([], [])] * 3
    assert nlp(example(nlp, "Peter", [("PERSON", [(0, 1)])], []).x)._.relations == []


def test_learned_schema(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, threshold=0.0)
    assert set(triples_of(nlp(example(nlp, *TEXTS[2]).x))) == {
        ("John", "Met", "Mary"),
        ("Mary", "Met", "John"),
        ("John", "Live_In", "London"),
        ("Mary", "Live_In", "London"),
    }


def test_model_and_entities_belong_together(tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="E603.*entities = 'ents'"):
        make(tiny_bert, entities="ents")
    with pytest.raises(ConfigError, match="E603.*entities = 'coref'"):
        make(tiny_bert, model={"@architectures": "entitykit.SpERTRelations.v1", "tok2vec": OURS})
    with pytest.raises(ConfigError, match="E007.*size"):
        make(tiny_bert, model=MODEL | {"size": 0})


def test_what_cannot_be_learned(tiny_bert: Path) -> None:
    nlp = make(tiny_bert)
    with pytest.raises(ConfigError, match="E106.*cluster_relations"):
        nlp.initialize(lambda: [example(nlp, *TEXTS[3])])
    wrong = example(nlp, *TEXTS[2])
    wrong.y.user_data["cluster_relations"] = [{"head": 1, "tail": 4, "label": "Met"}]
    with pytest.raises(InputError, match="E346.*one of the 3 groups"):
        nlp.initialize(lambda: [wrong])
    wrong.y.user_data["cluster_relations"] = 5
    with pytest.raises(InputError, match="E349.*expected a list"):
        nlp.initialize(lambda: [wrong])
    nlp, _ = initialized(tiny_bert)
    with pytest.raises(ConfigError, match=r"E110.*Hates.*Live_In, Met"):
        train(nlp, [example(nlp, *TEXTS[2][:2], [(1, 2, "Hates")])], 1)


def test_relations_out_of_scope(tiny_bert: Path) -> None:
    """The nearest mentions count; where the schema does not look for relations of a thing with itself, these do not."""
    nlp = make(tiny_bert, scope="window", window=1)
    examples = [example(nlp, *each) for each in TEXTS]
    examples.append(example(nlp, "Peter", [("PERSON", [(0, 1)])], [(1, 1, "Is")]))
    itself = pytest.warns(EntityKitWarning, match="W125. 1 of 4 gold relations")
    with itself, pytest.warns(EntityKitWarning, match="W122. 1 of 4 gold relations"):
        nlp.initialize(lambda: examples)
    train(nlp, examples, 2)


def test_documents_without_annotation_teach_nothing(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    bare = example(nlp, *TEXTS[2])
    del bare.y.user_data["cluster_relations"]
    both = [examples[0], bare]
    pipe = component(nlp)
    pairs = pipe.candidates([eg.x for eg in both], both)
    targets, known = pipe.targets(both, ClusterRelationOutput(pairs, torch.zeros(len(pairs.heads), 2)))
    assert known.tolist() == [True] * 2 + [False] * 6
    assert targets.tolist() == [[1.0, 0.0]] + [[0.0, 0.0]] * 7


def test_other_tokens_than_the_gold(tiny_bert: Path) -> None:
    """Mentions that touch no predicted word are left out, and relations of clusters that have no other."""
    nlp, examples = initialized(tiny_bert)
    gold = examples[0].y
    predicted = Doc(nlp.vocab, words=["Mary", "Jo", "nes", *(token.text for token in gold[2:])], spaces=[1, 0, *[1] * 9])
    eg = Example(predicted, gold)
    found = reference_clusters(eg)
    assert list(zip(found.starts.tolist(), found.ends.tolist(), strict=True)) == [(0, 3), (6, 7), (9, 11)]
    assert gold_facts(gold, found) == [(0, 1, "Live_In")]
    gone = found._replace(numbers=[1, 5])
    assert gold_facts(gold, gone) == [(0, None, "Live_In")]


def test_the_cap_is_reported(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, threshold=0.0, schema=None)
    component(nlp).settings["max_pairs"] = 4
    clusters = [("P", [(0, 1)]), ("P", [(2, 3), (8, 9)]), ("P", [(5, 6)]), ("P", [(9, 10)])]
    with pytest.warns(EntityKitWarning, match="W120. 'entitykit_relations' left out 8 of 12 pairs of 4 entities"):
        doc = nlp(example(nlp, "a x b x x c x x b d", clusters, []).x)
    assert {(r["head_cluster"], r["tail_cluster"]) for r in doc._.relations} == {(1, 2), (2, 1), (2, 4), (4, 2)}


def test_the_cap_in_learning_names_the_line_that_initializes(tiny_bert: Path) -> None:
    nlp = make(tiny_bert, max_pairs=2)
    examples = [example(nlp, *TEXTS[2])]
    with pytest.warns(EntityKitWarning, match="W120") as caught:
        nlp.initialize(lambda: examples)
    assert [each.filename for each in caught] == [__file__]


def test_many_entities(tiny_bert: Path) -> None:
    """A thousand entities with two mentions each."""
    nlp, _ = initialized(tiny_bert, threshold=1.0, scope="window", window=4)
    doc = Doc(nlp.vocab, words=["Peter", "x"] * 2000)
    for i in range(1000):
        doc.spans[f"coref_clusters_{i + 1}"] = [Span(doc, 2 * i, 2 * i + 1), Span(doc, 2000 + 2 * i, 2001 + 2 * i)]
    related, n_lost = pair_clusters(doc, read_clusters(doc), Scope("window", 4, 100000), "x")
    assert n_lost == 0
    assert 2 * 1000 <= len(related.pairs) <= 8 * 1000
    assert nlp(doc)._.relations == []


def test_batches_equal_singles(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, threshold=0.3, schema=None)
    train(nlp, examples, 10)
    together = [doc._.relations for doc in nlp.pipe([eg.x.copy() for eg in examples])]
    for found, eg in zip(together, examples, strict=True):
        alone = nlp(eg.x.copy())._.relations
        assert [r | {"score": 0} for r in found] == [r | {"score": 0} for r in alone]
        assert [r["score"] for r in found] == pytest.approx([r["score"] for r in alone], abs=1e-5)


def test_saved(tiny_bert: Path, tmp_path: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    train(nlp, examples, 30)
    nlp.to_disk(tmp_path / "nlp")
    for loaded in (spacy.load(tmp_path / "nlp"), make(tiny_bert).from_bytes(nlp.to_bytes())):
        assert isinstance(component(loaded), ClusterRelations)
        assert [loaded(eg.x.copy())._.relations for eg in examples] == [nlp(eg.x.copy())._.relations for eg in examples]


VOCAB = spacy.blank("xx").vocab

mentions = st.tuples(st.integers(0, 11), st.integers(1, 3)).map(lambda x: (x[0], min(x[0] + x[1], 12)))
clusters = st.lists(st.sets(mentions, min_size=1, max_size=3), max_size=5)


@settings(max_examples=80, deadline=None)
@given(clusters, st.sampled_from(["sentence", "window", "document"]), st.integers(0, 6), st.sampled_from([2, 6, 100]))
def test_pairs_in_scope(places: list[set[tuple[int, int]]], kind: str, window: int, limit: int) -> None:
    """Against all pairs of all mentions, one by one."""
    doc = Doc(VOCAB, words=["x"] * 12, sent_starts=[i in (0, 5, 6) for i in range(12)])
    for number, own in enumerate(places, start=1):
        doc.spans[f"coref_clusters_{number}"] = [Span(doc, *place) for place in own]
    entities = read_clusters(doc)
    related, n_lost = pair_clusters(doc, entities, Scope(kind, window, limit), "x")
    sentence = [sum(i >= start for start in (0, 5, 6)) for i in range(12)]

    def distance(a: tuple[int, int], b: tuple[int, int]) -> int:
        if kind == "sentence" and sentence[a[0]] != sentence[b[0]]:
            return 99
        gap = max(0, b[0] - a[1], a[0] - b[1])
        return gap if kind != "window" or gap <= window else 99

    own = [places[(number or 0) - 1] for number in entities.numbers]
    nearest = {
        (a, b): min(distance(x, y) for x in own[a] for y in own[b]) for a in range(len(own)) for b in range(len(own)) if a != b
    }
    expected = {pair: gap for pair, gap in nearest.items() if gap < 99}
    found = [tuple(pair) for pair in related.pairs.tolist()]
    assert found == sorted(set(found))
    assert set(found) <= set(expected)
    assert set(found) == {(b, a) for a, b in found}
    assert len(found) + n_lost == len(expected)
    assert len(found) == min(limit, len(expected))
    left_out = [gap for pair, gap in expected.items() if pair not in found]
    assert max((expected[pair] for pair in found), default=0) <= min(left_out, default=99)
    for (a, b), (x, y) in zip(found, related.near.tolist(), strict=True):
        assert (entities.members[x], entities.members[y]) == (a, b)
        chosen = [(int(entities.starts[i]), int(entities.ends[i])) for i in (x, y)]
        assert distance(*chosen) == expected[a, b]
    assert np.array_equal(entities.starts, np.sort(entities.starts))


def pair_by_tables(doc: Doc, entities: Clusters, scope: Scope) -> tuple[list[list[int]], list[list[int]], int]:
    """Pairs, their nearest mentions and how many the limit has left out, from tables of all mentions by all."""
    starts, ends, n, far = entities.starts, entities.ends, len(entities.labels), len(doc) + 1
    distances = np.maximum(np.maximum(starts[None] - ends[:, None], starts[:, None] - ends[None]), 0)
    if scope.kind == "sentence":
        sentences = np.cumsum([token.is_sent_start for token in doc])[starts]
        distances = np.where(sentences[:, None] == sentences[None], distances, far)
    elif scope.kind == "window":
        distances = np.where(distances <= scope.window, distances, far)
    rows = np.arange(len(starts))
    keys = (distances * len(rows) + rows[:, None]) * len(rows) + rows[None]
    best = {(a, b): int(keys[entities.members == a][:, entities.members == b].min()) for a in range(n) for b in range(a + 1, n)}
    there = [pair for pair, key in best.items() if key < far * len(rows) ** 2]
    kept = sorted(sorted(there, key=lambda pair: best[pair] // len(rows) ** 2)[: scope.limit // 2])
    near = {pair: (best[pair] // len(rows) % len(rows), best[pair] % len(rows)) for pair in kept}
    near |= {pair[::-1]: mentions[::-1] for pair, mentions in near.items()}
    return [list(pair) for pair in sorted(near)], [list(near[pair]) for pair in sorted(near)], 2 * (len(there) - len(kept))


@settings(max_examples=80, deadline=None)
@given(clusters, st.sampled_from(["sentence", "window", "document"]), st.integers(0, 6), st.sampled_from([2, 6, 100]))
def test_blocks_of_mentions_are_all_mentions(places: list[set[tuple[int, int]]], kind: str, window: int, limit: int) -> None:
    """However many mentions are compared at once."""
    doc = Doc(VOCAB, words=["x"] * 12, sent_starts=[i in (0, 5, 6) for i in range(12)])
    for number, own in enumerate(places, start=1):
        doc.spans[f"coref_clusters_{number}"] = [Span(doc, *place) for place in own]
    entities, scope = read_clusters(doc), Scope(kind, window, limit)
    expected = pair_by_tables(doc, entities, scope)
    for block in (1, 7, 25, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster_pairs, "BLOCK", block)
            related, n_lost = pair_clusters(doc, entities, scope, "x")
        assert (related.pairs.tolist(), related.near.tolist(), n_lost) == expected


@pytest.mark.parametrize("kind", ["window", "document"])
def test_memory_does_not_grow_with_all_mentions(kind: str) -> None:
    """A table of 3000 mentions by as many would have 72 MB."""
    rng = np.random.default_rng(0)
    doc, starts = Doc(VOCAB, words=["x"] * 9000), np.sort(rng.integers(0, 9000, 3000))
    _, members = np.unique(rng.integers(0, 200, 3000), return_inverse=True)
    entities = Clusters(starts, starts + 1, members, [""] * 200, [*range(200)])
    tracemalloc.start()
    related, n_lost = pair_clusters(doc, entities, Scope(kind, 20, 1000), "x")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(related.pairs) == 1000
    assert n_lost > 1000
    assert peak < 70e6
