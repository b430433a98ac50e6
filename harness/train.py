"""The train step: a network, a recipe, a seed -> weights."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from datasets.base import Dataset
from datasets.transforms import Augmentation, resize
from harness.batches import TrainStream, collate
from harness.checkpoint import Checkpoints, State, set_random_state
from harness.provenance import environment
from harness.record import TrainCost
from harness.settings import TrainSettings
from harness.store import DamagedStep
from harness.suite import ROOT
from methods.base import Batch, Method

Progress = Callable[[int, int], None]  # (done, total)


class TrainingError(Exception):
    """Training cannot go on; the message says at which step and why."""


def build_method(method_class: type[Method], config: Any, num_classes: int, seed: int) -> Method:
    """The method with its first weights, which are a function of the seed."""
    seed_everything(seed)
    return method_class(config, num_classes)


def train(
    method: Method,
    data: Dataset,
    settings: TrainSettings,
    seed: int,
    progress: Progress,
    others: Mapping[str, Dataset] | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainCost:
    """Train a freshly built ``method`` in place on ``data``, and in later stages on ``others`` where they name a split.

    The method looks once more at the images of the last stage (`Method.prepare`). Equal arguments on the same machine
    and thread count give equal weights, also where the training goes on from one of its ``checkpoints``. Raises
    `TrainingError` for a loss that is not finite, and for weights to start from that do not fit.
    """
    start = time.perf_counter()
    seed_everything(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"  # as the prediction chooses
    fabric = Fabric(accelerator=device, devices=1, precision=settings.precision)
    if settings.weights:
        start_from(method, ROOT / settings.weights)
    else:
        method.initialise()
    method.to(memory_format=torch.channels_last)
    stages = settings.stages()
    model = fabric.setup_module(method)
    model.mark_forward_method("loss")
    begin = {name: value.detach().cpu().clone() for name, value in method.named_parameters() if value.requires_grad}
    earlier = checkpoints.latest() if checkpoints else None
    if earlier:
        method.load_state_dict(earlier.model)
    run = _Run(fabric, model, seed, sum(stage.steps for stage in stages), progress, checkpoints, start, earlier)
    named = {"": data, **(others or {})}
    done = images = 0
    for number, (stage, split) in enumerate(zip(stages, ["", *(one.split for one in settings.then)], strict=True)):
        data = named[split]
        if not earlier or number >= earlier.stage:
            run.stage(number, data, stage, done, images)
        done, images = done + stage.steps, images + stage.steps * stage.batch_size
    model.eval()
    with torch.inference_mode():
        method.prepare(batch.to(fabric.device) for batch in _as_they_are(data, settings))
    return TrainCost(
        seconds=run.seconds(),
        steps=run.steps,
        parameters=sum(parameter.numel() for parameter in method.parameters()),
        peak_memory=run.memory(),
        losses=run.losses,
        gradient_norm=run.gradient_norm,
        moved=moved(method, begin),
        weights_digest=weights_digest(method),
        environment=environment(fabric.device.type == "cuda"),
        implementation=method.implementation(method.config),
        resumed=tuple(run.resumed),
    )


class _Run:
    """What the stages of one training share, and what a checkpoint of it holds."""

    def __init__(
        self,
        fabric: Fabric,
        model: torch.nn.Module,
        seed: int,
        steps: int,
        progress: Progress,
        checkpoints: Checkpoints | None,
        start: float,
        earlier: State | None,
    ) -> None:
        self.fabric, self.model, self.seed, self.steps, self.progress = fabric, model, seed, steps, progress
        self.checkpoints, self.start, self.earlier = checkpoints, start, earlier
        self.losses: dict[str, float] = earlier.losses if earlier else {}
        self.gradient_norm = earlier.gradient_norm if earlier else math.nan
        self.resumed = [*earlier.resumed, earlier.done] if earlier else []

    def seconds(self) -> float:
        return time.perf_counter() - self.start + (self.earlier.seconds if self.earlier else 0.0)

    def memory(self) -> int:
        return max(peak_memory(), self.earlier.peak_memory if self.earlier else 0)

    def stage(self, number: int, data: Dataset, settings: TrainSettings, done: int, first_image: int) -> None:
        """One stage: an optimiser and a schedule of its own. ``done`` steps and ``first_image`` images were before."""
        if not settings.steps:
            return
        fabric, model = self.fabric, self.model
        frozen = freeze_pretrained(model.module) if settings.pretrained_rate == 0 else []
        optimizer = make_optimizer(model.module, settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(settings, step))
        optimizer = fabric.setup_optimizers(optimizer)
        _to_training(model, settings, frozen)
        earlier = self.earlier if self.earlier and self.earlier.stage == number else None
        before = earlier.step if earlier else 0
        batches = iter(self._loader(data, settings, first_image, before))
        if earlier:
            optimizer.load_state_dict(earlier.optimizer)
            schedule.load_state_dict(earlier.schedule)
            fabric.strategy.precision.load_state_dict(earlier.precision)
            set_random_state(earlier.random)  # last: a loader draws a number when it starts
            self.progress(done + before, self.steps)
        for step, batch in enumerate(batches, before + 1):
            terms = model.loss(batch.to(fabric.device))
            total = sum(terms.values())
            if not torch.isfinite(total):
                values = ", ".join(f"{name} = {value.item():g}" for name, value in terms.items())
                raise TrainingError(f"the loss is not finite at step {step} of {settings.steps}: {values}")
            optimizer.zero_grad(set_to_none=True)
            fabric.backward(total)
            if settings.clip:
                norm = fabric.clip_gradients(model, optimizer, max_norm=settings.clip, error_if_nonfinite=False)
            elif step == settings.steps:
                norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if step == settings.steps:
                self.gradient_norm = float(norm)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == settings.steps:
                self.losses = {name: float(value.detach()) for name, value in terms.items()}
                self.progress(done + step, self.steps)
            if self.checkpoints and self.checkpoints.due():
                self._keep(number, step, done + step, optimizer, schedule)
        for parameter in frozen:
            parameter.requires_grad_(True)

    def _loader(self, data: Dataset, settings: TrainSettings, first_image: int, before: int) -> DataLoader:
        """The stage's batches from step ``before`` on."""
        stream = TrainStream(
            data,
            (settings.steps - before) * settings.batch_size,
            self.seed,
            augmentation(settings),
            first_image + before * settings.batch_size,
            self.model.module.overlapping,
        )
        return DataLoader(
            stream,
            settings.batch_size,
            shuffle=False,
            num_workers=settings.workers,
            collate_fn=collate,
            pin_memory=self.fabric.device.type == "cuda",
        )

    def _keep(self, number: int, step: int, done: int, optimizer: Any, schedule: Any) -> None:
        state = State(
            done=done,
            stage=number,
            step=step,
            model=self.model.module.state_dict(),
            optimizer=optimizer.state_dict(),
            schedule=schedule.state_dict(),
            precision=self.fabric.strategy.precision.state_dict(),
            losses=self.losses,
            gradient_norm=self.gradient_norm,
            seconds=self.seconds(),
            peak_memory=self.memory(),
            resumed=self.resumed,
        )
        self.checkpoints.save(state)


