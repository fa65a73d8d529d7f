"""Every code that the package uses is described, every described code is used, and calls and templates agree."""

from __future__ import annotations

import ast
import pickle
import string
from pathlib import Path
from typing import NamedTuple

import pytest

import entitykit
from entitykit.errors import ERRORS, WARNINGS, EntityKitError, EntityKitWarning, error, warn

PACKAGE = Path(entitykit.__file__).parent
TEMPLATES = {code: template for code, (_, template) in ERRORS.items()} | WARNINGS


class Call(NamedTuple):
    """One ``error(...)`` or ``warn(...)`` in the package."""

    place: str
    function: str
    code: object
    values: set[str | None]


def find_calls() -> list[Call]:
    calls = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("error", "warn"):
                code = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
                values = {keyword.arg for keyword in node.keywords} - {"stacklevel"}
                calls.append(Call(f"{path.relative_to(PACKAGE)}:{node.lineno}", node.func.id, code, values))
    return calls


CALLS = find_calls()


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.place}-{call.code}")
def test_call_matches_its_template(call: Call) -> None:
    described = ERRORS if call.function == "error" else WARNINGS
    assert call.code in described, f"{call.place}: expected a literal code that errors.py describes"
    assert call.values == placeholders(TEMPLATES[str(call.code)]), call.place


def test_every_code_is_used() -> None:
    assert {call.code for call in CALLS} == set(TEMPLATES)


def test_codes_are_numbered_by_kind() -> None:
    assert all(code[0] == "E" and code[1:].isdigit() and len(code) == 4 for code in ERRORS)
    assert all(code[0] == "W" and code[1:].isdigit() and len(code) == 4 for code in WARNINGS)


@pytest.mark.parametrize("code", ERRORS)
def test_error_formats_and_pickles(code: str) -> None:
    # 1 fits every format that a template may ask for: {n:,}, {share:.1%}, {found!r}.
    raised = error(code, **dict.fromkeys(placeholders(TEMPLATES[code]), 1))
    assert str(raised).startswith(f"[{code}] ")
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is type(raised) is ERRORS[code][0]
    assert (str(copy), copy.code) == (str(raised), code)


@pytest.mark.parametrize("kind", EntityKitError.__subclasses__())
def test_error_classes_are_also_builtin_ones(kind: type[EntityKitError]) -> None:
    assert issubclass(kind, (ValueError, OSError))


@pytest.mark.parametrize("code", WARNINGS)
def test_warning_formats(code: str) -> None:
    with pytest.warns(EntityKitWarning, match=rf"^\[{code}\] "):
        warn(code, **dict.fromkeys(placeholders(TEMPLATES[code]), 1))


def test_warning_points_at_the_callers_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WARNINGS, "W000", "found {what}")

    def library_function() -> None:
        warn("W000", what="this")

    with pytest.warns(EntityKitWarning, match=r"^\[W000\] found this$") as caught:
        library_function()
    assert caught[0].filename == __file__
    assert "library_function()" in Path(__file__).read_text(encoding="utf-8").splitlines()[caught[0].lineno - 1]
