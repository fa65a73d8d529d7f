"""`IndexedPipe`: what components share that work with a knowledge base and an index of its entities' vectors."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import srsly
from spacy.language import Language
from spacy.training import Example
from thinc.api import Optimizer

from entitykit.bridge.link_texts import LinkTexts
from entitykit.components.base import TorchPipe
from entitykit.components.gold import NIL
from entitykit.components.links import gold_links
from entitykit.components.with_kb import WithKB
from entitykit.errors import warn
from entitykit.knowledge.entity_index import EntityIndex
from entitykit.scoring.linking import register_candidates

_INDEX = "entities"


class IndexedPipe(WithKB, TorchPipe):
    """A component whose head compares entities; its settings have the ``index``, and `gold_key` says where gold links are.

    Args:
        *args: see `TorchPipe`.
        kb: see `set_kb`; or none.
        **kwargs: see `TorchPipe`.
    """

    texts_type: type[LinkTexts] = LinkTexts

    def __init__(self, *args: Any, kb: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.index: EntityIndex | None = None
        self._texts: Any = self.texts_type(self.model, self.name)
        register_candidates()
        self.begin_kb(kb)

    @property
    def gold_key(self) -> str:
        """``ents`` or a span group."""
        raise NotImplementedError

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Sequence[str] | None = None,
        kb: Any = None,
    ) -> None:
        """Take the knowledge base and build the head.

        Args:
            get_examples: gives the training examples.
            nlp: the pipeline.
            labels: not used; entities are those of the knowledge base.
            kb: see `set_kb`; none: that of the config.

        Raises:
            ConfigError: E105 or E583 if there is no encoder before this component, E538 without a knowledge base.
        """
        if kb is not None:
            self.set_kb(kb)
        _ = self.store
        self.index = None
        self._texts.forget()
        super().initialize(get_examples, nlp=nlp, labels=[])
        _ = self._texts.reader  # what is wrong with the encoder is said here

    def learn_corpus(self, examples: Sequence[Example], settings: Mapping[str, Any]) -> None:
        """Warn of gold links to entities that the knowledge base does not have."""
        links, _ = gold_links(examples, self.gold_key)
        ids = [link.id for link in links if link.id not in ("", NIL)]
        missing = [id_ for id_, row in zip(ids, self.store.rows(ids).tolist(), strict=True) if row < 0]
        if missing:
            n, total = len(missing), len(ids)
            warn("W580", name=self.name, n=n, total=total, example=missing[0], path=self.store.folder, stacklevel=4)

    def build_index(self, kind: str | None = None) -> EntityIndex:
        """Read all entities of the knowledge base with the encoder as it is now, and index their vectors.

        Args:
            kind: of the index; none: as the settings say.

        Warns:
            W581 for descriptions that were cut.
        """
        self.index = self._texts.build_index(self.store, str(self.settings["index"] if kind is None else kind))
        return self.index

    def finish_update(self, sgd: Optimizer) -> None:
        """Apply and clear the gradients of the head."""
        super().finish_update(sgd)
        self._texts.fingerprint.forget()
        if self.index is not None:
            self._texts.expect_change(self.index)

    # Saving

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write settings and the place of the knowledge base as JSON, weights and entity vectors as safetensors."""
        super().to_disk(path, exclude=exclude)
        folder = Path(path) / _INDEX
        if self.index is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            self.index.save(folder)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "IndexedPipe":
        """Read what `to_disk` wrote; the knowledge base is opened where it was, unless the config has one."""
        super().from_disk(path, exclude=exclude)
        folder = Path(path) / _INDEX
        self._restore(EntityIndex.load(folder) if folder.exists() else None)
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """What `to_disk` writes as bytes."""
        index = b"" if self.index is None else self.index.to_bytes()
        return cast(bytes, srsly.msgpack_dumps({"pipe": super().to_bytes(exclude=tuple(exclude)), "index": index}))

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "IndexedPipe":
        """Read what `to_bytes` gave; see `from_disk`."""
        data = srsly.msgpack_loads(bytes_data)
        super().from_bytes(data["pipe"], exclude=tuple(exclude))
        self._restore(EntityIndex.from_bytes(data["index"]) if data["index"] else None)
        return self

    def _restore(self, index: EntityIndex | None) -> None:
        self.index = index
        self._texts.forget()
        self.restore_kb(self.cfg)
