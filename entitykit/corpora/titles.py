"""Names of entities in addresses: `http://en.wikipedia.org/wiki/Ada_Lovelace` is `Ada Lovelace`."""

from __future__ import annotations

import re
from urllib.parse import unquote

BEFORE_NAME = re.compile(r".*?/(?:wiki|resource|entity)/", re.DOTALL)


def title(address: str) -> str:
    """Give the title that an address or its last part spells: percent signs decoded, underscores to spaces.

    Args:
        address: of Wikipedia, DBpedia or Wikidata, or of another site, whose part behind the last `#` or `/` is taken; or only
            that part, such as `Dog_%28zodiac%29`.
    """
    name = BEFORE_NAME.sub("", address, count=1)
    if name == address and "://" in address:
        name = re.split("[#/]", address.rstrip("#/"))[-1]
    return unquote(name).replace("_", " ").strip()
