"""What the encoder adds to BERT: word shapes that start at nothing, layers as asked for, dropout in training only."""

from __future__ import annotations

import torch

from entitykit.models.encoder.settings import EncoderSettings
from entitykit.models.encoder.transformer import Pack, TransformerEncoder

SIZES = {"vocab_size": 20, "width": 8, "n_layers": 2, "n_heads": 2, "inner_width": 16, "n_positions": 10}
PACK = Pack(torch.tensor([1, 2, 3, 4, 5]), torch.tensor([0, 1, 0, 1, 2]), torch.tensor([0, 1, 2, 1, 0]), (2, 3))


def make_encoder(*, n_shapes: int = 0, train_pieces: bool = False) -> TransformerEncoder:
    return TransformerEncoder(EncoderSettings(**SIZES, n_shapes=n_shapes, train_pieces=train_pieces))


@torch.no_grad()
def test_word_shapes_start_at_nothing() -> None:
    plain, shaped = make_encoder().eval(), make_encoder(n_shapes=3).eval()
    shaped.load_state_dict(shaped.state_dict() | plain.state_dict())
    assert torch.equal(plain(PACK, {2})[2], shaped(PACK, {2})[2])
    shaped.embeddings.shapes.weight[1] = 1.0
    changed = (plain(PACK, {0})[0] != shaped(PACK, {0})[0]).any(1)
    assert changed.tolist() == [False, True, False, True, False]


@torch.no_grad()
def test_sequences_without_pieces() -> None:
    encoder = make_encoder().eval()
    (states,) = encoder(PACK, {2}).values()
    (beside,) = encoder(PACK._replace(lengths=(0, 2, 0, 0, 3)), {2}).values()
    assert torch.equal(states, beside)
    nothing = Pack(*(part[:0] for part in PACK[:3]), (0, 0))
    assert encoder(nothing, {2})[2].shape == (0, SIZES["width"])


def test_word_shapes_learn_from_the_start() -> None:
    encoder = make_encoder(n_shapes=3)
    encoder(PACK, {2})[2].square().sum().backward()
    assert encoder.embeddings.shapes.weight.grad.any(1).all()


def test_piece_embeddings_learn_if_asked() -> None:
    assert make_encoder(train_pieces=True).embeddings.pieces.weight.requires_grad
    frozen = make_encoder()
    frozen(PACK, {2})[2].square().sum().backward()
    assert frozen.embeddings.pieces.weight.grad is None
    assert frozen.embeddings.positions.weight.grad[:3].any(1).all()


@torch.no_grad()
def test_dropout_in_training_only() -> None:
    encoder = make_encoder()
    encoder.train()
    assert not torch.equal(encoder(PACK, {2})[2], encoder(PACK, {2})[2])
    encoder.eval()
    assert torch.equal(encoder(PACK, {2})[2], encoder(PACK, {2})[2])
