from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import spacy
from confection import ConfigValidationError
from spacy.language import Language
from spacy.util import load_config_from_str, registry

from entitykit.corpora import readers
from entitykit.corpora.read import FORMATS
from entitykit.errors import ConfigError, EntityKitWarning
from tests.corpora.util import offsets, starts, words

NAMES = {
    "columns": "entitykit.Columns.v1",
    "layered": "entitykit.Layered.v1",
    "conll04": "entitykit.CoNLL04.v1",
    "dygie": "entitykit.DyGIE.v1",
    "gum": "entitykit.GUM.v1",
    "pubtator": "entitykit.PubTator.v1",
    "elevant": "entitykit.Elevant.v1",
    "aida": "entitykit.AIDA.v1",
    "blink": "entitykit.BLINK.v1",
    "genre": "entitykit.GENRE.v1",
    "nif": "entitykit.NIF.v1",
    "wordnet_linking": "entitykit.WordNetLinking.v1",
    "jsonl": "entitykit.Jsonl.v1",
    "links": "entitykit.Links.v1",
    "conll2012": "entitykit.CoNLL2012.v1",
    "litbank": "entitykit.LitBank.v1",
    "ecbplus": "entitykit.ECBPlus.v1",
    "gap": "entitykit.GAP.v1",
    "propara": "entitykit.ProPara.v1",
    "salience": "entitykit.Salience.v1",
    "docred": "entitykit.DocRED.v1",
    "semeval2010_task8": "entitykit.SemEval2010Task8.v1",
    "tacred": "entitykit.TACRED.v1",
    "hub": "entitykit.Hub.v1",
    "corpus": "entitykit.Corpus.v1",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.tsv"
    path.write_text("".join(f"{word}\tB-X\n{word}\tO\n\n" for word in "abcdef"), encoding="utf-8")
    return path


def resolve(name: str, settings: str) -> Any:
    """Make the reader that a config asks for."""
    needed = 'format = "columns"\n' if name == "corpus" else ""
    config = load_config_from_str(f'[reader]\n@readers = "{NAMES[name]}"\n{needed}{settings}')
    return registry.resolve(config)["reader"]


def test_every_format_has_a_reader() -> None:
    assert NAMES.keys() == {*FORMATS, "corpus"}


def test_examples(path: Path, nlp: Language) -> None:
    examples = list(readers.columns(path=path)(nlp))
    assert len(examples) == 6
    for example in examples:
        assert offsets(example.reference.spans["sc"]) == [(0, 1, "X")]
        assert words(example.predicted) == words(example.reference)
        assert example.predicted.text == example.reference.text
        assert not example.predicted.ents
        assert not example.predicted.spans
        assert not example.predicted.user_data
        assert not example.predicted.has_annotation("SENT_START")
        assert example.predicted.has_unknown_spaces
        assert [ent.label_ for ent in example.get_aligned_spans_y2x(example.reference.ents)] == ["X"]


def test_sentences_only_if_asked(path: Path, nlp: Language) -> None:
    (example,) = readers.columns(path=path, n_sents=0, sentences=True)(nlp)
    assert starts(example.predicted) == starts(example.reference) == [0, 2, 4, 6, 8, 10]


def test_known_spaces_are_kept(tmp_path: Path, nlp: Language) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"text": "Hi, Bob!", "entities": []}), encoding="utf-8")
    (example,) = readers.jsonl(path=path)(nlp)
    assert example.predicted.text == "Hi, Bob!"
    assert not example.predicted.has_unknown_spaces


def test_every_epoch_reads_from_memory(path: Path, nlp: Language) -> None:
    reader = readers.columns(path=path)
    first = list(reader(nlp))
    path.unlink()
    second = list(reader(nlp))
    assert [eg.reference for eg in first] == [eg.reference for eg in second]
    assert all(a.predicted is not b.predicted for a, b in zip(first, second, strict=True))


def test_another_pipeline_reads_again(path: Path, nlp: Language) -> None:
    reader = readers.columns(path=path)
    other = spacy.blank("en")
    assert next(iter(reader(nlp))).reference.vocab is nlp.vocab
    assert next(iter(reader(other))).reference.vocab is other.vocab


def test_shuffle_and_limit(path: Path, nlp: Language) -> None:
    def order(reader: readers.CorpusReader) -> str:
        return "".join(words(eg.reference)[0] for eg in reader(nlp))

    assert order(readers.columns(path=path, limit=4)) == "abcd"
    shuffled = readers.columns(path=path, shuffle=True)
    random.seed(1)
    orders = {order(shuffled) for _ in range(5)}
    assert {"".join(sorted(one)) for one in orders} == {"abcdef"}
    assert len(orders) > 1


def test_documents_without_tokens(tmp_path: Path, nlp: Language) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": ""}\n{"text": "a"}\n', encoding="utf-8")
    with pytest.warns(EntityKitWarning, match=r"\[W206\] .*x.jsonl: 1 documents without tokens"):
        assert [words(eg.reference) for eg in readers.jsonl(path=path)(nlp)] == [["a"]]


@pytest.mark.parametrize("name", NAMES)
def test_no_path(name: str) -> None:
    with pytest.raises(ConfigError, match=r"\[E236\] The corpus has no path"):
        resolve(name, "path = null")


@pytest.mark.parametrize(
    ("name", "settings", "options"),
    [
        ("columns", 'n_sents = 0\nscheme = "bio"', {"n_sents": 0, "scheme": "bio"}),
        ("gum", 'genres = ["news"]\nids = ["x"]\nlimit = 3', {"genres": ["news"], "ids": ["x"], "limit": 3}),
        ("dygie", 'unit = "sentence"', {"unit": "sentence"}),
        ("aida", 'kb_id = "page"\nsplit = "testb"', {"kb_id": "page", "split": "testb"}),
        ("nif", 'kb = ["example.org/"]', {"kb": ["example.org/"]}),
        ("docred", 'names = "names.json"', {"names": "names.json"}),
        ("hub", 'text = "body"\nlabels = ["O"]', {"text": "body", "labels": ["O"]}),
        ("corpus", 'options = {"n_sents": 2}', {"n_sents": 2}),
    ],
)
def test_options_from_a_config(name: str, settings: str, options: dict[str, Any]) -> None:
    reader = resolve(name, f'path = "x"\n{settings}')
    assert options.items() <= reader.options.items()
    assert reader.format_name == ("columns" if name == "corpus" else name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", ["tag_colum = 1", 'limit = "many"'])
def test_wrong_keys_and_types_in_a_config(name: str, settings: str) -> None:
    with pytest.raises(ConfigValidationError):
        resolve(name, f'path = "x"\n{settings}')


def test_unknown_format() -> None:
    with pytest.raises(ConfigError, match=r"\[E232\] There is no corpus format 'xml'"):
        readers.corpus("x", "xml")
