"""What a generator of names reads of a document, what it is to write, and the names of a knowledge base that changes."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Sequence
from dataclasses import replace
from math import exp
from pathlib import Path

import pytest
import spacy
from spacy.tokens import Doc, Span

from entitykit.bridge.genre_names import AliasNames, build_names, open_names
from entitykit.bridge.genre_tasks import Linked, MarkupTask, NameTask
from entitykit.bridge.genre_text import MAX_NAME, GenreText
from entitykit.bridge.seq2seq import load_seq2seq
from entitykit.decoding.beams import Beam
from entitykit.decoding.genre import State, advance, allowed, markup_tokens
from entitykit.decoding.markup import without_brackets
from entitykit.errors import ConfigError, EntityKitWarning
from entitykit.knowledge.entities import Alias, Entity
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.trie import CompactTrie
from entitykit.models.genre import IGNORED
from tests.seq2seq import NAMES, SETTINGS, TEXT, Generator, make_generator, save_bart

PARENTHESES = str.maketrans("[]{}\u00a0", "()() ")


@pytest.fixture(scope="module", params=["bart", "t5"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return make_generator(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def nlp() -> spacy.Language:
    return spacy.blank("en")


def test_passages_hold_every_token_and_word(generator: Generator, nlp: spacy.Language) -> None:
    doc = nlp(TEXT * 3 + "x" * 200)
    pieces = generator.text.read(doc.text, markup=True)
    for size in (16, 24, 10_000):
        passages = generator.text.passages(doc, size)
        assert [token for passage in passages for token in passage.ids] == pieces.ids.tolist()
        assert all(0 < len(passage.ids) <= size for passage in passages)
        begun = [word for passage in passages for word in passage.starts.values()]
        ended = [word for passage in passages for word in passage.ends.values()]
        words = [token.i for token in doc if not token.is_space]
        assert begun == words
        assert [word - 1 for word in ended] == words
        for passage in passages:
            assert all(passage.start <= doc[word].idx < passage.end for word in passage.starts.values())
            text = doc.text[passage.start : passage.end].translate(PARENTHESES)
            decoded = generator.text.decode(passage.ids)  # without what T5's tokenizer does not know
            assert "".join(decoded.split()) in ("".join(text.split()), "".join(text.replace("東京", "").split()))


def test_passages_are_cut_at_sentences(generator: Generator, nlp: spacy.Language) -> None:
    doc = Doc(nlp.vocab, words=["a", "b", "c", "d", "e", "f", "g", "h"], sent_starts=[1, 0, 0, 0, 0, 1, 0, 0])
    n = len(generator.text.read("a b c d", markup=True).ids) - len(generator.text.read("a b c", markup=True).ids)
    first = generator.text.passages(doc, 7 * n)[0]
    assert list(first.starts.values()) == [0, 1, 2, 3, 4]
    by_word = generator.text.passages(Doc(nlp.vocab, words=list("abcdefgh")), 7 * n)[0]
    assert list(by_word.starts.values()) == [0, 1, 2, 3, 4, 5, 6]
    stops = Doc(nlp.vocab, words=["a", "b", "c", "d", ".", "f", "g", "h"])
    assert list(generator.text.passages(stops, 7 * n)[0].starts.values()) == [0, 1, 2, 3, 4]


def test_sources_have_no_marks(generator: Generator, nlp: spacy.Language) -> None:
    doc = nlp(TEXT + " \uff5bwide\uff5d \uff3bones\uff3d")  # which T5's tokenizer makes narrow
    marks = set(generator.text.marks())
    assert not any(marks & set(passage.ids) for passage in generator.text.passages(doc, 24))
    assert not any(marks & set(ids) for ids in generator.text.names(NAMES, "markup"))


def test_contexts(generator: Generator) -> None:
    pieces = generator.text.read(TEXT, markup=False)
    start = TEXT.index("New York")
    for size in (70, 96, 10_000):
        ids, n_cut = generator.text.context(TEXT, pieces, start, start + 8, size, SETTINGS.marks)
        decoded = generator.text.decode(ids)
        assert len(ids) <= size
        assert n_cut == 0
        assert "[START_ENT] New York [END_ENT]" in decoded
        left, right = decoded.split("[START_ENT] New York [END_ENT]")
        assert left.strip()[-2:] == "of"
        assert len(right.strip()) >= 2
    assert len(generator.text.decode(ids)) >= len(TEXT)


def test_mention_longer_than_the_context(generator: Generator, nlp: spacy.Language) -> None:
    doc = nlp("In London " + "very " * 300 + "far")
    task = NameTask(generator.text, SETTINGS, build_names(enumerate(NAMES), generator.text, "name"))
    with pytest.warns(EntityKitWarning, match=r"W531.*1 mentions are longer than the 96 tokens"):
        requests = task.requests([doc], [[(1, 2), (2, len(doc))]])
    assert len(requests) == 2
    assert all(len(request.source) <= SETTINGS.context for request in requests)
    assert "[START_ENT] very very" in generator.text.decode(requests[1].source)
    assert "[END_ENT]" in generator.text.decode(requests[1].source)


def test_special_tokens_in_a_text_are_text(generator: Generator) -> None:
    (ids,) = generator.text.names(["a</s>b"], "name")
    assert generator.text.end not in ids
    assert generator.text.end not in generator.text.read("a</s>b", markup=True).ids


def test_tokenizer_without_marks(tmp_path: Path) -> None:
    settings = load_seq2seq(str(save_bart(tmp_path)))[1]
    with pytest.raises(ConfigError, match=r"E536.*1 for \{, 2 for \}"):
        GenreText(settings | {"tokenizer": settings["tokenizer"].replace('"Ġ}"', '"Ġ~"').replace('"}"]', '"~"]')}).marks()


def test_text_is_pickled(generator: Generator) -> None:
    copy = pickle.loads(pickle.dumps(generator.text))
    assert copy.names(NAMES, "markup") == generator.text.names(NAMES, "markup")
    assert copy.fingerprint("name") == generator.text.fingerprint("name") != generator.text.fingerprint("markup")


# Tasks


def test_targets_are_read_again(generator: Generator, nlp: spacy.Language) -> None:
    """The output that the model is to learn is allowed, and means the links that it was made from."""
    doc = nlp(TEXT * 2)
    doc.ents = []  # all words are annotated
    trie = build_names(enumerate(NAMES), generator.text, "markup")
    task = MarkupTask(generator.text, replace(SETTINGS, passage=70, output=200), trie)
    words = {token.text: token.i for token in doc}
    spans = [(words["New"], words["York"] + 1), (words["Ada"], words["Ada"] + 1), (words["["], words["]"] + 1)]
    links = sorted((*span, name) for span, name in zip(spans, ["New York", "A{d}a", "The [River]"], strict=True))
    targets, n_out = task.targets(doc, links)
    requests = task.requests([doc], [None])
    assert n_out == 0
    assert [target.source for target in targets] == [request.source for request in requests]
    assert [target.labels for target in targets] == [target.output for target in targets]
    found = []
    for target, request in zip(targets, requests, strict=True):
        read, n_lost = task.read(doc, request, [follow(request.state, target.output)])
        assert n_lost == 0
        found += read
    assert [(link.start, link.end) for link in found] == [(start, end) for start, end, _ in links]
    assert [[NAMES[row] for row in rows] for link in found for rows in link.rows] == [[name] for *_, name in links]
    expected = [exp(-0.5 * n) for n in n_tokens(generator, doc, links)]
    assert [score for link in found for score in link.scores] == pytest.approx(expected)


def n_tokens(generator: Generator, doc: Doc, links: Sequence[tuple[int, int, str]]) -> list[int]:
    """Of the marks, the mention and the name."""
    _, starts, ends = generator.text.read(doc.text, markup=True)
    found = []
    for start, end, name in links:
        first = starts.tolist().index(doc[start].idx, int((ends <= doc[start].idx).sum()))
        n_mention = ends.tolist().index(doc[end - 1].idx + len(doc[end - 1])) + 1 - first
        found.append(4 + n_mention + len(generator.text.names([name], "markup")[0]))
    return found


def follow(state: State, tokens: Sequence[int]) -> Beam:
    """The beam that writes these tokens, each with the log-probability -0.5."""
    beam = Beam(state, 0.0)
    for token in tokens:
        (options,) = allowed([beam.state])
        assert token in options
        (after,) = advance([beam.state], [token])
        beam = Beam(after, beam.total - 0.5, token, beam)
    return beam


def test_what_is_no_name_is_no_link(generator: Generator, nlp: spacy.Language) -> None:
    """Whatever else was written freely: a name that comes second is not what the model says."""
    doc = nlp("In Ada")
    task = NameTask(generator.text, SETTINGS, build_names(enumerate(NAMES), generator.text, "name"), free=True)
    (request,) = task.requests([doc], [[(1, 2)]])
    nobody, ada, york = (
        follow(request.state, [*generator.text.names([name], "name")[0], generator.text.end])
        for name in ("York Ada", "Ada", "New York")
    )
    assert task.read(doc, request, [nobody, ada]) == ([Linked(1, 2, [], [])], 0)
    (link,), n_lost = task.read(doc, request, [ada, nobody, york])
    assert [[NAMES[row] for row in rows] for rows in link.rows] == [["Ada"], ["New York"]]
    assert n_lost == 0


def test_what_is_marked_freely(generator: Generator, nlp: spacy.Language) -> None:
    """A mention whose name nobody has is NIL; one that the text does not have, or that overlaps another, is counted."""
    doc, other = nlp("In London"), nlp("In York")
    task = MarkupTask(generator.text, SETTINGS, build_names(enumerate(NAMES), generator.text, "markup"), free=True)
    (request,), (wrong,) = task.requests([doc], [None]), task.requests([other], [None])
    ada, nobody = generator.text.names(["Ada", "York Ada"], "markup")
    assert request.passage is not None
    assert wrong.passage is not None

    def read(source: Sequence[int], links: Sequence[tuple[int, int, list[int]]]) -> tuple[list[object], int]:
        output = [*markup_tokens(source, links, generator.text.marks()), generator.text.end]
        found, n_lost = task.read(doc, request, [follow(request.state, output)])
        assert all(link.scores == pytest.approx([exp(-0.5)]) for link in found)
        return [(link.start, link.end, [NAMES[row] for rows in link.rows for row in rows]) for link in found], n_lost

    ids, starts = request.passage.ids, {word: token for token, word in request.passage.starts.items()}
    second, end = starts[1], len(ids)
    assert read(ids, [(0, second, ada), (second, end, nobody)]) == ([(0, 1, ["Ada"]), (1, 2, [])], 0)
    assert read(ids, [(second, second + 1, nobody), (second + 1, end, ada)]) == ([(1, 2, [])], 1)
    of_other = {word: token for token, word in wrong.passage.starts.items()}[1]
    assert read(wrong.passage.ids, [(0, of_other, ada), (of_other, len(wrong.passage.ids), ada)]) == ([(0, 1, ["Ada"])], 1)


def test_words_that_nobody_has_annotated_are_not_learned(generator: Generator, nlp: spacy.Language) -> None:
    """Where a mention might have been opened, the model does not learn that there is none."""
    doc = nlp(TEXT * 2)
    unknown = set(range(len(doc) // 2))
    doc.set_ents([], default="missing")
    task = MarkupTask(generator.text, replace(SETTINGS, passage=40), build_names(enumerate(NAMES), generator.text, "markup"))
    assert task.targets(doc, []) == ([], 0)
    ada = next(token.i for token in doc if token.text == "Ada")
    unknown.remove(ada)
    doc.set_ents(
        [Span(doc, ada, ada + 1, label="X")],
        outside=[doc[i : i + 1] for i in range(len(doc)) if i != ada and i not in unknown],
        default="missing",
    )
    targets, _ = task.targets(doc, [(ada, ada + 1, "Ada")])
    requests = [
        request
        for request in task.requests([doc], [None])
        if request.passage is not None and not unknown.issuperset(request.passage.starts.values())
    ]
    assert 1 < len(requests) < len(task.requests([doc], [None]))
    assert [target.source for target in targets] == [request.source for request in requests]
    n_ignored = 0
    for target, request in zip(targets, requests, strict=True):
        state, passage = request.state, request.passage
        assert passage is not None
        for token, label in zip(target.output, target.labels, strict=True):
            may_open = generator.text.marks().open_mention in allowed([state])[0].tolist()
            hidden = may_open and token == passage.ids[state.position] and passage.starts[state.position] in unknown
            assert label == (IGNORED if hidden else token)
            n_ignored += hidden
            (state,) = advance([state], [token])
    assert n_ignored > 5


def test_spans_that_can_be_no_mentions_are_counted(generator: Generator, nlp: spacy.Language) -> None:
    """They cross the border of a passage, or lie within a token; those that can be mentions give no warning."""
    doc = nlp(TEXT * 3)
    task = MarkupTask(generator.text, replace(SETTINGS, passage=40), build_names(enumerate(NAMES), generator.text, "markup"))
    first, second = list(generator.text.passages(doc, 40))[:2]
    border = min(second.starts.values())
    assert max(first.ends.values()) == border
    inside = [(border - 1, border), (border, border + 1)]
    task.requests([doc, doc], [inside, None])
    with pytest.warns(EntityKitWarning, match=r"W533. 2 of 4 spans that may be linked are in no passage as a whole"):
        task.requests([doc], [[*inside, (border - 1, border + 1), (0, len(doc)), (0, len(doc))]])


def test_output_too_short_for_a_name(generator: Generator) -> None:
    trie = build_names([(0, "x" * 90)], generator.text, "markup")
    with pytest.raises(ConfigError, match=r"E537.*output.*is 100; expected at least"):
        MarkupTask(generator.text, SETTINGS, trie)


# Names of a knowledge base


def make_store(path: Path) -> EntityStore:
    EntityStore.build(path, [Entity(id=f"Q{i}", name=name, aliases=(Alias("capital"),)) for i, name in enumerate(NAMES)])
    return EntityStore.open(path)


def names_in(trie: CompactTrie, text: GenreText) -> dict[str, list[int]]:
    nodes = trie.find(text.names(NAMES, "markup")).tolist()
    return {name: trie.rows(node).tolist() for name, node in zip(NAMES, nodes, strict=True)}


def test_names_follow_the_store(generator: Generator, tmp_path: Path) -> None:
    text, store = generator.text, make_store(tmp_path)
    rows = store.rows([f"Q{i}" for i in range(len(NAMES))]).tolist()
    names = open_names(store, text, "markup")
    found = names_in(names, text)
    assert sorted(row for each in {tuple(each) for each in found.values()} for row in each) == rows
    assert found["Ada"] == [rows[6]]
    assert found["A{d}a"] == [rows[8]]  # as A(d)a
    store.remove(["Q6"])
    store.add([Entity(id="Q1", name="Gotham"), Entity(id="new", name="Ada")])
    changed = open_names(store, text, "markup")
    assert names_in(changed, text)["Ada"] == [store.row("new")]
    assert names_in(changed, text)["New York City"] == []
    assert changed.rows(int(changed.find(text.names(["Gotham"], "markup"))[0])).tolist() == [rows[1]]
    again = CompactTrie.load(tmp_path / "names" / text.fingerprint("markup"))
    assert (again.state, len(again)) == (store.version, len(changed))
    (tmp_path / "names" / text.fingerprint("markup") / "trie.json").write_text("{")
    assert len(open_names(store, text, "markup")) == len(changed)


def test_names_of_another_store_in_its_place(generator: Generator, tmp_path: Path) -> None:
    """Are not those of the first one, though its number is the same, or one that the first one has been through."""
    text, store = generator.text, make_store(tmp_path / "one")
    store.add([Entity(id="new", name="Ada")])
    open_names(store, text, "markup")
    kept = tmp_path / "one" / "names"
    for n_changes in (0, 1, 2):
        folder = tmp_path / f"kb {n_changes}"
        EntityStore.build(folder, [Entity(id=f"N{i}", name=name) for i, name in enumerate(("Ada", "Gotham"))])
        with EntityStore.open(folder) as other:
            for i in range(n_changes):
                other.add([Entity(id="N1", name="Gotham", description=str(i))])
            shutil.copytree(kept, folder / "names")
            names = open_names(other, text, "markup")
            assert (len(names), names.state, names.state_name) == (2, other.version, other.state)
            assert names.rows(int(names.find(text.names(["Ada"], "markup"))[0])).tolist() == [other.row("N0")]


def test_names_from_before_states_had_names(generator: Generator, tmp_path: Path) -> None:
    """Are taken by the number."""
    text, store = generator.text, make_store(tmp_path)
    open_names(store, text, "markup")
    meta = tmp_path / "names" / text.fingerprint("markup") / "trie.json"
    values = json.loads(meta.read_text())
    assert values.pop("state_name") == store.state
    meta.write_text(json.dumps(values))
    assert open_names(store, text, "markup").state == store.version
    assert json.loads(meta.read_text()) == values  # nothing was made anew


def test_names_that_cannot_be_generated(generator: Generator) -> None:
    with pytest.warns(EntityKitWarning, match=rf"W530.*2 names.*more than {MAX_NAME}"):
        trie = build_names([(0, "a b" * 300), (1, "Ada"), (2, "zz" * 300)], generator.text, "name")
    assert len(trie) == 1


def test_names_of_mentions(generator: Generator, tmp_path: Path) -> None:
    store = make_store(tmp_path)
    restrict = AliasNames(store, generator.text, "name")
    york, capital, nobody, again = restrict(["new york", "Capital", "nobody", "new york"])
    assert york is again is not None
    assert nobody is None
    assert capital is not None
    assert york.sequences()[1].tolist() == [store.row("Q0")]
    assert len(capital) == len({tuple(ids) for ids in generator.text.names(NAMES, "name")})
    store.add([Entity(id="new", name="Nobody")])
    assert restrict(["nobody"])[0] is not None


def test_brackets_are_replaced_one_by_one() -> None:
    assert without_brackets("a[b]{c}") == "a(b)(c)"
