"""Boundary F on maps and counts that can be worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import boundary
from evaluation.boundary import ImageBoundary, ImageMatches, ImageTruth


def row(*columns: int, width: int = 8) -> np.ndarray:
    """A map of one row with pixels at ``columns``."""
    return np.isin(np.arange(width), columns)[None]


def pairs(first: np.ndarray, second: np.ndarray, radius: float) -> set[tuple[int, int]]:
    left, right = boundary.match_pixels(first, second, radius)
    return set(zip(left.tolist(), right.tolist(), strict=True))


def counted(*table: tuple[int, int, int, int]) -> ImageMatches:
    """One (matched truth, truth, matched predicted, predicted) for each threshold."""
    return ImageMatches(*np.array(table, dtype=np.int64).T)


def measured(
    matches: list[ImageMatches], thresholds: list[float], convention: str = "matlab", counts: list[int] | None = None
) -> dict[str, float]:
    counts = np.array([counts or [1] * len(matches)], dtype=np.int64)
    values = boundary.measure(matches, counts, np.array(thresholds), convention)
    return {name: value[0] for name, value in values.items()}


def test_as_many_pairs_as_possible_even_if_the_nearest_are_parted() -> None:
    # Taking 2-2 at distance 0 first would leave 1 and 3 alone.
    assert pairs(row(1, 2), row(2, 3), 1) == {(1, 2), (2, 3)}


def test_of_as_many_pairs_the_nearest() -> None:
    assert pairs(row(0, 3), row(1, 2), 3) == {(0, 1), (3, 2)}
    assert pairs(row(2), row(1, 5), 3) == {(2, 1)}
    assert pairs(row(1, 5), row(2), 3) == {(1, 2)}


def test_a_pair_more_is_worth_a_hundred_times_the_greatest_distance() -> None:
    # A line against itself, one pixel on: all n pairs at distance 1, or n - 1 at distance 0.
    for length, expected in ((99, 99), (101, 100), (150, 149)):  # BSDS500's matcher gives the same three
        first, second = row(*range(length), width=200), row(*range(1, length + 1), width=200)
        assert len(pairs(first, second, 1)) == expected


def test_of_equal_matchings_the_first_pixels_in_raster_order() -> None:
    assert pairs(row(1), row(0, 2), 1) == {(1, 0)}
    assert pairs(row(0, 2), row(1), 1) == {(0, 1)}
    column = np.array([[True], [False], [True]])
    assert pairs(~column, column, 1) == {(1, 0)}


def test_distances_are_whole_hundredths_of_a_pixel() -> None:
    first, second = np.zeros((2, 2, 101), dtype=np.bool_)
    first[1, 0] = second[:, 100] = True  # 100.005 and 100 pixels away: equal, so the first row's is taken
    assert pairs(first, second, 101.0) == {(101, 100)}


def test_the_greatest_distance_is_allowed() -> None:
    first, second = np.zeros((2, 4, 5), dtype=np.bool_)
    first[0, 0] = second[3, 4] = True  # 5 pixels apart
    assert pairs(first, second, 5.0) == {(0, 19)}
    assert pairs(first, second, np.nextafter(5.0, 0)) == set()


def test_neighbours_end_at_the_border() -> None:
    first, second = np.zeros((2, 2, 5), dtype=np.bool_)
    first[0, 4] = second[1, 0] = True  # one step in memory, four columns in the image
    assert pairs(first, second, 2.0) == set()


def test_nothing_to_match() -> None:
    assert pairs(row(), row(), 2) == pairs(row(1), row(), 2) == pairs(row(), row(1), 2) == set()


def test_recall_counts_all_annotators_and_precision_any() -> None:
    drawn = np.stack([row(0, 4), row(1), row(7)])  # the third one's pixel is out of reach
    probability = np.where(row(0, 3), 0.6, np.where(row(5), 0.4, 0.0))
    result = boundary.match_image(ImageTruth(drawn), ImageBoundary(probability), np.array([0.4, 0.6, 0.7]), 0.125)
    # The greatest distance is sqrt(65) / 8, a little over 1. At 0.4 pixels 0, 3, 5: 0 and 4 of the first annotator
    # (4 by 3, which comes before 5) and 1 of the second (by 0) are matched, and so are 0 and 3.
    assert result.matched_truth.tolist() == [3, 3, 0]
    assert result.truth.tolist() == [4, 4, 4]
    assert result.matched_predicted.tolist() == [2, 2, 0]
    assert result.predicted.tolist() == [3, 2, 0]


def test_the_prediction_is_thinned_and_the_truth_is_not() -> None:
    drawn = np.zeros((1, 7, 11), dtype=np.bool_)
    drawn[0, 1:6, 1:10] = True
    thick = ImageBoundary(drawn[0].astype(np.float64))
    result = boundary.match_image(ImageTruth(drawn), thick, np.array([0.5]), 0.1)
    assert result.truth == 45
    assert result.predicted == 5  # of five rows of nine: two pixels are peeled off every side
    as_is = boundary.match_image(ImageTruth(drawn), thick, np.array([0.5]), 0.1, thinning=False)
    assert as_is.predicted == as_is.matched_predicted == as_is.matched_truth == 45


def test_thresholds_are_those_of_the_references() -> None:
    assert len(boundary.THRESHOLDS) == 99
    np.testing.assert_allclose(boundary.THRESHOLDS, np.arange(1, 100) / 100, atol=1e-15)
    assert boundary.THRESHOLDS[19] <= 51 / 255
    # With five thresholds BSDS500's own results leave 85/255 out at 1/3.
    assert boundary.even_thresholds(5)[1] > 85 / 255


def test_ods_ois_and_ap_by_hand() -> None:
    # Image 1: F is 2/3, then 0.8; image 2: F is 1, then 0.
    first = counted((10, 10, 5, 10), (8, 10, 4, 5))
    second = counted((10, 10, 10, 10), (0, 10, 0, 5))
    values = measured([first, second], [0.3, 0.6], "python")
    # Pooled at 0.3: R = 20/20, P = 15/20; at 0.6: R = 8/20, P = 4/10.
    assert values["ods_threshold"] == 0.3
    assert (values["ods_recall"], values["ods_precision"]) == (1.0, 0.75)
    assert values["ods"] == pytest.approx(2 * 0.75 / 1.75)
    # Own best: 0.6 for the first (8/10, 4/5), 0.3 for the second (10/10, 10/10).
    assert (values["ois_recall"], values["ois_precision"]) == (18 / 20, 14 / 15)
    assert values["ois"] == pytest.approx(2 * 0.9 * (14 / 15) / (0.9 + 14 / 15))
    # P runs from 0.4 at R = 0.4 to 0.75 at R = 1, in 61 points of mean 0.575; the last one is not counted.
    assert values["boundary_ap"] == pytest.approx(0.01 * (61 * 0.575 - 0.75))
    assert measured([first, second], [0.3, 0.6], "matlab")["boundary_ap"] == pytest.approx(0.01 * 61 * 0.575)


def test_matlab_finds_the_best_f_between_thresholds() -> None:
    one = counted((10, 10, 10, 20), (5, 10, 10, 10))  # R, P: 1, 1/2 and then 1/2, 1; F is 2/3 both times
    assert measured([one], [0.2, 0.4], "python")["ods"] == pytest.approx(2 / 3)
    values = measured([one], [0.2, 0.4], "matlab")
    share = 49 / 99  # half way is not one of the 100 points, the two beside it are equally good
    assert values["ods_recall"] == pytest.approx(1 - share / 2, abs=1 / 190)
    assert values["ods_threshold"] == pytest.approx(0.2 + 0.2 * share, abs=0.2 / 90)
    assert values["ods"] == pytest.approx(2 * (1 - share / 2) * (0.5 + share / 2) / 1.5)
    assert values["ods"] > 0.7499


def test_of_equal_f_the_lowest_threshold() -> None:
    same = counted((1, 2, 1, 2), (1, 2, 1, 2), (0, 2, 0, 2))
    for convention in boundary.CONVENTIONS:
        assert measured([same], [0.1, 0.2, 0.3], convention)["ods_threshold"] == 0.1
    # R = 1/2, P = 1/4 at 0.1 and the other way round at 0.2: OIS takes the counts at 0.1.
    turned = counted((2, 4, 1, 4), (1, 4, 2, 4))
    assert measured([turned], [0.1, 0.2])["ois_recall"] == 0.5


def test_equal_recalls_have_the_precision_of_the_lowest_threshold() -> None:
    one = counted((8, 10, 4, 10), (8, 10, 9, 10), (0, 10, 0, 10))
    # From P = 0 at R = 0 to 0.4 at R = 0.8: 81 points of mean 0.2.
    assert measured([one], [0.1, 0.2, 0.3])["boundary_ap"] == pytest.approx(0.01 * 81 * 0.2)


def test_nothing_predicted_and_nothing_annotated() -> None:
    nothing = counted((0, 10, 0, 0), (0, 10, 0, 0))
    values = measured([nothing], [0.1, 0.2])
    assert all(values[name] == 0 for name in ("ods", "ods_recall", "ods_precision", "ois", "boundary_ap"))
    blank = counted((0, 0, 0, 5), (0, 0, 0, 5))
    assert measured([blank], [0.1, 0.2])["ods"] == 0
    # An image without annotation costs precision: 10 of 15.
    full = counted((10, 10, 10, 10), (10, 10, 10, 10))
    assert measured([full, blank], [0.1, 0.2])["ods_precision"] == 10 / 15


def test_no_image_has_no_value() -> None:
    assert all(np.isnan(value) for value in measured([], [0.1, 0.2]).values())
    one = counted((1, 1, 1, 1), (1, 1, 1, 1))
    values = boundary.measure([one, one], np.array([[0, 0], [1, 0]]), np.array([0.1, 0.2]))
    for value in values.values():
        assert np.isnan(value).tolist() == [True, False]


def test_ascending_thresholds_with_equal_maps_are_kept_apart() -> None:
    probability = row(1).astype(np.float32) * np.float32(0.5)
    result = boundary.match_image(ImageTruth(row(1)[None]), ImageBoundary(probability), np.array([0.1, 0.4, 0.6]), 0.2)
    assert result.predicted.tolist() == [1, 1, 0]
    assert result.matched_truth.tolist() == [1, 1, 0]


DRAWN, FOUND = np.zeros((1, 2, 3), dtype=np.bool_), np.zeros((2, 3))


@pytest.mark.parametrize(
    ("drawn", "probability", "options", "message"),
    [
        (DRAWN[0], FOUND, {}, r"boundaries must be bool of shape \(A, H, W\) with A >= 1, not bool \(2, 3\)"),
        (DRAWN[:0], FOUND, {}, "with A >= 1"),
        (DRAWN.astype(int), FOUND, {}, "boundaries must be bool"),
        (DRAWN, FOUND.T, {}, r"a boundary has the shape \(3, 2\), the annotators' have \(2, 3\)"),
        (DRAWN, FOUND.astype(np.uint8), {}, "probability must be floating point"),
        (DRAWN, FOUND[None], {}, "probability must be floating point of shape"),
        (DRAWN, FOUND + 1.5, {}, r"outside 0\.\.1"),
        (DRAWN, FOUND - 0.1, {}, r"outside 0\.\.1"),
        (DRAWN, FOUND * np.nan, {}, "NaN"),
        (DRAWN, FOUND, {"thresholds": np.array([0.5, 0.5])}, "ascending"),
        (DRAWN, FOUND, {"thresholds": np.array([])}, "ascending"),
        (DRAWN, FOUND, {"max_distance": 0.0}, "max_distance is a share"),
        (DRAWN, FOUND, {"max_distance": 4.3}, "max_distance is a share"),
    ],
)
def test_broken_input_is_refused(
    drawn: np.ndarray, probability: np.ndarray, options: dict[str, np.ndarray | float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        boundary.match_image(ImageTruth(drawn), ImageBoundary(probability), **options)


def test_broken_counts_are_refused() -> None:
    one, two = counted((1, 1, 1, 1)), counted((1, 1, 1, 1), (1, 1, 1, 1))
    with pytest.raises(ValueError, match=r"counts must have the shape \(B, 1\), not \(1, 2\)"):
        boundary.measure([one], np.ones((1, 2), np.int64), np.array([0.5]))
    with pytest.raises(ValueError, match="different numbers of thresholds"):
        boundary.measure([one, two], np.ones((1, 2), np.int64), np.array([0.5]))
    with pytest.raises(ValueError, match=r"\(2,\) thresholds, but the images were matched at \(1,\)"):
        boundary.measure([one], np.ones((1, 1), np.int64), np.array([0.5, 0.6]))
    with pytest.raises(ValueError, match="convention must be one of matlab, python, not 'octave'"):
        boundary.measure([one], np.ones((1, 1), np.int64), np.array([0.5]), "octave")
