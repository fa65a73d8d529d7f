"""`entitykit_coref`: clusters on documents, streams of parts, entities by name, and what is read from the groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Span
from spacy.training import Example

from entitykit.bridge.coref_memory import Found
from entitykit.bridge.head import HeadInput
from entitykit.components import major_entities
from entitykit.components.major_entities import occurrences
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.scoring.coref import clusters_in
from tests.pipelines import OURS, SENTENCES, counted_passes, initialized, make_examples, make_pipeline, train

TEXT = " ".join(text for text, _ in SENTENCES)


@pytest.fixture(scope="module")
def nlp(tiny_bert: Path) -> Language:
    nlp, examples = initialized(tiny_bert, "coref_major")
    train(nlp, examples, 60)
    return nlp


def test_clusters_are_numbered_by_their_first_mentions(nlp: Language) -> None:
    doc = nlp(TEXT)
    clusters = clusters_in(doc)
    assert clusters
    firsts = [(cluster[0].start, cluster[0].end) for cluster in clusters]
    assert firsts == sorted(firsts)
    places = [(span.start, span.end) for cluster in clusters for span in cluster]
    assert len(set(places)) == len(places)
    assert doc._.coref_clusters == [[[span.start, span.end] for span in cluster] for cluster in clusters]


def test_old_clusters_are_replaced(nlp: Language) -> None:
    doc = nlp(TEXT)
    doc.spans["coref_clusters_77"] = [doc[:1]]
    doc.spans["coref_clusters_of_others"] = [doc[:1]]
    again = nlp(doc)
    assert "coref_clusters_77" not in again.spans
    assert "coref_clusters_of_others" in again.spans


def test_without_singletons(nlp: Language, tmp_path: Path) -> None:
    nlp.to_disk(tmp_path)
    strict = spacy.load(tmp_path, config={"components.coref_major.singletons": False})
    wanted = [cluster for cluster in nlp(TEXT)._.coref_clusters if len(cluster) > 1]
    assert strict(TEXT)._.coref_clusters == wanted
    assert wanted != nlp(TEXT)._.coref_clusters or all(len(cluster) > 1 for cluster in wanted)


def test_no_clusters_is_not_the_same_as_not_looked_for(nlp: Language) -> None:
    assert nlp("")._.coref_clusters == []
    assert nlp.make_doc(TEXT)._.coref_clusters is None
    assert nlp.make_doc(TEXT)._.resolved_text is None


def test_a_stream_of_one_part_is_the_text(nlp: Language) -> None:
    coref = nlp.get_pipe("coref_major")
    (doc,) = coref.stream([nlp(TEXT)])
    assert doc._.coref_clusters == nlp(TEXT)._.coref_clusters


def test_entities_keep_their_numbers_through_a_stream(nlp: Language) -> None:
    """The numbers of a part's groups are those of the entities, and what comes later knows what came before."""
    coref = nlp.get_pipe("coref_major")
    parts = list(coref.stream(nlp.pipe([text for text, _ in SENTENCES])))
    numbers = [{int(key.rpartition("_")[2]) for key, group in doc.spans.items() if len(group)} for doc in parts]
    seen: set[int] = set()
    for own in numbers:
        new = own - seen
        assert new == set(range(len(seen) + 1, len(seen) + 1 + len(new)))  # entities are numbered as they come
        seen |= own
    alone = [nlp(text)._.coref_clusters for text, _ in SENTENCES]
    assert sum(map(len, numbers)) < sum(map(len, alone)) or len(seen) < sum(map(len, alone))


def test_no_mention_is_lost_where_a_memory_has_no_room(nlp: Language) -> None:
    coref = nlp.get_pipe("coref_major")
    n_mentions = sum(map(len, nlp(TEXT)._.coref_clusters))
    before = dict(coref.settings)
    coref.settings.update(capacity=1, forget="learned", new=1e9)  # nothing is joined
    try:
        clusters = nlp(TEXT)._.coref_clusters
    finally:
        coref.settings.update(before)
    assert [len(cluster) for cluster in clusters] == [1] * n_mentions


