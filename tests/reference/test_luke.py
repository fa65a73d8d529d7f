"""The packed encoder computes what the LukeModel of `transformers` computes, in value and in gradient."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LukeModel, LukeTokenizer

from entitykit.models.encoder.families import convert_weights
from entitykit.models.encoder.transformer import TransformerEncoder
from tests.luke import MASK, MAX_MENTION, SIZES, Window, make_encoder, make_model, make_packs, make_window, their_input

TOLERANCE = 1e-5
KINDS = {
    "projected": {},
    "as-wide": {"entity_emb_size": SIZES["hidden_size"]},
    "wider": {"entity_emb_size": 40},
    "one-query": {"use_entity_aware_attention": False},
    "lite": {"entity_vocab_size": 4},  # the special entities only, as in the checkpoints called -lite
    "two-types": {"type_vocab_size": 2},
    "one-layer": {"num_hidden_layers": 1, "num_attention_heads": 1},
}
States = tuple[list[Tensor], Tensor]  # of the pieces in every layer, and of the entity tokens at the top


def make_windows() -> list[Window]:
    """Runs of equal lengths with different numbers of mentions, lone ones, none, repeated, overlapping and long mentions."""
    return [
        make_window(9, (MASK, 1, 3), (MASK, 1, 3), (3, 2, 6)),
        make_window(9),
        make_window(9, (MASK, 0, 9)),
        make_window(2, (1, 1, 2)),
        make_window(80, (MASK, 5, 5 + MAX_MENTION), (MASK, 6, 7 + MAX_MENTION), (3, 0, 80), (MASK, 40, 42)),
        make_window(5),
        make_window(9, (3, 4, 5), (MASK, 4, 5)),
    ]


def theirs(model: LukeModel, windows: Sequence[Window]) -> list[States]:
    """Window by window."""
    found = []
    for window in windows:
        out = model(**their_input(window), output_hidden_states=True)
        nothing = out.last_hidden_state[0, :0]
        entities = out.entity_last_hidden_state[0] if window.mentions else nothing
        found.append(([layer[0] for layer in out.hidden_states], entities))
    return found


def ours(encoder: TransformerEncoder, windows: Sequence[Window]) -> list[States]:
    """From one pack."""
    pack, entities = make_packs(windows)
    layers = range(encoder.settings.n_layers + 1)
    encoded = encoder.with_entities(pack, layers, lambda _: entities)
    assert list(encoded.layers) == [*layers]
    pieces = zip(*(encoded.layers[layer].split(pack.lengths) for layer in layers), strict=True)
    tokens = encoded.entities.split(entities.counts)
    return [([*of_window], e) for of_window, e in zip(pieces, tokens, strict=True)]


def close(found: object, expected: object, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> LukeModel:
    return make_model(LukeModel, **KINDS[request.param])


@torch.no_grad()
def test_states_equal_transformers(model: LukeModel) -> None:
    windows = make_windows()
    encoder = make_encoder(model)
    close(ours(encoder, windows), theirs(model, windows))
    close(ours(encoder.double(), windows), theirs(model.double(), windows), 1e-12)


WINDOWS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(
            st.tuples(st.integers(1, 5), st.integers(0, n - 1), st.integers(1, n)).map(
                lambda mention: (mention[0], min(mention[1], mention[2] - 1), mention[2])
            ),
            max_size=4,
        ),
    )
)


@settings(max_examples=30)
@given(
    windows=st.lists(WINDOWS, min_size=1, max_size=5),
    heads=st.sampled_from([1, 2, 5]),
    head_width=st.sampled_from([1, 3, 8]),
    entity_width=st.integers(1, 12),
    n_layers=st.integers(1, 3),
    own_queries=st.booleans(),
    seed=st.integers(0, 999),
)
@torch.no_grad()
def test_any_sizes_and_windows(
    windows: list[Any], heads: int, head_width: int, entity_width: int, n_layers: int, own_queries: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    model = make_model(
        LukeModel,
        hidden_size=heads * head_width,
        num_attention_heads=heads,
        entity_emb_size=entity_width,
        entity_vocab_size=6,
        num_hidden_layers=n_layers,
        use_entity_aware_attention=own_queries,
        layer_norm_eps=1e-3,  # rows that are nearly constant would magnify rounding in encoders of few dimensions
    )
    made = [make_window(length, *mentions) for length, mentions in windows]
    close(ours(make_encoder(model), made), theirs(model, made))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_gradients_equal_transformers(model: LukeModel, dtype: torch.dtype, tolerance: float) -> None:
    """Of all weights, by a random direction of all states."""
    windows = make_windows()
    encoder = make_encoder(model).to(dtype)
    model.to(dtype)
    expected = theirs(model, windows)
    directions = [([torch.randn_like(layer) for layer in layers], torch.randn_like(e)) for layers, e in expected]

    def backward(states: Sequence[States]) -> None:
        pairs = [
            (state, direction)
            for (layers, e), (of_layers, of_e) in zip(states, directions, strict=True)
            for state, direction in zip([*layers, e], [*of_layers, of_e], strict=True)
        ]
        torch.stack([(state * direction).sum() for state, direction in pairs]).sum().backward()

    backward(expected)
    backward(ours(encoder, windows))
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    # token types are one with the positions in our encoder; a sum's gradient must not be added to its part's
    config = model.config.to_dict() | {"type_vocab_size": 0}
    types = "entity_embeddings.token_type_embeddings.weight"
    gradients[types] = torch.zeros_like(gradients[types])
    converted = convert_weights(gradients, config, encoder.settings, name="")
    found = {name: weight.grad.to_dense().float() for name, weight in encoder.named_parameters()}
    torch.testing.assert_close(found, converted, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_positions_of_a_long_mention(model: LukeModel) -> None:
    """Their tokenizer gives a mention's first 30 positions; all of them would be something else."""
    assert inspect.signature(LukeTokenizer.__init__).parameters["max_mention_length"].default == MAX_MENTION
    encoder = make_encoder(model)
    window = make_window(60, (MASK, 3, 4 + MAX_MENTION))
    first_30 = ours(encoder, [window])
    entities = replace(encoder.settings.entities, max_pieces=0)
    whole = TransformerEncoder(replace(encoder.settings, entities=entities)).eval()
    whole.load_state_dict(encoder.state_dict())
    assert (ours(whole, [window])[0][1] - first_30[0][1]).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_without_any_mention(model: LukeModel) -> None:
    encoder = make_encoder(model)
    windows = [make_window(6), make_window(6), make_window(3)]
    found = ours(encoder, windows)
    close(found, theirs(model, windows))
    pack, _ = make_packs(windows)
    layers = range(encoder.settings.n_layers + 1)
    plain = encoder(pack, layers)
    ends = accumulate(pack.lengths)
    for (states, _), end, length in zip(found, ends, pack.lengths, strict=True):
        assert all(torch.equal(states[layer], plain[layer][end - length : end]) for layer in layers)


@torch.no_grad()
def test_mentions_change_words(model: LukeModel) -> None:
    """Otherwise equality would not show that words see entities."""
    window = make_window(7, (MASK, 2, 4))
    encoder = make_encoder(model)
    with_mention, without = (ours(encoder, [w])[0][0][-1] for w in (window, window._replace(mentions=[])))
    assert ((with_mention - without).abs() > 100 * TOLERANCE).any(1).all()
