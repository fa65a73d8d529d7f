"""Evidence of relations between clusters: what is learned from it, written, saved and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from hypothesis import given, settings
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from entitykit.bridge.head import HeadInput
from entitykit.components.cluster_pairs import gold_facts, reference_clusters
from entitykit.components.relation_evidence import gold_evidence, gold_sentences
from entitykit.corpora.given import give_clusters, give_sentences
from entitykit.corpora.jsonl import doc_to_record, record_to_doc
from entitykit.errors import ConfigError, InputError
from tests.pipelines import encoder_config, train
from tests.written import CLUSTERS, DOCUMENT, EVIDENCE

NAME = "entitykit_relations"
OURS = {"@architectures": "entitykit.EncoderListener.v1"}

Text = tuple[str, list[list[tuple[int, int]]], list[tuple[int, int, str, list[int]]]]
TEXTS: list[Text] = [
    (
        "Mary saw London . Mary lives in London . It rained .",
        [[(0, 1), (4, 5)], [(2, 3), (7, 8)]],
        [(1, 2, "Live_In", [1])],
    ),
    (
        "John lives in Paris . John saw Paris . It rained .",
        [[(0, 1), (5, 6)], [(3, 4), (7, 8)]],
        [(1, 2, "Live_In", [0])],
    ),
    (
        "It rained . John met Mary . She lives in Paris .",
        [[(3, 4)], [(5, 6), (7, 8)], [(10, 11)]],
        [(2, 3, "Live_In", [1, 2]), (1, 2, "Met", [1])],
    ),
    ("Peter slept . London is large .", [[(0, 1)], [(3, 4)]], []),
    ("It rained .", [], []),
]
"""Words, places of the mentions of each cluster, and relations with the numbers of the sentences that say so."""


def make(checkpoint: Path, *, evidence: bool = True, **more: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint))
    model = (EVIDENCE if evidence else CLUSTERS) | {"tok2vec": OURS}
    nlp.add_pipe(NAME, config={"model": model, **DOCUMENT, **more})
    return nlp


def gold_doc(nlp: Language, text: Text) -> Doc:
    words = text[0].split()
    doc = Doc(nlp.vocab, words=words, sent_starts=[i == 0 or words[i - 1] == "." for i in range(len(words))])
    for number, places in enumerate(text[1], start=1):
        doc.spans[f"coref_clusters_{number}"] = [Span(doc, *place, label="X") for place in places]
    keys = ("head", "tail", "label", "evidence")
    doc.user_data["cluster_relations"] = [dict(zip(keys, relation, strict=True)) for relation in text[2]]
    return doc


def example(nlp: Language, text: Text, *, split: bool = True) -> Example:
    eg = Example(Doc(nlp.vocab, words=text[0].split()), gold_doc(nlp, text))
    give_clusters(eg)
    if split:
        give_sentences(eg)
    return eg


def examples_of(nlp: Language) -> list[Example]:
    return [example(nlp, text) for text in TEXTS]


def found_in(doc: Doc) -> list[tuple[int, int, str, list[int]]]:
    return [(r["head"], r["tail"], r["label"], r["evidence"]) for r in doc._.cluster_relations]


def read_by_encoder(nlp: Language, doc: Doc) -> Doc:
    return nlp.get_pipe("entitykit_encoder")(doc)


def as_input(nlp: Language, examples: list[Example]) -> HeadInput:
    """What the head is given in training."""
    docs = [read_by_encoder(nlp, eg.x) for eg in examples]
    return HeadInput(docs, nlp.get_pipe(NAME).candidates(docs, examples))


@pytest.fixture(scope="module")
def trained(tiny_bert: Path) -> Language:
    nlp = make(tiny_bert)
    nlp.initialize(lambda: examples_of(nlp))
    train(nlp, examples_of(nlp), 50)
    return nlp


def test_learns_and_writes(trained: Language) -> None:
    """Two sentences name both, and one of them says so; or it takes two."""
    docs = [trained(eg.x) for eg in examples_of(trained)]
    assert [sorted(found_in(doc)) for doc in docs] == [sorted(relations) for *_, relations in TEXTS]
    for doc in docs:
        assert [r["evidence"] for r in doc._.relations] == [r["evidence"] for r in doc._.cluster_relations]
    scores = trained.evaluate(examples_of(trained))
    assert [scores[f"rel_doc_evidence_{key}"] for key in "prf"] == [1.0, 1.0, 1.0]
    bytes_data = DocBin(docs=docs, store_user_data=True).to_bytes()
    again = list(DocBin().from_bytes(bytes_data).get_docs(trained.vocab))
    assert json.dumps([doc._.relations for doc in again]) == json.dumps([doc._.relations for doc in docs])


def test_saved(trained: Language, tiny_bert: Path, tmp_path: Path) -> None:
    trained.to_disk(tmp_path / "nlp")
    expected = [trained(eg.x)._.relations for eg in examples_of(trained)]
    for loaded in (spacy.load(tmp_path / "nlp"), make(tiny_bert).from_bytes(trained.to_bytes())):
        assert [loaded(eg.x)._.relations for eg in examples_of(loaded)] == expected
    assert loaded.config["components"][NAME]["model"]["evidence"] is True


def test_a_pipeline_without_evidence_stays_one(tiny_bert: Path, tmp_path: Path) -> None:
    """Also one from before there was any, whose settings do not know of it."""
    nlp = make(tiny_bert, evidence=False, threshold=0.0)
    nlp.initialize(lambda: examples_of(nlp))
    expected = [nlp(eg.x)._.relations for eg in examples_of(nlp)]
    assert any(expected)
    assert not any("evidence" in relation for relations in expected for relation in relations)
    shim = nlp.get_pipe(NAME).model.shims[0]
    shim.settings = {key: value for key, value in shim.settings.items() if "evidence" not in key}
    nlp.to_disk(tmp_path / "nlp")
    path = tmp_path / "nlp" / "config.cfg"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("evidence")), encoding="utf-8")
    for overrides in ({}, {f"components.{NAME}.model.evidence": True}):
        loaded = spacy.load(tmp_path / "nlp", config=overrides)
        unsplit = [example(loaded, text, split=False) for text in TEXTS]  # nobody asks for sentences
        assert [loaded(eg.x)._.relations for eg in examples_of(loaded)] == expected
        assert [len(loaded(eg.x)._.relations) for eg in unsplit] == [len(relations) for relations in expected]


def test_implied_relations_have_evidence(trained: Language, tiny_bert: Path) -> None:
    """A symmetric relation that the schema turns, and what has no cluster."""
    schema = {"relations": {"Met": {"symmetric": True}, "Live_In": {}}}
    nlp = make(tiny_bert, schema=schema, threshold=0.0).from_bytes(trained.to_bytes())
    doc = example(nlp, TEXTS[2]).x
    del doc.spans["coref_clusters_1"]
    doc.set_ents([Span(doc, 3, 4, label="X")])
    doc = nlp(doc)
    assert any(relation["head_cluster"] is None for relation in doc._.relations)
    assert all(set(relation["evidence"]) <= {0, 1, 2} for relation in doc._.relations)
    assert all("evidence" in relation for relation in doc._.cluster_relations)


def test_many_documents_are_as_each_alone(trained: Language) -> None:
    singles = [found_in(trained(eg.x)) for eg in examples_of(trained)]
    assert [found_in(doc) for doc in trained.pipe([eg.x for eg in examples_of(trained)])] == singles


def test_nothing_is_read_of_pairs_without_relation(trained: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six pairs two are related, and so three sentences are scored for each of these."""
    pipe = trained.get_pipe(NAME)
    asked = []
    score = type(pipe.head.evidence)._score

    def counted(self: Any, rows: Any, *args: Any) -> Any:
        asked.extend(rows.tolist())
        return score(self, rows, *args)

    monkeypatch.setattr(type(pipe.head.evidence), "_score", counted)
    pipe.predict([read_by_encoder(trained, example(trained, TEXTS[2]).x)])
    assert len(asked) == 2
    asked.clear()
    pipe.predict([read_by_encoder(trained, example(trained, text).x) for text in TEXTS[3:]])
    assert not asked
    egs = examples_of(trained)
    output, _ = pipe.model.begin_update(as_input(trained, egs))
    pipe.head.loss(output, *pipe.targets(egs, output))
    assert len(asked) == 4


