"""LUKE's task models on Docs: loaded by path, they give the logits of `transformers`, which makes its own input of the text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from spacy.tokens import Doc, Span
from transformers import (
    LukeForEntityClassification,
    LukeForEntityPairClassification,
    LukeForEntitySpanClassification,
    LukeForMaskedLM,
    LukeForMultipleChoice,
    LukeTokenizer,
)

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.luke_tasks import LukeEntities, LukePairs, LukeSpans, LukeTypes, load_luke
from entitykit.errors import CheckpointError, InputError
from entitykit.models.encoder.settings import Injection
from tests.luke import make_model
from tests.util import byte_pairs

NLP = spacy.blank("en")
TEXT = "Ada  Lovelace didn't\n\nmeet Lord Byron in the city of London on the 8th of June."
ENTITIES = ["[PAD]", "[UNK]", "[MASK]", "[MASK2]", "Ada Lovelace", "Lord Byron", "London"]
LABELS = ["NIL", "PER", "LOC", "ORG", "MISC"]
N_POSITIONS = 130
TASKS = {
    LukeForEntitySpanClassification: "entity_span_classification",
    LukeForEntityPairClassification: "entity_pair_classification",
    LukeForEntityClassification: "entity_classification",
    LukeForMaskedLM: None,
}


def save(path: Path, kind: type[Any], **settings: int) -> Path:
    """A tiny random model with the files of LUKE's own tokenizer, the slow one, and settings of this."""
    path.mkdir()
    pieces = json.loads(byte_pairs().to_str())["model"]
    (path / "vocab.json").write_text(json.dumps(pieces["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in pieces["merges"]]
    (path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (path / "entities.json").write_text(json.dumps({title: row for row, title in enumerate(ENTITIES)}))
    files = [str(path / file) for file in ("vocab.json", "merges.txt", "entities.json")]
    tokenizer = LukeTokenizer(*files, task=TASKS.get(kind), **settings)
    for file in files:
        Path(file).unlink()
    tokenizer.save_pretrained(path)
    sizes = {"vocab_size": len(tokenizer), "entity_vocab_size": len(ENTITIES), "max_position_embeddings": N_POSITIONS}
    labels = {"num_labels": len(LABELS), "id2label": dict(enumerate(LABELS))} if kind is not LukeForMaskedLM else {}
    model = make_model(kind, **sizes, **labels)
    model.tie_weights()
    model.save_pretrained(path)
    return path


def theirs(path: Path, kind: type[Any], text: str, spans: list[tuple[int, int]]) -> torch.Tensor:
    tokenizer = LukeTokenizer.from_pretrained(path)
    inputs = tokenizer(text, entity_spans=spans, return_tensors="pt")
    with torch.no_grad():
        output = kind.from_pretrained(path).eval()(**inputs)
    return output.entity_logits[0] if kind is LukeForMaskedLM else output.logits[0]


def characters(*spans: Span) -> list[tuple[int, int]]:
    return [(span.start_char, span.end_char) for span in spans]


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    return {kind: save(tmp_path_factory.mktemp("luke") / kind.__name__, kind) for kind in TASKS}


@pytest.fixture
def doc() -> Doc:
    return NLP.make_doc(TEXT)


def words(doc: Doc) -> list[int]:
    return [token.i for token in doc if not token.is_space]


def test_spans(folders: dict[Any, Path], doc: Doc, monkeypatch: pytest.MonkeyPatch) -> None:
    """All spans up to 16 pieces in one pass."""
    monkeypatch.setattr("entitykit.bridge.luke_tasks.AT_ONCE", 1000)
    path = folders[LukeForEntitySpanClassification]
    luke = load_luke(str(path))
    assert isinstance(luke, LukeSpans)
    spans, logits = luke.logits(doc)
    places = characters(*(doc[start:end] for start, end in spans))
    tokenizer = LukeTokenizer.from_pretrained(path)
    every = [(a, b + 1) for a in words(doc) for b in words(doc) if a <= b]
    inputs = tokenizer(TEXT, entity_spans=characters(*(doc[a:b] for a, b in every)), return_tensors="pt")
    sizes = (inputs["entity_position_ids"][0] >= 0).sum(1).tolist()  # 30 at most
    assert spans == [span for span, size in zip(every, sizes, strict=True) if size <= 16]
    close(logits, theirs(path, LukeForEntitySpanClassification, TEXT, places))


def test_spans_are_divided_over_passes_and_decoded(folders: dict[Any, Path], doc: Doc) -> None:
    """At most 128 at once, as evenly as can be; the highest logits win; sentences bound spans."""
    luke = load_luke(str(folders[LukeForEntitySpanClassification]))
    assert isinstance(luke, LukeSpans)
    spans, logits = luke.logits(doc)
    assert len(spans) < 128
    twice = NLP.make_doc(f"{TEXT} {TEXT}")
    assert len(luke.logits(twice)[0]) > 128
    taken: set[int] = set()
    expected = []
    for row in logits.max(1).values.argsort(descending=True).tolist():
        label = int(logits[row].argmax())
        inside = set(range(*spans[row]))
        if label and not inside & taken:
            taken |= inside
            expected.append((*spans[row], LABELS[label]))
    found = luke(doc)
    assert [(span.start, span.end, span.label_) for span in found] == sorted(expected)
    assert found
    doc[words(doc)[5]].is_sent_start = True
    border = words(doc)[5]
    assert not [span for span in luke.logits(doc)[0] if span[0] < border < span[1]]


def test_late_spans(folders: dict[Any, Path], doc: Doc, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens that nothing sees: the logits of a span do not depend on the others."""
    luke = load_luke(str(folders[LukeForEntitySpanClassification]), late=True)
    assert isinstance(luke, LukeSpans)
    logits = luke.logits(doc)[1]
    with monkeypatch.context() as patched:
        patched.setattr("entitykit.bridge.luke_tasks.LONGEST", 6)
        spans, fewer = luke.logits(doc)
    every = {span: row for row, span in enumerate(luke.logits(doc)[0])}
    close(fewer, logits[[every[span] for span in spans]])
    assert len(fewer) < len(logits)


@pytest.mark.parametrize("turned", [False, True])
def test_pairs(folders: dict[Any, Path], doc: Doc, turned: bool) -> None:
    path = folders[LukeForEntityPairClassification]
    luke = load_luke(str(path))
    assert isinstance(luke, LukePairs)
    ada, byron, london = doc[0:3], Span(doc, 7, 9), doc[13:14]
    assert (ada.text, byron.text, london.text) == ("Ada  Lovelace", "Lord Byron", "London")
    pairs = [pair[::-1] if turned else pair for pair in ((ada, byron), (byron, london), (london, ada))]
    logits = luke.logits(doc, pairs)
    expected = [theirs(path, LukeForEntityPairClassification, TEXT, characters(*pair)) for pair in pairs]
    close(logits, torch.stack(expected))
    assert luke(doc, pairs) == [LABELS[int(row.argmax())] for row in expected]


def test_types(folders: dict[Any, Path], doc: Doc) -> None:
    path = folders[LukeForEntityClassification]
    luke = load_luke(str(path))
    assert isinstance(luke, LukeTypes)
    spans = [doc[0:3], doc[13:14], doc[0 : len(doc)]]
    logits = luke.logits(doc, spans)
    close(logits, torch.stack([theirs(path, LukeForEntityClassification, TEXT, characters(span)) for span in spans]))
    assert luke(doc, spans) == [
        [label for label, value in zip(LABELS, row, strict=True) if value > 0] for row in logits.tolist()
    ]


@pytest.mark.parametrize("most", [2, 5, 50])
def test_pieces_of_a_mention_that_count(tmp_path: Path, doc: Doc, most: int) -> None:
    """The checkpoint's tokenizer says how many, and so many its model was trained with."""
    path = save(tmp_path / "luke", LukeForEntityClassification, max_mention_length=most)
    luke, spans = load_luke(str(path)), [doc[0:3], doc[0 : len(doc)]]
    assert isinstance(luke, LukeTypes)
    expected = torch.stack([theirs(path, LukeForEntityClassification, TEXT, characters(span)) for span in spans])
    close(luke.logits(doc, spans), expected)
    injection = Injection(inject_layer=0, words_see_entities=True, entities_see_entities=True)
    encoder, _ = load_checkpoint(str(path), word_shapes=None, n_layers=None, train_pieces=True, injection=injection)
    assert encoder.settings.entities is not None
    assert (encoder.settings.entities.max_pieces, encoder.settings.entities.mask) == (most, ENTITIES.index("[MASK]"))


def test_entities(folders: dict[Any, Path], doc: Doc) -> None:
    path = folders[LukeForMaskedLM]
    luke = load_luke(str(path))
    assert isinstance(luke, LukeEntities)
    spans = [doc[13:14], doc[0:3], Span(doc, 7, 9)]
    logits = luke.logits(doc, spans)
    close(logits, theirs(path, LukeForMaskedLM, TEXT, characters(*spans)))
    best = luke(doc, spans, n=2)
    assert [titles[0][0] for titles in best] == [ENTITIES[int(row.argmax())] for row in logits]
    assert all(len(titles) == 2 and titles[0][1] >= titles[1][1] for titles in best)


def test_titles_that_share_a_row(folders: dict[Any, Path], tmp_path: Path) -> None:
    """The first of them is given."""
    path = shutil.copytree(folders[LukeForMaskedLM], tmp_path / "copy")
    rows = {title: row for row, title in enumerate(ENTITIES)} | {"Londres": ENTITIES.index("London"), "Londra": 6}
    (path / "entity_vocab.json").write_text(json.dumps(rows))
    luke = load_luke(str(path))
    assert isinstance(luke, LukeEntities)
    assert luke.labels == ENTITIES


def test_long_texts(folders: dict[Any, Path]) -> None:
    """Every span is read, from a window that sees it; a pair keeps as much context as there is room for."""
    doc = NLP.make_doc(" ".join([TEXT] * 12))
    spans_of = load_luke(str(folders[LukeForEntitySpanClassification]))
    assert isinstance(spans_of, LukeSpans)
    spans, logits = spans_of.logits(doc)
    assert {i for start, end in spans for i in range(start, end)} >= set(words(doc))
    assert len(spans) == len(set(spans)) == len(logits)
    assert logits.isfinite().all()
    room = N_POSITIONS - 4  # positions count from 2, and two pieces are special
    pairs = load_luke(str(folders[LukeForEntityPairClassification]))
    assert isinstance(pairs, LukePairs)
    middle = len(doc) // 2
    assert pairs.logits(doc, [(doc[middle : middle + 1], doc[middle + 3 : middle + 4])]).isfinite().all()
    with pytest.raises(InputError, match=rf"E119.*at most {room} pieces"):
        pairs.logits(doc, [(doc[0:1], doc[-2:-1])])
    with pytest.raises(InputError, match=r"E119.*must not overlap"):
        pairs.logits(doc, [(doc[0:3], doc[2:4])])
    named = load_luke(str(folders[LukeForMaskedLM]))
    assert isinstance(named, LukeEntities)
    far = [doc[len(doc) - 2 : len(doc) - 1], doc[0:1], doc[middle : middle + 2]]
    assert named.logits(doc, far).isfinite().all()
    with pytest.raises(InputError, match="E119"):
        named.logits(doc, [doc[0 : len(doc)]])


def test_order_of_windows(folders: dict[Any, Path]) -> None:
    """Rows are those of the spans as they were given, whatever the windows."""
    doc = NLP.make_doc(" ".join([TEXT] * 6))
    luke = load_luke(str(folders[LukeForMaskedLM]), late=True)
    assert isinstance(luke, LukeEntities)
    spans = [doc[i : i + 2] for i in words(doc)[:-1:7]]
    order = np.random.default_rng(0).permutation(len(spans))
    # the same cuts of the text, so the same pieces
    close(luke.logits(doc, [spans[i] for i in order]), luke.logits(doc, spans)[order])


def test_nothing_to_classify(folders: dict[Any, Path]) -> None:
    empty, blank = NLP.make_doc(""), NLP.make_doc(" \n ")
    tasks: list[Any] = [load_luke(str(folders[kind])) for kind in TASKS]
    for doc in (empty, blank):
        assert tasks[0](doc) == []
    assert [task(NLP.make_doc("Ada"), []) for task in tasks[1:]] == [[], [], []]


def test_spans_that_are_none(folders: dict[Any, Path], doc: Doc) -> None:
    luke: Any = load_luke(str(folders[LukeForEntityClassification]))
    other = NLP.make_doc("Ada met Byron.")
    for span, found in ((other[0:1], "another"), (doc[2:2], "this"), (doc[1:2], "this")):
        with pytest.raises(InputError, match=f"E117.*of {found} document"):
            luke(doc, [span])


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", lambda text: text.replace("LukeForMaskedLM", "LukeModel"), "E003.*task 'LukeModel'"),
        ("entity_vocab.json", lambda text: "{}", r"E002.*entity \[MASK\]"),
        ("model.safetensors", None, "E002.*no weights"),
        ("entity_vocab.json", lambda text: "{", "E005"),
    ],
)
def test_damaged_folder(folders: dict[Any, Path], tmp_path: Path, file: str, change: Any, message: str) -> None:
    path = shutil.copytree(folders[LukeForMaskedLM], tmp_path / "copy")
    if change is None:
        (path / file).unlink()
    else:
        (path / file).write_text(change((path / file).read_text()))
    with pytest.raises(CheckpointError, match=message):
        load_luke(str(path))


def test_model_for_another_task(tmp_path: Path) -> None:
    path = save(tmp_path / "other", LukeForMultipleChoice)
    with pytest.raises(CheckpointError, match="E003.*task 'LukeForMultipleChoice'; the encoder runs: LukeForEntitySpan"):
        load_luke(str(path))
