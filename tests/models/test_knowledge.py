"""What holds for every module that brings external vectors into entity states."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from entitykit.errors import ConfigError
from entitykit.models.encoder.knowledge import KINDS, KnowledgeModule, build_knowledge

WIDTH, VECTOR_WIDTH = 8, 5
SIZES = {"width": WIDTH, "vector_width": VECTOR_WIDTH}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "projection": ("projection", {}),
    "mixture": ("mixture", {"hidden": 9}),
    "mixture-margin": ("mixture", {"hidden": 9, "link": "margin"}),
    "attention": ("attention", {"n_heads": 2}),
}


def make(name: str, *, trained: bool = True) -> KnowledgeModule:
    kind, settings = CASES[name]
    module = build_knowledge(kind, SIZES | settings).eval()
    if trained:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    return module


def make_inputs(present: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is absent has vectors that would spoil everything."""
    vectors = torch.randn(*present.shape, VECTOR_WIDTH).masked_fill(~present[:, :, None], math.nan)
    states = torch.randn(len(present), WIDTH)
    states[:, 0] = -0.0
    return states, vectors, present, torch.rand(present.shape)


def bits(x: Tensor) -> list[Any]:
    return x.view(torch.int32).tolist()


presence = st.tuples(st.integers(0, 6), st.integers(0, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
    ).map(lambda rows: torch.tensor(rows, dtype=torch.bool).reshape(shape))
)


@pytest.mark.parametrize("name", CASES)
@given(present=presence)
def test_absent_vectors_change_nothing(name: str, present: Tensor) -> None:
    """Not one bit, whatever has been learned and whatever stands beside them; gradients pass as they are."""
    module = make(name).train()
    states, vectors, _, priors = make_inputs(present)
    states.requires_grad_()
    output = module(states, vectors, present, priors).states
    absent = ~present.any(dim=1)
    assert output.shape == states.shape
    assert bits(output[absent].detach()) == bits(states[absent].detach())
    upstream = torch.randn(output.shape)
    output.backward(upstream)
    assert states.grad is not None
    assert torch.equal(states.grad[absent], upstream[absent])
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in module.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
@given(present=presence, scale=st.sampled_from([1.0, 1e3, 1e-3]))
def test_a_new_module_changes_nothing(name: str, present: Tensor, scale: float) -> None:
    module = make(name, trained=False).train()
    states, vectors, _, priors = make_inputs(present)
    assert torch.equal(module(states * scale, vectors * scale, present, priors).states, states * scale)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
@given(present=presence)
def test_rows_do_not_touch(name: str, present: Tensor) -> None:
    """A span comes out the same alone and beside others, and with more absent candidates behind its own."""
    module = make(name)
    states, vectors, _, priors = make_inputs(present)
    together = module(states, vectors, present, priors)
    padded = [nn.functional.pad(vectors, (0, 0, 0, 2)), nn.functional.pad(present, (0, 2)), nn.functional.pad(priors, (0, 2))]
    torch.testing.assert_close(module(states, *padded).states, together.states, rtol=1e-4, atol=1e-4)
    for i in range(len(present)):
        row = slice(i, i + 1)
        alone = module(states[row], vectors[row], present[row], priors[row])
        torch.testing.assert_close(alone.states, together.states[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_gradients_reach_every_parameter(name: str) -> None:
    module = make(name)
    present = torch.rand(100, 2) < 0.5
    states, vectors, _, priors = make_inputs(present)
    states.requires_grad_()
    output = module(states, vectors, present, priors)
    value = (output.states * torch.randn(100, WIDTH)).sum()
    if output.scores is not None:
        right = torch.where(present[:, 0], torch.arange(100) % 2, 0)
        value = value + module.loss(output.scores, right, present)
    value.backward()
    for parameter_name, parameter in [*module.named_parameters(), ("states", states)]:
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", CASES)
def test_a_new_module_learns(name: str) -> None:
    """Zeros at the start are no dead end: it learns to tell two entities apart that the states do not."""
    module = make(name, trained=False)
    states = torch.zeros(8, WIDTH)
    vectors = torch.randn(2, VECTOR_WIDTH)[torch.arange(8) % 2][:, None]
    present = torch.ones(8, 1, dtype=torch.bool)
    target = torch.randn(2, WIDTH)[torch.arange(8) % 2]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = nn.functional.mse_loss(module(states, vectors, present).states, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("link", ["softmax", "margin"])
def test_a_linker_learns(link: str) -> None:
    """The scores follow the loss while the states stay as they were, and they say which span has no right candidate."""
    module = make("mixture-margin" if link == "margin" else "mixture", trained=False)
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(16, 3, VECTOR_WIDTH, generator=generator)
    states = torch.randn(16, WIDTH, generator=generator)
    gold = torch.arange(16) % 4
    present = torch.ones(16, 3, dtype=torch.bool)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        module.loss(module(states, vectors, present).scores, gold, present).backward()
        optimizer.step()
    output = module(states, vectors, present)
    assert (output.scores.argmax(dim=1) == gold).float().mean() > 0.9
    assert torch.equal(output.states, states)


@torch.no_grad()
def test_of_several_vectors_the_first_that_is_present_is_projected() -> None:
    module = make("projection")
    states, vectors = torch.randn(1, WIDTH), torch.randn(1, 3, VECTOR_WIDTH)
    outputs = [
        module(states, vectors, torch.tensor([row])).states for row in ([True] * 3, [False, True, True], [False, True, False])
    ]
    assert not torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("name", CASES)
def test_settings_are_json(name: str) -> None:
    kind, _ = CASES[name]
    module = make(name)
    again = build_knowledge(kind, json.loads(json.dumps(asdict(module.settings))))
    again.load_state_dict(module.state_dict())
    inputs = make_inputs(torch.tensor([[True, False], [False, False], [True, True]]))
    assert again.settings == module.settings
    assert torch.equal(again.eval()(*inputs).states, module(*inputs).states)


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_half_precision(name: str) -> None:
    """States of bfloat16 stay so, with vectors as the table gives them."""
    states, vectors, present, priors = make_inputs(torch.tensor([[True, False], [False, False], [True, True]]))
    output = make(name).bfloat16()(states.bfloat16(), vectors, present, priors).states
    assert output.dtype == torch.bfloat16
    assert output.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        output = make(name)(states, vectors, present, priors).states
    assert output.dtype == torch.float32
    assert output.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("attention", {"n_heads": 3}, "n_heads is 3; expected a divisor of the width 8"),
        ("attention", {"n_heads": 0}, "n_heads is 0"),
        ("mixture", {"link": "hinge"}, "link is hinge; expected softmax or margin"),
        ("table", {}, f"knowledge is table; expected {' or '.join(KINDS)}"),
    ],
)
def test_settings_that_cannot_be(kind: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"E007.*{message}"):
        build_knowledge(kind, SIZES | settings)
