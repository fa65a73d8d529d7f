"""Names in the place of pronouns."""

from __future__ import annotations

import pytest
import spacy
from spacy.tokens import Doc, Span

from entitykit.components.resolved_text import resolved_text


def clustered(words: str, *clusters: list[tuple[int, int]]) -> Doc:
    """A document of words that are told apart by spaces."""
    doc = Doc(spacy.blank("en").vocab, words=words.split(" "))
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = [doc[start:end] for start, end in cluster]
    return doc


def resolved(text: str, *clusters: str) -> str | None:
    """The resolved text of what spaCy's tokenizer reads, with clusters as texts of mentions, in order, between bars."""
    doc = spacy.blank("en")(text)
    for i, cluster in enumerate(clusters, start=1):
        doc.spans[f"coref_clusters_{i}"] = list(_mentions(doc, cluster.split("|")))
    return resolved_text(doc)


def _mentions(doc: Doc, texts: list[str]) -> list[Span]:
    found: list[Span] = []
    for text in texts:
        behind = found[-1].end if found else 0
        start = next(i for i in range(behind, len(doc)) if doc.text[doc[i].idx :].startswith(text))
        span = doc.char_span(doc[start].idx, doc[start].idx + len(text))
        assert span is not None
        found.append(span)
    return found


def test_resolved_text() -> None:
    doc = clustered(
        "Ada met her friend Lord Byron ; he liked her and his dog . It barked .",
        [(0, 1), (2, 3), (9, 10)],
        [(2, 4), (4, 6), (7, 8), (11, 12)],
        [(11, 13), (14, 15)],
        [(16, 17)],
    )
    expected = "Ada met Ada's friend Lord Byron ; Lord Byron liked Ada and Lord Byron's dog . It barked . "
    assert resolved_text(doc) == expected  # the dog has no name without a pronoun
    assert resolved_text(doc[:3].as_doc()) is None  # nobody looked


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
        ("Ada left . We saw her yesterday .", [[(0, 1), (5, 6)]], "Ada left . We saw Ada yesterday . "),
        ("Ada . We told her to leave .", [[(0, 1), (4, 5)], [(4, 7)]], "Ada . We told Ada to leave . "),
        ("Ada . We gave her the book .", [[(0, 1), (4, 5)], [(4, 7)]], "Ada . We gave Ada the book . "),
        ("Ada . We made her his wife .", [[(0, 1), (4, 5)]], "Ada . We made Ada his wife . "),
        ("Ada . Let her leave .", [[(0, 1), (3, 4)]], "Ada . Let Ada leave . "),
        ("Ada lost her \n gloves .", [[(0, 1), (2, 3)]], "Ada lost Ada's \n gloves . "),
        (
            "John 's wife left because he hated his noise .",
            [[(0, 2), (5, 6), (7, 8)], [(0, 3), (7, 9)]],
            "John 's wife left because John hated John's noise . ",
        ),
        ("The Smiths’ dog saw them .", [[(0, 2), (4, 5)]], "The Smiths’ dog saw the Smiths . "),
        ("Mr. Jones lost his hat .", [[(0, 2), (3, 4)]], "Mr. Jones lost Mr. Jones's hat . "),
        ("The ' Queen ' saw her", [[(0, 4), (5, 6)]], "The ' Queen ' saw the ' Queen ' "),
        ("Mary said she herself saw it .", [[(0, 1), (2, 3), (2, 4), (3, 4)]], "Mary said Mary herself saw it . "),
        ("Mary herself saw it .", [[(0, 1), (0, 2), (1, 2)]], "Mary herself saw it . "),
        ("Mary said she saw herself .", [[(0, 1), (2, 3), (4, 5)]], "Mary said Mary saw herself . "),
        ("Mary , THEY SAID , SAW HER TOO", [[(0, 1), (6, 7)]], "Mary , THEY SAID , SAW Mary TOO "),
        ("He met the US at IT", [[(2, 4), (0, 1), (5, 6)]], "The US met the US at IT "),
    ],
)
def test_resolved_pronouns(words: str, clusters: list[list[tuple[int, int]]], expected: str) -> None:
    assert resolved_text(clustered(words, *clusters)) == expected


