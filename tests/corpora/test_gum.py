from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.corpora.report import Report
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import entities, offsets, starts, words

Read = Callable[..., list[Doc]]

HEADER = """# newdoc id = {name}
# global.Entity = GRP-etype-infstat-salience-centering-minspan-link-identity
# meta::genre = {genre}
# meta::salientEntities = 1 (5*)
"""

BODY = """# sent_id = 1
# text = The mayor's dog, Rex sleeps.
1	The	the	DET	DT	Definite=Def	2	det	_	Entity=(1-animal-new-sssss-cf1-3-coref(2-person-new-nnnnn-cf2-2-sgl
2-3	mayor's	_	_	_	_	_	_	_	_
2	mayor	mayor	NOUN	NN	Number=Sing	4	nmod:poss	_	_
3	's	's	PART	POS	_	2	case	_	Entity=2)
4	dog	dog	NOUN	NN	Number=Sing	7	nsubj	_	SpaceAfter=No
5	,	,	PUNCT	,	_	6	punct	_	_
6	Rex	Rex	PROPN	NNP	Number=Sing	4	appos	_	Entity=(1-animal-giv:act-sssss-cf1-1-appos-Rex_%28dog%29)1)
7	sleeps	sleep	VERB	VBZ	_	0	root	_	SpaceAfter=No
7.1	dreams	dream	VERB	VBZ	_	_	_	7:conj	CopyOf=7
8	.	.	PUNCT	.	_	7	punct	_	_

# sent_id = 2
# text = It snores
1	It	it	PRON	PRP	_	2	nsubj	_	Entity=(1-animal-giv:act-sssss-cf1-1-ana)
2	snores	snore	VERB	VBZ	_	0	root	_	_

"""


def document(name: str = "GUM_news_dog", genre: str = "news", body: str = BODY) -> str:
    return HEADER.format(name=name, genre=genre) + body


def test_tokens_and_syntax(read: Read) -> None:
    (doc,) = read(document(), "gum")
    assert doc.text == "The mayor's dog, Rex sleeps. It snores"
    assert words(doc) == ["The", "mayor", "'s", "dog", ",", "Rex", "sleeps", ".", "It", "snores"]
    assert starts(doc) == [0, 8]
    assert [token.head.i for token in doc] == [1, 3, 1, 6, 5, 3, 6, 6, 9, 9]
    assert [token.dep_ for token in doc][5:8] == ["appos", "ROOT", "punct"]
    the = doc[0]
    assert (the.pos_, the.tag_, the.lemma_, str(the.morph)) == ("DET", "DT", "the", "Definite=Def")
    assert [sent.text for sent in doc.sents] == ["The mayor's dog, Rex sleeps.", "It snores"]


def test_nested_entities_and_clusters(read: Read) -> None:
    report = Report()
    (doc,) = read(document(), "gum", report=report)
    assert entities(doc) == [
        ("The mayor's dog, Rex", "animal"),
        ("The mayor's", "person"),
        ("Rex", "animal"),
        ("It", "animal"),
    ]
    assert [ent.text for ent in doc.ents] == ["The mayor's dog, Rex", "It"]
    assert set(doc.spans) == {"sc", "coref_clusters_1"}
    assert offsets(doc.spans["coref_clusters_1"]) == [(0, 6, "animal"), (5, 6, "animal"), (8, 9, "animal")]
    assert (report.documents, report.tokens, report.entities, report.not_flat) == (1, 10, 4, 2)
    assert dict(report.labels) == {"animal": 3, "person": 1}


def test_clusters_of_one_mention(read: Read) -> None:
    (doc,) = read(document(), "gum", clusters="all")
    assert [offsets(doc.spans[f"coref_clusters_{i}"]) for i in (1, 2)] == [
        [(0, 6, "animal"), (5, 6, "animal"), (8, 9, "animal")],
        [(0, 3, "person")],
    ]
    with pytest.raises(ConfigError, match=r"\[E213\] The option clusters is 'some'; expected: repeated or all"):
        read(document(), "gum", clusters="some")


def test_a_document_without_clusters(read: Read) -> None:
    (doc,) = read(document(body=body(("1", "a", "(1-x)"))), "gum")
    assert list(doc.spans["coref_clusters_1"]) == []


def test_everything_else_is_kept_as_published(read: Read) -> None:
    (doc,) = read(document(), "gum")
    gum = doc.user_data["gum"]
    assert (doc.user_data["id"], gum["genre"]) == ("GUM_news_dog", "news")
    assert gum["meta"] == {"genre": "news", "salientEntities": "1 (5*)"}
    assert gum["mentions"][2] == {
        "start": 5,
        "end": 6,
        "GRP": "1",
        "etype": "animal",
        "infstat": "giv:act",
        "salience": "sssss",
        "centering": "cf1",
        "minspan": "1",
        "link": "appos",
        "identity": "Rex_%28dog%29",
    }
    assert [(mention["start"], mention["end"]) for mention in gum["mentions"]] == [
        (span.start, span.end) for span in doc.spans["sc"]
    ]


