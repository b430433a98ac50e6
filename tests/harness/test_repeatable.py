"""What a number may depend on, for every method: on its seed, not on the run, the loader's workers, or other images.

docs/trust.md says what follows from it. All of this is for a processor and the same number of threads.
"""

from __future__ import annotations

import functools
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from method_contract import CLASSES, TINY

import methods
from datasets.base import Dataset, DatasetInfo, Sample
from datasets.shapes import Shapes
from harness.plan import load_method
from harness.predict import FILE, predict
from harness.settings import PredictSettings, TrainSettings
from harness.train import build_method, train
from methods.base import Method
from methods.pull_push import pull_push_loss
from methods.recurrent_mean_shift import mean_loss
from methods.segsort import mean_directions, segment_sorting_loss, unit
from methods.spatial_embeddings import pixel_grid, spatial_loss

ROOT = Path(__file__).resolve().parents[2]
NAMES = methods.available()
# Beyond the contract's small settings: what draws random numbers, and what lets a network of three steps find anything.
MORE = {
    "recurrent_mean_shift": {"pixels": "sampled"},
    "segsort": {"neighbours": 1, "min_size": 1},
    "spatial_embeddings": {"unit": 1023, "threshold": 0.45, "foreground": 0.0, "min_pixels": 60},
}
RECIPE = TrainSettings(steps=3, batch_size=2, learning_rate=1e-4, scale=(0.8, 1.25), crop=64, rotation=20.0, color=0.3)


@dataclass(frozen=True)
class Trained:
    digest: str  # of all weights, bit for bit
    losses: dict[str, float]
    method: Method


class Chosen:
    """The samples of a split that ``indices`` name, in their order."""

    def __init__(self, whole: Dataset, indices: Sequence[int]) -> None:
        self.whole, self.indices = whole, indices

    @property
    def info(self) -> DatasetInfo:
        return self.whole.info

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[self.indices[index]]

    def verify(self, index: int) -> None:
        self.whole.verify(self.indices[index])


def fit(name: str, seed: int = 0, workers: int = 0) -> Trained:
    method_class = load_method(name)
    config = method_class.Config(**{**TINY.get(name, {}), **MORE.get(name, {})})
    method = build_method(method_class, config, CLASSES, seed)
    recipe = RECIPE.model_copy(update={"workers": workers})
    cost = train(method, Shapes("train", 5, "hard", 64), recipe, seed, lambda done, total: None)
    return Trained(cost.weights_digest, cost.losses, method)


@functools.cache
def first(name: str) -> Trained:
    """The training that the others are compared with."""
    return fit(name)


def files(method: Method, indices: Sequence[int] = range(4)) -> dict[str, object]:
    """What `predict` writes: its lines by image, in order, and the bytes of the maps."""
    data = Chosen(Shapes("val", 4, "hard", 64), indices)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predict(method, data, PredictSettings(), folder, lambda done, total: None)
        text = gzip.decompress((folder / FILE).read_bytes()).decode()  # packed, it has the time in it
        lines = {json.loads(line)["image_id"]: line for line in text.splitlines()}
        maps = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}
    return lines | maps


@functools.cache
def first_files(name: str) -> dict[str, object]:
    return files(first(name).method)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_predictions(name: str) -> None:
    again = fit(name)
    assert again.digest == first(name).digest
    assert again.losses == first(name).losses
    lines = [line for key, line in first_files(name).items() if not key.endswith(".png")]
    assert any(json.loads(line)["results"] for line in lines), "nothing was found, so that nothing could differ"
    assert files(again.method) == first_files(name)


@pytest.mark.parametrize("name", NAMES)
def test_another_seed_gives_others(name: str) -> None:
    other = fit(name, seed=1)
    assert other.digest != first(name).digest
    assert files(other.method) != first_files(name)


@pytest.mark.parametrize("name", NAMES)
def test_loader_workers_change_nothing(name: str) -> None:
    assert fit(name, workers=2).digest == first(name).digest


@pytest.mark.parametrize("name", NAMES)
def test_a_prediction_depends_neither_on_other_images_nor_on_their_order(name: str) -> None:
    whole, part = first_files(name), files(first(name).method, indices=(3, 1))
    assert [key for key in part if not key.endswith(".png")] == ["val-000003", "val-000001"]
    assert part == {key: whole[key] for key in part}


@pytest.mark.slow
def test_another_process_gives_the_same_weights() -> None:
    """Its strings have other hashes, so that sets of them have another order."""
    script = "import test_repeatable as t, torch; torch.set_num_threads(1)\n"
    script += "for name in t.NAMES: print(name, t.fit(name).digest)"
    paths = [str(ROOT), str(ROOT / "tests"), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {name: first(name).digest for name in NAMES}


def random_values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_losses_repeat_with_several_threads() -> None:
    """A sum whose order is left to chance differs in its last digits; so large that torch shares it out."""
    side = 128
    instances = torch.randint(0, 12, (2, side, side), generator=torch.Generator().manual_seed(1))
    semantic = torch.where(instances > 0, 1 + instances % 3, 0)
    flat = instances.flatten()[:6_000]
    seeds = random_values(2, 3, side, side)
    cases: dict[str, tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]] = {
        "pull_push": (random_values(2, 4, side, side), lambda x: sum(pull_push_loss(x, semantic, instances))),
        "means": (unit(random_values(6_000, 16)), lambda x: sum(mean_loss(x, flat))),
        "spatial": (
            0.01 * random_values(2, 2, side, side) + pixel_grid(seeds),
            lambda x: sum(spatial_loss(x, x[:, :1], seeds, semantic, instances, grid=None)),
        ),
        "segments": (
            unit(random_values(6_000, 16)),
            lambda x: segment_sorting_loss(
                x, flat, mean_directions(x, flat, 12), torch.arange(12) % 3, concentration=10.0, form="nca"
            ),
        ),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for name, (values, loss) in cases.items():
            values.requires_grad_()
            found = {torch.autograd.grad(loss(values), values)[0].numpy().tobytes() for _ in range(3)}
            assert len(found) == 1, name
    finally:
        torch.set_num_threads(threads)
