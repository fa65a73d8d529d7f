"""Keywords in pipelines: what is learned from gold links, what a linker makes of it, and what is saved."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components.keywords import Keywords
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.entities import Entity
from entitykit.knowledge.store import EntityStore
from tests.pipelines import BI_ENCODER, OURS, encoder_config, encoder_weights, train

ENCODER, KEYWORDS, LINKER = "entitykit_encoder", "entitykit_keywords", "entitykit_linker"

TELLING = ["sea", "ice", "sun", "fog", "rye", "oak", "ash", "elm"]
OTHER = ["run", "sit", "eat", "hop", "cut", "dig", "mix", "tie"]
PAIRS = list(combinations(TELLING, 2))
UNSEEN = PAIRS[::4]
"""Of the entities, those that no training text links."""

SOUGHT = {"keywords": 4, "keyword_threshold": 0.0}
BOUND = {"alias": 0, "fuzzy": 0, "words": 4, "dense": 0}


@pytest.fixture(scope="module")
def kb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entities described by two words each, and others that are described by words of all texts; all have one name."""
    folder = tmp_path_factory.mktemp("keywords") / "kb"
    named = [Entity(id="-".join(pair), name="Rex", description=" ".join(pair)) for pair in PAIRS]
    others = [Entity(id="-".join(pair), name="Rex", description=" ".join(pair)) for pair in combinations(OTHER, 2)]
    EntityStore.build(folder, [*others, *named])  # which come first where scores are equal
    return folder


