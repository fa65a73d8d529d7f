"""Each mistake in a config, a corpus or a folder gives a code that says what to do."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import spacy
from confection import ConfigValidationError
from spacy.language import Language
from spacy.tokens import Doc, Span
from spacy.training import Example

from entitykit.errors import CheckpointError, ConfigError, EntityKitWarning, OutputError
from tests.pipelines import HEADS, add_head, initialized, make_example, make_examples, make_pipeline, train

OURS = ["mentions", "span_ner", "nested", "spert"]
ENCODER = "entitykit_encoder"


def unannotated(nlp: Language, words: str) -> Example:
    return Example(Doc(nlp.vocab, words=words.split()), Doc(nlp.vocab, words=words.split()))


@pytest.mark.parametrize(
    ("kind", "settings", "found"),
    [
        ("mentions", {"threshold": 0.0}, "threshold of 'mentions' is 0.0"),
        ("mentions", {"threshold": 1.0}, "threshold of 'mentions' is 1.0"),
        ("mentions", {"decoder": "best"}, "decoder of 'mentions' is best; expected one of overlapping, greedy"),
        ("mentions", {"per_word": -0.5}, "per_word of 'mentions' is -0.5"),
        ("mentions", {"candidates": -1.0}, "candidates of 'mentions' is -1.0"),
        ("span_ner", {"annotate": "entities"}, "annotate of 'span_ner' is entities; expected ents or spans"),
        ("span_ner", {"threshold": 1.5}, "threshold of 'span_ner' is 1.5"),
        ("span_ner", {"decoder": "best"}, "decoder of 'span_ner' is best"),
        ("span_ner", {"decoder": "overlapping"}, "decoder of 'span_ner' is overlapping; expected one of greedy, exact_flat"),
        ("span_ner", {"decoder": "exact_nested"}, "decoder of 'span_ner' is exact_nested"),
        ("nested", {"decoder": "best"}, "decoder of 'nested' is best; expected one of overlapping"),
    ],
)
def test_bad_settings(kind: str, settings: dict[str, object], found: str) -> None:
    with pytest.raises(ConfigError, match=f"E109.*{found}"):
        add_head(spacy.blank("xx"), kind, **settings)


@pytest.mark.parametrize("kind", ["mentions", "span_ner", "spert"])
def test_unknown_settings(tiny_bert: Path, kind: str) -> None:
    with pytest.raises(ConfigValidationError, match="treshold"):
        add_head(spacy.blank("xx"), kind, treshold=0.5)
    with pytest.raises(ConfigValidationError, match="widnow"):
        add_head(spacy.blank("xx"), kind, model={"widnow": 5})
    with pytest.raises(ConfigValidationError, match="windwo"):
        make_pipeline(tiny_bert, encoder={"windwo": 5})


@pytest.mark.parametrize("kind", OURS)
def test_no_encoder(kind: str) -> None:
    nlp = make_pipeline(None, kind)
    with pytest.raises(ConfigError, match=rf"E105.*'{kind}'.*entitykit_encoder"):
        nlp.initialize(lambda: make_examples(nlp))


@pytest.mark.parametrize("kind", OURS)
def test_encoder_behind_its_head(tiny_bert: Path, kind: str) -> None:
    nlp = make_pipeline(tiny_bert)
    factory, model, config = HEADS[kind]
    nlp.add_pipe(factory, name=kind, config={"model": model, **config}, first=True)
    with pytest.raises(ConfigError, match=f"E105.*'{kind}'"):
        nlp.initialize(lambda: make_examples(nlp))


@pytest.mark.parametrize("kind", OURS)
def test_encoder_disabled_in_prediction(tiny_bert: Path, kind: str) -> None:
    nlp, _ = initialized(tiny_bert, kind)
    with pytest.raises(ConfigError, match="E102.*'John met….*before it"):
        nlp("John met", disable=[ENCODER])
    assert not nlp("", disable=[ENCODER]).spans.get("ents")


@pytest.mark.parametrize(
    ("kind", "keys"), [("mentions", "mentions, sc, ents"), ("span_ner", "ents"), ("nested", "sc"), ("spert", "ents")]
)
def test_no_annotations(tiny_bert: Path, kind: str, keys: str) -> None:
    nlp = make_pipeline(tiny_bert, kind)
    with pytest.raises(ConfigError, match=rf"E106.*'{kind}' under: {keys}\."):
        nlp.initialize(lambda: [unannotated(nlp, "John met Mary")])


@pytest.mark.parametrize("kind", ["mentions", "coref", "salience", "tracker"])
def test_no_examples(tiny_bert: Path, kind: str) -> None:
    """Components that have no labels to learn begin without examples, as spaCy's do."""
    nlp = make_pipeline(tiny_bert, kind)
    nlp.initialize()
    assert len(nlp("Mary Jones went to New York")) == 6


