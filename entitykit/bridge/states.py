"""The encoder's output for a batch, and how it travels on documents from the encoder to components that come later."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from spacy.tokens import Doc
from spacy_transformers.data_classes import TransformerData, WordpieceBatch
from spacy_transformers.pipeline_component import install_extensions
from thinc.api import get_torch_default_device, torch2xp, xp2torch
from thinc.types import Ragged
from torch import Tensor
from transformers.file_utils import ModelOutput

from entitykit.errors import error
from entitykit.types import ENTITIES, MENTIONS, TOP, EntityTokens, MentionOutput, Spans, WordStates

_SPANS, _VALID, _RUNS = "entity_spans", "mention_valid", "runs"


@dataclass
class EncoderBatch:
    """The encoder's output for a batch of documents.

    Attributes:
        states: of all words, and of entity tokens.
        coverage: for each document, how it was read.
        keys: for each document, what entity tokens for later spans must know, as arrays by name; if it was to be kept.
        link_loss: in training, how badly the candidates of entity tokens were scored, if gold links are known.
    """

    states: WordStates
    coverage: list[dict[str, int]]
    keys: Sequence[Mapping[str, Any]] | None = None
    link_loss: float | None = None

    @cached_property
    def doc_data(self) -> list[TransformerData]:
        """The output as spacy-transformers' listeners read it: one row per word, aligned one to one."""
        states = self.states
        ends = np.cumsum(states.lengths).tolist()
        rows = {_key(key): tensor.detach() for key, tensor in states.tensors().items() if key != ENTITIES}
        if states.mentions is not None:
            rows[_VALID] = states.mentions.valid
        arrays = {name: torch2xp(tensor) for name, tensor in rows.items()}
        nothing: Sequence[Mapping[str, Any]] = [{} for _ in ends]
        tokens = nothing if states.entities is None else _split_tokens(states.entities, states.lengths)
        found = []
        for n, end, of_tokens, keys, runs in zip(
            states.lengths, ends, tokens, self.keys or nothing, _split_runs(states), strict=True
        ):
            own = {name: _rows(array, end - n, end) for name, array in arrays.items()}
            found.append(_word_data({**own, **of_tokens, **keys, _RUNS: runs}, n))
        return found


def _rows(array: Any, first: int, end: int) -> Any:
    """One document's rows; a copy where they are less than half of the batch, which would otherwise be kept with them."""
    rows = array[first:end]
    return rows.copy() if 2 * len(rows) < len(array) else rows


def _split_runs(states: WordStates) -> list[Any]:
    """Each document's runs of words."""
    sizes = np.array(states.lengths if states.runs is None else states.runs, dtype=np.int64)
    ends = np.cumsum(sizes)
    edges = np.searchsorted(ends, np.cumsum([0, *states.lengths]), side="right")
    return [sizes[low:high] for low, high in pairwise(edges)]


def _split_tokens(entities: EntityTokens, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Each document's tokens; their spans count from its first word."""
    starts, ends = entities.spans.starts.cpu().numpy(), entities.spans.ends.cpu().numpy()
    states = None if entities.states is None else torch2xp(entities.states.detach())
    firsts = np.cumsum([0, *lengths])
    rows = np.searchsorted(starts, firsts)
    found = []
    for low, high, first in zip(rows[:-1], rows[1:], firsts[:-1], strict=True):
        spans = {_SPANS: np.stack([starts[low:high], ends[low:high]], axis=1) - first}
        found.append(spans if states is None else {_key(ENTITIES): _rows(states, low, high), **spans})
    return found


def _word_data(arrays: Mapping[str, Any], n_words: int) -> TransformerData:
    """Wrap one document's arrays; the top layer is spaCy's ``last_hidden_state``."""
    if n_words == 0:
        return TransformerData.empty()
    output = ModelOutput()
    for name, array in arrays.items():
        output[name] = array[None]
    align = Ragged(cast(Any, np.arange(n_words)), cast(Any, np.ones(n_words, dtype="i")))
    return TransformerData(wordpieces=WordpieceBatch.empty(), model_output=output, align=align)


def _key(number: int) -> str:
    return {TOP: "last_hidden_state", ENTITIES: "entity_states", MENTIONS: "mention_band"}.get(number, f"layer_{number}")


def states_of(docs: Sequence[Doc], reads: Collection[int], width: int) -> WordStates:
    """Gather what the encoder left on documents.

    Args:
        docs: all read by the same encoder.
        reads: layers; and `ENTITIES` and `MENTIONS`, which are left out if the encoder has none.
        width: size of a state, for a batch without words.

    Raises:
        ConfigError: E102 if the encoder has not read a document, E103 if it has not given a layer.
    """
    install_extensions()
    for doc in docs:
        if doc._.trf_data is None and len(doc):
            raise error("E102", text=doc.text[:40])
    outputs = [doc._.trf_data.model_output for doc in docs if len(doc)]

    def gather(name: str, what: object) -> Tensor:
        if any(name not in output for output in outputs):
            raise error("E103", layer=what)
        parts = [xp2torch(output[name][0]) for output in outputs]
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    lengths = tuple(len(doc) for doc in docs)
    if not outputs:
        nothing = torch.zeros(0, width, device=get_torch_default_device())
        return WordStates({layer: nothing for layer in reads if layer >= TOP}, lengths)
    states = WordStates({n: gather(_key(n), "last" if n == TOP else n) for n in reads if n >= TOP}, lengths)
    states = states._replace(runs=tuple(int(n) for output in outputs for n in output[_RUNS][0]))
    if ENTITIES in reads and any(_SPANS in output for output in outputs):
        has_tokens = any(_key(ENTITIES) in output for output in outputs)
        entity_states = gather(_key(ENTITIES), "of entity tokens") if has_tokens else None
        spans = gather(_SPANS, "of entity tokens").to(next(iter(states.layers.values())).device)
        sizes = torch.tensor([len(output[_SPANS][0]) for output in outputs], device=spans.device)
        with_words = torch.tensor([n for n in lengths if n], device=spans.device)
        shifted = spans + torch.repeat_interleave(with_words.cumsum(0) - with_words, sizes)[:, None]
        states = states._replace(entities=EntityTokens(Spans(shifted[:, 0], shifted[:, 1]), entity_states))
    if MENTIONS in reads and any(_VALID in output for output in outputs):
        states = states._replace(mentions=MentionOutput(gather(_key(MENTIONS), "of mentions"), gather(_VALID, "of mentions")))
    return states
