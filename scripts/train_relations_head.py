"""Train the relations that `make demo` shows: `python scripts/train_relations_head.py DATA [--out examples/heads/relations]`.

DATA is a folder with Re-DocRED (MIT). The head reads the states of `en_entitykit_sm`, which stays as it is; what is written is
the head alone, its settings beside it. Re-DocRED relates entities of a document; here a relation holds between all mentions of
the two that share a sentence.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from default_corpus import DOCRED_LABELS
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus
from spacy.util import filter_spans

from entitykit.corpora.read import read_docs

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = "en_entitykit_sm"
LABELS = {
    "P6": "head_of_government",
    "P17": "country",
    "P19": "born_in",
    "P20": "died_in",
    "P22": "father",
    "P26": "spouse",
    "P27": "citizen_of",
    "P40": "child",
    "P50": "author",
    "P54": "plays_for",
    "P57": "director",
    "P69": "educated_at",
    "P102": "party",
    "P108": "employer",
    "P127": "owned_by",
    "P131": "located_in",
    "P159": "headquarters_in",
    "P161": "cast_member",
    "P170": "creator",
    "P175": "performer",
    "P178": "developer",
    "P206": "next_to_water",
    "P264": "record_label",
    "P361": "part_of",
    "P463": "member_of",
    "P569": "born_on",
    "P570": "died_on",
    "P571": "founded_on",
    "P577": "published_on",
    "P607": "fought_in",
}
"""Wikidata properties that have enough examples within sentences, by names of our own."""

SPLITS = {"train": (0, 430), "dev": (430, 500)}
LEAST_PRECISION = 0.6


def main() -> None:
    """Make the corpus, train, choose the threshold and write the head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "heads" / "relations")
    parser.add_argument("--work", type=Path, default=ROOT / "training" / "relations_head")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_corpus(args.data / "redocred" / "dev_revised.json", args.work)
    command = [
        sys.executable,
        "-m",
        "spacy",
        "train",
        str(ROOT / "configs/relations_head.cfg"),
        "--output",
        str(args.work / "model"),
    ]
    for name in ("train", "dev"):
        command += [f"--paths.{name}", str(args.work / f"{name}.spacy")]
    subprocess.run([*command, "--paths.pipeline", PIPELINE], check=True)
    write_head(args.work, args.out)


def write_corpus(path: Path, work: Path) -> None:
    """Write both splits as DocBins, and say how often each relation is in them."""
    nlp = spacy.blank("en")
    docs = list(read_docs(path, "docred", nlp))
    for split, (first, last) in SPLITS.items():
        made = [convert(doc) for doc in docs[first:last]]
        DocBin(docs=made, store_user_data=True).to_disk(work / f"{split}.spacy")
        counts = Counter(relation["label"] for doc in made for relation in doc.user_data["relations"])
        print(split, dict(counts.most_common()))


def convert(doc: Doc) -> Doc:
    """Give a document the scheme's types, and the relations within its sentences."""
    spans = [Span(doc, s.start, s.end, label=DOCRED_LABELS[s.label_]) for s in doc.spans["sc"] if s.label_ in DOCRED_LABELS]
    doc.set_ents(filter_spans(spans))
    doc.spans["sc"] = list(doc.ents)
    doc.user_data["relations"] = list(relations_in_sentences(doc))
    return doc


def relations_in_sentences(doc: Doc) -> Iterator[dict[str, Any]]:
    """Each relation between two mentions of one sentence, once."""
    entities = {(span.start, span.end) for span in doc.ents}
    sentence = {token.i: number for number, sent in enumerate(doc.sents) for token in sent}
    seen = set()
    for relation in doc.user_data["cluster_relations"]:
        label = LABELS.get(relation["label"])
        heads, tails = (doc.spans[f"coref_clusters_{relation[end]}"] for end in ("head", "tail"))
        for head, tail in product(heads, tails):
            key = (head.start, head.end), (tail.start, tail.end), label
            if label and {key[0], key[1]} <= entities and sentence[head.start] == sentence[tail.start] and key not in seen:
                seen.add(key)
                yield {"head": list(key[0]), "tail": list(key[1]), "label": label}


def write_head(work: Path, out: Path) -> None:
    """Choose the threshold on the development set, with the entities that the pipeline finds, and save the head alone."""
    nlp = spacy.load(work / "model" / "model-last")
    head: Any = nlp.get_pipe("entitykit_relations")
    head.settings["threshold"] = 0.05
    scored: list[tuple[float, bool]] = []
    n_gold = 0
    for eg in Corpus(work / "dev.spacy")(nlp):
        gold = {(*r["head"], *r["tail"], r["label"]) for r in eg.reference.user_data["relations"]}
        n_gold += len(gold)
        found = nlp(eg.predicted)._.relations
        scored += [(r["score"], (*r["head"], *r["tail"], r["label"]) in gold) for r in found]
    scored.sort(reverse=True)
    right = np.cumsum([right for _, right in scored])
    precision, recall = right / np.arange(1, len(scored) + 1), right / n_gold
    last = int(np.flatnonzero(precision >= LEAST_PRECISION).max())
    threshold = round(float(scored[last][0]), 3)
    print(f"threshold {threshold}: precision {precision[last]:.3f}, recall {recall[last]:.3f}")
    shutil.rmtree(out, ignore_errors=True)
    head.to_disk(out)
    config = {**nlp.config["components"]["entitykit_relations"], "threshold": threshold}
    del config["factory"]
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
