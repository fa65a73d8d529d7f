from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.corpora.titles import title
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import linked

Read = Callable[..., list[Doc]]

PREFIXES = """@prefix nif: <http://persistence.uni-leipzig.org/nlp2rdf/ontologies/nif-core#> .
@prefix itsrdf: <http://www.w3.org/2005/11/its/rdf#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
@prefix d: <http://ex.org/doc1#> .
"""
CONTEXT = """<http://ex.org/doc1#char=0,32> a nif:Context , nif:RFC5147String ;
    nif:beginIndex "0"^^xsd:nonNegativeInteger ; nif:endIndex "32"^^xsd:nonNegativeInteger ;
    nif:isString "Ada met Bob and Leo in S\u00e3o Paulo." .
"""
MENTIONS = """<http://ex.org/doc1#char=0,3> a nif:Phrase , nif:String ;
    nif:anchorOf "Ada" ; nif:beginIndex "0"^^xsd:nonNegativeInteger ; nif:endIndex "3"^^xsd:nonNegativeInteger ;
    nif:referenceContext <http://ex.org/doc1#char=0,32> ;
    itsrdf:taClassRef <http://dbpedia.org/ontology/Person> , <http://schema.org/Person> ;
    itsrdf:taIdentRef <http://ex.org/other/Ada> , <http://dbpedia.org/resource/Ada_Lovelace> .
<http://ex.org/doc1#char=8,11> a nif:RFC5147String ; nif:referenceContext <http://ex.org/doc1#char=0,32> ;
    itsrdf:taIdentRef <http://aksw.org/notInWiki/Bob> .
d:leo a nif:Phrase ; nif:referenceContext <http://ex.org/doc1#char=0,32> ; nif:beginIndex 16 ; nif:endIndex 19 .
d:city nif:anchorOf "S\u00e3o Paulo"@pt ; nif:beginIndex "23" ; nif:endIndex "32" ;
    nif:referenceContext <http://ex.org/doc1#char=0,32> ; itsrdf:taIdentRef <https://pt.wikipedia.org/wiki/S%C3%A3o_Paulo> .
<http://ex.org/doc1#char=0,11> a nif:Sentence ; nif:referenceContext <http://ex.org/doc1#char=0,32> .
"""
CORPUS = PREFIXES + MENTIONS + CONTEXT


def test_document(read: Read) -> None:
    report = Report()
    (doc,) = read(CORPUS, "nif", report=report)
    assert doc.text == "Ada met Bob and Leo in São Paulo."
    assert linked(doc.spans["sc"]) == [
        ("Ada", "Person", "Ada Lovelace"),
        ("Bob", "ENTITY", "NIL"),
        ("Leo", "ENTITY", "NIL"),
        ("São Paulo", "ENTITY", "São Paulo"),
    ]
    assert [ent.kb_id_ for ent in doc.ents] == ["Ada Lovelace", "NIL", "NIL", "São Paulo"]
    assert doc.user_data["id"] == "http://ex.org/doc1#char=0,32"
    assert doc.user_data["nif"]["mentions"][0] == {
        "start": 0,
        "end": 3,
        "entities": ["http://ex.org/other/Ada", "http://dbpedia.org/resource/Ada_Lovelace"],
        "classes": ["http://dbpedia.org/ontology/Person", "http://schema.org/Person"],
    }
    assert (report.linked, report.nil) == (2, 2)


