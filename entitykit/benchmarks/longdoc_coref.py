"""Coreference of one long document beside fastcoref: time and memory at 2,000, 10,000 and 50,000 words of the novels.

Theirs is the package's own code (Otmazgin et al. 2022) with the settings of its published model, on an encoder of the same
size as ours, with random weights; ours is `coref_pipeline`. Both run on the CPU, from the text to the clusters, and split words
by spaCy's rules; theirs is `predict`. Neither joins a mention with another: random weights would join all of theirs, and
walking through one huge cluster is no cost of a model that has learned something.

fastcoref scores all pairs of pieces of a document, and all pairs of the mentions that it keeps. Where the machine has no room
for this, only our side is measured, and the figure is left out.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets
import spacy
from spacy.language import Language
from thinc.api import fix_random_seed
from transformers import AutoConfig, AutoTokenizer

from entitykit.benchmarks.memory import MemoryUse, above_loaded, peak_memory
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, progress
from entitykit.benchmarks.pipelines import coref_pipeline
from entitykit.benchmarks.texts import running_words
from entitykit.benchmarks.timing import in_turn, rate, ratio
from entitykit.bridge.checkpoints import find_checkpoint
from entitykit.errors import error, warn
from entitykit.scoring.coref import clusters_in

SIZES = {"2k": 2_000, "10k": 10_000, "50k": 50_000}
QUICK_SIZES = {"2k": 200, "10k": 500, "50k": 1_000}
"""White-space words of the document by the ending of a figure's name."""
ROUNDS = 3
OURS, THEIRS = "entitykit", "fastcoref"
HEAD = {"max_span_length": 30, "top_lambda": 0.25, "ffnn_size": 1024, "dropout_prob": 0.3, "max_segment_len": 512}
"""Settings of `biu-nlp/f-coref`: the longest mention, mentions kept per piece, width of the head, pieces of a segment."""
NEVER = -1e3
"""Score of being a mention beside the learned part: all are ranked as before, and none gets an antecedent."""
BYTES_PER_PAIR = 20
"""Five numbers per pair of pieces while spans are scored; one, and 16 bytes of score and index, while the best are chosen."""
MEMINFO = Path("/proc/meminfo")
MODULE = "entitykit.benchmarks.longdoc_coref"
WARM_UP = "A short text, so that everything is loaded."


def measure_speed(settings: Settings, *, size: str) -> Result:
    """Time a document on both sides in turn; the figure is our words per second over theirs.

    Raises:
        ConfigError: E448 without fastcoref.
    """
    import_fastcoref()
    text, n_words = _document(settings, size)
    nlp = coref_pipeline(settings)
    nlp.max_length = max(nlp.max_length, len(text))
    sides: dict[str, Callable[[], object]] = {OURS: partial(nlp, text)}
    progress(f"longdoc: coreference of {n_words:,} words beside fastcoref")
    kept = {OURS: n_mentions(nlp, text) / n_words}  # which is also the warm-up
    if _has_room(settings, text, n_words, f"fastcoref_speed_{size}"):
        with tempfile.TemporaryDirectory() as folder:
            save_fastcoref(settings, Path(folder))
            peer = load_fastcoref(Path(folder))
        kept[THEIRS] = len(predict(peer, text)[0].coref_logit) / n_words
        sides[THEIRS] = partial(predict, peer, text)
    seconds = in_turn(sides, rounds=ROUNDS, warm_up=False)
    figures = {f"fastcoref_speed_{size}": ratio(seconds[THEIRS], seconds[OURS])} if THEIRS in sides else {}
    details = {
        "words": n_words,
        "mentions_per_word": kept,
        "seconds": seconds,
        "words_per_s": {side: rate(n_words, times)._asdict() for side, times in seconds.items()},
    }
    return Result(figures, {f"fastcoref_speed_{size}": details})


def measure_memory(settings: Settings, *, size: str) -> Result:
    """Measure the peak of a document above the loaded model on both sides, each in a fresh process; ours over theirs.

    Raises:
        ConfigError: E448 without fastcoref, E446 and E447 from `peak_memory`.
    """
    import_fastcoref()
    content, n_words = _document(settings, size)
    progress(f"longdoc: memory of coreference of {n_words:,} words beside fastcoref")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, text = Path(folder, OURS), Path(folder, THEIRS), Path(folder, "text.txt")
        text.write_text(content, encoding="utf-8")
        coref_pipeline(settings).to_disk(ours)
        uses: dict[str, MemoryUse] = {OURS: peak_memory(ours, text)}
        if _has_room(settings, content, n_words, f"fastcoref_memory_{size}"):
            save_fastcoref(settings, theirs)
            uses[THEIRS] = peak_memory(theirs, text, module=MODULE)
    figures = {}
    if THEIRS in uses:
        share = uses[OURS].total / uses[THEIRS].total
        figures[f"fastcoref_memory_{size}"] = Figure(share, share, share)
    details = {"words": n_words, "memory": {side: use._asdict() for side, use in uses.items()}}
    return Result(figures, {f"fastcoref_memory_{size}": details})