def _to_training(model: torch.nn.Module, settings: TrainSettings, frozen: Sequence[torch.nn.Parameter]) -> None:
    """Training mode, but for the normalisation that the settings hold still, and that of ``frozen`` parameters."""
    model.train()
    still = {id(parameter) for parameter in frozen}
    for module in model.modules():  # only ever switched off here: a network may keep levels frozen by itself
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (
            settings.frozen_statistics or still & {id(parameter) for parameter in module.parameters(recurse=False)}
        ):
            module.eval()


def moved(method: Method, begin: Mapping[str, torch.Tensor]) -> float:
    """|end - begin| / |begin| over the parameters of ``begin``, as one vector; 0 without one."""
    now = dict(method.named_parameters())
    away = sum(float((now[name].detach().cpu() - value).double().square().sum()) for name, value in begin.items())
    size = sum(float(value.double().square().sum()) for value in begin.values())
    return math.sqrt(away / size) if size else 0.0


def start_from(method: Method, path: Path) -> None:
    """Load all of the method's weights from a file, of any floating type. Raises `TrainingError` if they do not fit."""
    try:
        method.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise TrainingError(
            f"train.weights: {path} does not hold the weights of this {method.name}: {error}"
        ) from error


def freeze_pretrained(method: Method) -> list[torch.nn.Parameter]:
    """Let nothing that starts pretrained learn; returns the parameters that did before."""
    frozen = [parameter for parameter in method.pretrained_parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    return frozen


def _as_they_are(data: Dataset, settings: TrainSettings) -> Iterator[Batch]:
    """The first ``prepare_images`` of the training images, one a batch, not augmented."""
    for index in range(min(settings.prepare_images or len(data), len(data))):
        sample = data[index]
        yield collate([resize(sample, settings.prepare_side) if settings.prepare_side else sample])


def augmentation(settings: TrainSettings) -> Augmentation:
    names = {field.name for field in dataclasses.fields(Augmentation)}
    values = {name: value for name, value in settings.model_dump().items() if name in names}
    return Augmentation(**{**values, "crop": settings.crop or None})


def seed_everything(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def make_optimizer(method: Method, settings: TrainSettings) -> torch.optim.Optimizer:
    """The recipe's optimiser; what starts pretrained learns at ``pretrained_rate`` times the rate."""
    pretrained = {id(parameter) for parameter in method.pretrained_parameters()}
    parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if id(p) not in pretrained], "lr": settings.learning_rate},
        {
            "params": [p for p in parameters if id(p) in pretrained],
            "lr": settings.learning_rate * settings.pretrained_rate,
        },
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, weight_decay=settings.weight_decay)
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.optimizer]
    return kind(groups, weight_decay=settings.weight_decay)


def rate(settings: TrainSettings, step: int) -> float:
    """Learning rate at ``step`` (0-based) as a share of the recipe's: linear warm-up, then the schedule."""
    warm = settings.warmup * settings.steps
    if step < warm:
        return (step + 1) / (warm + 1)
    share = min((step - warm) / max(settings.steps - warm, 1.0), 1.0)
    if settings.schedule == "one_cycle":
        return 0.5 * (1.0 + math.cos(math.pi * share))
    return (1.0 - share) ** 0.9 if settings.schedule == "poly" else 1.0


def peak_memory() -> int:
    """Peak resident size of this process in bytes (the GPU's peak, where one is used)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def weights_digest(method: Method) -> str:
    """A key of all weights, bit for bit."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(method.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def save_weights(method: Method, path: Path) -> None:
    save_file({name: tensor.cpu().contiguous() for name, tensor in method.state_dict().items()}, path)


def load_weights(method: Method, path: Path) -> None:
    """Raises `DamagedStep` where the file is missing or is not the method's weights."""
    try:
        method.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise DamagedStep(path, path.parent, error) from error
