"""Where entity states come from: pooled from words, or tokens of their own that begin in some layer, seen by words or not.

NER on CoNLL04 (flat, `configs/ner.cfg`) and LitBank (nested, `configs/ner_nested.cfg`) with the same encoder, data, optimizer
and steps; only the encoder's injection differs, and for `spert` the head, which then classifies all spans. The figures are
strict micro F1 on the test set, the mean over seeds. `gold` and `gold_pooled` are given the test set's spans and only name
their types. The forms `…_pretrained` begin with an encoder whose entity tokens have found masked entities again for a while
(`entitykit.benchmarks.pretrained`). All learn with products in bfloat16 where the processor has them, but `pooled_float32`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from thinc.api import Config

from entitykit.benchmarks import mentions, ner
from entitykit.benchmarks.parts import Part, Result, Settings, mean
from entitykit.benchmarks.pipelines import ENCODER, read_config
from entitykit.benchmarks.pretrained import pretrained_checkpoint
from entitykit.benchmarks.training import Task, run_seeds, work_folder, write_docs

MAX_STEPS = 800
QUICK_STEPS = 4
GIVEN = "given"


class Form(NamedTuple):
    """How entity states are made.

    Attributes:
        depth: where entity tokens begin, as a share of the encoder's layers; none for states pooled from words.
        seen: words and other entity tokens attend to entity tokens.
        probe: spans are proposed by the encoder's probe; otherwise they are given.
        spert: all spans are classified, and none proposed.
        pretrained: the encoder's entity tokens have been trained before, from the same layer on.
        proposals: spans for each word; none: as the config has it.
        bf16: multiply in bfloat16 in training, where the processor does.
    """

    depth: float | None = None
    seen: bool = False
    probe: bool = True
    spert: bool = False
    pretrained: bool = False
    proposals: float | None = None
    bf16: bool = True


FORMS: Mapping[str, Form] = {
    "spert": Form(spert=True),
    "pooled": Form(),
    "pooled_float32": Form(bf16=False),
    "tokens_0": Form(depth=0.0),
    "tokens_0_seen": Form(depth=0.0, seen=True),
    "tokens_half": Form(depth=0.5),
    "tokens_half_seen": Form(depth=0.5, seen=True),
    "gold": Form(depth=0.5, probe=False),
    "gold_pooled": Form(probe=False),
    "pooled_pretrained": Form(pretrained=True, proposals=0.3),
    **{
        f"tokens_{name}_pretrained": Form(depth=depth, pretrained=True, proposals=0.3)
        for name, depth in (("third", 1 / 3), ("half", 0.5), ("two_thirds", 2 / 3))
    },
}

DATA: Mapping[str, tuple[str, str]] = {"conll04": ("ner", "ents_f"), "litbank": ("ner_nested", "spans_sc_f")}
"""Data set to its config and its score."""


def measure_form(settings: Settings, *, data: str, form: str) -> Result:
    """Train and score one form on one data set, once per seed."""
    if settings.quick:
        settings = replace(settings, seeds=settings.seeds[:1], max_steps=settings.max_steps or QUICK_STEPS)
    settings = replace(settings, max_steps=settings.max_steps or MAX_STEPS)
    name, score = DATA[data]
    config = read_config(settings, name)
    inject(config, FORMS[form])
    key, given = f"{data}_{form}", "" if FORMS[form].probe else GIVEN
    with work_folder(settings) as work:
        if FORMS[form].pretrained:
            encoder = config["components"][ENCODER]["model"]
            path = pretrained_checkpoint(settings, work, layer=encoder["entities"]["inject_layer"])
            encoder["name"] = str(path.resolve())
        corpora = ner.prepare(data, settings, work) if data in ner.DATA else _prepare_litbank(settings, work)
        outcomes = run_seeds(Task(key, config, *corpora, [score], given), settings, work)
    figure = mean([outcome[score] for outcome in outcomes.values()])
    return Result({key: figure}, {key: {"max_steps": settings.max_steps, "seeds": outcomes}})


def inject(config: Config, form: Form) -> None:
    """Change a training config to a form."""
    encoder, head = config["components"][ENCODER], config["components"]["entitykit_ner"]["model"]
    encoder["model"]["bf16"] = form.bf16
    entities: dict[str, Any] = encoder["model"]["entities"]
    if form.spert:
        encoder["model"]["entities"] = None
        listener = head["tok2vec"]
        head.clear()
        head.update({"@architectures": "entitykit.SpERT.v1", "tok2vec": listener})
    elif form.depth is not None:
        # the configs begin at half of the layers
        layer = round(2 * form.depth * entities["inject_layer"])
        entities.update(tokens=True, inject_layer=layer, words_see_entities=form.seen, entities_see_entities=form.seen)
    if form.proposals is not None:
        entities["proposals"] = form.proposals
    if not form.probe:
        entities["probe"] = False
        encoder["given"], head["probe_layer"] = [GIVEN], None


def _prepare_litbank(settings: Settings, work: Path) -> tuple[Path, Path, Path]:
    split, folder = mentions.read_litbank(settings), work / "corpora"
    pieces = [piece for doc in split.train for piece in mentions.cut(doc, mentions.PIECE_WORDS)]
    parts = {"train": pieces, "dev": split.dev, "test": split.test}
    train, dev, test = (write_docs(folder / f"litbank-{part}.spacy", docs) for part, docs in parts.items())
    return train, dev, test


PARTS = [
    Part((f"{data}_{form}",), partial(measure_form, data=data, form=form), form in ("pooled", "gold"))
    for data in DATA
    for form in FORMS
]
