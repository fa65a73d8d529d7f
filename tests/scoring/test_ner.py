"""The NER scorer: seqeval and counting agree, nested scores by hand, alignment, missing annotation, `spacy evaluate`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import spacy
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from spacy.cli.evaluate import evaluate
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.errors import ConfigError, InputError
from entitykit.scoring.ner import make_ner_scorer, ner_score, score_flat_spans
from entitykit.scoring.spans import LabelledSpan, score_spans

VOCAB = Vocab()
LABELS = ("LOC", "PER", "-x-")
TAGS = st.lists(st.sampled_from(["O", *(f"{prefix}-{label}" for prefix in "BI" for label in ("LOC", "PER"))]), max_size=12)


def doc(text: str, *spans: tuple[int, int, str], key: str | None = None) -> Doc:
    """A Doc of the text's words with entities, or with a span group if there is a key."""
    made = Doc(VOCAB, words=text.split())
    made_spans = [Span(made, start, end, label) for start, end, label in spans]
    if key is None:
        made.ents = made_spans
    else:
        made.spans[key] = made_spans
    return made


def spans_of(tags: list[str]) -> set[LabelledSpan]:
    """Strict IOB2: a span starts at B and goes on over I of its label; any other I is no entity."""
    spans = set()
    for start, tag in enumerate(tags):
        if tag.startswith("B-"):
            end = start + 1
            while end < len(tags) and tags[end] == "I" + tag[1:]:
                end += 1
            spans.add((start, end, tag[2:]))
    return spans


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=4))
def test_scores_of_tags_are_those_of_seqeval(pairs: list[tuple[list[str], list[str]]]) -> None:
    gold = [tags[: min(map(len, pair))] for pair in pairs for tags in [pair[0]]]
    predicted = [tags[: min(map(len, pair))] for pair in pairs for tags in [pair[1]]]
    flat = score_flat_spans([spans_of(tags) for tags in gold], [spans_of(tags) for tags in predicted])
    if not flat.per_type:
        assert flat == (None, None, {})
        return
    report = classification_report(gold, predicted, mode="strict", scheme=IOB2, output_dict=True, zero_division=0)
    assert flat.micro is not None
    rows = {**flat.per_type, "micro avg": flat.micro}
    if flat.macro is not None and all(each.n_gold for each in flat.per_type.values()):
        rows["macro avg"] = flat.macro
    for name, scores in rows.items():
        expected = [report[name][key] for key in ("precision", "recall", "f1-score", "support")]
        assert scores == pytest.approx(expected, rel=1e-12), name
    assert flat.per_type.keys() == report.keys() - {"micro avg", "macro avg", "weighted avg"}


@st.composite
def flat_spans(draw: st.DrawFn) -> set[LabelledSpan]:
    ends = sorted(draw(st.sets(st.integers(0, 20), max_size=8)))
    return {(start, end, draw(st.sampled_from(LABELS))) for start, end in zip(ends[::2], ends[1::2], strict=False)}


@given(st.lists(st.tuples(flat_spans(), flat_spans()), max_size=4))
def test_seqeval_equals_counting_spans(pairs: list[tuple[set[LabelledSpan], set[LabelledSpan]]]) -> None:
    gold, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    assert score_flat_spans(gold, predicted) == score_spans(gold, predicted)


def test_labels_that_seqeval_would_confuse() -> None:
    gold = [{(0, 1, "x"), (1, 2, "-x-"), (2, 3, "micro avg"), (3, 4, "")}]
    predicted = [{(0, 1, "-x-"), (1, 2, "-x-"), (2, 3, "micro avg"), (3, 4, "_")}]
    assert score_flat_spans(gold, predicted) == score_spans(gold, predicted)


def test_flat_scores_by_hand() -> None:
    reference = doc("Ann Lee met Bob in New York", (0, 2, "PER"), (3, 4, "PER"), (5, 7, "LOC"))
    predicted = doc("Ann Lee met Bob in New York", (0, 2, "PER"), (3, 4, "LOC"), (5, 7, "LOC"))
    scores = ner_score([Example(predicted, reference)], seen=frozenset({"ann lee", "new york"}))
    assert scores == {
        "ents_p": pytest.approx(2 / 3),
        "ents_r": pytest.approx(2 / 3),
        "ents_f": pytest.approx(2 / 3),
        "ents_per_type": {
            "LOC": {"p": 0.5, "r": 1.0, "f": pytest.approx(2 / 3)},
            "PER": {"p": 1.0, "r": 0.5, "f": pytest.approx(2 / 3)},
        },
        "ents_macro_f": pytest.approx(2 / 3),
        "ents_unseen_p": 0.0,
        "ents_unseen_r": 0.0,
        "ents_unseen_f": 0.0,
    }


