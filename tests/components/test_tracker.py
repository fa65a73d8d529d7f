"""The tracker in a pipeline: what it follows, what it writes, and what it refuses; for its texts see `test_tracker_texts`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.components import tracker as component
from entitykit.corpora.given_procedures import give_procedure, given_procedures
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from entitykit.html import render_html
from tests.pipelines import OURS, counted_passes, encoder_config, encoder_gradient, fast_optimizer, finish, make_pipeline, train

Grid = dict[str, Any]

MODEL: dict[str, Any] = {"@architectures": "entitykit.StateTracker.v1", "hidden": 32, "size": 16, "dropout": 0.0}
INPUTS = ("shared", "entity_first", "one_pass")

# Ice is in the cave, melts at the second step, and the water flows into the lake at the fourth; the third step is empty.
STEPS = ["The ice lies in a cave.", "The ice melts to water.", "", "The water flows into the lake.", "It rains."]
GRID: Grid = {
    "participants": ["ice", "water; meltwater", "rock"],
    "states": [
        ["cave", "cave", "-", "-", "-", "-"],
        ["-", "-", "cave", "cave", "lake", "lake"],
        ["?", "?", "?", "?", "?", "?"],
    ],
}
SECOND = ["A seed is in the soil.", "It becomes a tree.", "The tree dies in the soil."]
SECOND_GRID: Grid = {
    "participants": ["seed", "tree"],
    "states": [["soil", "soil", "-", "-"], ["-", "-", "soil", "-"]],
}


def with_steps(sentences: list[str], grid: Grid) -> tuple[str, Grid]:
    """A text, and the grid with the places of the steps in it."""
    steps, start = [], 0
    for sentence in sentences:
        steps.append([start, start + len(sentence)])
        start += len(sentence) + 1
    return " ".join(sentences), {**grid, "steps": steps}


def make_example(nlp: Language, sentences: list[str], grid: Grid) -> Example:
    text, grid = with_steps(sentences, grid)
    reference = nlp.make_doc(text)
    reference.user_data["propara"] = grid
    return Example(nlp.make_doc(text), reference)


def make_examples(nlp: Language) -> list[Example]:
    return [make_example(nlp, STEPS, GRID), make_example(nlp, SECOND, SECOND_GRID)]


def make_tracker(checkpoint: Path, form: str = "shared", *, own: bool = False, **settings: Any) -> Language:
    nlp = spacy.blank("en") if own else make_pipeline(checkpoint)
    tok2vec = encoder_config(checkpoint)["model"] if own else OURS
    nlp.add_pipe("entitykit_tracker", config={"model": {**MODEL, "input": form, "tok2vec": tok2vec}, **settings})
    return nlp


def initialized(checkpoint: Path, form: str = "shared", **options: Any) -> tuple[Language, list[Example]]:
    nlp = make_tracker(checkpoint, form, **options)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    return nlp, examples


def given_docs(nlp: Language) -> list[Doc]:
    return [give_procedure(eg).predicted for eg in make_examples(nlp)]


@pytest.mark.parametrize("form", INPUTS)
def test_learns_by_heart(tiny_bert: Path, tmp_path: Path, form: str) -> None:
    nlp, examples = initialized(tiny_bert, form)
    history = train(nlp, examples, 60)
    assert history[-1]["entitykit_tracker"] < 0.1 * history[0]["entitykit_tracker"]
    scores = nlp.evaluate([give_procedure(eg) for eg in make_examples(nlp)])
    assert scores["tracking_f"] == scores["tracking_states_acc"] == 1.0
    assert [scores[f"tracking_cat{i}"] for i in (1, 2, 3)] == [1.0, 1.0, 1.0]
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp")
    (doc, *_) = loaded.pipe(given_docs(loaded))
    written = doc._.entity_states
    assert written["states"] == GRID["states"]
    assert written["tags"][1] == ["O_C", "C", "E", "M", "E"]
    assert written["participants"] == GRID["participants"]
    assert written["steps"][2] == [13, 13]  # as empty as it was
    assert [doc[slice(*span)].text for span in written["mentions"][0]] == ["ice", "ice"]
    assert written["mentions"][2] == []  # nobody mentions the rock
    assert [doc[start:end].text for start, end in written["steps"]] == STEPS


@pytest.mark.parametrize("form", ["entity_first", "one_pass"])
def test_the_encoder_learns_from_the_texts(tiny_bert: Path, form: str) -> None:
    """The shared one, unless it is frozen, and the tracker's own."""
    nlp, examples = initialized(tiny_bert, form)
    nlp.update(examples, sgd=False, losses={})
    assert encoder_gradient(nlp)["layers.0.outer.weight"].any()
    frozen, examples = initialized(tiny_bert, form)
    head = frozen.get_pipe("entitykit_tracker").model.to_bytes()
    train(frozen, examples, 1, exclude=["entitykit_encoder"], annotates=["entitykit_encoder"])
    assert not encoder_gradient(frozen)
    assert frozen.get_pipe("entitykit_tracker").model.to_bytes() != head
    alone, examples = initialized(tiny_bert, form, own=True)
    before = alone.get_pipe("entitykit_tracker").model.layers[0].shims[0].module.layers[0].outer.weight.clone()
    train(alone, examples, 1)
    assert not torch.equal(alone.get_pipe("entitykit_tracker").model.layers[0].shims[0].module.layers[0].outer.weight, before)
    assert alone(given_docs(alone)[0])._.entity_states["participants"] == GRID["participants"]


