"""LUKE's task heads give the logits, losses and choices of the `transformers` classes with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    LukeForEntityClassification,
    LukeForEntityPairClassification,
    LukeForEntitySpanClassification,
    LukeForMaskedLM,
)

from entitykit.models.encoder.attention import MASKED
from entitykit.models.encoder.entities import EntityPack
from entitykit.models.encoder.families import settings_from_config
from entitykit.models.encoder.settings import Injection
from entitykit.models.encoder.transformer import TransformerEncoder
from entitykit.models.luke import (
    ClassifierSettings,
    LukeNER,
    LukeRelations,
    LukeTyping,
    LukeVocabulary,
    VocabularySettings,
    classify_late_spans,
    classify_spans,
    link,
    token_bounds,
)
from entitykit.models.luke_weights import load_classifier, load_entity_vocabulary, load_word_vocabulary
from tests.luke import (
    AS_LUKE,
    LOWEST_PIECE,
    MASK,
    MASK2,
    READ_ONLY,
    SIZES,
    Window,
    integers,
    make_model,
    make_packs,
    make_window,
    split_model,
    their_input,
)

N_LABELS = 5
WIDTH = SIZES["hidden_size"]
Load = Callable[..., Any]


def make_classifier(kind: type[Any], head: type[Any], injection: Injection = AS_LUKE) -> tuple[Any, TransformerEncoder, Any]:
    """Their model, our encoder, our head."""
    model = make_model(kind, num_labels=N_LABELS)
    encoder, weights = split_model(model, injection)
    return model, encoder, load_classifier(head, weights, model.config.to_dict(), name="tiny").eval()


def entity_states(encoder: TransformerEncoder, windows: Sequence[Window]) -> Tensor:
    pack, entities = make_packs(windows)
    return encoder.with_entities(pack, (), lambda _: entities).entities


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def all_mentions(length: int) -> Window:
    return make_window(length, *((MASK, a, b) for a in range(length) for b in range(a + 1, length + 1)))


def their_spans(model: LukeForEntitySpanClassification, window: Window, labels: Tensor | None = None) -> Any:
    starts = integers([mention.start for mention in window.mentions])
    lasts = integers([mention.end - 1 for mention in window.mentions])
    return model(**their_input(window), entity_start_positions=starts[None], entity_end_positions=lasts[None], labels=labels)


def test_spans_and_their_loss() -> None:
    """All spans of texts of different lengths, more than the 128 that their users encode at once."""
    model, encoder, head = make_classifier(LukeForEntitySpanClassification, LukeNER)
    windows = [all_mentions(4), all_mentions(17), all_mentions(1), all_mentions(17)]
    pack, candidates = make_packs(windows)
    assert max(candidates.counts) == 153
    logits = classify_spans(encoder, head, pack, candidates)
    classes = torch.arange(len(logits)) % N_LABELS
    for window, found, gold in zip(windows, logits.split(candidates.counts), classes.split(candidates.counts), strict=True):
        theirs = their_spans(model, window, gold[None])
        close(found, theirs.logits[0])
        close(head.loss(found, gold), theirs.loss)
    unknown = classes.masked_fill(torch.arange(len(classes)) > 9, -100)
    close(head.loss(logits, unknown), head.loss(logits[:10], classes[:10]))


@torch.no_grad()
def test_late_spans_are_as_early_ones() -> None:
    """Where tokens only read, the text is read once, and candidates come in portions."""
    _, encoder, head = make_classifier(LukeForEntitySpanClassification, LukeNER, READ_ONLY)
    windows = [all_mentions(12), all_mentions(5)]
    pack, candidates = make_packs(windows)
    early = classify_spans(encoder, head, pack, candidates).split(candidates.counts)
    nothing = make_packs([window._replace(mentions=[]) for window in windows])[1]
    encoded = encoder.with_entities(pack, (encoder.settings.n_layers,), lambda _: nothing, keep_cache=True)
    for part in (slice(0, 10), slice(10, 15), slice(15, 78)):
        portion = make_packs([window._replace(mentions=window.mentions[part]) for window in windows])[1]
        late = classify_late_spans(encoder, head, encoded, portion)
        close(late, torch.cat([of_window[part] for of_window in early]))


def test_late_spans_need_a_cache_and_an_encoder_that_only_reads() -> None:
    pack, candidates = make_packs([all_mentions(3)])
    for injection, keep_cache, message in ((READ_ONLY, False, "keep_cache"), (AS_LUKE, True, "nothing else sees")):
        _, encoder, head = make_classifier(LukeForEntitySpanClassification, LukeNER, injection)
        encoded = encoder.with_entities(pack, (3,), lambda _: candidates, keep_cache=keep_cache)
        with pytest.raises(ValueError, match=message):
            classify_late_spans(encoder, head, encoded, candidates)


def test_bounds_of_tokens() -> None:
    _, entities = make_packs([make_window(4, (MASK, 1, 3), (MASK, 0, 1)), make_window(3), make_window(5, (MASK, 0, 5))])
    bounds = token_bounds(entities)
    assert (bounds.starts.tolist(), bounds.ends.tolist()) == ([1, 0, 7], [3, 1, 12])
    nothing = integers([])
    assert len(token_bounds(EntityPack(nothing, nothing, nothing, (0,))).starts) == 0
    for offsets in ([0, 2, 2], [0, 0, 1], [0, 1, 3]):
        with pytest.raises(ValueError, match="at least one piece"):
            token_bounds(EntityPack(integers([MASK] * 3), integers([4, 5, 6]), integers(offsets), (3,)))


def test_types_and_their_loss() -> None:
    model, encoder, head = make_classifier(LukeForEntityClassification, LukeTyping)
    windows = [make_window(7, (MASK, 1, 4)), make_window(7, (MASK, 0, 7)), make_window(3, (MASK, 2, 3))]
    logits = head(entity_states(encoder, windows))
    labels = torch.rand(len(windows), N_LABELS) < 0.5
    losses = []
    for window, found, gold in zip(windows, logits, labels, strict=True):
        theirs = model(**their_input(window), labels=gold[None])
        close(found, theirs.logits[0])
        losses.append(theirs.loss)
    close(head.loss(logits, labels), torch.stack(losses).mean())


def test_relations_and_their_loss() -> None:
    """Head and tail in either order in the text; one pack may hold several pairs of one window."""
    model, encoder, head = make_classifier(LukeForEntityPairClassification, LukeRelations)
    windows = [make_window(9, (MASK, 1, 4), (MASK2, 6, 9)), make_window(5, (MASK, 4, 5), (MASK2, 0, 2))]
    states = entity_states(encoder, windows)
    logits = head(states, torch.tensor([0, 2]), torch.tensor([1, 3]))
    classes = torch.tensor([3, 0])
    losses = []
    for window, found, gold in zip(windows, logits, classes, strict=True):
        theirs = model(**their_input(window), labels=gold[None])
        close(found, theirs.logits[0])
        losses.append(theirs.loss)
    close(head.loss(logits, classes), torch.stack(losses).mean())
    swapped = head(states, torch.tensor([1, 0]), torch.tensor([0, 1]))
    assert not torch.allclose(swapped[0], swapped[1])
    close(swapped[1], logits[0])


@pytest.fixture(params=[16, WIDTH], ids=["projected", "as-wide"])
def pretrained(request: pytest.FixtureRequest) -> LukeForMaskedLM:
    return make_model(LukeForMaskedLM, entity_emb_size=request.param, entity_vocab_size=30)


def vocabularies(model: LukeForMaskedLM) -> tuple[TransformerEncoder, LukeVocabulary, LukeVocabulary]:
    """Our encoder, the head of entities, and that of pieces."""
    encoder, weights = split_model(model)
    config = model.config.to_dict()
    return encoder, *(load(weights, config, name="tiny") for load in (load_entity_vocabulary, load_word_vocabulary))


def make_masked() -> list[Window]:
    return [
        make_window(9, (MASK, 1, 3), (7, 4, 5), (MASK, 4, 9)),
        make_window(9, (MASK, 0, 2)),
        make_window(5, (MASK, 0, 1), (MASK, 1, 2), (MASK, 2, 5), (MASK, 0, 5)),
    ]


def test_vocabularies_and_their_loss(pretrained: LukeForMaskedLM) -> None:
    """From a file, which leaves out what is tied; in training, the tied embedding gets both its gradients."""
    encoder, of_entities, of_pieces = vocabularies(pretrained)
    windows = make_masked()
    pack, entities = make_packs(windows)
    top = encoder.settings.n_layers
    encoded = encoder.with_entities(pack, (top,), lambda _: entities)
    entity_logits = of_entities(encoded.entities, encoder.entities.ids.weight)
    piece_logits = of_pieces(encoded.layers[top], encoder.embeddings.pieces.weight)
    entity_targets = torch.arange(len(entity_logits)) + 9
    piece_targets = (torch.arange(len(piece_logits)) + LOWEST_PIECE).masked_fill(torch.arange(len(piece_logits)) % 3 == 0, -100)
    parts = (entity_logits, entity_targets, piece_logits, piece_targets)
    sizes = (entities.counts, entities.counts, pack.lengths, pack.lengths)
    expected, found = [], []
    for window, e, of_e, p, of_p in zip(windows, *(part.split(n) for part, n in zip(parts, sizes, strict=True)), strict=True):
        theirs = pretrained(**their_input(window), labels=of_p[None], entity_labels=of_e[None])
        close(e, theirs.entity_logits[0])
        close(p, theirs.logits[0])
        close(of_entities.loss(e, of_e), theirs.mep_loss)
        close(of_pieces.loss(p, of_p), theirs.mlm_loss)
        expected.append(theirs.loss)
        found.append(of_entities.loss(e, of_e) + of_pieces.loss(p, of_p))
    torch.stack(expected).sum().backward()
    torch.stack(found).sum().backward()
    luke = pretrained.luke
    for ours, theirs in (
        (encoder.entities.ids, luke.entity_embeddings.entity_embeddings),
        (encoder.embeddings.pieces, luke.embeddings.word_embeddings),
        (of_entities.inner, pretrained.entity_predictions.transform.dense),
        (of_pieces.norm, pretrained.lm_head.layer_norm),
    ):
        torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_candidates(pretrained: LukeForMaskedLM) -> None:
    encoder, head, _ = vocabularies(pretrained)
    states = entity_states(encoder, make_masked())
    embedding = encoder.entities.ids.weight
    candidates = torch.randint(4, 30, (len(states), 6))
    candidates[1, 2:] = candidates[3] = -1
    whole, some = head(states, embedding), head(states, embedding, candidates)
    for i, of_token in enumerate(candidates.tolist()):
        for column, entity in enumerate(of_token):
            close(some[i, column], torch.tensor(MASKED) if entity < 0 else whole[i, entity])


def test_loss_over_candidates() -> None:
    """A token without candidates has no target, and leaves no NaN in any gradient."""
    head = LukeVocabulary(VocabularySettings(width=4, embedding_width=3, vocab_size=6))
    states, embedding = torch.randn(3, 4, requires_grad=True), torch.randn(6, 3, requires_grad=True)
    candidates = torch.tensor([[5, 1, -1], [-1, -1, -1], [2, -1, -1]])
    loss = head.loss(head(states, embedding, candidates), torch.tensor([1, -100, 0]))
    close(loss, head(states, embedding)[0, [5, 1]].softmax(0)[1].log() / -2)
    loss.backward()
    for tensor in (states, embedding, *head.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
    assert states.grad.any(1).tolist() == [True, False, False]  # the third has no choice
    assert embedding.grad.any(1).tolist() == [False, True, False, False, False, True]


def their_links(
    model: LukeForMaskedLM, window: Window, candidates: Sequence[Sequence[int]], *, one_by_one: bool
) -> list[tuple[int, float]]:
    """LUKE's procedure on one text: the entity of each mention and its probability, or -1 and 0."""
    chosen = [(-1, 0.0)] * len(window.mentions)
    is_open = {i for i, of_mention in enumerate(candidates) if of_mention}
    mentions = list(window.mentions)
    while is_open:
        logits = model(**their_input(window._replace(mentions=mentions))).entity_logits[0]
        best = {}
        for i in is_open:
            probability, k = logits[i, candidates[i]].softmax(0).max(0)
            best[i] = (float(probability), candidates[i][int(k)])
        surest = [max(is_open, key=lambda i: best[i][0])] if one_by_one else sorted(is_open)
        for i in surest:
            chosen[i] = (best[i][1], best[i][0])
            mentions[i] = mentions[i]._replace(entity=best[i][1])
        is_open -= {*surest}
    return chosen


