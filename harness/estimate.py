"""How long a cell will take and how much memory it needs, from a few steps on small images on this machine.

Two training steps and two forward passes, at two image sizes, give a straight line over the number of pixels; the
recipe's sizes, steps and batches do the rest. Loading, grouping and evaluation are not in it.
"""

from __future__ import annotations

import functools
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from datasets.base import Dataset, DatasetError
from datasets.transforms import fitted
from harness.checkpoint import Checkpoints
from harness.keys import stage_config
from harness.plan import Cell, load_method, open_data
from harness.settings import TrainSettings, build_config
from harness.store import Store
from harness.train import make_optimizer, seed_everything
from methods.base import Batch, Method
from methods.grouping import PixelGrouping

SIDES = (64, 128)  # pixels; multiples of 32, and large enough for every backbone's last level
_TRIES = 3
_BATCH = 2  # batch normalisation of one image of one pixel has no variance
_PROCESS = 600e6  # bytes of a process that has loaded torch; measured on Linux
_OPTIMISER = 4  # float32 numbers kept for a weight: itself, its gradient, two moments


@dataclass(frozen=True)
class Line:
    """``fixed + each * pixels``."""

    fixed: float
    each: float

    def at(self, pixels: float) -> float:
        return self.fixed + self.each * pixels


@dataclass(frozen=True)
class Estimate:
    """Of the steps that are missing: seconds of training and of the network in prediction, and peak bytes."""

    train: float
    predict: float
    memory: float


def estimate(cell: Cell, data_root: Path | None, store: Store) -> Estimate:
    """Raises whatever the method raises on small images of noise; `DatasetError` where the data cannot be read."""
    settings, finished = cell.settings, cell.finished()
    splits = open_data(settings.dataset, tuple(sorted(settings.data.items())), data_root, store.file_digests)
    categories = len(splits.train.info.categories)
    train = predict = 0.0
    memory = _PROCESS
    if "train" not in finished and any(stage.steps for stage in settings.train.stages()):
        of_training = stage_config(load_method(settings.method), settings.config)["train"]
        step, kept, weights = _training(
            settings.method, json.dumps(of_training, sort_keys=True), categories, settings.train.optimizer
        )
        areas = [stage.batch_size * _training_pixels(splits.train, stage) for stage in settings.train.stages()]
        done = Checkpoints(store.unfinished(cell.folders["train"].name), 0.0).step()
        train = sum(left * step.at(area) for left, area in zip(_left(settings.train, done), areas, strict=True))
        memory += _OPTIMISER * weights + kept.at(max(areas))
    if "predict" not in finished:
        shape = fitted(splits.val[0].semantic.shape, settings.predict.short_side, settings.predict.long_side)
        config = json.dumps(settings.config, sort_keys=True)
        predict = len(splits.val) * _prediction(settings.method, config, categories).at(shape[0] * shape[1])
    return Estimate(train, predict, memory)


def _left(settings: TrainSettings, done: int) -> list[int]:
    """The steps of each stage that are still to be made after ``done`` in all."""
    left = []
    for stage in settings.stages():
        left.append(max(stage.steps - done, 0))
        done = max(done - stage.steps, 0)
    return left


def _training_pixels(data: Dataset, settings: TrainSettings) -> float:
    """Pixels of a training image of the recipe, by its crop or by the first image's size."""
    if settings.crop:
        return settings.crop**2
    height, width = data[0].semantic.shape
    if settings.short_side or settings.long_side:
        height, width = fitted((height, width), max(settings.short_side, default=0), settings.long_side)
    mean = (sum(settings.scale) / 2) ** 2
    return min(height * width * mean, settings.longest**2 or float("inf"))


@functools.lru_cache(maxsize=256)
def _training(method_name: str, config: str, categories: int, optimizer: str) -> tuple[Line, Line, int]:
    """Seconds of a step and bytes kept, over a batch's pixels, and bytes of weights; rows that share it ask again."""
    method = _build(method_name, config, categories)
    own = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    optimiser = make_optimizer(method.train(), TrainSettings(optimizer=optimizer))
    steps, kept = [], []
    for side in SIDES:
        batch = _noise(side, categories).to(_device())
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def step(batch: Batch = batch, keep: Callable = keep, sizes: dict[int, int] = sizes) -> None:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = sum(method.loss(batch).values())
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        steps.append(_seconds(step))
        kept.append(sum(size for place, size in sizes.items() if place not in own))
    pixels = [_BATCH * side**2 for side in SIDES]
    weights = sum(parameter.numel() * parameter.element_size() for parameter in method.parameters())
    return _line(pixels, steps), _line(pixels, kept), weights


@functools.lru_cache(maxsize=256)
@torch.inference_mode()
def _prediction(method_name: str, config: str, categories: int) -> Line:
    """Seconds of a forward pass over an image's pixels: of the network alone, where it can be had alone.

    Groups of an untrained network say nothing of a trained one's.
    """
    method = _build(method_name, config, categories).eval()
    run = method.embed if isinstance(method, PixelGrouping) else method.predict
    times = []
    for side in SIDES:
        batch = _noise(side, categories).to(_device())
        times.append(_seconds(lambda batch=batch: run(batch.images[:1], batch.sizes[:1])))
    return _line([side**2 for side in SIDES], times)


def _build(method_name: str, config: str, categories: int) -> Method:
    seed_everything(0)
    method = load_method(method_name)
    return method(build_config(method.Config, json.loads(config), method.name), categories).to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _noise(side: int, categories: int) -> Batch:
    """Images of noise with four square objects each."""
    instances = torch.zeros(_BATCH, side, side, dtype=torch.int64)
    quarter = side // 4
    for number, (row, column) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)], 1):
        rows, columns = (slice(place * quarter + 4, (place + 1) * quarter + 4) for place in (row, column))
        instances[:, rows, columns] = number
    semantic = torch.where(instances > 0, (instances - 1) % categories + 1, 0)
    images = torch.rand(_BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    return Batch(images, semantic, instances, torch.full((_BATCH, 2), side))


def _seconds(run: Callable[[], None]) -> float:
    """Of the fastest of some runs: the first one builds what later ones use, and others may use the machine."""
    found = []
    for _ in range(_TRIES):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return min(found)


def _line(pixels: list[int], values: list[float]) -> Line:
    """Through both points, but never falling, nor below 0 without a pixel."""
    slope = max((values[1] - values[0]) / (pixels[1] - pixels[0]), 0.0)
    if values[1] - slope * pixels[1] < 0:
        return Line(0.0, values[1] / pixels[1])
    return Line(max(values[1] - slope * pixels[1], 0.0), slope)


def describe(cell: Cell, data_root: Path | None, store: Store, shared: bool = False) -> tuple[str, float]:
    """For a person: "train 3 min, network 20 s, 1.4 GB", or why not; and the seconds.

    ``shared``: an earlier cell trains for it, too.
    """
    if {"train", "predict"} <= set(cell.finished()):
        return "", 0.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of libraries, about themselves
            found = estimate(cell, data_root, store)
    except DatasetError as error:
        return f"unknown: {error}", 0.0
    except Exception as error:  # a stranger's method, on images it was not made for
        return f"unknown: {type(error).__name__}: {error}", 0.0
    train = "train shared" if shared else f"train {duration(found.train)}"
    parts = [train] if found.train else []
    text = ", ".join([*parts, f"network {duration(found.predict)}", f"{found.memory / 1e9:.1f} GB"])
    return text, found.predict + found.train * (not shared)


def device_name() -> str:
    """What cells run on here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"


def duration(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
