"""Train the default pipeline and write it as a package: `python scripts/train_en_entitykit_sm.py DATA [--out pipelines]`.

DATA is a folder with the data sets of `default_corpus.py` as their authors publish them. Makes `pipelines/en_entitykit_sm`, an
ordinary spaCy package with a model card; `training/en_entitykit_sm` keeps the corpus and the training run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from default_corpus import Source, sources
from heads import ROOT
from spacy.cli.package import package
from spacy.tokens import DocBin
from spacy.training import Corpus
from spacy.util import load_config

NAME, VERSION = "entitykit_sm", "0.1.0"

CARD = """# en_entitykit_sm {version}

Mentions and nested named entities for English, on one encoder: all-MiniLM-L6-v2 (6 layers, width 384, Apache-2.0),
fine-tuned. {size:.0f} MB; needs no other weights and no network. Trained by `scripts/train_en_entitykit_sm.py` with
`configs/en_entitykit_sm.cfg`.

## What it writes
- `doc.spans["sc"]`: nested named entities with scores in `.attrs["scores"]`; `doc.ents`: those in no longer one. Labels:
  PERSON, ORG, PLACE (countries, nationalities and buildings included), DATE, MISC (works, events, products, languages),
  CHEMICAL, DISEASE.
- `doc.spans["mentions"]`: all phrases that stand for an entity, pronouns included, with scores; they overlap.
- `doc._.coverage`: how much of the text was read.

## Data and licences
{data}

## Scores
On the test parts, of bc5cdr its first 200 abstracts, strict span F1 for names (`scripts/default_corpus.py` brings each
set under the scheme above, so these numbers are not comparable with those published for the original labels); for mentions,
on GUM.

{scores}

## What it is bad at
- Labels outside the scheme; fine distinctions between ORG and PLACE (countries that act), and all that is thrown into MISC.
- Noisy text: see the WNUT-17 row. Rare names in tweets are missed.
- LitBank's names are cut from phrases by capitals, and dates outside GUM and Re-DocRED come from a rule: such labels are
  approximate.
- Text in lower case or all capitals, and languages other than English. Mentions of more than 31 words are not found.
"""


def main() -> None:
    """Make the corpus, train, evaluate, package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "pipelines")
    parser.add_argument("--work", type=Path, default=ROOT / "training" / "en_entitykit_sm")
    parser.add_argument("--steps", type=int, default=None, help="instead of the config's")
    args = parser.parse_args()
    all_sources = sources(args.data)
    write_corpus(all_sources, args.work)
    train(args.work, args.steps)
    choose_threshold(args.work)
    scores = evaluate(all_sources, args.work)
    write_package(all_sources, scores, args.work / "model" / "model-last", args.out)


def write_corpus(all_sources: list[Source], work: Path) -> None:
    """Write each split of each source, and all training and development parts together, as DocBins."""
    work.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev", "test"):
        joined = DocBin(store_user_data=True)
        for source in all_sources:
            docs = list(source.splits[split]()) if split in source.splits else []
            DocBin(docs=docs, store_user_data=True).to_disk(work / f"{source.name}.{split}.spacy")
            for doc in docs if split != "dev" else docs[:100]:
                joined.add(doc)
        joined.to_disk(work / f"{split}.spacy")


def train(work: Path, steps: int | None) -> None:
    """Run `spacy train`."""
    command = [
        sys.executable,
        "-m",
        "spacy",
        "train",
        str(ROOT / "configs/en_entitykit_sm.cfg"),
        "--output",
        str(work / "model"),
    ]
    command += ["--paths.train", str(work / "train.spacy"), "--paths.dev", str(work / "dev.spacy")]
    if steps is not None:
        command += ["--training.max_steps", str(steps)]
    subprocess.run(command, check=True)


