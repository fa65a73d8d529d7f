"""WordNet's usage examples as JSON lines, one linked mention per line.

`{"text": "dye the cloth", "start": 0, "end": 3, "gold": "00283090"}`

The entities, in `kb.jsonl` beside them, are what `entitykit kb build` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entitykit.corpora.files import member, read_json_lines
from entitykit.corpora.linking_jsonl import mention_doc
from entitykit.corpora.parsed import NIL, UNTYPED, Mention, ParsedDoc

SUFFIXES = (".jsonl",)


def parse(path: Path) -> Iterator[ParsedDoc]:
    """Read a file of examples, one `Doc` per line; only the mention has entity annotation. An empty `gold` means NIL.

    Args:
        path: the file, such as `train.jsonl`; the folder has the entities, too, which are no examples.

    Raises:
        CorpusError: E204 to E207 for the file and its values, E226 for offsets outside the text.
    """
    for line, record in read_json_lines(path):
        where = f"{path}, line {line}"
        text, gold = (member(record, key, str, where=where) for key in ("text", "gold"))
        start, end = (member(record, key, int, where=where) for key in ("start", "end"))
        mention = Mention(start, end, UNTYPED, gold or NIL)
        yield mention_doc(text, mention, name=f"{path.stem}-{line}", where=where, data={}, notes=[])