def make_candidates(windows: Sequence[Window]) -> tuple[list[list[list[int]]], Tensor]:
    """Up to five distinct candidates of each masked mention, none for some, by window; and as one padded tensor."""
    nested, rows = [], []
    for window in windows:
        nested.append([])
        for mention in window.mentions:
            n = int(torch.randint(1, 6, ())) if mention.entity == MASK and len(rows) != 5 else 0
            nested[-1].append((4 + torch.randperm(26)[:n]).tolist())
            rows.append(nested[-1][-1] + [-1] * (5 - n))
    return nested, torch.tensor(rows, dtype=torch.long)


@torch.no_grad()
def test_links_equal_the_procedure(pretrained: LukeForMaskedLM) -> None:
    encoder, head, _ = vocabularies(pretrained)
    for _ in range(5):
        windows = [*make_masked(), make_window(4)]
        pack, entities = make_packs(windows)
        nested, candidates = make_candidates(windows)
        both = []
        for one_by_one in (True, False):
            links = link(encoder, head, pack, entities, candidates, one_by_one=one_by_one)
            pairs = zip(windows, nested, strict=True)
            expected = [chosen for pair in pairs for chosen in their_links(pretrained, *pair, one_by_one=one_by_one)]
            assert links.ids.tolist() == [entity for entity, _ in expected]
            close(links.probabilities, torch.tensor([probability for _, probability in expected]), 1e-4)
            both.append(links.probabilities)
        assert entities.ids[0] == MASK  # what was given is as it was
        assert (both[0] - both[1]).abs().max() > 1e-3  # what is chosen first matters to the rest


