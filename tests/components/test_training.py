"""One forward and one backward pass per batch, and an encoder that learns, whatever the heads do.

Each test is a way in which a shared encoder has been seen to stop learning, silently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.training.loop import train_while_improving
from spacy_transformers.layers import TransformerListener
from thinc.api import Adam, Optimizer
from thinc.util import fix_random_seed

from entitykit.errors import ConfigError
from tests.pipelines import (
    Passes,
    annotations,
    counted_passes,
    encoder_gradient,
    encoder_weights,
    fast_optimizer,
    finish,
    initialized,
    make_example,
    make_examples,
    make_pipeline,
    train,
)

ENCODER = "entitykit_encoder"
HEADS = ("span_ner", "mentions", "tagger")


def update(nlp: Language, examples: Sequence[Example], optimizer: Optimizer, **options: Any) -> Passes:
    """One step as in spaCy's training loop."""
    with counted_passes(nlp) as passes:
        nlp.update(examples, sgd=False, losses={}, **options)  # type: ignore[arg-type]
        finish(nlp, optimizer, exclude=options.get("exclude", ()))
    return passes


@pytest.mark.parametrize("heads", list(permutations(HEADS)), ids="-".join)
def test_one_pass_each_way_in_any_order(tiny_bert: Path, heads: tuple[str, ...]) -> None:
    nlp, examples = initialized(tiny_bert, *heads)
    before = encoder_weights(nlp)
    passes = update(nlp, examples, fast_optimizer())
    assert (passes.forward, passes.backward) == (1, 1)
    assert not torch.equal(encoder_weights(nlp), before)


@pytest.mark.parametrize(
    "heads", [("span_ner", "mentions", "tagger"), ("tagger", "parser", "span_ner"), ("mentions", "spancat")]
)
@pytest.mark.parametrize("which", ["first", "last"])
def test_frozen_head(tiny_bert: Path, heads: tuple[str, ...], which: str) -> None:
    """What the encoder gets is the gradient of the others."""
    frozen = heads[0] if which == "first" else heads[-1]
    nlp, examples = initialized(tiny_bert, *heads)
    before = encoder_weights(nlp)
    head = nlp.get_pipe(frozen).model.to_bytes()
    for _ in range(2):  # stock components begin with weights of 0, through which nothing comes back
        passes = update(nlp, examples, fast_optimizer(), exclude=[frozen])
        assert (passes.forward, passes.backward) == (1, 1)
    assert not torch.equal(encoder_weights(nlp), before)
    assert nlp.get_pipe(frozen).model.to_bytes() == head


