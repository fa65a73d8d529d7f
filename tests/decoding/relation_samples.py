"""Input of relation decoders."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from entitykit.decoding.relations import Decoded, Entities, decode_relations
from entitykit.decoding.schema import RelationSchema

RELATIONS = ["r", "s", "t"]
TYPES = ["A", "B"]


class Sample(NamedTuple):
    """One document's input."""

    entities: Entities
    pairs: np.ndarray
    probabilities: np.ndarray
    schema: RelationSchema

    def decode(self, **options: Any) -> Decoded:
        return decode_relations(*self[:3], self.schema.constrain(RELATIONS, TYPES), **options)


def entities(*spans: tuple[int, int], log_p: Any = None, types: Any = None) -> Entities:
    starts, ends = zip(*spans, strict=True)
    return Entities(
        np.array(starts),
        np.array(ends),
        None if types is None else np.array(types),
        None if log_p is None else np.log(np.array(log_p)),
    )


def decode(given_entities: Entities, scores: dict[tuple[int, int], list[float]], schema: Any, **options: Any) -> Decoded:
    pairs = np.array(list(scores), dtype=np.int64).reshape(-1, 2)
    sample = Sample(given_entities, pairs, np.array(list(scores.values())).reshape(-1, 3), RelationSchema.load(schema))
    return sample.decode(**options)
