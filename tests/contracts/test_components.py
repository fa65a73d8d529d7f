"""One table of components, one list of contracts: each component keeps each of them."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from thinc.api import Adam
from thinc.util import fix_random_seed

from entitykit.components.indexed import build_index
from tests.pipelines import (
    SENTENCES,
    annotations,
    encoder_weights,
    fast_optimizer,
    initialized,
    make_example,
    make_examples,
    make_pipeline,
    scores,
    train,
)

ENCODER = "entitykit_encoder"

# A component's kind in tests.pipelines.HEADS, or none for the encoder alone, and settings that training does not see.
COMPONENTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "encoder": (None, {}),
    "mentions-overlapping": ("mentions", {"decoder": "overlapping"}),
    "mentions-greedy": ("mentions", {"decoder": "greedy"}),
    "mentions-exact_flat": ("mentions", {"decoder": "exact_flat"}),
    "mentions-greedy_nested": ("mentions", {"decoder": "greedy_nested"}),
    "mentions-exact_nested": ("mentions", {"decoder": "exact_nested"}),
    "mentions-ranked": ("mentions", {"per_word": 0.5, "candidates": 1.0}),
    "ner-flat-SpanNER": ("span_ner", {}),
    "ner-flat-SpanNER-exact": ("span_ner", {"decoder": "exact_flat", "threshold": 0.3}),
    "ner-nested-SpanNER": ("nested", {}),
    "ner-nested-SpanNER-ents": ("nested", {"project_ents": True, "decoder": "exact_nested"}),
    "ner-flat-SpERT": ("spert", {}),
    "ner-nested-SpERT": ("spert_nested", {}),
    "mentions-entity-tokens": ("mentions_reading", {}),
    "ner-flat-entity-tokens": ("span_ner_reading", {}),
    "ner-nested-LUKE-tokens": ("nested_luke", {"decoder": "exact_nested"}),
    "dictionary-ents": ("dictionary", {}),
    "dictionary-group": ("dictionary", {"mentions": "phrases"}),
    "keywords": ("keywords", {}),
    "linker-context": ("linker", {}),
    "linker-document": ("linker", {"coherence": 3.0, "nil_clusters": True}),
    "linker-state": ("linker_state", {"candidates": {"alias": 8, "fuzzy": 4, "words": 4, "dense": 4}, "threshold": 0.2}),
    "entqa": ("entqa", {}),
    "entqa-group": ("entqa", {"annotate": "spans", "spans_key": "linked", "decoder": "greedy_nested", "n_best": 1}),
    "reranker": ("reranker", {}),
    "reranker-shared": ("reranker_shared", {"top_k": 1, "threshold": 0.6, "linker_weight": 0.5}),
    "coref": ("coref", {}),
    "coref-bounded": ("coref", {"capacity": 1, "singletons": False, "mentions": ["names", "ents"]}),
    "coref-antecedents": ("coref_antecedents", {}),
    "coref-major": ("coref_major", {"forget": "learned", "compared": 4}),
    "coref-entity-tokens": ("coref_tokens", {"compared": 4}),
    "salience": ("salience", {"mentions": "names"}),
    "salience-cross": ("salience_cross", {"mentions": "names", "threshold": 0.0}),
    "tracker": ("tracker", {"participants": ["names"]}),
    "tracker-texts": ("tracker_texts", {"participants": ["names"], "max_place_words": 1}),
    "cross-document": ("cross_document", {}),
    "cross-document-sampled": ("cross_document", {"neighbours": 2, "threshold": 0.6, "mean_threshold": 0.0, "sampled": 1}),
    "mention-pairs": ("mention_pairs", {}),
    "mention-pairs-shared": ("mention_pairs_shared", {"vector_weight": 0.5, "least": 0.5}),
    "relations-SpERT": ("relations", {"entities": "names"}),
    "relations-SpERT-exact": ("relations", {"entities": "names", "decoder": "exact", "scope": "document", "schema": None}),
    "relations-EnriCo": ("relations_joint", {"entities": "names"}),
    "relations-EnriCo-beam": ("relations_joint", {"entities": "names", "decoder": "beam", "order": "relation_first"}),
    "relations-LUKE-markers": ("relations_marked", {"entities": "names", "schema": None}),
    "relations-clusters": ("relations_clusters", {}),
    "relations-clusters-evidence": ("relations_evidence", {}),
    "relations-clusters-window": ("relations_clusters", {"scope": "window", "window": 9, "decoder": "exact", "threshold": 0.3}),
}
LEARNED = {
    "mentions": "mentions_f",
    "span_ner": "ents_f",
    "nested": "spans_sc_f",
    "spert": "ents_f",
    "spert_nested": "spans_sc_f",
    "mentions_reading": "mentions_f",
    "span_ner_reading": "ents_f",
    "nested_luke": "spans_sc_f",
    "relations": "rel_strict_f",
    "relations_joint": "rel_strict_f",
    "salience": "salience_f",
    "salience_cross": "salience_f",
    "tracker": "tracking_f",
    "tracker_texts": "tracking_f",
    "relations_marked": "rel_strict_f",
    "relations_clusters": "rel_doc_f",
    "relations_evidence": "rel_doc_evidence_f",
    "cross_document": "cross_document_conll_f",
    "mention_pairs": "cross_document_conll_f",
    "mention_pairs_shared": "cross_document_conll_f",
    "coref": "coref_conll_f",
    "coref_major": "coref_conll_f",
    "coref_antecedents": "coref_conll_f",
    "coref_tokens": "coref_conll_f",
    "linker": "linking_inkb_acc",
    "linker_state": "linking_inkb_acc",
    "entqa": "linking_micro_f",
    "reranker": "linking_inkb_acc",
    "reranker_shared": "linking_inkb_acc",
}
"""Each trained kind, and the score that it must bring to 1."""
STEPS: dict[str | None, int] = {"entqa": 80}
"""Updates of kinds that need more than others."""
LEAST = {"entqa": 0.8}
"""Scores of kinds that need more updates still; tests/components has them on an easier task."""

TEXTS = [
    "",
    " ",
    "\n\n \t\u3000",
    "Peter",
    ".",
    *(text for text, _ in SENTENCES),
    "  Mary   Jones\n\nwent to\tNew York  ",
    "John\x00met\x1fMary \x07\x7f",
    "😀 met 🇬🇧 and 👩‍👩‍👧 in New York 😀",
    "E\u0301mile et Zo\u0308e a\u0300 Le\u0301on\u0327",
    "שלום עולם, John met العربية in \u202eYork weN\u202c",
    "\u200b \ufeff\u00ad Peter\u2028Mary\u0085x",
    "x" * 300,
    " ".join(text for text, _ in SENTENCES * 8),
]


class Trained:
    """Each kind of component is trained once, and each case of the table loads a copy and annotates the texts once."""

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.kinds: dict[str | None, bytes] = {}
        self.cases: dict[str, tuple[Language, list[Doc]]] = {}

    def of_kind(self, kind: str | None) -> bytes:
        if kind not in self.kinds:
            nlp, examples = initialized(self.checkpoint, *([kind] if kind else []))
            train(nlp, examples, STEPS.get(kind, 60) if kind in LEARNED else 0)
            build_index()(nlp)
            self.kinds[kind] = nlp.to_bytes()
        return self.kinds[kind]

    def load(self, case: str) -> Language:
        kind, settings = COMPONENTS[case]
        return make_pipeline(self.checkpoint, *([kind] if kind else []), **settings).from_bytes(self.of_kind(kind))

    def __call__(self, case: str) -> tuple[Language, list[Doc]]:
        if case not in self.cases:
            nlp = self.load(case)
            self.cases[case] = nlp, [nlp(text) for text in TEXTS]
        return self.cases[case]


@pytest.fixture(scope="module")
def trained(tiny_bert: Path) -> Trained:
    return Trained(tiny_bert)


@pytest.fixture(params=COMPONENTS)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def nlp(trained: Trained, case: str) -> Language:
    return trained(case)[0]


@pytest.fixture
def singles(trained: Trained, case: str) -> list[Doc]:
    """Each text, annotated alone."""
    return trained(case)[1]


def states(doc: Doc) -> Any:
    """The words' states; where only mentions are read, the scores of spans that lie within the document."""
    output = doc._.trf_data.model_output
    if "mention_band" in output and "last_hidden_state" not in output:
        return np.where(output["mention_valid"], output["mention_band"], 0.0)
    return next(iter(output.values())) if output else np.zeros((1, 0, 0))


