"""A store holds what a dict would hold, whatever is added, updated, removed, copied and opened again."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from entitykit.errors import CheckpointError, CorpusError, EntityKitWarning, InputError, OutputError
from entitykit.knowledge import store_write
from entitykit.knowledge.entities import Alias, Entity, Phrase
from entitykit.knowledge.store import EntityStore
from tests.knowledge.kb import CITIES, ENTITIES, IDS, PARIS, PRINCE, TEXAS, TEXTS, Model, add, build


class Dictionary(RuleBasedStateMachine):
    """The store against `Model`, a dict."""

    @initialize(entities=st.lists(ENTITIES, max_size=6))
    def create(self, entities: list[Entity]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.model = Model()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(store_write.StoreReport, "warn", lambda _: None)
            report = EntityStore.build(self.folder / "kb", entities)
        assert report.rows()[:3] == self.model.add(entities).rows()[:3]
        self.store = EntityStore.open(self.folder / "kb")
        self.rows: dict[str, int] = {}  # of all entities that there ever were
        self.version = -1

    @rule(entities=st.lists(ENTITIES, max_size=5), batch_size=st.sampled_from([1, 2, 10]))
    def add(self, entities: list[Entity], batch_size: int) -> None:
        report = add(self.store, entities, batch_size=batch_size)
        wanted = self.model.add(entities, batch_size)
        assert (report.read, report.added, report.updated, report.duplicates) == (
            wanted.read,
            wanted.added,
            wanted.updated,
            wanted.duplicates,
        )

    @rule(ids=st.lists(st.sampled_from([*IDS, "old", "x\x00", "\ud800", ""]), max_size=3))
    def remove(self, ids: list[str]) -> None:
        assert self.store.remove(ids) == self.model.remove(ids)

    @rule(id_=st.sampled_from(IDS), text=st.sampled_from(TEXTS), count=st.integers(0, 3))
    def add_alias(self, id_: str, text: str, count: int) -> None:
        entity = self.model.entities.get(id_)
        if entity is None:
            return
        assert self.store.add_aliases([(id_, text, count)]) == 1
        changed = self.store.entity(id_)
        assert changed is not None
        counts = dict(entity.names())
        assert dict(changed.names()) == counts | {text: counts.get(text, 0) + count}
        self.model.entities[id_] = changed

    @rule(read_only=st.booleans())
    def open_again(self, read_only: bool) -> None:
        self.store.close()
        with EntityStore.open(self.folder / "kb", read_only=read_only) as store:
            assert len(list(store)) == len(self.model.entities)
        self.store = EntityStore.open(self.folder / "kb")

    @rule()
    def copy(self) -> None:
        self.store.copy_to(self.folder / "copy")
        with EntityStore.open(self.folder / "copy") as copy:
            copy.check()
            assert list(copy) == list(self.store)

    @invariant()
    def holds_the_same(self) -> None:
        ids = list(self.model.entities)
        stored = {entity.id: entity for entity in self.store}
        own = {id_: tuple(sorted(old for old, to in self.model.redirects.items() if to == id_)) for id_ in ids}
        assert stored == {id_: Entity(**{**fields(e), "redirects": own[id_]}) for id_, e in self.model.entities.items()}
        rows = dict(zip(ids, self.store.rows(ids).tolist(), strict=True))
        assert self.store.entities(list(rows.values())) == [stored[id_] for id_ in ids]
        assert self.store.ids(list(rows.values())) == ids
        for old, id_ in self.model.redirects.items():
            assert self.store.entity(old) == stored[id_]
        assert len(self.store) == len(ids)
        assert self.store.n_aliases == sum(len(entity.names()) for entity in stored.values())
        assert list(self.store.names()) == [
            (rows[id_], alias.text) for id_ in sorted(ids, key=lambda id_: rows[id_]) for alias in stored[id_].names()
        ]
        gone = [row for id_, row in self.rows.items() if rows.get(id_) != row]
        assert not set(gone) & set(rows.values())  # rows are not used again
        assert not self.store.alive(gone).any()
        self.rows |= rows

    @invariant()
    def finds_the_same(self) -> None:
        for text in TEXTS:
            for normalised in (True, False):
                found = self.store.by_alias(text, normalised=normalised)
                assert {match.id: match.prior for match in found} == pytest.approx(
                    self.model.priors(text, normalised=normalised)
                )
                assert [match.prior for match in found] == sorted((match.prior for match in found), reverse=True)
        for word in ("a", "b", "you"):
            found_by_word = {match.id for match in self.store.by_words(word, 100)}
            assert found_by_word == {id_ for id_, entity in self.model.entities.items() if word in words_of(entity)}

    @invariant()
    def is_whole(self) -> None:
        self.store.check()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)


def fields(entity: Entity) -> dict[str, object]:
    return {name: getattr(entity, name) for name in ("id", "name", "aliases", "description", "type", "count", "redirects")}


def words_of(entity: Entity) -> set[str]:
    text = " ".join([*(alias.text for alias in entity.names()), entity.description])
    return set("".join(char if char.isalnum() else " " for char in text.lower()).split())


TestDictionary = Dictionary.TestCase
TestDictionary.settings = settings(max_examples=20, stateful_step_count=8)


@pytest.fixture
def store(tmp_path: Path) -> EntityStore:
    return build(tmp_path / "kb")


def test_look_up(store: EntityStore) -> None:
    assert len(store) == 3
    assert "Q90" in store
    assert "Q9090" in store
    assert "Q1" not in store
    assert 90 not in store
    assert store.entity("Q9090") == store.entity("Q90") == PARIS
    assert store.entity("Q1") is None
    assert store.row("Q9090") == store.row("Q90") == 1
    assert store.rows(["Q830149", "Q1", "Q90"]).tolist() == [3, -1, 1]
    assert store.rows([]).tolist() == []
    assert store.entities(np.array([3, 1, 3])) == [TEXAS, PARIS, TEXAS]
    with pytest.raises(InputError, match=r"\[E505\] The knowledge base '.*kb' has no entity 'Q1'"):
        store.row("Q1")
    with pytest.raises(InputError, match=r"\[E506\] .* has no entity in 2 of the rows that were asked for, the first is 9"):
        store.ids([1, 9, -1])


def test_rows_are_kept_and_never_used_again(store: EntityStore) -> None:
    store.add([Entity(id="Q90", name="Lutetia")])
    assert store.row("Q90") == 1
    assert store.remove(["Q830149", "Q1", "Q830149"]) == 1
    store.add([TEXAS])
    assert store.row("Q830149") == 4
    assert store.alive([[1, 2], [3, 4]]).tolist() == [[True, True], [False, True]]


def test_changed_rows(store: EntityStore) -> None:
    assert store.changed(0).tolist() == [1, 2, 3]
    version = store.version
    assert store.changed(version).tolist() == []
    other = EntityStore.open(store.folder)
    other.add([PARIS, Entity(id="Q1", name="Universe"), Entity(id="Q2", name="Earth")])
    other.remove(["Q167646", "Q2"])
    assert store.version == version + 2
    assert store.changed(version).tolist() == [1, 2, 4, 5]
    assert store.changed(version + 1).tolist() == [2, 5]
    store.count_phrases([Phrase("Paris", 3)])
    assert other.version == version + 3
    assert store.changed(version + 2).tolist() == []


def test_duplicates_are_counted_and_told(tmp_path: Path) -> None:
    entities = [PARIS, PRINCE, Entity(id="Q90", name="Lutetia"), PRINCE]
    with pytest.warns(EntityKitWarning, match=r"\[W500\] 2 ids occurred more than once in the input, such as 'Q90'. The last"):
        report = EntityStore.build(tmp_path / "kb", entities)
    assert report.rows() == [("entities read", 4), ("added", 2), ("updated", 0), ("given more than once, last kept", 2)]
    store = EntityStore.open(tmp_path / "kb")
    assert list(store.names()) == [(1, "Lutetia"), (2, "Paris"), (2, "Alexandros")]
    with pytest.warns(EntityKitWarning, match=r"\[W500\] 3 ids"):
        report = store.add([PARIS, TEXAS, PARIS, TEXAS, PARIS], batch_size=2)
    assert (report.read, report.added, report.updated, report.duplicates) == (5, 1, 1, 3)
    assert store.entity("Q90") == PARIS
    store.check()


def test_an_entity_is_no_redirect(store: EntityStore) -> None:
    with pytest.warns(EntityKitWarning, match=r"\[W502\] 1 redirects were left out, .* such as 'Q9090'"):
        store.add([Entity(id="Q9090", name="Paname")])
    assert store.entity("Q9090") == Entity(id="Q9090", name="Paname")
    with pytest.warns(EntityKitWarning, match=r"\[W502\] 2 redirects"):
        store.add([Entity(id="Q90", name="Paris", redirects=("Q90", "Q9090", "old"))])
    assert store.entity("old") == Entity(id="Q90", name="Paris", redirects=("old",))


def test_redirects_and_aliases_lead_to_what_is_there(store: EntityStore) -> None:
    assert store.add_redirects([("old", "Q9090"), ("older", "Q90")]) == 2
    assert store.ids(store.rows(["old", "older"])) == ["Q90", "Q90"]
    assert store.add_aliases([("Q9090", "Lutetia", 2), ("Q90", "Lutetia", 3), ("old", "Paname", 0)]) == 3
    assert store.entity("Q90") == Entity(
        **{
            **fields(PARIS),
            "aliases": (*PARIS.aliases, Alias("Lutetia", 5)),
            "redirects": ("Q9090", "old", "older"),
        }
    )
    before = list(store)
    with pytest.raises(InputError, match=r"\[E505\] .* no entity 'Q1'"):
        store.add_aliases([("Q90", "City of Light", 1), ("Q1", "City of Light", 1)])
    with pytest.raises(InputError, match=r"\[E505\] .* no entity 'Q1'"):
        store.add_redirects([("oldest", "Q90"), ("x", "Q1")])
    with pytest.raises(CorpusError, match=r"\[E504\] the entity 'Q90': the alias is ''"):
        store.add_aliases([("Q167646", "x", 1), ("Q90", "", 1)])
    assert list(store) == before


def test_counted_phrases_add_up(store: EntityStore) -> None:
    assert store.count_phrases([Phrase("Paris", 30), Phrase("PARIS", 10), Phrase("London", 7)]) == 3
    assert store.count_phrases([Phrase("paris", 0)]) == 1
    links = store.links(["paris", "london", "paname"])
    assert links == {"paris": (16, 40), "paname": (1, None)}


def test_ten_thousand_aliases(tmp_path: Path) -> None:
    entity = Entity(id="Q1", name="Many", aliases=tuple(Alias(f"name {i}", i) for i in range(10_000)))
    store = build(tmp_path / "kb", [entity, PARIS])
    assert store.entity("Q1") == entity
    assert [match.id for match in store.by_alias("NAME 9999")] == ["Q1"]
    assert store.add_aliases([("Q1", "one more", 1)]) == 1
    assert store.n_aliases == 10_002 + 2
    assert [match.id for match in store.by_words("9999", 5)] == ["Q1"]
    assert store.remove(["Q1"]) == 1
    store.check()
    assert list(store) == [PARIS]


def test_one_entity_and_none(tmp_path: Path) -> None:
    store = EntityStore.create(tmp_path / "kb")
    assert (len(store), list(store), store.by_words("a", 3), store.by_ngrams("a", 3)) == (0, [], [], [])
    store.check()
    store.add([Entity(id="x", name="y")])
    assert [match[:3] for match in store.by_alias("Y")] == [(1, "x", 1.0)]
    assert [match.similarity for match in store.by_ngrams("y", 3)] == [1.0]
    assert [match.id for match in store.by_words("y", 3)] == ["x"]
    with pytest.raises(OutputError, match=r"\[E502\] .* it holds meta.json already"):
        EntityStore.create(tmp_path / "kb")


def test_bad_input_ends_a_call_and_keeps_the_batches_before(store: EntityStore) -> None:
    def entities() -> object:
        yield from (Entity(id=f"x{i}", name="x") for i in range(5))
        raise ValueError("broken off")

    report = store_write.StoreReport()
    with pytest.raises(ValueError, match="broken off"):
        store.add(entities(), report=report, batch_size=2)
    assert (report.read, len(store)) == (4, 7)
    assert json.loads((store.folder / "meta.json").read_text())["entities"] == 7
    with pytest.raises(ValueError, match="broken off"):
        EntityStore.build(store.folder.parent / "new", entities())
    assert [path.name for path in (store.folder.parent / "new").iterdir()] == ["lock"]
    EntityStore.build(store.folder.parent / "new", CITIES)


def test_entities_made_from_the_store_itself(store: EntityStore) -> None:
    """What is read while others write is the state of the moment when the reading began."""
    longer = (Entity(**{**fields(entity), "id": f"{entity.id}x", "redirects": ()}) for entity in store)
    assert store.add(longer, batch_size=1).added == 3
    names = store.names()
    first = next(names)
    store.remove(["Q90"])
    assert [first, *names][:3] == [(1, "Paris"), (1, "Paname"), (2, "Paris")]


def test_one_state_in_a_block(store: EntityStore) -> None:
    other = EntityStore.open(store.folder)
    with store.reading():
        assert len(store) == 3
        other.remove(["Q90"])
        assert len(store) == 3
        assert store.entity("Q90") == PARIS
        with pytest.raises(OutputError, match=r"\[E502\] .* this thread reads from it in a block"):
            store.remove(["Q90"])
    assert store.entity("Q90") is None


def test_read_only(store: EntityStore) -> None:
    reader = EntityStore.open(store.folder, read_only=True)
    store.add([Entity(id="Q1", name="Universe")])
    assert reader.entity("Q1") is not None
    for write in (lambda: reader.add([PARIS]), lambda: reader.remove(["Q90"]), lambda: reader.add_aliases([])):
        with pytest.raises(OutputError, match=r"\[E502\] .* it was opened to be read only"):
            write()


def test_pickled_and_closed(store: EntityStore) -> None:
    copy = pickle.loads(pickle.dumps(store))
    store.close()
    assert list(copy) == CITIES
    with pytest.raises(CheckpointError, match=r"\[E500\] .* the store was closed"):
        len(store)
