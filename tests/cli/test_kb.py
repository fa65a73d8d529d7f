"""`entitykit kb`: what it writes, prints and answers."""

from __future__ import annotations

import argparse
import io
import json
import os
from pathlib import Path

import pytest

from entitykit.cli import kb
from entitykit.cli.__main__ import main
from entitykit.errors import CheckpointError, CorpusError, EntityKitError, EntityKitWarning, InputError, OutputError
from entitykit.knowledge.entities import write_lines
from entitykit.knowledge.store import EntityStore
from tests.knowledge.kb import CITIES, PARIS, TEXTS


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    kb.add_arguments(parser)
    return kb.run(parser.parse_args([str(argument) for argument in arguments]))


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(write_lines(records)), encoding="utf-8")
    return path


def table(out: str) -> dict[str, int]:
    """Numbers of a table by name."""
    rows = [line.rsplit(maxsplit=1) for line in out.splitlines() if line.rstrip()[-1:].isdigit()]
    return {name.strip(): int(number.replace(",", "")) for name, number in rows}


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    return write(tmp_path / "entities.jsonl", *(entity.to_json() for entity in CITIES))


@pytest.fixture
def folder(tmp_path: Path, entities: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run("build", tmp_path / "kb", entities) == 0
    capsys.readouterr()
    return tmp_path / "kb"


def test_build_and_export(tmp_path: Path, entities: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phrases = write(tmp_path / "phrases.jsonl", ["Paris", 40], ["London", 3])
    assert run("build", tmp_path / "kb", entities, "--phrases", phrases) == 0
    assert table(capsys.readouterr().out) == {"entities read": 3, "added": 3, "updated": 0}
    with EntityStore.open(tmp_path / "kb") as store:
        assert list(store) == CITIES
        assert store.links(["paris"])["paris"].total == 40
    assert run("export", tmp_path / "kb", tmp_path / "out.jsonl", "--phrases", tmp_path / "counted.jsonl") == 0
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == entities.read_text(encoding="utf-8")
    assert (tmp_path / "counted.jsonl").read_text(encoding="utf-8") == '["london", 3]\n["paris", 40]\n'
    with pytest.warns(EntityKitWarning, match=r"W503\] 2 phrases .*--phrases FILE"):
        assert run("export", tmp_path / "kb", "-") == 0
    assert capsys.readouterr().out == entities.read_text(encoding="utf-8")
    assert run("build", tmp_path / "again", tmp_path / "out.jsonl", "--phrases", tmp_path / "counted.jsonl") == 0
    with EntityStore.open(tmp_path / "again") as store:
        assert list(store) == CITIES
        assert dict(store.phrases()) == {"london": 3, "paris": 40}


def test_phrases_that_were_exported_are_the_same_phrases(tmp_path: Path, entities: Path) -> None:
    """Whatever they are made of; and what they let through is the same."""
    phrases = write(tmp_path / "phrases.jsonl", *([text, n] for n, text in enumerate([*TEXTS, "PARIS,", "paris"], start=1)))
    counted: list[dict[str, int]] = []
    for name, given in (("one", phrases), ("two", tmp_path / "counted.jsonl")):
        assert run("build", tmp_path / name, entities, "--phrases", given) == 0
        assert run("export", tmp_path / name, tmp_path / "out.jsonl", "--phrases", tmp_path / "counted.jsonl") == 0
        with EntityStore.open(tmp_path / name) as store:
            counted.append(dict(store.phrases()))
            assert store.links(["paris"])["paris"] == (16, 2 * len(TEXTS) + 3)
    assert counted[0] == counted[1]
    assert len(counted[0]) > 10


def test_several_files_and_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "parts").mkdir()
    for i, entity in enumerate(CITIES):
        write(tmp_path / "parts" / f"{i}.jsonl", entity.to_json())
    more = write(tmp_path / "more.jsonl", {"id": "Q1", "name": "Universe"}, {"id": "Q90", "name": "Paris"})
    with pytest.warns(EntityKitWarning, match="W500"):
        assert run("build", tmp_path / "kb", tmp_path / "parts", more) == 0
    assert table(capsys.readouterr().out)["given more than once, last kept"] == 1
    assert run("info", tmp_path / "kb") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"built by entitykit 0.1.0 from {tmp_path / 'parts'}, {more}\n")


