from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitykit.corpora.turtle import RDF, XSD, Triple, read_triples
from entitykit.errors import CorpusError

Read = Callable[[str], list[Triple]]

EX = "http://ex.org/"


@pytest.fixture
def turtle(tmp_path: Path) -> Read:
    def read(text: str) -> list[Triple]:
        path = tmp_path / "x.ttl"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        return list(read_triples(path))

    return read


def plain(triples: list[Triple]) -> list[tuple[str, ...]]:
    """Triples without lines, shortened."""
    return [tuple(part.replace(EX, "").replace(RDF, "rdf:").replace(XSD, "xsd:") for part in triple[:4]) for triple in triples]


def test_statements(turtle: Read) -> None:
    text = """@prefix ex: <http://ex.org/> . # a comment with . and <
PREFIX xsd: <http://www.w3.org/2001/XMLSchema#>
@prefix : <http://ex.org/empty#>.
ex:a a ex:Class ;
  ex:p ex:b , <http://ex.org/c#char=0,12>, _:node ;
  ex:q "one" , 'two'@en-GB, "3"^^xsd:int, "4"^^<http://ex.org/t>;;
  .
:x :y : .
<http://ex.org/a>ex:r"no space".ex:a ex:s true.
ex:char\\=0\\,3 ex:p%20 ex:a.b:c ."""
    assert plain(turtle(text)) == [
        ("a", "rdf:type", "Class", ""),
        ("a", "p", "b", ""),
        ("a", "p", "c#char=0,12", ""),
        ("a", "p", "_:node", ""),
        ("a", "q", "one", "xsd:string"),
        ("a", "q", "two", "@en-GB"),
        ("a", "q", "3", "xsd:int"),
        ("a", "q", "4", "t"),
        ("empty#x", "empty#y", "empty#", ""),
        ("a", "r", "no space", "xsd:string"),
        ("a", "s", "true", "xsd:boolean"),
        ("char=0,3", "p%20", "a.b:c", ""),
    ]


@pytest.mark.parametrize(
    ("literal", "value", "datatype"),
    [
        ('"a\\"b\\\\c\\n\\t\\u00e9\\U0001F600"', 'a"b\\c\n\té😀', "string"),
        ("'it''s'", None, ""),
        ("'''it''s ' \"\"\" fine'''", "it''s ' \"\"\" fine", "string"),
        ('"""two\n"" lines\r\n\\"""."""', 'two\n"" lines\r\n""' + '".', "string"),
        ('""', "", "string"),
        ('""""""', "", "string"),
        ("12", "12", "integer"),
        ("-5", "-5", "integer"),
        ("+1.5", "+1.5", "decimal"),
        (".5", ".5", "decimal"),
        ("1e-3", "1e-3", "double"),
        ("1.E3", "1.E3", "double"),
        ("false", "false", "boolean"),
    ],
)
def test_literals(turtle: Read, literal: str, value: str | None, datatype: str) -> None:
    text = f"<http://ex.org/a> <http://ex.org/p> {literal}."
    if value is None:
        with pytest.raises(CorpusError, match="E243"):
            turtle(text)
        return
    (triple,) = turtle(text)
    assert triple == (f"{EX}a", f"{EX}p", value, f"{XSD}{datatype}", 1)


def test_nested_nodes_and_lists(turtle: Read) -> None:
    prefix = "@prefix : <http://ex.org/> .\n"
    assert plain(turtle(prefix + "[ :p :a ; :q [ :r 1 ] ] . [] :p () . :a :p [ ] .")) == [
        ("_:[1]", "p", "a", ""),
        ("_:[2]", "r", "1", "xsd:integer"),
        ("_:[1]", "q", "_:[2]", ""),
        ("_:[3]", "p", "rdf:nil", ""),
        ("a", "p", "_:[4]", ""),
    ]
    assert set(plain(turtle(prefix + ":a :p (:b 'c') ."))) == {
        ("_:[1]", "rdf:first", "c", "xsd:string"),
        ("_:[1]", "rdf:rest", "rdf:nil", ""),
        ("_:[2]", "rdf:first", "b", ""),
        ("_:[2]", "rdf:rest", "_:[1]", ""),
        ("a", "p", "_:[2]", ""),
    }


