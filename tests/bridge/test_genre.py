"""Generated names: the search against scoring every output, and the model."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from entitykit.bridge.genre import losses_of_parts, pad_sources, pad_targets
from entitykit.bridge.genre_names import build_names
from entitykit.bridge.genre_tasks import GenreSettings, Target
from entitykit.bridge.seq2seq import build_seq2seq, genre, load_seq2seq
from entitykit.bridge.shim import TorchShim
from entitykit.decoding.genre import AnyTokens, Markup, begin_markup, begin_name, markup_tokens
from entitykit.errors import CheckpointError, ConfigError
from entitykit.knowledge.trie import CompactTrie
from entitykit.models.genre import IGNORED, Seq2Seq
from tests.seq2seq import NAMES, SETTINGS, Generator, make_generator, save_bart, sources


@pytest.fixture(scope="module", params=["bart", "t5"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    return make_generator(request.param, tmp_path_factory.mktemp(request.param))


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.5])
def test_full_width_is_exhaustive(generator: Generator, length_penalty: float) -> None:
    trie = build_names(enumerate(NAMES), generator.text, "name")
    tokens = [[*ids, generator.text.end] for ids in generator.text.names(NAMES, "name")]
    given = sources(generator)[::2]
    for n_best in (1, 50):
        states = [begin_name(trie, generator.text.end)] * len(given)
        found = generator.write(given, states, length_penalty=length_penalty, n_best=n_best)
        for source, beams in zip(given, found, strict=True):
            expected = sorted(((generator.score(source, each), each) for each in unique(tokens)), reverse=True)
            expected.sort(key=lambda pair: -pair[0] / len(pair[1]) ** length_penalty)
            assert [beam.tokens for beam in beams] == [each for _, each in expected[:n_best]]
            assert [beam.total for beam in beams] == pytest.approx([score for score, _ in expected[:n_best]], abs=1e-3)
            assert all(beam.totals[-1] == beam.total and len(beam.totals) == beam.state.length + 1 for beam in beams)


def test_equals_generate(generator: Generator) -> None:
    """The search of `transformers`, with the names as nested dictionaries."""
    trie = build_names(enumerate(NAMES), generator.text, "name")
    nested: dict[int, Any] = {}
    for ids in generator.text.names(NAMES, "name"):
        node = nested
        for token in [*ids, generator.text.end]:
            node = node.setdefault(token, {})
    start = list(generator.module.start)

    def following(_: int, output: torch.Tensor) -> list[int]:
        node = nested
        for token in output.tolist()[len(start) :]:
            node = node.get(token, {})
        return list(node) or [generator.text.end]

    for source in sources(generator):
        expected = generator.module.network.generate(  # type: ignore[operator]
            input_ids=torch.tensor([source]),
            attention_mask=torch.ones(1, len(source), dtype=torch.long),
            decoder_input_ids=torch.tensor([start]),
            prefix_allowed_tokens_fn=following,
            num_beams=12,
            length_penalty=1.0,
            max_new_tokens=40,
            do_sample=False,
        )[0].tolist()
        (beams,) = generator.write([source], [begin_name(trie, generator.text.end)], width=12, n_best=1, length_penalty=1.0)
        assert [*start, *beams[0].tokens] == expected[: len(start) + len(beams[0].tokens)]


@pytest.mark.parametrize("told", [None, "config.json", "generation_config.json"])
def test_outputs_begin_as_those_of_generate(tmp_path: Path, told: str | None) -> None:
    """With ``<s>`` behind the start only where the checkpoint says so, as BART-large does and GENRE's models do not."""
    path = save_bart(tmp_path, scale=0.3)
    if told == "config.json":  # all that old checkpoints have
        (path / "generation_config.json").unlink()
    if told is not None:
        (path / told).write_text(json.dumps(json.loads((path / told).read_text()) | {"forced_bos_token_id": 0}))
    module, settings = load_seq2seq(str(path))
    assert module.start == tuple(settings["start"]) == ((2,) if told is None else (2, 0))
    source = torch.tensor([[0, 9, 10, 11, 2]])
    generated = module.network.generate(input_ids=source, max_new_tokens=4, num_beams=1, do_sample=False)  # type: ignore[operator]
    output = generated[:, len(module.start) :]
    assert tuple(generated[0, : len(module.start)].tolist()) == module.start
    with torch.no_grad():
        logits = module(source, torch.ones_like(source), output)
        expected = module.network(input_ids=source, decoder_input_ids=generated[:, :-1]).logits[:, -output.shape[1] :]
    torch.testing.assert_close(logits, expected)


def unique(lists: Sequence[list[int]]) -> list[list[int]]:
    return [list(each) for each in dict.fromkeys(map(tuple, lists))]


