"""Gold spans reach the words of the predicted document, and nothing is dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from spacy.tokens import Doc, Span
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.components.gold import gold_spans, group_spans, reference_spans
from entitykit.errors import EntityKitWarning
from tests.pipelines import initialized, train

VOCAB = Vocab()


def doc(words: str, *, spaces: list[bool] | None = None, **groups: list[tuple[int, int, str]]) -> Doc:
    """A document; the group ``ents`` goes to ``doc.ents``, all others to span groups."""
    made = Doc(VOCAB, words=words.split("|") if words else [], spaces=spaces)
    for key, spans in groups.items():
        found = [Span(made, start, end, label=label) for start, end, label in spans]
        if key == "ents":
            made.set_ents(found)
        else:
            made.spans[key] = found
    return made


def offsets(spans: list[Span] | None) -> list[tuple[int, int, str]] | None:
    return None if spans is None else [(span.start, span.end, span.label_) for span in spans]


def test_groups_are_joined() -> None:
    reference = doc("a|b|c", sc=[(0, 2, "X"), (0, 2, "Y")], ents=[(0, 2, "X"), (2, 3, "Z")], other=[(1, 2, "W")])
    assert offsets(reference_spans(reference, ["sc", "ents", "absent"])) == [(0, 2, "X"), (0, 2, "Y"), (2, 3, "Z")]
    assert offsets(reference_spans(reference, ["ents"])) == [(0, 2, "X"), (2, 3, "Z")]


def test_no_annotation_is_not_no_entity() -> None:
    assert reference_spans(doc("a|b"), ["sc", "ents"]) is None
    assert offsets(reference_spans(doc("a|b", ents=[]), ["sc", "ents"])) == []
    assert offsets(reference_spans(doc("a|b", sc=[]), ["sc", "ents"])) == []
    assert reference_spans(doc("a|b", sc=[]), ["ents"]) is None


def test_groups_by_the_beginning_of_their_names() -> None:
    reference = doc("a|b|c", coref_clusters_1=[(0, 1, "")], coref_clusters_2=[(1, 3, "")], coref_ids=[(0, 3, "")])
    assert offsets(reference_spans(reference, ["coref_clusters_*"])) == [(0, 1, ""), (1, 3, "")]
    assert len(reference_spans(reference, ["*", "coref_ids"]) or ()) == 3
    assert reference_spans(reference, ["clusters_*"]) is None
    found = group_spans([doc("x"), reference], ["coref_*"]).spans
    assert (found.starts.tolist(), found.ends.tolist()) == ([1, 2, 1], [2, 4, 4])


def test_empty_spans_are_counted() -> None:
    """Given ones, and gold ones in words that are the same or others."""
    made = doc("a|b", sc=[(1, 1, ""), (0, 1, ""), (2, 2, "X")])
    with pytest.warns(EntityKitWarning, match="W104.*2 spans"):
        given = group_spans([made], ["sc", "absent"])
    assert (given.spans.starts.tolist(), given.spans.ends.tolist()) == ([0], [1])
    for predicted in (doc("a|b"), doc("ab")):
        with pytest.warns(EntityKitWarning, match="W101.*2 gold spans"):
            gold = gold_spans(
                [Example(predicted, doc("a|b", spaces=[False, False], sc=[(1, 1, ""), (0, 1, ""), (2, 2, "X")]))], ["sc"]
            )
        assert (gold.spans.starts.tolist(), gold.spans.ends.tolist()) == ([0], [1])


def test_what_spans_at_one_place_may_name() -> None:
    made = doc("a|b")
    made.spans["one"] = [Span(made, 0, 1, kb_id="Q1"), Span(made, 1, 2, kb_id="NIL")]
    made.spans["two"] = [Span(made, 0, 1, kb_id="Q2"), Span(made, 0, 2)]
    assert group_spans([doc("x"), made], ["one", "two"]).candidates == {(1, 2): {"Q1": 1.0, "Q2": 1.0}}


def test_same_words() -> None:
    examples = [
        Example(doc("a|b|c"), doc("a|b|c", sc=[(0, 2, "X"), (1, 2, "Y")])),
        Example(doc(""), doc("", sc=[])),
        Example(doc("d|e"), doc("d|e")),
        Example(doc("f"), doc("f", sc=[(0, 1, "X")])),
    ]
    gold = gold_spans(examples, ["sc"])
    assert (gold.spans.starts.tolist(), gold.spans.ends.tolist()) == ([0, 1, 5], [2, 2, 6])
    assert gold.labels == ["X", "Y", "X"]
    assert gold.known == [True, True, False, True]


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        (["New", "York", "-", "based", "firms"], [(0, 2, "PLACE"), (4, 5, "GROUP")]),
        (["New", "York-based", "firms"], [(0, 2, "PLACE"), (2, 3, "GROUP")]),
        (["New York-based firms"], [(0, 1, "PLACE"), (0, 1, "GROUP")]),
        (["N", "ew", "Yo", "rk", "-", "based", "f", "irms"], [(0, 4, "PLACE"), (6, 8, "GROUP")]),
        (["New", " ", "York", "-", "based", "firms"], [(0, 3, "PLACE"), (5, 6, "GROUP")]),
    ],
    ids=str,
)
def test_other_tokenization(predicted: list[str], expected: list[tuple[int, int, str]]) -> None:
    """Spans grow to the words that they touch; documents before and after keep their places."""
    reference = doc("New|York|-|based|firms", spaces=[True, False, False, True, False], sc=[(0, 2, "PLACE"), (4, 5, "GROUP")])
    same = Example(doc("x"), doc("x", sc=[(0, 1, "X")]))
    gold = gold_spans([same, Example(Doc(VOCAB, words=predicted), reference), same], ["sc"])
    n = len(predicted)
    pairs = zip(gold.spans.starts.tolist(), gold.spans.ends.tolist(), gold.labels, strict=True)
    assert list(pairs) == [(0, 1, "X"), *((1 + a, 1 + b, label) for a, b, label in expected), (1 + n, 2 + n, "X")]


def test_span_that_touches_no_word() -> None:
    """White space that the predicted document does not have."""
    reference = doc("a| |b", sc=[(1, 2, "X"), (2, 3, "Y")])
    with pytest.warns(EntityKitWarning, match="W101.*1 gold spans"):
        gold = gold_spans([Example(doc("a|b"), reference)], ["sc"])
    assert (gold.spans.starts.tolist(), gold.spans.ends.tolist(), gold.labels) == ([1], [2], ["Y"])


def test_training_on_other_tokenization(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner", "mentions")
    reference = Doc(nlp.vocab, words=["Mary", "Jones-Smith", "met"])
    reference.set_ents([Span(reference, 0, 2, label="PERSON")])
    predicted = Doc(nlp.vocab, words=["Mary", "Jones", "-", "Smith", "met"], spaces=[True, False, False, True, False])
    train(nlp, [Example(predicted, reference)], 30)
    found = nlp(predicted.copy())
    assert [(ent.start, ent.end, ent.label_) for ent in found.ents] == [(0, 4, "PERSON")]