def test_nested_scores_by_hand() -> None:
    text = "University of New York in Paris"
    reference = doc(text, (0, 4, "ORG"), (2, 4, "LOC"), (5, 6, "LOC"), key="sc")
    predicted = doc(text, (0, 4, "ORG"), (2, 4, "LOC"), (2, 4, "ORG"), (3, 4, "LOC"), key="sc")
    scores = ner_score([Example(predicted, reference)], annotate="spans", seen=frozenset({"new york", "york"}))
    assert scores == {
        "spans_sc_p": 2 / 4,
        "spans_sc_r": pytest.approx(2 / 3),
        "spans_sc_f": pytest.approx(4 / 7),
        "spans_sc_per_type": {"LOC": {"p": 0.5, "r": 0.5, "f": 0.5}, "ORG": {"p": 0.5, "r": 1.0, "f": pytest.approx(2 / 3)}},
        "spans_sc_macro_f": pytest.approx((1 / 2 + 2 / 3) / 2),
        "spans_sc_unseen_p": 1.0,  # University of New York; Paris is missed
        "spans_sc_unseen_r": 1 / 2,
        "spans_sc_unseen_f": pytest.approx(2 / 3),
    }


def test_agrees_with_spacy_on_one_tokenization() -> None:
    reference = doc("a b c d e", (0, 2, "X"), (3, 4, "Y"))
    predicted = doc("a b c d e", (0, 2, "X"), (2, 3, "Y"), (4, 5, "Z"))
    examples = [Example(predicted, reference)]
    expected = Scorer.score_spans(examples, "ents")
    scores = ner_score(examples)
    for key in ("ents_p", "ents_r", "ents_f"):
        assert scores[key] == pytest.approx(expected[key])
    assert scores["ents_per_type"] == {label: pytest.approx(each) for label, each in expected["ents_per_type"].items()}


@pytest.mark.parametrize("annotate", ["ents", "spans"])
def test_tokenizations_may_differ(annotate: str) -> None:
    reference = Doc(VOCAB, words=["New", "York", "-", "based", "Ann"], spaces=[True, False, False, True, False])
    predicted = Doc(VOCAB, words=["New", "York-based", "A", "nn"], spaces=[True, True, False, False])
    gold = [Span(reference, 0, 2, "LOC"), Span(reference, 4, 5, "PER")]
    found = [Span(predicted, 0, 2, "LOC"), Span(predicted, 2, 4, "PER")]
    reference.ents, predicted.ents = gold, found
    reference.spans["sc"], predicted.spans["sc"] = gold, found
    scores = ner_score([Example(predicted, reference)], annotate=annotate)  # type: ignore[arg-type]
    prefix = "ents" if annotate == "ents" else "spans_sc"
    assert scores[f"{prefix}_per_type"] == {"LOC": {"p": 0.0, "r": 0.0, "f": 0.0}, "PER": {"p": 1.0, "r": 1.0, "f": 1.0}}
    assert scores[f"{prefix}_p"] == 0.5  # a prediction that fits no gold token is wrong, not left out


def test_references_without_annotation_are_skipped() -> None:
    text = "Ann met Bob"
    annotated = Example(doc(text, (0, 1, "PER")), doc(text, (0, 1, "PER")))
    unannotated = Example(doc(text, (0, 1, "PER")), Doc(VOCAB, words=text.split()))
    assert ner_score([annotated, unannotated]) == ner_score([annotated])
    assert set(ner_score([unannotated]).values()) == {None}
    no_group = Example(doc(text, (0, 1, "PER"), key="sc"), doc(text))
    assert set(ner_score([no_group], annotate="spans").values()) == {None}


