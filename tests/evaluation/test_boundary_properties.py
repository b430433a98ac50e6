"""Boundary F: what must hold for any input, and slow second implementations.

The slow matching is scipy's dense assignment over all pairs of pixels, the slow thinning a loop over pixels, and the
slow summary a transcription of the definitions with loops, without weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import linear_sum_assignment

from evaluation import boundary
from evaluation.boundary import ImageBoundary, ImageMatches, ImageTruth

FEW, MANY = settings(max_examples=50, deadline=None), settings(max_examples=500, deadline=None)
SIZES = st.tuples(st.integers(1, 7), st.integers(1, 9))
ONE_OF_EACH = np.ones((1, 1), dtype=np.int64)


def maps(size: tuple[int, int] | st.SearchStrategy) -> st.SearchStrategy[np.ndarray]:
    """(H, W) bool; hypothesis' own arrays are nearly all of one value, this one has any share of pixels."""
    return st.builds(
        lambda size, share, seed: np.random.default_rng(seed).random(size) < share,
        size if isinstance(size, st.SearchStrategy) else st.just(size),
        st.sampled_from([0.1, 0.3, 0.5, 0.9]),
        st.integers(0, 2**32 - 1),
    )


def slow_pairs(first: np.ndarray, second: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the best pairs. A pair that is too far costs nothing and is dropped, as if both were alone."""
    left, right = np.flatnonzero(first), np.flatnonzero(second)
    (y, x), (v, u) = np.divmod(left, first.shape[1]), np.divmod(right, first.shape[1])
    squares = (y[:, None] - v) ** 2 + (x[:, None] - u) ** 2
    alone = math.ceil(10_000 * radius)
    value = np.where(squares <= radius**2, np.rint(100 * np.sqrt(squares)) - alone, 0)
    tie = np.where(value < 0, 1 + left[:, None] + right, 0)  # the first in raster order
    chosen = linear_sum_assignment(value * 10**8 + tie)
    near = value[chosen] < 0
    return left[chosen[0][near]], right[chosen[1][near]]


def cost(pairs: tuple[np.ndarray, np.ndarray], width: int, radius: float) -> float:
    (y, x), (v, u) = (np.divmod(side, width) for side in pairs)
    return np.rint(100 * np.hypot(y - v, x - u)).sum() - math.ceil(10_000 * radius) * len(y)


def slow_thin(pixels: np.ndarray) -> np.ndarray:
    """Guo and Hall, CACM 1989, as bwmorph's documentation states it: whole passes until one changes nothing."""
    ring = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]  # east, then counterclockwise
    before = None
    while before is None or not np.array_equal(before, pixels):
        before = pixels
        for half in (0, 1):
            padded = np.pad(pixels, 1)
            kept = pixels.copy()
            for y, x in np.argwhere(pixels):
                n = [bool(padded[y + 1 + dy, x + 1 + dx]) for dy, dx in ring]
                crossings = sum(not n[k] and (n[k + 1] or n[(k + 2) % 8]) for k in (0, 2, 4, 6))
                pairs = sum(n[k] or n[k + 1] for k in (0, 2, 4, 6))
                shifted = sum(n[k + 1] or n[(k + 2) % 8] for k in (0, 2, 4, 6))
                east, north_east, north, south_east = (n[(k + 4 * half) % 8] for k in (0, 1, 2, 7))
                third = (north_east or north or not south_east) and east
                if crossings == 1 and 2 <= min(pairs, shifted) <= 3 and not third:
                    kept[y, x] = False
            pixels = kept
    return pixels


def slow_matches(truth: ImageTruth, found: ImageBoundary, thresholds: list[float], distance: float) -> list[list[int]]:
    """One [matched truth, truth, matched predicted, predicted] for each threshold."""
    radius = distance * math.hypot(*found.probability.shape)
    table = []
    for threshold in thresholds:
        predicted = slow_thin(found.probability >= threshold)
        outcomes = [slow_pairs(predicted, drawn, radius) for drawn in truth.boundaries]
        matched = set().union(*(left.tolist() for left, _ in outcomes))
        right = sum(len(right) for _, right in outcomes)
        table.append([right, int(truth.boundaries.sum()), len(matched), int(predicted.sum())])
    return table


def slow_rates(row: tuple[int, int, int, int]) -> tuple[float, float, float]:
    recall = row[0] / row[1] if row[1] else 0.0
    precision = row[2] / row[3] if row[3] else 0.0
    return recall, precision, slow_f(recall, precision)


