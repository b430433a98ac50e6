"""Workloads for the metrics: images from a pool of 100 generated scenes, used again and again in turn.

Matching remembers nothing from image to image, so a repeated scene costs what a new one does; inputs of any size fit in
memory, and what is measured is the metric.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from evaluation.masks import RunLengths

POOL = 100


@dataclass(frozen=True)
class Scene:
    """One image: truths that do not overlap, as map and labels, and detections: truths moved and bent, and others."""

    instances: np.ndarray  # (H, W) uint8, ids 1..N
    truth_labels: np.ndarray
    masks: list[RunLengths]
    labels: np.ndarray
    scores: np.ndarray


def scenes(
    size: tuple[int, int], truths: float, detections: int, classes: int, count: int = POOL, seed: int = 0
) -> list[Scene]:
    """``truths`` is their mean number an image."""
    rng = np.random.default_rng(seed)
    return [_scene(rng, size, truths, detections, classes) for _ in range(count)]


def _scene(rng: np.random.Generator, size: tuple[int, int], truths: float, detections: int, classes: int) -> Scene:
    height, width = size
    blobs = [_blob(rng, size) for _ in range(max(1, rng.poisson(truths)))]
    kinds = rng.integers(1, classes + 1, len(blobs))
    instances = np.zeros(size, np.uint8)
    for number, region in enumerate(blobs, 1):
        instances[coco.decode(coco.frPyObjects([region.ravel().tolist()], height, width))[:, :, 0] > 0] = number
    present = np.unique(instances)[1:]
    regions, labels = [], []
    for _ in range(detections):
        if rng.random() < 0.5:
            number = rng.integers(len(blobs))
            region, label = blobs[number] + rng.normal(0, 0.02 * height, 2), kinds[number]
            region = region + rng.normal(0, 2, region.shape)
        else:
            region, label = _blob(rng, size), rng.integers(1, classes + 1)
        packed = coco.frPyObjects([np.clip(region, 0, [width, height]).ravel().tolist()], height, width)[0]
        regions.append(RunLengths(size=[height, width], counts=packed["counts"].decode("ascii")))
        labels.append(label)
    return Scene(
        np.searchsorted(np.append(0, present), instances).astype(np.uint8),
        kinds[present - 1],
        regions,
        np.array(labels, np.int64),
        rng.random(detections).round(4),
    )


def _blob(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A star-shaped polygon (24, 2) of x, y; its radius spans four octaves."""
    height, width = size
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    radius = height * np.exp2(rng.uniform(-5.5, -1.5)) * rng.uniform(0.6, 1.0, 24)
    centre = rng.uniform(0, [width, height])
    ring = centre + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.clip(ring, 0, [width, height])
