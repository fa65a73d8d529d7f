"""Processes that are killed before each of their calls to the disk, one call later each time, and what they leave.

Scripts run in processes of their own, which fork and kill their forks: torch's threads do not survive a fork.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]


class Watch:
    """What a fork is watched by: it dies before its call number `last`, and says which steps it has done."""

    def __init__(self, last: int, written: int) -> None:
        self.last = last
        self.calls = 0
        self._written = written

    def count(self, *_: Any) -> None:
        """Count a call, and die if it is the last."""
        self.calls += 1
        if self.calls == self.last:
            os.kill(os.getpid(), signal.SIGKILL)

    def guard(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are counted."""

        def call(*args: Any, **options: Any) -> Any:
            self.count()
            return function(*args, **options)

        return call

    def guard_disk(self) -> None:
        """Count calls to the disk; a file that is not yet synced when the fork dies loses its last byte."""

        def guard(function: Callable[..., Any]) -> Callable[..., Any]:
            counted = self.guard(function)

            def call(*args: Any, **options: Any) -> Any:
                if self.calls + 1 == self.last and isinstance(args[0], int):
                    found = os.fstat(args[0])
                    if stat.S_ISREG(found.st_mode) and found.st_size:
                        os.ftruncate(args[0], found.st_size - 1)
                return counted(*args, **options)

            return call

        # a killed process, unlike a machine without power, loses nothing that it wrote
        os.fsync, os.replace, os.unlink = map(guard, (lambda number: None, os.replace, os.unlink))

    def connecting(self, connect: Callable[..., Any]) -> Callable[..., Any]:
        """The function that opens a SQLite file, whose statements are counted."""

        def counted(*args: Any, **options: Any) -> Any:
            opened = connect(*args, **options)
            opened.execute("PRAGMA synchronous = OFF")  # unlike a machine without power, a killed process loses nothing
            opened.set_trace_callback(self.count)
            return opened

        return counted

    def done(self, step: int) -> None:
        """Say that a step, counted from 1, is done."""
        os.write(self._written, bytes([step]))


class End(NamedTuple):
    """How a fork ended.

    Attributes:
        status: 0, or the signal.
        n_done: steps that it had done.
        path: the folder that it worked in.
    """

    status: int
    n_done: int
    path: str


def killed_everywhere(work: Callable[[str, Watch], None], folder: str, step: int = 1) -> Iterator[End]:
    """Fork again and again, each fork dying `step` calls later than the one before, until one ends by itself.

    Args:
        work: is given a folder that is not there, and what to call.
        folder: for the forks' folders.
        step: the first fork dies before its first call.
    """
    status, last = 1, 0
    while status:
        last += step if last else 1
        path = os.path.join(folder, str(last))
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                work(path, Watch(last, writing))
            finally:
                os._exit(0)
        os.close(writing)
        status = os.waitpid(child, 0)[1]
        n_done = max(os.read(reading, 100), default=0)
        os.close(reading)
        yield End(status, n_done, path)


def kill_at_each_step(work: Callable[[str, Callable[[], None]], None], found: Callable[[str], Any]) -> None:
    """Print, for each fork, what `run_killed` gives.

    Args:
        work: is given a folder that is not there, and what to call after each save.
        found: what can be loaded from a folder, as JSON.
    """

    def guarded(path: str, watch: Watch) -> None:
        watch.guard_disk()
        steps = iter(range(1, 100))
        work(path, lambda: watch.done(next(steps)))

    for end in killed_everywhere(guarded, sys.argv[1]):
        loaded = found(end.path)
        files = sorted(name.partition("-")[0] for name in os.listdir(end.path))
        sys.stdout.write(json.dumps([end.status, end.n_done, loaded, files]) + "\n")


def run_killed(script: str, folder: Path, *arguments: str) -> list[list[Any]]:
    """Run a script that has `work` and `found`, as `kill_at_each_step` takes them.

    Returns:
        Of each fork, the last one unharmed: status, how many saves had returned, what was found, and files afterwards.
    """
    start = "import json, os, sys\nfrom tests.knowledge.killed import kill_at_each_step\n"
    command = [sys.executable, "-c", start + script + "\nkill_at_each_step(work, found)\n", str(folder), *arguments]
    threads = os.environ | {"OMP_NUM_THREADS": "2"}  # which forked processes do not have
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=threads, timeout=120)
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert {status for status, *_ in ends[:-1]} == {9}
    return ends