def test_no_sentences(trained: Language, tiny_bert: Path) -> None:
    """A document with pairs needs them; one without does not."""
    with pytest.raises(ConfigError, match=r"\[E122\] 'entitykit_relations' looks for .* 'Mary saw London"):
        trained(example(trained, TEXTS[0], split=False).x)
    assert trained("It rained and rained")._.relations == []
    nlp = make(tiny_bert).from_bytes(trained.to_bytes())
    nlp.add_pipe("sentencizer", first=True)
    assert found_in(nlp(example(nlp, TEXTS[0], split=False).x)) == [TEXTS[0][2][0]]


def test_gold_that_cannot_be_learned(tiny_bert: Path) -> None:
    nlp = make(tiny_bert)
    wrong, bare, unsplit = (examples_of(nlp) for _ in range(3))
    wrong[0].y.user_data["cluster_relations"][0]["evidence"] = [3]
    with pytest.raises(InputError, match=r"\[E348\] .* is \[3\] in .*; expected a list of numbers from 0, below 3"):
        nlp.initialize(lambda: wrong)
    wrong[0].y.user_data["cluster_relations"][0]["evidence"] = "0"
    with pytest.raises(InputError, match=r"\[E348\] .* is '0'"):
        nlp.initialize(lambda: wrong)
    for eg in bare:
        for relation in eg.y.user_data["cluster_relations"]:
            relation["evidence"] = []
    with pytest.raises(ConfigError, match=r"\[E123\] 'entitykit_relations' is to learn evidence"):
        nlp.initialize(lambda: bare)
    reference = Doc(nlp.vocab, words=[token.text for token in unsplit[0].y])
    for name, group in unsplit[0].y.spans.items():
        reference.spans[name] = [Span(reference, span.start, span.end, label="X") for span in group]
    reference.user_data["cluster_relations"] = unsplit[0].y.user_data["cluster_relations"]
    with pytest.raises(InputError, match=r"\[E348\] .*; expected a document with sentence boundaries"):
        nlp.initialize(lambda: [Example(unsplit[0].x, reference)])