@pytest.mark.parametrize("kind", ["span_ner", "relations"])
def test_no_examples_for_labels(tiny_bert: Path, kind: str) -> None:
    nlp = make_pipeline(tiny_bert, kind)
    with pytest.raises(ConfigError, match=r"E106.*nlp.initialize\(\) without examples"):
        nlp.initialize()
    nlp.config["initialize"]["components"][kind] = {"labels": ["Next"]}
    nlp.initialize()
    assert nlp.get_pipe(kind).labels == ("Next",)


@pytest.mark.parametrize("kind", ["span_ner", "nested", "spert"])
def test_unseen_label(tiny_bert: Path, kind: str) -> None:
    nlp, _ = initialized(tiny_bert, kind)
    with pytest.raises(ConfigError, match=rf"E110.*'{kind}' met the label 'THING'.*PERSON, PLACE"):
        train(nlp, [make_example(nlp, "a red book", [(0, 3, "THING")])], 1)


def test_labels_from_the_config(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, "span_ner")
    nlp.config["initialize"]["components"]["span_ner"] = {"labels": ["PLACE", "THING", "PERSON"]}
    nlp.initialize(lambda: make_examples(nlp))
    assert nlp.get_pipe("span_ner").labels == ("PLACE", "THING", "PERSON")
    assert nlp.get_pipe("span_ner").head.outer.out_features == 4
    train(nlp, [make_example(nlp, "a red book", [(0, 3, "THING")])], 1)


@pytest.mark.parametrize("kind", OURS)
def test_documents_without_annotation_teach_nothing(tiny_bert: Path, kind: str) -> None:
    """A corpus may be annotated in part: what is not annotated is not negative."""
    nlp, examples = initialized(tiny_bert, kind)
    others = [unannotated(nlp, "Mary went to Rome"), unannotated(nlp, "it rained")]
    negative = make_example(nlp, "Mary went to Rome", [])
    pipe = nlp.get_pipe(kind)

    def loss(batch: list[Example]) -> float:
        return nlp.update(batch, sgd=False, losses={})[kind]  # type: ignore[arg-type]

    assert loss(others) == 0
    assert loss([others[0], *examples, others[1]]) == pytest.approx(loss(examples), rel=1e-4)
    assert loss([negative, *examples]) != pytest.approx(loss(examples), rel=1e-4)
    assert pipe.labels == (() if kind == "mentions" else ("PERSON", "PLACE"))


@pytest.mark.parametrize(("kind", "longest"), [("mentions", 6), ("nested", 6), ("spert_nested", 6)])
def test_wide_gold_spans(tiny_bert: Path, kind: str, longest: int) -> None:
    """A warning says how many are out of reach; training and prediction go on."""
    nlp = make_pipeline(tiny_bert, kind)
    wide = make_example(nlp, "the old town hall of New York", [(0, 7, "PLACE"), (5, 7, "PLACE"), (0, 4, "PLACE")])
    with pytest.warns(
        EntityKitWarning, match=rf"W102.*1 of 3 gold spans of '{kind}' are wider than the {longest} words.*widest: 7"
    ):
        nlp.initialize(lambda: [wide])
    train(nlp, [wide], 3)
    nlp(wide.text)


