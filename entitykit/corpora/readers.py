"""The corpus formats as spaCy corpus readers, for `[corpora.train]` in a training config."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.corpora.read import find_format, read_docs
from entitykit.errors import error, warn


class CorpusReader:
    """Give the examples of a corpus, as often as training asks; the parsed documents stay in memory.

    Args:
        path: a file, a folder, or for `hub` a name.
        format_name: a key of `FORMATS`.
        options: options of `read_docs` and of the format.
        shuffle: give the examples in another order each time.
        sentences: tell the predicted documents where the gold sentences start.
    """

    def __init__(
        self, path: str | Path, format_name: str, *, options: dict[str, Any], shuffle: bool = False, sentences: bool = False
    ) -> None:
        self.path = path
        self.format_name = format_name
        self.options = options
        self.shuffle = shuffle
        self.sentences = sentences
        self._nlp: Language | None = None
        self._docs: list[Doc] = []

    def __call__(self, nlp: Language) -> Iterator[Example]:
        """Yield one example per document that has tokens: `reference` has the gold annotations, `predicted` the words alone.

        Args:
            nlp: the pipeline; the corpus is read again if it is another one than last time.
        """
        if self._nlp is not nlp:
            docs = list(read_docs(self.path, self.format_name, nlp, **self.options))
            self._docs = [doc for doc in docs if len(doc)]
            self._nlp = nlp
            if len(self._docs) < len(docs):
                warn("W206", path=self.path, n=len(docs) - len(self._docs))
        docs = random.sample(self._docs, len(self._docs)) if self.shuffle else self._docs
        for reference in docs:
            yield Example(self._unannotated(reference), reference)

    def _unannotated(self, reference: Doc) -> Doc:
        spaces = None if reference.has_unknown_spaces else [bool(token.whitespace_) for token in reference]
        starts: list[bool | int | None] | None = [token.is_sent_start for token in reference] if self.sentences else None
        return Doc(reference.vocab, words=[token.text for token in reference], spaces=spaces, sent_starts=starts)


def corpus(
    path: str | Path | None,
    format: str,  # noqa: A002 - so it is called in configs
    *,
    options: dict[str, Any] | None = None,
    ids: Collection[str] = (),
    exclude: Collection[str] = (),
    limit: int = 0,
    shuffle: bool = False,
    sentences: bool = False,
) -> CorpusReader:
    """Make the reader of a corpus in any format (`entitykit.Corpus.v1`).

    Args:
        path: a file, a folder, or for `hub` a name.
        format: a key of `FORMATS`.
        options: the format's own options.
        ids: the documents to read; empty for all.
        exclude: documents to leave out.
        limit: read at most so many documents; 0 for all.
        shuffle: give the examples in another order each time.
        sentences: tell the predicted documents where the gold sentences start.

    Raises:
        ConfigError: E232 for an unknown format, E236 if there is no path.
    """
    find_format(format)
    if path is None:
        raise error("E236")
    selection = {"ids": ids, "exclude": exclude, "limit": limit}
    return CorpusReader(path, format, options={**selection, **(options or {})}, shuffle=shuffle, sentences=sentences)


def _reader_of(format_name: str) -> Callable[..., CorpusReader]:
    """Make the reader function of one format: it takes the format's own options beside those of `corpus`.

    spaCy checks the keys and types of a config against a function's signature, so the signature names them all.
    """
    own = find_format(format_name).options()
    parameters = inspect.signature(corpus, eval_str=True).parameters
    common = [parameter for name, parameter in parameters.items() if name not in ("format", "options")]

    def reader(**values: Any) -> CorpusReader:
        options = {name: values.pop(name) for name in own if name in values}
        return corpus(format=format_name, options=options, **values)

    reader.__name__ = reader.__qualname__ = format_name
    reader.__doc__ = f"Make the reader of a corpus in the format `{format_name}`; for the options see `corpus` and the format."
    reader.__signature__ = inspect.Signature([*common, *own.values()], return_annotation=CorpusReader)  # type: ignore[attr-defined]
    return reader


columns = _reader_of("columns")
layered = _reader_of("layered")
conll04 = _reader_of("conll04")
dygie = _reader_of("dygie")
gum = _reader_of("gum")
pubtator = _reader_of("pubtator")
elevant = _reader_of("elevant")
aida = _reader_of("aida")
blink = _reader_of("blink")
genre = _reader_of("genre")
nif = _reader_of("nif")
wordnet_linking = _reader_of("wordnet_linking")
jsonl = _reader_of("jsonl")
links = _reader_of("links")
conll2012 = _reader_of("conll2012")
litbank = _reader_of("litbank")
ecbplus = _reader_of("ecbplus")
gap = _reader_of("gap")
propara = _reader_of("propara")
salience = _reader_of("salience")
docred = _reader_of("docred")
semeval2010_task8 = _reader_of("semeval2010_task8")
tacred = _reader_of("tacred")
hub = _reader_of("hub")