def test_relative_addresses(turtle: Read) -> None:
    text = "@base <http://ex.org/dir/file> . <x> <#p> <> . BASE <http://ex.org/> <../y> </q> <mailto:a@b> ."
    assert plain(turtle(text)) == [("dir/x", "dir/file#p", "dir/file", ""), ("y", "q", "mailto:a@b", "")]


def test_lines_are_those_of_the_objects(turtle: Read) -> None:
    text = "\ufeff@prefix : <http://ex.org/> .\r\n\r\n:a :p '''1\n2\n3''' ;\n  :q :b,\n\n  :c .\n"
    assert [triple.line for triple in turtle(text)] == [3, 6, 8]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (":a :p :b .", r"line 1: .*found ':a', expected a prefix that is declared: none is"),
        ("@prefix x: <http://x> .\n\ny:a x:p x:b .", r"line 3: .*found 'y:a', expected .* declared: 'x'"),
        ("<a> <b> <c>\n<d> <e> <f> .", r"line 2: .*found '<d>', expected \."),
        ("<a> <b>\n", r"line 2: .*found 'the end of the file', expected an object"),
        ("<a> <b> <c> ;\n <d", r"line 2: .*found '<d'"),
        ("<a> <b> <c> ; 7 <d> .", "expected a predicate"),
        ("<a> 'b' <c> .", "found ''b'', expected a predicate"),
        ("'a' <b> <c> .", "expected a subject before it that is no literal"),
        ("<a> <b> <c> . ]", "found ']', expected a subject"),
        ("<a> <b> [ <c> <d> .", r"found '\.', expected \]"),
        ("<a> <b> ( <c> <d> .", r"found '\.', expected an object or \)"),
        ("<a> <b> 'open .\n", "line 1: .*found ''open"),
        ("<a> <b> '''open .\n", "line 1"),
        ("<a> <b> 'x\\q' .", r"found ''x\\q'', expected no \\q in it"),
        ("<a> <b> '\\UFFFFFFFF' .", "expected no "),
        ("<a> <b> 'x'^^3 .", "expected a datatype"),
        ("<a> <b> maybe .", "found 'maybe', expected an object"),
        ("@prefix <http://x> .", "expected a prefix with a colon"),
        ("@prefix x: y: .", "expected an address in < >"),
        ("@prefix x: <http://x>\n<a> <b> <c> .", r"line 2: .*found '<a>', expected \."),
        ("<a> <b> <c d> .", "found '<c d> .'"),
        ('{"text": "json"}', "line 1: this is no Turtle: found '{"),
        ("<a> <b> " + "[ <p> " * 5000 + "1" + " ]" * 5000 + ".", "expected less deep nesting"),
    ],
)
def test_no_turtle(turtle: Read, text: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[E243\] .*x.ttl, .*{reason}"):
        turtle(text)


def test_no_text(turtle: Read, tmp_path: Path) -> None:
    assert turtle("") == turtle(" # nothing") == []
    path = tmp_path / "x.ttl"
    path.write_bytes(b"<a> <b>\n\xff")
    with pytest.raises(CorpusError, match=r"\[E204\] .*x.ttl, line 2: the byte 0xff"):
        list(read_triples(path))
    with pytest.raises(CorpusError, match=r"\[E238\]"):
        list(read_triples(tmp_path))


@given(st.text(st.characters(codec="utf-8"), max_size=12), st.integers(0, 3))
def test_any_text_survives_any_quoting(tmp_path_factory: pytest.TempPathFactory, text: str, style: int) -> None:
    quote = ["'", '"', "'''", '"""'][style]
    escaped = text.replace("\\", "\\\\").replace(quote[0], f"\\{quote[0]}")
    if len(quote) == 1:
        escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    path = tmp_path_factory.mktemp("turtle") / "x.ttl"
    path.write_bytes(f"<http://ex.org/a> <http://ex.org/p>\n{quote}{escaped}{quote}@en.".encode())
    assert list(read_triples(path)) == [Triple(f"{EX}a", f"{EX}p", text, "@en", 2)]


@given(st.text("<>\"'\\{}[]().;,:@#_^ \nabn0", max_size=30))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("turtle") / "x.ttl"
    path.write_bytes(text.encode())
    try:
        for triple in read_triples(path):
            assert triple.line >= 1
    except CorpusError as problem:
        assert problem.code == "E243"  # noqa: PT017
