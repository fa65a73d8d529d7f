"""SemEval-2010 task 8: sentences with two marked nominals and the relation between them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from entitykit.corpora.files import read_lines
from entitykit.corpora.parsed import UNTYPED, Mention, ParsedDoc, Relation, RelationPair
from entitykit.errors import error

SUFFIXES = (".txt", ".TXT")

OTHER = "Other"
"""The label of a pair that has none of the relations."""

SENTENCE = re.compile(r'(?P<id>[^\t]+)\t"?(?P<text>.*?)"?\s*')
PAIR = re.compile(r"(?P<a>.*)<e1>(?P<one>.*)</e1>(?P<b>.*)<e2>(?P<two>.*)</e2>(?P<c>.*)")
LABEL = re.compile(r"(?P<name>[^()]+)\((?P<first>e1|e2),(?P<second>e1|e2)\)")


def parse(path: Path) -> Iterator[ParsedDoc]:
    r"""Read blocks between blank lines: number, tab and sentence; a label; a comment. The last two may be missing.

    `Cause-Effect(e2,e1)` is a relation `Cause-Effect` from the second nominal to the first, in `doc.user_data["relations"]`;
    `Other` is none. `doc.user_data["relation_pair"]` has the two nominals and the label as it stands, and
    `doc.user_data["comment"]` the comment. The nominals are the entities; they have no types.

    Args:
        path: the file.

    Raises:
        CorpusError: E204 for bytes that are not UTF-8, E219 for a line that is nothing of the above.
    """
    for blank, block in groupby(read_lines(path), key=lambda line: not line[1].strip()):
        if not blank:
            yield _document(path, list(block))


def _document(path: Path, lines: Sequence[tuple[int, str]]) -> ParsedDoc:
    number, line = lines[0]
    where = f"{path}, line {number}"
    sentence = SENTENCE.fullmatch(line)
    marked = PAIR.fullmatch(sentence["text"]) if sentence else None
    if sentence is None or marked is None:
        raise error(
            "E219", where=where, found=line[:60], expected="a number, a tab, and a sentence with <e1>…</e1> and <e2>…</e2>"
        )
    first = len(marked["a"]), len(marked["a"] + marked["one"])
    begin = first[1] + len(marked["b"])
    second = begin, begin + len(marked["two"])
    relations, pair = None, None
    if len(lines) > 1:
        relations, pair = _relation(lines[1][1].strip(), list(first), list(second), f"{path}, line {lines[1][0]}")
    comments = [text for _, text in lines[2:]]
    if comments and not comments[0].startswith("Comment:"):
        raise error("E219", where=f"{path}, line {lines[2][0]}", found=comments[0][:60], expected="Comment:, or a blank line")
    comment = " ".join(comments).removeprefix("Comment:").strip()
    return ParsedDoc(
        id=sentence["id"].strip(),
        where=where,
        text="".join(marked.groups()),
        offsets="characters",
        entities=[Mention(*first, UNTYPED), Mention(*second, UNTYPED)],
        relations=relations,
        pair=pair,
        user_data={"comment": comment} if comment else {},
    )


def _relation(label: str, first: list[int], second: list[int], where: str) -> tuple[list[Relation], RelationPair]:
    pair = RelationPair(first=first, second=second, label=label, one_way=False)
    if label == OTHER:
        return [], pair
    match = LABEL.fullmatch(label)
    if match is None or match["first"] == match["second"]:
        raise error("E219", where=where, found=label[:60], expected="Other, or a relation with (e1,e2) or (e2,e1)")
    head, tail = (first, second) if match["first"] == "e1" else (second, first)
    return [Relation(head=head, tail=tail, label=match["name"])], pair
