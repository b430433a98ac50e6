"""VOC AP^r (region average precision) at IoU 0.1 ... 0.9, under each convention that published numbers follow.

AP^r and AP^r_vol: Hariharan et al., "Simultaneous Detection and Segmentation" (SDS), ECCV 2014. Three evaluators are
in use and differ: SDS's MATLAB code, MNC's Python code (shared by FCIS) and chainercv. `Variant` names where:

========  ==========  =====================================================================================
switch    value       meaning                                                                  (as in)
========  ==========  =====================================================================================
integral  "area"      area under the precision envelope over all recalls                       (SDS, chainercv)
          "11-point"  mean of the envelope at recall 0, 0.1 ... 1, VOC 2007                    (MNC, FCIS)
matching  "mnc"       a detection's candidate is the truth of its class with the highest IoU; it is correct
                      if IoU >= threshold and nobody before it took that truth, else false     (MNC, FCIS, chainercv)
          "sds"       the candidate is the best among the truths not yet taken, IoU > threshold (SDS)
void      "count"     void pixels count in a detection's area                                  (all)
          "strip"     void pixels are removed from the detections first                        (MCG's reading of VOC)
absent    "nan"       a class without truth has no AP and does not enter the mean              (chainercv)
          "zero"      a class without truth has AP 0 and enters the mean                       (MNC, FCIS)
========  ==========  =====================================================================================

Fixed for all variants:

* Detections are taken by score, descending; ties by image order, then by order within the image. The references
  leave ties to numpy's unstable sort (MNC, FCIS) or reverse them (chainercv), which moves AP^r by several points
  when a network's scores are coarse.
* Thresholds are the exact tenths: 10 * intersection >= k * union in integers. In floating point 0.1 * 7 > 7/10.
* Detections on images without any truth are false positives. SDS's code overwrites them by the next image's.

`match_image` works per image and its outcome is stored; `average_precision` needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from evaluation import masks
from evaluation.base import Convention, check_counts, copies_present, in_order, mean_of_known
from evaluation.masks import RunLengths

VERSION = "2"  # raise it when any number that this file returns changes; records carry it

TENTHS = np.arange(1, 10)  # the thresholds, times ten
THRESHOLDS = tuple(float(k / 10) for k in TENTHS)

INTEGRALS, MATCHINGS, VOIDS, ABSENTS = ("area", "11-point"), ("mnc", "sds"), ("count", "strip"), ("nan", "zero")
CHOICES = {"integral": INTEGRALS, "matching": MATCHINGS, "void": VOIDS, "absent": ABSENTS}

# MNC, FCIS and chainercv compare in float64 like this, so a recall of exactly 3/10, 6/10 or 7/10 misses its level.
# Kept: this quirk is part of every published 11-point number.
RECALL_LEVELS = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True)
class Variant(Convention):
    """One convention of AP^r; see the table in the module's docstring. ValueError for an unknown value."""

    CHOICES: ClassVar = CHOICES

    integral: str = "area"
    matching: str = "mnc"
    void: str = "count"
    absent: str = "nan"


@dataclass(frozen=True)
class ImageTruth:
    """The annotation of one image.

    ``instances``: (H, W) integer; 0 none, ids 1..N, every id with at least one pixel. ``labels``: (N,) integer in
    1..C, of id 1..N. ``void``: (H, W) bool or None; where it covers an instance, the instance wins.
    """

    instances: np.ndarray
    labels: np.ndarray
    void: np.ndarray | None = None


@dataclass(frozen=True)
class ImageDetections:
    """What a method found in one image.

    ``masks``: M run-length masks of the image's size; they may overlap and may be empty. ``labels``: (M,) int64 in
    1..C. ``scores``: (M,) finite, higher is surer.
    """

    masks: Sequence[RunLengths]
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """Which detections of one image are correct: stored, never matched again.

    ``labels``: (M,) int64 and ``scores``: (M,) float64, as detected. ``correct``: (9, M) bool, one row for each of
    `THRESHOLDS`. ``truth_counts``: (C,) int64, number of truths of class 1..C.
    """

    labels: np.ndarray
    scores: np.ndarray
    correct: np.ndarray
    truth_counts: np.ndarray


@dataclass(frozen=True)
class APr:
    """AP^r in 0..1; NaN where a class has no truth under ``absent="nan"``.

    ``per_class``: (9, C) float64. ``mean``: (9,) over classes. ``vol``: AP^r_vol, the mean over the nine thresholds
    and then over classes. Means skip NaN; they are NaN where no class has truth.
    """

    thresholds: tuple[float, ...]
    per_class: np.ndarray
    mean: np.ndarray
    vol: float


