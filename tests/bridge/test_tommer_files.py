"""Released probes: their numbers are those of the published formula, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import spacy
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from spacy.language import Language
from spacy.training import Example
from torch import Tensor

from entitykit.bridge.tommer_files import load_tommer
from entitykit.errors import CheckpointError, ConfigError
from entitykit.models.mentions import ToMMeR, ToMMeRSettings
from entitykit.types import WordStates
from tests.pipelines import OURS, annotations, encoder_config, make_examples, train
from tests.util import WIDTH

RANK, BLOCK, WINDOW = 4, 0, 3
FIELDS: dict[str, Any] = {
    "llm_name": "some/model",
    "layer": BLOCK,
    "rank": RANK,
    "causal_mask": True,
    "sliding_window": WINDOW,
    "use_cosine": True,
    "normalize_scores": "",
}
MODEL: dict[str, Any] = {"layer": 1, "rank": RANK, "window": WINDOW, "start_terms": False, "width_bias": False}


def make_tensors(width: int = WIDTH) -> dict[str, Tensor]:
    return {
        "W_Q": torch.randn(width, RANK),
        "W_K": torch.randn(width, RANK),
        "classifier.fc.weight": torch.randn(1, width) / width**0.5,
        "classifier.fc.bias": torch.randn(1),
        "cl_w": torch.randn(1, 5, 1, 1),
    }


def save_probe(path: Path, tensors: dict[str, Tensor], *, old: bool = False, **changed: Any) -> Path:
    """As one commit or the other of the repository writes it: settings among other objects, and weights."""
    objects = [
        {"id": 1, "type": "ToMMeR", "typename": "llm2ner.models.tommer.ToMMeR", "fields": FIELDS | changed},
        {"id": 2, "type": "SimpleModuleLoader", "fields": {"value": {"type": "python", "value": 1}}},
    ]
    path.mkdir()
    if old:
        (path / "definition.json").write_text(json.dumps({"objects": objects, "data": []}), encoding="utf-8")
        torch.save(tensors, path / "parameters")
    else:
        (path / "experimaestro.json").write_text(json.dumps(objects), encoding="utf-8")
        save_file(tensors, path / "model.safetensors")
    return path


def formula(z: Tensor, tensors: dict[str, Tensor], window: int, *, cosine: bool) -> Tensor:
    """The published scores, cell by cell: row i is a span's last word, column j its first; the rest is NaN.

    One position comes before the words, the model's beginning piece, at which no span begins.
    """
    n = len(z)
    t = {name: tensor.double() for name, tensor in tensors.items()}
    query, key = z.double() @ t["W_Q"], z.double() @ t["W_K"]
    theta = t["cl_w"].flatten()
    v = [float(x.double() @ t["classifier.fc.weight"][0] + t["classifier.fc.bias"][0]) for x in z] + [0.0]

    def match(i: int, j: int) -> float:
        if not 0 < j <= i <= j + window:
            return 0.0
        product = float(query[i] @ key[j])
        return product / float(query[i].norm() * key[j].norm()) if cosine else product / RANK**0.5

    scores = torch.full((n, n), torch.nan, dtype=torch.double)
    for i in range(n):
        for j in range(max(1, i - window), i + 1):
            later = [match(i, k) for k in range(j + 1, n)] + [0.0]  # beyond the text there is padding
            features = [match(i, j), min(later), max(later), v[i], v[i + 1]]
            scores[i, j] = sum(float(weight) * feature for weight, feature in zip(theta, features, strict=True))
    return scores


@hypothesis_settings(max_examples=20)
@given(n=st.integers(1, 12), window=st.integers(1, 5), cosine=st.booleans(), seed=st.integers(0, 999))
def test_scores_equal_the_published_formula(
    tmp_path_factory: pytest.TempPathFactory, n: int, window: int, cosine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    tensors = make_tensors(8)
    folder = tmp_path_factory.mktemp("probe") / "probe"
    released = load_tommer(str(save_probe(folder, tensors, sliding_window=window, use_cosine=cosine)))
    probe = ToMMeR(ToMMeRSettings(**released.settings, window=released.window))
    probe.load_state_dict(released.weights)
    z = torch.randn(n + 1, 8)  # the first row is the beginning piece's
    with torch.no_grad():
        output = probe(WordStates({BLOCK + 1: z[1:]}, (n,)))
    expected = formula(z, tensors, window, cosine=cosine)
    assert output.valid.sum() == (~expected.isnan()).sum()
    for i, back in output.valid.nonzero().tolist():
        assert float(output.band[i, back]) == pytest.approx(float(expected[i + 1, i + 1 - back]), abs=1e-4)


@pytest.mark.parametrize("old", [False, True])
def test_both_kinds_of_folders(tmp_path: Path, old: bool) -> None:
    tensors = make_tensors()
    released = load_tommer(str(save_probe(tmp_path / "probe", tensors, old=old, layer=6)))
    common = {key: value for key, value in MODEL.items() if key != "window"}
    assert released.settings == common | {"layer": 7, "width": WIDTH, "cosine": True}  # block 6, counted from 0
    assert (released.window, released.made_on) == (WINDOW, "some/model")
    assert torch.equal(released.weights["query.weight"], tensors["W_Q"].t())


def drop(folder: Path, name: str) -> None:
    (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: drop(path, "experimaestro.json"), "no experimaestro.json or definition.json"),
        (lambda path: drop(path, "model.safetensors"), "no model.safetensors or parameters"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 20), "as a ToMMeR probe"),
        (lambda path: (path / "experimaestro.json").write_text("{"), "as a ToMMeR probe"),
        (lambda path: (path / "experimaestro.json").write_text("[]"), "0 objects of the type ToMMeR"),
        (lambda path: save_file({"W_Q": torch.zeros(2, 2)}, path / "model.safetensors"), "no tensor W_K of 2 dimensions"),
        (
            lambda path: save_file(make_tensors() | {"W_K": torch.zeros(3, 3)}, path / "model.safetensors"),
            r"do not fit each other: key\.weight would be \(3, 3\)",
        ),
    ],
)
def test_damaged_folder(tmp_path: Path, damage: Callable[[Path], None], reason: str) -> None:
    folder = save_probe(tmp_path / "probe", make_tensors())
    damage(folder)
    with pytest.raises(CheckpointError, match=f"E009.*{reason}") as raised:
        load_tommer(str(folder))
    assert str(folder) in str(raised.value)


@pytest.mark.parametrize(("setting", "value"), [("causal_mask", False), ("normalize_scores", "atan")])
def test_kinds_of_probes_that_ours_cannot_be(tmp_path: Path, setting: str, value: object) -> None:
    folder = save_probe(tmp_path / "probe", make_tensors(), **{setting: value})
    with pytest.raises(CheckpointError, match=f"E009.*its {setting} is {value!r}"):
        load_tommer(str(folder))


def test_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "harm").mkdir, ()

    folder = save_probe(tmp_path / "probe", make_tensors(), old=True)
    torch.save({"W_Q": Harm()}, folder / "parameters")
    with pytest.raises(CheckpointError, match="E009"):
        load_tommer(str(folder))
    assert not (tmp_path / "harm").exists()


def test_name_that_is_nowhere() -> None:
    with pytest.raises(CheckpointError, match="E009.*'no/such-probe'.*no folder here"):
        load_tommer("no/such-probe")


# In the component


def make_pipeline(checkpoint: Path, probe: Path | None, **model: Any) -> Language:
    nlp = spacy.blank("xx")
    nlp.add_pipe("entitykit_encoder", config=encoder_config(checkpoint))
    config = {"@architectures": "entitykit.ToMMeR.v1", "tok2vec": OURS, **MODEL, **model}
    nlp.add_pipe("entitykit_mentions", config={"model": config})
    nlp.config["initialize"]["components"]["entitykit_mentions"] = {"probe": None if probe is None else str(probe)}
    return nlp


def test_needs_no_training_and_no_gold(tiny_bert: Path, tmp_path: Path) -> None:
    """Initialized, saved and loaded; then the released files are not needed any more."""
    tensors = make_tensors()
    nlp = make_pipeline(tiny_bert, save_probe(tmp_path / "probe", tensors))
    nlp.initialize()
    doc = nlp("Mary Jones went to New York")
    states = torch.cat([torch.zeros(1, WIDTH), torch.from_numpy(doc._.trf_data.model_output["layer_1"][0])])
    expected = formula(states, tensors, WINDOW, cosine=True)
    group = doc.spans["mentions"]
    found = {(span.start, span.end): score for span, score in zip(group, group.attrs["scores"], strict=True)}
    cells = (expected > 0).nonzero().tolist()
    assert found.keys() == {(j - 1, i) for i, j in cells}
    assert len(found) > 0
    for i, j in cells:
        assert found[j - 1, i] == pytest.approx(float(torch.sigmoid(expected[i, j])), abs=1e-5)
    nlp.to_disk(tmp_path / "nlp")
    (tmp_path / "probe").rename(tmp_path / "away")
    assert annotations(spacy.load(tmp_path / "nlp")(doc.text)) == annotations(doc)


def test_can_be_trained_further(tiny_bert: Path, tmp_path: Path) -> None:
    nlp = make_pipeline(tiny_bert, save_probe(tmp_path / "probe", make_tensors(), sliding_window=5), window=5)
    examples = make_examples(nlp)
    nlp.initialize(lambda: examples)
    losses = train(nlp, examples, 20)
    assert losses[-1]["entitykit_mentions"] < losses[0]["entitykit_mentions"]


def test_narrower_window_than_the_probe_s(tiny_bert: Path, tmp_path: Path) -> None:
    """Gives the same scores to the spans that are left."""
    probe = save_probe(tmp_path / "probe", make_tensors())
    found = []
    for window in (1, WINDOW):
        nlp = make_pipeline(tiny_bert, probe, window=window)
        nlp.initialize()
        doc = nlp("Mary Jones went to New York")
        group = doc.spans["mentions"]
        scores = zip(group, group.attrs["scores"], strict=True)
        found.append({(span.start, span.end): round(score, 5) for span, score in scores if len(span) < 3})
    assert found[0] == found[1] != {}


def test_probe_without_a_window_takes_any(tiny_bert: Path, tmp_path: Path) -> None:
    """It is then one that was released with the window that is set."""
    tensors, found = make_tensors(), []
    for window in (0, 9):
        nlp = make_pipeline(tiny_bert, save_probe(tmp_path / f"probe-{window}", tensors, sliding_window=window), window=9)
        nlp.initialize()
        found.append(annotations(nlp("Mary Jones went to New York")))
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"layer": 2}, r"\{'layer': 2\}; expected \{'layer': 1\}"),
        ({"rank": 8, "start_terms": True}, r"\{'rank': 8, 'start_terms': True\}; expected \{'rank': 4, 'start_terms': False\}"),
        ({"cosine": False}, r"\{'cosine': False\}; expected \{'cosine': True\}"),
        ({"width_bias": True}, r"\{'width_bias': True\}; expected \{'width_bias': False\}"),
        ({"window": 4}, r"\{'window': 4\}; expected \{'window': 3\}"),
    ],
)
def test_settings_that_are_not_the_probe_s(tiny_bert: Path, tmp_path: Path, model: dict[str, Any], expected: str) -> None:
    nlp = make_pipeline(tiny_bert, save_probe(tmp_path / "probe", make_tensors()), **model)
    with pytest.raises(ConfigError, match=rf"E111.*some/model.*{expected}"):
        nlp.initialize()


def test_probe_of_another_encoder(tiny_bert: Path, tmp_path: Path) -> None:
    nlp = make_pipeline(tiny_bert, save_probe(tmp_path / "probe", make_tensors(WIDTH + 1)))
    with pytest.raises(ConfigError, match=rf"E111.*\{{'width': {WIDTH}\}}; expected \{{'width': {WIDTH + 1}\}}"):
        nlp.initialize()


def test_without_a_probe_gold_is_needed(tiny_bert: Path) -> None:
    nlp = make_pipeline(tiny_bert, None)
    with pytest.raises(ConfigError, match="E106"):
        nlp.initialize(lambda: [Example.from_dict(nlp.make_doc("John Smith met Ada."), {})])
