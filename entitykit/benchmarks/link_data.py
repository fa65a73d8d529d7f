"""Knowledge bases, splits and scores for benchmarks of entity linking, for whatever links mentions.

WordNet: `wordnet_linking/{kb,train,dev}.jsonl`, described entities; those of dev are not gold in train, and dev is scored.
BC5CDR: concepts of the training part (less the development part) with their mentions as names, counted, and no descriptions.
WikiFair, NewsFair: entities that the other of the two and the Spotlight articles link, with their mentions as names, counted.

From all of them: `prepare_…` gives a knowledge base and DocBins, `examples_of` and `among_namesakes` what is scored.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import spacy
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example

from entitykit.benchmarks.parts import Settings, find_files
from entitykit.benchmarks.training import write_docs
from entitykit.corpora.build import ENTITIES
from entitykit.corpora.elevant import OPTIONAL
from entitykit.corpora.read import read_docs
from entitykit.knowledge.candidates import CandidateSource, Mention
from entitykit.knowledge.entities import NIL, Alias, Entity, read_entities
from entitykit.knowledge.store import EntityStore
from entitykit.scoring.linking import linking_score, register_candidates
from entitykit.scoring.spans import Scores

QUICK_DOCS = 40
QUICK_ENTITIES = 500
K = 64
"""Candidates of a mention that count for recall."""

_CONTEXT = 300  # characters on either side of a mention

ELEVANT = {
    "wikifair": "elevant/wiki-fair-v2-no-coref.benchmark.jsonl",
    "newsfair": "elevant/news-fair-v2-no-coref.benchmark.jsonl",
    "spotlight": "elevant/spotlight.benchmark.jsonl",
}


class LinkData(NamedTuple):
    """What is linked.

    Attributes:
        kb: folder of the knowledge base.
        train: DocBin to learn from, with links in `doc.ents`.
        test: DocBin to score on; nothing is chosen by it.
        details: sizes.
    """

    kb: Path
    train: Path
    test: Path
    details: dict[str, int]


def build_kb(entities: Iterable[Entity], folder: Path, name: str) -> Path:
    """Build a knowledge base in `folder`, under its name and a digest of what is in it; one that is there is taken."""
    entities = list(entities)
    digest = hashlib.sha256("\n".join(map(repr, entities)).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            EntityStore.build(Path(unfinished, name), entities)
            Path(unfinished, name).replace(path)
    return path


def prepare_wordnet(settings: Settings, work: Path) -> LinkData:
    """WordNet; the quick form has fewer entities, among them all that are gold.

    Args:
        settings: with the data folder.
        work: where knowledge base and DocBins go.
    """
    (kb,) = find_files(settings, "wordnet_linking/kb.jsonl")
    train, test = (_read(settings, f"wordnet_linking/{part}.jsonl", "wordnet_linking") for part in ("train", "dev"))
    gold = {ent.kb_id_ for doc in [*train, *test] for ent in doc.ents}
    entities = [e for i, e in enumerate(read_entities(kb)) if not settings.quick or i < QUICK_ENTITIES or e.id in gold]
    return _link_data("wordnet", entities, train, test, work)


def prepare_bc5cdr(settings: Settings, work: Path) -> LinkData:
    """BC5CDR, chemicals and diseases; mentions of several concepts at once are no gold mentions, and are counted."""
    dev, test, train = (_read(settings, f"bc5cdr_pubtator/CDR_{part}Set.PubTator.txt", "pubtator") for part in _BC5CDR)
    held_out = {doc.user_data["id"] for doc in dev}
    train = [doc for doc in train if doc.user_data["id"] not in held_out]
    n_composite = sum("|" in ent.kb_id_ for doc in [*train, *test] for ent in doc.ents)
    for doc in [*train, *test]:
        doc.set_ents([ent for ent in doc.ents if "|" not in ent.kb_id_])
    data = _link_data("bc5cdr", entities_of(train), train, test, work)
    return data._replace(details={**data.details, "composite_mentions_left_out": n_composite})


_BC5CDR = ("Development", "Test", "Training")


def prepare_elevant(settings: Settings, work: Path, name: str) -> LinkData:
    """WikiFair or NewsFair, with a knowledge base of what the other sets link; `train` are these sets.

    Labels within others, and others of the same place, may be found and need not be: ELEVANT counts them as one with these.
    """
    docs = {key: _read(settings, file, "elevant") for key, file in ELEVANT.items()}
    for doc in docs[name]:
        doc.spans[OPTIONAL] = [*doc.spans.get(OPTIONAL, ()), *_alternatives(doc)]
    others = [doc for key, own in docs.items() if key != name for doc in own]
    labels = [label for doc in others for label in doc.user_data["elevant"]["labels"]]
    titles = {str(label["entity_id"]): str(label["name"]) for label in labels if label.get("name")}
    return _link_data(name, entities_of(others, titles), others, docs[name], work)


def _alternatives(doc: Doc) -> list[Span]:
    """The entities that are not in `doc.ents`."""
    widest = {(ent.start, ent.end, ent.kb_id) for ent in doc.ents}
    return [span for span in doc.spans.get(ENTITIES, ()) if (span.start, span.end, span.kb_id) not in widest]


def _read(settings: Settings, file: str, format: str) -> list[Doc]:  # noqa: A002 - as `read_docs` calls it
    (path,) = find_files(settings, file)
    return list(read_docs(path, format, spacy.blank("en"), limit=QUICK_DOCS if settings.quick else 0))


def _link_data(name: str, entities: Iterable[Entity], train: Sequence[Doc], test: Sequence[Doc], work: Path) -> LinkData:
    entities = list(entities)
    known = {entity.id for entity in entities}
    golds = [ent.kb_id_ for doc in test for ent in doc.ents if ent.kb_id_ not in ("", NIL)]
    details = {
        "entities": len(entities),
        "train_mentions": sum(len(doc.ents) for doc in train),
        "test_mentions": sum(len(doc.ents) for doc in test),
        "test_mentions_linked": len(golds),
        "test_mentions_in_kb": sum(id_ in known for id_ in golds),
    }
    return LinkData(
        build_kb(entities, work / "kb", name),
        write_docs(work / "corpora" / f"{name}-train.spacy", train),
        write_docs(work / "corpora" / f"{name}-test.spacy", test),
        details,
    )


def entities_of(docs: Iterable[Doc], titles: Mapping[str, str] = MappingProxyType({})) -> list[Entity]:
    """Entities that documents link, with the texts of their mentions as aliases, counted.

    Args:
        docs: with links in `doc.ents` and, where there is more than one layer, in `doc.spans`.
        titles: names of entities, by id; the name of others is the commonest of their mentions.
    """
    texts: dict[str, Counter[str]] = {}
    for doc in docs:
        for span in {(s.start, s.end, s.kb_id_): s for s in [*doc.ents, *doc.spans.get(ENTITIES, ())]}.values():
            if span.kb_id_ not in ("", NIL) and "|" not in span.kb_id_:
                texts.setdefault(span.kb_id_, Counter())[" ".join(span.text.split())] += 1
    return [
        Entity(
            id=id_,
            name=titles.get(id_, found.most_common(1)[0][0]),
            aliases=tuple(Alias(text, n) for text, n in found.items()),
            count=found.total(),
        )
        for id_, found in sorted(texts.items())
    ]


# Scores


def examples_of(path: Path, nlp: Language, *, given: bool = True) -> list[Example]:
    """Examples whose predicted documents have the gold mentions without their entities, or nothing.

    Args:
        path: a DocBin.
        nlp: whose vocabulary is taken.
        given: whether to give the gold mentions.
    """
    examples = []
    for doc in DocBin().from_disk(path).get_docs(nlp.vocab):
        words, spaces = [token.text for token in doc], [bool(token.whitespace_) for token in doc]
        bare = Doc(nlp.vocab, words=words, spaces=spaces)
        if given:
            bare.set_ents([Span(bare, ent.start, ent.end, label=ent.label) for ent in doc.ents])
        examples.append(Example(bare, doc))
    return examples


def among_namesakes(examples: Iterable[Example], store: EntityStore) -> Iterator[Example]:
    """Examples of one mention whose entity has the mention's text as a name and is not the only one that has."""
    for eg in examples:
        (ent,) = eg.reference.ents
        ids = [match.id for match in store.by_alias(ent.text)]
        if len(ids) > 1 and ent.kb_id_ in ids:
            yield eg


def link_by(
    source: CandidateSource, store: EntityStore, examples: Sequence[Example], *, kb: Container[str] | None = None
) -> Scores:
    """Link the mentions of predicted documents to what one source ranks highest, and score.

    Args:
        source: without a model, such as `AliasSource`.
        store: the entities.
        examples: with mentions in `doc.ents` of the predicted documents, whose links are replaced.
        kb: ids that count as known, see `linking_score`.
    """
    register_candidates()
    for eg in examples:
        doc = eg.predicted
        mentions = [
            Mention(ent.text, doc.text[: ent.start_char][-_CONTEXT:], doc.text[ent.end_char :][:_CONTEXT]) for ent in doc.ents
        ]
        spans = []
        for ent, found in zip(doc.ents, source.find(mentions, K), strict=True):
            ids = store.ids([row for row, _ in found])
            spans.append(Span(doc, ent.start, ent.end, label=ent.label, kb_id=ids[0] if ids else ""))
            spans[-1]._.kb_ents = [(id_, score) for id_, (_, score) in zip(ids, found, strict=True)]
        doc.set_ents(spans, default="unmodified")
    return linking_score(examples, optional_key=OPTIONAL, kb=kb)
