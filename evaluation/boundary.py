"""Boundary ODS, OIS and AP of BSDS500: precision and recall of boundary pixels, matched one to one within a distance.

Arbelaez et al., "Contour Detection and Hierarchical Image Segmentation", PAMI 2011; matching after Martin et al.,
PAMI 2004. The references are the benchmark's MATLAB and C++ code and its port py-bsds500.

Per image and threshold t:

* The boundary is ``probability >= t``, thinned to a line until nothing changes (``bwmorph(..., 'thin', inf)``).
* It is matched with each annotator's boundary alone. A pixel has at most one partner, at most ``max_distance`` x the
  image's diagonal away (a pair at exactly that distance may match). The matching is the one of least cost: the sum of
  the pairs' distances, in whole hundredths of a pixel, less 100 x the greatest allowed distance for each pair. It has
  as many pairs as possible, unless one pair more takes a chain of more than 100 shifted partners.
* Recall: matched over all annotated pixels, summed over the annotators. Precision: the predicted pixels that at least
  one annotator matches, over all predicted ones.

Counts are summed over images before anything is divided; 0 / 0 is 0, and F = 2PR / (P + R). ODS is F at the best
threshold for all images, OIS is F when each image's counts are taken at the threshold where its own F is best (the
lowest of equals). `measure` draws these from the counts under one of two conventions:

==========  =====================================================  ===================================
            "matlab": published numbers, and Dollar's toolbox      "python": py-bsds500
==========  =====================================================  ===================================
ODS         P and R run linearly from each threshold to the next,  the best of the thresholds
            and the best of 100 points on each stretch counts
AP          over recall 0, 0.01 ... 1                              over recall 0, 0.01 ... 0.99
==========  =====================================================  ===================================

AP is 0.01 x the sum of the precision at these recalls, linear in between; it is 0 left and right of the recalls that
the thresholds reach, and AP is 0 where all thresholds have one recall.

Where this file differs from the references:

* Their matcher gives a pixel six random places to go when it has no partner. So it misses the least cost by a few
  pairs in ten thousand, by other ones in every run. Here the cost is the least.
* Among matchings of equal cost, the one whose matched pixels come first in raster order is taken. All solvers would
  match the same pixels then, so the counts do not depend on this one.
* py-bsds500 ends thinning as soon as the first half of a pass changes nothing. Here it ends as in MATLAB.

Suppressing non-maxima before the evaluation is part of most published recipes, and not of this file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, hypot

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from skimage.morphology import thin

from evaluation.base import check_counts

VERSION = "1"  # raise it when any number that this file returns changes; records carry it

MAX_DISTANCE = 0.0075  # of the diagonal: BSDS500. NYUD uses 0.011, SBD 0.02
CONVENTIONS = ("matlab", "python")

_CENTS = 100  # the references' distances are whole hundredths of a pixel
_OUTLIER = 100  # cost of a pixel without a partner, in greatest allowed distances
_RECALLS = np.arange(101) * 0.01
_BATCH = 2000  # pairs that are solved together at least: below that, the calls cost more than the matching


def even_thresholds(count: int) -> np.ndarray:
    """``count`` thresholds 1/(count + 1) .. count/(count + 1), as the references space them: (count,) float64.

    They are made with linspace, so some are a rounding error off k/(count + 1): with 5 of them a value of 85/255 lies
    below 1/3. This decides where a map holds such values, and the references decide it like this.
    """
    return np.linspace(1 / (count + 1), 1 - 1 / (count + 1), count)


THRESHOLDS = even_thresholds(99)


@dataclass(frozen=True)
class ImageTruth:
    """The boundaries that A >= 1 annotators drew in one image: ``boundaries``, (A, H, W) bool; not thinned."""

    boundaries: np.ndarray


@dataclass(frozen=True)
class ImageBoundary:
    """What a method found in one image: ``probability``, (H, W) floating point in 0..1."""

    probability: np.ndarray


@dataclass(frozen=True)
class ImageMatches:
    """Numbers of pixels of one image at T thresholds, each (T,) int64; nothing is ragged.

    ``matched_truth`` and ``truth``: annotated pixels that have a partner, and all, summed over the annotators.
    ``matched_predicted`` and ``predicted``: predicted pixels that have a partner with any annotator, and all.
    """

    matched_truth: np.ndarray
    truth: np.ndarray
    matched_predicted: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Recall, precision and F at every threshold, each (B, T) float64 in 0..1, for B weightings of the images."""

    recall: np.ndarray
    precision: np.ndarray
    f: np.ndarray


