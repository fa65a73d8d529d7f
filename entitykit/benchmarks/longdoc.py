"""Whether a long document costs more per word than short ones: time, memory, and whether every word of it is read.

The pipeline is encoder, mentions and NER, from the text to `doc.spans` and `doc.ents`; and, on novels, coreference. Words are
those between white space. In the quick form all documents are shorter, the names of the figures notwithstanding; the settings
have the sizes. What stands beside fastcoref is in `longdoc_coref`, and measured only if it is asked for; so is what bounded
memories lose (`bounded_f1_loss`, of `entitykit benchmark coref`), for which models are trained.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from spacy.language import Language

from entitykit.benchmarks import coref, longdoc_coref
from entitykit.benchmarks.memory import MemoryUse, peak_memory
from entitykit.benchmarks.parts import Figure, Part, Result, Settings, find_files, progress
from entitykit.benchmarks.pipelines import coref_pipeline, entity_pipeline
from entitykit.benchmarks.texts import running_words
from entitykit.benchmarks.timing import in_turn, rate, ratio

MB, GB = 1e6, 1e9
NOVELS = ("novels/*moby_dick*.txt", "novels/*ulysses*.txt")
SHORT_PART = 2_000


class Size(NamedTuple):
    """How much is measured: words of the long, the middle and a short document, number of short ones, rounds."""

    long: int
    middle: int
    short: int
    n_short: int
    rounds: int


FULL = Size(100_000, 10_000, 1_000, 20, 3)
QUICK = Size(6_000, 3_000, 500, 6, 2)


def measure_growth(settings: Settings) -> Result:
    """Time one long document, a middle one and short ones in turn; the short ones lie evenly spread in the long one."""
    size = QUICK if settings.quick else FULL
    words = running_words(settings, size.long)
    nlp = entity_pipeline(settings)
    nlp.max_length = len("".join(words))
    step = size.long // size.n_short
    sides = {
        "short": [_text(words[start : start + size.short]) for start in range(0, step * size.n_short, step)],
        "middle": [_text(words[: size.middle])],
        "long": [_text(words)],
    }
    n_words = {"short": size.short * size.n_short, "middle": size.middle, "long": size.long}
    progress(f"longdoc: documents of {size.long:,}, {size.middle:,} and {size.n_short} × {size.short:,} words")
    coverage: list[dict[str, int]] = []
    _annotate(nlp, sides["short"], coverage)  # warm-up
    timed = {name: partial(_annotate, nlp, texts, coverage) for name, texts in sides.items()}
    seconds = in_turn(timed, rounds=size.rounds, warm_up=False)
    per_word = {name: [time / n_words[name] for time in times] for name, times in seconds.items()}
    figures = {
        "growth_100k": ratio(per_word["long"], per_word["short"]),
        "growth_10k": ratio(per_word["middle"], per_word["short"]),
        "words_per_s_100k": rate(n_words["long"], seconds["long"]),
        "words_per_s_1k": rate(n_words["short"], seconds["short"]),
        "coverage": _share_read(coverage),
    }
    return Result(figures, {"sizes": size._asdict(), "seconds": seconds})


def measure_memory(settings: Settings) -> Result:
    """Measure the peak memory of a long and of a middle document above that of the loaded pipeline, each in a fresh process."""
    size = QUICK if settings.quick else FULL
    words = running_words(settings, size.long)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = Path(folder, "pipeline")
        entity_pipeline(settings).to_disk(pipeline)
        uses: dict[int, MemoryUse] = {}
        for n_words in (size.middle, size.long):
            progress(f"longdoc: memory of a document of {n_words:,} words")
            text = Path(folder, f"{n_words}.txt")
            text.write_text(_text(words[:n_words]), encoding="utf-8")
            uses[n_words] = peak_memory(pipeline, text)
    long, middle = uses[size.long], uses[size.middle]
    more_words = size.long - size.middle
    values = {
        "peak_mb_100k": long.total / MB,
        "peak_mb_10k": middle.total / MB,
        "peak_anonymous_mb_100k": long.anonymous / MB,
        "peak_anonymous_mb_10k": middle.anonymous / MB,
        "bytes_per_word_100k": (long.anonymous - middle.anonymous) / more_words,
        "file_bytes_per_word_100k": (long.file - middle.file) / more_words,
    }
    figures = {key: Figure(value, value, value) for key, value in values.items()}
    return Result(figures, {"sizes": size._asdict(), "memory": {str(n_words): use._asdict() for n_words, use in uses.items()}})


def measure_novels(settings: Settings) -> Result:
    """Coreference of whole novels in one call: time per word over that of 2,000 words, and the peak of memory."""
    novels = [_novel(settings, pattern) for pattern in NOVELS]
    if settings.quick:
        novels = [words[: QUICK.long] for words in novels[:1]]
    nlp = coref_pipeline(settings)
    nlp.max_length = max(len(_text(words)) for words in novels)
    short = [
        _text(novels[0][start : start + SHORT_PART]) for start in range(0, len(novels[0]) - SHORT_PART, len(novels[0]) // 10)
    ]
    sides = {"short": short, **{str(i): [_text(words)] for i, words in enumerate(novels)}}
    n_words = {"short": len(short) * SHORT_PART, **{str(i): len(words) for i, words in enumerate(novels)}}
    progress(f"longdoc: coreference of {', '.join(f'{len(words):,}' for words in novels)} words")
    coverage: list[dict[str, int]] = []
    _annotate(nlp, short, coverage)  # warm-up
    seconds = in_turn(
        {name: partial(_annotate, nlp, texts, coverage) for name, texts in sides.items()}, rounds=2, warm_up=False
    )
    per_word = {name: [time / n_words[name] for time in times] for name, times in seconds.items()}
    growth = [ratio(per_word[str(i)], per_word["short"]) for i in range(len(novels))]
    uses = []
    with tempfile.TemporaryDirectory() as folder:
        nlp.to_disk(Path(folder, "pipeline"))
        for i, words in enumerate(novels):
            Path(folder, f"{i}.txt").write_text(_text(words), encoding="utf-8")
            uses.append(peak_memory(Path(folder, "pipeline"), Path(folder, f"{i}.txt")))
    peak = max(use.total for use in uses) / GB
    figures = {
        "growth": max(growth),
        "peak_gb": Figure(peak, peak, peak),
        "coref_words_per_s": rate(n_words["0"], seconds["0"]),
        "coref_coverage": _share_read(coverage),
    }
    return Result(figures, {"words": n_words, "seconds": seconds, "memory": [use._asdict() for use in uses]})


def measure_loss(settings: Settings) -> Result:
    """What bounded memories lose on LitBank, as `entitykit benchmark coref` measures it."""
    result = coref.measure_litbank(settings, form="")
    return result._replace(figures={key: result.figures[key] for key in coref.LOSSES})


def _novel(settings: Settings, pattern: str) -> list[str]:
    text = find_files(settings, pattern)[0].read_text(encoding="utf-8")
    return re.findall(r"\S+\s*", text)


def _text(words: Sequence[str]) -> str:
    return "".join(words).rstrip()


def _annotate(nlp: Language, texts: Sequence[str], coverage: list[dict[str, int]]) -> None:
    """Annotate texts and note how the encoder read each of them."""
    coverage.extend(doc._.coverage for doc in nlp.pipe(texts))


def _share_read(coverage: Sequence[dict[str, int]]) -> Figure:
    """The share of words that the encoder has read, over all documents; the range over single ones."""
    shares = [each["read"] / each["words"] for each in coverage]
    total = sum(each["read"] for each in coverage) / sum(each["words"] for each in coverage)
    return Figure(total, min(shares), max(shares))


PARTS = [
    Part(("growth_100k", "growth_10k", "words_per_s_100k", "words_per_s_1k", "coverage"), measure_growth),
    Part(("growth", "peak_gb", "coref_words_per_s", "coref_coverage"), measure_novels, in_quick=False),
    Part(
        (
            "peak_mb_100k",
            "peak_mb_10k",
            "peak_anonymous_mb_100k",
            "peak_anonymous_mb_10k",
            "bytes_per_word_100k",
            "file_bytes_per_word_100k",
        ),
        measure_memory,
    ),
    Part(tuple(coref.LOSSES), measure_loss, on_request=True),
    *longdoc_coref.PARTS,
]
