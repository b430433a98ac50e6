"""Semantic IoU: cases worked by hand, a slow second implementation with sets of pixels, and what must always hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evaluation import semantic_iou
from evaluation.semantic_iou import ImageMatches

FEW, MANY = settings(max_examples=50, deadline=None), settings(max_examples=500, deadline=None)
CATEGORIES = ("sky", "road", "tree", "car")
Image = tuple[np.ndarray, np.ndarray]


def few_and_many(check: Callable, *inputs: st.SearchStrategy) -> tuple[Callable, Callable]:
    """Two tests of one property."""
    return FEW(given(*inputs)(check)), pytest.mark.slow(MANY(given(*inputs)(check)))


def pixels(*rows: list[int], dtype: type = np.uint8) -> np.ndarray:
    return np.array(rows, dtype)


def matched(*images: Image, classes: int = len(CATEGORIES)) -> list[ImageMatches]:
    return [semantic_iou.match_image(*image, classes) for image in images]


def measured(matches: list[ImageMatches], categories: tuple[str, ...] = CATEGORIES) -> dict[str, float]:
    values = semantic_iou.measure(matches, np.ones((1, len(matches)), np.int64), categories)
    return {name: value.item() for name, value in values.items()}


# Sky: 3 pixels, 2 of them right. Road: 2 pixels, both right, and one too many. Trees: predicted once, nowhere in the
# truth, and another time where nothing counts. Cars: nowhere. The last pixel of the truth has no class.
TRUTH = pixels([0, 0, 0], [1, 1, 255])
PREDICTED = pixels([0, 0, 1], [1, 1, 2])


def test_every_number_by_hand() -> None:
    # IoU: sky 2/3, road 2/3. Right: 4 of 5 pixels; of the sky 2/3, of the road 2/2. Weighted: 3/5 * 2/3 + 2/5 * 2/3.
    values = measured(matched((TRUTH, PREDICTED)))
    assert values.pop("iou/sky") == pytest.approx(2 / 3)
    assert values.pop("iou/road") == pytest.approx(2 / 3)
    assert np.isnan(values.pop("iou/tree"))  # what is predicted on an ignored pixel does not count
    assert np.isnan(values.pop("iou/car"))
    assert values.pop("miou") == pytest.approx(2 / 3)
    assert values.pop("miou_present") == pytest.approx(2 / 3)
    assert values.pop("pixel_accuracy") == pytest.approx(4 / 5)
    assert values.pop("mean_accuracy") == pytest.approx((2 / 3 + 1) / 2)
    assert values.pop("fwiou") == pytest.approx(2 / 3)
    assert not values


def test_a_class_that_is_only_predicted_counts_in_one_convention() -> None:
    # Sky 1/3 (a pixel right, one called road, one called tree), road 0 and tree 0, both without truth.
    values = measured(matched((pixels([0, 0, 0]), pixels([0, 1, 2]))))
    assert values["iou/tree"] == 0
    assert values["miou"] == pytest.approx(1 / 9)
    assert values["miou_present"] == pytest.approx(1 / 3)
    assert values["mean_accuracy"] == pytest.approx(1 / 3)
    assert np.isnan(values["iou/car"])


def test_a_class_that_is_never_predicted_has_iou_zero() -> None:
    values = measured(matched((pixels([0, 3]), pixels([0, 0]))))
    assert values["iou/car"] == 0
    assert values["miou"] == values["miou_present"] == pytest.approx(1 / 4)


def test_frequency_weights() -> None:
    # Sky: 3 of 4 pixels right, IoU 3/4. Road: 1 pixel, IoU 1/2. Weighted: 4/5 * 3/4 + 1/5 * 1/2.
    values = measured(matched((pixels([0, 0, 0, 0, 1]), pixels([0, 0, 0, 1, 1]))))
    assert values["fwiou"] == pytest.approx(0.7)
    assert values["miou"] == pytest.approx(0.625)


def test_pixels_of_all_images_are_counted_together() -> None:
    # Sky 1/1 in the first image, 0/3 in the second: 1/4 and not 1/2.
    assert measured(matched((pixels([0]), pixels([0])), (pixels([0, 0, 0]), pixels([1, 1, 1]))))["iou/sky"] == 0.25


def test_the_confusion() -> None:
    found = semantic_iou.confusion(TRUTH, PREDICTED, 4)
    assert found.dtype == np.int64
    assert found.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_image_weights() -> None:
    matches = matched((TRUTH, PREDICTED), (pixels([0]), pixels([2])))
    values = semantic_iou.measure(matches, np.array([[1, 1], [2, 0], [0, 3], [0, 0]]), CATEGORIES)
    assert values["iou/sky"].tolist() == pytest.approx([2 / 4, 2 / 3, 0, np.nan], nan_ok=True)
    assert values["iou/tree"].tolist() == pytest.approx([0, np.nan, 0, np.nan], nan_ok=True)
    assert values["miou"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 3, 2 / 3, 0, np.nan], nan_ok=True)
    assert values["miou_present"].tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 2 / 3, 0, np.nan], nan_ok=True)
    assert values["pixel_accuracy"].tolist() == pytest.approx([4 / 6, 4 / 5, 0, np.nan], nan_ok=True)


def test_without_a_pixel_to_count_there_is_no_number() -> None:
    for matches in ([], matched((pixels([255, 255]), pixels([0, 255])))):
        assert all(np.isnan(value) for value in measured(matches).values())


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint16])
def test_any_integer_type(dtype: type) -> None:
    found = semantic_iou.confusion(TRUTH.astype(dtype), PREDICTED.astype(dtype), 4)
    assert np.array_equal(found, semantic_iou.confusion(TRUTH, PREDICTED, 4))


def test_255_classes() -> None:
    found = semantic_iou.confusion(pixels([254, 255]), pixels([254, 255]), 255)
    assert found[254, 254] == found.sum() == 1


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_anything_may_be_predicted_where_nothing_counts(dtype: type) -> None:
    assert semantic_iou.confusion(pixels([255, 0]), pixels([255, 0], dtype=dtype), 4).sum() == 1
    assert semantic_iou.confusion(pixels([255, 0]), pixels([9, 0], dtype=dtype), 4).sum() == 1
    assert semantic_iou.confusion(pixels([255, 0]), np.array([[-1, 0]]), 4).sum() == 1


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (pixels([0, 0]), pixels([0, 255]), "the prediction has the value 255 at row 0, column 1, which is not a class"),
        (pixels([0], [0]), pixels([0], [4]), r"the prediction has the value 4 at row 1, column 0, .* class 0\.\.3"),
        (pixels([0, 4]), pixels([0, 0]), "the truth has the value 4 at row 0, column 1"),
        (pixels([0, 254]), pixels([0, 0]), "the truth has the value 254"),
        (np.array([[0, -1]]), pixels([0, 0]), "the truth has the value -1"),
        (pixels([0, 0]), np.array([[0, 256]]), "the prediction has the value 256"),  # a byte would make a 0 of it
        (np.array([[0, 256]]), pixels([0, 0]), "the truth has the value 256"),
        (pixels([0, 0]), np.array([[0, -1]]), "the prediction has the value -1"),
        (pixels([0, 0]), pixels([0]), r"the prediction is of shape \(1, 1\), the truth of \(1, 2\)"),
        (pixels([0, 0]), np.zeros((1, 2)), r"the prediction must be an integer map \(H, W\), not float64"),
        (np.zeros(2, np.uint8), np.zeros(2, np.uint8), r"the truth must be an integer map \(H, W\)"),
    ],
)
def test_what_is_no_class_is_refused(truth: np.ndarray, predicted: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        semantic_iou.match_image(truth, predicted, 4)


@pytest.mark.parametrize("classes", [0, 256])
def test_an_impossible_number_of_classes(classes: int) -> None:
    with pytest.raises(ValueError, match=rf"there can be 1\.\.255 classes, not {classes}"):
        semantic_iou.confusion(TRUTH, PREDICTED, classes)


def test_measure_refuses_what_does_not_belong_together() -> None:
    matches = matched((TRUTH, PREDICTED))
    with pytest.raises(ValueError, match=r"counts must have the shape \(B, 1\)"):
        semantic_iou.measure(matches, np.ones((1, 2), np.int64), CATEGORIES)
    with pytest.raises(ValueError, match="image 0 was counted for 4 classes, not 3"):
        semantic_iou.measure(matches, np.ones((1, 1), np.int64), CATEGORIES[:3])


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def slow(images: list[Image]) -> dict[str, float]:
    """Every number from sets of (image, row, column)."""
    places = [
        {(n, *place): int(value) for n, image in enumerate(images) for place, value in np.ndenumerate(image[which])}
        for which in (0, 1)
    ]
    counted = {place for place, label in places[0].items() if label != 255}
    sets = [[{p for p in counted if labels[p] == c} for c in range(len(CATEGORIES))] for labels in places]
    pairs = list(zip(*sets, strict=True))
    iou = [len(t & p) / len(t | p) if t | p else float("nan") for t, p in pairs]
    right = sum(len(t & p) for t, p in pairs)
    values = {
        "miou": mean([value for value in iou if not np.isnan(value)]),
        "miou_present": mean([value for value, (t, _) in zip(iou, pairs, strict=True) if t]),
        "pixel_accuracy": right / len(counted) if counted else float("nan"),
        "mean_accuracy": mean([len(t & p) / len(t) for t, p in pairs if t]),
        "fwiou": mean([iou[places[0][place]] for place in counted]),
    }
    return values | {f"iou/{name}": value for name, value in zip(CATEGORIES, iou, strict=True)}


@st.composite
def some_images(draw: st.DrawFn) -> list[Image]:
    """One to three images of 2 x 4 pixels; some classes are missing in the truth, in the prediction, or in both."""
    data = []
    truths = st.sampled_from([*sorted(draw(st.sets(st.integers(0, 3), min_size=1))), 255])
    predictions = st.sampled_from(sorted(draw(st.sets(st.integers(0, 3), min_size=1))))
    for _ in range(draw(st.integers(1, 3))):
        truth = draw(hnp.arrays(np.uint8, (2, 4), elements=truths))
        predicted = draw(hnp.arrays(np.uint8, (2, 4), elements=predictions))
        data.append((truth, np.where(draw(hnp.arrays(np.bool_, (2, 4))) & (truth != 255), truth, predicted)))
    return data


def check_slow(data: list[Image]) -> None:
    values, expected = measured(matched(*data)), slow(data)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, rtol=0, atol=1e-12, err_msg=name)


def check_weights(data: list[Image], weights: list[int]) -> None:
    matches = matched(*data)
    values = semantic_iou.measure(matches, np.array([weights[: len(data)], [1] * len(data)]), CATEGORIES)
    copies = [match for match, times in zip(matches, weights, strict=False) for _ in range(times)]
    for row, listed in enumerate((copies, matches)):
        for name, value in measured(listed).items():
            np.testing.assert_allclose(values[name][row], value, rtol=0, atol=1e-12, err_msg=name)


def check_truth(data: list[Image]) -> None:
    perfect = measured(matched(*((truth, truth) for truth, _ in data)))
    assert all(np.isnan(value) or value == pytest.approx(1) for value in perfect.values())
    found = measured(matched(*data))
    assert found["miou"] <= found["miou_present"] + 1e-12 or np.isnan(found["miou"])


WEIGHTS = st.lists(st.integers(0, 3), min_size=3, max_size=3)
test_the_slow_implementation_agrees, test_the_slow_implementation_agrees_often = few_and_many(check_slow, some_images())
test_weights_are_copies, test_weights_are_copies_often = few_and_many(check_weights, some_images(), WEIGHTS)
test_the_truth_itself_scores_one, test_the_truth_itself_scores_one_often = few_and_many(check_truth, some_images())