@pytest.mark.parametrize("kind", ["nested", "spert_nested"])
def test_gold_spans_with_several_labels(tiny_bert: Path, kind: str) -> None:
    """A head that classifies spans learns one label of each, and says so."""
    nlp = make_pipeline(tiny_bert, kind)
    examples = make_examples(nlp)
    double = make_example(nlp, "the town of New York", [(3, 5, "PLACE"), (3, 5, "PERSON"), (0, 5, "PLACE")])
    with pytest.warns(EntityKitWarning, match=rf"W103. 1 places have gold spans with more than one label; '{kind}' learns one"):
        nlp.initialize(lambda: [*examples, double])
    train(nlp, [*examples, double], 2)


def test_reference_whose_spans_touch_no_word(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner")
    reference = Doc(nlp.vocab, words=["a", " ", "b"])
    reference.set_ents([Span(reference, 1, 2, label="PLACE")])
    with pytest.warns(EntityKitWarning, match="W101"):
        nlp.update([*examples, Example(Doc(nlp.vocab, words=["a", "b"]), reference)], sgd=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [ENCODER, "span_ner"])
def test_folder_that_cannot_be_written(tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner")
    file = tmp_path / "file"
    file.write_text("in the way")
    with pytest.raises(OutputError, match=rf"E107.*{file}"):
        nlp.get_pipe(name).to_disk(file / "component")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="E107.*No space left"):
        nlp.to_disk(tmp_path / "nlp")


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def shorten(file: str, *, to: float) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(len(data) * to)])

    return cut


@pytest.mark.parametrize("name", [ENCODER, "span_ner"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (remove("cfg.json"), r"E108.*cfg\.json"),
        (remove("weights.safetensors"), r"E108.*weights\.safetensors"),
        (shorten("weights.safetensors", to=0.0), r"E005.*weights\.safetensors"),
        (shorten("weights.safetensors", to=0.01), r"E005.*weights\.safetensors"),
        (shorten("weights.safetensors", to=0.9), r"E005.*weights\.safetensors"),
        (shorten("cfg.json", to=0.5), r"E005.*cfg\.json"),
        (shorten("cfg.json", to=0.0), r"E005.*cfg\.json"),
    ],
    ids=["no cfg", "no weights", "empty weights", "1 % of weights", "90 % of weights", "half of cfg", "empty cfg"],
)
def test_damaged_folder(tiny_bert: Path, tmp_path: Path, name: str, damage: Callable[[Path], None], code: str) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner")
    nlp.to_disk(tmp_path / "nlp")
    damage(tmp_path / "nlp" / name)
    with pytest.raises(CheckpointError, match=code):
        spacy.load(tmp_path / "nlp")


@pytest.mark.parametrize(
    "damage", [remove("tok2vec"), shorten("tok2vec", to=0.5), shorten("tok2vec", to=0.0)], ids=["gone", "half", "empty"]
)
def test_damaged_embedding_layer(tiny_bert: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner")
    nlp.to_disk(tmp_path / "nlp")
    damage(tmp_path / "nlp" / "span_ner")
    with pytest.raises(CheckpointError, match="E005|E108"):
        spacy.load(tmp_path / "nlp")


def test_weights_of_another_component(tiny_bert: Path, tmp_path: Path) -> None:
    nlp, _ = initialized(tiny_bert, "span_ner", "mentions")
    nlp.to_disk(tmp_path / "nlp")
    shutil.copy(tmp_path / "nlp" / ENCODER / "weights.safetensors", tmp_path / "nlp" / "span_ner" / "weights.safetensors")
    with pytest.raises(CheckpointError, match="E005"):
        spacy.load(tmp_path / "nlp")


@pytest.mark.parametrize("kind", OURS)
def test_not_initialized(tiny_bert: Path, kind: str) -> None:
    nlp = make_pipeline(tiny_bert, kind)
    nlp.get_pipe(ENCODER).initialize(list, nlp=nlp)
    with pytest.raises(ConfigError, match="E101"):
        nlp("John met Mary")
    with pytest.raises(ConfigError, match="E101"):
        nlp.update([make_example(nlp, "John met Mary", [])])
