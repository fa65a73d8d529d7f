"""Data sets of the Hugging Face `datasets` library, by name or from local files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entitykit.corpora.bio import check_scheme, decode, detect_scheme, parse_tag
from entitykit.corpora.files import typed
from entitykit.corpora.jsonl import character_mentions
from entitykit.corpora.parsed import Note, ParsedDoc
from entitykit.errors import error

if TYPE_CHECKING:
    from datasets import Dataset

FILE_FORMATS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".arrow": "arrow"}


def parse(
    path: str | Path,
    *,
    config: str = "",
    split: str = "train",
    tokens: str = "tokens",
    tags: str = "ner_tags",
    labels: Sequence[str] = (),
    scheme: str = "auto",
    text: str = "",
    entities: str = "entities",
    cache_dir: str = "",
) -> Iterator[ParsedDoc]:
    """Read one split of a data set, either tokens with tags or, if a text column is named, text with entities.

    Args:
        path: a name on the Hub, a folder written by `save_to_disk`, a folder that `load_dataset` understands, or one JSON,
            Parquet, CSV or Arrow file.
        config: the data set's configuration; empty for the default one.
        split: which split.
        tokens: the column of token lists.
        tags: the column of tag lists: text, or numbers that the data set's `ClassLabel` names.
        labels: the tags' names in order, for numbers without `ClassLabel`.
        scheme: `bio`, `iob1`, `bioes`, `bilou`, or `auto`.
        text: the column of raw text; then `tokens` and `tags` are not read.
        entities: the column of entity lists, each with `start`, `end` (characters, end exclusive) and `label`.
        cache_dir: where `datasets` keeps its files; empty for its default.

    Raises:
        CorpusError: E228 if the data set cannot be loaded, E229 for a column that is not there, E230 for tags without names,
            E231 for tags of another number than tokens, E206, E207, E211, E212, E226 for values.
        ConfigError: E213 for an unknown scheme.
    """
    dataset = _load(path, config, split, cache_dir)
    for column in (text, entities) if text else (tokens, tags):
        if column not in dataset.column_names:
            raise error("E229", path=path, column=column, found=", ".join(dataset.column_names))
    if text:
        yield from _text_docs(dataset, path, text_column=text, entities_column=entities)
        return
    names = list(labels) or _class_names(dataset, tags)
    rows = [_tag_names(row, names, where=f"{path}, row {i}") for i, row in enumerate(dataset[tags])]
    yield from _tagged_docs(dataset[tokens], rows, path, scheme=scheme)


def _text_docs(dataset: Dataset, path: str | Path, *, text_column: str, entities_column: str) -> Iterator[ParsedDoc]:
    for i, row in enumerate(dataset):
        where = f"{path}, row {i}"
        spans = row[entities_column]
        if isinstance(spans, dict):
            spans = _rows_of(spans, where)
        yield ParsedDoc(
            id=f"{Path(path).stem}-{i}",
            where=where,
            text=typed(row[text_column], str, what=f"'{text_column}'", where=where),
            offsets="characters",
            entities=character_mentions(typed(spans, list, what=f"'{entities_column}'", where=where), where),
        )


def _rows_of(columns: dict[str, Any], where: str) -> list[dict[str, Any]]:
    """Turn `{"start": [0, 4], "end": [3, 7]}`, as `datasets` gives a sequence of structs, into an object for every entity."""
    lists = [typed(values, list, what=f"'{key}'", where=where) for key, values in columns.items()]
    if len({len(values) for values in lists}) > 1:
        raise error("E226", where=where, found="entity columns of different lengths", expected="one value for every entity")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _tagged_docs(tokens: Iterable[object], rows: Sequence[list[str]], path: str | Path, *, scheme: str) -> Iterator[ParsedDoc]:
    tags = [[parse_tag(tag, where=f"{path}, row {i}") for tag in row] for i, row in enumerate(rows)]
    known = detect_scheme(tags, path=path) if scheme == "auto" else check_scheme(scheme)
    for i, (value, row_tags) in enumerate(zip(tokens, tags, strict=True)):
        where = f"{path}, row {i}"
        words = [typed(word, str, what="a token", where=where) for word in typed(value, list, what="the tokens", where=where)]
        if len(words) != len(row_tags):
            raise error("E231", where=where, n_tags=len(row_tags), n_tokens=len(words))
        decoded = decode(row_tags, known, where=where)
        notes = [Note("repaired", f"{rows[i][j]} of token {j} in row {i}") for j in decoded.repaired]
        yield ParsedDoc(id=f"{Path(path).stem}-{i}", where=where, words=words, entities=decoded.entities, notes=notes)


def _load(path: str | Path, config: str, split: str, cache_dir: str) -> Dataset:
    import datasets  # here, because it takes a second to import and only this format needs it

    local = Path(path)
    options: dict[str, Any] = {"split": split, "cache_dir": cache_dir or None}
    if local.is_file() and local.suffix not in FILE_FORMATS:
        raise error("E228", path=path, split=split, reason=f"files must end in one of {', '.join(FILE_FORMATS)}")
    try:
        if local.is_file():
            return datasets.load_dataset(FILE_FORMATS[local.suffix], data_files={split: str(local)}, **options)
        if (local / "dataset_dict.json").is_file():
            return datasets.load_from_disk(str(local))[split]
        if (local / "state.json").is_file():
            return datasets.load_from_disk(str(local))
        return datasets.load_dataset(str(path), config or None, **options)
    # KeyError: no such split. IndexError: how load_from_disk fails on a data set without rows.
    except (OSError, ValueError, KeyError, IndexError, datasets.exceptions.DatasetsError) as problem:
        raise error("E228", path=path, split=split, reason=f"{type(problem).__name__}: {problem}") from problem


def _class_names(dataset: Dataset, column: str) -> list[str]:
    feature = getattr(dataset.features[column], "feature", None)
    return list(getattr(feature, "names", ()))


def _tag_names(values: object, names: Sequence[str], *, where: str) -> list[str]:
    found = typed(values, list, what="the tags", where=where)
    if all(isinstance(value, str) for value in found):
        return found
    tags = []
    for value in found:
        number = typed(value, int, what="a tag", where=where)
        if not 0 <= number < len(names):
            raise error("E230", where=where, found=number, n=len(names))
        tags.append(names[number])
    return tags