def slow_f(recall: float, precision: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def slow_measure(images: list[list[list[int]]], thresholds: list[float], convention: str) -> dict[str, float]:
    pooled = [slow_rates([sum(column) for column in zip(*rows, strict=True)]) for rows in zip(*images, strict=True)]
    places = [(f, t, r, p) for (r, p, f), t in zip(pooled, thresholds, strict=True)]
    if convention == "matlab":
        between = [places[0]]
        for (_, t0, r0, p0), (_, t1, r1, p1) in pairwise(places):
            for d in np.linspace(0, 1, 100):
                t, r, p = (b * d + a * (1 - d) for a, b in ((t0, t1), (r0, r1), (p0, p1)))
                between.append((slow_f(r, p), t, r, p))
        places = between
    ods = max(places, key=lambda place: place[0])  # the first of equals
    own = [max(rows, key=lambda row: slow_rates(row)[2]) for rows in images]
    ois = slow_rates([sum(column) for column in zip(*own, strict=True)])
    curve = {}
    for recall, precision, _ in pooled:
        curve.setdefault(recall, precision)
    known, area = sorted(curve), 0.0
    for level in [0.01 * step for step in range(101 if convention == "matlab" else 100)]:
        for a, b in pairwise(known):
            if a <= level <= b and not (level == a and a != known[0]):
                area += 0.01 * (curve[a] + (curve[b] - curve[a]) * (level - a) / (b - a))
    return dict(
        zip(
            [
                "ods",
                "ods_threshold",
                "ods_recall",
                "ods_precision",
                "ois_recall",
                "ois_precision",
                "ois",
                "boundary_ap",
            ],
            [*ods, *ois, area],
            strict=True,
        )
    )


@st.composite
def two_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, float]:
    size = draw(SIZES)
    first, second = (draw(maps(size)) for _ in range(2))
    return first, second, draw(st.sampled_from([0.5, 1, math.sqrt(2), 2.1, math.sqrt(5), 3, 4.34]))


@st.composite
def images(draw: st.DrawFn) -> tuple[ImageTruth, ImageBoundary, list[float], float]:
    """Up to three annotators, who draw along the prediction or anything, some of them nothing."""
    size = draw(SIZES)
    levels = draw(hnp.arrays(np.int64, size, elements=st.integers(0, 5), fill=st.nothing()))
    drawn = [draw(maps(size)) for _ in range(draw(st.integers(1, 3)))]
    drawn = [draw(st.sampled_from([one, one & (levels > 2), np.roll(levels > 3, 1, 1), one & False])) for one in drawn]
    thresholds = draw(st.lists(st.integers(1, 10), min_size=1, max_size=4, unique=True).map(sorted))
    distance = draw(st.sampled_from([0.05, 0.1, 0.2, 0.3]))
    return ImageTruth(np.stack(drawn)), ImageBoundary(levels / 5), [k / 10 for k in thresholds], distance


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[list[list[int]]], list[float]]:
    """Counts of up to four images at up to five thresholds, many of them equal or nothing."""
    number = draw(st.integers(1, 5))
    result = []
    for _ in range(draw(st.integers(1, 4))):
        truth = draw(st.integers(0, 6))
        rows = []
        for _ in range(number):
            predicted = draw(st.integers(0, 6))
            matched = draw(st.integers(0, min(truth, predicted)))
            rows.append([matched, truth, draw(st.integers(0, predicted)), predicted])
        result.append(rows)
    return result, [k / (number + 1) for k in range(1, number + 1)]


def as_matches(table: list[list[int]]) -> ImageMatches:
    return ImageMatches(*np.array(table, dtype=np.int64).T)


def check_pairs(data: tuple[np.ndarray, np.ndarray, float]) -> None:
    first, second, radius = data
    found, slow = boundary.match_pixels(first, second, radius), slow_pairs(first, second, radius)
    for side, pixels, expected in zip(found, (first, second), slow, strict=True):
        assert len(set(side.tolist())) == len(side)
        assert pixels.ravel()[side].all()
        assert set(side.tolist()) == set(expected.tolist())
    width = first.shape[1]
    (y, x), (v, u) = (np.divmod(side, width) for side in found)
    assert ((y - v) ** 2 + (x - u) ** 2 <= radius**2).all()
    assert cost(found, width, radius) == cost(slow, width, radius)


def check_image(data: tuple[ImageTruth, ImageBoundary, list[float], float]) -> None:
    truth, found, thresholds, distance = data
    result = boundary.match_image(truth, found, np.array(thresholds), distance)
    table = [result.matched_truth, result.truth, result.matched_predicted, result.predicted]
    assert np.transpose(table).tolist() == slow_matches(truth, found, thresholds, distance)


