"""Language models as encoders: loaded cut, read word by word, saved with the pipeline, trained under a head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import torch
from safetensors.torch import load_file, save_file
from spacy.language import Language
from spacy.tokens import Doc
from spacy.vocab import Vocab
from thinc.api import Model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AlbertConfig, AutoModel, PreTrainedTokenizerFast, T5Config

from entitykit.bridge.architectures import early_lm, entity_encoder
from entitykit.bridge.early_lm import load_early_lm
from entitykit.bridge.pieces import WordPieces
from entitykit.bridge.states import EncoderBatch
from entitykit.errors import CheckpointError, ConfigError
from entitykit.types import TOP
from tests.language_models import N_LAYERS, WIDTH, WITH_FIRST_PIECE, save_language_model
from tests.pipelines import add_head, annotations, encoder_module, make_example, make_examples, train
from tests.util import MAX_PIECES, save_bert, unigrams

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:DeprecationWarning")

VOCAB = Vocab()
TEXT = ["In", "1987", "the", "engineer", "John", "Carpenter", "moved", "from", "Aberdeen", "to", "New", "York", "."]
SMALL: dict[str, Any] = {"window": 40, "overlap": 8, "max_word_pieces": 16, "batch_pieces": 100}
KINDS = ["gpt2", "llama", "neox", "qwen2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: save_language_model(tmp_path_factory.mktemp(kind), kind) for kind in [*KINDS, "modernbert", "deberta"]}


@pytest.fixture
def copy(checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    return shutil.copytree(checkpoints["llama"], tmp_path / "copy")


def make_encoder(path: Path, **settings: Any) -> Model[list[Doc], EncoderBatch]:
    model = early_lm(str(path), **(SMALL | {"n_layers": 2} | settings))
    model.initialize()
    return model


def make_docs(*texts: Sequence[str]) -> list[Doc]:
    return [Doc(VOCAB, words=list(words)) for words in texts]


def states(model: Model[Any, EncoderBatch], docs: list[Doc], layer: int = TOP) -> list[torch.Tensor]:
    batch = model.predict(docs)
    return list(torch.split(batch.states.layers[layer], batch.states.lengths))


@pytest.mark.parametrize("kind", [*KINDS, "modernbert", "deberta"])
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_words_equal_transformers(checkpoints: dict[str, Path], kind: str, pooling: str) -> None:
    """The running text, tokenized by the checkpoint's own tokenizer as it stands."""
    text = " ".join(TEXT[:6])
    encoding = PreTrainedTokenizerFast.from_pretrained(checkpoints[kind])(" " + text, return_offsets_mapping=True)
    with torch.no_grad():
        whole = AutoModel.from_pretrained(checkpoints[kind])
        pieces = whole(input_ids=torch.tensor([encoding["input_ids"]]), output_hidden_states=True).hidden_states[2][0]
    numbers = np.cumsum([c == " " for c in " " + text]) - 1  # of the word that each character belongs to
    tokens = PreTrainedTokenizerFast.from_pretrained(checkpoints[kind]).convert_ids_to_tokens(encoding["input_ids"])
    rows: list[list[int]] = [[] for _ in TEXT[:6]]
    for i, ((start, end), token) in enumerate(zip(encoding["offset_mapping"], tokens, strict=True)):
        if not (token.startswith("<") and end == start):
            rows[numbers[start]].append(i)
    chosen = {"mean": lambda row: pieces[row].mean(0), "first": lambda row: pieces[row[0]], "last": lambda row: pieces[row[-1]]}
    expected = torch.stack([chosen[pooling](row) for row in rows])
    (found,) = states(make_encoder(checkpoints[kind], pooling=pooling, bos=False), make_docs(TEXT[:6]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [True, False])
def test_batch_equals_documents_alone(checkpoints: dict[str, Path], kind: str, bos: bool) -> None:
    """Empty, of white space, short, long, and one that fills a window."""
    model = make_encoder(checkpoints[kind], bos=bos)
    docs = make_docs(TEXT, [], [" ", "\n"], ["Peter"], TEXT * 20, ["a"] * 39, ["a"] * 40, ["a"] * 41, [" "], TEXT)
    together = states(model, docs)
    for doc, found in zip(docs, together, strict=True):
        if len(doc):
            torch.testing.assert_close(found, states(model, [doc])[0], rtol=0, atol=1e-5)
    assert not together[2].any()
    assert all(c["read"] == c["words"] for c in model.predict(docs).coverage)
    alone = model.predict(make_docs([" ", "\n"], [" "]))  # without special pieces there is nothing at all to run
    assert not alone.states.layers[TOP].any()


@pytest.mark.parametrize("family", ["tiny_bert", "tiny_distilbert", "tiny_roberta", "tiny_xlmr"])
def test_equals_the_entity_encoder(request: pytest.FixtureRequest, family: str) -> None:
    """Where both can run a checkpoint, windows, packs and padding make no difference."""
    name, common = str(request.getfixturevalue(family)), SMALL | {"n_layers": None}
    ours, other = entity_encoder(name, **common, word_shapes=False), early_lm(name, **common, pooling="mean")
    docs = make_docs(TEXT * 9, [], [" "], TEXT)
    for model in (ours, other):
        model.initialize()
        model.attrs["layers"] = [TOP, 0, 1]
    for layer in (TOP, 0, 1):
        torch.testing.assert_close(states(other, docs, layer), states(ours, docs, layer), rtol=0, atol=1e-5)
    assert ours.predict(docs).coverage == other.predict(docs).coverage


def test_budget_bounds_what_runs_at_once(checkpoints: dict[str, Path]) -> None:
    """Padding included: short documents do not take the length of a long one."""
    model = make_encoder(checkpoints["llama"], batch_pieces=60)
    sizes: list[int] = []
    model.shims[0].module.model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    states(model, make_docs(*[["a"]] * 15, TEXT * 20))
    assert max(sizes) <= 60 * 5 / 4


@pytest.mark.parametrize("kind", KINDS)
def test_first_piece(checkpoints: dict[str, Path], kind: str) -> None:
    """With one, a text's first word has something to look back at."""
    splitter = make_encoder(checkpoints[kind]).attrs["pieces"]
    assert (splitter.prefix, splitter.suffix) == ((0,), ())
    bare = make_encoder(checkpoints[kind], bos=False).attrs["pieces"]
    assert (bare.prefix, bare.suffix) == ((0,) if kind in WITH_FIRST_PIECE else (), ())


def test_layers_above_are_not_loaded(checkpoints: dict[str, Path]) -> None:
    """Neither blocks nor the head; those that are kept have the checkpoint's weights."""
    tensors = load_file(checkpoints["llama"] / "model.safetensors")
    encoder, _ = load_early_lm(str(checkpoints["llama"]), n_layers=1, bos=True, frozen=True)
    loaded = encoder.model.state_dict()
    assert {name for name in tensors if not name.startswith("model.layers.")} - {f"model.{name}" for name in loaded} == {
        "lm_head.weight"
    }
    assert {name.split(".")[1] for name in loaded if name.startswith("layers.")} == {"0"}
    assert all(torch.equal(tensor, tensors[f"model.{name}"]) for name, tensor in loaded.items())
    whole, _ = load_early_lm(str(checkpoints["llama"]), n_layers=None, bos=True, frozen=True)
    assert whole.settings.n_layers == N_LAYERS
    sizes = [sum(p.numel() for p in model.parameters()) for model in (encoder, whole)]
    assert sizes[1] - sizes[0] == 3 * sum(p.numel() for name, p in loaded.items() if name.startswith("layers.0."))


def test_last_layer_is_the_models_own(checkpoints: dict[str, Path]) -> None:
    """Behind the final norm, and only if no layer was cut."""
    docs = make_docs(TEXT)
    whole, cut = make_encoder(checkpoints["llama"], n_layers=None), make_encoder(checkpoints["llama"], n_layers=N_LAYERS - 1)
    whole.attrs["layers"] = [TOP, N_LAYERS - 1]
    layers = whole.predict(docs).states.layers
    torch.testing.assert_close(layers[N_LAYERS - 1], states(cut, docs)[0], rtol=0, atol=1e-5)
    lengths = layers[TOP].pow(2).mean(1)
    assert (lengths / lengths.mean()).std() < 0.05 < (layers[N_LAYERS - 1].pow(2).mean(1)).std()


def test_frozen_learns_nothing(checkpoints: dict[str, Path]) -> None:
    model = make_encoder(checkpoints["gpt2"])
    batch, backprop = model.begin_update(make_docs(TEXT, []))
    assert not batch.states.layers[TOP].requires_grad
    assert backprop({TOP: torch.ones_like(batch.states.layers[TOP])}) == []
    assert all(p.grad is None for p in model.shims[0].module.parameters())


# Tokenizers


def test_tokenizers_that_prepend_a_mark(tmp_path: Path) -> None:
    """Llama 2's and Gemma's: a mark before the text, or none, and marks for spaces."""
    vocabulary = {piece: i for i, piece in enumerate(["<unk>", "▁", "a", "b", "▁a", "ab", "▁ab"])}
    merges = [("▁", "a"), ("a", "b"), ("▁a", "b")]
    for prepend in (True, False):
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
        steps = [normalizers.Prepend("▁")] if prepend else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
        split = WordPieces(tokenizer.to_str(), max_word_pieces=8)
        assert split.split("ab") == [vocabulary["▁ab"]]
        assert split.split("ab", glued=True) == [vocabulary["ab"]]
        assert (split.prefix, split.suffix, split.n_special, split.mask) == ((), (), 0, 0)


def test_metaspace_that_never_prepends() -> None:
    tokenizer = unigrams()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    split = WordPieces(tokenizer.to_str(), max_word_pieces=8)
    assert tokenizer.id_to_token(split.split("the")[0]) == "▁the"
    assert tokenizer.id_to_token(split.split("the", glued=True)[0]) != "▁the"


# Pipelines


def make_pipeline(path: Path, *heads: str, **settings: Any) -> Language:
    nlp = spacy.blank("xx")
    model = {"@architectures": "entitykit.EarlyLM.v1", "name": str(path), "n_layers": 2, **SMALL, **settings}
    nlp.add_pipe("entitykit_encoder", config={"model": model})
    for kind in heads:
        add_head(nlp, kind)
    return nlp


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frozen", [True, False])
def test_training_saving_and_loading(checkpoints: dict[str, Path], tmp_path: Path, kind: str, frozen: bool) -> None:
    """Two steps under a mention head; the saved pipeline needs no checkpoint."""
    path = shutil.copytree(checkpoints[kind], tmp_path / "checkpoint")
    nlp = make_pipeline(path, "mentions", frozen=frozen)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    before = {name: pipe.model.shims[0].to_bytes() for name, pipe in nlp.pipeline}
    train(nlp, [*examples, make_example(nlp, "", [])], 2, drop=0.1)
    changed = {name: pipe.model.shims[0].to_bytes() != before[name] for name, pipe in nlp.pipeline}
    assert changed == {"entitykit_encoder": not frozen, "mentions": True}
    nlp.to_disk(tmp_path / "nlp")
    shutil.rmtree(path)
    loaded = spacy.load(tmp_path / "nlp")
    assert encoder_module(loaded).settings.frozen == frozen
    texts = ["", " ", *(eg.text for eg in examples)]
    for text, doc in zip(texts, loaded.pipe(texts), strict=True):
        expected = nlp(text)
        assert annotations(doc) == annotations(expected)
        assert doc._.coverage == expected._.coverage
        assert doc.spans["mentions"].attrs["scores"] == pytest.approx(expected.spans["mentions"].attrs["scores"], abs=1e-5)
    again = make_pipeline(path, "mentions", frozen=frozen).from_bytes(nlp.to_bytes())
    assert annotations(again(texts[2])) == annotations(nlp(texts[2]))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_two_processes(checkpoints: dict[str, Path]) -> None:
    nlp = make_pipeline(checkpoints["llama"], "mentions")
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    texts = [eg.text for eg in examples]
    found = [annotations(doc) for doc in nlp.pipe(texts, n_process=2, batch_size=2)]
    assert found == [annotations(nlp(text)) for text in texts]


def test_learns_under_a_frozen_model(checkpoints: dict[str, Path]) -> None:
    nlp = make_pipeline(checkpoints["neox"], "mentions", pooling="mean")
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    losses = train(nlp, examples, 60)
    assert losses[-1]["mentions"] < 0.3 * losses[0]["mentions"]


def test_half_precision_storage(checkpoints: dict[str, Path]) -> None:
    sizes = [len(make_encoder(checkpoints["llama"], storage=storage).to_bytes()) for storage in ("fp32", "fp16")]
    assert sizes[1] < 0.7 * sizes[0]


# What cannot be run


def change_config(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        (path / "config.json").write_text(json.dumps(config | values), encoding="utf-8")

    return change


def drop_tensor(path: Path) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def save_kind(config: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        AutoModel.from_config(config).save_pretrained(path)

    return change


SIZES = {"vocab_size": 120, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda path: (path / "config.json").unlink(), "E002.*has no configuration"),
        (lambda path: (path / "tokenizer.json").unlink(), "E002.*has no tokenizer"),
        (change_config(model_type="unheard-of"), "E003.*model type 'unheard-of'"),
        (lambda path: (path / "config.json").write_text('{"model_type": "clip"}'), "E003.*model type 'clip'.*text alone"),
        (save_kind(T5Config(**SIZES, d_model=16, d_kv=4, d_ff=16, num_heads=4)), "E003.*kind 'encoder and decoder'"),
        (
            save_kind(AlbertConfig(**SIZES, hidden_size=16, num_attention_heads=4, embedding_size=8, intermediate_size=8)),
            "E003.*architecture 'AlbertModel has no list of 2 blocks'",
        ),
        (drop_tensor, r"E004.*no tensor 'layers\.1\.mlp\.up_proj\.weight'"),
        (change_config(intermediate_size=64), "E005"),
        (lambda path: (path / "config.json").write_text("{"), "E005"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x"), "E005"),
        (lambda path: (path / "tokenizer.json").write_text('{"version": "1.0"'), "E005"),
    ],
)
def test_damaged_or_foreign_checkpoint(copy: Path, damage: Callable[[Path], None], code: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=code) as raised:
        make_encoder(copy)
    assert str(copy) in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_layers": 0}, rf"n_layers is 0; expected 1-{N_LAYERS}"),
        ({"n_layers": N_LAYERS + 1}, rf"n_layers is {N_LAYERS + 1}; expected 1-{N_LAYERS}"),
        ({"window": MAX_PIECES + 1}, rf"window is {MAX_PIECES + 1} with .* expected at most {MAX_PIECES}, .* word \+ 1\."),
        ({"max_word_pieces": 32}, "window is 40 with an overlap of 8 and words of up to 32 pieces"),
        ({"overlap": 0}, "overlap is 0"),
        ({"batch_pieces": 0}, "batch_pieces is 0"),
        ({"pooling": "max"}, "pooling is max; expected mean or first or last"),
        ({"storage": "int4"}, "storage is int4"),
    ],
)
def test_settings_out_of_range(checkpoints: dict[str, Path], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"E007.*{message}"):
        make_encoder(checkpoints["llama"], **settings)


