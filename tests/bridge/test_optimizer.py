"""`entitykit.AdamW.v1` does what torch's does, with two rates, one schedule, and averages that are used."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from thinc.api import Adam, Model, Optimizer, registry
from torch import nn

from entitykit.bridge.optimizer import AdamW, adamw
from entitykit.bridge.shim import TorchShim
from entitykit.errors import ConfigError
from entitykit.models.mentions import ToMMeR, ToMMeRSettings

RATES = {"encoder": 0.01, "head": 0.1}


class Net(nn.Module):
    """A matrix, a bias, and a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.unused = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x).square().sum()


def build(settings: object) -> nn.Module:
    return Net()


def make_shim(group: str = "head") -> TorchShim:
    shim = TorchShim(build, group=group)
    shim.create({"any": 1})
    return shim


def make_optimizer(**changes: object) -> AdamW:
    settings = {"encoder_learn_rate": 0.01, "head_learn_rate": 0.1, "weight_decay": 0.2, "grad_clip": 0.0}
    return adamw(**(settings | changes))  # type: ignore[arg-type]


def step(shim: TorchShim, optimizer: Optimizer, x: torch.Tensor) -> None:
    shim.module(x).backward()
    shim.finish_update(optimizer)


@pytest.mark.parametrize("group", RATES)
@pytest.mark.parametrize("grad_clip", [0.0, 0.5])
def test_equals_torch(group: str, grad_clip: float) -> None:
    """Matrices are decayed, biases are not; what has no gradient stays; the norm is the whole module's."""
    shim, optimizer = make_shim(group), make_optimizer(grad_clip=grad_clip)
    mine = shim.module
    theirs = copy.deepcopy(mine)
    reference = torch.optim.AdamW(
        [{"params": [theirs.layer.weight], "weight_decay": 0.2}, {"params": [theirs.layer.bias], "weight_decay": 0.0}],
        lr=RATES[group],
    )
    for _ in range(5):
        x = torch.randn(4, 3)
        step(shim, optimizer, x)
        theirs(x).backward()
        if grad_clip:
            gradients = [theirs.layer.weight.grad, theirs.layer.bias.grad]
            norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
            assert norm > grad_clip
            for gradient in gradients:
                gradient *= grad_clip / norm
        reference.step()
        reference.zero_grad()
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
            assert a.grad is None
    assert torch.equal(mine.unused, torch.ones(4))


def test_probes_have_a_rate_of_their_own() -> None:
    """Wherever they are: the first step of Adam moves by the rate."""

    class WithProbe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.probe = ToMMeR(ToMMeRSettings(width=3, layer=0, rank=2, window=2))

    for group, rate in RATES.items():
        shim = TorchShim(build, group=group)
        shim.adopt(WithProbe(), {"any": 1})
        before = copy.deepcopy(shim.module)
        sum(parameter.sum() for parameter in shim.module.parameters()).backward()
        shim.finish_update(make_optimizer(probe_learn_rate=0.03, weight_decay=0.0, schedule=0.5))
        for (name, old), new in zip(before.named_parameters(), shim.module.parameters(), strict=True):
            expected = 0.5 * (0.03 if name.startswith("probe.") else rate)
            torch.testing.assert_close(old - new, torch.full_like(old, expected), rtol=1e-4, atol=1e-6)


