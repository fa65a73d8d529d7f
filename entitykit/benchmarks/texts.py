"""Texts for benchmarks of speed: novels from the data folder, or text that is composed here and is the same in every run."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from entitykit.benchmarks.parts import Settings, find_files
from entitykit.corpora.files import read_lines
from entitykit.errors import error

NOVELS = "novels/*.txt"
SHORTEST, LONGEST = 5, 250  # words of a text of the mixture

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_FREQUENT = (
    "the of and to a in that he was it his is with as i for had you not be at on by her which have or from this him but all "
    "she they were my are so me there been one their no an who would said what when will more out if then up into has some "
    "them man time now very your could about than other like old upon any over its such only two must great after little"
)
_RARER = (
    "harbour winter carriage letter engine council garden officer mountain railway evidence doctor kingdom harvest whisper "
    "machine question journey parliament surgeon daughter merchant treaty gallery temple weather soldier village protein "
    "telescope festival captain library hospital painter bridge quarrel senate expedition island minister frontier laboratory "
    "newspaper orchestra philosopher settlement architecture astonishing reluctantly considerable unmistakable nevertheless"
)
_NAMES = (
    "Amelia Hartwick Osbert Lindqvist Zanele Mokoena Kiyoshi Tanabe Farrukh Abdullaev Brannock Ysolde Quispe Thandeka Varga "
    "Copperfall Lakes Norwick Saint Odran Meridian Institute Halvorsen Trading Ltd Upper Wendale Kestrel Airways Novara Bay"
)


def mixed_texts(settings: Settings, n_words: int) -> list[str]:
    """Texts of 5 to 250 words, the same in every run: of half of the paragraphs all, of the others one sentence each.

    Args:
        settings: with the data folder; without one, text is composed.
        n_words: words of all texts together, at least.

    Raises:
        InputError: E440 to E442 if there is no novel or too little of them.
    """
    rng = random.Random(0)
    paragraphs: Iterable[str] = _paragraphs(settings)
    if settings.data is not None:
        paragraphs = rng.sample(found := list(paragraphs), len(found))  # from all novels
    texts: list[str] = []
    total = 0
    for paragraph in paragraphs:
        words = (paragraph if rng.random() < 0.5 else rng.choice(_SENTENCE_END.split(paragraph))).split()
        if SHORTEST <= len(words) <= LONGEST:
            texts.append(" ".join(words))
            total += len(words)
        if total >= n_words:
            return texts
    raise error("E442", folder=settings.data, found=total, expected=n_words)


def running_words(settings: Settings, n_words: int) -> list[str]:
    """The first words of the novels, or of composed text, each with the white space after it.

    Args:
        settings: with the data folder; without one, text is composed.
        n_words: how many.

    Raises:
        InputError: E440 to E442 if there is no novel or too little of them.
    """
    words = list(islice(chain.from_iterable(re.findall(r"\S+\s*", f"{text}\n\n") for text in _paragraphs(settings)), n_words))
    if len(words) < n_words:
        raise error("E442", folder=settings.data, found=len(words), expected=n_words)
    return words


def _paragraphs(settings: Settings) -> Iterator[str]:
    """The paragraphs of all novels in order; endless composed ones without a data folder."""
    if settings.data is None:
        yield from _composed()
        return
    for path in find_files(settings, NOVELS):
        text = "\n".join(line for _, line in read_lines(path))
        yield from (paragraph.strip() for paragraph in re.split(r"\n\s*\n", text) if paragraph.strip())


def _composed() -> Iterator[str]:
    """Paragraphs of 1 to 10 sentences of 5 to 40 words: frequent words by Zipf's law, rarer ones, and names."""
    rng = random.Random(1)
    frequent, rarer, names = _FREQUENT.split(), _RARER.split(), _NAMES.split()
    weights = [1 / rank for rank in range(1, len(frequent) + 1)]
    while True:
        sentences = []
        for _ in range(rng.randint(1, 10)):
            size = min(max(int(rng.lognormvariate(2.8, 0.5)), 5), 40)
            words = rng.choices(frequent, weights, k=size)
            for i in rng.sample(range(size), k=size * 2 // 5):
                words[i] = rng.choice(names if rng.random() < 0.25 else rarer)
            sentences.append(" ".join([words[0].capitalize(), *words[1:]]) + rng.choice("....?!"))
        yield " ".join(sentences)
