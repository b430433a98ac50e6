"""COCO's AP and AR: cases worked by hand. Masks are rows of pixels; areas are as annotated, 100 if nothing is said."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation import coco_ap, masks
from evaluation.coco_ap import ImageDetections, ImageMatches, ImageTruth

Row = list[int]
Image = tuple[ImageTruth, ImageDetections]


def regions(rows: list[Row]) -> list[masks.RunLengths]:
    return masks.encode(np.array(rows, np.bool_)[:, None]) if rows else []


def truth(
    rows: list[Row], labels: list[int] | None = None, crowd: list[int] | None = None, areas: list[float] | None = None
) -> ImageTruth:
    count = len(rows)
    return ImageTruth(
        regions(rows),
        np.array(labels or [1] * count, np.int64),
        np.array(crowd or [0] * count, np.bool_),
        np.array(areas or [100.0] * count),
    )


def found(rows: list[Row], scores: list[float], labels: list[int] | None = None) -> ImageDetections:
    return ImageDetections(regions(rows), np.array(labels or [1] * len(rows), np.int64), np.array(scores, np.float64))


def numbers(images: list[Image], categories: tuple[str, ...] = ("a",)) -> dict[str, float]:
    matches = [coco_ap.match_image(*image, len(categories)) for image in images]
    values = coco_ap.measure(matches, np.ones((1, len(images)), np.int64), categories)
    assert {value.shape for value in values.values()} == {(1,)}
    return {name: float(value[0]) for name, value in values.items()}


def outcomes(image: Image, size: str = "all", agnostic: bool = False, level: int = 0) -> list[int]:
    """1 correct, 0 false, -1 ignored, of each detection at IoU 0.5 + 0.05 ``level``."""
    match = coco_ap.match_image(*image, 9)
    return match.outcome[int(agnostic), coco_ap.SIZES.index(size), level].tolist()


FULL = [1, 1, 1, 1]
LEFT, RIGHT = [1, 1, 0, 0], [0, 0, 1, 1]


def test_a_perfect_result_scores_one_and_sizes_without_truth_have_no_number() -> None:
    values = numbers([(truth([LEFT, RIGHT]), found([RIGHT, LEFT], [0.5, 0.6]))])
    assert values["coco_ar_1"] == 0.5  # one detection, two truths
    assert values["coco_agnostic_recall_50_1"] == 0.5
    sized = {name for name in values if name.endswith(("medium", "large"))}
    assert len(sized) == 12
    assert all(np.isnan(values[name]) for name in sized)
    rest = set(values) - sized - {"coco_ar_1", "coco_agnostic_ar_1", "coco_agnostic_ar_1_small"}
    assert all(values[name] == 1.0 for name in rest - {"coco_agnostic_recall_50_1"})


def test_the_names_of_all_numbers() -> None:
    twelve = ["coco_ap", "coco_ap_50", "coco_ap_75", "coco_ap_small", "coco_ap_medium", "coco_ap_large"]
    twelve += ["coco_ar_1", "coco_ar_10", "coco_ar_100", "coco_ar_small", "coco_ar_medium", "coco_ar_large"]
    pooled = []
    for limit in (1, 10, 100, 1000):
        pooled += [f"coco_agnostic_ar_{limit}{size}" for size in ("", "_small", "_medium", "_large")]
        pooled.append(f"coco_agnostic_recall_50_{limit}")
    names = set(numbers([], ("a", "b")))
    assert names == {*twelve, *pooled, "coco_ap/a", "coco_ap/b", "coco_ap_50/a", "coco_ap_50/b"}


def test_ap_reads_precision_at_101_recalls() -> None:
    # Right, false, right of two truths: precision 1 up to recall 1/2 (51 levels), then 2/3 (50 levels).
    values = numbers([(truth([LEFT, RIGHT]), found([LEFT, [1, 1, 1, 0], RIGHT], [0.9, 0.8, 0.7]))])
    assert values["coco_ap_75"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-15)
    # A false one, then a right one: precision 1/2 at every recall, 0 included.
    values = numbers([(truth([LEFT]), found([RIGHT, LEFT], [0.9, 0.8]))])
    assert values["coco_ap"] == 0.5
    # One of three truths found: recall 1/3 reaches 0, 0.01 ... 0.33.
    values = numbers([(truth([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), found([[0, 1, 0]], [0.9]))])
    assert values["coco_ap"] == pytest.approx(34 / 101, abs=1e-15)
    assert values["coco_ar_100"] == pytest.approx(1 / 3, abs=1e-15)


def test_a_threshold_is_passed_by_an_equal_iou() -> None:
    # IoU 3/4 passes 0.5, 0.55 ... 0.75: six of ten thresholds.
    values = numbers([(truth([FULL]), found([[1, 1, 1, 0]], [0.9]))])
    assert (values["coco_ap_75"], values["coco_ap"]) == (1.0, 0.6)
    assert values["coco_ar_1"] == 0.6


def test_of_equal_iou_the_later_truth_is_taken() -> None:
    # The first detection has IoU 1/2 with both truths; the second one with LEFT alone.
    twice = found([FULL, LEFT], [0.9, 0.8])
    assert outcomes((truth([LEFT, RIGHT]), twice)) == [1, 1]
    assert outcomes((truth([RIGHT, LEFT]), twice)) == [1, 0]


def test_the_free_truth_with_the_highest_iou_is_taken() -> None:
    rows = [[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]  # IoU of the detection: 1, then 3/4
    image = (truth(rows), found([rows[0], rows[0]], [0.9, 0.8]))
    assert outcomes(image) == [1, 1]  # the second one takes what is left
    assert outcomes(image, level=6) == [1, 0]  # at 0.8 nothing is


def test_a_crowd_makes_detections_count_for_nothing() -> None:
    image = (truth([FULL], crowd=[1]), found([LEFT, [0, 1, 1, 0], FULL, [1, 0, 0, 0]], [0.9, 0.8, 0.7, 0.6]))
    assert outcomes(image, level=9) == [-1] * 4  # the whole of each lies in the crowd, which is never used up
    values = numbers([image])
    assert np.isnan(values["coco_ap"])
    assert np.isnan(values["coco_agnostic_ar_100"])


def test_a_truth_to_find_goes_before_a_crowd() -> None:
    # IoU 1/2 with the truth, but all of the detection lies in the crowd.
    image = (truth([[1, 0, 0, 0], FULL], crowd=[0, 1]), found([LEFT, LEFT], [0.9, 0.8]))
    assert outcomes(image) == [1, -1]
    assert outcomes(image, level=1) == [-1, -1]


def test_sizes_follow_the_annotated_area_and_both_ends_belong() -> None:
    for area, sizes in (
        (1023.9, ["small"]),
        (1024.0, ["small", "medium"]),
        (9216.0, ["medium", "large"]),
        (9216.1, ["large"]),
    ):
        values = numbers([(truth([LEFT], areas=[area]), found([LEFT], [0.9]))])
        assert [size for size in coco_ap.SIZES[1:] if values[f"coco_ap_{size}"] == 1.0] == sizes
        assert [size for size in coco_ap.SIZES[1:] if values[f"coco_agnostic_ar_1_{size}"] == 1.0] == sizes
        assert [size for size in coco_ap.SIZES[1:] if np.isnan(values[f"coco_ar_{size}"])] == [
            size for size in coco_ap.SIZES[1:] if size not in sizes
        ]


def test_outside_of_the_size_range_a_detection_is_ignored_unless_it_finds_a_truth() -> None:
    # LEFT has two pixels: small. It finds a truth that is annotated as large; RIGHT finds nothing.
    image = (truth([LEFT], areas=[1e4]), found([LEFT, RIGHT], [0.9, 0.8]))
    assert outcomes(image, "large") == [1, -1]
    assert outcomes(image, "medium") == [-1, -1]
    assert outcomes(image, "small") == [-1, 0]
    assert outcomes(image, "all") == [1, 0]


def test_a_truth_outside_of_the_size_range_is_used_up() -> None:
    image = (truth([LEFT], areas=[1e4]), found([LEFT, LEFT], [0.9, 0.8]))
    assert outcomes(image, "small") == [-1, 0]


def test_only_the_first_100_of_an_image_and_class_count() -> None:
    rows = [RIGHT] * 100 + [LEFT]
    scores = [1 - 0.001 * place for place in range(101)]
    values = numbers([(truth([LEFT]), found(rows, scores))])
    assert [values[name] for name in ("coco_ap", "coco_ar_100", "coco_agnostic_ar_100")] == [0.0, 0.0, 0.0]
    assert values["coco_agnostic_ar_1000"] == 1.0
    # Of another class, the first hundred stand in nobody's way, except where classes do not matter.
    values = numbers([(truth([LEFT]), found(rows, scores, [2] * 100 + [1]))], ("a", "b"))
    assert [values[name] for name in ("coco_ap", "coco_ar_1", "coco_agnostic_ar_100")] == [1.0, 1.0, 0.0]
    assert values["coco_agnostic_recall_50_1000"] == 1.0


def test_class_agnostic_recall_forgives_the_wrong_class() -> None:
    image = (truth([LEFT, RIGHT], [1, 2]), found([LEFT, RIGHT], [0.9, 0.8], [2, 2]))
    values = numbers([image], ("a", "b"))
    assert [values[name] for name in ("coco_ap/a", "coco_ap_50/b", "coco_ar_100")] == [0.0, 0.5, 0.5]
    assert [values[name] for name in ("coco_agnostic_ar_1", "coco_agnostic_ar_10")] == [0.5, 1.0]


def test_class_agnostic_ties_go_by_class() -> None:
    # Of two detections with one score, class 1 is taken first, whichever comes first in the list.
    image = (truth([LEFT], [1]), found([RIGHT, LEFT], [0.5, 0.5], [2, 1]))
    assert numbers([image], ("a", "b"))["coco_agnostic_ar_1"] == 1.0
    image = (truth([LEFT], [1]), found([LEFT, RIGHT], [0.5, 0.5], [2, 1]))
    assert numbers([image], ("a", "b"))["coco_agnostic_ar_1"] == 0.0


def test_a_category_without_truth_has_no_number_and_one_without_detections_has_zero() -> None:
    image = (truth([LEFT, RIGHT], [1, 3]), found([LEFT, LEFT], [0.9, 0.8], [1, 2]))
    values = numbers([image], ("a", "b", "c"))
    assert (values["coco_ap/a"], values["coco_ap/c"], values["coco_ap"]) == (1.0, 0.0, 0.5)
    assert np.isnan(values["coco_ap/b"])
    assert np.isnan(values["coco_ap_50/b"])


def test_an_image_without_truth_still_costs_precision() -> None:
    full, empty = (truth([LEFT]), found([LEFT], [0.8])), (truth([]), found([LEFT], [0.9]))
    assert numbers([full, empty])["coco_ap"] == 0.5
    assert numbers([full, (truth([]), found([], []))])["coco_ap"] == 1.0


def test_equal_scores_go_by_image() -> None:
    right, wrong = (truth([LEFT]), found([LEFT], [0.5])), (truth([]), found([LEFT], [0.5]))
    assert numbers([right, wrong])["coco_ap"] == 1.0
    assert numbers([wrong, right])["coco_ap"] == 0.5


def test_nothing_at_all_is_nan() -> None:
    for images in ([], [(truth([]), found([], []))], [(truth([]), found([LEFT], [0.9]))]):
        assert all(np.isnan(value) for value in numbers(images).values())


def test_boxes_are_judged_like_masks() -> None:
    box = ImageTruth(np.array([[0.0, 0.0, 40.0, 40.0]]), np.ones(1, np.int64), np.zeros(1, np.bool_), np.array([900.0]))
    half = ImageDetections(np.array([[0.0, 0.0, 30.0, 40.0]]), np.ones(1, np.int64), np.array([0.5]))
    values = numbers([(box, half)])
    assert (values["coco_ap"], values["coco_ap_small"]) == (0.6, 0.6)  # IoU 3/4; small as annotated
    away = ImageDetections(np.array([[50.0, 0.0, 30.0, 40.0]]), np.ones(1, np.int64), np.array([0.5]))
    assert outcomes((box, away), "small") == [-1]  # 1200 pixels


def test_counts_are_copies_of_images() -> None:
    images = [(truth([LEFT]), found([RIGHT, LEFT], [0.9, 0.8])), (truth([LEFT]), found([LEFT], [0.7]))]
    matches = [coco_ap.match_image(*image, 1) for image in images]
    ap = coco_ap.measure(matches, np.array([[1, 1], [0, 2], [2, 0], [0, 0], [1, 3]]), ["a"])["coco_ap"]
    # False, right, right: 2/3. Right only. Twice false, then twice right: 1/2. Nothing. One false among five.
    np.testing.assert_allclose(ap, [2 / 3, 1.0, 0.5, np.nan, 0.8], rtol=0, atol=1e-15)


def test_matches_hold_small_arrays_only() -> None:
    match = coco_ap.match_image(truth([LEFT, RIGHT, FULL], [1, 2, 2], crowd=[0, 0, 1]), found([LEFT], [0.9]), 2)
    assert match.outcome.shape == (2, 4, 10, 1)
    assert match.outcome.dtype == np.int8
    assert match.truth_counts.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert (match.labels.dtype, match.scores.dtype) == (np.int64, np.float64)


ONE = ImageTruth(regions([LEFT]), np.ones(1, np.int64), np.zeros(1, np.bool_), np.array([2.0]))
BOX = np.array([[0.0, 0.0, 1.0, 1.0]])


@pytest.mark.parametrize(
    ("annotation", "detections", "message"),
    [
        (ONE, found([LEFT], [0.9], [3]), r"a detected instance has the label 3, not one of 1\.\.2"),
        (truth([LEFT], [3]), found([], []), "an annotated instance has the label 3"),
        (ONE, found([LEFT], [np.nan]), "a score is not a finite number"),
        (truth([LEFT], areas=[np.inf]), found([], []), "an area is not a finite number"),
        (ONE, found([[1, 0]], [0.9]), r"mask 0 has the size \[1, 2\], the image \[1, 4\]"),
        (ONE, ImageDetections([{"size": [1, 4], "counts": "02"}], np.ones(1), np.ones(1)), "mask 0 is damaged"),
        (ONE, ImageDetections([], np.ones(1), np.ones(1)), "a detected instance is incomplete: 0 regions"),
        (ImageTruth(ONE.regions, ONE.labels, ONE.crowd, np.ones(2)), found([], []), "an annotated instance is incompl"),
        (ImageTruth(ONE.regions, ONE.labels, np.zeros(1), ONE.areas), found([], []), "crowd must be bool"),
        (ONE, ImageDetections(BOX, np.ones(1), np.ones(1)), "must all be masks, or all boxes"),
        (truth([]), ImageDetections(BOX[:, :3], np.ones(1), np.ones(1)), "must all be masks, or all boxes"),
        (truth([]), ImageDetections(BOX - [[0, 0, 2, 0]], np.ones(1), np.ones(1)), "negative width or height"),
        (truth([]), ImageDetections(BOX * np.nan, np.ones(1), np.ones(1)), "a box is not finite"),
    ],
)
def test_broken_input_is_refused(annotation: ImageTruth, detections: ImageDetections, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        coco_ap.match_image(annotation, detections, 2)


def test_masks_that_were_checked_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "check", lambda *_: pytest.fail("checked again"))
    assert coco_ap.match_image(ONE, found([LEFT], [0.9]), 1, checked=True).outcome[0, 0].ravel().tolist() == [1] * 10
    with pytest.raises(ValueError, match="a detected instance has the label 2"):  # the rest costs nothing
        coco_ap.match_image(ONE, found([LEFT], [0.9], [2]), 1, checked=True)


def test_measure_refuses_what_does_not_fit() -> None:
    match = coco_ap.match_image(truth([LEFT]), found([LEFT], [0.9]), 2)
    with pytest.raises(ValueError, match=r"counts must have the shape \(B, 1\), not \(1, 2\)"):
        coco_ap.measure([match], np.ones((1, 2), np.int64), ["a", "b"])
    with pytest.raises(ValueError, match="image 0 was matched for 2 classes, not 1"):
        coco_ap.measure([match], np.ones((1, 1), np.int64), ["a"])


def test_recall_for_any_limit() -> None:
    matches: list[ImageMatches] = [coco_ap.match_image(truth([LEFT, RIGHT]), found([LEFT, RIGHT], [0.9, 0.8]), 1)]
    found_with = coco_ap.recalls(matches, np.ones((1, 1), np.int64), 1)(False, 0, (0, 1, 2, 3))
    assert found_with[0, :, 0, 0].tolist() == [0.0, 0.5, 1.0, 1.0]
