"""What every format's parser yields: a document in plain Python values, before there is a spaCy `Doc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypedDict

Problem = Literal[
    "duplicates", "expanded", "trimmed", "dropped", "discontinuous", "rewritten", "repaired", "unmapped", "unnamed", "skipped"
]

NIL = "NIL"
"""The `kb_id` of a mention whose entity is in no knowledge base; an empty one says that the corpus does not link it."""

UNTYPED = "ENTITY"
"""The label of entities in corpora that have no types."""


Place = list[int]
"""Start and end (exclusive), a JSON value."""


class Mention(NamedTuple):
    """A labelled span.

    Attributes:
        start: first token or character.
        end: one past the last token or character.
        label: entity type, may be empty in groups that have no types.
        kb_id: identifier in a knowledge base, empty if there is none.
        score: confidence, None if there is none.
        id: of its own, such as that of a cluster across documents; empty if there is none.
    """

    start: int
    end: int
    label: str
    kb_id: str = ""
    score: float | None = None
    id: str = ""

    def shift(self, by: int) -> Mention:
        """Move both ends."""
        return self._replace(start=self.start + by, end=self.end + by)


class Note(NamedTuple):
    """Something that a parser had to change or leave out.

    Attributes:
        problem: the count of `Report` that it belongs to.
        example: where and what, for the summary.
    """

    problem: Problem
    example: str


class Relation(TypedDict):
    """A relation between two spans of tokens, a JSON value for `doc.user_data["relations"]`.

    Attributes:
        head: start and end (exclusive) of the first argument.
        tail: start and end (exclusive) of the second argument.
        label: relation type.
    """

    head: list[int]
    tail: list[int]
    label: str


class RelationPair(TypedDict):
    """The two spans of a text whose relation is asked for, a JSON value for `doc.user_data["relation_pair"]`.

    Attributes:
        first: start and end (exclusive) of the first span.
        second: start and end (exclusive) of the second span.
        label: what the corpus says, with the direction where it has one.
        one_way: whether a relation can only lead from the first to the second.
    """

    first: list[int]
    second: list[int]
    label: str
    one_way: bool


@dataclass(frozen=True)
class ParsedDoc:
    """One document of a corpus file.

    Attributes:
        id: the document's name in the corpus, or one made from file name and number.
        where: file and line, for messages.
        words: the corpus's own tokens; None if the pipeline's tokenizer shall split `text`.
        spaces: for every word whether a space follows; None if the corpus does not say.
        text: the raw text, only used without words.
        offsets: what the spans count. Spans in tokens must fit the words; spans in characters are aligned.
        entities: all entities, nested ones too, in any order.
        groups: further span groups by name.
        relations: relations for `doc.user_data["relations"]`; None if the format has none.
        pair: the pair of spans that the document is about; None if it is about all.
        salience: rated entities for `doc.user_data["salience"]`, with `mentions` or else the name of a `group`; None if the
            format has none.
        unknown: mentions of entities that no knowledge base has, by provisional ids, for `doc._.nil_clusters`; None if the
            format has none.
        sent_starts: for every word whether a sentence starts there; None if the corpus does not say.
        annotated: the stretches whose entities are annotated, in the spans' offsets; None for the whole document. Other tokens
            have no entity annotation (`ent_iob` 0), which is not the same as no entity: scorers pass over them.
        annotations: further values per word, by the name of the `Doc` argument: tags, pos, morphs, lemmas, heads, deps.
        user_data: JSON values for `doc.user_data`.
        notes: what the parser had to change or leave out.
        skip: why the document cannot be used; empty if it can.
        selected: False if the format's own options leave the document out.
    """

    id: str
    where: str
    words: Sequence[str] | None = None
    spaces: Sequence[bool] | None = None
    text: str = ""
    offsets: Literal["tokens", "characters"] = "tokens"
    entities: Sequence[Mention] = ()
    groups: Mapping[str, Sequence[Mention]] = field(default_factory=dict)
    relations: Sequence[Relation] | None = None
    pair: RelationPair | None = None
    salience: Sequence[Mapping[str, Any]] | None = None
    unknown: Mapping[str, Sequence[Place]] | None = None
    sent_starts: Sequence[bool] | None = None
    annotated: Sequence[tuple[int, int]] | None = None
    annotations: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    user_data: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[Note] = ()
    skip: str = ""
    selected: bool = True
