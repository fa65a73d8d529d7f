"""A corpus made ready for training, once: its entity vocabulary and its windows, in the output folder."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import spacy
from spacy.tokens import Doc

from entitykit.bridge.pieces import WordPieces
from entitykit.corpora.entity_vocabulary import EntityVocabulary, count_entities, most_frequent
from entitykit.corpora.files import corpus_files
from entitykit.corpora.links import SUFFIXES
from entitykit.corpora.read import read_docs
from entitykit.errors import EntityKitWarning, error
from entitykit.pretraining.checkpoint import VOCABULARY_FILE, check_same
from entitykit.pretraining.data import Windows, prepare
from entitykit.pretraining.settings import PretrainSettings

_READS = ("corpus", "vocabulary", "language", "window", "max_entities", "max_word_pieces")


def prepared(settings: PretrainSettings, splitter: WordPieces) -> tuple[EntityVocabulary, Windows]:
    """Build the vocabulary and the windows, or open them if they are there.

    Args:
        settings: of the training.
        splitter: of the checkpoint.

    Raises:
        ConfigError: E132 if the output folder has those of another corpus, vocabulary, checkpoint or setting; E241 for a
            vocabulary that cannot be.
        CorpusError: E2xx for the corpus or the vocabulary's file, E242 if there is nothing to learn from.
        OutputError: E134 if the output folder cannot be written.
    """
    output = Path(settings.output)
    vocabulary = _vocabulary(settings, output / VOCABULARY_FILE)
    folder = output / "data"
    made_of = _made_of(settings, splitter, vocabulary)
    if folder.exists():
        check_same(folder, json.loads((folder / "data.json").read_text(encoding="utf-8"))["made_of"], made_of)
    else:
        docs = _read(settings)
        limits = {"window": settings.window, "max_entities": settings.max_entities}
        prepare(docs, folder, splitter, vocabulary, made_of=made_of, **limits)
    return vocabulary, Windows(folder, splitter)


def _read(settings: PretrainSettings) -> Iterator[Doc]:
    return read_docs(settings.corpus, "links", spacy.blank(settings.language))


def _vocabulary(settings: PretrainSettings, path: Path) -> EntityVocabulary:
    if settings.vocabulary is not None:
        return EntityVocabulary.from_disk(settings.vocabulary)
    if path.exists():
        return EntityVocabulary.from_disk(path)
    with warnings.catch_warnings():  # they come again when the windows are cut
        warnings.simplefilter("ignore", EntityKitWarning)
        counts = count_entities(_read(settings))
    vocabulary = most_frequent(counts, settings.vocabulary_size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(vocabulary.to_bytes())
        part.replace(path)
    except OSError as reason:
        raise error("E134", path=path, reason=reason) from reason
    return vocabulary


def _made_of(settings: PretrainSettings, splitter: WordPieces, vocabulary: EntityVocabulary) -> dict[str, Any]:
    """What the windows follow from: settings, and what is in the files that these name."""
    files = corpus_files(Path(settings.corpus), SUFFIXES)
    return {
        **{name: getattr(settings, name) for name in _READS},
        "corpus files": [[str(file), file.stat().st_size] for file in files],
        "tokenizer": hashlib.sha256(splitter.json.encode()).hexdigest(),
        "entities": hashlib.sha256(vocabulary.to_bytes()).hexdigest(),
    }
