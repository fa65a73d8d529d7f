"""Salience: what it learns from, what it writes, whatever documents have; the one-pass head and the cross-encoder."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from spacy.language import Language
from spacy.tokens import Doc, DocBin, Span
from spacy.training import Example
from thinc.util import fix_random_seed

from entitykit.components.salience import Salience
from entitykit.components.salience_gold import give_entities, given_entities
from entitykit.errors import ConfigError, EntityKitWarning, InputError
from tests.pipelines import OURS, counted_passes, encoder_config, encoder_gradient, encoder_weights, fast_optimizer, train

NAME = "entitykit_salience"
HEAD: dict[str, Any] = {"@architectures": "entitykit.Salience.v1", "hidden": 16, "fit": 8, "deciles": 4}
CROSS: dict[str, Any] = {"@architectures": "entitykit.SalienceCrossEncoder.v1", "hidden": 16, "deciles": 4, "pieces": 60}
CROSS |= {"entity_pieces": 16}

TEXTS: list[tuple[str, list[tuple[list[tuple[int, int]], float]]]] = [
    ("Mary Jones met John . Mary went home", [([(0, 2), (5, 6)], 3.0), ([(3, 4)], 1.0)]),
    ("in New York the river Don is long", [([(1, 3)], 0.0), ([(4, 6)], 3.0)]),
    ("Peter was in London and in Aberdeen", [([(0, 1)], 2.0), ([(3, 4)], 0.0), ([(6, 7)], 1.0)]),
    ("it rained", []),
]


def make(checkpoint: Path, kind: str = "head", **settings: Any) -> Language:
    """`head`, `cross` with an encoder of its own, or `shared`."""
    nlp = spacy.blank("xx")
    encoder = encoder_config(checkpoint)
    model = {"head": HEAD, "cross": CROSS, "shared": CROSS}[kind] | settings.pop("model", {})
    if kind != "cross":
        nlp.add_pipe("entitykit_encoder", config=encoder)
    tok2vec = encoder["model"] if kind == "cross" else OURS
    given = {"mentions": "", "clusters": "salience", "highest": 3.0, "salient": 2.0}
    nlp.add_pipe(NAME, config={"model": {"tok2vec": tok2vec, **model}, **given, **settings})
    return nlp


def make_examples(nlp: Language, texts: Any = TEXTS) -> list[Example]:
    found = []
    for text, entities in texts:
        predicted, reference = (Doc(nlp.vocab, words=text.split()) for _ in range(2))
        reference.user_data["salience"] = [
            {"mentions": [list(place) for place in places], "score": grade} for places, grade in entities
        ]
        found.append(Example(predicted, reference))
        give_entities(found[-1])
    return found


def initialized(checkpoint: Path, kind: str = "head", **settings: Any) -> tuple[Language, Salience]:
    fix_random_seed(0)
    nlp = make(checkpoint, kind, **settings)
    nlp.initialize(lambda: make_examples(nlp))
    pipe = nlp.get_pipe(NAME)
    assert isinstance(pipe, Salience)
    return nlp, pipe


def run(nlp: Language, examples: list[Example]) -> list[list[dict[str, Any]]]:
    return [nlp(eg.predicted.copy())._.salience for eg in examples]


@pytest.mark.parametrize("kind", ["head", "cross", "shared"])
def test_grades_are_learned_and_kept(tiny_bert: Path, tmp_path: Path, kind: str) -> None:
    """And the two models come back from disk as they were."""
    nlp, _ = initialized(tiny_bert, kind, model={"dropout": 0.0})
    train(nlp, make_examples(nlp), 60, optimizer=fast_optimizer(encoder_learn_rate=2e-3))
    scores = nlp.evaluate(make_examples(nlp))
    assert scores["salience_auc"] == scores["salience_ndcg"] == scores["salience_found"] == 1
    found = run(nlp, make_examples(nlp))
    assert found[0][0].keys() == {"entity", "label", "mentions", "score", "salient"}
    assert found[0][0] | {"score": 0} == {
        "entity": "Mary Jones",
        "label": "",
        "mentions": [[0, 2], [5, 6]],
        "score": 0,
        "salient": True,
    }
    assert [value["score"] for value in found[0]] == pytest.approx([1, 1 / 3], abs=0.15)
    assert found[3] == []
    nlp.to_disk(tmp_path / "nlp")
    assert run(spacy.load(tmp_path / "nlp"), make_examples(nlp)) == found


@pytest.mark.parametrize("kind", ["head", "cross", "shared"])
def test_the_head_begins_at_what_is_expected_of_an_entity(tiny_bert: Path, kind: str) -> None:
    """Not at one half: of many entities few are salient. It is saved, and without ratings it is one half."""
    nlp, pipe = initialized(tiny_bert, kind)
    expected = sum(grade / 3 for _, entities in TEXTS for _, grade in entities) / sum(len(entities) for _, entities in TEXTS)
    assert pipe._shim.settings["prior"] == pytest.approx(expected)
    bias = pipe._shim.module.outer.bias
    assert bias.sigmoid().tolist() == pytest.approx([expected])
    nlp.initialize()
    assert pipe._shim.module.outer.bias.tolist() == [0]


def test_zeros_and_ones(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert, graded=False, model={"dropout": 0.0})
    train(nlp, make_examples(nlp), 60)
    assert nlp.evaluate(make_examples(nlp))["salience_f"] == 1
    assert [value["score"] for value in run(nlp, make_examples(nlp))[0]] == pytest.approx([1, 0], abs=0.15)


def test_what_is_written_is_json(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    doc = nlp(make_examples(nlp)[0].predicted)
    values = doc._.salience
    assert json.loads(json.dumps(values)) == values
    assert Doc(nlp.vocab).from_bytes(doc.to_bytes())._.salience == values
    (back,) = DocBin(store_user_data=True).from_bytes(DocBin(docs=[doc], store_user_data=True).to_bytes()).get_docs(nlp.vocab)
    assert json.loads(json.dumps(back._.salience)) == values
    assert [value["score"] for value in values] == sorted((value["score"] for value in values), reverse=True)


@pytest.mark.filterwarnings(r"ignore:\[W642\]")
@pytest.mark.parametrize("kind", ["head", "cross"])
def test_documents_without_entities(tiny_bert: Path, kind: str) -> None:
    nlp, _ = initialized(tiny_bert, kind)
    for text in ("", " ", "\n\n", "nobody is named"):
        assert nlp(text)._.salience == []
    assert [doc._.salience for doc in nlp.pipe(["", "nothing"])] == [[], []]
    doc = nlp.make_doc("one name")
    doc.spans["salience_1"] = [doc[0:2]]
    (value,) = nlp(doc)._.salience
    assert value["mentions"] == [[0, 2]]


@pytest.mark.parametrize("kind", ["head", "cross"])
def test_empty_mentions(tiny_bert: Path, kind: str) -> None:
    """Of entities that have others or none, in predicted documents and in gold."""
    nlp, _ = initialized(tiny_bert, kind)
    bare, predicted, gold = (Doc(nlp.vocab, words=["Ada", "met", "Byron"]) for _ in range(3))
    for doc in (predicted, gold):
        doc.spans["salience_1"] = [doc[1:1]]
        doc.spans["salience_2"] = [doc[2:2], doc[2:3]]
    with pytest.warns(EntityKitWarning, match=r"W104\] 2 spans"):
        (value,) = nlp(predicted)._.salience
    assert (value["entity"], value["mentions"]) == ("Byron", [[2, 3]])
    gold.user_data["salience"] = [{"group": "salience_1", "score": 1}, {"group": "salience_2", "score": 3}]
    eg = Example(bare, gold)
    give_entities(eg, "given")
    assert [span.text for span in bare.spans["given_1"]] == ["Byron"]
    with pytest.warns(EntityKitWarning, match=r"W622\] 1 of 2 rated entities have no mention"):
        nlp.initialize(lambda: [eg])
    train(nlp, [eg], 1)


def test_entities_of_a_pipeline(tiny_bert: Path) -> None:
    """Names in `doc.ents` are grouped by their names, with their labels and ids."""
    nlp, _ = initialized(tiny_bert)
    nlp = make(tiny_bert, mentions="ents", clusters="", ignore=["DATE"]).from_bytes(nlp.to_bytes())
    doc = Doc(nlp.vocab, words=["Ada", "met", "Byron", "in", "1833", "and", "Byron", "left"])
    places = [(0, 1, "PERSON"), (2, 3, "PERSON"), (4, 5, "DATE"), (6, 7, "PERSON")]
    doc.set_ents([Span(doc, *place, kb_id="Q5" * (place[0] == 2)) for place in places])
    values = {value["entity"]: value for value in nlp(doc)._.salience}
    assert values.keys() == {"Ada", "Byron"}
    assert (values["Byron"]["mentions"], values["Byron"]["id"], values["Byron"]["label"]) == ([[2, 3], [6, 7]], "Q5", "PERSON")
    assert "id" not in values["Ada"]


def test_entity_tokens(tiny_bert: Path) -> None:
    """Where the encoder gives the mentions tokens, their states are read."""
    encoder = {"entities": {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "probe": False}}
    nlp = spacy.blank("xx")
    config = encoder_config(tiny_bert, **encoder) | {"gold": ["names"], "given": ["names"]}
    nlp.add_pipe("entitykit_encoder", config=config)
    nlp.add_pipe(NAME, config={"model": {**HEAD, "tok2vec": OURS}, "mentions": "names", "clusters": ""})
    doc, reference = (Doc(nlp.vocab, words=["Ada", "met", "Byron"]) for _ in range(2))
    for each in (doc, reference):
        each.spans["names"] = [each[0:1], each[2:3]]
    reference.user_data["salience"] = [{"mentions": [[0, 1]], "score": 1}, {"mentions": [[2, 3]], "score": 0}]
    nlp.initialize(lambda: [Example(doc, reference)])
    train(nlp, [Example(doc, reference)], 30)
    assert [value["entity"] for value in nlp(doc)._.salience] == ["Ada", "Byron"]
    doc.spans["names"] = []
    assert nlp(doc)._.salience == []


@pytest.mark.parametrize("kind", ["head", "shared"])
def test_gradients_reach_the_shared_encoder(tiny_bert: Path, kind: str) -> None:
    nlp, _ = initialized(tiny_bert, kind)
    before = encoder_weights(nlp)
    train(nlp, make_examples(nlp), 2)
    assert not torch.equal(encoder_weights(nlp), before)


def test_one_pass_of_the_encoder(tiny_bert: Path) -> None:
    nlp, _ = initialized(tiny_bert)
    docs = [eg.predicted for eg in make_examples(nlp)]
    with counted_passes(nlp) as passes:
        list(nlp.pipe(docs))
    assert passes.forward == 1


def test_a_frozen_shared_encoder_gets_nothing(tiny_bert: Path) -> None:
    nlp, pipe = initialized(tiny_bert, "shared")
    before, head = encoder_weights(nlp), pipe.model.to_bytes()
    train(nlp, make_examples(nlp), 2, exclude=["entitykit_encoder"], annotates=["entitykit_encoder"])
    assert torch.equal(encoder_weights(nlp), before)
    assert not encoder_gradient(nlp)
    assert pipe.model.to_bytes() != head


def test_parts_of_a_batch_give_the_gradients_of_the_whole(tiny_bert: Path) -> None:
    nlp, pipe = initialized(tiny_bert, "cross", model={"dropout": 0.0})
    assert pipe._texts is not None
    reader = pipe._texts.reader
    found = []
    for pieces in (1, 50, 10_000):
        reader.batch_pieces = pieces
        loss = pipe.update(make_examples(nlp), losses={})[NAME]
        parameters = dict(reader.shim.module.named_parameters())
        found.append((loss, {name: p.grad.to_dense().clone() for name, p in parameters.items() if p.grad is not None}))
        reader.shim.module.zero_grad()
        pipe.head.zero_grad()
    assert any(gradient.any() for gradient in found[0][1].values())
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-4)
        torch.testing.assert_close(gradients, found[0][1], rtol=1e-3, atol=1e-6)


def test_a_sample_of_entities(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from entitykit.components import salience as module

    nlp, pipe = initialized(tiny_bert, "cross", sample=2)
    seen: list[int] = []
    monkeypatch.setattr(module, "learn", lambda model, docs, entities, targets: seen.append(len(targets)) or 0.0)
    pipe.update(make_examples(nlp), losses={})
    assert seen == [2 + 2 + 2]


def test_threshold(tiny_bert: Path, tmp_path: Path) -> None:
    """Usually salient over highest, one half at most; what is best on examples; or what the setting says."""
    nlp, pipe = initialized(tiny_bert)
    assert pipe.threshold == 0.5
    assert make(tiny_bert, salient=1.0).get_pipe(NAME).threshold == pytest.approx(1 / 3)
    assert make(tiny_bert, salient=1.0, graded=False).get_pipe(NAME).threshold == 0.5
    train(nlp, make_examples(nlp), 60)
    examples = make_examples(nlp)
    for eg in examples:
        eg.predicted = nlp(eg.predicted)
    found = pipe.calibrate(examples)
    values = [value for values in run(nlp, make_examples(nlp)) for value in values]
    gold = {"Mary Jones", "river Don", "Peter"}
    assert {value["entity"] for value in values if value["salient"]} == gold
    assert found < min(value["score"] for value in values if value["entity"] in gold)
    nlp.to_disk(tmp_path / "nlp")
    assert spacy.load(tmp_path / "nlp").get_pipe(NAME).threshold == pytest.approx(found)  # JSON has ten digits
    again = spacy.load(tmp_path / "nlp", config={f"components.{NAME}.threshold": 1.0})
    assert not any(value["salient"] for values in run(again, make_examples(again)) for value in values)


def test_nothing_to_calibrate_by(tiny_bert: Path) -> None:
    """The threshold stays what it was."""
    nlp, pipe = initialized(tiny_bert)
    pipe.cfg["threshold"] = 0.25
    unknown = make_examples(nlp, [("Mary met John", [([(0, 1)], 1.0), ([(2, 3)], 0.0)])])
    lost = make_examples(nlp, [("Mary met John", [([(0, 1)], 3.0)])])
    lost[0].predicted.spans.clear()
    for eg in (*unknown, *lost):
        eg.predicted = nlp(eg.predicted)
    with pytest.raises(ConfigError, match=r"E623\] 'entitykit_salience' .*none of the 0 salient entities.*at least 2.0"):
        pipe.calibrate(unknown)
    with pytest.raises(ConfigError, match="E623"):
        pipe.calibrate([])
    with pytest.raises(ConfigError, match=r"E623.*none of the 1 salient entities"):
        pipe.calibrate(lost)
    assert pipe.threshold == 0.25


def test_mentions_that_no_document_has(tiny_bert: Path) -> None:
    """Are named once, as they may be misspelled; not where there are other entities, or the group was there before."""
    nlp, _ = initialized(tiny_bert)

    def misspelled(**settings: Any) -> Language:
        return make(tiny_bert, **{"mentions": "nmaes", "clusters": "", **settings}).from_bytes(nlp.to_bytes())

    first = misspelled()
    with pytest.warns(EntityKitWarning, match=r"W642.*None of the first 2 documents has spans under nmaes, .*salience"):
        docs = list(first.pipe(["it rained", "Ada left", ""]))
    assert [doc._.salience for doc in docs] == [[]] * 3
    with pytest.warns(EntityKitWarning, match=r"W642.*None of the first 1 documents has spans under ents, salience_\*"):
        misspelled(mentions="ents", clusters="salience")("it rained")
    message = r"W642.*None of the first 1 documents has spans under people_\*, .*\(setting clusters\).*; or set mentions"
    with pytest.warns(EntityKitWarning, match=message):
        assert misspelled(mentions="", clusters="people")("it rained")._.salience == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first("it rained")  # it was said before
        misspelled()("")
        misspelled(mentions="", clusters="coref_clusters")("it rained")  # in which coreference may have found nothing
        misspelled(mentions="", clusters="salience")(make_examples(nlp)[0].predicted)
        clustered, spelled = misspelled(clusters="salience"), misspelled(mentions="names")
        clustered(make_examples(nlp)[0].predicted)
        doc = spelled.make_doc("it rained")
        doc.spans["names"] = []
        assert spelled(doc)._.salience == spelled("it rained")._.salience == []


def test_entities_are_given(tiny_bert: Path) -> None:
    """In words of the predicted documents, which may be others; entities that no word is left of are counted."""
    nlp = make(tiny_bert)
    gold = Doc(nlp.vocab, words=["Mary-Jo", "met", "John"])
    gold.spans["entity_1"] = [gold[0:1]]
    gold.user_data["salience"] = [{"group": "entity_1", "score": 3}, {"mentions": [], "score": 0.5}]
    eg = Example(Doc(nlp.vocab, words=["Mary", "-", "Jo", "met", "John"], spaces=[False, False, True, True, False]), gold)
    (given,) = given_entities(lambda nlp: [eg], "x")(nlp)
    assert {key: [span.text for span in group] for key, group in given.predicted.spans.items()} == {"x_1": ["Mary-Jo"]}
    with pytest.warns(EntityKitWarning, match="W622.*1 of 2"):
        nlp.initialize(lambda: [eg])


@pytest.mark.filterwarnings(r"ignore:\[W642\]")
def test_examples_without_ratings_teach_nothing(tiny_bert: Path) -> None:
    for kind in ("head", "cross"):
        nlp, _ = initialized(tiny_bert, kind)
        words = Doc(nlp.vocab, words=["it", "rained"])
        losses = nlp.update([Example(words.copy(), words)], sgd=fast_optimizer(), losses={})
        assert losses[NAME] == 0
        assert nlp.evaluate([Example(words.copy(), words)])["salience_f"] is None


def test_wrong_gold(tiny_bert: Path) -> None:
    nlp = make(tiny_bert)
    words = Doc(nlp.vocab, words=["it", "rained"])
    with pytest.raises(ConfigError, match="E106.*salience"):
        nlp.initialize(lambda: [Example(words.copy(), words)])
    with pytest.raises(InputError, match=r"E622.*grade 4.0.*0 to 3.0"):
        nlp.initialize(lambda: make_examples(nlp, [("it rained", [([(0, 1)], 4.0)])]))
    words.user_data["salience"] = [{"mentions": [[0, 3]], "score": 1}]
    with pytest.raises(InputError, match="E620.*2 words"):
        nlp.initialize(lambda: [Example(words.copy(), words)])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("clusters", ""),
        ("same", ["sound"]),
        ("named", True),
        ("highest", 0.0),
        ("salient", 4.0),
        ("threshold", 2.0),
        ("sample", -1),
    ],
)
def test_settings_that_cannot_be(tiny_bert: Path, setting: str, value: Any) -> None:
    with pytest.raises(ConfigError, match="E109"):
        make(tiny_bert, **{setting: value})


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("head", {"states": False, "fit": 0, "counts": False, "deciles": 0}),
        ("cross", {"pooling": "max"}),
        ("cross", {"windows": 0}),
        ("cross", {"deciles": 0}),
    ],
)
def test_models_that_cannot_be(tiny_bert: Path, kind: str, model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="E621"):
        make(tiny_bert, kind, model=model)


@pytest.mark.parametrize(
    ("kind", "setting", "value"),
    [
        ("head", "hidden", 0),
        ("head", "fit", -1),
        ("head", "deciles", -2),
        ("head", "dropout", 1.5),
        ("head", "dropout", -0.5),
        ("head", "loss_weight", -1.0),
        ("cross", "hidden", 0),
        ("cross", "dropout", 1.0),
    ],
)
def test_model_settings_out_of_range(tiny_bert: Path, kind: str, setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"E007.* {setting} is {value}; expected at least"):
        make(tiny_bert, kind, model={setting: value})


def test_no_warnings_in_ordinary_use(tiny_bert: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp, _ = initialized(tiny_bert, "cross")
        run(nlp, make_examples(nlp))
