"""Entity tokens that read words, at any layer: words do not notice, nor do other tokens, and a late one is as an early one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from entitykit.models.encoder.entities import EntityPack, first_rows, lay_out
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings
from entitykit.models.encoder.transformer import Encoded, Pack, TransformerEncoder

N_LAYERS, WIDTH, N_IDS, MASK = 3, 16, 5, 0
LENGTHS = (6, 6, 9, 6, 12, 12, 1)
# (id, first piece, end) of the tokens of each sequence: none, one, overlapping, repeated, a whole sequence
SPANS = [
    [(0, 0, 2), (0, 1, 4)],
    [],
    [(1, 2, 3), (0, 2, 3), (0, 0, 9), (4, 5, 8)],
    [],
    [(0, 3, 5)],
    [(0, 3, 5), (2, 3, 5), (0, 11, 12)],
    [(3, 0, 1)],
]
PACK = Pack(
    torch.arange(sum(LENGTHS)) % 20,
    torch.cat([torch.arange(length) for length in LENGTHS]),
    torch.zeros(sum(LENGTHS), dtype=torch.long),
    LENGTHS,
)
INJECT = pytest.mark.parametrize("inject_layer", range(N_LAYERS))


def make_tokens(spans: Sequence[Sequence[tuple[int, int, int]]] = SPANS, lengths: Sequence[int] = LENGTHS) -> EntityPack:
    firsts = [end - length for end, length in zip(accumulate(lengths), lengths, strict=True)]
    flat = [(number, first + a, first + b) for first, of in zip(firsts, spans, strict=True) for number, a, b in of]
    sizes = torch.tensor([0] + [b - a for _, a, b in flat])
    rows = [row for _, a, b in flat for row in range(a, b)]
    ids = torch.tensor([number for number, *_ in flat], dtype=torch.long)
    return EntityPack(ids, torch.tensor(rows, dtype=torch.long), sizes.cumsum(0)[:-1], tuple(map(len, spans)))


def make_encoder(inject_layer: int, **entities: Any) -> TransformerEncoder:
    """An encoder none of whose weights is at a value that would hide it, except the projection of a span's states."""
    chosen = {"inject_layer": inject_layer, "vocab_size": N_IDS, "embedding_width": 6, "n_positions": 12} | entities
    encoder = TransformerEncoder(
        EncoderSettings(
            vocab_size=20,
            width=WIDTH,
            n_layers=N_LAYERS,
            n_heads=2,
            inner_width=24,
            n_positions=12,
            entities=EntitySettings(**chosen),
        )
    ).eval()
    for name, parameter in encoder.named_parameters():
        if name != "entities.span.weight":
            torch.nn.init.normal_(parameter, mean=float("norm.weight" in name), std=0.2)
    return encoder


def make_trained(inject_layer: int, **entities: Any) -> TransformerEncoder:
    """And that projection is not zero any more."""
    encoder = make_encoder(inject_layer, **entities)
    if encoder.entities.span is not None:
        torch.nn.init.normal_(encoder.entities.span.weight, std=0.2)
    return encoder


def run(encoder: TransformerEncoder, tokens: EntityPack, *, keep_cache: bool = False, pack: Pack = PACK) -> Encoded:
    return encoder.with_entities(pack, range(N_LAYERS + 1), lambda _: tokens, keep_cache=keep_cache)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@INJECT
@torch.no_grad()
def test_words_are_as_without_tokens(inject_layer: int) -> None:
    encoder = make_trained(inject_layer)
    plain = TransformerEncoder(replace(encoder.settings, entities=None)).eval()
    assert not plain.load_state_dict(encoder.state_dict(), strict=False).missing_keys
    expected = plain(PACK, range(N_LAYERS + 1))
    for found in (encoder(PACK, range(N_LAYERS + 1)), run(encoder, make_tokens()).layers):
        assert list(found) == list(expected)
        assert all(torch.equal(found[layer], expected[layer]) for layer in expected)


def test_gradients_of_the_entities_that_are_there() -> None:
    """A vocabulary of half a million costs what its rows in the batch cost."""
    encoder = make_trained(1)
    run(encoder, make_tokens([[(2, 0, 2), (4, 1, 4)], [], [], [], [], [], [(2, 0, 1)]])).entities.sum().backward()
    gradient = encoder.entities.ids.weight.grad
    assert gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[2, 4]]


@INJECT
@torch.no_grad()
def test_words_that_see_tokens_are_not(inject_layer: int) -> None:
    encoder = make_trained(inject_layer, words_see_entities=True)
    plain, found = encoder(PACK, range(N_LAYERS + 1)), run(encoder, make_tokens()).layers
    has_tokens = torch.tensor([bool(spans) for spans in SPANS]).repeat_interleave(torch.tensor(LENGTHS))
    for layer in range(N_LAYERS + 1):
        changed = (found[layer] - plain[layer]).abs().amax(1) > 1e-5
        assert changed.tolist() == (has_tokens & (layer > inject_layer)).tolist()


