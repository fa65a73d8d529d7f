"""`WithKB`: what all components share that have a knowledge base."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from typing import Any, cast

from spacy.vocab import Vocab

from entitykit.errors import error
from entitykit.knowledge.store import EntityStore


class WithKB:
    """A component whose knowledge base its config has, or `initialize` gives; a saved pipeline remembers where it was.

    Attributes:
        cfg: what is saved, ``kb`` among it: the folder of the knowledge base.
    """

    name: str
    vocab: Vocab
    cfg: dict[str, Any]

    def begin_kb(self, kb: Any) -> None:
        """Take the knowledge base of the config, or none."""
        self.cfg["kb"] = None
        self._store: EntityStore | None = None
        self._given = kb is not None
        if kb is not None:
            self.set_kb(kb)

    def set_kb(self, kb: Any) -> None:
        """Give the knowledge base: an `EntityStore`, what has one as `store`, or a function of the vocabulary for either."""
        kb = kb(self.vocab) if callable(kb) else kb
        self._store = cast(EntityStore, getattr(kb, "store", kb))
        self.cfg["kb"] = str(self._store.folder.resolve())

    def restore_kb(self, cfg: dict[str, Any]) -> None:
        """Open the knowledge base where it was when `cfg` was saved, unless the config has one."""
        if self._given:
            self.cfg["kb"] = str(self.store.folder.resolve())
        elif cfg["kb"] is not None:
            self.set_kb(EntityStore.open(cfg["kb"], read_only=True))

    @property
    def store(self) -> EntityStore:
        """The entities.

        Raises:
            ConfigError: E538 without a knowledge base.
        """
        if self._store is None:
            raise error("E538", name=self.name)
        return self._store
