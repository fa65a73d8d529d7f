"""What is read from clusters on documents, and what they are compared and found by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.components import clusters
from entitykit.components.clusters import gold_clusters, name_keys, occurrences, rows_by_name, telling_words, warn_large
from entitykit.corpora.clusters import representative
from entitykit.errors import EntityKitWarning
from entitykit.scoring.coref import clusters_in
from tests.pipelines import make_examples, make_pipeline


def named(words: str, *clusters: list[tuple[int, int]]) -> Doc:
    nlp = spacy.blank("en")
    nlp.add_pipe("entitykit_coref")  # makes the extensions known
    doc = Doc(nlp.vocab, words=words.split())
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def test_gold_clusters_of_a_batch(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert)
    examples = make_examples(nlp)
    unknown = Example(nlp.make_doc("Not annotated"), nlp.make_doc("Not annotated"))
    gold = gold_clusters([examples[0], unknown, examples[1]])
    n = len(examples[0].predicted) + 2
    assert gold.known == [True, False, True]
    places = list(zip(gold.spans.starts.tolist(), gold.spans.ends.tolist(), gold.entities.tolist(), strict=True))
    assert places == [(0, 2, 0), (4, 6, 1), (n, n + 5, 2), (n + 6, n + 7, 2), (n + 3, n + 5, 3)]


def test_a_span_in_two_clusters_counts_once() -> None:
    doc = named("Ada met Lord Byron", [(0, 1), (2, 4)], [(2, 4)])
    gold = gold_clusters([Example(Doc(doc.vocab, words=[token.text for token in doc]), doc)])
    assert gold.entities.tolist() == [0, 0]


def test_words_that_tell() -> None:
    doc = named("The Captain , he said , was the captain 's brother .")
    words, has_capital, is_title = telling_words([doc, doc[:0].as_doc()]).T
    assert [bool(word) for word in words] == [False, True, False, False, True, False, False, False, True, False, True, False]
    assert words[1] == words[8] != words[10]
    assert np.flatnonzero(has_capital).tolist() == [1]
    assert not is_title.any()
    assert words.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "tell", "titles"),
    [
        ("Mr. Knightley met Miss Woodhouse", "Mr. Knightley met Miss Woodhouse", "Mr. Miss"),
        ("the Captain saw Captain Ahab", "Captain saw Captain Ahab", "Captain"),  # alone it says who is meant
        ("the captain Ahab or Captain", "captain Ahab Captain", ""),
        ("China and the US signed", "China US signed", ""),
        ("the US GDP fell in June", "US GDP fell June", ""),
        ("WE ASK YOU : SEND US TIME", "ASK SEND TIME", ""),  # the text itself is in capitals
        ("HE saw us", "saw", ""),
        ("US", "US", ""),
    ],
)
def test_titles_and_acronyms(text: str, tell: str, titles: str) -> None:
    doc = Doc(spacy.blank("en").vocab, words=text.split())
    words, _, is_title = telling_words([doc]).T
    assert [doc[i].text for i in np.flatnonzero(words)] == tell.split()
    assert [doc[i].text for i in np.flatnonzero(is_title)] == titles.split()
    assert np.flatnonzero(name_keys(doc)).tolist() == [i for i in np.flatnonzero(words) if not is_title[i]]


def test_clusters_by_name() -> None:
    doc = named("Ada met Ada Lovelace in Canada , and ada left")
    spans = [doc[0:1], doc[2:4], doc[5:6], doc[8:9]]
    assert rows_by_name(spans, np.array([0, 1, 2, 0]), ["ADA", "lovelace", "Ada  Lovelace", "Byron"]) == {
        "ADA": [0, 3],
        "Ada  Lovelace": [1],
        "lovelace": [1],  # the only one that holds it
    }
    assert rows_by_name(spans, np.array([3, 4, 5, 4]), ["Ada"]) == {"Ada": [1, 3]}  # as often so called, and held once more
    assert rows_by_name([], np.zeros(0, dtype=np.int64), ["Ada"]) == {}


def test_names_are_held_as_whole_tokens() -> None:
    doc = spacy.blank("en")("Mr. Darcy, owner of Pemberley, met Darcy's sister (Bingley) in Darcyville. He left.")
    texts = ["Mr. Darcy, owner of Pemberley", "Darcy's sister", "(Bingley)", "Darcyville", "He"]
    spans = [doc.char_span(start := doc.text.index(text), start + len(text)) for text in texts]
    entities = np.array([0, 1, 1, 2, 0])
    assert rows_by_name(spans, entities, ["mr.  darcy"]) == {"mr.  darcy": [0, 4]}
    assert rows_by_name(spans, entities, ["Bingley"]) == {"Bingley": [1, 2]}
    assert rows_by_name(spans[1:], entities[1:], ["Darcy"]) == {"Darcy": [0, 1]}
    assert rows_by_name(spans, entities, ["Elizabeth", "cy", "Pemberley met"]) == {}


def test_the_order_of_names_does_not_matter() -> None:
    doc = named("Jones Peter Jones Mary Jones Mary Jones Peter Jones")
    spans = [doc[0:1], doc[1:3], doc[3:5], doc[5:7], doc[7:9]]
    entities = np.array([0, 1, 0, 0, 1])
    for names in (["Jones", "Mary Jones"], ["Mary Jones", "Jones"]):
        assert rows_by_name(spans, entities, names) == {"Mary Jones": [0, 2, 3], "Jones": [0, 2, 3]}  # two of hers
    only_held = rows_by_name(spans[1:], entities[1:], ["Jones", "Mary Jones"])
    assert only_held == {"Mary Jones": [1, 2], "Jones": [0, 3]}  # which no other name has
    assert rows_by_name(spans[3:4], entities[3:4], ["Jones", "Mary Jones"]) == {"Mary Jones": [0], "Jones": [0]}
    assert rows_by_name(spans[1:3], np.array([7, 5]), ["jones", "JONES"]) == {"jones": [0], "JONES": [1]}  # the first ones


def test_resolved_text() -> None:
    doc = named(
        "Ada met her friend Lord Byron ; he liked her and his dog . It barked .",
        [(0, 1), (2, 3), (9, 10)],
        [(2, 4), (4, 6), (7, 8), (11, 12)],
        [(11, 13), (14, 15)],
        [(16, 17)],
    )
    assert (
        doc._.resolved_text == "Ada met Ada's friend Lord Byron ; Lord Byron liked Ada and Lord Byron's dog . his dog barked . "
    )


@pytest.mark.parametrize(
    ("words", "clusters", "expected"),
    [
        ("Bob sat on his chair .", [[(0, 1), (3, 4)]], "Bob sat on Bob's chair . "),
        ("Bob met a friend of his .", [[(0, 1), (5, 6)]], "Bob met a friend of Bob's . "),
        ("The book of Ada is hers .", [[(3, 4), (5, 6)]], "The book of Ada is Ada's . "),
        ("Ada lost her gloves .", [[(0, 1), (2, 3)]], "Ada lost Ada's gloves . "),
        ("Ada lost her own gloves .", [[(0, 1), (2, 3)]], "Ada lost Ada's own gloves . "),
        ("Ada saw her two sons .", [[(0, 1), (2, 3)]], "Ada saw Ada's two sons . "),
        ("Ada saw her very old dog .", [[(0, 1), (2, 3)], [(2, 6)]], "Ada saw Ada's very old dog . "),
        ("Ada left . We saw her .", [[(0, 1), (5, 6)]], "Ada left . We saw Ada . "),
        ("Ada left . We saw her", [[(0, 1), (5, 6)]], "Ada left . We saw Ada "),
        ("Ada left . We saw her and left .", [[(0, 1), (5, 6)]], "Ada left . We saw Ada and left . "),
        ("Ada left . We saw her and Bob .", [[(0, 1), (5, 6)], [(5, 8)]], "Ada left . We saw Ada and Bob . "),
        ("Ada left . We saw her when she went .", [[(0, 1), (5, 6)]], "Ada left . We saw Ada when she went . "),
        ("Ada lost her \n gloves .", [[(0, 1), (2, 3)]], "Ada lost Ada's \n gloves . "),
        (
            "John 's wife left because he hated his noise .",
            [[(0, 2), (5, 6), (7, 8)], [(0, 3), (7, 9)]],
            "John 's wife left because John hated John's noise . ",
        ),
        ("The Smiths’ dog saw them .", [[(0, 2), (4, 5)]], "The Smiths’ dog saw The Smiths . "),
        ("The ' Queen ' saw her", [[(0, 4), (5, 6)]], "The ' Queen ' saw The ' Queen ' "),
        ("Mary said she herself saw it .", [[(0, 1), (2, 3), (2, 4), (3, 4)]], "Mary said Mary herself saw it . "),
        ("Mary herself saw it .", [[(0, 1), (0, 2), (1, 2)]], "Mary herself saw it . "),
        ("Mary said she saw herself .", [[(0, 1), (2, 3), (4, 5)]], "Mary said Mary saw Mary . "),
    ],
)
def test_resolved_pronouns(words: str, clusters: list[list[tuple[int, int]]], expected: str) -> None:
    vocab = named("").vocab
    doc = Doc(vocab, words=words.split(" "))
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    assert doc._.resolved_text == expected


def test_a_tagged_her_is_what_it_is_tagged() -> None:
    doc = named("Ada came . We gave her books and saw her yesterday", [(0, 1), (5, 6), (9, 10)])
    assert doc._.resolved_text == "Ada came . We gave Ada's books and saw Ada's yesterday "  # by the next word
    for token in doc:
        token.set_morph({"Case": "Acc"} if token.lower_ == "her" else {})
    assert doc._.resolved_text == "Ada came . We gave Ada books and saw Ada yesterday "
    doc[5].set_morph({"Poss": "Yes"})
    assert doc._.resolved_text == "Ada came . We gave Ada's books and saw Ada yesterday "


def test_pronouns_without_a_name_stay() -> None:
    doc = named("He said he would", [(0, 1), (2, 3)])
    assert doc._.resolved_text == "He said he would "
    assert representative(clusters_in(doc)[0]) is None  # type: ignore[index]


def test_occurrences() -> None:
    doc = spacy.blank("en")("Mr.\nDarcy met MR. DARCY. Darcys are not Mr.Darcy.")
    assert [span.text for span in occurrences(doc, "Mr. Darcy")] == ["Mr.\nDarcy", "MR. DARCY"]
    assert [span.text for span in occurrences(doc, "darcy")] == ["Darcy", "DARCY", "Darcy"]  # and no part of Darcys
    assert occurrences(doc, "(") == []


def test_us_is_not_us() -> None:
    doc = spacy.blank("en")("China told us, and us alone, that the US asked us")
    assert [span.start for span in occurrences(doc, "US")] == [10]
    assert len(occurrences(doc, "us")) == 3
    assert len(occurrences(spacy.blank("en")("They told us"), "US")) == 1
    spans = [doc[2:3], doc[5:6], doc[9:11], doc[12:13]]
    assert rows_by_name(spans, np.array([0, 0, 1, 0]), ["US"]) == {"US": [2]}


def test_documents_that_are_too_large_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = named("Ada met Ada , who met Ada", [(0, 1), (2, 3), (6, 7)], [(4, 5)])
    example = Example(Doc(doc.vocab, words=[token.text for token in doc]), doc)
    warn_large([example], "coref")
    monkeypatch.setattr(clusters, "LARGE", 3)
    with pytest.warns(EntityKitWarning, match=r"W643. 1 documents of 'coref' have more than 3 gold mentions \(most: 4\)"):
        warn_large([example], "coref")