def test_salience(read: Read) -> None:
    (doc,) = read(document(), "gum")
    assert doc.user_data["salience"] == [
        {"id": "1", "entity": "Rex (dog)", "score": 5.0, "mentions": [[0, 6], [5, 6], [8, 9]]},
        {"id": "2", "entity": "", "score": 0.0, "mentions": [[0, 3]]},
    ]
    (doc,) = read(document(body=BODY.replace("new-nnnnn", "new-s___s", 1).replace("giv:act-sssss", "giv:act-s____")), "gum")
    assert [entity["score"] for entity in doc.user_data["salience"]] == [5, 2]
    (doc,) = read(document(body=body(("1", "a", "(1-x)"))), "gum")
    assert "salience" not in doc.user_data


def test_speakers(read: Read) -> None:
    """One for each word of the sentences that have one, multi-word tokens and empty nodes aside."""
    (doc,) = read(document(), "gum")
    assert "speakers" not in doc.user_data
    (doc,) = read(document(body=BODY.replace("# sent_id = 1\n", "# sent_id = 1\n# speaker = Eve\n# addressee = Ben\n")), "gum")
    assert doc.user_data["speakers"] == ["Eve"] * 8 + [""] * 2


def body(*cells: tuple[str, str, str]) -> str:
    """One sentence of (ID, form, Entity) without syntax."""
    rows = [f"{number}\t{form}" + "\t_" * 7 + (f"\tEntity={entity}\n" if entity else "\t_\n") for number, form, entity in cells]
    return "".join(rows) + "\n"


def test_without_syntax(read: Read) -> None:
    (doc,) = read(document(body=body(("1", "a", "(1-x)"), ("2", "b", ""))), "gum")
    assert not any(doc.has_annotation(name) for name in ("DEP", "TAG", "POS", "LEMMA", "MORPH"))
    assert doc.has_annotation("SENT_START")


def test_discontinuous_entities_are_reported(read: Read) -> None:
    text = document(body=body(("1", "men", "(1[1/2]-person)"), ("2", "and", ""), ("3", "old", "(1[2/2]-person)")))
    with pytest.warns(EntityKitWarning, match=r"\[W203\] .*: 1 discontinuous .*first: person \(.*line 5\)"):
        (doc,) = read(text, "gum")
    assert entities(doc) == [("men and old", "person")]
    mention = doc.user_data["gum"]["mentions"][0]
    assert (mention["pieces"], mention["GRP"]) == ([[0, 1], [2, 3]], "1")


def test_entities_of_empty_nodes_are_dropped_and_reported(read: Read) -> None:
    text = document(body=body(("0.1", "_", "(1-person)"), ("1", "sleeps", "(2-event)")))
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W201\] .* 1 hold no visible .* first: person .* holds empty nodes only"):
        (doc,) = read(text, "gum", report=report)
    assert entities(doc) == [("sleeps", "event")]
    assert report.dropped == 1


def test_entities_on_the_line_of_a_multi_word_token(read: Read) -> None:
    text = document(body=body(("1-2", "du", "(1-x)"), ("1", "de", ""), ("2", "le", "")))
    with pytest.warns(EntityKitWarning, match=r"\[W204\] .*: 1 multi-word tokens .*first: du \(.*line 5\)"):
        (doc,) = read(text, "gum")
    assert doc.text == "de le"
    assert entities(doc) == [("de le", "x")]


def test_blanked_documents_are_skipped_and_counted(read: Read) -> None:
    report = Report()
    blank = document("GUM_reddit_x", "reddit", body(("1", "___", "(1-person)"), ("2", "_", "")))
    with pytest.warns(
        EntityKitWarning, match=r"\[W205\] .*: 1 documents were skipped. The first: GUM_reddit_x: its text is blanked"
    ):
        docs = read(blank + document(), "gum", report=report)
    assert [doc.user_data["id"] for doc in docs] == ["GUM_news_dog"]
    assert (report.documents, report.skipped) == (1, 1)


def test_only_blanked_documents(read: Read) -> None:
    blank = document("GUM_reddit_x", "reddit", body(("1", "_", "")))
    with pytest.raises(CorpusError, match=r"\[E235\] .*1 documents cannot be used and 0 were not selected"):
        read(blank, "gum")


