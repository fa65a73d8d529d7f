from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import entities, offsets, words

NAMES = ["O", "B-PER", "I-PER"]
ROWS = {"tokens": [["Ada", "Byron", "met"], ["Bob"], []], "ner_tags": [[1, 2, 0], [1], []]}
TEXTS = {
    "body": ["Ada met Bob.", "Nobody"],
    "found": [[{"start": 0, "end": 3, "label": "PER"}, {"start": 8, "end": 10, "label": "PER"}], []],
}

ReadHub = Callable[..., list[Doc]]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def read_hub(tmp_path: Path, nlp: Language) -> ReadHub:
    def read(path: Path | str, **options: Any) -> list[Doc]:
        return list(read_docs(path, "hub", nlp, cache_dir=str(tmp_path / "cache"), **options))

    return read


def named(rows: dict[str, list[Any]]) -> Dataset:
    return Dataset.from_dict(rows, Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=NAMES))}))


def check(docs: list[Doc]) -> None:
    assert [words(doc) for doc in docs] == ROWS["tokens"]
    assert [offsets(doc.spans["sc"]) for doc in docs] == [[(0, 2, "PER")], [(0, 1, "PER")], []]


def test_saved_dataset(tmp_path: Path, read_hub: ReadHub) -> None:
    named(ROWS).save_to_disk(tmp_path / "data")
    docs = read_hub(tmp_path / "data")
    check(docs)
    assert [doc.user_data["id"] for doc in docs] == ["data-0", "data-1", "data-2"]


def test_saved_splits(tmp_path: Path, read_hub: ReadHub) -> None:
    DatasetDict(train=named(ROWS), dev=named({"tokens": [["x"]], "ner_tags": [[0]]})).save_to_disk(tmp_path / "data")
    check(read_hub(tmp_path / "data"))
    assert [words(doc) for doc in read_hub(tmp_path / "data", split="dev")] == [["x"]]
    with pytest.raises(CorpusError, match=r"\[E228\] .*data.*the split 'test'"):
        read_hub(tmp_path / "data", split="test")


def test_parquet_folder_as_the_hub_has_them(tmp_path: Path, read_hub: ReadHub) -> None:
    (tmp_path / "data").mkdir()
    named(ROWS).to_parquet(tmp_path / "data" / "train-00000.parquet")
    check(read_hub(tmp_path / "data"))


def test_json_file_with_named_tags(tmp_path: Path, read_hub: ReadHub) -> None:
    rows = [{"w": w, "t": [NAMES[i] for i in t]} for w, t in zip(ROWS["tokens"], ROWS["ner_tags"], strict=True)]
    path = tmp_path / "x.json"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    check(read_hub(path, tokens="w", tags="t"))
    check(read_hub(path, tokens="w", tags="t", split="whatever"))


def test_numbers_without_names(tmp_path: Path, read_hub: ReadHub) -> None:
    Dataset.from_dict(ROWS).to_parquet(tmp_path / "x.parquet")
    check(read_hub(tmp_path / "x.parquet", labels=NAMES))
    with pytest.raises(CorpusError, match=r"\[E230\] .*row 0: the tag 1 has no name; 0 are known"):
        read_hub(tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match=r"\[E230\] .*row 0: the tag 2 has no name; 2 are known"):
        read_hub(tmp_path / "x.parquet", labels=NAMES[:2])


def test_text_with_entities(tmp_path: Path, read_hub: ReadHub) -> None:
    Dataset.from_dict(TEXTS).save_to_disk(tmp_path / "data")
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"W201.* 1 spans did not end"):
        docs = read_hub(tmp_path / "data", text="body", entities="found", report=report)
    assert [entities(doc) for doc in docs] == [[("Ada", "PER"), ("Bob", "PER")], []]
    assert report.expanded == 1