def test_one_layer_of_a_model_with_a_convolution(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=rf"E007.*n_layers is 1; expected 2-{N_LAYERS}"):
        make_encoder(checkpoints["deberta"], n_layers=1)


def test_unknown_name() -> None:
    with pytest.raises(CheckpointError, match="E001.*'no/such-model'"):
        make_encoder(Path("no/such-model"))


def test_saved_model_that_transformers_no_longer_knows(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = make_encoder(checkpoints["gpt2"])
    settings = model.shims[0].settings
    settings["encoder"]["config"]["model_type"] = "forgotten"
    with pytest.raises(CheckpointError, match="E003.*model type 'forgotten'"):
        early_lm("anything").from_bytes(model.to_bytes())


def test_component_asks_for_a_layer_that_was_cut(checkpoints: dict[str, Path]) -> None:
    nlp = spacy.blank("xx")
    model = {"@architectures": "entitykit.EarlyLM.v1", "name": str(checkpoints["gpt2"]), "n_layers": 2, **SMALL}
    nlp.add_pipe("entitykit_encoder", config={"model": model})
    add_head(nlp, "mentions", model={"layer": 3})
    examples = make_examples(nlp)
    with pytest.raises(ConfigError, match="E104.*layer 3, but the encoder has 2 layers"):
        nlp.initialize(lambda: examples)


def test_positions_of_roberta(tmp_path: Path) -> None:
    """Its first position is 2, so two of its rows are no room for pieces."""
    path = save_language_model(tmp_path / "roberta", "roberta")
    settings = load_early_lm(str(path), n_layers=2, bos=True, frozen=True)[0].settings
    assert (settings.n_positions, settings.first_position, settings.pad) == (MAX_PIECES + 2, 2, 1)
    bert = load_early_lm(str(save_bert(tmp_path / "bert")), n_layers=1, bos=True, frozen=True)[0].settings
    assert (bert.n_positions, bert.first_position, bert.width) == (MAX_PIECES, 0, WIDTH)
