"""A data folder as the benchmarks expect it, with a few sentences per corpus, and configs for a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from thinc.api import Config

from entitykit.benchmarks.parts import CONFIGS, Settings

SENTENCES: list[tuple[list[str], list[tuple[int, int, str]]]] = [
    (["Ada", "met", "Lord", "Byron", "in", "London", "."], [(0, 1, "person"), (2, 4, "person"), (5, 6, "location")]),
    (["The", "poet", "left", "for", "Missolonghi", "."], [(4, 5, "location")]),
    (["It", "rained", "."], []),
    (["Babbage", "wrote", "to", "Ada", "from", "Turin", "."], [(0, 1, "person"), (3, 4, "person"), (5, 6, "location")]),
]

GUM_DOCUMENT = """# newdoc id = {name}
# global.Entity = GRP-etype-infstat-salience-centering-minspan-link-identity
# meta::genre = news
# sent_id = 1
# speaker = Ada
1	Ada	Ada	PROPN	NNP	_	2	nsubj	_	Entity=(1-person-new-sssss-cf1-1-sgl)
2	met	meet	VERB	VBD	_	0	root	_	_
3	the	the	DET	DT	_	4	det	_	Entity=(2-person-new-nnnnn-cf2-2-sgl
4	poet	poet	NOUN	NN	_	2	obj	_	_
5	of	of	ADP	IN	_	6	case	_	_
6	London	London	PROPN	NNP	_	4	nmod	_	Entity=(3-place-new-nnnnn-cf3-1-sgl)2)
7	.	.	PUNCT	.	_	2	punct	_	_

# sent_id = 2
1	He	he	PRON	PRP	_	2	nsubj	_	Entity=(2-person-giv:act-nnnnn-cf1-1-ana)
2	left	leave	VERB	VBD	_	0	root	_	_
3	.	.	PUNCT	.	_	2	punct	_	_

"""

NOVEL = """CHAPTER ONE

The harbour was quiet, and Ada walked along it for an hour. "Where is the poet?" she asked. Nobody knew it.

In London the river had been frozen for two weeks. The ships lay still. It was the winter of the great frost, and the
whole town came to the ice with horses and tents.

