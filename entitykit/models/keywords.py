"""Which words of a text to search for, when something beside them is looked up in descriptions.

A classifier of words (after "Sparse Retrieval for Few-shot Entity Linking", HITsz-TMG): what it must call a keyword are words
near a mention that say most of the description of the mention's entity, in terms of BM25. The published one reads each mention
with an encoder of its own; this one reads the states that the shared encoder has of the document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from entitykit.models.linear import Linear
from entitykit.types import TOP, Spans, WordStates


@dataclass(frozen=True, kw_only=True)
class KeywordSettings:
    """Settings of `Keywords`.

    Attributes:
        width: size of a word's state.
        hidden: hidden units.
        dropout: probability before both layers in training.
    """

    width: int
    hidden: int = 128
    dropout: float = 0.1


class KeywordOutput(NamedTuple):
    """What is said of words.

    Attributes:
        logits: *(n_words,)* of being a keyword.
    """

    logits: Tensor


class Keywords(nn.Module):
    """Dropout, linear, ReLU, layer norm, dropout, linear.

    Args:
        settings: see `KeywordSettings`.
    """

    def __init__(self, settings: KeywordSettings) -> None:
        super().__init__()
        self.settings = settings
        s = settings
        self.inner_dropout = nn.Dropout(s.dropout)
        self.inner = Linear(s.width, s.hidden)
        self.norm = nn.LayerNorm(s.hidden)
        self.outer_dropout = nn.Dropout(s.dropout)
        self.outer = Linear(s.hidden, 1)

    def forward(self, states: WordStates, spans: Spans) -> KeywordOutput:
        """Score all words, whatever the spans are."""
        hidden = self.norm(F.relu(self.inner(self.inner_dropout(states.layers[TOP]))))
        return KeywordOutput(self.outer(self.outer_dropout(hidden)).squeeze(1))

    def loss(self, output: KeywordOutput, words: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over words of contexts; 0 if there are none.

        Args:
            output: from `forward`.
            words: *(n,)* numbers of words; a word in the contexts of two mentions stands there twice.
            targets: *(n,)* whether each is a keyword for its mention.
        """
        logits = output.logits[words]
        each = F.binary_cross_entropy_with_logits(logits, targets.to(logits), reduction="none")
        return each.sum() / max(len(each), 1)


def build_keywords(settings: Mapping[str, Any]) -> Keywords:
    """Build the head from saved settings."""
    return Keywords(KeywordSettings(**{key: value for key, value in settings.items() if key != "labels"}))
