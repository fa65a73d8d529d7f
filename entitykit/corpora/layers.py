"""What entitykit JSON lines have beside spans: relations, salience, states of entities, groups of unknown entities.

| key | written from, the first that is there | read to |
|---|---|---|
| `relations` | `doc._.relations`, `doc.user_data["relations"]` | `doc.user_data["relations"]` |
| `cluster_relations` | `doc._.cluster_relations`, `doc.user_data["cluster_relations"]` | `doc.user_data["cluster_relations"]` |
| `salience` | `doc._.salience`, `doc.user_data["salience"]` | `doc.user_data["salience"]` |
| `entity_states` | `doc._.entity_states`, `doc.user_data["procedure"]` or its like | `doc.user_data["procedure"]` |
| `nil_clusters` | `doc._.nil_clusters` | `doc._.nil_clusters` |

Values are as components write them, but places are `[start, end]` in characters, the end exclusive, as all places of a record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

from spacy.tokens import Doc

from entitykit.corpora.files import items, member, typed
from entitykit.corpora.parsed import Place, Relation
from entitykit.corpora.triples import RELATIONS, UNKNOWN
from entitykit.decoding.procedures import PROCEDURE, given_procedure
from entitykit.decoding.relation_values import relation_list
from entitykit.errors import EntityKitError, error

CLUSTER_RELATIONS = "cluster_relations"
SALIENCE = "salience"
STATES = "entity_states"
NIL_CLUSTERS = "nil_clusters"
LAYERS = (RELATIONS, CLUSTER_RELATIONS, SALIENCE, STATES, NIL_CLUSTERS)

IN_CHARACTERS = ("head_span", "tail_span")
"""Keys of relations that say in characters what `head` and `tail` say in tokens: a record says it once."""


class Layers(NamedTuple):
    """The layers of a record, as `ParsedDoc` has them."""

    relations: list[Relation] | None
    salience: list[dict[str, Any]] | None
    unknown: dict[str, list[Place]] | None
    user_data: dict[str, Any]


def layers_of(doc: Doc) -> dict[str, Any]:
    """Give the layers that a document has.

    Returns:
        JSON values by the keys of `LAYERS`; absent ones are left out, empty ones are not.

    Raises:
        InputError: E345, E349, E562, E612 and E620 for values that are not as components write them.
    """
    relations, salience, between = (_value(doc, name) for name in (RELATIONS, SALIENCE, CLUSTER_RELATIONS))
    data: Mapping[Any, Any] = doc.user_data
    groups = data.get(UNKNOWN)
    found = {
        RELATIONS: None if relations is None else [_relation(doc, value) for value in relation_list(relations)],
        CLUSTER_RELATIONS: None if between is None else list(relation_list(between)),
        SALIENCE: None if salience is None else [_rated(doc, value) for value in salience],
        STATES: _states(doc),
        NIL_CLUSTERS: None if groups is None else _groups(doc, groups),
    }
    return {name: value for name, value in found.items() if value is not None}


def parse_layers(record: Mapping[str, Any], where: str) -> Layers:
    """Read the layers of a record.

    Args:
        record: the JSON object.
        where: file and line, for messages.

    Raises:
        CorpusError: E206 and E207 for wrong or missing values, E226 for a place that ends before it starts.
    """
    user_data: dict[str, Any] = {}
    if (between := _objects(record, CLUSTER_RELATIONS, where)) is not None:
        for value in between:
            for key, kind in (("head", int), ("tail", int), ("label", str)):
                member(value, key, kind, where=where)
        user_data[CLUSTER_RELATIONS] = between
    if record.get(STATES) is not None:
        user_data[PROCEDURE] = _parse_states(member(record, STATES, dict, where=where), where)
    relations, salience = _objects(record, RELATIONS, where), _objects(record, SALIENCE, where)
    unknown = member(record, NIL_CLUSTERS, dict, where=where) if record.get(NIL_CLUSTERS) is not None else None
    return Layers(
        None if relations is None else [_parse_relation(value, where) for value in relations],
        None if salience is None else [_parse_rated(value, where) for value in salience],
        None if unknown is None else {name: _places(unknown, name, where) for name in unknown},
        user_data,
    )


def _value(doc: Doc, name: str) -> Sequence[Any] | None:
    """What a component has written to an extension, also in a process that does not know it; else what is gold."""
    data: Mapping[Any, Any] = doc.user_data
    found: Sequence[Any] | None = data.get(("._.", name, None, None))
    return data.get(name) if found is None else found


def _relation(doc: Doc, value: Any) -> dict[str, Any]:
    def convert() -> dict[str, Any]:
        others = {key: other for key, other in value.items() if key not in IN_CHARACTERS}
        return others | {key: _characters(doc, value[key]) for key in ("head", "tail")}

    return _converted(convert, lambda: error("E345", found=repr(value)[:80], n=len(doc)))


def _rated(doc: Doc, value: Any) -> dict[str, Any]:
    def convert() -> dict[str, Any]:
        if "mentions" not in value:  # a span group has them
            return dict(value)
        return {**value, "mentions": [_characters(doc, place) for place in value["mentions"]]}

    return _converted(convert, lambda: error("E620", found=repr(value)[:80], n=len(doc)))


def _states(doc: Doc) -> dict[str, Any] | None:
    data: Mapping[Any, Any] = doc.user_data
    states: Any = data.get(("._.", STATES, None, None))
    if states is None:
        return dict(given_procedure(data)) or None  # in characters already

    def convert() -> dict[str, Any]:
        mentions = [[_characters(doc, place) for place in own] for own in states["mentions"]]
        return {**states, "mentions": mentions, "steps": [_characters(doc, place) for place in states["steps"]]}

    return _converted(convert, lambda: error("E612", found=repr(states)[:80], expected="a dict with mentions and steps"))


def _groups(doc: Doc, groups: Any) -> dict[str, list[Place]]:
    return _converted(
        lambda: {str(name): [_characters(doc, place) for place in places] for name, places in groups.items()},
        lambda: error("E562", found=repr(groups)[:80]),
    )


def _converted(convert: Callable[[], dict[str, Any]], problem: Callable[[], EntityKitError]) -> dict[str, Any]:
    try:
        return convert()
    except (AttributeError, KeyError, TypeError, ValueError) as reason:
        raise problem() from reason


def _characters(doc: Doc, place: Sequence[int]) -> Place:
    """Give a place in characters; a step may be empty.

    Raises:
        ValueError: if it is not within the document.
    """
    start, end = place
    if not 0 <= start <= end <= len(doc):
        raise ValueError(place)
    first = doc[start].idx if start < len(doc) else len(doc.text)
    return [first, doc[end - 1].idx + len(doc[end - 1]) if start < end else first]


def _objects(record: Mapping[str, Any], key: str, where: str) -> list[dict[str, Any]] | None:
    if record.get(key) is None:
        return None
    return [typed(value, dict, what=f"an item of '{key}'", where=where) for value in member(record, key, list, where=where)]


def _parse_relation(value: dict[str, Any], where: str) -> Relation:
    head, tail = (_place(member(value, key, list, where=where), f"'{key}'", where) for key in ("head", "tail"))
    return cast(Relation, {**value, "head": head, "tail": tail, "label": member(value, "label", str, where=where)})


def _parse_rated(value: dict[str, Any], where: str) -> dict[str, Any]:
    member(value, "score", float, where=where)
    if value.get("mentions") is None:
        member(value, "group", str, where=where)
        return value
    return {**value, "mentions": _places(value, "mentions", where)}


def _parse_states(value: dict[str, Any], where: str) -> dict[str, Any]:
    for name in member(value, "participants", list, where=where, default=[]):
        typed(name, str, what="a participant", where=where)
    if value.get("steps") is not None:
        _places(value, "steps", where)
    return value


def _places(values: Mapping[str, Any], key: str, where: str) -> list[Place]:
    return [_place(place, f"a place in '{key}'", where) for place in member(values, key, list, where=where)]


def _place(value: object, what: str, where: str) -> Place:
    start, end = items(value, int, int, what=what, where=where)
    if not 0 <= start <= end:
        raise error("E226", where=where, found=f"{what} [{start}, {end})", expected="0 <= start <= end")
    return [start, end]