def check_equal(found: Iterable[Doc], expected: Iterable[Doc], *, tolerance: float = 0.0) -> None:
    """The same annotations; scores and states up to a tolerance."""
    for a, b in zip(found, expected, strict=True):
        assert (a.text, annotations(a)) == (b.text, annotations(b))
        for key, values in scores(b).items():
            expected_values = [value if value is None else pytest.approx(value, rel=0, abs=tolerance) for value in values]
            assert list(scores(a)[key]) == expected_values
        assert a._.coverage == b._.coverage
        if a._.trf_data is not None and b._.trf_data is not None:
            np.testing.assert_allclose(states(a), states(b), rtol=0, atol=tolerance)


def test_any_text_is_annotated(case: str, singles: list[Doc]) -> None:
    """Nothing is lost, nothing breaks, and every span has its score, but names of a dictionary that nobody counted."""
    kind, settings = COMPONENTS[case]
    for text, doc in zip(TEXTS, singles, strict=True):
        assert doc.text == text
        assert doc._.coverage["read"] == len(doc)
        learned = LEARNED.get(kind or "", "")
        key = {"mentions_f": "mentions", "spans_sc_f": "sc", "ents_f": "ents"}.get(
            learned,
            settings.get("mentions", settings.get("entities", settings.get("spans_key", *settings.get("participants", [])))),
        )
        if learned in ("coref_conll_f", "rel_doc_f", "rel_doc_evidence_f"):
            assert list(doc.spans) == [f"coref_clusters_{i}" for i in range(1, len(doc.spans) + 1)]
            assert doc.spans or learned != "coref_conll_f"
        elif learned == "cross_document_conll_f":
            assert list(doc.spans) == ["phrases", "cross_document"]
        else:
            assert list(doc.spans) == ([key] if key else []) + (["mention_candidates"] if "per_word" in settings else [])
        for group in doc.spans.values():
            values = group.attrs["scores"]
            assert len(values) == len(group)
            if kind == "dictionary":
                assert all(value is None for value in values)
            else:
                assert all(type(value) is float and 0 <= value <= 1 for value in values)
            assert len({(span.start, span.end, span.label) for span in group}) == len(group)
            assert all(0 <= span.start < span.end <= len(doc) for span in group)


