"""Names of a knowledge base as a tokenizer writes them, kept in its folder and brought up to date when it has changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter

from entitykit.bridge.genre_text import MAX_NAME, Form, GenreText
from entitykit.errors import CheckpointError, OutputError
from entitykit.knowledge.schema import NAMES
from entitykit.knowledge.store import EntityStore
from entitykit.knowledge.trie import CompactTrie

_KNOWN = 50_000  # mentions whose names are kept


def open_names(store: EntityStore, text: GenreText, form: Form) -> CompactTrie:
    """The trie of all entities' usual names.

    It is mapped from the knowledge base's folder. If it is not there, is damaged, or is of an older state or of another
    knowledge base, it is built or changed, and saved there if that is possible.

    Args:
        store: of the knowledge base.
        text: cuts names into tokens.
        form: how they are written.

    Warns:
        W530 if there are names that cannot be generated.
    """
    fingerprint = text.fingerprint(form)
    folder = store.folder / NAMES / fingerprint
    with store.reading():  # before the names are read, which may already be newer, but not older
        version, state = store.version, store.state
    try:
        names = CompactTrie.load(folder, fingerprint)
    except CheckpointError:
        names = build_names(usual_names(store), text, form)
    else:
        if not store.was_in(names.state, names.state_name):
            names = build_names(usual_names(store), text, form)
        elif names.state == version:
            return names
        else:
            _update(names, store, text, form)
    names.state, names.state_name = version, state
    with suppress(OutputError):  # a knowledge base may be read-only; its names are then built by each process
        names.save(folder)
    return names


def build_names(names: Iterable[tuple[int, str]], text: GenreText, form: Form) -> CompactTrie:
    """Make a trie of rows and names."""
    return CompactTrie.build(*text.sequences(names, form), fingerprint=text.fingerprint(form))


def usual_names(store: EntityStore) -> Iterator[tuple[int, str]]:
    """Row and usual name of each entity."""
    for row, names in groupby(store.names(), key=itemgetter(0)):
        yield row, next(names)[1]


class AliasNames:
    """Usual names of the entities that a mention may stand for by its aliases, as small tries.

    Args:
        store: of the knowledge base.
        text: cuts names into tokens.
        form: how they are written.
    """

    def __init__(self, store: EntityStore, text: GenreText, form: Form) -> None:
        self._store, self._text, self._form = store, text, form
        self._known: dict[str, CompactTrie | None] = {}
        self._version = -1

    def __call__(self, mentions: Sequence[str]) -> list[CompactTrie | None]:
        """The names for each mention; none where the knowledge base has no such alias."""
        if self._version != self._store.version or len(self._known) > _KNOWN:
            self._known, self._version = {}, self._store.version
        new = [mention for mention in dict.fromkeys(mentions) if mention not in self._known]
        with self._store.reading():
            found = [[match.row for match in matches] for matches in self._store.by_alias_batch(new)]
            rows = sorted({row for each in found for row in each})
            names = {row: entity.name for row, entity in zip(rows, self._store.entities(rows), strict=True)}
        tokens = dict(zip(names, self._text.names(list(names.values()), self._form), strict=True))
        for mention, candidates in zip(new, found, strict=True):
            usable = [row for row in candidates if 0 < len(tokens[row]) <= MAX_NAME]
            self._known[mention] = CompactTrie.build([tokens[row] for row in usable], usable) if usable else None
        return [self._known[mention] for mention in mentions]


def _update(names: CompactTrie, store: EntityStore, text: GenreText, form: Form) -> None:
    with store.reading():
        changed = store.changed(names.state)
        alive = changed[store.alive(changed)]
        entities = store.entities(alive)
    names.remove(changed)
    new = [(row, entity.name) for row, entity in zip(alive.tolist(), entities, strict=True)]
    names.add(*text.sequences(new, form))
