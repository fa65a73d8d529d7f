"""GUM: CoNLL-U with nested entities, coreference, identities and salience."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from entitykit.corpora.brackets import Cell, EntityMention, read_header, read_mentions
from entitykit.corpora.clusters import cluster_groups
from entitykit.corpora.conllu import Sentence, Word, read_sentences
from entitykit.corpora.files import read_lines
from entitykit.corpora.given_speakers import SPEAKERS
from entitykit.corpora.parsed import NIL, Mention, Note, ParsedDoc
from entitykit.corpora.titles import title
from entitykit.errors import error

SUFFIXES = (".conllu",)

BLANKED = "its text is blanked"
SPLITS_FILE = "splits.md"
MAP_FILE = "wiki_map.tab"

IDENTITY = "identity"
KB_IDS = ("title", "qid")
CLUSTERS = {"repeated": 2, "all": 1}
"""The number of mentions that an entity must have to be a cluster."""


def parse(
    path: Path, *, genres: Sequence[str] = (), split: str = "", kb_id: str = "title", clusters: str = "repeated"
) -> Iterator[ParsedDoc]:
    """Read the documents of a CoNLL-U file; each starts with `# newdoc id` and `# global.Entity`.

    Entities are all mentions between brackets, pronouns included; the `identity` of those that have one, a title of Wikipedia,
    is their `kb_id_`. Entities with two or more mentions are also the span groups
    `coref_clusters_1`, `coref_clusters_2`, …; one empty group says that a document has none. Lemmas, tags, morphology, heads
    and sentence starts are set. As JSON `doc.user_data["gum"]` keeps `genre`, `meta` (the `meta::` comments, with
    `salientEntities`) and `mentions`: token offsets `start` and `end`, the `pieces` of a discontinuous mention, and all fields
    of the bracket as published (group, information status, salience, minimal span, identity, …). Where all of them have it,
    `doc.user_data["salience"]` rates the entities: `id`, the group, `entity`, its identity or empty, `score`, the number of
    summaries of the document that name it, and `mentions`, start and end in tokens. Where sentences have a `# speaker`,
    `doc.user_data["speakers"]` has one per word, empty where there is none. Documents whose words are all underscores (reddit)
    are skipped.

    Args:
        path: the file.
        genres: which genres to read, such as `news`; empty for all.
        split: which split to read (`train`, `dev`, `test`), as given by the corpus's `splits.md` beside the files or one folder
            above them; empty for all.
        kb_id: `title` for the page's title with spaces, or `qid` for the id in Wikidata, as given by the corpus's
            `wiki_map.tab` beside the files or one folder above them; titles that have none there become `NIL` and are counted.
        clusters: `repeated` for entities with two or more mentions, `all` for those with one, too.

    Raises:
        ConfigError: E213 for another `kb_id` or other `clusters`.
        CorpusError: E204, E210, E214 and E220 for the CoNLL-U, E221 and E222 for the brackets, E223 for a document without
            header, E224 for a split that is not found, E246 for a map that is not found or has other columns.
    """
    if kb_id not in KB_IDS:
        raise error("E213", option="kb_id", found=kb_id, expected=" or ".join(KB_IDS))
    if clusters not in CLUSTERS:
        raise error("E213", option="clusters", found=clusters, expected=" or ".join(CLUSTERS))
    ids = _read_map(path) if kb_id == "qid" else None
    in_split = _read_split(path, split) if split else None
    for sentences in _documents(read_sentences(path), path):
        comments = sentences[0].comments
        name = comments["newdoc id"]
        genre = comments.get("meta::genre", "")
        if (not genres or genre in genres) and (in_split is None or name in in_split):
            yield _document(sentences, name, genre, path, ids, CLUSTERS[clusters])
        else:
            yield ParsedDoc(id=name, where=str(path), selected=False)


def _documents(sentences: Iterable[Sentence], path: Path) -> Iterator[list[Sentence]]:
    document: list[Sentence] = []
    for sentence in sentences:
        if "newdoc id" in sentence.comments and document:
            yield document
            document = []
        document.append(sentence)
        if not {"newdoc id", "global.Entity"} <= document[0].comments.keys():
            raise error("E223", where=f"{path}, sentence {sentence.comments.get('sent_id', '1')}")
    if document:
        yield document


def _document(
    sentences: Sequence[Sentence], name: str, genre: str, path: Path, ids: Mapping[str, str] | None, least: int
) -> ParsedDoc:
    words = [word for sentence in sentences for word in sentence.words]
    where = f"{path}, document {name}"
    skip = BLANKED if all(set(word.form) == {"_"} for word in words) else ""
    mentions = _mentions(sentences, path)
    kept = [mention for mention in mentions if mention.start < mention.end]
    comments = sentences[0].comments
    meta = {key.removeprefix("meta::"): value for key, value in comments.items() if key.startswith("meta::")}
    return ParsedDoc(
        id=name,
        where=where,
        words=[word.form for word in words],
        spaces=[word.space_after for word in words[:-1]] + [False] * bool(words),
        entities=[Mention(mention.start, mention.end, mention.label, _identifier(mention, ids)) for mention in kept],
        groups=_clusters(kept, least),
        sent_starts=[i == 0 for sentence in sentences for i in range(len(sentence.words))],
        annotations=_annotations(sentences, words, where),
        user_data={
            "gum": {"genre": genre, "meta": meta, "mentions": [_as_json(mention) for mention in kept]},
            **_ratings(kept),
            **_speakers(sentences),
        },
        notes=list(_notes(sentences, mentions, path, ids)),
        skip=skip,
    )


def _mentions(sentences: Sequence[Sentence], path: Path) -> list[EntityMention]:
    header = read_header(sentences[0].comments["global.Entity"], where=f"{path}, document {sentences[0].comments['newdoc id']}")
    offsets = accumulate((len(sentence.words) for sentence in sentences), initial=0)
    cells = [
        Cell(misc.values["Entity"], offset + misc.start, offset + misc.end, f"{path}, line {misc.line}")
        for offset, sentence in zip(offsets, sentences, strict=False)
        for misc in sentence.misc
        if "Entity" in misc.values
    ]
    return read_mentions(header, cells)


def _clusters(mentions: Sequence[EntityMention], least: int) -> dict[str, list[Mention]]:
    clusters: dict[str, list[Mention]] = {}
    for mention in mentions:
        clusters.setdefault(mention.group, []).append(Mention(mention.start, mention.end, mention.label))
    return cluster_groups(cluster for cluster in clusters.values() if len(cluster) >= least)


def _as_json(mention: EntityMention) -> dict[str, Any]:
    pieces = {"pieces": mention.pieces} if mention.pieces else {}
    return {"start": mention.start, "end": mention.end, **pieces, **mention.fields}


def _ratings(mentions: Sequence[EntityMention]) -> dict[str, Any]:
    """Read salience such as `ssnnn`: two of five summaries name the entity; some mentions have it in part, as in `n____`."""
    marks = [mention.fields.get("salience", "") for mention in mentions]
    if not marks or not all(mark.startswith(("s", "n")) for mark in marks):
        return {}
    rated: dict[str, dict[str, Any]] = {}
    for mention, mark in zip(mentions, marks, strict=True):
        entity = rated.setdefault(mention.group, {"id": mention.group, "entity": "", "score": 0.0, "mentions": []})
        entity["score"] = max(entity["score"], float(mark.count("s")))
        entity["entity"] = entity["entity"] or title(mention.fields.get(IDENTITY, ""))
        entity["mentions"].append([mention.start, mention.end])
    return {"salience": list(rated.values())}


def _speakers(sentences: Sequence[Sentence]) -> dict[str, Any]:
    speakers = [sentence.comments.get("speaker", "") for sentence in sentences for _ in sentence.words]
    return {SPEAKERS: speakers} if any(speakers) else {}


def _identifier(mention: EntityMention, ids: Mapping[str, str] | None) -> str:
    identity = mention.fields.get(IDENTITY, "")
    if not identity:
        return ""
    return title(identity) if ids is None else ids.get(identity, NIL)


def _notes(
    sentences: Sequence[Sentence], mentions: Sequence[EntityMention], path: Path, ids: Mapping[str, str] | None
) -> Iterator[Note]:
    for mention in mentions:
        if mention.start < mention.end and _identifier(mention, ids) == NIL:
            yield Note("unmapped", f"{mention.fields[IDENTITY]} ({mention.where})")
        if mention.start == mention.end:
            yield Note("dropped", f"{mention.label} ({mention.where}) holds empty nodes only")
        if mention.pieces:
            yield Note("discontinuous", f"{mention.label} ({mention.where})")
    for sentence in sentences:
        for multiword in sentence.rewritten:
            yield Note("rewritten", f"{multiword.form} ({path}, line {multiword.line})")


def _annotations(sentences: Sequence[Sentence], words: Sequence[Word], where: str) -> dict[str, list[Any]]:
    """Collect what goes to the tokens; an annotation that no word has is left out, and heads too if a single one is missing."""
    columns = {
        "lemmas": [word.lemma for word in words],
        "pos": [word.upos for word in words],
        "tags": [word.xpos for word in words],
        "morphs": [word.feats for word in words],
    }
    annotations: dict[str, list[Any]] = {name: values for name, values in columns.items() if any(values)}
    heads: list[int] = []
    for sentence in sentences:
        offset = len(heads)
        for i, word in enumerate(sentence.words):
            if word.head is None:
                return annotations
            heads.append(offset + (word.head - 1 if word.head else i))
    _check_trees(heads, where)
    deps = ["ROOT" if word.head == 0 else word.deprel for word in words]
    return {**annotations, "heads": heads, "deps": deps}


def _check_trees(heads: Sequence[int], where: str) -> None:
    """Make sure that every word leads to a root; spaCy would take a circle without a word."""
    grounded = [head == i for i, head in enumerate(heads)]
    for i in range(len(heads)):
        path = []
        while not grounded[i]:
            if i in path:
                raise error("E237", where=where, number=i + 1)
            path.append(i)
            i = heads[i]
        for node in path:
            grounded[node] = True


def _read_map(path: Path) -> dict[str, str]:
    """Read the ids of titles, as the brackets spell them; of several rows for a title the last that has an id counts."""
    places = [path.parent / MAP_FILE, path.parent.parent / MAP_FILE]
    found = [place for place in places if place.is_file()]
    if not found:
        raise error("E246", reason=f"there is no file {' or '.join(map(str, places))}")
    ids: dict[str, str] = {}
    for number, line in read_lines(found[0]):
        match line.split("\t"):
            case [str(name), _, str(identifier), *_]:
                if identifier.startswith("Q"):
                    ids[name] = identifier
            case _ if line.strip():
                raise error("E246", reason=f"{found[0]}, line {number}, has less than 3 columns: '{line[:60]}'")
    return ids


def _read_split(path: Path, split: str) -> set[str]:
    """Read a list under a `## split` heading of the corpus's own Markdown file."""
    places = [path.parent / SPLITS_FILE, path.parent.parent / SPLITS_FILE]
    found = [place for place in places if place.is_file()]
    if not found:
        raise error("E224", split=split, reason=f"there is no file {' or '.join(map(str, places))}")
    sections: dict[str, set[str]] = {}
    heading = ""
    for line in found[0].read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ").strip()
        elif line.strip().startswith("* "):
            sections.setdefault(heading, set()).add(line.strip().removeprefix("* "))
    if split not in sections:
        raise error("E224", split=split, reason=f"{found[0]} has: {', '.join(sections)}")
    return sections[split]
