"""What the encoder component writes, what it refuses, and how it is saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training.initialize import init_nlp

from entitykit.bridge import spill
from entitykit.errors import CheckpointError, ConfigError, OutputError
from tests.pipelines import ENCODERS, add_head, annotations, encoder_config, initialized, make_examples, make_pipeline
from tests.util import N_LAYERS, WIDTH

ENCODER = "entitykit_encoder"


@pytest.fixture
def nlp(tiny_bert: Path) -> Language:
    return initialized(tiny_bert)[0]


def test_what_is_written(nlp: Language) -> None:
    text = "John Carpenter moved to New York.\n\n  " * 30
    doc = nlp(text)
    assert doc._.trf_data.model_output.last_hidden_state.shape == (1, len(doc), WIDTH)
    coverage = doc._.coverage
    assert coverage["read"] == coverage["words"] == len(doc)
    assert coverage["windows"] > 1
    assert coverage["shortened"] == 0


def test_a_document_does_not_keep_its_batch(nlp: Language) -> None:
    """Nor is a long one copied, which lies in a file perhaps."""
    short, long = nlp.pipe(["John moved to New York.", "John moved to New York. " * 20])
    states = [doc._.trf_data.model_output.last_hidden_state for doc in (short, long)]
    assert states[0].base.size == states[0].size
    assert states[1].base.size > states[1].size


def test_no_name_is_read_from_two_windows(tiny_bert: Path) -> None:
    """Reading goes over to the next window where a sentence ends, if one does in the middle of what both share."""
    config = encoder_config(tiny_bert)
    config["model"] |= {"window": 120, "overlap": 90}
    nlp = spacy.blank("xx")
    nlp.add_pipe(ENCODER, config=config)
    nlp.initialize(lambda: make_examples(nlp))
    doc = nlp("John Carpenter moved to New York , and then on . " * 12)
    ends = np.cumsum(nlp.get_pipe(ENCODER).model.predict([doc]).states.runs)
    assert len(ends) > 3
    assert {doc[int(end) - 1].text for end in ends} == {"."}


@pytest.mark.parametrize("texts", [[""], ["", ""], ["", "John", ""]], ids=str)
def test_empty_documents(nlp: Language, texts: list[str]) -> None:
    docs = list(nlp.pipe(texts))
    assert [doc._.coverage["read"] for doc in docs] == [len(doc) for doc in docs]
    assert [bool(doc._.trf_data.model_output) for doc in docs] == [len(doc) > 0 for doc in docs]


def test_batches_are_bounded_by_words(tiny_bert: Path) -> None:
    nlp = spacy.blank("xx")
    nlp.add_pipe(ENCODER, config=encoder_config(tiny_bert) | {"batch_words": 10})
    nlp.initialize(lambda: make_examples(nlp))
    batches: list[int] = []
    encoder = nlp.get_pipe(ENCODER)
    predict = encoder.predict
    encoder.predict = lambda docs: batches.append(sum(map(len, docs))) or predict(docs)  # type: ignore[method-assign]
    texts = ["a b c d", "e f g", "h i j k", "l " * 30, "m", ""]
    docs = list(nlp.pipe(texts))
    assert [doc.text for doc in docs] == texts
    assert batches == [7, 4, 30, 1]


def test_failures_go_to_the_error_handler(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """One broken batch does not end the stream, if the user says so."""
    encoder = nlp.get_pipe(ENCODER)
    encoder.batch_words = 3
    predict = encoder.predict

    def fail(docs: list[Doc]) -> object:
        if "bad" in docs[0].text:
            raise RuntimeError
        return predict(docs)

    monkeypatch.setattr(encoder, "predict", fail)
    with pytest.raises(RuntimeError):
        list(nlp.pipe(["a good one", "a bad one", "another good one"]))
    failed: list[str] = []
    nlp.set_error_handler(lambda name, pipe, docs, error: failed.extend(doc.text for doc in docs))
    assert [doc.text for doc in nlp.pipe(["a good one", "a bad one", "another good one"])] == ["a good one", "another good one"]
    assert failed == ["a bad one"]


def test_full_disk(nlp: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill, "SPILL_WORDS", 5)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OutputError, match="E008"):
        nlp("a document of more than five words")


@pytest.mark.parametrize(
    ("kind", "setting", "layer"),
    [
        ("mentions", "layer", N_LAYERS + 1),
        ("span_ner", "probe_layer", 99),
        ("mentions", "layer", -2),
        ("coref", "lower_layers", 9),
    ],
)
def test_layers_that_are_not_there(tiny_bert: Path, kind: str, setting: str, layer: int) -> None:
    nlp = make_pipeline(tiny_bert)
    add_head(nlp, kind, model={setting: [layer] if setting == "lower_layers" else layer})
    with pytest.raises(ConfigError, match=rf"E104.*layer {layer}, but the encoder has {N_LAYERS} layers"):
        nlp.initialize(lambda: make_examples(nlp))


@pytest.mark.parametrize("replacement", ["mentions", "nested"])
def test_layer_can_be_corrected(tiny_bert: Path, replacement: str) -> None:
    """A head that was taken out asks for nothing."""
    nlp = make_pipeline(tiny_bert)
    add_head(nlp, "mentions", model={"layer": 99})
    with pytest.raises(ConfigError, match="E104"):
        nlp.initialize(lambda: make_examples(nlp))
    nlp.remove_pipe("mentions")
    add_head(nlp, replacement)
    nlp.initialize(lambda: make_examples(nlp))
    nlp("John met Mary")


def test_missing_checkpoint() -> None:
    nlp = make_pipeline(Path("no/such"))
    with pytest.raises(CheckpointError, match="E001"):
        nlp.initialize(lambda: make_examples(nlp))


def test_not_initialized(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert)
    with pytest.raises(ConfigError, match=r"E101.*nlp\.initialize"):
        nlp("John")


def test_saved_before_it_was_initialized(tiny_bert: Path, tmp_path: Path) -> None:
    """It is still to be initialized when it is loaded."""
    make_pipeline(tiny_bert, "span_ner").to_disk(tmp_path / "nlp")
    nlp = spacy.load(tmp_path / "nlp")
    nlp.initialize(lambda: make_examples(nlp))
    assert nlp("John met Mary")._.coverage["read"] == 3
    again = make_pipeline(tiny_bert).from_bytes(make_pipeline(tiny_bert).to_bytes())
    again.initialize(lambda: make_examples(again))


def test_loads_without_its_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    nlp = make_pipeline(tiny_bert, encoder={"n_layers": 1, "word_shapes": False})
    nlp.initialize(lambda: make_examples(nlp))
    nlp.to_disk(tmp_path / "nlp")
    loaded = spacy.load(tmp_path / "nlp", config={f"components.{ENCODER}.model.name": "gone"})
    a, b = (pipeline("John met Mary")._.trf_data.model_output.last_hidden_state for pipeline in (nlp, loaded))
    assert (a == b).all()


@pytest.mark.parametrize("storage", ["fp16", "int8"])
def test_smaller_storage(tiny_bert: Path, tmp_path: Path, storage: str) -> None:
    sizes = []
    for kind in ("fp32", storage):
        nlp, _ = initialized(tiny_bert, encoder={"storage": kind})
        nlp.to_disk(tmp_path / kind)
        sizes.append((tmp_path / kind / ENCODER / "weights.safetensors").stat().st_size)
    assert sizes[1] < 0.7 * sizes[0]
    a, b = (
        pipeline("John met Mary")._.trf_data.model_output.last_hidden_state
        for pipeline in (nlp, spacy.load(tmp_path / storage))
    )
    assert abs(a - b).max() < 0.01


@pytest.mark.parametrize("entities", [False, True])
def test_a_trained_encoder_is_a_checkpoint(tiny_bert: Path, tmp_path: Path, entities: bool) -> None:
    """Its folder in a pipeline is a name like any other, with or without the probe and the tokens it was trained with."""
    trained, _ = initialized(tiny_bert, "span_ner_reading")
    trained.to_disk(tmp_path)
    encoder = {} if not entities else ENCODERS["span_ner_reading"]
    nlp = make_pipeline(tmp_path / "entitykit_encoder", *(["span_ner_reading"] if entities else []), encoder=encoder)
    nlp.initialize(lambda: make_examples(nlp))
    text = "John met Mary in London"
    found, expected = (each(text)._.trf_data.model_output.last_hidden_state for each in (nlp, trained))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_heads_folder_is_no_checkpoint(tiny_bert: Path, tmp_path: Path) -> None:
    initialized(tiny_bert, "mentions")[0].to_disk(tmp_path)
    nlp = make_pipeline(tmp_path / "mentions")
    with pytest.raises(CheckpointError, match="E005"):
        nlp.initialize()


@pytest.mark.parametrize("kind", ["spert", "tagger"])
def test_no_head_takes_a_copy_of_the_encoder(tiny_bert: Path, tmp_path: Path, kind: str) -> None:
    """It is refused before anything changes: the pipeline works, is saved and loaded as before."""
    nlp, _ = initialized(tiny_bert, kind)
    before = annotations(nlp("Mary Jones went to New York"))
    with pytest.raises(ConfigError, match=r"\[E124\].*entitykit_encoder"):
        nlp.replace_listeners(ENCODER, kind, ["model.tok2vec"])
    nlp.to_disk(tmp_path / "base")
    assert annotations(spacy.load(tmp_path / "base")("Mary Jones went to New York")) == before
    config = make_pipeline(tiny_bert, kind).config
    config["components"][kind] = {"source": str(tmp_path / "base"), "replace_listeners": ["model.tok2vec"]}
    with pytest.raises(ConfigError, match=r"\[E124\]"):
        spacy.util.load_model_from_config(config, auto_fill=True)


def test_frozen_sourced_encoder(tiny_bert: Path, tmp_path: Path) -> None:
    """A new head on a trained encoder that stays as it is, by spaCy's own start of training."""
    base, examples = initialized(tiny_bert)
    base.to_disk(tmp_path / "base")
    DocBin(docs=[eg.reference for eg in examples]).to_disk(tmp_path / "train.spacy")
    config = make_pipeline(tiny_bert, "spert").config
    config["components"][ENCODER] = {"source": str(tmp_path / "base")}
    config["paths"].update(train=str(tmp_path / "train.spacy"), dev=str(tmp_path / "train.spacy"))
    config["training"].update(frozen_components=[ENCODER], annotating_components=[ENCODER])
    nlp = init_nlp(config)
    losses = nlp.update(make_examples(nlp), sgd=nlp.create_optimizer(), exclude=[ENCODER], annotates=[ENCODER])
    assert losses["spert"] > 0
    assert losses.get(ENCODER, 0) == 0