def test_text_with_entities_by_column(tmp_path: Path, read_hub: ReadHub) -> None:
    columns = {"start": [0, 8], "end": [3, 11], "label": ["PER", "PER"]}
    Dataset.from_dict({"text": ["Ada met Bob."], "entities": [columns]}).save_to_disk(tmp_path / "a")
    assert entities(read_hub(tmp_path / "a", text="text")[0]) == [("Ada", "PER"), ("Bob", "PER")]
    Dataset.from_dict({"text": ["Ada met Bob."], "entities": [{**columns, "end": [3]}]}).save_to_disk(tmp_path / "b")
    with pytest.raises(CorpusError, match=r"\[E226\] .*row 0: found entity columns of different lengths"):
        read_hub(tmp_path / "b", text="text")


def test_repairs_are_reported(tmp_path: Path, read_hub: ReadHub) -> None:
    named({"tokens": [["a", "b"]], "ner_tags": [[0, 2]]}).save_to_disk(tmp_path / "data")
    with pytest.warns(EntityKitWarning, match=r"W202.* 1 tags .* first: I-PER of token 1 in row 0"):
        read_hub(tmp_path / "data", scheme="bio")


@pytest.mark.parametrize(
    ("rows", "options", "code", "reason"),
    [
        ({"tokens": [["a"]], "ner_tags": [["O", "O"]]}, {}, "E231", "row 0: 2 tags for 1 tokens"),
        ({"tokens": [["a"]], "ner_tags": [["X"]]}, {}, "E211", "row 0: 'X' is no tag"),
        ({"tokens": [["a", None]], "ner_tags": [["O", "O"]]}, {}, "E206", "row 0: a token is None"),
        ({"tokens": ["a"], "ner_tags": [["O"]]}, {}, "E206", "row 0: the tokens is 'a'; expected a list"),
        ({"tokens": [["a"]], "tags": [["O"]]}, {}, "E229", "has no column 'ner_tags'; found: tokens, tags"),
        ({"text": ["a"]}, {"text": "text"}, "E229", "has no column 'entities'; found: text"),
        ({"text": [1], "entities": [[]]}, {"text": "text"}, "E206", "'text' is 1"),
        ({"text": ["a"], "entities": [[{"start": 0, "end": 1}]]}, {"text": "text"}, "E226", "entity without label"),
        ({"text": ["a"], "entities": [[{"start": 0, "label": "X"}]]}, {"text": "text"}, "E207", "'end' is missing"),
    ],
)
def test_malformed(
    tmp_path: Path, read_hub: ReadHub, rows: dict[str, Any], options: dict[str, str], code: str, reason: str
) -> None:
    Dataset.from_dict(rows).save_to_disk(tmp_path / "data")
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*data.*{reason}"):
        read_hub(tmp_path / "data", **options)


def test_no_rows(tmp_path: Path, read_hub: ReadHub) -> None:
    empty = named({"tokens": [], "ner_tags": []})
    empty.save_to_disk(tmp_path / "data")
    empty.to_parquet(tmp_path / "x.parquet")
    for name in ("data", "x.parquet"):
        with pytest.raises(CorpusError, match=rf"\[E228\] Cannot load the data set '.*{name}'"):
            read_hub(tmp_path / name)


def test_unknown_scheme(tmp_path: Path, read_hub: ReadHub) -> None:
    named(ROWS).save_to_disk(tmp_path / "data")
    with pytest.raises(ConfigError, match="E213"):
        read_hub(tmp_path / "data", scheme="iob")


@pytest.mark.parametrize("name", ["no_such_folder/no_such_set", "no such set at all", "/no/such/path"])
def test_unknown_name(read_hub: ReadHub, name: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[E228\] Cannot load the data set '{name}'"):
        read_hub(name)


def test_file_of_another_kind(tmp_path: Path, read_hub: ReadHub) -> None:
    (tmp_path / "x.doc").write_text("x", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E228\] .*x.doc' \(files must end in one of .json"):
        read_hub(tmp_path / "x.doc")


def test_damaged_file(tmp_path: Path, read_hub: ReadHub) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CorpusError, match=r"\[E228\] .*x.parquet"):
        read_hub(tmp_path / "x.parquet")
