"""The dispatcher: lazy imports, exit codes, messages on standard error."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
from types import ModuleType

import pytest

from entitykit import __version__
from entitykit.cli.__main__ import COMMANDS, main
from entitykit.errors import ERRORS, InputError, error

# For subprocesses: a subcommand `fake` whose body is put in.
FAKE = """
import sys
from types import ModuleType
from entitykit.cli import __main__ as cli
from entitykit.errors import WARNINGS, warn

def run(args):
    {body}
    return 0

module = sys.modules["entitykit.cli.fake"] = ModuleType("entitykit.cli.fake")
module.add_arguments, module.run = lambda parser: None, run
cli.COMMANDS["fake"] = "do nothing"
sys.exit(cli.main(["fake"]))
"""


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, check=False)


@pytest.fixture
def fake_command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A subcommand `fake VALUE` whose `run` a test replaces."""
    module = ModuleType("entitykit.cli.fake")

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("value")

    module.add_arguments = add_arguments
    module.run = lambda args: int(args.value)
    monkeypatch.setitem(sys.modules, "entitykit.cli.fake", module)
    monkeypatch.setitem(COMMANDS, "fake", "do nothing")
    monkeypatch.setitem(ERRORS, "E000", (InputError, "found {what}"))
    return module


def test_subcommand_gets_its_arguments_and_gives_the_exit_code(fake_command: ModuleType) -> None:
    assert main(["fake", "0"]) == 0
    assert main(["fake", "1"]) == 1


def test_coded_error_is_a_message_without_traceback(fake_command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise error("E000", what=args.value)

    fake_command.run = fail
    assert main(["fake", "this"]) == 2
    assert capsys.readouterr() == ("", "entitykit: [E000] found this\n")


def test_other_errors_keep_their_traceback(fake_command: ModuleType) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        main(["fake", "no number"])


def test_interrupt(fake_command: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(args: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    fake_command.run = interrupt
    assert main(["fake", "0"]) == 130
    assert capsys.readouterr().err == "entitykit: interrupted\n"


def test_warning_is_one_line() -> None:
    run = run_python("-c", FAKE.format(body="WARNINGS['W000'] = 'found {what}'; warn('W000', what='this')"))
    assert (run.returncode, run.stderr) == (0, "entitykit: [W000] found this\n")


def test_warning_of_others_keeps_its_place() -> None:
    run = run_python("-c", FAKE.format(body="import warnings; warnings.warn('found this')"))
    assert (run.returncode, run.stderr.startswith("<string>:"), "UserWarning: found this" in run.stderr) == (0, True, True)


@pytest.mark.parametrize("args", [[], ["unknown"], ["--unknown"], ["annotate"]])
def test_wrong_arguments_show_the_usage(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: entitykit")


@pytest.mark.parametrize(
    ("args", "usage"),
    [
        (["annotate", "a.txt", "-o", "out.jsonl", "--formt", "html"], "usage: entitykit annotate [-h] -o OUT"),
        (["kb", "build", "kb", "in.jsonl", "--formt", "html"], "usage: entitykit kb build [-h]"),
    ],
)
def test_an_unknown_option_shows_the_usage_of_the_subcommand(
    args: list[str], usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(usage)
    assert "error: unrecognized arguments: --formt" in shown


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"entitykit {__version__}\n"


def test_python_dash_m_lists_the_commands() -> None:
    run = run_python("-m", "entitykit", "--help")
    assert run.returncode == 0, run.stderr
    assert all(summary in " ".join(run.stdout.split()) for summary in COMMANDS.values())


def test_help_imports_nothing_heavy() -> None:
    run = run_python("-X", "importtime", "-m", "entitykit", "--help")
    imported = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "entitykit.errors" in imported
    assert not imported & {"numpy", "spacy", "torch", "transformers"}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: entitykit {command}")


def test_a_full_disk_behind_standard_output() -> None:
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w", encoding="utf-8") as full:
        command = [sys.executable, "-c", FAKE.format(body="print('line')")]
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=buffered, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("entitykit: [E425] Cannot write 'standard output': No space left on device")
    assert len(run.stderr.splitlines()) == 1


def test_tables_on_a_terminal_that_is_not_utf8(fake_command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding="ascii"))
    fake_command.run = lambda args: sys.stdout.write("Zoë – 2")
    assert main(["fake", "0"]) == 7
    assert printed.getvalue() == b"Zo\\xeb \\u2013 2"


def test_reader_that_leaves_ends_the_run_quietly() -> None:
    program = FAKE.format(body="for _ in range(100_000): print('line')")
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
