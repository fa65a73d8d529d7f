"""GENRE (arXiv 2010.00904): an encoder-decoder of `transformers` that writes names, its loss, and its outputs as they grow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED = -100
"""What fills up targets, and stands for labels that are not learned."""


class Seq2Seq(nn.Module):
    """An encoder-decoder, whose weights are saved once even where they are shared.

    Args:
        network: a model of `transformers` with an encoder, a decoder and a head that predicts tokens.
        start: what each output begins with before the first token that is predicted.
        new_cache: makes what the network keeps of an output's beginning; none: it makes that itself.
    """

    def __init__(self, network: nn.Module, start: Sequence[int], new_cache: Callable[[], Any]) -> None:
        super().__init__()
        self.network = network
        self.start = tuple(start)
        self.new_cache = new_cache

    def forward(self, ids: Tensor, mask: Tensor, targets: Tensor) -> Tensor:
        """Predict each target from those before it.

        Args:
            ids: *(n, length)* tokens of the sources.
            mask: *(n, length)* 1 for tokens, 0 for what fills up.
            targets: *(n, n_targets)*, filled up with `IGNORED`.

        Returns:
            *(n, n_targets, n_tokens)* logits.
        """
        start = torch.tensor(self.start, device=ids.device).expand(len(ids), -1)
        inputs = torch.cat([start, targets[:, :-1].clamp_min(0)], dim=1)
        output = self.network(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs, use_cache=False)
        return output.logits[:, len(self.start) - 1 :]

    def loss(self, logits: Tensor, labels: Tensor, *, smoothing: float) -> Tensor:
        """Cross-entropy with smoothed labels, summed over tokens.

        Args:
            logits: *(n, n_targets, n_tokens)* from `forward`.
            labels: *(n, n_targets)* the targets, with `IGNORED` in the place of those that are not learned, too.
            smoothing: share of the probability that is spread over all tokens.
        """
        return F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="sum"
        )

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """All tensors, each under one name."""
        tensors = super().state_dict(*args, **kwargs)
        kept = {name for name, _ in self.named_parameters()} | {name for name, _ in self.named_buffers()}
        return {name: tensor for name, tensor in tensors.items() if name in kept}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load what `state_dict` gave."""
        own, names = super().state_dict(), self.state_dict().keys()
        if strict and names != state_dict.keys():
            missing, unknown = sorted(names - state_dict.keys()), sorted(state_dict.keys() - names)
            raise RuntimeError(f"missing tensors: {missing[:3]}, unknown tensors: {unknown[:3]}")
        shared = {name: tensor for name, tensor in own.items() if name not in names}
        return super().load_state_dict({**shared, **state_dict}, strict=strict, assign=assign)


class Writing:
    """Outputs that are being written, a row for each; what the decoder has computed of them is kept.

    Args:
        model: in evaluation mode.
        ids: *(n_sources, length)* tokens of the sources.
        mask: *(n_sources, length)* 1 for tokens, 0 for what fills up.
    """

    def __init__(self, model: Seq2Seq, ids: Tensor, mask: Tensor) -> None:
        self._network = model.network
        self._mask = mask
        encoder: Any = self._network.get_encoder()  # type: ignore[operator]
        self._encoded = encoder(input_ids=ids, attention_mask=mask)[0]  # (n_sources, length, width)
        self._sources = torch.arange(len(ids), device=ids.device)  # of the rows
        self._past = model.new_cache()
        self._spread = (self._encoded, self._mask)  # for the rows
        self._read(torch.tensor(model.start, device=ids.device).expand(len(ids), -1))

    def log_p(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities *(n,)* of tokens that may come next in rows, in double precision."""
        return self._logits[rows, tokens].double() - self._total[rows]

    def extend(self, rows: Tensor, tokens: Tensor) -> None:
        """Go on with new rows *(n,)*, each of which is an old one with a token more."""
        sources = self._sources[rows]
        same = torch.equal(sources, self._sources)
        if not (same and torch.equal(rows, torch.arange(len(rows), device=rows.device))):
            self._past = _select(self._past, rows, same)
        if not same:
            self._sources = sources
            self._spread = (self._encoded[sources], self._mask[sources])
        self._read(tokens[:, None])

    def _read(self, tokens: Tensor) -> None:
        """Run the decoder over new tokens *(n_rows, n)*."""
        encoded, mask = self._spread
        output = self._network(
            encoder_outputs=(encoded,),
            attention_mask=mask,
            decoder_input_ids=tokens,
            past_key_values=self._past,
            use_cache=True,
        )
        self._past = output.past_key_values
        self._logits = output.logits[:, -1].float()
        self._total = self._logits.logsumexp(dim=1).double()


def _select(past: Any, rows: Tensor, same_sources: bool) -> Any:
    """The rows of a cache; what it keeps of the sources stays as it is if these are the same."""
    if isinstance(past, tuple):  # of layers: keys and values of the output, then of the source
        return tuple(
            tuple(part if same_sources and i >= 2 else part.index_select(0, rows) for i, part in enumerate(layer))
            for layer in past
        )
    (past.self_attention_cache if same_sources else past).reorder_cache(rows)
    return past
