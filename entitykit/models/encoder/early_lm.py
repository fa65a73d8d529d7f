"""The lowest layers of any language model of `transformers`, as an encoder over packs.

Early layers know where mentions are (Morand et al. 2025), so whatever lies above those that are read is not kept. The blocks
themselves are the library's own. Layer 0 is what the first block reads, layer i what the i-th block gives: the residual stream,
which no final norm has passed. Only the model's own last layer, if it is kept, is given behind that norm, as in `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from entitykit.models.encoder.transformer import Pack

_ROUNDING = 1e-4  # of the largest number


@dataclass(frozen=True, kw_only=True)
class EarlyLMSettings:
    """What is kept of a language model.

    Attributes:
        config: its configuration as JSON values, that of the whole model.
        width: size of a hidden state.
        n_layers: blocks that are kept.
        has_top: the last block that is kept is the model's own last one.
        n_positions: longest sequence, `first_position` included.
        first_position: position id of a sequence's first piece (RoBERTa starts at 2).
        pad: piece that fills the batch; no piece of a text reads it.
        frozen: learn nothing; no gradients are kept, and nothing is dropped out.
    """

    entities: ClassVar[None] = None  # no entity tokens run beside the pieces

    config: Mapping[str, Any]
    width: int
    n_layers: int
    has_top: bool
    n_positions: int
    first_position: int = 0
    pad: int = 0
    frozen: bool = True


class EarlyLM(nn.Module):
    """Runs a language model's blocks over packs; it has the interface of `TransformerEncoder`.

    Args:
        settings: see `EarlyLMSettings`.
        model: the model of `transformers`, without head, with `n_layers` blocks.

    Raises:
        LookupError: if the model has no list of `n_layers` blocks.
    """

    def __init__(self, settings: EarlyLMSettings, model: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self.model = model
        self._blocks = find_blocks(model, settings.n_layers)
        if settings.frozen:
            self.requires_grad_(False)

    def train(self, mode: bool = True) -> EarlyLM:
        """Set the mode; a frozen model knows no dropout."""
        return super().train(mode and not self.settings.frozen)

    def forward(self, pack: Pack, layers: Collection[int]) -> dict[int, Tensor]:
        """Encode a pack as far up as is asked for.

        Args:
            pack: sequences of pieces; neighbours of like length need little padding.
            layers: the layers whose states are wanted; 0 is the embeddings. Blocks above the highest are not run.

        Returns:
            Layer to states *(n_pieces, width)*.
        """
        parts: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        start = 0
        for lengths in padded_batches(pack.lengths):
            sizes = torch.tensor(lengths, device=pack.ids.device)
            mask = torch.arange(max(lengths), device=pack.ids.device) < sizes[:, None]
            ids = torch.full(mask.shape, self.settings.pad, device=pack.ids.device)
            ids[mask] = pack.ids[start : start + sum(lengths)]
            for layer, states in self._run(ids, mask, layers).items():
                parts[layer].append(states[mask])  # (count, longest, width) -> (pieces of the batch, width)
            start += sum(lengths)
        nothing = torch.zeros(0, self.settings.width, device=pack.ids.device)
        return {layer: torch.cat(found) if found else nothing for layer, found in parts.items()}

    def _run(self, ids: Tensor, mask: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        """States *(count, longest, width)* of each layer, from ids and mask *(count, longest)*."""
        top = max(layers)
        states: dict[int, Tensor] = {}

        def keep(layer: int, value: Any) -> None:
            states[layer] = _first(value)
            if layer == top:
                raise _Enough

        blocks = list(self.model.get_submodule(self._blocks).children())
        handles = [
            blocks[layer].register_forward_pre_hook(_reads(keep, layer), with_kwargs=True)
            for layer in layers
            if layer < self.settings.n_layers
        ]
        gives_last = self.settings.n_layers in layers
        if gives_last and not self.settings.has_top:
            handles.append(blocks[-1].register_forward_hook(lambda _, __, output: keep(self.settings.n_layers, output)))
        try:
            output = self.model(input_ids=ids, attention_mask=mask.long())
            if gives_last and self.settings.has_top:
                states[self.settings.n_layers] = output.last_hidden_state
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return states


def check_layers(encoder: EarlyLM, ids: Tensor, lengths: Sequence[int]) -> None:
    """Compare an encoder's layers of a batch with those of each sequence alone, and these with what the library says of them.

    The library's hidden states begin with what the first block reads or, in models such as Mamba, with what it gives. Where a
    final norm follows, they do not end with what the last block gives; the norm must then make of it what the model gives.

    Args:
        encoder: that drops nothing out.
        ids: *(n_pieces,)* of all sequences.
        lengths: of the sequences.

    Raises:
        LookupError: for a layer whose states depend on the padding, or are those of no layer.
    """
    n_layers, name = encoder.settings.n_layers, type(encoder.model).__name__
    together = _states(encoder, ids, lengths)
    for number, part in enumerate(ids.split(list(lengths))):
        ours = _states(encoder, part, [len(part)])
        for layer, states in together.items():
            if not _is_same(states.split(list(lengths))[number], ours[layer]):
                raise LookupError(f"{name}, whose layer {layer} gives other states where a batch is padded")
        output, ends = _run_to_the_end(encoder.model, part)
        behind = 0 if _is_same(ours[0], output.hidden_states[0]) else 1
        right = {layer: [output.hidden_states[layer - behind]] for layer in range(behind, n_layers)}
        right[n_layers] = [output.last_hidden_state] if encoder.settings.has_top else ends
        for layer, possible in right.items():
            if not any(_is_same(ours[layer], states) for states in possible):
                raise LookupError(f"{name}, whose layer {layer} does not give the states that the library tells of")


def _states(encoder: EarlyLM, ids: Tensor, lengths: Sequence[int]) -> dict[int, Tensor]:
    """Of all layers."""
    positions = torch.cat([torch.arange(length) for length in lengths])
    return encoder(Pack(ids, positions, torch.zeros_like(ids), tuple(lengths)), range(encoder.settings.n_layers + 1))


def _run_to_the_end(model: nn.Module, ids: Tensor) -> tuple[Any, list[Tensor]]:
    """Run a model on one sequence *(n_pieces,)*; its output, and states of which modules alone make it, one after another."""
    calls: list[tuple[list[Any], Any]] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = _first(output)
        if isinstance(given, Tensor):
            read = [value.clone() for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            calls.append((read, given.clone()))  # what follows may change it in place

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        output = model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], output_hidden_states=True)
    finally:
        for handle in handles:
            handle.remove()
    ends = [output.last_hidden_state]
    for read, given in reversed(calls):
        if any(_is_same(given, end) for end in ends):
            ends += read
    return output, ends


def _first(output: Any) -> Any:
    """A block's states, which some give with others."""
    return output[0] if isinstance(output, (tuple, list)) else output


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Whether states are the same but for rounding, whatever the axes of length 1."""
    if a.numel() != b.numel() or a.shape[-1] != b.shape[-1] or not (a.is_floating_point() and b.is_floating_point()):
        return False
    return bool((a.reshape(b.shape) - b).abs().max() <= _ROUNDING * b.abs().max())


class _Enough(Exception):
    """All layers that were asked for are known; the only way out of a loop over blocks that is not ours."""


def _reads(keep: Callable[[int, Any], None], layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
    """A hook that keeps what a block reads."""

    def hook(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(layer, args[0] if args else kwargs["hidden_states"])

    return hook


def find_blocks(model: nn.Module, n_layers: int) -> str:
    """The name of a model's list of blocks: the outermost list of that length, whatever the library calls it.

    Args:
        model: a model of `transformers`.
        n_layers: blocks that it has.

    Raises:
        LookupError: if there is none, such as in models whose layers share their weights.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            return name
    raise LookupError(f"{type(model).__name__} has no list of {n_layers} blocks")


def padded_batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut a pack's sequences into batches of which at most a fifth is padding; empty sequences are left out.

    Args:
        lengths: pieces of each sequence.

    Yields:
        Lengths of the sequences of one batch.
    """
    batch: list[int] = []
    total, longest = 0, 0
    for length in lengths:
        if not length:
            continue
        padded = (len(batch) + 1) * max(length, longest)
        if 4 * padded > 5 * (total + length):
            yield batch
            batch, total, longest = [], 0, 0
        batch.append(length)
        total, longest = total + length, max(length, longest)
    if batch:
        yield batch