@pytest.mark.parametrize(
    ("text", "clusters", "expected"),
    [
        (  # who speaks, and whoever is spoken to, stay
            'Bob sighed. "I lost my hat, I\'m lost," he said to Ada. "Help me, would you, yourself?" She did.',
            ["Bob|I|my|I|he|me", "Ada|you|yourself|She"],
            'Bob sighed. "I lost my hat, I\'m lost," Bob said to Ada. "Help me, would you, yourself?" Ada did.',
        ),
        (
            "The Poles won. We beat them, and it was ours.",
            ["The Poles|them", "We|ours"],
            "The Poles won. We beat the Poles, and it was ours.",
        ),
        (
            "The Smiths sold their house. It was theirs.",
            ["The Smiths|their|theirs"],
            "The Smiths sold the Smiths' house. It was the Smiths'.",
        ),
        ("Ann and Bob sold their house.", ["Ann and Bob|their"], "Ann and Bob sold Ann and Bob's house."),
        (
            "The big firms met. They lied; they knew.",
            ["The big firms|They|they"],
            "The big firms met. The big firms lied; the big firms knew.",
        ),
        ("We saw a dog. It barked. Then it ran.", ["a dog|It|it"], "We saw a dog. A dog barked. Then a dog ran."),
        ("We saw The Hague. We liked it.", ["The Hague|it"], "We saw The Hague. We liked The Hague."),
        (
            'He said: "The Poles won." They did, if they did.',
            ["The Poles|They|they"],
            'He said: "The Poles won." The Poles did, if the Poles did.',
        ),
        ("An iPhone rang. Its ring is old.", ["iPhone|Its"], "An iPhone rang. iPhone's ring is old."),
        ("Will Smith left. Then he came.", ["Will Smith|he"], "Will Smith left. Then Will Smith came."),  # a stop word
        ("Ada\n  Lovelace left.\nShe came.", ["Ada\n  Lovelace|She"], "Ada\n  Lovelace left.\nAda Lovelace came."),
        (
            "The Poles say they're here, they’ll stay, they do.",
            ["The Poles|they|they|they"],
            "The Poles say they're here, they’ll stay, the Poles do.",
        ),
        ("My mother left. She is in Rome.", ["My mother|She"], "My mother left. She is in Rome."),
        (
            "A dog that she liked ran. It barked at Rex.",
            ["A dog that she liked|It"],
            "A dog that she liked ran. It barked at Rex.",
        ),
        ("Her dog ran. Rex barked, then it slept.", ["Her dog|Rex|it"], "Her dog ran. Rex barked, then Rex slept."),
        ("King Charles I fell. Then he died.", ["King Charles I|he"], "King Charles I fell. Then King Charles I died."),
        ("THE UN MET. THEN IT VOTED.", ["THE UN|IT"], "THE UN MET. THEN THE UN VOTED."),
    ],
)
def test_resolved_sentences(text: str, clusters: list[str], expected: str) -> None:
    assert resolved(text, *clusters) == expected


def test_a_tagged_her_is_what_it_is_tagged() -> None:
    doc = clustered("Ada came . We gave her books and saw her recently", [(0, 1), (5, 6), (9, 10)])
    assert resolved_text(doc) == "Ada came . We gave Ada's books and saw Ada's recently "  # by the next word
    for token in doc:
        token.set_morph({"Case": "Acc"} if token.lower_ == "her" else {})
    assert resolved_text(doc) == "Ada came . We gave Ada books and saw Ada recently "
    doc[5].set_morph({"Poss": "Yes"})
    assert resolved_text(doc) == "Ada came . We gave Ada's books and saw Ada recently "


def test_pronouns_without_a_name_stay() -> None:
    assert resolved_text(clustered("He said he would", [(0, 1), (2, 3)])) == "He said he would "
