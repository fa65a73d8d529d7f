"""Layered BIO: like columns, with several tag columns that hold nested entities (LitBank `entities/tsv`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entitykit.corpora.bio import parse_tag
from entitykit.corpora.columns import pick, read_sentences, read_tags
from entitykit.corpora.parsed import Mention, Note, ParsedDoc

SUFFIXES = (".tsv", ".conll", ".txt")


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read one document: the token in the first column, a layer of BIO tags in every other one; blank lines end sentences.

    Args:
        path: the file; a last column that is empty throughout (a tab at the line ends) is no layer.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E210 for an empty token, E211 for tags, E214 and E215 for columns.
    """
    sentences = [sentence.rows for sentence in read_sentences(path, token_column=0, tag_column=1)]
    if not sentences:
        return
    n_columns = len(sentences[0][0].fields)
    if all(not row.fields[-1] for rows in sentences for row in rows):
        n_columns -= 1
    words: list[str] = []
    starts: list[bool] = []
    entities: list[Mention] = []
    notes: list[Note] = []
    for rows in sentences:
        for column in range(1, max(n_columns, 2)):
            tags = [parse_tag(pick(row, column, path), where=f"{path}, line {row.line}") for row in rows]
            found, repaired = read_tags(tags, rows, scheme="bio", path=path, shift=len(words))
            entities += found
            notes += repaired
        words += [row.fields[0] for row in rows]
        starts += [i == 0 for i in range(len(rows))]
    yield ParsedDoc(id=path.stem, where=str(path), words=words, sent_starts=starts, entities=entities, notes=notes)
