"""Kill a process before each of its calls to a disk: for scripts in processes of their own, which fork and end their forks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


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

        def call(*args: Any) -> Any:
            self.count(*args)
            return function(*args)

        return call

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