def test_one_pass_of_the_shared_encoder_is_enough(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert)
    with counted_passes(nlp) as passes:
        nlp.update(examples, sgd=False, losses={})
        finish(nlp, fast_optimizer())
    assert (passes.forward, passes.backward) == (1, 1)


@pytest.mark.parametrize("form", INPUTS)
def test_groups_equal_the_whole(tiny_bert: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many participants are scored at once."""
    nlp, _ = initialized(tiny_bert, form)
    whole = [doc._.entity_states for doc in nlp.pipe(given_docs(nlp))]
    for limit in (1, 200, 400):
        monkeypatch.setattr(component, "BATCH_CELLS", limit)
        for expected, doc in zip(whole, nlp.pipe(given_docs(nlp)), strict=True):
            found = doc._.entity_states
            assert found["states"] == expected["states"]
            for key in ("scores", "place_scores"):
                for ours, theirs in zip(found[key], expected[key], strict=True):
                    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("form", INPUTS)
def test_nothing_to_follow(tiny_bert: Path, form: str) -> None:
    """Empty documents, no participants, no steps, and words that are white space."""
    nlp, _ = initialized(tiny_bert, form)
    empty = nlp("")
    assert empty._.entity_states["participants"] == empty._.entity_states["states"] == []
    with pytest.warns(EntityKitWarning, match="W642"):
        assert nlp("It rains.")._.entity_states["states"] == []  # and needs no steps
    for text, steps in (("", []), ("", [[0, 0]]), ("ice", []), (" \n ", [[0, 3]]), ("ice", [[0, 0], [3, 3]])):
        doc = nlp.make_doc(text)
        doc.user_data["procedure"] = {"participants": ["ice", "", ";"], "steps": steps}
        states = nlp(doc)._.entity_states["states"]
        assert [len(row) for row in states] == [len(steps) + 1] * 3


def test_a_procedure_without_a_change_and_one_without_a_grid(tiny_bert: Path) -> None:
    nlp = make_tracker(tiny_bert)
    still = make_example(nlp, STEPS, {"participants": ["cave"], "states": [["?"] * 6]})
    bare = Example(nlp.make_doc("It rains."), nlp.make_doc("It rains."))
    nlp.initialize(lambda: [still, bare])
    train(nlp, [still, bare], 30)
    assert nlp(give_procedure(still).predicted.copy())._.entity_states["tags"] == [["E"] * 5]
    with pytest.warns(EntityKitWarning, match="W642"):
        scores = nlp.evaluate([give_procedure(still), bare])
    assert scores["tracking_f"] == 1.0
    assert scores["tracking_cat1"] is None
    assert nlp.evaluate([bare])["tracking_f"] is None


def test_what_cannot_be_learned(tiny_bert: Path) -> None:
    nlp = make_tracker(tiny_bert)
    bare = Example(nlp.make_doc("It rains."), nlp.make_doc("It rains."))
    with pytest.raises(ConfigError, match=r"\[E106\]"):
        nlp.initialize(lambda: [bare])
    far = make_example(nlp, STEPS, {"participants": ["ice"], "states": [["cave", "moon", "-", "-", "-", "-"]]})
    with pytest.warns(EntityKitWarning, match=r"\[W612\] 1 of 6 gold places of 'entitykit_tracker'.* Raise max_place_words"):
        nlp.initialize(lambda: [far])
    wrong = make_example(nlp, STEPS, {"participants": ["ice"], "states": [["cave"]]})
    with pytest.raises(InputError, match=r"\[E612\].*rows and their lengths \[1, 6\]"):
        nlp.initialize(lambda: [wrong])
    for states in (None, [None], 3, "abc", [["a", 3, None, "x", "y", "z"]], [{"a": 1}]):
        wrong.reference.user_data["propara"]["states"] = states
        with pytest.raises(InputError, match=r"\[E612\].* states .*for each participant a list of states"):
            nlp.initialize(lambda: [wrong])
    for key, value in (("participants", None), ("participants", [None]), ("steps", None), ("steps", [3]), ("steps", [[0]])):
        odd = make_example(nlp, STEPS, GRID)
        odd.reference.user_data["propara"][key] = value
        for read in (nlp.get_pipe("entitykit_tracker").score, lambda examples: give_procedure(examples[0])):
            with pytest.raises(InputError, match=rf"\[E612\].* {key} .*expected a list of"):
                read([odd])
    far.reference.user_data["propara"].pop("participants")
    with pytest.raises(InputError, match=r"\[E612\].*without participants"):
        nlp.initialize(lambda: [far])
    other = Example(nlp.make_doc("It pours. "), make_examples(nlp)[0].reference)
    with pytest.raises(InputError, match=r"\[E612\].*of another text"):
        nlp.get_pipe("entitykit_tracker").candidates([other.predicted], [other])


def test_settings_that_cannot_be(tiny_bert: Path) -> None:
    for changes, message in (
        ({"input": "backwards"}, "input .*is backwards; expected shared or entity_first or one_pass"),
        ({"hidden": 0}, "hidden .*at least 1"),
        ({"place_weight": -1.0}, "place_weight .*at least 0"),
        ({"still_weight": 2.0}, "still_weight .*0 to 1"),
    ):
        nlp = make_pipeline(tiny_bert)
        with pytest.raises(ConfigError, match=rf"\[E610\].*{message}"):
            nlp.add_pipe("entitykit_tracker", config={"model": {**MODEL, "tok2vec": OURS, **changes}})
    for dropout in (-0.5, 1.5):
        nlp = make_pipeline(tiny_bert)
        with pytest.raises(ConfigError, match=r"\[E007\].*dropout is .*at least 0 and below 1"):
            nlp.add_pipe("entitykit_tracker", config={"model": {**MODEL, "tok2vec": OURS, "dropout": dropout}})
    for setting in ("max_place_words", "max_cells"):
        with pytest.raises(ConfigError, match=rf"\[E109\].*{setting}"):
            make_tracker(tiny_bert, **{setting: 0})


def test_texts_need_an_encoder_that_reads() -> None:
    nlp = spacy.blank("en")
    stock = {"@architectures": "spacy.HashEmbedCNN.v2", "pretrained_vectors": None, "width": 8, "depth": 1, "embed_size": 10}
    stock |= {"window_size": 1, "maxout_pieces": 2, "subword_features": True}
    nlp.add_pipe("entitykit_tracker", config={"model": {**MODEL, "input": "one_pass", "tok2vec": stock}})
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    with pytest.raises(ConfigError, match=r"\[E611\] With input = 'one_pass'"):
        nlp.get_pipe("entitykit_tracker").update(examples)
    shared = spacy.blank("en")
    shared.add_pipe("entitykit_tracker", config={"model": {**MODEL, "tok2vec": stock}})
    examples = make_examples(shared)
    shared.initialize(lambda: examples)
    assert train(shared, examples, 20)[-1]["entitykit_tracker"] > 0


# What is read and shown


def test_nothing_to_follow_is_said(tiny_bert: Path) -> None:
    """Once, of participants and of places; documents to which participants are given need no group of them."""
    nlp, _ = initialized(tiny_bert)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert nlp(given_docs(nlp)[0])._.entity_states["states"]
    message = r"\[W642\] None of the first 2 documents has spans under participants, mentions, .*or name participants in doc"
    with pytest.warns(EntityKitWarning, match=message):
        scores = nlp.evaluate([*make_examples(nlp), give_procedure(make_examples(nlp)[0])])
    assert scores["tracking_f"] > 0  # so that nobody takes it for what the tracker can do
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp("It rains.")
        again, _ = initialized(tiny_bert)
        doc = again.make_doc("It rains.")
        doc.spans["mentions"] = []
        assert again(doc)._.entity_states["states"] == []


def test_places_that_nobody_writes(tiny_bert: Path) -> None:
    """In prediction and in training; none were written when the training began, so that none are missed then."""
    message = r"\[W642\] None of the first \d documents has spans under where, .*\(setting places\).*annotating_components\."
    nlp, examples = initialized(tiny_bert, places="where")
    with pytest.warns(EntityKitWarning, match=message):
        assert nlp(given_docs(nlp)[0])._.entity_states["states"]
    nlp, examples = initialized(tiny_bert, places="where")
    with pytest.warns(EntityKitWarning, match=message):
        nlp.update(examples, sgd=False, losses={})
    nlp = make_tracker(tiny_bert, places="where")
    examples = make_examples(nlp)
    examples[0].predicted.spans["where"] = [
        token.doc[token.i : token.i + 1] for token in examples[0].predicted if token.text == "cave"
    ]
    with pytest.warns(EntityKitWarning, match=r"\[W612\] 2 of 18 gold places .*Have such spans written under where"):
        nlp.initialize(lambda: examples)  # the lake, twice


def test_reader_gives_steps_and_participants_and_no_states() -> None:
    nlp = spacy.blank("en")
    examples = make_examples(nlp)
    bare = Example(nlp.make_doc("x"), nlp.make_doc("x"))
    first, second, third = given_procedures(lambda _: [*examples, bare])(nlp)
    given = first.predicted.user_data["procedure"]
    assert given == {"participants": GRID["participants"], "steps": with_steps(STEPS, GRID)[1]["steps"]}
    assert second.predicted.user_data["procedure"]["participants"] == ["seed", "tree"]
    assert not third.predicted.user_data


def test_scores_of_participants_that_nobody_found(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    (eg, _) = make_examples(nlp)
    doc = eg.predicted
    _, grid = with_steps(STEPS, GRID)
    doc.user_data["procedure"] = {"participants": ["rock"], "steps": grid["steps"]}
    doc = nlp(doc)
    doc._.entity_states["states"] = [["?"] * 6]
    scores = nlp.get_pipe("entitykit_tracker").score([Example(doc, eg.reference)])
    assert scores["tracking_cat1"] < 1
    assert scores["tracking_states_acc"] == pytest.approx(6 / 18)
    doc.user_data["procedure"] = {"participants": ["ice"], "steps": [[0, 3]]}
    with pytest.warns(EntityKitWarning, match=r"\[W330\] 1 of 1 "):
        scores = nlp.get_pipe("entitykit_tracker").score([Example(nlp(doc), eg.reference)])
    assert scores["tracking_states_acc"] == pytest.approx(6 / 18)  # the rock's


@pytest.mark.filterwarnings(r"ignore:\[W642\]")
def test_table_in_the_page(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    text, grid = with_steps(["The <b>ice</b> melts.", ""], {"participants": ["<i>ice</i>", "x"]})
    doc = nlp.make_doc(text)
    doc.user_data["procedure"] = grid
    doc = nlp(doc)
    doc._.entity_states["states"] = [["<u>", "<u>", "-"], ["-", "?", "?"]]
    doc._.entity_states["tags"], doc._.entity_states["scores"] = [["E", "D"], ["C", "E"]], [[0.5, 0.25], [0.75, 1.0]]
    page = render_html([doc])
    table = page[page.index('<details class="states">') :]
    assert "2 participants" in table
    assert table.count("<th") == 6  # before, two steps, two names, and the corner
    assert "&lt;i&gt;ice&lt;/i&gt;" in table
    assert "<i>" not in table
    assert '<td dir="auto" class="still">&lt;u&gt;<' in table
    assert "-<small>destroyed 0.25</small>" in table
    assert "?<small>created 0.75</small>" in table
    assert "(empty)" in table
    assert 'class="states"' not in render_html([nlp("It rains."), spacy.blank("en")("x")])


def test_entities_of_the_document(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, participants=["ents"], steps="sentences")
    doc = nlp.make_doc("Ada met Byron. Ada left.")
    doc.ents = [Span(doc, 0, 1, label="X"), Span(doc, 2, 3, label="X")]
    doc.spans["sentences"] = [doc[0:4], doc[4:7]]
    found = nlp(doc)._.entity_states
    assert (found["participants"], found["steps"]) == (["Ada", "Byron"], [[0, 4], [4, 7]])
    assert found["mentions"] == [[[0, 1], [4, 5]], [[2, 3]]]
