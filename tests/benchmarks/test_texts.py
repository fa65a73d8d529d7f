from __future__ import annotations

from pathlib import Path

import pytest

from entitykit.benchmarks.parts import Settings, find_files
from entitykit.benchmarks.texts import LONGEST, SHORTEST, mixed_texts, running_words
from entitykit.errors import InputError
from tests.benchmarks.data import NOVEL


@pytest.mark.parametrize("given", [True, False])
def test_mixed_texts_are_the_same_every_time(settings: Settings, given: bool) -> None:
    chosen = settings if given else Settings()
    texts = mixed_texts(chosen, 400)
    assert texts == mixed_texts(chosen, 400)
    sizes = [len(text.split()) for text in texts]
    assert min(sizes) >= SHORTEST
    assert max(sizes) <= LONGEST
    assert 400 <= sum(sizes) < 400 + LONGEST


def test_composed_texts_mix_short_and_long_ones() -> None:
    sizes = [len(text.split()) for text in mixed_texts(Settings(), 20_000)]
    assert sum(size < 30 for size in sizes) > len(sizes) / 4
    assert sum(size > 80 for size in sizes) > len(sizes) / 4


def test_running_words_keep_the_text(settings: Settings) -> None:
    words = running_words(settings, 30)
    assert len(words) == 30
    assert "".join(words).split() == NOVEL.split()[:30]
    assert '"Where is the poet?" she asked.' in "".join(words)


def test_composed_words_are_as_many_as_are_wanted() -> None:
    assert len(running_words(Settings(), 1234)) == 1234


@pytest.mark.parametrize("read", [mixed_texts, running_words])
def test_too_little_text(settings: Settings, read: object) -> None:
    with pytest.raises(InputError, match=r"E442.*expected 1,000,000"):
        read(settings, 1_000_000)  # type: ignore[operator]


def test_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"E440.*None.*novels"):
        find_files(Settings(), "novels/*.txt")
    with pytest.raises(InputError, match=r"E440.*nowhere"):
        find_files(Settings(data=tmp_path / "nowhere"), "novels/*.txt")
    with pytest.raises(InputError, match=r"E441.*novels/\*\.txt"):
        mixed_texts(Settings(data=tmp_path), 10)