def test_entities_of_its_own_and_the_same_elsewhere(read: Read) -> None:
    """As in the OKE challenges: entities of the corpus, some of them also in DBpedia; and offsets in the addresses alone."""
    text = """@prefix owl: <http://www.w3.org/2002/07/owl#> . @prefix own: <http://ex.org/own/> .
<http://ex.org/s#offset_0_12> a nif:Context ; nif:isString "Ada met Bob." .
<http://ex.org/s#offset_0_3> itsrdf:taIdentRef own:Ada ; nif:referenceContext <http://ex.org/s#offset_0_12> .
own:Ada owl:sameAs <http://other.org/Ada> , <http://dbpedia.org/resource/Ada_Lovelace> .
<http://ex.org/s#offset_8_11> itsrdf:taIdentRef own:Bob ; nif:referenceContext <http://ex.org/s#offset_0_12> .
"""
    (doc,) = read(PREFIXES + text, "nif")
    assert linked(doc.spans["sc"]) == [("Ada", "ENTITY", "Ada Lovelace"), ("Bob", "ENTITY", "NIL")]
    assert doc.user_data["nif"]["mentions"][0]["entities"][0] == "http://ex.org/own/Ada"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (
            {"kb_id": "uri"},
            ["http://dbpedia.org/resource/Ada_Lovelace", "NIL", "NIL", "https://pt.wikipedia.org/wiki/S%C3%A3o_Paulo"],
        ),
        ({"kb": []}, ["Ada", "Bob", "NIL", "São Paulo"]),
        ({"kb": ["aksw.org/notInWiki/"]}, ["NIL", "Bob", "NIL", "NIL"]),
        ({"kb": ["ex.org/other/", "dbpedia.org/"], "kb_id": "uri"}, ["http://ex.org/other/Ada", "NIL", "NIL", "NIL"]),
    ],
)
def test_knowledge_bases(read: Read, options: dict[str, object], ids: list[str]) -> None:
    assert [ent.kb_id_ for ent in read(CORPUS, "nif", **options)[0].ents] == ids


def test_several_contexts_and_one_without_text(read: Read) -> None:
    report = Report()
    more = """<http://ex.org/all> a nif:Context ; nif:sourceUrl <http://ex.org> .
<http://ex.org/doc2> nif:isString "Ada." .
<http://ex.org/doc2/a#char=0,3> itsrdf:taClassRef <http://x#Person> ; nif:referenceContext <http://ex.org/doc2> .
"""
    with pytest.warns(
        EntityKitWarning, match=r"\[W205\] .*1 documents were skipped.*http://ex.org/all: it has no nif:isString"
    ):
        docs = read(CORPUS + more, "nif", report=report)
    assert [doc.text for doc in docs] == ["Ada met Bob and Leo in São Paulo.", "Ada."]
    assert linked(docs[1].spans["sc"]) == [("Ada", "Person", "NIL")]
    assert (report.documents, report.skipped) == (2, 1)


def phrase(begin: int, end: int, anchor: str) -> str:
    return f"""{PREFIXES}<http://ex.org/c> a nif:Context ; nif:isString "😀 Ada 😀😀 Bob" .
<http://ex.org/p> a nif:Phrase ; nif:referenceContext <http://ex.org/c> ;
  nif:beginIndex {begin} ; nif:endIndex {end} ; nif:anchorOf "{anchor}" ."""


def test_offsets_of_java(read: Read) -> None:
    for first, unit in ((9, "characters"), (12, "utf16")):
        (doc,) = read(phrase(first, first + 3, "Bob"), "nif", offsets=unit)
        assert linked(doc.spans["sc"]) == [("Bob", "ENTITY", "NIL")]
    with pytest.raises(
        CorpusError, match=r"\[E244\] .*line 6: .*'http://ex.org/p' has .*\[12, 15\); expected .* 12 characters"
    ):
        read(phrase(12, 15, "Bob"), "nif")
    with pytest.raises(CorpusError, match=r"\[E245\] .*line 6: .* has 'Ada' at \[3, 6\); .* says 'Bob'. Offsets count UTF-16"):
        read(phrase(3, 6, "Bob"), "nif", offsets="utf16")
    with pytest.raises(CorpusError, match=r"\[E244\] .*counted in UTF-16 units"):
        read(phrase(1, 6, "Ada"), "nif", offsets="utf16")  # in the middle of the emoji


