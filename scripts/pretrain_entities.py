"""Pretrain entity tokens on hyperlinked text: `python scripts/pretrain_entities.py CONFIG [setting=value …]`.

CONFIG is a JSON file of the settings in `entitykit.pretraining.settings`; values after it are JSON, or else strings. Run the
same command again to go on after an interruption. On several devices: `accelerate launch scripts/pretrain_entities.py CONFIG
accelerate=true`. See docs/pretraining.md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields

from entitykit.errors import EntityKitError, error
from entitykit.pretraining.data import Counts
from entitykit.pretraining.loop import Report, Step, pretrain
from entitykit.pretraining.settings import PretrainSettings, make_settings, read_settings


def main(arguments: Sequence[str]) -> int:
    """Run the training; 1 if it cannot be run."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 1
    try:
        settings = override(read_settings(arguments[0]), arguments[1:])
        print(f"result: {pretrain(settings, Report(data=show_counts, step=Progress(settings.steps)))}")
    except EntityKitError as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


def override(settings: PretrainSettings, assignments: Sequence[str]) -> PretrainSettings:
    """Replace settings by those of the command line."""
    values = asdict(settings)
    for assignment in assignments:
        name, sign, text = assignment.partition("=")
        if not sign:
            raise error("E130", setting=assignment, found="without a value", expected="setting=value")
        if name not in values:
            names = ", ".join(field.name for field in fields(PretrainSettings))
            raise error("E130", setting=name, found="set", expected=f"only: {names}")
        values[name] = parsed(text)
    return make_settings(values)


def parsed(text: str) -> object:
    """A JSON value, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def show_counts(counts: Counts) -> None:
    """Print what was made of the corpus."""
    for name, value in asdict(counts).items():
        print(f"{name:12}{value:14,}")


class Progress:
    """Prints a line every ten seconds, and for the last step.

    Args:
        steps: of the training.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.last = 0.0

    def __call__(self, step: Step) -> None:
        """Take note of a step."""
        if step.step < self.steps and time.monotonic() - self.last < 10:
            return
        self.last = time.monotonic()
        shown = f"words {step.words:.3f}  entities {step.entities:.3f}  found {step.accuracy:.1%}  rate {step.learn_rate:.2e}"
        print(f"step {step.step}/{self.steps}  {shown}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