def test_an_underscore_among_words_is_text(read: Read) -> None:
    (doc,) = read(document(body=body(("1", "_", ""), ("2", "x", ""))), "gum")
    assert doc.text == "_ x"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dep").mkdir()
    for name, genre in (("GUM_bio_b", "bio"), ("GUM_news_a", "news"), ("GUM_news_c", "news")):
        (tmp_path / "dep" / f"{name}.conllu").write_text(document(name, genre), encoding="utf-8")
    (tmp_path / "splits.md").write_text("# Splits\n\n## dev\n\n  * GUM_news_a\n\n## train\n\n  * GUM_bio_b\n  * GUM_news_c\n")
    return tmp_path / "dep"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "bac"),
        ({"genres": ["news"]}, "ac"),
        ({"split": "dev"}, "a"),
        ({"split": "train", "genres": ["news"]}, "c"),
        ({"ids": ["GUM_news_c", "GUM_bio_b"]}, "bc"),
        ({"exclude": ["GUM_news_c"], "genres": ["bio", "news"]}, "ba"),
        ({"limit": 2}, "ba"),
    ],
)
def test_selection(folder: Path, nlp: Language, options: dict[str, object], expected: str) -> None:
    report = Report()
    docs = list(read_docs(folder, "gum", nlp, report=report, **options))
    assert "".join(doc.user_data["id"][-1] for doc in docs) == expected
    if "limit" not in options:
        assert (report.files, report.not_selected) == (3, 3 - len(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, r"\[E224\] There is no split 'test': .*splits.md has: dev, train"),
        ({"genres": ["vlog"]}, r"\[E235\] .*0 documents cannot be used and 3 were not selected"),
        ({"ids": ["GUM_news_a", "GUM_news_z"]}, r"\[E234\] .*: GUM_news_z. "),
    ],
)
def test_selection_of_nothing(folder: Path, nlp: Language, options: dict[str, object], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        list(read_docs(folder, "gum", nlp, **options))


def test_no_list_of_splits(read: Read) -> None:
    with pytest.raises(CorpusError, match=r"\[E224\] There is no split 'dev': there is no file .*splits.md or .*splits.md"):
        read(document(), "gum", split="dev")


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        ("", "E203", "holds no document"),
        (BODY, "E223", "sentence 1: expected '# newdoc id"),
        ("# newdoc id = x\n" + BODY, "E223", "sentence 1"),
        ("# newdoc id = x\n# global.Entity = GRP\n" + BODY, "E221", "document x"),
        (document(body=body(("1", "a", "(1-x"))), "E222", "line 5: .*never closed"),
        (document(body=body(("1", "a", "1)"))), "E222", "line 5: .*nothing of that group is open"),
        (document() + document(body=body(("1", "a", "2)"))), "E222", "line 27: "),
        (
            document(body=BODY.replace("\t7\tnsubj", "\t6\tnsubj")),
            "E237",
            "document GUM_news_dog: the heads of word 4 go round",
        ),
        (document(body=BODY.replace("\tPRON", "\tPRONOUN")), "E220", "UPOS is 'PRONOUN'"),
        (document().encode("latin-1") + b"# \xff", "E204", "line 23: the byte 0xff"),
    ],
)
def test_malformed(read: Read, text: str | bytes, code: str, reason: str) -> None:
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*corpus.conllu.*{reason}"):
        read(text, "gum")


def test_identities_are_links(read: Read) -> None:
    report = Report()
    (doc,) = read(document(), "gum", report=report)
    assert [(span.text, span.kb_id_) for span in doc.spans["sc"]][1:] == [("The mayor's", ""), ("Rex", "Rex (dog)"), ("It", "")]
    assert (report.linked, report.nil) == (1, 0)


MAP = """#FormattedTitle	URLTitle	WikidataID	DateUpdated
Rex_%28dog%29	Rex_(dog)	Q12	2025-03-13
Rex_%28dog%29	Rex_(dog)	None	2025-03-14
"""


@pytest.mark.parametrize("folder", ["", "dep"])
def test_identities_in_wikidata(tmp_path: Path, nlp: Language, folder: str) -> None:
    (tmp_path / "wiki_map.tab").write_text(MAP, encoding="utf-8")
    path = tmp_path / folder / "x.conllu"
    path.parent.mkdir(exist_ok=True)
    path.write_text(document(), encoding="utf-8")
    (doc,) = read_docs(path, "gum", nlp, kb_id="qid")
    assert [span.kb_id_ for span in doc.spans["sc"]] == ["", "", "Q12", ""]


def test_identities_without_an_id_are_counted(tmp_path: Path, nlp: Language) -> None:
    (tmp_path / "wiki_map.tab").write_text(MAP.replace("Q12", "None"), encoding="utf-8")
    path = tmp_path / "x.conllu"
    path.write_text(document(), encoding="utf-8")
    report = Report()
    with pytest.warns(EntityKitWarning, match=r"\[W207\] .*: 1 links have no id .* The first: Rex_%28dog%29 \(.*line 13\)"):
        (doc,) = read_docs(path, "gum", nlp, kb_id="qid", report=report)
    assert [span.kb_id_ for span in doc.spans["sc"]] == ["", "", "NIL", ""]
    assert (report.unmapped, report.nil) == (1, 1)


def test_maps_that_cannot_be_used(tmp_path: Path, nlp: Language) -> None:
    path = tmp_path / "x.conllu"
    path.write_text(document(), encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E246\] .*there is no file .*wiki_map.tab or .*wiki_map.tab"):
        list(read_docs(path, "gum", nlp, kb_id="qid"))
    (tmp_path / "wiki_map.tab").write_text("Rex\tRex\tQ12\nRex Q12\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"\[E246\] .*wiki_map.tab, line 2, has less than 3 columns: 'Rex Q12'"):
        list(read_docs(path, "gum", nlp, kb_id="qid"))
    with pytest.raises(ConfigError, match=r"\[E213\] The option kb_id is 'wikidata'; expected: title or qid"):
        list(read_docs(path, "gum", nlp, kb_id="wikidata"))
