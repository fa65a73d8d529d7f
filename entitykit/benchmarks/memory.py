"""The memory that one document takes, measured in a process of its own.

Linux counts a process's memory by kind: anonymous pages, which must be kept, and pages of files, which the system may drop and
read again. The states of a long document are in a file (`entitykit.bridge.spill`), so the two are told apart. The kernel keeps
no peaks of them, so a thread looks at them all the time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from entitykit.errors import error

STATUS = Path("/proc/self/status")
INTERVAL = 0.002  # seconds between two looks


class MemoryUse(NamedTuple):
    """Peaks above what the loaded pipeline takes, in bytes; each has its own moment.

    Attributes:
        total: all resident pages.
        anonymous: pages that must be kept.
        file: pages of files.
        loaded: what the loaded pipeline takes itself.
        highest: the process's peak as the kernel knows it, the loaded pipeline and the loading included.
    """

    total: int
    anonymous: int
    file: int
    loaded: int
    highest: int


class Resident(NamedTuple):
    """Resident memory in bytes, by kind."""

    anonymous: int
    file: int


def peak_memory(pipeline: Path, text: Path, *, module: str = "entitykit.benchmarks.memory") -> MemoryUse:
    """Load a pipeline in a fresh process, annotate one text, and give the peaks.

    Args:
        pipeline: a pipeline folder.
        text: a text file.
        module: what the process runs; it gets both paths and prints a `MemoryUse` as JSON.

    Raises:
        ConfigError: E446 on systems that do not count memory by kind, E447 if the process fails.
    """
    if not STATUS.exists():
        raise error("E446", path=STATUS)
    command = [sys.executable, "-m", module, str(pipeline), str(text)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise error("E447", command=" ".join(command), status=run.returncode, output=run.stderr[-2000:])
    return MemoryUse(**json.loads(run.stdout.splitlines()[-1]))


def measure(pipeline: Path, text: Path) -> MemoryUse:
    """Annotate one text in this process and give the peaks."""
    import spacy

    nlp = spacy.load(pipeline)
    content = text.read_text(encoding="utf-8")
    nlp.max_length = max(nlp.max_length, len(content))
    nlp("A short text, so that everything is loaded.")
    return above_loaded(partial(nlp, content))


def above_loaded(work: Callable[[], object]) -> MemoryUse:
    """Do some work in this process and give its peaks above what the process takes now."""
    import resource  # here, because only Unix has it

    before = resident()
    with watch() as seen:
        work()
    return MemoryUse(
        total=max(sum(each) for each in seen) - sum(before),
        anonymous=max(each.anonymous for each in seen) - before.anonymous,
        file=max(each.file for each in seen) - before.file,
        loaded=sum(before),
        highest=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


@contextmanager
def watch() -> Iterator[Sequence[Resident]]:
    """Note the process's memory every two milliseconds while the block runs."""
    seen = [resident()]
    done = threading.Event()

    def look() -> None:
        while not done.wait(INTERVAL):
            seen.append(resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()
        seen.append(resident())


def resident() -> Resident:
    """The process's resident memory now."""
    lines = (line.split() for line in STATUS.read_text(encoding="ascii").splitlines())
    kilobytes = {fields[0]: int(fields[1]) for fields in lines if fields[0].startswith("Rss")}
    return Resident(kilobytes["RssAnon:"] * 1024, (kilobytes["RssFile:"] + kilobytes["RssShmem:"]) * 1024)


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))._asdict()))