def test_documents_without_entities_are_scored() -> None:
    text = "no names here"
    assert set(ner_score([Example(doc(text), doc(text))]).values()) == {None}
    scores = ner_score([Example(doc(text, (0, 1, "PER")), doc(text))])
    assert (scores["ents_p"], scores["ents_r"], scores["ents_f"], scores["ents_macro_f"]) == (0.0, 0.0, 0.0, None)
    missed = ner_score([Example(Doc(VOCAB, words=["Ann"]), doc("Ann", (0, 1, "PER")))])
    assert missed["ents_r"] == 0.0
    no_group = ner_score([Example(Doc(VOCAB, words=["Ann"]), doc("Ann", (0, 1, "PER"), key="sc"))], annotate="spans")
    assert no_group["spans_sc_r"] == 0.0


def test_predictions_on_tokens_of_unknown_annotation_are_left_out() -> None:
    reference = Doc(VOCAB, words=["Ann", "met", "Bob", "Lee"])
    reference.set_ents([Span(reference, 0, 1, "PER")], missing=[reference[2:4]], default="outside")
    predicted = doc("Ann met Bob Lee", (0, 1, "PER"), (1, 3, "PER"), (3, 4, "PER"))
    assert ner_score([Example(predicted, reference)])["ents_p"] == 1.0


def test_unseen_scores_without_training_mentions_are_none() -> None:
    scores = ner_score([Example(doc("Ann", (0, 1, "PER")), doc("Ann", (0, 1, "PER")))])
    assert scores["ents_f"] == 1.0
    assert [scores[f"ents_unseen_{x}"] for x in "prf"] == [None, None, None]


def test_empty_and_whitespace_documents() -> None:
    empty, blank = Doc(VOCAB), Doc(VOCAB, words=["\n", " "], spaces=[False, False])
    assert set(ner_score([Example(empty, empty.copy()), Example(blank, blank.copy())]).values()) == {None}
    assert set(ner_score([]).values()) == {None}


def test_errors() -> None:
    with pytest.raises(ConfigError, match="E306"):
        ner_score([], annotate="flat")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="E305"):
        ner_score([Example(doc("Ann"), doc("Bob"))])


class NamesAnn:
    """A component that calls "Ann" a person, scored as entitykit's components are."""

    def __init__(self, annotate: str) -> None:
        self.annotate = annotate
        self.scorer = make_ner_scorer()

    def __call__(self, doc: Doc) -> Doc:
        found = [Span(doc, token.i, token.i + 1, "PER") for token in doc if token.text == "Ann"]
        doc.ents = found
        doc.spans["sc"] = found
        return doc

    def score(self, examples: Iterable[Example], **settings: object) -> dict[str, object]:
        return self.scorer(examples, annotate=self.annotate, spans_key="sc", seen=frozenset({"bob"}), **settings)

    def to_disk(self, path: Path, *, exclude: Iterable[str] = ()) -> None: ...

    def from_disk(self, path: Path, *, exclude: Iterable[str] = ()) -> NamesAnn:
        return self


@Language.factory("entitykit_test_names_ann", default_config={"annotate": "ents"})
def make_names_ann(nlp: Language, name: str, annotate: str) -> NamesAnn:
    return NamesAnn(annotate)


@pytest.mark.parametrize(("annotate", "prefix"), [("ents", "ents"), ("spans", "spans_sc")])
@pytest.mark.parametrize("text", ["Ann met Bob", "nobody here"])
def test_spacy_evaluate(annotate: str, prefix: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nlp = spacy.blank("en")
    nlp.add_pipe("entitykit_test_names_ann", config={"annotate": annotate})
    nlp.to_disk(tmp_path / "model")
    reference = nlp.make_doc(text)
    reference.ents = [Span(reference, token.i, token.i + 1, "PER") for token in reference if token.text in ("Ann", "Bob")]
    reference.spans["sc"] = list(reference.ents)
    DocBin(docs=[reference], store_user_data=True).to_disk(tmp_path / "dev.spacy")
    for per_component in (False, True):
        evaluate(
            str(tmp_path / "model"),
            tmp_path / "dev.spacy",
            output=tmp_path / "scores.json",
            silent=False,
            per_component=per_component,
        )
        written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
        written = written["entitykit_test_names_ann"] if per_component else written
        assert written[f"{prefix}_r"] == (0.5 if "Ann" in text else None)
    assert written[f"{prefix}_unseen_r"] == (1.0 if "Ann" in text else None)
    printed = capsys.readouterr().out
    assert ("66.67" in printed) == ("Ann" in text)
