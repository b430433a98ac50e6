"""COCO's AP and AR over masks or boxes: the twelve numbers, per category, and class-agnostic recall.

The definition is the code of pycocotools (Lin et al., "Microsoft COCO", ECCV 2014; cocoeval.py of 2.0.11):

* IoU thresholds 0.5, 0.55 ... 0.95. Sizes: all, small (area up to 32^2), medium (up to 96^2), large; both ends belong
  to a range, so an area of 1024 is small and medium. The area of a truth is the one that its annotation states; that
  of a detection is the number of its pixels, or its box's.
* Detections of an image and class are taken by score, descending, ties in their order, at most 100. Each takes the
  free truth with the highest IoU at or above the threshold; of equal IoU the later truth. Truths to ignore (crowds, and
  those outside of the size range) are looked at only if there is no other, and make the detection ignored: neither
  correct nor false. So is one that finds nothing and lies outside of the size range itself. A crowd is never used up,
  and IoU with a crowd is the shared part of the detection.
* AP: precision, made monotone, read at recall 0, 0.01 ... 1; ties of score go by image, then by order within. AR@K:
  the share of truths found with the first K detections an image and class. Both are means over classes with truth.
* Class-agnostic numbers take all classes for one (useCats = 0), and K detections of an image are of any class. Ties of
  score then go by class, which is the order in which pycocotools puts its lists together.
* Where pycocotools says -1, no truth to find, this file says NaN.

`match_image` and `measure` go image by image, keep no masks, and serve the bootstrap. `evaluation.coco_engine` computes
the same numbers with hotcoco or pycocotools, all images at once; a test holds the two together. An engine's per-image
records are no way to the bootstrap: for 1000 images with 100 detections, hotcoco needs 9 s and 1 GB to hand them over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from pycocotools import mask as coco
from scipy import sparse

from evaluation import masks
from evaluation.base import check_counts, copies_present, in_order, mean_of_known, quotient
from evaluation.masks import RunLengths

VERSION = "1"  # raise it when any number that this file returns changes; records carry it

THRESHOLDS = np.linspace(0.5, 0.95, 10)
SIZES = ("all", "small", "medium", "large")
AREAS = np.array([[0.0, 1e10], [0.0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]])
LIMITS = (1, 10, 100)  # detections of an image and class; AP takes the last
AGNOSTIC_LIMITS = (1, 10, 100, 1000)  # of an image

_RECALL_LEVELS = np.linspace(0.0, 1.0, 101)  # compared in float64, as pycocotools does

# Matching runs for 80 cases at once, one bit of a Python integer each: class-aware and agnostic x sizes x thresholds.
_LEVELS, _LANES = len(THRESHOLDS), len(SIZES) * len(THRESHOLDS)
_EVERY = (1 << 2 * _LANES) - 1
_BYTES = 4 * _LANES // 8  # of what a detection got: correct, and matched at all
_PASSED_BITS = [sum((2**passed - 1) << size * _LEVELS for size in range(len(SIZES))) for passed in range(_LEVELS + 1)]
_SIZE_BITS = [((2**_LEVELS - 1) << size * _LEVELS) * (1 + (1 << _LANES)) for size in range(len(SIZES))]

# recall(agnostic, place in SIZES, limits): (B, limits, 10, C), or (B, limits, 10, 1) if agnostic; NaN without truth
Recall = Callable[[bool, int, Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class ImageTruth:
    """The annotation of one image with N truths.

    ``regions``: N run-length masks of one size, or boxes (N, 4) float64 as x, y, width, height; they may overlap.
    ``labels``: (N,) integer in 1..C. ``crowd``: (N,) bool. ``areas``: (N,) float64, finite, as annotated, in pixels.
    """

    regions: Sequence[RunLengths] | np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    areas: np.ndarray


@dataclass(frozen=True)
class ImageDetections:
    """What a method found in one image.

    ``regions``: M run-length masks of the truths' size, or boxes where those are boxes; they may overlap and be empty.
    ``labels``: (M,) integer in 1..C. ``scores``: (M,) finite, higher is surer.
    """

    regions: Sequence[RunLengths] | np.ndarray
    labels: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """What matching one image with M detections came to: stored, never matched again.

    ``labels``: (M,) int64 and ``scores``: (M,) float64, as detected. ``outcome``: (2, 4, 10, M) int8: 1 correct, 0
    false, -1 ignored; class-aware and class-agnostic, for each of `SIZES` and `THRESHOLDS`. These three are ragged.
    ``truth_counts``: (4, C) int64, truths that are not ignored, by size and class.
    """

    labels: np.ndarray
    scores: np.ndarray
    outcome: np.ndarray
    truth_counts: np.ndarray


def match_image(
    truth: ImageTruth, detections: ImageDetections, num_classes: int, checked: bool = False
) -> ImageMatches:
    """Match one image at every threshold, size range, and with and without classes; for the rest see `check`."""
    check(truth, detections, num_classes, checked)
    labels, truth_labels = (np.asarray(one.labels, np.int64) for one in (detections, truth))
    scores = np.asarray(detections.scores, np.float64)
    ignored = np.asarray(truth.crowd) | _outside(np.asarray(truth.areas, np.float64))  # (4, N)
    truth_counts = np.array([np.bincount(truth_labels[~no] - 1, minlength=num_classes) for no in ignored])
    correct, matched = np.zeros((2, 2, len(SIZES), _LEVELS, len(labels)), np.bool_)
    if len(labels) and len(truth_labels):
        near, right, any_truth = _match(truth, detections, ignored)
        correct[..., near], matched[..., near] = right, any_truth
    outside = _outside(region_areas(detections.regions))[:, None]
    ignorable = (matched & ~correct) | (outside & ~matched)
    return ImageMatches(labels, scores, correct.view(np.int8) - ignorable.view(np.int8), truth_counts)


def _match(
    truth: ImageTruth, detections: ImageDetections, ignored: np.ndarray
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Detections with IoU 0.5 or more, n; in which cases they get a truth to find, and any: (2, 4, 10, n) bool each."""
    labels, truth_labels = np.asarray(detections.labels), np.asarray(truth.labels)
    iou = coco.iou(list(detections.regions), list(truth.regions), truth.crowd.astype(np.uint8))
    detection, target = np.nonzero(iou >= THRESHOLDS[0])
    iou = iou[detection, target]
    # The order of the class-agnostic matching is, within a class, that of the class-aware one: one walk serves both.
    # Of equal IoU the truth that is later in that order comes first.
    surer = -np.asarray(detections.scores)[detection]
    order = np.lexsort((-target, -truth_labels[target], -iou, detection, labels[detection], surer))
    passed = np.searchsorted(THRESHOLDS, iou, side="right")
    same = labels[detection] == truth_labels[target]
    candidates: dict[int, list[tuple[int, int]]] = {}
    columns = (column[order].tolist() for column in (detection, target, passed, same))
    for number, candidate, levels, own in zip(*columns, strict=True):
        bits = _PASSED_BITS[levels]
        candidates.setdefault(number, []).append((candidate, bits << _LANES | (bits if own else 0)))

    wanted = [sum(bits for bits, no in zip(_SIZE_BITS, sizes, strict=True) if not no) for sizes in ignored.T.tolist()]
    free, crowd = [_EVERY] * len(wanted), truth.crowd.tolist()
    outcomes = []
    for pairs in candidates.values():
        left = _EVERY
        for candidate, bits in pairs:
            taken = bits & wanted[candidate] & free[candidate] & left
            free[candidate] ^= taken
            left ^= taken
        after = left
        for candidate, bits in pairs:
            taken = bits & ~wanted[candidate] & free[candidate] & left
            left ^= taken
            if not crowd[candidate]:
                free[candidate] ^= taken
        outcomes.append((_EVERY ^ after) | (_EVERY ^ left) << 2 * _LANES)
    packed = b"".join(bits.to_bytes(_BYTES, "little") for bits in outcomes)
    bits = np.unpackbits(np.frombuffer(packed, np.uint8).reshape(-1, _BYTES), axis=1, bitorder="little")
    correct, matched = bits.T.view(np.bool_).reshape(2, 2, len(SIZES), _LEVELS, len(outcomes))
    return list(candidates), correct, matched


