"""Files that survive a crash: written to the disk before anything names them, mapped to be read, locked while they change."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from entitykit.errors import EntityKitError, error

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = "lock"


def map_file(path: Path, size: int, *, random: bool = False) -> mmap.mmap | bytes:
    """Map the first bytes of a file into memory, to read them.

    Args:
        path: the file.
        size: how many bytes; those of 0 are not mapped.
        random: tell the system not to read ahead.

    Raises:
        CheckpointError: E050 if there is no such file, E051 if it is shorter.
    """
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if 0 < size <= found else b""
    except OSError as reason:
        raise error("E050", path=path.parent, reason=reason) from reason
    if found < size:
        raise error("E051", path=path, found=f"{found} bytes", expected=f"at least {size}")
    if random and isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


def write_file(path: Path, blocks: Iterable[bytes | memoryview]) -> int:
    """Write a file anew, as far as the disk; the answer is its size in bytes."""
    with path.open("wb") as file:
        return _write(file, blocks)


def append_to_file(path: Path, size: int, blocks: Iterable[bytes | memoryview]) -> None:
    """Write behind the first `size` bytes of a file, over what a writer that was killed left there, as far as the disk."""
    with path.open("r+b") as file:
        file.seek(size)
        _write(file, blocks)


def sync_names(folder: Path) -> None:
    """Bring the names of a folder's files to the disk; Windows does so by itself."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def publish(folder: Path, name: str, values: Mapping[str, Any], *, keep: Collection[str], ours: re.Pattern[str]) -> None:
    """Commit a state: in one step, write JSON that names files in the place of what named others; then delete those.

    Args:
        folder: of all of them.
        name: of the JSON file.
        values: what it says.
        keep: the files and folders that it names, which are on the disk.
        ours: what the names of all such files and folders match.
    """
    sync_names(folder)
    write_file(folder / f"{name}.new", [json.dumps(values).encode()])
    os.replace(folder / f"{name}.new", folder / name)
    sync_names(folder)
    for other in os.listdir(folder):
        if ours.fullmatch(other) and other not in keep:
            with suppress(OSError):  # Windows keeps what is mapped; the next writer tries again
                shutil.rmtree(folder / other) if (folder / other).is_dir() else os.unlink(folder / other)


def replace_folder(folder: Path, new: Path | None) -> None:
    """Put a folder, or nothing, in the place of one that may be there: whoever opens it sees a whole one or none."""
    gone = folder.with_name(f"{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        os.replace(folder, gone)
    if new is not None:
        os.replace(new, folder)
    shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make the system's errors E055."""
    try:
        yield
    except EntityKitError:
        raise
    except OSError as reason:
        raise error("E055", path=folder, reason=reason) from reason


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process or thread writes to the folder, and keep them waiting; a process that dies lets go."""
    with (folder / LOCK).open("ab") as file:
        if sys.platform == "win32":
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(file: BinaryIO, blocks: Iterable[bytes | memoryview]) -> int:
    size = sum(map(file.write, blocks))
    file.flush()
    os.fsync(file.fileno())
    return size
