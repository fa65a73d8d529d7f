"""Attention over several sets of keys with one softmax: the readable form, and fast forms that never build its scores.

LUKE's entity-aware attention (Yamada et al. 2020) computes the score of query i and key j with a query projection that depends
on what both are, word or entity, and takes one softmax over all keys. So a query row has one *part* for each kind of key::

    out_i = Σ_parts Σ_j exp(q_i^part · k_j / √d) v_j  /  Σ_parts Σ_j exp(q_i^part · k_j / √d)

On CPUs the fast form runs torch's fused kernel on each part and merges the parts by the logarithms of their sums (`logsumexp`).
A fused kernel's backward pass needs only the output and the logsumexp of the *whole* softmax, so each part's gradient is exact,
too. Elsewhere all parts go through the device's fused kernel in one call (`attend_in_one`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED = -1e30
"""What is added to the score of a key that is padding: finite, so that a row whose keys are all padding has no NaN."""

_HAS_FLASH = hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu")


class Part(NamedTuple):
    """One kind of keys, and the queries for it.

    Attributes:
        query: *(batch, heads, n_queries, head_width)*.
        key: *(batch, heads, n_keys, head_width)*.
        value: as `key`.
        padding: *(batch, n_keys)* true where there is no key, or none.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    padding: Tensor | None = None

    @property
    def bias(self) -> Tensor | None:
        """What is added to the scores *(batch, 1, n_queries, n_keys)*, without memory for each query."""
        if self.padding is None:
            return None
        bias = self.query.new_zeros(self.padding.shape).masked_fill(self.padding, _masked(self.query.dtype))
        return bias[:, None, None, :].expand(-1, 1, self.query.shape[2], -1)


def attend(parts: Sequence[Part], own: Part | None = None) -> Tensor:
    """Attend to all parts with one softmax.

    Args:
        parts: kinds of keys, for the same queries.
        own: keys and values *(batch, heads, n_queries, head_width)* that only the query of the same row sees.

    Returns:
        *(batch, heads, n_queries, head_width)*.
    """
    if len(parts) == 1 and own is None:
        q, k, v, _ = parts[0]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=parts[0].bias)
    if not _HAS_FLASH or parts[0].query.device.type != "cpu":
        return attend_in_one(parts, own)
    tensors = [tensor for part in (*parts, *([] if own is None else [own])) for tensor in part[:3]]
    # the kernel takes numbers of one head to be neighbours in memory, and does not check it
    tensors = [tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in tensors]
    output: Tensor = _MergedAttention.apply([part.bias for part in parts], own is not None, *tensors)  # type: ignore[no-untyped-call]
    return output


def attend_in_one(parts: Sequence[Part], own: Part | None = None) -> Tensor:
    """`attend` by one call of `torch.nn.functional.scaled_dot_product_attention`, which has a fused kernel on every device.

    A row's queries stand side by side, and each key stands where its part's query does, with zeros beside it::

        [q^1 q^2] · [k^1 0] = q^1 · k^1        [q^1 q^2] · [0 k^2] = q^2 · k^2

    The scores' operations grow with the number of parts; a mask is built for padding and for `own`, once for all heads.
    """
    kinds = [*parts, *([] if own is None else [own])]
    width = parts[0].query.shape[-1]
    before = [i * width for i in range(len(kinds))]
    keys = [F.pad(part.key, (place, before[-1] - place)) for place, part in zip(before, kinds, strict=True)]
    bias = _joint_bias(parts, own)
    return F.scaled_dot_product_attention(
        torch.cat([part.query for part in kinds], dim=-1),
        torch.cat(keys, dim=2),
        torch.cat([part.value for part in kinds], dim=2),
        attn_mask=bias,
        scale=width**-0.5,
    )


