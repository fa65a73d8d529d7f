"""LitBank: coreference (`coref/conll`) with the types of entities (`entities/tsv`), 100 novels of 2,000 tokens each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entitykit.corpora import layered
from entitykit.corpora.conll2012 import WORD, coreference, read_parts
from entitykit.corpora.parsed import ParsedDoc
from entitykit.errors import error

SUFFIXES = (".conll",)

DEV = (
    "711_allan_quatermain",
    "730_oliver_twist",
    "73_the_red_badge_of_courage_an_episode_of_the_american_civil_war",
    "74_the_adventures_of_tom_sawyer",
    "766_david_copperfield",
    "768_wuthering_heights",
    "76_adventures_of_huckleberry_finn",
    "77_the_house_of_the_seven_gables",
    "78_tarzan_of_the_apes",
    "805_this_side_of_paradise",
)
TEST = (
    "829_gullivers_travels_into_several_remote_nations_of_the_world",
    "84_frankenstein_or_the_modern_prometheus",
    "876_life_in_the_ironmills_or_the_korl_woman",
    "8867_the_magnificent_ambersons",
    "932_the_fall_of_the_house_of_usher",
    "940_the_last_of_the_mohicans_a_narrative_of_1757",
    "95_the_prisoner_of_zenda",
    "969_the_tenant_of_wildfell_hall",
    "974_the_secret_agent_a_simple_tale",
    "9830_the_beautiful_and_damned",
)
"""The last tenth but one and the last tenth of the files in the order of their names, without the ending `_brat` of their ids;
train is the rest. LitBank itself has ten folds and no split."""

SPLITS = ("train", "dev", "test")


def parse(path: Path, *, split: str = "") -> Iterator[ParsedDoc]:
    """Read one novel.

    Clusters, also those of one mention, are the span groups `coref_clusters_1`, `coref_clusters_2`, …, their mentions the group
    `mentions`, pronouns included. The entities with types, without pronouns, are those of `entities/tsv`, where the folder has
    it.

    Args:
        path: the file in `coref/conll`; the entities are read from `entities/tsv` two folders above it.
        split: `train`, `dev` or `test`, see `DEV` and `TEST`; empty for all.

    Raises:
        ConfigError: E213 for another split.
        CorpusError: E204 to E222 as the formats `conll2012` and `layered`; E260 if the two files have other tokens.
    """
    if split and split not in SPLITS:
        raise error("E213", option="split", found=split, expected=", ".join(SPLITS))
    if split and _split(path.stem) != split:
        yield ParsedDoc(id=path.stem, where=str(path), selected=False)
        return
    types = _types(path)
    for part in read_parts(path):
        words = [fields[WORD] for _, fields in part.rows]
        if types is not None and list(types.words or ()) != words:
            raise error("E260", where=str(path), other=types.where, found=_difference(words, list(types.words or ())))
        yield ParsedDoc(
            id=path.stem,
            where=f"{path}, line {part.line}",
            words=words,
            sent_starts=part.starts,
            entities=types.entities if types is not None else (),
            annotated=None if types is not None else (),
            groups=coreference(part, path),
            notes=types.notes if types is not None else (),
        )


def _split(name: str) -> str:
    name = name.removesuffix("_brat")
    return "dev" if name in DEV else "test" if name in TEST else "train"


def _types(path: Path) -> ParsedDoc | None:
    file = path.parents[2] / "entities" / "tsv" / f"{path.stem}.tsv" if len(path.parents) > 2 else path
    return next(layered.parse(file), None) if file.suffix == ".tsv" and file.is_file() else None


def _difference(words: list[str], others: list[str]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(words, others, strict=False)) if a != b), min(len(words), len(others)))
    return f"{len(words)} and {len(others)} tokens, which differ from token {at + 1} on"
