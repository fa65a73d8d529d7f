"""The pipelines that benchmarks run, from the training configs or a component at a time."""

from __future__ import annotations

from collections.abc import Sequence

import spacy
from spacy.language import Language
from spacy.training import Example
from spacy.util import load_config, load_model_from_config
from thinc.api import Config, fix_random_seed

from entitykit.benchmarks.parts import Settings
from entitykit.bridge.checkpoints import find_checkpoint
from entitykit.bridge.encoder_file import find_encoder_file
from entitykit.errors import error

ENCODER = "entitykit_encoder"
MENTIONS_PER_WORD = 0.15

_EXAMPLES = (
    ("Amelia Hartwick left Norwick in May.", [(0, 15, "PERSON"), (21, 28, "PLACE")]),
    ("The Meridian Institute hired Osbert Lindqvist.", [(4, 22, "ORGANISATION"), (29, 45, "PERSON")]),
    ("Nobody in Upper Wendale knew why.", [(10, 23, "PLACE")]),
)


def read_config(settings: Settings, name: str) -> Config:
    """Read a training config, with the settings' checkpoint.

    Args:
        settings: with the folder of configs and the encoder's settings.
        name: `ner` or `mentions`.

    Raises:
        ConfigError: E444 if there is no such config, E006 if the checkpoint's package is missing.
        CheckpointError: E001 or E002 if the checkpoint is not found.
    """
    path = settings.configs / f"{name}.cfg"
    if not path.is_file():
        raise error("E444", path=path)
    config: Config = load_config(path)
    config["components"][ENCODER]["model"].update(settings.encoder)
    name = config["components"][ENCODER]["model"]["name"]
    if find_encoder_file(name) is None:
        find_checkpoint(name)  # missing weights should show here, not in a subprocess
    return config


def give_tokens(config: Config, settings: Settings, groups: Sequence[str]) -> None:
    """Give spans entity tokens that read the words, from the layer on where `configs/ner.cfg` has the probe.

    Args:
        config: a training config, whose encoder has no entities.
        settings: of the benchmark.
        groups: names of span groups, or ``ents``.
    """
    encoder, of_names = config["components"][ENCODER], read_config(settings, "ner")["components"][ENCODER]
    layer = of_names["model"]["entities"]["inject_layer"]
    encoder["given"] = list(groups)
    encoder["model"]["entities"] = {"@misc": "entitykit.Entities.v1", "inject_layer": layer, "probe": False}


def encoder_pipeline(settings: Settings) -> Language:
    """A pipeline of nothing but the shared encoder."""
    nlp = spacy.blank("en")
    nlp.add_pipe(ENCODER, config={"model": {"@architectures": "entitykit.EntityEncoder.v1", **settings.encoder}})
    nlp.initialize()
    return nlp


def stock_pipeline(settings: Settings) -> Language:
    """A pipeline of nothing but spacy-transformers' `transformer`, as it comes, with the same weights."""
    nlp = spacy.blank("en")
    nlp.add_pipe("transformer", config={"model": {"name": str(find_checkpoint(settings.encoder["name"]))}})
    nlp.initialize()
    return nlp


def entity_pipeline(settings: Settings) -> Language:
    """Encoder, mentions and NER as the configs have them; the heads' weights are random, and the same in every run.

    A random probe gives half of all spans more than the threshold, so it is asked for as many as a trained one finds.
    """
    config, mentions = read_config(settings, "ner"), read_config(settings, "mentions")
    config["components"]["entitykit_mentions"] = mentions["components"]["entitykit_mentions"]
    config["components"]["entitykit_mentions"].update(per_word=0.3, candidates=0.0)
    config["nlp"]["pipeline"] = [ENCODER, "entitykit_mentions", "entitykit_ner"]
    nlp = load_model_from_config(config.interpolate(), auto_fill=True)
    fix_random_seed(0)
    nlp.initialize(lambda: [_example(nlp, text, entities) for text, entities in _EXAMPLES])
    return nlp


def coref_pipeline(settings: Settings) -> Language:
    """Coreference as its config has it, with random weights that are the same in every run.

    As many mentions are proposed as LitBank has, all count, and each begins an entity: the memory is full, and each makes room.
    """
    config = read_config(settings, "coref")
    config["components"][ENCODER]["model"]["entities"]["proposals"] = MENTIONS_PER_WORD
    config["components"]["entitykit_mentions"]["per_word"] = MENTIONS_PER_WORD
    config["components"]["entitykit_coref"].update(threshold=1e-6, new=1e6)
    nlp = load_model_from_config(config.interpolate(), auto_fill=True)
    fix_random_seed(0)
    examples = [_example(nlp, text, entities) for text, entities in _EXAMPLES]
    for eg in examples:
        eg.reference.spans["coref_clusters_1"] = list(eg.reference.ents)
    nlp.initialize(lambda: examples)
    return nlp


def _example(nlp: Language, text: str, entities: list[tuple[int, int, str]]) -> Example:
    return Example.from_dict(nlp.make_doc(text), {"entities": entities})
