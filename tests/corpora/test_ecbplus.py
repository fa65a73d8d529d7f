from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from spacy.language import Language
from spacy.tokens import Doc

from entitykit.corpora.read import read_docs
from entitykit.errors import ConfigError, CorpusError, EntityKitWarning
from tests.corpora.util import offsets, starts, words

TEXT = """
7_1ecb\t0\t0\tAda\tHUM5
7_1ecb\t0\t1\tsank\tACT9

7_1ecb\t1\t0\tShips\t\tNON3
7_1ecb\t1\t1\ttook\t-
7_1ecb\t1\t2\ther\tHUM5
7_1ecb\t1\t3\tin\tNON3

7_1ecbplus\t2\t0\tThe\tNON3
7_1ecbplus\t2\t1\tships\tNON3
"""


def mention(document: str, sentence: int, tokens: list[int], kind: str, chain: str) -> dict[str, Any]:
    return {"doc_id": document, "sent_id": sentence, "tokens_number": tokens, "mention_type": kind, "coref_chain": chain}


MENTIONS = [
    mention("7_1ecb", 1, [2], "HUM", "HUM5"),
    mention("7_1ecb", 0, [0], "HUM", "HUM5"),
    mention("7_1ecb", 1, [0], "NON", "NON3"),
    mention("7_1ecbplus", 2, [0, 1], "NON", "NON3"),
]

