"""Error budget: how much AP^r at IoU 0.5 is lost to each type of error, merges and splits among them.

After TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020), extended by
the two errors of grouping. Correct is what AP^r calls correct (`voc_apr`, default `Variant`, IoU 0.5). Every false
detection has exactly one type, the first in this table that it fits. Its class is the one it was detected as; to lie
in, and to cover, mean at least half of the detection's area, and at least half of the truth's.

==============  ===========================================================  ==========================================
type            the false detection                                          fixed
==============  ===========================================================  ==========================================
duplicate       has IoU >= 0.5 with a truth of its class (taken by a surer   it is removed
                detection, or it would be correct)
classification  has IoU >= 0.5 with a truth of another class                 it finds that truth, in the truth's class
merge           covers two or more truths of its class, and at least half    it is replaced by the truths that it covers
                of it lies in these
split           lies in a truth of its class together with another           the surest piece finds the truth, the
                detection of the class, and the two are pieces: they share   others are removed
                less than half of the smaller one
localisation    has IoU >= 0.1 with a truth of its class                     it finds the truth of its highest IoU
both            has IoU >= 0.1 with a truth of another class                 it is removed
background      is what remains                                              it is removed
missed          (a truth) is found by nothing and by no fix above            it is no longer counted
==============  ===========================================================  ==========================================

* A fix finds only truths that no correct detection found, each once: by the surest of the detections that claim it,
  at that detection's score and place. A detection of the fixed type that finds nothing is removed.
* A correct detection that covers two or more truths of its class is no error, but the others are lost in it: fixing
  merges finds them too, at its score.
* A duplicate may cover a neighbour, too; that truth counts as missed, unless something else claims it.
* What is lost to a type is AP after fixing this type alone minus AP, the mean over classes with truth. It is never
  negative: false detections become correct or go, correct ones are added, truths that nothing found are not counted,
  and each of these can only raise AP. The losses do not add up to 1 - AP: an error can hide behind another, and a
  truth claimed by detections of several types is found by each of these fixes. Fixing all types at once gives AP 1.
* A class in which all truths are missed has AP 1 once they are no longer counted: it lost everything to them. (In
  hotcoco's TIDE it keeps AP 0 and loses nothing.)
* TIDE tries localisation before classification and has neither merge nor split; there they are localisation, both or
  background.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation import masks, voc_apr
from evaluation.base import mean_of_known
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant

VERSION = "1"  # raise it when any number that this file returns changes

CORRECT = 0
TYPES = ("duplicate", "classification", "merge", "split", "localisation", "both", "background")  # numbered 1..7
FINDERS = ("classification", "merge", "split", "localisation")  # the types whose fix finds truths
ERRORS = (*TYPES, "missed")

_HALF = voc_apr.THRESHOLDS.index(0.5)


@dataclass(frozen=True)
class ImageMatches:
    """The errors of one image with M detections and N truths: stored, never matched again.

    ``labels``: (M,) int64 and ``scores``: (M,) float64, as detected. ``types``: (M,) int8, `CORRECT` or the number of
    the entry in `TYPES`. ``truth_labels``: (N,) int64. ``found_by``: (5, N) int64, which detection finds the truth:
    row 0 as things are, row 1 + r when `FINDERS`[r] is fixed; -1 for none. A truth found in row 0 is -1 in the others.
    All five are ragged.
    """

    labels: np.ndarray
    scores: np.ndarray
    types: np.ndarray
    truth_labels: np.ndarray
    found_by: np.ndarray


def match_image(truth: ImageTruth, detections: ImageDetections, num_classes: int) -> ImageMatches:
    """Name the error of every false detection, and who would find each truth if a type were fixed.

    Void pixels count in a detection's area. ValueError as in `voc_apr.match_image`.
    """
    apr = voc_apr.match_image(truth, detections, Variant(), num_classes)
    correct, labels = apr.correct[_HALF], apr.labels
    truth_labels = np.asarray(truth.labels, np.int64)
    regions = masks.encode_ids(truth.instances, len(truth_labels))
    shared = masks.intersections(detections.masks, regions)  # (M, N), as all pairs below
    areas, truth_areas = masks.areas(detections.masks)[:, None], masks.areas(regions)[None]
    union = areas + truth_areas - shared
    iou = shared / union
    own = labels[:, None] == truth_labels[None]
    hits, near = 2 * shared >= union, 10 * shared >= union
    covers = own & (2 * shared >= truth_areas)
    merging = (covers.sum(1) >= 2) & (2 * np.where(covers, shared, 0).sum(1) >= areas[:, 0])
    lies_in = _first_best(np.where(own & (2 * shared >= areas), shared, 0))

    tests = {
        "duplicate": (own & hits).any(1),
        "classification": (~own & hits).any(1),
        "merge": merging,
        "split": _pieces(detections.masks, areas[:, 0], lies_in),
        "localisation": (own & near).any(1),
        "both": (~own & near).any(1),
    }
    types = np.select([correct, *tests.values()], np.arange(len(tests) + 1), len(TYPES)).astype(np.int8)

    best_own, best_other = _first_best(np.where(own, iou, 0)), _first_best(np.where(own, 0, iou))
    merging &= correct | (types == _number("merge"))
    order = np.argsort(-apr.scores, kind="stable")
    found = _surest(best_own & correct[:, None], order)
    claims = {"classification": best_other, "merge": covers, "split": lies_in, "localisation": best_own}
    claimants = {name: merging if name == "merge" else types == _number(name) for name in FINDERS}
    fixed = [_surest(claims[name] & claimants[name][:, None] & (found < 0), order) for name in FINDERS]
    return ImageMatches(labels, apr.scores, types, truth_labels, np.stack([found, *fixed]))


def fix(image: ImageMatches, errors: Collection[str], num_classes: int) -> voc_apr.ImageMatches:
    """The image as AP^r would see it without these ``errors``, a part of `ERRORS`; none gives it as it is.

    All nine rows of ``correct`` are the one of IoU 0.5.
    """
    kept = np.flatnonzero(~np.isin(image.types, [_number(name) for name in errors if name in TYPES]))
    rows = image.found_by[[1 + row for row, name in enumerate(FINDERS) if name in errors]]
    surest = np.append(image.scores, -np.inf)[rows].argmax(0) if len(rows) else 0
    finder = np.vstack([rows, np.full(len(image.truth_labels), -1)])[surest, np.arange(len(image.truth_labels))]
    found = np.flatnonzero(finder >= 0)
    place = np.concatenate([kept, finder[found]])
    labels = np.concatenate([image.labels[kept], image.truth_labels[found]])
    correct = np.concatenate([image.types[kept] == CORRECT, np.ones(len(found), np.bool_)])
    # Ties of score go by place in the list; a new one comes after the detection that it is from.
    order = np.argsort(place, kind="stable")
    counted = image.truth_labels[~_missed(image)] if "missed" in errors else image.truth_labels
    return voc_apr.ImageMatches(
        labels[order],
        image.scores[place[order]],
        np.broadcast_to(correct[order], (len(voc_apr.THRESHOLDS), len(order))),
        np.bincount(counted - 1, minlength=num_classes),
    )


def measure(matches: Sequence[ImageMatches], counts: np.ndarray, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    ``ap_r_50``: what there is to explain. ``lost_ERROR`` for each of `ERRORS`, mean over the classes with truth, and
    ``lost_ERROR/NAME`` of one class; NaN without truth. ``errors_TYPE``: number of false detections of the type.
    ``truths_TYPE`` for each of `FINDERS`: number of truths that its fix finds; ``truths_missed``: of missed truths.
    """
    before = _per_class(matches, counts, (), len(categories))
    values = {"ap_r_50": mean_of_known(before)}
    for error in ERRORS:
        after = _per_class(matches, counts, (error,), len(categories))
        lost = np.where(np.isnan(after), 1.0, after) - before  # NaN after: all truths of the class were missed
        values[f"lost_{error}"] = mean_of_known(lost)
        values |= {f"lost_{error}/{name}": lost[:, column] for column, name in enumerate(categories)}
    for error in TYPES:
        values[f"errors_{error}"] = _total(counts, [(image.types == _number(error)).sum() for image in matches])
    for row, error in enumerate(FINDERS):
        values[f"truths_{error}"] = _total(counts, [(image.found_by[1 + row] >= 0).sum() for image in matches])
    values["truths_missed"] = _total(counts, [_missed(image).sum() for image in matches])
    return values


