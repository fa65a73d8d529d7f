"""Train the linker that `make demo` shows: `python scripts/train_linking_head.py DATA [--out examples/heads/linker]`.

DATA is a folder with WordNet's usage examples (WordNet 3.0 license) and Re-DocRED (MIT). The head learns to tell entities apart
by their descriptions. It reads the states of `en_entitykit_sm`, which stays as it is; what is written is the head alone, its
settings beside it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import spacy
from default_links import facts_of, linked_documents, usage_examples, write_kb
from heads import ROOT, train_head, write_head
from spacy.language import Language
from spacy.tokens import DocBin
from spacy.training import Example

from entitykit.corpora.read import read_docs

HEAD = "entitykit_linker"
N_DOCRED = 400
PRIOR_WEIGHT = 0.6
"""In the demo, whose names say how often they mean whom; those of WordNet, from which the linker learns, do not."""


def main() -> None:
    """Make the corpus and the knowledge base, train, calibrate and write the head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "examples" / "heads" / "linker")
    parser.add_argument("--work", type=Path, default=ROOT / "training" / "linking_head")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_corpus(args.data, args.work)
    nlp = spacy.load(train_head("linking_head.cfg", args.work, kb=args.work / "kb"))
    calibrate(nlp, args.data)
    write_head(nlp, HEAD, args.out, mentions="ents", prior_weight=PRIOR_WEIGHT)
    cfg = json.loads((args.out / "cfg.json").read_text(encoding="utf-8"))
    (args.out / "cfg.json").write_text(json.dumps({**cfg, "kb": None}), encoding="utf-8")  # the demo has its own


def write_corpus(data: Path, work: Path) -> None:
    """Write both splits as DocBins, and the knowledge base."""
    nlp = spacy.blank("en")
    docs = list(islice(read_docs(data / "redocred" / "dev_revised.json", "docred", nlp), N_DOCRED))
    known = facts_of(docs)
    train = [*usage_examples(data, "train", nlp), *linked_documents(docs, known)]
    DocBin(docs=train).to_disk(work / "train.spacy")
    DocBin(docs=usage_examples(data, "dev", nlp)).to_disk(work / "dev.spacy")
    shutil.rmtree(work / "kb", ignore_errors=True)
    write_kb(data, known, work / "kb")


def calibrate(nlp: Language, data: Path) -> None:
    """Fit the probabilities on WordNet's development part, and say how good the head is there."""
    linker: Any = nlp.get_pipe(HEAD)
    examples = [Example(doc.copy(), doc) for doc in usage_examples(data, "dev", nlp)]
    docs = [nlp.get_pipe("entitykit_encoder")(eg.predicted) for eg in examples]
    print(linker.calibrate(examples))
    linker.set_annotations(docs, linker.predict(docs))
    print(f"accuracy on WordNet's development part: {linker.score(examples)['linking_inkb_acc']:.3f}")


if __name__ == "__main__":
    main()