def n_mentions(nlp: Language, text: str) -> int:
    """The mentions in all clusters of a text."""
    return sum(map(len, clusters_in(nlp(text)) or []))


def import_fastcoref() -> Any:
    """Import fastcoref, and undo what its import does to the log of the whole process.

    Raises:
        ConfigError: E448 if it is missing or cannot be imported.
    """
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        import_module("fastcoref.coref_models.modeling_fcoref")
        return import_module("fastcoref")
    except ImportError as problem:
        raise error("E448", reason=problem) from problem
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def save_fastcoref(settings: Settings, folder: Path) -> None:
    """Make fastcoref's published form on an encoder like that of the settings, with random weights, and write it."""
    checkpoint = str(find_checkpoint(settings.encoder["name"]))
    config = AutoConfig.from_pretrained(checkpoint)
    config.coref_head = {**HEAD, "max_segment_len": min(HEAD["max_segment_len"], config.max_position_embeddings)}
    fix_random_seed(0)
    model = import_fastcoref().coref_models.modeling_fcoref.FCorefModel(config)
    model.mention_start_classifier.bias.data.fill_(NEVER)
    model.save_pretrained(folder)
    _tokenizer(settings).save_pretrained(folder)


def load_fastcoref(folder: Path) -> Any:
    """Load what `save_fastcoref` wrote as fastcoref's users do, with spaCy's rules for words."""
    package = import_fastcoref()
    datasets.disable_progress_bars()  # which fastcoref shows for every text
    nlp = spacy.blank("en")
    nlp.max_length = sys.maxsize
    return package.FCoref(str(folder), device="cpu", nlp=nlp, enable_progress_bar=False)


def predict(peer: Any, text: str) -> list[Any]:
    """Find coreference with fastcoref, and read out the clusters as places in the text."""
    results: list[Any] = peer.predict(texts=[text])
    for result in results:
        result.get_clusters(as_strings=False)
    return results


def measure(folder: Path, text: Path) -> MemoryUse:
    """Run fastcoref on one text in this process and give the peaks."""
    peer = load_fastcoref(folder)
    content = text.read_text(encoding="utf-8")
    predict(peer, WARM_UP)
    return above_loaded(partial(predict, peer, content))


def free_memory() -> float:
    """Bytes that a process may still take; infinite on systems that do not say."""
    if not MEMINFO.exists():
        return float("inf")
    lines = (line.split() for line in MEMINFO.read_text(encoding="ascii").splitlines())
    return next(int(fields[1]) * 1024 for fields in lines if fields[0] == "MemAvailable:")


def _document(settings: Settings, size: str) -> tuple[str, int]:
    n_words = (QUICK_SIZES if settings.quick else SIZES)[size]
    return "".join(running_words(settings, n_words)).rstrip(), n_words


def _tokenizer(settings: Settings) -> Any:
    """As fastcoref loads it, which has words to split, not texts."""
    return AutoTokenizer.from_pretrained(str(find_checkpoint(settings.encoder["name"])), add_prefix_space=True, verbose=False)


def _has_room(settings: Settings, text: str, n_words: int, key: str) -> bool:
    """Whether the machine can hold fastcoref's matrices of a text; if not, warn that the figure is left out."""
    n_pieces = len(_tokenizer(settings)(text, verbose=False)["input_ids"])
    needed, free = BYTES_PER_PAIR * n_pieces**2, free_memory()
    if needed > free:
        warn("W421", key=key, words=n_words, pieces=n_pieces, needed=needed / 1e9, free=free / 1e9)
    return needed <= free


PARTS = [
    Part((f"fastcoref_{figure}_{size}",), partial(measure_one, size=size), on_request=True)
    for figure, measure_one in (("speed", measure_speed), ("memory", measure_memory))
    for size in SIZES
]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), Path(sys.argv[2]))._asdict()))