class Sparse(nn.Module):
    """An embedding with sparse gradients beside a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 3, sparse=True)
        self.layer = nn.Linear(3, 2, bias=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(self.embedding(rows)).square().sum()


@pytest.mark.parametrize("grad_clip", [0.0, 0.5])
def test_sparse_embeddings(grad_clip: float) -> None:
    """Adam on the rows of the batch; they count in the norm, repeated ones with their sum."""
    shim, optimizer = TorchShim(build, group="encoder"), make_optimizer(grad_clip=grad_clip, weight_decay=0.0)
    shim.adopt(Sparse(), {"any": 1})
    mine = shim.module
    theirs = copy.deepcopy(mine)
    adams = torch.optim.SparseAdam([theirs.embedding.weight], lr=0.01), torch.optim.AdamW([theirs.layer.weight], lr=0.01)
    adams[1].param_groups[0]["weight_decay"] = 0.0
    first = mine.embedding.weight.detach().clone()
    for _ in range(4):
        rows = torch.tensor([1, 1, 4, 7])
        step(shim, optimizer, rows)
        theirs(rows).backward()
        dense = theirs.embedding.weight.grad.to_dense(), theirs.layer.weight.grad
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in dense))
        if grad_clip and norm > grad_clip:
            theirs.embedding.weight.grad *= grad_clip / norm
            theirs.layer.weight.grad *= grad_clip / norm
        for adam in adams:
            adam.step()
            adam.zero_grad()
        torch.testing.assert_close(dict(mine.named_parameters()), dict(theirs.named_parameters()), rtol=1e-5, atol=1e-6)
    moved = (mine.embedding.weight != first).any(1)
    assert moved.nonzero().flatten().tolist() == [1, 4, 7]


def test_sparse_embeddings_under_thinc() -> None:
    shim = TorchShim(build, group="encoder")
    shim.adopt(Sparse(), {"any": 1})
    before = shim.module.embedding.weight.detach().clone()
    step(shim, Adam(0.01), torch.tensor([2]))
    assert (shim.module.embedding.weight != before).any(1).nonzero().flatten().tolist() == [2]


def test_schedule_is_a_factor_of_the_rates() -> None:
    """The first step of Adam moves by the rate, whatever the gradient; so does each of equal gradients."""
    factors = [1.0, 0.5, 0.25, 0.25]
    encoder, head = make_shim("encoder"), make_shim("head")
    optimizer = make_optimizer(schedule=iter(factors[:3]), weight_decay=0.0)
    for factor in factors:  # a schedule that has ended keeps its last value
        for shim in (encoder, head):
            before = shim.module.layer.bias.detach().clone()
            (3 * shim.module.layer.bias.sum()).backward()
            shim.finish_update(optimizer)
            moved = before - shim.module.layer.bias
            torch.testing.assert_close(moved, torch.full((2,), RATES[shim.group] * factor), rtol=1e-4, atol=0)
        optimizer.step_schedules()


def test_registered_with_a_schedule_of_thinc() -> None:
    config = {
        "optimizer": {
            "@optimizers": "entitykit.AdamW.v1",
            "encoder_learn_rate": 0.01,
            "head_learn_rate": 0.1,
            "schedule": {"@schedules": "warmup_linear.v1", "initial_rate": 1.0, "warmup_steps": 4, "total_steps": 8},
        }
    }
    optimizer = registry.resolve(config)["optimizer"]
    rates = []
    for _ in range(9):
        rates.append(optimizer.learn_rate)
        optimizer.step_schedules()
    assert rates == pytest.approx([0.1 * factor for factor in (0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0)])


def test_constant_schedule() -> None:
    assert make_optimizer(schedule=0.5).learn_rate == pytest.approx(0.05)


def test_thinc_layers_get_the_head_rate() -> None:
    optimizer = make_optimizer(weight_decay=0.0)
    linear: Model = registry.layers.get("Linear.v1")(nO=2, nI=3)
    linear.initialize()
    before = linear.get_param("b").copy()
    linear.inc_grad("b", before + 3)
    linear.finish_update(optimizer)
    assert before - linear.get_param("b") == pytest.approx(RATES["head"], rel=1e-3)


@pytest.fixture(params=["AdamW", "thinc's Adam"])
def averaging(request: pytest.FixtureRequest) -> Optimizer:
    if request.param == "AdamW":
        return make_optimizer(use_averages=True)
    return Adam(0.1, use_averages=True)


def test_averages_are_used_and_the_weights_restored(averaging: Optimizer) -> None:
    """In the module, and through thinc's and spaCy's `use_params`; averages follow the weights."""
    shim = make_shim()
    model = Model("test", lambda model, x, is_train: (x, lambda y: y), shims=[shim])
    weight = shim.module.layer.weight
    seen = []
    for _ in range(20):
        step(shim, averaging, torch.ones(2, 3))
        seen.append(weight.detach().clone())
    last = weight.detach().clone()
    with model.use_params(averaging.averages):
        average = weight.detach().clone()
    assert torch.equal(weight, last)
    assert not torch.equal(average, last)
    low, high = torch.stack(seen).amin(0), torch.stack(seen).amax(0)
    assert ((low <= average) & (average <= high)).all()


def test_averages_by_hand() -> None:
    shim, optimizer = make_shim(), make_optimizer(use_averages=True)
    expected = None
    for number in range(1, 6):
        step(shim, optimizer, torch.randn(2, 3))
        bias = shim.module.layer.bias.detach().clone()
        decay = min(0.9999, (1 + number) / (10 + number))
        expected = bias if expected is None else decay * expected + (1 - decay) * bias
    torch.testing.assert_close(optimizer.averages[shim.id, "layer.bias"], expected)


def test_a_module_that_takes_the_place_of_another_is_trained() -> None:
    """As after loading weights: neither moments nor averages of the one before are its own."""
    shim, optimizer = make_shim(), make_optimizer(use_averages=True)
    for _ in range(3):
        step(shim, optimizer, torch.ones(2, 3))
    shim.from_bytes(shim.to_bytes())
    before = shim.module.layer.weight.detach().clone()
    step(shim, optimizer, torch.ones(2, 3))
    weight = shim.module.layer.weight
    assert not torch.equal(weight, before)
    assert weight.grad is None
    assert torch.equal(optimizer.averages[shim.id, "layer.weight"], weight.detach())


def test_frozen_weights_have_no_average() -> None:
    shim, optimizer = make_shim(), make_optimizer(use_averages=True)
    shim.module.unused.requires_grad_(False)
    step(shim, optimizer, torch.ones(2, 3))
    assert {name for _, name in optimizer.averages} == {"layer.weight", "layer.bias"}


@pytest.mark.parametrize("group", RATES)
def test_a_step_can_be_seen(group: str) -> None:
    """Fingerprints tell by its version whether a weight has changed."""
    shim, optimizer = make_shim(group), make_optimizer()
    versions = [parameter._version for parameter in shim.module.layer.parameters()]
    step(shim, optimizer, torch.ones(2, 3))
    assert all(p._version > before for p, before in zip(shim.module.layer.parameters(), versions, strict=True))


def test_no_averages_unless_asked() -> None:
    shim, optimizer = make_shim(), make_optimizer()
    step(shim, optimizer, torch.ones(2, 3))
    assert optimizer.averages is None


def test_weights_are_restored_after_an_error(averaging: Optimizer) -> None:
    shim = make_shim()
    step(shim, averaging, torch.ones(2, 3))
    step(shim, averaging, torch.ones(2, 3))
    last = shim.module.layer.weight.detach().clone()
    with pytest.raises(KeyError), shim.use_params(averaging.averages):
        raise KeyError
    assert torch.equal(shim.module.layer.weight, last)


@pytest.fixture
def shims() -> Iterator[list[TorchShim]]:
    return [make_shim() for _ in range(2)]


def test_modules_do_not_share_moments(shims: list[TorchShim]) -> None:
    """Nor do a module and its copy."""
    optimizer, alone = make_optimizer(use_averages=True), make_optimizer(use_averages=True)
    twin = shims[0].copy()
    reference = shims[0].copy()
    for number in range(3):
        step(shims[0], optimizer, torch.ones(2, 3) * number)
        step(shims[1], optimizer, torch.ones(2, 3))
        step(twin, optimizer, -torch.ones(2, 3))
        step(reference, alone, torch.ones(2, 3) * number)
    assert torch.equal(shims[0].module.layer.weight, reference.module.layer.weight)
    assert torch.equal(optimizer.averages[shims[0].id, "layer.bias"], alone.averages[reference.id, "layer.bias"])


@pytest.mark.parametrize("rates", [{"head_learn_rate": 0.0}, {"encoder_learn_rate": -1.0}, {"probe_learn_rate": float("nan")}])
def test_rates_that_cannot_be(rates: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"E116.*{next(iter(rates))}"):
        make_optimizer(**rates)


def test_an_encoder_that_stands_still() -> None:
    """A rate of 0 is one, for encoders and probes."""
    shim, optimizer = make_shim("encoder"), make_optimizer(encoder_learn_rate=0.0)
    before = copy.deepcopy(shim.module.state_dict())
    step(shim, optimizer, torch.ones(1, 3))
    assert all(torch.equal(value, before[name]) for name, value in shim.module.state_dict().items())