def match_image(truth: ImageTruth, detections: ImageDetections, variant: Variant, num_classes: int) -> ImageMatches:
    """Decide at all nine thresholds which detections of one image are correct.

    ValueError when shapes, sizes, ids, labels or scores are not what the dataclasses promise.
    """
    return match_variants(truth, detections, [variant], num_classes)[0]


def match_variants(
    truth: ImageTruth, detections: ImageDetections, variants: Sequence[Variant], num_classes: int
) -> list[ImageMatches]:
    """`match_image` for several variants at the price of little more than one: the intersections are shared."""
    _check(truth, detections, num_classes)
    count = len(truth.labels)
    regions = masks.encode_ids(truth.instances, count)
    if truth.void is not None and any(variant.void == "strip" for variant in variants):
        regions += masks.encode((truth.void & (truth.instances == 0))[None])
    truth_areas = masks.areas(regions)
    if not truth_areas[:count].all():
        raise ValueError(f"instance id {truth_areas.argmin() + 1} has no pixel; number the instances 1..N without gaps")
    shared = masks.intersections(detections.masks, regions)
    full_areas = masks.areas(detections.masks)
    stripped_areas = full_areas - shared[:, count:].sum(1)

    labels = np.asarray(detections.labels, dtype=np.int64)
    scores = np.asarray(detections.scores, dtype=np.float64)
    truth_counts = np.bincount(np.asarray(truth.labels, np.int64) - 1, minlength=num_classes)
    same_class = labels[:, None] == np.asarray(truth.labels)[None]
    intersection = np.where(same_class, shared[:, :count], 0)
    order = np.argsort(-scores, kind="stable")
    results = []
    for variant in variants:
        detection_areas = stripped_areas if variant.void == "strip" else full_areas
        union = detection_areas[:, None] + truth_areas[None, :count] - shared[:, :count]
        match = _match_mnc if variant.matching == "mnc" else _match_sds
        correct = np.zeros((len(TENTHS), len(labels)), dtype=np.bool_)
        if intersection.any():
            correct[:, order] = match(intersection[order], union[order])
        results.append(ImageMatches(labels, scores, correct, truth_counts))
    return results


