from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from entitykit.corpora.bio import Scheme, Tag, check_scheme, decode, detect_scheme, parse_tag
from entitykit.corpora.parsed import Mention
from entitykit.errors import ConfigError, CorpusError


def parse(tags: str) -> list[Tag]:
    return [parse_tag(tag, where="here") for tag in tags.split()]


def spans(tags: str, scheme: Scheme) -> list[tuple[int, int, str]]:
    return [mention[:3] for mention in decode(parse(tags), scheme, where="here").entities]


@pytest.mark.parametrize(
    ("tags", "scheme", "expected", "repaired"),
    [
        ("", "bio", [], []),
        ("O O", "bio", [], []),
        ("B-A I-A B-A O B-B", "bio", [(0, 2, "A"), (2, 3, "A"), (4, 5, "B")], []),
        ("I-A I-A O I-B", "bio", [(0, 2, "A"), (3, 4, "B")], [0, 3]),
        ("B-A I-B", "bio", [(0, 1, "A"), (1, 2, "B")], [1]),
        ("I-A I-A B-A I-B", "iob1", [(0, 2, "A"), (2, 3, "A"), (3, 4, "B")], []),
        ("B-A I-A E-A S-B O", "bioes", [(0, 3, "A"), (3, 4, "B")], []),
        ("B-A I-A O", "bioes", [(0, 2, "A")], [1]),
        ("B-A B-A", "bioes", [(0, 1, "A"), (1, 2, "A")], [0, 1]),
        ("O E-A I-B E-B", "bioes", [(1, 2, "A"), (2, 4, "B")], [1, 2]),
        ("S-A I-A", "bioes", [(0, 1, "A"), (1, 2, "A")], [1]),
        ("B-A I-A L-A U-B", "bilou", [(0, 3, "A"), (3, 4, "B")], []),
        ("B-A L-B", "bilou", [(0, 1, "A"), (1, 2, "B")], [0, 1]),
        ("B-a-b I-a-b", "bio", [(0, 2, "a-b")], []),
    ],
)
def test_decode(tags: str, scheme: Scheme, expected: list[tuple[int, int, str]], repaired: list[int]) -> None:
    decoded = decode(parse(tags), scheme, where="here")
    assert [mention[:3] for mention in decoded.entities] == expected
    assert decoded.repaired == repaired


any_tag = st.one_of(st.just("O"), st.tuples(st.sampled_from("BIES"), st.sampled_from("AB")).map("-".join))


@given(st.lists(any_tag, max_size=12))
def test_any_sequence_is_read_as_conlleval_does(tags: list[str]) -> None:
    expected = [(start, last + 1, label) for label, start, last in get_entities(tags)]
    assert spans(" ".join(tags), "bioes") == expected


@st.composite
def flat_entities(draw: st.DrawFn) -> tuple[int, list[Mention]]:
    cuts = sorted(draw(st.sets(st.integers(0, 12), max_size=8)))
    mentions = [Mention(a, b, draw(st.sampled_from("AB"))) for a, b in pairwise(cuts) if draw(st.booleans())]
    return 12, mentions


@given(flat_entities(), st.sampled_from(["bio", "bioes", "bilou"]))
def test_written_tags_are_read_back_without_repair(document: tuple[int, list[Mention]], scheme: Scheme) -> None:
    n, mentions = document
    begin, inside, end, single = {"bio": "BIIB", "bioes": "BIES", "bilou": "BILU"}[scheme]
    tags = ["O"] * n
    for start, stop, label, *_ in mentions:
        letters = single if stop - start == 1 else begin + inside * (stop - start - 2) + end
        tags[start:stop] = [f"{letter}-{label}" for letter in letters]
    decoded = decode([parse_tag(tag, where="here") for tag in tags], scheme, where="here")
    assert decoded.entities == mentions
    assert decoded.repaired == []


@pytest.mark.parametrize(
    ("sentences", "expected"),
    [
        ([], "bio"),
        (["O O"], "bio"),
        (["B-A I-A O", "O B-B"], "bio"),
        (["B-A I-A O", "I-B I-B"], "bio"),
        (["B-A B-A"], "bio"),
        (["I-A I-A O"], "iob1"),
        (["I-A B-A I-B", "O"], "iob1"),
        (["B-A I-A", "O S-A"], "bioes"),
        (["B-A E-A"], "bioes"),
        (["B-A L-A"], "bilou"),
        (["U-A"], "bilou"),
    ],
)
def test_detect_scheme(sentences: list[str], expected: str) -> None:
    assert detect_scheme([parse(tags) for tags in sentences], path="x") == expected


def test_mixed_schemes() -> None:
    with pytest.raises(CorpusError, match=r"\[E212\] 'x' mixes tag schemes: L, S "):
        detect_scheme([parse("S-A L-A")], path="x")


@pytest.mark.parametrize("tag", ["", "X", "B", "B-", "b-PER", "PER", "OO", "-PER", "B_PER", "B-PER,I-LOC", "B-PER,O"])
def test_no_tag(tag: str) -> None:
    with pytest.raises(CorpusError, match=r"\[E211\] here: '.*' is no tag"):
        parse_tag(tag, where="here")


def test_tag_of_another_scheme() -> None:
    with pytest.raises(CorpusError, match=r"\[E211\] here: 'S-A' is no tag here; expected one like O or B-PER I-PER \(bio\)"):
        decode(parse("O S-A"), "bio", where="here")


def test_unknown_scheme() -> None:
    with pytest.raises(ConfigError, match=r"\[E213\] The option scheme is 'iob'; expected: auto, bio, iob1, bioes, bilou"):
        check_scheme("iob")
