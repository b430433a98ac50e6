"""Class-agnostic proposals: how many instances the K surest masks of an image find, and the average recall (AR).

Recall at K and IoU t is the share of all instances, pooled over all images, that a proposal finds with IoU t when each
image gives its K proposals with the highest scores. Three evaluators are in use: Hosang et al., "What makes for
effective detection proposals?", PAMI 2016; MCG's benchmark (Pont-Tuset et al., "Multiscale Combinatorial Grouping",
PAMI 2017), which is for masks; COCO's with ``useCats = 0``. `Variant` names where they differ:

========  ========  =====================================================================================
switch    value     meaning                                                                  (as in)
========  ========  =====================================================================================
matching  "max"     a truth has the highest IoU of all proposals; one proposal may serve two         (MCG)
          "greedy"  the pair with the highest IoU is taken, then the highest of those whose
                    truth and proposal are both free, and so on; the score has no say          (Hosang)
          "score"   by descending score, each proposal takes the free truth with the highest
                    IoU if that passes the threshold                                             (COCO)
void      "count"   void pixels count in a proposal's area                                 (Hosang, COCO)
          "strip"   void pixels are removed from the proposals first                                (MCG)
hit       ">="      IoU >= t                                         (Hosang, COCO, MCG's average recall)
          ">"       IoU > t                                                     (MCG's recall at one IoU)
========  ========  =====================================================================================

The default is MCG's matching, with void counted as in `evaluation.voc_apr`. For truths that do not overlap one
another the three matchings agree above IoU 0.5, since a mask can have that with one truth only; at 0.5 they differ
where a proposal is the union of two equal truths.

AR is given by both published integrals. ``ar@K``: mean of the recall at 0.5, 0.55 ... 0.95 (COCO). ``ar_hosang@K``:
twice the area under recall over IoU from 0.5 to 1, by the trapezoidal rule with step 0.001 (Hosang's code). The first
is never the smaller, since each of its levels stands for the 0.05 above it too. MCG's code adds the level 1.0 to the
first; that is the mean of `recall_over_iou` at those eleven.

Fixed for all variants:

* Equal scores are taken in the order of the proposals. An image with fewer than K proposals gives all that it has;
  ``proposals@K`` is the mean number that was used.
* Instances of images without a proposal count as not found.
* COCO's crowds are left out of the truths: in COCO's evaluation they only excuse false detections, and recall knows
  none. They have no part in the matching of the others either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pycocotools import mask as coco

from evaluation import masks
from evaluation.base import Convention, check_counts, quotient
from evaluation.masks import RunLengths

VERSION = "1"  # raise it when any number that this file returns changes; records carry it

KS = (1, 3, 5, 10, 30, 60, 100, 300, 1000)  # numbers of proposals per image; the table of RPE has 10, 30 and 60
LEVELS = tuple(k / 20 for k in range(10, 20))  # IoUs of COCO's average recall
CURVE = tuple(k / 100 for k in range(50, 101))  # IoUs of a recall curve
SHOWN = (50, 75)  # IoUs, in hundredths, whose recall `measure` gives

# Hosang's grid is the range 0:0.001:1. As Octave rounds it, some of its points lie a little above the decimal: an IoU
# of exactly 7/10 misses 0.7. Kept, since the golden values were made so; MATLAB may round other points up.
GRID = np.arange(500, 1001) * 0.001
# Twice the trapezoidal rule's weight of the first n points of the grid: 0, 1, 3 ... 999, 1000.
_HALVES = np.minimum(np.maximum(2 * np.arange(len(GRID) + 1) - 1, 0), 2 * len(GRID) - 2)

MATCHINGS, VOIDS, HITS = ("max", "greedy", "score"), ("count", "strip"), (">=", ">")
CHOICES = {"matching": MATCHINGS, "void": VOIDS, "hit": HITS}


@dataclass(frozen=True)
class Variant(Convention):
    """One convention of recall; see the table in the module's docstring. ValueError for an unknown value."""

    CHOICES: ClassVar = CHOICES

    matching: str = "max"
    void: str = "count"
    hit: str = ">="


@dataclass(frozen=True)
class ImageTruth:
    """The annotation of one image.

    ``masks``: N run-length masks, none empty. Run lengths and not a map of ids, because COCO's instances overlap;
    `evaluation.masks.encode_ids` makes them of a map. ``size``: (height, width). ``void``: one run-length mask or
    None; where it covers an instance, the instance wins.
    """

    masks: Sequence[RunLengths]
    size: tuple[int, int]
    void: RunLengths | None = None


@dataclass(frozen=True)
class ImageProposals:
    """What a method proposes in one image.

    ``masks``: M run-length masks of the image's size; they may overlap and may be empty. ``scores``: (M,) finite,
    higher is surer.
    """

    masks: Sequence[RunLengths]
    scores: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """How well the instances of one image are found: stored, never matched again.

    ``overlaps``: (len(KS), N) float64, ragged; the IoU up to which the K surest proposals find each truth, 0 for a
    truth that they do not touch. ``proposals``: (1,) int64, number of proposals M.

    A quotient of two areas in float64 is as exact as the two integers: it equals the nearest float64 of k/20 only if
    20 * intersection = k * union, and no two IoUs of an image of less than 2^26 pixels fall together.
    """

    overlaps: np.ndarray
    proposals: np.ndarray


