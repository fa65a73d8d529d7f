"""Processes that are killed before each of their calls to the disk, one call later each time, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# A script gives `work(path, done)`, which calls `done()` after each save, and `found(path)`, JSON of what can be loaded.
HARNESS = """
import json, os, signal, stat, sys

def guard_disk(last):
    calls = [0]
    def guard(function):
        def call(*args, **options):
            calls[0] += 1
            if calls[0] == last:
                # a file that is not yet synced loses its last byte
                if isinstance(args[0], int) and stat.S_ISREG(os.fstat(args[0]).st_mode) and os.fstat(args[0]).st_size:
                    os.ftruncate(args[0], os.fstat(args[0]).st_size - 1)
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **options)
        return call
    os.fsync, os.replace, os.unlink = map(guard, (lambda number: None, os.replace, os.unlink))

def kill_at_each_step(work, found):
    status, k = 1, 0
    while status:
        k += 1
        path = os.path.join(sys.argv[1], str(k))
        n_done, end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                guard_disk(k)
                work(path, lambda: os.write(end, b"."))
            finally:
                os._exit(0)
        os.close(end)
        status = os.waitpid(child, 0)[1]
        n = len(os.read(n_done, 100))
        os.close(n_done)
        print(json.dumps([status, n, found(path), sorted(name.partition("-")[0] for name in os.listdir(path))]))
"""


def run_killed(script: str, folder: Path, *arguments: str) -> list[list[Any]]:
    """Of each kill, the last one aside: status, how many saves had returned, what was found, and files after a further save."""
    command = [sys.executable, "-c", HARNESS + script + "\nkill_at_each_step(work, found)\n", str(folder), *arguments]
    threads = os.environ | {"OMP_NUM_THREADS": "2"}  # which forked processes do not have
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=threads, timeout=120)
    assert run.returncode == 0, run.stderr
    ends = [json.loads(line) for line in run.stdout.splitlines()]
    assert {status for status, *_ in ends[:-1]} == {9}
    return ends