def _joint_bias(parts: Sequence[Part], own: Part | None) -> Tensor | None:
    """What is added to the scores of all parts *(batch or 1, 1, n_queries, n_keys)*; none if every query sees every key."""
    if own is None and all(part.padding is None for part in parts):
        return None
    query = parts[0].query
    n_queries = query.shape[2]
    biases = [query.new_zeros(1, 1, n_queries, part.key.shape[2]) if part.bias is None else part.bias for part in parts]
    if own is not None:
        others = ~torch.eye(n_queries, dtype=torch.bool, device=query.device)
        biases.append(query.new_zeros(1, 1, n_queries, n_queries).masked_fill(others, _masked(query.dtype)))
    batch = max(bias.shape[0] for bias in biases)
    return torch.cat([bias.expand(batch, -1, -1, -1) for bias in biases], dim=-1)


def attend_reference(parts: Sequence[Part], own: Part | None = None) -> Tensor:
    """`attend` as it is defined, with a score for each query and key."""
    scale = parts[0].query.shape[-1] ** -0.5
    scores = []
    for part in parts:
        score = part.query @ part.key.mT * scale
        scores.append(score if part.bias is None else score + part.bias)
    if own is not None:
        scores.append((own.query * own.key).sum(-1, keepdim=True) * scale)
    weights = torch.cat(scores, dim=-1).softmax(-1)
    out = torch.zeros_like(parts[0].query)
    start = 0
    for part in parts:
        n_keys = part.key.shape[2]
        out = out + weights[..., start : start + n_keys] @ part.value
        start += n_keys
    return out if own is None else out + weights[..., start:] * own.value


def _masked(dtype: torch.dtype) -> float:
    return max(MASKED, torch.finfo(dtype).min)


class _MergedAttention(torch.autograd.Function):
    """The parts in torch's fused kernel for CPUs, then merged."""

    @staticmethod
    def forward(ctx: Any, biases: list[Tensor | None], has_own: bool, *tensors: Tensor) -> Tensor:
        triples = [tensors[i : i + 3] for i in range(0, len(tensors), 3)]
        own = triples.pop() if has_own else None
        found = [
            torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=bias)
            for (q, k, v), bias in zip(triples, biases, strict=True)
        ]
        if own is not None:
            found.append((own[2], _own_scores(own)))
        merged, total = found[0]
        for out, logsumexp in found[1:]:
            merged = torch.lerp(merged, out, torch.sigmoid(logsumexp - total)[..., None].to(out.dtype))
            total = torch.logaddexp(total, logsumexp)
        # the fused backward kernel reads the output in the forward kernel's layout (batch, rows, heads, head width)
        merged = merged.transpose(1, 2).contiguous().transpose(1, 2)
        ctx.biases, ctx.has_own = biases, has_own
        ctx.save_for_backward(merged, total, *tensors)
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        merged, total, *tensors = ctx.saved_tensors
        triples = [tensors[i : i + 3] for i in range(0, len(tensors), 3)]
        own = triples.pop() if ctx.has_own else None
        results: list[Tensor | None] = [None, None]
        for (q, k, v), bias in zip(triples, ctx.biases, strict=True):
            results += torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grads[0], q, k, v, merged, total, 0.0, False, attn_mask=bias
            )
        if own is not None:
            q, k, v = own
            weight = torch.exp(_own_scores(own) - total)[..., None]
            # of a softmax: dscore = weight (dweight - Σ weights dweights), and that sum is grad · output
            dscore = weight * ((grads[0] * v).sum(-1, keepdim=True) - (grads[0] * merged).sum(-1, keepdim=True))
            dscore = dscore * q.shape[-1] ** -0.5
            results += [gradient.to(q.dtype) for gradient in (dscore * k, dscore * q, weight * grads[0])]
        return tuple(results)


def _own_scores(own: Sequence[Tensor]) -> Tensor:
    """As the kernel gives its sums: in single precision where numbers have half of it."""
    dtype = torch.promote_types(own[0].dtype, torch.float32)
    return (own[0] * own[1]).sum(-1, dtype=dtype) * own[0].shape[-1] ** -0.5
