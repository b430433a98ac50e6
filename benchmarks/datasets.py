"""How fast samples come on one core, a layout at a time: `python -m benchmarks.datasets [--voc-root DIR] ...`.

Three rates in images a second, medians over rounds, the layouts interleaved in one run: decoding the image file alone,
which is the floor; a whole sample; and a sample as a training step sees it, resized and cut by a paper's recipe. What a
step needs is batch size / seconds of a step; loader processes multiply the last rate.

Cityscapes is measured on frames of its size that are made here, because its licence lets nobody share any; the others
need a folder each.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom
from tabulate import tabulate

from datasets.base import Dataset
from datasets.bsds import Bsds
from datasets.cityscapes import Cityscapes
from datasets.coco import Coco
from datasets.files import read_rgb
from datasets.shapes import LEVELS, Shapes
from datasets.transforms import Augmentation
from datasets.voc import Voc
from harness.batches import TrainStream
from harness.provenance import processor

LONGEST = 2.0  # seconds a round spends on one rate at most
SEGSORT = Augmentation(crop=480, scale=(0.5, 2.0), flip=0.5)
PULL_PUSH = Augmentation(crop=513, long_side=513, flip=0.5)
MASK_RCNN = Augmentation(short_side=(800,), long_side=1333, flip=0.5)
SPATIAL = Augmentation(crop=512, around_instances=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """A layout: its samples, a recipe that a paper trains it with, and whether overlapping objects come along."""

    name: str
    data: Dataset
    recipe: Augmentation = dataclasses.field(default_factory=Augmentation)
    overlapping: bool = False
    images: tuple[Path, ...] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, holds in (
        ("voc", "VOCdevkit/VOC2012"),
        ("coco", "annotations/instances_val2017.json and val2017"),
        ("bsds", "images and groundTruth, without splits"),
    ):
        parser.add_argument(f"--{name}-root", type=Path, help=f"folder that holds {holds}")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        cases = [*_generated(), *_given(arguments), _cityscapes(Path(made))]
        rates: dict[tuple[str, str], list[float]] = {}
        for number in range(arguments.rounds + 1):
            for case in cases:
                for what, read in _reads(case).items():
                    rate = _rate(read, number)
                    if number:  # the first round fills caches
                        rates.setdefault((case.name, what), []).append(rate)
    rows = [(*key, statistics.median(found), min(found), max(found)) for key, found in rates.items()]
    print(tabulate(rows, ("data", "what", "images/s, median", "min", "max"), floatfmt=".0f", tablefmt="pipe"))
    print(f"\none process on one core of: {processor()}")


def _generated() -> list[Case]:
    return [Case(f"shapes {level}, 128 x 128", Shapes("train", 100_000, level)) for level in LEVELS]


def _given(arguments: argparse.Namespace) -> list[Case]:
    cases = []
    if arguments.voc_root:
        folder = next(arguments.voc_root.glob("**/JPEGImages"))
        voc = Voc(arguments.voc_root, "val")
        cases.append(Case("voc val, SegSort's recipe", voc, SEGSORT, images=tuple(sorted(folder.glob("*.jpg")))))
    if arguments.coco_root:
        coco = Coco(arguments.coco_root, "annotations/instances_val2017.json", "", training=True)
        images = tuple(sorted((arguments.coco_root / "val2017").glob("*.jpg")))
        cases.append(Case("coco val, pull/push's recipe", coco, PULL_PUSH, images=images))
        cases.append(Case("coco val, Mask R-CNN's, overlapping objects", coco, MASK_RCNN, overlapping=True))
    if arguments.bsds_root:
        bsds = Bsds(arguments.bsds_root, "all", training=True)
        images = tuple(sorted((arguments.bsds_root / "images").glob("*.jpg")))
        cases.append(Case("bsds, each annotation", bsds, SEGSORT, images=images))
    return cases


def _cityscapes(folder: Path, count: int = 6) -> Case:
    """Frames of 2048 x 1024 as large on disk as the real ones (about 2.3 MB), with 30 objects each."""
    rng = np.random.default_rng(0)
    images, annotations = folder / "leftImg8bit" / "val" / "made", folder / "gtFine" / "val" / "made"
    for path in (images, annotations):
        path.mkdir(parents=True)
    for number in range(count):
        name = f"made_{number:06d}_000019"
        smooth = zoom(rng.normal(size=(32, 64, 3)), (32, 32, 1), order=1) * 45 + 110
        grain = gaussian_filter(rng.normal(size=(1024, 2048, 3)), (1, 1, 0)) * 14
        Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(images / f"{name}_leftImg8bit.png")
        areas = np.argmax(gaussian_filter(rng.normal(size=(5, 256, 512)), (0, 9, 9)), 0)
        ids = np.kron(np.array([7, 8, 11, 21, 23])[areas], np.ones((4, 4), int))
        for index in range(30):
            top, left = rng.integers(200, 900), rng.integers(0, 1900)
            label = 1000 * (24, 26, 33)[index % 3]
            ids[top : top + rng.integers(20, 200), left : left + rng.integers(15, 200)] = label + index
        Image.fromarray(ids.astype(np.uint16)).save(annotations / f"{name}_gtFine_instanceIds.png")
    recipe_name = "cityscapes, 2048 x 1024, made; spatial embeddings' recipe"
    return Case(recipe_name, Cityscapes(folder, "val"), SPATIAL, images=tuple(sorted(images.iterdir())))


def _reads(case: Case) -> dict[str, Callable[[int], object]]:
    """What is timed, each a function of the sample's number."""
    reads: dict[str, Callable[[int], object]] = {}
    if case.images:
        reads["decode the image"] = lambda number: read_rgb(case.images[number % len(case.images)])
    if not case.overlapping:
        reads["sample"] = lambda number: case.data[number % len(case.data)]
    if case.recipe != Augmentation():
        stream = TrainStream(case.data, 1 << 40, 0, case.recipe, overlapping=case.overlapping)
        reads["training sample"] = stream.__getitem__
    return reads


def _rate(read: Callable[[int], object], number: int, most: int = 200) -> float:
    """Reads a second, of 200 or of as many as fit into some seconds."""
    start, done = time.perf_counter(), 0
    while done < most and time.perf_counter() - start < LONGEST:
        read(number * most + done)
        done += 1
    return done / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