def test_all_heads_frozen(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner", "mentions")
    before = encoder_weights(nlp)
    passes = update(nlp, examples, fast_optimizer(), exclude=["span_ner", "mentions"])
    assert (passes.forward, passes.backward) == (1, 0)
    assert torch.equal(encoder_weights(nlp), before)
    update(nlp, examples, fast_optimizer())
    assert not torch.equal(encoder_weights(nlp), before)


def test_idle_head(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A last component that returns without having listened, as spancat does without candidates."""
    nlp, examples = initialized(tiny_bert, "span_ner", "spancat")
    empty = nlp.get_pipe("spancat")
    monkeypatch.setattr(type(empty), "update", lambda self, examples, *, drop=0.0, sgd=None, losses=None: losses)
    before = encoder_weights(nlp)
    for _ in range(2):
        passes = update(nlp, examples, fast_optimizer())
        assert (passes.forward, passes.backward) == (1, 1)
    assert not torch.equal(encoder_weights(nlp), before)


def test_disabled_head(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner", "tagger")
    with nlp.select_pipes(disable=["tagger"]):
        passes = update(nlp, examples, fast_optimizer())
    assert (passes.forward, passes.backward) == (1, 1)


@pytest.mark.parametrize("heads", [("mentions",), ("span_ner", "mentions", "tagger")])
def test_direct_updates_move_the_encoder(tiny_bert: Path, heads: tuple[str, ...]) -> None:
    """``nlp.update(sgd=…)`` asks the encoder to step before the heads have run: the step comes late, but it comes, and once."""
    nlp, examples = initialized(tiny_bert, *heads)
    optimizer = fast_optimizer(use_averages=True)
    first = encoder_weights(nlp)
    with counted_passes(nlp) as passes:
        nlp.update(examples, sgd=optimizer)
        nlp.update(examples, sgd=optimizer)
        second = encoder_weights(nlp)
        assert not torch.equal(second, first)
        nlp.get_pipe(ENCODER).predict([eg.predicted for eg in examples])
        third = encoder_weights(nlp)
        assert not torch.equal(third, second)
        nlp.get_pipe(ENCODER).to_bytes()
        assert torch.equal(encoder_weights(nlp), third)
    assert (passes.forward, passes.backward) == (3, 2)


@pytest.mark.parametrize("ending", ["to_bytes", "to_disk", "use_params"])
def test_direct_update_is_finished_in_time(tiny_bert: Path, tmp_path: Path, ending: str) -> None:
    nlp, examples = initialized(tiny_bert, "mentions")
    optimizer = fast_optimizer(use_averages=True)
    for _ in range(2):  # with the first step the encoder's averages begin
        nlp.update(examples, sgd=optimizer)
    before = encoder_weights(nlp)
    if ending == "to_bytes":
        nlp.to_bytes()
    elif ending == "to_disk":
        nlp.to_disk(tmp_path / "nlp")
    else:
        with nlp.use_params(optimizer.averages):
            list(nlp.pipe(["John met Mary"]))
    assert not torch.equal(encoder_weights(nlp), before)


def test_direct_updates_equal_the_training_loop(tiny_bert: Path) -> None:
    states = []
    for direct in (True, False):
        nlp, examples = initialized(tiny_bert, "mentions", "span_ner")
        optimizer = fast_optimizer()
        for _ in range(3):
            if direct:
                nlp.update(examples, sgd=optimizer)
            else:
                update(nlp, examples, optimizer)
        nlp.to_bytes()
        states.append(encoder_weights(nlp))
        fix_random_seed(0)
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-5)


def loop(nlp: Language, examples: list[Example], optimizer: Optimizer, *, steps: int, **options: Any) -> list[dict[str, Any]]:
    """spaCy's own training loop."""
    settings = {"dropout": 0.0, "accumulate_gradient": 1, "exclude": [], "annotating_components": []} | options
    batches: Iterator[tuple[int, list[Example]]] = ((0, examples) for _ in range(steps))

    def evaluate() -> tuple[float, dict[str, float]]:
        scores = nlp.evaluate(make_examples(nlp))
        return scores["ents_f"] or 0.0, scores

    history = train_while_improving(
        nlp,
        optimizer,
        batches,
        evaluate=evaluate,
        eval_frequency=5,
        patience=0,
        max_steps=steps,
        before_update=None,
        **settings,
    )
    return [info for _, info, _ in history]


@pytest.mark.parametrize("frozen", [[], ["tagger"], ["span_ner"]], ids=str)
def test_accumulated_gradients(tiny_bert: Path, frozen: list[str]) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner", "tagger")
    before = encoder_weights(nlp)
    with counted_passes(nlp) as passes:
        loop(nlp, examples, fast_optimizer(), steps=2, accumulate_gradient=2, exclude=frozen)
    # two sub-batches in each of two steps, and one evaluation after the first
    assert (passes.forward, passes.backward) == (5, 4)
    assert not torch.equal(encoder_weights(nlp), before)


def test_accumulated_gradient_is_the_sum_of_the_parts(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "tagger", "span_ner")

    def gradient(*batches: list[Example]) -> dict[str, torch.Tensor]:
        for batch in batches:
            nlp.update(batch, sgd=False)  # type: ignore[arg-type]
        nlp.get_pipe(ENCODER)._backward()
        return encoder_gradient(nlp)

    halves = examples[:3], examples[3:]
    parts = [gradient(half) for half in halves]
    for name, found in gradient(*halves).items():
        torch.testing.assert_close(found, parts[0][name] + parts[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("transitions", ["parser", "ner"])  # both draw random numbers, so they are compared one by one
def test_joint_gradient_is_the_sum_of_the_heads(tiny_bert: Path, transitions: str) -> None:
    heads = ("span_ner", "mentions", "spert", "tagger", transitions, "spancat")
    nlp, examples = initialized(tiny_bert, *heads)
    train(nlp, examples, 2)  # stock components begin with weights of 0, through which nothing comes back

    def gradient(*active: str) -> dict[str, torch.Tensor]:
        fix_random_seed(0)
        nlp.update(examples, sgd=False, exclude=[head for head in heads if head not in active])  # type: ignore[arg-type]
        nlp.get_pipe(ENCODER)._backward()
        return encoder_gradient(nlp)

    parts = [gradient(head) for head in heads]
    joint = gradient(*heads)
    assert joint.keys() == set().union(*parts)
    for name, found in joint.items():
        expected = sum((part[name] for part in parts if name in part), torch.zeros_like(found))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max().clamp_min(1)))
    for part in parts:
        assert any(gradient.any() for gradient in part.values())


def test_encoder_loss_is_the_squared_gradient(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "mentions", "tagger")
    losses = nlp.update(examples, sgd=False, losses={})  # type: ignore[arg-type]
    _, gradients = nlp.get_pipe(ENCODER)._pending
    assert set(losses) == {ENCODER, "mentions", "tagger"}
    assert losses[ENCODER] > 0
    assert len(gradients) == 2  # the probe's layer and the top


@pytest.mark.parametrize("heads", [("span_ner",), ("tagger", "span_ner", "mentions")])
def test_frozen_encoder_that_annotates(tiny_bert: Path, heads: tuple[str, ...]) -> None:
    nlp, examples = initialized(tiny_bert, *heads)
    train(nlp, examples, 2)  # a listener may hold an old batch
    before = encoder_weights(nlp)
    with counted_passes(nlp) as passes:
        history = train(nlp, examples, 15, exclude=[ENCODER], annotates=[ENCODER])
    assert (passes.forward, passes.backward) == (15, 0)
    assert torch.equal(encoder_weights(nlp), before)
    for head in heads:
        assert history[-1][head] < history[0][head]


def test_encoder_that_learns_and_annotates(tiny_bert: Path) -> None:
    """Its prediction in the middle of an update must not lose the batch that the heads are about to answer."""
    nlp, examples = initialized(tiny_bert, "span_ner", "tagger")
    before = encoder_weights(nlp)
    passes = update(nlp, examples, fast_optimizer(), annotates=[ENCODER])
    assert (passes.forward, passes.backward) == (2, 1)
    assert not torch.equal(encoder_weights(nlp), before)
    direct = encoder_weights(nlp)
    optimizer = fast_optimizer()
    for _ in range(2):
        nlp.update(examples, sgd=optimizer, annotates=[ENCODER])
    assert not torch.equal(encoder_weights(nlp), direct)


def test_encoder_neither_learns_nor_annotates(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner")
    with pytest.raises(ConfigError, match="E102.*'Mary Jones went.*annotating_components"):
        train(nlp, examples, 1, exclude=[ENCODER])


def test_head_that_annotates_without_its_encoder(tiny_bert: Path) -> None:
    """It would predict on nothing."""
    nlp, examples = initialized(tiny_bert, "span_ner")
    with pytest.raises(ConfigError, match="E102"):
        train(nlp, examples, 1, annotates=["span_ner"])
    train(nlp, examples, 1, annotates=[ENCODER, "span_ner"])


def test_stock_components_learn_beside_ours(tiny_bert: Path) -> None:
    heads = ("tagger", "span_ner", "parser", "ner", "mentions", "spancat")
    nlp, examples = initialized(tiny_bert, *heads)
    history = train(nlp, examples, 60)
    for head in (*heads, ENCODER):
        assert history[-1][head] < 0.5 * history[0][head], head
    docs = [nlp(eg.text) for eg in examples]
    for doc, eg in zip(docs, examples, strict=True):
        assert [token.tag_ for token in doc] == [token.tag_ for token in eg.reference]
        assert [token.head.i for token in doc] == [token.head.i for token in eg.reference]
    scores = nlp.evaluate(make_examples(nlp))
    assert scores["ents_f"] == scores["spans_sc_f"] == 1.0


def test_batches_with_the_same_id(tiny_bert: Path) -> None:
    """spaCy numbers a batch by the sum of its words; ours are known by their documents."""
    nlp, _ = initialized(tiny_bert, "mentions")
    one = [make_example(nlp, "John met Mary", [(0, 1, "P")]), make_example(nlp, "Paris", [])]
    two = [make_example(nlp, "Mary Paris", [(0, 1, "P")]), make_example(nlp, "met John", [])]
    assert TransformerListener.get_batch_id([eg.x for eg in one]) == TransformerListener.get_batch_id([eg.x for eg in two])
    encoder, mentions = nlp.get_pipe(ENCODER), nlp.get_pipe("mentions")
    encoder.update(one)
    with pytest.raises(ConfigError, match="E102"):
        mentions.update(two)
    # nor does a batch serve twice, or in another order
    encoder.update(one)
    mentions.update(one)
    with pytest.raises(ConfigError, match="E102"):
        mentions.update(one)
    encoder.update(one)
    with pytest.raises(ConfigError, match="E102"):
        mentions.update(one[::-1])


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), Adam(0.01, use_averages=False), fast_optimizer(grad_clip=0.0)], ids=["Adam", "Adam-last", "AdamW"]
)
def test_other_optimizers(tiny_bert: Path, optimizer: Optimizer) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner", "tagger")
    history = train(nlp, examples, 40, optimizer=optimizer)
    for name in ("span_ner", "tagger"):
        assert history[-1][name] < 0.5 * history[0][name]


