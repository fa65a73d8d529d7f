"""What relations may hold: types of their arguments, symmetry, inverses, and how often; from a config, a file or training data.

As JSON, every key optional: ``{"relations": {"Live_In": {"head": ["Peop"], "tail": ["Loc"], "functional": true},
"Spouse": {"symmetric": true}, "Part_Of": {"inverse": "Has_Part", "types": [["Loc", "Loc"], ["Org", "Org"]]}},
"one_per_pair": true, "no_overlap": true}``. A relation that is not named may hold between all types.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.schema_rules import RelationRule, TypePair, completed, contradictions, impossible
from entitykit.errors import error

Argument = TypeVar("Argument")

ANY, OTHER = -1, -2
"""Numbers of entity types in `Constraints.allowed`: not known, so it may be any; known, and none that the schema could name."""

FLAGS = ("one_per_pair", "no_overlap", "no_self", "both_directions")
"""Settings of a schema that are not about one relation."""


class Constraints(NamedTuple):
    """A schema in numbers of labels, as decoders read it.

    Attributes:
        relations: labels.
        types: entity types.
        allowed: *(n_relations, n_types + 2, n_types + 2)* whether a relation may hold between a head and a tail of two types;
            the last ones are `OTHER` and `ANY`.
        symmetric: *(n_relations,)*.
        inverse: *(n_relations,)* number of the inverse relation, or -1.
        functional: *(n_relations,)* whether a head has one tail at most.
        inverse_functional: *(n_relations,)* whether a tail has one head at most.
        one_per_pair: see `RelationSchema`, like the others below.
        no_overlap: of entities.
        no_self: relations.
        both_directions: of symmetric relations are written.
    """

    relations: tuple[str, ...]
    types: tuple[str, ...]
    allowed: NDArray[np.bool_]
    symmetric: NDArray[np.bool_]
    inverse: NDArray[np.int64]
    functional: NDArray[np.bool_]
    inverse_functional: NDArray[np.bool_]
    one_per_pair: bool
    no_overlap: bool
    no_self: bool
    both_directions: bool

    @property
    def of_types(self) -> NDArray[np.bool_]:
        """*(n_relations, n_types, n_types)* the part of `allowed` between types that the schema knows."""
        return self.allowed[:, :OTHER, :OTHER]

    def numbers_of(self, labels: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of entities' types *(n_entities,)*; an empty label is not known."""
        numbers = {label: number for number, label in enumerate(self.types)} | {"": ANY}
        return np.array([numbers.get(label, OTHER) for label in labels], dtype=np.int64)


@dataclass(frozen=True, kw_only=True)
class RelationSchema:
    """What a set of relations may be.

    Attributes:
        relations: rules by label.
        one_per_pair: whether a pair of head and tail has one relation at most; the pair in the other direction is another.
        no_overlap: whether the words of entities may not overlap.
        no_self: whether no entity may be related to itself.
        both_directions: whether symmetric relations are written in both directions; else once, from the entity that comes first
            in the text. Relations with an inverse are always written with it.

    Raises:
        ConfigError: E342 if rules contradict each other.
    """

    relations: Mapping[str, RelationRule] = field(default_factory=dict)
    one_per_pair: bool = False
    no_overlap: bool = False
    no_self: bool = True
    both_directions: bool = False

    def __post_init__(self) -> None:
        problems = list(contradictions(self.relations)) or list(impossible(self.relations))
        if problems:
            raise error("E342", n=len(problems), found="; ".join(problems))

    @classmethod
    def load(cls, source: RelationSchema | Mapping[str, Any] | str | Path | None) -> RelationSchema:
        """Make a schema of what a config gives: its settings, the path of a JSON file with them, or nothing for no constraint.

        Raises:
            ConfigError: E340 for a file or settings that cannot be read, E342 for contradictions.
        """
        if source is None or isinstance(source, RelationSchema):
            return source or cls()
        if isinstance(source, Mapping):
            return cls(**_settings(source, "The relation schema"))
        where = f"The relation schema '{source}'"
        if not isinstance(source, str | Path):
            raise error(
                "E340", where="The relation schema", found=repr(source)[:60], expected="an object, or a JSON file with one"
            )
        try:
            values = json.loads(Path(source).read_text(encoding="utf-8-sig"))
        except OSError as problem:
            raise error("E340", where=where, found=f"no readable file ({problem.strerror})", expected="JSON") from problem
        except ValueError as problem:  # no JSON, or no UTF-8
            raise error("E340", where=where, found=f"no JSON ({problem})", expected="JSON") from problem
        return cls(**_settings(values, where))

    @classmethod
    def learn(cls, triples: Iterable[tuple[str, str, str]], *, min_count: int = 1, **flags: bool) -> RelationSchema:
        """Allow the types that relations have in training data.

        Args:
            triples: type of the head, relation, type of the tail, of every relation.
            min_count: how often a triple must occur; a relation without any such triple keeps its most frequent ones.
            flags: settings such as `one_per_pair`.
        """
        counts: dict[str, Counter[TypePair]] = {}
        for head, relation, tail in triples:
            counts.setdefault(relation, Counter())[head, tail] += 1
        rules = {}
        for relation, pairs in sorted(counts.items()):
            least = min(min_count, max(pairs.values()))
            rules[relation] = RelationRule(types=frozenset(pair for pair, n in pairs.items() if n >= least))
        return cls(relations=rules, **flags)

    def to_dict(self) -> dict[str, Any]:
        """The schema as JSON values, which `load` reads."""
        return {
            "relations": {label: _rule_to_dict(rule) for label, rule in self.relations.items()},
            **{flag: getattr(self, flag) for flag in FLAGS},
        }

    @cached_property
    def mirrors(self) -> dict[str, str]:
        """What holds in the other direction whenever a relation does: of symmetric ones the same, of others their inverse."""
        rules = completed(self.relations)
        return {label: label for label, rule in rules.items() if rule.symmetric} | {
            label: rule.inverse for label, rule in rules.items() if rule.inverse is not None
        }

    def with_mirrors(self, relations: Iterable[tuple[Argument, Argument, str]]) -> list[tuple[Argument, Argument, str]]:
        """Relations with what they imply in the other direction, each once.

        Args:
            relations: head, tail and label of each.
        """
        found = dict.fromkeys(relations)
        return list(found | {(tail, head, self.mirrors[label]): None for head, tail, label in found if label in self.mirrors})

    def restricted_to(self, labels: Collection[str]) -> RelationSchema:
        """The schema with the rules of some relations only; what it says of them by their inverses stays."""
        whole = completed(self.relations)
        lonely = {
            label: whole[label].alone() for label in labels if label in whole and whole[label].inverse not in (None, *labels)
        }
        kept = {label: rule for label, rule in self.relations.items() if label in labels}
        return replace(self, relations=kept | lonely)

    def constrain(self, relations: Sequence[str], types: Sequence[str]) -> Constraints:
        """Put the schema in numbers of labels.

        Args:
            relations: all relation labels that are decoded.
            types: all entity types, without "no entity".

        Raises:
            ConfigError: E341 for labels that the schema names and are not among these.
        """
        _check_known("relations", [*self.relations, *(rule.inverse for rule in self.relations.values())], relations)
        _check_known("entity types", [label for rule in self.relations.values() for label in rule.labels()], types)
        rules = completed(self.relations)
        free = RelationRule()
        each = [rules.get(label, free) for label in relations]
        kinds: list[str | None] = [*types, None]  # in the places of numbers, and of OTHER
        allowed = np.zeros((len(relations), len(kinds) + 1, len(kinds) + 1), dtype=bool)
        for number, rule in enumerate(each):
            allowed[number, :ANY, :ANY] = [[rule.allows(head, tail) for tail in kinds] for head in kinds]
        allowed[:, ANY, :ANY] = allowed[:, :ANY, :ANY].any(axis=1)
        allowed[:, :, ANY] = allowed[:, :, :ANY].any(axis=2)
        numbers = {label: number for number, label in enumerate(relations)}
        return Constraints(
            relations=tuple(relations),
            types=tuple(types),
            allowed=allowed,
            symmetric=np.array([rule.symmetric for rule in each], dtype=bool),
            inverse=np.array([-1 if rule.inverse is None else numbers[rule.inverse] for rule in each], dtype=np.int64),
            functional=np.array([rule.functional for rule in each], dtype=bool),
            inverse_functional=np.array([rule.inverse_functional for rule in each], dtype=bool),
            one_per_pair=self.one_per_pair,
            no_overlap=self.no_overlap,
            no_self=self.no_self,
            both_directions=self.both_directions,
        )


