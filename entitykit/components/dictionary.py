"""`entitykit_dictionary`: finds the names of a knowledge base in texts and links each to what it names most often; no model."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import srsly
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.tokens import Doc, Span
from spacy.tokens.span_group import SpanGroup
from spacy.training import Example
from spacy.vocab import Vocab

from entitykit.components.batches import PipedInBatches
from entitykit.components.extensions import register_extensions
from entitykit.components.files import read_cfg, write_cfg
from entitykit.components.gold import ENTS
from entitykit.components.with_kb import WithKB
from entitykit.knowledge.dictionary import DictionaryMention, DictionarySettings, MentionDictionary

DEFAULT_CONFIG = {
    "kb": None,
    "mentions": "ents",
    "label": "ENTITY",
    "min_link_probability": 0.0,
    "min_count": 0,
    "min_prior": 0.0,
    "overwrite": False,
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_dictionary",
    assigns=["doc.ents", "doc.spans", "span._.kb_ents"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"linking_micro_f": 0.0, "linking_micro_p": 0.0, "linking_micro_r": 0.0},
)
def make_dictionary(
    nlp: Language,
    name: str,
    kb: Any,
    mentions: str,
    label: str,
    min_link_probability: float,
    min_count: int,
    min_prior: float,
    overwrite: bool,
    scorer: Callable[..., Any] | None,
) -> "Dictionary":
    """Make the dictionary.

    Args:
        nlp: the pipeline.
        name: the component's name.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
        mentions: where mentions are written: ``ents`` or a span group, which is replaced.
        label: of all mentions.
        min_link_probability: p(link | phrase), from 0 to 1; phrases that were not counted in text pass.
        min_count: how often a phrase names any entity.
        min_prior: p(entity | phrase) of a candidate, from 0 to 1.
        overwrite: replace the entities that a document has; otherwise they stay, and mentions that overlap one are left out.
        scorer: scores examples.
    """
    settings = DictionarySettings(min_link_probability=min_link_probability, min_count=min_count, min_prior=min_prior)
    return Dictionary(nlp.vocab, name, settings, kb=kb, mentions=mentions, label=label, overwrite=overwrite, scorer=scorer)


class Dictionary(WithKB, PipedInBatches, Pipe):
    """Writes mentions with ``kb_id_`` and ``span._.kb_ents``: pairs of id and p(entity | phrase), the most probable first.

    A span group has the link probabilities as `attrs["scores"]`, none for phrases that were not counted in text.

    Args:
        vocab: the pipeline's.
        name: the component's name.
        settings: thresholds.
        kb: see `set_kb`; or none.
        mentions: see `make_dictionary`.
        label: of all mentions.
        overwrite: see `make_dictionary`.
        scorer: called as ``scorer(examples, …)``, or none.
    """

    def __init__(
        self,
        vocab: Vocab,
        name: str,
        settings: DictionarySettings,
        *,
        kb: Any = None,
        mentions: str = ENTS,
        label: str = "ENTITY",
        overwrite: bool = False,
        scorer: Callable[..., Any] | None = None,
    ) -> None:
        self.vocab, self.name, self.settings = vocab, name, settings
        self.mentions, self.label, self.overwrite = mentions, label, overwrite
        self.scorer = scorer
        self.cfg: dict[str, Any] = {}
        self._found: MentionDictionary | None = None
        register_extensions()
        self.begin_kb(kb)

    def set_kb(self, kb: Any) -> None:
        """See `WithKB`.

        Raises:
            ConfigError: E510 if it knows nothing of `min_link_probability`.
        """
        super().set_kb(kb)
        self._found = MentionDictionary(self.store, self.settings)

    @property
    def link_key(self) -> str:
        """Where the mentions are that it finds: ``ents`` or a span group."""
        return self.mentions

    @property
    def least_link(self) -> float:
        """The least probability that a link has: that of a candidate."""
        return self.settings.min_prior

    @property
    def _dictionary(self) -> MentionDictionary:
        store = self.store
        if self._found is None:
            self._found = MentionDictionary(store, self.settings)
        return self._found

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None, kb: Any = None) -> None:
        """Take the knowledge base.

        Args:
            get_examples: not needed.
            nlp: the pipeline.
            kb: see `set_kb`; none: that of the config.

        Raises:
            ConfigError: E538 without a knowledge base.
        """
        if kb is not None:
            self.set_kb(kb)
        _ = self.store

    # What spaCy calls

    def __call__(self, doc: Doc) -> Doc:
        """Annotate a document."""
        self.set_annotations([doc], self.predict([doc]))
        return doc

    def predict(self, docs: Iterable[Doc]) -> list[list[DictionaryMention]]:
        """Find the mentions of documents, without changing them."""
        return self._dictionary.find_batch([_words(doc) for doc in docs])

    def set_annotations(self, docs: Iterable[Doc], predictions: Sequence[Sequence[DictionaryMention]]) -> None:
        """Write mentions and their links."""
        for doc, found in zip(docs, predictions, strict=True):
            if self.mentions != ENTS:
                probabilities = [each.link_probability for each in found]
                spans = [self._span(doc, each) for each in found]
                doc.spans[self.mentions] = SpanGroup(doc, name=self.mentions, spans=spans, attrs={"scores": probabilities})
            else:
                kept = () if self.overwrite else doc.ents
                taken = {token.i for ent in kept for token in ent}
                new = [self._span(doc, each) for each in found if taken.isdisjoint(range(each.start, each.end))]
                doc.set_ents([*kept, *new])

    def _span(self, doc: Doc, mention: DictionaryMention) -> Span:
        span = Span(doc, mention.start, mention.end, label=self.label, kb_id=mention.candidates[0].id)
        span._.kb_ents = [(match.id, match.prior) for match in mention.candidates]
        return span

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predicted against gold documents with the component's scorer."""
        if self.scorer is None:
            return {}
        where = {"annotate": "ents"} if self.mentions == ENTS else {"annotate": "spans", "spans_key": self.mentions}
        return cast(dict[str, Any], self.scorer(list(examples), **where))

    # Saving

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the place of the knowledge base as JSON.

        Raises:
            OutputError: E107 if the folder cannot be written.
        """
        write_cfg(Path(path), self.cfg)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "Dictionary":
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one.

        Raises:
            CheckpointError: E108 or E005 for the file, E500 or E501 for the knowledge base.
        """
        return self._restore(read_cfg(Path(path)))

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """The place of the knowledge base as bytes."""
        return srsly.msgpack_dumps(self.cfg)

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "Dictionary":
        """Read what `to_bytes` gave; see `from_disk`."""
        return self._restore(srsly.msgpack_loads(bytes_data))

    def _restore(self, cfg: dict[str, Any]) -> "Dictionary":
        self.restore_kb(cfg)
        return self


def _words(doc: Doc) -> tuple[list[str], list[bool]]:
    return [token.text for token in doc], [bool(token.whitespace_) for token in doc]