def test_markup_is_exhaustive(generator: Generator) -> None:
    """All outputs of a short passage, listed without states."""
    text = generator.text
    names = [ids[-3:] for ids in text.names(["York", "Ada"], "markup")]
    trie, marks = CompactTrie.build(names, [0, 1]), text.marks()
    passage = text.read("Ada in", markup=True).ids.tolist()[-4:]
    spans = [(0, 1), (0, 2), (1, 3), (3, 4)]
    links = [chosen for chosen in subsets(spans) if all(a[1] <= b[0] for a, b in pairwise(chosen))]
    outputs = [
        [*markup_tokens(passage, [(*span, names[n]) for span, n in zip(chosen, numbers, strict=True)], marks), text.end]
        for chosen in links
        for numbers in numberings(len(chosen), len(names))
    ]
    ends = {0: (1, 2), 1: (3,), 3: (4,)}
    task = Markup(source=passage, ends=ends, names=lambda *_: trie, longest=trie.longest, limit=60, marks=marks)
    source = text.source(passage)
    (beams,) = generator.write([source], [begin_markup(task)], width=1000, n_best=1000)
    expected = {tuple(output): generator.score(source, output) for output in outputs}
    assert {tuple(beam.tokens): beam.total for beam in beams} == pytest.approx(expected, abs=1e-3)
    assert len(expected) == len(outputs) > 20
    assert [beam.total for beam in beams] == sorted((beam.total for beam in beams), reverse=True)