def _match_mnc(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """Correct (9, M) of detections in score order; both inputs (M, N) int64, 0 intersection for another class."""
    # Quotients of integers below 2^26 are equal in float64 exactly when the fractions are, so argmax is exact.
    best = (intersection / union).argmax(1)
    rows = np.arange(len(best))
    hits = 10 * intersection[rows, best] >= TENTHS[:, None] * union[rows, best]
    # The first hit on a truth is correct, whoever comes later is a duplicate.
    level, detection = np.nonzero(hits)
    first = np.full((len(TENTHS), union.shape[1]), len(best))
    np.minimum.at(first, (level, best[detection]), detection)
    level, taken = np.nonzero(first < len(best))
    correct = np.zeros_like(hits)
    correct[level, first[level, taken]] = True
    return correct


def _match_sds(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """As `_match_mnc`, with the best of the truths that are still free, threshold by threshold."""
    iou = intersection / union
    over = 10 * intersection > TENTHS[:, None, None] * union  # (9, M, N)
    free = np.ones((len(TENTHS), union.shape[1]), dtype=np.bool_)
    correct = np.zeros(over.shape[:2], dtype=np.bool_)
    levels = np.arange(len(TENTHS))
    for detection in np.flatnonzero(over[0].any(1)):
        best = np.where(free, iou[detection], -1.0).argmax(1)
        hit = over[levels, detection, best] & free[levels, best]
        free[levels[hit], best[hit]] = False
        correct[:, detection] = hit
    return correct


def average_precision(matches: Sequence[ImageMatches], variant: Variant, num_classes: int) -> APr:
    """AP^r of all images together; ``matches`` in image order, made with the same ``variant``.

    A class with truth and no detection has AP 0. ValueError if an image was matched for other classes.
    """
    once = np.ones((1, len(matches)), dtype=np.int64)
    per_class = weighted_average_precision(matches, once, variant, num_classes)[0]
    return APr(THRESHOLDS, per_class, mean_of_known(per_class), float(mean_of_known(per_class.mean(0))))


def weighted_average_precision(
    matches: Sequence[ImageMatches],
    counts: np.ndarray,
    variant: Variant,
    num_classes: int,
    levels: Sequence[int] | None = None,
) -> np.ndarray:
    """AP^r as if image i were present ``counts[b, i]`` times: (B, len(levels), C) float64, for ``counts`` (B, images).

    Equals the AP^r of the list in which every image is written out that often, its copies next to each other.
    ``levels``: rows of `THRESHOLDS`; None for all nine.
    """
    check_counts(counts, len(matches))
    for index, image in enumerate(matches):
        if image.truth_counts.shape != (num_classes,):
            raise ValueError(f"image {index} was matched for {len(image.truth_counts)} classes, not {num_classes}")
    levels = range(len(TENTHS)) if levels is None else levels
    result = np.full((len(counts), len(levels), num_classes), 0.0 if variant.absent == "zero" else np.nan)
    if not matches:
        return result
    positives = counts @ np.stack([image.truth_counts for image in matches])
    labels = np.concatenate([image.labels for image in matches])
    scores = np.concatenate([image.scores for image in matches])
    correct = np.concatenate([image.correct for image in matches], axis=1)
    image_of = np.repeat(np.arange(len(matches)), [len(image.labels) for image in matches])
    order, copy = in_order(labels, scores, image_of, int(counts.max(initial=0)))
    bounds = np.searchsorted(labels[order], np.arange(1, num_classes + 2))
    for column in range(num_classes):
        present = np.flatnonzero(positives[:, column])
        if not len(present):
            continue
        chosen = order[bounds[column] : bounds[column + 1]]
        copies = copy[bounds[column] : bounds[column + 1]]
        weights = copies_present(counts[:, image_of[chosen]][present], copies)
        seen = np.cumsum(weights, axis=1)
        for row, level in enumerate(levels):
            right = correct[level, chosen]
            found = np.cumsum(weights[:, right], axis=1)
            result[present, row, column] = _integrate(found, seen[:, right], positives[present, column], variant)
    return result


def measure(
    matches: Sequence[ImageMatches], counts: np.ndarray, variant: Variant, categories: Sequence[str]
) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    ``ap_r_10`` ... ``ap_r_90`` and ``ap_r_vol`` are means over classes, ``ap_r_50/NAME`` those of one class.
    """
    per_class = weighted_average_precision(matches, counts, variant, len(categories))
    values = {f"ap_r_{10 * tenth}": mean_of_known(per_class[:, row]) for row, tenth in enumerate(TENTHS)}
    values["ap_r_vol"] = mean_of_known(per_class.mean(1))
    for row, tenth in enumerate(TENTHS):
        values |= {f"ap_r_{10 * tenth}/{name}": per_class[:, row, column] for column, name in enumerate(categories)}
    return values


def _integrate(found: np.ndarray, seen: np.ndarray, positives: np.ndarray, variant: Variant) -> np.ndarray:
    """AP (B,) from the T correct detections alone, in score order.

    ``found`` and ``seen``, (B, T) int64: how many correct ones, and how many of all, there are up to and with each.
    That is enough: precision only falls at a false one and only rises along the copies of a correct one, so the
    envelope is decided at the last copy of each correct detection.
    """
    if not found.shape[1]:
        return np.zeros(len(found))
    precision = found / np.maximum(seen, 1)  # 0 / 0 before the first occurrence counts as 0
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    if variant.integral == "area":
        return (np.diff(found, axis=1, prepend=0) * envelope).sum(1) / positives
    recall = found / positives[:, None]
    total = np.zeros(len(found))
    for level in RECALL_LEVELS:
        # Recall rises, so the first detection that reaches the level carries the highest precision from there on.
        reached = recall >= level
        total += np.where(reached.any(1), envelope[np.arange(len(envelope)), reached.argmax(1)], 0.0)
    return total / len(RECALL_LEVELS)


def _check(truth: ImageTruth, detections: ImageDetections, num_classes: int) -> None:
    ids, void, size = truth.instances, truth.void, truth.instances.shape
    if len(size) != 2 or ids.dtype.kind not in "iu":
        raise ValueError(f"instances must be an integer map (H, W), not {ids.dtype} {size}")
    if void is not None and (void.shape != size or void.dtype != np.bool_):
        raise ValueError(f"void must be bool of shape {size}, not {void.dtype} {void.shape}")
    if ids.max(initial=0) != len(truth.labels):
        raise ValueError(f"instances holds ids up to {ids.max(initial=0)}, but there are {len(truth.labels)} labels")
    shapes = [(len(detections.masks),), np.shape(detections.labels), np.shape(detections.scores)]
    if len(set(shapes)) > 1:
        raise ValueError(f"masks, labels and scores must be of one length, not {shapes}")
    for name, labels in (("an annotated", truth.labels), ("a detected", detections.labels)):
        wrong = [int(label) for label in labels if not 1 <= label <= num_classes]
        if wrong:
            raise ValueError(f"{name} instance has the label {wrong[0]}, not one of 1..{num_classes}")
    if not np.isfinite(np.asarray(detections.scores, dtype=np.float64)).all():
        raise ValueError("a score is not a finite number")
    masks.check(detections.masks, size)
