"""Metrics beside their reference programs, or, where none can be installed, beside the metric with dense masks."""

from __future__ import annotations

import numpy as np

from benchmarks.cases import Case
from benchmarks.cases.evaluation_inputs import POOL, Scene, scenes
from evaluation import masks, voc_apr
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant


def voc(scale: float) -> list[Case]:
    """As many images, truths and detections as VOC 2012 val has, at scale 1."""
    images, pool = round(1449 * scale), scenes((375, 500), 3734 / 1449, 20, 20)
    chosen = [pool[number % POOL] for number in range(images)]
    truths = sum(len(scene.truth_labels) for scene in chosen)
    return [
        Case(
            f"VOC AP^r, {images} images, {truths} truths, 20 detections an image",
            {"ours, nine thresholds": lambda: voc_ours(chosen), "dense masks, 0.5 and 0.7": lambda: voc_dense(chosen)},
            "at most 2.0 s and 400 MB at 1,449 images",
            same=lambda ours, dense: np.testing.assert_allclose(ours[[4, 6]], dense, atol=1e-12),
            slow=frozenset({"dense masks, 0.5 and 0.7"}),
        )
    ]


def voc_ours(chosen: list[Scene]) -> np.ndarray:
    variant = Variant()
    matches = []
    for scene in chosen:
        truth = ImageTruth(scene.instances, scene.truth_labels)
        matches.append(
            voc_apr.match_image(truth, ImageDetections(scene.masks, scene.labels, scene.scores), variant, 20)
        )
    return voc_apr.average_precision(matches, variant, 20).mean


def voc_dense(chosen: list[Scene]) -> np.ndarray:
    """Two thresholds, as the public evaluators do it: every pair of a truth and a detection compared pixel by pixel."""
    outcomes: dict[int, list[tuple[float, bool, bool]]] = {label: [] for label in range(1, 21)}
    truths = np.zeros(21, np.int64)
    for scene in chosen:
        regions = [scene.instances == number + 1 for number in range(len(scene.truth_labels))]
        shapes = masks.decode(scene.masks, scene.instances.shape)
        np.add.at(truths, scene.truth_labels, 1)
        taken: set[tuple[int, int]] = set()
        for index in np.argsort(-scene.scores, kind="stable"):
            own = np.flatnonzero(scene.truth_labels == scene.labels[index])
            iou = [(regions[n] & shapes[index]).sum() / (regions[n] | shapes[index]).sum() for n in own]
            best = int(np.argmax(iou)) if iou else -1
            hits = []
            for level, threshold in enumerate((0.5, 0.7)):
                hit = best >= 0 and iou[best] >= threshold and (level, own[best]) not in taken
                taken |= {(level, own[best])} if hit else set()
                hits.append(hit)
            outcomes[int(scene.labels[index])].append((float(scene.scores[index]), *hits))
    result = np.full((2, 20), np.nan)
    for label, found in outcomes.items():
        if truths[label]:
            order = sorted(found, key=lambda outcome: -outcome[0])
            for level in (0, 1):
                right = np.array([outcome[1 + level] for outcome in order], np.bool_)
                precision = np.cumsum(right) / np.arange(1, len(right) + 1)
                envelope = np.maximum.accumulate(precision[::-1])[::-1]
                result[level, label - 1] = envelope[right].sum() / truths[label]
    return np.nanmean(result, 1)


BUILDERS = {"voc": voc}