def test_mentions_inside_tokens_are_expanded(read: Read) -> None:
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W201\] .* 1 spans did not end .* became 'Ada'"):
        (doc,) = read(phrase(2, 4, "Ad"), "nif", report=report)
    assert (linked(doc.spans["sc"]), report.expanded) == ([("Ada", "ENTITY", "NIL")], 1)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (
            "d:x a nif:Phrase ; nif:referenceContext d:gone .",
            "E244",
            "line 16: .*doc1#x' has the context 'http://ex.org/doc1#gone'",
        ),
        ("d:x a nif:Phrase ; nif:referenceContext 7 .", "E244", "has the context '7'; expected one with nif:isString"),
        (
            "d:x a nif:Phrase ; nif:referenceContext <C> .",
            "E244",
            "has the offsets ', '; expected nif:beginIndex and nif:endIndex",
        ),
        ("d:x a nif:Phrase ; nif:referenceContext <C> ; nif:beginIndex 1 .", "E244", "the offsets '1, '"),
        ("d:x a nif:Phrase ; nif:referenceContext <C> ; nif:beginIndex 1 ; nif:endIndex -2 .", "E244", "the offsets '1, -2'"),
        ("d:x a nif:Phrase ; nif:referenceContext <C> ; nif:beginIndex 3 ; nif:endIndex 3 .", "E244", r"the offsets \[3, 3\)"),
        (
            "d:x a nif:Phrase ; nif:referenceContext <C> ; nif:beginIndex 3 ; nif:endIndex 99 .",
            "E244",
            r"\[3, 99\); .* of 33 char",
        ),
        (
            'd:x nif:referenceContext <C> ; nif:beginIndex 0 ; nif:endIndex 3 ; nif:anchorOf "Bob" ; itsrdf:taIdentRef <x> .',
            "E245",
            r"line 16: the text of 33 characters has 'Ada' at \[0, 3\); the annotation says 'Bob'. Offsets count characters",
        ),
        ("d:x a nif:Phrase", "E243", "line 17: .*expected \\."),
    ],
)
def test_malformed(read: Read, text: str, code: str, reason: str) -> None:
    content = f"{CORPUS}{text}\n".replace("<C>", "<http://ex.org/doc1#char=0,32>")
    first = CORPUS.count("\n") + 1
    reason = reason.replace("line 16", f"line {first}").replace("line 17", f"line {first + 1}")
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.ttl, .*{reason}"):
        read(content, "nif")


def test_no_context(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E203\]"):
        read(PREFIXES + "d:a d:p d:b .", "nif")


@pytest.mark.parametrize(("option", "value"), [("kb_id", "qid"), ("offsets", "bytes")])
def test_unknown_options(read: Read, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[E213\] The option {option} is '{value}'; expected: \w+ or \w+"):
        read(CORPUS, "nif", **{option: value})


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("http://en.wikipedia.org/wiki/AC/DC", "AC/DC"),
        ("http://de.dbpedia.org/resource/Schr%C3%B6dinger_(Kater)", "Schrödinger (Kater)"),
        ("http://www.wikidata.org/entity/Q42", "Q42"),
        ("http://ex.org/onto#Person", "Person"),
        ("http://ex.org/a/b/", "b"),
        ("Dog_%28zodiac%29", "Dog (zodiac)"),
        ("C++", "C++"),
    ],
)
def test_titles(address: str, name: str) -> None:
    assert title(address) == name


spans = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3), st.sampled_from(["", "Q1", "Q2"])), max_size=6)


@given(st.lists(spans, min_size=1, max_size=3), st.booleans())
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, nlp: Language, documents: Sequence[list[tuple[int, int, str]]], utf16: bool
) -> None:
    """Words of an emoji each, whose offsets the two units count differently."""
    lines, gold = [PREFIXES], []
    for number, links in enumerate(documents):
        context, text = f"<http://ex.org/{number}>", " ".join("😀" * 12)
        found = set()
        for i, (first, n_words, entity) in enumerate(links):
            start, end = 2 * first, 2 * (first + n_words) - 1
            begin, stop = (start + first, end + first + n_words) if utf16 else (start, end)
            reference = f"itsrdf:taIdentRef <http://www.wikidata.org/entity/{entity}> ;" if entity else ""
            lines.append(f"<http://ex.org/{number}/{i}> a nif:Phrase ; nif:beginIndex {begin} ; {reference}")
            lines.append(f'nif:endIndex {stop} ; nif:anchorOf "{text[start:end]}" ; nif:referenceContext {context} .')
            found.add((start, end, entity or "NIL"))
        lines.append(f'{context} nif:isString "{text}" .')
        gold.append(found)
    path = tmp_path_factory.mktemp("nif") / "x.ttl"
    path.write_bytes("\n".join(lines).encode())
    docs = read_docs(path, "nif", nlp, offsets="utf16" if utf16 else "characters")
    assert [{(span.start_char, span.end_char, span.kb_id_) for span in doc.spans["sc"]} for doc in docs] == gold