def make(checkpoint: Path, kb: Path | None, *, linker: bool = True, model: Any = None, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe(ENCODER, config=encoder_config(checkpoint))
    source = None if kb is None else {"@misc": "entitykit.KB.v1", "path": str(kb)}
    own = {"@architectures": "entitykit.Keywords.v1", "tok2vec": OURS, **(model or {})}
    nlp.add_pipe(KEYWORDS, config={"kb": source, "model": own, **settings})
    if linker:
        nlp.add_pipe(LINKER, config={"kb": source, "model": BI_ENCODER | {"tok2vec": OURS}, "candidates": BOUND, **SOUGHT})
    return nlp


def texts_of(pairs: Iterable[tuple[str, str]], seed: int) -> list[tuple[list[str], str]]:
    """Each entity's two words, far from the mention and among others."""
    rng = random.Random(seed)
    found = []
    for pair in pairs:
        a, b, c, d, e = rng.sample(OTHER, 5)
        first, second = rng.sample(pair, 2)
        found.append(([a, b, "Rex", c, d, first, e, second], "-".join(pair)))
    return found


def make_examples(nlp: Language, texts: list[tuple[list[str], str]]) -> list[Example]:
    found = []
    for words, id_ in texts:
        predicted, reference = Doc(nlp.vocab, words=words), Doc(nlp.vocab, words=words)
        reference.set_ents([Span(reference, 2, 3, label="X", kb_id=id_)])
        predicted.set_ents([Span(predicted, 2, 3, label="X")])
        found.append(Example(predicted, reference))
    return found


SEEN_TEXTS = texts_of([pair for pair in PAIRS if pair not in UNSEEN] * 2, seed=0)
NEW_TEXTS = texts_of(UNSEEN * 2, seed=1)


@pytest.fixture(scope="module")
def folder(tiny_bert: Path, kb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained pipeline."""
    nlp = make(tiny_bert, kb)
    examples = make_examples(nlp, SEEN_TEXTS)
    nlp.initialize(lambda: examples)
    train(nlp, examples, 40, exclude=[LINKER])
    path = tmp_path_factory.mktemp("keywords") / "nlp"
    nlp.to_disk(path)
    return path


@pytest.fixture
def nlp(folder: Path) -> Language:
    return spacy.load(folder)


def recall(nlp: Language) -> float:
    examples = make_examples(nlp, NEW_TEXTS)
    found = [nlp(eg.predicted).ents[0]._.kb_ents for eg in examples]
    return sum(eg.reference.ents[0].kb_id_ in dict(own) for eg, own in zip(examples, found, strict=True)) / len(examples)


def test_keywords_of_new_entities_are_found(nlp: Language) -> None:
    """And what they name is among the candidates, where the nearest words find others only."""
    for eg in make_examples(nlp, NEW_TEXTS):
        doc = nlp(eg.predicted)
        scores = dict(zip([token.text for token in doc], doc._.keyword_scores, strict=True))
        assert min(scores[word] for word in TELLING if word in scores) > max(scores[word] for word in OTHER if word in scores)
        assert all(0 <= score <= 1 for score in scores.values())
    assert recall(nlp) == 1.0
    nlp.disable_pipe(KEYWORDS)
    assert recall(nlp) == 0.0
    nlp.get_pipe(LINKER).settings["keywords"] = 32  # type: ignore[attr-defined]
    assert recall(nlp) < 0.9  # with all words, too: five others have ten pairs


def test_added_to_a_pipeline_that_was_trained_before(nlp: Language, tmp_path: Path) -> None:
    """Its linker asks with them, and there is one encoder for both."""
    with nlp.select_pipes(disable=[KEYWORDS]):
        nlp.to_disk(tmp_path / "linker", exclude=[KEYWORDS])
    before = spacy.load(tmp_path / "linker", exclude=[KEYWORDS])
    assert before.pipe_names == [ENCODER, LINKER]
    assert recall(before) == 0.0
    before.add_pipe(KEYWORDS, source=nlp, before=LINKER)
    assert recall(before) == 1.0
    before.to_disk(tmp_path / "both")
    assert recall(spacy.load(tmp_path / "both")) == 1.0


def test_keywords_are_scored(nlp: Language) -> None:
    examples = make_examples(nlp, NEW_TEXTS)
    assert nlp.evaluate(examples)["keywords_ap"] == 1.0
    pipe: Any = nlp.get_pipe(KEYWORDS)
    (example,) = make_examples(nlp, NEW_TEXTS[:1])
    example.predicted._.keyword_scores = [0.9, 0.8, 1.0, 0.7, 0.6, 0.75, 0.5, 0.4]  # the keywords are third and seventh
    assert pipe.score([example])["keywords_ap"] == pytest.approx((1 / 3 + 2 / 7) / 2)
    assert pipe.score([]) == {"keywords_ap": None}
    with pytest.raises(ConfigError, match="E588.*for 0 words, but has 8 words"):
        pipe.score(make_examples(nlp, NEW_TEXTS[:1]))
    gone = make_examples(nlp, [(["eat", "hop", "Rex"], NEW_TEXTS[0][1])])
    gone[0].predicted._.keyword_scores = [0.5, 0.5, 0.5]
    assert pipe.score([example, *gone])["keywords_ap"] == pipe.score([example])["keywords_ap"]


def test_explained(nlp: Language) -> None:
    """The words that were asked with stand in the explanation; BM25 of every candidate is that of these words."""
    words, id_ = NEW_TEXTS[0]
    doc = nlp(make_examples(nlp, NEW_TEXTS[:1])[0].predicted)
    linker: Any = nlp.get_pipe(LINKER)
    explained = linker.explain(doc.ents[0])
    assert set(explained.keywords[:2]) == set(id_.split("-"))
    assert len(explained.keywords) == 4
    assert f", keywords: {' '.join(explained.keywords)}\n" in str(explained)
    by_words = {match.id: match.score for match in linker.store.by_words(f"Rex {' '.join(explained.keywords)}", 99)}
    assert {each.id: each.sparse for each in explained.candidates} == pytest.approx(
        {each.id: by_words[each.id] for each in explained.candidates}
    )
    assert {each.found_by for each in explained.candidates} == {("words",)}
    linker.settings["keyword_threshold"] = 0.5
    assert set(linker.explain(doc.ents[0]).keywords) == set(id_.split("-"))
    linker.settings |= {"keyword_threshold": 0.0, "keywords": 1}
    assert linker.explain(doc.ents[0]).keywords == explained.keywords[:1]
    doc._.keyword_scores, linker.settings["keywords"] = None, 4
    assert linker.explain(doc.ents[0]).keywords == (words[1], words[3], words[0], words[4])
    linker.settings["keywords"] = 0
    assert linker.explain(doc.ents[0]).keywords == ()
    assert "keywords" not in str(linker.explain(doc.ents[0]))


def found_in(doc: Doc) -> tuple[list[list[tuple[str, float]]], list[float]]:
    return [ent._.kb_ents for ent in doc.ents], doc._.keyword_scores


def bare(nlp: Language) -> list[Doc]:
    """Documents with a mention, without any, without words, and with words of white space."""
    docs = [eg.predicted for eg in make_examples(nlp, NEW_TEXTS[:5])]
    nothing = [Doc(nlp.vocab), Doc(nlp.vocab, words=["sea", "ice"]), Doc(nlp.vocab, words=["\n\n", " "])]
    return [nothing[0], *docs, *nothing]


def check_equal(nlp: Language, found: Iterable[Doc]) -> None:
    for doc, expected in zip(found, (nlp(doc) for doc in bare(nlp)), strict=True):
        links, scores = found_in(expected)
        assert [[id_ for id_, _ in own] for own in found_in(doc)[0]] == [[id_ for id_, _ in own] for own in links]
        assert doc._.keyword_scores == pytest.approx(scores, abs=1e-5)
        assert len(doc._.keyword_scores) == len(doc)


@pytest.mark.parametrize("batch_size", [2, 128])
def test_batch_equals_singles(nlp: Language, batch_size: int) -> None:
    check_equal(nlp, nlp.pipe(bare(nlp), batch_size=batch_size))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_two_processes(nlp: Language) -> None:
    check_equal(nlp, nlp.pipe(bare(nlp), n_process=2, batch_size=2))


@pytest.mark.parametrize("way", ["bytes", "pickle", "disk"])
def test_saved(nlp: Language, tiny_bert: Path, kb: Path, tmp_path: Path, way: str) -> None:
    pipes: list[Any]
    if way == "pickle":
        pipes = pickle.loads(pickle.dumps([pipe for _, pipe in nlp.pipeline]))
    elif way == "disk":
        nlp.to_disk(tmp_path / "nlp")
        pipes = [pipe for _, pipe in spacy.load(tmp_path / "nlp").pipeline]
    else:
        pipes = [pipe for _, pipe in make(tiny_bert, kb).from_bytes(nlp.to_bytes()).pipeline]
    docs = bare(nlp)
    for pipe in pipes:
        docs = [pipe(doc) for doc in docs]
    for doc, expected in zip(docs, (nlp(doc) for doc in bare(nlp)), strict=True):
        assert found_in(doc) == found_in(expected)
        assert found_in(Doc(nlp.vocab).from_bytes(doc.to_bytes()))[1] == found_in(doc)[1]


def test_prediction_needs_no_knowledge_base(nlp: Language, tiny_bert: Path) -> None:
    other = make(tiny_bert, None, linker=False)
    pipe: Any = nlp.get_pipe(KEYWORDS)
    other.get_pipe(ENCODER).from_bytes(nlp.get_pipe(ENCODER).to_bytes())  # type: ignore[attr-defined]
    other.get_pipe(KEYWORDS).model.from_bytes(pipe.model.to_bytes())  # type: ignore[attr-defined]
    doc = other(bare(nlp)[1].copy())
    assert doc._.keyword_scores == nlp(bare(nlp)[1])._.keyword_scores


def initialized(checkpoint: Path, kb: Path, **options: Any) -> tuple[Language, list[Example]]:
    nlp = make(checkpoint, kb, linker=False, **options)
    examples = make_examples(nlp, SEEN_TEXTS)
    nlp.initialize(lambda: examples)
    return nlp, examples


def test_the_encoder_learns_unless_it_is_frozen(tiny_bert: Path, kb: Path) -> None:
    nlp, examples = initialized(tiny_bert, kb)
    pipe: Any = nlp.get_pipe(KEYWORDS)
    before, head = encoder_weights(nlp), pipe.model.to_bytes()
    history = train(nlp, examples, 3, exclude=[ENCODER], annotates=[ENCODER])
    assert torch.equal(encoder_weights(nlp), before)
    assert pipe.model.to_bytes() != head
    assert history[-1][KEYWORDS] < history[0][KEYWORDS]
    train(nlp, examples, 1)
    assert not torch.equal(encoder_weights(nlp), before)
    before, head = encoder_weights(nlp), pipe.model.to_bytes()
    nlp.update([], losses={})
    train(nlp, [Example(Doc(nlp.vocab), Doc(nlp.vocab))], 1)
    assert torch.equal(encoder_weights(nlp), before)
    assert pipe.model.to_bytes() == head


def test_the_loss_is_that_of_the_labels(tiny_bert: Path, kb: Path) -> None:
    """Against the mean over the words that may tell, of which two of seven are keywords."""
    nlp, _ = initialized(tiny_bert, kb, model={"dropout": 0.0})
    (example,) = make_examples(nlp, SEEN_TEXTS[:1])
    nlp.get_pipe(ENCODER)(example.predicted)  # type: ignore[operator]
    pipe = nlp.get_pipe(KEYWORDS)
    assert isinstance(pipe, Keywords)
    (scores,) = pipe.predict([example.predicted])
    found = pipe.update([example], losses={})[KEYWORDS]
    right = [scores[i] if i in (5, 7) else 1 - scores[i] for i in range(8) if i != 2]
    assert found == pytest.approx(-np.log(right).mean(), rel=1e-5)


def test_so_many_keywords(tiny_bert: Path, kb: Path) -> None:
    """Of two words that add as much, the first."""
    nlp, examples = initialized(tiny_bert, kb, keywords=1)
    pipe = nlp.get_pipe(KEYWORDS)
    assert isinstance(pipe, Keywords)
    assert pipe.labels_of(examples[:1]).targets.tolist() == [False, False, False, False, True, False, False]


def test_entities_without_description_teach_nothing(tiny_bert: Path, tmp_path: Path) -> None:
    """Neither that words are keywords nor that they are none."""
    described = Entity(id=SEEN_TEXTS[0][1], name="Rex", description=SEEN_TEXTS[0][1].replace("-", " "))
    others = [Entity(id=f"O{i}", name="Rex", description="other") for i in range(5)]
    bare = [Entity(id=id_, name="Rex") for id_ in {id_ for _, id_ in SEEN_TEXTS} - {described.id}]
    EntityStore.build(tmp_path / "kb", [described, *others, *bare])
    nlp, examples = initialized(tiny_bert, tmp_path / "kb")
    pipe = nlp.get_pipe(KEYWORDS)
    assert isinstance(pipe, Keywords)
    labels = pipe.labels_of(examples)
    n = sum(id_ == described.id for _, id_ in SEEN_TEXTS)
    assert labels.sizes == [7] * n
    assert labels.targets.sum() == 2 * n
    assert pipe.labels_of([eg for eg in examples if eg.reference.ents[0].kb_id_ != described.id]).sizes == []


def test_what_teaches_nothing_is_told(tiny_bert: Path, kb: Path, tmp_path: Path) -> None:
    EntityStore.build(tmp_path / "names", [Entity(id=id_, name="Rex") for id_ in {id_ for _, id_ in SEEN_TEXTS}])
    with pytest.warns(EntityKitWarning, match="W587"):
        initialized(tiny_bert, tmp_path / "names")
    nlp = make(tiny_bert, kb, linker=False, mentions="links")
    with pytest.warns(EntityKitWarning, match="W586"):
        nlp.initialize(lambda: make_examples(nlp, SEEN_TEXTS))


def test_what_cannot_be(tiny_bert: Path, kb: Path) -> None:
    with pytest.raises(ConfigError, match="E109.*keywords of 'entitykit_keywords' is 0"):
        make(tiny_bert, kb, keywords=0)
    nlp = make(tiny_bert, None, linker=False)
    with pytest.raises(ConfigError, match="E538"):
        nlp.initialize(lambda: make_examples(nlp, SEEN_TEXTS))
    alone = spacy.blank("xx")
    alone.add_pipe(KEYWORDS, config={"kb": {"@misc": "entitykit.KB.v1", "path": str(kb)}})
    with pytest.raises(ConfigError, match="E105"):
        alone.initialize(lambda: make_examples(alone, SEEN_TEXTS))