def match_image(truth: ImageTruth, found: ImageProposals, variant: Variant = Variant()) -> ImageMatches:
    """Match the proposals of one image to its truths, for every K of `KS`.

    ValueError when sizes, masks or scores are not what the dataclasses promise.
    """
    return match_variants(truth, found, [variant])[0]


def match_variants(truth: ImageTruth, found: ImageProposals, variants: Sequence[Variant]) -> list[ImageMatches]:
    """`match_image` for several variants at the price of little more than one: the intersections are shared."""
    _check(truth, found)
    truth_areas = masks.areas(truth.masks)
    if not truth_areas.all():
        raise ValueError(f"annotated instance {truth_areas.argmin()} has no pixel")
    order = np.argsort(-np.asarray(found.scores, dtype=np.float64), kind="stable")
    used = [found.masks[index] for index in order[: KS[-1]]]
    intersection = masks.intersections(used, truth.masks)
    areas = {"count": masks.areas(used)}
    areas["strip"] = areas["count"]
    if truth.void is not None and any(variant.void == "strip" for variant in variants):
        areas["strip"] = areas["count"] - _on_void(used, truth)
    matchers = {"max": _match_max, "greedy": _match_greedy, "score": _match_by_score}
    outcomes = {}  # by matching and void: what a hit is has no part in the matching
    for matching, void in {(variant.matching, variant.void) for variant in variants}:
        iou = intersection / (areas[void][:, None] + truth_areas[None] - intersection)
        overlaps = matchers[matching](iou) if iou.size else np.zeros((len(KS), len(truth_areas)))
        outcomes[matching, void] = ImageMatches(overlaps, np.array([len(found.masks)]))
    return [outcomes[variant.matching, variant.void] for variant in variants]


def _on_void(proposals: Sequence[RunLengths], truth: ImageTruth) -> np.ndarray:
    """Number of void pixels in each proposal, without those that an instance covers: (M,) int64."""
    taken = coco.merge([coco.merge(list(truth.masks)), truth.void], intersect=True) if truth.masks else None
    regions = [truth.void] if taken is None else [truth.void, taken]
    shared = masks.intersections(proposals, regions)
    return shared[:, 0] - shared[:, 1:].sum(1)


def _match_max(iou: np.ndarray) -> np.ndarray:
    """Overlaps (len(KS), N) of the IoUs (M, N) of proposals in score order; M and N at least 1."""
    return np.maximum.accumulate(iou, axis=0)[np.minimum(KS, len(iou)) - 1]


def _match_greedy(iou: np.ndarray) -> np.ndarray:
    """As `_match_max`, each proposal and each truth at most once.

    Equal IoUs are taken in the order of their indices. Hosang's code goes by the truths' first or by the proposals',
    whichever are fewer, which comes to the same: truths and proposals that prefer low indices, on both sides alike,
    have only one stable matching.
    """
    overlaps = np.zeros((len(KS), iou.shape[1]))
    for row, number in enumerate(np.minimum(KS, len(iou))):
        if row and number == min(KS[row - 1], len(iou)):
            overlaps[row] = overlaps[row - 1]
            continue
        left = iou[:number].copy()
        while left.any():
            proposal, truth = np.unravel_index(left.argmax(), left.shape)
            overlaps[row, truth] = left[proposal, truth]
            left[proposal] = left[:, truth] = 0
    return overlaps


def _match_by_score(iou: np.ndarray) -> np.ndarray:
    """As `_match_max`, with COCO's matching, whose outcome depends on the threshold, for all thresholds at once.

    What is found at some threshold is also found at every lower one: by induction over the proposals, the truths that
    are free at the lower threshold are free at the higher one too. So one number per truth says it all, the highest
    threshold at which it is found. A new proposal takes its best truth at the thresholds where that is free, which
    are those above the truth's number so far; for those below, it goes on to its next best truth.
    """
    reached = [0.0] * iou.shape[1]
    # COCO prefers the later of two truths with equal IoU.
    preference = iou.shape[1] - 1 - np.argsort(-iou[:, ::-1], axis=1, kind="stable")
    overlaps = np.zeros((len(KS), iou.shape[1]))
    bounds = np.minimum(KS, len(iou))
    for row, (start, stop) in enumerate(zip(np.append(0, bounds), bounds, strict=False)):
        for proposal in start + np.flatnonzero(iou[start:stop].any(1)):
            limit = 1.0  # this proposal is still to be had at thresholds up to here
            for truth in preference[proposal]:
                new = min(limit, iou[proposal, truth])
                if new > reached[truth]:
                    limit, reached[truth] = reached[truth], new
        overlaps[row] = reached
    return overlaps