def _per_class(
    matches: Sequence[ImageMatches], counts: np.ndarray, errors: Collection[str], classes: int
) -> np.ndarray:
    """AP at IoU 0.5 without ``errors``: (B, C), NaN for a class without truth."""
    fixed = [fix(image, errors, classes) for image in matches]
    return voc_apr.weighted_average_precision(fixed, counts, Variant(), classes, [_HALF])[:, 0]


def _total(counts: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    return (counts @ np.array(numbers, dtype=np.int64)).astype(np.float64)


def _missed(image: ImageMatches) -> np.ndarray:
    return (image.found_by < 0).all(0)


def _number(name: str) -> int:
    return 1 + TYPES.index(name)


def _pieces(regions: Sequence[masks.RunLengths], areas: np.ndarray, lies_in: np.ndarray) -> np.ndarray:
    """Which detections (M,) lie in a truth together with another one that they share less than half with.

    ``areas``: (M,) int64; ``lies_in``: (M, N) bool, at most one truth each.
    """
    pieces = np.zeros(len(areas), dtype=np.bool_)
    inside = np.flatnonzero((lies_in & (lies_in.sum(0) >= 2)).any(1))
    some = [regions[index] for index in inside]
    home, area = lies_in[inside], areas[inside]
    together = home @ home.T
    apart = 2 * masks.intersections(some, some) < np.minimum(area[:, None], area[None])
    pieces[inside] = (together & apart).any(1)  # never its own partner: it shares all of itself
    return pieces


def _first_best(values: np.ndarray) -> np.ndarray:
    """Mark the first of the highest values in each row of (M, N), unless that is 0: bool."""
    best = values == values.max(1, initial=0)[:, None]
    return best & (values > 0) & (best.cumsum(1) == 1)


def _surest(claims: np.ndarray, order: np.ndarray) -> np.ndarray:
    """For each truth (N,) the first detection in ``order`` (M,) that claims it in ``claims`` (M, N), -1 for none."""
    if not len(order):
        return np.full(claims.shape[1], -1)
    return np.where(claims.any(0), order[claims[order].argmax(0)], -1)