def match_image(
    truth: ImageTruth,
    found: ImageBoundary,
    thresholds: np.ndarray = THRESHOLDS,
    max_distance: float = MAX_DISTANCE,
    thinning: bool = True,
) -> ImageMatches:
    """Match one image at every threshold (ascending). ``max_distance`` is a share of the image's diagonal.

    ``thinning=False``: the boundaries are taken as they are. ValueError for input that breaks the promises above.
    """
    probability = found.probability
    if probability.ndim != 2 or probability.dtype.kind != "f":
        raise ValueError(
            f"probability must be floating point of shape (H, W), not {probability.dtype} {probability.shape}"
        )
    if not (probability.min(initial=0) >= 0 and probability.max(initial=0) <= 1):  # a NaN is neither
        raise ValueError("probability has values outside 0..1 or NaN")
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if thresholds.ndim != 1 or not len(thresholds) or not (np.diff(thresholds) > 0).all():
        raise ValueError("thresholds must be a list of ascending numbers")
    # Neighbouring thresholds often leave the same pixels, and always do where they leave equally many.
    values = np.sort(probability, axis=None)
    _, first, level = np.unique(np.searchsorted(values, thresholds), return_index=True, return_inverse=True)
    different = match_maps(truth, (probability >= thresholds[k] for k in first), max_distance, thinning)
    return ImageMatches(
        different.matched_truth[level], different.truth[level],
        different.matched_predicted[level], different.predicted[level],
    )  # fmt: skip


def match_maps(
    truth: ImageTruth, maps: Iterator[np.ndarray] | Sequence[np.ndarray], max_distance: float, thinning: bool = True
) -> ImageMatches:
    """As `match_image` for boundaries that are maps already, such as those of segmentations: T times (H, W) bool."""
    drawn = truth.boundaries
    if drawn.ndim != 3 or drawn.dtype != np.bool_ or not len(drawn):
        raise ValueError(f"boundaries must be bool of shape (A, H, W) with A >= 1, not {drawn.dtype} {drawn.shape}")
    if not 0 < max_distance < 1:
        raise ValueError(f"max_distance is a share of the diagonal, between 0 and 1, not {max_distance}")
    radius = max_distance * hypot(*drawn.shape[1:])
    counts = []
    for boundary in maps:
        if boundary.shape != drawn.shape[1:]:
            raise ValueError(f"a boundary has the shape {boundary.shape}, the annotators' have {drawn.shape[1:]}")
        boundary = thin(boundary) if thinning else boundary
        anyone, matched_truth = np.zeros(boundary.size, dtype=np.bool_), 0
        for annotator in drawn:
            predicted, annotated = match_pixels(boundary, annotator, radius)
            anyone[predicted] = True
            matched_truth += len(annotated)
        counts.append((matched_truth, drawn.sum(), anyone.sum(), boundary.sum()))
    return ImageMatches(*np.array(counts, dtype=np.int64).reshape(-1, 4).T)


