from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs

SUFFIXES = {
    "gum": "conllu",
    "conll04": "json",
    "dygie": "json",
    "pubtator": "txt",
    "nif": "ttl",
    "docred": "json",
    "semeval2010_task8": "txt",
    "tacred": "json",
}
SUFFIXES |= {"conll2012": "conll", "propara": "json"}
SUFFIXES |= dict.fromkeys(["jsonl", "links", "elevant", "blink", "genre", "wordnet_linking"], "jsonl")


@pytest.fixture(scope="session")
def nlp() -> Language:
    return spacy.blank("en")


@pytest.fixture
def read(tmp_path: Path, nlp: Language) -> Callable[..., list[Doc]]:
    """Write text or bytes to a file, `corpus.*`, and read it."""

    def write_and_read(content: str | bytes, format_name: str, **options: Any) -> list[Doc]:
        path = tmp_path / f"corpus.{SUFFIXES.get(format_name, 'tsv')}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_docs(path, format_name, nlp, **options))

    return write_and_read