def subsets(spans: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    for number in range(2 ** len(spans)):
        yield sorted(span for i, span in enumerate(spans) if number >> i & 1)


def numberings(n: int, n_values: int) -> Iterator[list[int]]:
    for number in range(n_values**n):
        yield [number // n_values**i % n_values for i in range(n)]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_nothing_outside_the_names(generator: Generator, width: int) -> None:
    """Whatever the names and the model: each output is a name, and of those that are found, none twice."""
    rng = random.Random(width)
    letters = "ab ().[]{}é東"
    for _ in range(8):
        names = ["".join(rng.choices(letters, k=rng.randint(1, 6))).strip() or "x" for _ in range(rng.randint(1, 12))]
        trie = build_names(enumerate(names), generator.text, "name")
        added = ["".join(rng.choices(letters, k=3)).strip() or "y"]
        trie.add(*generator.text.sequences([(99, added[0])], "name"))
        outputs = {tuple(ids) for ids in generator.text.names([*names, *added], "name")}
        for beams in generator.write(sources(generator), [begin_name(trie, generator.text.end)] * 6, width=width, n_best=width):
            found = [tuple(beam.tokens[:-1]) for beam in beams]
            assert outputs.issuperset(found)
            assert len(set(found)) == len(found) == min(width, len(outputs)) or width < len(outputs)
            assert all(len(trie.rows(beam.state.node)) for beam in beams)


def test_batch_equals_singles(generator: Generator) -> None:
    trie = build_names(enumerate(NAMES), generator.text, "name")
    given = sources(generator)
    states = [begin_name(trie, generator.text.end)] * len(given)
    together = generator.write(given, states, width=3, n_best=3)
    for i, source in enumerate(given):
        (alone,) = generator.write([source], [states[i]], width=3, n_best=3)
        assert [beam.tokens for beam in alone] == [beam.tokens for beam in together[i]]
        assert [beam.total for beam in alone] == pytest.approx([beam.total for beam in together[i]], abs=1e-3)
    one_by_one = generator.write(given, states, width=3, n_best=3, budget=1)
    assert [[beam.tokens for beam in beams] for beams in one_by_one] == [[b.tokens for b in beams] for beams in together]


def test_nothing_to_write(generator: Generator) -> None:
    empty = CompactTrie.build([], [])
    assert generator.write(sources(generator)[:1], [begin_name(empty, generator.text.end)]) == [[]]
    assert generator.write([], []) == []


def test_free_outputs_end(generator: Generator) -> None:
    anything = AnyTokens(generator.text.n_tokens, generator.text.end, 7)
    (beams,) = generator.write(sources(generator)[:1], [begin_name(anything, generator.text.end)], width=4, n_best=4)
    assert len(beams) == 4
    for beam in beams:
        assert beam.tokens[-1] == generator.text.end
        assert generator.text.end not in beam.tokens[:-1]
        assert len(beam.tokens) <= 8
        assert beam.total == pytest.approx(generator.score(sources(generator)[0], beam.tokens), abs=1e-3)


# The model


def test_loss(generator: Generator) -> None:
    """Against a sum that is written out; what fills up counts for nothing, nor does what is not learned."""
    given = sources(generator)[:2]
    outputs = [[*ids, generator.text.end] for ids in generator.text.names(["Ada", "New York City"], "name")]
    ids, mask = pad_sources(given, 0, torch.device("cpu"))
    targets = pad_targets(outputs, torch.device("cpu"))
    assert targets.shape == (2, max(map(len, outputs)))
    assert (targets == IGNORED).any()
    labels = targets.clone()
    labels[1, 1] = IGNORED
    with torch.no_grad():
        loss = generator.module.loss(generator.module(ids, mask, targets), labels, smoothing=0.2)
        expected, left_out = 0.0, 0.0
        for source, output in zip(given, outputs, strict=True):
            single, one = pad_sources([source], 0, torch.device("cpu"))
            log_p = generator.module(single, one, torch.tensor([output])).log_softmax(-1)[0]
            hit = log_p[torch.arange(len(output)), torch.tensor(output)]
            each = 0.8 * hit + 0.2 * log_p.mean(dim=1)
            expected, left_out = expected - float(each.sum()), float(each[1])
    assert float(loss) == pytest.approx(expected + left_out, rel=1e-4)


def some_targets(generator: Generator, n: int) -> list[Target]:
    outputs = [[*ids, generator.text.end] for ids in generator.text.names(NAMES, "name")]
    return [Target(sources(generator)[i % 6], outputs[i], outputs[i]) for i in range(n)]


def learn(generator: Generator, targets: Sequence[Target], settings: GenreSettings) -> tuple[float, list[torch.Tensor]]:
    """The loss, and its gradients."""
    total = 0.0
    for loss in losses_of_parts(generator.shim, targets, settings):
        loss.backward()
        total += float(loss.detach())
    gradients = [p.grad for p in generator.module.parameters() if p.grad is not None]
    generator.module.zero_grad(set_to_none=True)
    return total, gradients


def test_loss_of_a_batch_is_the_mean_over_tokens(generator: Generator) -> None:
    """However many outputs there are."""
    targets = some_targets(generator, 5)
    of_one, of_eight, of_all = (learn(generator, some, SETTINGS)[0] for some in (targets[:1], targets[:1] * 8, targets))
    assert of_eight == pytest.approx(of_one, rel=1e-5)
    alone = [learn(generator, [target], SETTINGS)[0] * len(target.labels) for target in targets]
    assert of_all == pytest.approx(sum(alone) / sum(len(target.labels) for target in targets), rel=1e-5)
    unlearned = targets[0]._replace(labels=[IGNORED] * len(targets[0].labels))
    assert learn(generator, [unlearned, targets[1]], SETTINGS)[0] == pytest.approx(learn(generator, targets[1:2], SETTINGS)[0])


def test_batch_is_learned_in_parts(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more tokens at once than memory was given for, and the gradients are those of the whole batch."""
    sizes: list[int] = []
    forward = Seq2Seq.forward

    def counted(self: Seq2Seq, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        sizes.append(int(mask.sum() + (targets != IGNORED).sum()))
        return forward(self, ids, mask, targets)

    monkeypatch.setattr(Seq2Seq, "forward", counted)
    targets = some_targets(generator, 8)
    longest = max(len(target.source) + len(target.output) for target in targets)
    whole, expected = learn(generator, targets, replace(SETTINGS, batch_tokens=100_000))
    assert len(sizes) == 1
    for budget in (2 * longest, 1):
        sizes.clear()
        loss, found = learn(generator, targets, replace(SETTINGS, batch_tokens=budget))
        assert len(sizes) > 3
        assert max(sizes) <= max(budget, longest)
        assert loss == pytest.approx(whole, rel=1e-5)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_shared_weights_are_saved_once(generator: Generator) -> None:
    names = list(generator.module.state_dict())
    tensors = list(generator.module.state_dict().values())
    assert len({tensor.data_ptr() for tensor in tensors}) == len(names)
    again = TorchShim(build_seq2seq, group="encoder").from_bytes(generator.shim.to_bytes())
    trie = build_names(enumerate(NAMES), generator.text, "name")
    states = [begin_name(trie, generator.text.end)] * 6
    a, b = generator.write(sources(generator), states), Generator(again, generator.text).write(sources(generator), states)
    for ours, theirs in zip(a, b, strict=True):
        assert [beam.total for beam in ours] == pytest.approx([beam.total for beam in theirs], abs=1e-4)
    tensors_without = dict(generator.module.state_dict())
    del tensors_without[names[0]]
    with pytest.raises(RuntimeError, match="missing tensors"):
        generator.module.load_state_dict(tensors_without)


def test_checkpoints_that_cannot_be_used(tmp_path: Path, tiny_bert: Path) -> None:
    with pytest.raises(CheckpointError, match=r"E535.*a bert"):
        load_seq2seq(str(tiny_bert))
    with pytest.raises(CheckpointError, match="E001"):
        load_seq2seq("nobody/nothing")
    path = save_bart(tmp_path / "bart")
    (path / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="E005"):
        load_seq2seq(str(path))


@pytest.mark.parametrize(
    "settings",
    [
        {"context": 10},
        {"passage": 0},
        {"output": 1},
        {"batch_tokens": 0},
        {"smoothing": 1},
        {"marks": ["a"]},
        {"storage": "fp8"},
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"E537.*{next(iter(settings))}"):
        genre("bart", **settings)


def test_what_the_checkpoint_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"E537.*output.*1024; expected at most 256"):
        genre(str(save_bart(tmp_path)), context=200).initialize()