def check_measure(data: tuple[list[list[list[int]]], list[float]], weights: list[int], convention: str) -> None:
    table, thresholds = data
    weights = weights[: len(table)]
    matches = [as_matches(rows) for rows in table]
    counts = np.array([[1] * len(table), weights], dtype=np.int64)
    fast = boundary.measure(matches, counts, np.array(thresholds), convention)
    written_out = [rows for rows, times in zip(table, weights, strict=True) for _ in range(times)]
    for row, images_of_row in enumerate((table, written_out)):
        if not images_of_row:
            assert all(np.isnan(value[row]) for value in fast.values())
            continue
        slow = slow_measure(images_of_row, thresholds, convention)
        assert fast.keys() == slow.keys()
        # Of places with equal F rounding may choose: then the other numbers at that place differ, too.
        at = {"ods_threshold", "ods_recall", "ods_precision"} if convention == "matlab" else set()
        for name in fast.keys() - at:
            assert fast[name][row] == pytest.approx(slow[name], abs=1e-12), name
        for name in at:
            place = slow_f(fast["ods_recall"][row], fast["ods_precision"][row])
            assert place == pytest.approx(slow["ods"], abs=1e-12), name


def both(check: Callable[..., None], **strategies: st.SearchStrategy) -> tuple[Callable[[], None], Callable[[], None]]:
    """The property with 50 examples, and with 500 under the mark slow."""
    return FEW(given(**strategies)(check)), pytest.mark.slow(MANY(given(**strategies)(check)))


WEIGHTS, CONVENTION = st.lists(st.integers(0, 3), min_size=4, max_size=4), st.sampled_from(boundary.CONVENTIONS)
test_the_dense_assignment_agrees, test_the_dense_assignment_agrees_often = both(check_pairs, data=two_maps())
test_the_slow_implementation_agrees, test_the_slow_implementation_agrees_often = both(check_image, data=images())
test_weights_are_copies, test_weights_are_copies_often = both(
    check_measure, data=tables(), weights=WEIGHTS, convention=CONVENTION
)


@pytest.mark.parametrize("seed", range(8))
def test_the_dense_assignment_agrees_in_a_crowd(seed: int) -> None:
    # Several parts and chains of a hundred pixels: here equal matchings and rounded distances decide.
    random = np.random.default_rng(seed)
    first, second = random.random((2, 30, 40)) < random.choice([0.1, 0.3], (2, 1, 1))
    check_pairs((first, second, [1, 1.5, 2.3, 4.34][seed % 4]))


@FEW
@given(maps(st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_thinning_is_guo_and_halls(pixels: np.ndarray) -> None:
    assert np.array_equal(boundary.thin(pixels), slow_thin(pixels))


@FEW
@given(two_maps())
def test_roles_and_batches_do_not_change_the_matched_pixels(data: tuple[np.ndarray, np.ndarray, float]) -> None:
    first, second, radius = data
    pairs = [set(side.tolist()) for side in boundary.match_pixels(first, second, radius)]
    assert [set(side.tolist()) for side in boundary.match_pixels(second, first, radius)] == pairs[::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boundary, "_BATCH", 1)
        assert [set(side.tolist()) for side in boundary.match_pixels(first, second, radius)] == pairs


@FEW
@given(images())
def test_the_order_of_annotators_does_not_matter(data: tuple[ImageTruth, ImageBoundary, list[float], float]) -> None:
    truth, found, thresholds, distance = data
    turned = boundary.match_image(ImageTruth(truth.boundaries[::-1]), found, np.array(thresholds), distance)
    result = boundary.match_image(truth, found, np.array(thresholds), distance)
    for name in ("matched_truth", "truth", "matched_predicted", "predicted"):
        assert np.array_equal(getattr(turned, name), getattr(result, name))


@FEW
@given(images())
def test_the_truth_itself_scores_one(data: tuple[ImageTruth, ImageBoundary, list[float], float]) -> None:
    truth, _, thresholds, distance = data
    drawn = truth.boundaries[:1]
    perfect = ImageBoundary(drawn[0].astype(np.float64))
    result = boundary.match_image(ImageTruth(drawn), perfect, np.array(thresholds), distance, thinning=False)
    values = boundary.measure([result], ONE_OF_EACH, np.array(thresholds))
    assert values["ods"] == values["ois"] == float(drawn.any())