@pytest.mark.parametrize("optimizer", [Adam(0.05), fast_optimizer(use_averages=True)], ids=["Adam", "AdamW"])
def test_averages_are_used_in_evaluation(tiny_bert: Path, optimizer: Optimizer) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner")
    train(nlp, examples, 5, optimizer=optimizer)
    head = nlp.get_pipe("span_ner").head
    last = encoder_weights(nlp), head.outer.weight.detach().clone()
    with nlp.use_params(optimizer.averages):
        assert not torch.equal(encoder_weights(nlp), last[0])
        assert not torch.equal(head.outer.weight, last[1])
        saved = nlp.to_bytes()
    assert torch.equal(encoder_weights(nlp), last[0])
    assert torch.equal(head.outer.weight, last[1])
    loaded = make_pipeline(tiny_bert, "span_ner").from_bytes(saved)
    assert not torch.equal(encoder_weights(loaded), last[0])


def test_dropout_of_the_training_settings(tiny_bert: Path) -> None:
    """It reaches the encoder's and the heads' torch modules, and ends with training."""
    nlp, examples = initialized(tiny_bert, "span_ner")
    nlp.update(examples, sgd=False, drop=0.7)  # type: ignore[arg-type]
    modules = [nlp.get_pipe(name).model.shims[0].module for name in (ENCODER, "span_ner")]
    rates = {part.p for module in modules for part in module.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.7}
    assert annotations(nlp("John met Mary")) == annotations(nlp("John met Mary"))


