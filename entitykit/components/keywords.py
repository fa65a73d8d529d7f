"""`entitykit_keywords`: by which words of its context a mention should be searched for in descriptions."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Model
from torch import Tensor

from entitykit.bridge.head import HeadInput
from entitykit.bridge.keywords import SCORES, Labels, distant_labels
from entitykit.components.kb import KBPipe
from entitykit.errors import error, warn
from entitykit.knowledge.candidates import KEYWORDS
from entitykit.models.keywords import KeywordOutput
from entitykit.scoring.salience import average_precision
from entitykit.types import Spans, no_spans

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.Keywords.v1", "tok2vec": {"@architectures": "entitykit.EncoderListener.v1"}},
    "kb": None,
    "mentions": "ents",
    "keywords": KEYWORDS,
}


@Language.factory(
    "entitykit_keywords",
    assigns=["doc._.keyword_scores"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"keywords_ap": 1.0},
)
def make_keywords(
    nlp: Language, name: str, model: Model[HeadInput, KeywordOutput], kb: Any, mentions: str, keywords: int
) -> "Keywords":
    """Make the component.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.Keywords.v1`.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
            It is learned from, and not needed to predict.
        mentions: where gold links are: ``ents`` or a span group.
        keywords: so many different words of a mention's context, at most, are its keywords in training.
    """
    settings = {"mentions": mentions, "keywords": keywords}
    return Keywords(nlp.vocab, model, name, settings=settings, kb=kb, scorer=None)


class Keywords(KBPipe):
    """Writes ``doc._.keyword_scores``: for each word the probability that it is a keyword of mentions near it.

    What is a keyword is learned from gold links: the words around a mention, at most 128, that say most of the description of
    its entity. `entitykit_linker` behind it searches for candidates by these.
    """

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        self.check_least(keywords=1)

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Warn of gold links that teach nothing."""
        super().learn_corpus(examples, settings)
        if not self.store.n_described:
            warn("W587", name=self.name, path=self.store.folder, stacklevel=4)

    def labels_in(self, reference: Doc) -> Iterable[str]:
        """None: words are keywords or not."""
        return ()

    def candidates(self, docs: Sequence[Doc], examples: Sequence[Example] | None) -> Spans:
        """None: all words are scored."""
        return no_spans()

    def labels_of(self, examples: Sequence[Example]) -> Labels:
        """What the words around the gold mentions of a batch should be called; those of entities without description aside."""
        links, rows = self.known_links(examples)
        told = np.flatnonzero(self.store.described(rows)).tolist()
        docs, places = [eg.predicted for eg in examples], [links[i].place for i in told]
        return distant_labels(self.store, docs, places, [rows[i] for i in told], self.settings["keywords"])

    def targets(self, examples: Sequence[Example], output: KeywordOutput) -> tuple[Tensor, ...]:
        """Numbers of words, and whether they are keywords."""
        labels = self.labels_of(examples)
        words, targets = (torch.from_numpy(part).to(output.logits.device) for part in labels[:2])
        return words, targets

    def decode(self, output: KeywordOutput, docs: Sequence[Doc]) -> list[Any]:
        """Probabilities of each document's words."""
        scores = output.logits.sigmoid().tolist()
        ends = np.cumsum([len(doc) for doc in docs]).tolist()
        return [scores[end - len(doc) : end] for doc, end in zip(docs, ends, strict=True)]

    def annotate(self, doc: Doc, prediction: Any) -> None:
        """Write one document's probabilities."""
        doc._.set(SCORES, prediction)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score how the words of contexts are ranked: `keywords_ap`, the mean average precision over gold mentions.

        Mentions without keywords, whose description shares no word with the context, do not count.

        Raises:
            ConfigError: E588 for documents that the component has not read, or that have other words by now.
        """
        examples = list(examples)
        labels = self.labels_of(examples)
        for doc in (eg.predicted for eg in examples):
            if len(doc._.get(SCORES) or ()) != len(doc):
                raise error("E588", found=len(doc._.get(SCORES) or ()), expected=len(doc))
        scores = np.array([score for eg in examples for score in eg.predicted._.get(SCORES) or ()])
        cuts = np.cumsum(labels.sizes)[:-1]
        parts = zip(np.split(labels.targets, cuts), np.split(scores[labels.words], cuts), strict=True)
        found = [average_precision(targets, values) for targets, values in parts if targets.any()]
        return {"keywords_ap": sum(found) / len(found) if found else None}