def _outside(areas: np.ndarray) -> np.ndarray:
    """Which of (N,) areas lie outside of each size range: (4, N) bool."""
    return (areas < AREAS[:, :1]) | (areas > AREAS[:, 1:])


def region_areas(regions: Sequence[RunLengths] | np.ndarray) -> np.ndarray:
    """Number of pixels of masks, or width times height of boxes: (N,) float64."""
    return regions[:, 2] * regions[:, 3] if isinstance(regions, np.ndarray) else masks.areas(regions).astype(np.float64)


def measure(matches: Sequence[ImageMatches], counts: np.ndarray, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    The twelve: ``coco_ap``, ``coco_ap_50``, ``coco_ap_75``, ``coco_ap_SIZE``, ``coco_ar_1``, ``coco_ar_10``,
    ``coco_ar_100``, ``coco_ar_SIZE``, for the sizes small, medium and large. Of one category: ``coco_ap/NAME`` and
    ``coco_ap_50/NAME``. Class-agnostic, for K of 1, 10, 100, 1000: ``coco_agnostic_ar_K``, ``coco_agnostic_ar_K_SIZE``
    and, at IoU 0.5, ``coco_agnostic_recall_50_K``.

    They are those of the list in which every image is written out that often, its copies next to each other. ValueError
    if ``counts`` has another shape, or an image was matched for other classes.
    """
    joined = _join(matches, counts, len(categories))
    return named(_average_precision(joined), partial(_recall, joined), categories)


def recalls(matches: Sequence[ImageMatches], counts: np.ndarray, num_classes: int) -> Recall:
    """Recall at each threshold, for any limits and size: what `measure` takes its means of."""
    return partial(_recall, _join(matches, counts, num_classes))


@dataclass(frozen=True)
class _Joined:
    """All images' M detections, and ``truths`` (B, 4, C) to find under ``counts`` (B, images).

    ``ranks``, (2, M): the place by score in the image and class, and in the image. ``order`` and ``copy``:
    see `evaluation.base.in_order`.
    """

    counts: np.ndarray
    truths: np.ndarray
    labels: np.ndarray
    image_of: np.ndarray
    outcome: np.ndarray
    ranks: np.ndarray
    order: np.ndarray
    copy: np.ndarray


def _join(matches: Sequence[ImageMatches], counts: np.ndarray, classes: int) -> _Joined:
    check_counts(counts, len(matches))
    for index, image in enumerate(matches):
        if image.truth_counts.shape != (len(SIZES), classes):
            raise ValueError(f"image {index} was matched for {image.truth_counts.shape[-1]} classes, not {classes}")
    truths = np.array([image.truth_counts for image in matches], np.int64).reshape(len(matches), len(SIZES) * classes)
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in matches)])
    scores = np.concatenate([np.zeros(0), *(image.scores for image in matches)])
    none = np.zeros((2, len(SIZES), _LEVELS, 0), np.int8)
    outcome = np.concatenate([none, *(image.outcome for image in matches)], axis=-1)
    image_of = np.repeat(np.arange(len(matches)), [len(image.labels) for image in matches])
    in_class = np.lexsort((-scores, labels, image_of))
    in_image = np.lexsort((labels, -scores, image_of))
    ranks = np.empty((2, len(labels)), np.int64)
    groups = (image_of * (classes + 1) + labels, image_of)
    for row, (places, group) in enumerate(zip((in_class, in_image), groups, strict=True)):
        ranks[row, places] = np.arange(len(labels)) - np.searchsorted(group[places], group[places])
    truths = (counts @ truths).reshape(len(counts), len(SIZES), classes)
    order, copy = in_order(labels, scores, image_of, int(counts.max(initial=0)))
    return _Joined(counts, truths, labels, image_of, outcome, ranks, order, copy)


def _average_precision(joined: _Joined) -> np.ndarray:
    """AP (B, 4, 10, C); NaN without truth."""
    batch, sizes, classes = joined.truths.shape
    result = np.full((batch, sizes, _LEVELS, classes), np.nan)
    kept = joined.ranks[0, joined.order] < LIMITS[-1]
    listed, copies = joined.order[kept], joined.copy[kept]
    for column in np.flatnonzero(joined.truths.any((0, 1))):
        own = joined.labels[listed] == column + 1
        chosen = listed[own]
        weights = copies_present(joined.counts[:, joined.image_of[chosen]], copies[own])
        for size in range(sizes):
            truths = joined.truths[:, size, column]
            ap = _integrate(joined.outcome[0, size][:, chosen], weights, truths)
            result[:, size, :, column] = np.where(truths[:, None] > 0, ap, np.nan)
    return result


def _integrate(outcome: np.ndarray, weights: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """AP (B, 10) of one class: ``outcome`` (10, M) in score order, ``weights`` (B, M), ``truths`` (B,) to find.

    Only correct detections decide: precision falls at a false one and rises along the copies of a correct one, so the
    envelope is set at the last copy of each, and its recall says how many of the 101 levels are reached with it.
    """
    result = np.zeros((len(weights), _LEVELS))
    if not (outcome == 1).any():
        return result
    rows = np.arange(len(weights))[:, None]
    shares = np.arange(truths.max() + 1) / np.maximum(truths, 1)[:, None]
    reached = np.searchsorted(_RECALL_LEVELS, shares, side="right")  # (B, found): recall levels at or below
    counted = (outcome >= 0).astype(np.int64)
    # What counts hardly differs from threshold to threshold: one sum over all detections, and the differences to it.
    seen_once = (weights * counted[-1]).cumsum(1)
    for level in range(_LEVELS):
        right = np.flatnonzero(outcome[level] == 1)
        if not len(right):
            continue
        seen = seen_once[:, right]
        change = counted[level] - counted[-1]
        moved = np.flatnonzero(change)
        if len(moved):
            more = np.zeros((len(weights), len(moved) + 1), np.int64)
            np.cumsum(weights[:, moved] * change[moved], axis=1, out=more[:, 1:])
            seen += more[:, np.searchsorted(moved, right, side="right")]
        found = weights[:, right].cumsum(1)
        precision = found / np.maximum(seen, 1)  # 0 / 0 before the first occurrence counts as 0
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        result[:, level] = (np.diff(reached[rows, found], axis=1, prepend=0) * envelope).sum(1)
    return result / len(_RECALL_LEVELS)


def _recall(joined: _Joined, agnostic: bool, size: int, limits: Sequence[int]) -> np.ndarray:
    """See `Recall`."""
    counts, truths = joined.counts, joined.truths[:, size]
    total = truths.sum(1, keepdims=True) if agnostic else truths
    width = total.shape[1]
    level, place = np.nonzero(joined.outcome[int(agnostic), size] == 1)
    cell = level * width + (0 if agnostic else joined.labels[place] - 1)
    rank, image = joined.ranks[int(agnostic), place], joined.image_of[place]
    found = np.empty((len(counts), len(limits), _LEVELS, width))
    for row, limit in enumerate(limits):
        first = rank < limit
        entries = (np.ones(first.sum(), np.int64), (cell[first], image[first]))
        table = sparse.csr_array(entries, shape=(_LEVELS * width, counts.shape[1]))
        found[:, row] = (table @ counts.T).T.reshape(len(counts), _LEVELS, width)
    total = total[:, None, None]
    return quotient(found, total)


def named(ap: np.ndarray, recall: Recall, categories: Sequence[str], agnostic: bool = True) -> dict[str, np.ndarray]:
    """Numbers by name, see `measure`, with or without the class-agnostic ones, from ``ap`` (B, 4, 10, C)."""
    values = {"coco_ap": _mean(ap[:, 0]), "coco_ap_50": _mean(ap[:, 0, :1]), "coco_ap_75": _mean(ap[:, 0, 5:6])}
    values |= {f"coco_ap_{name}": _mean(ap[:, size]) for size, name in enumerate(SIZES) if size}
    for limit, found in zip(LIMITS, np.moveaxis(recall(False, 0, LIMITS), 1, 0), strict=True):
        values[f"coco_ar_{limit}"] = _mean(found)
    for size, name in enumerate(SIZES):
        if size:
            values[f"coco_ar_{name}"] = _mean(recall(False, size, LIMITS[-1:])[:, 0])
        if agnostic:
            found = recall(True, size, AGNOSTIC_LIMITS)
            for row, limit in enumerate(AGNOSTIC_LIMITS):
                values[f"coco_agnostic_ar_{limit}" + (f"_{name}" if size else "")] = _mean(found[:, row])
                if not size:
                    values[f"coco_agnostic_recall_50_{limit}"] = found[:, row, 0, 0]
    for column, name in enumerate(categories):
        values[f"coco_ap/{name}"] = ap[:, 0, :, column].mean(1)
        values[f"coco_ap_50/{name}"] = ap[:, 0, 0, column]
    return values


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean (B,) of (B, thresholds, C) over the classes with truth; NaN, and no warning, where there is none."""
    return mean_of_known(values.mean(1))


def check(truth: ImageTruth, detections: ImageDetections, num_classes: int, checked: bool = False) -> None:
    """ValueError unless the two keep what their dataclasses promise, and fit each other.

    ``checked``: all masks have passed `masks.check` with one size; to do it again takes a third of the matching's time.
    """
    columns = ("labels", "crowd", "areas"), ("labels", "scores")
    for name, one, listed in zip(("an annotated", "a detected"), (truth, detections), columns, strict=True):
        shapes = {column: np.shape(getattr(one, column)) for column in listed}
        if set(shapes.values()) != {(len(one.regions),)}:
            raise ValueError(f"{name} instance is incomplete: {len(one.regions)} regions, but {shapes}")
        labels = np.asarray(one.labels)
        for label in labels[(labels < 1) | (labels > num_classes)][:1]:
            raise ValueError(f"{name} instance has the label {label}, not one of 1..{num_classes}")
    if truth.crowd.dtype != np.bool_:
        raise ValueError(f"crowd must be bool, not {truth.crowd.dtype}")
    for name, values in (("an area", truth.areas), ("a score", detections.scores)):
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise ValueError(f"{name} is not a finite number")
    regions = [*truth.regions, *detections.regions]
    if not any(isinstance(region, np.ndarray) for region in regions):
        for one in (truth, detections) if regions and not checked else ():
            masks.check(list(one.regions), tuple(regions[0]["size"]))
    elif any(np.shape(region) != (4,) for region in regions):
        raise ValueError("truths and detections must all be masks, or all boxes (x, y, width, height)")
    elif not np.isfinite(regions).all() or (np.array(regions)[:, 2:] < 0).any():
        raise ValueError("a box is not finite, or has a negative width or height")