XML = """<?xml version="1.0" encoding="UTF-8"?>
<Document doc_id="DOC1" doc_name="7_2ecbplus.xml">
<token t_id="1" sentence="0" number="0">http</token>
<token t_id="2" sentence="1" number="0">Ada</token>
<token t_id="3" sentence="1" number="1">&amp;</token>
<token t_id="4" sentence="1" number="2">Bob</token>
<token t_id="5" sentence="1" number="3">swam</token>
<token t_id="6" sentence="1" number="4">home</token>
<Markables>
<HUMAN_PART_PER m_id="20"><token_anchor t_id="2"/></HUMAN_PART_PER>
<HUMAN_PART_PER m_id="21"><token_anchor t_id="4"/><token_anchor t_id="3"/><token_anchor t_id="2"/></HUMAN_PART_PER>
<LOC_GEO m_id="22"><token_anchor t_id="6"/></LOC_GEO>
<LOC_GEO m_id="23"><token_anchor t_id="1"/></LOC_GEO>
<ACTION_OCCURRENCE m_id="24"><token_anchor t_id="5"/></ACTION_OCCURRENCE>
<HUMAN_PART_PER m_id="30" RELATED_TO="" TAG_DESCRIPTOR="ada" instance_id="HUM1"/>
</Markables>
<Relations>
<CROSS_DOC_COREF r_id="1" note="HUM1"><source m_id="20"/><target m_id="30"/></CROSS_DOC_COREF>
<INTRA_DOC_COREF r_id="2"><source m_id="22"/><source m_id="23"/><target m_id="31"/></INTRA_DOC_COREF>
</Relations>
</Document>
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ECB_Dev_corpus.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "ECB_Dev_Entity_gold_mentions.json").write_text(json.dumps(MENTIONS), encoding="utf-8")
    return tmp_path


def read(folder: Path, nlp: Language, **options: str) -> list[Doc]:
    return list(read_docs(folder, "ecbplus", nlp, **options))


def test_documents_share_the_ids_of_clusters(folder: Path, nlp: Language) -> None:
    first, second = read(folder, nlp)
    assert words(first) == ["Ada", "sank", "Ships", "took", "her", "in"]
    assert starts(first) == [0, 2]
    assert offsets(first.spans["sc"]) == [(0, 1, "HUM"), (2, 3, "NON"), (4, 5, "HUM")]
    assert offsets(first.spans["coref_clusters_1"]) == [(0, 1, "HUM"), (4, 5, "HUM")]
    assert offsets(first.spans["coref_clusters_2"]) == [(2, 3, "NON")]
    assert first.user_data == {"id": "7_1ecb", "topic": "7", "coref_ids": ["HUM5", "NON3"]}
    assert (second.user_data["coref_ids"], offsets(second.spans["coref_clusters_1"])) == (["NON3"], [(0, 2, "NON")])


def test_a_document_without_mentions(folder: Path, nlp: Language) -> None:
    (folder / "ECB_Dev_Entity_gold_mentions.json").write_text(json.dumps(MENTIONS[:3]), encoding="utf-8")
    second = read(folder, nlp)[1]
    assert (second.user_data["coref_ids"], list(second.spans["coref_clusters_1"])) == ([], [])


def test_a_mention_with_a_gap(folder: Path, nlp: Language) -> None:
    gap = [mention("7_1ecb", 1, [3, 0], "NON", "X")]
    (folder / "ECB_Dev_Entity_gold_mentions.json").write_text(json.dumps(gap), encoding="utf-8")
    with pytest.warns(EntityKitWarning, match=r"\[W203\] .* 1 discontinuous .*first: NON \(.*json, mention 1\)"):
        first = read(folder, nlp)[0]
    assert offsets(first.spans["sc"]) == [(2, 6, "NON")]


def test_events_are_in_another_file(folder: Path, nlp: Language) -> None:
    events = [mention("7_1ecb", 0, [1], "ACT", "ACT9")]
    (folder / "ECB_Dev_Event_gold_mentions.json").write_text(json.dumps(events), encoding="utf-8")
    first, _ = read(folder, nlp, mentions="event")
    assert offsets(first.spans["sc"]) == [(1, 2, "ACT")]


def test_the_release_in_xml(tmp_path: Path, nlp: Language) -> None:
    (tmp_path / "7_2ecbplus.xml").write_text(XML, encoding="utf-8")
    (doc,) = read(tmp_path, nlp)
    assert words(doc) == ["http", "Ada", "&", "Bob", "swam", "home"]
    assert starts(doc) == [0, 1]
    ids = doc.user_data["coref_ids"]
    assert ids == ["INTRA_DOC_COREF_2_7_2ecbplus", "Singleton_HUMAN_PART_PER_21_7_2ecbplus", "HUM1"]
    clusters = {name: offsets(doc.spans[f"coref_clusters_{i}"]) for i, name in enumerate(ids, start=1)}
    assert list(clusters.values()) == [
        [(0, 1, "LOC_GEO"), (5, 6, "LOC_GEO")],
        [(1, 4, "HUMAN_PART_PER")],
        [(1, 2, "HUMAN_PART_PER")],
    ]
    assert doc.user_data["id"] == "7_2ecbplus"
    (events,) = read(tmp_path, nlp, mentions="event")
    assert offsets(events.spans["sc"]) == [(4, 5, "ACTION_OCCURRENCE")]


@pytest.mark.parametrize(
    ("change", "code", "reason"),
    [
        (TEXT.replace("Ada\tHUM5", "Ada"), "E214", "line 2: 4 columns; expected 5"),
        (TEXT.replace("\tAda\t", "\t \t"), "E210", "line 2: token 1 is empty"),
        (TEXT.replace("\t0\t1\tsank", "\tx\t1\tsank"), "E220", "line 3: the sentence is 'x'"),
        (TEXT + "7_1ecb\t3\t0\tAda\t-\n", "E219", "line 12: found '7_1ecb'; expected a document in one piece"),
        (TEXT.replace("7_1ecbplus", "7_2ecbplus"), "E226", "mention 4: found the document 7_1ecbplus; expected one that is in"),
        (TEXT.replace("7_1ecb\t0\t0\tAda\tHUM5\n", ""), "E226", r"mention 2: found tokens \[0\] of sentence 0"),
    ],
)
def test_malformed_text(folder: Path, nlp: Language, change: str, code: str, reason: str) -> None:
    (folder / "ECB_Dev_corpus.txt").write_text(change, encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*ECB_Dev_.*{reason}"):
        read(folder, nlp)


@pytest.mark.parametrize(
    ("text", "code", "reason"),
    [
        (XML[:-20], "E261", "is no XML"),
        (XML.replace('<token_anchor t_id="6"/>', '<token_anchor t_id="60"/>'), "E226", "found mention 22 on token 60"),
        (XML.replace('sentence="0" ', ""), "E220", "the sentence is ''"),
        (XML.replace(">http<", "><"), "E210", "token 1 is empty"),
    ],
)
def test_malformed_xml(tmp_path: Path, nlp: Language, text: str, code: str, reason: str) -> None:
    (tmp_path / "x.xml").write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=rf"\[{code}\] .*x.xml.*{reason}"):
        read(tmp_path, nlp)


def test_text_without_mentions(folder: Path, nlp: Language) -> None:
    with pytest.raises(CorpusError, match=r"\[E262\] .*expected …_corpus.txt with the file ECB_Dev_Event_gold_mentions.json"):
        read(folder, nlp, mentions="event")
    (folder / "readme.txt").touch()
    with pytest.raises(CorpusError, match=r"\[E262\] '.*readme.txt' has no mentions"):
        read(folder / "readme.txt", nlp)
    with pytest.raises(ConfigError, match=r"\[E213\] The option mentions is 'all'; expected: entity, event"):
        read(folder, nlp, mentions="all")
