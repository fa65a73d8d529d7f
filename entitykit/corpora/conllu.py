"""CoNLL-U: sentences with multi-word tokens, empty nodes and comments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from spacy.parts_of_speech import IDS

from entitykit.corpora.files import read_lines
from entitykit.errors import error

N_COLUMNS = 10
FEATS = re.compile(r"[^=|]+=[^=|]+(\|[^=|]+=[^=|]+)*")
RANGE = re.compile(r"(?P<first>[1-9]\d*)-(?P<last>[1-9]\d*)")
EMPTY_NODE = re.compile(r"\d+\.[1-9]\d*")


class Word(NamedTuple):
    """A syntactic word; `_` is read as the empty string everywhere but in the form.

    Attributes:
        line: its line in the file.
        form: the word as it is written.
        lemma: its dictionary form.
        upos: universal part of speech.
        xpos: the language's own part-of-speech tag.
        feats: morphological features.
        head: the number of its head in the sentence, 0 for a root; None if there is none.
        deprel: relation to the head.
        space_after: whether a space follows.
    """

    line: int
    form: str
    lemma: str
    upos: str
    xpos: str
    feats: str
    head: int | None
    deprel: str
    space_after: bool


class Misc(NamedTuple):
    """The MISC values of a word, a multi-word token or an empty node, in the order of the file.

    Attributes:
        line: line in the file.
        start: number of words of the sentence before it.
        end: number of words of the sentence up to its end; equal to `start` for an empty node.
        values: key to value.
    """

    line: int
    start: int
    end: int
    values: Mapping[str, str]


class MultiWord(NamedTuple):
    """A multi-word token: a range of words that are written as one.

    Attributes:
        line: line in the file.
        start: its first word, from 0.
        end: one past its last word.
        form: what is written.
        space_after: whether a space follows.
    """

    line: int
    start: int
    end: int
    form: str
    space_after: bool


@dataclass
class Sentence:
    """A sentence.

    Attributes:
        comments: `key = value` of the comment lines; a comment without value has the empty string.
        words: the syntactic words.
        misc: the MISC values of words, multi-word tokens and empty nodes.
        rewritten: multi-word tokens whose words do not spell them, so that the text had to change.
    """

    comments: dict[str, str] = field(default_factory=dict)
    words: list[Word] = field(default_factory=list)
    misc: list[Misc] = field(default_factory=list)
    rewritten: list[MultiWord] = field(default_factory=list)


def read_sentences(path: Path) -> Iterator[Sentence]:
    """Read the sentences of a CoNLL-U file.

    The words of a multi-word token (`1-2`) are joined without space where their forms spell the token, and spaced as words of
    their own where they do not (`du` = `de le`). Empty nodes (`1.1`) give no word, only MISC values.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E214 for a line without 10 columns, E210 for an empty form, E220 for
            a wrong ID, UPOS, FEATS or HEAD.
    """
    lines: list[tuple[int, str]] = []
    for number, text in read_lines(path):
        if text.strip():
            lines.append((number, text))
        elif lines:
            yield _sentence(lines, path)
            lines = []
    if lines:
        yield _sentence(lines, path)


def _sentence(lines: Sequence[tuple[int, str]], path: Path) -> Sentence:
    sentence = Sentence()
    multiwords: list[MultiWord] = []
    for number, text in lines:
        if text.startswith("#"):
            key, _, value = text.removeprefix("#").partition("=")
            sentence.comments[key.strip()] = value.strip()
            continue
        where = f"{path}, line {number}"
        fields = text.split("\t")
        if len(fields) != N_COLUMNS:
            raise error("E214", where=where, found=len(fields), expected=N_COLUMNS)
        n_words = len(sentence.words)
        misc = _misc(fields[9])
        if span := RANGE.fullmatch(fields[0]):
            first, last = int(span["first"]), int(span["last"])
            if first != n_words + 1 or last <= first:
                raise error("E220", where=where, what="ID", found=fields[0], expected=f"a range that starts at {n_words + 1}")
            sentence.misc.append(Misc(number, n_words, last, misc))
            multiwords.append(MultiWord(number, n_words, last, fields[1], misc.get("SpaceAfter") != "No"))
        elif EMPTY_NODE.fullmatch(fields[0]):
            sentence.misc.append(Misc(number, n_words, n_words, misc))
        elif fields[0] == str(n_words + 1):
            sentence.words.append(_word(number, fields, misc, where))
            sentence.misc.append(Misc(number, n_words, n_words + 1, misc))
        else:
            raise error("E220", where=where, what="ID", found=fields[0], expected=f"{n_words + 1}, a range or an empty node")
    _check_numbers(sentence, multiwords, path)
    for multiword in multiwords:
        _write_as_one(sentence, multiword)
    return sentence


def _misc(text: str) -> dict[str, str]:
    values = {}
    for item in text.split("|"):
        key, _, value = item.partition("=")
        values[key] = value
    return values


def _word(number: int, fields: Sequence[str], misc: Mapping[str, str], where: str) -> Word:
    lemma, upos, xpos, feats, head, deprel = ("" if value == "_" else value for value in fields[2:8])
    if upos and upos not in IDS:
        raise error("E220", where=where, what="UPOS", found=upos, expected="a universal part of speech")
    if feats and not FEATS.fullmatch(feats):
        raise error("E220", where=where, what="FEATS", found=feats, expected="Name=Value, separated by |, or _")
    if head and not head.isdecimal():
        raise error("E220", where=where, what="HEAD", found=head, expected="a number or _")
    form = fields[1]
    if not form:
        raise error("E210", where=where, number=fields[0])
    return Word(
        line=number,
        form=form,
        lemma="_" if fields[2] == form == "_" else lemma,
        upos=upos,
        xpos=xpos,
        feats=feats,
        head=int(head) if head else None,
        deprel=deprel,
        space_after=misc.get("SpaceAfter") != "No",
    )


def _check_numbers(sentence: Sentence, multiwords: Sequence[MultiWord], path: Path) -> None:
    n_words = len(sentence.words)
    for word in sentence.words:
        if word.head is not None and word.head > n_words:
            raise error("E220", where=f"{path}, line {word.line}", what="HEAD", found=word.head, expected=f"at most {n_words}")
    for line, start, end, _, _ in multiwords:
        if end > n_words:
            raise error(
                "E220", where=f"{path}, line {line}", what="ID", found=f"{start + 1}-{end}", expected=f"words up to {n_words}"
            )


def _write_as_one(sentence: Sentence, multiword: MultiWord) -> None:
    """Give the words of a multi-word token their spaces: none between words that spell the token."""
    words = sentence.words[multiword.start : multiword.end]
    spelled = "".join(word.form for word in words) == multiword.form
    if not spelled:
        sentence.rewritten.append(multiword)
    spaces = [not spelled] * (len(words) - 1) + [multiword.space_after]
    sentence.words[multiword.start : multiword.end] = [
        word._replace(space_after=space) for word, space in zip(words, spaces, strict=True)
    ]