def test_empty_documents_in_training(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, "span_ner", "mentions", "spert", "tagger")
    nothing = make_example(nlp, "", [])
    optimizer = fast_optimizer()
    for batch in ([nothing, *examples, nothing], [nothing], [nothing, nothing], examples[:1]):
        passes = update(nlp, batch, optimizer)
        assert (passes.forward, passes.backward) == ((1, 1) if any(len(eg) for eg in batch) else (0, 0))


def test_long_documents_in_training(tiny_bert: Path) -> None:
    """Several windows and packs, still one backward pass of each head."""
    nlp, _ = initialized(tiny_bert, "span_ner", "tagger", "mentions")
    long = make_example(nlp, "Mary Jones went to New York " * 60, [(0, 2, "PERSON"), (4, 6, "PLACE")])
    before = encoder_weights(nlp)
    passes = update(nlp, [long], fast_optimizer())
    assert passes.forward == passes.backward > 3  # one of each for every pack
    assert not torch.equal(encoder_weights(nlp), before)


def test_only_layers_that_are_read_are_run(tiny_bert: Path) -> None:
    """With nothing but a probe on layer 1 of 2, the upper layer rests; another head wakes it."""
    nlp, examples = initialized(tiny_bert, "mentions")
    with counted_passes(nlp) as passes:
        nlp("John met Mary")
    assert (passes.forward, passes.layers) == (1, 1)
    assert update(nlp, examples, fast_optimizer()).layers == 1
    nlp, examples = initialized(tiny_bert, "mentions", "span_ner")
    with counted_passes(nlp) as passes:
        nlp("John met Mary")
    assert (passes.forward, passes.layers) == (1, 2)


@pytest.mark.parametrize("head", ["span_ner", "spert", "tagger"])
def test_head_that_is_enabled_later(tiny_bert: Path, head: str) -> None:
    """A pipeline may be loaded with a component that sleeps."""
    nlp, _ = initialized(tiny_bert, "mentions", head)
    expected = annotations(nlp("John met Mary"))
    with TemporaryDirectory() as folder:
        nlp.to_disk(folder)
        loaded = spacy.load(folder, disable=[head])
    loaded("John met Mary")
    loaded.enable_pipe(head)
    assert annotations(loaded("John met Mary")) == expected


def test_encoder_alone_gives_its_last_layer(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    doc: Doc = nlp("John met Mary")
    assert doc._.trf_data.model_output.last_hidden_state.shape == (1, 3, 32)
