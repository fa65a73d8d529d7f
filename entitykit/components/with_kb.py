"""`WithKB`: what all components share that have a knowledge base."""

# no postponed annotations here: spaCy reads the annotations of `initialize` as types
from typing import Any, cast

from spacy.vocab import Vocab

from entitykit.errors import CheckpointError, error
from entitykit.knowledge.base import KBLoader
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
        """Take the knowledge base of the config, or none; if it is not there, that is said where it is needed."""
        self.cfg["kb"] = None
        self._store: EntityStore | None = None
        self._given = kb
        if kb is not None:
            try:
                self.set_kb(kb)
            except CheckpointError as problem:
                if problem.code != "E500":
                    raise

    def set_kb(self, kb: Any) -> None:
        """Give the knowledge base: an `EntityStore`, what has one as `store`, or a function of the vocabulary for either."""
        kb = kb(self.vocab) if callable(kb) else kb
        self._store = cast(EntityStore, getattr(kb, "store", kb))
        self.cfg["kb"] = str(self._store.folder)

    def restore_kb(self, cfg: dict[str, Any]) -> None:
        """Open the knowledge base where it was when `cfg` was saved, unless the config has one.

        A relative path of the config that leads nowhere from here is looked up from where it was saved.

        Raises:
            CheckpointError: E500 if there is none.
        """
        saved = cfg["kb"]
        if self._given is None and saved is not None:
            self.set_kb(EntityStore.open(saved, read_only=True))
        elif self._store is None and isinstance(self._given, KBLoader) and self._given.led_to(saved):
            self.set_kb(EntityStore.open(saved, read_only=self._given.read_only))
        elif self._given is not None:
            self.cfg["kb"] = str(self.store.folder)

    @property
    def store(self) -> EntityStore:
        """The entities.

        Raises:
            ConfigError: E538 without a knowledge base.
            CheckpointError: E500 if it is not where the config says.
        """
        if self._store is None and self._given is not None:
            self.set_kb(self._given)
        if self._store is None:
            raise error("E538", name=self.name)
        return self._store
