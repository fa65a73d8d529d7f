"""Gold or teacher: what a trained pipeline is sure of joins the gold mentions, once, and the rest does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from spacy.util import load_config_from_str, registry

from entitykit.components.gold import reference_spans
from entitykit.corpora.distilled import DistilledReader, distilled
from entitykit.errors import ConfigError
from tests.pipelines import initialized, make_examples, make_pipeline, train

SCORES = {"Ada": 0.95, "Byron": 0.9, "London": 0.91, "met": 0.4}
READ: list[str] = []


@Language.component("test_distilled_teacher")
def write_mentions(doc: Doc) -> Doc:
    """Every word that `SCORES` knows, and the whole text."""
    READ.append(doc.text)
    spans = [Span(doc, token.i, token.i + 1) for token in doc if token.text in SCORES]
    scores = [SCORES[span.text] for span in spans] + [0.99]
    doc.spans["mentions"] = SpanGroup(doc, name="mentions", spans=[*spans, doc[:]], attrs={"scores": scores})
    return doc


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    nlp = spacy.blank("en")
    nlp.add_pipe("test_distilled_teacher")
    nlp.to_disk(tmp_path / "teacher")
    READ.clear()
    return tmp_path / "teacher"


class Corpus:
    """Two documents and an empty one, made anew for every reading, or the same ones again."""

    def __init__(self, *, again: bool = False) -> None:
        self.again = again
        self.examples: list[Example] = []

    def __call__(self, nlp: Language) -> Iterator[Example]:
        if not self.again or not self.examples:
            self.examples = [
                self.make(nlp, "Ada met Byron in London", [(2, 3), (4, 5)]),
                self.make(nlp, "", []),
                self.make(nlp, "nobody met nobody", []),
            ]
        yield from self.examples

    @staticmethod
    def make(nlp: Language, text: str, mentions: list[tuple[int, int]]) -> Example:
        reference = nlp.make_doc(text)
        reference.spans["mentions"] = [Span(reference, *offsets, label="X") for offsets in mentions]
        return Example(nlp.make_doc(text), reference)


def mentions(examples: list[Example], group: str = "mentions") -> list[list[tuple[int, int, str]]]:
    return [sorted((span.start, span.end, span.label_) for span in eg.reference.spans[group]) for eg in examples]


EXPECTED = [[(0, 1, ""), (0, 5, ""), (2, 3, "X"), (4, 5, "X")], [], [(0, 3, "")]]


@pytest.mark.parametrize("again", [False, True])
def test_gold_or_teacher(teacher: Path, nlp: Language, again: bool) -> None:
    """A gold span stays as it is, one below the threshold is not added, and every epoch gives the same."""
    reader = distilled(Corpus(again=again), str(teacher))
    for _ in range(3):
        examples = list(reader(nlp))
        assert mentions(examples) == EXPECTED
        assert not any(eg.predicted.spans for eg in examples)
    assert READ == ["Ada met Byron in London", "nobody met nobody"]  # each once


@pytest.mark.parametrize(("threshold", "added"), [(0.95, 1), (0.949, 2), (0.0, 3)])
def test_threshold_is_exceeded(teacher: Path, nlp: Language, threshold: float, added: int) -> None:
    (first, *_) = distilled(Corpus(), teacher, threshold=threshold)(nlp)
    assert len(first.reference.spans["mentions"]) == 2 + added


def test_other_group(teacher: Path, nlp: Language) -> None:
    """It is made where there is none, and a component joins it with the gold of others."""
    examples = list(distilled(Corpus(), teacher, group="silver")(nlp))
    assert mentions(examples, "silver") == [[(0, 1, ""), (0, 5, ""), (4, 5, "")], [], [(0, 3, "")]]
    joined = reference_spans(examples[0].reference, ["silver", "mentions"])
    assert {(span.start, span.end) for span in joined or ()} == {(0, 1), (0, 5), (2, 3), (4, 5)}


def test_scores_of_the_group_go_on(teacher: Path, nlp: Language) -> None:
    corpus = Corpus(again=True)
    list(corpus(nlp))
    group = corpus.examples[0].reference.spans["mentions"]
    group.attrs["scores"] = [None, 0.5]
    reference = next(iter(distilled(corpus, teacher)(nlp))).reference
    group = reference.spans["mentions"]
    assert [span.text for span in group] == ["Byron", "London", "Ada", "Ada met Byron in London"]
    assert group.attrs["scores"] == [None, 0.5, 0.95, 0.99]


def test_words_of_the_reference(teacher: Path, nlp: Language) -> None:
    """The teacher does not tokenize anew."""

    def corpus(nlp: Language) -> Iterator[Example]:
        reference = Doc(nlp.vocab, words=["Ada", "met", "Lo", "ndon", "."], spaces=[True, True, False, False, False])
        yield Example(Doc(nlp.vocab, words=["Ada", "met", "London."]), reference)

    (example,) = distilled(corpus, teacher)(nlp)
    assert mentions([example]) == [[(0, 1, ""), (0, 5, "")]]
    assert READ == ["Ada met London."]


def test_in_a_config(teacher: Path, nlp: Language, tmp_path: Path) -> None:
    DocBin(docs=[eg.reference for eg in Corpus()(nlp) if len(eg.reference)]).to_disk(tmp_path / "corpus.spacy")
    config = f"""
    [reader]
    @readers = "entitykit.Distilled.v1"
    teacher = "{teacher}"
    threshold = 0.92

    [reader.corpus]
    @readers = "spacy.Corpus.v1"
    gold_preproc = false
    path = "{tmp_path / "corpus.spacy"}"
    """
    reader = registry.resolve(load_config_from_str(config))["reader"]
    assert isinstance(reader, DistilledReader)
    assert mentions(list(reader(nlp))) == [EXPECTED[0], EXPECTED[2]]


def test_with_a_trained_teacher(tiny_bert: Path, tmp_path: Path) -> None:
    """A student learns from half of the gold and from what the teacher knows of the rest."""
    first, examples = initialized(tiny_bert, "mentions")
    train(first, examples, 60)
    assert first.evaluate(examples)["mentions_f"] == 1.0
    first.to_disk(tmp_path / "first")
    student = make_pipeline(tiny_bert, "mentions")

    def corpus(nlp: Language) -> Iterator[Example]:
        for eg in make_examples(nlp):
            eg.reference.spans["sc"] = list(eg.reference.spans["sc"])[::2]
            eg.reference.set_ents([])
            yield eg

    found = list(distilled(corpus, tmp_path / "first")(student))
    complete = [{(span.start, span.end) for span in eg.reference.spans["sc"]} for eg in examples]
    halved = [{(span.start, span.end) for span in eg.reference.spans["sc"]} for eg in found]
    joined = [
        {(span.start, span.end) for span in reference_spans(eg.reference, ["mentions", "sc", "ents"]) or ()} for eg in found
    ]
    assert sum(map(len, halved)) < sum(map(len, joined)) == sum(map(len, complete))
    assert joined == complete
    student.initialize(lambda: found)
    train(student, found, 2)


# What cannot be


def test_teacher_that_is_not_there(tmp_path: Path, nlp: Language) -> None:
    reader = distilled(Corpus(), tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"E239.*nothing': \[E05"):
        next(reader(nlp))


def test_teacher_without_mentions(tmp_path: Path, nlp: Language) -> None:
    spacy.blank("en").to_disk(tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"E239.*it writes no doc\.spans\['mentions'\] with scores"):
        next(distilled(Corpus(), tmp_path / "empty")(nlp))


def test_teacher_that_lacks_scores(teacher: Path, nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCORES, "Ada", None)
    with pytest.raises(ConfigError, match=r"E239.*with scores of all its spans"):
        next(distilled(Corpus(), teacher)(nlp))


def test_no_path() -> None:
    with pytest.raises(ConfigError, match="E239.*no path"):
        distilled(Corpus(), None)


@pytest.mark.parametrize("threshold", [-0.1, 1.0, 90])
def test_threshold_out_of_range(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ConfigError, match="E213.*threshold"):
        distilled(Corpus(), tmp_path, threshold=threshold)
