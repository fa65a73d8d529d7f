"""What is read from clusters on documents, and what they are compared and found by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc
from spacy.training import Example

from entitykit.components import clusters
from entitykit.components.clusters import gold_clusters, name_keys, telling_words, warn_large
from entitykit.errors import EntityKitWarning
from entitykit.types import MANS_TITLE, TITLE, WOMANS_TITLE
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
    words, has_capital, titles = telling_words([doc, doc[:0].as_doc()]).T
    assert [bool(word) for word in words] == [False, True, False, False, True, False, False, False, True, False, True, False]
    assert words[1] == words[8] != words[10]
    assert np.flatnonzero(has_capital).tolist() == [1]
    assert not titles.any()
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


def test_titles_of_men_and_of_women() -> None:
    words = ["Mr.", "Elton", ",", "Lady", "Russell", ",", "Captain", "Wentworth", "and", "Mrs", "Croft"]
    _, _, titles = telling_words([Doc(spacy.blank("en").vocab, words=words)]).T
    found = {word: int(title) for word, title in zip(words, titles, strict=True) if title}
    assert found == {"Mr.": MANS_TITLE, "Lady": WOMANS_TITLE, "Captain": TITLE, "Mrs": WOMANS_TITLE}


def test_documents_that_are_too_large_to_learn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    doc = named("Ada met Ada , who met Ada", [(0, 1), (2, 3), (6, 7)], [(4, 5)])
    example = Example(Doc(doc.vocab, words=[token.text for token in doc]), doc)
    warn_large([example], "coref")
    monkeypatch.setattr(clusters, "LARGE", 3)
    with pytest.warns(EntityKitWarning, match=r"W643. 1 documents of 'coref' have more than 3 gold mentions \(most: 4\)"):
        warn_large([example], "coref")