@INJECT
@torch.no_grad()
def test_late_tokens_are_as_early_ones(inject_layer: int) -> None:
    encoder, tokens = make_trained(inject_layer), make_tokens()
    early = run(encoder, tokens)
    nothing = make_tokens([[] for _ in SPANS])
    for before in (nothing, make_tokens([spans[:1] for spans in SPANS])):  # nothing was there, or something else
        encoded = run(encoder, before, keep_cache=True)
        assert encoded.entities.shape == (len(before.ids), WIDTH)
        close(encoder.late_entities(encoded.cache, tokens), early.entities)
        assert encoder.late_entities(encoded.cache, nothing).shape == (0, WIDTH)
    assert early.cache is None


@INJECT
@torch.no_grad()
def test_tokens_do_not_see_each_other(inject_layer: int) -> None:
    """Alone, among others, in another order, beside one that changed: a token is the same."""
    encoder, tokens = make_trained(inject_layer), make_tokens()
    together = run(encoder, tokens).entities
    cache = run(encoder, tokens, keep_cache=True).cache
    flat = [(i, span) for i, spans in enumerate(SPANS) for span in spans]
    for (i, span), expected in zip(flat, together, strict=True):
        alone = make_tokens([[span] if k == i else [] for k in range(len(SPANS))])
        close(run(encoder, alone).entities[0], expected, 1e-5)
        close(encoder.late_entities(cache, alone)[0], expected, 1e-5)
    backwards = make_tokens([spans[::-1] for spans in SPANS])
    close(torch.cat([e.flip(0) for e in run(encoder, backwards).entities.split(backwards.counts)]), together, 1e-5)
    changed = run(encoder, tokens._replace(ids=(tokens.ids + torch.eye(len(tokens.ids), dtype=torch.long)[3]) % N_IDS)).entities
    assert (changed != together).any(1).tolist() == [k == 3 for k in range(len(together))]


@INJECT
@torch.no_grad()
def test_tokens_that_see_each_other(inject_layer: int) -> None:
    """They see those of their own sequence only."""
    encoder, tokens = make_trained(inject_layer, entities_see_entities=True), make_tokens()
    together = run(encoder, tokens).entities
    changed = run(encoder, tokens._replace(ids=tokens.ids + (torch.arange(len(tokens.ids)) == 3))).entities
    number = torch.repeat_interleave(torch.arange(len(SPANS)), torch.tensor(tokens.counts))
    assert ((changed - together).abs().amax(1) > 1e-5).tolist() == (number == number[3]).tolist()


@INJECT
@torch.no_grad()
def test_fresh_token_ignores_the_states_of_its_span(inject_layer: int) -> None:
    encoder, tokens = make_encoder(inject_layer), make_tokens()
    a, b = torch.randn(2, sum(LENGTHS), WIDTH)
    assert torch.equal(*(encoder.entities(tokens, PACK.positions, states).states for states in (a, b)))
    expected = encoder.entities.up(encoder.entities.ids(tokens.ids)) + torch.stack(
        [encoder.entities.positions.weight[start:end].mean(0) for spans in SPANS for _, start, end in spans]
    )
    close(encoder.entities(tokens, PACK.positions, a).states, encoder.entities.norm(expected))


@INJECT
def test_training_lets_it_read_them(inject_layer: int) -> None:
    encoder, tokens = make_encoder(inject_layer), make_tokens()
    if inject_layer == 0:  # there, LUKE's tokens know their pieces by attention only
        assert encoder.entities.span is None
        return
    optimizer = torch.optim.SGD(encoder.entities.parameters(), lr=0.1)
    direction = torch.randn(len(tokens.ids), WIDTH)
    (run(encoder, tokens).entities * direction).sum().backward()
    optimizer.step()
    moved = encoder.entities.span.weight.detach()
    assert (moved.abs() > 1e-6).float().mean() > 0.9
    with torch.no_grad():
        states = torch.randn(sum(LENGTHS), WIDTH)
        begun = encoder.entities(tokens, PACK.positions, states).states
        means = torch.stack(
            [
                states[first + start : first + end].mean(0)
                for first, spans in zip([0, *accumulate(LENGTHS)], SPANS, strict=False)
                for _, start, end in spans
            ]
        )
        nothing = encoder.entities(tokens, PACK.positions, torch.zeros_like(states)).states
        close(begun - nothing, means @ moved.T)


@INJECT
def test_gradients_reach_every_weight(inject_layer: int) -> None:
    """From the tokens' states alone; from them words learn, too."""
    encoder = make_trained(inject_layer, max_pieces=3)
    run(encoder, make_tokens()).entities.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.to_dense().isfinite().all(), name
        assert parameter.grad.to_dense().any(), name


