"""`KBPipe`: what trainable components share that link to a knowledge base."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Example

from entitykit.components.base import TorchPipe, is_dummy
from entitykit.components.gold import ENTS, NIL
from entitykit.components.links import GoldLink, gold_links
from entitykit.components.with_kb import WithKB
from entitykit.errors import error, warn


class KBPipe(WithKB, TorchPipe):
    """A trainable component that learns from gold links to a knowledge base.

    A task adds the hook `check_settings`, and `_texts`: what composes the texts that the component reads,
    or none.

    Args:
        *args: see `TorchPipe`.
        kb: see `set_kb`; or none.
        **kwargs: see `TorchPipe`.
    """

    _texts: Any = None

    def __init__(self, *args: Any, kb: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.check_settings()
        self.begin_kb(kb)

    # The hooks

    def check_settings(self) -> None:
        """Refuse settings that cannot be."""
        raise NotImplementedError

    @property
    def gold_key(self) -> str:
        """Where links are, in gold and in predicted documents: ``ents`` or a span group."""
        return str(self.settings["mentions"])

    @property
    def link_key(self) -> str:
        """Where the mentions are that it links: ``ents`` or a span group."""
        return self.gold_key

    @property
    def least_link(self) -> float:
        """The least probability that a link has; 0 for a component that does not link."""
        return float(self.settings.get("threshold") or 0.0)

    # What it works with

    def set_kb(self, kb: Any) -> None:
        """See `WithKB`; what is known of another knowledge base is forgotten."""
        super().set_kb(kb)
        if self._texts is not None:
            self._texts.forget()

    def check_least(self, **least: float) -> None:
        """Refuse settings that are below the least that they may be; none is no number."""
        for setting, value in least.items():
            found = self.settings[setting]
            if found is not None and found < value:
                raise error("E109", name=self.name, setting=setting, found=found, expected=f"at least {value}")

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
        kb: Any = None,
    ) -> None:
        """Take the knowledge base, load the encoder if it is the component's own, and build the head.

        Args:
            get_examples: gives the training examples.
            nlp: the pipeline.
            labels: not used; entities are those of the knowledge base.
            kb: see `set_kb`; none: that of the config.

        Raises:
            ConfigError: E105, E583 or E595 without an encoder, E538 without a knowledge base, E594 for texts that are too long.
            CheckpointError: E001 to E006 if the encoder cannot be loaded.
        """
        if kb is not None:
            self.set_kb(kb)
        _ = self.store
        self.begin_anew()
        super().initialize(get_examples, nlp=nlp, labels=[])
        if self._texts is not None:
            _ = self._texts.reader  # what is wrong with the encoder is said here

    def begin_anew(self) -> None:
        """Forget what was made with other weights."""
        if self._texts is not None:
            self._texts.forget()

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Warn if there are no gold links, and of those to entities that the knowledge base does not have."""
        links, _ = gold_links(examples, self.gold_key)
        ids = [link.id for link in links if link.id not in ("", NIL)]
        if examples and not ids and not is_dummy(examples):
            key = "doc.ents" if self.gold_key == ENTS else f"doc.spans['{self.gold_key}']"
            warn("W586", name=self.name, n=len(examples), key=key, stacklevel=4)
        missing = [id_ for id_, row in zip(ids, self.store.rows(ids).tolist(), strict=True) if row < 0]
        if missing:
            n, total = len(missing), len(ids)
            warn("W580", name=self.name, n=n, total=total, example=missing[0], path=self.store.folder, stacklevel=4)

    def known_links(self, examples: Sequence[Example]) -> tuple[list[GoldLink], list[int]]:
        """Gold mentions that link to entities of the knowledge base, and their rows.

        Warns:
            W101 for mentions that touch no word of the predicted documents.
        """
        links, n_lost = gold_links(examples, self.gold_key)
        if n_lost:
            warn("W101", n=n_lost, stacklevel=4)
        links = [link for link in links if link.id not in ("", NIL)]
        rows = self.store.rows([link.id for link in links]).tolist()
        known = [(link, row) for link, row in zip(links, rows, strict=True) if row >= 0]
        return [link for link, _ in known], [row for _, row in known]

    def scorer_arguments(self) -> dict[str, Any]:
        """Where the links are."""
        return {"annotate": "ents"} if self.gold_key == ENTS else {"annotate": "spans", "spans_key": self.gold_key}

    # Saving

    def restored(self) -> None:
        """Begin anew with what was read, and open the knowledge base where it was, unless the config has one."""
        self.restore_kb(self.cfg)
        if self._texts is not None:
            self._texts.forget()

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "KBPipe":
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one."""
        super().from_disk(path, exclude=exclude)
        self.restored()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "KBPipe":
        """Read what `to_bytes` gave; see `from_disk`."""
        super().from_bytes(bytes_data, exclude=tuple(exclude))
        self.restored()
        return self