def choose_threshold(work: Path) -> None:
    """Put the threshold in the config that gives mentions their best F1 on the development set.

    The probe's loss weighs mentions and other spans equally, so that it finds nearly all mentions; at a threshold of one half,
    most of what it gives would be none.
    """
    path = work / "model" / "model-last"
    nlp = spacy.load(path, config={"components.entitykit_mentions.candidates": 0.5})
    scored: list[tuple[float, bool]] = []
    n_gold = 0
    for eg in Corpus(work / "gum.dev.spacy")(nlp):
        gold = {(span.start_char, span.end_char) for span in eg.reference.spans["mentions"]}
        n_gold += len(gold)
        found = nlp(eg.predicted).spans["mention_candidates"]
        scored += [(score, (s.start_char, s.end_char) in gold) for s, score in zip(found, found.attrs["scores"], strict=True)]
    scored.sort(reverse=True)
    n_right = np.cumsum([right for _, right in scored])
    f1 = 2 * n_right / (np.arange(1, len(scored) + 1) + n_gold)
    config = load_config(path / "config.cfg")
    config["components"]["entitykit_mentions"]["threshold"] = round(float(scored[int(f1.argmax())][0]), 3)
    config.to_disk(path / "config.cfg")


def evaluate(all_sources: list[Source], work: Path) -> dict[str, dict[str, Any]]:
    """Score the trained pipeline on each source's test part."""
    nlp = spacy.load(work / "model" / "model-last")
    kept = ("spans_sc_p", "spans_sc_r", "spans_sc_f", "spans_sc_per_type", "mentions_p", "mentions_r", "mentions_f")
    results = {}
    for source in all_sources:
        examples = list(Corpus(work / f"{source.name}.test.spacy")(nlp))
        scores = nlp.evaluate(examples)
        marked = any("mentions" in eg.reference.spans for eg in examples)
        results[source.name] = {k: scores.get(k) for k in kept if marked or not k.startswith("mentions")}
    return results


def write_package(all_sources: list[Source], scores: dict[str, dict[str, Any]], model: Path, out: Path) -> None:
    """Write the spaCy package with metadata and model card."""
    staged = model.parent / "package"
    shutil.rmtree(staged, ignore_errors=True)
    shutil.copytree(model, staged)
    drop_what_is_ours(staged)
    meta = json.loads((staged / "meta.json").read_text(encoding="utf-8"))
    meta |= {
        "name": NAME,
        "version": VERSION,
        "license": "CC BY-SA 4.0",
        "description": "Mentions and nested named entities for English on one small encoder",
        "author": "the entitykit authors",
        "sources": [{"name": source.name, "license": source.licence} for source in all_sources],
        "requirements": ["entitykit>=0.1.0,<0.2.0"],
        "performance": scores,
    }
    (staged / "meta.json").write_text(json.dumps(meta, indent=2), encoding="utf-8")
    built = model.parent / "built"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir()
    package(staged, built, create_sdist=False, create_wheel=False, silent=True)
    target = out / f"en_{NAME}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(built / f"en_{NAME}-{VERSION}", target)
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file()) / 2**20
    (target / "README.md").write_text(
        CARD.format(version=VERSION, size=size, data=data_table(all_sources), scores=score_table(scores)), encoding="utf-8"
    )


def drop_what_is_ours(pipeline: Path) -> None:
    """Take out of a saved pipeline where its corpus was, and the surface forms of training, which only its scores needed."""
    config = load_config(pipeline / "config.cfg")
    config["paths"] = dict.fromkeys(config["paths"])
    config.to_disk(pipeline / "config.cfg")
    path = pipeline / "entitykit_ner" / "cfg.json"
    cfg = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({key: value for key, value in cfg.items() if key != "seen"}), encoding="utf-8")


def data_table(all_sources: list[Source]) -> str:
    """Sources and licences as Markdown."""
    rows = [f"| {source.name} | {source.licence} |" for source in all_sources]
    return "\n".join(["| set | licence |", "|---|---|", *rows])


def score_table(scores: dict[str, dict[str, Any]]) -> str:
    """Scores per set as Markdown."""

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    rows = [
        f"| {name} | " + " | ".join(cell(s.get(k)) for k in ("spans_sc_p", "spans_sc_r", "spans_sc_f", "mentions_f")) + " |"
        for name, s in scores.items()
    ]
    return "\n".join(["| set | names P | names R | names F | mentions F |", "|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    main()