@pytest.mark.parametrize("batch_size", [3, 128])
def test_batch_equals_singles(nlp: Language, singles: list[Doc], batch_size: int) -> None:
    check_equal(nlp.pipe(TEXTS, batch_size=batch_size), singles, tolerance=1e-5)


def test_order_does_not_matter(nlp: Language, singles: list[Doc]) -> None:
    check_equal(reversed(list(nlp.pipe(TEXTS[::-1]))), singles, tolerance=1e-5)


def test_pipe_of_one_equals_call(nlp: Language, singles: list[Doc]) -> None:
    check_equal((doc for text in TEXTS for doc in nlp.pipe([text])), singles)


def test_running_twice_changes_nothing(nlp: Language, singles: list[Doc]) -> None:
    check_equal((nlp(doc.copy()) for doc in singles), singles)


def test_to_disk(nlp: Language, singles: list[Doc], tmp_path: Path) -> None:
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    check_equal((loaded(text) for text in TEXTS), singles)
    loaded.to_disk(tmp_path / "again")
    for path in sorted((tmp_path / "nlp").rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tmp_path / "nlp")).read_bytes()


def test_to_bytes(nlp: Language, singles: list[Doc], trained: Trained, case: str) -> None:
    copy = trained.load(case).from_bytes(nlp.to_bytes())
    check_equal((copy(text) for text in TEXTS), singles)


def test_pickle(nlp: Language, singles: list[Doc]) -> None:
    """Components can be pickled together, which is how a started process gets them."""
    pipes = pickle.loads(pickle.dumps([pipe for _, pipe in nlp.pipeline]))
    docs = [nlp.make_doc(text) for text in TEXTS]
    for pipe in pipes:
        docs = [pipe(doc) for doc in docs]
    check_equal(docs, singles)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_two_processes(nlp: Language, singles: list[Doc]) -> None:
    n = 12
    check_equal(nlp.pipe(TEXTS[:n], n_process=2, batch_size=3), singles[:n], tolerance=1e-5)


@pytest.mark.parametrize("drop_states", [False, True])
def test_documents_are_saved(nlp: Language, singles: list[Doc], drop_states: bool) -> None:
    """With what the encoder left on them, and without."""
    docs = [doc.copy() for doc in singles]
    assert all(doc._.trf_data is not None for doc in docs)
    if drop_states:
        for doc in docs:
            doc._.trf_data = None
    check_equal([Doc(nlp.vocab).from_bytes(doc.to_bytes()) for doc in docs], docs)
    data = DocBin(docs=docs, store_user_data=True).to_bytes()
    check_equal(DocBin(store_user_data=True).from_bytes(data).get_docs(nlp.vocab), docs)


@pytest.mark.parametrize(("kind", "score"), LEARNED.items())
def test_overfit(tiny_bert: Path, trained: Trained, tmp_path: Path, kind: str, score: str) -> None:
    """A handful of sentences is learned, by most kinds without a mistake, and known again after loading."""
    nlp = make_pipeline(tiny_bert, kind).from_bytes(trained.of_kind(kind))
    found = nlp.evaluate(make_examples(nlp))[score]
    assert found >= LEAST.get(kind, 1.0)
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    assert loaded.evaluate(make_examples(loaded))[score] == found


def test_settings_of_a_loaded_pipeline(trained: Trained, tmp_path: Path, tiny_bert: Path) -> None:
    """They come from the config, and can be changed there when the pipeline is loaded."""
    nlp = make_pipeline(tiny_bert, "span_ner").from_bytes(trained.of_kind("span_ner"))
    nlp.to_disk(tmp_path / "nlp")
    text = SENTENCES[0][0]
    assert spacy.load(tmp_path / "nlp")(text).ents
    assert not spacy.load(tmp_path / "nlp", config={"components.span_ner.threshold": 1.0})(text).ents