def test_late_tokens_have_gradients() -> None:
    encoder = make_trained(1)
    tokens, direction = make_tokens(), torch.randn(sum(map(len, SPANS)), WIDTH)
    parameters = [parameter for name, parameter in encoder.named_parameters() if "pieces" not in name]
    early = torch.autograd.grad((run(encoder, tokens).entities * direction).sum(), parameters)
    cache = run(encoder, make_tokens([[] for _ in SPANS]), keep_cache=True).cache
    late = torch.autograd.grad((encoder.late_entities(cache, tokens) * direction).sum(), parameters)
    torch.testing.assert_close(late, early, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@torch.no_grad()
def test_thousands_of_tokens_in_one_window(dtype: torch.dtype, tolerance: float) -> None:
    """All spans of a window, beside a window with one: each is as it would be alone."""
    encoder = make_trained(1, n_positions=90)
    encoder.embeddings.positions = torch.nn.Embedding(90, WIDTH)
    encoder.to(dtype)
    lengths = (90, 90)
    spans = [(MASK, start, end) for start in range(90) for end in range(start + 1, 91)]
    assert len(spans) == 4095
    pack = Pack(torch.arange(180) % 20, torch.arange(180) % 90, torch.zeros(180, dtype=torch.long), lengths)
    encoded = run(encoder, make_tokens([spans, spans[7:8]], lengths), pack=pack, keep_cache=True)
    assert encoded.entities.shape == (4096, WIDTH)
    for k in (0, 1, 100, 2047, 4094):
        alone = run(encoder, make_tokens([[spans[k]], []], lengths), pack=pack)
        close(encoded.entities[k], alone.entities[0], tolerance)
    late = encoder.late_entities(encoded.cache, make_tokens([spans, []], lengths))
    close(late, encoded.entities[:-1], tolerance)


def test_tokens_begin_where_they_are_proposed() -> None:
    """The proposals are made from the states of the layer where tokens begin, and only from there on are tokens run."""
    encoder = make_trained(2)
    seen = []
    encoded = encoder.with_entities(PACK, {0, 2}, lambda states: seen.append(states) or make_tokens())
    assert torch.equal(seen[0], encoded.layers[2])
    assert sorted(encoded.layers) == [0, 2]
    assert [layer.attention.of_entities is not None for layer in encoder.layers] == [False, False, True]


def test_late_tokens_need_an_encoder_that_only_reads() -> None:
    tokens = make_tokens()
    for seen in ({"words_see_entities": True}, {"entities_see_entities": True}):
        encoder = make_encoder(1, **seen)
        cache = run(encoder, tokens, keep_cache=True).cache
        with pytest.raises(ValueError, match="nothing else sees entity tokens"):
            encoder.late_entities(cache, tokens)


def test_encoder_without_tokens() -> None:
    encoder = TransformerEncoder(replace(make_encoder(1).settings, entities=None))
    with pytest.raises(ValueError, match="has no entity tokens"):
        run(encoder, make_tokens())
    cache = run(make_encoder(1), make_tokens(), keep_cache=True).cache
    with pytest.raises(ValueError, match="has no entity tokens"):
        encoder.late_entities(cache, make_tokens())


SIZES = st.lists(st.integers(0, 5), max_size=6)


@settings(max_examples=30)
@given(sizes=SIZES, most=st.integers(0, 4))
def test_first_rows(sizes: list[int], most: int) -> None:
    tokens = [list(range(10 * k, 10 * k + size)) for k, size in enumerate(sizes)]
    offsets = [0, *accumulate(sizes)][: len(sizes)]
    flat = torch.tensor([row for rows in tokens for row in rows], dtype=torch.long)
    rows, offsets = first_rows(flat, torch.tensor(offsets, dtype=torch.long), most)
    kept = [of_token[:most] if most else of_token for of_token in tokens]
    assert rows.tolist() == [row for of_token in kept for row in of_token]
    assert offsets.tolist() == [0, *accumulate(map(len, kept))][: len(kept)]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3)), max_size=7))
def test_lay_out(sequences: list[tuple[int, int]]) -> None:
    """Groups cover the pack in order; the tokens of each sequence are in its row, and nowhere else."""
    lengths, counts = [length for length, _ in sequences], [count for _, count in sequences]
    groups = lay_out(lengths, counts, torch.device("cpu"))
    assert [group.length for group in groups for _ in range(group.n_sequences)] == lengths
    assert [group.start for group in groups] == [0, *accumulate(g.n_sequences * g.length for g in groups)][: len(groups)]
    found, flat = [], []
    for group in groups:
        if group.tokens is None:
            found += [[]] * group.n_sequences
            continue
        padding = torch.zeros_like(group.tokens, dtype=torch.bool) if group.padding is None else group.padding
        found += [row[~of_row].tolist() for row, of_row in zip(group.tokens, padding, strict=True)]
        flat += group.tokens.flatten()[group.rows].tolist()
    ends = list(accumulate(counts))
    assert found == [list(range(end - count, end)) for end, count in zip(ends, counts, strict=True)]
    assert flat == list(range(sum(counts)))
    assert lay_out(lengths, None, torch.device("cpu")) == [
        group._replace(tokens=None, padding=None, rows=None) for group in groups
    ]