@torch.no_grad()
def test_nothing_to_link(pretrained: LukeForMaskedLM) -> None:
    encoder, head, _ = vocabularies(pretrained)
    pack, entities = make_packs([make_window(4), make_window(4)])
    assert link(encoder, head, pack, entities, torch.zeros(0, 3, dtype=torch.long)).ids.shape == (0,)
    pack, entities = make_packs([make_window(4, (MASK, 0, 2))])
    for candidates in (torch.zeros(1, 0, dtype=torch.long), torch.tensor([[-1, -1]])):
        links = link(encoder, head, pack, entities, candidates)
        assert (links.ids.tolist(), links.probabilities.tolist()) == ([-1], [0.0])


@torch.no_grad()
def test_equally_sure_choices_go_by_order() -> None:
    """Two identical mentions with one candidate each: both are sure, and each is linked once."""
    model = make_model(LukeForMaskedLM, entity_vocab_size=30)
    encoder, head, _ = vocabularies(model)
    pack, entities = make_packs([make_window(4, (MASK, 0, 2), (MASK, 0, 2)), make_window(4, (MASK, 1, 2))])
    links = link(encoder, head, pack, entities, torch.tensor([[9], [9], [5]]))
    assert (links.ids.tolist(), links.probabilities.tolist()) == ([9, 9, 5], [1.0, 1.0, 1.0])


