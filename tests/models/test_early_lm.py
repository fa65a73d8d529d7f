"""The lowest layers of a language model give what `transformers` gives, and nothing else of the model is there."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AlbertConfig, AutoModel, PreTrainedModel

from entitykit.models.encoder.early_lm import EarlyLM, EarlyLMSettings, find_blocks, padded_batches
from entitykit.models.encoder.transformer import Pack
from tests.language_models import DECODERS, MODELS, N_LAYERS, WIDTH, make_model

# transformers' ModernBERT and DeBERTa use what this torch advises against
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated:DeprecationWarning")

VOCAB_SIZE = 50
LENGTHS = (1, 2, 2, 0, 9, 30, 3, 0)


def make_pack(lengths: Sequence[int], *, lowest: int = 3) -> Pack:
    positions = torch.cat([torch.arange(length) for length in lengths])
    ids = torch.randint(lowest, VOCAB_SIZE, (sum(lengths),), generator=torch.Generator().manual_seed(0))
    return Pack(ids, positions, torch.zeros_like(ids), tuple(lengths))


def cut(whole: PreTrainedModel, n_layers: int, *, frozen: bool = True) -> EarlyLM:
    config = copy.deepcopy(whole.config)
    config.num_hidden_layers = n_layers
    model = AutoModel.from_config(config)
    model.load_state_dict(whole.state_dict(), strict=False)
    settings = EarlyLMSettings(
        config={}, width=WIDTH, n_layers=n_layers, has_top=n_layers == N_LAYERS, n_positions=128, pad=1, frozen=frozen
    )
    return EarlyLM(settings, model).eval()


def theirs(whole: PreTrainedModel, pack: Pack) -> list[Tensor]:
    """Each layer's states, every sequence read alone; the last layer is behind the model's final norm."""
    layers: list[list[Tensor]] = [[] for _ in range(N_LAYERS + 1)]
    for ids in pack.ids.split(pack.lengths):
        if len(ids):
            with torch.no_grad():
                output = whole(input_ids=ids[None], output_hidden_states=True)
            for found, states in zip(layers, (*output.hidden_states[:-1], output.last_hidden_state), strict=True):
                found.append(states[0])
    return [torch.cat(found) for found in layers]


@pytest.fixture(scope="module", params=MODELS)
def whole(request: pytest.FixtureRequest) -> PreTrainedModel:
    return make_model(MODELS[request.param](VOCAB_SIZE))


@torch.no_grad()
@pytest.mark.parametrize("n_layers", [2, 3, N_LAYERS])
def test_equals_transformers(whole: PreTrainedModel, n_layers: int) -> None:
    pack = make_pack(LENGTHS)
    expected = theirs(whole, pack)
    found = cut(whole, n_layers)(pack, range(n_layers + 1))
    assert sorted(found) == list(range(n_layers + 1))
    for layer, states in found.items():
        torch.testing.assert_close(states, expected[layer], rtol=0, atol=1e-5)
        others = [other for i, other in enumerate(expected) if i != layer]
        assert all((states - other).abs().max() > 0.01 for other in others)  # the test can tell layers apart


@torch.no_grad()
def test_any_set_of_layers(whole: PreTrainedModel) -> None:
    pack = make_pack(LENGTHS)
    encoder = cut(whole, 3)
    expected = encoder(pack, {0, 1, 2, 3})
    for layers in ({0}, {1}, {3}, {2, 0}, {3, 1}):
        found = encoder(pack, layers)
        assert found.keys() == layers
        for layer, states in found.items():
            torch.testing.assert_close(states, expected[layer], rtol=0, atol=0)


@torch.no_grad()
def test_blocks_above_the_highest_layer_are_not_run(whole: PreTrainedModel) -> None:
    encoder = cut(whole, 3)
    blocks = list(encoder.model.get_submodule(find_blocks(encoder.model, 3)))
    run: list[int] = []
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, i=i: run.append(i))
    for top in (0, 1, 2, 3):
        run.clear()
        encoder(make_pack((4, 4)), {top})
        assert run == list(range(top))


def test_layers_that_are_cut_are_gone(whole: PreTrainedModel) -> None:
    blocks = whole.get_submodule(find_blocks(whole, N_LAYERS))
    encoder = cut(whole, 2)
    missing = sum(p.numel() for p in whole.parameters()) - sum(p.numel() for p in encoder.parameters())
    assert missing == sum(p.numel() for block in list(blocks)[2:] for p in block.parameters()) > 0


@torch.no_grad()
def test_sequences_do_not_touch(whole: PreTrainedModel) -> None:
    encoder = cut(whole, 3)
    pack = make_pack((5, 6, 6))
    before = encoder(pack, {3})[3]
    pack.ids[5:] = pack.ids[5:].flip(0)
    after = encoder(pack, {3})[3]
    torch.testing.assert_close(after[:5], before[:5], rtol=0, atol=1e-6)
    assert not torch.allclose(after[5:], before[5:], atol=1e-3)


def test_nothing_to_read() -> None:
    encoder = cut(make_model(MODELS["gpt2"](VOCAB_SIZE)), 2)
    for lengths in ((), (0, 0)):
        states = encoder(Pack(*(torch.zeros(0, dtype=torch.long),) * 3, lengths), {0, 2})
        assert {layer: tuple(x.shape) for layer, x in states.items()} == {0: (0, WIDTH), 2: (0, WIDTH)}


def test_frozen_keeps_no_graph_and_no_dropout(whole: PreTrainedModel) -> None:
    encoder = cut(whole, 2).train()
    assert not any(module.training for module in encoder.modules())
    assert not encoder(make_pack(LENGTHS), {2})[2].requires_grad


def test_gradients_equal_those_of_the_whole_model(whole: PreTrainedModel) -> None:
    """Through padding, and past sequences without pieces."""
    pack = make_pack(LENGTHS)
    encoder = cut(whole, 2, frozen=False)
    encoder.train()
    assert encoder.model.training
    encoder.eval()
    weights = torch.randn(sum(LENGTHS), WIDTH)
    states = encoder(pack, {1, 2})
    ((states[1] + states[2]) * weights).sum().backward()
    whole = copy.deepcopy(whole)
    for ids, weight in zip(pack.ids.split(pack.lengths), weights.split(pack.lengths), strict=True):
        if len(ids):
            hidden = whole(input_ids=ids[None], output_hidden_states=True).hidden_states
            ((hidden[1] + hidden[2])[0] * weight).sum().backward()
    expected = dict(whole.named_parameters())
    n_compared = 0
    for name, parameter in encoder.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-4)
            n_compared += 1
    assert n_compared > 10


def test_decoders_see_leftwards_only() -> None:
    pack = make_pack((8,))
    for kind in MODELS:
        encoder = cut(make_model(MODELS[kind](VOCAB_SIZE)), 3)
        with torch.no_grad():
            before = encoder(pack, {3})[3]
            changed = pack._replace(ids=torch.cat([pack.ids[:-1], pack.ids[-1:] % 40 + 5]))
            after = encoder(changed, {3})[3]
        assert torch.allclose(before[:-1], after[:-1], atol=1e-6) == (kind in DECODERS)


def test_models_without_a_list_of_blocks() -> None:
    config = AlbertConfig(vocab_size=VOCAB_SIZE, hidden_size=WIDTH, num_hidden_layers=3, num_attention_heads=4)
    with pytest.raises(LookupError, match="AlbertModel has no list of 3 blocks"):
        find_blocks(AutoModel.from_config(config), 3)


@given(st.lists(st.integers(0, 60), max_size=40))
def test_padding_is_bounded(lengths: list[int]) -> None:
    batches = list(padded_batches(lengths))
    assert [length for batch in batches for length in batch] == [length for length in lengths if length]
    assert all(4 * len(batch) * max(batch) <= 5 * sum(batch) for batch in batches)


def test_equal_lengths_are_one_batch() -> None:
    assert list(padded_batches([7] * 50)) == [[7] * 50]
    assert list(padded_batches([1, 1, 50])) == [[1, 1], [50]]
