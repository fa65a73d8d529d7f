"""DocRED's scores by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import EntityKitWarning, InputError
from entitykit.scoring.relation_documents import KnownFacts, document_scores, known_facts
from entitykit.scoring.relations import make_relations_scorer

VOCAB = Vocab()
WORDS = ["Ada", "was", "born", "in", "London", ".", "Lovelace", "met", "Babbage", "in", "England", "."]
CLUSTERS = [[(0, 1), (6, 7)], [(4, 5)], [(8, 9)], [(10, 11)]]


@pytest.fixture(autouse=True)
def extension() -> None:
    if not Doc.has_extension("cluster_relations"):
        Doc.set_extension("cluster_relations", default=None)


def relation(head: int, tail: int, label: str, *evidence: int) -> dict[str, Any]:
    return {"head": head, "tail": tail, "label": label, "evidence": list(evidence)}


def doc(clusters: list[list[tuple[int, int]]]) -> Doc:
    made = Doc(VOCAB, words=WORDS)
    for number, mentions in enumerate(clusters, start=1):
        made.spans[f"coref_clusters_{number}"] = [Span(made, start, end) for start, end in mentions]
    return made


GOLD = [relation(1, 2, "born", 0), relation(1, 3, "met", 0, 1), relation(2, 4, "in", 0, 1), relation(3, 4, "lives", 1)]


def example(predicted: list[dict[str, Any]], clusters: list[list[tuple[int, int]]] = CLUSTERS) -> Example:
    reference, found = doc(CLUSTERS), doc(clusters)
    reference.user_data["cluster_relations"] = GOLD
    found._.cluster_relations = predicted
    return Example(found, reference)


def train() -> Doc:
    made = doc([[(6, 7)], [(4, 5)]])
    made.user_data["cluster_relations"] = [relation(1, 2, "born")]
    return made


def test_known_facts() -> None:
    assert known_facts([train(), doc(CLUSTERS)]) == {("Lovelace", "London", "born")}
    twice = doc(CLUSTERS)
    twice.user_data["cluster_relations"] = [relation(1, 2, "born")]
    assert known_facts([twice]) == {("Ada", "London", "born"), ("Lovelace", "London", "born")}


def test_scores_by_hand() -> None:
    """Of 4 predictions 2 are right, one of which is known: without it 1 of 3."""
    predicted = [relation(1, 2, "born", 0, 1), relation(1, 3, "met", 1), relation(1, 4, "born", 1), relation(4, 3, "lives")]
    found = document_scores([example(predicted)], known_facts([train()]))
    assert (found["rel_doc_p"], found["rel_doc_r"], found["rel_doc_f"]) == (0.5, 0.5, 0.5)
    assert found["rel_doc_ign_p"] == pytest.approx(1 / 3)
    assert found["rel_doc_ign_f"] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert found["rel_doc_macro_f"] == pytest.approx((2 / 3 + 1 + 0 + 0) / 4)
    assert found["rel_doc_per_type"] == {
        "born": {"p": 0.5, "r": 1.0, "f": pytest.approx(2 / 3)},
        "in": {"p": 0.0, "r": 0.0, "f": 0.0},
        "lives": {"p": 0.0, "r": 0.0, "f": 0.0},
        "met": {"p": 1.0, "r": 1.0, "f": 1.0},
    }
    # 4 sentences predicted as evidence, 6 in gold, 2 right
    assert (found["rel_doc_evidence_p"], found["rel_doc_evidence_r"]) == (0.5, pytest.approx(1 / 3))


def test_nothing_known_and_all_known() -> None:
    predicted = [relation(1, 2, "born")]
    assert document_scores([example(predicted)])["rel_doc_ign_f"] is None
    assert document_scores([example(predicted)], set())["rel_doc_ign_f"] == document_scores([example(predicted)])["rel_doc_f"]
    all_known = document_scores([example(predicted)], known_facts([train()]))
    assert (all_known["rel_doc_ign_p"], all_known["rel_doc_ign_f"]) == (0.0, 0.0)


def test_clusters_in_another_order_and_wrong_clusters() -> None:
    other = [CLUSTERS[1], [(0, 1)], CLUSTERS[0], CLUSTERS[2]]
    found = document_scores([example([relation(3, 1, "born"), relation(2, 4, "met")], other)])
    assert (found["rel_doc_p"], found["rel_doc_r"]) == (0.5, 0.25)


def test_clusters_with_the_same_mentions_stay_apart() -> None:
    """As the published scorer has it, which counts by numbers."""
    doubled = [*CLUSTERS, CLUSTERS[1]]
    eg = example([relation(1, 2, "born"), relation(1, 5, "born"), relation(5, 4, "in")], doubled)
    for number, mentions in enumerate(doubled, start=1):
        eg.reference.spans[f"coref_clusters_{number}"] = [Span(eg.reference, start, end) for start, end in mentions]
    eg.reference.user_data["cluster_relations"] = [relation(1, 5, "born"), relation(2, 4, "in")]
    found = document_scores([eg])
    assert (found["rel_doc_p"], found["rel_doc_r"]) == (pytest.approx(1 / 3), 0.5)


def test_the_same_relation_twice() -> None:
    found = document_scores([example([relation(1, 3, "met", 0), relation(1, 3, "met", 1)])])
    assert (found["rel_doc_p"], found["rel_doc_evidence_p"]) == (1.0, 1.0)


def test_a_relation_without_direction_counts_once() -> None:
    """In gold, as DocRED has it, and in predictions; what the training data say, they say in either direction."""
    predicted, turned = [relation(3, 1, "met", 0)], [relation(3, 1, "met", 0), relation(1, 3, "met", 1)]
    known = {("Babbage", "Lovelace", "met")}
    for gold in ([relation(1, 3, "met", 0)], [relation(1, 3, "met", 0), relation(3, 1, "met", 0)]):
        for values in (predicted, turned):
            eg = example(values)
            eg.reference.user_data["cluster_relations"] = gold
            found = document_scores([eg], known, {"met": "met"})
            assert (found["rel_doc_p"], found["rel_doc_r"], found["rel_doc_ign_p"]) == (1.0, 1.0, 0.0)
    assert document_scores([example(predicted)])["rel_doc_p"] == 0.0


def test_inverse_relations_are_said_in_either_direction() -> None:
    """Gold has one of the two; the pipeline always writes both."""
    eg = example([relation(2, 4, "in"), relation(4, 2, "has")])
    eg.reference.user_data["cluster_relations"] = [relation(2, 4, "in")]
    found = document_scores([eg], mirrors={"in": "has", "has": "in"})
    assert (found["rel_doc_p"], found["rel_doc_r"]) == (1.0, 1.0)
    assert document_scores([eg])["rel_doc_p"] == 0.5


def split(made: Doc, *firsts: int) -> Doc:
    """Sentences that begin with these words."""
    for token in made:
        token.is_sent_start = token.i in firsts
    return made


def test_sentences_are_known_by_their_places() -> None:
    """Where both documents have some; of gold sentences 0 and 1 the predicted document has the second as its third."""
    eg = example([relation(1, 3, "met", 0, 2, 9)])
    split(eg.reference, 0, 6)
    assert document_scores([eg])["rel_doc_evidence_p"] == pytest.approx(1 / 3)  # by their numbers
    split(eg.predicted, 0, 3, 6)
    found = document_scores([eg])
    assert (found["rel_doc_evidence_p"], found["rel_doc_evidence_r"]) == (pytest.approx(1 / 3), pytest.approx(1 / 6))
    eg = example([relation(1, 3, "met", 1)])
    split(eg.reference, 0, 6)
    split(eg.predicted, 0, 3, 6)
    assert document_scores([eg])["rel_doc_evidence_p"] == 0.0


def test_white_space_belongs_to_either_sentence() -> None:
    reference, found = (Doc(VOCAB, words=["A", " ", "B"], spaces=[False] * 3) for _ in range(2))
    split(reference, 0, 1)
    split(found, 0, 2)
    for made in (reference, found):
        made.spans["coref_clusters_1"], made.spans["coref_clusters_2"] = [Span(made, 0, 1)], [Span(made, 2, 3)]
    reference.user_data["cluster_relations"] = found._.cluster_relations = [relation(1, 2, "met", 0, 1)]
    assert document_scores([Example(found, reference)])["rel_doc_evidence_f"] == 1.0


def test_nothing_to_score() -> None:
    eg = example([])
    eg.predicted._.cluster_relations = None
    assert document_scores([eg])["rel_doc_f"] == 0.0
    del eg.reference.user_data["cluster_relations"]
    assert set(document_scores([eg]).values()) == {None}


@pytest.mark.parametrize("value", [relation(1, 5, "met"), relation(0, 1, "met"), {"head": 1, "tail": 2}, 3])
def test_relations_that_cannot_be_read(value: Any) -> None:
    with pytest.raises(InputError, match=r"\[E346\] .* one of the 4 groups"):
        document_scores([example([value])])


def test_relations_that_are_no_list() -> None:
    eg = example([])
    eg.reference.user_data["cluster_relations"] = 5
    with pytest.raises(InputError, match=r"\[E349\].*expected a list"):
        document_scores([eg])


def test_facts_of_a_file(tmp_path: Path) -> None:
    """They are read when something is scored, once; on another machine there may be none."""
    path = tmp_path / "train.spacy"
    scorer = make_relations_scorer(str(path))
    eg = example([relation(1, 2, "born")])
    for missing in (scorer, make_relations_scorer(str(tmp_path))):
        with pytest.warns(EntityKitWarning, match=r"W341"):
            scores = missing([eg])
        assert (scores["rel_doc_p"], scores["rel_doc_ign_f"]) == (1.0, None)
    path.write_bytes(b"no DocBin")
    with pytest.raises(InputError, match="E604"):
        scorer([eg])
    DocBin(docs=[train()], store_user_data=True).to_disk(path)
    assert KnownFacts(str(path)).get() == KnownFacts(str(tmp_path)).get() == known_facts([train()])
    assert scorer([eg])["rel_doc_ign_f"] == 0.0
    path.unlink()
    assert scorer([eg], entities="coref")["rel_doc_ign_f"] == 0.0
    assert make_relations_scorer()([eg])["rel_doc_ign_f"] is None