def test_linking_needs_entity_tokens() -> None:
    model = make_model(LukeForMaskedLM)
    _, head, _ = vocabularies(model)
    encoder = TransformerEncoder(settings_from_config(model.config.to_dict(), name=""))
    pack, entities = make_packs([make_window(4, (MASK, 0, 2))])
    with pytest.raises(ValueError, match="no entity tokens"):
        link(encoder, head, pack, entities, torch.tensor([[5]]))


def test_dropout_in_training_only() -> None:
    settings = ClassifierSettings(width=8, n_labels=2, dropout=0.5)
    states, numbers = torch.randn(4, 8), torch.arange(4)
    bounds = token_bounds(EntityPack(numbers, numbers, numbers, (4,)))
    for head, inputs in (
        (LukeNER(settings), (states, states, bounds)),
        (LukeTyping(settings), (states,)),
        (LukeRelations(settings), (states, numbers, numbers)),
    ):
        assert not torch.equal(head(*inputs), head(*inputs))
        head.eval()
        assert torch.equal(head(*inputs), head(*inputs))


def test_no_tokens() -> None:
    settings = ClassifierSettings(width=8, n_labels=2)
    nothing, numbers = torch.zeros(0, 8), integers([])
    bounds = token_bounds(EntityPack(numbers, numbers, numbers, (0,)))
    ner, typing, relations = LukeNER(settings), LukeTyping(settings), LukeRelations(settings)
    vocabulary = LukeVocabulary(VocabularySettings(width=8, embedding_width=3, vocab_size=6))
    losses = [
        ner.loss(ner(torch.randn(3, 8), nothing, bounds), numbers),
        typing.loss(typing(nothing), torch.zeros(0, 2)),
        relations.loss(relations(nothing, numbers, numbers), numbers),
        vocabulary.loss(vocabulary(nothing, torch.randn(6, 3)), numbers),
        vocabulary.loss(vocabulary(nothing, torch.randn(6, 3), torch.zeros(0, 4, dtype=torch.long)), numbers),
    ]
    assert [loss.item() for loss in losses] == [0.0] * 5
