"""All tasks in one pipeline: one forward and one backward pass of the encoder for each batch, whatever the number of heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from entitykit.html import render_html
from entitykit.html_coref import find_chains
from entitykit.html_salience import salient_entities
from tests.pipelines import SENTENCES, annotations, counted_passes, initialized, train

TASKS = ("mentions", "nested", "relations", "coref_major", "salience", "tracker", "cross_document", "keywords", "linker_state")
ANNOTATORS = ["tests_capitals", "tests_names", "tests_phrases"]
ENCODER = {
    "entities": {
        "@misc": "entitykit.Entities.v1",
        "inject_layer": 1,
        "rank": 8,
        "window": 5,
        "proposals": 10.0,
        "tokens": False,
    },
    "batch_pieces": 4096,
}


def test_all_tasks_share_one_pass(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, *TASKS, encoder=ENCODER)
    with counted_passes(nlp) as passes:
        losses = train(nlp, examples, 1, annotates=ANNOTATORS)[0]
    assert losses.keys() >= set(TASKS)
    # the linker reads the descriptions of entities, too, in passes of their own
    assert passes.backward >= 1
    alone, _ = initialized(tiny_bert, "linker_state", encoder=ENCODER)
    with counted_passes(alone) as of_linker:
        train(alone, examples, 1, annotates=["tests_capitals"])
    assert passes.forward == of_linker.forward
    assert passes.backward == of_linker.backward


def test_all_tasks_annotate_in_one_pass_and_on_one_page(tiny_bert: Path) -> None:
    nlp, examples = initialized(tiny_bert, *TASKS, encoder=ENCODER)
    train(nlp, examples, 30, annotates=ANNOTATORS)
    linker: Any = nlp.get_pipe("linker_state")
    linker.build_index()  # else each batch would read the descriptions of its candidates
    texts = [text for text, _ in SENTENCES]
    with counted_passes(nlp) as passes:
        docs = list(nlp.pipe(texts))
    assert passes.forward == 1
    assert [annotations(doc) for doc in docs] == [annotations(nlp(text)) for text in texts]
    assert any(ent.kb_id_ for doc in docs for ent in doc.ents)
    for doc in docs:
        assert doc._.coref_clusters is not None
        assert "vectors" in doc.spans["cross_document"].attrs
        assert doc._.relations is not None
        assert doc._.salience is not None
        assert len(doc._.keyword_scores) == len(doc)
        assert doc._.entity_states is not None
    page = render_html(docs)
    assert page.count("<article>") == len(docs)
    n_salient, n_grids, n_chains = (
        sum(map(bool, each))
        for each in (map(salient_entities, docs), (doc._.entity_states["participants"] for doc in docs), map(find_chains, docs))
    )
    assert page.count('<ul class="chains"') == n_chains > 0
    assert page.count('<ol class="salience"') == n_salient > 0
    assert page.count('<details class="states">') == n_grids > 0
