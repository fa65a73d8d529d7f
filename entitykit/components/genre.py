"""`entitykit_genre`: links mentions by generating names of entities, or finds and links them by writing text with markup."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_examples
from spacy.vocab import Vocab
from thinc.api import Optimizer

from entitykit.bridge.genre import losses_of_parts, write
from entitykit.bridge.genre_names import AliasNames, open_names
from entitykit.bridge.genre_tasks import GenreSettings, Linked, MarkupTask, NameTask
from entitykit.bridge.genre_text import GenreText
from entitykit.bridge.seq2seq import GenreModel
from entitykit.bridge.shim import TorchShim
from entitykit.components.base import check_loss
from entitykit.components.batches import PipedInBatches
from entitykit.components.extensions import register_extensions
from entitykit.components.files import read_model, write_model
from entitykit.components.gold import ENTS, NIL, reference_spans
from entitykit.components.links import Linked as Decided
from entitykit.components.links import as_candidates, mentions_of, write_links
from entitykit.components.nils import group_again
from entitykit.components.with_kb import WithKB
from entitykit.errors import error, warn

TASKS = ("names", "markup")
CANDIDATES = ("all", "alias", "free")

DEFAULT_CONFIG = {
    "model": {"@architectures": "entitykit.Genre.v1", "name": "facebook/bart-large"},
    "kb": None,
    "task": "names",
    "mentions": None,
    "candidates": "all",
    "beams": 5,
    "length_penalty": 1.0,
    "threshold": 0.0,
    "max_words": 10,
    "label": "ENTITY",
    "scorer": {"@scorers": "entitykit.linking_scorer.v1"},
}


@Language.factory(
    "entitykit_genre",
    assigns=["doc.ents", "doc.spans", "span._.kb_ents"],
    default_config=DEFAULT_CONFIG,
    default_score_weights={"linking_micro_f": 1.0, "linking_micro_p": 0.0, "linking_micro_r": 0.0},
)
def make_genre(
    nlp: Language,
    name: str,
    model: GenreModel,
    kb: Any,
    task: str,
    mentions: str | None,
    candidates: str,
    beams: int,
    length_penalty: float,
    threshold: float,
    max_words: int,
    label: str,
    scorer: Callable[..., Any] | None,
) -> "Genre":
    """Make the generative linker.

    Args:
        nlp: the pipeline.
        name: the component's name.
        model: `entitykit.Genre.v1`.
        kb: the knowledge base, such as ``entitykit.KB.v1`` with its path; none: that with which the component was initialized.
        task: ``names``: link mentions that documents have, by generating a name for each; ``markup``: find and link mentions,
            by generating the text with markup.
        mentions: ``ents`` or the span group with the mentions to link, or, for markup, with all spans that may be linked. None:
            ``ents``, or, for markup, any span of up to `max_words`.
        candidates: which names may be generated for a mention: ``all``; those of entities that have the mention as an
            ``alias``, while others are NIL; or any text at all, of which those that are no names are NIL (``free``).
        beams: outputs that are followed at once, and most candidates that are written for a mention.
        length_penalty: outputs are ranked by their log-probability / length ** length_penalty.
        threshold: least probability of a link; below it a mention is NIL, or, for markup, left out.
        max_words: words of the longest mention that markup finds.
        label: of entities that markup finds.
        scorer: scores examples.
    """
    settings = {
        "task": task,
        "mentions": mentions,
        "candidates": candidates,
        "beams": beams,
        "length_penalty": length_penalty,
        "threshold": threshold,
        "max_words": max_words,
        "label": label,
    }
    return Genre(nlp.vocab, model, name, settings=settings, kb=kb, scorer=scorer)


class Genre(WithKB, PipedInBatches, TrainablePipe):
    """Writes ``kb_id_`` of mentions, and ``span._.kb_ents``: pairs of id and probability, the best first.

    Mentions are those of ``doc.ents``, which markup replaces, or of a span group. Markup learns from ``doc.ents``, as far as
    words are annotated, and is scored by them.

    Args:
        vocab: the pipeline's.
        model: `entitykit.Genre.v1`.
        name: the component's name.
        settings: from the config, which is where they are saved.
        kb: see `set_kb`; or none.
        scorer: called as ``scorer(examples, …)``, or none.
    """

    def __init__(
        self,
        vocab: Vocab,
        model: GenreModel,
        name: str,
        *,
        settings: dict[str, Any],
        kb: Any = None,
        scorer: Callable[..., Any] | None = None,
    ) -> None:
        self.vocab = vocab
        self.model = model
        self.name = name
        self.settings = settings
        self.cfg: dict[str, Any] = {}
        self.scorer = scorer
        self._task: NameTask | MarkupTask | None = None
        self._check()
        register_extensions()
        self.begin_kb(kb)

    def _check(self) -> None:
        settings = self.settings
        for setting, allowed in (("task", TASKS), ("candidates", CANDIDATES)):
            if settings[setting] not in allowed:
                raise error("E109", name=self.name, setting=setting, found=settings[setting], expected=" or ".join(allowed))
        for setting, least in (("beams", 1), ("max_words", 1), ("length_penalty", 0), ("threshold", 0)):
            if settings[setting] < least:
                raise error("E109", name=self.name, setting=setting, found=settings[setting], expected=f"at least {least}")

    # What it works with

    def set_kb(self, kb: Any) -> None:
        """See `WithKB`."""
        super().set_kb(kb)
        self._task = None

    @property
    def _shim(self) -> TorchShim:
        return cast(TorchShim, self.model.shims[0])

    @property
    def task(self) -> NameTask | MarkupTask:
        """What reads documents and outputs, with the names of all entities that there are now."""
        version = self.store.version
        if not self._shim.is_built:
            raise error("E101")
        if self._task is None or self._task.names.state != version:
            settings, text = cast(GenreSettings, self.model.attrs["settings"]), GenreText(self._shim.settings)
            kind: type[NameTask] | type[MarkupTask] = NameTask if self.settings["task"] == "names" else MarkupTask
            names = open_names(self.store, text, kind.form)
            restrict = AliasNames(self.store, text, kind.form) if self.settings["candidates"] == "alias" else None
            free = self.settings["candidates"] == "free"
            options = {} if kind is NameTask else {"max_words": self.settings["max_words"]}
            self._task = kind(text, settings, names, restrict, free=free, **options)
        return self._task

    @property
    def _key(self) -> str | None:
        """Where mentions are; none: markup finds them."""
        key: str | None = self.settings["mentions"]
        return ENTS if key is None and self.settings["task"] == "names" else key

    # What spaCy calls

    def initialize(self, get_examples: Callable[[], Iterable[Example]], *, nlp: Language | None = None, kb: Any = None) -> None:
        """Load the checkpoint, and take the knowledge base.

        Args:
            get_examples: not needed: what a checkpoint has learned is of use without examples.
            nlp: the pipeline.
            kb: see `set_kb`; none: that of the config.

        Raises:
            ConfigError: E538 without a knowledge base.
            CheckpointError: E001 to E005, E535 if the checkpoint cannot be used.
        """
        if kb is not None:
            self.set_kb(kb)
        self.model.initialize()
        self._task = None
        _ = self.task  # what is wrong with names and tokenizer is said here

    @property
    def link_key(self) -> str:
        """Where the mentions are that it links, and gold ones: ``ents`` or a span group."""
        return ENTS if self._key is None or self.settings["task"] == "markup" else self._key

    @property
    def least_link(self) -> float:
        """The least probability that a link has."""
        return float(self.settings["threshold"])

    def predict(self, docs: Iterable[Doc]) -> list[list[Linked]]:
        """Link the mentions of documents, without changing them.

        Warns:
            W534 for mentions that were written freely and are not in the text.
        """
        docs = list(docs)
        found: list[list[Linked]] = [[] for _ in docs]
        spans = [self._mentions(doc) for doc in docs]
        task, settings = self.task, self.settings
        requests = task.requests(docs, cast(Any, spans))
        outputs = write(
            self._shim,
            [request.source for request in requests],
            [request.state for request in requests],
            width=settings["beams"],
            n_best=settings["beams"] if isinstance(task, NameTask) else 1,
            length_penalty=settings["length_penalty"],
            budget=task.settings.batch_tokens,
        )
        n_lost = 0
        for request, beams in zip(requests, outputs, strict=True):
            links, n_out = task.read(docs[request.doc], request, beams)
            found[request.doc] += links
            n_lost += n_out
        if n_lost:
            warn("W534", n=n_lost, total=n_lost + sum(map(len, found)), name=self.name)
        return found

    def _mentions(self, doc: Doc) -> list[tuple[int, int]] | None:
        return None if self._key is None else mentions_of(doc, self._key)

    def set_annotations(self, docs: Iterable[Doc], predictions: Sequence[Sequence[Linked]]) -> None:
        """Write links."""
        for doc, links in zip(docs, predictions, strict=True):
            if self.settings["task"] == "markup":
                likely = [link for link in links if link.scores[0] >= self.settings["threshold"]]
                _annotate_found(doc, self._rank(likely), self.settings["label"])
            else:
                _annotate_given(doc, self.link_key, self._rank(links), self.settings["threshold"])

    def _rank(self, links: Sequence[Linked]) -> dict[tuple[int, int], list[tuple[str, float]]]:
        """Ids and probabilities for each mention; of entities with one name, the most popular first."""
        rows = sorted({row for link in links for same in link.rows for row in same})
        store = self.store
        with store.reading():
            alive = [row for row, there in zip(rows, store.alive(rows).tolist(), strict=True) if there]
            entities = dict(zip(alive, store.entities(alive), strict=True))
        found = {}
        for link in links:
            pairs = []
            for same, score in zip(link.rows, link.scores, strict=True):
                ordered = sorted((row for row in same if row in entities), key=lambda row: (-entities[row].count, row))
                pairs += [(entities[row].id, score) for row in ordered]
            found[link.start, link.end] = pairs
        return found

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Learn to write the names of gold links; `drop` is not used, the checkpoint's own dropout is.

        Warns:
            W532 for gold links that cannot be learned.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "Genre.update")
        targets = self._targets([eg.reference for eg in examples])
        if not targets:
            return losses
        for loss in losses_of_parts(self._shim, targets, self.task.settings):
            losses[self.name] += check_loss(self.name, loss)
            loss.backward()
        if sgd:  # spaCy passes False for "later"
            self.finish_update(sgd)
        return losses

    def _targets(self, references: Sequence[Doc]) -> list[Any]:
        task, store = self.task, self.store
        found, n_links, n_lost = [], 0, 0
        for doc in references:
            spans = [span for span in reference_spans(doc, [self.link_key]) or () if span.kb_id_ not in ("", NIL)]
            rows = store.rows([span.kb_id_ for span in spans]).tolist()
            known = [(span, row) for span, row in zip(spans, rows, strict=True) if row >= 0]
            names = [entity.name for entity in store.entities([row for _, row in known])]
            links = sorted((span.start, span.end, name) for (span, _), name in zip(known, names, strict=True))
            targets, n_out = task.targets(doc, links)
            found += targets
            n_links, n_lost = n_links + len(spans), n_lost + len(spans) - len(known) + n_out
        if n_lost:
            warn("W532", n=n_lost, total=n_links, name=self.name)
        return found

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Score predicted against gold documents with the component's scorer."""
        if self.scorer is None:
            return {}
        key = self.link_key
        where = {"annotate": "ents"} if key == ENTS else {"annotate": "spans", "spans_key": key}
        return cast(dict[str, Any], self.scorer(list(examples), **where))

    # Saving

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings and the place of the knowledge base as JSON, and weights as safetensors."""
        write_model(Path(path), self.model, self.cfg)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "Genre":
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one."""
        self._restore(read_model(Path(path), self.model))
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Settings, the place of the knowledge base, and weights as bytes."""
        return super().to_bytes(exclude=tuple(exclude))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "Genre":
        """Read what `to_bytes` gave; see `from_disk`."""
        own = dict(self.cfg)
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        read, self.cfg = dict(self.cfg), own
        self._restore(read)
        return self

    def _restore(self, cfg: dict[str, Any]) -> None:
        self._task = None
        self.restore_kb(cfg)


def _annotate_found(doc: Doc, found: dict[tuple[int, int], list[tuple[str, float]]], label: str) -> None:
    """Replace the document's entities by those that were found; those without a link are NIL."""
    ents = []
    for (start, end), pairs in sorted(found.items()):
        ents.append(Span(doc, start, end, label=label, kb_id=pairs[0][0] if pairs else ""))
        ents[-1]._.kb_ents = pairs
    doc.set_ents(ents)


def _annotate_given(doc: Doc, key: str, found: dict[tuple[int, int], list[tuple[str, float]]], threshold: float) -> None:
    """Write the links of spans that are there."""
    links = [
        Decided(*place, as_candidates(pairs), 0.0, pairs[0][0] if pairs and pairs[0][1] >= threshold else "")
        for place, pairs in found.items()
    ]
    write_links(doc, key, links, None)
    group_again(doc, key)
