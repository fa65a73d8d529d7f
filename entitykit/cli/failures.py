"""List what could not be read, annotated or written, as JSON lines beside the output."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from entitykit.cli.inputs import FAILURES, Failure, is_failure_list
from entitykit.cli.outputs import is_special
from entitykit.errors import error


class FailureLog:
    """Lists failures in `OUT.errors.jsonl` beside the output OUT, or on standard error where nothing can be beside it.

    Attributes:
        path: the file, which is there if and only if something failed; None for standard error.
        n: the number of failures.
    """

    def __init__(self, output: str) -> None:
        self.path = failures_path(output)
        self.n = 0

    def clear(self) -> None:
        """Remove the list of an earlier run.

        Raises:
            OutputError: E425 if it cannot be removed, E431 if something else is in its place.
        """
        if self.path is None or not os.path.lexists(self.path):
            return
        if not is_failure_list(self.path):
            raise error("E431", path=self.path)
        try:
            self.path.unlink()
        except OSError as problem:
            raise error("E425", path=self.path, reason=problem.strerror) from problem

    def add(self, failure: Failure) -> None:
        """List a failure.

        Raises:
            OutputError: E425 if it cannot be written.
        """
        self.n += 1
        line = json.dumps({name: value for name, value in failure._asdict().items() if value is not None})
        try:
            if self.path is None:
                sys.stderr.write(f"{line}\n")
            else:
                self.path.parent.mkdir(parents=True, exist_ok=True)  # the output may come later
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
        except OSError as problem:
            raise error("E425", path=self.path or "standard error", reason=problem.strerror) from problem


def failures_path(output: str) -> Path | None:
    """Give the place of an output's list of failures; None if they go to standard error."""
    if is_special(output):
        return None
    path = Path(output)
    return path.parent / f"{path.name}{FAILURES}"
