"""Entities and probabilities of relations in, relations that a schema allows out: greedy, by beam search, or the best ones.

Three orders, after Zaratiana et al., "EnriCo" (arXiv 2404.12493): entities first, then relations between them; relations first,
then entities that fit; or both at once. What is maximised is in `entitykit.decoding.relation_facts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from entitykit.decoding.relation_facts import Entities, build_problem
from entitykit.decoding.relation_search import State, beam, better, greedy
from entitykit.decoding.schema import Constraints
from entitykit.errors import error

__all__ = [
    "DECODERS",
    "ORDERS",
    "Constraints",
    "Decoded",
    "Entities",
    "Match",
    "decode_relations",
    "forbidden_relations",
]

DECODERS = ("greedy", "beam", "exact")
ORDERS = ("entity_first", "relation_first", "joint")

DecoderName = Literal["greedy", "beam", "exact"]
OrderName = Literal["entity_first", "relation_first", "joint"]


class Match(NamedTuple):
    """A relation between two entities.

    Attributes:
        head: number of the entity.
        tail: number of the entity.
        relation: number of the label.
        score: its probability; of a symmetric relation, and of one with an inverse, the highest of both directions.
    """

    head: int
    tail: int
    relation: int
    score: float


class Decoded(NamedTuple):
    """What was decided.

    Attributes:
        relations: in the order of the text: by head, tail and label.
        entities: *(n_chosen,)* indices of the entities, in order; all of them if their types were given.
        types: *(n_chosen,)* their types; given ones as they were given.
        entity_score: sum of the weights of the entities; 0 if their types were given.
        relation_score: sum of the weights of the facts, see `entitykit.decoding.relation_facts`.
        optimal: whether nothing better exists; only `exact` proves it, and not if its time was over.
    """

    relations: list[Match]
    entities: NDArray[np.int64]
    types: NDArray[np.int64]
    entity_score: float
    relation_score: float
    optimal: bool


def decode_relations(
    entities: Entities,
    pairs: NDArray[np.integer],
    probabilities: NDArray[np.floating],
    constraints: Constraints,
    *,
    decoder: DecoderName = "greedy",
    order: OrderName = "entity_first",
    threshold: float | NDArray[np.floating] = 0.5,
    beam_width: int = 8,
    time_limit: float = 10.0,
) -> Decoded:
    """Choose relations, and the entities if their types are not given.

    Args:
        entities: of one document.
        pairs: *(n_pairs, 2)* numbers of head and tail.
        probabilities: *(n_pairs, n_relations)*.
        constraints: what is allowed, from `RelationSchema.constrain`.
        decoder: `greedy`, the heaviest first; `beam`; or `exact`, an integer programme. None is worse than `greedy`.
        order: `entity_first`: the best entities, then relations between them; `relation_first`: relations that any types allow,
            then entities and types that fit; `joint`: the largest sum of both. All the same if types are given.
        threshold: a relation's probability must be above it; one for all, or *(n_relations,)*.
        beam_width: states that `beam` keeps.
        time_limit: seconds after which `exact` gives the best that it has found, with a warning (W340); see
            `entitykit.decoding.relation_exact.exact`.

    Raises:
        ConfigError: E344 for settings that do not exist.
        InputError: E343 for arrays that do not fit each other or the constraints.
    """
    _check_settings(decoder, order, threshold, beam_width, time_limit)
    problem = build_problem(entities, pairs, probabilities, constraints, threshold)
    start = State.of(problem)
    if problem.types is None and order == "entity_first":
        start = start.with_best_entities()
    by = "joint" if order == "entity_first" else order
    best, optimal = greedy(start, by), False
    if decoder == "beam":
        best = better(best, beam(start, by, beam_width), by)
    elif decoder == "exact":
        from entitykit.decoding.relation_exact import exact  # here, because it imports scipy's solver

        found, optimal = exact(best, start, by, time_limit)
        best = better(best, found, by)
    return _decoded(best, optimal)


def forbidden_relations(
    entities: Entities, relations: Sequence[tuple[int, int, int]], constraints: Constraints
) -> set[tuple[int, int, int]]:
    """Those of a document's relations that would not be written though all of them were certain.

    Args:
        entities: with types.
        relations: numbers of head, tail and label.
        constraints: what is allowed.

    Raises:
        InputError: E343 for entities that do not fit the constraints.
    """
    pairs = sorted({relation[:2] for relation in relations})
    rows = {pair: row for row, pair in enumerate(pairs)}
    certain = np.zeros((len(pairs), len(constraints.relations)))
    for head, tail, label in relations:
        certain[rows[head, tail], label] = 1.0
    both = constraints._replace(both_directions=True)
    found = decode_relations(entities, np.array(pairs, dtype=np.int64).reshape(-1, 2), certain, both)
    return set(relations) - {(match.head, match.tail, match.relation) for match in found.relations}


def _decoded(state: State, optimal: bool) -> Decoded:
    """Write facts out, with what they imply."""
    problem = state.problem
    given = problem.constraints
    matches = []
    implied = problem.select(np.array(state.facts, dtype=np.int64)).implied()
    for fact, triples in zip(state.facts, implied, strict=True):
        once = given.symmetric[triples[0][2]] and not given.both_directions
        score = float(problem.probabilities[fact])
        matches += [Match(*triple, score) for triple in (triples[:1] if once else triples)]
    place = list(zip(problem.starts.tolist(), problem.ends.tolist(), range(len(problem.starts)), strict=True))
    matches.sort(key=lambda match: (place[match.head], place[match.tail], match.relation))
    return Decoded(matches, state.entities, state.types, state.entity_score, state.relation_score, optimal)


def _check_settings(
    decoder: str, order: str, threshold: float | NDArray[np.floating], beam_width: int, time_limit: float
) -> None:
    if decoder not in DECODERS:
        raise error("E344", option="decoder", found=repr(decoder), expected=", ".join(DECODERS))
    if order not in ORDERS:
        raise error("E344", option="order", found=repr(order), expected=", ".join(ORDERS))
    if not ((np.asarray(threshold) >= 0) & (np.asarray(threshold) <= 1)).all():
        raise error("E344", option="threshold", found=threshold, expected="0 to 1")
    if beam_width < 1:
        raise error("E344", option="beam_width", found=beam_width, expected="1 or more")
    if not time_limit > 0:
        raise error("E344", option="time_limit", found=time_limit, expected="seconds above 0")