def _check_known(what: str, found: Iterable[str | None], known: Sequence[str]) -> None:
    unknown = sorted({label for label in found if label is not None} - set(known))
    if unknown:
        raise error("E341", what=what, found=", ".join(unknown), known=", ".join(known) or "none")


def _settings(values: object, where: str) -> dict[str, Any]:
    """Check the JSON form of a schema and give the arguments of `RelationSchema`."""
    given = _object(values, {"relations", *FLAGS}, where)
    settings: dict[str, Any] = {flag: _flag(given[flag], f"{where}, '{flag}'") for flag in FLAGS if flag in given}
    rules = given.get("relations", {})
    if not isinstance(rules, Mapping):
        raise error("E340", where=f"{where}, 'relations'", found=repr(rules)[:60], expected="an object of rules by label")
    settings["relations"] = {str(label): _rule(rule, f"{where}, relation '{label}'") for label, rule in rules.items()}
    return settings


def _rule(values: object, where: str) -> RelationRule:
    given = _object(values, {each.name for each in fields(RelationRule)}, where)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        place = f"{where}, '{name}'"
        if name in ("head", "tail"):
            settings[name] = frozenset(_strings(value, place))
        elif name == "types":
            pairs = [_strings(pair, place) for pair in _list(value, place, "a list of pairs")]
            if any(len(pair) != 2 for pair in pairs):
                raise error("E340", where=place, found=repr(value)[:60], expected="a list of pairs")
            settings[name] = frozenset((head, tail) for head, tail in pairs)
        elif name == "inverse":
            if not isinstance(value, str | None):
                raise error("E340", where=place, found=repr(value)[:60], expected="the label of a relation")
            settings[name] = value
        else:
            settings[name] = _flag(value, place)
    return RelationRule(**settings)


def _object(values: object, known: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise error("E340", where=where, found=repr(values)[:60], expected=f"an object with {', '.join(sorted(known))}")
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise error("E340", where=where, found=f"the key '{unknown[0]}'", expected=", ".join(sorted(known)))
    return {key: value for key, value in values.items() if value is not None}


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise error("E340", where=where, found=repr(value)[:60], expected="true or false")
    return value


def _list(value: object, where: str, expected: str) -> Sequence[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise error("E340", where=where, found=repr(value)[:60], expected=expected)
    return value


def _strings(value: object, where: str) -> list[str]:
    values = _list(value, where, "a list of labels")
    if not all(isinstance(each, str) for each in values):
        raise error("E340", where=where, found=repr(value)[:60], expected="a list of labels")
    return list(values)


def _rule_to_dict(rule: RelationRule) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for each in fields(rule):
        value = getattr(rule, each.name)
        if isinstance(value, frozenset):
            values[each.name] = [list(one) if isinstance(one, tuple) else one for one in sorted(value)]
        elif value:
            values[each.name] = value
    return values