def test_add_remove_info(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = write(tmp_path / "more.jsonl", {"id": "Q90", "name": "Paris"}, {"id": "Q1", "name": "Universe"})
    phrases = write(tmp_path / "phrases.jsonl", ["Paris", 40])
    assert run("add", folder, more, "--phrases", phrases) == 0
    assert table(capsys.readouterr().out) == {"entities read": 2, "added": 1, "updated": 1, "phrases": 1}
    assert run("add", folder, "--phrases", phrases) == 0
    (tmp_path / "ids.txt").write_text("Q1\n\nQ167646\n")
    assert run("remove", folder, "Q830149", "--ids", tmp_path / "ids.txt") == 0
    capsys.readouterr()
    assert run("info", folder, "--check") == 0
    out = capsys.readouterr().out
    numbers = table(out)
    assert numbers.pop("kilobytes on disk") > 20
    assert numbers == {
        "entities": 1,
        "names and aliases": 1,
        "entities with a description": 0,
        "redirects": 0,
        "phrases counted in text": 1,
        "version of the contents": 5,
    }
    assert out.endswith("\nchecked: all is whole\n")


def test_ids_without_entity_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("remove", folder, "Q90", "Q9090", "Q1", "Q90") == 1
    out, err = capsys.readouterr()
    assert table(out) == {"entities removed": 1, "ids without entity": 2}
    assert err == "entitykit: no entity 'Q9090'\nentitykit: no entity 'Q1'\n"


def test_what_was_added_before_an_error_is_shown(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(tmp_path / "good.jsonl", {"id": "Q1", "name": "Universe"})
    bad = write(tmp_path / "bad.jsonl", ["Paris", -1])
    with pytest.raises(CorpusError, match=r"\[E504\] .*bad.jsonl, line 1: the total is -1"):
        run("add", folder, good, "--phrases", bad)
    assert table(capsys.readouterr().out) == {"entities read": 1, "added": 1, "updated": 0, "phrases": 0}
    with EntityStore.open(folder) as store:
        assert "Q1" in store
        assert store.n_phrases == 0


def test_further_aliases(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    aliases = write(tmp_path / "aliases.jsonl", ["Lutetia", "Q90", 7], ["Paris", "Q9090", 4])
    assert run("add", folder, "--aliases", aliases) == 0
    assert table(capsys.readouterr().out)["aliases"] == 2
    missing = write(tmp_path / "missing.jsonl", ["City of Light", "Q90", 1], ["London", "Q84", 1])
    with pytest.raises(InputError, match=r"\[E505\] .* has no entity 'Q84'"):
        run("add", folder, "--aliases", missing)
    with EntityStore.open(folder) as store:
        entity = store.entity("Q90")
        assert entity is not None
        assert dict(entity.names()) == {"Paris": 16, "Paname": 1, "Lutetia": 7}


def test_inputs_that_cannot_be(folder: Path, tmp_path: Path, entities: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, kind, message in (
        (("add", folder), InputError, r"\[E507\] The option IN.jsonl is missing"),
        (("remove", folder), InputError, r"\[E507\] The option ID is missing"),
        (("add", folder, tmp_path / "none.jsonl"), CorpusError, r"\[E201\]"),
        (("build", tmp_path / "new", tmp_path / "empty"), CorpusError, r"\[E202\]"),
        (
            ("build", folder, entities),
            OutputError,
            r"\[E502\] .* it holds meta.json already; change it with",
        ),
        (("info", tmp_path / "new"), CheckpointError, r"\[E500\]"),
        (("export", folder, tmp_path), OutputError, r"\[E426\]"),
        (("export", folder, entities / "out.jsonl"), OutputError, r"\[E425\]"),
        (("export", folder, tmp_path / "both", "--phrases", tmp_path / "both"), InputError, r"\[E427\]"),
        (("export", folder, "-", "--phrases", "-"), InputError, r"\[E507\] The option --phrases is -"),
    ):
        with pytest.raises(kind, match=message):
            run(*arguments)
    with EntityStore.open(folder) as store:
        assert list(store) == CITIES


def test_exports_go_through_links_and_pipes_and_make_folders(folder: Path, tmp_path: Path, entities: Path) -> None:
    link, target, pipe = tmp_path / "link.jsonl", tmp_path / "new" / "out.jsonl", tmp_path / "pipe"
    link.symlink_to(target)
    assert run("export", folder, link) == 0
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == entities.read_text(encoding="utf-8")
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as reader:
        assert run("export", folder, pipe) == 0
        assert reader.read() == entities.read_text(encoding="utf-8")
    assert pipe.is_fifo()


def test_an_export_to_standard_output_is_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entity = {"id": "Q1", "name": "Zoë"}
    assert run("build", tmp_path / "kb", write(tmp_path / "one.jsonl", entity)) == 0
    written = io.BytesIO()
    stdout = io.TextIOWrapper(written, encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    assert run("export", tmp_path / "kb", "-") == 0
    assert json.loads(written.getvalue()) == entity


def test_an_earlier_export_stays_after_an_error(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("before")

    def broken(entity: object) -> dict[str, str]:
        raise EntityKitError("broken")

    monkeypatch.setattr(kb.Entity, "to_json", broken)
    with pytest.raises(EntityKitError, match="broken"):
        run("export", folder, out)
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entities.jsonl", "kb", "out.jsonl"]


def test_as_a_command(tmp_path: Path, entities: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["kb", "build", str(tmp_path / "kb"), str(entities)]) == 0
    assert main(["kb", "info", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("entitykit: [E500] Cannot open the knowledge base")
    assert main(["kb", "export", str(tmp_path / "kb"), "-"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0]) == PARIS.to_json()
    with pytest.raises(SystemExit):
        main(["kb", "--help"])
    assert "make a knowledge base from JSON lines" in capsys.readouterr().out