def test_mentions_are_counted_through_a_stream(nlp: Language) -> None:
    """A second mention is written though it is the only one of its part, as soon as it is known not to be the only one."""
    coref = nlp.get_pipe("coref_major")
    before = dict(coref.settings)
    coref.settings.update(singletons=False, new=-1e9)  # all are joined
    try:
        parts = list(coref.stream(nlp.pipe(["Peter", "In 1987 it rained", "Peter", "Peter"])))
        coref.settings.update(new=1e9)
        apart = list(coref.stream(nlp.pipe(["Peter", "Peter"])))
    finally:
        coref.settings.update(before)
    assert [doc._.coref_clusters for doc in parts] == [[], [], [[[0, 1]]], [[[0, 1]]]]
    assert [doc._.coref_clusters for doc in apart] == [[], []]


def test_the_head_is_fetched_once(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is a copy."""
    coref, fetched = nlp.get_pipe("coref_major"), []
    fetch = coref._reading_head
    docs = [nlp(text) for text, _ in SENTENCES]
    monkeypatch.setattr(coref, "_reading_head", lambda: fetched.append(1) or fetch())
    assert len(coref.predict(docs)) == len(docs)
    coref.find(docs[0], ["Ahab", "Mary Jones"])
    assert len(fetched) == 2


@pytest.mark.parametrize("memory", ["clusters", "hybrid", "static"])
def test_find(nlp: Language, memory: str) -> None:
    """Every mention of what the name stands for, as was learned, and none of others."""
    doc = nlp("The mayor of New York met John")
    found = nlp.get_pipe("coref_major").find(doc, ["john"], memory=memory)
    assert list(found) == ["john"]
    assert all(isinstance(span, Span) for span in found["john"])
    assert [(span.start, span.end) for span in found["john"]] == [(0, 5), (6, 7)]


@pytest.mark.parametrize("memory", ["clusters", "hybrid", "static"])
def test_a_mention_is_of_one_entity_only(nlp: Language, memory: str) -> None:
    """Names that have the same cluster have all of it."""
    doc = nlp(TEXT)
    found = nlp.get_pipe("coref_major").find(doc, ["New  york", "Mary Jones", "jones"], memory=memory)
    groups = [tuple((span.start, span.end) for span in spans) for spans in found.values()]
    places = [place for group in (set(groups) if memory == "clusters" else groups) for place in group]
    assert len(set(places)) == len(places)
    assert set(places) <= {(span.start, span.end) for cluster in clusters_in(doc) or [] for span in cluster}


def test_find_a_name_that_never_occurs(nlp: Language) -> None:
    coref = nlp.get_pipe("coref_major")
    doc = nlp(TEXT)
    before = doc._.trf_data
    found = coref.find(doc, ["Ahab"], descriptions={"Ahab": "captain of the Pequod"})
    assert list(found) == ["Ahab"]
    assert doc._.trf_data is before
    assert coref.find(nlp(""), ["Ahab", "Mary Jones"]) == {"Ahab": [], "Mary Jones": []}
    assert coref.find(doc, []) == {}


def all_of_the_first(head: object, phrases: object, found: Found, **_: object) -> np.ndarray:
    return np.zeros(len(found.starts), dtype=np.int64)


@pytest.mark.parametrize("memory", ["clusters", "hybrid", "static"])
def test_a_name_that_never_occurs_does_not_take_pronouns(nlp: Language, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    coref = nlp.get_pipe("coref_major")
    monkeypatch.setitem(coref.settings, "threshold", 1e-9)  # all spans that are proposed are mentions
    monkeypatch.setattr(
        major_entities, "find_named", lambda head, phrases, found, **_: np.zeros(len(found.starts), dtype=np.int64)
    )
    for word in ("You", "and", "me", "and", "them"):
        monkeypatch.setattr(nlp.vocab[word], "is_stop", True)
    pronouns, story = nlp("You and me and them"), nlp("Mary Jones and them")
    assert coref.find(pronouns, ["you"], memory=memory)["you"]
    assert coref.find(pronouns, ["Gandalf"], memory=memory) == {"Gandalf": []}
    assert coref.find(story, ["Gandalf"], memory=memory) == {"Gandalf": []}
    assert coref.find(story, ["Mr. Jones"], memory=memory)["Mr. Jones"]  # the text has a word of it, and another title
    assert coref.find(story, ["Gandalf"], descriptions={"Gandalf": "whom Mary asks"}, memory=memory)["Gandalf"]


def test_names_without_a_cluster_are_not_looked_for_in_those_of_others(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    coref, doc = nlp.get_pipe("coref_major"), nlp(TEXT)
    monkeypatch.setattr(
        major_entities, "find_named", lambda head, phrases, found, **_: np.zeros(len(found.starts), dtype=np.int64)
    )
    alone = {(span.start, span.end) for span in coref.find(doc, ["New York"])["New York"]}
    both = coref.find(doc, ["New York", "Ahab"], descriptions={"Ahab": TEXT})
    assert alone == {(span.start, span.end) for span in both["New York"]}
    assert both["Ahab"]
    assert alone.isdisjoint((span.start, span.end) for span in both["Ahab"])


def test_all_names_are_read_at_once(nlp: Language) -> None:
    """One pass of the head for mentions, one for names in the text, one for all others, whose own places change nothing."""
    coref, passes = nlp.get_pipe("coref_major"), []
    doc, names = nlp(TEXT), ["Ahab", "peter", "New York", "Queequeg", "London"]
    alone = {name: coref._phrases(doc, [name], {"Ahab": "a captain"}) for name in names}
    hook = coref.head.register_forward_hook(lambda *_: passes.append(1))
    with counted_passes(nlp) as encoder:
        coref.find(doc, names, memory="static")
    hook.remove()
    assert (len(passes), encoder.forward) == (3, 1)
    together = coref._phrases(doc, names, {"Ahab": "a captain"})
    for row, name in enumerate(names):
        np.testing.assert_allclose(together.vectors[row], alone[name].vectors[0], atol=1e-5)
        assert [part[row] for part in together.words] == [part[0] for part in alone[name].words]


@pytest.fixture(scope="module")
def with_tokens(tiny_bert: Path) -> Language:
    nlp, examples = initialized(tiny_bert, "coref_tokens")
    train(nlp, examples, 60)
    return nlp


@pytest.mark.parametrize("memory", ["clusters", "hybrid", "static"])
def test_find_where_spans_have_tokens(with_tokens: Language, memory: str) -> None:
    """A name in the text, one whose place in the text has no token, and one that is not there."""
    nlp = with_tokens
    doc = nlp("The mayor of New York met John")
    coref = nlp.get_pipe("coref_tokens")
    found = coref.find(doc, ["john"], memory=memory)
    assert [(span.start, span.end) for span in found["john"]] == [(0, 5), (6, 7)]
    assert (0, 7) not in coref._tokens(doc)
    found = coref.find(doc, [doc.text, "Ahab", "York met"], descriptions={"Ahab": "a captain"}, memory=memory)
    assert list(found) == [doc.text, "Ahab", "York met"]


def test_names_are_the_places_that_have_tokens(with_tokens: Language) -> None:
    coref = with_tokens.get_pipe("coref_tokens")
    doc = with_tokens(TEXT)
    tokens = coref._tokens(doc)
    assert {(span.start, span.end) for span in occurrences(doc, "New York")} <= tokens
    said = coref._phrases(doc, ["New York"], {})
    output = coref.model.predict(HeadInput([doc], coref.candidates([doc], None)))
    places = list(zip(output.spans.starts.tolist(), output.spans.ends.tolist(), strict=True))
    rows = [places.index((span.start, span.end)) for span in occurrences(doc, "New York")]
    np.testing.assert_allclose(said.vectors[0], output.vectors[rows].mean(0), atol=1e-5)
    assert (2, 9) not in tokens
    name = doc[2:9].text
    apart = coref._phrases(doc, [name], {})
    other = coref._phrases(with_tokens("Peter"), [name], {})
    np.testing.assert_allclose(apart.vectors, other.vectors, atol=1e-5)  # it is read by itself


@pytest.mark.parametrize(
    ("names", "descriptions"),
    [
        (["Mary", ""], None),
        (["Mary", " "], None),
        (["Mary", "Mary"], None),
        (["Mary"], {"Peter": "a fisherman"}),
        ("Mary", None),
        (3, None),
        (["Mary", 3], None),
        (["Mary", None], None),
        (["Mary"], {"Mary": None}),
        (["Mary"], ["a woman"]),
    ],
)
def test_find_refuses_names(nlp: Language, names: object, descriptions: object) -> None:
    with pytest.raises(InputError, match="E641"):
        nlp.get_pipe("coref_major").find(nlp(TEXT), names, descriptions=descriptions)


def test_names_that_do_not_occur_are_split_as_the_text_is(nlp: Language) -> None:
    coref = nlp.get_pipe("coref_major")
    docs, places = coref._read(["John's  wife,", "Ahab"], {"Ahab": "of the Pequod."})
    assert [[token.text for token in doc] for doc in docs] == [
        ["John", "'s", "wife", ","],
        ["Ahab", ":", "of", "the", "Pequod", "."],
    ]
    assert places == [[(0, 4)], [(4, 5)]]


def test_find_says_what_a_doc_cleaner_does(nlp: Language) -> None:
    coref = nlp.get_pipe("coref_major")
    nlp.add_pipe("doc_cleaner", config={"attrs": {"_.trf_data": None}})
    try:
        for ask in (lambda: coref.find(nlp(TEXT), ["John"]), lambda: list(coref.stream(nlp.pipe([TEXT])))):
            with pytest.raises(ConfigError, match=r"E102.*doc_cleaner"):
                ask()
    finally:
        nlp.remove_pipe("doc_cleaner")
    assert coref.find(nlp(TEXT), ["John"])["John"]


def test_find_needs_the_model_and_a_memory(nlp: Language, tiny_bert: Path) -> None:
    with pytest.raises(ConfigError, match="E109"):
        nlp.get_pipe("coref_major").find(nlp(TEXT), ["Mary"], memory="learned")
    plain, _ = initialized(tiny_bert, "coref")
    with pytest.raises(ConfigError, match="E640"):
        plain.get_pipe("coref").find(plain(TEXT), ["Mary"])


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("threshold", 0.0, "E109"),
        ("threshold", 1.0, "E109"),
        ("compared", -1, "E109"),
        ("settled", -1, "E109"),
        ("capacity", -1, "E352"),
        ("forget", "none", "E352"),
    ],
)
def test_wrong_settings(tiny_bert: Path, setting: str, value: object, code: str) -> None:
    with pytest.raises(ConfigError, match=code):
        make_pipeline(tiny_bert, "coref", **{setting: value})


@pytest.mark.parametrize(
    ("model", "setting", "value"),
    [
        ("OnlineCoref", "update", "max"),
        ("OnlineCoref", "size", 0),
        ("OnlineCoref", "match", 0),
        ("OnlineCoref", "hidden", 0),
        ("OnlineCoref", "size_width", -1),
        ("OnlineCoref", "max_width", -3),
        ("OnlineCoref", "dropout", 1.5),
        ("OnlineCoref", "mention_weight", -1.0),
        ("OnlineCoref", "keep_weight", -1.0),
        ("OnlineCoref", "loss_weight", -1.0),
        ("AntecedentCoref", "antecedents", 0),
        ("AntecedentCoref", "dropout", -0.5),
        ("MajorEntities", "most", 0),
        ("MajorEntities", "least", -1),
        ("MajorEntities", "major_weight", -1.0),
    ],
)
def test_wrong_settings_of_models(tiny_bert: Path, model: str, setting: str, value: object) -> None:
    nlp = make_pipeline(tiny_bert)
    architecture = {"@architectures": f"entitykit.{model}.v1", "tok2vec": OURS, setting: value}
    with pytest.raises(ConfigError, match=rf"E007.*{setting} is {value}"):
        nlp.add_pipe("entitykit_coref", config={"model": architecture})


def test_without_clusters_there_is_nothing_to_learn(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, "coref")
    doc = nlp.make_doc("Nobody is here")
    with pytest.raises(ConfigError, match="E106"):
        nlp.initialize(lambda: [Example(doc, doc.copy())])


def test_a_mention_in_two_clusters_is_told_at_once(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, "coref")
    examples = make_examples(nlp)
    gold = examples[0].reference
    gold.spans["coref_clusters_2"] = [gold[0:2], gold[4:6]]
    with pytest.warns(EntityKitWarning, match=r"W641.*1 places"):
        nlp.initialize(lambda: examples)


def test_groups_of_mentions_that_no_document_has_are_told_once(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, "coref", mentions=["nmaes", "people_*"])
    nlp.initialize(lambda: make_examples(nlp))
    nlp("")  # has no words that could be in a group
    with pytest.warns(EntityKitWarning, match=r"W642.*nmaes, people_\*.*setting mentions"):
        nlp(TEXT)
    nlp(TEXT)
    named = make_pipeline(tiny_bert, "coref", mentions=["nmaes", "people_*"])
    named.initialize(lambda: make_examples(named))
    doc = named.make_doc(TEXT)
    doc.spans["people_1"] = []  # somebody has looked
    named(doc)
    named(TEXT)


def test_mentions_that_are_linked_to_mentions(tiny_bert: Path) -> None:
    """Without entities there is no memory that could go on, nor anybody to ask for."""
    nlp, examples = initialized(tiny_bert, "coref_antecedents")
    train(nlp, examples, 2)
    coref = nlp.get_pipe("coref_antecedents")
    coref.settings["threshold"] = 1e-9
    coref.settings["new"] = -1e9  # all are joined
    assert len(nlp("Mary met John")._.coref_clusters) == 1
    coref.settings["new"] = 1e9  # none is
    clusters = nlp("Mary met John")._.coref_clusters
    assert [len(cluster) for cluster in clusters] == [1] * len(clusters)
    assert len(clusters) > 1
    with pytest.raises(ConfigError, match="E644"):
        next(coref.stream([nlp(TEXT)]))
    with pytest.raises(ConfigError, match="E640"):
        coref.find(nlp(TEXT), ["Mary"])


def test_what_to_forget_must_have_been_learned(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert)
    model = {"@architectures": "entitykit.OnlineCoref.v1", "proposed": False, "keep_weight": 0.0}
    nlp.add_pipe("entitykit_coref", config={"model": model, "capacity": 1, "forget": "learned", "new": 1e9, "threshold": 1e-9})
    with pytest.raises(ConfigError, match="E643"):
        nlp.initialize(lambda: make_examples(nlp))
    coref = nlp.get_pipe("entitykit_coref")
    coref.settings["forget"] = "lru"
    nlp.initialize(lambda: make_examples(nlp))
    doc = nlp.get_pipe("entitykit_encoder")(nlp.make_doc("Mary met John"))
    coref.settings |= {"mentions": ["here"], "forget": "learned"}
    doc.spans["here"] = [doc[0:1], doc[2:3]]
    with pytest.raises(ConfigError, match="E643"):
        coref(doc)
