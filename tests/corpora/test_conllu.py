from __future__ import annotations

from pathlib import Path

import pytest

from entitykit.corpora.conllu import Sentence, read_sentences
from entitykit.errors import CorpusError


def row(number: str, form: str, head: str = "0", *, misc: str = "_", upos: str = "_", feats: str = "_") -> str:
    return "\t".join([number, form, "_", upos, "_", feats, head, "_", "_", misc])


def parse(tmp_path: Path, *lines: str) -> list[Sentence]:
    path = tmp_path / "x.conllu"
    path.write_bytes("\n".join(lines).encode())
    return list(read_sentences(path))


def spaced(sentence: Sentence) -> str:
    return "".join(word.form + " " * word.space_after for word in sentence.words)


def test_words_comments_and_misc(tmp_path: Path) -> None:
    first, second = parse(
        tmp_path,
        "# newdoc id = a = b",
        "# newpar",
        "1\tDogs\tdog\tNOUN\tNNS\tNumber=Plur\t2\tnsubj\t2:nsubj\tA=1|B=x=y|C",
        "2\tbark\tbark\tVERB\tVBP\t_\t0\troot\t_\tSpaceAfter=No",
        "",
        row("1", "_", "_"),
    )
    assert first.comments == {"newdoc id": "a = b", "newpar": ""}
    assert first.words[0] == (3, "Dogs", "dog", "NOUN", "NNS", "Number=Plur", 2, "nsubj", True)
    assert [(misc.start, misc.end) for misc in first.misc] == [(0, 1), (1, 2)]
    assert first.misc[0].values == {"A": "1", "B": "x=y", "C": ""}
    assert spaced(first) == "Dogs bark"
    assert second.words[0] == (6, "_", "_", "", "", "", None, "", True)


def test_multi_word_tokens_that_spell_their_words(tmp_path: Path) -> None:
    lines = [row("1", "I"), row("2-3", "don't", "_", misc="SpaceAfter=No"), row("2", "do"), row("3", "n't"), row("4", "!")]
    (sentence,) = parse(tmp_path, *lines)
    assert spaced(sentence) == "I don't! "
    assert sentence.rewritten == []


def test_multi_word_tokens_that_do_not(tmp_path: Path) -> None:
    (sentence,) = parse(tmp_path, row("1-2", "du", "_"), row("1", "de"), row("2", "le"), row("3", "vin"))
    assert spaced(sentence) == "de le vin "
    assert [multiword.form for multiword in sentence.rewritten] == ["du"]


def test_empty_nodes_are_no_words(tmp_path: Path) -> None:
    lines = [row("0.1", "E", "_", misc="Entity=x"), row("1", "a"), row("1.1", "E", "_"), row("1.2", "E", "_"), row("2", "b")]
    (sentence,) = parse(tmp_path, *lines)
    assert spaced(sentence) == "a b "
    assert [(misc.start, misc.end) for misc in sentence.misc] == [(0, 0), (0, 1), (1, 1), (1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("lines", "code", "reason"),
    [
        (["1\ta"], "E214", "line 1: 2 columns; expected 10"),
        ([row("1", "a") + "\t_"], "E214", "11 columns"),
        ([row("2", "a")], "E220", "line 1: the ID is '2'; expected 1"),
        ([row("1", "a"), row("1", "b")], "E220", "line 2: the ID is '1'; expected 2"),
        ([row("x", "a")], "E220", "ID is 'x'"),
        ([row("1-1", "a")], "E220", "ID is '1-1'"),
        ([row("2-3", "a")], "E220", "ID is '2-3'; expected a range that starts at 1"),
        ([row("1-3", "ab"), row("1", "a"), row("2", "b")], "E220", "line 1: the ID is '1-3'; expected words up to 2"),
        ([row("1", "a", "2")], "E220", "HEAD is '2'; expected at most 1"),
        ([row("1", "a", "x")], "E220", "HEAD is 'x'"),
        ([row("1", "a", "-1")], "E220", "HEAD is '-1'"),
        ([row("1", "a", upos="NAME")], "E220", "UPOS is 'NAME'"),
        ([row("1", "a", feats="Plural")], "E220", "FEATS is 'Plural'"),
        ([row("1", "a", feats="A=b|C=d=e")], "E220", "FEATS is 'A=b|C=d=e'".replace("|", r"\|")),
        ([row("1", "")], "E210", "token 1 is empty"),
    ],
)
def test_malformed(tmp_path: Path, lines: list[str], code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*x.conllu, {'' if reason.startswith('line') else '.*'}{reason}"):
        parse(tmp_path, *lines)
