"""What the linker of the demo learns from: mentions, and entities that are described.

Two knowledge bases in one: WordNet, whose usage examples ask for the right sense of a word, and the named entities of
Re-DocRED, each described by the relations that its documents state.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from docred_facts import LABELS, TYPES
from spacy.language import Language
from spacy.tokens import Doc, Span

from entitykit.corpora.clusters import representative
from entitykit.corpora.read import read_docs
from entitykit.knowledge.entities import Entity, read_entities
from entitykit.knowledge.store import EntityStore

LINKS = "links"
"""The span group of linked mentions."""

MAX_FACTS = 3
MAX_LINKS = 8
"""Mentions of a document that are linked, one of an entity at most: each costs the reading of a description."""

UNNAMED = "unnamed"
KINDS = {"PERSON": "person", "ORG": "organization", "PLACE": "place", "MISC": "work, event or product"}


@dataclass
class Known:
    """What the documents say of a name.

    Attributes:
        kind: what the entity is.
        facts: relations and their tails.
    """

    kind: str
    facts: list[str] = field(default_factory=list)

    @property
    def description(self) -> str:
        """The kind, and the first facts."""
        return "; ".join([KINDS[self.kind], *self.facts[:MAX_FACTS]])


def write_kb(data: Path, known: Mapping[str, Known], path: Path) -> None:
    """Build the knowledge base: WordNet's entities, and those of Re-DocRED, each also under the name of its kind alone."""
    named = (Entity(id=name, name=name, description=each.description, type=each.kind) for name, each in known.items())
    unnamed = (
        Entity(id=f"{name} ({UNNAMED})", name=KINDS[each.kind], description="; ".join(each.facts[:MAX_FACTS]), type=each.kind)
        for name, each in known.items()
    )
    EntityStore.build(path, chain(read_entities(data / "wordnet_linking" / "kb.jsonl"), named, unnamed))


def facts_of(docs: Sequence[Doc]) -> dict[str, Known]:
    """The names of Re-DocRED's documents that stand at the head of a relation with a name of our own."""
    known: dict[str, Known] = {}
    for doc in docs:
        names, kinds = _entities(doc)
        for relation in doc.user_data["cluster_relations"]:
            head, tail, label = names[relation["head"]], names[relation["tail"]], LABELS.get(relation["label"])
            kind = kinds[relation["head"]]
            if label and kind in KINDS:
                fact = f"{label.replace('_', ' ')} {tail}"
                entity = known.setdefault(head, Known(kind))
                if fact not in entity.facts:
                    entity.facts.append(fact)
    return known


def _entities(doc: Doc) -> tuple[dict[int, str], dict[int, str]]:
    """Names and types by the numbers of clusters."""
    types = {(span.start, span.end): TYPES.get(span.label_, "") for span in doc.spans["sc"]}
    clusters = {
        int(key.rsplit("_", 1)[1]): list(spans) for key, spans in doc.spans.items() if key.startswith("coref_clusters_")
    }
    names = {number: (representative(spans) or spans[0]).text for number, spans in clusters.items()}
    return names, {number: types.get((spans[0].start, spans[0].end), "") for number, spans in clusters.items()}


def linked_documents(docs: Iterable[Doc], known: Mapping[str, Known]) -> Iterator[Doc]:
    """Documents of Re-DocRED with nothing but links, half of them to the entity that has no name but that of its kind."""
    for doc in docs:
        choose = random.Random(doc.text)
        names, _ = _entities(doc)
        there = [number for number, name in names.items() if name in known]
        links = []
        for number in sorted(choose.sample(there, min(MAX_LINKS, len(there)))):
            span = choose.choice(list(doc.spans[f"coref_clusters_{number}"]))
            unnamed = len(known[names[number]].facts) > 1 and choose.random() < 0.5
            links.append((span, f"{names[number]} ({UNNAMED})" if unnamed else names[number]))
        yield _bare(doc, links)


def usage_examples(data: Path, split: str, nlp: Language) -> Iterator[Doc]:
    """WordNet's usage examples, with nothing but their links."""
    for doc in read_docs(data / "wordnet_linking" / f"{split}.jsonl", "wordnet_linking", nlp):
        yield _bare(doc, [(ent, ent.kb_id_) for ent in doc.ents])


def _bare(doc: Doc, links: Iterable[tuple[Span, str]]) -> Doc:
    bare = Doc(doc.vocab, words=[token.text for token in doc], spaces=[bool(token.whitespace_) for token in doc])
    bare.spans[LINKS] = [Span(bare, span.start, span.end, label="ENTITY", kb_id=id_) for span, id_ in links]
    return bare
