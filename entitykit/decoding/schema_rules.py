"""The rule of one relation of a schema, what follows from rules, and where they contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

TypePair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class RelationRule:
    """What one relation may be; what is not given is not restricted.

    Attributes:
        head: types that its head may have.
        tail: types that its tail may have.
        types: pairs of types that its head and tail may have.
        symmetric: whether it holds in both directions; then both are one fact.
        inverse: the relation that holds in the other direction, always; then both are one fact.
        functional: whether a head has one tail at most.
        inverse_functional: whether a tail has one head at most.
    """

    head: frozenset[str] | None = None
    tail: frozenset[str] | None = None
    types: frozenset[TypePair] | None = None
    symmetric: bool = False
    inverse: str | None = None
    functional: bool = False
    inverse_functional: bool = False

    def allows(self, head: str | None, tail: str | None) -> bool:
        """Whether it may hold between entities of two types; None is one that no rule names."""
        one_by_one = (self.head is None or head in self.head) and (self.tail is None or tail in self.tail)
        return one_by_one and (self.types is None or (head, tail) in self.types)

    def mirrored(self) -> RelationRule:
        """The rule of the other direction, without `inverse`."""
        types = None if self.types is None else frozenset((tail, head) for head, tail in self.types)
        return replace(
            self,
            head=self.tail,
            tail=self.head,
            types=types,
            inverse=None,
            functional=self.inverse_functional,
            inverse_functional=self.functional,
        )

    def labels(self) -> Iterator[str]:
        """All entity types that it names."""
        yield from self.head or ()
        yield from self.tail or ()
        for pair in self.types or ():
            yield from pair

    def alone(self) -> RelationRule:
        """The rule of a relation whose inverse is not decoded, with such pairs of types only that it allows."""
        types = None if self.types is None else frozenset(pair for pair in self.types if self.allows(*pair))
        return replace(self, types=types, inverse=None)


def completed(relations: Mapping[str, RelationRule]) -> dict[str, RelationRule]:
    """Give rules what follows from them: an inverse has the mirrored rule, a symmetric relation is its own mirror."""
    found = dict(relations)
    for label, rule in relations.items():
        if rule.symmetric:
            found[label] = _joined(rule, rule.mirrored())
        elif rule.inverse is not None:
            mirror = rule.mirrored()
            other = replace(found.get(rule.inverse, mirror), inverse=label)
            found[rule.inverse] = _joined(other, mirror)
            found[label] = _joined(rule, found[rule.inverse].mirrored())
    return found


def _joined(rule: RelationRule, other: RelationRule) -> RelationRule:
    """A rule with what only the other one restricts."""
    return replace(
        rule,
        head=other.head if rule.head is None else rule.head,
        tail=other.tail if rule.tail is None else rule.tail,
        types=other.types if rule.types is None else rule.types,
        functional=rule.functional or other.functional,
        inverse_functional=rule.inverse_functional or other.inverse_functional,
    )


def contradictions(relations: Mapping[str, RelationRule]) -> Iterator[str]:
    """Say what cannot be true at once."""
    inverse_of: dict[str, str] = {}
    for label, rule in relations.items():
        yield from _own_contradictions(label, rule)
        if rule.inverse is None or rule.inverse == label:
            continue
        if (first := inverse_of.setdefault(rule.inverse, label)) != label:
            yield f"'{rule.inverse}' is the inverse of '{first}' and of '{label}'"
        other = relations.get(rule.inverse)
        if other is None:
            continue
        if other.inverse not in (None, label):
            yield f"the inverse of '{label}' is '{rule.inverse}', whose inverse is '{other.inverse}'"
        if other.symmetric:
            yield f"'{rule.inverse}' is symmetric and the inverse of '{label}'"
        if label < rule.inverse or other.inverse is None:
            yield from _differences(f"the inverse of '{rule.inverse}'", label, rule, other.mirrored())


def _own_contradictions(label: str, rule: RelationRule) -> Iterator[str]:
    for name in ("head", "tail", "types"):
        if getattr(rule, name) is not None and not getattr(rule, name):
            yield f"'{label}' has an empty '{name}', so that it can never hold"
    for head, tail in sorted(rule.types or ()):
        if not replace(rule, types=None).allows(head, tail):
            yield f"'{label}' has ('{head}', '{tail}') in 'types', which its 'head' or 'tail' does not allow"
    if rule.inverse == label:
        yield f"'{label}' is its own inverse: set 'symmetric' instead"
    elif rule.symmetric and rule.inverse is not None:
        yield f"'{label}' is symmetric and has the inverse '{rule.inverse}'"
    if rule.symmetric:
        yield from _differences("symmetric", label, rule, rule.mirrored())


def impossible(relations: Mapping[str, RelationRule]) -> Iterator[str]:
    """Name relations of which what follows from the other direction leaves nothing."""
    for label, rule in completed(relations).items():
        if rule.types is not None and not any(rule.allows(*pair) for pair in rule.types):
            yield f"'{label}' can never hold: its types are not those of '{rule.inverse or label}' the other way round"


def _differences(what: str, label: str, rule: RelationRule, mirror: RelationRule) -> Iterator[str]:
    """Compare the types of a rule with those that it must have by its other direction."""
    for name in ("head", "tail", "types"):
        own, expected = getattr(rule, name), getattr(mirror, name)
        if own is None or expected is None or own == expected or (name == "tail" and rule.symmetric):
            continue
        extra = sorted(own ^ expected)[0]
        yield f"'{label}' is {what}, but {extra!r} is allowed in one direction only ('{name}')"
