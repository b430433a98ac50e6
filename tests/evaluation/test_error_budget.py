"""Error budget: one drawn case of each type, with the AP it costs worked by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from evaluation import error_budget, masks, voc_apr
from evaluation.error_budget import ERRORS, FINDERS, TYPES, ImageMatches
from evaluation.voc_apr import ImageDetections, ImageTruth, Variant

CATEGORIES = ("cat", "dog")


def match(truth: str, labels: list[int], *detections: tuple[int, str]) -> ImageMatches:
    """One row of pixels: ``truth`` holds ids and dots; detections are class and row of x and dots, surest first."""
    ids = np.array([[0 if letter == "." else int(letter) for letter in truth]])
    dense = np.array([[letter == "x" for letter in row] for _, row in detections], np.bool_)
    scores = 1.0 - 0.1 * np.arange(len(detections))
    found = ImageDetections(
        masks.encode(dense.reshape(len(detections), 1, len(truth))), np.array([of for of, _ in detections]), scores
    )
    return error_budget.match_image(ImageTruth(ids, np.array(labels, np.int64)), found, len(CATEGORIES))


def types(image: ImageMatches) -> list[str]:
    return [("correct", *TYPES)[number] for number in image.types]


def measured(*images: ImageMatches) -> dict[str, float]:
    once = np.ones((1, len(images)), np.int64)
    return {name: values[0] for name, values in error_budget.measure(images, once, CATEGORIES).items()}


def budget(*images: ImageMatches) -> tuple[float, dict[str, float]]:
    """AP and what is lost to which error, without the zeros."""
    values = measured(*images)
    lost = {name: values[f"lost_{name}"] for name in ERRORS}
    return values["ap_r_50"], {name: pytest.approx(value) for name, value in lost.items() if value}


def test_a_duplicate() -> None:
    # Right, duplicate, right of two: 1/2 * 1 + 1/2 * 2/3 = 5/6, and 1 without the duplicate.
    image = match("11112222", [1, 1], (1, "xxxx...."), (1, "xxx....."), (1, "....xxxx"))
    assert types(image) == ["correct", "duplicate", "correct"]
    assert budget(image) == (pytest.approx(5 / 6), {"duplicate": 1 / 6})


def test_a_wrong_class() -> None:
    # The dog is called a cat, surer than the cat. Cats: wrong, right: 1/2; dogs: 0. Relabelled, both are 1.
    image = match("11112222", [1, 2], (1, "....xxxx"), (1, "xxxx...."))
    assert types(image) == ["classification", "correct"]
    assert budget(image) == (pytest.approx(1 / 4), {"classification": 3 / 4})
    values = measured(image)
    assert values["lost_classification/cat"] == 1 / 2
    assert values["lost_classification/dog"] == 1
    assert values["truths_classification"] == 1


def test_a_wrong_class_is_corrected_at_its_score() -> None:
    # Dogs: background first, then the relabelled one: 1/2. Without the background nothing is found yet: AP stays 0.
    image = match("1111....", [2], (2, "....xxxx"), (1, "xxxx...."))
    assert types(image) == ["background", "classification"]
    assert budget(image) == (0, {"classification": 1 / 2})


def test_a_wrong_class_on_a_found_truth_is_removed() -> None:
    # A cat on the dog that is found: nothing to find, and without cats in the truth nothing is lost either.
    image = match("1111", [2], (1, "xxxx"), (2, "xxxx"))
    assert types(image) == ["classification", "correct"]
    assert budget(image) == (1, {})
    assert measured(image)["truths_classification"] == 0


def test_a_merge() -> None:
    # IoU 4/10 with both truths. In its place both are found.
    image = match("11112222..", [1, 1], (1, "xxxxxxxxxx"))
    assert types(image) == ["merge"]
    assert image.found_by.tolist() == [[-1, -1], [-1, -1], [0, 0], [-1, -1], [-1, -1]]
    assert budget(image) == (0, {"merge": 1})


def test_a_truth_half_covered_is_merged_and_one_pixel_less_is_not() -> None:
    # Both regions have 9 pixels, so IoU 4/9 with the first truth; they cover 2 and 1 of the second's 4 pixels.
    assert types(match("11112222....", [1, 1], (1, "xxxxxx..xxx."))) == ["merge"]
    assert types(match("11112222....", [1, 1], (1, "xxxxx...xxxx"))) == ["localisation"]


def test_a_region_that_is_mostly_background_merges_nothing() -> None:
    # 8 of its 16 pixels lie in the two truths it covers: half, a merge. With one pixel more of background it is none.
    assert types(match("11112222.........", [1, 1], (1, "xxxxxxxxxxxxxxxx."))) == ["merge"]
    assert types(match("11112222.........", [1, 1], (1, "xxxxxxxxxxxxxxxxx"))) == ["localisation"]


def test_truths_of_different_classes_are_not_merged() -> None:
    assert types(match("11112222..", [1, 2], (1, "xxxxxxxxxx"))) == ["localisation"]


def test_a_correct_detection_can_swallow_a_neighbour() -> None:
    # IoU 5/8 with the second truth: correct. The first is lost in it, and found when merges are fixed.
    image = match("11122222", [1, 1], (1, "xxxxxxxx"))
    assert types(image) == ["correct"]
    assert budget(image) == (1 / 2, {"merge": 1 / 2})
    values = measured(image)
    assert values["errors_merge"] == 0
    assert values["truths_merge"] == 1
    assert values["truths_missed"] == 0


def test_a_duplicate_that_covers_two_truths_is_a_duplicate() -> None:
    # Once the second truth is found by itself, the region over both is a copy of it; the first truth is missed.
    image = match("11122222", [1, 1], (1, "...xxxxx"), (1, "xxxxxxxx"))
    assert types(image) == ["correct", "duplicate"]
    assert budget(image) == (1 / 2, {"missed": 1 / 2})


def test_a_merge_of_found_truths_is_removed() -> None:
    # Merge, right, right: precision 1/2 and 2/3, so AP 2/3.
    image = match("11112222..", [1, 1], (1, "xxxxxxxxxx"), (1, "xxxx......"), (1, "....xxxx.."))
    assert types(image) == ["merge", "correct", "correct"]
    assert budget(image) == (pytest.approx(2 / 3), {"merge": 1 / 3})


def test_a_split() -> None:
    # Two pieces of IoU 4/10: the first finds the truth, the second goes.
    image = match("1111111111", [1], (1, "xxxx......"), (1, "......xxxx"))
    assert types(image) == ["split", "split"]
    assert image.found_by[:, 0].tolist() == [-1, -1, -1, 0, -1]
    assert budget(image) == (0, {"split": 1})


def test_a_piece_beside_a_correct_detection_is_a_split() -> None:
    # The small piece (IoU 2/10) is surer than the one that is large enough (6/10): wrong, right: 1/2.
    image = match("1111111111", [1], (1, "xx........"), (1, "..xxxxxx.."))
    assert types(image) == ["split", "correct"]
    assert budget(image) == (1 / 2, {"split": 1 / 2})


def test_pieces_share_less_than_half_of_the_smaller() -> None:
    one_shared = match("1111111111", [1], (1, "xxxx......"), (1, "...xxxx..."))
    assert types(one_shared) == ["split", "split"]
    half_shared = match("1111111111", [1], (1, "xxxx......"), (1, "..xxxx...."))
    assert types(half_shared) == ["localisation", "localisation"]


def test_pieces_lie_in_the_truth_by_half_and_are_of_one_class() -> None:
    inside = match("111111111111....", [1], (1, "xx............xx"), (1, "..xxxx.........."))
    assert types(inside) == ["split", "split"]  # 2 of 4 pixels inside
    outside = match("111111111111....", [1], (1, "xx...........xxx"), (1, "..xxxx.........."))
    assert types(outside) == ["localisation", "localisation"]  # 2 of 5 pixels inside; IoU 2/15 and 4/12
    other = match("1111111111", [1], (2, "xxxx......"), (1, "......xxxx"))
    assert types(other) == ["both", "localisation"]


def test_a_wrong_place() -> None:
    # Two regions that are too small, one within the other. The surer one finds the truth, the other goes.
    # Before: wrong, wrong, right of two: 1/3 * 1/2.
    image = match("1111111111222", [1, 1], (1, "xxxx........."), (1, "xxx.........."), (1, "..........xxx"))
    assert types(image) == ["localisation", "localisation", "correct"]
    assert budget(image) == (pytest.approx(1 / 6), {"localisation": 5 / 6})
    assert measured(image)["truths_localisation"] == 1


def test_a_wrong_place_on_a_found_truth_is_removed() -> None:
    # The surer region lies within the correct one: no split. Wrong, right: 1/2.
    image = match("1111111111", [1], (1, "xxxx......"), (1, "xxxxxxxxxx"))
    assert types(image) == ["localisation", "correct"]
    assert budget(image) == (1 / 2, {"localisation": 1 / 2})


def test_an_iou_of_exactly_one_tenth_is_a_wrong_place_and_less_is_background() -> None:
    assert types(match("1111111111.", [1], (1, "x.........."))) == ["localisation"]
    image = match("11111111111", [1], (1, "x.........."))
    assert types(image) == ["background"]
    assert budget(image) == (0, {"missed": 1})


def test_wrong_in_both_leaves_the_truth_missed() -> None:
    # Dogs: nothing found. The cat region would have to move and to change its class, so it explains nothing.
    image = match("1111111111222", [2, 1], (1, "xxxx........."), (1, "..........xxx"))
    assert types(image) == ["both", "correct"]
    assert budget(image) == (1 / 4, {"both": 1 / 4, "missed": 1 / 2})


def test_an_iou_of_exactly_one_half_is_a_hit() -> None:
    assert types(match("1111", [1], (1, "xxxx"), (1, "xx.."))) == ["correct", "duplicate"]
    assert types(match("1111", [2], (1, "xx.."))) == ["classification"]


def test_background_and_an_empty_mask() -> None:
    # Two wrong, one right: 1/3.
    image = match("1111....", [1], (1, "....xxxx"), (1, "........"), (1, "xxxx...."))
    assert types(image) == ["background", "background", "correct"]
    assert budget(image) == (pytest.approx(1 / 3), {"background": 2 / 3})
    assert measured(image)["errors_background"] == 2


def test_a_missed_truth() -> None:
    image = match("11112222", [1, 1], (1, "xxxx...."))
    assert budget(image) == (1 / 2, {"missed": 1 / 2})
    assert measured(image)["truths_missed"] == 1


def test_a_class_of_missed_truths_lost_everything_to_them() -> None:
    # No cat is found and there is a false one: not counting the cats gives 1. Dogs are all found.
    image = match("11112222..", [1, 2], (1, "........xx"), (2, "....xxxx.."))
    assert budget(image) == (1 / 2, {"missed": 1 / 2})


def test_errors_may_hide_each_other() -> None:
    # One truth; background before a region too small. AP 0; moved: 1/2; without the background still 0.
    image = match("1111......", [1], (1, "......xxxx"), (1, "x........."))
    assert budget(image) == (0, {"localisation": 1 / 2})
    both = error_budget.fix(image, ("localisation", "background"), 2)
    assert voc_apr.average_precision([both], Variant(), 2).mean[4] == 1


def test_a_truth_that_two_types_explain() -> None:
    # A region too small of its class, and one of the other class: each fix finds the truth; fixing both, the surer.
    image = match("1111111111", [1], (2, "xxxxxxxxxx"), (1, "xxxx......"))
    assert types(image) == ["classification", "localisation"]
    assert budget(image) == (0, {"classification": 1, "localisation": 1})
    fixed = error_budget.fix(image, ERRORS, 2)
    assert fixed.labels.tolist() == [1]
    assert fixed.scores.tolist() == [1.0]
    assert fixed.truth_counts.tolist() == [1, 0]


def test_a_fixed_detection_keeps_its_place_among_equal_scores() -> None:
    # All scores equal: background, merge of two, background. After fixing merges: wrong right right wrong, AP 2/3.
    image = match("11112222....", [1, 1], (1, "..........xx"), (1, "xxxxxxxxxx.."), (1, "..........xx"))
    tied = dataclasses.replace(image, scores=np.ones(3))
    fixed = error_budget.fix(tied, ("merge",), 2)
    assert fixed.correct[4].tolist() == [False, True, True, False]
    assert budget(tied) == (0, {"merge": pytest.approx(2 / 3)})


def test_numbers_follow_the_weights_of_images() -> None:
    merged = match("11112222..", [1, 1], (1, "xxxxxxxxxx"))
    clean = match("1111......", [1], (1, "xxxx......"))
    values = error_budget.measure([merged, clean], np.array([[1, 1], [0, 2], [3, 0]]), CATEGORIES)
    # Once each: wrong, right of 3 (equal scores, image order): 1/3 * 1/2.
    assert values["ap_r_50"].tolist() == pytest.approx([1 / 6, 1, 0])
    assert values["lost_merge"].tolist() == pytest.approx([5 / 6, 0, 1])
    assert values["errors_merge"].tolist() == [1, 0, 3]
    assert values["truths_merge"].tolist() == [2, 0, 6]
    assert np.isnan(values["lost_merge/dog"]).all()


def test_the_names() -> None:
    names = measured(match("1", [1])).keys()
    lost = {f"lost_{error}{tail}" for error in ERRORS for tail in ("", "/cat", "/dog")}
    counted = {f"errors_{name}" for name in TYPES} | {f"truths_{name}" for name in (*FINDERS, "missed")}
    assert names == {"ap_r_50"} | lost | counted


def test_no_truth_and_no_image() -> None:
    values = measured(match("....", [], (1, "xx..")))
    assert np.isnan(values["ap_r_50"])
    assert np.isnan(values["lost_background"])
    assert values["errors_background"] == 1
    nothing = error_budget.measure([], np.ones((2, 0), np.int64), CATEGORIES)
    assert np.isnan(nothing["lost_merge"]).all()
    assert nothing["errors_merge"].tolist() == [0, 0]


def test_broken_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a detected instance has the label 3, not one of 1\.\.2"):
        match("11", [1], (3, "xx"))
