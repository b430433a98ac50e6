"""AP^r: cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import masks, voc_apr
from evaluation.voc_apr import APr, ImageDetections, ImageMatches, ImageTruth, Variant

Image = tuple[ImageTruth, ImageDetections]


def truth(ids: list[list[int]], labels: list[int], void: list[list[int]] | None = None) -> ImageTruth:
    return ImageTruth(np.array(ids), np.array(labels, np.int64), None if void is None else np.array(void, np.bool_))


def found(dense: list, labels: list[int], scores: list[float], size: tuple[int, int]) -> ImageDetections:
    stack = np.array(dense, np.bool_).reshape(len(labels), *size)
    return ImageDetections(masks.encode(stack), np.array(labels, np.int64), np.array(scores, np.float64))


def apr(images: list[Image], variant: Variant, classes: int) -> APr:
    matches = [voc_apr.match_image(*image, variant, classes) for image in images]
    return voc_apr.average_precision(matches, variant, classes)


def outcome(scores: list[float], correct: list[int], truths: int) -> ImageMatches:
    """An image of one class whose detections are right or wrong at every threshold alike."""
    rows = np.tile(np.array(correct, np.bool_), (9, 1))
    return ImageMatches(np.ones(len(scores), np.int64), np.array(scores), rows, np.array([truths]))


@pytest.mark.parametrize("tenths", range(1, 10))
def test_an_iou_of_exactly_k_tenths(tenths: int) -> None:
    # Truth: all 10 pixels of a row; detection: the first k. IoU = k/10. >= passes thresholds 0.1 .. k/10, > one fewer.
    image = (truth([[1] * 10], [1]), found([[1] * tenths + [0] * (10 - tenths)], [1], [0.5], (1, 10)))
    mnc = voc_apr.match_image(*image, Variant(matching="mnc"), 1)
    sds = voc_apr.match_image(*image, Variant(matching="sds"), 1)
    assert mnc.correct[:, 0].tolist() == [k <= tenths for k in range(1, 10)]
    assert sds.correct[:, 0].tolist() == [k < tenths for k in range(1, 10)]


def test_both_integrals_by_hand() -> None:
    # Two truths; in score order right, wrong, right. Precision at the right ones: 1/1, 2/3; recall 1/2, 2/2.
    # Area: 1/2 * 1 + 1/2 * 2/3 = 5/6. Eleven points: levels 0 .. 0.5 (six) see 1, 0.6 .. 1 (five) see 2/3.
    matches = [outcome([0.9, 0.8, 0.7], [1, 0, 1], 2)]
    assert voc_apr.average_precision(matches, Variant(), 1).mean == pytest.approx(5 / 6)
    points = voc_apr.average_precision(matches, Variant(integral="11-point"), 1)
    assert points.mean == pytest.approx((6 + 5 * 2 / 3) / 11)


def test_the_envelope_looks_ahead() -> None:
    # Wrong, right, right of two truths: precision 1/2, then 2/3, which is also the best from recall 1/2 on: 2/3.
    assert voc_apr.average_precision([outcome([3, 2, 1], [0, 1, 1], 2)], Variant(), 1).vol == pytest.approx(2 / 3)


def test_eleven_points_miss_a_recall_of_exactly_three_tenths() -> None:
    # 3 of 10 found: levels 0, 0.1, 0.2 are reached; the references ask 0.3 >= 0.1 * 3 = 0.30000000000000004.
    matches = [outcome([3, 2, 1], [1, 1, 1], 10)]
    assert voc_apr.average_precision(matches, Variant(integral="11-point"), 1).vol == pytest.approx(3 / 11)
    # 4 of 10: levels 0 .. 0.4.
    matches = [outcome([4, 3, 2, 1], [1, 1, 1, 1], 10)]
    assert voc_apr.average_precision(matches, Variant(integral="11-point"), 1).vol == pytest.approx(5 / 11)


def test_a_taken_truth_is_a_duplicate_for_mnc_and_passed_over_by_sds() -> None:
    # Truth a = row 0, b = row 1 (4 pixels each). First detection = a. Second = row 0 and half of row 1, 6 pixels:
    # IoU with a 4/6, with b 2/8. MNC: its candidate a is taken, false. SDS: b is free and 0.25 > 0.1, 0.2.
    ids = [[1] * 4, [2] * 4, [0] * 4, [0] * 4]
    second = [[1] * 4, [1, 1, 0, 0], [0] * 4, [0] * 4]
    first = [[1] * 4, [0] * 4, [0] * 4, [0] * 4]
    image = (truth(ids, [1, 1]), found([second, first], [1, 1], [0.8, 0.9], (4, 4)))
    mnc = voc_apr.match_image(*image, Variant(matching="mnc"), 1)
    sds = voc_apr.match_image(*image, Variant(matching="sds"), 1)
    assert mnc.correct.T.tolist() == [[False] * 9, [True] * 9]
    assert sds.correct.T.tolist() == [[True] * 2 + [False] * 7, [True] * 9]
    # At 0.1 MNC finds 1 of 2 at precision 1; SDS both.
    assert apr([image], Variant(matching="mnc"), 1).mean[0] == pytest.approx(0.5)
    assert apr([image], Variant(matching="sds"), 1).mean[0] == pytest.approx(1.0)


def test_a_truth_counts_once_and_a_label_must_agree() -> None:
    # Three perfect masks on the one truth of class 2: the surest has the wrong class, the next is right, then a copy.
    image = (truth([[1, 1], [0, 0]], [2]), found([[[1, 1], [0, 0]]] * 3, [2, 1, 2], [0.5, 0.9, 0.7], (2, 2)))
    for matching in ("mnc", "sds"):
        match = voc_apr.match_image(*image, Variant(matching=matching), 2)
        assert match.correct.T.tolist() == [[False] * 9, [False] * 9, [True] * 9]
        assert match.truth_counts.tolist() == [0, 1]


def test_void_counts_or_is_stripped() -> None:
    # Truth 2 pixels, void 2 pixels, detection all 4: IoU 2/4 with void counted, 2/2 without.
    image = (truth([[1, 1], [0, 0]], [1], [[0, 0], [1, 1]]), found([[[1, 1], [1, 1]]], [1], [0.5], (2, 2)))
    assert apr([image], Variant(void="count"), 1).mean.tolist() == [1.0] * 5 + [0.0] * 4
    assert apr([image], Variant(void="strip"), 1).mean.tolist() == [1.0] * 9


def test_a_detection_on_nothing_but_void_is_still_false() -> None:
    annotation = truth([[1, 0], [0, 0]], [1], [[0, 0], [1, 1]])
    detections = found([[[0, 0], [1, 1]], [[1, 0], [0, 0]]], [1, 1], [0.9, 0.8], (2, 2))
    assert apr([(annotation, detections)], Variant(void="strip"), 1).vol == 0.5  # false, then right: precision 1/2


def test_void_never_takes_an_instances_pixels() -> None:
    image = (truth([[1, 1], [0, 0]], [1], [[1, 1], [1, 1]]), found([[[1, 1], [0, 0]]], [1], [0.5], (2, 2)))
    assert apr([image], Variant(void="strip"), 1).vol == 1.0


def test_a_class_without_truth_is_nan_or_zero() -> None:
    # Class 1 is perfect; class 2 has a detection only; class 3 has nothing; class 4 has truth only.
    ids, top = [[1, 1], [2, 2]], [[1, 1], [0, 0]]
    image = (truth(ids, [1, 4]), found([top, top], [1, 2], [0.5, 0.4], (2, 2)))
    nan = apr([image], Variant(absent="nan"), 4)
    assert np.array_equal(nan.per_class[4], [1.0, np.nan, np.nan, 0.0], equal_nan=True)
    assert nan.mean[4] == 0.5
    assert nan.vol == 0.5
    zero = apr([image], Variant(absent="zero"), 4)
    assert zero.per_class[4].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert zero.mean[4] == 0.25


def test_an_image_without_truth_still_costs_precision() -> None:
    empty = (truth([[0, 0]], []), found([[[1, 1]]], [1], [0.9], (1, 2)))
    full = (truth([[1, 1]], [1]), found([[[1, 1]]], [1], [0.8], (1, 2)))
    for matching in ("mnc", "sds"):  # false, then right: 1/2. SDS's own code loses the first and says 1.
        assert apr([empty, full], Variant(matching=matching), 1).vol == 0.5


def test_equal_scores_are_taken_in_image_order_then_detection_order() -> None:
    wrong, right, both = outcome([0.5], [0], 0), outcome([0.5], [1], 1), outcome([0.5, 0.5], [0, 1], 1)
    assert voc_apr.average_precision([wrong, right], Variant(), 1).vol == 0.5
    assert voc_apr.average_precision([right, wrong], Variant(), 1).vol == 1.0
    assert voc_apr.average_precision([both], Variant(), 1).vol == 0.5
    # Two detections of equal score on one truth, IoU 1/2 and 1: at 0.5 the one that comes first is the right one.
    image = (truth([[1, 1]], [1]), found([[[1, 0]], [[1, 1]]], [1, 1], [0.5, 0.5], (1, 2)))
    assert voc_apr.match_image(*image, Variant(), 1).correct[4].tolist() == [True, False]
    assert voc_apr.match_image(*image, Variant(), 1).correct[5].tolist() == [False, True]


def test_no_images_and_no_detections() -> None:
    nothing = voc_apr.average_precision([], Variant(), 2)
    assert np.isnan(nothing.per_class).all()
    assert np.isnan(nothing.vol)
    missed = (truth([[1, 0]], [1]), found([], [], [], (1, 2)))
    assert apr([missed], Variant(), 1).vol == 0.0


def test_the_tag_names_every_switch() -> None:
    assert Variant().tag == "area/mnc/count/nan"
    assert Variant("11-point", "sds", "strip", "zero").tag == "11-point/sds/strip/zero"
    with pytest.raises(ValueError, match="integral must be one of area, 11-point, not '11pt'"):
        Variant(integral="11pt")


def test_thresholds_are_literal_tenths() -> None:
    assert voc_apr.THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


SQUARE = [[1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("annotation", "detections", "message"),
    [
        (truth(SQUARE, []), found([], [], [], (2, 2)), "ids up to 1, but there are 0 labels"),
        (truth([[1, 1], [3, 3]], [1, 1, 1]), found([], [], [], (2, 2)), "instance id 2 has no pixel"),
        (truth(SQUARE, [3]), found([], [], [], (2, 2)), r"an annotated instance has the label 3, not one of 1\.\.2"),
        (truth(SQUARE, [1]), found([SQUARE], [0], [1.0], (2, 2)), "a detected instance has the label 0"),
        (truth(SQUARE, [1]), found([SQUARE], [1], [np.nan], (2, 2)), "score is not a finite number"),
        (truth(SQUARE, [1]), found([[[1], [1]]], [1], [1.0], (2, 1)), r"mask 0 has the size \[2, 1\]"),
        (truth(SQUARE, [1], [[0, 1]]), found([], [], [], (2, 2)), "void must be bool of shape"),
        (truth(SQUARE, [1]), ImageDetections([], np.ones(1), np.ones(1)), "masks, labels and scores"),
        (ImageTruth(np.ones((2, 2)), np.ones(1)), found([], [], [], (2, 2)), "instances must be an integer map"),
    ],
)
def test_broken_input_is_refused(annotation: ImageTruth, detections: ImageDetections, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        voc_apr.match_image(annotation, detections, Variant(), 2)