The end came soon after.
"""


def write_data(folder: Path, *, copies: int = 2) -> Path:
    """Write all corpora.

    Args:
        folder: the data folder.
        copies: how often the sentences, or the documents, are repeated in each file.
    """
    for path, text in _files(copies).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def tiny_settings(folder: Path, checkpoint: Path, **values: object) -> Settings:
    """Settings for the quick form with the data and the configs that are written to the folder."""
    for name in ("ner", "ner_nested", "mentions", "relations", "relations_document", "relation_pairs", "salience"):
        config = Config().from_disk(CONFIGS / f"{name}.cfg", interpolate=False)
        model = config["components"]["entitykit_encoder"]["model"]
        if "entities" in model:
            model["entities"]["inject_layer"] = 1
        if name in ("relations_document", "relation_pairs"):
            model.update(window=64, overlap=16)
        config["training"]["eval_frequency"] = 2
        (folder / "configs").mkdir(exist_ok=True)
        config.to_disk(folder / "configs" / f"{name}.cfg")
    encoder = {"name": str(checkpoint), "window": 64, "overlap": 16, "max_word_pieces": 20}
    given = {
        "data": write_data(folder / "data"),
        "configs": folder / "configs",
        "quick": True,
        "encoder": encoder,
        "max_steps": 2,
    }
    return Settings(**{**given, **values})  # type: ignore[arg-type]


def _files(copies: int) -> dict[str, str]:
    conll04 = json.dumps(
        [{"tokens": words, "entities": entities, "relations": _relations(entities)} for words, entities in SENTENCES] * copies
    )
    scierc = f"{json.dumps(_dygie())}\n" * copies
    columns = "\n".join(_columns(words, entities) for words, entities in SENTENCES * copies)
    layered = "\n".join(_columns(words, entities).replace("\n", "\t\n") for words, entities in SENTENCES)
    gum = {split: [f"GUM_news_{split}{i}" for i in range(copies)] for split in ("train", "dev", "test")}
    return {
        **dict.fromkeys([f"conll04/{name}.CoNLL04.json" for name in ("train", "valid", "test")], conll04),
        **dict.fromkeys([f"scierc/{name}.json" for name in ("train", "dev", "test")], scierc),
        **dict.fromkeys(["wnut17/wnut17train.conll", "wnut17/emerging.dev.conll", "wnut17/emerging.test.annotated"], columns),
        "gum/splits.md": "\n".join(
            f"## {split}\n" + "".join(f"  * {name}\n" for name in names) for split, names in gum.items()
        ),
        **{f"gum/dep/{name}.conllu": GUM_DOCUMENT.format(name=name) for names in gum.values() for name in names},
        **{f"litbank/entities/tsv/{i:02}_novel.tsv": layered for i in range(10)},
        "redocred/dev_revised.json": json.dumps([_docred(i) for i in range(6 * copies)]),
        "wordnet_linking/train.jsonl": f"{json.dumps({'text': 'sit by the bank', 'start': 11, 'end': 15, 'gold': '1'})}\n",
        **dict.fromkeys([f"semeval2010_task8/{name}.TXT" for name in ("TRAIN_FILE", "TEST_FILE_FULL")], _semeval() * copies),
        "salience/saliency-dataset.json": "".join(f"{json.dumps(_article(i))}\n" for i in range(10)),
        "salience/wikinews-entities.json": json.dumps([names for i in range(10) for names in _names(i)]),
        "novels/1_frost.txt": NOVEL,
        "novels/2_frost.txt": NOVEL * 20,
    }


def _relations(entities: list[tuple[int, int, str]]) -> list[list[object]]:
    """Each person was in each place."""
    people, places = ([entity[:2] for entity in entities if entity[2] == label] for label in ("person", "location"))
    return [[*person, *place, "was_in"] for person in people for place in places]


def _article(number: int) -> dict[str, object]:
    """Two entities are rated that it names, and one that it does not."""
    ratings = [{"entityid": 1, "score": 3.0}, {"entityid": 2, "score": 1.33}, {"entityid": 3, "score": 1.0}]
    parts = [{"name": "headline", "value": "Ada met Byron"}, {"name": "body_par_000", "value": "Ada left London."}]
    return {"docId": number, "saliency": ratings, "document": parts}


def _names(number: int) -> list[dict[str, object]]:
    names = {1: "ada", 2: "london", 3: "paris"}
    return [
        {"doc_id": number, "entity_id": key, "meta_wiki_title": name.title(), "meta_mentions": [name]}
        for key, name in names.items()
    ]


def _docred(number: int) -> dict[str, object]:
    """All sentences as one document; entities with the same name are one."""
    mentions: dict[str, list[dict[str, object]]] = {}
    for i, (words, entities) in enumerate(SENTENCES):
        for start, end, label in entities:
            name = " ".join(words[start:end])
            mentions.setdefault(name, []).append({"name": name, "sent_id": i, "pos": [start, end], "type": label})
    names = list(mentions)
    return {
        "title": f"letters {number}",
        "sents": [words for words, _ in SENTENCES],
        "vertexSet": list(mentions.values()),
        "labels": [{"h": names.index("Ada"), "t": names.index("London"), "r": "was_in", "evidence": [0]}],
    }


def _semeval() -> str:
    """The first and the last entity of each sentence; persons are in places, in either direction."""
    blocks = []
    for number, (words, entities) in enumerate(SENTENCES):
        marked = list(words)
        for tag, (start, end, _) in zip(
            ("e1", "e2"), (entities[:1] + entities[-1:]) if len(entities) > 1 else (), strict=False
        ):
            marked[start] = f"<{tag}>{marked[start]}"
            marked[end - 1] += f"</{tag}>"
        if marked != words:
            blocks.append(f'{number}\t"{" ".join(marked)}"\nWas-In(e{number % 2 + 1},e{2 - number % 2})\nComment:\n\n')
            blocks.append(f'{number + 10}\t"Then {" ".join(marked)}"\nOther\nComment:\n\n')
    return "".join(blocks)


def _dygie() -> dict[str, object]:
    sentences, ner, relations, start = [], [], [], 0
    for words, entities in SENTENCES:
        sentences.append(words)
        ner.append([[start + first, start + end - 1, label] for first, end, label in entities])
        pairs = [(start + a, start + b - 1, start + c, start + d - 1) for a, b, c, d, _ in _relations(entities)]
        relations.append([[*pair, "was_in"] for pair in pairs])
        start += len(words)
    return {"doc_key": "letters", "sentences": sentences, "ner": ner, "relations": relations}


def _columns(words: list[str], entities: list[tuple[int, int, str]]) -> str:
    tags = ["O"] * len(words)
    for start, end, label in entities:
        tags[start:end] = [f"B-{label}", *[f"I-{label}"] * (end - start - 1)]
    return "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
