"""A checkpoint whose entity tokens found masked entities again for a while (docs/pretraining.md), for `injection`.

It learns from what corpora say of their mentions: names of the entities in Re-DocRED, pages in GUM's training part, and
WordNet's entries in the training part of `wordnet_linking`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

import spacy
from spacy.tokens import Span

from entitykit.benchmarks.parts import Settings, find_files, progress
from entitykit.benchmarks.training import replace_file
from entitykit.corpora.clusters import representative
from entitykit.corpora.read import read_docs
from entitykit.pretraining.loop import pretrain
from entitykit.pretraining.settings import PretrainSettings
from entitykit.scoring.coref import clusters_in

STEPS, QUICK_STEPS = 300, 2
QUICK_DOCS = 3
Link = tuple[int, int, str]


def pretrained_checkpoint(settings: Settings, work: Path, *, layer: int) -> Path:
    """Train entity tokens that only read, from a layer on; what the work folder has is not trained again, or goes on.

    Args:
        settings: with the corpora and the checkpoint to begin with.
        work: from `work_folder`.
        layer: where the tokens begin.

    Returns:
        A name for `entitykit.EntityEncoder.v1`.

    Raises:
        InputError: E440 or E441 if a corpus is missing.
        CorpusError: E2xx for one that cannot be read.
    """
    corpus = work / "corpora" / "links.jsonl"
    lines = [json.dumps({"text": text, "links": links}, ensure_ascii=False) for text, links in linked_texts(settings)]
    replace_file(corpus, ("\n".join(lines) + "\n").encode())
    options = PretrainSettings(
        corpus=str(corpus),
        checkpoint=settings.encoder["name"],
        output="",
        inject_layer=layer,
        steps=QUICK_STEPS if settings.quick else STEPS,
        batch_size=4 if settings.quick else 32,
        warmup_steps=0 if settings.quick else 30,
        save_every=50,
        keep=1,
        **{key: settings.encoder[key] for key in ("window", "max_word_pieces") if key in settings.encoder},
    )
    text = json.dumps(asdict(options)) + hashlib.sha256(corpus.read_bytes()).hexdigest()
    output = work / "pretrained" / f"layer{layer}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    progress(f"pretraining entity tokens from layer {layer} on, {len(lines)} texts, {options.steps} steps")
    return pretrain(replace(options, output=str(output)))


def linked_texts(settings: Settings) -> Iterator[tuple[str, list[Link]]]:
    """Texts, and the entities of their mentions, by the first and last character of these."""
    nlp, limit = spacy.blank("en"), QUICK_DOCS if settings.quick else 0
    for doc in read_docs(find_files(settings, "redocred/dev_revised.json")[0], "docred", nlp, limit=limit):
        named = [(span, best.text) for own in clusters_in(doc) or [] if (best := representative(own)) for span in own]
        yield doc.text, _links(named)
    pages = read_docs(find_files(settings, "gum/dep")[0], "gum", nlp, limit=limit, split="train")
    uses = read_docs(find_files(settings, "wordnet_linking/train.jsonl")[0], "wordnet_linking", nlp, limit=limit)
    for doc in chain(pages, uses):
        mentions = [*doc.ents, *(span for group in doc.spans.values() for span in group)]
        yield doc.text, _links((span, span.kb_id_) for span in mentions if span.kb_id_)


def _links(mentions: Iterable[tuple[Span, str]]) -> list[Link]:
    """Mentions of entities in order, each once."""
    return sorted({(span.start_char, span.end_char, entity) for span, entity in mentions})
