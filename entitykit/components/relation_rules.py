"""What relations may be, for the relation components: the schema in force, settings, and gold relations that it forbids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from entitykit.components.pairs import SCOPES
from entitykit.decoding.relations import DECODERS, ORDERS, Constraints, Entities, forbidden_relations
from entitykit.decoding.schema import RelationSchema
from entitykit.errors import error, warn

LEARNED = "learned"

MOST_NAMED = 5
"""Kinds of relations that a warning names."""


def check_settings(settings: Mapping[str, Any], name: str) -> None:
    """Check what a relation component is told.

    Raises:
        ConfigError: E109 for a setting that cannot be.
    """
    for setting, allowed in (("scope", SCOPES), ("decoder", DECODERS), ("order", ORDERS)):
        if settings[setting] not in allowed:
            raise error("E109", name=name, setting=setting, found=settings[setting], expected=" or ".join(allowed))
    for setting, least in (("window", 0), ("max_pairs", 2), ("beam_width", 1)):
        if settings[setting] < least:
            raise error("E109", name=name, setting=setting, found=settings[setting], expected=f"at least {least}")
    if not settings["time_limit"] > 0:
        raise error("E109", name=name, setting="time_limit", found=settings["time_limit"], expected="above 0")
    if not 0 <= settings["threshold"] <= 1:
        raise error("E109", name=name, setting="threshold", found=settings["threshold"], expected="0 to 1")


class Rules:
    """The schema of a component, which is kept in its cfg as `schema`, with the setting that it was made of as `schema_of`.

    Args:
        cfg: the component's, with `labels` and `entity_types`.
        settings: the component's, with `schema`.
        no_overlap: of entities, whatever the schema says.
    """

    def __init__(self, cfg: dict[str, Any], settings: Mapping[str, Any], *, no_overlap: bool) -> None:
        cfg |= {"schema": {}, "schema_of": LEARNED}
        self.cfg, self.settings, self.no_overlap = cfg, settings, no_overlap
        if isinstance(settings["schema"], Mapping):
            RelationSchema.load(settings["schema"])  # what is wrong with it is said at once
        self.forget()

    def forget(self) -> None:
        """Read the schema anew when it is asked for."""
        self._schema: RelationSchema | None = None
        self._constraints: Constraints | None = None
        self._next: RelationSchema | None = None

    @property
    def next(self) -> RelationSchema:
        """The given schema, with which a training will begin, read once; an empty one if it is to be learned.

        Raises:
            ConfigError: E340 if it cannot be read, E342 for contradictions.
        """
        if self._next is None:
            setting = self.settings["schema"]
            self._next = RelationSchema() if setting == LEARNED else RelationSchema.load(setting)
        return self._next

    def with_inverses(self, labels: Iterable[str]) -> set[str]:
        """Labels of gold relations, and those of what `next` says that they imply."""
        found = set(labels)
        return found | {self.next.mirrors.get(label, label) for label in found}

    @property
    def schema(self) -> RelationSchema:
        """That of the training, unless the setting has changed since.

        Raises:
            ConfigError: E606 if it is to be learned, and was given in the training.
        """
        if self._schema is None:
            setting = self.settings["schema"]
            if setting == LEARNED != self.cfg["schema_of"]:
                raise error("E606")
            self._schema = RelationSchema.load(self.cfg["schema"] if setting == self.cfg["schema_of"] else setting)
        return self._schema

    @property
    def constraints(self) -> Constraints:
        """The same in numbers of labels.

        Raises:
            ConfigError: E341 if the schema has labels that the component does not know.
        """
        if self._constraints is None:
            self._constraints = self._constrain(self.schema, self.cfg["labels"])
        return self._constraints

    def _constrain(self, schema: RelationSchema, labels: Sequence[str]) -> Constraints:
        if self.no_overlap:
            schema = replace(schema, no_overlap=True)
        return schema.constrain(labels, self.cfg["entity_types"])

    def _keep(self, schema: RelationSchema) -> None:
        self.cfg |= {"schema": schema.to_dict(), "schema_of": self.settings["schema"]}
        self._schema, self._constraints = schema, None

    def begin(self) -> Forbidden | None:
        """Read the schema if it is given; the answer counts what it forbids."""
        schema, self._next = self.next, None  # what is in a file may have changed before the next training
        self._keep(schema)
        return None if self.settings["schema"] == LEARNED else Forbidden(self.constraints)

    def learn(self, triples: Iterable[tuple[str, str, str]]) -> None:
        """Learn the schema if it is not given, from the type of the head, the label and the type of the tail of relations."""
        if self.settings["schema"] == LEARNED:
            self._keep(RelationSchema.learn(triples))
        _ = self.constraints  # what is wrong with the schema is said here

    def restrict(self, labels: Sequence[str]) -> None:
        """Take other labels: the schema keeps what it says of those that it knows."""
        schema = self.schema.restricted_to(labels)
        constraints = self._constrain(schema, labels)  # or nothing changes
        self._keep(schema)
        self.cfg["labels"], self._constraints = list(labels), constraints


@dataclass
class Forbidden:
    """Gold relations that a given schema does not allow, by themselves or beside the others of their documents.

    Attributes:
        constraints: of the schema.
        kinds: their numbers by type of the head, label and type of the tail.
    """

    constraints: Constraints
    kinds: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(
        self, entities: Entities, types: Sequence[str], relations: Iterable[tuple[Sequence[int], str, Sequence[int]]]
    ) -> None:
        """Count those of a document.

        Args:
            entities: of the document.
            types: labels of their types, empty where they have none.
            relations: rows of entities that are the head, label, and rows that are the tail; of entities in one place, one that
                may be related is enough.
        """
        numbers = {label: number for number, label in enumerate(self.constraints.relations)}
        known = [relation for relation in relations if relation[1] in numbers]
        ways = [[(head, tail, numbers[label]) for head in heads for tail in tails] for heads, label, tails in known]
        forbidden = forbidden_relations(entities, sorted({way for each in ways for way in each}), self.constraints)
        for each in ways:
            if forbidden.issuperset(each):
                head, tail, number = each[0]
                self.kinds[types[head], self.constraints.relations[number], types[tail]] += 1

    def warn(self, name: str, total: int) -> None:
        """Say how many there are of all, and which: W126."""
        if self.kinds:
            named = [
                f"{label} from {head or 'no type'} to {tail or 'no type'} ({n})"
                for (head, label, tail), n in self.kinds.most_common(MOST_NAMED)
            ]
            which = "; ".join([*named, "…"] if len(self.kinds) > MOST_NAMED else named)
            warn("W126", name=name, n=self.kinds.total(), total=total, which=which, stacklevel=5)
