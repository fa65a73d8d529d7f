"""What documents and spans have in a process that has only some of the components."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_OURS = {"trf_data", "get", "set"}

READ = """
import json, sys
import spacy
nlp = spacy.blank("en")
nlp.add_pipe(sys.argv[1])
doc = nlp.make_doc("Ada met Byron")
values = {kind: {name: getattr(owner._, name) for name in names} for owner, (kind, names) in
          zip([doc, doc[:1]], json.loads(sys.argv[2]).items())}
print(json.dumps(values))
"""


def documented() -> dict[str, list[str]]:
    """The values that the documentation names."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    own = {"doc": r"\bdoc\._\.(\w+)", "span": r"\b(?:span|ent)\._\.(\w+)"}
    return {kind: sorted(set(re.findall(pattern, text)) - NOT_OURS) for kind, pattern in own.items()}


@pytest.mark.parametrize("factory", ["entitykit_encoder", "entitykit_ner", "entitykit_dictionary", "entitykit_genre"])
def test_a_fresh_process_knows_all_documented_values(factory: str) -> None:
    names = documented()
    assert {"coref_clusters", "resolved_text", "salience", "relations", "entity_states", "coverage"} <= set(names["doc"])
    assert {"kb_ents", "nil_id"} <= set(names["span"])
    run = subprocess.run(
        [sys.executable, "-c", READ, factory, json.dumps(names)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found.pop("span").pop("nil_id") == ""  # NIL or not, it has no group
    assert set(found["doc"].values()) == {None}