def measure(matches: Sequence[ImageMatches], counts: np.ndarray, variant: Variant = Variant()) -> dict[str, np.ndarray]:
    """All numbers by name under image weights ``counts`` (B, images), see `evaluation.statistics.Measure`.

    For each K of `KS`: ``recall_50@K``, ``recall_75@K``, ``ar@K``, ``ar_hosang@K``, pooled over instances and NaN
    without any; ``proposals@K``, the mean number of proposals used in an image. ``variant`` must be the one matched.
    """
    check_counts(counts, len(matches))
    overlaps, bounds = _pooled(matches)
    images = np.repeat(np.arange(len(matches)), np.diff(bounds))
    weights = counts.astype(np.float64)  # every sum is an integer below 2^53: exact, and much faster than in int64
    instances = weights @ np.diff(bounds)
    available = np.array([match.proposals[0] for match in matches], dtype=np.int64)

    def mean(points: np.ndarray, most: int) -> np.ndarray:
        """Mean of ``points`` over the instances, as a share of the ``most`` that one can get: (B,)."""
        total = weights @ np.bincount(images, points, len(matches))
        return quotient(total, most * instances)

    values = {}
    for row, number in enumerate(KS):
        passed = _levels_passed(overlaps[row], LEVELS, variant)
        for hundredths in SHOWN:
            found = passed > LEVELS.index(hundredths / 100)
            values[f"recall_{hundredths}@{number}"] = mean(found, 1)
        values[f"ar@{number}"] = mean(passed, len(LEVELS))
        values[f"ar_hosang@{number}"] = mean(_HALVES[_levels_passed(overlaps[row], GRID, variant)], int(_HALVES[-1]))
        values[f"proposals@{number}"] = quotient(weights @ np.minimum(available, number), weights.sum(1))
    return values


def recall_over_iou(
    matches: Sequence[ImageMatches], number: int, levels: Sequence[float] = CURVE, variant: Variant = Variant()
) -> np.ndarray:
    """Recall of the ``number`` surest proposals at each of ``levels``, ascending IoUs in (0, 1]: (len(levels),).

    NaN without an instance. ValueError for a number that is not in `KS` and for levels out of order or range.
    """
    if number not in KS:
        raise ValueError(f"matches hold the recall of {', '.join(map(str, KS))} proposals, not of {number}")
    steps = np.diff(levels, prepend=0.0)
    if not len(steps) or not (steps > 0).all() or levels[-1] > 1:
        raise ValueError(f"levels must ascend within (0, 1], not {list(levels)}")
    overlaps = _pooled(matches)[0][KS.index(number)]
    passed = np.bincount(_levels_passed(overlaps, levels, variant), minlength=len(levels) + 1)
    found = np.cumsum(passed[::-1])[::-1][1:]  # those that passed at least so many levels
    return quotient(found.astype(np.float64), np.float64(len(overlaps)))


def recall_over_k(matches: Sequence[ImageMatches], iou: float, variant: Variant = Variant()) -> np.ndarray:
    """Recall at one ``iou`` in (0, 1] for each K of `KS`: (len(KS),). Hosang's abscissa is `proposals_used`, not K."""
    return np.array([recall_over_iou(matches, number, [iou], variant)[0] for number in KS])


def proposals_used(matches: Sequence[ImageMatches]) -> np.ndarray:
    """Mean number of proposals that an image gives when asked for each K of `KS`: (len(KS),), NaN without an image."""
    available = np.array([match.proposals[0] for match in matches], dtype=np.int64)
    used = np.minimum(np.array(KS)[:, None], available[None]).sum(1)
    return quotient(used.astype(np.float64), np.float64(len(matches)))


def _pooled(matches: Sequence[ImageMatches]) -> tuple[np.ndarray, np.ndarray]:
    """Overlaps (len(KS), all instances), and the bounds of each image's part of them, (images + 1,)."""
    parts = [np.zeros((len(KS), 0)), *(match.overlaps for match in matches)]
    return np.concatenate(parts, axis=1), np.cumsum([part.shape[1] for part in parts])


def _levels_passed(overlaps: np.ndarray, levels: Sequence[float] | np.ndarray, variant: Variant) -> np.ndarray:
    """How many of the ascending ``levels`` each overlap reaches (or, for ">", exceeds): int64 of the same shape."""
    return np.searchsorted(levels, overlaps, side="right" if variant.hit == ">=" else "left")


def _check(truth: ImageTruth, found: ImageProposals) -> None:
    if np.shape(found.scores) != (len(found.masks),):
        raise ValueError(f"there are {len(found.masks)} masks, but scores of shape {np.shape(found.scores)}")
    if not np.isfinite(np.asarray(found.scores, dtype=np.float64)).all():
        raise ValueError("a score is not a finite number")
    annotated = [*truth.masks, *([truth.void] if truth.void is not None else [])]
    for name, some in (("annotated", annotated), ("proposed", found.masks)):
        try:
            masks.check(some, truth.size)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