def test_only_pairs_with_evidence_teach_it(tiny_bert: Path) -> None:
    """Of two relations of a pair the sentences of both; none, if neither has any."""
    nlp = make(tiny_bert)
    nlp.initialize(lambda: examples_of(nlp))
    pipe = nlp.get_pipe(NAME)
    egs = examples_of(nlp)
    egs[0].y.user_data["cluster_relations"] += [{"head": 1, "tail": 2, "label": "Met", "evidence": (0,)}]
    egs[1].y.user_data["cluster_relations"] = [{"head": 1, "tail": 2, "label": "Met"}]
    del egs[3].y.user_data["cluster_relations"]
    output, _ = pipe.model.begin_update(as_input(nlp, egs))
    _, _, rows, says = pipe.targets(egs, output)
    pairs = list(zip(output.pairs.heads.tolist(), output.pairs.tails.tolist(), strict=True))
    assert [pairs[row] for row in rows.tolist()] == [(0, 1), (4, 5), (5, 6)]
    assert says.tolist() == [True, True, False, False, True, False, False, True, True]
    nothing = [egs[1], egs[3]]
    output, _ = pipe.model.begin_update(as_input(nlp, nothing))
    targets = pipe.targets(nothing, output)
    assert len(targets[2]) == len(targets[3]) == 0
    assert float(pipe.head.loss(output, *targets).detach()) == float(pipe.head.loss(output, *targets[:2]).detach())


cuts = st.lists(st.booleans(), min_size=7, max_size=7)


@settings(max_examples=25, deadline=None)
@given(cuts, cuts, cuts)
def test_gold_sentences_in_other_tokens(joined: list[bool], cut: list[bool], starts: list[bool]) -> None:
    """Eight letters, as words of the reference and of the predicted document; each word is of the first sentence it touches."""

    def words(ends: list[bool]) -> list[str]:
        return "".join(letter + (" " if end else "") for letter, end in zip("abcdefgh", [*ends, False], strict=True)).split()

    vocab = spacy.blank("xx").vocab
    gold, other = words(joined), words(cut)
    reference = Doc(vocab, words=gold, spaces=[False] * len(gold), sent_starts=[True, *starts[: len(gold) - 1]])
    predicted = Doc(vocab, words=other, spaces=[False] * len(other))
    of_letters = [i for i, sent in enumerate(reference.sents) for _ in sent.text]
    expected = [of_letters[token.idx] for token in predicted]
    found = gold_sentences(Example(predicted, reference))
    assert found.numbers[found.of_words].tolist() == expected
    assert found.numbers.tolist() == sorted(set(expected))
    give_sentences(Example(predicted, reference))
    assert [bool(token.is_sent_start) for token in predicted] == [
        i == 0 or number > expected[i - 1] for i, number in enumerate(expected)
    ]


def test_gold_evidence_in_other_tokens(tiny_bert: Path) -> None:
    """A word over two sentences is of the first; where the second has no other word, nothing can be said to be it."""
    nlp = make(tiny_bert)
    gold = gold_doc(nlp, ("Mary slept . London shone .", [[(0, 1)], [(3, 4)]], [(1, 2, "Live_In", [0, 1])]))
    words, spaces = ["Mary", "slept", " ", ".", "London", "shone", "."], [True, False, False, True, True, True, True]
    eg = Example(Doc(nlp.vocab, words=words, spaces=spaces), gold)
    assert gold_sentences(eg).of_words.tolist() == [0, 0, 0, 0, 1, 1, 1]
    (says,) = gold_evidence(eg, gold_facts(gold, reference_clusters(eg)) or ()).values()
    np.testing.assert_array_equal(says, [True, True])


def test_json_lines_keep_evidence(trained: Language) -> None:
    """As it was written, and as gold when it is read; the record has no sentences, and training says so."""
    doc = trained(example(trained, TEXTS[0]).x)
    record = json.loads(json.dumps(doc_to_record(doc)))
    assert [relation["evidence"] for relation in record["cluster_relations"]] == [[1]]
    assert [relation["evidence"] for relation in record["relations"]] == [[1]]
    again = record_to_doc(record, trained)
    assert again.user_data["cluster_relations"] == doc._.cluster_relations
    assert doc_to_record(again)["cluster_relations"] == record["cluster_relations"]
