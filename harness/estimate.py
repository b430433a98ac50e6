"""How long a cell will take and how much memory it needs, from a few steps on small images on this machine.

Two training steps and two forward passes, at two image sizes, give a straight line over the number of pixels; the
recipe's sizes, steps and batches do the rest. Loading, grouping and evaluation are not in it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from datasets.base import Dataset, DatasetError
from datasets.transforms import fitted
from harness.keys import method_files, stage_config
from harness.plan import Cell, load_method, open_data
from harness.provenance import environment
from harness.settings import Settings, TrainSettings, build_config
from harness.store import Store, code_digest, digest, write_text
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
class Probe:
    """Seconds of a training step and bytes kept for its backward pass, over the pixels of a batch; seconds of a forward
    pass over those of an image; bytes of the weights."""

    step: Line
    kept: Line
    forward: Line
    weights: int


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
    probe = _remembered(settings, len(splits.train.info.categories), store)
    train = predict = pixels = 0.0
    if "train" not in finished:
        for stage in settings.train.stages():
            area = stage.batch_size * _training_pixels(splits.train, stage)
            train, pixels = train + stage.steps * probe.step.at(area), max(pixels, area)
    if "predict" not in finished:
        shape = splits.val[0].semantic.shape
        shape = fitted(shape, settings.predict.short_side, settings.predict.long_side)
        predict = len(splits.val) * probe.forward.at(shape[0] * shape[1])
    memory = _PROCESS + _OPTIMISER * probe.weights + (probe.kept.at(pixels) if pixels else 0.0)
    return Estimate(train, predict, memory)


def _training_pixels(data: Dataset, settings: TrainSettings) -> float:
    """Pixels of a training image of the recipe, by its crop or by the first image's size."""
    if settings.crop:
        return settings.crop**2
    height, width = data[0].semantic.shape
    if settings.short_side or settings.long_side:
        height, width = fitted((height, width), max(settings.short_side, default=0), settings.long_side)
    mean = (sum(settings.scale) / 2) ** 2
    return min(height * width * mean, settings.longest**2 or float("inf"))


def _remembered(settings: Settings, categories: int, store: Store) -> Probe:
    """The probe of this method with these settings on this machine; kept beside the digests of files."""
    method = load_method(settings.method)
    machine = environment(torch.cuda.is_available())
    kept = stage_config(method, settings.config)["train"]  # rows that differ in prediction share it
    key = digest(method.name, code_digest(method_files(method)), kept, categories, machine.processor, machine.gpu)
    file = store.file_digests.with_name(f"probe-{key}.json")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        lines = {name: Line(**found[name]) for name in ("step", "kept", "forward")}
        return Probe(**lines, weights=int(found["weights"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    probe = measure(method(build_config(method.Config, settings.config, settings.row), categories), settings.train)
    write_text(file, json.dumps(asdict(probe)))
    return probe


def measure(method: Method, settings: TrainSettings) -> Probe:
    """Run ``method`` on noise of both sizes, on the device that a cell would take."""
    seed_everything(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    method.to(device)
    own = {parameter.untyped_storage().data_ptr() for parameter in method.parameters()}
    optimizer = make_optimizer(method, settings)
    steps, kept, forwards = [], [], []
    for side in SIDES:
        batch = _noise(side, method.num_classes).to(device)
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def step(batch: Batch = batch, keep: Callable = keep, sizes: dict[int, int] = sizes) -> None:
            sizes.clear()
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = sum(method.loss(batch).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        method.train()
        steps.append(_seconds(step))
        kept.append(sum(size for place, size in sizes.items() if place not in own))
        method.eval()
        forwards.append(_seconds(lambda batch=batch: _forward(method, batch)))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in method.parameters())
    return Probe(
        _line([_BATCH * side**2 for side in SIDES], steps),
        _line([_BATCH * side**2 for side in SIDES], kept),
        _line([side**2 for side in SIDES], forwards),
        weights,
    )


@torch.inference_mode()
def _forward(method: Method, batch: Batch) -> None:
    """The network alone where it can be had alone: groups of an untrained one say nothing of a trained one's."""
    run = method.embed if isinstance(method, PixelGrouping) else method.predict
    run(batch.images[:1], batch.sizes[:1])


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


def describe(cell: Cell, data_root: Path | None, store: Store, shared: bool = False) -> str:
    """For a person: "train 3 min, network 20 s, 1.4 GB", or why not; ``shared``: an earlier cell trains for it, too."""
    if {"train", "predict"} <= set(cell.finished()):
        return ""
    try:
        found = estimate(cell, data_root, store)
    except DatasetError as error:
        return f"unknown: {error}"
    except Exception as error:  # a stranger's method, on images it was not made for
        return f"unknown: {type(error).__name__}: {error}"
    train = "train shared" if shared else f"train {_duration(found.train)}"
    parts = [train] if found.train else []
    return ", ".join([*parts, f"network {_duration(found.predict)}", f"{found.memory / 1e9:.1f} GB"])


def _duration(seconds: float) -> str:
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
