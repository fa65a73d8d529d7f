"""Run the command line as `python -m entitykit`."""

from __future__ import annotations

import sys

from entitykit.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
