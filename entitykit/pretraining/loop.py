"""The training loop of pretraining: what a step does depends on the settings and its number alone, so it can stop anywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from entitykit.bridge.checkpoints import load_checkpoint as load_encoder
from entitykit.bridge.pieces import WordPieces
from entitykit.errors import error
from entitykit.models.precision import compute_in_bf16
from entitykit.pretraining.checkpoint import load_checkpoint, save_checkpoint, save_result
from entitykit.pretraining.corpus import prepared
from entitykit.pretraining.data import Counts, Windows
from entitykit.pretraining.devices import Accelerated, Devices, OneDevice
from entitykit.pretraining.objective import EntityPretraining, Masked, own_parameters
from entitykit.pretraining.settings import PretrainSettings
from entitykit.pretraining.start import begin

LOG_FILE = "log.jsonl"


class Step(NamedTuple):
    """What a step found.

    Attributes:
        step: its number, from 1.
        words: cross-entropy per hidden piece.
        entities: cross-entropy per hidden entity.
        accuracy: share of hidden entities that were found.
        learn_rate: of this step.
    """

    step: int
    words: float
    entities: float
    accuracy: float
    learn_rate: float


@dataclass
class Report:
    """Whom to tell of progress.

    Attributes:
        data: is told what was made of the corpus.
        step: is told of every step, after its checkpoint if it has one.
    """

    data: Callable[[Counts], None] = lambda counts: None
    step: Callable[[Step], None] = lambda step: None


def pretrain(settings: PretrainSettings, report: Report | None = None) -> Path:
    """Pretrain an encoder, from the last checkpoint in the output folder if there is one.

    Args:
        settings: see `PretrainSettings`.
        report: whom to tell of progress, on the first of several processes.

    Returns:
        The folder of the result: a name for `entitykit.EntityEncoder.v1`.

    Raises:
        ConfigError: E130 for settings that do not fit the devices, E131 without accelerate, E132 if the output folder is of
            a training with other settings; and as `entitykit.bridge.checkpoints.load_checkpoint`.
        CorpusError: E2xx for the corpus or the vocabulary, E242 if it has nothing to learn from.
        CheckpointError: E133 for a damaged checkpoint; E010 for weights that are not finite.
        ConfigError: E135 for a step whose loss or gradients are not finite; the last checkpoint stays.
        OutputError: E134 if the output folder cannot be written.
    """
    devices: Devices = Accelerated() if settings.accelerate else OneDevice()
    if settings.batch_size % devices.n:
        raise error(
            "E130", setting="batch_size", found=settings.batch_size, expected=f"a multiple of the {devices.n} processes"
        )
    report = report if report is not None and devices.number == 0 else Report()
    torch.manual_seed(settings.seed)
    encoder, tokenizer = load_encoder(
        settings.checkpoint,
        word_shapes=settings.word_shapes,
        n_layers=settings.n_layers,
        train_pieces=settings.train == "all",
        injection=settings.injection,
    )
    longest = encoder.settings.n_positions - encoder.settings.first_position
    if settings.window > longest:
        raise error(
            "E130", setting="window", found=settings.window, expected=f"at most {longest}, the positions of the checkpoint"
        )
    splitter = WordPieces(tokenizer, max_word_pieces=settings.max_word_pieces)
    if devices.number == 0:
        prepared(settings, splitter)
    devices.wait()
    vocabulary, windows = prepared(settings, splitter)
    report.data(windows.counts)
    module = begin(encoder, vocabulary, settings).to(devices.device)
    run = _Run(settings, devices, module, windows, splitter, report)
    run.train()
    result = Path(settings.output) / "model"
    if devices.number == 0:
        save_result(result, module, tokenizer, vocabulary)
    devices.wait()
    return result


class _Run:
    """A training of a module on windows."""

    def __init__(
        self,
        settings: PretrainSettings,
        devices: Devices,
        module: EntityPretraining,
        windows: Windows,
        splitter: WordPieces,
        report: Report,
    ) -> None:
        self.settings = settings
        self.devices = devices
        self.module = module
        self.windows = windows
        self.splitter = splitter
        self.report = report
        self.parameters = _choose(module, settings.train)
        self.optimizer = _adamw(self.parameters, settings)
        self.wrapped = devices.wrap(module)
        self.folder = Path(settings.output)
        self.made_of: dict[str, Any] = asdict(settings) | {"windows": len(windows)}
        self._orders: dict[int, NDArray[np.int64]] = {}

    def train(self) -> None:
        """Make all steps that are left."""
        settings, is_first = self.settings, self.devices.number == 0
        done = load_checkpoint(self.folder / "checkpoints", self.module, self.optimizer, self.made_of)
        log = _Log(self.folder / LOG_FILE, done) if is_first else None
        self.module.train()
        for step in range(done, settings.steps):
            found = self.step(step)
            if log is not None:
                log.add(found)
                if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
                    folder = self.folder / "checkpoints"
                    save_checkpoint(folder, self.module, self.optimizer, step + 1, self.made_of, keep=settings.keep)
            self.report.step(found)
        self.module.eval()

    def step(self, step: int) -> Step:
        """Make one update; gradients and losses are those of the whole batch, however it is divided."""
        settings, n = self.settings, self.devices.n
        passes = list(self.passes(step))
        counts = torch.tensor([sum(p.n_words for p in passes), sum(p.n_entities for p in passes)], device=self.devices.device)
        n_words, n_entities = self.devices.total(counts).clamp_min(1).tolist()
        torch.manual_seed(_seed(settings.seed, step, self.devices.number, 1))  # of dropout, on all devices
        sums = torch.zeros(3, device=self.devices.device)
        for i, masked in enumerate(passes):
            with self.devices.hold(self.wrapped) if i + 1 < len(passes) else nullcontext():
                with compute_in_bf16(self.devices.device, enabled=settings.bf16):
                    losses = self.wrapped(_move(masked, self.devices.device))
                words, entities = settings.word_weight / n_words, settings.entity_weight / n_entities
                (n * (words * losses.words + entities * losses.entities)).backward()
            sums += torch.stack([losses.words.detach().float(), losses.entities.detach().float(), losses.found.float()])
        of_words, of_entities, found = self.devices.total(sums).tolist()
        self.update(step, learn_rate(settings, step), of_words + of_entities)
        return Step(step + 1, of_words / n_words, of_entities / n_entities, found / n_entities, learn_rate(settings, step))

    def update(self, step: int, rate: float, loss: float) -> None:
        """Apply and clear the gradients; refuse those that would spoil the weights, and the next checkpoint with them."""
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.settings.grad_clip or math.inf)
        for what, found in (("loss", loss), ("norm of the gradients", float(norm))):
            if not math.isfinite(found):
                raise error("E135", step=step + 1, what=what, found=found)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def passes(self, step: int) -> Iterator[Masked]:
        """This process's part of a step's batch, hidden in parts that follow from the step's number."""
        settings, devices = self.settings, self.devices
        generator = torch.Generator().manual_seed(_seed(settings.seed, step, devices.number, 0))
        share = settings.batch_size // devices.n
        first = step * settings.batch_size + devices.number * share
        for start in range(first, first + share, settings.pass_size):
            numbers = self.windows_at(start, min(start + settings.pass_size, first + share))
            yield self.module.mask(
                self.windows.text(numbers),
                words=settings.mask_words,
                entities=settings.mask_entities,
                mask_piece=self.splitter.mask,
                generator=generator,
            )

    def windows_at(self, start: int, end: int) -> NDArray[np.int64]:
        """The windows at positions of an endless stream, in which all come once, in a new order, and then again."""
        n = len(self.windows)
        return np.array([self._order(position // n)[position % n] for position in range(start, end)], dtype=np.int64)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.windows))
            self._orders = {key: value for key, value in self._orders.items() if key == epoch - 1} | {epoch: order}
        return self._orders[epoch]


def learn_rate(settings: PretrainSettings, step: int) -> float:
    """The rate of a step, counted from 0: up to the highest in the warmup, then down to 0 after the last step."""
    if step < settings.warmup_steps:
        return settings.learn_rate * (step + 1) / settings.warmup_steps
    return settings.learn_rate * (settings.steps - step) / max(settings.steps - settings.warmup_steps, 1)


def _choose(module: EntityPretraining, train: str) -> dict[str, nn.Parameter]:
    """Freeze what is not to be trained; the trained parameters by name."""
    if train == "entities":
        own = set(own_parameters(module))
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in own)
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _adamw(parameters: dict[str, nn.Parameter], settings: PretrainSettings) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in parameters.values() if parameter.dim() > 1]
    others = [parameter for parameter in parameters.values() if parameter.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, settings.beta2), eps=1e-6)


def _seed(*numbers: int) -> int:
    """One number from several, so that no two uses share their random numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _move(masked: Masked, device: torch.device) -> Masked:
    pack, entities = masked.pack, masked.entities
    return Masked(
        pack._replace(ids=pack.ids.to(device), positions=pack.positions.to(device), shapes=pack.shapes.to(device)),
        entities._replace(ids=entities.ids.to(device), rows=entities.rows.to(device), offsets=entities.offsets.to(device)),
        masked.word_targets.to(device),
        masked.entity_targets.to(device),
    )


class _Log:
    """A JSON line per step; those of steps that are made again are dropped."""

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
            path.write_text("".join(lines[:done]), encoding="utf-8")
        except OSError as reason:
            raise error("E134", path=path, reason=reason) from reason

    def add(self, step: Step) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(step._asdict()) + "\n")
        except OSError as reason:
            raise error("E134", path=self.path, reason=reason) from reason
