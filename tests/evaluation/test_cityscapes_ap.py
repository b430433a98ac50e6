"""Cityscapes AP: cases worked by hand. Only car (26) and person (24) occur, unless a test says otherwise."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as official_labels

from evaluation import cityscapes_ap, masks
from evaluation.cityscapes_ap import CLASSES, Distances, ImageDetections, ImageMatches, ImageTruth

ROAD, VOID, PERSON, CAR, CARAVAN = 7, 3, 24, 26, 29
COLUMN = {label: column for column, label in enumerate(CLASSES)}
SIZE = (50, 80)


def strip(start: int, stop: int) -> np.ndarray:
    """Pixels start .. stop - 1 of the image, row by row."""
    mask = np.zeros(SIZE[0] * SIZE[1], np.bool_)
    mask[start:stop] = True
    return mask.reshape(SIZE)


def truth(*parts: tuple[int, int, int], distances: Distances | None = None) -> ImageTruth:
    """Road with strips of other ids: (id, start, stop)."""
    ids = np.full(SIZE, ROAD, np.uint16)
    for number, start, stop in parts:
        ids[strip(start, stop)] = number
    return ImageTruth(ids, distances)


def found(*parts: tuple[int, int, float], label: int = CAR) -> ImageDetections:
    """Strips: (start, stop, score)."""
    dense = np.array([strip(start, stop) for start, stop, _ in parts], np.bool_).reshape(-1, *SIZE)
    scores = np.array([score for *_, score in parts], np.float64)
    return ImageDetections(masks.encode(dense), np.full(len(parts), label), scores)


def levels(*ranges: tuple[int, int]) -> list[int]:
    """(outcome, how many thresholds) written out."""
    return [value for value, times in ranges for _ in range(times)]


def outcomes(image: ImageTruth, detections: ImageDetections, place: int = 0) -> list[list[int]]:
    """By detection, at 0.5 ... 0.95, for all objects or those up to 100 m or 50 m."""
    return cityscapes_ap.match_image(image, detections).outcome[place].T.tolist()


def listed(scores: list[float], outcome: list[int], objects: int) -> ImageMatches:
    """An image of cars, of equal outcome in every range and at every threshold."""
    counts = np.zeros((3, 8), np.int64)
    counts[:, COLUMN[CAR]] = objects
    everywhere = np.broadcast_to(np.array(outcome, np.int8), (3, 10, len(scores))).copy()
    return ImageMatches(np.full(len(scores), CAR), np.array(scores, np.float64), everywhere, counts)


def values(matches: list[ImageMatches], *counts: int) -> dict[str, float]:
    weights = np.array([counts or [1] * len(matches)], np.int64)
    return {name: float(value[0]) for name, value in cityscapes_ap.measure(matches, weights).items()}


def test_the_labels_are_the_official_ones() -> None:
    evaluated = {one.id: one.name for one in official_labels if one.hasInstances and not one.ignoreInEval}
    assert evaluated == CLASSES
    assert sorted(one.id for one in official_labels if one.ignoreInEval) == sorted(cityscapes_ap.VOID_IDS)
    assert sorted(one.id for one in official_labels) == list(cityscapes_ap.LABEL_IDS)


@pytest.mark.parametrize("twentieths", range(10, 21))
def test_iou_must_be_greater_than_the_threshold(twentieths: int) -> None:
    # The object has 400 pixels, the detection k/20 of them and nothing else: IoU is exactly k/20. It is correct at
    # 0.5 ... (k - 1)/20.
    cut = found((0, 20 * twentieths, 0.9))
    assert outcomes(truth((26001, 0, 400)), cut) == [levels((1, twentieths - 10), (0, 20 - twentieths))]


def test_of_several_hits_the_surest_is_correct_not_the_best() -> None:
    # IoU 0.75, 1, 0.75: the last is surest. Above 0.75 only the second hits.
    pair = found((0, 300, 0.1), (0, 400, 0.5), (100, 400, 0.8))
    surest = [levels((0, 10)), levels((0, 5), (1, 5)), levels((1, 5), (0, 5))]
    assert outcomes(truth((26001, 0, 400)), pair) == surest


def test_void_counts_in_the_union() -> None:
    # 300 pixels on the object and 100 on void: IoU is 300/400, so above 0.7 it misses; void has a quarter of it.
    image = truth((26001, 0, 300), (VOID, 300, 400))
    assert outcomes(image, found((0, 400, 0.5))) == [levels((1, 5), (0, 5))]


def test_a_miss_is_dropped_where_more_than_the_threshold_of_it_is_void() -> None:
    # 60 % of the detection is void: dropped at 0.5 and 0.55, false from 0.6 on.
    assert outcomes(truth((VOID, 0, 300)), found((0, 500, 0.5))) == [levels((-1, 2), (0, 8))]


@pytest.mark.parametrize(("number", "dropped"), [(CARAVAN, True), (CARAVAN * 1000 + 1, False), (ROAD * 1000, False)])
def test_a_caravan_is_void_only_as_a_group(number: int, dropped: bool) -> None:
    assert outcomes(truth((number, 0, 300)), found((0, 300, 0.5))) == [levels((-1 if dropped else 0, 10))]


def test_groups_are_not_looked_for() -> None:
    image = truth((CAR, 0, 300), (26001, 400, 600))
    assert outcomes(image, found((0, 300, 0.5))) == [levels((-1, 10))]  # hits the group
    # Lies on the group with 200 of 250 pixels, IoU 200/350: a hit at 0.5 and 0.55, then dropped up to 0.75.
    assert outcomes(image, found((100, 350, 0.5))) == [levels((-1, 6), (0, 4))]
    assert outcomes(image, found((0, 300, 0.5), label=PERSON)) == [levels((0, 10))]  # another class's group
    assert cityscapes_ap.match_image(image, found()).truth_counts[0, COLUMN[CAR]] == 1


@pytest.mark.parametrize(("pixels", "outcome"), [(99, -1), (100, 1)])
def test_objects_of_less_than_100_pixels_are_not_looked_for(pixels: int, outcome: int) -> None:
    image = truth((26001, 0, pixels))
    assert outcomes(image, found((0, pixels, 0.5))) == [levels((outcome, 10))]
    assert cityscapes_ap.match_image(image, found()).truth_counts[0, COLUMN[CAR]] == (pixels == 100)


def test_a_detection_larger_than_a_small_object_is_dropped_by_its_part() -> None:
    # 99 of 180 pixels lie on the small object, 55 %: IoU 0.55 too. Dropped at 0.5 and false from 0.55 on.
    assert outcomes(truth((26001, 0, 99)), found((0, 180, 0.5))) == [levels((-1, 1), (0, 9))]


def test_a_small_group_counts_twice() -> None:
    # 96 of 200 pixels lie on the group, no hit. Of 96 pixels it counts twice, 96 %; of 100 once, 48 %.
    assert outcomes(truth((CAR, 0, 96)), found((0, 200, 0.5))) == [levels((-1, 10))]
    assert outcomes(truth((CAR, 0, 100)), found((4, 204, 0.5))) == [levels((0, 10))]


def test_an_empty_detection_does_not_exist() -> None:
    match = cityscapes_ap.match_image(truth((26001, 0, 300)), found((0, 300, 0.5), (7, 7, 0.9)))
    assert match.scores.tolist() == [0.5]
    assert match.outcome.shape == (3, 10, 1)


def test_distances() -> None:
    # 1000 pixels in 60 m: looked for up to 100 m; for 50 m it is something to drop.
    def near(pixels: int, metres: float, confidence: float) -> list[list[list[int]]]:
        distances = Distances(np.array([26001]), np.array([metres]), np.array([confidence]))
        image = truth((26001, 0, pixels), distances=distances)
        return [outcomes(image, found((0, pixels, 0.5)), place) for place in range(3)]

    right, dropped = [levels((1, 10))], [levels((-1, 10))]
    assert near(1000, 60.0, 0.5) == [right, right, dropped]
    assert near(1000, 50.0, 0.5) == [right, right, right]
    assert near(1000, 100.1, 0.9) == [right, dropped, dropped]
    assert near(999, 20.0, 0.9) == [right, dropped, dropped]
    assert near(1000, 20.0, 0.49) == [right, dropped, dropped]


def test_without_distances_there_is_nothing_near() -> None:
    result = values([cityscapes_ap.match_image(truth((26001, 0, 2000)), found((0, 2000, 0.5)))])
    assert (result["cs_ap"], result["cs_ap_50/car"]) == (1.0, 1.0)
    assert isnan(result["cs_ap_100m"])
    assert isnan(result["cs_ap_50m/car"])


def test_a_group_without_a_distance_counts_twice_in_the_near_ranges() -> None:
    # 300 of 625 pixels on a group of 1000, no hit: 48 % once, 96 % twice.
    image = truth((CAR, 0, 1000))
    assert outcomes(image, found((700, 1325, 0.5)), 0) == [levels((0, 10))]
    assert outcomes(image, found((700, 1325, 0.5)), 1) == [levels((-1, 10))]
    known = Distances(np.array([CAR]), np.array([30.0]), np.array([0.9]))
    assert outcomes(replace(image, distances=known), found((700, 1325, 0.5)), 1) == [levels((0, 10))]


def test_the_area_under_straight_lines() -> None:
    # Two objects; correct, false, correct: (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3).
    # 1/2 * 1 + 1/2 * (1/2 + 2/3) / 2 = 19/24.
    assert values([listed([0.9, 0.8, 0.7], [1, 0, 1], 2)])["cs_ap"] == pytest.approx(19 / 24)
    # A false one first: (0, 1), (0, 0), (1, 1/2). The line starts from the lower point: 1/4.
    assert values([listed([0.9, 0.8], [0, 1], 1)])["cs_ap"] == pytest.approx(1 / 4)
    # False ones below the last correct one cost nothing; half of the objects are never found.
    assert values([listed([0.9, 0.8, 0.7], [1, 0, 0], 2)])["cs_ap"] == pytest.approx(1 / 2)


@pytest.mark.parametrize("outcome", [[1, 0], [0, 1]])
def test_equal_scores_are_one_step(outcome: list[int]) -> None:
    # (0, 1) to (1, 1/2), whatever comes first.
    assert values([listed([0.5, 0.5], outcome, 1)])["cs_ap"] == pytest.approx(3 / 4)


def test_dropped_detections_change_nothing() -> None:
    assert values([listed([0.9, 0.8, 0.7, 0.6], [-1, 1, -1, 1], 2)]) == pytest.approx(
        values([listed([0.8, 0.6], [1, 1], 2)]), nan_ok=True
    )


def test_an_image_counts_as_often_as_it_is_drawn() -> None:
    # First image: one object, found at 0.5. Second: one object, missed, and a false one at 0.9.
    matches = [listed([0.5], [1], 1), listed([0.9], [0], 1)]
    assert values(matches, 1, 0)["cs_ap"] == pytest.approx(1.0)
    assert values(matches, 0, 3)["cs_ap"] == 0.0
    # Twice the first: (0, 0), then (2/3, 2/3).
    assert values(matches, 2, 1)["cs_ap"] == pytest.approx(2 / 3 * 2 / 3 / 2)
    assert isnan(values(matches, 0, 0)["cs_ap"])


def test_classes_without_an_object_or_without_a_detection() -> None:
    image = truth((26001, 0, 300), (24001, 400, 600))
    both = replace(found((0, 300, 0.5), (700, 900, 0.9)), label_ids=np.array([CAR, 33]))
    result = values([cityscapes_ap.match_image(image, both)])
    assert (result["cs_ap/car"], result["cs_ap/person"], result["cs_ap"]) == (1.0, 0.0, 0.5)
    assert isnan(result["cs_ap/bicycle"])  # a detection but no object
    assert isnan(result["cs_ap_50/bus"])


def test_where_all_is_dropped_the_ap_is_0() -> None:
    # The official code stops with an IndexError here.
    image = truth((26001, 0, 300), (VOID, 400, 900))
    result = values([cityscapes_ap.match_image(image, found((500, 800, 1.0)))])
    known = {name: value for name, value in result.items() if not isnan(value)}
    assert known == {"cs_ap": 0.0, "cs_ap_50": 0.0, "cs_ap/car": 0.0, "cs_ap_50/car": 0.0}


def test_names_and_no_images() -> None:
    result = values([])
    kinds = ["cs_ap", "cs_ap_50", "cs_ap_100m", "cs_ap_50m"]
    assert list(result) == kinds + [f"{kind}/{name}" for kind in kinds for name in CLASSES.values()]
    assert all(isnan(value) for value in result.values())


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (ImageTruth(np.zeros((2, 2))), "integer map"),
        (ImageTruth(np.zeros((0, 2), np.uint8)), "integer map"),
        (ImageTruth(np.zeros((1, 2, 3), np.uint8)), "integer map"),
        (truth((34, 0, 9)), "the id 34 is none of Cityscapes"),
        (truth((34000, 0, 9)), "the id 34000 is none"),
        (ImageTruth(np.full(SIZE, -2)), "the id -2 is none"),
        (truth(distances=Distances(np.array([26001]), np.array([1.0]), np.array([]))), "of one length"),
        (truth(distances=Distances(np.array([1, 1]), np.array([1.0, 2.0]), np.array([1.0, 1.0]))), "two distances"),
        (truth(distances=Distances(np.array([1]), np.array([np.nan]), np.array([1.0]))), "not a number"),
    ],
)
def test_truths_that_break_their_promise(image: ImageTruth, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cityscapes_ap.match_image(image, found())


@pytest.mark.parametrize(
    ("detections", "message"),
    [
        (found((0, 9, 0.5), label=29), "the label id 29, not one of 24, 25"),
        (found((0, 9, np.nan)), "not a finite number"),
        (replace(found((0, 9, 0.5)), scores=np.zeros(2)), "of one length"),
        (replace(found((0, 9, 0.5)), masks=masks.encode(np.zeros((1, 3, 3), np.bool_))), "mask 0 has the size"),
    ],
)
def test_detections_that_break_their_promise(detections: ImageDetections, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cityscapes_ap.match_image(truth(), detections)


def test_counts_of_another_number_of_images() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 1\)"):
        cityscapes_ap.measure([listed([0.5], [1], 1)], np.ones((1, 2), np.int64))
