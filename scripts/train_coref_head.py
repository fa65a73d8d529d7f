"""Train the coreference that `make demo` shows: `python scripts/train_coref_head.py DATA [--out examples/heads/coref]`.

DATA is a folder with GUM, whose open genres are read, and LitBank (CC BY 4.0). The head reads the states of `en_entitykit_sm`,
which stays as it is; what is written is the head alone, its settings beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import spacy
from default_corpus import gum_ids
from heads import ROOT, train_head, write_head
from spacy.tokens import Doc, DocBin
from spacy.training import Corpus

from entitykit.corpora.read import read_docs


def main() -> None:
    """Make the corpus, train and write the head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "heads" / "coref")
    parser.add_argument("--work", type=Path, default=ROOT / "training" / "coref_head")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        DocBin(docs=documents(args.data, split)).to_disk(args.work / f"{split}.spacy")
    nlp = spacy.load(train_head("coref_head.cfg", args.work))
    scores = nlp.evaluate(list(Corpus(args.work / "dev.spacy")(nlp)))
    print(f"CoNLL F1 {scores['coref_conll_f']:.3f}, without singletons {scores['coref_no_singletons_conll_f']:.3f}")
    write_head(nlp, "entitykit_coref", args.out)


def documents(data: Path, split: str) -> Iterator[Doc]:
    """The documents of one part of both corpora."""
    nlp = spacy.blank("en")
    yield from read_docs(data / "gum" / "dep", "gum", nlp, ids=gum_ids(data / "gum" / "splits.md", split), clusters="all")
    yield from read_docs(data / "litbank" / "coref" / "conll", "litbank", nlp, split=split)


if __name__ == "__main__":
    main()
