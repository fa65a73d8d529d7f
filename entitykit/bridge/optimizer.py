"""AdamW for pipelines that mix torch modules and thinc layers: two learning rates, one schedule, true averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from thinc.api import Optimizer
from torch import nn

from entitykit.errors import error
from entitykit.models.mentions import ToMMeR

Rates = float | Iterable[float]


class AdamW(Optimizer):
    """thinc's Adam for thinc layers, `torch.optim.AdamW` for whole torch modules (Loshchilov and Hutter 2019).

    Two things that thinc's optimizer does to torch weights are mended: gradients are clipped by the norm over a module, not
    array by array, and averages are found again when spaCy evaluates and saves with them.

    Args:
        encoder_learn_rate: for shared encoders.
        head_learn_rate: for heads and thinc layers.
        probe_learn_rate: for mention probes, be they in an encoder or in a head. Their match is a cosine, so only factors that
            grow well above 1 let it say much; with an encoder's rate they never do.
        schedule: factor of all rates per step, for instance thinc's ``warmup_linear.v1`` with an initial rate of 1.
        weight_decay: for matrices; biases and norms have none.
        grad_clip: largest norm of a module's gradient; 0 for no limit.
        use_averages: keep an exponential moving average of all weights for evaluation and saving.

    Raises:
        ConfigError: E116 for a rate that cannot be.
    """

    __slots__ = ("moments", "scales", "weight_decay")

    def __init__(
        self,
        *,
        encoder_learn_rate: float,
        head_learn_rate: float,
        probe_learn_rate: float,
        schedule: Rates,
        weight_decay: float,
        grad_clip: float,
        use_averages: bool,
    ) -> None:
        given = {"encoder_learn_rate": encoder_learn_rate, "probe_learn_rate": probe_learn_rate}
        wrong = [name for name, value in given.items() if not value >= 0] + ["head_learn_rate"] * (not head_learn_rate > 0)
        if wrong:
            raise error("E116", name=wrong[0], found={**given, "head_learn_rate": head_learn_rate}[wrong[0]])
        rate: Any = _scaled(schedule, head_learn_rate) if not isinstance(schedule, (int, float)) else schedule * head_learn_rate
        super().__init__(rate, L2=weight_decay, grad_clip=grad_clip, use_averages=use_averages, L2_is_weight_decay=True)
        rates = {"encoder": encoder_learn_rate, "head": head_learn_rate, "probe": probe_learn_rate}
        self.scales = {group: value / head_learn_rate for group, value in rates.items()}
        self.weight_decay = weight_decay
        self.moments: dict[int, tuple[nn.Module, list[torch.optim.Optimizer]]] = {}

    def step_module(self, key: int, group: str, module: nn.Module) -> None:
        """Apply and clear a module's gradients.

        Args:
            key: the same for a module at every step.
            group: ``encoder`` or ``head``.
            module: parameters without gradients are left alone.
        """
        parameters = [p for p in module.parameters() if p.grad is not None]
        if not parameters:
            return
        if key not in self.moments or self.moments[key][0] is not module:
            self._begin(key, module)
        if self.grad_clip:
            clip_gradients(parameters, self.grad_clip)
        torch.autograd.graph.increment_version(parameters)  # which the fused step leaves out, and fingerprints look at
        for optimizer in self.moments[key][1]:
            for param_group in optimizer.param_groups:
                param_group["lr"] = self.learn_rate * self.scales["probe" if param_group.get("of_probe") else group]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.averages is not None:
            self._average(key, module)

    def _begin(self, key: int, module: nn.Module) -> None:
        """Begin with a module, also with one that has taken the place of another, as when weights were loaded."""
        self.moments[key] = module, _torch_optimizers(module, self.weight_decay, (self.b1, self.b2), self.eps)
        tables: list[Any] = [self.nr_update, {} if self.averages is None else self.averages]
        for table in tables:
            for name in [name for name in table if name[0] == key]:
                del table[name]

    @torch.no_grad()
    def _average(self, key: int, module: nn.Module) -> None:
        """The decay that thinc uses: little memory in the first steps, 0.9999 in the long run."""
        averages: Any = self.averages
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            step = self.nr_update[key, name] = self.nr_update[key, name] + 1
            if (key, name) not in averages:
                averages[key, name] = parameter.detach().clone()
            else:
                decay = min(0.9999, (1 + step) / (10 + step))
                averages[key, name].lerp_(parameter.detach(), 1 - decay)


def adamw(
    encoder_learn_rate: float = 2e-4,
    head_learn_rate: float = 1e-3,
    probe_learn_rate: float = 5e-2,
    schedule: Rates = 1.0,
    weight_decay: float = 0.01,
    grad_clip: float = 1.0,
    use_averages: bool = False,
) -> AdamW:
    """Create the optimizer registered as ``entitykit.AdamW.v1``; see `AdamW` for the settings."""
    return AdamW(
        encoder_learn_rate=encoder_learn_rate,
        head_learn_rate=head_learn_rate,
        probe_learn_rate=probe_learn_rate,
        schedule=schedule,
        weight_decay=weight_decay,
        grad_clip=grad_clip,
        use_averages=use_averages,
    )


def _scaled(schedule: Iterable[float], rate: float) -> Iterator[float]:
    for factor in schedule:
        yield factor * rate


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> None:
    """Scale all gradients down to a norm of `limit` over all of them, sparse ones included.

    Args:
        parameters: each with a gradient; sparse gradients are coalesced in place.
        limit: largest norm.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    if norm > limit:
        torch._foreach_mul_(values, float(limit / norm))


def _torch_optimizers(
    module: nn.Module, weight_decay: float, betas: tuple[float, float], eps: float
) -> list[torch.optim.Optimizer]:
    """AdamW, and for embeddings with sparse gradients Adam on the rows that a batch has touched."""
    sparse = [m.weight for m in module.modules() if isinstance(m, nn.Embedding) and m.sparse and m.weight.requires_grad]
    probes = {id(weight) for m in module.modules() if isinstance(m, ToMMeR) for weight in m.parameters()}
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in module.parameters():
        if parameter.requires_grad and all(parameter is not weight for weight in sparse):
            kind = (id(parameter) in probes, parameter.dim() > 1)
            group = {"params": [], "of_probe": kind[0], "weight_decay": weight_decay if kind[1] else 0.0}
            groups.setdefault(kind, group)["params"].append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if groups:
        optimizers.append(torch.optim.AdamW(list(groups.values()), lr=0.0, betas=betas, eps=eps, fused=True))
    if sparse:
        optimizers.append(torch.optim.SparseAdam(sparse, lr=1.0, betas=betas, eps=eps))
    return optimizers
