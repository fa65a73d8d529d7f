"""A trie's folder: which file counts, and that file's arrays mapped into memory.

::

    trie.json        numbers from which the sizes of all arrays follow, and the tokenizer's fingerprint
    trie-NAME.bin    the arrays of `entitykit.knowledge.flat_trie.FlatTrie`, end to end, each from a multiple of 8 bytes
    lock             held by the process that writes

A new trie.json replaces the old one in one step once its file is on the disk, so a process that is killed changes nothing.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from entitykit.errors import CheckpointError, EntityKitError, error
from entitykit.knowledge.files import locked, map_file, sync_names, write_file
from entitykit.knowledge.flat_trie import FlatTrie, Size
from entitykit.knowledge.state import new_files

VERSION = 1
META = "trie.json"

_OURS = re.compile(r"trie-[0-9a-f]+\.bin")


class Meta(NamedTuple):
    """What trie.json holds: the format's version, the file, what `CompactTrie` says of the names, and `Size`."""

    version: int
    file: str
    fingerprint: str
    state: int
    state_name: str
    nodes: int
    names: int
    rows: int
    row_bytes: int
    wide: bool
    longest: int

    @property
    def size(self) -> Size:
        """The numbers from which the sizes of the arrays follow."""
        return Size(*self[5:])


_KINDS = {name: {"file": str, "fingerprint": str, "state_name": str, "wide": bool}.get(name, int) for name in Meta._fields}


def read_trie(folder: Path) -> tuple[FlatTrie, Meta]:
    """Map the newest arrays of a folder; with them comes what trie.json holds.

    Raises:
        CheckpointError: E530 if there are none, E531 if they are damaged.
    """
    meta = _read_meta(folder)
    while True:
        try:
            return _map(folder, meta), meta
        except CheckpointError:
            newer = _read_meta(folder)
            if newer == meta:
                raise
            meta = newer  # the file was replaced after we had read which it is


def write_trie(folder: Path, flat: FlatTrie, fingerprint: str, state: int, state_name: str) -> FlatTrie:
    """Write arrays in the place of those that are there, and map them.

    Raises:
        OutputError: E532 if the folder cannot be written; what is there is then as before.
    """
    meta = Meta(VERSION, f"trie-{new_files()}.bin", fingerprint, state, state_name, *flat.size)
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            write_file(folder / meta.file, _blocks(flat))
            sync_names(folder)
            write_file(folder / f"{META}.new", [json.dumps(meta._asdict()).encode()])
            mapped = _map(folder, meta)  # before anyone else replaces it
            os.replace(folder / f"{META}.new", folder / META)
            sync_names(folder)
            for name in os.listdir(folder):
                if _OURS.fullmatch(name) and name != meta.file:
                    with suppress(OSError):  # Windows keeps what is mapped; the next writer tries again
                        os.unlink(folder / name)
    return mapped


def _blocks(flat: FlatTrie) -> Iterator[bytes | memoryview]:
    """The arrays' bytes, each filled up to a multiple of 8."""
    for array in flat.arrays():
        yield array.reshape(-1).data
        yield bytes(-array.nbytes % 8)


def _map(folder: Path, meta: Meta) -> FlatTrie:
    layout = FlatTrie.layout(meta.size)
    counts = [int(np.prod(shape)) for _, shape in layout]
    n_bytes = [np.dtype(dtype).itemsize * count for (dtype, _), count in zip(layout, counts, strict=True)]
    starts = np.cumsum([0, *(n + -n % 8 for n in n_bytes)]).tolist()
    try:
        mapped = map_file(folder / meta.file, starts[-1], random=True)
    except CheckpointError as reason:
        found = "no such file" if reason.code == "E050" else "fewer bytes"
        raise error("E531", path=folder / meta.file, found=found, expected=f"{starts[-1]} bytes") from reason
    arrays = [
        np.frombuffer(mapped, dtype, count=count, offset=start).reshape(shape)
        for (dtype, shape), count, start in zip(layout, counts, starts[:-1], strict=True)
    ]
    return FlatTrie.of(meta.size, arrays)


def _read_meta(folder: Path) -> Meta:
    expected = f"JSON of version {VERSION} with {', '.join(_KINDS)}"
    try:
        values = json.loads((folder / META).read_bytes())
    except OSError as reason:
        raise error("E530", path=folder, reason=reason) from reason
    except ValueError as reason:
        raise error("E531", path=folder / META, found=f"what is no JSON ({reason})", expected=expected) from reason
    if isinstance(values, dict):
        values = {"state_name": "", **values}  # which earlier versions did not write
    if isinstance(values, dict) and {name: type(value) for name, value in values.items()} == _KINDS:
        meta = Meta(**values)
        numbers_fit = meta.nodes >= 1 and min(meta.size) >= 0 and 1 <= meta.row_bytes <= 8
        if meta.version == VERSION and _OURS.fullmatch(meta.file) and numbers_fit:
            return meta
    raise error("E531", path=folder / META, found=str(values)[:300], expected=expected)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Make the system's errors E532."""
    try:
        yield
    except EntityKitError:
        raise
    except OSError as reason:
        raise error("E532", path=folder, reason=reason) from reason