@pytest.mark.parametrize("kind", [kind for kind in LEARNED if not kind.startswith("mention_pairs")])  # which finds none
def test_overlapping_gold(tiny_bert: Path, kind: str) -> None:
    """Nested and crossing spans, the same span twice, and one that holds the whole document."""
    nlp, _ = initialized(tiny_bert, kind)
    spans = [(0, 6, "PLACE"), (0, 3, "PERSON"), (2, 5, "PLACE"), (2, 3, "PERSON"), (2, 3, "PERSON"), (5, 6, "PLACE")]
    example = make_example(nlp, "Mary Jones went to New York", spans)
    history = train(nlp, [example], 40)
    assert history[-1][kind] < 0.5 * history[0][kind]
    nlp(example.text)


@pytest.mark.parametrize("kind", LEARNED)
def test_frozen(tiny_bert: Path, kind: str) -> None:
    nlp, examples = initialized(tiny_bert, kind, "tagger")
    head = nlp.get_pipe(kind).model.to_bytes()
    before = encoder_weights(nlp)
    losses = train(nlp, examples, 2, exclude=[kind])
    assert nlp.get_pipe(kind).model.to_bytes() == head
    assert kind not in losses[-1]
    assert not torch.equal(encoder_weights(nlp), before)


@pytest.mark.parametrize("kind", LEARNED)
def test_idle(tiny_bert: Path, kind: str) -> None:
    """A batch without words teaches nothing and harms nothing."""
    nlp, examples = initialized(tiny_bert, kind)
    train(nlp, examples, 1)
    before = nlp.to_bytes()
    losses = train(nlp, [make_example(nlp, "", [])] * 2, 1)
    assert losses == [{ENCODER: 0.0, kind: 0.0}]
    assert nlp.to_bytes() == before
    assert nlp.update([], losses={}) == {}


@pytest.mark.parametrize("kind", LEARNED)
@pytest.mark.parametrize("optimizer", [lambda: fast_optimizer(use_averages=True), lambda: Adam(0.05)], ids=["AdamW", "Adam"])
def test_averages(tiny_bert: Path, kind: str, optimizer: Any) -> None:
    """Evaluation and saving with averaged weights; training goes on with its own."""
    nlp, examples = initialized(tiny_bert, kind)
    averaging = optimizer()
    train(nlp, examples, 5, optimizer=averaging)
    last, text = nlp.to_bytes(exclude=["vocab"]), SENTENCES[1][0]
    with nlp.use_params(averaging.averages):
        averaged = nlp.to_bytes()
        assert nlp.to_bytes(exclude=["vocab"]) != last
        expected = nlp(text)
    assert nlp.to_bytes(exclude=["vocab"]) == last  # ids of entities are strings of the vocabulary
    loaded = make_pipeline(tiny_bert, kind).from_bytes(averaged)
    check_equal([loaded(text)], [expected])


@pytest.mark.parametrize("kind", LEARNED)
def test_training_is_repeatable(tiny_bert: Path, kind: str) -> None:
    runs = []
    for _ in range(2):
        fix_random_seed(1)
        nlp, examples = initialized(tiny_bert, kind)
        train(nlp, examples, 3, drop=0.1)
        runs.append(nlp.to_bytes())
    assert runs[0] == runs[1]


@pytest.mark.parametrize("kind", [*LEARNED, "tagger", "parser", "ner", "spancat"])
def test_prediction_does_not_need_the_gold(tiny_bert: Path, kind: str) -> None:
    """A pipeline that is only initialized predicts something for any text."""
    nlp, _ = initialized(tiny_bert, kind)
    for doc in nlp.pipe(TEXTS):
        assert doc._.coverage["read"] == len(doc)


def test_all_components_in_one_pipeline(tiny_bert: Path, tmp_path: Path) -> None:
    """Each predicts what it predicts alone."""
    nlp, examples = initialized(tiny_bert, "mentions", "span_ner", "nested", "tagger")
    train(nlp, examples, 3)
    nlp.to_disk(tmp_path / "nlp")
    expected: Mapping[str, Any] = annotations(nlp(SENTENCES[5][0]))
    for kind in ("mentions", "span_ner", "nested", "tagger"):
        others = [name for name in nlp.pipe_names if name not in (kind, ENCODER)]
        alone = annotations(spacy.load(tmp_path / "nlp", exclude=others)(SENTENCES[5][0]))
        for key, group in alone["groups"].items():
            assert group == expected["groups"][key]
        if kind == "tagger":
            assert alone["tags"] == expected["tags"]
        if kind == "span_ner":
            assert alone["ents"] == expected["ents"]
