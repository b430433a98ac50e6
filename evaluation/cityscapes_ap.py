"""Cityscapes instance AP: AP, AP50, AP100m, AP50m, over all classes and for each one.

The definition is the official evaluator, evalInstanceLevelSemanticLabeling.py of cityscapesscripts 2.3.0. Everything
happens within one of the eight classes that have instances; other labels of the truth are at most void.

* An id of 1000 or more in the truth is one object: label 26 and number 3 make 26003. The id 26 itself is a *group*:
  cars that nobody told apart. Groups are never looked for.
* IoU counts every pixel of a prediction, those on void as well. It must be greater than the threshold: 0.5, 0.55 ...
  0.95. Compared in integers, which decides as the official floating point does: its thresholds are never below k/20.
* Of the predictions that hit one object, the one with the highest score is correct and the others are false. Truths
  do not overlap, so above 0.5 a prediction hits at most one.
* An object is looked for if it has enough pixels and is near enough; see `RANGES`. A prediction that hits a group or
  an object that is not looked for is dropped: neither correct nor false.
* A prediction that hits nothing is dropped if the part of it that lies on void, on groups and on objects that are not
  looked for is greater than the threshold; otherwise it is false. A group that is also too small or too far counts
  twice in that part, as it does in the official code, so the part can exceed 1.
* Void are the labels that the official table excludes from evaluation. A caravan's or trailer's *object* (29003) is
  not void, only its group (29) is.
* Empty predictions do not exist.
* AP: one point of precision and recall for each score that occurs, so the order of equal scores does not matter; the
  point (recall 0, precision 1) in front; the area under the straight lines between them. (The official code writes the
  trapezoids as a convolution of recall.) Precision is not made monotone.
* A class without an object to look for has no AP, NaN, and does not enter the mean. With objects and without a
  prediction it has AP 0. Where every prediction of such a class is dropped, the official code stops with an
  IndexError; here its AP is 0 as well.

Distances of objects are not part of the public annotation. Without them every object has the distance -1 with
confidence 0, as in the official code, and the numbers at 100 m and 50 m are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from evaluation import masks
from evaluation.base import check_counts, mean_of_known
from evaluation.masks import RunLengths

VERSION = "1"  # raise it when any number that this file returns changes; records carry it

TWENTIETHS = np.arange(10, 20)  # the thresholds, times twenty
OVERLAPS = tuple(float(k / 20) for k in TWENTIETHS)

# Cityscapes' label ids, -1 ... 33: the classes that are evaluated, and the labels that are excluded from evaluation.
CLASSES = {
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
VOID_IDS = (-1, 0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
LABEL_IDS = range(-1, 34)
FIRST_OBJECT = 1000  # ids from here on are label * 1000 + number

# Which objects are looked for: pixels at least, metres at most, confidence of the distance at least.
RANGES = ("all", "100m", "50m")
_LEAST_PIXELS = np.array([[100], [1000], [1000]])
_MOST_METRES = np.array([[np.inf], [100.0], [50.0]])
_LEAST_CONFIDENCE = np.array([[-np.inf], [0.5], [0.5]])

_CLASS_IDS = np.array(list(CLASSES))


@dataclass(frozen=True)
class Distances:
    """How far the objects of one image are from the camera.

    ``ids``: (N,) integer ids of the truth's map, each once; an id that is not named has the distance -1 and the
    confidence 0. ``metres``: (N,), median over the object's pixels. ``confidences``: (N,) in 0..1, the share of pixels
    with a known distance. Neither may be NaN.
    """

    ids: np.ndarray
    metres: np.ndarray
    confidences: np.ndarray


@dataclass(frozen=True)
class ImageTruth:
    """The annotation of one image.

    ``ids``: (H, W) integer, the map that Cityscapes calls instanceIds: label ids of `LABEL_IDS`, and from 1000 on
    label id * 1000 + number.
    """

    ids: np.ndarray
    distances: Distances | None = None


@dataclass(frozen=True)
class ImageDetections:
    """What a method found in one image.

    ``masks``: M run-length masks of the image's size; they may overlap and may be empty. ``label_ids``: (M,) integer,
    keys of `CLASSES`. ``scores``: (M,) finite, higher is surer.
    """

    masks: Sequence[RunLengths]
    label_ids: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """What matching one image came to: stored, never matched again. M counts the detections that have a pixel.

    ``label_ids``: (M,) int64 and ``scores``: (M,) float64, as detected. ``outcome``: (3, 10, M) int8, for each of
    `RANGES` and `OVERLAPS`: 1 correct, 0 false, -1 dropped. These three are ragged. ``truth_counts``: (3, 8) int64,
    objects to look for by range and class.
    """

    label_ids: np.ndarray
    scores: np.ndarray
    outcome: np.ndarray
    truth_counts: np.ndarray


def match_image(truth: ImageTruth, detections: ImageDetections) -> ImageMatches:
    """Decide for every range and threshold what each detection of one image is.

    ValueError when shapes, sizes, ids, labels or scores are not what the dataclasses promise.
    """
    _check(truth, detections)
    ids, regions = _regions(truth.ids)
    labels = np.where(ids < FIRST_OBJECT, ids, ids // FIRST_OBJECT)
    truth_areas = masks.areas(regions)[: len(ids)]
    group, unwanted = ids < FIRST_OBJECT, _unwanted(ids, truth_areas, truth.distances)
    wanted = ~group & ~unwanted  # (3, N)
    truth_counts = (wanted[:, None] & (labels == _CLASS_IDS[:, None])).sum(2)

    areas = masks.areas(detections.masks)
    real = np.flatnonzero(areas)
    areas = areas[real]
    label_ids = np.asarray(detections.label_ids, np.int64)[real]
    scores = np.asarray(detections.scores, np.float64)[real]
    shared = masks.intersections([detections.masks[index] for index in real], regions)
    on_void = shared[:, len(ids)]
    shared = np.where(label_ids[:, None] == labels, shared[:, : len(ids)], 0)
    ignorable = on_void + (group + unwanted.astype(np.int64)) @ shared.T  # (3, M)
    outcome = np.where(20 * ignorable[:, None] > TWENTIETHS[:, None] * areas, -1, 0)

    # Truths do not overlap, so one that shares more than half of the union is the only one.
    union = areas[:, None] + truth_areas - shared
    detection, target = np.nonzero(20 * shared > TWENTIETHS[0] * union)
    surest_first = np.argsort(-scores[detection], kind="stable")
    detection, target = detection[surest_first], target[surest_first]
    over = 20 * shared[detection, target] > TWENTIETHS[:, None] * union[detection, target]
    for level, hit in enumerate(over):
        outcome[:, level, detection[hit]] = np.where(wanted[:, target[hit]], 0, -1)
        _, first = np.unique(target[hit], return_index=True)
        best = np.flatnonzero(hit)[first]
        outcome[:, level, detection[best]] = np.where(wanted[:, target[best]], 1, -1)
    return ImageMatches(label_ids, scores, outcome.astype(np.int8), truth_counts)


def _regions(truth: np.ndarray) -> tuple[np.ndarray, list[RunLengths]]:
    """The objects and groups of the eight classes: their ids (N,) int64, ascending, and N + 1 masks, void's at the end.

    ValueError for an id that is not Cityscapes'.
    """
    height, width = truth.shape
    # Runs go down the columns, as in a run-length mask. Comparing rows and sorting the few changes is ten times as fast
    # as turning the map around.
    row, column = np.divmod(np.flatnonzero(truth[1:] != truth[:-1]), width)
    starts = np.sort(np.concatenate([np.arange(width) * height, column * height + row + 1]))
    ends = np.append(starts[1:], height * width)
    ids, number = np.unique(truth[starts % height, starts // height].astype(np.int64), return_inverse=True)
    labels = np.where(ids < FIRST_OBJECT, ids, ids // FIRST_OBJECT)
    unknown = ids[(labels < LABEL_IDS[0]) | (labels > LABEL_IDS[-1])]
    if len(unknown):
        raise ValueError(f"the id {unknown[0]} is none of Cityscapes: neither a label id nor label id * 1000 + number")
    evaluated, void = np.isin(labels, _CLASS_IDS), np.isin(ids, VOID_IDS)
    region = np.where(evaluated, np.cumsum(evaluated) - 1, np.where(void, evaluated.sum(), -1))[number]
    order = np.argsort(region, kind="stable")
    bounds = np.searchsorted(region[order], np.arange(evaluated.sum() + 2))
    parts = [order[first:last] for first, last in pairwise(bounds)]
    return ids[evaluated], [masks.encode_runs(starts[part], ends[part], truth.shape) for part in parts]


def _unwanted(ids: np.ndarray, areas: np.ndarray, distances: Distances | None) -> np.ndarray:
    """Too small, too far, or of unknown distance, for each range: (3, N) bool."""
    metres, confidences = np.full(len(ids), -1.0), np.zeros(len(ids))
    if distances is not None:
        _, here, there = np.intersect1d(ids, distances.ids, return_indices=True)
        metres[here], confidences[here] = distances.metres[there], distances.confidences[there]
    return (areas < _LEAST_PIXELS) | (metres > _MOST_METRES) | (confidences < _LEAST_CONFIDENCE)


def average_precision(matches: Sequence[ImageMatches], counts: np.ndarray) -> np.ndarray:
    """AP as if image i were present ``counts[b, i]`` times: (B, 3, 10, 8) float64, for ``counts`` (B, images) int64.

    The axes are `RANGES`, `OVERLAPS` and `CLASSES`. NaN where a class has no object to look for.
    """
    check_counts(counts, len(matches))
    result = np.full((len(counts), len(RANGES), len(OVERLAPS), len(CLASSES)), np.nan)
    if not matches:
        return result
    positives = np.tensordot(counts, np.stack([image.truth_counts for image in matches]), 1)  # (B, 3, 8)
    label_ids = np.concatenate([image.label_ids for image in matches])
    scores = np.concatenate([image.scores for image in matches])
    outcome = np.concatenate([image.outcome for image in matches], axis=2)
    image_of = np.repeat(np.arange(len(matches)), [len(image.label_ids) for image in matches])
    for column, label in enumerate(CLASSES):
        chosen = np.flatnonzero(label_ids == label)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        descending = -scores[chosen]
        begins, ends = (np.searchsorted(descending, descending, side) for side in ("left", "right"))
        for place in range(len(RANGES)):
            present = np.flatnonzero(positives[:, place, column])
            if not len(present):
                continue
            weights = counts[present][:, image_of[chosen]]
            seen = _running_sum(weights)
            for level in range(len(OVERLAPS)):
                area = _area(weights, seen, outcome[place, level, chosen], begins, ends)
                result[present, place, level, column] = area / positives[present, place, column]
    return result


def _area(
    weights: np.ndarray, seen: np.ndarray, outcome: np.ndarray, begins: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Area under precision over the number of correct ones, (B,), from D detections in score order.

    ``weights``: (B, D) int64 and ``seen``: (B, D + 1), their running sum. ``begins`` and ``ends``: (D,), the positions
    of the first detection of equal score and after the last. Only a score at which something is correct has a width.
    """
    right, dropped = np.flatnonzero(outcome == 1), np.flatnonzero(outcome == -1)
    found, lost = _running_sum(weights[:, right]), _running_sum(weights[:, dropped])

    def curve(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Correct ones before each position, and their precision; 1 where there is nothing, the point in front."""
        correct = found[:, np.searchsorted(right, positions)]
        counted = seen[:, positions] - lost[:, np.searchsorted(dropped, positions)]
        return correct, np.where(counted > 0, correct / np.maximum(counted, 1), 1.0)

    before, high = curve(np.unique(begins[right]))
    after, low = curve(np.unique(ends[right]))
    return ((after - before) * (high + low)).sum(1) / 2


def _running_sum(weights: np.ndarray) -> np.ndarray:
    """(B, D) -> (B, D + 1): the sum of the first 0, 1 ... D columns."""
    sums = np.zeros((weights.shape[0], weights.shape[1] + 1), weights.dtype)
    np.cumsum(weights, axis=1, out=sums[:, 1:])
    return sums


def measure(matches: Sequence[ImageMatches], counts: np.ndarray) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    ``cs_ap``: over all thresholds; ``cs_ap_50``: at 0.5; ``cs_ap_100m``, ``cs_ap_50m``: over all thresholds, near
    objects only. They are means over classes; ``cs_ap/NAME`` and so on are those of one class.
    """
    ap = average_precision(matches, counts)
    per_class = {
        "cs_ap": ap[:, 0].mean(1),
        "cs_ap_50": ap[:, 0, 0],
        "cs_ap_100m": ap[:, 1].mean(1),
        "cs_ap_50m": ap[:, 2].mean(1),
    }
    values = {name: mean_of_known(table) for name, table in per_class.items()}
    for name, table in per_class.items():
        values |= {f"{name}/{label}": table[:, column] for column, label in enumerate(CLASSES.values())}
    return values


def _check(truth: ImageTruth, detections: ImageDetections) -> None:
    ids, size, distances = truth.ids, truth.ids.shape, truth.distances
    if len(size) != 2 or 0 in size or ids.dtype.kind not in "iu":
        raise ValueError(f"ids must be an integer map (H, W) with a pixel, not {ids.dtype} {size}")
    if distances is not None:
        shapes = [np.shape(one) for one in (distances.ids, distances.metres, distances.confidences)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1:
            raise ValueError(f"ids, metres and confidences must be of one length, not {shapes}")
        if len(np.unique(distances.ids)) < len(distances.ids):
            raise ValueError("an id has two distances")
        if np.isnan(distances.metres).any() or np.isnan(distances.confidences).any():
            raise ValueError("a distance or its confidence is not a number")
    shapes = [(len(detections.masks),), np.shape(detections.label_ids), np.shape(detections.scores)]
    if len(set(shapes)) > 1:
        raise ValueError(f"masks, label_ids and scores must be of one length, not {shapes}")
    wrong = [label for label in np.asarray(detections.label_ids).tolist() if label not in CLASSES]
    if wrong:
        raise ValueError(f"a detection has the label id {wrong[0]}, not one of {', '.join(map(str, CLASSES))}")
    if not np.isfinite(np.asarray(detections.scores, dtype=np.float64)).all():
        raise ValueError("a score is not a finite number")
    masks.check(detections.masks, size)
