from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import spacy
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from entitykit.bridge.checkpoints import load_checkpoint
from entitykit.bridge.weights import parse_weights
from entitykit.corpora.entity_vocabulary import EntityVocabulary
from entitykit.errors import CheckpointError, ConfigError
from entitykit.models.encoder.settings import Injection
from entitykit.pretraining.loop import Report, Step, learn_rate, pretrain
from entitykit.pretraining.objective import EntityPretraining
from entitykit.pretraining.settings import PretrainSettings
from tests.pretraining.util import FACTS, sentences, small, write


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("corpus") / "links.jsonl", sentences())


def run(settings: PretrainSettings, *, until: int = 0) -> list[Step]:
    """Train, killed after the step `until` if it is not 0."""
    steps: list[Step] = []

    def note(step: Step) -> None:
        steps.append(step)
        if step.step == until:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        pretrain(settings, Report(step=note))
    return steps


def weights(settings: PretrainSettings) -> dict[str, Tensor]:
    tensors, _ = parse_weights((Path(settings.output) / "model/entitykit_encoder.safetensors").read_bytes())
    return tensors


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_a_killed_training_goes_on_as_if_nothing_had_been(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    whole, broken = (small(corpus, tiny_bert, tmp_path / name) for name in ("whole", "broken"))
    expected = run(whole)
    first = run(broken, until=4)  # the checkpoint is that of step 3
    assert not (tmp_path / "broken/model").exists()
    second = run(broken)
    assert [step.step for step in first + second] == [1, 2, 3, 4, 4, 5, 6]
    assert first + second[1:] == expected
    equal(weights(broken), weights(whole))
    lines = (tmp_path / "broken/log.jsonl").read_text().splitlines()
    assert [Step(**json.loads(line)) for line in lines] == expected


def test_a_finished_training_is_not_repeated(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out", steps=2, keep=1, save_every=1)
    run(settings)
    before = weights(settings)
    assert [path.name for path in (tmp_path / "out/checkpoints").iterdir()] == ["step-00000002"]
    assert run(settings) == []
    equal(weights(settings), before)


def test_other_settings_do_not_go_on(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(small(corpus, tiny_bert, output), until=3)
    with pytest.raises(ConfigError, match=r"\[E132\] .*step-00000003' was made with learn_rate = 0.003; now it is 0.1\."):
        run(small(corpus, tiny_bert, output, learn_rate=0.1))
    with pytest.raises(ConfigError, match=r"\[E132\] .*data' was made with window = 64; now it is 50\."):
        run(small(corpus, tiny_bert, output, window=50))
    assert len(run(small(corpus, tiny_bert, output, save_every=1))) == 3


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint(corpus: Path, tiny_bert: Path, tmp_path: Path, file: str) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out")
    run(settings, until=3)
    path = tmp_path / "out/checkpoints/step-00000003" / file
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"\[E133\] .*step-00000003"):
        run(settings)


def test_a_step_that_is_not_finite(corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its loss nor its gradients come into a checkpoint, and a checkpoint that has NaN is not read."""
    settings = small(corpus, tiny_bert, tmp_path / "out", save_every=1)
    run(settings, until=2)
    forward = EntityPretraining.forward
    monkeypatch.setattr(EntityPretraining, "forward", lambda *a: forward(*a)._replace(words=torch.tensor(float("nan"))))
    with pytest.raises(ConfigError, match=r"\[E135\] In step 3 .* loss is nan"):
        run(settings)
    infinite = torch.tensor(1e38)  # times the batch's share, squared in the norm
    monkeypatch.setattr(EntityPretraining, "forward", lambda *a: (f := forward(*a))._replace(entities=f.entities * infinite))
    with pytest.raises(ConfigError, match=r"\[E135\] In step 3 .* (loss|norm of the gradients) is (inf|nan)"):
        run(settings)
    path = tmp_path / "out/checkpoints/step-00000002/model.safetensors"
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    monkeypatch.undo()
    assert [step.step for step in run(settings)] == [3, 4, 5, 6]
    tensors = load_file(tmp_path / "out/checkpoints/step-00000006/model.safetensors")
    tensors["encoder.layers.0.outer.bias"][3] = float("inf")
    save_file(tensors, tmp_path / "out/checkpoints/step-00000006/model.safetensors")
    with pytest.raises(CheckpointError, match=r"\[E010\] .*'encoder\.layers\.0\.outer\.bias'"):
        run(settings)


def test_half_a_checkpoint_of_a_killed_training_is_not_read(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out")
    run(settings, until=3)
    folder = tmp_path / "out/checkpoints"
    shutil.copytree(folder / "step-00000003", folder / ".step-00000006.part")
    assert [step.step for step in run(settings)] == [4, 5, 6]
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000003", "step-00000006"]


def test_the_encoder_component_loads_the_result(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out")
    run(settings)
    nlp = spacy.blank("xx")
    tokens = {"@misc": "entitykit.Entities.v1", "inject_layer": 1, "rank": 8, "window": 5}
    model = {"@architectures": "entitykit.EntityEncoder.v1", "name": str(tmp_path / "out/model"), "window": 64, "overlap": 8}
    nlp.add_pipe("entitykit_encoder", config={"model": model | {"max_word_pieces": 20, "entities": tokens}})
    nlp.initialize()
    module = nlp.get_pipe("entitykit_encoder").model.shims[0].module
    saved = weights(settings)
    loaded = module.state_dict()
    equal({name: loaded[name] for name in saved}, saved)
    assert {name.partition(".")[0] for name in loaded.keys() - saved.keys()} == {"probe"}
    assert len(saved["entities.ids.weight"]) == 3 + len(FACTS)
    assert nlp("Finch sang three old ballads")._.trf_data is not None


def test_parts_of_the_result(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out", steps=1, word_shapes=False)
    run(settings)
    name = str(tmp_path / "out/model")
    load = {"word_shapes": None, "n_layers": None, "train_pieces": True}
    words, _ = load_checkpoint(name, **load | {"n_layers": 1, "train_pieces": False})
    assert (words.settings.n_layers, words.settings.entities, words.settings.train_pieces) == (1, None, False)
    shaped, _ = load_checkpoint(name, **load | {"word_shapes": True})
    assert shaped.embeddings.shapes is not None
    assert not shaped.embeddings.shapes.weight.any()
    seen, _ = load_checkpoint(name, **load, injection=Injection(inject_layer=1, words_see_entities=True))
    state = seen.state_dict()
    assert torch.equal(state["layers.1.attention.of_words.weight"], state["layers.1.attention.qkv.weight"][:32])
    with pytest.raises(ConfigError, match=r"\[E007\] .*inject_layer is 0; expected 1, in which"):
        load_checkpoint(name, **load, injection=Injection(inject_layer=0))
    with pytest.raises(ConfigError, match=r"\[E007\] .*n_layers is 3; expected 1-2"):
        load_checkpoint(name, **load | {"n_layers": 3})
    path = tmp_path / "out/model/entitykit_encoder.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"\[E005\] .*entitykit_encoder.safetensors"):
        load_checkpoint(name, **load)


def test_the_second_stage_begins_where_the_first_ended(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    """The first trains what entities have to themselves; the second knows the entities by title, in other rows."""
    first = small(corpus, tiny_bert, tmp_path / "first", train="entities", steps=3)
    run(first)
    before, _ = load_checkpoint(str(tiny_bert), word_shapes=None, n_layers=None, train_pieces=True)
    learned = weights(first)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, learned[name]), name
    other = tmp_path / "other.json"
    titles = sorted(FACTS)[:5]
    other.write_bytes(EntityVocabulary(["A newcomer", *titles]).to_bytes())
    second = small(corpus, tmp_path / "first/model", tmp_path / "second", vocabulary=str(other), steps=1, learn_rate=1e-12)
    run(second)
    old = EntityVocabulary.from_disk(tmp_path / "first/model/entity_vocab.json")
    new = EntityVocabulary.from_disk(tmp_path / "second/model/entity_vocab.json")
    rows, known = weights(second)["entities.ids.weight"], learned["entities.ids.weight"]
    for title in titles:
        torch.testing.assert_close(rows[new.row(title)], known[old.row(title)], rtol=0, atol=1e-6)
    torch.testing.assert_close(rows[3], known[2], rtol=0, atol=1e-6)  # who is new begins as [MASK]
    heads = [load_file(tmp_path / name / "model/entity_head.safetensors") for name in ("first", "second")]
    torch.testing.assert_close(heads[1]["inner.weight"], heads[0]["inner.weight"], rtol=0, atol=1e-6)


def test_accelerate_on_one_device_learns_the_same(
    corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    plain, accelerated = (small(corpus, tiny_bert, tmp_path / str(a), steps=2, accelerate=a) for a in (False, True))
    assert run(accelerated) == run(plain)
    equal(weights(accelerated), weights(plain))


def test_accelerate_is_not_there(corpus: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ConfigError, match=r"\[E131\] .*pip install 'entitykit\[pretrain\]'"):
        run(small(corpus, tiny_bert, tmp_path / "out", accelerate=True))


def test_a_window_beyond_the_positions(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[E130\] .*window is 129; expected at most 128"):
        run(small(corpus, tiny_bert, tmp_path / "out", window=129))


def test_learning_rate(corpus: Path, tiny_bert: Path, tmp_path: Path) -> None:
    settings = small(corpus, tiny_bert, tmp_path / "out", steps=10, warmup_steps=4, learn_rate=0.4)
    rates = [learn_rate(settings, step) for step in range(10)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 1 / 3, 4 / 15, 0.2, 2 / 15, 1 / 15])
