"""What documents and spans have in a process that has only some of the components."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_OURS = {"trf_data", "get", "set"}

FACTORIES = ["entitykit_encoder", "entitykit_ner", "entitykit_dictionary", "entitykit_genre"]
READ = """
import json, os, sys
import spacy, torch, transformers
names, factories = json.loads(sys.argv[1]), sys.argv[2:]
for factory in factories:  # each in a process that knows no other one
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, factory
        continue
    nlp = spacy.blank("en")
    nlp.add_pipe(factory)
    doc = nlp.make_doc("Ada met Byron")
    values = {kind: {name: getattr(owner._, name) for name in names[kind]} for kind, owner in [("doc", doc), ("span", doc[:1])]}
    print(json.dumps({factory: values}), flush=True)
    os._exit(0)
"""


def documented() -> dict[str, list[str]]:
    """The values that the documentation names."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    own = {"doc": r"\bdoc\._\.(\w+)", "span": r"\b(?:span|ent)\._\.(\w+)"}
    return {kind: sorted(set(re.findall(pattern, text)) - NOT_OURS) for kind, pattern in own.items()}


def test_a_fresh_process_knows_all_documented_values() -> None:
    names = documented()
    assert {"coref_clusters", "resolved_text", "salience", "relations", "entity_states", "coverage"} <= set(names["doc"])
    assert {"kb_ents", "nil_id"} <= set(names["span"])
    command = [sys.executable, "-c", READ, json.dumps(names), *FACTORIES]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    every = {factory: found for line in run.stdout.splitlines() for factory, found in json.loads(line).items()}
    assert list(every) == FACTORIES
    for found in every.values():
        assert found["span"].pop("nil_id") == ""  # NIL or not, it has no group
        assert set(found["doc"].values()) == {None}
