"""Ranges of the numbers in models' settings: a number means the same in all architectures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from entitykit.errors import error

LEAST: Mapping[str, int] = {
    **dict.fromkeys(("overlap", "batch_pieces", "max_word_pieces", "rank", "hidden", "max_width", "size", "heads"), 1),
    **dict.fromkeys(("window", "context", "negatives", "size_width", "types", "product", "layers", "proposals"), 0),
    **dict.fromkeys(("probe_weight", "loss_weight", "filter_weight", "balance", "keep_spans", "keep_pairs", "positive"), 0),
}
"""The least value of a setting, unless an architecture names another."""
SHARES = ("dropout", "type_dropout", "word_dropout")
"""At least 0 and below 1."""


def check_ranges(settings: Mapping[str, Any], **least: int) -> None:
    """Refuse numbers with which a model could not be built, or would learn nothing.

    Args:
        settings: by name; those that no range is known of are not looked at.
        least: other least values than those of `LEAST`.

    Raises:
        ConfigError: E007.
    """
    bounds = {**LEAST, **least}
    for name, value in settings.items():
        if name in SHARES and not 0 <= value < 1:
            raise error("E007", setting=name, found=value, expected="at least 0 and below 1")
        if name in bounds and value < bounds[name]:
            raise error("E007", setting=name, found=value, expected=f"at least {bounds[name]}")
