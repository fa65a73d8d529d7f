from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.settings import EncoderSettings, EntitySettings
from entitykit.models.encoder.transformer import Pack, TransformerEncoder
from entitykit.pretraining.objective import IGNORED, EntityPretraining, Text, mask_entities, mask_words, own_parameters

MASK, VOCAB = 4, 50
COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=30)  # pieces per word


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_words(counts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Random pieces of words between two special ones."""
    words = torch.tensor([-1, *(i for i, n in enumerate(counts) for _ in range(n)), -1])
    return torch.randint(5, VOCAB, words.shape), words


@given(COUNTS, st.floats(0, 1), st.integers(0, 2**31))
def test_words_are_masked_whole(counts: list[int], share: float, seed: int) -> None:
    ids, words = make_words(counts)
    hidden, targets = mask_words(ids, words, share, mask=MASK, vocab_size=VOCAB, generator=generator(seed))
    chosen = targets != IGNORED
    assert torch.equal(targets[chosen], ids[chosen])
    assert torch.equal(hidden[~chosen], ids[~chosen])
    assert not chosen[words < 0].any()
    for word in range(len(counts)):
        of_word = words == word
        assert chosen[of_word].all() or not chosen[of_word].any()
        masked = hidden[of_word] == MASK
        if masked.any() and not masked.all():  # a random piece may be [MASK], too
            assert masked.sum() == 1
    if share == 0:
        assert not chosen.any()
    again, _ = mask_words(ids, words, share, mask=MASK, vocab_size=VOCAB, generator=generator(seed))
    assert torch.equal(hidden, again)


@given(st.sampled_from([0.05, 0.15, 0.5, 1.0]), st.integers(0, 2**31))
def test_shares_of_words(share: float, seed: int) -> None:
    """Each share is within five standard deviations; words have two pieces, of which only the first is counted."""
    n, vocab_size = 20_000, 10_000
    words = torch.arange(n).repeat_interleave(2)
    ids = torch.full_like(words, 7)
    hidden, targets = mask_words(ids, words, share, mask=MASK, vocab_size=vocab_size, generator=generator(seed))
    first, chosen = hidden[::2], targets[::2] != IGNORED
    n_chosen = int(chosen.sum())
    assert abs(n_chosen - share * n) <= 5 * (n * share * (1 - share)) ** 0.5
    for found, expected in (
        ((first == MASK).sum(), 0.8),
        ((chosen & (first == 7)).sum(), 0.1),
        (((first != MASK) & (first != 7)).sum(), 0.1),
    ):
        assert abs(int(found) - expected * n_chosen) <= 5 * (n_chosen * expected * (1 - expected)) ** 0.5 + 2


@given(st.integers(0, 40), st.floats(0, 1), st.integers(0, 2**31))
def test_entities_become_masks(n: int, share: float, seed: int) -> None:
    ids = torch.randint(3, 20, (n,))
    hidden, targets = mask_entities(ids, share, mask=2, generator=generator(seed))
    chosen = targets != IGNORED
    assert torch.equal(hidden == 2, chosen)
    assert torch.equal(torch.where(chosen, targets, hidden), ids)


def test_share_of_entities() -> None:
    _, targets = mask_entities(torch.full((20_000,), 5), 0.15, mask=2, generator=generator())
    assert abs(int((targets != IGNORED).sum()) - 3000) < 250


def make_module(*, words: bool = True, **changes: object) -> EntityPretraining:
    entities = EntitySettings(inject_layer=1, embedding_width=16, n_positions=40, vocab_size=1, mask=0)
    sizes = {"width": 16, "n_layers": 2, "n_heads": 2, "inner_width": 24, "n_positions": 40, "dropout": 0.0, "n_shapes": 3}
    return EntityPretraining(
        TransformerEncoder(EncoderSettings(vocab_size=VOCAB, entities=entities, **sizes)),  # type: ignore[arg-type]
        n_entities=9,
        mask=2,
        words=words,
    )


def make_text(n_entities: int = 3) -> Text:
    """Two windows of 8 pieces, 6 of them words."""
    ids = torch.randint(5, VOCAB, (16,))
    words = torch.tensor([-1, 0, 0, 1, 2, 3, 3, -1, -1, 4, 5, 5, 5, 6, 7, -1])
    pack = Pack(ids, torch.arange(8).repeat(2), torch.where(words < 0, 0, 1), (8, 8))
    tokens = EntityPack(
        torch.arange(3, 3 + n_entities),
        torch.tensor([1, 2, 5, 6, 9][: 2 * n_entities], dtype=torch.long),
        torch.tensor([0, 2, 4][:n_entities], dtype=torch.long),
        (min(n_entities, 2), max(n_entities - 2, 0)),
    )
    return Text(pack, words, tokens)


@torch.no_grad()
def test_losses_are_those_of_all_scores() -> None:
    module, text = make_module(), make_text()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    masked = module.mask(text, words=0.6, entities=0.6, mask_piece=MASK, generator=generator(3))
    assert masked.n_words
    assert masked.n_entities
    losses = module(masked)
    encoded = module.encoder.with_entities(masked.pack, (2,), lambda _: masked.entities)
    assert module.word_head is not None
    assert module.encoder.entities is not None
    words = module.word_head(encoded.layers[2], module.encoder.embeddings.pieces.weight).double().log_softmax(1)
    entities = module.entity_head(encoded.entities, module.encoder.entities.ids.weight).double().log_softmax(1)
    of_words = -sum(words[i, t] for i, t in enumerate(masked.word_targets.tolist()) if t != IGNORED)
    of_entities = -sum(entities[i, t] for i, t in enumerate(masked.entity_targets.tolist()) if t != IGNORED)
    assert float(losses.words) == pytest.approx(float(of_words), rel=1e-5)
    assert float(losses.entities) == pytest.approx(float(of_entities), rel=1e-5)
    found = sum(int(entities[i].argmax()) == t for i, t in enumerate(masked.entity_targets.tolist()))
    assert int(losses.found) == found


def test_shapes_of_masked_words_are_hidden() -> None:
    text = make_text()
    masked = make_module().mask(text, words=1.0, entities=0.0, mask_piece=MASK, generator=generator())
    is_mask = masked.pack.ids == MASK
    assert is_mask.any()
    assert not masked.pack.shapes[is_mask].any()
    assert torch.equal(masked.pack.shapes[~is_mask], text.pack.shapes[~is_mask])


def test_all_entities_begin_as_the_mask() -> None:
    module = make_module()
    assert module.encoder.entities is not None
    assert module.encoder.settings.entities is not None
    rows = module.encoder.entities.ids.weight
    assert rows.shape == (9, 16)
    assert torch.equal(rows, rows[:1].expand_as(rows))
    assert (module.encoder.settings.entities.vocab_size, module.encoder.settings.entities.mask) == (9, 2)


@pytest.mark.parametrize("n_entities", [0, 3])
def test_nothing_hidden_is_no_loss(n_entities: int) -> None:
    module = make_module()
    masked = module.mask(make_text(n_entities), words=0.0, entities=0.0, mask_piece=MASK, generator=generator())
    losses = module(masked)
    (losses.words + losses.entities).backward()
    assert [loss.item() for loss in losses] == [0, 0, 0]


def test_without_words_none_is_hidden() -> None:
    module = make_module(words=False)
    masked = module.mask(make_text(), words=1.0, entities=1.0, mask_piece=MASK, generator=generator())
    assert (masked.n_words, masked.n_entities, module.word_head) == (0, 3, None)
    assert module(masked).words.item() == 0


def test_what_entities_have_to_themselves() -> None:
    names = own_parameters(make_module())
    assert "encoder.entities.ids.weight" in names
    assert "entity_head.inner.weight" in names
    assert "encoder.layers.1.attention.of_entities.weight" in names
    assert not [name for name in names if "embeddings.pieces" in name or "qkv" in name or "word_head" in name]
