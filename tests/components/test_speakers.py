"""Coreference where only the speakers tell who *I* and *you* are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import fix_random_seed

from entitykit.cli.__main__ import main
from entitykit.components.speakers import said_by
from entitykit.corpora.given_speakers import given_speakers
from entitykit.errors import EntityKitWarning, InputError
from tests.dialogues import NAMES, talks
from tests.pipelines import add_head, make_pipeline, train

KIND = "coref"
READERS = ["tests_names"]
OTHERS = {"names": NAMES[5:], "seed": 9}
"""Talks of others than those of the training."""


def trained(
    checkpoint: Path, *, speakers: bool, you: bool, kind: str = KIND, n: int = 10, window: int | None = None
) -> Language:
    """Capitals are mentions; the encoder, and the heads where they do not hear who speaks, read the same everywhere."""
    fix_random_seed(0)
    nlp = make_pipeline(checkpoint, encoder=None if window is None else {"window": window, "overlap": 4, "max_word_pieces": 4})
    nlp.add_pipe("tests_names")
    add_head(nlp, kind, model={"speakers": speakers, "proposed": False}, mentions=["names"])
    examples = list(given_speakers(lambda nlp: talks(nlp, n, seed=0, you=you, names=NAMES[:5]))(nlp))
    nlp.initialize(lambda: examples)
    train(nlp, examples, 60, annotates=READERS)
    return nlp


def held_out(nlp: Language, *, you: bool) -> list[Example]:
    return list(given_speakers(lambda nlp: talks(nlp, 12, you=you, **OTHERS))(nlp))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def nlp(tiny_bert: Path) -> Language:
    return trained(tiny_bert, speakers=True, you=True, n=20)


def spoken(nlp: Language, turns: int = 6) -> list[Doc]:
    return [eg.predicted for eg in given_speakers(lambda nlp: talks(nlp, 6, you=True, turns=turns, **OTHERS))(nlp)]  # type: ignore[arg-type]


def clusters(doc: Doc) -> Any:
    return doc._.coref_clusters


@pytest.fixture(scope="module")
def of_me(tiny_bert: Path) -> Language:
    return trained(tiny_bert, speakers=True, you=False)


def test_who_i_am(of_me: Language, tiny_bert: Path) -> None:
    """All *I* are read the same: without speakers the head cannot tell them apart, with them it does, also for new speakers."""
    assert of_me.evaluate(held_out(of_me, you=False))["coref_conll_f"] > 0.95
    deaf = trained(tiny_bert, speakers=False, you=False)
    assert deaf.evaluate(held_out(deaf, you=False))["coref_conll_f"] < 0.8


@pytest.mark.parametrize("kind", ["coref_antecedents", "coref_major"])
def test_other_heads(tiny_bert: Path, kind: str) -> None:
    hearing = trained(tiny_bert, speakers=True, you=False, kind=kind)
    assert hearing.evaluate(held_out(hearing, you=False))["coref_conll_f"] > 0.9


def test_who_you_are(nlp: Language) -> None:
    """Both speak of both."""
    assert nlp.evaluate(held_out(nlp, you=True))["coref_conll_f"] > 0.85


def test_texts_of_nobody(nlp: Language) -> None:
    """Are read as any other, and differently from talks."""
    (eg, *_) = held_out(nlp, you=True)
    silent, nobody = Doc(nlp.vocab, words=[token.text for token in eg.predicted]), eg.predicted.copy()
    nobody.user_data["speakers"] = [None] * len(nobody)
    assert clusters(nlp(silent)) == clusters(nlp(nobody)) != clusters(nlp(eg.predicted))


def test_batches_processes_and_copies(nlp: Language, tmp_path: Path) -> None:
    alone = [clusters(nlp(doc)) for doc in spoken(nlp)]
    assert len(set(map(str, alone))) > 1
    nlp.to_disk(tmp_path)
    for again in (nlp, spacy.load(tmp_path)):
        assert [clusters(doc) for doc in again.pipe(spoken(again), batch_size=4)] == alone
    assert [clusters(doc) for doc in nlp.pipe(spoken(nlp), batch_size=3, n_process=2)] == alone


def test_a_stream_knows_who_spoke_before(of_me: Language) -> None:
    """In the second half of a talk, *I* has the number that it has in the first one."""
    doc, halves = held_out(of_me, you=False)[0].predicted, []
    speakers = doc.user_data["speakers"]
    for part in (slice(0, 12), slice(12, 24)):
        halves.append(Doc(of_me.vocab, words=[token.text for token in doc[part.start : part.stop]]))
        halves[-1].user_data["speakers"] = speakers[part]
    numbers: dict[str, set[str]] = {}
    for half in of_me.get_pipe(KIND).stream(of_me.pipe(halves)):
        for key, group in half.spans.items():
            for span in group if key.startswith("coref_clusters") else ():
                numbers.setdefault(half.user_data["speakers"][span.start], set()).add(key)
    assert set(numbers) == set(speakers)
    assert len(set.union(*numbers.values())) == 2
    assert all(len(own) == 1 for own in numbers.values())


def test_across_windows(tiny_bert: Path) -> None:
    nlp = trained(tiny_bert, speakers=True, you=False, window=16)
    examples = held_out(nlp, you=False)
    assert all(len(eg.predicted) > 16 for eg in examples)
    assert nlp.evaluate(examples)["coref_conll_f"] > 0.9


def test_json_lines(nlp: Language, tmp_path: Path) -> None:
    nlp.to_disk(tmp_path / "pipeline")
    docs = spoken(nlp)
    records = [{"id": str(n), "text": doc.text, "speakers": doc.user_data["speakers"]} for n, doc in enumerate(docs)]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    arguments = ["annotate", tmp_path / "talks.jsonl", "-o", tmp_path / "out.jsonl", "--pipeline", tmp_path / "pipeline"]
    assert main([*map(str, arguments)]) == 0
    lines = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    for line, doc in zip(lines, docs, strict=True):
        spans = json.loads(line)["spans"]
        places = {(token.idx, token.idx + len(token)): token.i for token in doc}
        found = [
            [[places[span["start"], span["end"]], places[span["start"], span["end"]] + 1] for span in spans[key]]
            for key in sorted(spans, key=lambda key: int(key.rpartition("_")[2]) if key != "names" else 0)
            if key != "names"
        ]
        assert found == clusters(nlp(doc))


def test_nobody_to_learn_from(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert)
    nlp.add_pipe("tests_names")
    add_head(nlp, KIND, model={"speakers": True}, mentions=["names"])
    with pytest.warns(EntityKitWarning, match=r"W640.* 3 training examples"):
        nlp.initialize(lambda: talks(nlp, 3, seed=0, you=True))


@pytest.mark.parametrize("wrong", [["Ada"], "Ada", [1] * 24])
def test_wrong_speakers(nlp: Language, wrong: Any) -> None:
    (doc, *_) = spoken(nlp)
    doc.user_data["speakers"] = wrong
    with pytest.raises(InputError, match="E646"):
        nlp(doc)


def test_numbers_of_speakers_and_of_what_they_say() -> None:
    vocab = spacy.blank("xx").vocab
    first = Doc(vocab, words=["I", "i", "you", "I"], user_data={"speakers": ["Ada", "Ada", "Ada", "Ben"]})
    second = Doc(vocab, words=["I", "I", "I"], user_data={"speakers": ["Ben", None, ""]})
    numbers = said_by([first, Doc(vocab, words=["I"]), second, Doc(vocab)])
    assert numbers.shape == (8, 2)
    assert numbers.dtype == np.int64
    ada, ben = numbers[0, 0], numbers[3, 0]
    assert 0 not in (ada, ben)
    assert ada != ben
    assert numbers[:, 0].tolist() == [ada, ada, ada, ben, 0, ben, 0, 0]
    said = numbers[:, 1].tolist()
    assert said[0] == said[1]
    assert said[3] == said[5]
    assert len({said[0], said[2], said[3]}) == 3
    assert said[4] == said[6] == said[7] == 0
    assert said_by([]).shape == (0, 2)
