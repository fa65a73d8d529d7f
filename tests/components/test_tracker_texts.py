"""The tracker's texts: which rows are those of which words, what is cut or left out, and what is said of it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from entitykit.bridge.tracker import NAME_PIECES, StepTexts
from entitykit.components.procedures import Sources, find_procedure
from entitykit.errors import EntityKitWarning
from tests.components.test_tracker import INPUTS, given_docs, initialized, with_steps

SOURCES = Sources(("participants", "mentions"), "steps", None, 4)


@pytest.mark.parametrize("form", ["entity_first", "one_pass"])
@pytest.mark.parametrize("longest", [200, 60, 45])
def test_rows_are_those_of_the_words(tiny_bert: Path, form: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text says at a word's rows are the word's pieces, wherever texts are cut."""
    nlp, _ = initialized(tiny_bert, form)
    texts = StepTexts(nlp.get_pipe("entitykit_tracker").model, "tracker")
    reader = texts.reader
    monkeypatch.setattr(type(reader), "longest", longest)
    docs = given_docs(nlp)
    procedures = [find_procedure(doc, SOURCES, "tracker") for doc in docs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntityKitWarning)
        sequences, readings = texts.compose(docs, procedures)
    ids = [piece for sequence in sequences for piece in sequence[0].tolist()]
    assert max(sequence.shape[1] for sequence in sequences) <= longest
    for doc, procedure, own in zip(docs, procedures, readings, strict=True):
        pieces = texts._splitter([doc])
        for participant, reading in zip(procedure.participants, own, strict=True):
            assert len(reading.marks) == procedure.n_moments
            for text in range(len(reading.firsts)):
                for word in range(len(doc)):
                    first, n = int(reading.firsts[text, word]), int(reading.counts[text, word])
                    start = int(pieces.starts[word])
                    assert ids[first : first + n] == pieces.ids[start : start + n].tolist()
                    assert n in (0, int(pieces.counts[word]))
                    if form == "one_pass" and longest == 200:
                        assert n or doc[word].is_space
            if form == "one_pass":
                assert all(ids[mark] == int(reader.stop[0]) for mark in reading.marks)
                assert len(set(reading.marks.tolist())) == procedure.n_moments
            else:
                assert all(ids[mark] == ids[0] for mark in reading.marks)
                name = reader.tokenize([participant.name])[0].tolist()
                mark = int(reading.marks[0])
                assert ids[mark + 1 : mark + 1 + len(name)] == name
                # a text has the words of its own step and of none behind it
                for text, (_, end) in enumerate(procedure.steps):
                    assert not reading.counts[text, end:].any()


@pytest.mark.parametrize("form", ["entity_first", "one_pass"])
def test_a_step_that_is_cut_counts_once(tiny_bert: Path, form: str) -> None:
    """However many participants have a text with it; each long name counts, and so does each document."""
    nlp, _ = initialized(tiny_bert, form)
    docs = [nlp.make_doc(f"{'rain ' * 300}. It ends. {'ice ' * 300}") for _ in range(2)]
    ends = [docs[0].text.index(". It"), docs[0].text.index("ice")]
    for doc in docs:
        names = ["rain", "sun", "x " * (NAME_PIECES + 1), "y " * (NAME_PIECES + 1)]
        steps = [[0, ends[0]], ends, [ends[1], len(doc.text)]]
        doc.user_data["procedure"] = {"participants": names, "steps": steps}
    texts = StepTexts(nlp.get_pipe("entitykit_tracker").model, "tracker")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts.compose(docs, [find_procedure(doc, SOURCES, "tracker") for doc in docs])
    (said,) = [str(each.message) for each in caught if "W610" in str(each.message)]
    assert said.startswith("[W610] 8 names or steps")  # of each document two names and two steps


def test_what_is_cut_is_said(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nlp, _ = initialized(tiny_bert, "one_pass")
    doc = nlp.make_doc("rain " * 300)
    doc.user_data["procedure"] = {"participants": ["rain"], "steps": [[0, len(doc.text)]]}
    with pytest.warns(EntityKitWarning, match=r"\[W610\] 1 names or steps have more pieces than 'entitykit_tracker'"):
        nlp(doc)
    doc = nlp.make_doc("It rains.")
    doc.user_data["procedure"] = {"participants": ["x " * (NAME_PIECES + 1)], "steps": [[0, 9]]}
    with pytest.warns(EntityKitWarning, match=r"\[W610\] 1 "):
        nlp(doc)
    long = [f"It rains for the {i}th time on the lake and on the sea." for i in range(30)]
    text, grid = with_steps(long, {"participants": ["rain"]})
    with warnings.catch_warnings():
        warnings.simplefilter("error", EntityKitWarning)
        doc = nlp.make_doc(text)
        doc.user_data["procedure"] = grid
        assert len(nlp(doc)._.entity_states["states"][0]) == 31
    by_step, _ = initialized(tiny_bert, "entity_first")
    doc = by_step.make_doc(text)
    doc.user_data["procedure"] = grid
    with pytest.warns(EntityKitWarning, match=r"\[W611\] \d+ texts of 'entitykit_tracker' .*left out their first steps"):
        by_step(doc)


@pytest.mark.filterwarnings(r"ignore:\[W611\]")
@pytest.mark.parametrize("form", INPUTS)
def test_long_documents_are_bounded(tiny_bert: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their participants, steps and places are; and what is left out is said."""
    nlp, _ = initialized(tiny_bert, form)
    nlp.add_pipe("sentencizer", first=True)
    pipe = nlp.get_pipe("entitykit_tracker")
    doc = nlp.make_doc(" ".join(f"Ice {i} melts in cave {i} ." for i in range(20)) + " Rain falls on rain on rain .")
    words = [token.text for token in doc]
    doc.spans["mentions"] = [doc[i : i + 1] for i, word in enumerate(words) if word.isdigit() or word.lower() == "rain"]
    whole = find_procedure(nlp.get_pipe("sentencizer")(doc.copy()), SOURCES, "tracker")
    most = 8 * (whole.n_words * (22 if form == "entity_first" else 1) + 22 * 12)
    monkeypatch.setitem(pipe.settings, "max_cells", most)
    scored, decide = [], pipe._tracks
    monkeypatch.setattr(pipe, "_tracks", lambda output, parts: scored.append(len(output.places)) or decide(output, parts))
    n = len(whole.places)
    message = rf"\[W613\] 'entitykit_tracker' left out 13 of 21 participants and {n - 10} of {n} places.*than {most} cells"
    with pytest.warns(EntityKitWarning, match=message):
        written = nlp(doc)._.entity_states
    assert written["participants"] == [*"0123456", "Rain"]  # in their order, and Rain, which is mentioned most often
    assert sum(scored) == 8 * 22 * 12
    monkeypatch.setitem(pipe.settings, "max_cells", 10)
    with pytest.warns(EntityKitWarning, match=rf"\[W613\] .* 21 of 21 participants and {n} of"):
        assert nlp(doc)._.entity_states["states"] == []


def test_what_can_be_done_about_long_documents(tiny_bert: Path) -> None:
    for form, advice in (
        ("entity_first", "Train it with input = 'one_pass'.* or raise max_cells"),
        ("one_pass", "Name the participants"),
    ):
        nlp, _ = initialized(tiny_bert, form, max_cells=80)
        with pytest.warns(EntityKitWarning, match=rf"\[W613\].*to score no more than 80 cells\. {advice}"):
            nlp(given_docs(nlp)[0])
