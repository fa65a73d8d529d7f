"""The packed encoder computes what `transformers` computes, in value and in gradient, whatever lies beside a sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CamembertConfig, RobertaConfig, XLMRobertaConfig

from entitykit.bridge.checkpoints import find_checkpoint, load_checkpoint
from entitykit.models.encoder.families import convert_weights, settings_from_config
from entitykit.models.encoder.transformer import Pack, TransformerEncoder, pool_words
from tests.util import MAX_PIECES

FAMILIES = ["tiny_bert", "tiny_distilbert", "tiny_roberta", "tiny_xlmr"]
LENGTHS = [7, 2, 7, 7, 3, 40, MAX_PIECES, 3]  # runs of equal lengths, lone ones, the shortest and the longest
LOWEST_ID = 5  # below are the special pieces; RoBERTa counts positions past the padding piece
TOLERANCE = 1e-5


def load(name: str | Path, *, word_shapes: bool | None = None, n_layers: int | None = None) -> TransformerEncoder:
    encoder, _ = load_checkpoint(str(name), word_shapes=word_shapes, n_layers=n_layers, train_pieces=True)
    return encoder.eval()


def make_pack(sequences: Sequence[Tensor]) -> Pack:
    positions = torch.cat([torch.arange(len(ids)) for ids in sequences])
    return Pack(torch.cat(list(sequences)), positions, torch.zeros_like(positions), tuple(map(len, sequences)))


def theirs(model: nn.Module, sequences: Sequence[Tensor]) -> list[list[Tensor]]:
    """The states of every layer *(length, width)* of every sequence, computed one by one."""
    states = [model(ids[None], output_hidden_states=True).hidden_states for ids in sequences]
    return [[layer[0] for layer in of_sequence] for of_sequence in states]


def ours(encoder: TransformerEncoder, sequences: Sequence[Tensor]) -> list[list[Tensor]]:
    """The same from one pack."""
    layers = range(encoder.settings.n_layers + 1)
    states = encoder(make_pack(sequences), layers)
    ends = accumulate(map(len, sequences))
    return [[states[layer][end - len(ids) : end] for layer in layers] for ids, end in zip(sequences, ends, strict=True)]


@pytest.fixture(params=FAMILIES)
def models(request: pytest.FixtureRequest) -> tuple[nn.Module, TransformerEncoder]:
    path: Path = request.getfixturevalue(request.param)
    encoder = load(path, word_shapes=True)
    return AutoModel.from_pretrained(path).eval(), encoder


@pytest.fixture
def sequences(models: tuple[Any, TransformerEncoder]) -> list[Tensor]:
    n_pieces = models[1].settings.vocab_size
    return [torch.randint(LOWEST_ID, n_pieces, (length,)) for length in LENGTHS]


@torch.no_grad()
def test_every_layer_equals_transformers(models: tuple[nn.Module, TransformerEncoder], sequences: list[Tensor]) -> None:
    reference, encoder = models
    assert max(map(len, sequences)) == MAX_PIECES  # the last position's embedding is used
    torch.testing.assert_close(ours(encoder, sequences), theirs(reference, sequences), rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_pack_equals_sequences_alone(models: tuple[nn.Module, TransformerEncoder], sequences: list[Tensor]) -> None:
    encoder = models[1]
    alone = [ours(encoder, [ids])[0] for ids in sequences]
    torch.testing.assert_close(ours(encoder, sequences), alone, rtol=0, atol=TOLERANCE)
    backwards = ours(encoder, sequences[::-1])[::-1]
    torch.testing.assert_close(backwards, alone, rtol=0, atol=TOLERANCE)


def test_gradients_equal_transformers(models: tuple[nn.Module, TransformerEncoder], sequences: list[Tensor]) -> None:
    reference, encoder = models
    directions = [[torch.randn_like(state) for state in states] for states in theirs(reference, sequences)]

    def backward(run: Callable[[], list[list[Tensor]]]) -> None:
        pairs = zip(run(), directions, strict=True)
        sum((x * d).sum() for xs, ds in pairs for x, d in zip(xs, ds, strict=True)).backward()

    backward(lambda: theirs(reference, sequences))
    backward(lambda: ours(encoder, sequences))
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters() if parameter.grad is not None}
    # the gradients have the weights' names; token types are one with the positions in our encoder, and are left out here
    config = reference.config.to_dict() | {"type_vocab_size": 0}
    expected = convert_weights(gradients, config, encoder.settings, name="")
    found = {name: parameter.grad.to_dense() for name, parameter in encoder.named_parameters() if "shapes" not in name}
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_layers_kept_and_layers_run(models: tuple[nn.Module, TransformerEncoder], sequences: list[Tensor]) -> None:
    """Only the layers that are asked for are given, and none above them is run."""
    encoder = models[1]
    encoder.layers[1].register_forward_hook(lambda *_: pytest.fail("the upper layer was run"))
    assert list(encoder(make_pack(sequences), {1})) == [1]
    assert list(encoder(make_pack(sequences), {0, 1})) == [0, 1]


@torch.no_grad()
def test_real_weights_equal_transformers() -> None:
    folder = find_checkpoint("minilm")
    encoder = load("minilm")
    assert encoder.settings.n_shapes  # it is uncased
    texts = ["Paris", "Angela Merkel was born in Hamburg in 1954.", "the 1,000 km race ended at São Paulo's gates " * 8]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    sequences = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
    reference = AutoModel.from_pretrained(folder).eval()
    torch.testing.assert_close(ours(encoder, sequences), theirs(reference, sequences), rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_lowest_layers_of_a_checkpoint(tiny_distilbert: Path, tiny_bert: Path) -> None:
    for path in (tiny_distilbert, tiny_bert):
        whole = load(path)
        cut = load(path, n_layers=1)
        assert len(cut.layers) == 1
        pack = make_pack([torch.arange(LOWEST_ID, 30)])
        assert torch.equal(cut(pack, {1})[1], whole(pack, {1})[1])


def test_words_are_the_means_of_their_pieces() -> None:
    states = torch.randn(6, 3, requires_grad=True)
    index, offsets = torch.tensor([5, 0, 1, 2, 4]), torch.tensor([0, 1, 1, 4])  # the second word has no pieces
    words = pool_words(states, index, offsets)
    expected = torch.stack([states[5], torch.zeros(3), states[[0, 1, 2]].mean(0), states[4]])
    torch.testing.assert_close(words, expected)
    (gradient,) = torch.autograd.grad(words.sum(), states)
    third = 1 / 3
    torch.testing.assert_close(gradient, torch.tensor([third, third, third, 0, 1, 1])[:, None].expand(-1, 3))


@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("kind", [RobertaConfig, XLMRobertaConfig, CamembertConfig])
def test_positions_begin_behind_the_padding_piece(kind: type[Any], pad: int) -> None:
    """Wherever the vocabulary of a model of RoBERTa's kind has that piece."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    config = kind(**sizes, vocab_size=20, max_position_embeddings=MAX_PIECES + pad + 1, pad_token_id=pad)
    model = AutoModel.from_config(config).eval()
    encoder = TransformerEncoder(settings_from_config(config.to_dict(), name="")).eval()
    weights = convert_weights(model.state_dict(), config.to_dict(), encoder.settings, name="")
    encoder.load_state_dict(encoder.state_dict() | weights)
    sequences = [torch.randint(LOWEST_ID, 20, (length,)) for length in (3, MAX_PIECES)]
    for found, expected in zip(ours(encoder, sequences), theirs(model, sequences), strict=True):
        torch.testing.assert_close(found[-1], expected[-1], rtol=0, atol=TOLERANCE)
