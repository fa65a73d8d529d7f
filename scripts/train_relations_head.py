"""Train the relations that `make demo` shows: `python scripts/train_relations_head.py DATA [--out examples/heads/relations]`.

DATA is a folder with Re-DocRED (MIT). The head reads the states of `en_entitykit_sm`, which stays as it is; what is written is
the head alone, its settings beside it. Re-DocRED relates entities of a document; here a relation holds between all mentions of
the two that share a sentence.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from docred_facts import TYPES, relations_in_sentences
from heads import ROOT, train_head, write_head
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Corpus
from spacy.util import filter_spans

from entitykit.corpora.read import read_docs

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
    nlp = spacy.load(train_head("relations_head.cfg", args.work))
    write_head(nlp, "entitykit_relations", args.out, threshold=choose_threshold(nlp, args.work / "dev.spacy"))


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
    spans = [Span(doc, s.start, s.end, label=TYPES[s.label_]) for s in doc.spans["sc"] if s.label_ in TYPES]
    doc.set_ents(filter_spans(spans))
    doc.spans["sc"] = list(doc.ents)
    doc.user_data["relations"] = list(relations_in_sentences(doc))
    return doc


def choose_threshold(nlp: Language, dev: Path) -> float:
    """The threshold of `LEAST_PRECISION` on the development set, with the entities that the pipeline finds."""
    head: Any = nlp.get_pipe("entitykit_relations")
    head.settings["threshold"] = 0.05
    scored: list[tuple[float, bool]] = []
    n_gold = 0
    for eg in Corpus(dev)(nlp):
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
    return threshold


if __name__ == "__main__":
    main()