def match_pixels(first: np.ndarray, second: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of the best matching between two (H, W) bool maps: flat indices of K pixels of each, (K,) int64.

    Pixels at most ``radius`` (in pixels, > 0) apart may be paired. "Best" is defined in the module's docstring.
    """
    left, right, cost = _neighbours(first, second, radius)
    alone = ceil(_CENTS * _OUTLIER * radius)
    if len(left):
        pairs = [_solve(left[part], right[part], cost[part], alone) for part in _independent(left, right)]
        left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return np.flatnonzero(first)[left], np.flatnonzero(second)[right]


def _neighbours(first: np.ndarray, second: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of pixels within ``radius``: their numbers in raster order, and the distance in 1/100 pixels."""
    reach = int(radius)
    height, width = (side + 2 * reach for side in second.shape)
    number = np.full((height, width), -1)  # with a margin, so that no neighbour is out of range or in the next row
    y, x = np.nonzero(second)
    number[y + reach, x + reach] = np.arange(len(y))
    number = number.ravel()
    y, x = np.nonzero(first)
    here = (y + reach) * width + x + reach
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squares = dy * dy + dx * dx
    inside = squares <= radius * radius
    left, right, cost = [], [], []
    for step, distance in zip((dy * width + dx)[inside], np.sqrt(squares[inside]), strict=True):
        near = number[here + step]
        left.append(np.flatnonzero(near >= 0))
        right.append(near[left[-1]])
        cost.append(np.full(len(left[-1]), np.rint(_CENTS * distance)))
    return np.concatenate(left), np.concatenate(right), np.concatenate(cost)


def _independent(left: np.ndarray, right: np.ndarray) -> list[np.ndarray]:
    """Indices of the pairs in parts that share no pixel: the connected components, small ones put together.

    The solver's time grows with the square of the number of pixels, so a crowded image at once takes twice as long.
    """
    after = left.max() + 1
    nodes = after + right.max() + 1
    graph = csr_array((np.ones(len(left), dtype=np.int8), (left, after + right)), shape=(nodes, nodes))
    component = connected_components(graph, directed=False)[1][left]
    part = (np.cumsum(np.bincount(component)) // _BATCH)[component]
    order = np.argsort(part, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(part[order])) + 1)


def _solve(left: np.ndarray, right: np.ndarray, cost: np.ndarray, alone: int) -> tuple[np.ndarray, np.ndarray]:
    """The pairs to keep of those given: the least total of ``cost``, less ``alone`` for each pair."""
    rows, row = np.unique(left, return_inverse=True)
    columns, column = np.unique(right, return_inverse=True)
    if len(columns) < len(rows):  # the fewer the rows, the fewer the long searches that end without a partner
        return _solve(right, left, cost, alone)[::-1]
    # A row without partner goes to a column of its own, at the cost `alone`. A pair more saves that once.
    count = len(rows)
    own = np.arange(count)
    # Ties: the matched pixels' ranks are added, scaled so that all together stay below one unit of cost. Over all
    # matchings of least cost, the sets "matched rows and unmatched columns" are the bases of a matroid. There the
    # ranks are distinct weights, positive for rows and negative for columns, and so a single base is the best.
    # (Weights are exact in float64 up to maps of some 4000 x 3000 pixels; beyond, only ties could fall otherwise.)
    unit = 2.0 * count * (count + len(columns))
    weights = np.concatenate((cost * unit + row + column + 2, np.full(count, alone * unit)))  # 0 would be no edge
    ends = np.concatenate((row, own)), np.concatenate((column, len(columns) + own))
    graph = csr_array((weights, ends), shape=(count, len(columns) + count))
    chosen, partner = min_weight_full_bipartite_matching(graph)
    real = partner < len(columns)
    return rows[chosen[real]], columns[partner[real]]


def curve(matches: Sequence[ImageMatches], counts: np.ndarray) -> Curve:
    """Recall, precision and F over the thresholds as if image i were present ``counts[b, i]`` times.

    ``counts``: (B, images) int64. 0 / 0 is 0. ValueError if shapes do not agree.
    """
    return _rates([counts @ numbers for numbers in _stack(matches, counts)])


def measure(
    matches: Sequence[ImageMatches],
    counts: np.ndarray,
    thresholds: np.ndarray = THRESHOLDS,
    convention: str = "matlab",
) -> dict[str, np.ndarray]:
    """All numbers as if image i were present ``counts[b, i]`` times: (B,) float64 each, for ``counts`` (B, images).

    "ods", "ods_threshold", "ods_recall", "ods_precision", "ois", "ois_recall", "ois_precision", "boundary_ap"; NaN
    for a row of ``counts`` without any image. ``thresholds`` are those of `match_image`. ValueError if shapes do not
    agree and for an unknown convention.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, not {convention!r}")
    numbers = _stack(matches, counts)
    thresholds = np.asarray(thresholds, dtype=np.float64)
    if matches and thresholds.shape != matches[0].truth.shape:
        raise ValueError(f"{thresholds.shape} thresholds, but the images were matched at {matches[0].truth.shape}")
    names = "ods", "ods_threshold", "ods_recall", "ods_precision", "ois", "ois_recall", "ois_precision", "boundary_ap"
    if not matches:
        return {name: np.full(len(counts), np.nan) for name in names}
    pooled = _rates([counts @ of_kind for of_kind in numbers])
    best = _rates(numbers).f.argmax(1)
    own = _rates([counts @ of_kind[np.arange(len(best)), best] for of_kind in numbers])
    ap = np.array([_average_precision(*pair, convention) for pair in zip(pooled.recall, pooled.precision, strict=True)])
    ods = _best(pooled, thresholds, convention)
    present = counts.any(1)
    found = (*ods, own.f, own.recall, own.precision, ap)
    return {name: np.where(present, values, np.nan) for name, values in zip(names, found, strict=True)}


def _stack(matches: Sequence[ImageMatches], counts: np.ndarray) -> list[np.ndarray]:
    """The four kinds of numbers, each (images, T) int64, in `ImageMatches`' order."""
    check_counts(counts, len(matches))
    shapes = {image.truth.shape for image in matches}
    if len(shapes) > 1:
        raise ValueError(f"images were matched at different numbers of thresholds: {sorted(shapes)}")
    kinds = "matched_truth", "truth", "matched_predicted", "predicted"
    return [np.array([getattr(image, kind) for image in matches], dtype=np.int64) for kind in kinds]


def _rates(numbers: Sequence[np.ndarray]) -> Curve:
    matched_truth, truth, matched_predicted, predicted = numbers
    recall, precision = matched_truth / np.maximum(truth, 1), matched_predicted / np.maximum(predicted, 1)
    return Curve(recall, precision, _f(recall, precision))


def _f(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    total = precision + recall
    return 2 * precision * recall / (total + (total == 0))


def _best(pooled: Curve, thresholds: np.ndarray, convention: str) -> np.ndarray:
    """F, threshold, recall and precision (4, B) where F is best; the first place of equals."""
    places = np.broadcast_to(thresholds, pooled.f.shape)
    values = np.stack([pooled.f, places, pooled.recall, pooled.precision])
    if convention == "python":
        return _take(values, pooled.f.argmax(1))
    best, share = values[..., 0], np.linspace(0, 1, 100)
    for k in range(1, len(thresholds)):
        before, after = values[1:, :, k - 1, None], values[1:, :, k, None]
        between = after * share + before * (1 - share)  # (3, B, 100)
        f = _f(between[1], between[2])
        candidate = _take(np.concatenate((f[None], between)), f.argmax(1))
        best = np.where(candidate[0] > best[0], candidate, best)
    return best


def _take(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``values[:, b, place[b]]`` for every b."""
    return values[:, np.arange(len(place)), place]


def _average_precision(recall: np.ndarray, precision: np.ndarray, convention: str) -> float:
    """AP of one curve, (T,) each. Of thresholds with equal recall the lowest one's precision counts."""
    known, first = np.unique(recall, return_index=True)
    if len(known) == 1:
        return 0.0
    levels = _RECALLS if convention == "matlab" else _RECALLS[:-1]
    return float(np.interp(levels, known, precision[first], left=0.0, right=0.0).sum() * 0.01)
